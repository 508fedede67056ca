//! Stacks of headers: a description of a frame, the frame, and what a parser has to see in it,
//! worked out from the description alone.

use std::net::IpAddr;

use flowprobe_tests::{
    corpus::{Part, Seen, Tunnel},
    headers::{self, V4, V6, ether, ethertype, protocol},
};

/// Limits that the product names; a test compares them.
pub(crate) const TAGS: usize = 4;
pub(crate) const LABELS: usize = 6;
pub(crate) const EXTENSIONS: usize = 8;

/// A frame, described.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    pub(crate) link: Link,
    pub(crate) packet: Packet,
    /// What is in the packet instead of transport and payload.
    pub(crate) tunnel: Option<Inside>,
    /// Octets behind the IP packet.
    pub(crate) padding: usize,
}

/// What stands between the MAC addresses and IP.
#[derive(Clone, Debug, Default)]
pub(crate) struct Link {
    /// EtherType and tag control information of each tag.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) snap: bool,
    pub(crate) pppoe: bool,
    /// Label and traffic class.
    pub(crate) labels: Vec<(u32, u8)>,
}

/// An IP packet.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) network: Network,
    pub(crate) transport: Transport,
    /// Octets behind the transport header.
    pub(crate) payload: usize,
    /// How many octets of what IP carries its length field admits to, if not all: the rest is
    /// then padding to it.
    pub(crate) admitted: Option<usize>,
}

#[derive(Clone, Debug)]
pub(crate) enum Network {
    V4(V4),
    V6(V6),
}

/// A tunnel and the packet in it.
#[derive(Clone, Debug)]
pub(crate) struct Inside {
    pub(crate) kind: Kind,
    /// Between the tunnel's header and the packet, where the tunnel carries Ethernet.
    pub(crate) link: Link,
    pub(crate) packet: Packet,
    /// Octets behind the packet, in the tunnel.
    pub(crate) padding: usize,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Ip,
    /// Checksum, key, sequence number.
    Gre(bool, Option<u32>, bool),
    /// Ethernet in GRE, likewise.
    Bridged(bool, Option<u32>, bool),
    Vxlan(u32),
    /// Words of options; whether Ethernet is inside.
    Geneve(u32, u8, bool),
    /// Sequence number; extension headers.
    Gtpu(u32, bool, usize),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Tcp(u16, u16, u8),
    Udp(u16, u16),
    UdpLite(u16, u16),
    Sctp(u16, u16),
    Dccp(u16, u16),
    Icmp(u8, u8),
    Icmpv6(u8, u8),
    Other(u8),
}

impl Transport {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Icmp(..) => protocol::ICMP,
            Self::Tcp(..) => protocol::TCP,
            Self::Udp(..) => protocol::UDP,
            Self::Dccp(..) => protocol::DCCP,
            Self::Icmpv6(..) => protocol::ICMPV6,
            Self::Sctp(..) => protocol::SCTP,
            Self::UdpLite(..) => protocol::UDP_LITE,
            Self::Other(number) => number,
        }
    }

    /// Octets that hold all that a flow needs of the header.
    pub(crate) fn needed(self) -> usize {
        match self {
            Self::Tcp(..) => 14,
            Self::Icmp(..) | Self::Icmpv6(..) => 2,
            Self::Other(_) => 0,
            _ => 4,
        }
    }

    fn ports(self) -> (u16, u16) {
        match self {
            Self::Tcp(a, b, _)
            | Self::Udp(a, b)
            | Self::UdpLite(a, b)
            | Self::Sctp(a, b)
            | Self::Dccp(a, b) => (a, b),
            Self::Icmp(kind, code) | Self::Icmpv6(kind, code) => {
                (0, u16::from(kind) * 256 + u16::from(code))
            }
            Self::Other(_) => (0, 0),
        }
    }

    fn with(self, payload: usize) -> Vec<u8> {
        let octets = vec![0x77; payload];
        match self {
            Self::Icmp(kind, code) | Self::Icmpv6(kind, code) => headers::icmp(kind, code, &octets),
            Self::Other(_) => octets,
            Self::Tcp(a, b, flags) => headers::tcp(a, b, flags, payload),
            Self::Udp(a, b) => headers::udp(a, b, &octets),
            Self::UdpLite(a, b) | Self::Sctp(a, b) | Self::Dccp(a, b) => {
                headers::with_ports(a, b, payload + 8)
            }
        }
    }
}

