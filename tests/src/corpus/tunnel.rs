//! Tunnels: what is outside, and what is inside where one looks.
//!
//! A packet in a tunnel is one of `inside()`: UDP in IPv4 with other addresses and ports.

use std::net::Ipv4Addr;

use super::{Case, Part, Seen, Tunnel, datagram, seen, v4_seen, v6_seen};
use crate::headers::{
    V4, ether,
    ethertype::{BRIDGED, C_TAG, IPV4, IPV6, MPLS, S_TAG},
    extension, fragment, geneve, gre, gtpu, mpls, padded,
    protocol::{self, DESTINATION, GRE, TCP, UDP},
    tags, tcp, udp, v4, v6, vxlan,
};

const VXLAN: u16 = 4789;
const GENEVE: u16 = 6081;
const GTPU: u16 = 2152;

pub(super) fn cases() -> Vec<Case> {
    [
        ip_in_ip(),
        gre_flags(),
        gre_kinds(),
        vxlans(),
        vxlan_links(),
        geneves(),
        gtpus(),
        gtpu_extensions(),
        nested(),
        fragments(),
    ]
    .concat()
}

fn inside_header() -> V4 {
    V4 {
        source: [172, 16, 0, 1],
        destination: [172, 16, 0, 2],
        tos: 0x48,
        ttl: 17,
        fragment: 0,
        ..v4(UDP)
    }
}

/// 34 octets.
fn inside() -> Vec<u8> {
    inside_header().with(&udp(1111, 2222, &[0x99; 6]))
}

fn inside_seen() -> Seen {
    Seen {
        source: Ipv4Addr::new(172, 16, 0, 1).into(),
        destination: Ipv4Addr::new(172, 16, 0, 2).into(),
        ports: (1111, 2222),
        traffic_class: 0x48,
        ttl: 17,
        octets: 34,
        fragment_flags: 0,
        ..v4_seen()
    }
}

/// 54 octets of IPv6, the packet of other cases.
fn inside_v6() -> Vec<u8> {
    v6(UDP, &[]).with(&udp(1111, 2222, &[0x99; 6]))
}

fn inside_v6_seen() -> Seen {
    Seen {
        ports: (1111, 2222),
        octets: 54,
        ..v6_seen()
    }
}

/// `inner` as it comes out of a tunnel between the addresses of `outer`.
fn out_of(kind: &'static str, id: u32, outer: &Seen, inner: Seen) -> Seen {
    Seen {
        tunnel: Some(Tunnel {
            kind,
            id,
            source: outer.source,
            destination: outer.destination,
            protocol: outer.protocol,
        }),
        ..inner
    }
}

/// A protocol without ports over IPv4.
fn carrier(protocol: u8, payload: &[u8]) -> (Vec<u8>, Seen) {
    let expected = Seen {
        ports: (0, 0),
        protocol,
        octets: 20 + payload.len() as u32,
        ..v4_seen()
    };
    (v4(protocol).frame(payload), expected)
}

/// UDP over IPv4 to a port.
fn over_udp(port: u16, payload: &[u8]) -> (Vec<u8>, Seen) {
    let expected = Seen {
        ports: (4660, port),
        octets: 28 + payload.len() as u32,
        ..v4_seen()
    };
    (v4(UDP).frame(&udp(4660, port, payload)), expected)
}

/// A tunnel that is opened.
fn opened(
    name: &str,
    (frame, outer): (Vec<u8>, Seen),
    kind: &'static str,
    id: u32,
    inner: Seen,
) -> Case {
    let inner = out_of(kind, id, &outer, inner);
    seen(name, frame, outer).inside(inner)
}

/// What looks like a tunnel and stays closed.
fn closed(name: &str, (frame, outer): (Vec<u8>, Seen)) -> Case {
    seen(name, frame, outer)
}

