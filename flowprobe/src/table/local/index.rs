//! Where flows are, by the hash of their key: lines of a cache's size, so that a look-up is one line
//! and then the flow, and both can be fetched ahead.
//!
//! A flow is put into the line that its hash names, or the next one with room. Each line counts
//! the flows that went past it, so that a search knows where to end and nothing is left behind by
//! what is taken out.

use super::fetch::{self, LARGE, advise};

/// Places in a line.
const WAYS: usize = 12;
/// Flows for each line above which the index doubles. Of lines as full as that, 6 % have more
/// than fit.
const LOAD: usize = 8;
/// Lines of an empty index.
const LEAST: usize = 16;

#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
struct Line {
    /// Eight bits of each flow's hash; 0 for a free place.
    tags: [u8; WAYS],
    /// Flows that went past this line.
    past: u32,
    slots: [u32; WAYS],
}

const _: () = assert!(size_of::<Line>() == 64);

#[derive(Debug)]
pub(super) struct Index {
    lines: Vec<Line>,
    /// Where they begin in `lines`: at a large page where there are so many.
    first: usize,
    /// How many there are, less one.
    mask: usize,
    len: usize,
}

/// The bits that lines are chosen by are the lowest.
#[inline(always)]
fn tag(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(1)
}

/// Which places of a line, as bits.
const ALL: u32 = (1 << WAYS) - 1;

impl Line {
    /// The places with this tag, as bits.
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    fn matches(&self, tag: u8) -> u32 {
        use core::arch::x86_64::{
            _mm_cmpeq_epi8, _mm_load_si128, _mm_movemask_epi8, _mm_set1_epi8,
        };
        // SAFETY: a line is longer than the 16 octets that are read, and is aligned to them; all of
        // these are SSE2, which every x86-64 has.
        let bits = unsafe {
            let tags = _mm_load_si128(std::ptr::from_ref(self).cast());
            _mm_movemask_epi8(_mm_cmpeq_epi8(tags, _mm_set1_epi8(tag as i8)))
        };
        bits as u32 & ALL
    }

    /// The places with this tag, as bits.
    #[cfg(not(target_arch = "x86_64"))]
    #[inline(always)]
    fn matches(&self, tag: u8) -> u32 {
        let ways = self.tags.iter().enumerate();
        ways.fold(0, |bits, (way, other)| {
            bits | u32::from(*other == tag) << way
        })
    }
}

/// The places that bits of [`Line::matches`] name.
#[inline(always)]
fn ways(mut matches: u32) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        if matches == 0 {
            return None;
        }
        let way = matches.trailing_zeros() as usize;
        matches &= matches - 1;
        Some(way)
    })
}

impl Default for Index {
    fn default() -> Self {
        Self {
            lines: vec![Line::default(); LEAST],
            first: 0,
            mask: LEAST - 1,
            len: 0,
        }
    }
}

impl Index {
    /// Octets that it takes.
    pub(super) fn octets(&self) -> usize {
        self.lines.len() * size_of::<Line>()
    }

    #[inline(always)]
    fn home(&self, hash: u64) -> usize {
        self.first + (hash as usize & self.mask)
    }

    /// The first line that a hash may be in.
    #[inline(always)]
    fn at_home(&self, hash: u64) -> &Line {
        // SAFETY: there are as many lines behind the first one as `mask` says, and one: see `grow` and
        // `default`, which alone set them.
        unsafe { self.lines.get_unchecked(self.home(hash)) }
    }

    /// The line after this one.
    #[inline(always)]
    fn after(&self, line: usize) -> usize {
        self.first + ((line + 1 - self.first) & self.mask)
    }

    /// Fetches the line of a hash.
    #[inline(always)]
    pub(super) fn fetch(&self, hash: u64) {
        fetch::ahead(self.at_home(hash));
    }

    /// The slot that a hash most likely has, by its tag alone; any number where it has none.
    #[inline(always)]
    pub(super) fn guess(&self, hash: u64) -> u32 {
        let line = self.at_home(hash);
        let matches = line.matches(tag(hash));
        // Without a branch, which nobody could foresee: no match is the last place.
        let way = (matches | 1 << (WAYS - 1)).trailing_zeros() as usize;
        line.slots[way]
    }

