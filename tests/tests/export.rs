//! Collectors that go and come back, refuse, or are several.

use std::{fs, net::SocketAddr, thread, time::Duration};

use anyhow::Context as _;

use flowprobe_tests::{
    capture_file::{Order, Record as Captured, pcap},
    collector::{Collector, Received},
    flow::Truth,
    netns::Netns,
    offline::pcap_in,
    packets::{Ip, Packet, truth},
    probe::Probe,
    secure::{Authority, SecureCollector},
    sender::Sender,
    topology::{Pair, Routed, Wire},
};

type Result = anyhow::Result<()>;

/// A burst of flows that no other burst has.
fn burst(number: u16) -> Vec<Packet> {
    let ip = Ip::new("192.0.2.1", "198.51.100.2");
    (0..200)
        .map(|port| ip.udp(1000 + number, port, 64))
        .collect()
}

fn send(sender: &Sender, packets: &[Packet]) -> Result {
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    sender.send(&frames)
}

/// Packets as a capture.
fn capture(packets: &[Packet]) -> Vec<u8> {
    let at = 1_767_225_600_000_000_000;
    let records: Vec<_> = packets
        .iter()
        .map(|packet| Captured::whole(at, &packet.frame))
        .collect();
    pcap(Order::Little, true, 1, &records)
}

#[test]
fn what_a_killed_collector_misses_is_the_gap_in_the_sequence() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let mut collector = Collector::start(&pair.sensor, "127.0.0.1:4739", false)?;
    let url = collector.url();
    let options = ["--idle-timeout", "0.05", "--sweep-interval", "0.02"];
    // Templates and options once, so that the gap is of flow records alone.
    let once = ["--template-refresh", "86400"];
    let interface = ["-i", Pair::SENSOR, "--collector", &url];
    let probe = Probe::start(&pair.sensor, &[&interface[..], &options, &once].concat())?;

    let mut bursts = (0..).map(burst);
    let mut sent: Vec<Packet> = Vec::new();
    let mut next = || -> anyhow::Result<usize> {
        let packets = bursts.next().expect("endless");
        send(&sender, &packets)?;
        sent.extend(packets);
        Ok(sent.len())
    };
    let all = next()?;
    let came = move |received: &Received| received.flows.len() >= all;
    collector.wait_until("the first burst", came)?;
    collector.absent(&pair.sensor, || {
        for _ in 0..10 {
            next()?;
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    })?;
    let before = collector.received().flows.len();
    for _ in 0..5 {
        next()?;
        thread::sleep(Duration::from_millis(100));
    }
    let back = move |received: &Received| received.flows.len() > before;
    collector.wait_until("flows after the return", back)?;

    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let received = collector.stop();
    received.assert_well_formed();
    assert!(
        received.missing() > 0,
        "nothing was missed: the collector never was away"
    );
    let ledger = &finished.summary.ledger.collectors[0];
    let refused: u64 = ledger.dropped.values().map(|dropped| dropped.records).sum();
    let encoded = ledger.sent.records + refused;
    assert_eq!(encoded, finished.summary.ledger.exported.records);
    assert_eq!(
        received.flows.len() as u64 + received.missing(),
        encoded,
        "{ledger:?}"
    );
    // What came is right, and what did not come is whole records.
    let truth = truth(&sent, 1);
    for (key, counts) in received.truth().0 {
        assert_eq!(truth.0.get(&key), Some(&counts), "{key:?}");
    }
    Ok(())
}

#[test]
fn a_collector_that_refuses_never_stops_metering() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", false)?;
    let url = collector.url();
    // Nobody listens at the second one.
    let both = ["--collector", "udp://127.0.0.1:4999", "--collector", &url];
    let options = ["--idle-timeout", "0.05", "--sweep-interval", "0.02"];
    let interface = ["-i", Pair::SENSOR];
    let probe = Probe::start(&pair.sensor, &[&interface[..], &both, &options].concat())?;
    let mut sent = Vec::new();
    for number in 0..10 {
        let packets = burst(number);
        send(&sender, &packets)?;
        sent.extend(packets);
        thread::sleep(Duration::from_millis(50));
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let received = collector.stop();
    received.assert_well_formed();
    assert_eq!(received.missing(), 0);
    truth(&sent, 1).assert_equals(&received.truth());
    let [refusing, listening] = &finished.summary.ledger.collectors[..] else {
        panic!("two collectors: {:?}", finished.summary.ledger.collectors);
    };
    assert!(refusing.dropped["refused"].records > 0, "{refusing:?}");
    assert_eq!(listening.sent, finished.summary.ledger.exported);
    Ok(())
}

#[test]
fn each_of_several_collectors_gets_every_record() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let collectors = ["127.0.0.1:4739", "127.0.0.1:4740", "127.0.0.1:4741"]
        .map(|address| Collector::start(&pair.sensor, address, false));
    let collectors: Vec<Collector> = collectors.into_iter().collect::<anyhow::Result<_>>()?;
    let urls: Vec<String> = collectors.iter().map(Collector::url).collect();
    let mut arguments = vec!["-i", Pair::SENSOR];
    for url in &urls {
        arguments.extend(["--collector", url]);
    }
    let probe = Probe::start(&pair.sensor, &arguments)?;
    let packets = burst(0);
    send(&sender, &packets)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    for collector in collectors {
        let received = collector.stop();
        received.assert_well_formed();
        assert_eq!(received.missing(), 0);
        truth(&packets, 1).assert_equals(&Truth::of(&received.flows));
    }
    Ok(())
}

