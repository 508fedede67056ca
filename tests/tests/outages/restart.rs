//! Collectors over UDP that start again and have forgotten every template (RFC 7011 §8.4).

use std::{collections::BTreeMap, thread, time::Duration};

use anyhow::Context as _;
use flowprobe_tests::{
    collector::{Collector, Received},
    flow::{Counts, Flow, Key},
    ipfix::Decoder,
    judges::{Nfcapd, Reading, wait_until_read},
    netns::Netns,
    packets::{Packet, truth},
    probe::Probe,
    sender::Sender,
    sniffer::{Sniffer, Udp},
    summary,
    topology::{Pair, Wire},
};

use crate::{BURST, ONCE, Result, SOON, assert_right, burst, bursts, send};

const PORT: u16 = 9995;
/// Messages after which templates are due.
const MESSAGES: usize = 8;
const AFTER_MESSAGES: [&str; 2] = ["--template-refresh-packets", "8"];
/// A few flows in each message, so that a burst is many.
const SHORT: [&str; 2] = ["--mtu", "512"];

/// Nobody tells flowprobe. What cannot be read is bounded, and a gap in the sequence.
#[test]
fn a_collector_that_forgets_reads_on_after_so_many_messages() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let mut collector = Collector::start(&pair.sensor, "127.0.0.1:4739", true)?;
    let url = collector.url();
    let to = ["-i", Pair::SENSOR, "-c", &url];
    let options = [&SOON[..], &ONCE, &AFTER_MESSAGES, &SHORT].concat();
    let probe = Probe::start(&pair.sensor, &[&to[..], &options].concat())?;
    send(&sender, &burst(0))?;
    collector.wait_until("the first burst", |received| received.flows.len() == BURST)?;
    collector.forget(&pair.sensor)?;
    for number in 1..4 {
        send(&sender, &burst(number))?;
    }
    let read_again = |received: &Received| received.flows.len() > BURST;
    collector.wait_until("flows after the restart", read_again)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.sent, finished.summary.ledger.exported);
    assert_eq!(report.outages, 0, "flowprobe cannot know");
    let received = collector.stop();
    let unknown = |error: &&String| error.contains("no template");
    let unread = received.errors.iter().filter(unknown).count();
    assert_eq!(unread, received.errors.len(), "{:?}", received.errors);
    assert!((1..=MESSAGES).contains(&unread), "{unread} messages");
    assert_right(&received, &bursts(4));
    let seen = received.flows.len() as u64 + received.missing();
    assert_eq!(seen, finished.summary.ledger.exported.records);
    Ok(())
}

/// What an nfcapd read before and after it was killed, and what was on the wire.
struct Restarted {
    first: BTreeMap<Key, Counts>,
    second: BTreeMap<Key, Counts>,
    /// Messages that the second one was sent.
    after: Vec<Udp>,
    /// What flowprobe says of it.
    report: summary::Collector,
}

/// How nfcapd is away.
#[derive(Clone, Copy)]
enum Away {
    /// Between two messages.
    Unnoticed,
    /// While flows are sent, which the kernel then refuses.
    Refusing,
}

/// Burst 0 goes to an nfcapd that then ends, and those from `from` on to another one in its place.
fn restarted(away: Away, last: u16, options: &[&str]) -> Result<Restarted> {
    let pair = Pair::new(Wire::default())?;
    // Else the sniffer would see many messages as one.
    offload(&pair.sensor, "off")?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let sniffer = Sniffer::start(&pair.sensor, "lo")?;
    let nfcapd = Nfcapd::start(&pair.sensor, PORT)?;
    let to = [
        "-i",
        Pair::SENSOR,
        "-c",
        "udp://127.0.0.1:9995?format=ipfix",
    ];
    let options = [&SOON[..], options, &SHORT].concat();
    let mut probe = Probe::start(&pair.sensor, &[&to[..], &options].concat())?;
    let on_the_wire = |burst: &[Packet]| {
        let keys = truth(burst, 1);
        sniffer.wait_until("a burst", PORT, move |datagrams| {
            let sent = flows(datagrams);
            keys.0.keys().all(|key| sent.contains_key(key))
        })
    };
    send(&sender, &burst(0))?;
    on_the_wire(&burst(0))?;
    wait_until_read(&pair.sensor, PORT)?;
    let first = read(&nfcapd.stop()?.flows)?;
    if let Away::Refusing = away {
        send(&sender, &burst(50))?;
        probe.wait_for_log("collector cannot be reached")?;
    }
    let before = sniffer.datagrams(PORT).len();
    let nfcapd = Nfcapd::start(&pair.sensor, PORT)?;
    for number in 1..=last {
        send(&sender, &burst(number))?;
        on_the_wire(&burst(number))?;
        // Longer than a refresh by time, where there is one.
        thread::sleep(Duration::from_millis(1500));
    }
    let summary = probe.stop()?.summary;
    summary.assert_balanced();
    wait_until_read(&pair.sensor, PORT)?;
    let second = read(&nfcapd.stop()?.flows)?;
    let after = sniffer.datagrams(PORT).split_off(before);
    Ok(Restarted {
        first,
        second,
        after,
        report: summary.ledger.collectors[0].clone(),
    })
}

