//! IPv6: lengths, extension headers, fragments.

use super::{Case, Part, Seen, datagram, seen, skipped, v6_seen};
use crate::headers::{
    Extension, V6, ah, cut, extension, fragment, padded,
    protocol::{
        AH, DCCP, DESTINATION, ESP, FRAGMENT, GRE, HIP, HOP_BY_HOP, ICMPV6, MOBILITY, NONE,
        ROUTING, SHIM6, TCP, UDP,
    },
    srh, tcp, v6,
};

/// Headers of a chain that are walked.
const WALKED: usize = 8;

/// Bits of ipv6ExtensionHeaders: the registry numbers them from the left.
const DST: u32 = 1 << 31;
const HOP: u32 = 1 << (31 - 1);
const UNK: u32 = 1 << (31 - 3);
const FRA0: u32 = 1 << (31 - 4);
const RH: u32 = 1 << (31 - 5);
const FRA1: u32 = 1 << (31 - 6);
const MOB: u32 = 1 << (31 - 12);
const ESP_BIT: u32 = 1 << (31 - 13);
const AH_BIT: u32 = 1 << (31 - 14);

pub(super) fn cases() -> Vec<Case> {
    [
        lengths(),
        fields(),
        extensions(),
        chains(),
        bad_extensions(),
        ends(),
        fragments(),
    ]
    .concat()
}

fn frame(change: impl FnOnce(&mut V6)) -> Vec<u8> {
    let mut header = v6(UDP, &[]);
    change(&mut header);
    header.frame(&datagram())
}

/// UDP behind a chain of headers of `octets` in all.
fn behind(name: impl Into<String>, chain: &[Extension], octets: u32, options: u32) -> Case {
    seen(
        name,
        v6(UDP, chain).frame(&datagram()),
        Seen {
            octets: 52 + octets,
            options,
            ..v6_seen()
        },
    )
}

fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for version in [0, 4, 5, 7, 15] {
        cases.push(skipped(
            format!("v6_of_version_{version}"),
            frame(|ip| ip.version = version),
            "bad_version",
        ));
    }
    let whole = frame(|_| {});
    let length = |length| frame(|ip| ip.length = Some(length));
    cases.extend([
        seen("v6_udp", whole.clone(), v6_seen()),
        seen("v6_padded_by_1", padded(whole.clone(), 1), v6_seen()),
        seen("v6_padded_by_1000", padded(whole.clone(), 1000), v6_seen()),
        skipped("v6_length_1_beyond_frame", length(13), "truncated_network"),
        skipped("v6_length_65535", length(65535), "truncated_network"),
        skipped("v6_length_0_cuts_ports", length(0), "truncated_transport"),
        skipped("v6_length_3_cuts_ports", length(3), "truncated_transport"),
        seen(
            "v6_length_4_has_ports",
            length(4),
            Seen {
                octets: 44,
                ..v6_seen()
            },
        ),
        skipped("v6_one_octet", cut(whole.clone(), 15), "truncated_network"),
        skipped(
            "v6_header_cut_by_1",
            cut(whole.clone(), 53),
            "truncated_network",
        ),
        skipped(
            "v6_header_and_no_more",
            cut(whole.clone(), 54),
            "truncated_network",
        ),
        seen(
            "v6_nothing_in_it",
            v6(NONE, &[]).frame(&[]),
            Seen {
                ports: (0, 0),
                protocol: NONE,
                octets: 40,
                ..v6_seen()
            },
        ),
        // RFC 2675 §3: a jumbogram; the option is 6 octets and says 70,040.
        seen(
            "v6_jumbogram",
            {
                let jumbo = Extension {
                    number: HOP_BY_HOP,
                    rest: vec![0, 0xc2, 4, 0, 1, 0x11, 0x98],
                };
                let mut ip = v6(TCP, &[jumbo]);
                ip.length = Some(0);
                ip.frame(&tcp(443, 50000, 0x10, 70_012))
            },
            Seen {
                ports: (443, 50000),
                protocol: TCP,
                tcp_flags: 0x10,
                octets: 40 + 8 + 20 + 70_012,
                options: HOP,
                ..v6_seen()
            },
        ),
        seen(
            "v6_length_0_beyond_64_kib",
            {
                let mut ip = v6(TCP, &[]);
                ip.length = Some(0);
                ip.frame(&tcp(443, 50000, 0x10, 70_000))
            },
            Seen {
                ports: (443, 50000),
                protocol: TCP,
                tcp_flags: 0x10,
                octets: 40 + 20 + 70_000,
                ..v6_seen()
            },
        ),
    ]);
    cases
}

fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    for class in [0, 0x01, 0x10, 0xff] {
        cases.push(seen(
            format!("v6_traffic_class_{class:02x}"),
            frame(|ip| ip.class = class),
            Seen {
                traffic_class: class,
                ..v6_seen()
            },
        ));
    }
    for label in [0, 1, 0xf_ffff] {
        cases.push(seen(
            format!("v6_flow_label_{label:05x}"),
            frame(|ip| ip.label = label),
            Seen {
                flow_label: label,
                ..v6_seen()
            },
        ));
    }
    for limit in [0, 1, 255] {
        cases.push(seen(
            format!("v6_hop_limit_{limit}"),
            frame(|ip| ip.hop_limit = limit),
            Seen {
                ttl: limit,
                ..v6_seen()
            },
        ));
    }
    cases
}

fn extensions() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, number, bit) in [
        ("hop_by_hop", HOP_BY_HOP, HOP),
        ("routing", ROUTING, RH),
        ("destination", DESTINATION, DST),
        ("mobility", MOBILITY, MOB),
        ("hip", HIP, UNK),
        ("shim6", SHIM6, UNK),
    ] {
        for units in [0, 1, 31] {
            let chain = [extension(number, units)];
            let octets = 8 + 8 * u32::from(units);
            cases.push(behind(format!("v6_{name}_{octets}"), &chain, octets, bit));
        }
    }
    // RFC 4302 §2.2: words less two. IPv6 wants multiples of 8 octets, and nobody checks.
    for words in [0, 1, 2, 4, 7, 255] {
        let octets = 8 + 4 * u32::from(words);
        cases.push(behind(
            format!("v6_ah_{octets}"),
            &[ah(words)],
            octets,
            AH_BIT,
        ));
    }
    cases.extend([
        behind(
            "v6_extension_of_2048",
            &[extension(DESTINATION, 255)],
            2048,
            DST,
        ),
        behind("v6_segment_routing_1", &[srh(1)], 24, RH),
        behind("v6_segment_routing_5", &[srh(5)], 88, RH),
        behind(
            "v6_router_alert",
            &[Extension {
                number: HOP_BY_HOP,
                rest: vec![0, 5, 2, 0, 0, 1, 0],
            }],
            8,
            HOP,
        ),
    ]);
    cases
}

fn chains() -> Vec<Case> {
    let pads = |count| vec![extension(DESTINATION, 0); count];
    vec![
        behind(
            "v6_chain_as_recommended",
            &[
                extension(HOP_BY_HOP, 0),
                extension(DESTINATION, 1),
                srh(2),
                ah(4),
                extension(DESTINATION, 0),
            ],
            8 + 16 + 40 + 24 + 8,
            HOP | DST | RH | AH_BIT,
        ),
        // RFC 8200 §4.1: only the first place is allowed. What stands elsewhere is walked too.
        behind(
            "v6_hop_by_hop_in_second_place",
            &[extension(DESTINATION, 0), extension(HOP_BY_HOP, 0)],
            16,
            HOP | DST,
        ),
        behind("v6_chain_of_7", &pads(WALKED - 1), 56, DST),
        behind("v6_chain_of_8", &pads(WALKED), 64, DST),
        skipped(
            "v6_chain_of_9",
            v6(UDP, &pads(WALKED + 1)).frame(&datagram()),
            "too_many_extensions",
        ),
        skipped(
            "v6_chain_of_100",
            v6(UDP, &pads(100)).frame(&datagram()),
            "too_many_extensions",
        ),
        behind(
            "v6_chain_of_8_kinds",
            &[
                extension(HOP_BY_HOP, 0),
                extension(DESTINATION, 0),
                extension(ROUTING, 0),
                fragment(0, 1),
                ah(1),
                extension(MOBILITY, 0),
                extension(HIP, 0),
                extension(SHIM6, 0),
            ],
            60 + 8,
            HOP | DST | RH | FRA0 | AH_BIT | MOB | UNK,
        ),
    ]
}

