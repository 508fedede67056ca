//! Rates that differ by class, that change while packets come, and that a budget chooses.

use std::{
    collections::BTreeMap,
    os::unix::fs::{FileTypeExt as _, PermissionsExt as _},
    path::PathBuf,
    thread,
    time::Duration,
};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    collector::{Collector, Received},
    ipfix::Record,
    live::{Live, on_one_cpu},
    netns::Netns,
    packets::Ip,
    probe::{self, Finished, Probe},
    sender::Sender,
    summary::Summary,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

const OBSERVATION_DOMAIN: u16 = 149;
const SAMPLING_INTERVAL: u16 = 34;
const PACKETS: u16 = 2;
const SEQUENCE: u16 = 301;
const OBSERVED: u16 = 318;
const SELECTED: u16 = 319;

/// A control socket of the test's own.
fn socket(namespace: &Netns) -> PathBuf {
    std::env::temp_dir().join(format!("{}-control", namespace.name()))
}

/// Runs `flowprobe ctl`; returns what it printed.
fn ctl(namespace: &Netns, arguments: &[&str]) -> anyhow::Result<String> {
    let socket = socket(namespace).display().to_string();
    let arguments = [&["ctl", "--control", &socket], arguments].concat();
    let output = probe::output(namespace, &arguments)?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{error}");
    Ok(String::from_utf8(output.stdout)?)
}

/// In each domain, every flow record has the rate of the option that came last before it. Returns the
/// domains' rates in their order.
fn rates_in_order(received: &Received) -> BTreeMap<u32, Vec<u64>> {
    let mut rates: BTreeMap<u32, Vec<u64>> = BTreeMap::new();
    for (domain, record) in &received.records {
        let Some(rate) = record.number(SAMPLING_INTERVAL) else {
            continue;
        };
        let told = rates.entry(*domain).or_default();
        if record.is_options() {
            assert_eq!(record.number(OBSERVATION_DOMAIN), Some(u64::from(*domain)));
            if told.last() != Some(&rate) {
                told.push(rate);
            }
        } else {
            assert_eq!(told.last(), Some(&rate), "domain {domain}: {told:?}");
        }
    }
    rates
}

/// The last statistics of each selection sequence of a domain: observed and selected.
fn selections(received: &Received, domain: u32) -> BTreeMap<u64, (u64, u64)> {
    let number = |record: &Record, id| record.number(id).expect("a number");
    received
        .records
        .iter()
        .filter(|(of, record)| *of == domain && record.number(OBSERVED).is_some())
        .map(|(_, record)| {
            let values = (number(record, OBSERVED), number(record, SELECTED));
            (number(record, SEQUENCE), values)
        })
        .collect()
}

/// Packets of a domain's flow records, by rate.
fn packets_by_rate(received: &Received, domain: u32) -> BTreeMap<u64, u64> {
    let mut sums = BTreeMap::new();
    for (of, record) in &received.records {
        if *of == domain && !record.is_options() {
            let number = |id| record.number(id).expect("a number");
            *sums.entry(number(SAMPLING_INTERVAL)).or_default() += number(PACKETS);
        }
    }
    sums
}

fn started(pair: &Pair, collector: &Collector, arguments: &[&str]) -> anyhow::Result<Probe> {
    let (url, socket) = (collector.url(), socket(&pair.sensor).display().to_string());
    let common = [
        "-i",
        Pair::SENSOR,
        "--collector",
        &url,
        "--control",
        &socket,
        "--export-rate",
        "0",
    ];
    Probe::start(&pair.sensor, &[&common, arguments].concat())
}

fn assert_all_counted(finished: &Finished, received: &Received) {
    received.assert_well_formed();
    assert_eq!(received.missing(), 0);
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let accounted = finished.summary.ledger.accounted.packets;
    assert_eq!(received.truth().total().packets, accounted);
}

