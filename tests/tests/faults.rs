//! Collectors that fail, groups of them, and what is wrong with arguments.

use std::{fs, os::unix::fs::PermissionsExt as _, path::PathBuf, thread, time::Duration};

use flowprobe_tests::{
    capture_file::{Order, Record as Captured, pcap},
    collector::Received,
    judges::Directory,
    netns::Netns,
    offline::{pcap_by, pcap_in},
    packets::{Ip, Packet, truth},
    probe::{Probe, binary, output},
    secure::{Authority, SecureCollector},
    sender::Sender,
    stream::TcpCollector,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

/// Flows in a burst.
const BURST: usize = 200;
/// Flows are exported soon after their last packet.
const SOON: [&str; 4] = ["--idle-timeout", "0.05", "--sweep-interval", "0.02"];

/// A burst of flows that no other burst has.
fn burst(number: u16) -> Vec<Packet> {
    let ip = Ip::new("192.0.2.1", "198.51.100.2");
    (0..BURST as u16)
        .map(|port| ip.udp(1000 + number, port, 64))
        .collect()
}

fn send(sender: &Sender, packets: &[Packet]) -> Result {
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    sender.send(&frames)
}

/// Bursts as a capture.
fn capture(packets: &[Packet]) -> Vec<u8> {
    let at = 1_767_225_600_000_000_000;
    let records: Vec<_> = packets
        .iter()
        .map(|packet| Captured::whole(at, &packet.frame))
        .collect();
    pcap(Order::Little, true, 1, &records)
}

fn bursts(count: u16) -> Vec<Packet> {
    (0..count).flat_map(burst).collect()
}

/// All of it is there once, and well-formed.
#[track_caller]
fn assert_once(received: &Received, packets: &[Packet]) {
    received.assert_well_formed();
    assert_eq!(received.missing(), 0);
    truth(packets, 1).assert_equals(&received.truth());
}

#[test]
fn a_collector_that_is_killed_gets_templates_and_the_rest_when_it_is_back() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let collector = TcpCollector::start(&pair.sensor, "127.0.0.1:4739")?;
    let url = collector.url();
    let probe = Probe::start(
        &pair.sensor,
        &[&["-i", Pair::SENSOR, "-c", &url][..], &SOON].concat(),
    )?;
    send(&sender, &burst(0))?;
    collector.wait_for_flows(BURST)?;
    let mut sessions = collector.stop();
    send(&sender, &burst(1))?;
    thread::sleep(Duration::from_millis(200));
    let collector = TcpCollector::start(&pair.sensor, "127.0.0.1:4739")?;
    send(&sender, &burst(2))?;
    collector.wait_for_flows(2 * BURST)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.sent, finished.summary.ledger.exported, "{report:?}");
    assert!(report.outages > 0, "{report:?}");
    sessions.extend(collector.stop());
    assert!(sessions.len() > 1);
    // Each session has its templates, or its records could not be read.
    assert_once(&Received::of_sessions(&sessions), &bursts(3));
    Ok(())
}

/// It reads less than a message for a while.
#[test]
fn a_slow_reader_delays_nobody_and_loses_nothing() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let slow = TcpCollector::reading(&pair.sensor, "127.0.0.1:4739", 1000)?;
    let other = TcpCollector::start(&pair.sensor, "127.0.0.1:4740")?;
    let (one, two) = (slow.url(), other.url());
    let arguments = ["-i", Pair::SENSOR, "-c", &one, "-c", &two];
    let probe = Probe::start(&pair.sensor, &[&arguments[..], &SOON].concat())?;
    let packets = bursts(20);
    for burst in packets.chunks(BURST) {
        send(&sender, burst)?;
    }
    // All of it is at the one while the other has read less than a message.
    other.wait_for_flows(packets.len())?;
    assert!(slow.octets() <= 1000);
    slow.read_up_to(usize::MAX);
    slow.wait_for_flows(packets.len())?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    for report in &finished.summary.ledger.collectors {
        assert_eq!(report.sent, finished.summary.ledger.exported, "{report:?}");
    }
    for collector in [slow, other] {
        assert_once(&Received::of_sessions(&collector.stop()), &packets);
    }
    Ok(())
}

#[test]
fn failover_gives_the_rest_to_the_next_one() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let first = TcpCollector::start(&pair.sensor, "127.0.0.1:4739")?;
    let second = TcpCollector::start(&pair.sensor, "127.0.0.1:4740")?;
    let group = format!("failover {} {}", first.url(), second.url());
    let probe = Probe::start(
        &pair.sensor,
        &[&["-i", Pair::SENSOR, "-g", &group][..], &SOON].concat(),
    )?;
    send(&sender, &burst(0))?;
    first.wait_for_flows(BURST)?;
    assert_eq!(second.received().flows.len(), 0);
    let mut sessions = first.stop();
    send(&sender, &burst(1))?;
    second.wait_for_flows(BURST)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let ledger = &finished.summary.ledger;
    assert_eq!(ledger.collectors[0].sent, ledger.exported);
    sessions.extend(second.stop());
    assert_once(&Received::of_sessions(&sessions), &bursts(2));
    Ok(())
}

