//! An array map of the program in this process's memory.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    ptr::{self, NonNull},
};

use anyhow::{Result, ensure};
use libbpf_rs::{MapCore, MapHandle};

/// Elements of type `T` that the kernel half writes meanwhile: every access is volatile or atomic.
pub(crate) struct Mapping<T> {
    start: NonNull<T>,
    elements: usize,
    octets: usize,
}

// SAFETY: the memory is shared with the kernel half anyway; it is accessed by raw pointers only.
unsafe impl<T> Send for Mapping<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapping<T> {}

impl<T> Mapping<T> {
    /// Maps a mappable array whose value type is `T`.
    pub(crate) fn new(map: &MapHandle) -> Result<Self> {
        let name = map.name().to_string_lossy();
        ensure!(
            map.value_size() as usize == size_of::<T>() && size_of::<T>().is_multiple_of(8),
            "map `{name}` has values of {} octets, not {}: is the object of this version?",
            map.value_size(),
            size_of::<T>(),
        );
        let elements = map.max_entries() as usize;
        let octets = elements * size_of::<T>();
        // SAFETY: a new mapping that aliases no memory of this process.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                octets,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_fd().as_raw_fd(),
                0,
            )
        };
        ensure!(
            start != libc::MAP_FAILED,
            "cannot map `{name}`: {}",
            io::Error::last_os_error()
        );
        let Some(start) = NonNull::new(start.cast()) else {
            unreachable!("mmap chooses no address 0");
        };
        Ok(Self {
            start,
            elements,
            octets,
        })
    }

    /// How many elements there are.
    pub(crate) fn len(&self) -> usize {
        self.elements
    }

    /// A pointer to element `i`, valid as long as `self`.
    ///
    /// # Panics
    /// There is no such element.
    pub(crate) fn element(&self, i: usize) -> *mut T {
        assert!(i < self.elements);
        // SAFETY: within the mapping.
        unsafe { self.start.as_ptr().add(i) }
    }

    /// A copy of element `i`, not of one moment if the kernel half writes it meanwhile.
    pub(crate) fn read(&self, i: usize) -> T
    where
        T: Copy,
    {
        // SAFETY: within the mapping, which the kernel aligned to a page; `T` is plain integers.
        unsafe { self.element(i).read_volatile() }
    }
}

impl<T> Drop for Mapping<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping is this value's own.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.octets) };
    }
}