/// Packets never cease while the rate goes up, down and through three methods.
#[test]
fn a_change_in_mid_traffic_leaves_no_record_with_a_wrong_rate() -> Result {
    const FLOWS: u32 = 64;
    let pair = Pair::new(Wire::default())?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", true)?;
    // Flows end by themselves all the time, and some buckets are full.
    let limits = [
        "--active-timeout",
        "0.3",
        "--sweep-interval",
        "0.1",
        "--max-flows",
        "8",
    ];
    let probe = started(
        &pair,
        &collector,
        &[&limits[..], &["--sample", "1/100"]].concat(),
    )?;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    let live = Live::new(&pair.generator, Pair::GENERATOR, packet, 0, FLOWS)?;
    let changes = ["random:1/20", "1/500", "nofn:2/50", "1/1", "random:1/1000"];
    let packets = 12 << 20;
    thread::scope(|scope| {
        let sending = scope.spawn(|| live.send(&pair.generator, 0, packets));
        for rate in changes {
            thread::sleep(Duration::from_millis(400));
            let said = ctl(&pair.sensor, &["sample", rate])?;
            ensure!(said.contains(rate) && said.contains("domain 1"), "{said}");
        }
        sending.join().expect("no panic")
    })?;
    let finished = probe.stop()?;
    let received = collector.stop();
    assert_all_counted(&finished, &received);
    let rates = rates_in_order(&received);
    assert_eq!(rates[&1], [100, 20, 500, 25, 1, 1000]);
    // Each epoch's records have the packets that its sampler selected, and no packet was asked about
    // in two epochs.
    let selections = selections(&received, 1);
    assert_eq!(
        selections.keys().copied().collect::<Vec<_>>(),
        [1, 2, 3, 4, 5, 6]
    );
    let by_rate = packets_by_rate(&received, 1);
    let mut observed_in_all = 0;
    for ((sequence, (observed, selected)), rate) in selections.iter().zip(&rates[&1]) {
        assert_eq!(
            by_rate.get(rate).copied().unwrap_or(0),
            *selected,
            "{sequence}"
        );
        observed_in_all += observed;
        // The measured fraction is the one that was told: seven deviations, and one gap on each CPU.
        let expected = *observed as f64 / *rate as f64;
        let off = (*selected as f64 - expected).abs();
        assert!(
            off <= 7.0 * expected.sqrt() + 4.0,
            "{selected} of {observed} at 1/{rate}"
        );
    }
    assert_eq!(observed_in_all, finished.summary.ledger.seen.packets);
    let estimate: u64 = by_rate.iter().map(|(rate, packets)| rate * packets).sum();
    let variance: f64 = by_rate
        .iter()
        .map(|(rate, packets)| (rate * rate * packets) as f64)
        .sum();
    let off = estimate as f64 - packets as f64;
    assert!(
        off.abs() < 7.0 * variance.sqrt() + 2500.0,
        "{off} of {packets}"
    );
    Ok(())
}

/// All of DNS and a tenth of the rest: two domains, each with its own rate, templates, sequence
/// numbers and statistics.
#[test]
fn each_class_is_an_observation_domain() -> Result {
    const ROUNDS: usize = 4000;
    let pair = Pair::new(Wire::default())?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", true)?;
    let sample = [
        "--sample",
        "udp port 53 = 1/1",
        "--sample",
        "1/10",
        "--sample",
        "net 2001:db8::/32 = random:1/2",
        "--observation-domain",
        "70",
    ];
    let probe = started(&pair, &collector, &sample)?;
    let frames = [
        Ip::new("10.0.0.1", "10.0.0.2").udp(1000, 53, 30).frame,
        Ip::new("10.0.0.1", "10.0.0.2")
            .tcp(1000, 80, 0x10, 30)
            .frame,
        Ip::new("2001:db8::1", "fd00::2").udp(9, 7, 30).frame,
        Ip::new("fd00::1", "2001:db8::2").udp(53, 7, 30).frame,
    ];
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    on_one_cpu(|| (0..ROUNDS).try_for_each(|_| sender.send(&frames)))?;
    let said = ctl(&pair.sensor, &["sample"])?;
    for line in ["udp port 53", "net 2001:db8::/32", "rest"] {
        ensure!(said.contains(line), "{said}");
    }
    let status: serde_json::Value =
        serde_json::from_str(&ctl(&pair.sensor, &["status", "--json"])?)?;
    let classes = status["status"]["classes"].as_array().context("classes")?;
    assert_eq!(classes.len(), 3);
    let finished = probe.stop()?;
    let received = collector.stop();
    assert_all_counted(&finished, &received);
    let rates = rates_in_order(&received);
    assert_eq!(
        rates,
        BTreeMap::from([(70, vec![10]), (71, vec![1]), (72, vec![2])])
    );
    let rounds = ROUNDS as u64;
    assert_eq!(
        packets_by_rate(&received, 70),
        BTreeMap::from([(10, rounds / 10)])
    );
    assert_eq!(
        packets_by_rate(&received, 71),
        BTreeMap::from([(1, 2 * rounds)])
    );
    let half = packets_by_rate(&received, 72)[&2] as f64;
    assert!((half - rounds as f64 / 2.0).abs() < 7.0 * (rounds as f64 / 4.0).sqrt());
    assert_eq!(
        selections(&received, 70),
        BTreeMap::from([(1, (rounds, rounds / 10))])
    );
    assert_eq!(
        selections(&received, 71),
        BTreeMap::from([(1, (2 * rounds, 2 * rounds))])
    );
    let names: Vec<String> = received
        .options
        .iter()
        .filter_map(|record| record.get(300))
        .map(|name| {
            String::from_utf8_lossy(name)
                .trim_end_matches('\0')
                .to_owned()
        })
        .collect();
    assert!(names.contains(&"udp port 53".to_owned()), "{names:?}");
    let Summary { sampling, .. } = &finished.summary;
    let classes: Vec<_> = sampling
        .classes
        .iter()
        .map(|class| {
            (
                &class.name[..],
                class.domain,
                &class.rate[..],
                class.observed,
            )
        })
        .collect();
    let expected = [
        ("rest", 70, "1/10", rounds),
        ("udp port 53", 71, "1/1", 2 * rounds),
        ("net 2001:db8::/32", 72, "random:1/2", rounds),
    ];
    assert_eq!(classes, expected);
    Ok(())
}

