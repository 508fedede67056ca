//! IPv4: lengths, options, fragments.

use super::{Case, Part, Seen, datagram, seen, skipped, v4_seen};
use crate::headers::{
    V4, cut, ether,
    ethertype::IPV4,
    icmp, padded,
    protocol::{GRE, ICMP, TCP, UDP},
    tcp, udp, v4,
};

/// Of this many options each is noted, and none beyond.
const NOTED: usize = 10;

pub(super) fn cases() -> Vec<Case> {
    [lengths(), fields(), options(), bad_options(), fragments()].concat()
}

fn frame(change: impl FnOnce(&mut V4)) -> Vec<u8> {
    let mut header = v4(UDP);
    change(&mut header);
    header.frame(&datagram())
}

fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for words in 0..5 {
        cases.push(skipped(
            format!("v4_header_of_{words}_words"),
            frame(|ip| ip.words = Some(words)),
            "bad_header_length",
        ));
    }
    for version in [0, 5, 6, 7, 15] {
        cases.push(skipped(
            format!("v4_of_version_{version}"),
            frame(|ip| ip.version = version),
            "bad_version",
        ));
    }
    let whole = frame(|_| {});
    let total = |total| frame(|ip| ip.total = Some(total));
    cases.extend([
        seen("v4_udp", whole.clone(), v4_seen()),
        seen("v4_padded_to_60", padded(whole.clone(), 14), v4_seen()),
        seen("v4_padded_by_1", padded(whole.clone(), 1), v4_seen()),
        seen("v4_padded_by_1000", padded(whole.clone(), 1000), v4_seen()),
        skipped(
            "v4_header_beyond_total",
            frame(|ip| ip.words = Some(9)),
            "bad_header_length",
        ),
        skipped("v4_total_0", total(0), "bad_header_length"),
        skipped("v4_total_1", total(1), "bad_header_length"),
        skipped("v4_total_19", total(19), "bad_header_length"),
        skipped("v4_total_20_cuts_ports", total(20), "truncated_transport"),
        skipped("v4_total_23_cuts_ports", total(23), "truncated_transport"),
        seen(
            "v4_total_24_has_ports",
            total(24),
            Seen {
                octets: 24,
                ..v4_seen()
            },
        ),
        skipped("v4_total_1_beyond_frame", total(33), "truncated_network"),
        skipped("v4_total_65535", total(65535), "truncated_network"),
        skipped(
            "v4_total_in_wrong_order",
            total(0x2000),
            "truncated_network",
        ),
        skipped("v4_one_octet", cut(whole.clone(), 15), "truncated_network"),
        skipped(
            "v4_header_cut_by_1",
            cut(whole.clone(), 33),
            "truncated_network",
        ),
        skipped("v4_header_and_no_more", cut(whole, 34), "truncated_network"),
        seen(
            "v4_as_long_as_a_frame_may_be",
            v4(UDP).frame(&udp(4660, 53535, &[0; 1472])),
            Seen {
                octets: 1500,
                ..v4_seen()
            },
        ),
        // RFC 9293 and the merging of segments in the kernel: more than the field can say.
        seen(
            "v4_total_0_beyond_64_kib",
            {
                let mut ip = v4(TCP);
                ip.total = Some(0);
                ip.frame(&tcp(443, 50000, 0x10, 70_000))
            },
            Seen {
                ports: (443, 50000),
                protocol: TCP,
                tcp_flags: 0x10,
                octets: 20 + 20 + 70_000,
                ..v4_seen()
            },
        ),
        seen(
            "v4_total_65535_in_full",
            v4(UDP).frame(&udp(4660, 53535, &[0; 65_507])),
            Seen {
                octets: 65_535,
                ..v4_seen()
            },
        ),
    ]);
    cases
}

fn fields() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, tos) in [
        ("best_effort", 0),
        ("ecn_ce", 0x03),
        ("expedited", 0xb8),
        ("all_ones", 0xff),
    ] {
        cases.push(seen(
            format!("v4_tos_{name}"),
            frame(|ip| ip.tos = tos),
            Seen {
                traffic_class: tos,
                ..v4_seen()
            },
        ));
    }
    for ttl in [0, 1, 255] {
        cases.push(seen(
            format!("v4_ttl_{ttl}"),
            frame(|ip| ip.ttl = ttl),
            Seen { ttl, ..v4_seen() },
        ));
    }
    cases.extend([
        seen(
            "v4_may_be_fragmented",
            frame(|ip| ip.fragment = 0),
            Seen {
                fragment_flags: 0,
                ..v4_seen()
            },
        ),
        // RFC 3514, and RFC 791 before it: the reserved bit says nothing.
        seen(
            "v4_reserved_flag",
            frame(|ip| ip.fragment = 0xc000),
            v4_seen(),
        ),
        seen(
            "v4_from_nobody_to_all",
            frame(|ip| (ip.source, ip.destination) = ([0; 4], [255; 4])),
            Seen {
                source: [0, 0, 0, 0].into(),
                destination: [255, 255, 255, 255].into(),
                ..v4_seen()
            },
        ),
        seen(
            "v4_to_itself",
            frame(|ip| ip.destination = ip.source),
            Seen {
                destination: [10, 1, 2, 3].into(),
                ..v4_seen()
            },
        ),
    ]);
    cases
}

