//! Frames built octet by octet, each with what a flow meter has to make of it.
//!
//! Checksums above IP are 0: no meter looks at them, and no host takes these frames, for they
//! are addressed to a station that nobody is.

mod tunnel;

use std::net::IpAddr;

use crate::flow::{Around, Key, Truth};

/// Control bits of TCP (RFC 9293 §3.1).
pub mod flag {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// PSH.
    pub const PSH: u8 = 0x08;
    /// ACK.
    pub const ACK: u8 = 0x10;
}

/// Destination of every frame, locally administered.
pub const DESTINATION_MAC: [u8; 6] = [2, 0, 0, 0, 0xbe, 0xef];
/// Source of every frame.
pub const SOURCE_MAC: [u8; 6] = [2, 0, 0, 0, 0xca, 0xfe];

/// Shortest frame on Ethernet, without its frame check sequence.
pub const MIN_FRAME: usize = 60;

/// A frame and its truth.
#[derive(Clone, Debug)]
pub struct Packet {
    /// Octets from the destination address on, without frame check sequence.
    pub frame: Vec<u8>,
    /// The flow it is in, or `None` where it is in none.
    pub key: Option<Key>,
    /// IP-layer octets.
    pub octets: u64,
    /// TCP control bits.
    pub tcp_flags: u8,
    /// Where the IP packet begins in the frame.
    network: usize,
    /// Flow and IP-layer octets of the packet in the tunnel, where it is one.
    inside: Option<(Key, u64)>,
    /// Whether it is a fragment that is not the first one.
    pub later_fragment: bool,
}

impl Packet {
    /// The same frame as a meter counts it that opens tunnels.
    #[must_use]
    pub fn opened(mut self) -> Self {
        if let Some((key, octets)) = self.inside.take() {
            self.key = Some(key);
            self.octets = octets;
        }
        self
    }

    /// The IP packet, headers included.
    fn ip(&self) -> &[u8] {
        &self.frame[self.network..][..self.octets as usize]
    }
}

/// Adds up what `packets` are, each sent `times`.
pub fn truth(packets: &[Packet], times: u64) -> Truth {
    let mut truth = Truth::default();
    for packet in packets {
        if let Some(key) = packet.key {
            truth.add(key, times, packet.octets * times);
        }
    }
    truth
}

/// Builds IP packets in Ethernet frames.
#[derive(Clone, Debug)]
pub struct Ip {
    source: IpAddr,
    destination: IpAddr,
    tags: Vec<(u16, u16)>,
    traffic_class: u8,
    ttl: u8,
    options: Vec<u8>,
    /// Extension headers: own number, and all octets but the first (next header).
    extensions: Vec<(u8, Vec<u8>)>,
    dont_fragment: bool,
    /// Offset in units of 8 octets, and whether more fragments follow.
    fragment: Option<(u16, bool)>,
    /// What the fragments of a packet share.
    identification: u32,
    /// A later fragment whose first one nobody has seen.
    orphan: bool,
    snap: bool,
    pppoe: bool,
    /// Label, traffic class and bottom of stack of each, top first.
    labels: Vec<u32>,
    pad_to: usize,
}

impl Ip {
    /// From one address to another of the same family.
    ///
    /// # Panics
    /// Where an address does not parse or the families differ.
    #[must_use]
    pub fn new(source: &str, destination: &str) -> Self {
        let address = |text: &str| text.parse::<IpAddr>().expect("an address");
        Self::between(address(source), address(destination))
    }

    /// From one address to another of the same family.
    ///
    /// # Panics
    /// Where the families differ.
    #[must_use]
    pub fn between(source: IpAddr, destination: IpAddr) -> Self {
        assert_eq!(source.is_ipv4(), destination.is_ipv4(), "one family");
        Self {
            source,
            destination,
            tags: Vec::new(),
            traffic_class: 0,
            ttl: 64,
            options: Vec::new(),
            extensions: Vec::new(),
            dont_fragment: false,
            fragment: None,
            identification: 0x1234,
            orphan: false,
            snap: false,
            pppoe: false,
            labels: Vec::new(),
            pad_to: MIN_FRAME,
        }
    }

