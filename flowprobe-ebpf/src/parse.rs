//! From a frame to what the flow key and the statistics need of it.
//!
//! The one parser of flowprobe: the XDP program, captures and host tests run the same code.
//!
//! [`plain`] and [`near_plain`] take the frames that nearly all are, with constant offsets.
//! [`parse_at`] walks all others, layer by layer: [`link`](mod@link), [`network`], and where that is asked for [`tunnel`].

pub mod link;
pub mod network;
pub mod tunnel;

use crate::{
    frame::Frame,
    skip::Skip,
    wire::{ethernet, ethertype, ipv4, ipv6, protocol, tcp},
};

pub use link::{MAX_LABELS, MAX_TAGS};
pub use network::{Fragment, MAX_EXTENSIONS, MAX_OPTIONS};
pub use tunnel::Tunnels;

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
    /// Octets of the IP packet by its own length field: Ethernet padding never counts.
    pub octets: u32,
    /// IPv6 flow label, 0 for IPv4.
    pub flow_label: u32,
    /// Options of IPv4 as ipv4Options (IE 208) has them, or extension headers of IPv6 as
    /// ipv6ExtensionHeaders (IE 64) does; 0 if there are none.
    pub options: u32,
    /// Outer VLAN identifier, 0 without a tag.
    pub vlan: u16,
    /// IP protocol, behind all IPv6 extension headers.
    pub protocol: u8,
    /// IPv4 type of service or IPv6 traffic class.
    pub traffic_class: u8,
    /// TTL or hop limit.
    pub ttl: u8,
    /// TCP control bits, 0 for other protocols.
    pub tcp_flags: u8,
    /// Don't Fragment and More Fragments, as fragmentFlags (IE 197) has them.
    pub fragment_flags: u8,
    /// Priority of the outer VLAN tag, and of the next one in the upper half.
    pub priorities: u8,
    /// Packets that go with this one as a super-frame, which are one packet each on the wire: then
    /// `octets` are those of all.
    pub more: u32,
}

impl Packet {
    /// Nothing.
    pub const EMPTY: Self = Self {
        addresses: Addresses::V4(0),
        ports: 0,
        octets: 0,
        flow_label: 0,
        options: 0,
        vlan: 0,
        protocol: 0,
        traffic_class: 0,
        ttl: 0,
        tcp_flags: 0,
        fragment_flags: 0,
        priorities: 0,
        more: 0,
    };

    /// Packets on the wire.
    #[inline(always)]
    #[must_use]
    pub fn packets(&self) -> u64 {
        1 + u64::from(self.more)
    }

    /// Puts in the outermost VLAN tag by its control information (IEEE 802.1Q §9.6).
    #[inline(always)]
    pub fn put_outer_tag(&mut self, control: u16) {
        self.vlan = control & ethernet::VLAN_ID_MASK;
        self.priorities = (control >> ethernet::PRIORITY_SHIFT) as u8;
    }
}

/// What stands around the IP packet beyond a single VLAN tag, all 0 for most frames.
///
/// These are words of the key of such flows, so there is no padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Around {
    /// Identifiers of the VLAN tags inside the outer one, outermost first; 0 where there is none.
    pub inner_vlans: [u16; MAX_TAGS - 1],
    /// VLAN tags in all.
    pub tags: u8,
    /// MPLS labels in all.
    pub labels: u8,
    /// MPLS labels, top first: label (20 bits), traffic class (3), bottom of stack (1), as in
    /// mplsTopLabelStackSection (IE 70).
    pub label_stack: [u32; MAX_LABELS],
    /// Identifier of the tunnel that was opened: VNI, VSID, key or TEID.
    pub tunnel_id: u32,
    /// Which kind of tunnel; see [`tunnel::kind`]. 0 if none was opened.
    pub tunnel: u8,
    /// 4 or 6: version of the IP header outside the tunnel, 0 if none was opened.
    pub outer_version: u8,
    /// Protocol in the IP header outside the tunnel.
    pub outer_protocol: u8,
    /// 4 or 6: version of the packet that is counted.
    pub version: u8,
    /// Addresses outside the tunnel as on the wire: one word for IPv4, four for IPv6.
    pub outer: [u64; 4],
}

