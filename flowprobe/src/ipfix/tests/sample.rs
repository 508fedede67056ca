//! Flow records to test with.

use flowprobe_ebpf::{
    Addresses, Around, KeyV4, KeyV6, Marks, Packet,
    parse::{MAX_LABELS, MAX_TAGS, tunnel::kind},
    sampling::Sampled,
};
use proptest::prelude::*;

use crate::record::{Biflow, EndReason, FlowKey, FlowRecord};

fn packet(protocol: u8, ports: [u16; 2], traffic_class: u8, vlan: u16) -> Packet {
    let [[a, b], [c, d]] = ports.map(u16::to_be_bytes);
    Packet {
        ports: u32::from_ne_bytes([a, b, c, d]),
        protocol,
        traffic_class,
        vlan,
        ..Packet::EMPTY
    }
}

/// Both addresses as the key has them: of IPv4 the first four octets of each.
fn addresses(v6: bool, [source, destination]: [[u8; 16]; 2]) -> Addresses {
    if v6 {
        let mut words = [0; 4];
        let octets = [source, destination].concat();
        for (word, octets) in words.iter_mut().zip(octets.chunks_exact(8)) {
            *word = u64::from_ne_bytes(octets.try_into().expect("8 octets"));
        }
        Addresses::V6(words)
    } else {
        let [[a, b, c, d, ..], [e, f, g, h, ..]] = [source, destination];
        Addresses::V4(u64::from_ne_bytes([a, b, c, d, e, f, g, h]))
    }
}

/// A key of either family.
pub(crate) fn key(
    v6: bool,
    both: [[u8; 16]; 2],
    protocol: u8,
    ports: [u16; 2],
    traffic_class: u8,
    vlan: u16,
    ifindex: u32,
) -> FlowKey {
    let packet = packet(protocol, ports, traffic_class, vlan);
    match addresses(v6, both) {
        Addresses::V4(word) => FlowKey::V4(KeyV4::new(word, &packet, ifindex, Sampled::new(0, 1))),
        Addresses::V6(words) => {
            FlowKey::V6(KeyV6::new(words, &packet, ifindex, Sampled::new(0, 1)))
        }
    }
}

/// The same flow as that of `key`, with `around` around its packets.
pub(crate) fn wrapped(key: &FlowKey, around: &Around) -> FlowKey {
    let mut key = key.widened();
    let version = key.around().version;
    let words = *Around { version, ..*around }.words();
    let first = key.words.len() - words.len();
    key.words[first..].copy_from_slice(&words);
    FlowKey::Wide(key)
}

/// A tunnel between two addresses of either family, around nothing yet.
pub(crate) fn tunnel(kind: u8, id: u32, protocol: u8, v6: bool, both: [[u8; 16]; 2]) -> Around {
    let (outer_version, outer) = match addresses(v6, both) {
        Addresses::V4(word) => (4, [word, 0, 0, 0]),
        Addresses::V6(words) => (6, words),
    };
    Around {
        tunnel: kind,
        tunnel_id: id,
        outer_version,
        outer_protocol: protocol,
        outer,
        ..Around::EMPTY
    }
}

/// One record of each template of wide keys, in the order of the templates.
pub(crate) fn one_of_each_wide() -> [FlowRecord; 6] {
    let both = [[0xfd; 16], [0xfc; 16]];
    let vxlan = |v6| tunnel(kind::VXLAN, 0x1234, 17, v6, both);
    let tags = Around {
        tags: 2,
        inner_vlans: [7, 0, 0],
        ..Around::EMPTY
    };
    [
        (0, tags),
        (4, tags),
        (0, vxlan(false)),
        (0, vxlan(true)),
        (4, vxlan(false)),
        (4, vxlan(true)),
    ]
    .map(|(i, around)| FlowRecord {
        key: wrapped(&nth(i).key, &around),
        ..nth(i)
    })
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
        marks: Marks {
            tcp_flags: if protocol == 6 { 0x1b } else { 0 },
            min_ttl: 63,
            max_ttl: 64,
            flow_label: if v6 { 0xabcde } else { 0 },
            ..Marks::default()
        },
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        sampling_n: 1,
        biflow: Biflow::None,
        route: None,
    }
}

