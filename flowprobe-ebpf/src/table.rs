//! The flow table in shared memory: control words, ways, buckets.
//!
//! One table for IPv4 and one for IPv6, each an array map that userspace has mapped too. An
//! array has a partition per CPU, `buckets` long; a flow is in bucket `hash & (buckets − 1)` of
//! the partition of whichever CPU received it. The kernel half is the only writer of ways that
//! are not [`State::User`]; see ARCHITECTURE.md for the protocol.

use crate::{
    flow::{Counters, Macs, Marks},
    key::{Key, KeyV4, KeyV6},
    ring::family,
};

/// Flows in a bucket. Eight control words fill one cache line.
pub const WAYS: usize = 8;

/// Who may touch a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum State {
    /// Nobody's; the program may insert.
    Free = 0,
    /// A flow that the program counts into.
    Live = 1,
    /// A flow that the program is moving to the ring.
    Kernel = 2,
    /// A flow that userspace takes out, or will once a grace period has passed.
    User = 3,
}

/// `fingerprint (32) · state (2) · generation (30)`.
///
/// The generation changes each time a way is freed or reused, so that a compare-and-swap fails
/// on a way that has meanwhile become another flow's. A wrap takes 2³⁰ reuses of one way between
/// one load and its compare-and-swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(transparent)]
pub struct Control(pub u64);

impl Control {
    const GENERATION_BITS: u32 = 30;
    const GENERATION_MASK: u64 = (1 << Self::GENERATION_BITS) - 1;

    /// The value whose top bits a live way of this fingerprint has.
    #[inline(always)]
    #[must_use]
    pub fn live_tag(fingerprint: u32) -> u64 {
        u64::from(fingerprint) << 2 | State::Live as u64
    }

    /// Fingerprint and state, to compare with [`Control::live_tag`].
    #[inline(always)]
    #[must_use]
    pub fn tag(self) -> u64 {
        self.0 >> Self::GENERATION_BITS
    }

    /// The state.
    #[inline(always)]
    #[must_use]
    pub fn state(self) -> State {
        match self.tag() & 3 {
            0 => State::Free,
            1 => State::Live,
            2 => State::Kernel,
            _ => State::User,
        }
    }

    /// The fingerprint.
    #[inline(always)]
    #[must_use]
    pub fn fingerprint(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// The same way and generation in another state.
    #[inline(always)]
    #[must_use]
    pub fn with_state(self, state: State) -> Self {
        let cleared = self.0 & !(3 << Self::GENERATION_BITS);
        Self(cleared | (state as u64) << Self::GENERATION_BITS)
    }

    /// A live way of the next generation.
    #[inline(always)]
    #[must_use]
    pub fn next_live(self, fingerprint: u32) -> Self {
        Self(self.next_generation() | Self::live_tag(fingerprint) << Self::GENERATION_BITS)
    }

    /// A free way of the next generation.
    #[inline(always)]
    #[must_use]
    pub fn next_free(self) -> Self {
        Self(self.next_generation())
    }

    #[inline(always)]
    fn next_generation(self) -> u64 {
        (self.0 + 1) & Self::GENERATION_MASK
    }
}

/// One IPv4 flow: one cache line that every packet of it touches.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WayV4 {
    /// Key.
    pub key: KeyV4,
    /// Counts and times.
    pub counters: Counters,
    /// Flags and TTLs.
    pub marks: Marks,
}

/// One IPv6 flow: two cache lines.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WayV6 {
    /// Key.
    pub key: KeyV6,
    /// Counts and times.
    pub counters: Counters,
    /// Flags, hop limits, flow label.
    pub marks: Marks,
    /// Zero.
    pub pad: [u64; 5],
}

/// What the two kinds of way have in common.
pub trait Way {
    /// The key it holds.
    type Key: Key;
    /// See [`family`].
    const FAMILY: u32;

    /// Whether it holds the flow `key`.
    fn holds(&self, key: &Self::Key) -> bool;
    /// Stores every field: a way is never added to while it is being filled.
    fn fill(&mut self, key: &Self::Key, counters: Counters, marks: Marks);
    /// The key.
    fn key(&self) -> &Self::Key;
    /// Counts and times.
    fn counters(&self) -> &Counters;
    /// Counts and times, to add to.
    fn counters_mut(&mut self) -> &mut Counters;
    /// Flags, TTLs, label.
    fn marks(&self) -> &Marks;
    /// Flags, TTLs, label, to add to.
    fn marks_mut(&mut self) -> &mut Marks;
}

macro_rules! way {
    ($name:ident, $key:ident, $family:expr) => {
        impl Way for $name {
            type Key = $key;
            const FAMILY: u32 = $family;

            #[inline(always)]
            fn holds(&self, key: &$key) -> bool {
                self.key.same(key)
            }

            #[inline(always)]
            fn fill(&mut self, key: &$key, counters: Counters, marks: Marks) {
                self.key = *key;
                self.counters = counters;
                self.marks = marks;
            }

            #[inline(always)]
            fn key(&self) -> &$key {
                &self.key
            }

            #[inline(always)]
            fn counters(&self) -> &Counters {
                &self.counters
            }

            #[inline(always)]
            fn counters_mut(&mut self) -> &mut Counters {
                &mut self.counters
            }

            #[inline(always)]
            fn marks(&self) -> &Marks {
                &self.marks
            }

            #[inline(always)]
            fn marks_mut(&mut self) -> &mut Marks {
                &mut self.marks
            }
        }
    };
}

way!(WayV4, KeyV4, family::V4);
way!(WayV6, KeyV6, family::V6);

/// A bucket: the line of control words, the ways, and what only an insert writes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bucket<W> {
    /// Control words, see [`Control`].
    pub control: [u64; WAYS],
    /// Flows.
    pub ways: [W; WAYS],
    /// MAC addresses of the flows.
    pub macs: [Macs; WAYS],
}

/// A bucket of the IPv4 table, 704 octets.
pub type BucketV4 = Bucket<WayV4>;
/// A bucket of the IPv6 table, 1,216 octets.
pub type BucketV6 = Bucket<WayV6>;

const _: () = assert!(size_of::<WayV4>() == 64 && size_of::<WayV6>() == 128);
const _: () = assert!(size_of::<BucketV4>() == 11 * 64 && size_of::<BucketV6>() == 19 * 64);
