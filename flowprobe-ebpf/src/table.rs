//! The flow table in shared memory: ways, their control words, buckets.
//!
//! One table for IPv4, one for IPv6 and one for flows with a wide key, each an array map that
//! userspace has mapped too. An array has a partition per CPU, `buckets` long; a flow is in bucket
//! `hash & (buckets − 1)` of the partition of whichever CPU received it (the wide table has fewer
//! buckets, see [`WIDE_SHIFT`]). Only the program on that CPU writes a partition,
//! but for the control words, which userspace changes too: from live to userspace's, and from
//! there to free. See ARCHITECTURE.md for the protocol.
//!
//! A packet of a known flow touches one cache line for IPv4 and two for IPv6: those of the way
//! which the hash prefers, with control word, key and counters. Where another flow is in that
//! way, the flow is most often in the neighbour, which caches fetch with it.

use crate::{
    flow::{Counters, Macs, Marks, bits, first_bits},
    hash::preferred_way,
    key::{Key, KeyV4, KeyV6, KeyWide},
    macs::MAC_PAIRS,
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

/// `reach (3) · MACs (13) · packets (48)`: to add a packet does not change what is above.
///
/// At 100 million packets a second a month has 2⁴⁸. The MACs are 1 + their place in the CPU's
/// dictionary, or 0 where they are in the [`Asides`]. The reach is not the flow's but the way's; see
/// [`Way::reach`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Packets(u64);

impl Packets {
    const COUNT_BITS: u32 = 48;
    const REACH_SHIFT: u32 = 61;
    const REACH_MASK: u64 = !0 << Self::REACH_SHIFT;

    /// Begins a new flow with its first packet, or the first ones.
    #[inline(always)]
    fn begin(&mut self, mac_number: u64, packets: u64) {
        self.0 = self.0 & Self::REACH_MASK | mac_number << Self::COUNT_BITS | packets;
    }

    #[inline(always)]
    fn add(&mut self, packets: u64) {
        self.0 += packets;
    }

    #[inline(always)]
    fn count(self) -> u64 {
        self.0 & ((1 << Self::COUNT_BITS) - 1)
    }

    #[inline(always)]
    fn mac_number(self) -> u32 {
        ((self.0 & !Self::REACH_MASK) >> Self::COUNT_BITS) as u32
    }

    #[inline(always)]
    fn reach(self) -> usize {
        (self.0 >> Self::REACH_SHIFT) as usize
    }

    #[inline(always)]
    fn set_reach(&mut self, reach: usize) {
        self.0 = self.0 & !Self::REACH_MASK | (reach as u64) << Self::REACH_SHIFT;
    }
}

const _: () = assert!(WAYS <= 1 << 3 && MAC_PAIRS < 1 << 13);

/// `largest TTL (8) · smallest TTL (8) · [bits](crate::flow::bits) (8) · TCP control bits (8)`:
/// what hardly any packet changes, so that one comparison finds that out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(transparent)]
pub struct Seen(u32);

impl Seen {
    const BITS_SHIFT: u32 = 8;
    const MIN_SHIFT: u32 = 16;
    const MAX_SHIFT: u32 = 24;
    const TTLS: u32 = 0xffff << Self::MIN_SHIFT;

    /// In the first packet of a flow.
    #[inline(always)]
    fn first(packet: &Packet) -> Self {
        let bits = u32::from(first_bits(packet)) << Self::BITS_SHIFT;
        Self(u32::from(packet.tcp_flags) | bits | Self::ttls(packet))
    }

    #[inline(always)]
    fn ttls(packet: &Packet) -> u32 {
        u32::from(packet.ttl) << Self::MIN_SHIFT | u32::from(packet.ttl) << Self::MAX_SHIFT
    }

    /// In one more packet.
    #[inline(always)]
    fn add(&mut self, packet: &Packet) {
        let flags =
            u32::from(packet.tcp_flags) | u32::from(packet.fragment_flags) << Self::BITS_SHIFT;
        let differs = self.0 ^ (flags | Self::ttls(packet));
        if differs & (flags | Self::TTLS) == 0 {
            return;
        }
        let ttl = packet.ttl;
        let (min, max) = (ttl.min(self.min_ttl()), ttl.max(self.max_ttl()));
        self.0 = (self.0 | flags) & !Self::TTLS
            | u32::from(min) << Self::MIN_SHIFT
            | u32::from(max) << Self::MAX_SHIFT;
    }

    /// Whether there was a FIN or RST.
    #[inline(always)]
    fn ended(self) -> bool {
        self.tcp_flags() & (tcp::FIN | tcp::RST) != 0
    }

    #[inline(always)]
    fn tcp_flags(self) -> u8 {
        self.0 as u8
    }

    #[inline(always)]
    fn bits(self) -> u8 {
        (self.0 >> Self::BITS_SHIFT) as u8
    }

    #[inline(always)]
    fn set_bits(&mut self, bits: u8) {
        self.0 |= u32::from(bits) << Self::BITS_SHIFT;
    }

    #[inline(always)]
    fn min_ttl(self) -> u8 {
        (self.0 >> Self::MIN_SHIFT) as u8
    }

    #[inline(always)]
    fn max_ttl(self) -> u8 {
        (self.0 >> Self::MAX_SHIFT) as u8
    }
}

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
    /// See [`Packets`].
    pub packets: Packets,
    /// First and last packet.
    pub span: Span,
    /// See [`Seen`].
    pub seen: Seen,
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
    /// See [`Packets`].
    pub packets: Packets,
    /// First and last packet.
    pub span: Span,
    /// See [`Seen`].
    pub seen: Seen,
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
    /// See [`Packets`].
    pub packets: Packets,
    /// First and last packet.
    pub span: Span,
    /// See [`Seen`].
    pub seen: Seen,
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
    /// Flags, TTLs, label. The options are kept aside: see [`Asides::marks`].
    fn marks(&self) -> Marks;
    /// What its packets have shown.
    fn seen(&mut self) -> &mut Seen;
    /// How far from here flows are that prefer this way, at most: 0 if there are none, else the
    /// largest [`distance`]. It belongs to the way and not to the flow in it, and outlasts that.
    fn reach(&self) -> usize;
    /// Sets the reach.
    fn set_reach(&mut self, reach: usize);
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
                self.packets.mac_number()
            }

            #[inline(always)]
            fn fill(&mut self, key: &$key, $packet: &Packet, mac_number: u64, now_ns: u64) {
                self.key = *key;
                self.octets = u64::from($packet.octets);
                self.packets.begin(mac_number, $packet.packets());
                self.span = Span::new(now_ns);
                self.seen = Seen::first($packet);
                let $new = self;
                $set_label
            }

            #[inline(always)]
            fn restarted_by(&self, packet: &Packet) -> bool {
                packet.tcp_flags & tcp::SYN != 0 && self.seen.ended()
            }

            #[inline(always)]
            fn add(&mut self, packet: &Packet, now_ns: u64) {
                self.octets += u64::from(packet.octets);
                self.packets.add(packet.packets());
                self.span.extend(now_ns);
                self.seen.add(packet);
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
                    packets: self.packets.count(),
                    octets: self.octets,
                    first_ns: self.span.first_ns(),
                    last_ns: self.span.last_ns(),
                }
            }

            #[inline(always)]
            fn marks(&self) -> Marks {
                let $way = self;
                Marks {
                    tcp_flags: self.seen.tcp_flags(),
                    min_ttl: self.seen.min_ttl(),
                    max_ttl: self.seen.max_ttl(),
                    bits: self.seen.bits(),
                    flow_label: $label,
                    options: 0,
                    inner_priority: $inner_priority,
                    pad: [0; 3],
                }
            }

            #[inline(always)]
            fn seen(&mut self) -> &mut Seen {
                &mut self.seen
            }

            #[inline(always)]
            fn reach(&self) -> usize {
                self.packets.reach()
            }

            #[inline(always)]
            fn set_reach(&mut self, reach: usize) {
                self.packets.set_reach(reach);
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

/// A bucket.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Bucket<W> {
    /// Flows.
    pub ways: [W; WAYS],
}

