//! Flows as the tests compare them: what was sent, what was printed, what was collected.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::ipfix::Record;

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
}

/// Names and identifiers of the information elements compared, in IANA's registry.
const ELEMENTS: &[(&str, u16)] = &[
    ("octetDeltaCount", 1),
    ("packetDeltaCount", 2),
    ("protocolIdentifier", 4),
    ("ipClassOfService", 5),
    ("tcpControlBits", 6),
    ("sourceTransportPort", 7),
    ("sourceIPv4Address", 8),
    ("ingressInterface", 10),
    ("destinationTransportPort", 11),
    ("destinationIPv4Address", 12),
    ("sourceIPv6Address", 27),
    ("destinationIPv6Address", 28),
    ("samplingInterval", 34),
    ("minimumTTL", 52),
    ("maximumTTL", 53),
    ("vlanId", 58),
    ("flowEndReason", 136),
    ("flowStartMilliseconds", 152),
    ("flowEndMilliseconds", 153),
];

fn identifier(name: &str) -> u16 {
    let element = ELEMENTS.iter().find(|(known, _)| *known == name);
    element.expect("a name in the list").1
}

impl Flow {
    /// From a line of `--output json`.
    ///
    /// # Errors
    /// Where an element is missing or not of its type.
    pub fn from_json(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line)?;
        let number = |name: &str| {
            let number = value.get(name).and_then(Value::as_u64);
            number.with_context(|| format!("no {name} in {line}"))
        };
        let address = |v4: &str, v6: &str| {
            let text = value.get(v4).or(value.get(v6)).and_then(Value::as_str);
            let text = text.with_context(|| format!("no {v4} and no {v6} in {line}"))?;
            text.parse().with_context(|| format!("address {text}"))
        };
        Self::new(number, address)
    }

    /// From a data record.
    ///
    /// # Errors
    /// Where an element is missing or not of its type.
    pub fn from_ipfix(record: &Record) -> Result<Self> {
        let number = |name: &str| {
            let octets = record.get(identifier(name));
            let octets = octets.with_context(|| format!("no {name} in {record:?}"))?;
            // RFC 7011 §6.2: any number of octets up to the type's own.
            Ok(octets
                .iter()
                .fold(0, |sum, octet| sum << 8 | u64::from(*octet)))
        };
        let address = |v4: &str, v6: &str| {
            if let Some(octets) = record.get(identifier(v4)) {
                return Ok(Ipv4Addr::from(<[u8; 4]>::try_from(octets)?).into());
            }
            let Some(octets) = record.get(identifier(v6)) else {
                bail!("no {v4} and no {v6} in {record:?}");
            };
            Ok(Ipv6Addr::from(<[u8; 16]>::try_from(octets)?).into())
        };
        Self::new(number, address)
    }

    /// One object with IANA's element names, as flowprobe prints flows.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let addresses = match self.key.source {
            IpAddr::V4(_) => ["sourceIPv4Address", "destinationIPv4Address"],
            IpAddr::V6(_) => ["sourceIPv6Address", "destinationIPv6Address"],
        };
        let mut value = json!({
            "sourceTransportPort": self.key.source_port,
            "destinationTransportPort": self.key.destination_port,
            "protocolIdentifier": self.key.protocol,
            "ipClassOfService": self.key.traffic_class,
            "vlanId": self.key.vlan,
            "packetDeltaCount": self.counts.packets,
            "octetDeltaCount": self.counts.octets,
            "ingressInterface": self.interface,
            "flowStartMilliseconds": self.start_ms,
            "flowEndMilliseconds": self.end_ms,
            "flowEndReason": self.reason,
            "tcpControlBits": self.tcp_flags,
            "minimumTTL": self.min_ttl,
            "maximumTTL": self.max_ttl,
            "samplingInterval": self.sampling,
        });
        value[addresses[0]] = self.key.source.to_string().into();
        value[addresses[1]] = self.key.destination.to_string().into();
        value
    }

    fn new(
        number: impl Fn(&str) -> Result<u64>,
        address: impl Fn(&str, &str) -> Result<IpAddr>,
    ) -> Result<Self> {
        let key = Key {
            source: address("sourceIPv4Address", "sourceIPv6Address")?,
            destination: address("destinationIPv4Address", "destinationIPv6Address")?,
            source_port: number("sourceTransportPort")?.try_into()?,
            destination_port: number("destinationTransportPort")?.try_into()?,
            protocol: number("protocolIdentifier")?.try_into()?,
            traffic_class: number("ipClassOfService")?.try_into()?,
            vlan: number("vlanId")?.try_into()?,
        };
        Ok(Self {
            key,
            counts: Counts {
                packets: number("packetDeltaCount")?,
                octets: number("octetDeltaCount")?,
            },
            interface: number("ingressInterface")?.try_into()?,
            start_ms: number("flowStartMilliseconds")?,
            end_ms: number("flowEndMilliseconds")?,
            reason: number("flowEndReason")?.try_into()?,
            tcp_flags: number("tcpControlBits")?.try_into()?,
            min_ttl: number("minimumTTL")?.try_into()?,
            max_ttl: number("maximumTTL")?.try_into()?,
            sampling: number("samplingInterval")?.try_into()?,
        })
    }
}
