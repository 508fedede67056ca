//! Ways to a collector that are lost and found again, and one that is too narrow.

use std::{thread, time::Duration};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    collector::{Collector, Received},
    netns::Netns,
    packets::truth,
    probe::{Finished, Probe},
    sender::Sender,
    stream::TcpCollector,
    topology::{Pair, Uplink, Wire},
};

use crate::{BURST, ONCE, Result, SOON, assert_once, assert_right, burst, bursts, flows_of, send};

/// Where the collector listens, on a host of its own.
const ADDRESS: &str = "10.20.0.2:4739";

/// A sensor with a wire that it meters, and another one to its collector.
struct Site {
    pair: Pair,
    uplink: Uplink,
    sender: Sender,
}

impl Site {
    fn new() -> Result<Self> {
        let pair = Pair::new(Wire::default())?;
        Ok(Self {
            uplink: Uplink::new(&pair.sensor)?,
            sender: Sender::new(&pair.generator, Pair::GENERATOR)?,
            pair,
        })
    }

    fn probe(&self, url: &str, options: &[&str]) -> Result<Probe> {
        let to = ["-i", Pair::SENSOR, "-c", url];
        Probe::start(&self.pair.sensor, &[&to[..], &SOON, options].concat())
    }

    fn burst(&self, number: u16) -> Result {
        send(&self.sender, &burst(number))
    }

    fn route(&self, change: &str) -> Result {
        self.pair
            .sensor
            .ip(&format!("route {change} {}", Uplink::ROUTE))
    }
}

/// The kernel says that there is no route before it takes anything, so nothing is lost.
#[test]
fn udp_waits_for_a_route_that_is_lost() -> Result {
    let site = Site::new()?;
    let collector = Collector::start(&site.uplink.collector, ADDRESS, false)?;
    let mut probe = site.probe(&collector.url(), &ONCE)?;
    site.burst(0)?;
    collector.wait_until("the first burst", |received| received.flows.len() == BURST)?;
    site.route("del")?;
    site.burst(1)?;
    probe.wait_for_log("collector cannot be reached")?;
    site.burst(2)?;
    thread::sleep(Duration::from_millis(1500));
    assert_eq!(collector.received().flows.len(), BURST);
    site.route("add")?;
    site.burst(3)?;
    let packets = bursts(4);
    let all = |received: &Received| received.flows.len() == packets.len();
    collector.wait_until("all bursts", all)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.sent, finished.summary.ledger.exported, "{report:?}");
    assert_eq!(report.outages, 1, "{}", finished.log);
    assert_once(&collector.stop(), &packets);
    Ok(())
}

/// The host at the other end is gone from the wire. Nobody says so before the kernel has asked for it
/// in vain, so flows are lost on the way: the gap in the sequence is all of them.
#[test]
fn udp_that_is_lost_with_a_link_is_the_gap_in_the_sequence() -> Result {
    let site = Site::new()?;
    let far = &site.uplink.collector;
    let collector = Collector::start(far, ADDRESS, false)?;
    let probe = site.probe(&collector.url(), &ONCE)?;
    site.burst(0)?;
    collector.wait_until("the first burst", |received| received.flows.len() == BURST)?;
    far.ip(&format!("link set {} down", Uplink::COLLECTOR))?;
    for number in 1..10 {
        site.burst(number)?;
        thread::sleep(Duration::from_millis(500));
    }
    far.ip(&format!("link set {} up", Uplink::COLLECTOR))?;
    // It may take a while until the neighbour is asked for again.
    let mut number = 10;
    while collector.received().flows.len() == BURST {
        ensure!(number < 200, "nothing comes any more");
        site.burst(number)?;
        number += 1;
        thread::sleep(Duration::from_millis(500));
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let received = collector.stop();
    received.assert_well_formed();
    assert_right(&received, &bursts(number));
    let ledger = &finished.summary.ledger;
    let report = &ledger.collectors[0];
    let lost = ledger.exported.records - received.flows.len() as u64;
    assert!(lost > 0, "nothing was lost: {report:?}");
    assert!(report.dropped_records() <= lost, "{report:?}");
    // Options that were said in vain are in it too, at each return that was none.
    let most = lost + report.outages * received.options.len() as u64;
    let missing = received.missing();
    assert!((lost..=most).contains(&missing), "{missing}: {report:?}");
    Ok(())
}

/// What the kernel holds is sent again when the route is back, and what there is no room for is
/// counted.
#[test]
fn tcp_goes_on_when_its_route_is_back() -> Result {
    for (room, overflows) in [("100000", false), ("300", true)] {
        let site = Site::new()?;
        let collector = TcpCollector::start(&site.uplink.collector, ADDRESS)?;
        let probe = site.probe(&collector.url(), &["--export-queue", room])?;
        site.burst(0)?;
        collector.wait_for_flows(BURST)?;
        site.route("del")?;
        for number in 1..6 {
            site.burst(number)?;
            thread::sleep(Duration::from_millis(400));
        }
        let before = collector.received().flows.len();
        assert_eq!(before, BURST, "they came without a route");
        site.route("add")?;
        collector.wait_for_flows(BURST + 1)?;
        let finished = probe.stop()?;
        finished.summary.assert_balanced();
        let ledger = &finished.summary.ledger;
        let report = &ledger.collectors[0];
        assert_eq!(
            report.dropped.contains_key("queue_full"),
            overflows,
            "{report:?}"
        );
        let dropped = report.dropped_records();
        assert_eq!(report.sent.records + dropped, ledger.exported.records);
        let received = Received::of_sessions(&collector.stop());
        received.assert_well_formed();
        assert_right(&received, &bursts(6));
        let came = flows_of(&received);
        assert_eq!(came.len() as u64, report.sent.records, "{report:?}");
        if !overflows {
            assert_eq!(came, truth(&bursts(6), 1).0);
        }
    }
    Ok(())
}

fn tc(namespace: &Netns, arguments: &str) -> Result<String> {
    let output = namespace
        .command("tc")
        .args(arguments.split(' '))
        .output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "tc {arguments}: {error}");
    Ok(String::from_utf8(output.stdout)?)
}