fn ip_in_ip() -> Vec<Case> {
    let over_v6 = |protocol, payload: &[u8]| {
        let expected = Seen {
            ports: (0, 0),
            protocol,
            octets: 40 + payload.len() as u32,
            ..v6_seen()
        };
        (v6(protocol, &[]).frame(payload), expected)
    };
    let mut beyond = inside();
    beyond[3] += 1;
    let mut bad_version = inside();
    bad_version[0] = 0x65;
    let mut no_ports = inside_header();
    no_ports.total = Some(22);
    vec![
        opened(
            "ip_in_ip",
            carrier(protocol::IPV4, &inside()),
            "ip",
            0,
            inside_seen(),
        ),
        opened(
            "6in4",
            carrier(protocol::IPV6, &inside_v6()),
            "ip",
            0,
            inside_v6_seen(),
        ),
        opened(
            "4in6",
            over_v6(protocol::IPV4, &inside()),
            "ip",
            0,
            inside_seen(),
        ),
        opened(
            "6in6",
            over_v6(protocol::IPV6, &v6(TCP, &[]).with(&tcp(5, 6, 0x11, 0))),
            "ip",
            0,
            Seen {
                ports: (5, 6),
                protocol: TCP,
                tcp_flags: 0x11,
                octets: 60,
                ..v6_seen()
            },
        ),
        // RFC 2473 §4.1.1: the tunnel encapsulation limit is in destination options.
        {
            let outer = v6(protocol::IPV4, &[extension(DESTINATION, 0)]);
            let expected = Seen {
                ports: (0, 0),
                protocol: protocol::IPV4,
                octets: 40 + 8 + 34,
                options: 1 << 31,
                ..v6_seen()
            };
            opened(
                "4in6_with_limit",
                (outer.frame(&inside()), expected),
                "ip",
                0,
                inside_seen(),
            )
        },
        opened(
            "ip_in_ip_padded_inside",
            carrier(protocol::IPV4, &padded(inside(), 7)),
            "ip",
            0,
            inside_seen(),
        ),
        // The tunnel's packet ends before it: whose octets those are nobody knows.
        closed("ip_in_ip_1_beyond", carrier(protocol::IPV4, &beyond)),
        closed("ip_in_ip_beyond_into_padding", {
            let (frame, expected) = carrier(protocol::IPV4, &beyond);
            (padded(frame, 20), expected)
        }),
        closed(
            "ip_in_ip_of_another_version",
            carrier(protocol::IPV4, &bad_version),
        ),
        closed(
            "ip_in_ip_without_ports",
            carrier(protocol::IPV4, &no_ports.with(&datagram())),
        ),
        closed("ip_in_ip_of_nothing", carrier(protocol::IPV4, &[])),
        closed("6in4_of_nothing", carrier(protocol::IPV6, &[])),
        closed(
            "6in4_of_ipv4",
            carrier(protocol::IPV6, &padded(inside(), 20)),
        ),
    ]
}

fn gre_flags() -> Vec<Case> {
    let mut cases = Vec::new();
    // RFC 2784 §2.1, RFC 2890 §2: checksum, key, sequence number, in this order.
    for (flags, name, fields, id) in [
        (0x0000, "gre", &[][..], 0),
        (0x8000, "gre_c", &[0xcccc_0000], 0),
        (0x2000, "gre_k", &[0x1234_5678], 0x1234_5678),
        (0x1000, "gre_s", &[9], 0),
        (0xa000, "gre_ck", &[0xcccc_0000, 0x1234_5678], 0x1234_5678),
        (0x9000, "gre_cs", &[0xcccc_0000, 9], 0),
        (0x3000, "gre_ks", &[0x1234_5678, 9], 0x1234_5678),
        (
            0xb000,
            "gre_cks",
            &[0xcccc_0000, 0x1234_5678, 9],
            0x1234_5678,
        ),
    ] {
        let packet = gre(flags, IPV4, fields, &inside());
        cases.push(opened(
            name,
            carrier(GRE, &packet),
            "gre",
            id,
            inside_seen(),
        ));
        let packet = gre(flags, IPV6, fields, &inside_v6());
        let name = format!("{name}_v6");
        cases.push(opened(
            &name,
            carrier(GRE, &packet),
            "gre",
            id,
            inside_v6_seen(),
        ));
    }
    cases
}

