//! What happens to a packet, in order: sample, parse, account.

mod account;
mod atomic;
mod clock;
mod frame;
mod hand;
mod hook;
mod maps;
mod sample;
mod skb;
mod super_frame;
mod tag;

use core::{
    arch::asm,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::helpers::bpf_get_smp_processor_id;
use flowprobe_ebpf::{
    Addresses, Fragment, KeyV4, KeyV6, KeyWide, Lost, Packet, Skip,
    cpu::{Cpu, Tally},
    fragments,
    sampling::Sampled,
    table::{WayV4, WayV6, WayWide},
};

use self::{
    account::{Scratch, account, scratch},
    hook::{Entry, Measured as _},
};
pub(crate) use self::{
    hand::hand_over,
    hook::{AtXdp, Hook, Xdp},
    skb::{AtTc, Skb},
    tag::{InFrame, MayBeBeside},
};

/// Meters one packet.
#[inline(always)]
pub(crate) fn observe<E: Entry>(ctx: E::Hook) {
    // SAFETY: a helper without arguments.
    let id = unsafe { bpf_get_smp_processor_id() };
    let Some(cpu) = maps::cpu(id) else {
        return stray(E::octets(ctx));
    };
    // SAFETY: `cpu` points to a map element that only this CPU writes, and softirqs do not nest.
    // Userspace writes `ring_tail` and the sampler's word, which are read volatile where used.
    unsafe {
        // One question for all that is not usual: to ask for a setting is to load it.
        if maps::several_samplers() != 0 {
            return meter_by_several::<E>(ctx, id, cpu);
        }
        meter::<E, false>(ctx, cpu);
    }
}

/// Meters one packet where there are several classes, or a sample beside the metering of everything.
///
/// # Safety
/// As [`meter`]; `cpu` is the element with the number `id` of this CPU.
#[inline(always)]
unsafe fn meter_by_several<E: Entry>(ctx: E::Hook, id: u32, cpu: *mut Cpu) {
    let shadow = maps::shadow();
    // Beyond the partitions of CPUs there are others.
    if shadow != 0 && id >= shadow {
        return stray(E::octets(ctx));
    }
    // SAFETY: the caller's, of both elements.
    unsafe {
        meter::<E, true>(ctx, cpu);
        if shadow != 0
            && let Some(shadow) = maps::cpu(id + shadow)
        {
            meter_shadow::<E>(ctx, shadow);
        }
    }
}

/// Meters one packet into the partition that samples beside the metering of everything. Few packets
/// are selected there, so none has a short way of its own, which would take more stack.
///
/// # Safety
/// As [`meter`].
#[inline(never)]
unsafe fn meter_shadow<E: Entry>(ctx: E::Hook, cpu: *mut Cpu) {
    // SAFETY: the caller's.
    unsafe {
        if E::is_super(ctx) {
            return super_frame::meter::<E>(ctx, cpu);
        }
        see::<E>(cpu, 1, E::readable(ctx));
        if E::was_seen(ctx) {
            return (*cpu).ignored[Skip::SeenComingIn as usize].count(E::readable(ctx));
        }
        let Some(sampled) = sample::select(cpu, 1) else {
            return skip::<E>(ctx, cpu);
        };
        clock::set(cpu);
        E::ask(ctx, scratch(cpu));
        dissect_and_count::<E, true>(ctx, cpu, Some(sampled));
    }
}

/// Counts a packet that sampling skips.
///
/// # Safety
/// As [`meter`].
#[inline(always)]
unsafe fn skip<E: Entry>(ctx: E::Hook, cpu: *mut Cpu) {
    let octets = E::octets(ctx);
    // SAFETY: the caller's.
    unsafe {
        see_rest::<E>(ctx, cpu, octets);
        (*cpu).unsampled.count(octets);
    }
}

/// Meters one packet into the partition of `cpu`. `CLASSES` says whether its packets may be of
/// several classes.
///
/// # Safety
/// `cpu` points to an element that only this CPU writes.
#[inline(always)]
unsafe fn meter<E: Entry, const CLASSES: bool>(ctx: E::Hook, cpu: *mut Cpu) {
    // SAFETY: the caller's.
    unsafe {
        if E::is_super(ctx) {
            return super_frame::meter::<E>(ctx, cpu);
        }
        see::<E>(cpu, 1, E::readable(ctx));
        if E::was_seen(ctx) {
            return (*cpu).ignored[Skip::SeenComingIn as usize].count(E::readable(ctx));
        }
        if CLASSES && maps::parse_first() != 0 {
            clock::set(cpu);
            E::ask(ctx, scratch(cpu));
            return dissect_and_count::<E, true>(ctx, cpu, None);
        }
        let sampled = if CLASSES && maps::classes() != 0 {
            sample::select_by_interface(ctx, cpu, 1)
        } else {
            sample::select(cpu, 1)
        };
        let Some(sampled) = sampled else {
            return skip::<E>(ctx, cpu);
        };
        // Helpers before the frame is read: what a register holds does not outlive a call.
        clock::set(cpu);
        E::ask(ctx, scratch(cpu));
        if CLASSES {
            // A second copy of what follows would take more stack than kernel 6.1 leaves.
            return dissect_and_count::<E, true>(ctx, cpu, Some(sampled));
        }
        let frame = E::frame(ctx, scratch(cpu));
        let packet = match E::plain(ctx, &frame, scratch(cpu)) {
            Some(packet) if !may_be_tunnel(&packet) => packet,
            _ => return dissect_and_count::<E, false>(ctx, cpu, Some(sampled)),
        };
        let octets = frame.octets();
        see_rest::<E>(ctx, cpu, octets);
        if let Addresses::V4(addresses) = packet.addresses {
            let point = ctx.point(scratch(cpu));
            let key = KeyV4::joined(addresses, &packet, point, sampled, joined);
            // What the key holds too is kept once.
            let packet = Packet {
                addresses: Addresses::V4(key.words[0]),
                ports: key.ports(),
                traffic_class: key.traffic_class(),
                ..packet
            };
            let result = account::<false, _, WayV4>(ctx, cpu, &key, &packet);
            conclude(cpu, result, octets, 1, packet.octets);
        }
    }
}

/// Both halves of a word of the key, which from here on is one for the compiler. Else it would keep
/// the halves, which takes more registers, and join them for the hash and again to compare.
#[inline(always)]
fn joined(upper: u64, lower: u32) -> u64 {
    let mut word = upper;
    // SAFETY: an OR of a register.
    unsafe {
        asm!(
            "{word} |= {lower}",
            word = inout(reg) word,
            lower = in(reg) u64::from(lower),
            options(pure, nomem, nostack)
        );
    }
    word
}

/// Meters a packet that is not plain, or may be `PLAIN` and has no short way of its own; or whose
/// sampler has to know it: then nothing is known yet of what it is sampled as.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
unsafe fn dissect_and_count<E: Entry, const PLAIN: bool>(
    ctx: E::Hook,
    cpu: *mut Cpu,
    sampled: Option<Sampled>,
) {
    // SAFETY: the caller's; the scratch memory is this CPU's, and holds what `dissect` has put
    // there.
    unsafe {
        let near = sampled.is_some() && read_near_plain::<E::General, PLAIN>(ctx, cpu);
        let skip = if near {
            PARSED
        } else {
            dissect::<E::General>(ctx, cpu)
        };
        compiler_fence(Ordering::SeqCst);
        let scratch = scratch(cpu);
        let octets = (*scratch).octets;
        see_rest::<E>(ctx, cpu, octets);
        if (skip as usize) < Skip::COUNT {
            return (*cpu).ignored[skip as usize].count(octets);
        }
        // Not from within `dissect`: their stacks together would be too much.
        if !near && fragments::is_followed(&(*scratch).parsed) {
            follow(ctx, cpu);
        }
        let sampled = match sampled {
            Some(sampled) => sampled,
            None => match sample::select_parsed(ctx, cpu) {
                Some(sampled) => sampled,
                None => return (*cpu).unsampled.count(octets),
            },
        };
        count(
            ctx,
            cpu,
            sampled,
            !near && (*scratch).parsed.around.is_wide(),
        );
    }
}

/// Counts the packet in the scratch memory.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
unsafe fn count<H: Hook>(ctx: H, cpu: *mut Cpu, sampled: Sampled, wide: bool) {
    // SAFETY: the caller's.
    unsafe {
        if wide {
            count_wide(ctx, cpu, sampled);
        } else if let Addresses::V4(_) = (*scratch(cpu)).parsed.packet.addresses {
            count_v4(ctx, cpu, sampled);
        } else {
            count_v6(ctx, cpu, sampled);
        }
    }
}

/// Reads a nearly plain packet into the scratch memory, or one that may be `PLAIN`; false if it is
/// none.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(never)]
unsafe fn read_near_plain<E: Entry, const PLAIN: bool>(ctx: E::Hook, cpu: *mut Cpu) -> bool {
    // SAFETY: the caller's.
    unsafe {
        let scratch = scratch(cpu);
        let frame = E::frame(ctx, scratch);
        // Each with a store of its own: in one of both the compiler would copy what is not there, which
        // kernel 6.1 refuses.
        if PLAIN
            && ctx.is_ethernet(scratch)
            && let Some(packet) = E::plain(ctx, &frame, scratch)
            && !may_be_tunnel(&packet)
        {
            (*scratch).parsed.packet = packet;
            (*scratch).octets = frame.octets();
            compiler_fence(Ordering::SeqCst);
            return true;
        }
        let packet = match E::near_plain(ctx, &frame, scratch) {
            Some(packet) if !may_be_tunnel(&packet) => packet,
            _ => return false,
        };
        (*scratch).parsed.packet = packet;
        (*scratch).octets = frame.octets();
    }
    true
}

/// Whether a packet may be a tunnel that is to be opened.
#[inline(always)]
fn may_be_tunnel(packet: &Packet) -> bool {
    maps::tunnels_inner() != 0 && maps::tunnels().may_be(packet)
}

/// What [`dissect`] returns for a frame that belongs to a flow.
const PARSED: u32 = u32::MAX;

/// Parses a frame layer by layer into the scratch memory. Returns the reason why it belongs to no
/// flow, or [`PARSED`].
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(never)]
unsafe fn dissect<E: Entry>(ctx: E::Hook, cpu: *mut Cpu) -> u32 {
    // SAFETY: the caller's.
    unsafe {
        let scratch = scratch(cpu);
        E::reach_headers(ctx);
        let frame = E::frame(ctx, scratch);
        let parsed = account::emptied(scratch);
        match E::parse(ctx, &frame, scratch, parsed) {
            Ok(()) => {
                (*scratch).octets = frame.octets();
                PARSED
            }
            Err(reason) => {
                ignored(reason);
                (*scratch).octets = E::octets(ctx);
                reason as u32
            }
        }
    }
}

