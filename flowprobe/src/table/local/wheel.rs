//! A queue by time that is turned slowly: what lies far ahead is sorted only roughly, into slots
//! that are taken apart as their time comes.
//!
//! A look costs at most one move for each level below the one that it was put on, whatever else is
//! in the queue. Within the nearest slot looks are sorted to the nanosecond.

use std::{cmp::Reverse, collections::BinaryHeap};

/// Nanoseconds of the finest slot, as a shift: about a millisecond.
const TICK: u32 = 20;
/// Slots of a level, as a shift.
const DIGIT: u32 = 8;
const SLOTS: usize = 1 << DIGIT;
/// A slot that is emptied keeps room for so many, so that it need not be made again each time.
const KEPT: usize = 64;
/// Words of a bit for each slot of a level.
const WORDS: usize = SLOTS / u64::BITS as usize;
/// Levels that 64 bits of nanoseconds need.
const LEVELS: usize = (u64::BITS - TICK).div_ceil(DIGIT) as usize;

/// Bits that the number of a shelf needs.
const FAMILY: u32 = 2;

/// A flow that is to be looked at. Of two at the same time, the one that was put in first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Look {
    pub(super) at: u64,
    /// How many were put in before, modulo 2³⁰; below, the number of the slot's shelf.
    order: u32,
    pub(super) slot: u32,
}

impl Look {
    pub(super) fn family(&self) -> u8 {
        (self.order & ((1 << FAMILY) - 1)) as u8
    }
}

/// Looks, by their time.
#[derive(Debug)]
pub(super) struct Wheel {
    /// All up to this tick is in `sorted` and `soon`.
    tick: u64,
    /// Slots of all levels: a look is on the level of the highest digit in which its tick differs
    /// from `tick`, in the slot of that digit.
    slots: Vec<Vec<Look>>,
    /// Which slots of a level have something in them.
    occupied: [[u64; WORDS]; LEVELS],
    /// The looks of the tick, sorted, the first one last; and those that came too late to be sorted.
    sorted: Vec<Look>,
    soon: BinaryHeap<Reverse<Look>>,
    /// Nothing is to be looked at before.
    next: u64,
    /// How many were put in.
    order: u32,
    len: usize,
    most: usize,
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            tick: 0,
            slots: vec![Vec::new(); LEVELS * SLOTS],
            occupied: [[0; WORDS]; LEVELS],
            sorted: Vec::new(),
            soon: BinaryHeap::new(),
            next: u64::MAX,
            order: 0,
            len: 0,
            most: 0,
        }
    }
}

impl Wheel {
    /// Looks that wait.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Nothing is to be looked at before.
    #[inline(always)]
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Octets of the most looks that ever waited. Room for them grows by doubling.
    pub(super) fn peak_octets(&self) -> usize {
        self.most * size_of::<Look>()
    }

    /// Puts in a look at a slot of a shelf.
    pub(super) fn push(&mut self, at: u64, slot: u32, family: u8) {
        self.order = self.order.wrapping_add(1);
        self.len += 1;
        self.most = self.most.max(self.len);
        self.next = self.next.min(at);
        self.place(Look {
            at,
            order: self.order << FAMILY | u32::from(family),
            slot,
        });
    }

    fn place(&mut self, look: Look) {
        let tick = look.at >> TICK;
        if tick <= self.tick {
            self.soon.push(Reverse(look));
            return;
        }
        let level = (u64::BITS - 1 - (tick ^ self.tick).leading_zeros()) / DIGIT;
        let digit = (tick >> (level * DIGIT)) as usize % SLOTS;
        self.occupied[level as usize][digit / 64] |= 1 << (digit % 64);
        self.slots[level as usize * SLOTS + digit].push(look);
    }

    /// Takes out the first look up to `now`. What may follow it soon is told to `near`.
    pub(super) fn pop(&mut self, now: u64, near: impl Fn(&Look)) -> Option<Look> {
        loop {
            if let Some(look) = self.first() {
                self.next = look.at;
                if look.at > now {
                    return None;
                }
                if self.sorted.last() == Some(&look) {
                    self.sorted.pop();
                } else {
                    self.soon.pop();
                }
                self.len -= 1;
                return Some(look);
            }
            let Some((level, digit, tick)) = self.next_slot() else {
                self.next = u64::MAX;
                return None;
            };
            let start = tick << TICK;
            if start > now {
                self.next = start;
                return None;
            }
            self.tick = tick;
            self.occupied[level][digit / 64] &= !(1 << (digit % 64));
            let slot = level * SLOTS + digit;
            let mut looks = std::mem::take(&mut self.slots[slot]);
            for look in looks.drain(..) {
                if look.at >> TICK <= tick {
                    near(&look);
                    self.sorted.push(look);
                } else {
                    self.place(look);
                }
            }
            self.sorted.sort_unstable_by(|one, other| other.cmp(one));
            if looks.capacity() <= KEPT {
                self.slots[slot] = looks;
            }
        }
    }

    /// The first look of the tick.
    #[inline(always)]
    fn first(&self) -> Option<Look> {
        let (sorted, soon) = (self.sorted.last(), self.soon.peek());
        match (sorted, soon) {
            (Some(sorted), Some(Reverse(soon))) => Some(*sorted.min(soon)),
            (Some(look), None) | (None, Some(Reverse(look))) => Some(*look),
            (None, None) => None,
        }
    }

    /// The first slot that has something in it: level, digit and first tick.
    fn next_slot(&self) -> Option<(usize, usize, u64)> {
        // What is on a lower level shares a higher digit with `tick`, and so comes before.
        let first = |words: &[u64; WORDS]| {
            let word = words.iter().position(|&word| word != 0)?;
            Some(word * 64 + words[word].trailing_zeros() as usize)
        };
        let firsts = self.occupied.iter().map(first).enumerate();
        let (level, digit) = firsts
            .filter_map(|(level, digit)| Some((level, digit?)))
            .next()?;
        let shift = level as u32 * DIGIT;
        let above = self.tick >> (shift + DIGIT);
        let tick = (above << DIGIT | digit as u64) << shift;
        Some((level, digit, tick))
    }

    /// Takes out everything. Time may begin anew.
    pub(super) fn clear(&mut self) {
        *self = Self {
            most: self.most,
            ..Self::default()
        };
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Times near and far.
    fn time() -> impl Strategy<Value = u64> {
        (0..64_u32, any::<u64>()).prop_map(|(shift, bits)| bits >> shift)
    }

    proptest! {
        #[test]
        fn looks_come_in_the_order_of_their_times_and_as_they_were_put_in(
            steps in prop::collection::vec((time(), time()), 1..200),
        ) {
            let mut wheel = Wheel::default();
            let mut sorted = std::collections::BTreeSet::new();
            let mut now = 0_u64;
            for (slot, (ahead, step)) in (0_u32..).zip(steps) {
                let at = now.saturating_add(ahead);
                wheel.push(at, slot, (slot % 3) as u8);
                sorted.insert((at, slot));
                now = now.saturating_add(step >> 8);
                prop_assert!(sorted.first().is_none_or(|first| wheel.next() <= first.0));
                while let Some(look) = wheel.pop(now, |_| ()) {
                    prop_assert_eq!(Some((look.at, look.slot)), sorted.pop_first());
                    prop_assert_eq!(u32::from(look.family()), look.slot % 3);
                }
                prop_assert!(sorted.first().is_none_or(|first| first.0 > now));
                prop_assert_eq!(wheel.len(), sorted.len());
            }
        }
    }
}