fn gre_kinds() -> Vec<Case> {
    let frame = ether(IPV4, &inside());
    let closed_gre = |name, packet: Vec<u8>| closed(name, carrier(GRE, &packet));
    let (kind, tagged) = tags(&[(C_TAG, 0x6005)], IPV4, &inside());
    vec![
        opened(
            "gre_bridged",
            carrier(GRE, &gre(0, BRIDGED, &[], &frame)),
            "gre",
            0,
            inside_seen(),
        ),
        // RFC 7637 §3.2: VSID and FlowID are in the key.
        opened(
            "nvgre",
            carrier(GRE, &gre(0x2000, BRIDGED, &[0xabcd_ef42], &frame)),
            "nvgre",
            0xab_cdef,
            inside_seen(),
        ),
        opened(
            "nvgre_tagged_inside",
            carrier(
                GRE,
                &gre(0x2000, BRIDGED, &[0x0000_0100], &ether(kind, &tagged)),
            ),
            "nvgre",
            1,
            Seen {
                vlans: vec![5],
                priorities: (3, 0),
                ..inside_seen()
            },
        ),
        opened(
            "gre_bridged_with_key_and_sequence",
            carrier(GRE, &gre(0x3000, BRIDGED, &[0xabcd_ef42, 1], &frame)),
            "gre",
            0xabcd_ef42,
            inside_seen(),
        ),
        {
            let expected = Seen {
                ports: (0, 0),
                protocol: GRE,
                octets: 40 + 4 + 34,
                ..v6_seen()
            };
            let frame = v6(GRE, &[]).frame(&gre(0, IPV4, &[], &inside()));
            opened("gre_over_v6", (frame, expected), "gre", 0, inside_seen())
        },
        // RFC 2784 §2.3: what was source routing, and what is reserved in it, is not read on.
        closed_gre("gre_routed", gre(0x4000, IPV4, &[0], &inside())),
        closed_gre("gre_version_2", gre(0x0002, IPV4, &[], &inside())),
        // RFC 2637 §4.1: PPTP is version 1 with PPP in it.
        closed_gre(
            "pptp",
            gre(0x3001, 0x880b, &[0x0022_0001, 5], &[0xff, 3, 0, 0x21]),
        ),
        closed_gre("gre_erspan", gre(0x1000, 0x88be, &[1], &frame)),
        closed_gre("gre_mpls", gre(0, MPLS, &[], &mpls(&[(16, 0)], &inside()))),
        closed_gre("gre_keepalive", gre(0, 0, &[], &[])),
        closed_gre("gre_of_3_octets", vec![0, 0, 8]),
        closed_gre("gre_of_nothing", vec![]),
        closed_gre("gre_key_cut", vec![0x20, 0, 8, 0, 0, 0, 0]),
        closed_gre("gre_and_no_more", gre(0, IPV4, &[], &[])),
        closed_gre("gre_checksum_beyond", vec![0x80, 0, 8, 0]),
        closed_gre(
            "gre_arp_inside",
            gre(0, BRIDGED, &[], &ether(0x0806, &[0; 28])),
        ),
        closed_gre("gre_frame_cut", gre(0, BRIDGED, &[], &frame[..13])),
    ]
}

