//! What hash-based selection hashes: the part of a packet that is the same at every hop, and
//! differs from packet to packet (RFC 5475 §6.2).
//!
//! Addresses, protocol, ports and length come from the parser. Identification and the first octets
//! of the payload are read from the frame, behind the place where those addresses stand. TTL, type
//! of service, options and checksums never go in: hops change them.

use flowprobe_ebpf::{
    Addresses, Frame, Parsed,
    hash::{SECRET_WORDS, hash},
    wire::protocol,
};

/// Octets of the IP payload that are hashed: the whole header of TCP, and some more of others.
const PAYLOAD: usize = 24;

/// Offsets in IPv4 and IPv6 headers.
mod field {
    pub(super) const V4_ID: usize = 4;
    pub(super) const V4_ADDRESSES: usize = 12;
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
    let (addresses, header) = match packet.addresses {
        Addresses::V4(both) => ([both, 0, 0, 0], header_v4(frame, both)),
        Addresses::V6(words) => (words, header_v6(frame, words)),
    };
    let [id, payload @ ..] = header
        .map(|header| header.words(frame, packet.protocol))
        .unwrap_or_default();
    let [a, b, c, d] = addresses;
    let [e, f, g] = payload;
    let transport = u64::from(packet.protocol) << 32 | u64::from(packet.ports);
    let length = u64::from(packet.octets) << 32 | id;
    hash(&[a, b, c, d, transport, length, e, f, g], secret)
}

/// An IP header in a frame.
#[derive(Clone, Copy)]
struct Header {
    id: u16,
    payload: usize,
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
        let mut words = [u64::from(self.id), 0, 0, 0];
        for (word, eight) in words[1..].iter_mut().zip(octets.as_chunks::<8>().0) {
            *word = u64::from_ne_bytes(*eight);
        }
        words
    }
}

fn header_v4<F: Frame + ?Sized>(frame: &F, addresses: u64) -> Option<Header> {
    let start = search(|start| {
        let found: [u8; 8] = frame.read(start + field::V4_ADDRESSES)?;
        let [first] = frame.read(start)?;
        Some(first >> 4 == 4 && u64::from_ne_bytes(found) == addresses)
    })?;
    let [first] = frame.read(start)?;
    Some(Header {
        id: u16::from_be_bytes(frame.read(start + field::V4_ID)?),
        payload: start + usize::from(first & 0xf) * 4,
    })
}

fn header_v6<F: Frame + ?Sized>(frame: &F, [a, b, c, d]: [u64; 4]) -> Option<Header> {
    let start = search(|start| {
        let found: [u8; 32] = frame.read(start + field::V6_ADDRESSES)?;
        let [first] = frame.read(start)?;
        let (words, _) = found.as_chunks::<8>();
        let same = words.iter().zip([a, b, c, d]);
        let same = same.into_iter().all(|(x, y)| u64::from_ne_bytes(*x) == y);
        Some(first >> 4 == 6 && same)
    })?;
    Some(Header {
        id: 0,
        payload: start + field::V6_LEN,
    })
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
}
