//! Biflows (RFC 5103): a real conversation through a gateway, and what others read of them.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    sync::mpsc::{Sender, channel},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::{
    capture_file::{Order, Record as Captured, pcap},
    collector::{Collector, Datagram},
    ipfix::{Field, Record},
    judges::{Nfcapd, complaints, find_all, ipfix_dump, tshark, wait_until_read},
    netns::Netns,
    offline::{Offline, pcap_in},
    packets::{Ip, flag},
    probe::Probe,
    topology::Routed,
};

/// The enterprise of reverse elements.
const REVERSE: u32 = 29305;
/// 2023-11-14 22:13:20 UTC, in nanoseconds since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;
const MS: u64 = 1_000_000;

/// The value of an element of this enterprise.
fn value(record: &Record, enterprise: u32, id: u16) -> Option<u64> {
    let wanted = |(field, _): &(Field, &[u8])| (field.enterprise, field.id) == (enterprise, id);
    let (_, octets) = record.fields().find(wanted)?;
    Some(
        octets
            .iter()
            .fold(0, |sum, octet| sum << 8 | u64::from(*octet)),
    )
}

/// There and back.
fn both(record: &Record, id: u16) -> Option<(u64, u64)> {
    Some((value(record, 0, id)?, value(record, REVERSE, id)?))
}

fn is_biflow(record: &Record) -> bool {
    record
        .template
        .fields
        .iter()
        .any(|field| field.enterprise == REVERSE)
}

/// The server answers one request of each kind and ends.
fn serve(address: &str, ready: &Sender<()>) -> Result<()> {
    let listener = TcpListener::bind((address, 80))?;
    let datagrams = UdpSocket::bind((address, 53))?;
    ready.send(())?;
    datagrams.set_read_timeout(Some(Duration::from_secs(20)))?;
    thread::scope(|scope| {
        let answer = scope.spawn(move || -> Result<()> {
            let mut question = [0; 512];
            let (octets, from) = datagrams.recv_from(&mut question)?;
            datagrams.send_to(&question[..octets / 2], from)?;
            Ok(())
        });
        let (mut stream, _) = listener.accept()?;
        let mut request = Vec::new();
        stream.read_to_end(&mut request)?;
        stream.write_all(&[b'x'; 30_000])?;
        stream.shutdown(Shutdown::Write)?;
        answer.join().expect("no panic")
    })
}

/// The client asks by TCP and UDP, and hears the answers.
fn ask(server: &str) -> Result<()> {
    let mut stream = TcpStream::connect((server, 80))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    ensure!(answer.len() == 30_000);
    let any = if server.contains(':') {
        "::"
    } else {
        "0.0.0.0"
    };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    socket.send_to(&[b'q'; 100], (server, 53))?;
    ensure!(socket.recv(&mut [0; 512])? == 50);
    Ok(())
}