fn vxlans() -> Vec<Case> {
    let frame = ether(IPV4, &inside());
    let over = |flags, frame: &[u8]| over_udp(VXLAN, &vxlan(flags, 0x0b_cdef, frame));
    let of = |name, carrier, inner| opened(name, carrier, "vxlan", 0x0b_cdef, inner);
    vec![
        of("vxlan", over(8, &frame), inside_seen()),
        of(
            "vxlan_v6_inside",
            over(8, &ether(IPV6, &inside_v6())),
            inside_v6_seen(),
        ),
        of("vxlan_all_flags", over(0xff, &frame), inside_seen()),
        opened(
            "vxlan_vni_0",
            over_udp(VXLAN, &vxlan(8, 0, &frame)),
            "vxlan",
            0,
            inside_seen(),
        ),
        opened(
            "vxlan_vni_all_ones",
            over_udp(VXLAN, &vxlan(8, 0xff_ffff, &frame)),
            "vxlan",
            0xff_ffff,
            inside_seen(),
        ),
        {
            let expected = Seen {
                ports: (4660, VXLAN),
                octets: 40 + 8 + 8 + 48,
                ..v6_seen()
            };
            let outer = v6(UDP, &[]).frame(&udp(4660, VXLAN, &vxlan(8, 0x0b_cdef, &frame)));
            of("vxlan_over_v6", (outer, expected), inside_seen())
        },
        closed("vxlan_without_identifier", over(0, &frame)),
        closed(
            "vxlan_of_another_port",
            over_udp(VXLAN + 1, &vxlan(8, 1, &frame)),
        ),
        closed("vxlan_from_its_port", {
            let outer = v4(UDP).frame(&udp(VXLAN, 4660, &vxlan(8, 1, &frame)));
            (
                outer,
                Seen {
                    ports: (VXLAN, 4660),
                    octets: 28 + 8 + 48,
                    ..v4_seen()
                },
            )
        }),
        closed("vxlan_arp_inside", over(8, &ether(0x0806, &[0; 28]))),
        closed("vxlan_ip_cut_inside", over(8, &frame[..47])),
        closed("vxlan_frame_cut", over(8, &frame[..13])),
        closed("vxlan_of_nothing", over(8, &[])),
        closed("vxlan_header_cut", over_udp(VXLAN, &[8, 0, 0, 0, 0, 0, 1])),
        closed("vxlan_port_and_no_more", over_udp(VXLAN, &[])),
        closed("vxlan_over_tcp", {
            let outer = v4(TCP).frame(&tcp(4660, VXLAN, 0x18, 60));
            let expected = Seen {
                ports: (4660, VXLAN),
                protocol: TCP,
                tcp_flags: 0x18,
                octets: 100,
                ..v4_seen()
            };
            (outer, expected)
        }),
        closed("vxlan_over_udp_lite", {
            let outer = v4(protocol::UDP_LITE).frame(&udp(4660, VXLAN, &vxlan(8, 1, &frame)));
            let expected = Seen {
                ports: (4660, VXLAN),
                protocol: protocol::UDP_LITE,
                octets: 28 + 8 + 48,
                ..v4_seen()
            };
            (outer, expected)
        }),
    ]
}

fn vxlan_links() -> Vec<Case> {
    let tagged = |list: &[(u16, u16)]| {
        let (kind, rest) = tags(list, IPV4, &inside());
        ether(kind, &rest)
    };
    let under = |list: &[(u16, u16)], frame: &[u8]| {
        let packet = v4(UDP).with(&udp(4660, VXLAN, &vxlan(8, 77, frame)));
        let (kind, rest) = tags(list, IPV4, &packet);
        let expected = Seen {
            ports: (4660, VXLAN),
            octets: packet.len() as u32,
            vlans: list.iter().map(|(_, control)| control & 0xfff).collect(),
            ..v4_seen()
        };
        (ether(kind, &rest), expected)
    };
    let four = [(S_TAG, 1), (S_TAG, 2), (S_TAG, 3), (C_TAG, 4)];
    let of = |name, carrier, inner| opened(name, carrier, "vxlan", 77, inner);
    vec![
        of(
            "vxlan_tag_inside",
            under(&[], &tagged(&[(C_TAG, 0xe00b)])),
            Seen {
                vlans: vec![11],
                priorities: (7, 0),
                ..inside_seen()
            },
        ),
        of(
            "vxlan_two_tags_inside",
            under(&[], &tagged(&[(S_TAG, 0xe00b), (C_TAG, 0x200c)])),
            Seen {
                vlans: vec![11, 12],
                priorities: (7, 1),
                ..inside_seen()
            },
        ),
        of(
            "vxlan_tag_outside",
            under(&[(C_TAG, 9)], &tagged(&[])),
            Seen {
                vlans: vec![9],
                ..inside_seen()
            },
        ),
        // All tags of a frame are one stack.
        of(
            "vxlan_tag_outside_and_inside",
            under(&[(C_TAG, 9)], &tagged(&[(C_TAG, 0x200c)])),
            Seen {
                vlans: vec![9, 12],
                priorities: (0, 1),
                ..inside_seen()
            },
        ),
        of(
            "vxlan_three_tags_outside_one_inside",
            under(&four[..3], &tagged(&[(C_TAG, 0x200c)])),
            Seen {
                vlans: vec![1, 2, 3, 12],
                ..inside_seen()
            },
        ),
        closed(
            "vxlan_four_tags_outside_one_inside",
            under(&four, &tagged(&[(C_TAG, 0x200c)])),
        ),
        closed(
            "vxlan_five_tags_inside",
            under(&[], &tagged(&[(C_TAG, 1); 5])),
        ),
        of(
            "vxlan_labels_inside",
            under(&[], &ether(MPLS, &mpls(&[(500, 1), (501, 2)], &inside()))),
            Seen {
                labels: vec![(500, 1), (501, 2)],
                ..inside_seen()
            },
        ),
        {
            let packet = v4(UDP).with(&udp(4660, VXLAN, &vxlan(8, 77, &tagged(&[]))));
            let expected = Seen {
                ports: (4660, VXLAN),
                octets: 28 + 8 + 48,
                labels: vec![(500, 1)],
                ..v4_seen()
            };
            of(
                "vxlan_under_a_label",
                (ether(MPLS, &mpls(&[(500, 1)], &packet)), expected),
                Seen {
                    labels: vec![(500, 1)],
                    ..inside_seen()
                },
            )
        },
    ]
}

