//! Atomic instructions of BPF (kernel 5.12, `-mcpu=v3`), all of them full barriers.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd, atomic_xchg};

const ORDER: AtomicOrdering = AtomicOrdering::SeqCst;

/// Stores `value`; everything stored before is visible before it.
///
/// # Safety
/// `target` points to 8 aligned octets of a map element.
#[inline(always)]
pub(super) unsafe fn publish(target: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { atomic_xchg::<u64, { ORDER }>(target, value) };
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
