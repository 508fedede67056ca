//! The logarithm that gaps of random sampling are made of.

use flowprobe_ebpf::sampling::{Word, minus_log2, next_random};

use crate::random;

/// Absolute error, in octaves, that the documentation promises.
const BOUND: f64 = 3e-6;

fn error(u: u64) -> f64 {
    let exact = 64.0 - (u as f64).log2();
    (minus_log2(u) as f64 / f64::from(32).exp2() - exact).abs()
}

/// Every step of the table at its ends and in its middle, in every octave.
#[test]
fn the_logarithm_is_as_exact_as_it_says() {
    let mut worst = 0.0_f64;
    for octave in 8..63 {
        for step in 0..256 {
            let start = (256 + step) << (octave - 8);
            let len = 1_u64 << (octave - 8);
            for u in [start, start + len / 2, start + len - 1] {
                worst = worst.max(error(u | 1));
            }
        }
    }
    let mut random = random(1);
    for _ in 0..1_000_000 {
        worst = worst.max(error(random() | 1));
    }
    assert!(worst < BOUND, "{worst} octaves");
    assert!(worst > BOUND / 10.0, "the promise is too modest: {worst}");
}

#[test]
fn the_ends_of_the_logarithm() {
    assert_eq!(minus_log2(0), 64 << 32);
    assert_eq!(minus_log2(1), 64 << 32);
    assert_eq!(minus_log2(1 << 63), 1 << 32);
    assert!(minus_log2(u64::MAX) < 1 << 12, "{}", minus_log2(u64::MAX));
}

#[test]
fn the_logarithm_never_rises() {
    let mut random = random(2);
    let mut all: Vec<u64> = (0..200_000).map(|_| random() >> (random() & 63)).collect();
    all.sort_unstable();
    for pair in all.windows(2) {
        assert!(minus_log2(pair[0]) >= minus_log2(pair[1]), "{pair:x?}");
    }
}

/// SplitMix64's published first output for seed 0 (Steele, Lea and Flood, 2014; Vigna's code).
#[test]
fn the_generator_is_splitmix64() {
    let mut state = 0;
    assert_eq!(next_random(&mut state), 0xe220_a839_7b1d_cdaf);
    assert_eq!(next_random(&mut state), 0x6e78_9e6a_a1b9_65f4);
}

#[test]
fn a_sampling_word_reads_back() {
    for (epoch, method, n) in [(0, 0, 1), (0xff_ffff, 255, u32::MAX), (5, 2, 100)] {
        let word = Word::new(epoch, method, n);
        assert_eq!((word.epoch(), word.method(), word.n()), (epoch, method, n));
    }
    // Epochs are counted modulo 2²⁴.
    assert_eq!(Word::new(Word::MAX_EPOCH + 6, 1, 7), Word::new(5, 1, 7));
}
