//! Flow records to test with.

use flowprobe_ebpf::{Addresses, KeyV4, KeyV6, Packet};
use proptest::prelude::*;

use crate::record::{EndReason, FlowKey, FlowRecord};

fn packet(protocol: u8, ports: [u16; 2], traffic_class: u8, vlan: u16) -> Packet {
    let [[a, b], [c, d]] = ports.map(u16::to_be_bytes);
    Packet {
        addresses: Addresses::V4(0),
        ports: u32::from_ne_bytes([a, b, c, d]),
        protocol,
        traffic_class,
        vlan,
        ttl: 0,
        tcp_flags: 0,
        octets: 0,
        flow_label: 0,
    }
}

/// A key of either family.
pub(crate) fn key(
    v6: bool,
    [source, destination]: [[u8; 16]; 2],
    protocol: u8,
    ports: [u16; 2],
    traffic_class: u8,
    vlan: u16,
    ifindex: u32,
) -> FlowKey {
    let packet = packet(protocol, ports, traffic_class, vlan);
    let mut words = [0; 4];
    let octets = [source, destination].concat();
    for (word, octets) in words.iter_mut().zip(octets.chunks_exact(8)) {
        *word = u64::from_ne_bytes(octets.try_into().expect("8 octets"));
    }
    if v6 {
        FlowKey::V6(KeyV6::new(words, &packet, ifindex, 1))
    } else {
        let [[a, b, c, d, ..], [e, f, g, h, ..]] = [source, destination];
        let word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        FlowKey::V4(KeyV4::new(word, &packet, ifindex, 1))
    }
}

/// The i-th of many records, no two alike; every fifth is IPv6.
pub(crate) fn nth(i: u32) -> FlowRecord {
    let [a, b, c, d] = i.to_be_bytes();
    let v6 = i % 5 == 4;
    let source = if v6 {
        [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, a, b, c, d]
    } else {
        [10, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    };
    let destination = if v6 {
        [0x20, 1, 0xd, 0xb8, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1]
    } else {
        [192, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    };
    let protocol = if i.is_multiple_of(2) { 17 } else { 6 };
    FlowRecord {
        key: key(
            v6,
            [source, destination],
            protocol,
            [1024 + (i % 60_000) as u16, 443],
            0,
            0,
            3,
        ),
        packets: u64::from(i) + 1,
        octets: (u64::from(i) + 1) * 100,
        start_ms: 1_700_000_000_000 + u64::from(i),
        end_ms: 1_700_000_001_000 + u64::from(i),
        reason: EndReason::IdleTimeout,
        tcp_flags: if protocol == 6 { 0x1b } else { 0 },
        min_ttl: 63,
        max_ttl: 64,
        flow_label: if v6 { 0xabcde } else { 0 },
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        sampling_n: 1,
    }
}

/// The first `count` records.
pub(crate) fn many(count: u32) -> Vec<FlowRecord> {
    (0..count).map(nth).collect()
}

/// Any record.
pub(crate) fn any_record() -> impl Strategy<Value = FlowRecord> {
    let protocol = prop_oneof![Just(1), Just(6), Just(17), Just(58), any::<u8>()];
    let key = (
        any::<bool>(),
        any::<[[u8; 16]; 2]>(),
        protocol,
        any::<[u16; 2]>(),
        any::<u8>(),
        0..4096u16,
        any::<u32>(),
    )
        .prop_map(|(v6, addresses, protocol, ports, class, vlan, ifindex)| {
            key(v6, addresses, protocol, ports, class, vlan, ifindex)
        });
    let counts = (any::<[u64; 4]>(), 0..5usize, any::<[u8; 3]>());
    let rest = (any::<u32>(), any::<[[u8; 6]; 2]>(), any::<u32>());
    (key, counts, rest).prop_map(|(key, counts, rest)| {
        let ([packets, octets, start_ms, end_ms], reason, [flags, min_ttl, max_ttl]) = counts;
        let (flow_label, [source_mac, destination_mac], sampling_n) = rest;
        FlowRecord {
            key,
            packets,
            octets,
            start_ms,
            end_ms,
            reason: EndReason::ALL[reason],
            tcp_flags: flags,
            min_ttl,
            max_ttl,
            flow_label,
            source_mac,
            destination_mac,
            sampling_n,
        }
    })
}