impl Link {
    /// The EtherType of the outermost header, and `packet` behind all of them.
    fn around(&self, version_type: u16, packet: &[u8]) -> (u16, Vec<u8>) {
        let (mut kind, mut octets) = (version_type, packet.to_vec());
        if !self.labels.is_empty() {
            octets = headers::mpls(&self.labels, &octets);
            kind = ethertype::MPLS;
        }
        if self.pppoe {
            let ppp = match kind {
                ethertype::IPV4 => 0x0021,
                ethertype::IPV6 => 0x0057,
                _ => 0x0281,
            };
            octets = headers::pppoe(0, ppp, &octets);
            kind = ethertype::PPPOE;
        }
        if self.snap {
            octets = headers::snap([0, 0, 0], kind, &octets);
            // What is longer is no length (IEEE 802.3 §3.2.6), whatever hosts send.
            kind = octets.len().min(1500) as u16;
        }
        headers::tags(&self.tags, kind, &octets)
    }

    /// Octets before the IP packet, Ethernet header included.
    pub(crate) fn len(&self) -> usize {
        let (_, octets) = self.around(ethertype::IPV4, &[]);
        14 + octets.len()
    }

    fn vlans(&self) -> Vec<u16> {
        self.tags
            .iter()
            .map(|(_, control)| control & 0xfff)
            .collect()
    }
}

impl Packet {
    pub(crate) fn version_type(&self) -> u16 {
        match self.network {
            Network::V4(_) => ethertype::IPV4,
            Network::V6(_) => ethertype::IPV6,
        }
    }

    /// The packet, with `carried` in it.
    fn with(&self, carried: &[u8]) -> Vec<u8> {
        let admitted = self.admitted(carried.len());
        match &self.network {
            Network::V4(v4) => {
                let mut v4 = v4.clone();
                v4.total = Some((self.header_len() + admitted) as u16);
                v4.with(carried)
            }
            Network::V6(v6) => {
                let mut v6 = v6.clone();
                v6.length = Some((self.header_len() - 40 + admitted) as u16);
                v6.with(carried)
            }
        }
    }

    fn carried(&self) -> Vec<u8> {
        self.transport.with(self.payload)
    }

    fn admitted(&self, carried: usize) -> usize {
        self.admitted.map_or(carried, |octets| octets.min(carried))
    }

    fn header_len(&self) -> usize {
        match &self.network {
            Network::V4(v4) => 20 + v4.options.len(),
            Network::V6(v6) => {
                let extensions = v6.extensions.iter();
                40 + extensions
                    .map(|header| 1 + header.rest.len())
                    .sum::<usize>()
            }
        }
    }

    /// What is in it, where it carries `carried` octets.
    fn seen(&self, carried: usize) -> Result<Seen, &'static str> {
        let octets = self.header_len() + self.admitted(carried);
        let mut seen = match &self.network {
            Network::V4(v4) => {
                let part = match (v4.fragment & 0x1fff, v4.fragment & 0x2000) {
                    (0, 0) => Part::Whole,
                    (0, _) => Part::First(v4.id.into()),
                    _ => Part::Later(v4.id.into()),
                };
                Seen {
                    source: IpAddr::from(v4.source),
                    destination: IpAddr::from(v4.destination),
                    traffic_class: v4.tos,
                    ttl: v4.ttl,
                    flow_label: 0,
                    // Options of stacks are all No Operation, the seventh bit from the left.
                    options: if v4.options.is_empty() { 0 } else { 1 << 25 },
                    fragment_flags: (v4.fragment >> 8) as u8 & 0x60,
                    part,
                    ..self.blank(octets)
                }
            }
            Network::V6(v6) => {
                let chain = walk(v6, self.transport.number())?;
                Seen {
                    source: IpAddr::from(v6.source),
                    destination: IpAddr::from(v6.destination),
                    traffic_class: v6.class,
                    ttl: v6.hop_limit,
                    flow_label: v6.label,
                    options: chain.options,
                    fragment_flags: chain.more,
                    part: chain.part,
                    protocol: chain.protocol,
                    ..self.blank(octets)
                }
            }
        };
        if !matches!(seen.part, Part::Later(_)) {
            if self.admitted(carried) < self.transport.needed() {
                return Err("truncated_transport");
            }
            seen.ports = self.transport.ports();
            if let Transport::Tcp(_, _, flags) = self.transport {
                seen.tcp_flags = flags;
            }
        }
        Ok(seen)
    }

    fn blank(&self, octets: usize) -> Seen {
        let nobody = IpAddr::from([0, 0, 0, 0]);
        Seen {
            source: nobody,
            destination: nobody,
            ports: (0, 0),
            protocol: self.transport.number(),
            traffic_class: 0,
            ttl: 0,
            tcp_flags: 0,
            octets: octets as u32,
            flow_label: 0,
            options: 0,
            fragment_flags: 0,
            part: Part::Whole,
            vlans: Vec::new(),
            priorities: (0, 0),
            labels: Vec::new(),
            tunnel: None,
        }
    }
}

