//! From a frame to what the flow key and the statistics need of it.
//!
//! The one parser of flowprobe: the XDP program and host tests run the same code.

use crate::{
    frame::Frame,
    skip::Skip,
    wire::{ethernet, ethertype, ipv4, ipv6, protocol, tcp},
};

/// VLAN tags that are walked; a frame with more is [`Skip::TooManyTags`].
pub const MAX_TAGS: usize = 2;

/// IPv6 extension headers that are walked; a packet with more is [`Skip::TooManyExtensions`].
pub const MAX_EXTENSIONS: usize = 8;

/// Source and destination address as on the wire, as words of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// IPv4: both in one word.
    V4(u64),
    /// IPv6: two words each.
    V6([u64; 4]),
}

/// What one packet adds to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Both addresses.
    pub addresses: Addresses,
    /// Source and destination port as on the wire, as one word of memory. 0 for protocols
    /// without ports and for later fragments; ICMP puts type and code where the destination
    /// port is.
    pub ports: u32,
    /// IP protocol, behind all IPv6 extension headers.
    pub protocol: u8,
    /// IPv4 type of service or IPv6 traffic class.
    pub traffic_class: u8,
    /// Outer VLAN identifier, 0 without a tag.
    pub vlan: u16,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP control bits, 0 for other protocols.
    pub tcp_flags: u8,
    /// Octets of the IP packet by its own length field: Ethernet padding never counts.
    pub octets: u32,
    /// IPv6 flow label, 0 for IPv4.
    pub flow_label: u32,
}

/// What becomes of a parsed frame.
///
/// The program accounts in here rather than after [`parse`] has returned: so the compiler makes
/// one copy for the frames that nearly all are, in which offsets, VLAN and label are constants,
/// and one for all others. That saves a sixth of the instructions.
pub trait Outcome {
    /// What comes of it.
    type Output;
    /// The frame belongs to a flow.
    fn packet(&self, packet: &Packet) -> Self::Output;
    /// The frame belongs to a flow, and is not of the plain kind that most are.
    #[inline(always)]
    fn uncommon(&self, packet: &Packet) -> Self::Output {
        self.packet(packet)
    }
    /// It does not.
    fn skip(&self, reason: Skip) -> Self::Output;
}

/// The outcome that is returned.
struct Return;

impl Outcome for Return {
    type Output = Result<Packet, Skip>;

    fn packet(&self, packet: &Packet) -> Self::Output {
        Ok(*packet)
    }

    fn skip(&self, reason: Skip) -> Self::Output {
        Err(reason)
    }
}

/// Parses an Ethernet frame.
///
/// # Errors
/// The reason why the frame belongs to no flow.
pub fn parse<F: Frame + ?Sized>(frame: &F) -> Result<Packet, Skip> {
    parse_into(frame, &Return)
}

/// Parses an Ethernet frame and hands over what is in it.
#[inline(always)]
pub fn parse_into<F: Frame + ?Sized, O: Outcome>(frame: &F, outcome: &O) -> O::Output {
    // The frames that nearly all are: IPv4 without tag and options, and long enough for ports.
    // Read at once and with constant offsets, they spare the program most of its checks. The
    // same functions parse them as all others.
    if let Some(octets) = frame.read(0) {
        let start = Start { octets, frame };
        let plain = [
            ethertype::IPV4.to_be_bytes()[0],
            ethertype::IPV4.to_be_bytes()[1],
            ipv4::PLAIN,
        ];
        if field(&octets, ethernet::TYPE) == plain {
            return match parse_ipv4(&start, &Link::UNTAGGED, ipv4::MIN_LEN) {
                Ok(packet) => outcome.packet(&packet),
                Err(reason) => outcome.skip(reason),
            };
        }
    }
    let parsed = match frame.read(ethernet::TYPE).map(u16::from_be_bytes) {
        None => Err(Skip::TruncatedLink),
        Some(ethertype @ (ethertype::VLAN | ethertype::SERVICE_VLAN)) => {
            tagged(frame, ethertype, Link::UNTAGGED)
                .and_then(|(ethertype, link)| parse_network(frame, ethertype, &link))
        }
        Some(ethertype) => parse_network(frame, ethertype, &Link::UNTAGGED),
    };
    match parsed {
        Ok(packet) => outcome.uncommon(&packet),
        Err(reason) => outcome.skip(reason),
    }
}

/// Parses what `ethertype` names and begins at `offset`, VLAN tags included: frames of link layers
/// that are not Ethernet but name what they carry as Ethernet does.
///
/// # Errors
/// The reason why the frame belongs to no flow.
pub fn parse_at<F: Frame + ?Sized>(
    frame: &F,
    ethertype: u16,
    offset: usize,
) -> Result<Packet, Skip> {
    let link = Link {
        vlan: 0,
        len: offset,
    };
    let (ethertype, link) = tagged(frame, ethertype, link)?;
    parse_network(frame, ethertype, &link)
}

