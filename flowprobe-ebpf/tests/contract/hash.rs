//! The keyed hash: avalanche, spread, and dependence on its secret.

use flowprobe_ebpf::{
    hash::{SECRET_WORDS, bucket, fingerprint, hash, preferred_way, wide_bucket},
    key::MAX_WORDS,
};

use crate::random;

fn secret(seed: u64) -> [u64; SECRET_WORDS] {
    let mut random = random(seed);
    core::array::from_fn(|_| random())
}

/// Largest deviation from 1/2 of the chance that one bit of the key flips one bit of the hash.
fn avalanche<const N: usize>(mut key: impl FnMut() -> [u64; N], keys: u32) -> f64 {
    let secret = secret(1);
    let mut flips = vec![[0_u32; 64]; N * 64];
    for _ in 0..keys {
        let key = key();
        let before = hash(&key, &secret);
        for (bit, flips) in flips.iter_mut().enumerate() {
            let mut changed = key;
            changed[bit / 64] ^= 1 << (bit % 64);
            let difference = before ^ hash(&changed, &secret);
            for (output, flips) in flips.iter_mut().enumerate() {
                *flips += (difference >> output) as u32 & 1;
            }
        }
    }
    let deviations = flips.iter().flatten();
    deviations
        .map(|flips| (f64::from(*flips) / f64::from(keys) - 0.5).abs())
        .fold(0.0, f64::max)
}

/// 1,024 keys: the standard deviation of each of up to 61,440 chances is 1/64; six of them.
const KEYS: u32 = 1024;
const BOUND: f64 = 6.0 / 64.0;

#[test]
fn every_bit_of_a_random_key_flips_every_bit_of_the_hash_half_the_time() {
    let mut random4 = random(2);
    let v4 = avalanche::<3>(|| core::array::from_fn(|_| random4()), KEYS);
    assert!(v4 < BOUND, "IPv4: {v4}");
    let mut random6 = random(3);
    let v6 = avalanche::<6>(|| core::array::from_fn(|_| random6()), KEYS);
    assert!(v6 < BOUND, "IPv6: {v6}");
    let mut random15 = random(11);
    let wide = avalanche::<MAX_WORDS>(|| core::array::from_fn(|_| random15()), KEYS);
    assert!(wide < BOUND, "wide: {wide}");
}

/// A flow's buckets in all tables are in one range, so that a sweep step sees all of its parts.
#[test]
fn wide_buckets_lie_where_the_others_do() {
    let mut random = random(12);
    for _ in 0..1000 {
        let hash = random();
        let narrow = bucket(hash, 1023);
        assert_eq!(wide_bucket(hash, 1023, 2), narrow / 4);
        assert_eq!(wide_bucket(hash, 0, 0), 0);
    }
}

/// Keys as they are: few bits set, and one after the other.
#[test]
fn every_bit_of_a_plain_key_flips_every_bit_of_the_hash_half_the_time() {
    let mut n = 0;
    let plain = avalanche::<3>(
        || {
            n += 1;
            [0x0200_0a0a_0100_0a0a + n, 17 << 32, 1]
        },
        KEYS,
    );
    assert!(plain < BOUND, "{plain}");
}

/// χ² of counts against equal ones, in standard deviations from its mean.
fn unevenness(counts: &[u32]) -> f64 {
    let total: u32 = counts.iter().sum();
    let expected = f64::from(total) / counts.len() as f64;
    let chi2: f64 = counts
        .iter()
        .map(|count| (f64::from(*count) - expected).powi(2) / expected)
        .sum();
    let freedom = counts.len() as f64 - 1.0;
    (chi2 - freedom) / (2.0 * freedom).sqrt()
}

/// Sequences that a network has: keys one step apart in an address, in a port, in the interface.
fn sequences() -> impl Iterator<Item = (&'static str, Vec<[u64; 3]>)> {
    let step = |f: fn(u64) -> [u64; 3]| (0..1 << 16).map(f).collect::<Vec<_>>();
    [
        (
            "addresses",
            step(|n| [0x0100_000a | n.swap_bytes(), 17 << 32 | 0x3500_d204, 3]),
        ),
        ("ports", step(|n| [0x0100_000a_0200_000a, 6 << 32 | n, 3])),
        (
            "both ports",
            step(|n| [0x0100_000a_0200_000a, 6 << 32 | n | n << 16, 3]),
        ),
        ("epochs", step(|n| [7, 17 << 32, 3 | n << 32])),
    ]
    .into_iter()
}

#[test]
fn keys_in_sequence_spread_evenly_over_buckets_ways_and_fingerprints() {
    const BUCKETS: u32 = 1024;
    for (name, keys) in sequences() {
        let secret = secret(4);
        let mut buckets = vec![0; BUCKETS as usize];
        let mut fingerprints = vec![0; 1024];
        // Within a bucket the ways must be even too, and fingerprints over both.
        let mut ways = vec![0; 32 * 8];
        for key in &keys {
            let hash = hash(key, &secret);
            let bucket = bucket(hash, BUCKETS - 1);
            buckets[bucket as usize] += 1;
            fingerprints[(fingerprint(hash) % 32) as usize * 32 + (bucket % 32) as usize] += 1;
            ways[preferred_way(fingerprint(hash)) * 32 + (bucket % 32) as usize] += 1;
        }
        for (what, counts) in [
            ("buckets", &buckets),
            ("fingerprints by bucket", &fingerprints),
            ("ways by bucket", &ways),
        ] {
            let unevenness = unevenness(counts);
            assert!(unevenness.abs() < 6.0, "{what} of {name}: {unevenness}");
        }
    }
}

/// Sixty-five thousand keys, 2³² fingerprints: half a pair is expected to agree.
#[test]
fn fingerprints_of_different_keys_differ() {
    for (name, keys) in sequences() {
        let secret = secret(5);
        let mut all: Vec<u32> = keys
            .iter()
            .map(|key| fingerprint(hash(key, &secret)))
            .collect();
        all.sort_unstable();
        all.dedup();
        assert!(keys.len() - all.len() <= 5, "{name}");
    }
}

#[test]
fn another_secret_is_another_placement() {
    const BUCKETS: u32 = 1024;
    for (name, keys) in sequences() {
        let (one, other) = (secret(6), secret(7));
        let place = |key, secret| bucket(hash(key, secret), BUCKETS - 1);
        let same = keys
            .iter()
            .filter(|key| place(key, &one) == place(key, &other));
        // 64 expected, with a standard deviation of 8.
        let same = same.count();
        assert!((16..112).contains(&same), "{name}: {same}");
    }
}

/// Keys of one bucket under one secret are of many under another: a bucket cannot be aimed at.
#[test]
fn keys_aimed_at_a_bucket_scatter_under_another_secret() {
    let (known, real) = (secret(8), secret(9));
    for (name, keys) in sequences() {
        let aimed = keys
            .iter()
            .filter(|key| bucket(hash(key, &known), 255) == 0);
        let mut counts = vec![0_u32; 16];
        for key in aimed {
            counts[bucket(hash(key, &real), 15) as usize] += 1;
        }
        let unevenness = unevenness(&counts);
        assert!(unevenness.abs() < 6.0, "{name}: {unevenness}");
    }
}

#[test]
fn every_word_of_the_secret_counts() {
    let key = [0x0123_4567_89ab_cdef; MAX_WORDS];
    let secret = secret(10);
    for word in 0..SECRET_WORDS {
        for bit in 0..64 {
            let mut changed = secret;
            changed[word] ^= 1 << bit;
            assert_ne!(hash(&key, &secret), hash(&key, &changed), "{word}:{bit}");
        }
    }
}
