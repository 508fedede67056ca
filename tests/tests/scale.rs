//! Many flows, more flows than the table holds, and sweeps while millions of packets arrive.

use flowprobe_tests::{
    collector::{Collector, Received},
    flow::Truth,
    live::{Live, send_from_all},
    packets::{Ip, Packet},
    probe::{Finished, Probe},
    sender::Sender,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

/// A collector on the sensor's loopback, which no watched interface carries.
const COLLECTOR: &str = "127.0.0.1:4739";

const TWO_QUEUES: Wire = Wire {
    queues: 2,
    mtu: 1500,
};

/// Generators for both CPUs: `flows` flows each, over IPv4 and IPv6, none in common.
fn generators(pair: &Pair, flows: u32) -> anyhow::Result<[Live; 2]> {
    let v4 = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    let v6 = Ip::new("fd00::1", "fd00::2").udp(0, 0, 30);
    let live = |packet, first| Live::new(&pair.generator, Pair::GENERATOR, packet, first, flows);
    Ok([live(v4, 0)?, live(v6, flows)?])
}

fn truth_of(generators: &[Live], packets: u64) -> Truth {
    let mut truth = Truth::default();
    for live in generators {
        truth.0.extend(live.truth(packets).0);
    }
    truth
}

/// Sends `packets` frames from each CPU at once and returns what came of them.
fn flood(
    flows: u32,
    packets: u64,
    options: &[&str],
) -> anyhow::Result<(Truth, Finished, Received)> {
    let pair = Pair::new(TWO_QUEUES)?;
    let collector = Collector::start(&pair.sensor, COLLECTOR, false)?;
    let url = collector.url();
    // Unpaced, for what the collector's buffer takes is known here.
    let interface = ["-i", Pair::SENSOR, "--collector", &url];
    let unpaced = ["--export-rate", "0", "--export-queue", "16777216"];
    let arguments = [&interface[..], &unpaced, options].concat();
    let probe = Probe::start(&pair.sensor, &arguments)?;
    let generators = generators(&pair, flows)?;
    send_from_all(&pair.generator, &generators, packets)?;
    let finished = probe.stop()?;
    let received = collector.stop();
    let counters = pair.sensor.counters(Pair::SENSOR)?;
    assert_eq!(
        counters.rx_packets,
        2 * packets,
        "the generator lost packets before the interface: {counters:?}"
    );
    finished.summary.assert_balanced();
    assert_eq!(finished.summary.ledger.seen.packets, 2 * packets);
    received.assert_well_formed();
    assert_eq!(received.missing(), 0, "records lost on the way");
    let sent = finished.summary.ledger.collectors[0].sent;
    assert_eq!(received.flows.len() as u64, sent.records);
    Ok((truth_of(&generators, packets), finished, received))
}

#[test]
fn ten_thousand_flows_of_known_size() -> Result {
    let flow = |number: u32| {
        let [a, b, c, d] = number.to_be_bytes();
        let ports = (1024 + (number % 40_000) as u16, 443);
        let ip = if number.is_multiple_of(3) {
            Ip::new(&format!("2001:db8::{number:x}"), "2001:db8:1::1")
        } else {
            Ip::new(&format!("10.{b}.{c}.{d}"), "192.0.2.1")
        };
        let packets = 1 + number % 13;
        let payload = (number * 7 % 1400) as usize + usize::from(a);
        (ip.udp(ports.0, ports.1, payload), packets)
    };
    let flows: Vec<(Packet, u32)> = (0..10_000).map(flow).collect();
    let mut truth = Truth::default();
    for (packet, packets) in &flows {
        let packets = u64::from(*packets);
        truth.add(packet.key.expect("IP"), packets, packets * packet.octets);
    }
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
    // In rounds, so that packets of a flow are far apart.
    for round in 0..13 {
        let frames: Vec<&Vec<u8>> = flows
            .iter()
            .filter(|(_, packets)| *packets > round)
            .map(|(packet, _)| &packet.frame)
            .collect();
        sender.send(&frames)?;
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    truth.assert_equals(&Truth::of(&finished.flows));
    assert_eq!(finished.flows.len(), 10_000, "one record for each flow");
    Ok(())
}

#[test]
fn a_million_flows() -> Result {
    let (truth, finished, received) = flood(1 << 19, 1 << 20, &["--max-flows", "1048576"])?;
    assert_eq!(truth.0.len(), 1 << 20);
    finished.summary.assert_nothing_lost();
    truth.assert_equals(&received.truth());
    Ok(())
}

#[test]
fn more_flows_than_the_table_holds() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR, "--max-flows", "512"])?;
    let mut truth = Truth::default();
    for _ in 0..10 {
        for port in 0..4096 {
            let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(port, 53, 100);
            truth.add(packet.key.expect("IP"), 1, packet.octets);
            sender.send(&[packet.frame])?;
        }
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    assert!(finished.summary.table.evicted > 0, "nothing was evicted");
    truth.assert_equals(&Truth::of(&finished.flows));
    Ok(())
}

#[test]
fn flows_that_fit_nowhere_end_for_lack_of_resources() -> Result {
    let options = ["--max-flows", "512", "--max-overflow-flows", "1024"];
    let (truth, finished, received) = flood(1 << 14, 1 << 19, &options)?;
    assert!(received.flows.iter().any(|flow| flow.reason == 5));
    // What the rings could not take is lost, and counted: nothing else may be.
    let lost: u64 = finished
        .summary
        .ledger
        .lost
        .values()
        .map(|lost| lost.packets)
        .sum();
    let exported = received.truth();
    assert_eq!(exported.total().packets + lost, truth.total().packets);
    for (key, counts) in &exported.0 {
        let sent = truth.0.get(key).copied().unwrap_or_default();
        assert!(
            counts.packets <= sent.packets,
            "{key:?}: {counts:?} of {sent:?}"
        );
    }
    Ok(())
}

#[test]
fn sweeps_each_few_milliseconds_lose_nothing() -> Result {
    let options = [
        &["--sweep-interval", "0.005", "--idle-timeout", "0.005"][..],
        &["--active-timeout", "0.02", "--max-flows", "65536"],
    ];
    let (truth, finished, received) = flood(1 << 13, 1 << 21, &options.concat())?;
    finished.summary.assert_nothing_lost();
    let timeouts = received.flows.iter().filter(|flow| flow.reason <= 2);
    assert!(
        timeouts.count() > truth.0.len(),
        "hardly a flow was taken out while packets arrived"
    );
    truth.assert_equals(&received.truth());
    Ok(())
}