/// Remembers the ports of a first fragment, and gives them to later ones.
///
/// # Safety
/// `cpu` points to the element of this CPU, whose scratch memory holds a fragment.
#[inline(never)]
unsafe fn follow<H: Hook>(ctx: H, cpu: *mut Cpu) {
    // SAFETY: the caller's, and helpers without arguments.
    unsafe {
        let now_ns = (*cpu).now_ns;
        let parsed = &mut (*scratch(cpu)).parsed;
        let tag = fragments::tag(parsed, ctx.point(scratch(cpu)), maps::hash_secret);
        let Some(set) = maps::fragment_set((*cpu).partition, tag) else {
            return;
        };
        if parsed.fragment.part == Fragment::FIRST {
            (*set).insert(tag, &parsed.packet, now_ns);
        } else if !(*set).complete(tag, &mut parsed.packet, now_ns) {
            (*cpu).fragment_orphans += 1;
        }
    }
}

/// Counts the IPv4 packet in the scratch memory.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(never)]
unsafe fn count_v4<H: Hook>(ctx: H, cpu: *mut Cpu, sampled: Sampled) {
    // SAFETY: the caller's.
    unsafe {
        let Scratch { parsed, octets, .. } = &*scratch(cpu);
        let packet = &parsed.packet;
        if let Addresses::V4(addresses) = packet.addresses {
            let key: *mut KeyV4 = account::key(cpu);
            key.write(KeyV4::new(
                addresses,
                packet,
                ctx.point(scratch(cpu)),
                sampled,
            ));
            let result = account::<true, _, WayV4>(ctx, cpu, &*key, packet);
            conclude(cpu, result, *octets, packet.packets(), packet.octets);
        }
    }
}

