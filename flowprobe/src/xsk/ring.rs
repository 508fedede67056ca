//! The rings of AF_XDP: single producer, single consumer, in memory shared with the kernel.
//!
//! Each side owns one position, and reads the other's: both count entries modulo 2³², and the place of
//! an entry is its number modulo the size, a power of two. What is stored before a position is moved
//! (release) is seen by who has read that position (acquire).

use std::{
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use super::memory::Memory;

/// Offsets of a ring in its memory, as the kernel gives them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offsets {
    pub(super) producer: usize,
    pub(super) consumer: usize,
    pub(super) flags: usize,
    pub(super) entries: usize,
}

/// A ring in memory.
#[derive(Debug)]
struct Ring<T> {
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    entries: NonNull<T>,
    size: u32,
    _memory: Arc<Memory>,
}

// SAFETY: the memory is shared with the kernel, which knows of no threads; it stays as long as the
// ring does.
unsafe impl<T: Send> Send for Ring<T> {}
// SAFETY: as above; what is not atomic is written through `&mut` of the end that it belongs to.
unsafe impl<T: Sync> Sync for Ring<T> {}

impl<T: Copy> Ring<T> {
    /// # Panics
    /// `size` is no power of two, or the ring does not lie within the memory.
    fn new(memory: Arc<Memory>, offsets: Offsets, size: u32) -> Self {
        assert!(size.is_power_of_two(), "a ring of {size}");
        Self {
            producer: memory.values(offsets.producer, 1),
            consumer: memory.values(offsets.consumer, 1),
            flags: memory.values(offsets.flags, 1),
            entries: memory.values(offsets.entries, size as usize),
            size,
            _memory: memory,
        }
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: aligned and within the memory (`Memory::values`), which lives as long as `self`.
        unsafe { self.producer.as_ref() }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.consumer.as_ref() }
    }

    fn flags(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { self.flags.as_ref() }
    }

    fn entry(&self, position: u32) -> NonNull<T> {
        // SAFETY: the mask keeps it within the entries, which lie within the memory.
        unsafe { self.entries.add((position & (self.size - 1)) as usize) }
    }
}

/// The end of a ring at which entries are taken out.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// The next entry.
    next: u32,
    /// Entries from there on that were found to be there.
    available: u32,
}

impl<T: Copy> Consumer<T> {
    pub(super) fn new(memory: Arc<Memory>, offsets: Offsets, size: u32) -> Self {
        let ring = Ring::new(memory, offsets, size);
        let next = ring.consumer().load(Ordering::Relaxed);
        Self {
            ring,
            next,
            available: 0,
        }
    }

    /// Looks how many entries there are.
    pub(super) fn look(&mut self) -> u32 {
        let produced = self.ring.producer().load(Ordering::Acquire);
        self.available = produced.wrapping_sub(self.next).min(self.ring.size);
        self.available
    }

    /// The entry so many behind the next one.
    ///
    /// # Panics
    /// [`Consumer::look`] has not found it.
    pub(super) fn get(&self, ahead: u32) -> T {
        assert!(ahead < self.available, "{ahead} of {}", self.available);
        // SAFETY: a place of the ring; the other side has filled it, and waits for `release`.
        unsafe { self.ring.entry(self.next.wrapping_add(ahead)).read() }
    }

    /// Gives the places of the next entries back.
    ///
    /// # Panics
    /// There are not as many.
    pub(super) fn release(&mut self, count: u32) {
        assert!(count <= self.available, "{count} of {}", self.available);
        self.available -= count;
        self.next = self.next.wrapping_add(count);
        self.ring.consumer().store(self.next, Ordering::Release);
    }
}

/// The end of a ring at which entries are put in.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// The next place.
    next: u32,
    /// Places from there on that were found to be free.
    free: u32,
}

impl<T: Copy> Producer<T> {
    pub(super) fn new(memory: Arc<Memory>, offsets: Offsets, size: u32) -> Self {
        let ring = Ring::new(memory, offsets, size);
        let next = ring.producer().load(Ordering::Relaxed);
        Self {
            ring,
            next,
            free: 0,
        }
    }

    /// Looks how many places are free.
    pub(super) fn look(&mut self) -> u32 {
        let consumed = self.ring.consumer().load(Ordering::Acquire);
        let used = self.next.wrapping_sub(consumed).min(self.ring.size);
        self.free = self.ring.size - used;
        self.free
    }

    /// Fills the place so many behind the next one.
    ///
    /// # Panics
    /// [`Producer::look`] has not found it free.
    pub(super) fn put(&mut self, ahead: u32, value: T) {
        assert!(ahead < self.free, "{ahead} of {}", self.free);
        // SAFETY: a place of the ring, which the other side does not look at before `publish`.
        unsafe { self.ring.entry(self.next.wrapping_add(ahead)).write(value) };
    }

    /// Lets the other side have the next places, all of which have been filled.
    ///
    /// # Panics
    /// There were not as many.
    pub(super) fn publish(&mut self, count: u32) {
        assert!(count <= self.free, "{count} of {}", self.free);
        self.free -= count;
        self.next = self.next.wrapping_add(count);
        self.ring.producer().store(self.next, Ordering::Release);
    }

    /// Whether the other side sleeps, and wants a system call to look again.
    pub(super) fn wants_wakeup(&self) -> bool {
        self.ring.flags().load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }
}

#[cfg(test)]
mod tests;