/// 64-bit words of [`Around`].
pub const AROUND_WORDS: usize = 9;

const _: () = assert!(size_of::<Around>() == 8 * AROUND_WORDS && align_of::<Around>() == 8);

impl Around {
    /// Nothing.
    pub const EMPTY: Self = Self {
        inner_vlans: [0; MAX_TAGS - 1],
        tags: 0,
        labels: 0,
        label_stack: [0; MAX_LABELS],
        tunnel_id: 0,
        tunnel: 0,
        outer_version: 0,
        outer_protocol: 0,
        version: 0,
        outer: [0; 4],
    };

    /// Whether the key needs more than the outer VLAN.
    #[inline(always)]
    #[must_use]
    pub fn is_wide(&self) -> bool {
        self.tags > 1 || self.labels != 0 || self.tunnel != 0
    }

    /// The words of the key.
    #[inline(always)]
    #[must_use]
    pub fn words(&self) -> &[u64; AROUND_WORDS] {
        // SAFETY: as large and aligned, integers only, and no padding.
        unsafe { &*core::ptr::from_ref(self).cast() }
    }

    /// What [`Around::words`] gave.
    #[must_use]
    pub fn from_words(words: [u64; AROUND_WORDS]) -> Self {
        // SAFETY: as above; any bits are valid integers.
        unsafe { core::mem::transmute(words) }
    }
}

/// A frame that belongs to a flow, parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parsed {
    /// The packet that is counted.
    pub packet: Packet,
    /// What is around it.
    pub around: Around,
    /// Whether it is a fragment of a larger packet.
    pub fragment: Fragment,
    /// Where it is.
    pub place: Place,
}

/// Where in a frame the packet is that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Place {
    /// Offset of its IP header.
    pub header: u32,
    /// Offset of what the IP header and all extension headers carry.
    pub payload: u32,
}

impl Parsed {
    /// Nothing.
    pub const EMPTY: Self = Self {
        packet: Packet::EMPTY,
        around: Around::EMPTY,
        fragment: Fragment::NONE,
        place: Place {
            header: 0,
            payload: 0,
        },
    };

    /// Notes where the packet is that is counted, and what it is of.
    #[inline(always)]
    fn arrive(&mut self, start: network::Start, payload: &network::Payload, fragment: Fragment) {
        self.around.version = start.version();
        self.fragment = fragment;
        self.place = Place {
            header: start.at as u32,
            payload: payload.at as u32,
        };
    }

    /// Puts in the outermost VLAN tag by its control information, before anything else is there:
    /// for tags that the frame does not hold (any more).
    #[inline(always)]
    pub fn put_outer_tag(&mut self, control: u16) {
        self.packet.put_outer_tag(control);
        self.around.tags = 1;
    }
}

/// Parses an Ethernet frame.
///
/// # Errors
/// The reason why the frame belongs to no flow.
pub fn parse<F: Frame + ?Sized>(frame: &F, tunnels: &Tunnels) -> Result<Parsed, Skip> {
    let mut parsed = Parsed::EMPTY;
    if let Some(packet) = plain(frame).or_else(|| near_plain(frame))
        && !tunnels.may_be(&packet)
    {
        parsed.packet = packet;
        parsed.around.tags = frame
            .read(ethernet::TYPE)
            .is_some_and(|kind| u16::from_be_bytes(kind) == ethertype::VLAN)
            .into();
        let (version, header_len) = match packet.addresses {
            Addresses::V4(_) => (4, ipv4::MIN_LEN),
            Addresses::V6(_) => (6, ipv6::LEN),
        };
        let header = ethernet::LEN + ethernet::TAG_LEN * usize::from(parsed.around.tags);
        parsed.around.version = version;
        parsed.place = Place {
            header: header as u32,
            payload: (header + header_len) as u32,
        };
        return Ok(parsed);
    }
    parse_ethernet(frame, tunnels, &mut parsed)?;
    Ok(parsed)
}

