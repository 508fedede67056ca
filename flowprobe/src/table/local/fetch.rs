//! Memory that will be needed: fetched ahead, so that a burst of packets waits for it once and not
//! packet by packet.

/// Octets of a cache line.
const LINE: usize = 64;
/// Octets of a large page.
pub(super) const LARGE: usize = 2 << 20;

/// Fetches all lines of a value, which may be read or written soon.
#[inline(always)]
pub(super) fn ahead<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        for at in (0..size_of::<T>()).step_by(LINE) {
            let line = std::ptr::from_ref(value).cast::<i8>().wrapping_add(at);
            // SAFETY: a hint, which reads nothing that the program could see, and faults nowhere.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
    }
    // Elsewhere the burst still helps: its look-ups do not depend on each other.
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (value, LINE);
}

/// Asks for large pages behind the room of a vector: at random places, an address that has to be
/// looked up costs as much as the line itself. Where there are none, nothing is lost.
pub(super) fn advise<T>(room: &Vec<T>) {
    let octets = room.capacity() * size_of::<T>();
    let start = (room.as_ptr() as usize).next_multiple_of(LARGE);
    let end = (room.as_ptr() as usize + octets) & !(LARGE - 1);
    if start >= end {
        return;
    }
    // SAFETY: the pages are all within the vector's own room, and what is in them does not change.
    unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_HUGEPAGE) };
}
