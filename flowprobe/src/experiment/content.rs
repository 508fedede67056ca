//! What hash-based selection hashes: the part of a packet that is the same at every hop, and
//! differs from packet to packet (RFC 5475).
//!
//! Length, protocol and ports come from the parser, and both addresses; but not the destination
//! where a routing header or a source route changes it on the way. Identification, fragment offset
//! and the first octets behind all extension headers are read from the frame. TTL, type of service,
//! flow label, options, extension headers and checksums never go in: hops change them.

use flowprobe_ebpf::{
    Addresses, Frame, Parsed,
    hash::{SECRET_WORDS, hash},
    parse::MAX_EXTENSIONS,
    wire::protocol,
};

/// Octets of the IP payload that are hashed: the whole header of TCP, and some more of others.
const PAYLOAD: usize = 24;

/// Offsets in IPv4 and IPv6 headers.
mod field {
    pub(super) const V4_LENGTH: usize = 2;
    pub(super) const V4_ID: usize = 4;
    pub(super) const V4_OFFSET: usize = 6;
    pub(super) const V4_ADDRESSES: usize = 12;
    pub(super) const V6_LENGTH: usize = 4;
    pub(super) const V6_NEXT: usize = 6;
    pub(super) const V6_ADDRESSES: usize = 8;
    pub(super) const V6_LEN: usize = 40;
}

/// Where an IP header is looked for: behind all tags, labels and tunnel headers that are parsed.
const DEEPEST: usize = 512;

/// A hash of what stays the same in a packet on its way.
pub(super) fn content<F: Frame + ?Sized>(
    frame: &F,
    parsed: &Parsed,
    secret: &[u64; SECRET_WORDS],
) -> u64 {
    let packet = &parsed.packet;
    let (mut addresses, header) = match packet.addresses {
        Addresses::V4(both) => ([both, 0, 0, 0], header_v4(frame, both, packet.octets)),
        Addresses::V6(words) => (words, header_v6(frame, words, packet.octets)),
    };
    if header.is_some_and(|header| header.routed) {
        match packet.addresses {
            Addresses::V4(both) => {
                let [a, b, c, d, ..] = both.to_ne_bytes();
                addresses[0] = u64::from_ne_bytes([a, b, c, d, 0, 0, 0, 0]);
            }
            Addresses::V6([a, b, ..]) => addresses = [a, b, 0, 0],
        }
    }
    let [id, payload @ ..] = header
        .map(|header| header.words(frame, packet.protocol))
        .unwrap_or_default();
    let [a, b, c, d] = addresses;
    let [e, f, g] = payload;
    let transport = u64::from(packet.protocol) << 32 | u64::from(packet.ports);
    let length = u64::from(packet.octets);
    hash(&[a, b, c, d, transport, length, id, e, f, g], secret)
}

/// An IP header in a frame.
#[derive(Clone, Copy)]
struct Header {
    /// Identification and fragment offset.
    id: u64,
    /// Behind all extension headers.
    payload: usize,
    /// Whether the destination changes on the way.
    routed: bool,
}

impl Header {
    /// Identification, then the start of the payload without its checksum. What was not captured
    /// is 0.
    fn words<F: Frame + ?Sized>(self, frame: &F, protocol: u8) -> [u64; 1 + PAYLOAD / 8] {
        let mut octets = [0; PAYLOAD];
        for (i, to) in octets.chunks_exact_mut(2).enumerate() {
            if let Some(two) = frame.read::<2>(self.payload + 2 * i) {
                to.copy_from_slice(&two);
            }
        }
        let checksum = match protocol {
            protocol::TCP => Some(16),
            protocol::UDP => Some(6),
            protocol::ICMP | protocol::ICMPV6 => Some(2),
            _ => None,
        };
        if let Some(at) = checksum {
            octets[at] = 0;
            octets[at + 1] = 0;
        }
        let mut words = [self.id, 0, 0, 0];
        for (word, eight) in words[1..].iter_mut().zip(octets.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*eight);
        }
        words
    }
}