fn bad_extensions() -> Vec<Case> {
    let with = |at: usize, octet: u8| {
        let mut frame = v6(UDP, &[extension(DESTINATION, 0)]).frame(&datagram());
        frame[14 + 40 + at] = octet;
        frame
    };
    let length = |length| {
        let mut ip = v6(UDP, &[extension(DESTINATION, 0)]);
        ip.length = Some(length);
        ip.frame(&datagram())
    };
    vec![
        skipped(
            "v6_extension_beyond_packet",
            with(1, 2),
            "truncated_transport",
        ),
        skipped(
            "v6_extension_beyond_packet_into_padding",
            padded(with(1, 2), 100),
            "truncated_transport",
        ),
        skipped(
            "v6_extension_far_beyond_packet",
            with(1, 255),
            "truncated_transport",
        ),
        // It says of itself that it follows itself: UDP is taken for another of its kind, whose
        // length leads nowhere.
        skipped(
            "v6_extension_names_itself",
            with(0, DESTINATION),
            "truncated_transport",
        ),
        // Nothing is read behind it, and it does not fit all the same.
        skipped(
            "v6_extension_beyond_packet_before_esp",
            v6(DESTINATION, &[]).frame(&[ESP, 1, 1, 4, 0, 0, 0, 0]),
            "truncated_transport",
        ),
        skipped(
            "v6_ah_beyond_packet_before_nothing",
            v6(AH, &[]).frame(&[NONE, 2, 0, 0, 0, 0, 0, 0]),
            "truncated_transport",
        ),
        skipped(
            "v6_extension_cut_by_length",
            length(7),
            "truncated_transport",
        ),
        skipped("v6_extension_and_no_more", length(8), "truncated_transport"),
        skipped(
            "v6_extension_cut_by_length_0",
            length(0),
            "truncated_transport",
        ),
        skipped(
            "v6_extension_of_nothing",
            v6(HOP_BY_HOP, &[]).frame(&[]),
            "truncated_transport",
        ),
        skipped(
            "v6_ah_beyond_packet",
            v6(AH, &[]).frame(&[UDP, 255, 0, 0, 0, 0, 0, 0]),
            "truncated_transport",
        ),
        skipped(
            "v6_fragment_header_cut",
            v6(FRAGMENT, &[]).frame(&[UDP, 0, 0, 1, 0, 0, 0]),
            "truncated_transport",
        ),
    ]
}

fn ends() -> Vec<Case> {
    let end = |name: &str, protocol: u8, chain: &[Extension], payload: &[u8], octets, options| {
        seen(
            name,
            v6(protocol, chain).frame(payload),
            Seen {
                ports: (0, 0),
                protocol,
                octets,
                options,
                ..v6_seen()
            },
        )
    };
    let dst = [extension(DESTINATION, 0)];
    vec![
        end("v6_esp", ESP, &[], &[7; 40], 80, ESP_BIT),
        end(
            "v6_esp_behind_destination",
            ESP,
            &dst,
            &[7; 40],
            88,
            DST | ESP_BIT,
        ),
        end("v6_esp_of_nothing", ESP, &[], &[], 40, ESP_BIT),
        end("v6_no_next_header", NONE, &dst, &[], 48, DST),
        // RFC 8200 §4.7: what is behind it is passed on and means nothing.
        end("v6_no_next_header_and_more", NONE, &[], &datagram(), 52, 0),
        end(
            "v6_of_a_protocol_of_tomorrow",
            253,
            &dst,
            &datagram(),
            60,
            DST,
        ),
        end(
            "v6_extension_of_tomorrow",
            200,
            &[],
            &[UDP, 0, 1, 4, 0, 0, 0, 0],
            48,
            0,
        ),
    ]
}

