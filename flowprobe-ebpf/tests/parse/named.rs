//! One case each, by name.

use flowprobe_ebpf::{Skip, parse::MAX_EXTENSIONS};

use crate::{
    seen::look,
    stack::{
        Extension::{self, Ah, Common, Fragment},
        Network, Stack,
        Transport::{self, Dccp, Icmp, Icmpv6, Other, Sctp, Tcp, Udp, UdpLite},
    },
};

/// The IP header's place in an untagged frame.
const IP: usize = 14;

const UDP: Transport = Udp(4660, 53535);

/// Asserts that the parser sees what the builder put in.
#[track_caller]
fn right(stack: &Stack) {
    assert_eq!(look(&stack.frame()), Ok(stack.seen()), "{stack:?}");
}

#[track_caller]
fn skipped(frame: &[u8], reason: Skip) {
    assert_eq!(look(frame), Err(reason));
}

/// A UDP/IPv4 frame with one octet changed.
fn v4_with(at: usize, octet: u8) -> Vec<u8> {
    let mut frame = Stack::v4(UDP).frame();
    frame[IP + at] = octet;
    frame
}

fn with_fragment(transport: Transport, field: u16) -> Stack {
    let mut stack = Stack::v4(transport);
    if let Network::V4(v4) = &mut stack.network {
        v4.fragment = field;
    }
    stack
}

#[test]
fn v4_udp() {
    let stack = Stack::v4(UDP);
    right(&stack);
    let seen = stack.seen();
    assert_eq!(
        (seen.ports, seen.octets, seen.protocol),
        ((4660, 53535), 58, 17)
    );
}

#[test]
fn v4_options() {
    for options in 0..=10 {
        let mut stack = Stack::v4(Tcp(80, 81, 0x12));
        if let Network::V4(v4) = &mut stack.network {
            v4.options = options;
        }
        right(&stack);
    }
}

#[test]
fn v4_tcp_flags() {
    for flags in 0..=255 {
        right(&Stack::v4(Tcp(443, 50000, flags)));
    }
}

#[test]
fn v4_first_fragment() {
    right(&with_fragment(UDP, 0x2000));
    right(&with_fragment(Tcp(1, 2, 0x10), 0x2000));
}

#[test]
fn v4_later_fragment() {
    // Each bit of the offset by itself, then some with flags.
    let bits = (0..13).map(|bit| 1 << bit);
    for field in bits.chain([0x2001, 0x1fff, 0xe0b9]) {
        let stack = with_fragment(Tcp(1, 2, 0x10), field);
        right(&stack);
        assert_eq!((stack.seen().ports, stack.seen().tcp_flags), ((0, 0), 0));
    }
}

#[test]
fn v4_later_fragment_shorter_than_a_header() {
    let mut stack = with_fragment(Tcp(1, 2, 0x10), 1);
    stack.admitted = Some(1);
    right(&stack);
}

#[test]
fn v4_padding_never_counts() {
    let mut stack = Stack::v4(UDP);
    stack.payload = 1;
    for padding in [0, 17, 1000] {
        stack.padding = padding;
        right(&stack);
        assert_eq!(stack.seen().octets, 29);
    }
}

#[test]
fn v4_bad_version() {
    skipped(&v4_with(0, 0x55), Skip::BadVersion);
    skipped(&v4_with(0, 0x65), Skip::BadVersion);
}

#[test]
fn v4_ihl_below_5() {
    for ihl in 0..5 {
        skipped(&v4_with(0, 0x40 | ihl), Skip::BadHeaderLength);
    }
}

#[test]
fn v4_total_length_below_header() {
    for total in 0..20 {
        skipped(&v4_with(3, total), Skip::BadHeaderLength);
    }
    let mut options = v4_with(0, 0x4f);
    options[IP + 3] = 59;
    skipped(&options, Skip::BadHeaderLength);
}

#[test]
fn v4_total_beyond_frame() {
    skipped(&v4_with(3, 59), Skip::TruncatedNetwork);
    skipped(&v4_with(2, 0xff), Skip::TruncatedNetwork);
}

