//! The sampling that a user asks for, and what the kernel half needs to know of it.

mod filter;
mod key;
mod rated;
pub mod rates;

use std::{fmt, num::NonZeroU32, str::FromStr};

use flowprobe_ebpf::sampling::{
    MAX_POPULATION, METHOD_COUNT, METHOD_FLOW, METHOD_HASH, METHOD_N_OF_N, METHOD_RANDOM,
    METHOD_TIME, Period, Word, gap_scale_unit,
};

pub use self::{
    filter::{Filter, FilterError, NetMatch, Observed, PortMatch, Side},
    key::{SampleKey, SampleKeyError},
    rated::{ClassesError, MAX_FILTERS, Rate, Rated, RatedError, classes},
    rates::Rates,
};

/// What a sampler did while it had one rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Selection {
    /// Packets that it was asked about (IE 318, selectorIdTotalPktsObserved).
    pub observed: u64,
    /// Packets that it selected (IE 319, selectorIdTotalPktsSelected). What it skipped is 318 − 319,
    /// never ignored.
    pub selected: u64,
}

/// How packets are selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sampling {
    /// Every packet.
    All,
    /// Systematic count-based: every n-th packet, from a random phase on each CPU.
    Count(NonZeroU32),
    /// Uniform probabilistic: each packet with probability 1/n, independently.
    Random(NonZeroU32),
    /// Random n-out-of-N: `size` of each `population` packets of a CPU, a multiple of it.
    NOfN {
        /// Packets selected.
        size: NonZeroU32,
        /// Of so many.
        population: NonZeroU32,
    },
    /// Systematic time-based: all packets for a time, then none for a multiple of it, from a random
    /// phase.
    Time {
        /// Microseconds.
        on_us: NonZeroU32,
        /// Microseconds, a multiple.
        off_us: NonZeroU32,
    },
    /// One packet in n by a hash of its content: the same ones on every sensor with the same key.
    Hash(NonZeroU32),
    /// One flow in n by a hash of its key, with all of its packets.
    Flow(NonZeroU32),
}

/// How collectors are told the rate, beside samplingInterval in each record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// samplingInterval in options, and then the selector report.
    #[default]
    Default,
    /// The selector report alone.
    Psamp,
    /// samplingInterval with samplingAlgorithm in options, as in NetFlow v9.
    Legacy,
    /// A sampler's identifier, mode and interval in options.
    Sampler,
}

/// Largest N of random sampling. A gap is cut off at 2³² − 1 packets, which at this N one in
/// e¹⁶ (nine million) would exceed, and the rate is off by that much; at 2³² one in three would.
pub const MAX_RANDOM_N: u32 = 1 << 28;

/// Largest N of sampling by a hash. The selected hash values are 2³² / N, rounded down, so that the
/// share is 1/N to one part in 2³² / N: at this N to one in 256.
pub const MAX_HASH_N: u32 = 1 << 24;

/// Methods as they are written, before the colon.
const METHODS: [&str; 6] = ["count", "random", "nofn", "time", "hash", "flow"];

/// Why a sampling rate does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SamplingError {
    /// Not of the form.
    #[error(
        "sampling is written 1/N, random:1/N, nofn:n/N, time:ON/OFF (microseconds), hash:1/N or \
         flow:1/N, for example 1/100"
    )]
    Form,
    /// What stands before the colon.
    #[error(
        "no sampling method is called {0:?}{1}; the methods are {list}",
        list = METHODS.join(", ")
    )]
    Method(String, Nearest),
    /// 1/0.
    #[error("a sampling rate of 1/0 would select nothing: N must be at least 1")]
    Zero,
    /// Random gaps are drawn as 32 bits.
    #[error("random:1/{0} is too rare: N must be at most {MAX_RANDOM_N}, or write 1/{0}")]
    TooRare(u32),
    /// A hash range of 0, or none of n.
    #[error("{0}:{1}/{2} would select nothing: its range of hash values is empty; write {0}:1/N")]
    EmptyRange(&'static str, u32, u32),
    /// Hash values are 32 bits.
    #[error("{0}:1/{1} is too rare: N must be at most {MAX_HASH_N}")]
    TooRareHash(&'static str, u32),
    /// Not 1 in n.
    #[error("only rates of one in N are supported: write 1/N, or nofn:n/N for n of each N packets")]
    Numerator,
    /// n = 0 or N = 0.
    #[error("nofn:{0}/{1} would select nothing: both numbers must be at least 1")]
    Nothing(u32, u32),
    /// n > N.
    #[error("nofn:{0}/{1} selects more packets than there are: n must be at most N")]
    TooMany(u32, u32),
    /// N / n is no whole number.
    #[error(
        "nofn:{0}/{1} is no rate of one in a whole number, and collectors know no other: make N a \
         multiple of n"
    )]
    Uneven(u32, u32),
    /// Places are drawn in windows of limited length.
    #[error("nofn:{0}/{1}: N must be at most {MAX_POPULATION}")]
    TooWide(u32, u32),
    /// No time on.
    #[error("time:0/{0} would select nothing: the first number is the microseconds to select in")]
    NeverOn(u32),
    /// The share of time is not one in a whole number.
    #[error(
        "time:{0}/{1} is no rate of one in a whole number, and collectors know no other: make the \
         time off a multiple of the time on"
    )]
    UnevenTime(u32, u32),
    /// Microseconds of a period are kept in 32 bits.
    #[error("time:{0}/{1} has a period of more than {max} us", max = u32::MAX)]
    TooLong(u32, u32),
}