/// The bit of an option's number, by the figure of ipv4Options in the registry, whose bit 0 is
/// the first on the wire: in the first octet option 7 comes first and option 0 last.
fn bit(number: u32) -> u32 {
    let in_figure = number / 8 * 8 + (7 - number % 8);
    1 << (31 - in_figure)
}

fn with_options(name: &str, octets: &[u8], numbers: &[u32]) -> Case {
    let mut ip = v4(UDP);
    ip.options = octets.to_vec();
    let words = octets.len().div_ceil(4) as u32;
    let expected = Seen {
        octets: 32 + 4 * words,
        options: numbers.iter().fold(0, |all, number| all | bit(*number)),
        ..v4_seen()
    };
    seen(name, ip.frame(&datagram()), expected)
}

fn options() -> Vec<Case> {
    let long = |kind: u8, len: u8| {
        let mut option = vec![kind, len];
        option.resize(len.into(), 0);
        option
    };
    let mut nops_then = vec![1; NOTED - 1];
    nops_then.extend([0x94, 4, 0, 0]);
    let mut nops_then_more = vec![1; NOTED];
    nops_then_more.extend([0x94, 4, 0, 0]);
    vec![
        with_options("v4_option_end", &[0, 0, 0, 0], &[0]),
        with_options("v4_option_none", &[1, 1, 1, 1], &[1]),
        with_options("v4_option_none_then_end", &[1, 0, 1, 1], &[0, 1]),
        with_options("v4_option_security", &long(0x82, 11), &[2, 0]),
        with_options("v4_option_loose_route", &long(0x83, 7), &[3, 0]),
        with_options("v4_option_timestamp", &long(0x44, 12), &[4]),
        with_options("v4_option_cipso", &long(0x86, 10), &[6, 0]),
        with_options("v4_option_record_route", &long(0x07, 39), &[7, 0]),
        with_options("v4_option_stream_id", &long(0x88, 4), &[8]),
        with_options("v4_option_strict_route", &long(0x89, 8), &[9]),
        with_options("v4_option_mtu_probe", &long(0x0b, 4), &[11]),
        with_options("v4_option_traceroute", &long(0x52, 12), &[18]),
        with_options("v4_option_router_alert", &long(0x94, 4), &[20]),
        with_options("v4_option_quick_start", &long(0x19, 8), &[25]),
        with_options("v4_option_experiment", &long(0x5e, 4), &[30]),
        with_options("v4_option_number_31", &long(0x1f, 4), &[31]),
        with_options(
            "v4_options_two",
            &[long(0x94, 4), long(0x44, 8)].concat(),
            &[20, 4],
        ),
        with_options("v4_options_after_none", &[1, 1, 0x94, 4, 0, 0], &[1, 20, 0]),
        with_options("v4_options_behind_the_end", &[0, 0x94, 4, 0], &[0]),
        with_options("v4_options_of_40_octets", &[1; 40], &[1]),
        with_options("v4_options_10", &nops_then, &[1, 20]),
        with_options("v4_options_11", &nops_then_more, &[1]),
    ]
}

fn bad_options() -> Vec<Case> {
    let mut no_length = v4(UDP);
    no_length.options = vec![1, 1, 1, 0x94];
    let mut all = v4(UDP);
    all.options = vec![1; 8];
    vec![
        with_options("v4_option_of_length_0", &[0x94, 0, 1, 1], &[20]),
        with_options("v4_option_of_length_1", &[0x94, 1, 1, 1], &[20]),
        with_options("v4_option_beyond_header", &[0x94, 200, 1, 1], &[20]),
        with_options("v4_option_1_beyond_header", &[0x94, 5, 1, 1], &[20]),
        with_options("v4_option_to_the_end_of_header", &[0x94, 4, 1, 1], &[20]),
        // The octet behind it is UDP's: no length of an option.
        with_options("v4_option_without_a_length", &[1, 1, 1, 0x94], &[1, 20]),
        skipped(
            "v4_options_cut",
            cut(all.frame(&datagram()), 38),
            "truncated_network",
        ),
        skipped(
            "v4_options_and_no_more",
            cut(no_length.frame(&[]), 38),
            "truncated_transport",
        ),
        skipped(
            "v4_options_longer_than_total",
            {
                let mut ip = v4(UDP);
                (ip.options, ip.total) = (vec![1; 40], Some(59));
                ip.frame(&datagram())
            },
            "bad_header_length",
        ),
    ]
}

