//! The arithmetic of packet sampling (RFC 5475), shared by the program and its tests.

/// Systematic count-based sampling, 1 in n (RFC 5475 §5.1).
pub const METHOD_COUNT: u8 = 1;
/// Uniform probabilistic sampling with probability 1/n (RFC 5475 §5.2.2.1).
pub const METHOD_RANDOM: u8 = 2;
/// Random n-out-of-N sampling (RFC 5475 §5.2.1).
pub const METHOD_N_OF_N: u8 = 3;
/// Systematic time-based sampling (RFC 5475 §5.1).
pub const METHOD_TIME: u8 = 4;
/// Hash-based selection on packet content (RFC 5475 §6.2): see [`crate::content`].
pub const METHOD_HASH: u8 = 5;
/// Selection of whole flows by a hash of their key (RFC 7014 §5): see [`crate::content::flow`].
pub const METHOD_FLOW: u8 = 6;

/// Classes that may have a rate of their own, the rest among them.
pub const MAX_CLASSES: u32 = 32;
/// The class of what is sampled beside the metering of everything.
pub const SHADOW_CLASS: u8 = 0xff;

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

/// What a packet was sampled as: `class (8) · epoch (24)`. It is part of the flow key, so that a
/// record belongs to exactly one rate.
///
/// Class 0 is what no filter names; a class is an observation domain of its own. The epoch counts
/// the rates that a class has had.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(transparent)]
pub struct Sampled(pub u32);

impl Sampled {
    /// Class and epoch; the epoch is taken modulo 2²⁴.
    #[inline(always)]
    #[must_use]
    pub fn new(class: u8, epoch: u32) -> Self {
        Self(u32::from(class) << 24 | epoch & Word::MAX_EPOCH)
    }

    /// The class.
    #[inline(always)]
    #[must_use]
    pub fn class(self) -> u8 {
        (self.0 >> 24) as u8
    }

    /// The epoch.
    #[inline(always)]
    #[must_use]
    pub fn epoch(self) -> u32 {
        self.0 & Word::MAX_EPOCH
    }
}

/// The sampler of one class on one CPU. Only the program on that CPU writes it while it runs, but for
/// [`Sampler::sampling`] and the parameter of an epoch to come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Sampler {
    /// How to sample; see [`Word`]. Userspace sets it.
    pub sampling: u64,
    /// The word that the program goes by. Where it is not `sampling`, an epoch has begun.
    pub current: u64,
    /// Packets that are skipped before the next one is selected.
    pub skip_left: u32,
    /// What selected packets are sampled as: class and epoch. Userspace sets the class.
    pub sampled: Sampled,
    /// State of the random number generator. Userspace seeds it.
    pub random: u64,
    /// Where the method is: a [`Window`], or the tick until which packets are certainly not
    /// selected.
    pub progress: u64,
    /// What the method must know beside n, of even and of odd epochs: the scale of random gaps (see
    /// [`geometric_gap`]), N and n in its halves, a [`Period`], or the largest hash that is
    /// selected. Userspace sets it before the word.
    pub parameters: [u64; 2],
    /// Packets that the sampler was asked about. Not kept where one sampler is asked about all:
    /// there it is `seen`.
    pub observed: u64,
    /// Those that it skipped; there it is `unsampled`.
    pub skipped: u64,
    /// Where the last even and the last odd epoch began.
    pub starts: [Start; 2],
    /// Zero; two cache lines in all.
    pub pad: u64,
}

const _: () = assert!(size_of::<Sampler>() == 128);

/// Where the count of a sampler stood when an epoch began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Start {
    /// The epoch, plus 1; 0 before the first.
    pub epoch: u64,
    /// See [`Sampler::observed`].
    pub observed: u64,
    /// See [`Sampler::skipped`].
    pub skipped: u64,
}

impl Sampler {
    /// What [`Sampler::current`] is before the first packet: no word is.
    pub const NO_WORD: u64 = u64::MAX;

    /// Which half of what is kept twice an epoch has.
    #[inline(always)]
    #[must_use]
    pub fn half(word: Word) -> usize {
        (word.epoch() & 1) as usize
    }