/// What was probably meant, as the end of a message: `: did you mean "random"?`, or nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Nearest(Option<&'static str>);

impl Nearest {
    /// At most so many letters are wrong, missing, too many or swapped with the next.
    const FAR: usize = 2;

    fn of(method: &str) -> Self {
        let near = METHODS
            .map(|known| (strsim::damerau_levenshtein(method, known), known))
            .into_iter()
            .min()
            .filter(|&(distance, known)| distance <= Self::FAR && distance < known.len());
        Self(near.map(|(_, known)| known))
    }
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, ": did you mean {name:?}?"),
            None => Ok(()),
        }
    }
}

impl Sampling {
    /// One packet in n is metered; 1 without sampling.
    #[must_use]
    pub fn n(self) -> u32 {
        match self {
            Self::All => 1,
            Self::Count(n) | Self::Random(n) | Self::Hash(n) | Self::Flow(n) => n.get(),
            Self::NOfN { size, population } => population.get() / size,
            Self::Time { on_us, off_us } => 1 + off_us.get() / on_us,
        }
    }

    /// What the method is called, on the command line and in summaries.
    #[must_use]
    pub fn method(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Count(_) => "count",
            Self::Random(_) => "random",
            Self::NOfN { .. } => "nofn",
            Self::Time { .. } => "time",
            Self::Hash(_) => "hash",
            Self::Flow(_) => "flow",
        }
    }

    /// Whether chance selects, in the two words that samplingAlgorithm (IE 35) and samplerMode (IE
    /// 49) have for all methods: 1 deterministic, 2 random.
    #[must_use]
    pub fn mode(self) -> u8 {
        match self {
            Self::All | Self::Count(_) | Self::Time { .. } | Self::Hash(_) | Self::Flow(_) => 1,
            Self::Random(_) | Self::NOfN { .. } => 2,
        }
    }

    /// Whether a packet has to be parsed before it can be told whether it is selected.
    #[must_use]
    pub fn asks_for_packet(self) -> bool {
        matches!(self, Self::Hash(_) | Self::Flow(_))
    }

    /// The control word of the kernel half.
    #[must_use]
    pub fn word(self, epoch: u32) -> Word {
        let method = match self {
            Self::All => 0,
            Self::Count(_) => METHOD_COUNT,
            Self::Random(_) => METHOD_RANDOM,
            Self::NOfN { .. } => METHOD_N_OF_N,
            Self::Time { .. } => METHOD_TIME,
            Self::Hash(_) => METHOD_HASH,
            Self::Flow(_) => METHOD_FLOW,
        };
        Word::new(epoch, method, self.n())
    }

    /// What the kernel half must know beside n.
    #[must_use]
    pub fn parameter(self) -> u64 {
        match self {
            Self::All | Self::Count(_) => 0,
            Self::Random(_) => self.gap_scale(),
            Self::NOfN { size, population } => {
                u64::from(population.get()) << 32 | u64::from(size.get())
            }
            Self::Time { on_us, off_us } => Period {
                on_us: on_us.get(),
                period_us: on_us.get() + off_us.get(),
            }
            .to_word(),
            Self::Hash(n) | Self::Flow(n) => hash_range(n).into(),
        }
    }

    /// The scale of random gaps: 2¹⁶ / −log₂(1 − 1/n), 0 where every packet is selected.
    #[must_use]
    pub fn gap_scale(self) -> u64 {
        gap_scale(1.0 / f64::from(self.n()))
    }
}

