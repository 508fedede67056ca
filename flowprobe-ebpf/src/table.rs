//! The flow table in shared memory: ways, their control words, buckets.
//!
//! One table for IPv4, one for IPv6 and one for flows with a wide key, each an array map that
//! userspace has mapped too. An array has a partition per CPU, `buckets` long; a flow is in bucket
//! `hash & (buckets − 1)` of the partition of whichever CPU received it (the wide table has fewer
//! buckets, see [`WIDE_SHIFT`]). Only the program on that CPU writes a partition,
//! but for the control words, which userspace changes too: from live to userspace's, and from
//! there to free. See ARCHITECTURE.md for the protocol.
//!
//! A packet of a known flow touches one cache line for IPv4 and two for IPv6: that of the way
//! which the hash prefers, with control word, key and counters. Where another flow is in that
//! way, the bucket's hints say which other way to look at.

use crate::{
    flow::{Counters, Macs, Marks, bits, first_bits},
    key::{Key, KeyV4, KeyV6, KeyWide},
    parse::Packet,
    ring::family,
    wire::tcp,
};

/// Flows in a bucket.
pub const WAYS: usize = 8;

/// The wide table has 2 to this power times fewer buckets than the others: few links have several
/// tags, labels or tunnels around their packets, and what finds no room lives on in userspace.
pub const WIDE_SHIFT: u32 = 2;

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

/// Bits of a way's packet counter: at 100 million packets a second a month has 2⁴⁸. The bits above
/// are 1 + the place of the flow's MAC addresses in the CPU's dictionary, or 0 where they are in
/// the [`Aside`]; so to add a packet does not change them.
pub const PACKET_BITS: u32 = 48;

/// Units of [`Span::last`], as a shift of nanoseconds: 2²⁰ ns, about a millisecond.
const LAST_SHIFT: u32 = 20;

/// First and last packet in 12 octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, packed(4))]
pub struct Span {
    /// First packet, nanoseconds of CLOCK_MONOTONIC.
    first_ns: u64,
    /// Last packet, in units of 2²⁰ ns after the first, up to 52 days.
    last: u32,
}

impl Span {
    /// Of a flow whose only packet came at `now_ns`.
    #[inline(always)]
    #[must_use]
    pub fn new(now_ns: u64) -> Self {
        Self {
            first_ns: now_ns,
            last: 0,
        }
    }

    /// Lasts until `now_ns` now.
    #[inline(always)]
    pub fn extend(&mut self, now_ns: u64) {
        self.last = ((now_ns - self.first_ns) >> LAST_SHIFT) as u32;
    }

    /// First packet, nanoseconds of CLOCK_MONOTONIC.
    #[inline(always)]
    #[must_use]
    pub fn first_ns(self) -> u64 {
        self.first_ns
    }

    /// Last packet, nanoseconds of CLOCK_MONOTONIC, at most 2²⁰ ns too early.
    #[inline(always)]
    #[must_use]
    pub fn last_ns(self) -> u64 {
        self.first_ns + (u64::from(self.last) << LAST_SHIFT)
    }
}

/// One IPv4 flow: one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WayV4 {
    /// See [`Control`].
    pub control: u64,
    /// Key.
    pub key: KeyV4,
    /// IP-layer octets.
    pub octets: u64,
    /// Packets, and above them the number of the MAC addresses; see [`PACKET_BITS`].
    pub packets: u64,
    /// First and last packet.
    pub span: Span,
    /// All TCP control bits seen.
    pub tcp_flags: u8,
    /// See [`crate::flow::bits`].
    pub bits: u8,
    /// Smallest TTL.
    pub min_ttl: u8,
    /// Largest TTL.
    pub max_ttl: u8,
}

/// One IPv6 flow: two cache lines.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WayV6 {
    /// See [`Control`].
    pub control: u64,
    /// Key.
    pub key: KeyV6,
    /// IP-layer octets.
    pub octets: u64,
    /// Packets, and above them the number of the MAC addresses; see [`PACKET_BITS`].
    pub packets: u64,
    /// First and last packet.
    pub span: Span,
    /// All TCP control bits seen.
    pub tcp_flags: u8,
    /// See [`crate::flow::bits`].
    pub bits: u8,
    /// Smallest hop limit.
    pub min_ttl: u8,
    /// Largest hop limit.
    pub max_ttl: u8,
    /// Flow label of the first packet.
    pub flow_label: u32,
    /// Zero.
    pub pad: [u32; 9],
}