    /// The slot of a hash for which `is` says so.
    #[inline(always)]
    pub(super) fn find(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let tag = tag(hash);
        let home = self.home(hash);
        let mut at = home;
        loop {
            let line = &self.lines[at];
            let mut slots = ways(line.matches(tag)).map(|way| line.slots[way]);
            if let Some(slot) = slots.find(|&slot| is(slot)) {
                return Some(slot);
            }
            at = self.after(at);
            // Lines that were full once may still send on, all of them.
            if line.past == 0 || at == home {
                return None;
            }
        }
    }

    /// Whether there are at least as many flows as lines.
    pub(super) fn is_loaded(&self) -> bool {
        self.len > self.mask
    }

    /// Takes out everything.
    pub(super) fn clear(&mut self) {
        self.lines.fill(Line::default());
        self.len = 0;
    }

    /// Whether one more needs [`Index::grow`] before it.
    #[inline(always)]
    pub(super) fn is_full(&self) -> bool {
        self.len >= (self.mask + 1) * LOAD
    }

    /// Doubles it. `all` are the slots of all flows, with their hashes.
    pub(super) fn grow(&mut self, all: impl Iterator<Item = (u64, u32)>) {
        let lines = (self.mask + 1) * 2;
        let octets = lines * size_of::<Line>();
        let spare = if octets < LARGE { 0 } else { LARGE };
        // The old ones first, so that there are never both.
        *self = Self::default();
        self.lines = Vec::new();
        self.lines.reserve_exact(lines + spare / size_of::<Line>());
        advise(&self.lines);
        if spare > 0 {
            let start = self.lines.as_ptr() as usize;
            self.first = (start.next_multiple_of(LARGE) - start) / size_of::<Line>();
        }
        self.lines.resize(self.first + lines, Line::default());
        self.mask = lines - 1;
        for (hash, slot) in all {
            self.insert(hash, slot);
        }
    }

    /// Puts in a slot, for which there must be room.
    pub(super) fn insert(&mut self, hash: u64, slot: u32) {
        let mut at = self.home(hash);
        loop {
            let line = &mut self.lines[at];
            if let Some(way) = ways(line.matches(0)).next() {
                line.tags[way] = tag(hash);
                line.slots[way] = slot;
                break;
            }
            line.past += 1;
            at = self.after(at);
        }
        self.len += 1;
    }

    /// Takes out a slot, which must be in it.
    pub(super) fn remove(&mut self, hash: u64, slot: u32) {
        let mut at = self.home(hash);
        loop {
            let line = &mut self.lines[at];
            let mut found = ways(line.matches(tag(hash)));
            if let Some(way) = found.find(|&way| line.slots[way] == slot) {
                line.tags[way] = 0;
                break;
            }
            debug_assert!(line.past > 0, "the slot is not in the index");
            line.past -= 1;
            at = self.after(at);
        }
        self.len -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        // Few lines, so that most are too full and searches go far; few tags, too.
        #[test]
        fn what_is_in_it_is_found_and_nothing_else(
            steps in prop::collection::vec((0..6_u64, 0..4_u64, 0..40_u32), 1..400),
        ) {
            let mut index = Index::default();
            let mut plain = BTreeMap::new();
            for (home, tag, slot) in steps {
                let hash = home | tag << 56;
                match plain.remove(&slot) {
                    Some(hash) => index.remove(hash, slot),
                    None => {
                        index.insert(hash, slot);
                        plain.insert(slot, hash);
                    }
                }
                prop_assert_eq!(index.len, plain.len());
                for slot in 0..40 {
                    let hash = plain.get(&slot).copied();
                    let found = index.find(hash.unwrap_or(home), |other| other == slot);
                    prop_assert_eq!(found, hash.map(|_| slot));
                }
            }
            let went_past = index.lines.iter().any(|line| line.past > 0);
            prop_assert!(!went_past || !plain.is_empty());
            index.grow(plain.iter().map(|(&slot, &hash)| (hash, slot)));
            for (&slot, &hash) in &plain {
                prop_assert_eq!(index.find(hash, |other| other == slot), Some(slot));
            }
        }
    }
}
