//! What happens to a packet, in order: sample, parse, account.

mod account;
mod atomic;
mod clock;
mod frame;
mod maps;
mod sample;
mod tag;

use core::{
    arch::asm,
    sync::atomic::{Ordering, compiler_fence},
};

use aya_ebpf::{bindings::xdp_md, helpers::bpf_get_smp_processor_id, programs::XdpContext};
use flowprobe_ebpf::{
    Addresses, Fragment, KeyV4, KeyV6, KeyWide, Lost, Packet, Skip,
    cpu::Cpu,
    fragments,
    parse::parse_ethernet,
    sampling::Sampled,
    table::{WayV4, WayV6, WayWide},
};

pub(crate) use self::tag::{InFrame, MayBeBeside};
use self::{
    account::{Scratch, account, scratch},
    frame::XdpFrame,
    tag::OuterTag,
};

/// Meters one packet. `FRAGS` says whether it may lie in several buffers, `T` where its outermost
/// VLAN tag may be.
#[inline(always)]
pub(crate) fn observe<const FRAGS: bool, T: OuterTag>(ctx: &XdpContext) {
    // SAFETY: a helper without arguments.
    let id = unsafe { bpf_get_smp_processor_id() };
    let Some(cpu) = maps::cpu(id) else {
        return stray(frame::octets::<FRAGS>(ctx));
    };
    // SAFETY: `cpu` points to a map element that only this CPU writes, and softirqs do not nest.
    // Userspace writes `ring_tail` and the sampler's word, which are read volatile where used.
    unsafe {
        // One question for all that is not usual: to ask for a setting is to load it.
        if maps::several_samplers() != 0 {
            return meter_by_several::<FRAGS, T>(ctx.ctx, id, cpu);
        }
        meter::<FRAGS, T, false>(ctx, cpu);
    }
}

/// Meters one packet where there are several classes, or a sample beside the metering of everything.
///
/// # Safety
/// As [`meter`]; `cpu` is the element with the number `id` of this CPU.
#[inline(always)]
unsafe fn meter_by_several<const FRAGS: bool, T: OuterTag>(
    ctx: *mut xdp_md,
    id: u32,
    cpu: *mut Cpu,
) {
    let (ctx, shadow) = (XdpContext::new(ctx), maps::shadow());
    // Beyond the partitions of CPUs there are others.
    if shadow != 0 && id >= shadow {
        return stray(frame::octets::<FRAGS>(&ctx));
    }
    // SAFETY: the caller's, of both elements.
    unsafe {
        meter::<FRAGS, T, true>(&ctx, cpu);
        if shadow != 0
            && let Some(shadow) = maps::cpu(id + shadow)
        {
            meter_shadow::<FRAGS, T>(ctx.ctx, shadow);
        }
    }
}

/// Meters one packet into the partition that samples beside the metering of everything. Few packets
/// are selected there, so none has a short way of its own, which would take more stack.
///
/// # Safety
/// As [`meter`].
#[inline(never)]
unsafe fn meter_shadow<const FRAGS: bool, T: OuterTag>(ctx: *mut xdp_md, cpu: *mut Cpu) {
    let ctx = XdpContext::new(ctx);
    // SAFETY: the caller's.
    unsafe {
        (*cpu).seen.count(frame::readable(&ctx));
        let Some(sampled) = sample::select(cpu) else {
            return skip::<FRAGS>(&ctx, cpu);
        };
        clock::set(cpu);
        T::ask(&ctx, scratch(cpu));
        dissect_and_count::<FRAGS, T>(&ctx, cpu, Some(sampled));
    }
}

/// Counts a packet that sampling skips.
///
/// # Safety
/// As [`meter`].
#[inline(always)]
unsafe fn skip<const FRAGS: bool>(ctx: &XdpContext, cpu: *mut Cpu) {
    let octets = frame::octets::<FRAGS>(ctx);
    // SAFETY: the caller's.
    unsafe {
        see_rest::<FRAGS>(ctx, cpu, octets);
        (*cpu).unsampled.count(octets);
    }
}