/// Counts the IPv6 packet in the scratch memory.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(never)]
unsafe fn count_v6<H: Hook>(ctx: H, cpu: *mut Cpu, sampled: Sampled) {
    // SAFETY: the caller's.
    unsafe {
        let Scratch { parsed, octets, .. } = &*scratch(cpu);
        let packet = &parsed.packet;
        if let Addresses::V6(addresses) = packet.addresses {
            let key: *mut KeyV6 = account::key(cpu);
            key.write(KeyV6::new(
                addresses,
                packet,
                ctx.point(scratch(cpu)),
                sampled,
            ));
            let result = account::<true, _, WayV6>(ctx, cpu, &*key, packet);
            conclude(cpu, result, *octets, packet.packets(), packet.octets);
        }
    }
}

/// Counts the packet in the scratch memory, around which there is more than a VLAN tag.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(never)]
unsafe fn count_wide<H: Hook>(ctx: H, cpu: *mut Cpu, sampled: Sampled) {
    // SAFETY: the caller's.
    unsafe {
        let Scratch { parsed, octets, .. } = &*scratch(cpu);
        let packet = &parsed.packet;
        let key: *mut KeyWide = account::key(cpu);
        (*key).set(packet, &parsed.around, ctx.point(scratch(cpu)), sampled);
        let result = account::<true, _, WayWide>(ctx, cpu, &*key, packet);
        conclude(cpu, result, *octets, packet.packets(), packet.octets);
    }
}

