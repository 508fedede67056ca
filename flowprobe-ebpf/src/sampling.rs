//! The arithmetic of packet sampling (RFC 5475), shared by the program and its tests.

/// Systematic count-based sampling, 1 in n (RFC 5475 §5.1).
pub const METHOD_COUNT: u8 = 1;
/// Uniform probabilistic sampling with probability 1/n (RFC 5475 §5.2.2.1).
pub const METHOD_RANDOM: u8 = 2;

/// How to sample, in one word that is read at once: `epoch (24) · n (32) · method (8)`.
///
/// Method 0 selects every packet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Word(pub u64);

impl Word {
    /// Largest epoch.
    pub const MAX_EPOCH: u32 = (1 << 24) - 1;

    /// A word; `epoch` is taken modulo 2²⁴.
    #[must_use]
    pub fn new(epoch: u32, method: u8, n: u32) -> Self {
        let epoch = u64::from(epoch & Self::MAX_EPOCH);
        Self(epoch << 40 | u64::from(n) << 8 | u64::from(method))
    }

    /// The epoch, which is part of the flow key.
    #[inline(always)]
    #[must_use]
    pub fn epoch(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// The method; 0 selects everything.
    #[inline(always)]
    #[must_use]
    pub fn method(self) -> u8 {
        self.0 as u8
    }

    /// One packet in `n` is selected on average.
    #[inline(always)]
    #[must_use]
    pub fn n(self) -> u32 {
        (self.0 >> 8) as u32
    }
}

/// Octave fraction bits of the logarithm.
const LOG_BITS: u32 = 32;
/// Steps of the logarithm's table.
const LOG_STEPS: usize = 256;

/// log₂(1 + i/256) · 2³², for i = 0…256.
static LOG_TABLE: [u32; LOG_STEPS + 1] = log_table();

/// `-log₂(u / 2⁶⁴)` in units of 2⁻³², for a uniform 64-bit `u`; at most 64 · 2³².
///
/// Linear interpolation in 256 steps: the absolute error is below 3·10⁻⁶ octaves.
#[inline(always)]
#[must_use]
pub fn minus_log2(u: u64) -> u64 {
    let u = u | 1; // 0 has no logarithm; 2⁻⁶⁴ is as likely as any other value
    let zeros = u.leading_zeros();
    // The bits behind the leading one, left-aligned: u = 2^(63−zeros) · (1 + rest/2⁶⁴).
    let rest = (u << zeros) << 1;
    let step = (rest >> 56) as usize & (LOG_STEPS - 1);
    let within = (rest >> 24) as u32; // 32 bits below the step
    let low = u64::from(LOG_TABLE[step]);
    let high = if step + 1 == LOG_STEPS {
        1 << LOG_BITS
    } else {
        u64::from(LOG_TABLE[step + 1])
    };
    let log = low + (((high - low) * u64::from(within)) >> 32);
    ((u64::from(zeros) + 1) << LOG_BITS) - log
}

/// Fraction bits of the scale that turns [`minus_log2`] into a gap.
#[must_use]
pub const fn gap_scale_unit() -> u32 {
    16
}

/// Packets to skip before the next one, drawn from the geometric distribution of probability
/// 1/n: ⌊log u / log(1 − 1/n)⌋ for a uniform `u`.
///
/// `scale` is 2¹⁶ / −log₂(1 − 1/n), see `flowprobe::sampling`.
#[inline(always)]
#[must_use]
pub fn geometric_gap(u: u64, scale: u64) -> u32 {
    // 64·2³² · 2¹⁶/… overflows 64 bits for large n, so multiply in two halves.
    let log = minus_log2(u);
    let whole = (log >> 32) * scale;
    let fraction = log & 0xffff_ffff;
    let part = ((fraction * (scale >> 16)) >> 16) + ((fraction * (scale & 0xffff)) >> 32);
    let gap = (whole + part) >> 16;
    if gap > u64::from(u32::MAX) {
        u32::MAX
    } else {
        gap as u32
    }
}

/// The next number of SplitMix64, whose state userspace seeds.
#[inline(always)]
pub fn next_random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut x = *state;
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const fn log_table() -> [u32; LOG_STEPS + 1] {
    let mut table = [0; LOG_STEPS + 1];
    let mut i = 0;
    while i < LOG_STEPS {
        table[i] = fraction_log2(LOG_STEPS as u64 + i as u64);
        i += 1;
    }
    table
}

/// log₂(x / 256) · 2³² for 256 ≤ x < 512, bit by bit: squaring doubles the logarithm.
const fn fraction_log2(x: u64) -> u32 {
    let mut value = (x as u128) << (62 - 8); // 1 ≤ value / 2⁶² < 2
    let mut log = 0;
    let mut bit = 0;
    while bit < LOG_BITS {
        value = (value * value) >> 62;
        log <<= 1;
        if value >= 1 << 63 {
            value >>= 1;
            log |= 1;
        }
        bit += 1;
    }
    log
}
