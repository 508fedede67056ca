//! Every record by every way, and what others make of it.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::net::UnixDatagram,
    path::Path,
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use flowprobe_tests::{
    capture_file::{Order, Record as Captured, pcap},
    collector::{Datagram, Received},
    flow::{Around, Counts, Key},
    judges::{Directory, Nfcapd, Reading, ipfix_dump, wait_until_read},
    mix::mix,
    netns::Netns,
    offline::{Offline, pcap_in},
    packets::{Ip, Packet, flag, truth},
    probe::end_with_parent,
    secure::{Authority, SecureCollector},
    stream::{TcpCollector, wait_for_listener},
};

type Result = anyhow::Result<()>;

/// 2026-01-01 00:00:00 UTC, in nanoseconds since 1970.
const START_NS: u64 = 1_767_225_600_000_000_000;
/// Turns of the mix, each in flows of its own.
const TURNS: u64 = 40;

/// A capture of the mix, several times.
fn capture() -> Vec<u8> {
    let packets = mix();
    let records: Vec<_> = (0..TURNS)
        .flat_map(|turn| packets.iter().map(move |packet| (turn, packet)))
        .map(|(turn, packet)| Captured::whole(START_NS + turn * 100_000_000_000, &packet.frame))
        .collect();
    pcap(Order::Little, true, 1, &records)
}

/// Everything came, once, in order, and the ledger says so.
#[track_caller]
fn assert_all(received: &Received, run: &Offline) {
    assert_eq!(run.code, 0, "{}", run.log);
    received.assert_well_formed();
    assert_eq!(received.cut_octets, 0, "a message is not whole");
    assert_eq!(received.missing(), 0);
    truth(&mix(), TURNS).assert_equals(&received.truth());
    let ledger = run.ledger();
    assert_eq!(received.flows.len() as u64, ledger.exported.records);
    for collector in &ledger.collectors {
        assert_eq!(collector.sent, ledger.exported, "{collector:?}");
        assert_eq!(collector.outages, 0, "{}", run.log);
    }
}

#[test]
fn tcp_delivers_every_record() -> Result {
    let namespace = Netns::new("tcp")?;
    let collector = TcpCollector::start(&namespace, "127.0.0.1:4739")?;
    let run = pcap_in(&namespace, &["-", "-c", &collector.url()], &capture())?;
    let sessions = collector.stop();
    assert_eq!(sessions.len(), 1);
    assert_all(&Received::of_sessions(&sessions), &run);
    Ok(())
}

/// With a certificate on either side.
#[test]
fn tls_and_dtls_deliver_every_record() -> Result {
    let namespace = Netns::new("tls")?;
    let authority = Authority::new(&format!("{}-authority", namespace.name()))?;
    let theirs = authority.sign("collector", "IP:127.0.0.1", 1)?;
    let ours = authority.sign("exporter", "DNS:exporter.example", 1)?;
    let text = |path: &Path| path.display().to_string();
    for scheme in ["tls", "dtls"] {
        let collector =
            SecureCollector::start(&namespace, scheme, 4740, &theirs, Some(&authority))?;
        let arguments = [
            "-".to_owned(),
            format!("--tls-ca={}", text(&authority.ca())),
            format!("--tls-cert={}", text(&ours.cert)),
            format!("--tls-key={}", text(&ours.key)),
            format!("--collector={}", collector.url()),
            // So that loopback's buffers are no matter.
            "--export-rate=20000".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let run = pcap_in(&namespace, &arguments, &capture())?;
        let exported = run.ledger().exported.records;
        let received = collector.wait_for_flows(exported as usize)?;
        assert_all(&received, &run);
    }
    Ok(())
}

#[test]
fn a_unix_socket_gets_every_record() -> Result {
    let namespace = Netns::new("unix")?;
    let directory = Directory::new(namespace.name())?;
    let path = directory.path().join("collector.sock");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_millis(50)))?;
    let ended = AtomicBool::new(false);
    let url = format!("unix://{}", path.display());
    let (octets, run) = thread::scope(|scope| {
        let receive = scope.spawn(|| {
            let (mut octets, mut buffer) = (Vec::new(), vec![0; 1 << 16]);
            loop {
                let last = ended.load(Ordering::Relaxed);
                match socket.recv(&mut buffer) {
                    Ok(length) => octets.extend(&buffer[..length]),
                    Err(_) if last => return octets,
                    Err(_) => {}
                }
            }
        });
        let run = pcap_in(&namespace, &["-", "-c", &url], &capture());
        ended.store(true, Ordering::Relaxed);
        (receive.join().expect("no panic"), run)
    });
    assert_all(&Received::of_sessions(&[octets]), &run?);
    Ok(())
}

