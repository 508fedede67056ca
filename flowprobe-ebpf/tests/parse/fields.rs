//! Fields over all of their values, or each of their bits; the corpus has the special ones.

use flowprobe_ebpf::{
    Skip, Tunnels,
    parse::{MAX_EXTENSIONS, MAX_LABELS, MAX_TAGS},
};
use flowprobe_tests::headers::{Extension, ah, ether, extension, fragment};

use crate::{
    seen::look,
    stack::{
        EXTENSIONS, LABELS, Network, Stack, TAGS,
        Transport::{self, Dccp, Icmp, Icmpv6, Other, Sctp, Tcp, Udp, UdpLite},
    },
};

/// The IP header's place in an untagged frame.
const IP: usize = 14;

const UDP: Transport = Udp(4660, 53535);

/// Asserts that the parser sees what the builder put in, and that there is something to see.
#[track_caller]
fn right(stack: &Stack) {
    let expected = stack.outer();
    assert!(expected.is_ok(), "{stack:?}");
    assert_eq!(
        look(&stack.frame()[..], &Tunnels::OUTER),
        expected,
        "{stack:?}"
    );
}

#[track_caller]
fn skipped(frame: &[u8], reason: Skip) {
    assert_eq!(look(frame, &Tunnels::OUTER), Err(reason.label()));
}

/// A UDP/IPv4 frame with one octet changed.
fn v4_with(at: usize, octet: u8) -> Vec<u8> {
    let mut frame = Stack::v4(UDP).frame();
    frame[IP + at] = octet;
    frame
}

fn with_fragment(transport: Transport, field: u16) -> Stack {
    let mut stack = Stack::v4(transport);
    if let Network::V4(v4) = &mut stack.packet.network {
        v4.fragment = field;
    }
    stack
}

#[test]
fn the_limits_are_those_of_the_builder() {
    let product = (MAX_TAGS, MAX_LABELS, MAX_EXTENSIONS);
    assert_eq!(product, (TAGS, LABELS, EXTENSIONS));
}

#[test]
fn every_length_of_v4_options() {
    for words in 0..=10 {
        let mut stack = Stack::v4(Tcp(80, 81, 0x12));
        if let Network::V4(v4) = &mut stack.packet.network {
            v4.options = vec![1; words * 4];
        }
        right(&stack);
    }
}

#[test]
fn every_octet_of_tcp_flags() {
    for flags in 0..=255 {
        right(&Stack::v4(Tcp(443, 50000, flags)));
        right(&Stack::v6(Tcp(443, 50000, flags), &[]));
    }
}

#[test]
fn every_bit_of_a_v4_fragment_offset() {
    // Each bit of the offset by itself, then some with flags.
    let bits = (0..13).map(|bit| 1 << bit);
    for field in bits.chain([0x2001, 0x1fff, 0xe0b9]) {
        let stack = with_fragment(Tcp(1, 2, 0x10), field);
        right(&stack);
        let seen = stack.outer().unwrap();
        assert_eq!((seen.ports, seen.tcp_flags), ((0, 0), 0));
    }
}

#[test]
fn every_bit_of_a_v6_fragment_offset() {
    let bits = (3..16).map(|bit| 1 << bit);
    for field in bits.chain([0xfff8, 0x0009]) {
        let chain = [extension(60, 0), fragment(field, 7)];
        let stack = Stack::v6(Tcp(1, 2, 0x10), &chain);
        right(&stack);
        assert_eq!(stack.outer().unwrap().ports, (0, 0));
    }
}

#[test]
fn every_v4_total_length_that_is_too_short_or_too_long() {
    for total in 0..20 {
        skipped(&v4_with(3, total), Skip::BadHeaderLength);
    }
    for total in 20..24 {
        skipped(&v4_with(3, total), Skip::TruncatedTransport);
    }
    let len = Stack::v4(UDP).ip_len() as u8;
    for total in len + 1..=255 {
        skipped(&v4_with(3, total), Skip::TruncatedNetwork);
    }
    for high in 1..=255 {
        skipped(&v4_with(2, high), Skip::TruncatedNetwork);
    }
}

#[test]
fn every_first_octet_of_ipv4() {
    // The packet is 58 octets long.
    assert_eq!(Stack::v4(UDP).ip_len(), 58);
    for octet in 0..=255_u8 {
        let frame = v4_with(0, octet);
        match (octet >> 4, octet & 0xf) {
            (4, 0..5 | 15) => skipped(&frame, Skip::BadHeaderLength),
            (4, 14) => skipped(&frame, Skip::TruncatedTransport),
            (4, _) => assert!(look(&frame[..], &Tunnels::OUTER).is_ok()),
            _ => skipped(&frame, Skip::BadVersion),
        }
    }
}

#[test]
fn every_vlan_and_priority() {
    let mut stack = Stack::v4(UDP);
    for control in 0..=0xffff_u16 {
        stack.link.tags = vec![(0x8100, control)];
        right(&stack);
    }
}

