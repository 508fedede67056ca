//! IPv4 and IPv6 with all that stands between their headers and the ports.

use super::{Addresses, Packet, field};
use crate::{
    frame::Frame,
    skip::Skip,
    wire::{ipv4, ipv6, protocol, tcp},
};

/// IPv6 extension headers that are walked; a packet with more is [`Skip::TooManyExtensions`].
pub const MAX_EXTENSIONS: usize = 8;

/// IPv4 options that are looked at; what stands behind them is not noted.
pub const MAX_OPTIONS: usize = 10;

/// Where an IP packet begins.
#[derive(Clone, Copy, Debug)]
pub(super) struct Start {
    pub(super) v6: bool,
    pub(super) at: usize,
}

impl Start {
    #[inline(always)]
    pub(super) fn version(self) -> u8 {
        if self.v6 { 6 } else { 4 }
    }
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug)]
pub(super) struct Payload {
    pub(super) at: usize,
    pub(super) end: usize,
}

/// Which part of a fragmented packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Fragment {
    /// Identification that the fragments of a packet share.
    pub id: u32,
    /// One of [`Fragment::WHOLE`], [`Fragment::FIRST`], [`Fragment::LATER`].
    pub part: u32,
}

impl Fragment {
    /// [`Fragment::part`] of a packet that is not fragmented.
    pub const WHOLE: u32 = 0;
    /// The first of several: it has the ports.
    pub const FIRST: u32 = 1;
    /// One of those behind it.
    pub const LATER: u32 = 2;
    /// Not fragmented.
    pub const NONE: Self = Self {
        id: 0,
        part: Self::WHOLE,
    };

    /// Whether it is one of several.
    #[inline(always)]
    #[must_use]
    pub fn is_fragment(&self) -> bool {
        self.part != Self::WHOLE
    }

    #[inline(always)]
    fn new(id: u32, later: bool, more: bool) -> Self {
        let part = if later {
            Self::LATER
        } else if more {
            Self::FIRST
        } else {
            return Self::NONE;
        };
        Self { id, part }
    }
}

/// Parses the packet at `start`, which ends before `limit`, into `packet`.
#[inline(always)]
pub(super) fn parse<F: Frame + ?Sized>(
    frame: &F,
    start: Start,
    limit: usize,
    packet: &mut Packet,
) -> Result<(Payload, Fragment), Skip> {
    let (payload, fragment) = if start.v6 {
        parse_ipv6(frame, start.at, limit, packet)?
    } else {
        parse_ipv4(frame, start.at, limit, packet)?
    };
    let payload = Payload {
        at: frame.forget(payload.at),
        end: frame.forget(payload.end),
    };
    // Only the first fragment has ports.
    if fragment.part != Fragment::LATER {
        transport(frame, &payload, packet)?;
    }
    Ok((payload, fragment))
}

/// Where a packet ends that begins at `at` and claims `octets` octets.
#[inline(always)]
fn end<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    octets: usize,
    limit: usize,
) -> Result<usize, Skip> {
    let end = at + octets;
    if end > limit || !frame.reaches(end) {
        return Err(Skip::TruncatedNetwork);
    }
    Ok(end)
}

#[inline(always)]
fn parse_ipv4<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    limit: usize,
    packet: &mut Packet,
) -> Result<(Payload, Fragment), Skip> {
    let header: [u8; ipv4::MIN_LEN] = frame.read(at).ok_or(Skip::TruncatedNetwork)?;
    let [version_ihl, tos] = field(&header, 0);
    let [ttl, protocol] = field(&header, ipv4::TTL);
    let header_len = usize::from(version_ihl & 0x0f) * 4;
    let mut octets = usize::from(u16::from_be_bytes(field(&header, ipv4::TOTAL_LEN)));
    if version_ihl >> 4 != 4 {
        return Err(Skip::BadVersion);
    }
    if octets == 0 && frame.reaches(at + ipv4::MAX_LEN + 1) {
        // Segments that the kernel has merged to more than the field can say.
        octets = frame.len() - at;
    }
    if header_len < ipv4::MIN_LEN || octets < header_len {
        return Err(Skip::BadHeaderLength);
    }
    let end = end(frame, at, octets, limit)?;
    let options = if header_len > ipv4::MIN_LEN {
        // All of it or none: of a header captured in part nobody knows which options it has.
        let [_] = frame
            .read(at + header_len - 1)
            .ok_or(Skip::TruncatedNetwork)?;
        options(frame, at + ipv4::MIN_LEN, at + header_len)
    } else {
        0
    };
    let bits = u16::from_be_bytes(field(&header, ipv4::FRAGMENT));
    let [id_a, id_b] = field(&header, ipv4::ID);
    packet.addresses = Addresses::V4(u64::from_ne_bytes(field(&header, ipv4::ADDRESSES)));
    packet.octets = octets as u32;
    packet.options = options;
    packet.protocol = protocol;
    packet.traffic_class = tos;
    packet.ttl = ttl;
    packet.fragment_flags = (bits >> 8) as u8 & ipv4::FRAGMENT_FLAGS;
    let payload = Payload {
        at: at + header_len,
        end,
    };
    let fragment = Fragment::new(
        u32::from(u16::from_be_bytes([id_a, id_b])),
        bits & ipv4::FRAGMENT_OFFSET_MASK != 0,
        bits & ipv4::MORE_FRAGMENTS != 0,
    );
    Ok((payload, fragment))
}