/// Files, each of them a session, that libfixbuf reads without a complaint.
#[test]
fn files_hold_every_record() -> Result {
    let namespace = Netns::new("file")?;
    let directory = Directory::new(namespace.name())?;
    let url = format!("file://{}/flows", directory.path().display());
    fs::create_dir(directory.path().join("flows"))?;
    let arguments = ["-", "-c", &url, "--rotate-octets", "20000"];
    let run = pcap_in(&namespace, &arguments, &capture())?;
    let mut files = Vec::new();
    for entry in fs::read_dir(directory.path().join("flows"))? {
        files.push(entry?.path());
    }
    assert!(files.len() > 2, "{files:?}");
    let mut sessions = Vec::new();
    for file in &files {
        let octets = fs::read(file)?;
        let alone = Received::of_sessions(&[&octets]);
        let whole = Datagram {
            octets: octets.clone(),
            source: ([127, 0, 0, 1], 0).into(),
        };
        let (text, complaints) = ipfix_dump(namespace.name(), &[whole])?;
        assert_eq!(complaints, "", "{}", file.display());
        let (messages, records) = (alone.messages, alone.records.len());
        let stats = format!("*** File Stats: {messages} Messages, {records} Data Records, ");
        assert!(text.contains(&stats), "not {stats}: {text}");
        sessions.push(octets);
    }
    assert_all(&Received::of_sessions(&sessions), &run);
    Ok(())
}

/// Flows of IPv4 over UDP and TCP, from which every exporter of NetFlow makes the same.
fn plain_packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for host in 1..=20 {
        let ip = Ip::new(&format!("192.0.2.{host}"), "198.51.100.2");
        for port in 1000..1010 {
            packets.extend([ip.udp(port, 53, 64), ip.udp(port, 53, 128)]);
            packets.push(ip.tcp(port, 443, flag::SYN, 0));
            packets.push(ip.tcp(port, 443, flag::ACK, 1000));
            packets.push(ip.tcp(port, 443, flag::FIN | flag::ACK, 0));
        }
        packets.push(ip.icmp(8, 0, 56));
    }
    packets
}

fn plain_capture() -> Vec<u8> {
    let packets = plain_packets();
    let at = |i: usize| START_NS + i as u64 * 1_000_000;
    let records: Vec<_> = (0..)
        .zip(&packets)
        .map(|(i, packet)| Captured::whole(at(i), &packet.frame))
        .collect();
    pcap(Order::Little, false, 1, &records)
}

/// What is said of a flow: counters and TCP flags.
type Said = BTreeMap<Key, (u64, u64, u8)>;

fn said(readings: impl Iterator<Item = Reading>) -> Said {
    let mut said = Said::new();
    for reading in readings {
        let sum = said.entry(reading.key).or_default();
        sum.0 += reading.packets;
        sum.1 += reading.octets;
        sum.2 |= reading.tcp_flags;
    }
    said
}

/// Runs what exports to the port, and returns what nfdump reads there.
fn by_nfdump(namespace: &Netns, run: impl FnOnce() -> Result) -> anyhow::Result<Said> {
    let nfcapd = Nfcapd::start(namespace, 2055)?;
    run()?;
    wait_until_read(namespace, 2055)?;
    let flows = nfcapd.stop()?.flows;
    let readings: Vec<_> = flows
        .iter()
        .map(Reading::from_nfdump)
        .collect::<anyhow::Result<_>>()?;
    Ok(said(readings.into_iter()))
}

