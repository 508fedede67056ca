//! Packet sampling: which packets are metered at all.

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64};
use flowprobe_ebpf::{
    cpu::Cpu,
    sampling::{
        METHOD_COUNT, METHOD_N_OF_N, METHOD_RANDOM, METHOD_TIME, Period, Sampled, Window, Word,
        geometric_gap, next_random,
    },
};

use super::maps;

/// Whether to meter this packet: what it is sampled as, if so. Touches no octet of the packet.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
pub(super) unsafe fn select(cpu: *mut Cpu) -> Option<Sampled> {
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
                (*cpu).skip_left = geometric_gap(random, (*cpu).parameter);
            }
            METHOD_N_OF_N | METHOD_TIME if !chosen(cpu, word.method()) => return None,
            _ => {}
        }
        Some(Sampled::new(0, word.epoch()))
    }
}

/// Whether the packet is selected by a method that may skip a packet for which nothing was left to
/// skip. Out of line, so that it takes no registers from the others.
///
/// # Safety
/// As [`select`].
#[inline(never)]
unsafe fn chosen(cpu: *mut Cpu, method: u8) -> bool {
    // SAFETY: the caller's.
    unsafe {
        if method == METHOD_TIME {
            return in_time(cpu);
        }
        let mut window = Window::from_word((*cpu).progress);
        let (size, population) = ((*cpu).parameter as u32, ((*cpu).parameter >> 32) as u32);
        let drawn = window.draw(size, population, &mut (*cpu).random);
        (*cpu).progress = window.to_word();
        (*cpu).skip_left = drawn.skip;
        drawn.selected
    }
}

/// Whether it is time to select packets. To read the clock costs more than all the rest of a packet
/// that is skipped, so while there are whole ticks to go it is not read.
///
/// # Safety
/// As [`select`].
#[inline(always)]
unsafe fn in_time(cpu: *mut Cpu) -> bool {
    // SAFETY: the caller's, and helpers without arguments.
    unsafe {
        let jiffies = bpf_jiffies64();
        if jiffies < (*cpu).progress {
            return false;
        }
        let at_ns = bpf_ktime_get_ns() + (*cpu).random;
        let off_ns = Period::from_word((*cpu).parameter).off_for_ns(at_ns);
        if off_ns == 0 {
            return true;
        }
        let tick_ns = maps::tick_ns();
        if tick_ns != 0 {
            (*cpu).progress = jiffies + off_ns / u64::from(tick_ns);
        }
        false
    }
}
