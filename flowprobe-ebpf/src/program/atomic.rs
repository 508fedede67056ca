//! Ordered stores, and the atomic instructions of BPF (kernel 5.12, `-mcpu=v3`), which are full
//! barriers.

use core::{
    intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg},
    sync::atomic::{Ordering, compiler_fence},
};

use super::maps;

const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;

/// Stores `value`; everything stored before is visible before it.
///
/// BPF has no store-release before kernel 6.15. An exchange is one on every machine, but it waits
/// until all stores before it have left the CPU, cache misses and all, which a new flow has. Where
/// the hardware keeps stores in order by itself (x86-64, s390x) a plain store does. The verifier
/// drops the branch that is not taken.
///
/// # Safety
/// `target` points to 8 aligned octets of a map element.
#[inline(always)]
pub(super) unsafe fn publish(target: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe {
        if maps::stores_in_order() != 0 {
            compiler_fence(Ordering::Release);
            target.write_volatile(value);
        } else {
            atomic_xchg::<u64, { ORDER }>(target, value);
        }
    }
}

/// Replaces `old` by `new`; false if something else stood there.
///
/// # Safety
/// As [`publish`].
#[inline(always)]
pub(super) unsafe fn replace(target: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: the caller's.
    unsafe { atomic_cxchg::<u64, { ORDER }, { ORDER }>(target, old, new).1 }
}

/// Adds `value`.
///
/// # Safety
/// As [`publish`].
#[inline(always)]
pub(super) unsafe fn add(target: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { ORDER }>(target, value) };
}