#[test]
fn v4_no_transport_at_all() {
    let mut stack = Stack::v4(Other(253));
    (stack.payload, stack.padding) = (0, 26);
    right(&stack);
    assert_eq!(stack.seen().octets, 20);
}

/// 802.1Q Annex G: a priority tag has identifier 0.
#[test]
fn vlan() {
    for (control, vlan) in [(0x0064, 100), (0xefff, 4095), (0xe000, 0)] {
        for ethertype in [0x8100, 0x88a8] {
            for mut stack in [Stack::v4(UDP), Stack::v6(UDP, &[])] {
                stack.tags = vec![(ethertype, control)];
                right(&stack);
                assert_eq!(stack.seen().vlan, vlan);
            }
        }
    }
}

#[test]
fn qinq() {
    for tags in [[0x88a8, 0x8100], [0x8100, 0x8100]] {
        let mut stack = Stack::v6(UDP, &[]);
        stack.tags = vec![(tags[0], 0x2007), (tags[1], 0x0064)];
        right(&stack);
        assert_eq!(stack.seen().vlan, 7, "the outer one");
    }
}

#[test]
fn three_tags() {
    let mut stack = Stack::v4(UDP);
    stack.tags = vec![(0x88a8, 1), (0x8100, 2), (0x8100, 3)];
    skipped(&stack.frame(), Skip::TooManyTags);
}

#[test]
fn v6_plain() {
    for transport in [UDP, Tcp(22, 50022, 0x18), Icmpv6(128, 0), Sctp(7, 9)] {
        right(&Stack::v6(transport, &[]));
    }
}

#[test]
fn v6_each_extension_header() {
    for number in [0, 43, 60, 135, 139, 140] {
        for units in [0, 1, 7, 100] {
            right(&Stack::v6(UDP, &[Common(number, units)]));
        }
    }
    for units in [1, 4, 5, 64] {
        right(&Stack::v6(UDP, &[Ah(units)]));
    }
}

#[test]
fn v6_chain() {
    let chain = [Common(0, 1), Common(60, 0), Common(43, 2), Ah(4)];
    right(&Stack::v6(Tcp(1, 2, 3), &chain));
}

#[test]
fn v6_longest_chain() {
    right(&Stack::v6(UDP, &[Common(60, 0); MAX_EXTENSIONS]));
}

#[test]
fn v6_chain_too_long() {
    let chain = [Common(60, 0); MAX_EXTENSIONS + 1];
    skipped(&Stack::v6(UDP, &chain).frame(), Skip::TooManyExtensions);
}

#[test]
fn v6_fragment_first() {
    right(&Stack::v6(UDP, &[Fragment(0x0001)]));
    // RFC 6946: an atomic fragment is a whole packet.
    right(&Stack::v6(UDP, &[Fragment(0)]));
    right(&Stack::v6(UDP, &[Common(0, 0), Fragment(1), Common(60, 0)]));
}

#[test]
fn v6_fragment_later() {
    let bits = (3..16).map(|bit| 1 << bit);
    for field in bits.chain([0xfff8, 0x0009]) {
        let stack = Stack::v6(Tcp(1, 2, 0x10), &[Common(60, 0), Fragment(field)]);
        right(&stack);
        assert_eq!(stack.seen().ports, (0, 0));
    }
}

#[test]
fn v6_fragment_reserved_bits_are_no_offset() {
    right(&Stack::v6(UDP, &[Fragment(0x0006)]));
}

#[test]
fn v6_no_next_header() {
    right(&Stack::v6(Other(59), &[]));
}

#[test]
fn v6_bad_version() {
    let mut frame = Stack::v6(UDP, &[]).frame();
    frame[IP] = 0x45;
    skipped(&frame, Skip::BadVersion);
}

#[test]
fn v6_payload_beyond_frame() {
    let mut frame = Stack::v6(UDP, &[]).frame();
    frame[IP + 5] += 1;
    skipped(&frame, Skip::TruncatedNetwork);
}

#[test]
fn v6_extension_beyond_packet() {
    // A length that leads out of the packet, into octets that the frame does have.
    let mut stack = Stack::v6(UDP, &[Common(60, 0)]);
    stack.padding = 100;
    let mut frame = stack.frame();
    frame[IP + 41] = 10;
    skipped(&frame, Skip::TruncatedTransport);
}

