//! Classes of packets, each with a sampling rate of its own.

use std::{collections::BTreeMap, num::NonZeroU32};

use flowprobe::{
    load::{Class, Options},
    record::FlowRecord,
    sampling::Sampling,
};
use flowprobe_ebpf::class::{Rule, side};
use flowprobe_tests::packets::{Ip, Packet};

use crate::meter::{IFINDEX, Meter, SMALL};

fn count(n: u32) -> Sampling {
    Sampling::Count(NonZeroU32::new(n).expect("at least 1"))
}

fn class(rule: Rule, sampling: Sampling) -> Class {
    Class { rule, sampling }
}

fn meter(sampling: Sampling, classes: &[Class]) -> Meter {
    Meter::new(&Options {
        max_flows: 1 << 10,
        sampling,
        classes,
        ..SMALL
    })
}

const ANY: Rule = Rule {
    ifindex: 0,
    protocol: 0,
    port_sides: 0,
    net_sides: 0,
    first_port: 0,
    last_port: 0,
    version: 0,
    net: [0; 2],
    mask: [0; 2],
};

const EITHER: u8 = side::SOURCE | side::DESTINATION;

fn protocol(number: u16) -> Rule {
    Rule {
        protocol: number + 1,
        ..ANY
    }
}

fn port(sides: u8, first_port: u16, last_port: u16) -> Rule {
    Rule {
        port_sides: sides,
        first_port,
        last_port,
        ..ANY
    }
}

fn net_v4(sides: u8, octets: [u8; 4], mask: [u8; 4]) -> Rule {
    Rule {
        net_sides: sides,
        version: 4,
        net: [u32::from_le_bytes(octets).into(), 0],
        mask: [u32::from_le_bytes(mask).into(), 0],
        ..ANY
    }
}

fn net_v6(sides: u8, octets: [u8; 16], length: u32) -> Rule {
    let words = |octets: u128| {
        let octets = octets.to_be_bytes();
        let (words, _) = octets.as_chunks::<8>();
        [words[0], words[1]].map(u64::from_ne_bytes)
    };
    Rule {
        net_sides: sides,
        version: 6,
        net: words(u128::from_be_bytes(octets)),
        mask: words(!(u128::MAX >> length)),
        ..ANY
    }
}

/// Of which class a packet is: that of its record.
fn class_of(meter: &mut Meter, packet: &Packet) -> u8 {
    meter.run(&packet.frame);
    let records = meter.flush();
    assert_eq!(records.len(), 1);
    records[0].key.sampled().class()
}

#[test]
fn a_packet_is_of_the_first_class_whose_rule_it_meets() {
    let documentation: std::net::Ipv6Addr = "2001:db8::".parse().expect("an address");
    let classes = [
        port(EITHER, 53, 53),
        Rule {
            protocol: 6 + 1,
            ..port(side::DESTINATION, 80, 90)
        },
        protocol(1),
        net_v4(EITHER, [10, 1, 0, 0], [255, 255, 0, 0]),
        net_v4(side::SOURCE, [10, 2, 3, 4], [255; 4]),
        net_v6(side::DESTINATION, documentation.octets(), 33),
        Rule {
            ifindex: IFINDEX + 1,
            ..ANY
        },
        protocol(0), // hop-by-hop options: what no packet is
    ]
    .map(|rule| class(rule, Sampling::All));
    let mut meter = meter(Sampling::All, &classes);
    let v4 = |source, destination| Ip::new(source, destination);
    let v6 = |source, destination| Ip::new(source, destination);
    let (a, b) = ("10.9.0.1", "10.9.0.2");
    let cases = [
        (v4(a, b).udp(53, 9, 0), 1),
        (v4(a, b).udp(9, 53, 0), 1),
        (v4(a, b).tcp(9, 53, 0, 0), 1),
        (v6("fd00::1", "fd00::2").udp(53, 1, 0), 1),
        (v4(a, b).udp(9, 54, 0), 0),
        // As a port, type 0 and code 53 would be 53.
        (v4(a, b).icmp(0, 53, 0), 3),
        (v6("fd00::1", "fd00::2").icmp(0, 53, 0), 0),
        (v4(a, b).tcp(9, 79, 0, 0), 0),
        (v4(a, b).tcp(9, 80, 0, 0), 2),
        (v4(a, b).tcp(9, 90, 0, 0), 2),
        (v4(a, b).tcp(9, 91, 0, 0), 0),
        (v4(a, b).tcp(80, 9, 0, 0), 0),
        (v4(a, b).udp(9, 80, 0), 0),
        (v4("10.1.255.1", b).other(47, 4), 4),
        (v4(b, "10.1.0.0").other(47, 4), 4),
        (v4("10.0.255.1", b).other(47, 4), 0),
        (v4("10.2.3.4", b).other(47, 4), 5),
        (v4(b, "10.2.3.4").other(47, 4), 0),
        (v4("10.2.3.5", b).other(47, 4), 0),
        (v6("fd00::1", "2001:db8:7fff::1").other(47, 4), 6),
        (v6("fd00::1", "2001:db8:8000::1").other(47, 4), 0),
        (v6("2001:db8:7fff::1", "fd00::1").other(47, 4), 0),
        // The first of several.
        (v4("10.1.0.1", "10.2.3.4").tcp(53, 80, 0, 0), 1),
        (v4("10.1.0.1", "10.2.3.4").tcp(54, 80, 0, 0), 2),
        // Behind a tag and options it is the same packet.
        (v4(a, b).tag(0x8100, 5).options(1).udp(53, 9, 0), 1),
    ];
    for (packet, expected) in cases {
        let class = class_of(&mut meter, &packet);
        assert_eq!(class, expected, "{:?}", packet.key);
    }
    meter.assert_balanced();
}