    /// Adds a VLAN tag inside those already there: 0x8100 (802.1Q) or 0x88a8 (802.1ad).
    #[must_use]
    pub fn tag(self, ethertype: u16, vlan: u16) -> Self {
        // A priority too, which is no part of the identifier.
        self.tag_of_priority(ethertype, vlan, 3)
    }

    /// The same with a priority of one's choice.
    #[must_use]
    pub fn tag_of_priority(mut self, ethertype: u16, vlan: u16, priority: u16) -> Self {
        self.tags.push((ethertype, priority << 13 | vlan));
        self
    }

    /// Puts an LLC and SNAP header (RFC 1042) before what the EtherType names.
    #[must_use]
    pub fn snap(mut self) -> Self {
        self.snap = true;
        self
    }

    /// Puts it into a PPPoE session (RFC 2516 §4).
    #[must_use]
    pub fn pppoe(mut self) -> Self {
        self.pppoe = true;
        self
    }

    /// Adds an MPLS label (RFC 3032 §2.1) below those already there.
    #[must_use]
    pub fn label(mut self, label: u32) -> Self {
        if let Some(above) = self.labels.last_mut() {
            *above &= !1;
        }
        // With a traffic class, which is part of the stack entry.
        self.labels.push(label << 4 | 5 << 1 | 1);
        self
    }

    /// Sets the type of service or traffic class.
    #[must_use]
    pub fn traffic_class(mut self, value: u8) -> Self {
        self.traffic_class = value;
        self
    }

    /// Sets the TTL or hop limit.
    #[must_use]
    pub fn ttl(mut self, value: u8) -> Self {
        self.ttl = value;
        self
    }

    /// Adds `words` times 4 octets of IPv4 options (no operation, RFC 791 §3.1).
    #[must_use]
    pub fn options(self, words: usize) -> Self {
        self.options_of(&vec![1; words * 4])
    }

    /// Adds IPv4 options, whole words.
    #[must_use]
    pub fn options_of(mut self, octets: &[u8]) -> Self {
        self.options = octets.to_vec();
        self
    }

    /// Sets Don't Fragment.
    #[must_use]
    pub fn dont_fragment(mut self) -> Self {
        self.dont_fragment = true;
        self
    }

    /// Adds an IPv6 extension header of `units` times 8 octets: hop-by-hop (0), routing (43),
    /// destination options (60).
    #[must_use]
    pub fn extension(mut self, number: u8, units: u8) -> Self {
        let mut octets = vec![0; usize::from(units) * 8 - 1];
        octets[0] = units - 1;
        // PadN over the rest (RFC 8200 §4.2), which a routing header reads as "type 1, 0 left".
        octets[1] = 1;
        octets[2] = units * 8 - 4;
        self.extensions.push((number, octets));
        self
    }

    /// Makes it a fragment at `offset`, in units of 8 octets.
    #[must_use]
    pub fn fragment(mut self, offset: u16, more: bool) -> Self {
        self.fragment = Some((offset, more));
        self
    }

    /// Sets what the fragments of one packet share.
    #[must_use]
    pub fn identification(mut self, value: u16) -> Self {
        self.identification = value.into();
        self
    }

    /// Makes it a later fragment whose first one was not seen before it: nobody knows its ports.
    #[must_use]
    pub fn orphan(mut self) -> Self {
        self.orphan = true;
        self
    }

    /// Pads the frame behind the IP packet.
    #[must_use]
    pub fn pad_to(mut self, octets: usize) -> Self {
        self.pad_to = octets;
        self
    }

