//! The two clocks: the kernel's, and the one that flowprobe caches.

use aya_ebpf::{
    btf_maps::Array,
    helpers::{bpf_get_smp_processor_id, bpf_ktime_get_ns, generated::bpf_jiffies64},
    macros::btf_map,
};
use flowprobe_bench::Clock;
use flowprobe_ebpf::cpu::CLOCK_PACKETS;

/// CPUs that have a clock. The benchmark runs on one of them.
const CPUS: usize = 512;

#[btf_map]
static CLOCKS: Array<Clock, CPUS> = Array::new();

/// Nanoseconds of CLOCK_MONOTONIC, read for each packet.
#[inline(always)]
pub(crate) fn ktime_ns() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_ktime_get_ns() }
}

/// The same, at most a tick or [`CLOCK_PACKETS`] packets old, as flowprobe has it.
#[inline(always)]
pub(crate) fn cached_ns() -> u64 {
    // SAFETY: helpers without arguments; only this CPU uses its element.
    unsafe {
        let Some(clock) = CLOCKS.get_ptr_mut(bpf_get_smp_processor_id()) else {
            return ktime_ns();
        };
        let jiffies = bpf_jiffies64();
        if (*clock).jiffies == jiffies && (*clock).left != 0 {
            (*clock).left -= 1;
        } else {
            (*clock).jiffies = jiffies;
            (*clock).left = u64::from(CLOCK_PACKETS) - 1;
            (*clock).now_ns = ktime_ns();
        }
        (*clock).now_ns
    }
}