fn number<F: Frame + ?Sized>(frame: &F, at: usize) -> Option<u16> {
    frame.read(at).map(u16::from_be_bytes)
}

/// Whether a length field is that of the packet that was parsed. 0 is that of merged segments.
/// The length tells a packet from the one of a tunnel around it, which may have the same addresses.
fn fits(field: u16, header: usize, octets: u32) -> bool {
    field == 0 || usize::from(field) + header == octets as usize
}

fn header_v4<F: Frame + ?Sized>(frame: &F, addresses: u64, octets: u32) -> Option<Header> {
    let start = search(|start| {
        let found: [u8; 8] = frame.read(start + field::V4_ADDRESSES)?;
        let [first] = frame.read(start)?;
        let length = number(frame, start + field::V4_LENGTH)?;
        let same = u64::from_ne_bytes(found) == addresses;
        Some(first >> 4 == 4 && same && fits(length, 0, octets))
    })?;
    let [first] = frame.read(start)?;
    let offset = number(frame, start + field::V4_OFFSET)? & 0x1fff;
    let id = number(frame, start + field::V4_ID)?;
    let payload = start + usize::from(first & 0xf) * 4;
    Some(Header {
        id: u64::from(offset) << 32 | u64::from(id),
        payload,
        routed: is_source_routed(frame, start + 20, payload),
    })
}

/// Loose and strict source routes (RFC 791 §3.1), which put the next address into the destination.
fn is_source_routed<F: Frame + ?Sized>(frame: &F, mut at: usize, end: usize) -> bool {
    while at < end {
        let Some([kind]) = frame.read(at) else {
            return false;
        };
        at += match kind {
            131 | 137 => return true,
            0 => return false,
            1 => 1,
            _ => match frame.read(at + 1) {
                Some([octets]) if octets > 1 => usize::from(octets),
                _ => return false,
            },
        };
    }
    false
}

fn header_v6<F: Frame + ?Sized>(frame: &F, [a, b, c, d]: [u64; 4], octets: u32) -> Option<Header> {
    let start = search(|start| {
        let found: [u8; 32] = frame.read(start + field::V6_ADDRESSES)?;
        let [first] = frame.read(start)?;
        let length = number(frame, start + field::V6_LENGTH)?;
        let (words, _) = found.as_chunks::<8>();
        let same = words.iter().zip([a, b, c, d]);
        let same = same.into_iter().all(|(x, y)| u64::from_ne_bytes(*x) == y);
        Some(first >> 4 == 6 && same && fits(length, field::V6_LEN, octets))
    })?;
    let [mut next] = frame.read(start + field::V6_NEXT)?;
    let mut header = Header {
        id: 0,
        payload: start + field::V6_LEN,
        routed: false,
    };
    for _ in 0..MAX_EXTENSIONS {
        let unit = match next {
            protocol::HOP_BY_HOP
            | protocol::ROUTING
            | protocol::DESTINATION
            | protocol::MOBILITY
            | protocol::HIP
            | protocol::SHIM6 => 8,
            protocol::AH => 4,
            protocol::FRAGMENT => 0,
            _ => break,
        };
        let Some([following, len, offset @ .., e, f, g, h]) = frame.read::<8>(header.payload)
        else {
            break;
        };
        header.routed |= next == protocol::ROUTING;
        header.payload += 8 + usize::from(len) * unit;
        if next == protocol::FRAGMENT {
            let offset = u16::from_be_bytes(offset) >> 3;
            let id = u32::from_be_bytes([e, f, g, h]);
            header.id = u64::from(offset) << 32 | u64::from(id);
            // Behind the header of a later fragment there is data of any kind.
            if offset != 0 {
                break;
            }
        }
        next = following;
    }
    Some(header)
}

