//! Random stacks of headers, and random octets.

use flowprobe_ebpf::Tunnels;
use flowprobe_tests::headers::{self, Extension, V4, V6};
use proptest::{collection::vec, option, prelude::*};

use crate::{
    seen::{Captured, look, look_beside},
    stack::{EXTENSIONS, Inside, Kind, LABELS, Link, Network, Packet, Stack, TAGS, Transport},
};

/// Extension headers that are walked, and all that a flow takes ports from or looks into.
const SPECIAL: [u8; 18] = [
    0, 1, 4, 6, 17, 33, 41, 43, 44, 47, 51, 58, 60, 132, 135, 136, 139, 140,
];

/// Ports of tunnels.
const TUNNELS: [u16; 3] = [4789, 6081, 2152];

fn transport() -> impl Strategy<Value = Transport> {
    let ports = || any::<(u16, u16)>();
    let udp = ports().prop_filter("no tunnel", |(_, port)| !TUNNELS.contains(port));
    prop_oneof![
        (ports(), any::<u8>()).prop_map(|((a, b), flags)| Transport::Tcp(a, b, flags)),
        udp.prop_map(|(a, b)| Transport::Udp(a, b)),
        ports().prop_map(|(a, b)| Transport::UdpLite(a, b)),
        ports().prop_map(|(a, b)| Transport::Sctp(a, b)),
        ports().prop_map(|(a, b)| Transport::Dccp(a, b)),
        any::<(u8, u8)>().prop_map(|(kind, code)| Transport::Icmp(kind, code)),
        any::<(u8, u8)>().prop_map(|(kind, code)| Transport::Icmpv6(kind, code)),
        any::<u8>()
            .prop_filter("a protocol of its own", |number| !SPECIAL.contains(number))
            .prop_map(Transport::Other),
    ]
}

fn extension() -> impl Strategy<Value = Extension> {
    let number = prop::sample::select(vec![0, 43, 60, 135, 139, 140]);
    prop_oneof![
        4 => (number, 0..20_u8).prop_map(|(number, units)| headers::extension(number, units)),
        1 => (0..30_u8).prop_map(headers::ah),
        1 => any::<(u16, u32)>().prop_map(|(field, id)| headers::fragment(field, id)),
        1 => (0..8_u16, any::<u32>()).prop_map(|(field, id)| headers::fragment(field, id)),
    ]
}

/// A header of a packet of `protocol`; one in four is a fragment.
fn network() -> impl Strategy<Value = Network> {
    let fragment = prop_oneof![
        3 => prop::sample::select(vec![0, 0x4000]),
        1 => Just(0x2000),
        1 => any::<u16>(),
    ];
    let v4 = (
        0..=10_usize,
        any::<(u8, u8, u16)>(),
        fragment,
        any::<[[u8; 4]; 2]>(),
    );
    let v4 = v4.prop_map(|(words, (tos, ttl, id), fragment, [source, destination])| {
        Network::V4(V4 {
            options: vec![1; words * 4],
            tos,
            ttl,
            id,
            fragment,
            source,
            destination,
            ..headers::v4(0)
        })
    });
    let count = prop_oneof![
        2 => Just(0..=1),
        2 => Just(0..=EXTENSIONS),
        1 => Just(EXTENSIONS..=EXTENSIONS + 2),
    ];
    let v6 = (
        any::<(u8, u8)>(),
        0..1_u32 << 20,
        count.prop_flat_map(|count| vec(extension(), count)),
        any::<[[u8; 16]; 2]>(),
    );
    let v6 = v6.prop_map(
        |((class, hop_limit), label, extensions, [source, destination])| {
            Network::V6(V6 {
                class,
                hop_limit,
                label,
                source,
                destination,
                ..headers::v6(0, &extensions)
            })
        },
    );
    prop_oneof![v4, v6]
}

impl Network {
    fn of(mut self, number: u8) -> Self {
        match &mut self {
            Self::V4(v4) => v4.protocol = number,
            Self::V6(v6) => v6.protocol = number,
        }
        self
    }
}

fn packet() -> impl Strategy<Value = Packet> {
    let admitted = option::weighted(0.2, 0..30_usize);
    (network(), transport(), 0..200_usize, admitted).prop_map(
        |(network, transport, payload, admitted)| Packet {
            network: network.of(transport.number()),
            transport,
            payload,
            admitted,
        },
    )
}

/// Now and then one more of each than is walked.
fn link() -> impl Strategy<Value = Link> {
    let tag = (
        prop::sample::select(vec![0x8100, 0x88a8, 0x9100]),
        any::<u16>(),
    );
    let label = (0..1_u32 << 20, 0..8_u8);
    let labels = prop_oneof![2 => vec(label.clone(), 0), 1 => vec(label, 0..=LABELS + 1)];
    let seldom = || prop::bool::weighted(0.2);
    (vec(tag, 0..=TAGS + 1), seldom(), seldom(), labels).prop_map(|(tags, snap, pppoe, labels)| {
        Link {
            tags,
            snap,
            pppoe,
            labels,
        }
    })
}

fn few_headers() -> impl Strategy<Value = Link> {
    link().prop_map(|mut link| {
        link.tags.truncate(2);
        link.labels.truncate(2);
        link
    })
}