/// Parses an Ethernet frame layer by layer, into `parsed`, which is empty but for a tag that
/// [`Parsed::put_outer_tag`] has put there.
///
/// # Errors
/// The reason why the frame belongs to no flow.
#[inline(always)]
pub fn parse_ethernet<F: Frame + ?Sized>(
    frame: &F,
    tunnels: &Tunnels,
    parsed: &mut Parsed,
) -> Result<(), Skip> {
    let ethertype = frame.read(ethernet::TYPE).ok_or(Skip::TruncatedLink)?;
    let ethertype = u16::from_be_bytes(ethertype);
    parse_at(frame, tunnels, ethertype, ethernet::LEN, parsed)
}

/// Parses what `ethertype` names and begins at `offset`, into `parsed`, as [`parse_ethernet`] does.
/// For links other than Ethernet too.
///
/// # Errors
/// The reason why the frame belongs to no flow.
#[inline(always)]
pub fn parse_at<F: Frame + ?Sized>(
    frame: &F,
    tunnels: &Tunnels,
    ethertype: u16,
    offset: usize,
    parsed: &mut Parsed,
) -> Result<(), Skip> {
    let start = link::walk(frame, ethertype, offset, parsed)?;
    let (payload, fragment) = network::parse(frame, start, usize::MAX, &mut parsed.packet)?;
    parsed.arrive(start, &payload, fragment);
    if tunnels.inner && !fragment.is_fragment() {
        tunnel::open(frame, tunnels, &payload, parsed);
    }
    Ok(())
}

/// The packet of a plain frame, as nearly all are: IPv4 without tag, options and fragments, whole,
/// with TCP or UDP in it. `None` for any other frame, whether or not something is wrong with it;
/// [`parse_ethernet`] says what. It does not look into tunnels: see [`Tunnels::may_be`].
///
/// It is read in few and large pieces at constant offsets: this is most of what a packet costs.
#[inline(always)]
pub fn plain<F: Frame + ?Sized>(frame: &F) -> Option<Packet> {
    plain_ipv4::<F, { ethernet::LEN }>(frame)
}

/// The packet of a frame that differs from a plain one in a VLAN tag, or in being IPv6 without
/// extension headers, or in both.
#[inline(always)]
pub fn near_plain<F: Frame + ?Sized>(frame: &F) -> Option<Packet> {
    let ethertype = u16::from_be_bytes(frame.read(ethernet::TYPE)?);
    if ethertype != ethertype::VLAN {
        return near_plain_untagged(frame);
    }
    // The tag control information, then the EtherType of what the tag holds.
    let [a, b, c, d] = frame.read(ethernet::LEN)?;
    let control = u16::from_be_bytes([a, b]);
    let mut packet = match u16::from_be_bytes([c, d]) {
        ethertype::IPV4 => plain_ipv4::<F, TAGGED_LEN>(frame)?,
        ethertype::IPV6 => plain_ipv6::<F, TAGGED_LEN>(frame)?,
        _ => return None,
    };
    packet.put_outer_tag(control);
    Some(packet)
}

/// As [`near_plain`], but no frame with a tag in it.
#[inline(always)]
pub fn near_plain_untagged<F: Frame + ?Sized>(frame: &F) -> Option<Packet> {
    let ethertype = u16::from_be_bytes(frame.read(ethernet::TYPE)?);
    if ethertype != ethertype::IPV6 {
        return None;
    }
    plain_ipv6::<F, { ethernet::LEN }>(frame)
}

/// Octets of Ethernet header and tag.
const TAGGED_LEN: usize = ethernet::LEN + ethernet::TAG_LEN;

/// Octets of EtherType, IPv4 header and ports.
const V4_LEN: usize = 2 + ipv4::MIN_LEN + 4;

