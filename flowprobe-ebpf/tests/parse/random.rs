//! Random header stacks, and random octets.

use flowprobe_ebpf::{Skip, parse::MAX_EXTENSIONS, parse::MAX_TAGS};
use proptest::{collection::vec, option, prelude::*};

use crate::{
    seen::{Seen, look},
    stack::{Extension, Network, Stack, Transport, V4, V6},
};

/// Extension headers that are walked, and all that a flow takes ports from.
const SPECIAL: [u8; 15] = [0, 1, 6, 17, 33, 43, 44, 51, 58, 60, 132, 135, 136, 139, 140];

fn transport() -> impl Strategy<Value = Transport> {
    let ports = || any::<(u16, u16)>();
    prop_oneof![
        (ports(), any::<u8>()).prop_map(|((a, b), flags)| Transport::Tcp(a, b, flags)),
        ports().prop_map(|(a, b)| Transport::Udp(a, b)),
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
        4 => (number, 0..20_u8).prop_map(|(number, units)| Extension::Common(number, units)),
        1 => (1..30_u8).prop_map(Extension::Ah),
        1 => any::<u16>().prop_map(Extension::Fragment),
        1 => (0..8_u16).prop_map(Extension::Fragment),
    ]
}

fn network() -> impl Strategy<Value = Network> {
    let fragment = prop_oneof![3 => Just(0_u16), 1 => Just(0x2000), 2 => any::<u16>()];
    let v4 = (
        0..=10_u8,
        any::<(u8, u8)>(),
        fragment,
        any::<[[u8; 4]; 2]>(),
    )
        .prop_map(|(options, (tos, ttl), fragment, [source, destination])| {
            Network::V4(V4 {
                options,
                tos,
                ttl,
                fragment,
                source,
                destination,
            })
        });
    let v6 = (
        any::<(u8, u8)>(),
        0..1_u32 << 20,
        vec(extension(), 0..=MAX_EXTENSIONS),
        any::<[[u8; 16]; 2]>(),
    )
        .prop_map(
            |((class, hop_limit), label, extensions, [source, destination])| {
                Network::V6(V6 {
                    class,
                    label,
                    hop_limit,
                    extensions,
                    source,
                    destination,
                })
            },
        );
    prop_oneof![v4, v6]
}

pub(crate) fn stack() -> impl Strategy<Value = Stack> {
    let tag = (prop::sample::select(vec![0x8100, 0x88a8]), any::<u16>());
    (
        vec(tag, 0..=MAX_TAGS),
        network(),
        transport(),
        0..200_usize,
        option::weighted(0.2, 0..30_usize),
        0..50_usize,
    )
        .prop_map(
            |(tags, network, transport, payload, admitted, padding)| Stack {
                tags,
                network,
                transport,
                payload,
                admitted,
                padding,
            },
        )
}

fn expected(stack: &Stack) -> Result<Seen, Skip> {
    if stack.cuts_transport() {
        Err(Skip::TruncatedTransport)
    } else {
        Ok(stack.seen())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_stack_is_seen_as_it_was_built(stack in stack()) {
        prop_assert_eq!(look(&stack.frame()), expected(&stack));
    }

    #[test]
    fn a_cut_frame_is_never_taken_for_whole(stack in stack(), cut in any::<prop::sample::Index>()) {
        let whole = stack.link_len() + stack.ip_len();
        let frame = stack.frame();
        let result = look(&frame[..cut.index(whole)]);
        prop_assert!(matches!(result, Err(Skip::TruncatedLink | Skip::TruncatedNetwork)));
    }

    #[test]
    fn random_octets_are_harmless(frame in vec(any::<u8>(), 0..200)) {
        within(&frame)?;
    }

    #[test]
    fn random_octets_of_ip_are_harmless(
        ethertype in prop::sample::select(vec![[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00]]),
        first in any::<u8>(),
        rest in vec(any::<u8>(), 0..200),
    ) {
        let version = if ethertype == [0x86, 0xdd] { 0x60 } else { 0x40 };
        let mut frame = vec![0; 12];
        frame.extend(ethertype);
        frame.push(version | first & 0x0f);
        frame.extend(rest);
        within(&frame)?;
    }

    #[test]
    fn one_octet_changed_is_harmless(stack in stack(), at in any::<prop::sample::Index>(), octet in any::<u8>()) {
        let mut frame = stack.frame();
        let at = at.index(frame.len());
        frame[at] = octet;
        within(&frame)?;
    }
}

/// What a packet claims is within the frame.
fn within(frame: &[u8]) -> Result<(), TestCaseError> {
    if let Ok(seen) = look(frame) {
        prop_assert!(seen.octets as usize <= frame.len() - 14);
        prop_assert!(seen.octets >= 20);
        prop_assert!(seen.vlan < 4096);
        prop_assert!(seen.flow_label < 1 << 20);
    }
    Ok(())
}
