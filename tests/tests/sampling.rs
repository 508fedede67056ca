//! One packet in a hundred: how many are taken, and that the rate travels with them.

use flowprobe_tests::{
    collector::{Collector, Received},
    live::Live,
    packets::Ip,
    probe::{Finished, Probe},
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

/// samplingInterval.
const SAMPLING_INTERVAL: u16 = 34;

/// Sends `packets` frames of 64 flows from one CPU.
fn meter(sample: Option<&str>, packets: u64) -> anyhow::Result<(Finished, Received)> {
    let pair = Pair::new(Wire::default())?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", false)?;
    let url = collector.url();
    let mut arguments = vec!["-i", Pair::SENSOR, "--collector", &url];
    if let Some(rate) = sample {
        arguments.extend(["--sample", rate]);
    }
    let probe = Probe::start(&pair.sensor, &arguments)?;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    let live = Live::new(&pair.generator, Pair::GENERATOR, packet, 0, 64)?;
    live.send(&pair.generator, 0, packets)?;
    let finished = probe.stop()?;
    let received = collector.stop();
    received.assert_well_formed();
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let ledger = &finished.summary.ledger;
    assert_eq!(ledger.seen.packets, packets);
    assert_eq!(ledger.unsampled.packets + ledger.accounted.packets, packets);
    // Counters stay raw.
    assert_eq!(received.truth().total().packets, ledger.accounted.packets);
    Ok((finished, received))
}

/// The rate as the options and as each record have it.
fn assert_rate(received: &Received, n: u32) {
    let options = received.options.iter();
    let rates: Vec<u64> = options
        .filter_map(|record| record.number(SAMPLING_INTERVAL))
        .collect();
    assert!(!rates.is_empty(), "no option carries the rate");
    assert!(rates.iter().all(|rate| *rate == u64::from(n)), "{rates:?}");
    assert!(received.flows.iter().all(|flow| flow.sampling == n));
}

#[test]
fn one_in_a_hundred_by_count_is_exact() -> Result {
    // One CPU, a multiple of 100: whatever the phase, each hundredth is taken.
    let packets = 64 * 100 * 50;
    let (finished, received) = meter(Some("1/100"), packets)?;
    assert_eq!(finished.summary.ledger.accounted.packets, packets / 100);
    assert_eq!(finished.summary.sampling.method, "count");
    assert_rate(&received, 100);
    Ok(())
}

#[test]
fn one_in_a_hundred_by_chance_is_fair() -> Result {
    let packets: u64 = 1 << 20;
    let (finished, received) = meter(Some("random:1/100"), packets)?;
    assert_eq!(finished.summary.sampling.method, "random");
    // Binomial: mean n·p, variance n·p·(1 − p). Six deviations: once in 500 million runs.
    let mean = packets as f64 / 100.0;
    let six_deviations = 6.0 * (mean * 0.99).sqrt();
    let taken = finished.summary.ledger.accounted.packets as f64;
    assert!(
        (taken - mean).abs() < six_deviations,
        "{taken} taken, {mean} expected"
    );
    assert_rate(&received, 100);
    // 64 flows in turn: sampling by count would meet 16 of them only (64 and 100 share 4).
    assert_eq!(received.truth().0.len(), 64);
    Ok(())
}

#[test]
fn five_of_each_five_hundred_are_exact() -> Result {
    let packets = 64 * 500 * 10;
    let (finished, received) = meter(Some("nofn:5/500"), packets)?;
    assert_eq!(finished.summary.ledger.accounted.packets, packets / 100);
    assert_eq!(finished.summary.sampling.method, "nofn");
    assert_rate(&received, 100);
    Ok(())
}

#[test]
fn a_tenth_of_the_time_is_recorded_as_one_in_ten() -> Result {
    // How many are taken depends on when they come: `test_run` says which.
    let (finished, received) = meter(Some("time:1000/9000"), 1 << 20)?;
    assert_eq!(finished.summary.sampling.method, "time");
    assert!(finished.summary.ledger.accounted.packets > 0);
    assert_rate(&received, 10);
    Ok(())
}

#[test]
fn without_sampling_the_rate_is_recorded_too() -> Result {
    let (finished, received) = meter(None, 64 * 1000)?;
    assert_eq!(finished.summary.ledger.accounted.packets, 64 * 1000);
    assert_eq!(finished.summary.sampling.method, "all");
    assert_rate(&received, 1);
    Ok(())
}