/// One flow with a wide key: three cache lines.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct WayWide {
    /// See [`Control`].
    pub control: u64,
    /// Key.
    pub key: KeyWide,
    /// IP-layer octets.
    pub octets: u64,
    /// Packets, and above them the number of the MAC addresses; see [`PACKET_BITS`].
    pub packets: u64,
    /// First and last packet.
    pub span: Span,
    /// All TCP control bits seen.
    pub tcp_flags: u8,
    /// See [`crate::flow::bits`].
    pub bits: u8,
    /// Smallest TTL or hop limit.
    pub min_ttl: u8,
    /// Largest TTL or hop limit.
    pub max_ttl: u8,
    /// Flow label of the first packet.
    pub flow_label: u32,
    /// Priority of the inner VLAN tag of the first packet.
    pub inner_priority: u32,
    /// Zero.
    pub pad: [u32; 6],
}

/// What the two kinds of way have in common.
pub trait Way {
    /// The key it holds.
    type Key: Key;
    /// See [`family`].
    const FAMILY: u16;

    /// The control word's place.
    fn control(way: *mut Self) -> *mut u64;
    /// Whether it holds the flow `key`.
    fn holds(&self, key: &Self::Key) -> bool;
    /// Stores a new flow, all but the control word. Nothing is ever added to what stood there.
    fn fill(&mut self, key: &Self::Key, packet: &Packet, mac_number: u64, now_ns: u64);
    /// 1 + the place of its MAC addresses in the CPU's dictionary, or 0.
    fn mac_number(&self) -> u32;
    /// Whether the packet begins a new connection where the one of this way has ended.
    fn restarted_by(&self, packet: &Packet) -> bool;
    /// Adds a packet.
    fn add(&mut self, packet: &Packet, now_ns: u64);
    /// The key.
    fn key(&self) -> &Self::Key;
    /// When its packets came.
    fn span(&self) -> Span;
    /// Counts and times.
    fn counters(&self) -> Counters;
    /// Flags, TTLs, label. The options are the bucket's: see [`Bucket::marks`].
    fn marks(&self) -> Marks;
    /// Its [`bits`].
    fn bits(&mut self) -> &mut u8;
    /// Whether a flow that prefers this way may be in another way of the bucket. It belongs to
    /// the way and not to the flow in it, and outlasts that.
    fn displaced(&self) -> bool;
}

macro_rules! way {
    ($name:ident, $key:ident, $family:expr, |$way:ident| $label:expr, $inner_priority:expr, |$new:ident, $packet:ident| $set_label:block) => {
        impl Way for $name {
            type Key = $key;
            const FAMILY: u16 = $family;

            #[inline(always)]
            fn control(way: *mut Self) -> *mut u64 {
                // The first field.
                way.cast()
            }

            #[inline(always)]
            fn holds(&self, key: &$key) -> bool {
                self.key.same(key)
            }

            #[inline(always)]
            fn mac_number(&self) -> u32 {
                (self.packets >> PACKET_BITS) as u32
            }

            #[inline(always)]
            fn fill(&mut self, key: &$key, $packet: &Packet, mac_number: u64, now_ns: u64) {
                self.key = *key;
                self.octets = u64::from($packet.octets);
                self.packets = mac_number << PACKET_BITS | 1;
                self.span = Span::new(now_ns);
                self.tcp_flags = $packet.tcp_flags;
                self.bits = self.bits & bits::DISPLACED | first_bits($packet);
                self.min_ttl = $packet.ttl;
                self.max_ttl = $packet.ttl;
                let $new = self;
                $set_label
            }

            #[inline(always)]
            fn restarted_by(&self, packet: &Packet) -> bool {
                packet.tcp_flags & tcp::SYN != 0 && self.tcp_flags & (tcp::FIN | tcp::RST) != 0
            }

            #[inline(always)]
            fn add(&mut self, packet: &Packet, now_ns: u64) {
                self.octets += u64::from(packet.octets);
                self.packets += 1;
                self.span.extend(now_ns);
                self.tcp_flags |= packet.tcp_flags;
                self.bits |= packet.fragment_flags;
                // Compare before storing: the TTL of a flow hardly ever changes.
                if packet.ttl < self.min_ttl {
                    self.min_ttl = packet.ttl;
                }
                if packet.ttl > self.max_ttl {
                    self.max_ttl = packet.ttl;
                }
            }

            #[inline(always)]
            fn key(&self) -> &$key {
                &self.key
            }

            #[inline(always)]
            fn span(&self) -> Span {
                self.span
            }

            #[inline(always)]
            fn counters(&self) -> Counters {
                Counters {
                    packets: self.packets & ((1 << PACKET_BITS) - 1),
                    octets: self.octets,
                    first_ns: self.span.first_ns(),
                    last_ns: self.span.last_ns(),
                }
            }

            #[inline(always)]
            fn marks(&self) -> Marks {
                let $way = self;
                Marks {
                    tcp_flags: self.tcp_flags,
                    min_ttl: self.min_ttl,
                    max_ttl: self.max_ttl,
                    bits: self.bits & !bits::DISPLACED,
                    flow_label: $label,
                    options: 0,
                    inner_priority: $inner_priority,
                    pad: [0; 3],
                }
            }

            #[inline(always)]
            fn bits(&mut self) -> &mut u8 {
                &mut self.bits
            }

            #[inline(always)]
            fn displaced(&self) -> bool {
                self.bits & bits::DISPLACED != 0
            }
        }
    };
}