/// What a chain of extension headers says.
struct Chain {
    options: u32,
    more: u8,
    part: Part,
    protocol: u8,
}

/// Bits of ipv6ExtensionHeaders, by their places in the registry's figure.
fn bit(number: u8) -> u32 {
    let place = match number {
        protocol::DESTINATION => 0,
        protocol::HOP_BY_HOP => 1,
        protocol::HIP | protocol::SHIM6 => 3,
        protocol::FRAGMENT => 4,
        protocol::ROUTING => 5,
        protocol::MOBILITY => 12,
        protocol::ESP => 13,
        protocol::AH => 14,
        _ => return 0,
    };
    1 << (31 - place)
}

fn walk(v6: &V6, last: u8) -> Result<Chain, &'static str> {
    let mut chain = Chain {
        options: 0,
        more: 0,
        part: Part::Whole,
        protocol: last,
    };
    let numbers = v6.extensions.iter().map(|header| header.number);
    let next = numbers.skip(1).chain([last]);
    for (i, (header, next)) in v6.extensions.iter().zip(next).enumerate() {
        if i == EXTENSIONS {
            return Err("too_many_extensions");
        }
        if header.number != protocol::FRAGMENT {
            chain.options |= bit(header.number);
            continue;
        }
        let [_, a, b, ref id @ ..] = header.rest[..] else {
            panic!("a fragment header of {:?}", header.rest);
        };
        let field = u16::from_be_bytes([a, b]);
        let id = u32::from_be_bytes(id.try_into().expect("four octets"));
        if field & 1 != 0 {
            chain.more = 0x20;
        }
        if field >> 3 != 0 {
            // The header of a later fragment: place 6.
            chain.options = chain.options & !bit(protocol::FRAGMENT) | 1 << (31 - 6);
            chain.part = Part::Later(id);
            chain.protocol = next;
            return Ok(chain);
        }
        chain.options |= bit(protocol::FRAGMENT);
        chain.part = if field & 1 != 0 {
            Part::First(id)
        } else {
            Part::Whole
        };
    }
    chain.options |= if last == protocol::ESP { bit(last) } else { 0 };
    Ok(chain)
}

impl Inside {
    fn carries_ethernet(&self) -> bool {
        matches!(
            self.kind,
            Kind::Bridged(..) | Kind::Vxlan(_) | Kind::Geneve(_, _, true)
        )
    }

    /// The transport of the packet outside.
    pub(crate) fn transport(&self) -> Transport {
        match (self.kind, &self.packet.network) {
            (Kind::Ip, Network::V4(_)) => Transport::Other(protocol::IPV4),
            (Kind::Ip, Network::V6(_)) => Transport::Other(protocol::IPV6),
            (Kind::Gre(..) | Kind::Bridged(..), _) => Transport::Other(protocol::GRE),
            (Kind::Vxlan(_), _) => Transport::Udp(50000, 4789),
            (Kind::Geneve(..), _) => Transport::Udp(50000, 6081),
            (Kind::Gtpu(..), _) => Transport::Udp(2152, 2152),
        }
    }

    /// What the packet outside carries.
    fn carried(&self) -> Vec<u8> {
        let mut inside = self.packet.with(&self.packet.carried());
        let mut kind = self.packet.version_type();
        if self.carries_ethernet() {
            let (outermost, octets) = self.link.around(kind, &inside);
            inside = ether(outermost, &octets);
            kind = ethertype::BRIDGED;
        }
        inside.resize(inside.len() + self.padding, 0x66);
        let udp = |octets: &[u8]| match self.transport() {
            Transport::Udp(a, b) => headers::udp(a, b, octets),
            other => panic!("{other:?} is not UDP"),
        };
        match self.kind {
            Kind::Ip => inside,
            Kind::Gre(checksum, key, sequence) | Kind::Bridged(checksum, key, sequence) => {
                let flags = u16::from(checksum) << 15
                    | u16::from(key.is_some()) << 13
                    | u16::from(sequence) << 12;
                let checksum = checksum.then_some(0xcccc_0000);
                let sequence = sequence.then_some(9);
                let fields: Vec<u32> = [checksum, key, sequence].into_iter().flatten().collect();
                headers::gre(flags, kind, &fields, &inside)
            }
            Kind::Vxlan(vni) => udp(&headers::vxlan(8, vni, &inside)),
            Kind::Geneve(vni, words, _) => {
                let options = vec![0; usize::from(words) * 4];
                udp(&headers::geneve(
                    words,
                    0,
                    kind,
                    vni,
                    &[options, inside].concat(),
                ))
            }
            Kind::Gtpu(teid, sequence, extensions) => {
                let flags = 0x30 | u8::from(sequence) << 1 | u8::from(extensions > 0) << 2;
                let mut rest = Vec::new();
                if sequence || extensions > 0 {
                    rest.extend([0, 7, 0, u8::from(extensions > 0) * 0x85]);
                }
                for left in (0..extensions).rev() {
                    rest.extend([1, 0, 9, u8::from(left > 0) * 0x85]);
                }
                udp(&headers::gtpu(flags, 255, teid, &[rest, inside].concat()))
            }
        }
    }