/// Meters one packet into the partition of `cpu`. `CLASSES` says whether its packets may be of
/// several classes.
///
/// # Safety
/// `cpu` points to an element that only this CPU writes.
#[inline(always)]
unsafe fn meter<const FRAGS: bool, T: OuterTag, const CLASSES: bool>(
    ctx: &XdpContext,
    cpu: *mut Cpu,
) {
    // SAFETY: the caller's.
    unsafe {
        (*cpu).seen.count(frame::readable(ctx));
        if CLASSES && maps::parse_first() != 0 {
            clock::set(cpu);
            T::ask(ctx, scratch(cpu));
            return dissect_and_count::<FRAGS, T>(ctx, cpu, None);
        }
        let sampled = if CLASSES && maps::classes() != 0 {
            sample::select_by_interface(ctx.ctx, cpu)
        } else {
            sample::select(cpu)
        };
        let Some(sampled) = sampled else {
            return skip::<FRAGS>(ctx, cpu);
        };
        // Helpers before the frame is read: what a register holds does not outlive a call.
        clock::set(cpu);
        T::ask(ctx, scratch(cpu));
        let frame = XdpFrame::<FRAGS>::new(ctx, scratch(cpu));
        let packet = match T::plain(&frame, scratch(cpu)) {
            Some(packet) if !may_be_tunnel(&packet) => packet,
            _ => return dissect_and_count::<FRAGS, T>(ctx, cpu, Some(sampled)),
        };
        let octets = frame.octets();
        see_rest::<FRAGS>(ctx, cpu, octets);
        if let Addresses::V4(addresses) = packet.addresses {
            let ifindex = (*ctx.ctx).ingress_ifindex;
            let key = KeyV4::joined(addresses, &packet, ifindex, sampled, joined);
            // What the key holds too is kept once.
            let packet = Packet {
                addresses: Addresses::V4(key.words[0]),
                ports: key.ports(),
                traffic_class: key.traffic_class(),
                ..packet
            };
            let result = account::<false, WayV4>(ctx.ctx, cpu, &key, &packet);
            conclude(cpu, result, octets, packet.octets);
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

/// Meters a packet that is not plain, or whose sampler has to know it: then nothing is known yet of
/// what it is sampled as.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
unsafe fn dissect_and_count<const FRAGS: bool, T: OuterTag>(
    ctx: &XdpContext,
    cpu: *mut Cpu,
    sampled: Option<Sampled>,
) {
    // SAFETY: the caller's; the scratch memory is this CPU's, and holds what `dissect` has put
    // there.
    unsafe {
        let near = sampled.is_some() && read_near_plain::<FRAGS, T>(ctx.ctx, cpu);
        let skip = if near {
            PARSED
        } else {
            dissect::<FRAGS, T>(ctx.ctx, cpu)
        };
        compiler_fence(Ordering::SeqCst);
        let scratch = scratch(cpu);
        let octets = (*scratch).octets;
        see_rest::<FRAGS>(ctx, cpu, octets);
        if (skip as usize) < Skip::COUNT {
            return (*cpu).ignored[skip as usize].count(octets);
        }
        // Not from within `dissect`: their stacks together would be too much.
        if !near && fragments::is_followed(&(*scratch).parsed) {
            follow(ctx.ctx, cpu);
        }
        let sampled = match sampled {
            Some(sampled) => sampled,
            None => match sample::select_parsed(ctx.ctx, cpu) {
                Some(sampled) => sampled,
                None => return (*cpu).unsampled.count(octets),
            },
        };
        let parsed = &(*scratch).parsed;
        if !near && parsed.around.is_wide() {
            count_wide(ctx.ctx, cpu, sampled);
        } else if let Addresses::V4(_) = parsed.packet.addresses {
            count_v4(ctx.ctx, cpu, sampled);
        } else {
            count_v6(ctx.ctx, cpu, sampled);
        }
    }
}

/// Reads a nearly plain packet into the scratch memory; false if it is none.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(never)]
unsafe fn read_near_plain<const FRAGS: bool, T: OuterTag>(ctx: *mut xdp_md, cpu: *mut Cpu) -> bool {
    let ctx = XdpContext::new(ctx);
    // SAFETY: the caller's.
    unsafe {
        let scratch = scratch(cpu);
        let frame = XdpFrame::<FRAGS>::new(&ctx, scratch);
        let packet = match T::near_plain(&frame, scratch) {
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
unsafe fn dissect<const FRAGS: bool, T: OuterTag>(ctx: *mut xdp_md, cpu: *mut Cpu) -> u32 {
    let ctx = XdpContext::new(ctx);
    // SAFETY: the caller's.
    unsafe {
        let scratch = scratch(cpu);
        let frame = XdpFrame::<FRAGS>::new(&ctx, scratch);
        let parsed = account::emptied(scratch);
        if let Some(control) = T::control(scratch) {
            parsed.put_outer_tag(control);
        }
        match parse_ethernet(&frame, &maps::tunnels(), parsed) {
            Ok(()) => {
                (*scratch).octets = frame.octets();
                PARSED
            }
            Err(reason) => {
                ignored(&ctx, reason);
                (*scratch).octets = frame::octets::<FRAGS>(&ctx);
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
unsafe fn follow(ctx: *mut xdp_md, cpu: *mut Cpu) {
    // SAFETY: the caller's, and helpers without arguments.
    unsafe {
        let now_ns = (*cpu).now_ns;
        let parsed = &mut (*scratch(cpu)).parsed;
        let tag = fragments::tag(parsed, (*ctx).ingress_ifindex, maps::hash_secret);
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
unsafe fn count_v4(ctx: *mut xdp_md, cpu: *mut Cpu, sampled: Sampled) {
    // SAFETY: the caller's.
    unsafe {
        let Scratch { parsed, octets, .. } = &*scratch(cpu);
        let packet = &parsed.packet;
        if let Addresses::V4(addresses) = packet.addresses {
            let key: *mut KeyV4 = account::key(cpu);
            key.write(KeyV4::new(
                addresses,
                packet,
                (*ctx).ingress_ifindex,
                sampled,
            ));
            let result = account::<true, WayV4>(ctx, cpu, &*key, packet);
            conclude(cpu, result, *octets, packet.octets);
        }
    }
}

/// Counts the IPv6 packet in the scratch memory.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(never)]
unsafe fn count_v6(ctx: *mut xdp_md, cpu: *mut Cpu, sampled: Sampled) {
    // SAFETY: the caller's.
    unsafe {
        let Scratch { parsed, octets, .. } = &*scratch(cpu);
        let packet = &parsed.packet;
        if let Addresses::V6(addresses) = packet.addresses {
            let key: *mut KeyV6 = account::key(cpu);
            key.write(KeyV6::new(
                addresses,
                packet,
                (*ctx).ingress_ifindex,
                sampled,
            ));
            let result = account::<true, WayV6>(ctx, cpu, &*key, packet);
            conclude(cpu, result, *octets, packet.octets);
        }
    }
}

/// Counts the packet in the scratch memory, around which there is more than a VLAN tag.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(never)]
unsafe fn count_wide(ctx: *mut xdp_md, cpu: *mut Cpu, sampled: Sampled) {
    // SAFETY: the caller's.
    unsafe {
        let Scratch { parsed, octets, .. } = &*scratch(cpu);
        let packet = &parsed.packet;
        let key: *mut KeyWide = account::key(cpu);
        (*key).set(packet, &parsed.around, (*ctx).ingress_ifindex, sampled);
        let result = account::<true, WayWide>(ctx, cpu, &*key, packet);
        conclude(cpu, result, *octets, packet.octets);
    }
}

/// Counts a packet that belongs to a flow in the ledger.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
unsafe fn conclude(cpu: *mut Cpu, result: Result<(), Lost>, octets: u64, ip_octets: u32) {
    // SAFETY: the caller's.
    unsafe {
        match result {
            Ok(()) => {
                (*cpu).accounted.count(octets);
                (*cpu).accounted_ip_octets += u64::from(ip_octets);
            }
            Err(reason) => (*cpu).lost[reason as usize].count(octets),
        }
    }
}

/// Adds to `seen` what a frame has beyond its first buffer, once that is known.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
unsafe fn see_rest<const FRAGS: bool>(ctx: &XdpContext, cpu: *mut Cpu, octets: u64) {
    if FRAGS {
        // SAFETY: the caller's.
        unsafe { (*cpu).seen.octets += octets - frame::readable(ctx) };
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
fn ignored(ctx: &XdpContext, reason: Skip) {
    aya_log_ebpf::debug!(ctx, "ignored: {}", reason.label());
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn ignored(_: &XdpContext, _: Skip) {}
