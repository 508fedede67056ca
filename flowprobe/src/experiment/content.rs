//! What hash-based selection hashes, as `run` has it: see [`flowprobe_ebpf::content`].

use flowprobe_ebpf::{Frame, Parsed, content::packet};

/// A hash of what stays the same in a packet on its way. Samplers derive theirs from it, each under a
/// key of its own, so it has 64 bits: those of two initialisers.
pub(super) fn content<F: Frame + ?Sized>(
    frame: &F,
    parsed: &Parsed,
    initialisers: [u32; 2],
) -> u64 {
    let [high, low] = initialisers.map(|initialiser| packet(frame, parsed, initialiser));
    u64::from(high) << 32 | u64::from(low)
}

#[cfg(test)]
mod tests {
    use flowprobe_ebpf::{Tunnels, parse};

    use super::*;
    use crate::pcap::link::{Link, LinkType};

    const INITIALISERS: [u32; 2] = [1, 2];

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
        content(frame, &parsed, INITIALISERS)
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
        assert_eq!(content(raw, &parsed, INITIALISERS), of(&frame));
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
        assert_eq!(content(&outer[..], &parsed, INITIALISERS), of(&udp()));
    }
}