    /// A TCP segment.
    #[must_use]
    pub fn tcp(&self, source: u16, destination: u16, flags: u8, payload: usize) -> Packet {
        let mut header = ports(source, destination).to_vec();
        header.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let mut packet = self.build(6, &header, payload, (source, destination));
        packet.tcp_flags = if self.is_later_fragment() { 0 } else { flags };
        packet
    }

    /// A UDP datagram.
    #[must_use]
    pub fn udp(&self, source: u16, destination: u16, payload: usize) -> Packet {
        let mut header = ports(source, destination).to_vec();
        header.extend(((payload + 8) as u16).to_be_bytes());
        header.extend([0, 0]);
        self.build(17, &header, payload, (source, destination))
    }

    /// ICMP or ICMPv6, whichever belongs to the addresses.
    #[must_use]
    pub fn icmp(&self, kind: u8, code: u8, payload: usize) -> Packet {
        let protocol = if self.source.is_ipv4() { 1 } else { 58 };
        let header = [kind, code, 0, 0, 0, 0, 0, 0];
        let port = u16::from_be_bytes([kind, code]);
        self.build(protocol, &header, payload, (0, port))
    }

    /// SCTP (RFC 9260 §3.1).
    #[must_use]
    pub fn sctp(&self, source: u16, destination: u16, payload: usize) -> Packet {
        let mut header = ports(source, destination).to_vec();
        header.extend([0; 8]);
        self.build(132, &header, payload, (source, destination))
    }

    /// Any other protocol.
    #[must_use]
    pub fn other(&self, protocol: u8, payload: usize) -> Packet {
        self.build(protocol, &[], payload, (0, 0))
    }

    fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(|(offset, _)| offset > 0)
    }

    fn build(&self, protocol: u8, header: &[u8], payload: usize, ports: (u16, u16)) -> Packet {
        let later = self.is_later_fragment();
        // A later fragment has payload where the first one has its header.
        let mut transport = if later {
            vec![0xaa; header.len()]
        } else {
            header.to_vec()
        };
        transport.resize(header.len() + payload, 0xaa);
        let ip = match (self.source, self.destination) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                self.ipv4(protocol, source.octets(), destination.octets(), &transport)
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                self.ipv6(protocol, source.octets(), destination.octets(), &transport)
            }
            _ => unreachable!("one family, as checked when built"),
        };
        let mut frame = self.link(ip.len());
        let network = frame.len();
        frame.extend(&ip);
        // Padding that would change a count if it were taken for payload.
        frame.resize(frame.len().max(self.pad_to), 0x55);
        let (source_port, destination_port) = if self.orphan { (0, 0) } else { ports };
        let vlan = |i: usize| self.tags.get(i).map_or(0, |(_, control)| control & 0x0fff);
        let mut around = Around {
            inner_vlan: vlan(1),
            ..Around::default()
        };
        for (to, label) in around.labels.iter_mut().zip(&self.labels) {
            *to = *label;
        }
        Packet {
            frame,
            key: Some(Key {
                source: self.source,
                destination: self.destination,
                source_port,
                destination_port,
                protocol,
                traffic_class: self.traffic_class,
                vlan: vlan(0),
                around,
            }),
            octets: ip.len() as u64,
            tcp_flags: 0,
            network,
            inside: None,
            later_fragment: later,
        }
    }

    /// Everything before an IP packet of `octets` octets.
    fn link(&self, octets: usize) -> Vec<u8> {
        let v4 = self.source.is_ipv4();
        let mut inner = Vec::new();
        let mut ethertype: u16 = if v4 { 0x0800 } else { 0x86dd };
        let mut ppp: u16 = if v4 { 0x0021 } else { 0x0057 };
        if !self.labels.is_empty() {
            (ethertype, ppp) = (0x8847, 0x0281);
            for entry in &self.labels {
                inner.extend((entry << 8 | u32::from(self.ttl)).to_be_bytes());
            }
        }
        if self.pppoe {
            ethertype = 0x8864;
            // Version and type, session data, session, length with the protocol's own octets.
            let mut header = vec![0x11, 0, 0x0a, 0xbc];
            header.extend(((2 + inner.len() + octets) as u16).to_be_bytes());
            header.extend(ppp.to_be_bytes());
            inner = [header, inner].concat();
        }
        let mut link = [DESTINATION_MAC, SOURCE_MAC].concat();
        for (ethertype, control) in &self.tags {
            link.extend(ethertype.to_be_bytes());
            link.extend(control.to_be_bytes());
        }
        if self.snap {
            link.extend(((8 + inner.len() + octets) as u16).to_be_bytes());
            link.extend([0xaa, 0xaa, 3, 0, 0, 0]);
        }
        link.extend(ethertype.to_be_bytes());
        link.extend(inner);
        link
    }

    fn ipv4(&self, protocol: u8, source: [u8; 4], destination: [u8; 4], data: &[u8]) -> Vec<u8> {
        let header_len = 20 + self.options.len();
        let (offset, more) = self.fragment.unwrap_or((0, false));
        let mut ip = vec![0x40 | (header_len / 4) as u8, self.traffic_class];
        ip.extend(((header_len + data.len()) as u16).to_be_bytes());
        ip.extend((self.identification as u16).to_be_bytes());
        let flags = u16::from(self.dont_fragment) << 14 | u16::from(more) << 13;
        ip.extend((offset | flags).to_be_bytes());
        ip.extend([self.ttl, protocol, 0, 0]);
        ip.extend(source);
        ip.extend(destination);
        ip.extend(&self.options);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum.to_be_bytes());
        ip.extend(data);
        ip
    }

    fn ipv6(&self, protocol: u8, source: [u8; 16], destination: [u8; 16], data: &[u8]) -> Vec<u8> {
        let mut headers = self.extensions.clone();
        if let Some((offset, more)) = self.fragment {
            // RFC 8200 §4.5: reserved, offset and flag, identification.
            let [a, b] = (offset << 3 | u16::from(more)).to_be_bytes();
            let id = self.identification.to_be_bytes();
            headers.push((44, [&[0, a, b], &id[..]].concat()));
        }
        let numbers: Vec<u8> = headers.iter().map(|(number, _)| *number).collect();
        let next = |at: usize| numbers.get(at).copied().unwrap_or(protocol);
        let mut rest = Vec::new();
        for (at, (_, octets)) in headers.iter().enumerate() {
            rest.push(next(at + 1));
            rest.extend(octets);
        }
        rest.extend(data);
        let mut ip = vec![
            0x60 | self.traffic_class >> 4,
            self.traffic_class << 4,
            0,
            0,
        ];
        ip.extend((rest.len() as u16).to_be_bytes());
        ip.extend([next(0), self.ttl]);
        ip.extend(source);
        ip.extend(destination);
        ip.extend(rest);
        ip
    }
}

/// A frame that is not IP, for example ARP (0x0806).
#[must_use]
pub fn not_ip(ethertype: u16) -> Packet {
    raw(&ethertype.to_be_bytes())
}

/// A frame of no flow, from its EtherType on.
#[must_use]
pub fn raw(octets: &[u8]) -> Packet {
    let mut frame = [DESTINATION_MAC, SOURCE_MAC].concat();
    frame.extend(octets);
    frame.resize(frame.len().max(MIN_FRAME), 0);
    Packet {
        frame,
        key: None,
        octets: 0,
        tcp_flags: 0,
        network: 0,
        inside: None,
        later_fragment: false,
    }
}

/// One's complement sum of 16-bit words (RFC 1071).
pub(crate) fn checksum(octets: &[u8]) -> u16 {
    let words = octets.chunks(2).map(|pair| {
        let low = pair.get(1).copied().unwrap_or(0);
        u32::from(u16::from_be_bytes([pair[0], low]))
    });
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ports(source: u16, destination: u16) -> [u8; 4] {
    let [a, b] = source.to_be_bytes();
    let [c, d] = destination.to_be_bytes();
    [a, b, c, d]
}