#[test]
fn a_group_that_balances_keeps_directions_together_and_one_of_all_has_all() -> Result {
    let namespace = Netns::new("group")?;
    let mut packets = Vec::new();
    for port in 0..100 {
        packets.push(Ip::new("192.0.2.1", "198.51.100.2").udp(1000 + port, 53, 64));
        packets.push(Ip::new("198.51.100.2", "192.0.2.1").udp(53, 1000 + port, 64));
    }
    for mode in ["balance", "all"] {
        let collectors = ["127.0.0.1:4739", "127.0.0.1:4740"]
            .map(|address| TcpCollector::start(&namespace, address));
        let [one, two] = collectors;
        let (one, two) = (one?, two?);
        let group = format!("{mode} {} {}", one.url(), two.url());
        let run = pcap_in(&namespace, &["-", "-g", &group], &capture(&packets))?;
        assert_eq!(run.code, 0, "{}", run.log);
        let ledger = run.ledger();
        let [one, two] = [one, two].map(|collector| Received::of_sessions(&collector.stop()));
        if mode == "all" {
            assert_once(&one, &packets);
            assert_once(&two, &packets);
            continue;
        }
        assert!(ledger.collectors.iter().all(|part| part.group.is_some()));
        let (first, second) = (one.truth(), two.truth());
        for (here, there) in [(&first, &second), (&second, &first)] {
            assert!(!here.0.is_empty(), "one has nothing");
            for mut key in here.0.keys().copied() {
                (key.source, key.destination) = (key.destination, key.source);
                (key.source_port, key.destination_port) = (key.destination_port, key.source_port);
                assert!(!there.0.contains_key(&key), "{key:?} is apart");
            }
        }
        let flows = [one.flows, two.flows].concat();
        truth(&packets, 1).assert_equals(&flowprobe_tests::flow::Truth::of(&flows));
        assert_eq!(flows.len(), packets.len());
    }
    Ok(())
}

#[test]
fn an_untrusted_collector_gets_nothing_and_the_log_says_why_once() -> Result {
    let namespace = Netns::new("untrusted")?;
    let authority = Authority::new(&format!("{}-authority", namespace.name()))?;
    let stranger = Authority::new(&format!("{}-stranger", namespace.name()))?;
    let good = "IP:127.0.0.1";
    for (certificate, why) in [
        (authority.sign("old", good, -1)?, "has expired"),
        (
            authority.sign("other", "DNS:elsewhere.example", 1)?,
            "is for elsewhere.example, and not for 127.0.0.1",
        ),
        (stranger.sign("unknown", good, 1)?, "which is not in"),
    ] {
        let collector = SecureCollector::start(&namespace, "tls", 4740, &certificate, None)?;
        let ca = authority.ca().display().to_string();
        let arguments = ["-", "-c", collector.url(), "--tls-ca", &ca];
        let run = pcap_in(&namespace, &arguments, &capture(&burst(0)))?;
        let lines: Vec<_> = run.log.lines().filter(|line| line.contains(why)).collect();
        assert_eq!(lines.len(), 1, "{why}: {}", run.log);
        assert_eq!(collector.received()?.messages, 0);
        let summary = run.summary.expect("a summary");
        let ledger: flowprobe_tests::summary::Ledger =
            serde_json::from_value(summary["ledger"].clone())?;
        assert_eq!(ledger.errors(), [""; 0]);
        assert_eq!(ledger.collectors[0].dropped_records(), BURST as u64);
    }
    Ok(())
}