/// The largest hash of 32 bits that is selected where one in n is (IE 332, hashSelectedRangeMax). So
/// the share is 1/n but for one part in 2³²/n.
#[must_use]
pub fn hash_range(n: NonZeroU32) -> u32 {
    ((1 << 32) / u64::from(n.get()) - 1) as u32
}

/// The scale of random gaps where this share of the packets is selected; see
/// [`Sampling::gap_scale`].
pub(crate) fn gap_scale(share: f64) -> u64 {
    // −log₂(1 − share), without cancellation for small shares; without end for all packets.
    let octaves = -(-share).ln_1p() / std::f64::consts::LN_2;
    let unit = f64::from(gap_scale_unit()).exp2();
    (unit / octaves).round() as u64
}

impl FromStr for Sampling {
    type Err = SamplingError;

    fn from_str(text: &str) -> Result<Self, SamplingError> {
        let (method, rate) = text.split_once(':').unwrap_or(("count", text));
        // `1:100` is no method but another way to write a rate.
        if !method.starts_with(char::is_alphabetic) {
            return Err(SamplingError::Form);
        }
        if !METHODS.contains(&method) {
            return Err(SamplingError::Method(
                method.to_owned(),
                Nearest::of(method),
            ));
        }
        let (first, second) = rate.split_once('/').ok_or(SamplingError::Form)?;
        let number = |text: &str| text.parse::<u32>().map_err(|_| SamplingError::Form);
        let (first, second) = (number(first)?, number(second)?);
        match method {
            "count" => Self::one_in(first, second, Self::Count),
            "random" if second > MAX_RANDOM_N => Err(SamplingError::TooRare(second)),
            "random" => Self::one_in(first, second, Self::Random),
            "nofn" => Self::n_of_n(first, second),
            "time" => Self::time(first, second),
            "hash" => Self::by_hash("hash", first, second, Self::Hash),
            "flow" => Self::by_hash("flow", first, second, Self::Flow),
            _ => unreachable!("{method} is one of METHODS"),
        }
    }
}

impl Sampling {
    fn one_in(one: u32, n: u32, method: fn(NonZeroU32) -> Self) -> Result<Self, SamplingError> {
        if one != 1 {
            return Err(SamplingError::Numerator);
        }
        let n = NonZeroU32::new(n).ok_or(SamplingError::Zero)?;
        Ok(if n == NonZeroU32::MIN {
            Self::All
        } else {
            method(n)
        })
    }

    fn by_hash(
        name: &'static str,
        one: u32,
        n: u32,
        method: fn(NonZeroU32) -> Self,
    ) -> Result<Self, SamplingError> {
        match (one, n) {
            (0, _) | (_, 0) => Err(SamplingError::EmptyRange(name, one, n)),
            (1, n) if n > MAX_HASH_N => Err(SamplingError::TooRareHash(name, n)),
            _ => Self::one_in(one, n, method),
        }
    }

    fn n_of_n(n: u32, of: u32) -> Result<Self, SamplingError> {
        let (Some(size), Some(population)) = (NonZeroU32::new(n), NonZeroU32::new(of)) else {
            return Err(SamplingError::Nothing(n, of));
        };
        if n > of {
            return Err(SamplingError::TooMany(n, of));
        }
        if of > MAX_POPULATION {
            return Err(SamplingError::TooWide(n, of));
        }
        match (of % size, of / size) {
            (0, 1) => Ok(Self::All),
            (0, _) => Ok(Self::NOfN { size, population }),
            _ => Err(SamplingError::Uneven(n, of)),
        }
    }

    fn time(on: u32, off: u32) -> Result<Self, SamplingError> {
        let on_us = NonZeroU32::new(on).ok_or(SamplingError::NeverOn(off))?;
        let Some(off_us) = NonZeroU32::new(off) else {
            return Ok(Self::All);
        };
        if on.checked_add(off).is_none() {
            return Err(SamplingError::TooLong(on, off));
        }
        if off % on_us != 0 {
            return Err(SamplingError::UnevenTime(on, off));
        }
        Ok(Self::Time { on_us, off_us })
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => write!(f, "1/1"),
            Self::Count(n) => write!(f, "1/{n}"),
            Self::Random(n) => write!(f, "random:1/{n}"),
            Self::NOfN { size, population } => write!(f, "nofn:{size}/{population}"),
            Self::Time { on_us, off_us } => write!(f, "time:{on_us}/{off_us}"),
            Self::Hash(n) => write!(f, "hash:1/{n}"),
            Self::Flow(n) => write!(f, "flow:1/{n}"),
        }
    }
}