/// See [`plain`]; the IPv4 header is at `AT`.
#[inline(always)]
fn plain_ipv4<F: Frame + ?Sized, const AT: usize>(frame: &F) -> Option<Packet> {
    let octets: [u8; V4_LEN] = frame.read(AT - 2)?;
    // EtherType, version and header length, type of service: the last as the topmost octet.
    let kind = u32::from_le_bytes(field(&octets, 0));
    // Total length, identification, flags and offset, TTL, protocol.
    let rest = u64::from_be_bytes(field(&octets, 2 + ipv4::TOTAL_LEN));
    let protocol = rest as u8;
    let ip_octets = (rest >> 48) as usize;
    let fragment = (rest >> 16) as u16;
    let [a, b] = ethertype::IPV4.to_be_bytes();
    let kind_is_plain = kind << 8 == u32::from_le_bytes([0, a, b, ipv4::PLAIN]);
    let fragment_mask = ipv4::FRAGMENT_OFFSET_MASK | ipv4::MORE_FRAGMENTS;
    if !kind_is_plain || fragment & fragment_mask != 0 {
        return None;
    }
    let payload = ip_octets.checked_sub(ipv4::MIN_LEN)?;
    let tcp_flags = plain_flags(frame, AT + ipv4::MIN_LEN, protocol, payload)?;
    if !frame.reaches(AT + ip_octets) {
        return None;
    }
    Some(Packet {
        addresses: Addresses::V4(u64::from_ne_bytes(field(&octets, 2 + ipv4::ADDRESSES))),
        ports: u32::from_ne_bytes(field(&octets, 2 + ipv4::MIN_LEN)),
        octets: ip_octets as u32,
        protocol,
        traffic_class: (kind >> 24) as u8,
        ttl: (rest >> 8) as u8,
        tcp_flags,
        fragment_flags: (fragment >> 8) as u8 & ipv4::FRAGMENT_FLAGS,
        ..Packet::EMPTY
    })
}

/// Octets of IPv6 header and ports.
const V6_LEN: usize = ipv6::LEN + 4;

/// See [`near_plain`]; the IPv6 header is at `AT`.
#[inline(always)]
fn plain_ipv6<F: Frame + ?Sized, const AT: usize>(frame: &F) -> Option<Packet> {
    let octets: [u8; V6_LEN] = frame.read(AT)?;
    // Version, traffic class, flow label, payload length, next header, hop limit.
    let head = u64::from_be_bytes(field(&octets, 0));
    let payload = (head >> 16) as u16 as usize;
    let protocol = (head >> 8) as u8;
    if head >> 60 != 6 {
        return None;
    }
    let tcp_flags = plain_flags(frame, AT + ipv6::LEN, protocol, payload)?;
    if !frame.reaches(AT + ipv6::LEN + payload) {
        return None;
    }
    let word = |i: usize| u64::from_ne_bytes(field(&octets, ipv6::ADDRESSES + 8 * i));
    Some(Packet {
        addresses: Addresses::V6([word(0), word(1), word(2), word(3)]),
        ports: u32::from_ne_bytes(field(&octets, ipv6::LEN)),
        octets: (ipv6::LEN + payload) as u32,
        flow_label: (head >> 32) as u32 & ipv6::FLOW_LABEL_MASK,
        protocol,
        traffic_class: (head >> 52) as u8,
        ttl: head as u8,
        tcp_flags,
        ..Packet::EMPTY
    })
}

/// The control bits of a TCP header at `at`, 0 for UDP; `None` for another protocol, or where the
/// payload of the IP packet is too short for ports and bits.
#[inline(always)]
fn plain_flags<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    protocol: u8,
    payload: usize,
) -> Option<u8> {
    if protocol == protocol::UDP && payload >= 4 {
        Some(0)
    } else if protocol == protocol::TCP && payload > tcp::FLAGS {
        // With the octet before it: see `XdpFrame::read`.
        let [_, flags] = frame.read(at + tcp::FLAGS - 1)?;
        Some(flags)
    } else {
        None
    }
}

/// The field of `N` octets at the constant offset `at` of a header that has been read.
#[inline(always)]
fn field<const N: usize, const LEN: usize>(header: &[u8; LEN], at: usize) -> [u8; N] {
    match header[at..].first_chunk() {
        Some(field) => *field,
        None => [0; N],
    }
}