/// The rate of one class changes, that of the others does not.
#[test]
fn one_class_changes_by_itself() -> Result {
    let pair = Pair::new(Wire::default())?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", true)?;
    let here = format!("interface {} and udp = 1/5", Pair::SENSOR);
    let sample = ["--sample", &here, "--sample", "1/10"];
    let probe = started(&pair, &collector, &sample)?;
    let frames = [
        Ip::new("10.0.0.1", "10.0.0.2").udp(1000, 53, 30).frame,
        Ip::new("10.0.0.1", "10.0.0.2")
            .tcp(1000, 80, 0x10, 30)
            .frame,
    ];
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let send = || on_one_cpu(|| (0..1000).try_for_each(|_| sender.send(&frames)));
    send()?;
    let filter = here.strip_suffix(" = 1/5").context("the filter")?;
    ctl(&pair.sensor, &["sample", "1/2", "--class", filter])?;
    send()?;
    let refused = |arguments: &[&str], part: &str| -> Result {
        let error = ctl(&pair.sensor, arguments)
            .expect_err("refused")
            .to_string();
        ensure!(
            error.contains(part) && error.lines().count() == 1,
            "{error}"
        );
        Ok(())
    };
    refused(
        &["sample", "1/2", "--class", "udp port 9"],
        "no class has the filter",
    )?;
    refused(&["sample", "hash:1/2"], "--sample-key")?;
    refused(&["sample", "1/0"], "N must be at least 1")?;
    let finished = probe.stop()?;
    let received = collector.stop();
    assert_all_counted(&finished, &received);
    let rates = rates_in_order(&received);
    assert_eq!(rates, BTreeMap::from([(1, vec![10]), (2, vec![5, 2])]));
    assert_eq!(packets_by_rate(&received, 1), BTreeMap::from([(10, 200)]));
    assert_eq!(
        packets_by_rate(&received, 2),
        BTreeMap::from([(5, 200), (2, 500)])
    );
    let expected = BTreeMap::from([(1, (1000, 200)), (2, (1000, 500))]);
    assert_eq!(selections(&received, 2), expected);
    Ok(())
}

/// A flood comes and goes. How often the rate changes is bounded, estimates stay right, and what is
/// metered is within the budget once the rate has settled.
#[test]
fn a_flood_is_sampled_within_its_budget() -> Result {
    let pair = Pair::new(Wire::default())?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", true)?;
    let sample = ["--sample", "auto:packets=5000", "--active-timeout", "1"];
    let probe = started(&pair, &collector, &sample)?;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    let live = Live::new(&pair.generator, Pair::GENERATOR, packet, 0, 64)?;
    let refused = ctl(&pair.sensor, &["sample", "1/7"]).expect_err("the budget decides");
    assert!(
        refused.to_string().contains("auto:packets=5000"),
        "{refused}"
    );
    let mut packets = 0;
    // Until the rate has changed at least once, and then as long again.
    for round in 0..40 {
        live.send(&pair.generator, 0, 1 << 20)?;
        packets += 1 << 20;
        if round >= 8 && !ctl(&pair.sensor, &["sample"])?.contains("epoch 0") {
            break;
        }
    }
    let finished = probe.stop()?;
    let received = collector.stop();
    assert_all_counted(&finished, &received);
    assert_eq!(finished.summary.ledger.seen.packets, packets);
    let rates = rates_in_order(&received).remove(&1).context("a domain")?;
    // A flood that only lasts never makes the rate go back and forth.
    assert!(rates.len() > 1 && rates.len() < 8, "{rates:?}");
    assert!(rates.windows(2).all(|two| two[0] < two[1]), "{rates:?}");
    let by_rate = packets_by_rate(&received, 1);
    let sum = |weight: fn(u64) -> u64| -> f64 {
        by_rate
            .iter()
            .map(|(rate, packets)| (weight(*rate) * packets) as f64)
            .sum()
    };
    let off = sum(|rate| rate) - packets as f64;
    assert!(
        off.abs() < 7.0 * sum(|rate| rate * rate).sqrt(),
        "{off}: {by_rate:?}"
    );
    Ok(())
}