way!(WayV4, KeyV4, family::V4, |_way| 0, 0, |_way, packet| {});
way!(
    WayV6,
    KeyV6,
    family::V6,
    |way| way.flow_label,
    0,
    |way, packet| { way.flow_label = packet.flow_label }
);
way!(
    WayWide,
    KeyWide,
    family::WIDE,
    |way| way.flow_label,
    way.inner_priority as u8,
    |way, packet| {
        way.flow_label = packet.flow_label;
        way.inner_priority = u32::from(packet.priorities >> 4);
    }
);

/// What belongs to a flow but is not needed to count a packet of it, 16 octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Aside {
    /// Fingerprint of the displaced flow that the program last put into the way. Neither userspace,
    /// which frees ways, nor a flow that prefers the way changes it, so it says where a flow may
    /// be, not that it is.
    pub hint: u32,
    /// MAC addresses of the flow, where the dictionary has no place for them.
    pub macs: Macs,
}

/// The [`Aside`]s of a bucket: a displaced flow touches both cache lines of them, any other none.
///
/// All eight hints are looked at together, two in a word, by arithmetic alone: a branch for each
/// would multiply the ways through the program that the verifier has to follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Asides(pub [Aside; WAYS]);

/// A word with `lane` in both halves.
const fn both(lane: u32) -> u64 {
    lane as u64 | (lane as u64) << 32
}

/// 1 in each half of `word` that is 0, else 0.
#[inline(always)]
fn zeros(word: u64) -> u64 {
    let low = both(0x7fff_ffff);
    let nonzero = ((word & low) + low) | word; // in the top bit of each half
    (!nonzero >> 31) & both(1)
}

impl Asides {
    /// The hints of ways 2·`pair` and 2·`pair` + 1.
    #[inline(always)]
    fn pair(&self, pair: usize) -> u64 {
        u64::from(self.0[2 * pair].hint) | u64::from(self.0[2 * pair + 1].hint) << 32
    }

    /// Adds up what `of` says of each pair: 1 or 0 in each half, and the numbers of the ways
    /// where it is 1. The second sum is a way where the first is 1.
    #[inline(always)]
    fn count(&self, of: impl Fn(u64) -> u64) -> (u32, usize) {
        let (mut count, mut ways) = (0, 0);
        let mut pair = 0;
        while pair < WAYS / 2 {
            let found = of(self.pair(pair));
            let (low, high) = (found as u32, (found >> 32) as u32);
            count += low + high;
            ways += low * (2 * pair) as u32 + high * (2 * pair + 1) as u32;
            pair += 1;
        }
        (count, ways as usize & (WAYS - 1))
    }