fn offload(namespace: &Netns, state: &str) -> Result {
    let mut ethtool = namespace.command("ethtool");
    let status = ethtool.args(["-K", "lo", "tx-udp-segmentation", state]);
    anyhow::ensure!(status.status()?.success(), "ethtool -K lo");
    Ok(())
}

/// The flows in messages, by one that missed none.
fn flows(datagrams: &[Udp]) -> BTreeMap<Key, Counts> {
    let mut decoder = Decoder::default();
    let messages = datagrams
        .iter()
        .filter_map(|udp| decoder.decode(udp.payload()).ok());
    messages
        .flat_map(|message| message.records)
        .filter(|record| !record.is_options())
        .filter_map(|record| Flow::from_ipfix(&record).ok())
        .map(|flow| (flow.key, flow.counts))
        .collect()
}

fn read(flows: &[serde_json::Value]) -> Result<BTreeMap<Key, Counts>> {
    let readings = flows.iter().map(|flow| {
        let reading = Reading::from_nfdump(flow)?;
        let (packets, octets) = (reading.packets, reading.octets);
        Ok((reading.key, Counts { packets, octets }))
    });
    readings.collect()
}

/// nfcapd reads exactly what comes after the next templates.
#[test]
fn nfcapd_that_starts_again_unnoticed_reads_on_after_so_many_messages() -> Result {
    let options = [&ONCE[..], &AFTER_MESSAGES].concat();
    let restarted = restarted(Away::Unnoticed, 3, &options)?;
    assert_eq!(restarted.first, truth(&burst(0), 1).0);
    let messages = &restarted.after;
    let templates = messages.iter().position(|udp| has_templates(udp.payload()));
    let templates = templates.context("no templates came again")?;
    assert!((1..=MESSAGES).contains(&templates), "{templates}");
    assert_eq!(restarted.second, flows(&messages[templates..]));
    let read = (restarted.first.len() + restarted.second.len()) as u64;
    assert!(read < restarted.report.sent.records, "nothing was unread");
    Ok(())
}

/// What is sent a refresh after the restart is there.
#[test]
fn nfcapd_that_starts_again_unnoticed_reads_on_after_a_while() -> Result {
    let restarted = restarted(Away::Unnoticed, 2, &["--template-refresh", "1"])?;
    for (key, counts) in truth(&burst(2), 1).0 {
        assert_eq!(restarted.second.get(&key), Some(&counts), "{key:?}");
    }
    Ok(())
}

/// It refuses what comes while it is away, so it gets templates as soon as it is back: it reads all
/// that is sent, and what was refused is counted.
#[test]
fn nfcapd_that_has_refused_gets_templates_at_once() -> Result {
    let restarted = restarted(Away::Refusing, 1, &ONCE)?;
    assert_eq!(restarted.first, truth(&burst(0), 1).0);
    for (key, counts) in truth(&burst(1), 1).0 {
        assert_eq!(restarted.second.get(&key), Some(&counts), "{key:?}");
    }
    // All of them, and not only the one that flowprobe asks with.
    let is_options = |udp: &Udp| {
        let message = Decoder::default().decode(udp.payload());
        message.is_ok_and(|message| message.templates.iter().any(|template| template.scopes > 0))
    };
    assert!(
        restarted.after.iter().any(is_options),
        "no options templates"
    );
    let read = restarted.first.len() + restarted.second.len();
    let report = &restarted.report;
    assert!(report.dropped.contains_key("refused"), "{report:?}");
    assert_eq!(read as u64, report.sent.records, "{report:?}");
    Ok(())
}

/// Whether a message begins with templates of data records (RFC 7011 §3.3.2: set 2).
fn has_templates(message: &[u8]) -> bool {
    message.get(16..18) == Some(&[0, 2])
}
