//! Which packets the program meters.

use std::num::NonZeroU32;

use flowprobe::{clock::monotonic_ns, load::Options, sampling::Sampling};
use flowprobe_ebpf::sampling::Period;
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
        let mut phase = 0_u32;
        while {
            meter.run_many(&packet.frame, false, 1);
            meter.totals().accounted.packets == 0
        } {
            phase += 1;
        }
        assert!(phase < 100, "{phase}");
        phases.push(phase);
        // Exactly the packets number phase + 100·k are selected.
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

/// In each window of N packets exactly n, wherever they are.
#[test]
fn n_of_each_n_packets() {
    const WINDOWS: u32 = 40;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(1, 2, 0);
    for (size, population) in [(1, 2), (1, 100), (5, 100), (50, 100)] {
        let mut meter = meter(Sampling::NOfN {
            size: n(size),
            population: n(population),
        });
        for window in 1..=WINDOWS {
            meter.run_many(&packet.frame, true, population);
            let totals = meter.totals();
            assert_eq!(totals.accounted.packets, u64::from(window * size));
            let skipped = u64::from(window * (population - size));
            assert_eq!(totals.unsampled.packets, skipped);
        }
        meter.assert_balanced();
        let records = meter.flush();
        let total = (u64::from(WINDOWS * size), population / size);
        assert_eq!((records[0].packets, records[0].sampling_n), total);
    }
}

/// Packets are selected while it is time, and no others. The clock is looked at before and after
/// each packet, and packets near to a change do not count: the kernel looks a little later, and a
/// virtual machine's ticks may be some behind.
#[test]
fn packets_of_a_time() {
    const ON_US: u32 = 200_000;
    const OFF_US: u32 = 400_000;
    const MARGIN_NS: u64 = 50_000_000;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(1, 2, 0);
    let mut meter = meter(Sampling::Time {
        on_us: n(ON_US),
        off_us: n(OFF_US),
    });
    let phase_ns = meter.phase_ns();
    let period = Period {
        on_us: ON_US,
        period_us: ON_US + OFF_US,
    };
    let start_ns = monotonic_ns();
    let (mut on, mut off) = (0, 0);
    let mut selected = 0;
    while monotonic_ns() - start_ns < 3 * 600_000_000 {
        let before_ns = monotonic_ns() + phase_ns;
        meter.run_many(&packet.frame, false, 1);
        let after_ns = monotonic_ns() + phase_ns;
        let accounted = meter.totals().accounted.packets;
        let was_selected = accounted > selected;
        selected = accounted;
        let near = |at_ns: u64| period.off_for_ns(at_ns) == 0;
        let states = [before_ns - MARGIN_NS, after_ns + MARGIN_NS].map(near);
        if states[0] == states[1] && after_ns - before_ns < MARGIN_NS {
            assert_eq!(was_selected, states[0], "{on} on, {off} off before");
            *(if was_selected { &mut on } else { &mut off }) += 1;
        }
    }
    assert!(on > 100 && off > 100, "{on} on, {off} off");
    meter.assert_balanced();
    assert_eq!(meter.flush()[0].sampling_n, 3);
}
