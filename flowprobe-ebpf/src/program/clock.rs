//! The time that packets are stamped with.

use aya_ebpf::helpers::{bpf_ktime_get_ns, generated::bpf_jiffies64};
use flowprobe_ebpf::cpu::{CLOCK_PACKETS, Cpu};

/// Sets the CPU's clock for the packet at hand: nanoseconds of CLOCK_MONOTONIC, at most a tick or
/// [`CLOCK_PACKETS`] accounted packets old.
///
/// Reading the clock for each packet would cost more than all the rest. The verifier turns
/// `bpf_jiffies64` into one load, so the clock is read again only when the tick has changed.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
pub(super) unsafe fn set(cpu: *mut Cpu) {
    // SAFETY: the caller's, and helpers without arguments.
    unsafe {
        let jiffies = bpf_jiffies64();
        // The difference of the ticks decides in one branch.
        if ((*cpu).jiffies ^ jiffies) != 0 || (*cpu).accounted.packets & (CLOCK_PACKETS - 1) == 0 {
            (*cpu).jiffies = jiffies;
            (*cpu).now_ns = bpf_ktime_get_ns();
        } else {
            check(&mut *cpu);
        }
    }
}

/// The same where packets are handed over, and none is accounted here.
///
/// # Safety
/// As [`set`].
#[inline(always)]
pub(super) unsafe fn set_handing(cpu: *mut Cpu) {
    // SAFETY: the caller's, and helpers without arguments.
    unsafe {
        let jiffies = bpf_jiffies64();
        if ((*cpu).jiffies ^ jiffies) != 0 || (*cpu).handed.packets & (CLOCK_PACKETS - 1) == 0 {
            (*cpu).jiffies = jiffies;
            (*cpu).now_ns = bpf_ktime_get_ns();
        } else {
            check(&mut *cpu);
        }
    }
}

/// Measures how old the cached time is, in a test build.
#[cfg(feature = "check-clock")]
#[inline(always)]
fn check(cpu: &mut Cpu) {
    // SAFETY: a helper without arguments.
    let age = unsafe { bpf_ktime_get_ns() } - cpu.now_ns;
    cpu.clock_error_sum_ns += age;
    if age > cpu.clock_error_max_ns {
        cpu.clock_error_max_ns = age;
    }
}

#[cfg(not(feature = "check-clock"))]
#[inline(always)]
fn check(_: &mut Cpu) {}
