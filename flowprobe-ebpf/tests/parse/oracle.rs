//! Another parser's opinion: etherparse, where it understands the same.

use std::net::IpAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use crate::{
    random::stack,
    seen::look,
    stack::{Extension, Network, Stack},
};

/// What both know of a packet.
#[derive(Debug, PartialEq, Eq)]
struct Opinion {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    traffic_class: u8,
    ttl: u8,
    flow_label: u32,
    octets: u32,
    vlan: u16,
    /// Unless it is a fragment, which etherparse leaves alone: ports, TCP flags.
    transport: Option<((u16, u16), u8)>,
}

/// Where both are known to differ: etherparse walks AH over IPv4 and what follows the Fragment
/// header of a later fragment; it takes IPv6 hop-by-hop options in the first place only, does not
/// walk Mobility, HIP and Shim6, takes an IPv6 payload length of 0 for "all there is", and leaves
/// most protocols alone, however short.
fn is_common_ground(stack: &Stack) -> bool {
    if stack.cuts_transport() {
        return false;
    }
    match &stack.network {
        Network::V4(_) => stack.transport.number() != 51,
        Network::V6(v6) => {
            let mut headers = v6.extensions.iter().enumerate();
            headers.all(|(at, header)| match header {
                Extension::Common(0, _) => at == 0,
                Extension::Common(number, _) => [43, 60].contains(number),
                Extension::Ah(_) | Extension::Fragment(_) => true,
            }) && stack.later_fragment().is_none()
                && stack.ip_len() > 40
        }
    }
}

fn etherparse(frame: &[u8]) -> Option<Opinion> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let vlan = packet.vlan_ids().first().map_or(0, |id| id.value());
    let (fragment, protocol) = match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => (ip.is_payload_fragmented(), ip.payload_ip_number()),
        NetSlice::Ipv6(ip) => (ip.is_payload_fragmented(), ip.payload().ip_number),
        NetSlice::Arp(_) => return None,
    };
    let transport = match packet.transport.as_ref() {
        Some(TransportSlice::Tcp(tcp)) => {
            Some(((tcp.source_port(), tcp.destination_port()), tcp.slice()[13]))
        }
        Some(TransportSlice::Udp(udp)) => Some(((udp.source_port(), udp.destination_port()), 0)),
        Some(TransportSlice::Icmpv4(icmp)) => {
            let [kind, code] = [icmp.type_u8(), icmp.code_u8()];
            Some(((0, u16::from_be_bytes([kind, code])), 0))
        }
        Some(TransportSlice::Icmpv6(icmp)) => {
            let [kind, code] = [icmp.type_u8(), icmp.code_u8()];
            Some(((0, u16::from_be_bytes([kind, code])), 0))
        }
        _ => None,
    };
    let transport = if fragment { None } else { transport };
    Some(match packet.net? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            Opinion {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol: protocol.0,
                traffic_class: header.dcp().value() << 2 | header.ecn().value(),
                ttl: header.ttl(),
                flow_label: 0,
                octets: u32::from(header.total_len()),
                vlan,
                transport,
            }
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            Opinion {
                source: header.source_addr().into(),
                destination: header.destination_addr().into(),
                protocol: protocol.0,
                traffic_class: header.traffic_class(),
                ttl: header.hop_limit(),
                flow_label: header.flow_label().value(),
                octets: 40 + u32::from(header.payload_length()),
                vlan,
                transport,
            }
        }
        NetSlice::Arp(_) => return None,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn etherparse_sees_the_same(stack in stack().prop_filter("common ground", is_common_ground)) {
        let frame = stack.frame();
        // Its own demands, such as a whole TCP header: too many rejects fail the test.
        let theirs = etherparse(&frame);
        prop_assume!(theirs.is_some());
        let theirs = theirs.unwrap();
        let ours = look(&frame);
        prop_assert!(ours.is_ok(), "{:?} but {:?}", ours, theirs);
        let ours = ours.unwrap();
        let ours = Opinion {
            source: ours.source,
            destination: ours.destination,
            protocol: ours.protocol,
            traffic_class: ours.traffic_class,
            ttl: ours.ttl,
            flow_label: ours.flow_label,
            octets: ours.octets,
            vlan: ours.vlan,
            transport: theirs.transport.map(|_| (ours.ports, ours.tcp_flags)),
        };
        prop_assert_eq!(ours, theirs);
    }
}