fn geneves() -> Vec<Case> {
    let frame = ether(IPV4, &inside());
    let over = |first, flags, kind, rest: &[u8]| {
        over_udp(GENEVE, &geneve(first, flags, kind, 0x01_0203, rest))
    };
    let of = |name, carrier, inner| opened(name, carrier, "geneve", 0x01_0203, inner);
    // RFC 8926 §3.5: class, type, length in words; a critical one has the top bit of its type.
    let option = [&[1, 2, 0x80, 1, 0xde, 0xad, 0xbe, 0xef][..], &frame].concat();
    let longest = [&[0; 252][..], &frame].concat();
    vec![
        of("geneve", over(0, 0, BRIDGED, &frame), inside_seen()),
        of("geneve_ipv4", over(0, 0, IPV4, &inside()), inside_seen()),
        of(
            "geneve_ipv6",
            over(0, 0, IPV6, &inside_v6()),
            inside_v6_seen(),
        ),
        of("geneve_option", over(2, 0, BRIDGED, &option), inside_seen()),
        of(
            "geneve_critical_option",
            over(2, 0x40, BRIDGED, &option),
            inside_seen(),
        ),
        of(
            "geneve_options_of_63_words",
            over(63, 0, BRIDGED, &longest),
            inside_seen(),
        ),
        // A control message that has a frame in it is still one packet of that flow.
        of("geneve_oam", over(0, 0x80, BRIDGED, &frame), inside_seen()),
        closed("geneve_version_1", over(0x40, 0, BRIDGED, &frame)),
        closed("geneve_of_another_type", over(0, 0, 0x0806, &frame)),
        closed("geneve_options_beyond", over(63, 0, BRIDGED, &frame)),
        closed("geneve_of_nothing", over(0, 0, BRIDGED, &[])),
        closed(
            "geneve_header_cut",
            over_udp(GENEVE, &[0, 0, 0x65, 0x58, 0, 0, 1]),
        ),
        {
            let expected = Seen {
                ports: (4660, GENEVE),
                octets: 40 + 8 + 8 + 48,
                ..v6_seen()
            };
            let outer = v6(UDP, &[]).frame(&udp(
                4660,
                GENEVE,
                &geneve(0, 0, BRIDGED, 0x01_0203, &frame),
            ));
            of("geneve_over_v6", (outer, expected), inside_seen())
        },
    ]
}

const TEID: u32 = 0xfeed_beef;
const G_PDU: u8 = 255;