/// Packets of records by class, and the rates that they have.
fn by_class(records: &[FlowRecord]) -> BTreeMap<u8, (u64, u32)> {
    let mut classes = BTreeMap::new();
    for record in records {
        let class = record.key.sampled().class();
        let entry = classes.entry(class).or_insert((0, record.sampling_n));
        assert_eq!(entry.1, record.sampling_n);
        entry.0 += record.packets;
    }
    classes
}

/// All of DNS, one in ten of the rest, half of one prefix.
#[test]
fn each_class_has_its_own_rate() {
    let classes = [
        class(port(EITHER, 53, 53), Sampling::All),
        class(net_v4(EITHER, [10, 1, 0, 0], [255, 255, 0, 0]), count(2)),
    ];
    let mut meter = meter(count(10), &classes);
    let dns = Ip::new("10.1.0.1", "10.9.0.2").udp(7, 53, 0);
    let net = Ip::new("10.1.0.1", "10.9.0.2").udp(7, 54, 0);
    let rest = Ip::new("10.9.0.1", "10.9.0.2").tcp(7, 80, 0, 0);
    for _ in 0..1000 {
        for packet in [&dns, &net, &rest] {
            meter.run(&packet.frame);
        }
        // In no flow, so of no class.
        meter.run(&flowprobe_tests::packets::not_ip(0x0806).frame);
    }
    for (class, selected) in [(0, 100), (1, 1000), (2, 500)] {
        let selection = meter.shared().selection(class, 0);
        assert_eq!((selection.observed, selection.selected), (1000, selected));
    }
    let totals = meter.totals();
    assert_eq!(totals.unsampled.packets, 900 + 500);
    let octets = rest.frame.len() * 900 + net.frame.len() * 500;
    assert_eq!(totals.unsampled.octets, octets as u64);
    assert_eq!(
        totals
            .ignored
            .iter()
            .map(|tally| tally.packets)
            .sum::<u64>(),
        1000
    );
    let expected = [(0, (100, 10)), (1, (1000, 1)), (2, (500, 2))];
    assert_eq!(by_class(&meter.flush()), BTreeMap::from(expected));
    meter.assert_balanced();
}

/// Where classes are interfaces, what is skipped is not even looked at.
#[test]
fn interfaces_are_classes_without_a_look_at_the_packet() {
    let here = Rule {
        ifindex: IFINDEX,
        ..ANY
    };
    let elsewhere = Rule {
        ifindex: IFINDEX + 1,
        ..ANY
    };
    let classes = [class(elsewhere, count(3)), class(here, count(4))];
    let mut meter = meter(count(5), &classes);
    let packet = Ip::new("10.9.0.1", "10.9.0.2").udp(7, 80, 0);
    let not_ip = flowprobe_tests::packets::not_ip(0x0806);
    for _ in 0..400 {
        meter.run(&packet.frame);
    }
    meter.run_many(&not_ip.frame, true, 400);
    let selection = meter.shared().selection(2, 0);
    assert_eq!((selection.observed, selection.selected), (800, 200));
    let totals = meter.totals();
    // A frame that is skipped is in no other term, whatever it is.
    assert_eq!(totals.unsampled.packets, 600);
    assert_eq!(
        totals
            .ignored
            .iter()
            .map(|tally| tally.packets)
            .sum::<u64>(),
        100
    );
    assert_eq!(by_class(&meter.flush()), BTreeMap::from([(2, (100, 4))]));
    meter.assert_balanced();
}