/// A connection and a question through a gateway, each of either family: a record each, whose source
/// is the client, with what each direction has of its own. In v9 and in the ledger they are flows.
#[test]
fn conversations_through_a_gateway_are_one_record_each() -> Result<()> {
    let network = &Routed::new()?;
    let collector = Collector::start(&network.gateway, "127.0.0.1:4739", true)?;
    let nfcapd = Nfcapd::start(&network.gateway, 2055)?;
    let url = collector.url();
    let probe = Probe::start(
        &network.gateway,
        &[
            "-i",
            Routed::LAN,
            "-i",
            Routed::WAN,
            "--biflow",
            "--idle-timeout",
            "3",
            "--tcp-linger",
            "1",
            "--collector",
            &url,
            "--collector",
            "udp://127.0.0.1:2055?format=v9",
        ],
    )?;
    for server in [Routed::SERVER_V4, Routed::SERVER_V6] {
        thread::scope(|scope| -> Result<()> {
            let (ready, listens) = channel();
            let serving = scope.spawn(move || network.server.run(|| serve(server, &ready))?);
            if listens.recv().is_ok() {
                network.client.run(|| ask(server))??;
            }
            serving.join().expect("no panic")
        })?;
    }
    // By themselves, while the probe goes on.
    collector.wait_until("four biflows", |received| {
        let records = received.records.iter().map(|(_, record)| record);
        records.filter(|record| is_biflow(record)).count() == 4
    })?;
    let summary = probe.stop()?.summary;
    summary.assert_balanced();
    let received = collector.stop();
    received.assert_well_formed();
    let (lan, wan) = (
        network.gateway.index(Routed::LAN)?,
        network.gateway.index(Routed::WAN)?,
    );
    let mut kinds = BTreeMap::<(bool, u64), Record>::new();
    for (_, record) in received
        .records
        .iter()
        .filter(|(_, record)| !record.is_options())
    {
        assert!(is_biflow(record), "a flow by itself: {record:?}");
        let v6 = record.get(27).is_some();
        let protocol = record.number(4).context("protocol")?;
        let again = kinds.insert((v6, protocol), record.clone());
        assert_eq!(again, None, "one record for each conversation");
        let client = match v6 {
            true => Routed::CLIENT_V6.parse::<Ipv6Addr>()?.octets().to_vec(),
            false => Routed::CLIENT_V4.parse::<Ipv4Addr>()?.octets().to_vec(),
        };
        let source = if v6 { 27 } else { 8 };
        assert_eq!(record.get(source), Some(&client[..]));
        assert_eq!(both(record, 10), Some((lan.into(), wan.into())));
        let (start, answer) = both(record, 152).context("times")?;
        let delta = value(record, 6871, 21).context("delta")?;
        assert_eq!(delta, answer.saturating_sub(start));
        if protocol == 17 {
            // Headers of IP and UDP.
            let headers = if v6 { 48 } else { 28 };
            assert_eq!(both(record, 1), Some((100 + headers, 50 + headers)));
            assert_eq!(both(record, 2), Some((1, 1)));
        } else {
            assert_eq!(record.number(239), Some(1), "SYN says who began");
            let (there, back) = both(record, 1).context("octets")?;
            assert!(there < 3000 && back > 30_000, "{there} {back}");
            assert_eq!(both(record, 6), Some((0x1b, 0x1b)));
            assert_eq!(both(record, 136), Some((3, 3)));
        }
    }
    assert_eq!(kinds.len(), 4);
    // Nothing is lost on the way from flows to biflows.
    let sum = |id| -> u64 {
        let pairs = kinds.values().filter_map(|record| both(record, id));
        pairs.map(|(there, back)| there + back).sum()
    };
    assert_eq!(summary.ledger.exported.records, 8);
    assert_eq!(summary.ledger.exported.packets, sum(2));
    assert_eq!(summary.ledger.exported.octets, sum(1));
    assert_eq!(nfcapd.stop()?.flows.len(), 8, "each direction in v9");
    Ok(())
}

/// Packets, and milliseconds after the first one.
fn capture(packets: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let records: Vec<_> = packets
        .iter()
        .map(|(ms, frame)| Captured::whole(START_NS + ms * MS, frame))
        .collect();
    pcap(Order::Little, true, 1, &records)
}

/// A connection that is answered, a question that is answered, and one that is not.
fn conversations() -> Vec<u8> {
    let (client, server) = ("192.0.2.1", "198.51.100.2");
    let there = || Ip::new(client, server);
    let back = || Ip::new(server, client);
    capture(&[
        (0, there().tcp(40_000, 443, flag::SYN, 0).frame),
        (20, back().tcp(443, 40_000, flag::SYN | flag::ACK, 0).frame),
        (40, there().tcp(40_000, 443, flag::ACK, 100).frame),
        (
            60,
            back().tcp(443, 40_000, flag::ACK | flag::FIN, 900).frame,
        ),
        (80, there().tcp(40_000, 443, flag::ACK | flag::FIN, 0).frame),
        (100, there().udp(50_000, 53, 30).frame),
        (107, back().udp(53, 50_000, 60).frame),
        (200, there().udp(50_001, 53, 30).frame),
    ])
}

/// What a collector gets of a capture, message by message.
fn exported(arguments: &[&str], capture: &[u8]) -> Result<(Vec<Datagram>, Vec<Record>, Offline)> {
    let namespace = Netns::new("biflow")?;
    let collector = Collector::start(&namespace, "127.0.0.1:4739", true)?;
    let url = collector.url();
    let run = pcap_in(
        &namespace,
        &[&["-", "--collector", &url], arguments].concat(),
        capture,
    )?;
    assert_eq!(run.code, 0, "{}", run.log);
    assert!(run.ledger().balanced, "{}", run.log);
    let received = collector.stop();
    let flows = received.records.into_iter().map(|(_, record)| record);
    let flows = flows.filter(|record| !record.is_options()).collect();
    Ok((received.datagrams, flows, run))
}