    /// Kind and identifier.
    fn name(&self) -> (&'static str, u32) {
        match self.kind {
            Kind::Ip => ("ip", 0),
            Kind::Bridged(false, Some(key), false) => ("nvgre", key >> 8),
            Kind::Gre(_, key, _) | Kind::Bridged(_, key, _) => ("gre", key.unwrap_or(0)),
            Kind::Vxlan(vni) => ("vxlan", vni),
            Kind::Geneve(vni, ..) => ("geneve", vni),
            Kind::Gtpu(teid, ..) => ("gtpu", teid),
        }
    }
}

impl Stack {
    /// A packet with nothing special around it.
    pub(crate) fn of(network: Network, transport: Transport) -> Self {
        Self {
            link: Link::default(),
            packet: Packet {
                network,
                transport,
                payload: 30,
                admitted: None,
            },
            tunnel: None,
            padding: 0,
        }
    }

    pub(crate) fn v4(transport: Transport) -> Self {
        Self::of(Network::V4(headers::v4(transport.number())), transport)
    }

    pub(crate) fn v6(transport: Transport, extensions: &[headers::Extension]) -> Self {
        let v6 = headers::v6(transport.number(), extensions);
        Self::of(Network::V6(v6), transport)
    }

    fn carried(&self) -> Vec<u8> {
        match &self.tunnel {
            Some(tunnel) => tunnel.carried(),
            None => self.packet.carried(),
        }
    }

    /// Octets of the IP packet by its own length field.
    pub(crate) fn ip_len(&self) -> usize {
        self.packet.header_len() + self.packet.admitted(self.carried().len())
    }

    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let packet = self.packet.with(&self.carried());
        let (kind, octets) = self.link.around(self.packet.version_type(), &packet);
        headers::padded(ether(kind, &octets), self.padding)
    }

    /// What is in the packet outside.
    pub(crate) fn outer(&self) -> Result<Seen, &'static str> {
        if self.link.tags.len() > TAGS {
            return Err("too_many_tags");
        }
        if self.link.labels.len() > LABELS {
            return Err("too_many_labels");
        }
        let seen = self.packet.seen(self.carried().len())?;
        Ok(under(seen, &self.link, &Link::default()))
    }

    /// What is in the packet inside the tunnel, or outside where there is none to be opened.
    pub(crate) fn inner(&self) -> Result<Seen, &'static str> {
        let outer = self.outer()?;
        let Some(tunnel) = &self.tunnel else {
            return Ok(outer);
        };
        let link = if tunnel.carries_ethernet() {
            tunnel.link.clone()
        } else {
            Link::default()
        };
        let too_many = self.link.tags.len() + link.tags.len() > TAGS
            || self.link.labels.len() + link.labels.len() > LABELS
            || matches!(tunnel.kind, Kind::Gtpu(_, _, extensions) if extensions > 4);
        if outer.part != Part::Whole || too_many {
            return Ok(outer);
        }
        let Ok(inner) = tunnel.packet.seen(tunnel.packet.carried().len()) else {
            return Ok(outer);
        };
        let (kind, id) = tunnel.name();
        Ok(Seen {
            tunnel: Some(Tunnel {
                kind,
                id,
                source: outer.source,
                destination: outer.destination,
                protocol: outer.protocol,
            }),
            ..under(inner, &self.link, &link)
        })
    }
}

/// A packet under the headers of one link, and those of another in a tunnel.
fn under(seen: Seen, outer: &Link, inner: &Link) -> Seen {
    let controls = || outer.tags.iter().chain(&inner.tags);
    let mut priorities = controls().map(|(_, control)| (control >> 13) as u8);
    Seen {
        vlans: [outer.vlans(), inner.vlans()].concat(),
        priorities: (
            priorities.next().unwrap_or(0),
            priorities.next().unwrap_or(0),
        ),
        labels: [&outer.labels[..], &inner.labels[..]].concat(),
        ..seen
    }
}