/// The options between `at` and `end`, as ipv4Options (IE 208) has them.
#[inline(always)]
fn options<F: Frame + ?Sized>(frame: &F, at: usize, end: usize) -> u32 {
    let mut seen = 0;
    let mut at = at;
    let mut walked = 0;
    while walked < MAX_OPTIONS {
        walked += 1;
        let Some([kind]) = frame.read(at) else { break };
        if at >= end {
            break;
        }
        // The figure in the registry numbers bits from the left, and has option 0 at the right
        // of the first octet, option 8 at the right of the second.
        seen |= 1 << (u32::from(kind & ipv4::OPTION_NUMBER) ^ 0x18);
        seen = frame.forget(seen as usize) as u32;
        let octets = if kind == ipv4::END_OF_OPTIONS {
            break;
        } else if kind == ipv4::NO_OPERATION {
            1
        } else {
            match frame.read(at + 1) {
                Some([octets]) if octets > 1 => usize::from(octets),
                _ => break,
            }
        };
        at = frame.forget(at + octets);
    }
    seen
}

#[inline(always)]
fn parse_ipv6<F: Frame + ?Sized>(
    frame: &F,
    at: usize,
    limit: usize,
    packet: &mut Packet,
) -> Result<(Payload, Fragment), Skip> {
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
    packet.addresses = Addresses::V6([word(0)?, word(1)?, word(2)?, word(3)?]);
    let mut octets = ipv6::LEN + usize::from(u16::from_be_bytes([len_a, len_b]));
    if octets == ipv6::LEN && frame.reaches(at + ipv6::MAX_LEN + 1) {
        // Merged segments, or a jumbogram (RFC 2675 §3).
        octets = frame.len() - at;
    }
    packet.octets = octets as u32;
    packet.traffic_class = (a << 4) | (b >> 4);
    packet.flow_label = u32::from_be_bytes([0, b & 0x0f, c, d]);
    packet.ttl = hop_limit;
    let end = end(frame, at, octets, limit)?;
    let mut at = at + ipv6::LEN;
    let mut protocol = next;
    let mut fragment = Fragment::NONE;
    let mut seen = 0;
    let mut walked = 0;
    while walked < MAX_EXTENSIONS {
        walked += 1;
        let kind = EXTENSIONS[usize::from(protocol)];
        if kind == 0 {
            break;
        }
        seen = frame.forget((seen | kind) as usize) as u32;
        // No extension header is shorter than 8 octets.
        let head: [u8; 8] = within(frame, at, end)?;
        let [next, len, offset_a, offset_b, id @ ..] = head;
        let unit = if protocol == protocol::FRAGMENT {
            let bits = u16::from_be_bytes([offset_a, offset_b]);
            let later = bits & ipv6::FRAGMENT_OFFSET_MASK != 0;
            let more = bits & ipv6::MORE_FRAGMENTS != 0;
            fragment = Fragment::new(u32::from_be_bytes(id), later, more);
            if more {
                packet.fragment_flags = ipv4::MORE_FRAGMENTS_FLAG;
            }
            if later {
                packet.options = seen & !extension::FIRST_FRAGMENT | extension::LATER_FRAGMENT;
                packet.protocol = next;
                return Ok((Payload { at, end }, fragment));
            }
            // RFC 8200 §4.5: always 8 octets, and no length field.
            0
        } else if protocol == protocol::AH {
            4 // RFC 4302 §2.2: words of 4 octets, less 2
        } else {
            8 // RFC 8200 §4
        };
        protocol = next;
        at = frame.forget(at + 8 + usize::from(len) * unit);
    }
    if EXTENSIONS[usize::from(protocol)] != 0 {
        return Err(Skip::TooManyExtensions);
    }
    // Where nothing is read behind it, a header has to fit all the same.
    if at > end {
        return Err(Skip::TruncatedTransport);
    }
    if protocol == protocol::ESP {
        seen |= extension::ESP;
    }
    packet.options = seen;
    packet.protocol = protocol;
    Ok((Payload { at, end }, fragment))
}