    /// Begins the epoch of `word`, whose parameter is given, with so many packets observed and
    /// skipped before it, from a phase of its own.
    #[inline(always)]
    pub fn turn(&mut self, word: Word, parameter: u64, observed: u64, skipped: u64) {
        self.current = word.0;
        self.sampled = Sampled::new(self.sampled.class(), word.epoch());
        self.starts[Self::half(word)] = Start {
            epoch: u64::from(word.epoch()) + 1,
            observed,
            skipped,
        };
        self.progress = 0;
        self.skip_left = match word.method() {
            METHOD_COUNT => {
                let random = next_random(&mut self.random) >> 32;
                ((random * u64::from(word.n())) >> 32) as u32
            }
            METHOD_RANDOM => {
                let random = next_random(&mut self.random);
                geometric_gap(random, parameter)
            }
            _ => 0,
        };
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

/// Largest N of random n-out-of-N sampling: a place in so many is drawn from 40 random bits, so that
/// no place is likelier than another by more than one in 2¹⁶.
pub const MAX_POPULATION: u32 = 1 << 24;

/// Random n-out-of-N sampling: where a CPU is in its window of N packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Window {
    /// Packets of the window that have not come yet; 0 before the first window.
    pub left: u32,
    /// How many of them are to be selected. [`Window::SURE`]: the next one is the only one.
    pub wanted: u32,
}

/// What becomes of a packet, and of those behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drawn {
    /// Whether the packet is selected.
    pub selected: bool,
    /// Packets behind it that are not.
    pub skip: u32,
}

impl Window {
    /// In place of `wanted`.
    pub const SURE: u32 = u32::MAX;

    /// The window that a word of memory stands for.
    #[inline(always)]
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self {
            left: (word >> 32) as u32,
            wanted: word as u32,
        }
    }

    /// As one word of memory.
    #[inline(always)]
    #[must_use]
    pub fn to_word(self) -> u64 {
        u64::from(self.left) << 32 | u64::from(self.wanted)
    }

    /// Decides about the next packet, where `size` packets of each `population` are selected, each
    /// set of so many with the same chance.
    ///
    /// Packet by packet, with the chance that is left of it (Knuth, The Art of Computer Programming
    /// 2, §3.4.2, algorithm S). The last one of a window, which often is the only one, is drawn at
    /// once, so that no other packet takes a random number.
    #[inline(always)]
    pub fn draw(&mut self, size: u32, population: u32, random: &mut u64) -> Drawn {
        if self.left == 0 {
            self.left = population;
            self.wanted = size;
        }
        if self.wanted == Self::SURE {
            return self.close();
        }
        let place = (((next_random(random) >> 24) * u64::from(self.left)) >> 40) as u32;
        if self.wanted == 1 {
            if place == 0 {
                return self.close();
            }
            self.left -= place;
            self.wanted = Self::SURE;
            return Drawn {
                selected: false,
                skip: place - 1,
            };
        }
        let selected = place < self.wanted;
        self.left -= 1;
        self.wanted -= u32::from(selected);
        Drawn { selected, skip: 0 }
    }

    /// Selects the last packet that is wanted.
    #[inline(always)]
    fn close(&mut self) -> Drawn {
        let skip = self.left - 1;
        self.left = 0;
        Drawn {
            selected: true,
            skip,
        }
    }
}

/// Systematic time-based sampling: microseconds `on`, in which each packet is selected, and of a
/// whole period, on and off together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Period {
    /// Microseconds.
    pub on_us: u32,
    /// Microseconds.
    pub period_us: u32,
}

impl Period {
    /// The period that a word of memory stands for.
    #[inline(always)]
    #[must_use]
    pub fn from_word(word: u64) -> Self {
        Self {
            on_us: (word >> 32) as u32,
            period_us: word as u32,
        }
    }

    /// As one word of memory.
    #[inline(always)]
    #[must_use]
    pub fn to_word(self) -> u64 {
        u64::from(self.on_us) << 32 | u64::from(self.period_us)
    }

    /// Nanoseconds for which packets are still not selected at `at_ns`; 0 while they are.
    #[inline(always)]
    #[must_use]
    pub fn off_for_ns(self, at_ns: u64) -> u64 {
        const NS_PER_US: u64 = 1000;
        let period_ns = u64::from(self.period_us) * NS_PER_US;
        if period_ns == 0 {
            return 0;
        }
        let into_ns = at_ns % period_ns;
        if into_ns < u64::from(self.on_us) * NS_PER_US {
            0
        } else {
            period_ns - into_ns
        }
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
