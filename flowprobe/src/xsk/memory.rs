//! Memory that is mapped, and unmapped when nothing refers to it any more.

use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
};

/// Octets of a huge page that is asked for by its size.
const HUGE_PAGE: usize = 2 << 20;

/// A mapping of this process.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    octets: usize,
}

// SAFETY: memory without an owner among threads; who reads and writes it when is the business of
// those that hold it.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Zeroed memory of this process's own.
    pub(super) fn ordinary(octets: usize) -> io::Result<Self> {
        let memory = Self::map(octets, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, None, 0)?;
        // Larger pages spare the TLB; where there are none, nothing is lost.
        // SAFETY: the mapping just made, whose content stays as it is.
        unsafe { libc::madvise(memory.start.as_ptr().cast(), octets, libc::MADV_HUGEPAGE) };
        Ok(memory)
    }

    /// The same in huge pages, of which the machine's administrator has set some apart, or not.
    pub(super) fn huge(octets: usize) -> io::Result<Self> {
        let flags =
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
        Self::map(octets.next_multiple_of(HUGE_PAGE), flags, None, 0)
    }

    /// Memory that is shared with the kernel behind a descriptor.
    pub(super) fn shared(fd: BorrowedFd<'_>, octets: usize, offset: i64) -> io::Result<Self> {
        let flags = libc::MAP_SHARED | libc::MAP_POPULATE;
        Self::map(octets, flags, Some(fd), offset)
    }

    fn map(
        octets: usize,
        flags: libc::c_int,
        fd: Option<BorrowedFd<'_>>,
        offset: i64,
    ) -> io::Result<Self> {
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                octets,
                libc::PROT_READ | libc::PROT_WRITE,
                flags,
                fd.map_or(-1, |fd| fd.as_raw_fd()),
                offset,
            )
        };
        match NonNull::new(address.cast()) {
            Some(start) if address != libc::MAP_FAILED => Ok(Self { start, octets }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The first of `count` values at an offset.
    ///
    /// # Panics
    /// They do not lie within the memory, or are not aligned there.
    pub(super) fn values<T>(&self, offset: usize, count: usize) -> NonNull<T> {
        let octets = count.checked_mul(size_of::<T>());
        let end = octets.and_then(|octets| octets.checked_add(offset));
        assert!(
            end.is_some_and(|end| end <= self.octets),
            "{count} values at {offset} of {}",
            self.octets
        );
        // SAFETY: within the mapping, as was just checked.
        let first: NonNull<T> = unsafe { self.start.add(offset) }.cast();
        assert!(first.is_aligned(), "offset {offset}");
        first
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `map`, which nothing refers to any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.octets) };
    }
}
