//! Fragments: later ones belong to the flow of their first one, as far as that is remembered.
//!
//! Here all of them run on one CPU. On others each CPU remembers for itself, and what no test run
//! shows is a NIC that sends fragments of one packet to several of them.

use flowprobe::{
    load::{FRAGMENT_SETS, Options},
    record::FlowRecord,
};
use flowprobe_ebpf::{Tunnels, fragments::FRAGMENT_WAYS};
use flowprobe_tests::headers::{
    Extension, V4, ether,
    ethertype::{C_TAG, IPV4, MPLS},
    extension, fragment, mpls,
    protocol::{self, DESTINATION, GRE, TCP, UDP},
    tag, tcp, udp, v4, v6, vxlan,
};

use crate::meter::{Meter, SMALL};

/// More Fragments, for IPv4.
const MORE: u16 = 0x2000;

/// First fragments that are remembered.
const REMEMBERED: u32 = FRAGMENT_SETS * FRAGMENT_WAYS as u32;

fn part(id: u16, field: u16) -> V4 {
    V4 {
        id,
        fragment: field,
        ..v4(UDP)
    }
}

/// The first fragment of a datagram between two ports.
fn first(id: u16, ports: (u16, u16)) -> Vec<u8> {
    part(id, MORE).frame(&udp(ports.0, ports.1, &[1; 16]))
}

/// A later one, of octets that would be ports where the first one has them.
fn later(id: u16) -> Vec<u8> {
    part(id, 3).frame(&[0x99; 24])
}

/// Ports, protocol and packets of each flow, in order.
fn flows(records: &[FlowRecord]) -> Vec<((u16, u16), u8, u64)> {
    let mut flows: Vec<_> = records
        .iter()
        .map(|record| {
            let ports = (record.key.source_port(), record.key.destination_port());
            (ports, record.key.protocol(), record.packets)
        })
        .collect();
    flows.sort_unstable();
    flows
}

#[track_caller]
fn assert_flows(meter: &mut Meter, expected: &[((u16, u16), u8, u64)], orphans: u64) {
    assert_eq!(flows(&meter.flush()), expected);
    assert_eq!(meter.totals().fragment_orphans, orphans);
    meter.assert_balanced();
}

#[test]
fn later_fragments_are_in_the_flow_of_the_first() {
    let mut meter = Meter::new(&SMALL);
    meter.run(&first(7, (1000, 53)));
    for _ in 0..5 {
        meter.run(&later(7));
    }
    assert_flows(&mut meter, &[((1000, 53), UDP, 6)], 0);
}

#[test]
fn a_fragment_before_the_first_is_an_orphan() {
    let mut meter = Meter::new(&SMALL);
    meter.run(&later(7));
    meter.run(&first(7, (1000, 53)));
    meter.run(&later(7));
    assert_flows(&mut meter, &[((0, 0), UDP, 1), ((1000, 53), UDP, 2)], 1);
}

#[test]
fn an_identification_is_used_again() {
    let mut meter = Meter::new(&SMALL);
    meter.run(&first(7, (1000, 53)));
    meter.run(&first(7, (2000, 53)));
    meter.run(&later(7));
    assert_flows(&mut meter, &[((1000, 53), UDP, 1), ((2000, 53), UDP, 2)], 0);
}

/// What tells two fragmented packets of one identification apart: addresses, protocol, VLAN.
#[test]
fn interleaved_packets_with_the_same_identification() {
    let mut meter = Meter::new(&SMALL);
    let other_source = |ip: V4| V4 {
        source: [10, 9, 9, 9],
        ..ip
    };
    let of_tcp = |ip: V4| V4 {
        protocol: TCP,
        ..ip
    };
    let tagged = |frame: Vec<u8>| ether(C_TAG, &tag(9, IPV4, &frame[14..]));
    meter.run(&first(7, (1, 10)));
    meter.run(&other_source(part(7, MORE)).frame(&udp(2, 20, &[])));
    meter.run(&of_tcp(part(7, MORE)).frame(&tcp(3, 30, 0x10, 4)));
    meter.run(&tagged(first(7, (4, 40))));
    for _ in 0..2 {
        meter.run(&of_tcp(part(7, 3)).frame(&[0x99; 24]));
        meter.run(&tagged(later(7)));
        meter.run(&later(7));
        meter.run(&other_source(part(7, 3)).frame(&[0x99; 24]));
    }
    let expected = [
        ((1, 10), UDP, 3),
        ((2, 20), UDP, 3),
        ((3, 30), TCP, 3),
        ((4, 40), UDP, 3),
    ];
    assert_flows(&mut meter, &expected, 0);
}

