//! The statistics of a flow, as everything outside the table has them.

use crate::{parse::Packet, wire::tcp};

/// Counts and times, raw: never scaled by the sampling rate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Counters {
    /// Packets (IE 2).
    pub packets: u64,
    /// Octets of the IP packets, headers included, link layer excluded (IE 1).
    pub octets: u64,
    /// First packet, nanoseconds of CLOCK_MONOTONIC.
    pub first_ns: u64,
    /// Last packet, nanoseconds of CLOCK_MONOTONIC.
    pub last_ns: u64,
}

/// What else the packets of a flow showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Marks {
    /// All TCP control bits seen, OR-ed (IE 6, its low octet).
    pub tcp_flags: u8,
    /// Smallest TTL or hop limit (IE 52).
    pub min_ttl: u8,
    /// Largest TTL or hop limit (IE 53).
    pub max_ttl: u8,
    /// See [`bits`].
    pub bits: u8,
    /// IPv6 flow label of the first packet (IE 31); 0 for IPv4.
    pub flow_label: u32,
    /// All options or extension headers seen, OR-ed (IE 208, IE 64).
    pub options: u32,
    /// Priority of the inner VLAN tag of the first packet (IE 246).
    pub inner_priority: u8,
    /// Zero.
    pub pad: [u8; 3],
}

/// Bits of [`Marks::bits`].
pub mod bits {
    /// Priority of the outer VLAN tag of the first packet (IE 244).
    pub const PRIORITY: u8 = 0x07;
    /// The first packet had SYN: the beginning of the connection was seen.
    pub const BEGAN_WITH_SYN: u8 = 0x08;
    /// Options were seen.
    pub const OPTIONS: u8 = 0x10;
    /// More Fragments and Don't Fragment, OR-ed (IE 197).
    pub const FRAGMENT_FLAGS: u8 = 0x60;
    /// The first packet had ACK: with SYN, it was the answer to another's SYN.
    pub const BEGAN_WITH_ACK: u8 = 0x80;
    /// What is the first packet's, and not OR-ed over all.
    pub const FIRST: u8 = PRIORITY | BEGAN_WITH_SYN | BEGAN_WITH_ACK;
}

/// The [`bits`] of a flow whose first packet is `packet`.
#[inline(always)]
#[must_use]
pub fn first_bits(packet: &Packet) -> u8 {
    const {
        assert!(bits::BEGAN_WITH_SYN == tcp::SYN << 2);
        assert!(bits::BEGAN_WITH_ACK == tcp::ACK << 3);
    };
    packet.fragment_flags
        | packet.priorities & bits::PRIORITY
        | (packet.tcp_flags & tcp::SYN) << 2
        | (packet.tcp_flags & tcp::ACK) << 3
}

/// Destination and source MAC address of a flow's first packet (IE 80, 56), as on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Macs {
    /// Words of memory.
    pub words: [u32; 3],
}

impl Macs {
    /// From the octets on the wire.
    #[must_use]
    pub fn new(octets: [u8; 12]) -> Self {
        let word = |i| core::array::from_fn(|j| octets[4 * i + j]);
        Self {
            words: core::array::from_fn(|i| u32::from_ne_bytes(word(i))),
        }
    }

    /// Destination, then source, as on the wire.
    #[must_use]
    pub fn octets(&self) -> [u8; 12] {
        core::array::from_fn(|i| self.words[i / 4].to_ne_bytes()[i % 4])
    }
}

impl Counters {
    /// Counters of a flow whose first packet is `packet`.
    #[inline(always)]
    #[must_use]
    pub fn first(packet: &Packet, now_ns: u64) -> Self {
        Self {
            packets: packet.packets(),
            octets: u64::from(packet.octets),
            first_ns: now_ns,
            last_ns: now_ns,
        }
    }

    /// Adds one packet.
    #[inline(always)]
    pub fn add(&mut self, packet: &Packet, now_ns: u64) {
        self.packets += packet.packets();
        self.octets += u64::from(packet.octets);
        self.last_ns = now_ns;
    }

    /// Adds another part of the same flow.
    pub fn merge(&mut self, other: &Self) {
        self.packets += other.packets;
        self.octets += other.octets;
        self.first_ns = self.first_ns.min(other.first_ns);
        self.last_ns = self.last_ns.max(other.last_ns);
    }
}

impl Marks {
    /// Marks of a flow whose first packet is `packet`.
    #[inline(always)]
    #[must_use]
    pub fn first(packet: &Packet) -> Self {
        Self {
            tcp_flags: packet.tcp_flags,
            min_ttl: packet.ttl,
            max_ttl: packet.ttl,
            bits: first_bits(packet),
            flow_label: packet.flow_label,
            options: packet.options,
            inner_priority: packet.priorities >> 4,
            pad: [0; 3],
        }
    }

    /// Adds one packet.
    #[inline(always)]
    pub fn add(&mut self, packet: &Packet) {
        self.tcp_flags |= packet.tcp_flags;
        self.bits |= packet.fragment_flags;
        self.options |= packet.options;
        // Compare before storing: the TTL of a flow hardly ever changes.
        if packet.ttl < self.min_ttl {
            self.min_ttl = packet.ttl;
        }
        if packet.ttl > self.max_ttl {
            self.max_ttl = packet.ttl;
        }
    }

    /// Adds another part of the same flow. What is the first packet's stays that of `self`; see
    /// [`Marks::begin_with`].
    pub fn merge(&mut self, other: &Self) {
        self.tcp_flags |= other.tcp_flags;
        self.bits |= other.bits & bits::FRAGMENT_FLAGS;
        self.options |= other.options;
        self.min_ttl = self.min_ttl.min(other.min_ttl);
        self.max_ttl = self.max_ttl.max(other.max_ttl);
    }

    /// Takes over what is the first packet's from a part that began earlier.
    pub fn begin_with(&mut self, earlier: &Self) {
        self.flow_label = earlier.flow_label;
        self.inner_priority = earlier.inner_priority;
        self.bits = self.bits & !bits::FIRST | earlier.bits & bits::FIRST;
    }

    /// Whether the first packet had SYN: the beginning of the connection was seen.
    #[must_use]
    pub fn began_with_syn(&self) -> bool {
        self.bits & bits::BEGAN_WITH_SYN != 0
    }

    /// Whether the first packet had ACK.
    #[must_use]
    pub fn began_with_ack(&self) -> bool {
        self.bits & bits::BEGAN_WITH_ACK != 0
    }

    /// Whether a FIN or RST was seen: the flow has ended but for stragglers.
    #[inline(always)]
    #[must_use]
    pub fn ended(&self) -> bool {
        self.tcp_flags & (tcp::FIN | tcp::RST) != 0
    }
}

const _: () = assert!(size_of::<Counters>() == 32 && size_of::<Marks>() == 16);
const _: () = assert!(size_of::<Macs>() == 12);
