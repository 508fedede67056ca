//! Values by their slot, in chunks: room is added without moving what is there.

use std::ops::{Index, IndexMut};

use super::fetch::advise;

/// Values of a chunk, as a shift: of 64 octets, eight large pages. Memory that was not used yet is
/// none.
const CHUNK: u32 = 18;
const MASK: usize = (1 << CHUNK) - 1;

#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    len: usize,
    most: usize,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
            most: 0,
        }
    }
}

impl<T> Slab<T> {
    /// Slots that there are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// The most slots that there ever were.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// The value of a slot, if there is such a slot.
    #[inline(always)]
    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        let chunk = self.chunks.get(slot as usize >> CHUNK)?;
        chunk.get(slot as usize & MASK)
    }

    /// Takes all slots away. Their room stays.
    pub(super) fn clear(&mut self) {
        for chunk in &mut self.chunks {
            chunk.clear();
        }
        self.len = 0;
    }

    /// Adds a slot.
    pub(super) fn push(&mut self, value: T) {
        if self.len >> CHUNK == self.chunks.len() {
            let chunk = Vec::with_capacity(1 << CHUNK);
            advise(&chunk);
            self.chunks.push(chunk);
        }
        self.chunks[self.len >> CHUNK].push(value);
        self.len += 1;
        self.most = self.most.max(self.len);
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline(always)]
    fn index(&self, slot: u32) -> &T {
        &self.chunks[slot as usize >> CHUNK][slot as usize & MASK]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline(always)]
    fn index_mut(&mut self, slot: u32) -> &mut T {
        &mut self.chunks[slot as usize >> CHUNK][slot as usize & MASK]
    }
}
