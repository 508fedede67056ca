//! The link layer: tags, LLC, PPPoE, MPLS, and what is no IP.

use super::{Case, Seen, datagram, seen, skipped, v4_seen, v6_seen};
use crate::headers::{
    cut, ether, ether_of_length,
    ethertype::{C_TAG, IPV4, IPV6, MPLS, OLD_TAG, PPPOE, S_TAG},
    llc, mpls, padded, pppoe,
    protocol::UDP,
    snap, tag, tags, v4, v6,
};

/// The organisation code of EtherTypes in SNAP (RFC 1042).
const ETHERNET: [u8; 3] = [0, 0, 0];

fn ip4() -> Vec<u8> {
    v4(UDP).with(&datagram())
}

fn ip6() -> Vec<u8> {
    v6(UDP, &[]).with(&datagram())
}

fn tagged(list: &[(u16, u16)], ethertype: u16, payload: &[u8]) -> Vec<u8> {
    let (outermost, rest) = tags(list, ethertype, payload);
    ether(outermost, &rest)
}

pub(super) fn cases() -> Vec<Case> {
    [
        ethertypes(),
        vlans(),
        stacked(),
        llcs(),
        pppoes(),
        labels(),
        pseudowires(),
    ]
    .concat()
}

fn ethertypes() -> Vec<Case> {
    let kinds = [
        ("arp", 0x0806, "arp"),
        ("rarp", 0x8035, "arp"),
        ("lldp", 0x88cc, "lldp"),
        ("lacp", 0x8809, "slow_protocol"),
        ("eapol", 0x888e, "eapol"),
        ("macsec", 0x88e5, "macsec"),
        ("ptp", 0x88f7, "ptp"),
        ("cfm", 0x8902, "cfm"),
        ("pppoe_discovery", 0x8863, "ppp_control"),
        ("wake_on_lan", 0x0842, "other_ethertype"),
        ("trill", 0x22f3, "other_ethertype"),
        ("profinet", 0x8892, "other_ethertype"),
        ("roce_v1", 0x8915, "other_ethertype"),
        ("fcoe", 0x8906, "other_ethertype"),
        ("loopback_test", 0x9000, "other_ethertype"),
        ("local_experimental", 0x88b5, "other_ethertype"),
        ("nsh", 0x894f, "other_ethertype"),
        ("batman", 0x4305, "other_ethertype"),
        ("tag_of_a_vendor_0x9200", 0x9200, "other_ethertype"),
        ("provider_backbone_0x88e7", 0x88e7, "other_ethertype"),
        ("ethertype_all_ones", 0xffff, "other_ethertype"),
        // IEEE 802.3 §3.2.6: 1500 is the largest length, 1536 the smallest EtherType.
        ("type_1501_is_neither", 1501, "other_ethertype"),
        ("type_1535_is_neither", 1535, "other_ethertype"),
        ("type_1536_is_a_type", 1536, "other_ethertype"),
    ];
    let mut cases = kinds
        .map(|(name, kind, reason)| skipped(name, ether(kind, &[0; 46]), reason))
        .to_vec();
    cases.extend([
        skipped("nothing_at_all", vec![], "truncated_link"),
        skipped(
            "runt_of_13_octets",
            cut(ether(IPV4, &[]), 13),
            "truncated_link",
        ),
        skipped("header_without_ipv4", ether(IPV4, &[]), "truncated_network"),
        skipped("header_without_ipv6", ether(IPV6, &[]), "truncated_network"),
        skipped("header_without_arp", ether(0x0806, &[]), "arp"),
        skipped(
            "ipv6_by_the_type_of_ipv4",
            ether(IPV4, &ip6()),
            "bad_version",
        ),
        skipped(
            "ipv4_by_the_type_of_ipv6",
            ether(IPV6, &padded(ip4(), 20)),
            "bad_version",
        ),
    ]);
    cases
}

