//! A dictionary of MAC address pairs for each CPU.
//!
//! A gateway sees few pairs, and nearly all flows share them. So a flow names its pair by a number
//! instead of keeping twelve octets on a cache line of its own, which each new flow would have to
//! fetch. An entry is never changed once it is used. Where its place has another pair, as with
//! thousands of hosts on one segment, a flow keeps the addresses beside its bucket.

use crate::flow::Macs;

/// Pairs for each CPU: 64 KiB.
pub const MAC_PAIRS: u32 = 1 << 12;

/// A place of the dictionary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct MacPair {
    /// The addresses.
    pub macs: Macs,
    /// Not 0 where there are some.
    pub used: u32,
}

const _: () = assert!(size_of::<MacPair>() == 16);

impl MacPair {
    /// Makes it the place of `macs` if it is free; whether it is theirs.
    #[inline(always)]
    pub fn claim(&mut self, macs: &Macs) -> bool {
        if self.used == 0 {
            self.macs = *macs;
            self.used = 1;
            return true;
        }
        let (own, [a, b, c]) = (self.macs.words, macs.words);
        (own[0] ^ a) | (own[1] ^ b) | (own[2] ^ c) == 0
    }
}

/// Where a pair has its place. Hosts of one segment often differ in the last octets only.
#[inline(always)]
#[must_use]
pub fn place(macs: &Macs) -> u32 {
    let [a, b, c] = macs.words;
    let mixed = a.rotate_left(7) ^ b.rotate_left(14) ^ c;
    mixed.wrapping_mul(0x9e37_79b1) >> (u32::BITS - MAC_PAIRS.trailing_zeros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_taken_once() {
        let (one, other) = (Macs::new([1; 12]), Macs::new([2; 12]));
        let mut pair = MacPair::default();
        assert!(pair.claim(&one) && pair.claim(&one) && !pair.claim(&other));
        assert_eq!(pair.macs, one);
    }

    #[test]
    fn neighbours_have_places_of_their_own() {
        let mut taken = std::collections::BTreeSet::new();
        for host in 0..64 {
            let mut octets = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0];
            octets[11] = host;
            taken.insert(place(&Macs::new(octets)));
        }
        assert!(taken.len() > 56, "{}", taken.len());
    }
}