#[test]
fn every_extension_header_of_many_lengths() {
    for number in [0, 43, 60, 135, 139, 140] {
        for units in [0, 1, 7, 100, 255] {
            right(&Stack::v6(UDP, &[extension(number, units)]));
        }
    }
    for words in 0..=255 {
        right(&Stack::v6(UDP, &[ah(words)]));
    }
}

#[test]
fn every_protocol() {
    for number in 0..=255 {
        // Those with ports come below, and IPv6 walks extension headers.
        if ![1, 6, 17, 33, 58, 132, 136].contains(&number) {
            right(&Stack::v4(Other(number)));
        }
        if ![0, 1, 6, 17, 33, 43, 44, 51, 58, 60, 132, 135, 136, 139, 140].contains(&number) {
            right(&Stack::v6(Other(number), &[]));
        }
    }
    for transport in [Sctp(2905, 38412), Dccp(5001, 6), UdpLite(1, 65535), UDP] {
        right(&Stack::v4(transport));
        right(&Stack::v6(transport, &[]));
    }
}

#[test]
fn every_icmp_type_and_code() {
    for kind in 0..=255 {
        for code in [0, 1, 13, 255] {
            right(&Stack::v4(Icmp(kind, code)));
            right(&Stack::v6(Icmpv6(kind, code), &[]));
        }
    }
}

#[test]
fn every_ethertype() {
    let mut counts = [0; Skip::COUNT];
    for kind in 0..=0xffff_u16 {
        let frame = ether(kind, &[0; 46]);
        let result = flowprobe_ebpf::parse(&frame[..], &Tunnels::OUTER);
        counts[result.expect_err("zeros are no packet") as usize] += 1;
    }
    for (reason, count) in [
        // The lengths, and three kinds of tags around a length of 0.
        (Skip::Llc, 1501 + 3),
        (Skip::Arp, 2),
        (Skip::Lldp, 1),
        (Skip::SlowProtocol, 1),
        (Skip::Eapol, 1),
        (Skip::Macsec, 1),
        (Skip::Ptp, 1),
        (Skip::Cfm, 1),
        (Skip::PppControl, 2),
        (Skip::BadVersion, 2),
        // Both kinds of MPLS: a stack without a bottom.
        (Skip::TooManyLabels, 2),
        (Skip::OtherEthertype, 65_536 - 1_518),
    ] {
        assert_eq!(counts[reason as usize], count, "{reason:?}");
    }
    assert_eq!(counts.iter().sum::<u32>(), 65_536);
}

#[test]
fn ports_are_never_read_from_padding() {
    let transports = [Tcp(1, 2, 3), UDP, Sctp(1, 2), Icmp(8, 0), Icmpv6(128, 0)];
    for transport in transports {
        for mut stack in [
            Stack::v4(transport),
            Stack::v6(transport, &[]),
            Stack::v6(transport, &[fragment(1, 7)]),
        ] {
            stack.padding = 60;
            for admitted in 0..=transport.needed() {
                stack.packet.admitted = Some(admitted);
                if admitted < transport.needed() {
                    skipped(&stack.frame(), Skip::TruncatedTransport);
                } else {
                    right(&stack);
                }
            }
        }
    }
}

#[test]
fn extension_headers_are_never_read_from_padding() {
    for header in [extension(60, 0), ah(1), fragment(1, 7)] {
        let stack = Stack::v6(UDP, &[header]);
        let mut frame = stack.frame();
        frame[IP + 4..IP + 6].copy_from_slice(&[0, 1]);
        skipped(&frame, Skip::TruncatedTransport);
    }
}

/// Cut anywhere, a frame is the same packet, or it is known to be truncated, and where.
#[test]
fn truncations() {
    let extensions: [&[Extension]; 4] = [
        &[],
        &[extension(0, 1), fragment(1, 7)],
        &[fragment(8, 7)],
        &[ah(4), extension(60, 2)],
    ];
    let tags: [&[(u16, u16)]; 3] = [
        &[],
        &[(0x8100, 5)],
        &[(0x88a8, 5), (0x8100, 6), (0x9100, 7), (0x8100, 8)],
    ];
    let stacks = [Tcp(1, 2, 3), UDP, Icmpv6(1, 2), Other(89)].map(|transport| {
        let v6 = extensions.map(|headers| Stack::v6(transport, headers));
        let mut stacks = v6.to_vec();
        stacks.push(Stack::v4(transport));
        stacks.push(with_fragment(transport, 7));
        stacks
    });
    for mut stack in stacks.into_iter().flatten() {
        for tags in tags {
            stack.link.tags = tags.to_vec();
            stack.padding = 9;
            let frame = stack.frame();
            for len in 0..=frame.len() {
                let expected = if len < stack.link.len() {
                    Err(Skip::TruncatedLink.label())
                } else if len < stack.link.len() + stack.ip_len() {
                    Err(Skip::TruncatedNetwork.label())
                } else {
                    stack.outer()
                };
                let seen = look(&frame[..len], &Tunnels::OUTER);
                assert_eq!(seen, expected, "{len} octets of {stack:?}");
            }
        }
    }
}
