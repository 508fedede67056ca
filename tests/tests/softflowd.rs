//! softflowd as a second exporter of NetFlow v5 and v9: the same capture, read by the same nfcapd.

use std::{
    collections::BTreeMap,
    fs,
    process::{Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    capture_file::{Order, Record as Captured, pcap},
    flow::Key,
    judges::{Directory, Nfcapd, Reading, wait_until_read},
    netns::Netns,
    offline::pcap_in,
    packets::{Ip, Packet, flag},
    probe::end_with_parent,
};

type Result<T = ()> = anyhow::Result<T>;

const PORT: u16 = 2055;
/// 2026-01-01 00:00:00 UTC, in milliseconds since 1970.
const START_MS: u64 = 1_767_225_600_000;
/// Between two packets.
const STEP_MS: u64 = 7;
/// Octets of an Ethernet header.
const ETHERNET: usize = 14;
/// How long softflowd may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Conversations of IPv4, each of a client that is answered, but for every third one.
fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for host in 1..=20 {
        let (client, server) = (format!("192.0.2.{host}"), "198.51.100.2");
        let (there, back) = (Ip::new(&client, server), Ip::new(server, &client));
        for port in 1000..1010 {
            packets.extend([there.udp(port, 53, 64), there.udp(port, 53, 128)]);
            packets.push(there.tcp(port, 443, flag::SYN, 0));
            if port % 3 != 0 {
                packets.push(back.udp(53, port, 300));
                packets.push(back.tcp(443, port, flag::SYN | flag::ACK, 0));
            }
            packets.push(there.tcp(port, 443, flag::ACK, 1000));
        }
        packets.push(there.icmp(8, 0, 56));
    }
    packets
}

fn capture(packets: &[Packet]) -> Vec<u8> {
    let record = |(i, packet): (u64, &Packet)| {
        Captured::whole((START_MS + i * STEP_MS) * 1_000_000, &packet.frame)
    };
    let records: Vec<_> = (0..).zip(packets).map(record).collect();
    pcap(Order::Little, false, 1, &records)
}

/// Runs what exports to the port, and returns what nfdump reads there.
fn by_nfdump(namespace: &Netns, run: impl FnOnce() -> Result) -> Result<BTreeMap<Key, Reading>> {
    let nfcapd = Nfcapd::start(namespace, PORT)?;
    run()?;
    wait_until_read(namespace, PORT)?;
    let flows = nfcapd.stop()?.flows;
    let mut readings = BTreeMap::new();
    for flow in &flows {
        let reading = Reading::from_nfdump(flow)?;
        let before = readings.insert(reading.key, reading);
        ensure!(before.is_none(), "{:?} is there twice", reading.key);
    }
    Ok(readings)
}

/// It takes the time from the capture where that is asked for (-a). Without `-c none`, softflowd 1.1.0
/// opens a socket for its control, and where it reads a file it never asks whether somebody is there:
/// it looks at an answer that is what the stack had, and by chance waits for ever.
fn softflowd(namespace: &Netns, directory: &Directory, version: &str) -> Result<Output> {
    let file = |name: &str| directory.path().join(name);
    let mut command = namespace.command("softflowd");
    command.args(["-d", "-a", "-r"]).arg(file("flows.pcap"));
    command.args(["-v", version, "-n", &format!("127.0.0.1:{PORT}")]);
    command.args(["-c", "none", "-p"]).arg(file("pid"));
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    end_with_parent(&mut command);
    let mut child = command.spawn().context("cannot run ip netns exec")?;
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait()?.is_none() {
        if Instant::now() > deadline {
            child.kill()?;
            break;
        }
        thread::sleep(Duration::from_millis(10));
    }
    Ok(child.wait_with_output()?)
}

/// The other direction.
fn reversed(key: Key) -> Key {
    Key {
        source: key.destination,
        destination: key.source,
        source_port: key.destination_port,
        destination_port: key.source_port,
        ..key
    }
}

/// What softflowd makes of the flows that flowprobe sees.
///
/// - Both directions of a conversation are one flow of its, and have the times of that.
/// - It counts the octets behind an IP packet too, with which Ethernet fills its shortest frames.
/// - In v9 its header has the second in which the last packet came, and the uptime at that packet:
///   collectors, who take both for the same moment, read all times earlier by the part of a second
///   between them. v5 has nanoseconds for that.
fn as_softflowd(
    ours: &BTreeMap<Key, Reading>,
    packets: &[Packet],
    early_ms: u64,
) -> BTreeMap<Key, Reading> {
    let mut theirs = ours.clone();
    for packet in packets {
        let key = packet.key.expect("a packet of IPv4");
        let reading = theirs.get_mut(&key).expect("each is in a flow");
        reading.octets += (packet.frame.len() - ETHERNET) as u64 - packet.octets;
    }
    for (key, reading) in &mut theirs {
        if let Some(back) = ours.get(&reversed(*key)) {
            reading.start_ms = reading.start_ms.min(back.start_ms);
            reading.end_ms = reading.end_ms.max(back.end_ms);
        }
        reading.start_ms -= early_ms;
        reading.end_ms -= early_ms;
    }
    theirs
}

#[test]
fn softflowd_exports_the_same_flows() -> Result {
    let namespace = Netns::new("softflowd")?;
    let directory = Directory::new(namespace.name())?;
    let packets = packets();
    let capture = capture(&packets);
    fs::write(directory.path().join("flows.pcap"), &capture)?;
    let last_ms = START_MS + (packets.len() as u64 - 1) * STEP_MS;
    for (version, early_ms) in [("5", 0), ("9", last_ms % 1000)] {
        let ours = by_nfdump(&namespace, || {
            let url = format!("udp://127.0.0.1:{PORT}?format=v{version}");
            let run = pcap_in(&namespace, &["-", "--collector", &url], &capture)?;
            assert_eq!(run.code, 0, "{}", run.log);
            let ledger = run.ledger();
            assert_eq!(ledger.collectors[0].sent, ledger.exported);
            Ok(())
        })?;
        let theirs = by_nfdump(&namespace, || {
            let output = softflowd(&namespace, &directory, version)?;
            let said = String::from_utf8_lossy(&output.stderr);
            ensure!(
                output.status.success(),
                "softflowd: {}: {said}",
                output.status
            );
            Ok(())
        })?;
        assert!(ours.len() > 500, "{} flows", ours.len());
        let expected = as_softflowd(&ours, &packets, early_ms);
        for (key, reading) in &theirs {
            assert_eq!(expected.get(key), Some(reading), "v{version}");
        }
        assert_eq!(theirs.len(), ours.len(), "v{version}");
    }
    Ok(())
}