/// Octets of Ethernet header, IPv4 header and ports.
const START_LEN: usize = ethernet::LEN + ipv4::MIN_LEN + 4;

/// A frame of which the first octets have been read.
struct Start<'a, F: ?Sized> {
    octets: [u8; START_LEN],
    frame: &'a F,
}

impl<F: Frame + ?Sized> Frame for Start<'_, F> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset + N <= START_LEN {
            Some(field(&self.octets, offset))
        } else {
            self.frame.read(offset)
        }
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.frame.len()
    }

    #[inline(always)]
    fn reaches(&self, octets: usize) -> bool {
        self.frame.reaches(octets)
    }
}

/// Parses what the link layer carries.
#[inline(always)]
fn parse_network<F: Frame + ?Sized>(
    frame: &F,
    ethertype: u16,
    link: &Link,
) -> Result<Packet, Skip> {
    match ethertype {
        ethertype::IPV4 => {
            let [version_ihl] = frame.read(link.len).ok_or(Skip::TruncatedNetwork)?;
            if version_ihl >> 4 != 4 {
                return Err(Skip::BadVersion);
            }
            parse_ipv4(frame, link, usize::from(version_ihl & 0x0f) * 4)
        }
        ethertype::IPV6 => parse_ipv6(frame, link),
        _ => Err(Skip::NotIp),
    }
}

/// The link layer: in which VLAN the frame is, and where the network layer starts.
struct Link {
    vlan: u16,
    len: usize,
}

impl Link {
    /// An Ethernet header without tags.
    const UNTAGGED: Self = Self {
        vlan: 0,
        len: ethernet::LEN,
    };
}

/// Walks the tags behind the header `link`, whose type is `ethertype`; returns the type of what
/// the last one holds.
#[inline(always)]
fn tagged<F: Frame + ?Sized>(
    frame: &F,
    mut ethertype: u16,
    mut link: Link,
) -> Result<(u16, Link), Skip> {
    for depth in 0..=MAX_TAGS {
        if !matches!(ethertype, ethertype::VLAN | ethertype::SERVICE_VLAN) {
            break;
        }
        if depth == MAX_TAGS {
            return Err(Skip::TooManyTags);
        }
        // The tag control information, then the EtherType of what the tag holds.
        let [a, b, c, d] = frame.read(link.len).ok_or(Skip::TruncatedLink)?;
        if depth == 0 {
            link.vlan = u16::from_be_bytes([a, b]) & ethernet::VLAN_ID_MASK;
        }
        ethertype = u16::from_be_bytes([c, d]);
        link.len += ethernet::TAG_LEN;
    }
    Ok((ethertype, link))
}

/// Parses an IPv4 packet whose header claims `header_len` octets.
#[inline(always)]
fn parse_ipv4<F: Frame + ?Sized>(
    frame: &F,
    link: &Link,
    header_len: usize,
) -> Result<Packet, Skip> {
    let at = link.len;
    let header: [u8; ipv4::MIN_LEN] = frame.read(at).ok_or(Skip::TruncatedNetwork)?;
    let total_len = usize::from(u16::from_be_bytes(field(&header, ipv4::TOTAL_LEN)));
    let [tos] = field(&header, ipv4::TOS);
    let [ttl, protocol] = field(&header, ipv4::TTL);
    if header_len < ipv4::MIN_LEN || total_len < header_len {
        return Err(Skip::BadHeaderLength);
    }
    if !frame.reaches(at + total_len) {
        return Err(Skip::TruncatedNetwork);
    }
    let mut packet = Packet {
        addresses: Addresses::V4(u64::from_ne_bytes(field(&header, ipv4::ADDRESSES))),
        ports: 0,
        protocol,
        traffic_class: tos,
        vlan: link.vlan,
        ttl,
        tcp_flags: 0,
        octets: total_len as u32,
        flow_label: 0,
    };
    // Only the first fragment has ports.
    let fragment = u16::from_ne_bytes(field(&header, ipv4::FRAGMENT));
    if fragment & ipv4::FRAGMENT_OFFSET_MASK.to_be() == 0 {
        transport(frame, at + header_len, at + total_len, &mut packet)?;
    }
    Ok(packet)
}

