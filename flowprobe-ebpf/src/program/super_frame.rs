//! Super-frames: several packets of one flow in one buffer, which the kernel keeps together as long
//! as it can. They are counted as the packets that they are on the wire, each with its headers.

use core::sync::atomic::{Ordering, compiler_fence};

use flowprobe_ebpf::{Skip, cpu::Cpu};

use super::{PARSED, account::scratch, clock, count, dissect, hook::Entry, maps, sample, see};

/// Meters a super-frame into the partition of `cpu`. How many packets it is, and how long, only its
/// headers say, so it is parsed before anything is counted.
///
/// # Safety
/// `cpu` points to an element that only this CPU writes.
#[inline(always)]
pub(super) unsafe fn meter<E: Entry>(ctx: E::Hook, cpu: *mut Cpu) {
    // SAFETY: the caller's; the scratch memory is this CPU's, and holds what `dissect` and `cut`
    // have put there.
    unsafe {
        clock::set(cpu);
        E::ask(ctx, scratch(cpu));
        let skip = dissect::<E::General>(ctx, cpu);
        compiler_fence(Ordering::SeqCst);
        let scratch = scratch(cpu);
        E::cut(ctx, scratch, skip == PARSED);
        compiler_fence(Ordering::SeqCst);
        let (packets, octets) = ((*scratch).parsed.packet.packets(), (*scratch).octets);
        see::<E>(cpu, packets, octets);
        if E::was_seen(ctx) {
            return (*cpu).ignored[Skip::SeenComingIn as usize].count_all(packets, octets);
        }
        let parse_first = maps::parse_first() != 0;
        let mut sampled = None;
        if !parse_first {
            sampled = if maps::classes() != 0 {
                sample::select_by_interface(ctx, cpu, packets)
            } else {
                sample::select(cpu, packets)
            };
            if sampled.is_none() {
                return (*cpu).unsampled.count_all(packets, octets);
            }
        }
        if (skip as usize) < Skip::COUNT {
            return (*cpu).ignored[skip as usize].count_all(packets, octets);
        }
        if parse_first {
            sampled = sample::select_parsed(ctx, cpu);
        }
        let Some(sampled) = sampled else {
            return (*cpu).unsampled.count_all(packets, octets);
        };
        (*scratch).parsed.packet.octets += (*scratch).repeated as u32;
        count(ctx, cpu, sampled, (*scratch).parsed.around.is_wide());
    }
}
