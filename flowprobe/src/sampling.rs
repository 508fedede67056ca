//! The sampling that a user asks for, and what the kernel half needs to know of it.

use std::{fmt, num::NonZeroU32, str::FromStr};

use flowprobe_ebpf::sampling::{METHOD_COUNT, METHOD_RANDOM, Word, gap_scale_unit};

/// How packets are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Every packet.
    All,
    /// Systematic count-based: every n-th packet, from a random phase on each CPU.
    Count(NonZeroU32),
    /// Uniform probabilistic: each packet with probability 1/n, independently.
    Random(NonZeroU32),
}

/// Largest N of random sampling. A gap is cut off at 2³² − 1 packets, which at this N one in
/// e¹⁶ (nine million) would exceed, and the rate is off by that much; at 2³² one in three would.
pub const MAX_RANDOM_N: u32 = 1 << 28;

/// Why a sampling rate does not parse.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// Not of the form.
    #[error("a sampling rate is written 1/N or random:1/N, for example 1/100")]
    Form,
    /// 1/0.
    #[error("a sampling rate of 1/0 would select nothing: N must be at least 1")]
    Zero,
    /// Random gaps are drawn as 32 bits.
    #[error("random:1/{0} is too rare: N must be at most {MAX_RANDOM_N}, or write 1/{0}")]
    TooRare(u32),
    /// Not 1 in n.
    #[error("only rates of one in N are supported: write 1/N")]
    Numerator,
}

impl Sampling {
    /// One packet in n is metered; 1 without sampling.
    #[must_use]
    pub fn n(self) -> u32 {
        match self {
            Self::All => 1,
            Self::Count(n) | Self::Random(n) => n.get(),
        }
    }

    /// The control word of the kernel half.
    #[must_use]
    pub fn word(self, epoch: u32) -> Word {
        match self {
            Self::All => Word::new(epoch, 0, 1),
            Self::Count(n) => Word::new(epoch, METHOD_COUNT, n.get()),
            Self::Random(n) => Word::new(epoch, METHOD_RANDOM, n.get()),
        }
    }

    /// The scale of random gaps: 2¹⁶ / −log₂(1 − 1/n), 0 where every packet is selected.
    #[must_use]
    pub fn gap_scale(self) -> u64 {
        let n = f64::from(self.n());
        if n < 2.0 {
            return 0;
        }
        // −log₂(1 − 1/n), without cancellation for large n.
        let octaves = -(-1.0 / n).ln_1p() / std::f64::consts::LN_2;
        let unit = f64::from(gap_scale_unit()).exp2();
        (unit / octaves).round() as u64
    }
}

impl FromStr for Sampling {
    type Err = SamplingError;

    fn from_str(text: &str) -> Result<Self, SamplingError> {
        let (random, rate) = match text.strip_prefix("random:") {
            Some(rate) => (true, rate),
            None => (false, text),
        };
        let (one, n) = rate.split_once('/').ok_or(SamplingError::Form)?;
        let one: u32 = one.parse().map_err(|_| SamplingError::Form)?;
        let n: u32 = n.parse().map_err(|_| SamplingError::Form)?;
        if one != 1 {
            return Err(SamplingError::Numerator);
        }
        let n = NonZeroU32::new(n).ok_or(SamplingError::Zero)?;
        Ok(match (n.get(), random) {
            (1, _) => Self::All,
            (_, false) => Self::Count(n),
            (n, true) if n > MAX_RANDOM_N => return Err(SamplingError::TooRare(n)),
            (_, true) => Self::Random(n),
        })
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "1/1"),
            Self::Count(n) => write!(f, "1/{n}"),
            Self::Random(n) => write!(f, "random:1/{n}"),
        }
    }
}