#[inline(always)]
fn parse_ipv6<F: Frame + ?Sized>(frame: &F, link: &Link) -> Result<Packet, Skip> {
    let at = link.len;
    let [a, b, c, d, len_a, len_b, next, hop_limit] =
        frame.read::<8>(at).ok_or(Skip::TruncatedNetwork)?;
    if a >> 4 != 6 {
        return Err(Skip::BadVersion);
    }
    let word = |i: usize| {
        frame
            .read(at + ipv6::ADDRESSES + i * 8)
            .map(u64::from_ne_bytes)
            .ok_or(Skip::TruncatedNetwork)
    };
    let addresses = [word(0)?, word(1)?, word(2)?, word(3)?];
    let total_len = ipv6::LEN + usize::from(u16::from_be_bytes([len_a, len_b]));
    if !frame.reaches(at + total_len) {
        return Err(Skip::TruncatedNetwork);
    }
    let mut packet = Packet {
        addresses: Addresses::V6(addresses),
        ports: 0,
        protocol: next,
        traffic_class: (a << 4) | (b >> 4),
        vlan: link.vlan,
        ttl: hop_limit,
        tcp_flags: 0,
        octets: total_len as u32,
        flow_label: u32::from_be_bytes([0, b & 0x0f, c, d]),
    };
    let end = at + total_len;
    let mut at = at + ipv6::LEN;
    for _ in 0..MAX_EXTENSIONS {
        let kind = EXTENSIONS[usize::from(packet.protocol)];
        if kind == 0 {
            break;
        }
        // No extension header is shorter than 8 octets, so the first four are there.
        let [next, len, offset_a, offset_b] = extension(frame, at, end)?;
        let fragment =
            u16::from_ne_bytes([offset_a, offset_b]) & ipv6::FRAGMENT_OFFSET_MASK.to_be();
        let later = packet.protocol == protocol::FRAGMENT && fragment != 0;
        packet.protocol = next;
        if later {
            return Ok(packet);
        }
        at += 8 + usize::from(len) * usize::from(kind & UNIT_MASK);
    }
    if EXTENSIONS[usize::from(packet.protocol)] != 0 {
        return Err(Skip::TooManyExtensions);
    }
    transport(frame, at, end, &mut packet)?;
    Ok(packet)
}

/// For each next header: 0 if it is no extension header that is walked; else [`EXTENSION`] and the
/// octets that one unit of its length field stands for, beyond the first 8.
///
/// A table, since a branch for each kind would multiply the ways through the program that the
/// verifier has to follow.
static EXTENSIONS: [u8; 256] = {
    let mut kinds = [0; 256];
    // RFC 8200 §4; Mobility, HIP and Shim6 have the common form.
    kinds[protocol::HOP_BY_HOP as usize] = EXTENSION | 8;
    kinds[protocol::ROUTING as usize] = EXTENSION | 8;
    kinds[protocol::DESTINATION as usize] = EXTENSION | 8;
    kinds[protocol::MOBILITY as usize] = EXTENSION | 8;
    kinds[protocol::HIP as usize] = EXTENSION | 8;
    kinds[protocol::SHIM6 as usize] = EXTENSION | 8;
    // RFC 4302 §2.2: words of 4 octets, less 2.
    kinds[protocol::AH as usize] = EXTENSION | 4;
    // RFC 8200 §4.5: always 8 octets, and no length field.
    kinds[protocol::FRAGMENT as usize] = EXTENSION;
    kinds
};

/// Says that a next header is an extension header.
const EXTENSION: u8 = 0x80;
/// The octets of a unit in an entry of [`EXTENSIONS`].
const UNIT_MASK: u8 = 0x0f;

/// The field of `N` octets at the constant offset `at` of a header that has been read.
#[inline(always)]
fn field<const N: usize, const LEN: usize>(header: &[u8; LEN], at: usize) -> [u8; N] {
    match header[at..].first_chunk() {
        Some(field) => *field,
        None => [0; N],
    }
}

/// Reads the start of an extension header that must lie within the packet.
#[inline(always)]
fn extension<F: Frame + ?Sized, const N: usize>(
    frame: &F,
    at: usize,
    end: usize,
) -> Result<[u8; N], Skip> {
    if at + N > end {
        return Err(Skip::TruncatedTransport);
    }
    frame.read(at).ok_or(Skip::TruncatedTransport)
}

/// Ports, ICMP type and code, TCP flags: read within the IP packet, never from padding.
#[inline(always)]
fn transport<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    end: usize,
    packet: &mut Packet,
) -> Result<(), Skip> {
    // The two protocols of nearly all packets first.
    if packet.protocol == protocol::TCP || packet.protocol == protocol::UDP {
        packet.ports = extension(frame, at, end).map(u32::from_ne_bytes)?;
        if packet.protocol == protocol::TCP {
            let [flags] = extension(frame, at + tcp::FLAGS, end)?;
            packet.tcp_flags = flags;
        }
        return Ok(());
    }
    match packet.protocol {
        protocol::SCTP | protocol::UDP_LITE | protocol::DCCP => {
            packet.ports = extension(frame, at, end).map(u32::from_ne_bytes)?;
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code] = extension(frame, at, end)?;
            packet.ports = u32::from_ne_bytes([0, 0, kind, code]);
        }
        _ => {}
    }
    Ok(())
}
