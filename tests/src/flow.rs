//! Flows as the tests compare them: what was sent, what was printed, what was collected.

mod record;

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr};

/// What makes packets one flow, but for the interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Source port, 0 where there is none.
    pub source_port: u16,
    /// Destination port, 0 where there is none; type·256 + code of ICMP.
    pub destination_port: u16,
    /// IP protocol.
    pub protocol: u8,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// Outer VLAN identifier.
    pub vlan: u16,
    /// What else is around the packets.
    pub around: Around,
}

/// What is around the packets of a flow, but for an outer VLAN tag.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Around {
    /// Identifier of the second VLAN tag, 0 without one.
    pub inner_vlan: u16,
    /// MPLS label stack entries without their TTL, top first, 0 where there is none.
    pub labels: [u32; 6],
    /// The tunnel that was opened.
    pub tunnel: Option<Tunnel>,
}

/// A tunnel, and what tells it from others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tunnel {
    /// Outer source address.
    pub source: IpAddr,
    /// Outer destination address.
    pub destination: IpAddr,
    /// Outer IP protocol.
    pub protocol: u8,
    /// greKey, 0 for others.
    pub gre_key: u32,
    /// layer2SegmentId, 0 for others.
    pub segment: u64,
    /// gtpuTEid, 0 for others.
    pub teid: u32,
}

/// Packets and IP-layer octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Packets.
    pub packets: u64,
    /// Octets of the IP packets.
    pub octets: u64,
}

impl Counts {
    /// Adds another count.
    pub fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.octets += other.octets;
    }
}

/// Counts by flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Truth(pub BTreeMap<Key, Counts>);

impl Truth {
    /// Counts packets of one flow.
    pub fn add(&mut self, key: Key, packets: u64, octets: u64) {
        self.0
            .entry(key)
            .or_default()
            .add(Counts { packets, octets });
    }

    /// The sum over all records of each flow.
    pub fn of(flows: &[Flow]) -> Self {
        let mut truth = Self::default();
        for flow in flows {
            truth.add(flow.key, flow.counts.packets, flow.counts.octets);
        }
        truth
    }

    /// The sum over all flows.
    #[must_use]
    pub fn total(&self) -> Counts {
        let mut total = Counts::default();
        self.0.values().for_each(|counts| total.add(*counts));
        total
    }

    /// The first few differences, or nothing where both are equal.
    #[must_use]
    pub fn differences(&self, exported: &Self) -> Option<String> {
        let keys = self.0.keys().chain(exported.0.keys());
        let mut differing: Vec<_> = keys
            .filter(|key| self.0.get(key) != exported.0.get(key))
            .collect();
        differing.sort_unstable();
        differing.dedup();
        if differing.is_empty() {
            return None;
        }
        let mut text = format!(
            "{} of {} flows differ; in all {:?} were sent and {:?} exported",
            differing.len(),
            self.0.len(),
            self.total(),
            exported.total(),
        );
        for key in differing.into_iter().take(10) {
            let _ = write!(
                text,
                "\n{key:?}\n  sent     {:?}\n  exported {:?}",
                self.0.get(key),
                exported.0.get(key)
            );
        }
        Some(text)
    }

    /// Fails with the first few differences.
    ///
    /// # Panics
    /// Where any flow differs, is missing, or was never sent.
    #[track_caller]
    pub fn assert_equals(&self, exported: &Self) {
        if let Some(differences) = self.differences(exported) {
            panic!("{differences}");
        }
    }
}

/// One flow record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Key.
    pub key: Key,
    /// Packets and octets, as exported.
    pub counts: Counts,
    /// ingressInterface.
    pub interface: u32,
    /// egressInterface.
    pub interface_out: u32,
    /// flowDirection: 0 is in, 1 is out.
    pub direction: u8,
    /// flowStartMilliseconds.
    pub start_ms: u64,
    /// flowEndMilliseconds.
    pub end_ms: u64,
    /// flowEndReason.
    pub reason: u8,
    /// tcpControlBits.
    pub tcp_flags: u8,
    /// minimumTTL.
    pub min_ttl: u8,
    /// maximumTTL.
    pub max_ttl: u8,
    /// samplingInterval.
    pub sampling: u32,
    /// fragmentFlags.
    pub fragment_flags: u8,
    /// ipv4Options or ipv6ExtensionHeaders.
    pub options: u32,
    /// dot1qPriority and dot1qCustomerPriority, where the record has them.
    pub priorities: Option<(u8, u8)>,
}
