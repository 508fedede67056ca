//! Which packets the program meters.

use std::num::NonZeroU32;

use flowprobe::{load::Options, sampling::Sampling};
use flowprobe_tests::packets::Ip;

use crate::meter::{Meter, SMALL};

fn meter(sampling: Sampling) -> Meter {
    Meter::new(&Options { sampling, ..SMALL })
}

fn n(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("at least 1")
}

#[test]
fn one_packet_in_n_from_any_phase() {
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(1, 2, 0);
    let mut phases = Vec::new();
    for _ in 0..12 {
        let mut meter = meter(Sampling::Count(n(100)));
        let phase = meter.shared().cpu(0).skip_left;
        assert!(phase < 100, "{phase}");
        phases.push(phase);
        // Exactly the packets number phase + 100·k are selected.
        meter.run_many(&packet.frame, false, phase + 1);
        assert_eq!(meter.totals().accounted.packets, 1);
        meter.run_many(&packet.frame, false, 99);
        assert_eq!(meter.totals().accounted.packets, 1);
        meter.run_many(&packet.frame, false, 1);
        assert_eq!(meter.totals().accounted.packets, 2);
        meter.run_many(&packet.frame, false, 10_000);
        let totals = meter.totals();
        assert_eq!(totals.accounted.packets, 102);
        assert_eq!(totals.unsampled.packets, u64::from(phase) + 99 * 101);
        let octets = packet.frame.len() as u64;
        assert_eq!(totals.unsampled.octets, totals.unsampled.packets * octets);
        meter.assert_balanced();
        let records = meter.flush();
        assert_eq!((records[0].packets, records[0].sampling_n), (102, 100));
    }
    // All of twelve the same: one chance in 10²².
    phases.dedup();
    assert!(phases.len() > 1, "{phases:?}");
}

#[test]
fn one_packet_in_n_at_random() {
    const PACKETS: u32 = 400_000;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(1, 2, 0);
    for rate in [2, 10, 100] {
        let mut meter = meter(Sampling::Random(n(rate)));
        meter.run_many(&packet.frame, true, PACKETS);
        let totals = meter.totals();
        let mean = f64::from(PACKETS) / f64::from(rate);
        let deviation = (mean * (1.0 - 1.0 / f64::from(rate))).sqrt();
        let off = (totals.accounted.packets as f64 - mean) / deviation;
        // The seed is random: one run in 10¹¹ is further off.
        assert!(off.abs() < 7.0, "1/{rate}: {off} standard deviations");
        meter.assert_balanced();
    }
}
