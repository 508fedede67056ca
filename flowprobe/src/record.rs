//! A finished flow, as every output takes it.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    ops::{AddAssign, SubAssign},
};

use flowprobe_ebpf::{
    Around, KeyV4, KeyV6, KeyWide, Marks, hash::SECRET_WORDS, key::Key as _, sampling::Sampled,
    wire::protocol,
};
use serde::Serialize;

/// Key of a flow of any kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FlowKey {
    /// IPv4.
    V4(KeyV4),
    /// IPv6.
    V6(KeyV6),
    /// Either, with several VLAN tags, MPLS labels or a tunnel around it.
    Wide(KeyWide),
}

macro_rules! both {
    ($(#[$doc:meta])* $name:ident -> $kind:ty) => {
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> $kind {
            match self {
                Self::V4(key) => key.$name(),
                Self::V6(key) => key.$name(),
                Self::Wide(key) => key.$name(),
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
            Self::Wide(key) => wide_addresses(key)[0],
        }
    }

    /// Destination address (IE 12, 28).
    #[must_use]
    pub fn destination(&self) -> IpAddr {
        match self {
            Self::V4(key) => Ipv4Addr::from(key.destination()).into(),
            Self::V6(key) => Ipv6Addr::from(key.destination()).into(),
            Self::Wide(key) => wide_addresses(key)[1],
        }
    }

    /// The hash that places the flow in the tables, under `secret`.
    #[must_use]
    pub fn hash(&self, secret: &[u64; SECRET_WORDS]) -> u64 {
        match self {
            Self::V4(key) => key.hash(secret),
            Self::V6(key) => key.hash(secret),
            Self::Wide(key) => key.hash(secret),
        }
    }

    /// What is around the packets beyond an outer VLAN tag.
    #[must_use]
    pub fn around(&self) -> Option<Around> {
        match self {
            Self::Wide(key) => Some(key.around()),
            Self::V4(_) | Self::V6(_) => None,
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
        /// Interface on which its packets were seen.
        ifindex -> u32
    );
    both!(
        /// Interface on which it came in (IE 10), 0 where it was seen going out.
        ingress -> u32
    );
    both!(
        /// Interface on which it went out (IE 14), 0 where it was seen coming in.
        egress -> u32
    );
    both!(
        /// Whether it was seen going out (IE 61).
        is_egress -> bool
    );
    both!(
        /// What the packets were sampled as.
        sampled -> Sampled
    );

    /// What both directions of a conversation have in common: the two ends, the lower one first, and
    /// the protocol.
    #[must_use]
    pub fn conversation(&self) -> ([(IpAddr, u16); 2], u8) {
        let mut ends = self.ends();
        ends.sort_unstable();
        (ends, self.protocol())
    }

    /// Whether its source is the lower one of the two ends.
    #[must_use]
    pub fn is_lower_end(&self) -> bool {
        let [source, destination] = self.ends();
        source <= destination
    }

    /// Source and destination.
    fn ends(&self) -> [(IpAddr, u16); 2] {
        let ports = match self.protocol() {
            // Type and code differ between request and reply.
            protocol::ICMP | protocol::ICMPV6 => [0; 2],
            _ => [self.source_port(), self.destination_port()],
        };
        [(self.source(), ports[0]), (self.destination(), ports[1])]
    }

    /// The same key, whatever it was sampled as.
    #[must_use]
    pub fn unsampled(mut self) -> Self {
        match &mut self {
            Self::V4(key) => key.set_sampled(Sampled::default()),
            Self::V6(key) => key.set_sampled(Sampled::default()),
            Self::Wide(key) => key.set_sampled(Sampled::default()),
        }
        self
    }

    /// The same key in the form that has room for what is around the packets.
    #[must_use]
    pub fn widened(&self) -> KeyWide {
        match self {
            Self::V4(key) => key.widened(),
            Self::V6(key) => key.widened(),
            Self::Wide(key) => *key,
        }
    }
}

/// Source and destination.
fn wide_addresses(key: &KeyWide) -> [IpAddr; 2] {
    if let Some(both) = key.v4() {
        return both.map(|address| Ipv4Addr::from(address).into());
    }
    key.v6()
        .unwrap_or_default()
        .map(|address| Ipv6Addr::from(address).into())
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

/// How sure it is who began a conversation: biflowDirection (IE 239), RFC 5103 §5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// Nobody knows; one of the two had to be the source.
    Arbitrary = 0,
    /// The source began it.
    Initiator = 1,
}

/// Which half of a biflow (RFC 5103) a record is. The halves are neighbours wherever records go,
/// unless a full queue has parted them; then each is a flow by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Biflow {
    /// Of none.
    #[default]
    None,
    /// What its source sent. What came back is the next record.
    Forward(Direction),
    /// What came back.
    Reverse,
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
    /// Flags, TTLs, label, options.
    pub marks: Marks,
    /// sourceMacAddress (IE 56) of the first packet.
    pub source_mac: [u8; 6],
    /// destinationMacAddress (IE 80) of the first packet.
    pub destination_mac: [u8; 6],
    /// samplingInterval (IE 34): metered with 1 packet in n; 1 means every packet.
    pub sampling_n: u32,
    /// Whether it is a half of a biflow.
    pub biflow: Biflow,
    /// Where it goes on to, where that was asked for.
    pub route: Option<Route>,
}

/// What routes say of a flow; 0 or none is what they do not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// ipNextHopIPv4Address (IE 15), ipNextHopIPv6Address (IE 62).
    pub next_hop: Option<IpAddr>,
    /// egressInterface (IE 14).
    pub egress: u32,
    /// sourceIPv4PrefixLength (IE 9), sourceIPv6PrefixLength (IE 29).
    pub source_prefix: u8,
    /// destinationIPv4PrefixLength (IE 13), destinationIPv6PrefixLength (IE 30).
    pub destination_prefix: u8,
}

impl FlowRecord {
    /// Interface on which it went out (IE 14), or goes out by its route; 0 where that is not known.
    #[inline]
    #[must_use]
    pub fn egress(&self) -> u32 {
        self.route.map_or(self.key.egress(), |route| route.egress)
    }

    /// Its direction, if `next` is what came back.
    #[inline]
    #[must_use]
    pub fn forward_of(&self, next: Option<&Self>) -> Option<Direction> {
        match (self.biflow, next?.biflow) {
            (Biflow::Forward(direction), Biflow::Reverse) => Some(direction),
            _ => None,
        }
    }

    /// The class of sampling it was metered in, which is an observation domain of its own.
    #[must_use]
    pub fn class(&self) -> usize {
        self.key.sampled().class().into()
    }
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
            sum += Self::from(record);
        }
        sum
    }
}

impl From<&FlowRecord> for Volume {
    fn from(record: &FlowRecord) -> Self {
        Self {
            records: 1,
            packets: record.packets,
            octets: record.octets,
        }
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