/// The same keys and counters as what was sent.
#[test]
fn nfdump_reads_netflow_of_captures() -> Result {
    let namespace = Netns::new("netflow")?;
    let truth = truth(&plain_packets(), 1);
    for format in ["v9", "v5"] {
        let ours = by_nfdump(&namespace, || {
            let arguments = ["-", "-c", "udp://127.0.0.1", "--format", format];
            let run = pcap_in(&namespace, &arguments, &plain_capture())?;
            assert_eq!(run.code, 0, "{}", run.log);
            let ledger = run.ledger();
            assert_eq!(ledger.collectors[0].sent, ledger.exported);
            Ok(())
        })?;
        let counts = |(key, (packets, octets, _)): (&Key, &(u64, u64, u8))| {
            let (packets, octets) = (*packets, *octets);
            (*key, Counts { packets, octets })
        };
        assert_eq!(ours.iter().map(counts).collect::<BTreeMap<_, _>>(), truth.0);
    }
    Ok(())
}

/// What cannot be had in v5 is not passed over in silence.
#[test]
fn fields_of_v5_cannot_be_chosen_and_the_log_says_so() -> Result {
    let namespace = Netns::new("fields")?;
    for (format, times) in [("v5", 1), ("v9", 0)] {
        let arguments = ["-", "-c", "udp://127.0.0.1", "--format", format];
        let fields = ["--fields", "sourceIPv4Address,octetDeltaCount"];
        let run = pcap_in(
            &namespace,
            &[&arguments[..], &fields].concat(),
            &plain_capture(),
        )?;
        assert_eq!(run.code, 0, "{}", run.log);
        let said = run.log.matches("--fields changes nothing in them");
        assert_eq!(said.count(), times, "{format}: {}", run.log);
    }
    Ok(())
}

/// python-ipfix as a collector over TCP: all rows with their values.
#[test]
fn python_ipfix_reads_tcp() -> Result {
    let namespace = Netns::new("python")?;
    let columns = [
        "sourceIPv4Address",
        "destinationIPv4Address",
        "sourceTransportPort",
        "destinationTransportPort",
        "protocolIdentifier",
        "packetDeltaCount",
        "octetDeltaCount",
    ];
    let directory = Directory::new(namespace.name())?;
    let rows = directory.path().join("rows.csv");
    let mut command = namespace.command("ipfix2csv");
    command.args(["--collect", "tcp", "--bind", "127.0.0.1"]);
    command.args(columns).env("PYTHONUNBUFFERED", "1");
    command
        .stdin(Stdio::null())
        .stdout(fs::File::create(&rows)?);
    command.stderr(fs::File::create(directory.path().join("log"))?);
    end_with_parent(&mut command);
    let mut python = command.spawn().context("cannot run ip netns exec")?;
    let result = (|| {
        wait_for_listener(&namespace, 4739)?;
        let run = pcap_in(
            &namespace,
            &["-", "-c", "tcp://127.0.0.1"],
            &plain_capture(),
        )?;
        assert_eq!(run.code, 0, "{}", run.log);
        let exported = run.ledger().exported.records as usize;
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = fs::read_to_string(&rows)?;
            if text.ends_with('\n') && text.lines().count() > exported {
                return Ok(text);
            }
            let log = || fs::read_to_string(directory.path().join("log")).unwrap_or_default();
            ensure!(Instant::now() < deadline, "{text}\n{}", log());
            thread::sleep(Duration::from_millis(20));
        }
    })();
    let _ = python.kill();
    python.wait()?;
    let mut read = BTreeMap::<Key, Counts>::new();
    for row in result?.lines().skip(1) {
        let row = row.replace('"', "");
        let [source, destination, ports @ .., protocol, packets, octets] =
            &row.split(',').collect::<Vec<_>>()[..]
        else {
            bail!("not a row: {row}");
        };
        let key = Key {
            source: source.parse()?,
            destination: destination.parse()?,
            source_port: ports[0].parse()?,
            destination_port: ports[1].parse()?,
            protocol: protocol.parse()?,
            traffic_class: 0,
            vlan: 0,
            around: Around::default(),
        };
        read.entry(key).or_default().add(Counts {
            packets: packets.parse()?,
            octets: octets.parse()?,
        });
    }
    assert_eq!(read, truth(&plain_packets(), 1).0);
    Ok(())
}