/// The first `count` records.
pub(crate) fn many(count: u32) -> Vec<FlowRecord> {
    (0..count).map(nth).collect()
}

/// The same records, as of another class.
pub(crate) fn of_class(class: u8, mut records: Vec<FlowRecord>) -> Vec<FlowRecord> {
    let sampled = Sampled::new(class, 1);
    for record in &mut records {
        let place = match &mut record.key {
            FlowKey::V4(key) => &mut key.words[2],
            FlowKey::V6(key) => &mut key.words[5],
            FlowKey::Wide(key) => &mut key.words[5],
        };
        *place = *place & u64::from(u32::MAX) | u64::from(sampled.0) << 32;
        assert_eq!(record.key.sampled(), sampled);
    }
    records
}

/// What may be around packets that need a wide key.
fn any_around() -> impl Strategy<Value = Around> {
    let tags = (0..=MAX_TAGS, [0..4096u16, 0..4096, 0..4096]);
    let labels = (0..=MAX_LABELS, any::<[u32; MAX_LABELS]>());
    let tunnel = (0..=kind::GTPU, any::<(u32, u8, bool, [[u8; 16]; 2])>());
    (tags, labels, tunnel).prop_map(|((tags, vlans), (labels, stack), (kind, outside))| {
        let mut around = match (kind, outside) {
            (0, _) => Around::EMPTY,
            // Identifiers of overlays have 24 bits.
            (kind::NVGRE..=kind::GENEVE, (id, protocol, v6, both)) => {
                self::tunnel(kind, id >> 8, protocol, v6, both)
            }
            (_, (id, protocol, v6, both)) => self::tunnel(kind, id, protocol, v6, both),
        };
        // Nothing at all around it would be no wide key.
        let tags = if kind == 0 && labels == 0 {
            tags.max(2)
        } else {
            tags
        };
        around.tags = tags as u8;
        for (i, vlan) in vlans.into_iter().enumerate().take(tags.saturating_sub(1)) {
            around.inner_vlans[i] = vlan;
        }
        around.labels = labels as u8;
        for (i, entry) in stack.into_iter().enumerate().take(labels) {
            around.label_stack[i] = entry >> 8;
        }
        around
    })
}

/// Any record.
pub(crate) fn any_record() -> impl Strategy<Value = FlowRecord> {
    let protocol = prop_oneof![Just(1), Just(6), Just(17), Just(58), any::<u8>()];
    let vlan = prop_oneof![Just(0), 0..4096u16];
    let key = (
        any::<(bool, [[u8; 16]; 2])>(),
        protocol,
        any::<[u16; 2]>(),
        any::<u8>(),
        vlan,
        any::<u32>(),
        prop::option::of(any_around()),
    )
        .prop_map(
            |((v6, both), protocol, ports, class, vlan, ifindex, around)| {
                let key = key(v6, both, protocol, ports, class, vlan, ifindex);
                around.map_or(key, |around| wrapped(&key, &around))
            },
        );
    let counts = (any::<[u64; 4]>(), 0..5usize);
    let marks = (any::<[u8; 4]>(), any::<[u32; 2]>(), 0..8u8);
    let rest = (any::<[[u8; 6]; 2]>(), any::<u32>());
    (key, counts, marks, rest).prop_map(|(key, counts, marks, rest)| {
        let ([packets, octets, start_ms, end_ms], reason) = counts;
        let ([tcp_flags, min_ttl, max_ttl, some], [flow_label, options], inner_priority) = marks;
        let ([source_mac, destination_mac], sampling_n) = rest;
        FlowRecord {
            key,
            packets,
            octets,
            start_ms,
            end_ms,
            reason: EndReason::ALL[reason],
            marks: Marks {
                tcp_flags,
                min_ttl,
                max_ttl,
                bits: some,
                flow_label,
                options,
                inner_priority,
                pad: [0; 3],
            },
            source_mac,
            destination_mac,
            sampling_n,
            biflow: Biflow::None,
            route: None,
        }
    })
}