/// Counts a packet that belongs to a flow in the ledger.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
unsafe fn conclude(
    cpu: *mut Cpu,
    result: Result<(), Lost>,
    octets: u64,
    packets: u64,
    ip_octets: u32,
) {
    // SAFETY: the caller's.
    unsafe {
        match result {
            Ok(()) => {
                (*cpu).accounted.count_all(packets, octets);
                (*cpu).accounted_ip_octets += u64::from(ip_octets);
            }
            Err(reason) => {
                // There is a counter for each reason, which the compiler does not see.
                let lost = (&raw mut (*cpu).lost).cast::<Tally>();
                (*lost.add(reason as usize)).count_all(packets, octets);
            }
        }
    }
}

/// Counts what the hook sees, before anything else can happen to it.
///
/// # Safety
/// As [`meter`].
#[inline(always)]
unsafe fn see<E: Entry>(cpu: *mut Cpu, packets: u64, octets: u64) {
    // SAFETY: the caller's.
    unsafe {
        (*cpu).seen.count_all(packets, octets);
        if E::OUT {
            (*cpu).seen_out.count_all(packets, octets);
        }
    }
}

/// Adds to `seen` what a frame has beyond its first buffer, once that is known.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
unsafe fn see_rest<E: Entry>(ctx: E::Hook, cpu: *mut Cpu, octets: u64) {
    if E::FRAGS {
        // SAFETY: the caller's.
        unsafe { (*cpu).seen.octets += octets - E::readable(ctx) };
    }
}

/// Counts a packet on a CPU that has no partition: not even its own counters, so atomically.
#[inline(never)]
fn stray(octets: u64) {
    let Some(stray) = maps::stray() else { return };
    // SAFETY: points to a map element, which is added to with atomic instructions only.
    unsafe {
        atomic::add(&raw mut (*stray).seen.packets, 1);
        atomic::add(&raw mut (*stray).seen.octets, octets);
    }
}

/// Says why a packet is in no flow, in debug builds of the program only.
#[cfg(feature = "log")]
fn ignored(reason: Skip) {
    // The context is not looked at.
    aya_log_ebpf::debug!((), "ignored: {}", reason.label());
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn ignored(_: Skip) {}
