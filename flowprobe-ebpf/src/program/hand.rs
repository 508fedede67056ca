//! Packets that are handed over to userspace, by AF_XDP: selected here, metered there.
//!
//! What is not handed over stays with the kernel's stack, or is dropped where there is none that
//! waits for it. Whoever does not take packets for half a second gets none: they stay with the stack
//! too, so that a worker that hangs takes no network down.

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{
    bindings::xdp_action,
    helpers::{bpf_get_smp_processor_id, generated::bpf_xdp_adjust_meta},
};
use flowprobe_ebpf::{
    Lost, Skip,
    cpu::Cpu,
    fragments,
    handover::{NOTE_LEN, Note, STALLED_NS},
    sampling::Sampled,
};

use super::{
    account::{Scratch, scratch},
    clock, dissect, follow,
    hook::{AtXdp, Entry, Hook as _, Xdp},
    maps, sample, see, stray,
    tag::OuterTag,
};

/// An entry whose packets are handed over.
pub(crate) trait Handing: Entry<Hook = Xdp> {
    /// The control information of the tag beside the frame.
    ///
    /// # Safety
    /// As [`OuterTag::control`].
    unsafe fn control(scratch: *mut Scratch) -> Option<u16>;
}

impl<const FRAGS: bool, T: OuterTag> Handing for AtXdp<FRAGS, T> {
    #[inline(always)]
    unsafe fn control(scratch: *mut Scratch) -> Option<u16> {
        // SAFETY: the caller's.
        unsafe { T::control(scratch) }
    }
}

/// Hands a packet over, or does not; returns what is to become of it.
#[inline(always)]
pub(crate) fn hand_over<E: Handing>(ctx: Xdp) -> u32 {
    let octets = E::octets(ctx);
    // SAFETY: a helper without arguments.
    let id = unsafe { bpf_get_smp_processor_id() };
    let Some(cpu) = maps::cpu(id) else {
        stray(octets);
        return xdp_action::XDP_PASS;
    };
    // SAFETY: `cpu` points to a map element that only this CPU writes, and softirqs do not nest.
    unsafe {
        see::<E>(cpu, 1, octets);
        match select::<E>(ctx, cpu, octets) {
            Some(sampled) => give::<E>(ctx, cpu, octets, sampled),
            None => left(ctx),
        }
    }
}

/// Whether to hand a packet over: what it is sampled as, if so. Else it is counted.
///
/// # Safety
/// `cpu` points to the element of this CPU, which has counted the packet as seen.
#[inline(always)]
unsafe fn select<E: Handing>(ctx: Xdp, cpu: *mut Cpu, octets: u64) -> Option<Sampled> {
    // SAFETY: the caller's.
    unsafe {
        let parse_first = maps::parse_first() != 0;
        let sampled = if parse_first {
            clock::set_handing(cpu);
            E::ask(ctx, scratch(cpu));
            let skip = dissect::<E::General>(ctx, cpu);
            compiler_fence(Ordering::SeqCst);
            if (skip as usize) < Skip::COUNT {
                (*cpu).ignored[skip as usize].count(octets);
                return None;
            }
            if fragments::is_followed(&(*scratch(cpu)).parsed) {
                follow(ctx, cpu);
            }
            sample::select_parsed(ctx, cpu)
        } else if maps::classes() != 0 {
            sample::select_by_interface(ctx, cpu, 1)
        } else {
            sample::select(cpu, 1)
        };
        if sampled.is_none() {
            (*cpu).unsampled.count(octets);
        } else if !parse_first {
            clock::set_handing(cpu);
            E::ask(ctx, scratch(cpu));
        }
        sampled
    }
}

/// What becomes of a packet that is not handed over for what it is.
#[inline(always)]
fn left(ctx: Xdp) -> u32 {
    match maps::port(ctx.ifindex()) {
        // SAFETY: a word of a map element.
        Some(port) if unsafe { (&raw const (*port).drop_skipped).read_volatile() } != 0 => {
            xdp_action::XDP_DROP
        }
        _ => xdp_action::XDP_PASS,
    }
}

/// Gives a packet to the worker of its queue, if that is alive.
///
/// # Safety
/// `cpu` points to the element of this CPU, whose clock has been set for this packet, and which was
/// asked for what is beside it.
#[inline(always)]
unsafe fn give<E: Handing>(ctx: Xdp, cpu: *mut Cpu, octets: u64, sampled: Sampled) -> u32 {
    // SAFETY: the caller's; the context is the one that the kernel passed in.
    unsafe {
        let now_ns = (*cpu).now_ns;
        if !redirect(ctx, now_ns) {
            (*cpu).lost[Lost::WorkerStalled as usize].count(octets);
            return xdp_action::XDP_PASS;
        }
        let note = Note {
            now_ns,
            sampled: sampled.0,
            tag: Note::tag_of(E::control(scratch(cpu))),
        };
        if !write(ctx, note) {
            (*cpu).lost[Lost::NoMetadata as usize].count(octets);
            return xdp_action::XDP_PASS;
        }
        (*cpu).handed.count(octets);
    }
    xdp_action::XDP_REDIRECT
}

/// Prepares to redirect a packet to the socket of its queue; false if nobody would take it.
///
/// # Safety
/// The context is the one that the kernel passed in.
#[inline(always)]
unsafe fn redirect(ctx: Xdp, now_ns: u64) -> bool {
    let Some(port) = maps::port(ctx.ifindex()) else {
        return false;
    };
    // SAFETY: the caller's; words of map elements, which userspace writes one by one.
    unsafe {
        let queue = (*ctx.0).rx_queue_index;
        if queue >= (&raw const (*port).queues).read_volatile() {
            return false;
        }
        let slot = (&raw const (*port).first_slot).read_volatile() + queue;
        let Some(heartbeat) = maps::heartbeat(slot) else {
            return false;
        };
        let at_ns = (&raw const (*heartbeat).at_ns).read_volatile();
        // The clock of this CPU may be a little behind the worker's.
        if now_ns > at_ns && now_ns - at_ns > STALLED_NS {
            return false;
        }
        maps::redirect(slot)
    }
}

/// Writes a note before the frame; false if there is no room for it.
///
/// # Safety
/// The context is the one that the kernel passed in.
#[inline(always)]
unsafe fn write(ctx: Xdp, note: Note) -> bool {
    // SAFETY: the caller's. The note lies between the start of the metadata and that of the frame,
    // which is checked, for the verifier: the helper has made the room.
    unsafe {
        if bpf_xdp_adjust_meta(ctx.0, -(NOTE_LEN as i32)) != 0 {
            return false;
        }
        let start = (&raw const (*ctx.0).data_meta).read_volatile() as usize;
        let end = (&raw const (*ctx.0).data).read_volatile() as usize;
        if start + NOTE_LEN > end {
            return false;
        }
        (start as *mut Note).write(note);
    }
    true
}