/// All packets are metered and exported; the sample beside them is compared and exported nowhere.
#[test]
fn a_shadow_shows_what_sampling_would_cost() -> Result {
    const PACKETS: u64 = 1 << 20;
    let pair = Pair::new(Wire::default())?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", true)?;
    let probe = started(&pair, &collector, &["--shadow", "100"])?;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    let live = Live::new(&pair.generator, Pair::GENERATOR, packet, 0, 64)?;
    live.send(&pair.generator, 0, PACKETS)?;
    let refused = ctl(&pair.sensor, &["sample", "1/7"]).expect_err("all are metered");
    assert!(refused.to_string().contains("--shadow"), "{refused}");
    let finished = probe.stop()?;
    let received = collector.stop();
    assert_all_counted(&finished, &received);
    live.truth(PACKETS).assert_equals(&received.truth());
    assert_eq!(rates_in_order(&received)[&1], [1]);
    let shadow = finished.summary.sampling.shadow.context("a comparison")?;
    assert_eq!(shadow["balanced"], true);
    let number = |name: &str| shadow[name].as_u64().with_context(|| format!("no {name}"));
    assert_eq!(number("observed")?, PACKETS);
    assert_eq!((number("flows")?, number("flows_seen")?), (64, 64));
    assert_eq!(shadow["full"]["packets"], PACKETS);
    let (mean, sampled) = (
        PACKETS as f64 / 100.0,
        shadow["sampled"]["packets"].as_f64(),
    );
    let off = sampled.context("sampled")? - mean;
    assert!(off.abs() < 7.0 * mean.sqrt(), "{off}");
    let told = shadow["packets_error"].as_f64().context("an error")?;
    assert!((told - off / mean).abs() < 1e-9);
    assert!(finished.log.contains("balanced: yes"), "{}", finished.log);
    Ok(())
}

/// The socket belongs to owner and group, is nobody else's while it is in use, and goes with the run.
#[test]
fn the_control_socket_is_one_runs_own() -> Result {
    let pair = Pair::new(Wire::default())?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", false)?;
    let path = socket(&pair.sensor);
    let error = ctl(&pair.sensor, &["status"]).expect_err("nobody is there");
    assert!(error.to_string().contains("is it running?"), "{error}");
    let probe = started(&pair, &collector, &[])?;
    let file = std::fs::symlink_metadata(&path)?;
    assert!(file.file_type().is_socket());
    assert_eq!(file.permissions().mode() & 0o777, 0o660);
    let said = ctl(&pair.sensor, &["status"])?;
    assert!(
        said.contains(Pair::SENSOR) && said.contains("rest"),
        "{said}"
    );
    assert!(
        said.lines().all(|line| line.chars().count() <= 80),
        "{said}"
    );
    let place = path.display().to_string();
    let second = ["run", "-i", Pair::SENSOR, "--control", &place];
    let output = probe::output(&pair.generator, &second)?;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    drop(probe.stop()?);
    drop(collector.stop());
    assert!(!path.exists());
    Ok(())
}

/// Nothing attaches, and one line says what is wrong.
#[test]
fn rates_that_cannot_be_are_refused() -> Result {
    let pair = Pair::new(Wire::default())?;
    let cases: [(&[&str], &str); 16] = [
        (&["--sample", "1/0"], "at least 1"),
        (&["--sample", "nofn:5/3"], "at most N"),
        (&["--sample", "nofn:0/3"], "select nothing"),
        (&["--sample", "time:0/10"], "select nothing"),
        (&["--sample", "radnom:1/10"], "random"),
        (&["--sample", "often"], "sampling is written"),
        (&["--sample", "hash:1/0"], "hash"),
        (&["--sample", "hash:1/10"], "--sample-key"),
        (
            &["--sample", "hash:1/10", "--sample-key", "short"],
            "8 octets",
        ),
        (&["--sample", "udp port 53"], "no rate"),
        (&["--sample", "icmp port 53 = 1/2"], "no ports"),
        (&["--sample", "interface nosuch0 = 1/2"], "nosuch0"),
        (&["--sample", "1/2", "--sample", "1/3"], "1/3"),
        (&["--sample", "auto:cpu=0%"], "auto:cpu"),
        (&["--sample", "1/2", "--shadow", "10"], "--shadow"),
        (&["--shadow", "1"], "2 or more"),
    ];
    for (arguments, part) in cases {
        let arguments = [&["run", "-i", Pair::SENSOR, "--no-control"], arguments].concat();
        let output = probe::output(&pair.sensor, &arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
        assert!(error.contains(part), "{arguments:?}: {error}");
        assert_eq!(error.lines().count(), 1, "{arguments:?}: {error}");
    }
    let link = pair
        .sensor
        .command("ip")
        .args(["-d", "link", "show", Pair::SENSOR])
        .output()?;
    assert!(!String::from_utf8_lossy(&link.stdout).contains("prog/xdp"));
    Ok(())
}