/// A script that runs flowprobe with this before it.
fn script(directory: &Directory, before: &str) -> anyhow::Result<PathBuf> {
    let path = directory.path().join("flowprobe.sh");
    let text = format!("#!/bin/sh\n{before}\nexec {} \"$@\"\n", binary()?.display());
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

#[test]
fn a_full_disk_loses_what_is_counted_and_says_so() -> Result {
    let namespace = Netns::new("full")?;
    let directory = Directory::new(namespace.name())?;
    let place = directory.path().display();
    // `ip netns exec` gives it a mount namespace of its own.
    let mount = format!("mount -t tmpfs -o size=64k tmpfs {place}");
    let scripts = Directory::new(&format!("{}-scripts", namespace.name()))?;
    let program = script(&scripts, &mount)?;
    let packets = bursts(30);
    for destination in ["file", "spool"] {
        let url = match destination {
            "file" => format!("file://{place}/flows.ipfix"),
            // Nobody is there.
            _ => "tcp://127.0.0.1:4999".to_owned(),
        };
        let spool = format!("--spool={place}");
        let mut arguments = vec!["-", "-c", &url];
        if destination == "spool" {
            arguments.push(&spool);
        }
        let run = pcap_by(&program, &namespace, &arguments, &capture(&packets))?;
        let summary = run.summary.unwrap_or_default();
        let ledger: flowprobe_tests::summary::Ledger =
            serde_json::from_value(summary["ledger"].clone())?;
        assert_eq!(ledger.errors(), [""; 0], "{}", run.log);
        let report = &ledger.collectors[0];
        assert_eq!(ledger.exported.records, packets.len() as u64);
        assert!(report.dropped_records() > 0, "{destination}: {report:?}");
        // Said when it happens, and not again at each try.
        let said = run.log.matches("No space left on device").count();
        assert!((1..=40).contains(&said), "{said} times: {}", run.log);
    }
    Ok(())
}

#[test]
fn what_is_in_the_spool_of_a_killed_exporter_arrives_with_the_next_one() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let directory = Directory::new(&format!("{}-spool", pair.sensor.name()))?;
    let spool = format!("--spool={}", directory.path().display());
    let queue = ["--export-queue", "100000"];
    let interface = ["-i", Pair::SENSOR, "-c", "tcp://127.0.0.1:4739", &spool];
    let small = ["--export-queue", "300"];
    let probe = Probe::start(&pair.sensor, &[&interface[..], &small, &SOON].concat())?;
    for number in 0..5 {
        send(&sender, &burst(number))?;
        thread::sleep(Duration::from_millis(200));
    }
    probe.kill()?;
    let files = || -> anyhow::Result<Vec<Vec<u8>>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(directory.path().join("tcp-127.0.0.1-4739"))? {
            let path = entry?.path();
            if path.to_string_lossy().contains(".ipfix") {
                files.push(fs::read(path)?);
            }
        }
        Ok(files)
    };
    let waiting = Received::of_sessions(&files()?);
    assert!(!waiting.flows.is_empty(), "nothing is in the spool");
    let collector = TcpCollector::start(&pair.sensor, "127.0.0.1:4739")?;
    let probe = Probe::start(&pair.sensor, &[&interface[..], &queue, &SOON].concat())?;
    collector.wait_for_flows(waiting.flows.len())?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.recovered.records, waiting.flows.len() as u64);
    let received = Received::of_sessions(&collector.stop());
    received.assert_well_formed();
    waiting.truth().assert_equals(&received.truth());
    assert_eq!(files()?.len(), 0, "what has arrived stays on disk");
    Ok(())
}

#[test]
fn what_is_wrong_with_arguments_is_one_line_and_2() -> Result {
    let namespace = Netns::new("wrong")?;
    let directory = Directory::new(namespace.name())?;
    let file = directory.path().join("one.pcap");
    fs::write(&file, capture(&burst(0)[..1]))?;
    let file = file.display().to_string();
    let udp = "udp://127.0.0.1";
    for (arguments, said) in [
        (&["-c", "http://h"][..], "transport \"http\" is not known"),
        (
            &["-c", "sctp://h?format=v5"],
            "sctp does not carry NetFlow v5",
        ),
        (&["-c", "udp://h?formt=v9"], "did you mean format?"),
        (
            &["-c", "udp://h?template=wid", "--template", "wide=ipVersion"],
            "collector udp://h?template=wid: there is no template wid: did you mean wide?",
        ),
        (
            &["-g", "all udp://h udp://i?template=wide"],
            "define it with --template wide=ELEMENT",
        ),
        (
            &["--template", "w=ipVersion", "--template", "w=vlanId"],
            "template w is there twice",
        ),
        (&["--template", "a/b=ipVersion"], "\"a/b\" is no name"),
        (
            &["--template", "w=ipVersions"],
            "template w: \"ipVersions\" is no element of flow records: did you mean ipVersion?",
        ),
        (
            &[
                "-c",
                "udp://h?template=w&format=v5",
                "--template",
                "w=ipVersion",
            ],
            "NetFlow v5 has no templates",
        ),
        (&["-c", "file:///not/there/x.ipfix"], "/not/there"),
        (
            &["-c", "tls://127.0.0.1", "--tls-key", "/dev/null"],
            "give --tls-cert too",
        ),
        (
            &["-c", "tls://127.0.0.1", "--tls-cert", "/etc/hostname"],
            "give --tls-key too",
        ),
        (
            &["-c", "tls://127.0.0.1", "--tls-ca", "/not/there"],
            "/not/there",
        ),
        (&["-c", udp, "--mtu", "60"], "--mtu"),
        (
            &["-g", "failover udp://127.0.0.1"],
            "at least two collectors",
        ),
        (
            &["-c", udp, "--spool", "/tmp", "--spool-octets", "9"],
            "--spool-octets",
        ),
    ] {
        let refused = output(&namespace, &[&["pcap", &file], arguments].concat())?;
        let log = String::from_utf8_lossy(&refused.stderr);
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {log}");
        let lines = log.lines().filter(|line| line.contains(said)).count();
        assert_eq!(lines, 1, "{arguments:?}: {log}");
    }
    Ok(())
}