fn fragments() -> Vec<Case> {
    let of = |name: &str, protocol: u8, chain: &[Extension], payload: &[u8], expected: Seen| {
        seen(name, v6(protocol, chain).frame(payload), expected)
    };
    const ID: u32 = 0x0102_0304;
    let first = Seen {
        octets: 60,
        options: FRA0,
        fragment_flags: 0x20,
        part: Part::First(ID),
        ..v6_seen()
    };
    let later = Seen {
        ports: (0, 0),
        options: FRA1,
        fragment_flags: 0,
        part: Part::Later(ID),
        ..first.clone()
    };
    let more = Seen {
        fragment_flags: 0x20,
        ..later.clone()
    };
    let (hop, dst) = (extension(HOP_BY_HOP, 0), extension(DESTINATION, 0));
    let udp = datagram();
    vec![
        of(
            "v6_fragment_first",
            UDP,
            &[fragment(1, ID)],
            &udp,
            first.clone(),
        ),
        of(
            "v6_fragment_middle",
            UDP,
            &[fragment(0x0011, ID)],
            &udp,
            more.clone(),
        ),
        of(
            "v6_fragment_last",
            UDP,
            &[fragment(0x0010, ID)],
            &udp,
            later.clone(),
        ),
        of(
            "v6_fragment_at_the_end_of_the_world",
            UDP,
            &[fragment(0xfff8, ID)],
            &udp,
            later.clone(),
        ),
        // RFC 6946: the only fragment of its packet.
        of(
            "v6_fragment_atomic",
            UDP,
            &[fragment(0, ID)],
            &udp,
            Seen {
                fragment_flags: 0,
                part: Part::Whole,
                ..first.clone()
            },
        ),
        of(
            "v6_fragment_reserved_bits",
            UDP,
            &[fragment(6, ID)],
            &udp,
            Seen {
                fragment_flags: 0,
                part: Part::Whole,
                ..first.clone()
            },
        ),
        of(
            "v6_fragment_first_behind_hop_by_hop",
            UDP,
            &[hop.clone(), fragment(1, ID), dst.clone()],
            &udp,
            Seen {
                octets: 76,
                options: HOP | FRA0 | DST,
                ..first.clone()
            },
        ),
        // What is in the first fragment only is not walked: it is not here.
        of(
            "v6_fragment_later_of_destination",
            UDP,
            &[hop, fragment(0x0010, ID), dst],
            &udp,
            Seen {
                protocol: DESTINATION,
                octets: 76,
                options: HOP | FRA1,
                ..later.clone()
            },
        ),
        of(
            "v6_fragment_in_fragment",
            UDP,
            &[fragment(1, 9), fragment(1, ID)],
            &udp,
            Seen {
                octets: 68,
                ..first.clone()
            },
        ),
        of(
            "v6_fragment_later_of_1_octet",
            TCP,
            &[fragment(0x0599, ID)],
            &[1],
            Seen {
                protocol: TCP,
                octets: 49,
                ..more.clone()
            },
        ),
        of(
            "v6_fragment_later_of_nothing",
            TCP,
            &[fragment(0x0598, ID)],
            &[],
            Seen {
                protocol: TCP,
                octets: 48,
                ..later.clone()
            },
        ),
        of(
            "v6_fragment_overlapping",
            TCP,
            &[fragment(0x0008, ID)],
            &[2; 24],
            Seen {
                protocol: TCP,
                octets: 72,
                ..later.clone()
            },
        ),
        of(
            "v6_fragment_first_of_icmpv6",
            ICMPV6,
            &[fragment(1, ID)],
            &[128, 0, 0, 0, 0, 0, 0, 0],
            Seen {
                ports: (0, 0x8000),
                protocol: ICMPV6,
                octets: 56,
                ..first.clone()
            },
        ),
        of(
            "v6_fragment_first_of_gre",
            GRE,
            &[fragment(1, ID)],
            &[0; 16],
            Seen {
                ports: (0, 0),
                protocol: GRE,
                octets: 64,
                ..first.clone()
            },
        ),
        of(
            "v6_fragment_first_of_dccp",
            DCCP,
            &[fragment(1, ID)],
            &[0, 1, 0, 2, 0, 0, 0, 0],
            Seen {
                ports: (1, 2),
                protocol: DCCP,
                octets: 56,
                ..first
            },
        ),
        // RFC 7112: the first fragment has to have all headers.
        skipped(
            "v6_fragment_first_tiny",
            v6(TCP, &[fragment(1, ID)]).frame(&tcp(1, 2, 2, 0)[..8]),
            "truncated_transport",
        ),
        skipped(
            "v6_fragment_first_ends_in_the_chain",
            v6(DESTINATION, &[fragment(1, ID)]).frame(&[UDP, 1, 0, 0, 0, 0, 0, 0]),
            "truncated_transport",
        ),
    ]
}
