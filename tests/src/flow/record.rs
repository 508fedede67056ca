//! Flow records as flowprobe prints them and as a collector has them, and back to JSON.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Around, Counts, Flow, Key, Tunnel};
use crate::ipfix::Record;

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
    ("egressInterface", 14),
    ("sourceIPv6Address", 27),
    ("destinationIPv6Address", 28),
    ("samplingInterval", 34),
    ("minimumTTL", 52),
    ("maximumTTL", 53),
    ("vlanId", 58),
    ("postVlanId", 59),
    ("flowDirection", 61),
    ("ipv6ExtensionHeaders", 64),
    ("mplsTopLabelStackSection", 70),
    ("mplsLabelStackSection2", 71),
    ("mplsLabelStackSection3", 72),
    ("mplsLabelStackSection4", 73),
    ("mplsLabelStackSection5", 74),
    ("mplsLabelStackSection6", 75),
    ("flowEndReason", 136),
    ("flowStartMilliseconds", 152),
    ("flowEndMilliseconds", 153),
    ("fragmentFlags", 197),
    ("ipv4Options", 208),
    ("dot1qVlanId", 243),
    ("dot1qPriority", 244),
    ("dot1qCustomerVlanId", 245),
    ("dot1qCustomerPriority", 246),
    ("greKey", 296),
    ("layer2SegmentId", 351),
    ("gtpuTEid", 507),
];

const LABELS: [&str; 6] = [
    "mplsTopLabelStackSection",
    "mplsLabelStackSection2",
    "mplsLabelStackSection3",
    "mplsLabelStackSection4",
    "mplsLabelStackSection5",
    "mplsLabelStackSection6",
];

fn identifier(name: &str) -> u16 {
    let element = ELEMENTS.iter().find(|(known, _)| *known == name);
    element.expect("a name in the list").1
}

/// A record as printed or as collected.
trait Source {
    /// The last element of this name, which is that of the flow's own packets (RFC 7011 §8).
    fn find(&self, name: &str) -> Option<u64>;
    /// Source and destination of the packets, and outside of them where the record says that too.
    fn addresses(&self) -> Result<(Pair, Option<Pair>)>;
    /// Protocol of the packets outside.
    fn outer_protocol(&self) -> Option<u64>;
    /// For messages.
    fn text(&self) -> String;

    fn number(&self, name: &str) -> Result<u64> {
        let number = self.find(name);
        number.with_context(|| format!("no {name} in {}", self.text()))
    }
}

type Pair = (IpAddr, IpAddr);

impl Source for Value {
    fn find(&self, name: &str) -> Option<u64> {
        self.get(name)?.as_u64()
    }

    fn addresses(&self) -> Result<(Pair, Option<Pair>)> {
        let pair = |object: &Self| -> Result<Pair> {
            let address = |end: &str| -> Result<IpAddr> {
                let names = ["4", "6"].map(|version| format!("{end}IPv{version}Address"));
                let text = names.iter().find_map(|name| object.get(name)?.as_str());
                let text = text.with_context(|| format!("no {end} in {self}"))?;
                text.parse().with_context(|| format!("address {text}"))
            };
            Ok((address("source")?, address("destination")?))
        };
        let outer = self.get("outer").map(pair).transpose()?;
        Ok((pair(self)?, outer))
    }

    fn outer_protocol(&self) -> Option<u64> {
        self.get("outer")?.get("protocolIdentifier")?.as_u64()
    }

    fn text(&self) -> String {
        self.to_string()
    }
}

/// The octets as a number: of any length up to the type's own (RFC 7011 §6.2).
fn number(octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(0, |sum, octet| sum << 8 | u64::from(*octet))
}

impl Source for Record {
    fn find(&self, name: &str) -> Option<u64> {
        let octets = self.all(identifier(name)).last()?;
        Some(number(octets))
    }

    fn addresses(&self) -> Result<(Pair, Option<Pair>)> {
        let mut addresses = Vec::new();
        for (field, octets) in self.fields() {
            match field.id {
                8 | 12 => addresses.push(Ipv4Addr::from(<[u8; 4]>::try_from(octets)?).into()),
                27 | 28 => addresses.push(Ipv6Addr::from(<[u8; 16]>::try_from(octets)?).into()),
                _ => {}
            }
        }
        // RFC 7011 §8: what is of the outer header comes first.
        match addresses[..] {
            [source, destination] => Ok(((source, destination), None)),
            [a, b, source, destination] => Ok(((source, destination), Some((a, b)))),
            _ => bail!("not two or four addresses in {self:?}"),
        }
    }

    fn outer_protocol(&self) -> Option<u64> {
        match self.all(4).collect::<Vec<_>>()[..] {
            [outer, _] => Some(number(outer)),
            _ => None,
        }
    }

    fn text(&self) -> String {
        format!("{self:?}")
    }
}

impl Flow {
    /// From a line of `--output json`.
    ///
    /// # Errors
    /// Where an element is missing or not of its type.
    pub fn from_json(line: &str) -> Result<Self> {
        Self::new(&serde_json::from_str::<Value>(line)?)
    }

