//! The keyed hash that places a flow in the table.
//!
//! NH, the universal hash of UMAC (RFC 4418 §5.2.2), under a random secret: for two keys chosen
//! without knowing the secret, the chance of an equal sum is at most 2⁻³². A finisher with full
//! avalanche (Stafford's variant 13 of the 64-bit MurmurHash3 finaliser) spreads the sum over
//! the bits for bucket and fingerprint. Three multiplications side by side and two in a row for
//! IPv4: BPF has no 128-bit product, which faster keyed hashes need.

use crate::{
    key::{MAX_WORDS, one_by_one},
    table::WAYS,
};

/// Words of the secret, enough for the longest key.
pub const SECRET_WORDS: usize = MAX_WORDS;

/// Hashes `words` under `secret`.
#[must_use]
pub fn hash<const N: usize>(words: &[u64; N], secret: &[u64; SECRET_WORDS]) -> u64 {
    hash_by(words, |i| secret[i])
}

/// Hashes `words` under the secret whose words `secret` gives: the program reads them one by one.
#[inline(always)]
#[must_use]
pub fn hash_by<const N: usize>(words: &[u64; N], secret: impl Fn(usize) -> u64) -> u64 {
    hash_each::<N>(|i| words[i], secret)
}

/// Hashes the `N` words that `word` gives, which then need not lie together in memory.
#[inline(always)]
#[must_use]
pub fn hash_each<const N: usize>(
    word: impl Fn(usize) -> u64,
    secret: impl Fn(usize) -> u64,
) -> u64 {
    const { assert!(N <= SECRET_WORDS) };
    let mut sum = 0_u64;
    let mut i = 0;
    while i < N {
        let (word, secret) = (word(i), secret(i));
        let low = (word as u32).wrapping_add(secret as u32);
        let high = ((word >> 32) as u32).wrapping_add((secret >> 32) as u32);
        sum = sum.wrapping_add(u64::from(low).wrapping_mul(u64::from(high)));
        if N > PLAIN_WORDS {
            one_by_one();
        }
        i += 1;
    }
    finish(sum)
}

/// Words of an IPv6 key. What is longer lies in memory and not in registers, and stays there.
const PLAIN_WORDS: usize = 6;

/// A bijection with full avalanche.
#[inline(always)]
fn finish(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The bits of a hash that are kept in the control word.
#[inline(always)]
#[must_use]
pub fn fingerprint(hash: u64) -> u32 {
    (hash >> 32) as u32
}

/// The bits of a hash that choose the bucket.
#[inline(always)]
#[must_use]
pub fn bucket(hash: u64, mask: u32) -> u32 {
    hash as u32 & mask
}

/// The bits of a hash that choose the bucket in the wide table, which has fewer: those whose
/// buckets in the others lie side by side.
#[inline(always)]
#[must_use]
pub fn wide_bucket(hash: u64, mask: u32, shift: u32) -> u32 {
    bucket(hash, mask) >> shift
}

/// The way that a flow of this fingerprint is put into if it is free.
#[inline(always)]
#[must_use]
pub fn preferred_way(fingerprint: u32) -> usize {
    fingerprint as usize & (WAYS - 1)
}