/// The first even place where `is` holds; `None` from it ends the search. Ethernet's is tried first.
fn search(is: impl Fn(usize) -> Option<bool>) -> Option<usize> {
    const ETHERNET: usize = 14;
    if is(ETHERNET) == Some(true) {
        return Some(ETHERNET);
    }
    for start in (0..DEEPEST).step_by(2) {
        if is(start)? {
            return Some(start);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use flowprobe_ebpf::{Tunnels, parse};

    use super::*;
    use crate::pcap::link::{Link, LinkType};

    const SECRET: [u64; SECRET_WORDS] = [0x9e37_79b9_7f4a_7c15; SECRET_WORDS];

    fn udp() -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([
            0x08, 0, 0x45, 0, 0, 36, 0, 7, 0, 0, 64, 17, 1, 2, 192, 0, 2, 1, 192, 0, 2, 2,
        ]);
        frame.extend([3, 232, 7, 208, 0, 16, 9, 9, 1, 2, 3, 4, 5, 6, 7, 8]);
        frame
    }

    fn of(frame: &[u8]) -> u64 {
        let parsed = parse(frame, &Tunnels::OUTER).expect("a packet");
        content(frame, &parsed, &SECRET)
    }

    #[test]
    fn what_hops_change_is_not_in_it() {
        let same = of(&udp());
        // Type of service, TTL, header checksum, UDP checksum.
        for at in [15, 22, 24, 25, 40, 41] {
            let mut frame = udp();
            frame[at] ^= 0x55;
            assert_eq!(of(&frame), same, "octet {at}");
        }
    }

    #[test]
    fn what_tells_packets_apart_is() {
        let same = of(&udp());
        // Identification, source, destination, both ports, payload.
        for at in [19, 26, 33, 35, 37, 42, 49] {
            let mut frame = udp();
            frame[at] ^= 1;
            assert_ne!(of(&frame), same, "octet {at}");
        }
    }

    #[test]
    fn it_is_the_same_on_every_link() {
        let frame = udp();
        let raw = &frame[14..];
        let link = Link::of(LinkType(101)).expect("raw");
        let parsed = link.parse(raw, &Tunnels::OUTER).expect("a packet");
        assert_eq!(content(raw, &parsed, &SECRET), of(&frame));
        let tagged = [&frame[..12], &[0x81, 0, 0, 5], &frame[12..]].concat();
        assert_eq!(of(&tagged), of(&frame));
    }

    /// Two octets of payload behind a routing header with segments left, hop-by-hop options with
    /// mutable data, and a fragment header.
    fn routed(destination: u8, segments_left: u8, mutable: u8, offset: u8, payload: u8) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 34, 0, 64]);
        let (mut from, mut to) = ([0_u8; 16], [0_u8; 16]);
        (from[0], to[0], to[15]) = (0x20, 0x20, destination);
        frame.extend(from.iter().chain(&to));
        frame.extend([43, 0, 0x3e, 4, mutable, 0, 0, 0]);
        frame.extend([44, 0, 4, segments_left, 0, 0, 0, 0]);
        frame.extend([17, 0, 0, offset << 3 | 1, 0, 0, 0, 9]);
        frame.extend([3, 232, 7, 208, 0, 10, 9, 9, payload, 1]);
        frame
    }

    #[test]
    fn what_segments_change_is_not_in_it() {
        let same = of(&routed(1, 2, 0, 0, 5));
        assert_eq!(of(&routed(2, 1, 7, 0, 5)), same);
        assert_ne!(of(&routed(1, 2, 0, 0, 6)), same, "the payload");
        assert_ne!(of(&routed(1, 2, 0, 1, 5)), same, "another fragment");
    }

    /// IP in IP with the same addresses outside and inside.
    #[test]
    fn the_packet_in_a_tunnel_is_hashed_itself() {
        let inner = &udp()[14..];
        let mut outer = udp()[..34].to_vec();
        (outer[17], outer[19], outer[23]) = (20 + inner.len() as u8, 99, 4);
        outer.extend(inner);
        let parsed = parse(&outer[..], &Tunnels::INNER).expect("a packet");
        assert_eq!(parsed.packet.protocol, 17);
        assert_eq!(content(&outer[..], &parsed, &SECRET), of(&udp()));
    }
}