fn fragments() -> Vec<Case> {
    let of = |field: u16, ip: &V4, payload: &[u8]| {
        let mut ip = ip.clone();
        ip.fragment = field;
        ip.frame(payload)
    };
    let first = Seen {
        fragment_flags: 0x20,
        part: Part::First(0xaabb),
        ..v4_seen()
    };
    let later = Seen {
        ports: (0, 0),
        fragment_flags: 0,
        part: Part::Later(0xaabb),
        ..v4_seen()
    };
    let more = Seen {
        fragment_flags: 0x20,
        ..later.clone()
    };
    let (udp4, tcp4) = (v4(UDP), v4(TCP));
    let of_tcp = |seen: &Seen, octets| Seen {
        protocol: TCP,
        octets,
        ..seen.clone()
    };
    vec![
        seen(
            "v4_fragment_first",
            of(0x2000, &udp4, &datagram()),
            first.clone(),
        ),
        seen(
            "v4_fragment_middle",
            of(0x2002, &udp4, &datagram()),
            more.clone(),
        ),
        seen(
            "v4_fragment_last",
            of(0x0002, &udp4, &datagram()),
            later.clone(),
        ),
        seen(
            "v4_fragment_at_8192",
            of(0x1000, &udp4, &datagram()),
            later.clone(),
        ),
        seen(
            "v4_fragment_at_the_end_of_the_world",
            of(0x1fff, &udp4, &datagram()),
            later.clone(),
        ),
        seen(
            "v4_fragment_that_must_not_be",
            of(0x6000, &udp4, &datagram()),
            Seen {
                fragment_flags: 0x60,
                ..first.clone()
            },
        ),
        seen(
            "v4_fragment_later_that_must_not_be",
            of(0x4002, &udp4, &datagram()),
            Seen {
                fragment_flags: 0x40,
                ..later.clone()
            },
        ),
        // RFC 1858 §3: flags in the second fragment.
        skipped(
            "v4_fragment_first_tiny",
            of(0x2000, &tcp4, &tcp(1, 2, 2, 0)[..8]),
            "truncated_transport",
        ),
        seen(
            "v4_fragment_second_of_tiny",
            of(0x0001, &tcp4, &tcp(1, 2, 2, 0)[8..]),
            of_tcp(&later, 32),
        ),
        // RFC 1858 §4: an offset of 1 overlaps the flags of the first.
        seen(
            "v4_fragment_overlapping",
            of(0x0001, &tcp4, &[0x02; 24]),
            of_tcp(&later, 44),
        ),
        seen(
            "v4_fragment_first_of_tcp",
            of(0x2000, &tcp4, &tcp(443, 50000, 0x12, 4)),
            Seen {
                ports: (443, 50000),
                tcp_flags: 0x12,
                ..of_tcp(&first, 44)
            },
        ),
        seen(
            "v4_fragment_first_of_icmp",
            of(0x2000, &v4(ICMP), &icmp(8, 0, &[0; 16])),
            Seen {
                ports: (0, 0x0800),
                protocol: ICMP,
                octets: 44,
                ..first.clone()
            },
        ),
        seen(
            "v4_fragment_first_of_gre",
            of(0x2000, &v4(GRE), &[0; 16]),
            Seen {
                ports: (0, 0),
                protocol: GRE,
                octets: 36,
                ..first.clone()
            },
        ),
        seen(
            "v4_fragment_later_of_1_octet",
            of(0x00b9, &tcp4, &[9]),
            of_tcp(&later, 21),
        ),
        seen(
            "v4_fragment_later_of_nothing",
            of(0x00b9, &tcp4, &[]),
            of_tcp(&later, 20),
        ),
        seen(
            "v4_fragment_of_id_0",
            {
                let mut ip = udp4.clone();
                (ip.id, ip.fragment) = (0, 0x2000);
                ip.frame(&datagram())
            },
            Seen {
                part: Part::First(0),
                ..first.clone()
            },
        ),
        seen(
            "v4_fragment_with_options",
            {
                let mut ip = udp4;
                (ip.options, ip.fragment) = (vec![0x94, 4, 0, 0], 0x0010);
                ether(IPV4, &ip.with(&datagram()))
            },
            Seen {
                octets: 36,
                options: bit(20),
                ..later
            },
        ),
        skipped(
            "v4_fragment_first_beyond_frame",
            {
                let mut ip = v4(UDP);
                (ip.fragment, ip.total) = (0x2000, Some(1500));
                ip.frame(&datagram())
            },
            "truncated_network",
        ),
    ]
}