fn kind() -> impl Strategy<Value = Kind> {
    let gre = || (any::<bool>(), option::of(any::<u32>()), any::<bool>());
    let vni = || 0..1_u32 << 24;
    prop_oneof![
        Just(Kind::Ip),
        gre().prop_map(|(checksum, key, sequence)| Kind::Gre(checksum, key, sequence)),
        gre().prop_map(|(checksum, key, sequence)| Kind::Bridged(checksum, key, sequence)),
        vni().prop_map(Kind::Vxlan),
        (vni(), 0..64_u8, any::<bool>())
            .prop_map(|(vni, words, ether)| Kind::Geneve(vni, words, ether)),
        any::<(u32, bool)>()
            .prop_flat_map(|(teid, sequence)| (Just(teid), Just(sequence), 0..=5_usize))
            .prop_map(|(teid, sequence, extensions)| Kind::Gtpu(teid, sequence, extensions)),
    ]
}

fn inside() -> impl Strategy<Value = Inside> {
    (kind(), few_headers(), packet(), 0..20_usize).prop_map(|(kind, link, packet, padding)| {
        Inside {
            kind,
            link,
            packet,
            padding,
        }
    })
}

pub(crate) fn stack() -> impl Strategy<Value = Stack> {
    (link(), packet(), 0..50_usize).prop_map(|(link, packet, padding)| Stack {
        link,
        packet,
        tunnel: None,
        padding,
    })
}

fn tunnel_stack() -> impl Strategy<Value = Stack> {
    (few_headers(), network(), inside(), 0..50_usize).prop_map(
        |(link, network, tunnel, padding)| {
            let transport = tunnel.transport();
            Stack {
                link,
                packet: Packet {
                    network: network.of(transport.number()),
                    transport,
                    payload: 0,
                    admitted: None,
                },
                tunnel: Some(tunnel),
                padding,
            }
        },
    )
}

fn any_stack() -> impl Strategy<Value = Stack> {
    prop_oneof![stack(), tunnel_stack()]
}

fn is_truncation(reason: &str) -> bool {
    reason.starts_with("truncated_")
}

/// What a packet claims is within the frame.
fn within(frame: &[u8]) -> Result<(), TestCaseError> {
    for tunnels in [Tunnels::OUTER, Tunnels::INNER] {
        if let Ok(seen) = look(frame, &tunnels) {
            let before = 14 + 4 * (seen.vlans.len() + seen.labels.len());
            prop_assert!(seen.octets as usize + before <= frame.len());
            prop_assert!(seen.octets >= 20);
            prop_assert!(seen.vlans.iter().all(|id| *id < 4096));
            prop_assert!(seen.flow_label < 1 << 20);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_stack_is_seen_as_it_was_built(stack in any_stack()) {
        let frame = stack.frame();
        prop_assert_eq!(look(&frame[..], &Tunnels::OUTER), stack.outer());
        prop_assert_eq!(look(&frame[..], &Tunnels::INNER), stack.inner());
    }

    #[test]
    fn the_outermost_tag_may_stand_beside_the_frame(stack in any_stack()) {
        let frame = stack.frame();
        let mut beside = frame.clone();
        let control = stack.link.tags.first().map(|(_, control)| *control);
        if control.is_some() {
            // EtherType and control information of the tag.
            beside.drain(12..16);
        }
        for tunnels in [Tunnels::OUTER, Tunnels::INNER] {
            prop_assert_eq!(
                look_beside(&beside[..], control, &tunnels),
                look(&frame[..], &tunnels)
            );
        }
    }

    #[test]
    fn a_cut_frame_is_never_taken_for_whole(stack in any_stack(), cut in any::<prop::sample::Index>()) {
        let frame = stack.frame();
        let whole = stack.link.len() + stack.ip_len();
        let cut = &frame[..cut.index(whole)];
        for tunnels in [Tunnels::OUTER, Tunnels::INNER] {
            let seen = look(cut, &tunnels);
            let right = seen.as_ref().is_err_and(|reason| is_truncation(reason));
            // Too many of a header is known before the last of them.
            prop_assert!(right || seen.is_err() && seen == stack.outer(), "{:?}", seen);
        }
    }

    #[test]
    fn a_frame_captured_in_part_is_what_it_was_or_truncated(stack in any_stack(), captured in any::<prop::sample::Index>()) {
        let frame = stack.frame();
        let octets = &frame[..captured.index(frame.len())];
        let captured = Captured { octets, len: frame.len() };
        let outer = look(&captured, &Tunnels::OUTER);
        prop_assert!(outer == stack.outer() || outer.as_ref().is_err_and(|reason| is_truncation(reason)));
        let inner = look(&captured, &Tunnels::INNER);
        prop_assert!(inner == stack.inner() || inner == outer, "{:?}", inner);
    }

    #[test]
    fn random_octets_are_harmless(frame in vec(any::<u8>(), 0..200)) {
        within(&frame)?;
    }

    #[test]
    fn random_octets_behind_a_type_are_harmless(
        ethertype in prop::sample::select(vec![
            0x0800_u16, 0x86dd, 0x8100, 0x88a8, 0x9100, 0x8847, 0x8848, 0x8864, 40,
        ]),
        first in any::<u8>(),
        rest in vec(any::<u8>(), 0..200),
    ) {
        let version = if ethertype == 0x86dd { 0x60 } else { 0x40 };
        let packet = [&[version | first & 0x0f], &rest[..]].concat();
        within(&headers::ether(ethertype, &packet))?;
    }

    #[test]
    fn one_octet_changed_is_harmless(stack in any_stack(), at in any::<prop::sample::Index>(), octet in any::<u8>()) {
        let mut frame = stack.frame();
        let at = at.index(frame.len());
        frame[at] = octet;
        within(&frame)?;
    }
}