fn gtp(name: &str, flags: u8, message: u8, rest: &[u8], inner: Option<Seen>) -> Case {
    let carrier = over_udp(GTPU, &gtpu(flags, message, TEID, rest));
    match inner {
        Some(inner) => opened(name, carrier, "gtpu", TEID, inner),
        None => closed(name, carrier),
    }
}

fn gtpus() -> Vec<Case> {
    let (ip, found) = (inside(), Some(inside_seen()));
    let numbered = [&[0, 7, 0, 0][..], &ip].concat();
    vec![
        gtp("gtpu", 0x30, G_PDU, &ip, found.clone()),
        gtp(
            "gtpu_ipv6",
            0x30,
            G_PDU,
            &inside_v6(),
            Some(inside_v6_seen()),
        ),
        gtp("gtpu_sequence", 0x32, G_PDU, &numbered, found.clone()),
        gtp("gtpu_npdu_number", 0x31, G_PDU, &numbered, found.clone()),
        gtp(
            "gtpu_no_extension_after_all",
            0x34,
            G_PDU,
            &numbered,
            found.clone(),
        ),
        // Without the E flag the octet that names an extension means nothing.
        gtp(
            "gtpu_extension_without_flag",
            0x32,
            G_PDU,
            &[&[0, 7, 0, 0x85][..], &ip].concat(),
            found,
        ),
        gtp("gtpu_echo_request", 0x32, 1, &[0, 7, 0, 0], None),
        gtp("gtpu_error_indication", 0x30, 26, &[16, 0, 0, 0, 1], None),
        gtp("gtpu_end_marker", 0x30, 254, &[], None),
        gtp("gtpu_of_nothing", 0x30, G_PDU, &[], None),
        gtp("gtpu_optional_part_cut", 0x32, G_PDU, &[0, 7, 0], None),
        gtp("gtpu_version_2", 0x48, G_PDU, &ip, None),
        gtp("gtp_prime", 0x20, G_PDU, &ip, None),
        gtp(
            "gtpu_ppp_inside",
            0x30,
            G_PDU,
            &[0xff, 3, 0, 0x21, 0x45],
            None,
        ),
        gtp("gtpu_ethernet_inside", 0x30, G_PDU, &ether(IPV4, &ip), None),
        closed(
            "gtpu_header_cut",
            over_udp(GTPU, &[0x30, 255, 0, 0, 0, 0, 0]),
        ),
    ]
}

fn gtpu_extensions() -> Vec<Case> {
    let (ip, found) = (inside(), Some(inside_seen()));
    // TS 29.281 §5.2.1: length in words, content, what follows. 0x85 is the PDU session container.
    let with = |chain: &[u8]| [&[0, 7, 0, 0x85], chain, &ip].concat();
    let links = |count: usize| {
        let mut chain = [1, 0, 9, 0x85].repeat(count - 1);
        chain.extend([1, 0, 9, 0]);
        chain
    };
    let long = {
        let mut extension = vec![0; 4 * 40];
        extension[0] = 40;
        extension
    };
    vec![
        gtp(
            "gtpu_extension",
            0x34,
            G_PDU,
            &with(&links(1)),
            found.clone(),
        ),
        gtp(
            "gtpu_extension_and_sequence",
            0x36,
            G_PDU,
            &with(&links(1)),
            found.clone(),
        ),
        gtp(
            "gtpu_extension_of_40_words",
            0x34,
            G_PDU,
            &with(&long),
            found.clone(),
        ),
        gtp(
            "gtpu_extensions_2",
            0x34,
            G_PDU,
            &with(&links(2)),
            found.clone(),
        ),
        gtp("gtpu_extensions_4", 0x34, G_PDU, &with(&links(4)), found),
        gtp("gtpu_extensions_5", 0x34, G_PDU, &with(&links(5)), None),
        gtp(
            "gtpu_extension_of_length_0",
            0x34,
            G_PDU,
            &with(&[0, 0, 0, 0]),
            None,
        ),
        gtp(
            "gtpu_extension_beyond",
            0x34,
            G_PDU,
            &with(&[200, 0, 0, 0]),
            None,
        ),
        gtp(
            "gtpu_extension_missing",
            0x34,
            G_PDU,
            &[0, 7, 0, 0x85],
            None,
        ),
    ]
}