    /// The way that a flow of this fingerprint may be in. [`Asides::set`] sees to it that there
    /// are no two. Once in 2³² pairs of flows there are two all the same, and a flow of fingerprint
    /// 0 looks like the hints that were never set: such a flow may not be found, and becomes
    /// several records, each of them right.
    #[inline(always)]
    #[must_use]
    pub fn find(&self, fingerprint: u32) -> Option<usize> {
        let wanted = both(fingerprint);
        let (count, way) = self.count(|pair| zeros(pair ^ wanted));
        if count != 0 { Some(way) } else { None }
    }

    /// How many ways other than `way` have last had a displaced flow that prefers it.
    #[inline(always)]
    #[must_use]
    pub fn displaced_from(&self, way: usize) -> u32 {
        let wanted = both(way as u32);
        let number = both(WAYS as u32 - 1);
        let (count, _) = self.count(|pair| zeros((pair ^ wanted) & number));
        let own = (self.0[way & (WAYS - 1)].hint ^ way as u32) & (WAYS as u32 - 1);
        count - zeros(u64::from(own)) as u32
    }

    /// Says that a flow of this fingerprint is in `way`, and in no other.
    #[inline(always)]
    pub fn set(&mut self, way: usize, fingerprint: u32) {
        let wanted = both(fingerprint);
        let mut pair = 0;
        while pair < WAYS / 2 {
            let word = self.pair(pair);
            let cleared = word & !(zeros(word ^ wanted) * 0xffff_ffff);
            self.0[2 * pair].hint = cleared as u32;
            self.0[2 * pair + 1].hint = (cleared >> 32) as u32;
            pair += 1;
        }
        self.0[way & (WAYS - 1)].hint = fingerprint;
    }
}

/// A bucket: what is needed to find a displaced flow, what few packets need, the ways.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bucket<W> {
    /// Where displaced flows may be, and MAC addresses.
    pub asides: Asides,
    /// Options that the flows have shown, OR-ed; they count where the way has [`bits::OPTIONS`].
    pub options: [u32; WAYS],
    /// Zero.
    pub pad: [u64; 4],
    /// Flows.
    pub ways: [W; WAYS],
}

impl<W: Way> Bucket<W> {
    /// Notes the options of a packet, if it has any, for the flow in way `i`: few have, so others
    /// do not touch the line where they are kept.
    #[inline(always)]
    pub fn note_options(&mut self, i: usize, packet: &Packet) {
        let i = i & (WAYS - 1);
        if packet.options == 0 {
            return;
        }
        let way_bits = self.ways[i].bits();
        if *way_bits & bits::OPTIONS == 0 {
            *way_bits |= bits::OPTIONS;
            self.options[i] = packet.options;
        } else {
            self.options[i] |= packet.options;
        }
    }

    /// Flags, TTLs, label and options of the flow in way `i`.
    #[inline(always)]
    #[must_use]
    pub fn marks(&self, i: usize) -> Marks {
        let i = i & (WAYS - 1);
        let mut marks = self.ways[i].marks();
        if marks.bits & bits::OPTIONS != 0 {
            marks.options = self.options[i];
        }
        marks
    }
}

/// A bucket of the IPv4 table, 704 octets.
pub type BucketV4 = Bucket<WayV4>;
/// A bucket of the IPv6 table, 1,216 octets.
pub type BucketV6 = Bucket<WayV6>;
/// A bucket of the table of wide keys, 1,728 octets.
pub type BucketWide = Bucket<WayWide>;

const _: () = assert!(size_of::<WayV4>() == 64 && size_of::<WayV6>() == 128);
const _: () = assert!(size_of::<WayWide>() == 192);
const _: () = assert!(size_of::<BucketV4>() == 11 * 64 && size_of::<BucketV6>() == 19 * 64);
const _: () = assert!(size_of::<BucketWide>() == 27 * 64);
const _: () = assert!(core::mem::offset_of!(BucketV4, ways) == 3 * 64);
const _: () = assert!(core::mem::offset_of!(WayV4, control) == 0);
const _: () = assert!(core::mem::offset_of!(WayV6, control) == 0);
const _: () = assert!(core::mem::offset_of!(WayWide, control) == 0);