fn vlans() -> Vec<Case> {
    let mut cases = Vec::new();
    for (kind, name) in [(C_TAG, "8100"), (S_TAG, "88a8"), (OLD_TAG, "9100")] {
        let one = [(kind, 0x6064)];
        let expected = |seen| Seen {
            vlans: vec![100],
            priorities: (3, 0),
            ..seen
        };
        cases.extend([
            seen(
                format!("tag_{name}_v4"),
                tagged(&one, IPV4, &ip4()),
                expected(v4_seen()),
            ),
            seen(
                format!("tag_{name}_v6"),
                tagged(&one, IPV6, &ip6()),
                expected(v6_seen()),
            ),
        ]);
    }
    // 802.1Q §9.6, table 9-2: identifier 0 is a priority only.
    for (name, control, vlan, priority) in [
        ("tag_of_priority_only", 0xe000, 0, 7),
        ("tag_of_nothing", 0x0000, 0, 0),
        ("tag_drop_eligible", 0x1001, 1, 0),
        ("tag_vid_4095", 0x0fff, 4095, 0),
        ("tag_all_ones", 0xffff, 4095, 7),
    ] {
        let expected = Seen {
            vlans: vec![vlan],
            priorities: (priority, 0),
            ..v4_seen()
        };
        cases.push(seen(
            name,
            tagged(&[(C_TAG, control)], IPV4, &ip4()),
            expected,
        ));
    }
    let one = [(C_TAG, 0x6064)];
    cases.extend([
        skipped(
            "tag_cut_in_two",
            cut(tagged(&one, IPV4, &ip4()), 16),
            "truncated_link",
        ),
        skipped(
            "tag_and_no_more",
            cut(tagged(&one, IPV4, &ip4()), 18),
            "truncated_network",
        ),
        skipped("tag_arp", tagged(&one, 0x0806, &[0; 46]), "arp"),
        skipped(
            "tag_unknown",
            tagged(&one, 0x1234, &[0; 46]),
            "other_ethertype",
        ),
    ]);
    cases
}

fn stacked() -> Vec<Case> {
    let four = [
        (S_TAG, 0x2001),
        (C_TAG, 0x4002),
        (OLD_TAG, 0x6003),
        (C_TAG, 0x8004),
    ];
    let of = |count: usize, seen: Seen| Seen {
        vlans: [1, 2, 3, 4][..count].to_vec(),
        priorities: (1, if count > 1 { 2 } else { 0 }),
        ..seen
    };
    let five = [&four[..], &[(C_TAG, 5)]].concat();
    vec![
        seen(
            "tags_2_v4",
            tagged(&four[..2], IPV4, &ip4()),
            of(2, v4_seen()),
        ),
        seen(
            "tags_2_v6",
            tagged(&four[..2], IPV6, &ip6()),
            of(2, v6_seen()),
        ),
        seen(
            "tags_3_v4",
            tagged(&four[..3], IPV4, &ip4()),
            of(3, v4_seen()),
        ),
        seen("tags_4_v4", tagged(&four, IPV4, &ip4()), of(4, v4_seen())),
        seen("tags_4_v6", tagged(&four, IPV6, &ip6()), of(4, v6_seen())),
        skipped("tags_5", tagged(&five, IPV4, &ip4()), "too_many_tags"),
        skipped(
            "tag_loop",
            tagged(&[(C_TAG, 7); 90], C_TAG, &[0; 4]),
            "too_many_tags",
        ),
        skipped(
            "tags_4_and_cut",
            cut(tagged(&four, IPV4, &ip4()), 29),
            "truncated_link",
        ),
        skipped("tags_4_lldp", tagged(&four, 0x88cc, &[0; 46]), "lldp"),
        seen(
            "tags_2_same_vid",
            tagged(&[(C_TAG, 9), (C_TAG, 9)], IPV4, &ip4()),
            Seen {
                vlans: vec![9, 9],
                ..v4_seen()
            },
        ),
        seen(
            "tags_2_vid_0_outside",
            tagged(&[(C_TAG, 0xe000), (C_TAG, 0x0009)], IPV4, &ip4()),
            Seen {
                vlans: vec![0, 9],
                priorities: (7, 0),
                ..v4_seen()
            },
        ),
        seen(
            "tags_4_snap",
            tagged(&four, 52, &snap(ETHERNET, IPV4, &ip4())),
            of(4, v4_seen()),
        ),
        seen(
            "tags_4_mpls_6_v6",
            tagged(
                &four,
                MPLS,
                &mpls(
                    &[(16, 0), (17, 1), (18, 2), (19, 3), (20, 4), (0xf_ffff, 7)],
                    &ip6(),
                ),
            ),
            Seen {
                labels: vec![(16, 0), (17, 1), (18, 2), (19, 3), (20, 4), (0xf_ffff, 7)],
                ..of(4, v6_seen())
            },
        ),
        seen(
            "tags_2_pppoe_v6",
            tagged(&four[..2], PPPOE, &pppoe(0, 0x0057, &ip6())),
            of(2, v6_seen()),
        ),
    ]
}