    /// From a data record.
    ///
    /// # Errors
    /// Where an element is missing or not of its type.
    pub fn from_ipfix(record: &Record) -> Result<Self> {
        Self::new(record)
    }

    /// One object with IANA's element names, as flowprobe prints flows.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let Around {
            inner_vlan,
            labels,
            tunnel,
        } = self.key.around;
        let mut value = json!({
            "sourceTransportPort": self.key.source_port,
            "destinationTransportPort": self.key.destination_port,
            "protocolIdentifier": self.key.protocol,
            "ipClassOfService": self.key.traffic_class,
            "vlanId": self.key.vlan,
            "packetDeltaCount": self.counts.packets,
            "octetDeltaCount": self.counts.octets,
            "ingressInterface": self.interface,
            "egressInterface": self.interface_out,
            "flowDirection": self.direction,
            "flowStartMilliseconds": self.start_ms,
            "flowEndMilliseconds": self.end_ms,
            "flowEndReason": self.reason,
            "tcpControlBits": self.tcp_flags,
            "minimumTTL": self.min_ttl,
            "maximumTTL": self.max_ttl,
            "fragmentFlags": self.fragment_flags,
            "samplingInterval": self.sampling,
        });
        value[self.options_name()] = self.options.into();
        put_addresses(&mut value, (self.key.source, self.key.destination));
        if let Some((outer, inner)) = self.priorities {
            value["postVlanId"] = inner_vlan.into();
            value["dot1qVlanId"] = self.key.vlan.into();
            value["dot1qPriority"] = outer.into();
            value["dot1qCustomerVlanId"] = inner_vlan.into();
            value["dot1qCustomerPriority"] = inner.into();
            for (name, label) in LABELS.into_iter().zip(labels) {
                value[name] = label.into();
            }
        }
        if let Some(tunnel) = tunnel {
            value["greKey"] = tunnel.gre_key.into();
            value["layer2SegmentId"] = tunnel.segment.into();
            value["gtpuTEid"] = tunnel.teid.into();
            value["outer"] = json!({ "protocolIdentifier": tunnel.protocol });
            put_addresses(&mut value["outer"], (tunnel.source, tunnel.destination));
        }
        value
    }

    fn options_name(&self) -> &'static str {
        if self.key.source.is_ipv4() {
            "ipv4Options"
        } else {
            "ipv6ExtensionHeaders"
        }
    }

    fn new(record: &impl Source) -> Result<Self> {
        let number = |name: &str| record.number(name);
        let ((source, destination), outer) = record.addresses()?;
        let vlan = number("vlanId")?.try_into()?;
        let mut around = Around::default();
        let mut priorities = None;
        // The record has all elements of wide flows, or none.
        if let Some(inner_vlan) = record.find("postVlanId") {
            around.inner_vlan = inner_vlan.try_into()?;
            for (label, name) in around.labels.iter_mut().zip(LABELS) {
                *label = number(name)?.try_into()?;
            }
            ensure!(number("dot1qVlanId")? == u64::from(vlan), "two outer tags");
            ensure!(
                number("dot1qCustomerVlanId")? == inner_vlan,
                "two inner tags"
            );
            let outer = number("dot1qPriority")?.try_into()?;
            priorities = Some((outer, number("dot1qCustomerPriority")?.try_into()?));
        }
        if let Some((source, destination)) = outer {
            let protocol = record.outer_protocol();
            around.tunnel = Some(Tunnel {
                source,
                destination,
                protocol: protocol.context("no outer protocol")?.try_into()?,
                gre_key: number("greKey")?.try_into()?,
                segment: number("layer2SegmentId")?,
                teid: number("gtpuTEid")?.try_into()?,
            });
        }
        let key = Key {
            source,
            destination,
            source_port: number("sourceTransportPort")?.try_into()?,
            destination_port: number("destinationTransportPort")?.try_into()?,
            protocol: number("protocolIdentifier")?.try_into()?,
            traffic_class: number("ipClassOfService")?.try_into()?,
            vlan,
            around,
        };
        let mut flow = Self {
            key,
            counts: Counts {
                packets: number("packetDeltaCount")?,
                octets: number("octetDeltaCount")?,
            },
            interface: number("ingressInterface")?.try_into()?,
            interface_out: number("egressInterface")?.try_into()?,
            direction: number("flowDirection")?.try_into()?,
            start_ms: number("flowStartMilliseconds")?,
            end_ms: number("flowEndMilliseconds")?,
            reason: number("flowEndReason")?.try_into()?,
            tcp_flags: number("tcpControlBits")?.try_into()?,
            min_ttl: number("minimumTTL")?.try_into()?,
            max_ttl: number("maximumTTL")?.try_into()?,
            sampling: number("samplingInterval")?.try_into()?,
            fragment_flags: number("fragmentFlags")?.try_into()?,
            options: 0,
            priorities,
        };
        flow.options = number(flow.options_name())?.try_into()?;
        Ok(flow)
    }
}

/// Puts both addresses under the names of their version.
fn put_addresses(to: &mut Value, (source, destination): Pair) {
    let version = if source.is_ipv4() { 4 } else { 6 };
    to[format!("sourceIPv{version}Address")] = source.to_string().into();
    to[format!("destinationIPv{version}Address")] = destination.to_string().into();
}