/// RFC 5103 §6: with a way back a biflow, without one a flow by the template of flows.
#[test]
fn rfc5103_what_has_no_way_back_is_a_flow() -> Result<()> {
    let (datagrams, records, run) = exported(&["--biflow"], &conversations())?;
    let mut read: Vec<_> = records
        .iter()
        .map(|record| (record.number(7), both(record, 2), value(record, 6871, 21)))
        .collect();
    read.sort_unstable();
    let expected = [
        (Some(40_000), Some((3, 2)), Some(20)),
        (Some(50_000), Some((1, 1)), Some(7)),
        (Some(50_001), None, None),
    ];
    assert_eq!(read, expected);
    assert_eq!(run.ledger().exported.records, 5);
    // A strict reader of another project knows every element, and where each record ends.
    let (text, errors) = ipfix_dump("biflow", &datagrams)?;
    assert_eq!(errors, "");
    for line in [
        "(29305/2)        reversePacketDeltaCount : 2",
        "(239)                    biflowDirection : 1",
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }
    // Without the option nothing of this is there.
    let (_, records, _) = exported(&[], &conversations())?;
    assert_eq!(records.len(), 5);
    assert!(!records.iter().any(is_biflow));
    Ok(())
}

/// tshark reads reverse elements as such; nfdump as what came out, and who began.
#[test]
fn tshark_and_nfdump_read_both_directions() -> Result<()> {
    let (datagrams, ..) = exported(&["--biflow"], &conversations())?;
    let packets = tshark("biflow", &datagrams, 4739)?;
    assert_eq!(complaints(&packets), Vec::<String>::new());
    let text = serde_json::to_string(&packets)?;
    assert!(text.contains("29305"), "{text}");
    let directions = packets
        .iter()
        .flat_map(|packet| find_all(packet, "cflow.biflow_direction"));
    assert_eq!(directions.count(), 2);

    let namespace = Netns::new("nfdump")?;
    let nfcapd = Nfcapd::start(&namespace, 4739)?;
    let url = "udp://127.0.0.1:4739";
    let run = pcap_in(
        &namespace,
        &["-", "--biflow", "--collector", url],
        &conversations(),
    )?;
    assert_eq!(run.code, 0, "{}", run.log);
    wait_until_read(&namespace, 4739)?;
    let judgement = nfcapd.stop()?;
    let number = |flow: &serde_json::Value, key: &str| flow[key].as_u64();
    let mut read: Vec<_> = judgement
        .flows
        .iter()
        .map(|flow| {
            (
                number(flow, "src_port"),
                number(flow, "in_packets"),
                number(flow, "out_packets"),
                number(flow, "out_bytes"),
            )
        })
        .collect();
    read.sort_unstable();
    let expected = [
        (Some(40_000), Some(3), Some(2), Some(40 + 940)),
        (Some(50_000), Some(1), Some(1), Some(88)),
        (Some(50_001), Some(1), None, None),
    ];
    assert_eq!(read, expected);
    Ok(())
}

/// Reverse fields can be chosen, and need biflows.
#[test]
fn fields_may_be_reverse_ones() -> Result<()> {
    let fields = "sourceTransportPort,sourceIPv4Address,sourceIPv6Address,reverseOctetDeltaCount";
    let chosen = ["--fields", fields];
    let (_, records, _) = exported(&[&chosen[..], &["--biflow"]].concat(), &conversations())?;
    let octets: Vec<_> = records
        .iter()
        .map(|record| value(record, REVERSE, 1))
        .collect();
    assert!(
        octets.contains(&Some(980)) && octets.contains(&None),
        "{octets:?}"
    );
    let namespace = Netns::new("refused")?;
    let url = ["-", "--collector", "udp://127.0.0.1:4739"];
    let run = pcap_in(&namespace, &[&url[..], &chosen[..]].concat(), &[])?;
    assert_eq!(run.code, 2);
    let message = "only biflows have reverseOctetDeltaCount: give --biflow too, or leave it out";
    assert!(run.log.contains(message), "{}", run.log);
    Ok(())
}
