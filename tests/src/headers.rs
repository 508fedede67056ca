//! Headers octet by octet, as their standards draw them, also where they are wrong: what a builder
//! refuses to make is what a parser has to survive.
//!
//! Each function takes what the header holds and returns it with the header before it.

use crate::packets::{DESTINATION_MAC, SOURCE_MAC, checksum};

/// EtherTypes.
pub mod ethertype {
    /// IPv4.
    pub const IPV4: u16 = 0x0800;
    /// IPv6.
    pub const IPV6: u16 = 0x86dd;
    /// 802.1Q.
    pub const C_TAG: u16 = 0x8100;
    /// 802.1ad.
    pub const S_TAG: u16 = 0x88a8;
    /// Tags in tags, before there was a standard.
    pub const OLD_TAG: u16 = 0x9100;
    /// PPPoE session.
    pub const PPPOE: u16 = 0x8864;
    /// MPLS.
    pub const MPLS: u16 = 0x8847;
    /// An Ethernet frame.
    pub const BRIDGED: u16 = 0x6558;
}

/// IP protocols and next headers.
pub mod protocol {
    /// Hop-by-Hop Options.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP.
    pub const ICMP: u8 = 1;
    /// IGMP.
    pub const IGMP: u8 = 2;
    /// IPv4 in IP.
    pub const IPV4: u8 = 4;
    /// TCP.
    pub const TCP: u8 = 6;
    /// UDP.
    pub const UDP: u8 = 17;
    /// DCCP.
    pub const DCCP: u8 = 33;
    /// IPv6 in IP.
    pub const IPV6: u8 = 41;
    /// Routing header.
    pub const ROUTING: u8 = 43;
    /// Fragment header.
    pub const FRAGMENT: u8 = 44;
    /// GRE.
    pub const GRE: u8 = 47;
    /// ESP.
    pub const ESP: u8 = 50;
    /// Authentication Header.
    pub const AH: u8 = 51;
    /// ICMPv6.
    pub const ICMPV6: u8 = 58;
    /// No Next Header.
    pub const NONE: u8 = 59;
    /// Destination Options.
    pub const DESTINATION: u8 = 60;
    /// SCTP.
    pub const SCTP: u8 = 132;
    /// Mobility.
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite.
    pub const UDP_LITE: u8 = 136;
    /// HIP.
    pub const HIP: u8 = 139;
    /// Shim6.
    pub const SHIM6: u8 = 140;
}

fn after<const N: usize>(header: [u8; N], payload: &[u8]) -> Vec<u8> {
    [&header[..], payload].concat()
}

/// An Ethernet frame (IEEE 802.3 §3.1.1).
#[must_use]
pub fn ether(ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let mut frame = [DESTINATION_MAC, SOURCE_MAC].concat();
    frame.extend(ethertype.to_be_bytes());
    frame.extend(payload);
    frame
}

/// What stands behind a tag's EtherType (IEEE 802.1Q §9.6): priority (3 bits), drop eligible (1)
/// and identifier (12), then the EtherType of what the tag holds.
#[must_use]
pub fn tag(control: u16, ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let ([a, b], [c, d]) = (control.to_be_bytes(), ethertype.to_be_bytes());
    after([a, b, c, d], payload)
}