fn llcs() -> Vec<Case> {
    vec![
        skipped(
            "stp",
            ether_of_length(&padded(llc(0x42, 0x42, &[0; 35]), 8)),
            "llc",
        ),
        skipped(
            "isis",
            ether_of_length(&llc(0xfe, 0xfe, &[0x83; 40])),
            "llc",
        ),
        skipped(
            "netbeui",
            ether_of_length(&llc(0xf0, 0xf0, &[0; 40])),
            "llc",
        ),
        skipped("novell_raw", ether_of_length(&[0xff; 46]), "llc"),
        skipped("llc_of_length_0", ether(0, &[0; 46]), "llc"),
        skipped("llc_of_length_1500", ether(1500, &[0x42; 46]), "llc"),
        skipped("llc_ip", ether_of_length(&llc(6, 6, &ip4())), "llc"),
        seen(
            "snap_v4",
            ether_of_length(&snap(ETHERNET, IPV4, &ip4())),
            v4_seen(),
        ),
        seen(
            "snap_v6",
            ether_of_length(&snap(ETHERNET, IPV6, &ip6())),
            v6_seen(),
        ),
        // Only IP's own length counts.
        seen(
            "snap_of_length_0",
            ether(0, &snap(ETHERNET, IPV4, &ip4())),
            v4_seen(),
        ),
        seen(
            "snap_of_length_1500",
            ether(1500, &snap(ETHERNET, IPV4, &ip4())),
            v4_seen(),
        ),
        seen(
            "snap_padded",
            padded(ether_of_length(&snap(ETHERNET, IPV4, &ip4())), 9),
            v4_seen(),
        ),
        skipped(
            "snap_arp",
            ether_of_length(&snap(ETHERNET, 0x0806, &[0; 28])),
            "arp",
        ),
        skipped(
            "snap_tag",
            ether_of_length(&snap(ETHERNET, C_TAG, &tag(1, IPV4, &ip4()))),
            "other_ethertype",
        ),
        skipped(
            "snap_in_snap",
            ether_of_length(&snap(ETHERNET, 8, &snap(ETHERNET, IPV4, &ip4()))),
            "other_ethertype",
        ),
        skipped(
            "cdp",
            ether_of_length(&snap([0, 0, 0x0c], 0x2000, &[0; 40])),
            "llc",
        ),
        // 802.1H: the bridge tunnel's organisation code.
        skipped(
            "snap_bridge_tunnel",
            ether_of_length(&snap([0, 0, 0xf8], IPV4, &ip4())),
            "llc",
        ),
        skipped(
            "snap_cut",
            cut(ether_of_length(&snap(ETHERNET, IPV4, &ip4())), 21),
            "truncated_link",
        ),
        skipped(
            "llc_of_3_octets",
            ether_of_length(&llc(0x42, 0x42, &[])),
            "truncated_link",
        ),
        skipped(
            "snap_and_no_more",
            ether_of_length(&snap(ETHERNET, IPV4, &[])),
            "truncated_network",
        ),
    ]
}

fn pppoes() -> Vec<Case> {
    let control = |name: &str, code, protocol| {
        skipped(
            name,
            ether(PPPOE, &pppoe(code, protocol, &[1, 1, 0, 4])),
            "ppp_control",
        )
    };
    let with = |at: usize, octet| {
        let mut frame = ether(PPPOE, &pppoe(0, 0x0021, &ip4()));
        frame[at] = octet;
        frame
    };
    vec![
        seen(
            "pppoe_v4",
            ether(PPPOE, &pppoe(0, 0x0021, &ip4())),
            v4_seen(),
        ),
        seen(
            "pppoe_v6",
            ether(PPPOE, &pppoe(0, 0x0057, &ip6())),
            v6_seen(),
        ),
        seen(
            "pppoe_mpls_v4",
            ether(PPPOE, &pppoe(0, 0x0281, &mpls(&[(99, 5)], &ip4()))),
            Seen {
                labels: vec![(99, 5)],
                ..v4_seen()
            },
        ),
        seen("pppoe_length_0", with(19, 0), v4_seen()),
        control("pppoe_lcp", 0, 0xc021),
        control("pppoe_pap", 0, 0xc023),
        control("pppoe_ipcp", 0, 0x8021),
        control("pppoe_ipv6cp", 0, 0x8057),
        control("pppoe_padt", 0xa7, 0x0021),
        control("pppoe_compressed_datagram", 0, 0x00fd),
        // RFC 2516 §4: no compressed protocol field.
        control("pppoe_protocol_of_one_octet", 0, 0x2145),
        skipped("pppoe_version_2", with(14, 0x21), "ppp_control"),
        skipped("pppoe_type_2", with(14, 0x12), "ppp_control"),
        skipped("pppoe_cut", cut(with(14, 0x11), 21), "truncated_link"),
        skipped(
            "pppoe_and_no_more",
            cut(with(14, 0x11), 22),
            "truncated_network",
        ),
        skipped(
            "pppoe_ip_of_another_version",
            ether(PPPOE, &pppoe(0, 0x0021, &ip6())),
            "bad_version",
        ),
    ]
}