#[test]
fn icmp() {
    for (kind, code) in [(0, 0), (8, 0), (3, 13), (255, 255)] {
        let stack = Stack::v4(Icmp(kind, code));
        right(&stack);
        let port = u16::from(kind) * 256 + u16::from(code);
        assert_eq!(stack.seen().ports, (0, port));
    }
}

#[test]
fn icmpv6() {
    for (kind, code) in [(128, 0), (1, 4), (135, 0)] {
        right(&Stack::v6(Icmpv6(kind, code), &[]));
    }
}

#[test]
fn sctp_dccp_and_udp_lite() {
    for transport in [Sctp(2905, 38412), Dccp(5001, 6), UdpLite(1, 65535)] {
        right(&Stack::v4(transport));
        right(&Stack::v6(transport, &[]));
    }
}

#[test]
fn other_protocols_have_no_ports() {
    // IGMP, IPIP, IPv6 in IP, GRE, ESP, AH over IPv4, OSPF, PIM, experimental.
    for number in [2, 4, 41, 47, 50, 51, 89, 103, 254] {
        let stack = Stack::v4(Other(number));
        right(&stack);
        assert_eq!(stack.seen().ports, (0, 0));
    }
}

/// The numbers of IPv6 extension headers mean nothing special over IPv4.
#[test]
fn v4_does_not_walk_extension_headers() {
    for number in [0, 43, 44, 60, 135, 139, 140] {
        right(&Stack::v4(Other(number)));
    }
}

#[test]
fn not_ip() {
    for ethertype in [[0x08, 0x06], [0x88, 0xcc], [0x00, 0x26], [0x91, 0x00]] {
        let mut frame = Stack::v4(UDP).frame();
        frame[12..14].copy_from_slice(&ethertype);
        skipped(&frame, Skip::NotIp);
    }
}

#[test]
fn ethertype_of_the_other_family() {
    let mut frame = Stack::v4(UDP).frame();
    frame[12..14].copy_from_slice(&[0x86, 0xdd]);
    skipped(&frame, Skip::BadVersion);
}

#[test]
fn runt() {
    for len in 0..14 {
        skipped(&vec![0; len], Skip::TruncatedLink);
    }
    skipped(&[0; 14], Skip::NotIp);
}

#[test]
fn ports_are_never_read_from_padding() {
    let transports = [Tcp(1, 2, 3), UDP, Sctp(1, 2), Icmp(8, 0), Icmpv6(128, 0)];
    for transport in transports {
        for mut stack in [
            Stack::v4(transport),
            Stack::v6(transport, &[]),
            Stack::v6(transport, &[Fragment(1)]),
        ] {
            stack.padding = 60;
            for admitted in 0..=transport.needed() {
                stack.admitted = Some(admitted);
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
    for header in [Common(60, 0), Ah(1), Fragment(1)] {
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
        &[Common(0, 1), Fragment(1)],
        &[Fragment(8)],
        &[Ah(4), Common(60, 2)],
    ];
    let tags: [&[(u16, u16)]; 3] = [&[], &[(0x8100, 5)], &[(0x88a8, 5), (0x8100, 6)]];
    let stacks = [Tcp(1, 2, 3), UDP, Icmpv6(1, 2), Other(47)].map(|transport| {
        let v6 = extensions.map(|headers| Stack::v6(transport, headers));
        let mut stacks = v6.to_vec();
        stacks.push(Stack::v4(transport));
        stacks.push(with_fragment(transport, 7));
        stacks
    });
    for mut stack in stacks.into_iter().flatten() {
        for tags in tags {
            stack.tags = tags.to_vec();
            stack.padding = 9;
            let frame = stack.frame();
            for len in 0..=frame.len() {
                let expected = if len < stack.link_len() {
                    Err(Skip::TruncatedLink)
                } else if len < stack.link_len() + stack.ip_len() {
                    Err(Skip::TruncatedNetwork)
                } else {
                    Ok(stack.seen())
                };
                assert_eq!(look(&frame[..len]), expected, "{len} octets of {stack:?}");
            }
        }
    }
}