/// Tags one in the other: EtherType and control of each, outermost first. Returns the EtherType of
/// the outermost with what stands behind it.
#[must_use]
pub fn tags(tags: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> (u16, Vec<u8>) {
    tags.iter().rev().fold(
        (ethertype, payload.to_vec()),
        |(kind, inside), (own, control)| (*own, tag(*control, kind, &inside)),
    )
}

/// LLC with an unnumbered control field (IEEE 802.2 §3.2).
#[must_use]
pub fn llc(dsap: u8, ssap: u8, payload: &[u8]) -> Vec<u8> {
    after([dsap, ssap, 3], payload)
}

/// LLC and SNAP (RFC 1042): an organisation and its protocol.
#[must_use]
pub fn snap(organisation: [u8; 3], protocol: u16, payload: &[u8]) -> Vec<u8> {
    let ([a, b, c], [d, e]) = (organisation, protocol.to_be_bytes());
    llc(0xaa, 0xaa, &after([a, b, c, d, e], payload))
}

/// A frame whose EtherType field is a length (IEEE 802.3 §3.2.6).
#[must_use]
pub fn ether_of_length(payload: &[u8]) -> Vec<u8> {
    ether(payload.len() as u16, payload)
}

/// PPPoE (RFC 2516 §4) with a PPP protocol (RFC 1661 §2).
#[must_use]
pub fn pppoe(code: u8, protocol: u16, payload: &[u8]) -> Vec<u8> {
    let [a, b] = (payload.len() as u16 + 2).to_be_bytes();
    let [c, d] = protocol.to_be_bytes();
    after([0x11, code, 0x12, 0x34, a, b, c, d], payload)
}

/// A stack of labels with their traffic classes, top first (RFC 3032 §2.1). The last is the bottom.
#[must_use]
pub fn mpls(labels: &[(u32, u8)], payload: &[u8]) -> Vec<u8> {
    let mut stack = Vec::new();
    for (i, (label, class)) in labels.iter().enumerate() {
        let bottom = u32::from(i + 1 == labels.len());
        let entry = label << 12 | u32::from(*class) << 9 | bottom << 8 | 64;
        stack.extend(entry.to_be_bytes());
    }
    stack.extend(payload);
    stack
}

/// An IPv4 header (RFC 791 §3.1).
#[derive(Clone, Debug)]
pub struct V4 {
    /// 4.
    pub version: u8,
    /// Header length in words, if not the true one.
    pub words: Option<u8>,
    /// Type of service.
    pub tos: u8,
    /// Total length, if not the true one.
    pub total: Option<u16>,
    /// Identification.
    pub id: u16,
    /// Flags (3 bits) and fragment offset (13).
    pub fragment: u16,
    /// Time to live.
    pub ttl: u8,
    /// Protocol.
    pub protocol: u8,
    /// Source address.
    pub source: [u8; 4],
    /// Destination address.
    pub destination: [u8; 4],
    /// Options; filled up to words with the end of the list.
    pub options: Vec<u8>,
}

/// An IPv4 header of a packet with `protocol` in it.
#[must_use]
pub fn v4(protocol: u8) -> V4 {
    V4 {
        version: 4,
        words: None,
        tos: 0xb8,
        total: None,
        id: 0xaabb,
        fragment: 0x4000,
        ttl: 61,
        protocol,
        source: [10, 1, 2, 3],
        destination: [192, 0, 2, 9],
        options: Vec::new(),
    }
}

impl V4 {
    /// The packet.
    #[must_use]
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let len = 20 + options.len();
        let total = self.total.unwrap_or((len + payload.len()) as u16);
        let words = self.words.unwrap_or((len / 4) as u8);
        let mut packet = vec![self.version << 4 | words, self.tos];
        for field in [total, self.id, self.fragment] {
            packet.extend(field.to_be_bytes());
        }
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend([self.source, self.destination].concat());
        packet.extend(options);
        let sum = checksum(&packet).to_be_bytes();
        packet[10..12].copy_from_slice(&sum);
        packet.extend(payload);
        packet
    }

    /// The packet in a frame.
    #[must_use]
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ether(ethertype::IPV4, &self.with(payload))
    }
}

/// An IPv6 header (RFC 8200 §3) with its extension headers.
#[derive(Clone, Debug)]
pub struct V6 {
    /// 6.
    pub version: u8,
    /// Traffic class.
    pub class: u8,
    /// Flow label.
    pub label: u32,
    /// Payload length, if not the true one.
    pub length: Option<u16>,
    /// Hop limit.
    pub hop_limit: u8,
    /// Source address.
    pub source: [u8; 16],
    /// Destination address.
    pub destination: [u8; 16],
    /// Extension headers.
    pub extensions: Vec<Extension>,
    /// What is behind them.
    pub protocol: u8,
}

/// An extension header.
#[derive(Clone, Debug)]
pub struct Extension {
    /// Its number.
    pub number: u8,
    /// Its octets, but for the first, which says what follows.
    pub rest: Vec<u8>,
}

/// An extension header with a length in units of 8 octets, the first not counted (RFC 8200 §4).
#[must_use]
pub fn extension(number: u8, units: u8) -> Extension {
    let mut rest = vec![units];
    // PadN of each kind of options (RFC 8200 §4.2), an unknown type to other headers.
    let len = 7 + 8 * usize::from(units);
    rest.extend([1, len.saturating_sub(3) as u8]);
    rest.resize(len, 0);
    Extension { number, rest }
}

/// An Authentication Header with a length in words, less two (RFC 4302 §2.2).
#[must_use]
pub fn ah(words: u8) -> Extension {
    let mut rest = vec![words];
    rest.resize(7 + 4 * usize::from(words), 0x11);
    Extension {
        number: protocol::AH,
        rest,
    }
}

/// A Fragment header (RFC 8200 §4.5): offset (13 bits), reserved (2) and more fragments (1).
#[must_use]
pub fn fragment(field: u16, id: u32) -> Extension {
    let ([a, b], [c, d, e, f]) = (field.to_be_bytes(), id.to_be_bytes());
    Extension {
        number: protocol::FRAGMENT,
        rest: vec![0, a, b, c, d, e, f],
    }
}

/// A Segment Routing Header (RFC 8754 §2) over `segments` addresses.
#[must_use]
pub fn srh(segments: u8) -> Extension {
    let last = segments - 1;
    let mut rest = vec![2 * segments, 4, last, last, 0, 0, 0];
    rest.resize(7 + 16 * usize::from(segments), 0xfc);
    Extension {
        number: protocol::ROUTING,
        rest,
    }
}