/// What a queue of 125 octets a second has said so far.
fn dropped(namespace: &Netns) -> Result<u64> {
    let said = tc(namespace, &format!("-s qdisc show dev {}", Uplink::SENSOR))?;
    let (_, rest) = said.split_once("(dropped ").context("no figure")?;
    let (figure, _) = rest.split_once(',').context("no figure")?;
    Ok(figure.parse()?)
}

/// A way that takes three messages at most, and hardly passes them on, until it is made wide.
fn through_a_narrow_way(fill: impl Fn(&Site) -> Result) -> Result<(Collector, Finished)> {
    let site = Site::new()?;
    let sensor = &site.pair.sensor;
    let collector = Collector::start(&site.uplink.collector, ADDRESS, false)?;
    let probe = site.probe(&collector.url(), &ONCE)?;
    site.burst(0)?;
    collector.wait_until("the first burst", |received| received.flows.len() == BURST)?;
    let device = format!("dev {} root tbf", Uplink::SENSOR);
    let narrow = "rate 1kbit burst 1600 limit 3000";
    tc(sensor, &format!("qdisc add {device} {narrow}"))?;
    fill(&site)?;
    site.burst(1)?;
    // A message is tried for a second, and this is for several.
    thread::sleep(Duration::from_secs(5));
    assert!(dropped(sensor)? > 0, "the queue took it all");
    // What is in it stays there.
    let wide = "rate 1gbit burst 1000000 limit 100000000";
    tc(sensor, &format!("qdisc change {device} {wide}"))?;
    site.burst(2)?;
    let last = truth(&burst(2), 1);
    collector.wait_until("the last burst", |received| {
        let came = flows_of(received);
        last.0.keys().all(|key| came.contains_key(key))
    })?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    Ok((collector, finished))
}

/// ENOBUFS: the interface's queue is full, and stays so for longer than a message is tried.
#[test]
fn what_a_full_interface_does_not_take_is_counted_and_the_rest_arrives() -> Result {
    let (collector, finished) = through_a_narrow_way(|site| {
        // One short message after the other, until one of them does not fit. They are few flows each,
        // and go out after a second.
        let mut flows = burst(3);
        while dropped(&site.pair.sensor)? == 0 {
            let rest = flows.split_off(10);
            ensure!(!rest.is_empty(), "the queue is never full");
            send(&site.sender, &flows)?;
            flows = rest;
            thread::sleep(Duration::from_millis(1200));
        }
        Ok(())
    })?;
    let ledger = &finished.summary.ledger;
    let report = &ledger.collectors[0];
    let received = collector.stop();
    received.assert_well_formed();
    assert_right(&received, &bursts(4));
    let full = report.dropped.get("socket_full").copied();
    let full = full.context("nothing was dropped")?.records;
    assert_eq!(report.dropped_records(), full, "{report:?}");
    // Each message that was given up has had its numbers.
    assert_eq!(received.missing(), full, "{report:?}");
    assert_eq!(received.flows.len() as u64, report.sent.records);
    Ok(())
}

/// Where the queue takes a part of many messages that were handed over as one (UDP_SEGMENT), the
/// kernel says that it took all. What is lost so is still the gap in the sequence.
#[test]
fn what_a_full_interface_loses_unsaid_is_the_gap_in_the_sequence() -> Result {
    let (collector, finished) = through_a_narrow_way(|_| Ok(()))?;
    let ledger = &finished.summary.ledger;
    let report = &ledger.collectors[0];
    let received = collector.stop();
    received.assert_well_formed();
    assert_right(&received, &bursts(3));
    assert!(report.dropped_records() < received.missing(), "{report:?}");
    assert_eq!(
        received.flows.len() as u64 + received.missing(),
        ledger.exported.records
    );
    Ok(())
}
