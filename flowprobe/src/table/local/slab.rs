//! Values by their slot, one behind the other in large pages. Room is added without copying what is
//! there: the kernel moves the pages.

use std::{
    alloc::{Layout, handle_alloc_error},
    io,
    marker::PhantomData,
    ops::{Deref, DerefMut, Index, IndexMut},
    ptr::{self, NonNull},
    slice,
};

use super::fetch::LARGE;

/// Values without a destructor. Memory that was not used yet is none.
#[derive(Debug)]
pub(super) struct Slab<T: Copy> {
    /// At a large page; dangling while there is no room.
    start: NonNull<T>,
    /// Octets that are mapped there: large pages.
    octets: usize,
    len: usize,
    most: usize,
    values: PhantomData<T>,
}

// SAFETY: it owns its values, as a vector does.
unsafe impl<T: Copy + Send> Send for Slab<T> {}
// SAFETY: as above; a shared reference only reads.
unsafe impl<T: Copy + Sync> Sync for Slab<T> {}

impl<T: Copy> Default for Slab<T> {
    fn default() -> Self {
        const { assert!(size_of::<T>() > 0 && LARGE.is_multiple_of(align_of::<T>())) };
        Self {
            start: NonNull::dangling(),
            octets: 0,
            len: 0,
            most: 0,
            values: PhantomData,
        }
    }
}

impl<T: Copy> Slab<T> {
    /// The most slots that there ever were.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// Takes all slots away. Their room stays.
    pub(super) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a slot.
    #[inline]
    pub(super) fn push(&mut self, value: T) {
        if (self.len + 1) * size_of::<T>() > self.octets {
            self.grow();
        }
        // SAFETY: there is room for one more behind those that there are.
        unsafe { self.start.as_ptr().add(self.len).write(value) };
        self.len += 1;
        self.most = self.most.max(self.len);
    }

    /// Doubles the room.
    #[cold]
    fn grow(&mut self) {
        let octets = (2 * self.octets).max(LARGE);
        let moved = map(octets).and_then(|start| {
            if self.octets > 0 {
                move_to(self.start.cast().as_ptr(), self.octets, start, octets)?;
            }
            Ok(start)
        });
        let start = moved.ok().and_then(|start| NonNull::new(start.cast::<T>()));
        let Some(start) = start else {
            let layout = Layout::from_size_align(octets, LARGE);
            handle_alloc_error(layout.unwrap_or(Layout::new::<T>()));
        };
        // SAFETY: the pages are all its own, and what is in them does not change.
        unsafe { libc::madvise(start.as_ptr().cast(), octets, libc::MADV_HUGEPAGE) };
        (self.start, self.octets) = (start, octets);
    }
}

/// Maps octets that are 0, at a large page.
fn map(octets: usize) -> io::Result<*mut u8> {
    const READ_WRITE: i32 = libc::PROT_READ | libc::PROT_WRITE;
    const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
    let whole = octets + LARGE;
    // SAFETY: a new mapping, wherever the kernel likes.
    let at = unsafe { libc::mmap(ptr::null_mut(), whole, READ_WRITE, PRIVATE, -1, 0) };
    if at == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let at = at.cast::<u8>();
    let before = at.align_offset(LARGE);
    let start = at.wrapping_add(before);
    unmap(at, before);
    unmap(start.wrapping_add(octets), LARGE - before);
    Ok(start)
}

/// Moves mapped pages over the start of a mapping of `octets`, which ends with them as long.
fn move_to(from: *mut u8, mapped: usize, to: *mut u8, octets: usize) -> io::Result<()> {
    const FLAGS: i32 = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: both are mappings of their own, and nothing has an address in either but the caller.
    let at = unsafe { libc::mremap(from.cast(), mapped, octets, FLAGS, to) };
    match at == libc::MAP_FAILED {
        true => Err(io::Error::last_os_error()),
        false => Ok(()),
    }
}

fn unmap(at: *mut u8, octets: usize) {
    if octets > 0 {
        // SAFETY: a part of a mapping that nothing points into.
        unsafe { libc::munmap(at.cast(), octets) };
    }
}

impl<T: Copy> Drop for Slab<T> {
    fn drop(&mut self) {
        unmap(self.start.cast().as_ptr(), self.octets);
    }
}

impl<T: Copy> Deref for Slab<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `push` has written so many; none are read without room.
        unsafe { slice::from_raw_parts(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> DerefMut for Slab<T> {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above, and it is borrowed alone.
        unsafe { slice::from_raw_parts_mut(self.start.as_ptr(), self.len) }
    }
}

impl<T: Copy> Index<u32> for Slab<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, slot: u32) -> &T {
        &(**self)[slot as usize]
    }
}

impl<T: Copy> IndexMut<u32> for Slab<T> {
    #[inline(always)]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut (**self)[slot as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_stays_when_room_is_added() {
        // Of a size that no page is a multiple of.
        let value = |i: u32| [u64::from(i), !u64::from(i), 3];
        let mut slab = Slab::default();
        const SLOTS: u32 = 400_000;
        for slot in 0..SLOTS {
            slab.push(value(slot));
        }
        assert!(slab.octets > 4 * LARGE);
        assert!(slab.start.cast::<u8>().as_ptr().align_offset(LARGE) == 0);
        let whole = (0..).zip(slab.iter());
        assert!(whole.clone().all(|(slot, kept)| *kept == value(slot)));
        assert_eq!((whole.count(), slab.most()), (400_000, 400_000));
        slab[SLOTS - 1] = [7; 3];
        assert_eq!(slab.get(SLOTS as usize - 1), Some(&[7; 3]));
        slab.clear();
        assert_eq!((slab.len(), slab.most(), slab.first()), (0, 400_000, None));
        slab.push([1; 3]);
        assert_eq!(*slab, [[1; 3]]);
    }
}
