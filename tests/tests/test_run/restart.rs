//! TCP connections that follow each other on the same ports.

use flowprobe::{load::Options, record::EndReason};
use flowprobe_tests::packets::{Ip, flag};

use crate::meter::{Meter, SMALL};

/// Runs segments with these flags and payloads; returns their octets.
fn run(meter: &mut Meter, segments: &[(u8, usize)]) -> u64 {
    let ip = Ip::new("10.0.0.1", "10.0.0.2");
    let mut octets = 0;
    for (flags, payload) in segments {
        let packet = ip.tcp(50_000, 80, *flags, *payload);
        meter.run(&packet.frame);
        octets += packet.octets;
    }
    octets
}

const FIRST: &[(u8, usize)] = &[
    (flag::SYN, 0),
    (flag::ACK, 100),
    (flag::FIN | flag::ACK, 0),
    // A straggler is the old connection's.
    (flag::ACK, 0),
];
const SECOND: &[(u8, usize)] = &[(flag::SYN, 0), (flag::PSH | flag::ACK, 7)];

#[test]
fn a_syn_after_fin_or_rst_begins_a_new_flow() {
    for end in [flag::FIN, flag::RST] {
        let mut meter = Meter::new(&SMALL);
        let mut first = FIRST.to_vec();
        first[2].0 = end;
        let octets = run(&mut meter, &first);
        assert_eq!(meter.taken(), []);
        let octets = [octets, run(&mut meter, SECOND)];
        meter.drain();
        let [old] = meter.taken()[..] else {
            panic!("the old connection ends when the new one begins");
        };
        let [new] = meter.flush()[..] else {
            panic!("the new connection is held until the end");
        };
        assert_eq!(old.key, new.key);
        assert_eq!((old.packets, old.octets), (4, octets[0]));
        assert_eq!((new.packets, new.octets), (2, octets[1]));
        assert_eq!(old.marks.tcp_flags, flag::SYN | flag::ACK | end);
        assert_eq!(new.marks.tcp_flags, flag::SYN | flag::PSH | flag::ACK);
        assert_eq!(old.reason, EndReason::EndOfFlow);
        assert_eq!(new.reason, EndReason::ForcedEnd);
        assert!(old.end_ms <= new.start_ms);
        meter.assert_balanced();
    }
}

#[test]
fn a_syn_without_an_end_before_it_begins_nothing() {
    let mut meter = Meter::new(&SMALL);
    run(
        &mut meter,
        &[
            (flag::SYN, 0),
            (flag::SYN, 0),
            (flag::ACK, 9),
            (flag::SYN, 0),
        ],
    );
    let [one] = meter.flush()[..] else {
        panic!("one connection");
    };
    assert_eq!(one.packets, 4);
}

#[test]
fn a_restart_is_no_eviction() {
    let mut meter = Meter::new(&SMALL);
    for _ in 0..10 {
        run(&mut meter, FIRST);
    }
    assert_eq!(meter.totals().evicted, 0);
    let records = meter.flush();
    assert_eq!(records.len(), 10);
    for record in &records {
        assert_eq!((record.packets, record.reason), (4, EndReason::EndOfFlow));
    }
}

/// Rather one flow that ended twice than a packet in none.
#[test]
fn a_restart_without_room_in_the_ring_loses_nothing() {
    let mut meter = Meter::new(&Options {
        ring_parts: 1,
        ..SMALL
    });
    let mut octets = run(&mut meter, FIRST);
    // Fills the ring's only place.
    octets += run(&mut meter, FIRST);
    octets += run(&mut meter, SECOND);
    assert!(meter.totals().lost.iter().all(|lost| lost.packets == 0));
    meter.assert_balanced();
    let records = meter.flush();
    let [old, new] = records[..] else {
        panic!("{} records", records.len());
    };
    assert_eq!((old.packets, new.packets), (4, 6));
    assert_eq!(old.octets + new.octets, octets);
    meter.assert_balanced();
}