fn labels() -> Vec<Case> {
    let six = [(16, 0), (17, 1), (18, 2), (19, 3), (20, 4), (0xf_ffff, 7)];
    let of = |list: &[(u32, u8)], inside: &[u8]| ether(MPLS, &mpls(list, inside));
    let with = |list: &[(u32, u8)], seen| Seen {
        labels: list.to_vec(),
        ..seen
    };
    let mut endless = of(&[(16, 0); 7], &ip4());
    endless[14 + 26] &= 0xfe; // no bottom
    let seven = [&six[..], &[(21, 0)]].concat();
    // RFC 6790 §3: the label 7 says that an entropy label follows.
    let entropy = [(1000, 0), (7, 0), (0x12345, 0)];
    let one = [(1000, 5)];
    vec![
        seen("mpls_v4", of(&one, &ip4()), with(&one, v4_seen())),
        seen("mpls_v6", of(&one, &ip6()), with(&one, v6_seen())),
        seen("mpls_2", of(&six[..2], &ip4()), with(&six[..2], v4_seen())),
        seen("mpls_6", of(&six, &ip4()), with(&six, v4_seen())),
        skipped("mpls_7", of(&seven, &ip4()), "too_many_labels"),
        skipped("mpls_without_a_bottom", endless, "too_many_labels"),
        // RFC 3032 §2.1.
        seen(
            "mpls_explicit_null_v4",
            of(&[(0, 0)], &ip4()),
            with(&[(0, 0)], v4_seen()),
        ),
        seen(
            "mpls_explicit_null_v6",
            of(&[(2, 0)], &ip6()),
            with(&[(2, 0)], v6_seen()),
        ),
        seen(
            "mpls_router_alert",
            of(&[(1, 0), (16, 0)], &ip4()),
            with(&[(1, 0), (16, 0)], v4_seen()),
        ),
        seen(
            "mpls_entropy_label",
            of(&entropy, &ip4()),
            with(&entropy, v4_seen()),
        ),
        seen(
            "mpls_padded",
            padded(of(&one, &ip4()), 11),
            with(&one, v4_seen()),
        ),
        seen(
            "mpls_upstream_assigned",
            ether(0x8848, &mpls(&one, &ip4())),
            with(&one, v4_seen()),
        ),
        seen(
            "mpls_under_a_tag",
            tagged(&[(C_TAG, 0x2009)], MPLS, &mpls(&one, &ip4())),
            Seen {
                vlans: vec![9],
                priorities: (1, 0),
                ..with(&one, v4_seen())
            },
        ),
        seen(
            "snap_mpls",
            ether_of_length(&snap(ETHERNET, MPLS, &mpls(&one, &ip4()))),
            with(&one, v4_seen()),
        ),
        skipped(
            "mpls_cut_in_a_label",
            cut(of(&six, &ip4()), 14 + 22),
            "truncated_link",
        ),
        skipped("mpls_and_no_more", of(&one, &[]), "truncated_link"),
        skipped(
            "mpls_one_octet_of_ipv4",
            of(&one, &[0x45]),
            "truncated_network",
        ),
    ]
}

fn pseudowires() -> Vec<Case> {
    let wire = |inside: &[u8]| ether(MPLS, &mpls(&[(2000, 0)], inside));
    let frame = ether(IPV4, &ip4());
    let control_word = [&[0, 0, 0, 1], &frame[..]].concat();
    let mut like_ipv6 = frame.clone();
    like_ipv6[0] = 0x60; // RFC 4928 §3: an address that looks like a version
    vec![
        // RFC 4385 §3: a control word begins with 0, an associated channel with 1.
        skipped(
            "pseudowire_with_control_word",
            wire(&control_word),
            "mpls_payload",
        ),
        skipped(
            "pseudowire_channel",
            wire(&[0x10, 0, 0, 7, 0x20, 0, 0, 0]),
            "mpls_payload",
        ),
        skipped(
            "pseudowire_without_control_word",
            wire(&frame),
            "mpls_payload",
        ),
        skipped(
            "pseudowire_that_looks_like_ipv6",
            wire(&like_ipv6),
            "truncated_network",
        ),
        skipped("mpls_version_5", wire(&[0x55; 40]), "mpls_payload"),
        skipped("mpls_version_15", wire(&[0xff; 40]), "mpls_payload"),
    ]
}