#[test]
fn no_message_is_longer_than_the_path_takes() -> Result {
    // With each what the path to the collector takes.
    for (mtu, path) in [(512, 65_536), (1400, 65_536), (1400, 1000)] {
        let pair = Pair::new(Wire::default())?;
        pair.sensor.ip(&format!("link set lo mtu {path}"))?;
        let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
        let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", true)?;
        let (url, limit) = (collector.url(), mtu.to_string());
        let arguments = ["-i", Pair::SENSOR, "--collector", &url, "--mtu", &limit];
        let probe = Probe::start(&pair.sensor, &arguments)?;
        let packets = burst(0);
        send(&sender, &packets)?;
        probe.stop()?.summary.assert_balanced();
        let received = collector.stop();
        received.assert_well_formed();
        truth(&packets, 1).assert_equals(&received.truth());
        // IPv4 and UDP headers count too (RFC 7011 §10.3.3).
        let longest = received
            .datagrams
            .iter()
            .map(|datagram| datagram.octets.len() + 28);
        let longest = longest.max().expect("messages");
        assert_eq!(fragments(&pair.sensor)?, 0);
        let mtu = mtu.min(path);
        assert!(longest <= mtu, "{longest} octets where {mtu} fit");
        assert!(
            longest > mtu - 120,
            "messages are not filled: {longest} of {mtu}"
        );
    }
    Ok(())
}

/// Fragments that a namespace's hosts have made.
fn fragments(namespace: &Netns) -> anyhow::Result<u64> {
    let text = namespace.run(|| fs::read_to_string("/proc/thread-self/net/snmp"))??;
    let mut lines = text.lines().filter(|line| line.starts_with("Ip:"));
    let mut next = || lines.next().map(str::split_whitespace);
    let (names, values) = next().zip(next()).context("no counters of IP")?;
    let mut counters = names.zip(values);
    let made = counters.find(|(name, _)| *name == "FragCreates");
    Ok(made.context("no FragCreates")?.1.parse()?)
}

/// In DTLS there is more around a message.
#[test]
fn messages_in_dtls_fit_the_path() -> Result {
    let namespace = Netns::new("path")?;
    namespace.ip("link set lo mtu 1000")?;
    let authority = Authority::new(&format!("{}-authority", namespace.name()))?;
    let certificate = authority.sign("collector", "IP:127.0.0.1", 1)?;
    let collector = SecureCollector::start(&namespace, "dtls", 4740, &certificate, None)?;
    // What the collector sends is its own matter.
    let before = fragments(&namespace)?;
    let ca = format!("--tls-ca={}", authority.ca().display());
    let packets: Vec<_> = (0..5).flat_map(burst).collect();
    let arguments = ["-", "-c", collector.url(), &ca, "--export-rate=20000"];
    let run = pcap_in(&namespace, &arguments, &capture(&packets))?;
    assert_eq!(run.code, 0, "{}", run.log);
    assert_eq!(fragments(&namespace)?, before);
    let said = "the path takes messages of 935 octets";
    assert_eq!(run.log.matches(said).count(), 1, "{}", run.log);
    let received = collector.wait_for_flows(packets.len())?;
    received.assert_well_formed();
    truth(&packets, 1).assert_equals(&received.truth());
    assert_eq!(run.ledger().collectors[0].outages, 0, "{}", run.log);
    Ok(())
}

/// A router on the way takes less than the exporter's own wire. What it refuses is counted, then
/// messages fit; none is cut into fragments.
#[test]
fn messages_fit_a_path_that_is_narrower_further_on() -> Result {
    const PATH: usize = 1280;
    let routed = Routed::new()?;
    for (host, port) in [(&routed.gateway, Routed::WAN), (&routed.server, "eth0")] {
        host.ip(&format!("link set {port} mtu {PATH}"))?;
    }
    let packets: Vec<_> = (0..20).flat_map(burst).collect();
    let capture = capture(&packets);
    for (host, headers) in [(Routed::SERVER_V4, 28), (Routed::SERVER_V6, 48)] {
        let address = SocketAddr::new(host.parse()?, 4739).to_string();
        let fits = PATH - headers;
        let said = format!("the path takes messages of {fits} octets");
        // Linux remembers what the router has said.
        for known in [false, true] {
            let collector = Collector::start(&routed.server, &address, true)?;
            let url = collector.url();
            let run = pcap_in(&routed.client, &["-", "-c", &url], &capture)?;
            assert_eq!(run.code, 0, "{}", run.log);
            let received = collector.stop();
            let longest = received.datagrams.iter().map(|one| one.octets.len()).max();
            let longest = longest.expect("messages");
            assert!(longest <= fits && longest > fits - 120, "{host}: {longest}");
            assert_eq!(run.log.matches(&said).count(), 1, "{}", run.log);
            for on_the_path in [&routed.client, &routed.gateway] {
                assert_eq!(fragments(on_the_path)?, 0);
            }
            let ledger = run.ledger();
            assert_eq!(ledger.errors(), [""; 0]);
            let report = &ledger.collectors[0];
            assert_eq!(received.flows.len() as u64, report.sent.records, "{host}");
            if known {
                received.assert_well_formed();
                assert_eq!(report.sent, ledger.exported);
                continue;
            }
            // Templates are what it refuses first.
            assert!(received.messages < report.messages, "{report:?}");
            let lost = report.dropped.keys().filter(|reason| *reason != "too_big");
            assert_eq!(lost.count(), 0, "{report:?}");
            assert!(report.sent.records > packets.len() as u64 / 2, "{report:?}");
        }
    }
    Ok(())
}
