//! The keyed hash of this table.
//!
//! NH, as the program's (RFC 4418 §5.2.2), but of words of 64 bits, whose products have 128: half as
//! many multiplications, which BPF has not. For two keys chosen without knowing the secret the chance
//! of an equal sum is at most 2⁻⁶⁴. One more product, of both halves of the sum, spreads it over all
//! bits.

use flowprobe_ebpf::hash::SECRET_WORDS;

/// Numbers without a pattern, the fractions of the golden ratio and of π: they keep a product from
/// being 0 because one half of the sum is.
const SPREAD: [u64; 2] = [0x9e37_79b9_7f4a_7c15, 0x243f_6a88_85a3_08d3];

/// Hashes `words` under `secret`, of which there must be a word for each, and one more where they are
/// odd in number.
#[inline(always)]
pub(super) fn hash<const N: usize>(words: &[u64; N], secret: &[u64; SECRET_WORDS]) -> u64 {
    const { assert!(N.next_multiple_of(2) <= SECRET_WORDS) };
    let mut sum = 0_u128;
    let mut i = 0;
    while i < N {
        let one = words[i].wrapping_add(secret[i]);
        // A word that is not there is 0.
        let other = if i + 1 < N { words[i + 1] } else { 0 };
        let other = other.wrapping_add(secret[i + 1]);
        sum = sum.wrapping_add(u128::from(one) * u128::from(other));
        i += 2;
    }
    let (low, high) = (sum as u64, (sum >> 64) as u64);
    let spread = u128::from(low ^ SPREAD[0]) * u128::from(high ^ SPREAD[1]);
    spread as u64 ^ (spread >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any two of these bits are as often equal as not.
    #[test]
    fn each_bit_of_a_key_changes_each_bit_of_the_hash_half_of_the_time() {
        let secret = std::array::from_fn(|i| (i as u64 + 1).wrapping_mul(0xd134_2543_de82_ef95));
        let mut changed = [[0_u32; 64]; 3 * 64];
        const KEYS: u32 = 2000;
        for key in 0..u64::from(KEYS) {
            // Addresses that follow one another, as scans have them.
            let words = [key << 32 | 0x0a00_0001, 0x35_0011, 7];
            let plain = hash(&words, &secret);
            for (bit, changed) in changed.iter_mut().enumerate() {
                let mut other = words;
                other[bit / 64] ^= 1 << (bit % 64);
                let differs = hash(&other, &secret) ^ plain;
                for (at, count) in changed.iter_mut().enumerate() {
                    *count += (differs >> at & 1) as u32;
                }
            }
        }
        for (bit, changed) in changed.iter().enumerate() {
            for (at, &count) in changed.iter().enumerate() {
                let half = KEYS / 2;
                assert!(
                    count.abs_diff(half) < half / 4,
                    "bit {bit} changes bit {at} {count} times of {KEYS}"
                );
            }
        }
    }

    #[test]
    fn all_of_the_secret_counts() {
        let words = [1, 2, 3];
        let mut hashes: Vec<u64> = (0..4)
            .map(|at| {
                let mut secret = [9; SECRET_WORDS];
                secret[at] += 1;
                hash(&words, &secret)
            })
            .collect();
        hashes.push(hash(&words, &[9; SECRET_WORDS]));
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), 5);
    }
}
