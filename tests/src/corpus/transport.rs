//! What IP carries: ports, flags, types, and protocols without any of them.

use super::{Case, Seen, datagram, seen, skipped, v4_seen, v6_seen};
use crate::headers::{
    icmp,
    protocol::{DCCP, ICMP, ICMPV6, IGMP, SCTP, TCP, UDP, UDP_LITE},
    tcp, udp, v4, v6, with_ports,
};

pub(super) fn cases() -> Vec<Case> {
    [
        tcps(),
        udps(),
        others_with_ports(),
        icmps(),
        without_ports(),
    ]
    .concat()
}

/// `payload` over both versions of IP.
fn both(name: &str, protocol: u8, payload: &[u8], ports: (u16, u16), tcp_flags: u8) -> Vec<Case> {
    let of = |seen: Seen, header: usize| Seen {
        ports,
        protocol,
        tcp_flags,
        octets: (header + payload.len()) as u32,
        ..seen
    };
    vec![
        seen(
            format!("v4_{name}"),
            v4(protocol).frame(payload),
            of(v4_seen(), 20),
        ),
        seen(
            format!("v6_{name}"),
            v6(protocol, &[]).frame(payload),
            of(v6_seen(), 40),
        ),
    ]
}

/// `payload` that ends before what is needed of it.
fn short(name: &str, protocol: u8, payload: &[u8]) -> Vec<Case> {
    vec![
        skipped(
            format!("v4_{name}"),
            v4(protocol).frame(payload),
            "truncated_transport",
        ),
        skipped(
            format!("v6_{name}"),
            v6(protocol, &[]).frame(payload),
            "truncated_transport",
        ),
    ]
}

fn tcps() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, flags) in [
        ("tcp_syn", 0x02),
        ("tcp_syn_ack", 0x12),
        ("tcp_ack", 0x10),
        ("tcp_fin_ack", 0x11),
        ("tcp_rst", 0x04),
        ("tcp_push_urgent", 0x28),
        ("tcp_ecn_setup", 0xc2),
        ("tcp_null", 0x00),
        ("tcp_christmas_tree", 0xff),
    ] {
        cases.extend(both(
            name,
            TCP,
            &tcp(443, 50000, flags, 3),
            (443, 50000),
            flags,
        ));
    }
    let mut nonsense = tcp(1, 65535, 0x18, 0);
    nonsense[12] = 0x0f; // a header of no words, and the bit of accurate ECN
    cases.extend(both("tcp_of_no_words", TCP, &nonsense, (1, 65535), 0x18));
    // Ports and flags are in the first 14 octets; what is missing behind them nobody asks for.
    cases.extend(both(
        "tcp_of_14_octets",
        TCP,
        &nonsense[..14],
        (1, 65535),
        0x18,
    ));
    cases.extend(short("tcp_of_13_octets", TCP, &nonsense[..13]));
    cases.extend(short("tcp_of_4_octets", TCP, &nonsense[..4]));
    cases.extend(short("tcp_of_nothing", TCP, &[]));
    cases
}

fn udps() -> Vec<Case> {
    let mut lies = datagram();
    lies[4..6].copy_from_slice(&[0xff, 0xff]);
    let mut zero = datagram();
    zero[4..6].copy_from_slice(&[0, 0]);
    [
        both("udp_of_length_65535", UDP, &lies, (4660, 53535), 0),
        both("udp_of_length_0", UDP, &zero, (4660, 53535), 0),
        both("udp_port_0", UDP, &udp(0, 0, &[]), (0, 0), 0),
        both(
            "udp_ports_all_ones",
            UDP,
            &udp(65535, 65535, &[]),
            (65535, 65535),
            0,
        ),
        both("udp_of_4_octets", UDP, &lies[..4], (4660, 53535), 0),
        short("udp_of_3_octets", UDP, &lies[..3]),
        short("udp_of_nothing", UDP, &[]),
    ]
    .concat()
}

fn others_with_ports() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, protocol, rest) in [
        ("sctp", SCTP, 8),
        ("dccp", DCCP, 12),
        ("udp_lite", UDP_LITE, 4),
    ] {
        let packet = with_ports(2905, 38412, rest);
        cases.extend(both(name, protocol, &packet, (2905, 38412), 0));
        cases.extend(short(
            &format!("{name}_of_3_octets"),
            protocol,
            &packet[..3],
        ));
    }
    cases
}

fn icmps() -> Vec<Case> {
    let quoted = v4(UDP).with(&datagram());
    let port = |kind: u16, code: u16| (0, kind * 256 + code);
    let echo = icmp(8, 0, &[1; 8]);
    [
        both("icmp_echo", ICMP, &echo, port(8, 0), 0),
        // The packet that it quotes is another flow's.
        both(
            "icmp_unreachable",
            ICMP,
            &icmp(3, 13, &quoted),
            port(3, 13),
            0,
        ),
        both(
            "icmp_time_exceeded",
            ICMP,
            &icmp(11, 0, &quoted),
            port(11, 0),
            0,
        ),
        both(
            "icmp_type_255_code_255",
            ICMP,
            &icmp(255, 255, &[]),
            port(255, 255),
            0,
        ),
        both("icmp_of_2_octets", ICMP, &echo[..2], port(8, 0), 0),
        short("icmp_of_1_octet", ICMP, &echo[..1]),
        both(
            "icmpv6_echo",
            ICMPV6,
            &icmp(128, 0, &[1; 8]),
            port(128, 0),
            0,
        ),
        both(
            "icmpv6_neighbour",
            ICMPV6,
            &icmp(135, 0, &[0; 16]),
            port(135, 0),
            0,
        ),
        both(
            "icmpv6_too_big",
            ICMPV6,
            &icmp(2, 0, &quoted),
            port(2, 0),
            0,
        ),
        short("icmpv6_of_1_octet", ICMPV6, &echo[..1]),
    ]
    .concat()
}

fn without_ports() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, protocol) in [
        ("igmp", IGMP),
        ("ospf", 89),
        ("pim", 103),
        ("vrrp", 112),
        ("l2tp", 115),
        ("ipcomp", 108),
        ("etherip", 97),
        ("rsvp", 46),
        ("mpls_in_ip", 137),
        ("protocol_255", 255),
    ] {
        cases.extend(both(name, protocol, &datagram(), (0, 0), 0));
        cases.extend(both(
            &format!("{name}_of_nothing"),
            protocol,
            &[],
            (0, 0),
            0,
        ));
    }
    // The numbers of extension headers mean nothing special over IPv4; its ESP and AH are not
    // looked into either.
    for protocol in [0, 43, 44, 50, 51, 59, 60, 135, 139, 140] {
        let name = format!("v4_protocol_{protocol}");
        let expected = Seen {
            ports: (0, 0),
            protocol,
            ..v4_seen()
        };
        cases.push(seen(name, v4(protocol).frame(&datagram()), expected));
    }
    cases
}
