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
    /// Zero.
    pub pad: u8,
    /// IPv6 flow label of the first packet (IE 31); 0 for IPv4.
    pub flow_label: u32,
}

/// Destination and source MAC address of a flow's first packet, as on the wire (IE 80, 56).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C, align(4))]
pub struct Macs {
    /// Destination, then source.
    pub octets: [u8; 12],
}

impl Counters {
    /// Counters of a flow whose first packet is `packet`.
    #[inline(always)]
    #[must_use]
    pub fn first(packet: &Packet, now_ns: u64) -> Self {
        Self {
            packets: 1,
            octets: u64::from(packet.octets),
            first_ns: now_ns,
            last_ns: now_ns,
        }
    }

    /// Adds one packet.
    #[inline(always)]
    pub fn add(&mut self, packet: &Packet, now_ns: u64) {
        self.packets += 1;
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
            pad: 0,
            flow_label: packet.flow_label,
        }
    }

    /// Adds one packet.
    #[inline(always)]
    pub fn add(&mut self, packet: &Packet) {
        self.tcp_flags |= packet.tcp_flags;
        // Compare before storing: the TTL of a flow hardly ever changes.
        if packet.ttl < self.min_ttl {
            self.min_ttl = packet.ttl;
        }
        if packet.ttl > self.max_ttl {
            self.max_ttl = packet.ttl;
        }
    }

    /// Adds another part of the same flow; the label stays that of `self`.
    pub fn merge(&mut self, other: &Self) {
        self.tcp_flags |= other.tcp_flags;
        self.min_ttl = self.min_ttl.min(other.min_ttl);
        self.max_ttl = self.max_ttl.max(other.max_ttl);
    }

    /// Whether a FIN or RST was seen: the flow has ended but for stragglers.
    #[inline(always)]
    #[must_use]
    pub fn ended(&self) -> bool {
        self.tcp_flags & (tcp::FIN | tcp::RST) != 0
    }
}

const _: () = assert!(size_of::<Counters>() == 32 && size_of::<Marks>() == 8);
const _: () = assert!(size_of::<Macs>() == 12);