/// Bits of ipv6ExtensionHeaders (IE 64): the registry numbers them from the left.
pub mod extension {
    /// Destination Options.
    pub const DESTINATION: u32 = 1 << 31;
    /// Hop-by-Hop Options.
    pub const HOP_BY_HOP: u32 = 1 << 30;
    /// A header that the registry has no bit for: HIP, Shim6.
    pub const UNKNOWN: u32 = 1 << 28;
    /// A Fragment header with offset 0.
    pub const FIRST_FRAGMENT: u32 = 1 << 27;
    /// Routing header.
    pub const ROUTING: u32 = 1 << 26;
    /// A Fragment header with another offset.
    pub const LATER_FRAGMENT: u32 = 1 << 25;
    /// Mobility header.
    pub const MOBILITY: u32 = 1 << 19;
    /// Encapsulating Security Payload, which ends the walk.
    pub const ESP: u32 = 1 << 18;
    /// Authentication Header.
    pub const AH: u32 = 1 << 17;
}

/// For each next header its bit in ipv6ExtensionHeaders, 0 if it is none that is walked.
///
/// A table, since a branch for each kind would multiply the ways through the program that the
/// verifier has to follow.
static EXTENSIONS: [u32; 256] = {
    let mut kinds = [0; 256];
    kinds[protocol::HOP_BY_HOP as usize] = extension::HOP_BY_HOP;
    kinds[protocol::ROUTING as usize] = extension::ROUTING;
    kinds[protocol::DESTINATION as usize] = extension::DESTINATION;
    kinds[protocol::MOBILITY as usize] = extension::MOBILITY;
    kinds[protocol::HIP as usize] = extension::UNKNOWN;
    kinds[protocol::SHIM6 as usize] = extension::UNKNOWN;
    kinds[protocol::AH as usize] = extension::AH;
    kinds[protocol::FRAGMENT as usize] = extension::FIRST_FRAGMENT;
    kinds
};

/// Reads what must lie within the IP packet: never from padding.
#[inline(always)]
pub(super) fn within<F: Frame + ?Sized, const N: usize>(
    frame: &F,
    at: usize,
    end: usize,
) -> Result<[u8; N], Skip> {
    if at + N > end {
        return Err(Skip::TruncatedTransport);
    }
    frame.read(at).ok_or(Skip::TruncatedTransport)
}

/// Whether packets of the protocol have something in [`Packet::ports`].
#[inline(always)]
#[must_use]
pub fn has_ports(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::TCP
            | protocol::UDP
            | protocol::SCTP
            | protocol::UDP_LITE
            | protocol::DCCP
            | protocol::ICMP
            | protocol::ICMPV6
    )
}

/// Ports, ICMP type and code, TCP flags.
#[inline(always)]
fn transport<F: Frame + ?Sized>(
    frame: &F,
    payload: &Payload,
    packet: &mut Packet,
) -> Result<(), Skip> {
    let Payload { at, end } = *payload;
    match packet.protocol {
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | protocol::DCCP => {
            packet.ports = within(frame, at, end).map(u32::from_ne_bytes)?;
            if packet.protocol == protocol::TCP {
                let [flags] = within(frame, at + tcp::FLAGS, end)?;
                packet.tcp_flags = flags;
            }
        }
        protocol::ICMP | protocol::ICMPV6 => {
            let [kind, code] = within(frame, at, end)?;
            packet.ports = u32::from_ne_bytes([0, 0, kind, code]);
        }
        _ => {}
    }
    Ok(())
}
