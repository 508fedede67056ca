//! A finished flow, as every output takes it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{AddAssign, SubAssign},
};

use flowprobe_ebpf::{KeyV4, KeyV6};
use serde::Serialize;

/// Key of a flow of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKey {
    /// IPv4.
    V4(KeyV4),
    /// IPv6.
    V6(KeyV6),
}

macro_rules! both {
    ($(#[$doc:meta])* $name:ident -> $kind:ty) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $kind {
            match self {
                Self::V4(key) => key.$name(),
                Self::V6(key) => key.$name(),
            }
        }
    };
}

impl FlowKey {
    /// Source address (IE 8, 27).
    #[must_use]
    pub fn source(&self) -> IpAddr {
        match self {
            Self::V4(key) => Ipv4Addr::from(key.source()).into(),
            Self::V6(key) => Ipv6Addr::from(key.source()).into(),
        }
    }

    /// Destination address (IE 12, 28).
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(key) => Ipv4Addr::from(key.destination()).into(),
            Self::V6(key) => Ipv6Addr::from(key.destination()).into(),
        }
    }

    both!(
        /// Source port (IE 7), 0 where there is none.
        source_port -> u16
    );
    both!(
        /// Destination port (IE 11); for ICMP type·256 + code (IE 32, 139).
        destination_port -> u16
    );
    both!(
        /// IP protocol (IE 4).
        protocol -> u8
    );
    both!(
        /// Type of service or traffic class (IE 5).
        traffic_class -> u8
    );
    both!(
        /// Outer VLAN identifier (IE 58), 0 without a tag.
        vlan -> u16
    );
    both!(
        /// Interface the flow came in on (IE 10).
        ifindex -> u32
    );
    both!(
        /// Sampling epoch.
        epoch -> u32
    );
}

/// Why a flow was exported: flowEndReason (IE 136), the values of RFC 5102 §5.11.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum EndReason {
    /// No packet for the idle timeout.
    IdleTimeout = 1,
    /// The flow goes on, and the active timeout has passed.
    ActiveTimeout = 2,
    /// FIN or RST seen.
    EndOfFlow = 3,
    /// The exporter shuts down or its settings change.
    ForcedEnd = 4,
    /// No room to keep the flow.
    LackOfResources = 5,
}

impl EndReason {
    /// Every reason, in the order of the registry.
    pub const ALL: [Self; 5] = [
        Self::IdleTimeout,
        Self::ActiveTimeout,
        Self::EndOfFlow,
        Self::ForcedEnd,
        Self::LackOfResources,
    ];

    /// The registry's name.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::IdleTimeout => "idle timeout",
            Self::ActiveTimeout => "active timeout",
            Self::EndOfFlow => "end of Flow detected",
            Self::ForcedEnd => "forced end",
            Self::LackOfResources => "lack of resources",
        }
    }
}

/// One flow record. Counts are raw: `sampling_n` says what they stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowRecord {
    /// Key.
    pub key: FlowKey,
    /// packetDeltaCount (IE 2).
    pub packets: u64,
    /// octetDeltaCount (IE 1): IP-layer octets.
    pub octets: u64,
    /// flowStartMilliseconds (IE 152), since 1970-01-01 UTC.
    pub start_ms: u64,
    /// flowEndMilliseconds (IE 153), at least `start_ms`.
    pub end_ms: u64,
    /// flowEndReason (IE 136).
    pub reason: EndReason,
    /// tcpControlBits (IE 6), the low octet.
    pub tcp_flags: u8,
    /// minimumTTL (IE 52).
    pub min_ttl: u8,
    /// maximumTTL (IE 53).
    pub max_ttl: u8,
    /// flowLabelIPv6 (IE 31), 0 for IPv4.
    pub flow_label: u32,
    /// sourceMacAddress (IE 56) of the first packet.
    pub source_mac: [u8; 6],
    /// destinationMacAddress (IE 80) of the first packet.
    pub destination_mac: [u8; 6],
    /// samplingInterval (IE 34): metered with 1 packet in n; 1 means every packet.
    pub sampling_n: u32,
}

/// Flow records, and the packets and IP-layer octets in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Volume {
    /// Flow records.
    pub records: u64,
    /// Packets in them.
    pub packets: u64,
    /// IP-layer octets in them.
    pub octets: u64,
}

impl Volume {
    /// The sum over `records`.
    #[must_use]
    pub fn of(records: &[FlowRecord]) -> Self {
        let mut sum = Self::default();
        for record in records {
            sum += Self {
                records: 1,
                packets: record.packets,
                octets: record.octets,
            };
        }
        sum
    }
}

impl AddAssign for Volume {
    fn add_assign(&mut self, other: Self) {
        self.records += other.records;
        self.packets += other.packets;
        self.octets += other.octets;
    }
}

impl SubAssign for Volume {
    fn sub_assign(&mut self, other: Self) {
        self.records -= other.records;
        self.packets -= other.packets;
        self.octets -= other.octets;
    }
}