/// The way at a distance from another, in the same bucket. Distance 1 is the other one of a pair
/// that is aligned to its size. The way at the same distance from that is the first again.
#[inline(always)]
#[must_use]
pub fn at_distance(way: usize, distance: usize) -> usize {
    (way ^ distance) & (WAYS - 1)
}

/// How far two ways of a bucket are from each other.
#[inline(always)]
#[must_use]
pub fn distance(one: usize, other: usize) -> usize {
    (one ^ other) & (WAYS - 1)
}

/// What a search for a flow that is not in the way which it prefers has found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Search {
    /// How far from that way it may be: a live flow of this fingerprint is there. 0 if there is
    /// none.
    pub distance: usize,
    /// The reach that the way needs, where the search has come to its end.
    pub reach: usize,
}

/// Looks for a flow of this fingerprint within `reach` of the way that it prefers, where `control`
/// gives the control word of a way.
///
/// Once in 2³² pairs of flows two of one bucket have one fingerprint: then the further one may not
/// be found, and becomes several records, each of them right.
#[inline(always)]
#[must_use]
pub fn search(fingerprint: u32, reach: usize, control: impl Fn(usize) -> Control) -> Search {
    let preferred = preferred_way(fingerprint);
    let wanted = Control::live_tag(fingerprint);
    // State and preferred way are the lowest bits of a tag.
    let mask = 4 * WAYS as u64 - 1;
    let mut needed = 0;
    let mut distance = 1;
    while distance < WAYS {
        if distance > reach {
            break;
        }
        let differs = control(at_distance(preferred, distance)).tag() ^ wanted;
        if differs == 0 {
            return Search { distance, reach };
        }
        // 1 where the flow prefers the same way, by arithmetic: each branch would double the ways
        // through the loop that the verifier follows.
        let same = 1 - (((differs & mask) + mask) >> (mask + 1).trailing_zeros());
        needed += same as usize * (distance - needed);
        distance += 1;
    }
    Search {
        distance: 0,
        reach: needed,
    }
}

