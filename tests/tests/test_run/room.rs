//! Where packets go when there is no room: into the ring, or into `lost`, never nowhere.

use std::{collections::HashMap, net::IpAddr};

use flowprobe::{load::Options, record::FlowRecord};
use flowprobe_ebpf::{Lost, cpu::Tally, sampling::next_random};
use flowprobe_tests::packets::{Ip, Packet};

use crate::meter::{Meter, SMALL, pin_to_cpu};

/// Packets and octets by source address.
type Counts = HashMap<IpAddr, (u64, u64)>;

fn count(counts: &mut Counts, source: IpAddr, packets: u64, octets: u64) {
    let sum = counts.entry(source).or_default();
    sum.0 += packets;
    sum.1 += octets;
}

fn counts_of(records: &[FlowRecord]) -> Counts {
    let mut counts = Counts::new();
    for record in records {
        count(
            &mut counts,
            record.key.source(),
            record.packets,
            record.octets,
        );
    }
    counts
}

/// A packet of flow `n`, every other one of IPv6.
fn packet(n: u32, payload: usize) -> (IpAddr, Packet) {
    let (source, destination): (IpAddr, &str) = if n.is_multiple_of(2) {
        ((0x0a00_0000 + n).to_be_bytes().into(), "192.0.2.1")
    } else {
        let address = (0x2001_0db8 << 96) | u128::from(n);
        (address.to_be_bytes().into(), "2001:db8::ffff")
    };
    let ip = Ip::between(source, destination.parse().expect("an address"));
    (source, ip.udp(1000, 53, payload))
}

/// One bucket that is exactly full: most flows are not in the way they prefer, and each must be
/// found again wherever it is, also when flows have left and others have taken their ways.
#[test]
fn displaced_flows_are_found_again() {
    let mut meter = Meter::new(&SMALL);
    let mut inserted = 0;
    for generation in 0..50 {
        // Even numbers only: eight IPv4 flows for eight ways.
        let flows = (0..8).map(|n| 2 * (8 * generation + n));
        let mut sent = Counts::new();
        for _ in 0..5 {
            for flow in flows.clone() {
                let (source, packet) = packet(flow, 10);
                meter.run(&packet.frame);
                count(&mut sent, source, 1, packet.octets);
            }
        }
        inserted += 8;
        let totals = meter.totals();
        assert_eq!((totals.inserted, totals.evicted), (inserted, 0));
        let records = meter.flush();
        assert_eq!(records.len(), 8, "one record for each flow");
        assert_eq!(counts_of(&records), sent);
    }
}

#[test]
fn evicted_flows_are_counted_in_full() {
    const FLOWS: u64 = 4000;
    let mut meter = Meter::new(&SMALL);
    let mut sent = Counts::new();
    let mut state = 11;
    for n in 0..20_000 {
        let random = next_random(&mut state);
        // Half the packets are of a few flows, which then are hits and evicted with counts.
        let flow = if random.is_multiple_of(2) {
            (random >> 8) % 20
        } else {
            (random >> 8) % FLOWS
        };
        let (source, packet) = packet(flow as u32, (random >> 40) as usize % 200);
        meter.run(&packet.frame);
        count(&mut sent, source, 1, packet.octets);
        if n % 1000 == 0 {
            meter.drain();
            meter.assert_balanced();
        }
    }
    assert!(sent.len() > 3500, "{} flows", sent.len());
    let totals = meter.totals();
    assert!(totals.evicted > 9000, "{} evicted", totals.evicted);
    assert_eq!(totals.lost, [Tally::default(); Lost::COUNT]);
    assert_eq!(totals.accounted, totals.seen);
    let records = meter.flush();
    assert_eq!(records.len(), sent.len(), "one record for each flow");
    assert_eq!(counts_of(&records), sent);
    assert_eq!(meter.assert_balanced().packets, 0, "held");
}

#[test]
fn a_full_ring_loses_counted_packets_only() {
    for ring_parts in [1, 2, 4, 8, 16] {
        let mut meter = Meter::new(&Options {
            ring_parts,
            ..SMALL
        });
        let (mut kept, mut lost) = (Counts::new(), Tally::default());
        for n in 0..100 {
            // IPv4 only: the first eight find a way, as many as the ring has places evict.
            let (source, packet) = packet(n * 2, n as usize);
            meter.run(&packet.frame);
            if n < 8 + ring_parts {
                count(&mut kept, source, 1, packet.octets);
            } else {
                lost.count(packet.frame.len() as u64);
            }
        }
        let totals = meter.totals();
        assert_eq!(totals.lost[Lost::RingFull as usize], lost);
        assert_eq!(totals.evicted, u64::from(ring_parts));
        assert_eq!(meter.assert_balanced().packets, u64::from(8 + ring_parts));
        assert_eq!(counts_of(&meter.flush()), kept);
        assert_eq!(meter.assert_balanced().packets, 0, "held");
    }
}

/// Flows that are in the table are counted whether the ring has room or not.
#[test]
fn a_full_ring_stops_no_known_flow() {
    let mut meter = Meter::new(&Options {
        ring_parts: 1,
        ..SMALL
    });
    for n in 0..50 {
        meter.run(&packet(n * 2, 0).1.frame);
    }
    let lost = meter.totals().lost[Lost::RingFull as usize];
    assert_eq!(lost.packets, 41);
    // The one that evicted another is in the table for certain.
    meter.run_many(&packet(8 * 2, 0).1.frame, false, 1000);
    let totals = meter.totals();
    assert_eq!(totals.lost[Lost::RingFull as usize], lost);
    assert_eq!(totals.accounted.packets, 1009);
    meter.assert_balanced();
}

/// A ring is usable again as soon as it has been drained, over and over.
#[test]
fn a_drained_ring_goes_round() {
    let mut meter = Meter::new(&Options {
        ring_parts: 2,
        ..SMALL
    });
    let mut sent = Counts::new();
    for n in 0..1000 {
        let (source, packet) = packet(n * 2, n as usize % 7);
        meter.run(&packet.frame);
        count(&mut sent, source, 1, packet.octets);
        if n % 2 == 1 {
            meter.drain();
        }
    }
    assert_eq!(meter.totals().lost, [Tally::default(); Lost::COUNT]);
    assert_eq!(counts_of(&meter.flush()), sent);
    meter.assert_balanced();
}

#[test]
fn a_cpu_without_a_partition_is_counted() {
    let mut meter = Meter::new(&SMALL);
    pin_to_cpu(1);
    let (_, packet) = packet(0, 100);
    meter.run_many(&packet.frame, false, 70);
    meter.run_many(&packet.frame, true, 7);
    let totals = meter.totals();
    let all = Tally {
        packets: 77,
        octets: 77 * packet.frame.len() as u64,
    };
    assert_eq!(totals.seen, all);
    assert_eq!(totals.lost[Lost::NoPartition as usize], all);
    assert_eq!(totals.accounted, Tally::default());
    meter.assert_balanced();
    pin_to_cpu(0);
    meter.run(&packet.frame);
    assert_eq!(meter.totals().accounted.packets, 1);
    assert_eq!(meter.flush().len(), 1);
    assert_eq!(meter.assert_balanced().packets, 0, "held");
}
