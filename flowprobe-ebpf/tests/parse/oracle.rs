//! Another parser's opinion: etherparse, where it understands the same.

use std::net::IpAddr;

use etherparse::{LinkExtSlice, NetSlice, SlicedPacket, TransportSlice};
use flowprobe_ebpf::Tunnels;
use flowprobe_tests::corpus::{Part, Seen, corpus};
use proptest::prelude::*;

use crate::{random::stack, seen::look};

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
    vlans: Vec<u16>,
    priorities: (u8, u8),
    /// Unless it is a fragment, which etherparse leaves alone: ports, TCP flags.
    transport: Option<((u16, u16), u8)>,
}

fn etherparse(frame: &[u8]) -> Option<Opinion> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let mut tags = packet.link_exts.iter().filter_map(|tag| match tag {
        LinkExtSlice::Vlan(tag) => Some(tag.priority_code_point().value()),
        _ => None,
    });
    let priorities = (tags.next().unwrap_or(0), tags.next().unwrap_or(0));
    let vlans = packet.vlan_ids().iter().map(|id| id.value()).collect();
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
                vlans,
                priorities,
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
                vlans,
                priorities,
                transport,
            }
        }
        NetSlice::Arp(_) => return None,
    })
}

/// Why etherparse is not asked, or not followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Difference {
    /// It reads neither SNAP, PPPoE nor MPLS, and no more than three tags.
    Link,
    /// It walks AH over IPv4.
    AhOverV4,
    /// It walks on behind the Fragment header of a later fragment, where other data is.
    LaterFragment,
    /// It takes hop-by-hop options in the first place only, knows no other order than that of
    /// RFC 8200 §4.1, and walks neither mobility, HIP nor Shim6.
    Chain,
    /// It takes an IPv6 payload length of 0 for all there is.
    LengthZero,
    /// It wants whole headers of TCP, UDP and ICMP, with lengths that are right.
    WholeTransport,
    /// It leaves later fragments and protocols that it does not know alone, however short.
    Lenient,
    /// It wants the fields of AH to make sense.
    Ah,
}

/// Why `frame` may be seen otherwise by etherparse.
fn difference(
    frame: &[u8],
    ours: &Result<Seen, &'static str>,
    theirs: Option<&Opinion>,
) -> Option<Difference> {
    use Difference::*;
    let seen = match (ours, theirs) {
        (Ok(seen), _) => seen,
        // What neither takes.
        (Err(_), None) => return None,
        (Err("truncated_transport"), Some(theirs)) if theirs.octets == 40 => {
            return Some(LengthZero);
        }
        (Err("truncated_transport"), Some(theirs)) if theirs.transport.is_none() => {
            return Some(Lenient);
        }
        (Err("too_many_extensions"), Some(_)) => return Some(Chain),
        (Err(_), Some(theirs)) if theirs.octets == 40 => return Some(LengthZero),
        (Err(_), Some(_)) => return None,
    };
    if !seen.labels.is_empty() || seen.vlans.len() > 3 || is_behind_others(frame) {
        return Some(Link);
    }
    let mut walked = Vec::new();
    if seen.source.is_ipv6() {
        walked = chain(&frame[14 + 4 * seen.vlans.len()..]);
    } else if seen.protocol == 51 {
        return Some(AhOverV4);
    }
    if matches!(seen.part, Part::Later(_)) && seen.source.is_ipv6() {
        return Some(LaterFragment);
    }
    let odd = walked.iter().enumerate().any(|(at, number)| match number {
        0 => at > 0,
        number => ![43, 44, 51, 60].contains(number),
    });
    if odd || [135, 139, 140].contains(&seen.protocol) {
        return Some(Chain);
    }
    if theirs.map_or(seen.octets, |theirs| theirs.octets) == 40 && seen.source.is_ipv6() {
        return Some(LengthZero);
    }
    match theirs {
        None if walked.contains(&51) => Some(Ah),
        None => Some(WholeTransport),
        Some(_) => None,
    }
}

/// Whether SNAP or PPPoE is between the tags and IP.
fn is_behind_others(frame: &[u8]) -> bool {
    let mut at = 12;
    loop {
        let kind = u16::from_be_bytes([frame[at], frame[at + 1]]);
        match kind {
            0x8100 | 0x88a8 | 0x9100 => at += 4,
            0x0800 | 0x86dd => return false,
            _ => return true,
        }
    }
}

/// The numbers of a chain of extension headers that fits.
fn chain(packet: &[u8]) -> Vec<u8> {
    let (mut number, mut at) = (packet[6], 40);
    let mut numbers = Vec::new();
    while [0, 43, 44, 51, 60, 135, 139, 140].contains(&number) && numbers.len() < 10 {
        numbers.push(number);
        let octets = match number {
            44 => 8,
            51 => 8 + 4 * usize::from(packet[at + 1]),
            _ => 8 + 8 * usize::from(packet[at + 1]),
        };
        number = packet[at];
        at += octets;
        if at + 2 > packet.len() {
            break;
        }
    }
    numbers
}

/// Compares both; the difference where they need not agree.
fn compare(frame: &[u8]) -> Result<Option<Difference>, String> {
    let ours = look(frame, &Tunnels::OUTER);
    let theirs = etherparse(frame);
    if let Some(difference) = difference(frame, &ours, theirs.as_ref()) {
        return Ok(Some(difference));
    }
    let as_they_say = ours.as_ref().ok().map(|seen| Opinion {
        source: seen.source,
        destination: seen.destination,
        protocol: seen.protocol,
        traffic_class: seen.traffic_class,
        ttl: seen.ttl,
        flow_label: seen.flow_label,
        octets: seen.octets,
        vlans: seen.vlans.clone(),
        priorities: seen.priorities,
        transport: theirs
            .as_ref()
            .and_then(|theirs| theirs.transport)
            .map(|_| (seen.ports, seen.tcp_flags)),
    });
    if as_they_say == theirs {
        Ok(None)
    } else {
        Err(format!("{ours:?}\n  etherparse: {theirs:?}"))
    }
}

#[test]
fn etherparse_sees_the_same_in_the_corpus() {
    let mut differences = std::collections::BTreeMap::new();
    let mut wrong = Vec::new();
    for case in corpus() {
        match compare(&case.frame) {
            Ok(difference) => *differences.entry(difference).or_insert(0) += 1,
            Err(both) => wrong.push(format!("{}: {both}", case.name)),
        }
    }
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
    // Most of the corpus is common ground, or this test says little.
    let agreed = differences[&None];
    println!("{differences:?}");
    assert!(agreed >= 150, "{differences:?}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn etherparse_sees_the_same(stack in stack().prop_map(|mut stack| {
        // Common ground: what it does not read is of no use here.
        stack.link.tags.truncate(3);
        stack.link.labels.clear();
        (stack.link.snap, stack.link.pppoe) = (false, false);
        stack
    })) {
        let difference = compare(&stack.frame());
        prop_assert!(difference.is_ok(), "{}", difference.unwrap_err());
    }
}