/// One level is opened.
fn nested() -> Vec<Case> {
    let second = |protocol, payload: &[u8]| {
        let mut ip = inside_header();
        ip.protocol = protocol;
        let expected = Seen {
            ports: (0, 0),
            protocol,
            octets: 20 + payload.len() as u32,
            ..inside_seen()
        };
        (ip.with(payload), expected)
    };
    let (ip_ip, ip_ip_seen) = second(protocol::IPV4, &inside());
    let (ip_gre, ip_gre_seen) = second(GRE, &gre(0, IPV4, &[], &inside()));
    let in_udp = |port, payload: &[u8]| {
        let expected = Seen {
            ports: (4660, port),
            octets: 28 + payload.len() as u32,
            ..inside_seen()
        };
        (inside_header().with(&udp(4660, port, payload)), expected)
    };
    let (ip_vxlan, ip_vxlan_seen) = in_udp(VXLAN, &vxlan(8, 5, &ether(IPV4, &inside())));
    vec![
        opened(
            "ip_in_ip_in_ip",
            carrier(protocol::IPV4, &ip_ip),
            "ip",
            0,
            ip_ip_seen,
        ),
        opened(
            "gre_in_gre",
            carrier(GRE, &gre(0x2000, IPV4, &[3], &ip_gre)),
            "gre",
            3,
            ip_gre_seen,
        ),
        opened(
            "vxlan_in_vxlan",
            over_udp(VXLAN, &vxlan(8, 4, &ether(IPV4, &ip_vxlan))),
            "vxlan",
            4,
            ip_vxlan_seen.clone(),
        ),
        opened(
            "vxlan_in_gtpu",
            over_udp(GTPU, &gtpu(0x30, G_PDU, TEID, &ip_vxlan)),
            "gtpu",
            TEID,
            ip_vxlan_seen,
        ),
    ]
}

fn fragments() -> Vec<Case> {
    let part = |field| {
        let mut ip = inside_header();
        ip.fragment = field;
        ip.with(&udp(1111, 2222, &[0x99; 6]))
    };
    let outer_part = |field: u16, flags, part| {
        let mut ip = v4(protocol::IPV4);
        ip.fragment = field;
        let expected = Seen {
            ports: (0, 0),
            protocol: protocol::IPV4,
            octets: 54,
            fragment_flags: flags,
            part,
            ..v4_seen()
        };
        (ip.frame(&inside()), expected)
    };
    let inner_v6 = v6(UDP, &[fragment(0x0011, 5)]).with(&datagram());
    vec![
        opened(
            "ip_in_ip_first_fragment_inside",
            carrier(protocol::IPV4, &part(0x2000)),
            "ip",
            0,
            Seen {
                fragment_flags: 0x20,
                part: Part::First(0xaabb),
                ..inside_seen()
            },
        ),
        opened(
            "ip_in_ip_later_fragment_inside",
            carrier(protocol::IPV4, &part(0x0004)),
            "ip",
            0,
            Seen {
                ports: (0, 0),
                part: Part::Later(0xaabb),
                ..inside_seen()
            },
        ),
        opened(
            "6in4_later_fragment_inside",
            carrier(protocol::IPV6, &inner_v6),
            "ip",
            0,
            Seen {
                ports: (0, 0),
                octets: 60,
                options: 1 << 25,
                fragment_flags: 0x20,
                part: Part::Later(5),
                ..v6_seen()
            },
        ),
        // Of a fragmented tunnel packet the parts are counted: what is inside is not whole.
        closed(
            "ip_in_ip_first_fragment",
            outer_part(0x2000, 0x20, Part::First(0xaabb)),
        ),
        closed(
            "ip_in_ip_later_fragment",
            outer_part(0x0004, 0, Part::Later(0xaabb)),
        ),
    ]
}
