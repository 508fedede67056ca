//! nfdump, tshark, pmacct and libfixbuf as judges that know nothing of flowprobe.

use std::collections::BTreeMap;

use anyhow::ensure;
use flowprobe_tests::{
    collector::{Collector, Datagram, Received},
    flow::{Counts, Flow},
    judges::{Judgement, Nfacctd, Nfcapd, Reading, Sum, complaints, find_all, ipfix_dump, tshark},
    mix::{encapsulated, mix, tunnels},
    packets::{Ip, Packet, truth},
    probe::Probe,
    sender::Sender,
    topology::{Pair, Wire},
};
use serde_json::Value;

type Result = anyhow::Result<()>;

const PORT: u16 = 4739;
const SCTP: u8 = 132;

/// Sends frames to a flowprobe that exports to the collector of the tests and to nfcapd.
fn meter(frames: &[Vec<u8>], options: &[&str]) -> anyhow::Result<(Received, Judgement)> {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let collector = Collector::start(&pair.sensor, &format!("127.0.0.1:{PORT}"), true)?;
    let nfcapd = Nfcapd::start(&pair.sensor, 9995)?;
    let url = collector.url();
    let both = ["--collector", &url, "--collector", "udp://127.0.0.1:9995"];
    let arguments = [&["-i", Pair::SENSOR][..], &both, options].concat();
    let probe = Probe::start(&pair.sensor, &arguments)?;
    for _ in 0..50 {
        sender.send(frames)?;
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let received = collector.stop();
    received.assert_well_formed();
    assert_eq!(received.missing(), 0);
    Ok((received, nfcapd.stop()?))
}

fn frames_of_the_mix() -> Vec<Vec<u8>> {
    mix().into_iter().map(|packet| packet.frame).collect()
}

fn readings(flows: &[Flow]) -> Vec<Reading> {
    flows.iter().map(Reading::from).collect()
}

/// Fails with what only one of the two has.
#[track_caller]
fn assert_same(mut judged: Vec<Reading>, mut expected: Vec<Reading>) {
    judged.sort_unstable();
    expected.sort_unstable();
    if judged != expected {
        let only = |these: &[Reading], those: &[Reading]| -> Vec<Reading> {
            let only = these.iter().filter(|reading| !those.contains(reading));
            only.copied().collect()
        };
        panic!(
            "only the judge has {:#?}, only we have {:#?}",
            only(&judged, &expected),
            only(&expected, &judged)
        );
    }
}

/// Every flow that tshark dissects, but those of options, which have no addresses.
fn dissected(packets: &[Value]) -> Vec<&Value> {
    let sets = packets.iter().flat_map(|packet| find_all(packet, "cflow"));
    sets.flat_map(|cflow| cflow.as_object().into_iter().flatten())
        .flat_map(|(_, set)| set.as_object().into_iter().flatten())
        .filter(|(name, _)| name.starts_with("Flow "))
        .map(|(_, flow)| flow)
        .filter(|flow| flow.get("cflow.packets").is_some())
        .collect()
}

#[test]
fn nfdump_reads_every_flow_as_it_was() -> Result {
    let (received, judged) = meter(&frames_of_the_mix(), &[])?;
    truth(&mix(), 50).assert_equals(&received.truth());
    let read = judged.flows.iter().map(Reading::from_nfdump);
    let mut expected = readings(&received.flows);
    for reading in &mut expected {
        // nfdump 1.7.1 takes elements 32 and 139, which are 0 here, for the destination port of
        // whatever is neither TCP nor UDP.
        if reading.key.protocol == SCTP {
            reading.key.destination_port = 0;
        }
    }
    assert_same(read.collect::<anyhow::Result<_>>()?, expected);
    Ok(())
}

/// Frames with tags, labels and tunnels around their packets, and their truth where tunnels are
/// opened.
fn encapsulations() -> (Vec<Vec<u8>>, Vec<Packet>) {
    let all: Vec<Packet> = encapsulated().into_iter().chain(tunnels()).collect();
    let frames = all.iter().map(|packet| packet.frame.clone()).collect();
    (frames, all.into_iter().map(Packet::opened).collect())
}

/// The packets' own addresses, VLANs and labels; of tunnels nfdump 1.7.1 shows nothing.
#[test]
fn nfdump_reads_the_packets_in_tunnels_tags_and_labels() -> Result {
    let (frames, opened) = encapsulations();
    let (received, judged) = meter(&frames, &["--tunnels", "inner"])?;
    truth(&opened, 50).assert_equals(&received.truth());
    let read = judged.flows.iter().map(Reading::from_nfdump);
    let mut expected = readings(&received.flows);
    for reading in &mut expected {
        reading.key.around.tunnel = None;
    }
    assert_same(read.collect::<anyhow::Result<_>>()?, expected);
    Ok(())
}

#[test]
fn tshark_reads_tunnels_tags_and_labels() -> Result {
    let (frames, opened) = encapsulations();
    let (received, _) = meter(&frames, &["--tunnels", "inner"])?;
    truth(&opened, 50).assert_equals(&received.truth());
    let packets = tshark("tunnels", &received.datagrams, PORT)?;
    let complaints = complaints(&packets);
    assert!(complaints.is_empty(), "{complaints:#?}");
    let flows = dissected(&packets);
    let read = flows.iter().map(|flow| Reading::from_tshark(flow));
    let expected = readings(&received.flows);
    assert!(expected.iter().any(|r| r.key.around.tunnel.is_some()));
    assert_same(read.collect::<anyhow::Result<_>>()?, expected);
    Ok(())
}

/// pmacct keeps the packets' own addresses, the outer VLAN and the top label.
#[test]
fn pmacct_adds_up_the_packets_in_tunnels_tags_and_labels() -> Result {
    let (mut frames, _) = encapsulations();
    frames.extend(frames_of_the_mix());
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let collector = Collector::start(&pair.sensor, &format!("127.0.0.1:{PORT}"), false)?;
    let nfacctd = Nfacctd::start(&pair.sensor, 9996)?;
    let url = collector.url();
    let both = ["--collector", &url, "--collector", "udp://127.0.0.1:9996"];
    let options = ["-i", Pair::SENSOR, "--tunnels", "inner"];
    let probe = Probe::start(&pair.sensor, &[&options[..], &both].concat())?;
    for _ in 0..20 {
        sender.send(&frames)?;
    }
    probe.stop()?.summary.assert_balanced();
    let received = collector.stop();
    received.assert_well_formed();
    let mut expected = BTreeMap::<Sum, Counts>::new();
    for flow in &received.flows {
        expected.entry(Sum::of(flow)).or_default().add(flow.counts);
    }
    assert_eq!(nfacctd.stop()?, expected);
    Ok(())
}

/// libfixbuf reads every message, record and template, and complains of none.
#[test]
fn libfixbuf_reads_every_record() -> Result {
    let (frames, _) = encapsulations();
    let (received, _) = meter(&frames, &["--tunnels", "inner"])?;
    let (text, complaints) = ipfix_dump("libfixbuf", &received.datagrams)?;
    assert_eq!(complaints, "");
    let records = received.flows.len() + received.options.len();
    let stats = format!(
        "*** File Stats: {} Messages, {records} Data Records, 17 Template Records ***",
        received.datagrams.len()
    );
    assert!(text.contains(&stats), "not {stats}: {text}");
    // It would complain: here the message with the templates is missing.
    let lacking = ipfix_dump("lacking", &received.datagrams[1..]);
    ensure!(lacking.is_err() || lacking.is_ok_and(|(_, complaints)| !complaints.is_empty()));
    Ok(())
}

#[test]
fn nfdump_scales_a_sampled_run() -> Result {
    let packet = |port| Ip::new("10.0.0.1", "10.0.0.2").udp(port, 53, 200).frame;
    // 70 flows: 70 and 100 share only 10, so several flows are met.
    let frames: Vec<Vec<u8>> = (0..70).map(packet).collect();
    for (rate, exact) in [
        ("1/100", true),
        ("nofn:5/500", false), // each CPU that a packet comes to has windows of its own
        ("random:1/100", false),
        ("time:10/990", false),
    ] {
        let (received, judged) = meter(&frames, &["--sample", rate])?;
        // 3,500 packets in all.
        let taken = received.truth().total().packets;
        ensure!(!exact || taken == 70 * 50 / 100, "{rate}: {taken}");
        let read = judged.flows.iter().map(Reading::from_nfdump);
        let mut expected = readings(&received.flows);
        for reading in &mut expected {
            reading.packets *= 100;
            reading.octets *= 100;
        }
        assert_same(read.collect::<anyhow::Result<_>>()?, expected);
        // It learnt the rate from the options: 1 packet taken, 99 left out.
        let learnt = "packet interval: 1, packet space: 99";
        assert!(
            judged.samplers.contains(learnt),
            "{rate}: {}",
            judged.samplers
        );
    }
    Ok(())
}

#[test]
fn tshark_reads_every_flow_as_it_was_and_has_no_complaint() -> Result {
    let (received, _) = meter(&frames_of_the_mix(), &["--template-refresh", "0.2"])?;
    let packets = tshark("whole", &received.datagrams, PORT)?;
    assert_eq!(packets.len(), received.datagrams.len());
    let complaints = complaints(&packets);
    assert!(complaints.is_empty(), "{complaints:#?}");
    let flows = dissected(&packets);
    let read = flows.iter().map(|flow| Reading::from_tshark(flow));
    assert_same(
        read.collect::<anyhow::Result<_>>()?,
        readings(&received.flows),
    );
    for (name, value) in [("flow_end_reason", 4), ("sampling_interval", 1)] {
        let name = format!("cflow.{name}");
        let said = |flow: &&Value| flow.get(&name) == Some(&Value::from(value.to_string()));
        assert!(flows.iter().all(said), "{name} is not always {value}");
    }
    Ok(())
}

#[test]
fn tshark_would_complain() -> Result {
    let (received, _) = meter(&frames_of_the_mix(), &["--mtu", "512"])?;
    let mut lacking = received.datagrams.clone();
    let middle = lacking.len() - 2;
    lacking.remove(middle);
    let mut broken: Vec<Datagram> = received.datagrams;
    let last = broken.last_mut().expect("messages");
    // The length of its first set.
    last.octets[19] = last.octets[19].wrapping_add(40);
    for (name, datagrams) in [("lacking", lacking), ("broken", broken)] {
        let found = complaints(&tshark(name, &datagrams, PORT)?);
        ensure!(!found.is_empty(), "{name}: tshark sees nothing wrong");
    }
    Ok(())
}