/// The same addresses in two private networks are other hosts.
#[test]
fn interleaved_packets_in_other_labels_and_tunnels() {
    let mut meter = Meter::new(&Options {
        tunnels: Tunnels::INNER,
        ..SMALL
    });
    let labelled = |label, frame: Vec<u8>| ether(MPLS, &mpls(&[(label, 0)], &frame[14..]));
    let tunnelled = |vni, frame: Vec<u8>| v4(UDP).frame(&udp(50000, 4789, &vxlan(8, vni, &frame)));
    meter.run(&labelled(100, first(7, (1, 10))));
    meter.run(&labelled(101, first(7, (2, 20))));
    meter.run(&tunnelled(100, first(7, (3, 30))));
    meter.run(&tunnelled(101, first(7, (4, 40))));
    meter.run(&labelled(100, later(7)));
    meter.run(&labelled(101, later(7)));
    meter.run(&tunnelled(100, later(7)));
    meter.run(&tunnelled(101, later(7)));
    // Nobody knows of the first one here.
    meter.run(&labelled(102, later(7)));
    let expected = [
        ((0, 0), UDP, 1),
        ((1, 10), UDP, 2),
        ((2, 20), UDP, 2),
        ((3, 30), UDP, 2),
        ((4, 40), UDP, 2),
    ];
    assert_flows(&mut meter, &expected, 1);
}

/// In IPv6 a later fragment says what follows the Fragment header, which may be one more of its
/// kind: the first one knows the protocol.
#[test]
fn v6_fragments_with_headers_between() {
    let mut meter = Meter::new(&SMALL);
    let chain = |field| -> Vec<Extension> {
        vec![
            extension(protocol::HOP_BY_HOP, 0),
            fragment(field, 0xdead_beef),
            extension(DESTINATION, 1),
        ]
    };
    meter.run(&v6(UDP, &chain(1)).frame(&udp(1000, 53, &[1; 16])));
    let mut rest = chain(0x0011);
    rest.pop();
    meter.run(&v6(DESTINATION, &rest).frame(&[0x99; 24]));
    meter.run(&v6(DESTINATION, &rest).frame(&[0x99; 24]));
    assert_flows(&mut meter, &[((1000, 53), UDP, 3)], 0);
    // Another identification, unknown: it stays what it says.
    rest[1] = fragment(0x0010, 1);
    meter.run(&v6(DESTINATION, &rest).frame(&[0x99; 24]));
    assert_flows(&mut meter, &[((0, 0), DESTINATION, 1)], 1);
}

/// The protocol is known from the first one, too, where that has no ports.
#[test]
fn fragments_without_ports_miss_none() {
    let mut meter = Meter::new(&SMALL);
    let gre = |field| V4 {
        protocol: GRE,
        ..part(7, field)
    };
    meter.run(&gre(3).frame(&[0x99; 24]));
    meter.run(&gre(MORE).frame(&[0; 16]));
    meter.run(&gre(3).frame(&[0x99; 24]));
    assert_flows(&mut meter, &[((0, 0), GRE, 3)], 0);
    let chain = [fragment(1, 8), extension(DESTINATION, 0)];
    meter.run(&v6(GRE, &chain).frame(&[0; 16]));
    meter.run(&v6(DESTINATION, &[fragment(0x0010, 8)]).frame(&[0x99; 24]));
    assert_flows(&mut meter, &[((0, 0), GRE, 2)], 0);
}

/// A flood of fragments fills the memory for them, and nothing else: they are of one flow.
#[test]
fn a_flood_of_fragments_displaces_fragments_only() {
    let mut meter = Meter::new(&SMALL);
    meter.run(&first(7, (1000, 53)));
    meter.run(&later(7));
    // Identifications of 16 bits are too few: more sources, in one flow each.
    let flood = |n: u32| V4 {
        source: [10, 200, 0, (n >> 16) as u8],
        id: n as u16,
        fragment: MORE,
        ..v4(UDP)
    };
    let frames = 16 * REMEMBERED;
    let sources = u64::from(frames >> 16);
    let before = meter.totals();
    for n in 0..frames {
        meter.run(&flood(n).frame(&udp(1, 1, &[])));
    }
    let after = meter.totals();
    assert_eq!(after.inserted - before.inserted, sources);
    assert_eq!(after.lost, before.lost);
    // Its ports are forgotten, as are those of most others; the last ones are known.
    meter.run(&later(7));
    let last = V4 {
        fragment: 3,
        ..flood(frames - 1)
    };
    meter.run(&last.frame(&[0x99; 24]));
    let mut expected = vec![((0, 0), UDP, 1), ((1000, 53), UDP, 2)];
    let each = u64::from(frames) / sources;
    expected.extend(vec![((1, 1), UDP, each); sources as usize - 1]);
    expected.push(((1, 1), UDP, each + 1));
    expected.sort_unstable();
    assert_flows(&mut meter, &expected, 1);
}