/// An IPv6 header of a packet with `protocol` in it.
#[must_use]
pub fn v6(protocol: u8, extensions: &[Extension]) -> V6 {
    let mut source = [0; 16];
    source[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    let mut destination = source;
    (source[15], destination[15]) = (1, 2);
    V6 {
        version: 6,
        class: 0x2e,
        label: 0xa_bcde,
        length: None,
        hop_limit: 59,
        source,
        destination,
        extensions: extensions.to_vec(),
        protocol,
    }
}

impl V6 {
    /// The packet.
    #[must_use]
    pub fn with(&self, payload: &[u8]) -> Vec<u8> {
        let numbers = self.extensions.iter().map(|header| header.number);
        let mut numbers = numbers.chain([self.protocol]);
        let first = numbers.next().unwrap_or(self.protocol);
        let mut rest = Vec::new();
        for (header, next) in self.extensions.iter().zip(numbers) {
            rest.push(next);
            rest.extend(&header.rest);
        }
        rest.extend(payload);
        let word = u32::from(self.version) << 28 | u32::from(self.class) << 20 | self.label;
        let mut packet = word.to_be_bytes().to_vec();
        packet.extend(self.length.unwrap_or(rest.len() as u16).to_be_bytes());
        packet.extend([first, self.hop_limit]);
        packet.extend([self.source, self.destination].concat());
        packet.extend(rest);
        packet
    }

    /// The packet in a frame.
    #[must_use]
    pub fn frame(&self, payload: &[u8]) -> Vec<u8> {
        ether(ethertype::IPV6, &self.with(payload))
    }
}

fn ports(source: u16, destination: u16) -> Vec<u8> {
    [source.to_be_bytes(), destination.to_be_bytes()].concat()
}

/// TCP (RFC 9293 §3.1) with `flags` and `payload` octets.
#[must_use]
pub fn tcp(source: u16, destination: u16, flags: u8, payload: usize) -> Vec<u8> {
    let mut segment = ports(source, destination);
    segment.extend([0xde, 0xad, 0xbe, 0xef, 0xca, 0xfe, 0xba, 0xbe, 0x50, flags]);
    segment.extend([0xff; 6]);
    segment.resize(segment.len() + payload, 0x77);
    segment
}

/// UDP (RFC 768).
#[must_use]
pub fn udp(source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = ports(source, destination);
    datagram.extend((payload.len() as u16 + 8).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// SCTP (RFC 9260 §3.1), UDP-Lite (RFC 3828 §3.1), DCCP (RFC 4340 §5.1): ports, then `rest` octets.
#[must_use]
pub fn with_ports(source: u16, destination: u16, rest: usize) -> Vec<u8> {
    let mut packet = ports(source, destination);
    packet.resize(4 + rest, 0x5c);
    packet
}

/// ICMP (RFC 792) or ICMPv6 (RFC 4443 §2.1), with the quoted or echoed data.
#[must_use]
pub fn icmp(kind: u8, code: u8, data: &[u8]) -> Vec<u8> {
    after([kind, code, 0, 0, 0, 0, 0, 0], data)
}

/// GRE (RFC 2784 §2.1, RFC 2890 §2): flags and version, then `fields` as the flags say.
#[must_use]
pub fn gre(flags: u16, ethertype: u16, fields: &[u32], payload: &[u8]) -> Vec<u8> {
    let mut packet = ports(flags, ethertype);
    packet.extend(fields.iter().flat_map(|field| field.to_be_bytes()));
    packet.extend(payload);
    packet
}

/// VXLAN (RFC 7348 §5). `flags` is 0x08 where the identifier is valid.
#[must_use]
pub fn vxlan(flags: u8, vni: u32, frame: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = (vni << 8).to_be_bytes();
    after([flags, 0, 0, 0, a, b, c, d], frame)
}

/// GENEVE (RFC 8926 §3.4): version (2 bits) and length of the options in words are in `first`, OAM
/// and critical flag in `flags`.
#[must_use]
pub fn geneve(first: u8, flags: u8, ethertype: u16, vni: u32, rest: &[u8]) -> Vec<u8> {
    let [a, b] = ethertype.to_be_bytes();
    let [c, d, e, f] = (vni << 8).to_be_bytes();
    after([first, flags, a, b, c, d, e, f], rest)
}

/// GTP-U (3GPP TS 29.281 §5.1): version (3 bits), protocol type, and E, S, PN are in `flags`.
#[must_use]
pub fn gtpu(flags: u8, message: u8, teid: u32, rest: &[u8]) -> Vec<u8> {
    let [a, b] = (rest.len() as u16).to_be_bytes();
    let [c, d, e, f] = teid.to_be_bytes();
    after([flags, message, a, b, c, d, e, f], rest)
}

/// Octets behind an IP packet.
#[must_use]
pub fn padded(mut frame: Vec<u8>, octets: usize) -> Vec<u8> {
    frame.resize(frame.len() + octets, 0x55);
    frame
}

/// The first octets of a frame.
#[must_use]
pub fn cut(mut frame: Vec<u8>, octets: usize) -> Vec<u8> {
    frame.truncate(octets);
    frame
}