/// What belongs to the flows of a bucket but is not needed to count a packet of most.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Asides {
    /// MAC addresses of the flows, where the dictionary has no place for them.
    pub macs: [Macs; WAYS],
    /// Options that the flows have shown, OR-ed; they count where the flow has [`bits::OPTIONS`].
    pub options: [u32; WAYS],
}

impl Asides {
    /// Notes the options of a packet, if it has any, of the flow in `way`, which is way `i`.
    #[inline(always)]
    pub fn note_options<W: Way>(&mut self, i: usize, way: &mut W, packet: &Packet) {
        if packet.options == 0 {
            return;
        }
        let options = &mut self.options[i & (WAYS - 1)];
        if way.seen().bits() & bits::OPTIONS == 0 {
            way.seen().set_bits(bits::OPTIONS);
            *options = packet.options;
        } else {
            *options |= packet.options;
        }
    }

    /// Flags, TTLs, label and options of the flow in `way`, which is way `i`.
    #[inline(always)]
    #[must_use]
    pub fn marks<W: Way>(&self, i: usize, way: &W) -> Marks {
        let mut marks = way.marks();
        if marks.bits & bits::OPTIONS != 0 {
            marks.options = self.options[i & (WAYS - 1)];
        }
        marks
    }
}

/// A bucket of the IPv4 table, 512 octets.
pub type BucketV4 = Bucket<WayV4>;
/// A bucket of the IPv6 table, 1,024 octets.
pub type BucketV6 = Bucket<WayV6>;
/// A bucket of the table of wide keys, 1,536 octets.
pub type BucketWide = Bucket<WayWide>;

const _: () = assert!(size_of::<WayV4>() == 64 && size_of::<WayV6>() == 128);
const _: () = assert!(size_of::<WayWide>() == 192);
const _: () = assert!(size_of::<Asides>() == 2 * 64);
const _: () = assert!(core::mem::offset_of!(WayV4, control) == 0);
const _: () = assert!(core::mem::offset_of!(WayV6, control) == 0);
const _: () = assert!(core::mem::offset_of!(WayWide, control) == 0);
