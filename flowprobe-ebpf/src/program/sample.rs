//! Packet sampling: which packets are metered at all.

use flowprobe_ebpf::{
    cpu::Cpu,
    sampling::{METHOD_COUNT, METHOD_RANDOM, Word, geometric_gap, next_random},
};

/// Whether to meter this packet: the sampling epoch if so. Touches no octet of the packet.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
pub(super) unsafe fn select(cpu: *mut Cpu) -> Option<u32> {
    // SAFETY: the caller's. Userspace replaces `sampling` as a whole, so it is read once.
    unsafe {
        if (*cpu).skip_left != 0 {
            (*cpu).skip_left -= 1;
            return None;
        }
        let word = Word((&raw const (*cpu).sampling).read_volatile());
        match word.method() {
            METHOD_COUNT => (*cpu).skip_left = word.n() - 1,
            METHOD_RANDOM => {
                let random = next_random(&mut (*cpu).random);
                (*cpu).skip_left = geometric_gap(random, (*cpu).gap_scale);
            }
            _ => {}
        }
        Some(word.epoch())
    }
}
