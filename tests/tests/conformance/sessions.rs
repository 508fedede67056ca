//! RFC 7011 §8.1, §10.4 and RFC 5471: sessions that end, begin again, or are not there yet.

use std::{collections::BTreeSet, thread, time::Duration};

use flowprobe_tests::{
    collector::{Collector, Received},
    flow::{Flow, Key},
    ipfix::Message,
    netns::Netns,
    packets::{Ip, Packet, truth},
    probe::Probe,
    sender::Sender,
    stream::{End, Session, TcpCollector},
    topology::{Pair, Wire},
};

use crate::{
    ADDRESS, Result, assert_sequences, decoded, flows, live::SOON, many, meter, number, well_formed,
};

/// 200 flows that no other burst has.
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

fn keys(flows: &[Flow]) -> BTreeSet<Key> {
    flows.iter().map(|flow| flow.key).collect()
}

fn keys_of(packets: &[Packet]) -> BTreeSet<Key> {
    packets.iter().filter_map(|packet| packet.key).collect()
}

/// Whether each of these flows is in the messages.
fn has(messages: &[Message], packets: &[Packet]) -> bool {
    flows(messages).is_ok_and(|flows| keys(&flows).is_superset(&keys_of(packets)))
}

fn last_has(sessions: &[Session], packets: &[Packet]) -> bool {
    let messages = sessions.last().map(Session::messages);
    messages.is_some_and(|messages| messages.is_ok_and(|messages| has(&messages, packets)))
}

/// RFC 7011 §8.1, §3.1: a new session knows no templates, and its numbers begin at 0.
#[test]
fn rfc7011_8_1_each_tcp_session_begins_anew() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let collector = TcpCollector::start(&pair.sensor, ADDRESS)?;
    let url = collector.url();
    let to = ["-i", Pair::SENSOR, "--collector", &url];
    let probe = Probe::start(&pair.sensor, &[&to[..], &SOON].concat())?;
    for number in 0..3 {
        let packets = burst(number);
        send(&sender, &packets)?;
        collector.wait_until("the burst", |sessions| last_has(sessions, &packets))?;
        if number < 2 {
            collector.cut();
        }
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let ledger = &finished.summary.ledger.collectors[0];
    assert!(ledger.dropped.is_empty(), "{ledger:?}");
    let sessions = collector.stop();
    let ends: Vec<End> = sessions.iter().map(|session| session.end).collect();
    assert_eq!(ends, [End::Cut, End::Cut, End::InOrder]);
    for session in &sessions {
        let messages = well_formed(session)?;
        assert_sequences(&messages);
        // The decoder of each session has read its data with templates of its own.
        assert!(!flows(&messages)?.is_empty());
    }
    Ok(())
}

/// RFC 7011 §10.4.1 and §4.3: what there was no room for while nobody listened is counted, and told
/// to the collector when it is there.
#[test]
fn rfc7011_10_4_what_is_dropped_while_a_collector_is_away_is_reported_to_it() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let to = ["-i", Pair::SENSOR, "--collector", "tcp://127.0.0.1:4739"];
    let room = ["--export-queue", "300"];
    let probe = Probe::start(&pair.sensor, &[&to[..], &room, &SOON].concat())?;
    for number in 0..5 {
        send(&sender, &burst(number))?;
        thread::sleep(Duration::from_millis(300));
    }
    let collector = TcpCollector::start(&pair.sensor, ADDRESS)?;
    collector.wait_until("what waited", |sessions| {
        Received::of_sessions(sessions).flows.len() >= 200
    })?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let ledger = &finished.summary.ledger.collectors[0];
    let dropped = |of: fn(&flowprobe_tests::summary::Records) -> u64| -> u64 {
        ledger.dropped.values().map(of).sum()
    };
    let dropped = [
        dropped(|records| records.records),
        dropped(|records| records.packets),
        dropped(|records| records.octets),
    ];
    assert!(dropped[0] > 0, "{ledger:?}");
    let sessions = collector.stop();
    let messages = well_formed(sessions.last().expect("a session"))?;
    assert_sequences(&messages);
    let records = messages.iter().flat_map(|message| &message.records);
    let report = records.clone().rfind(|record| record.template.id == 522);
    let report = report.expect("an exporting process reliability record");
    assert_eq!([166, 167, 168].map(|id| number(report, id)), dropped);
    let times: Vec<&[u8]> = report.all(323).collect();
    assert!(times.len() == 2 && times.is_sorted() && times[0] != [0; 8]);
    assert_eq!(flows(&messages)?.len() as u64, ledger.sent.records);
    assert_eq!(ledger.sent.records + dropped[0], 1000);
    Ok(())
}

/// RFC 5471, restart of the exporter: another transport session, which does without the first.
#[test]
fn rfc5471_an_exporter_that_restarts_begins_a_session_of_its_own() -> Result {
    let namespace = Netns::new("restart")?;
    let udp = Collector::start(&namespace, ADDRESS, true)?;
    let tcp = TcpCollector::start(&namespace, ADDRESS)?;
    for _ in 0..2 {
        meter(&namespace, &udp.url(), &many(), &[])?;
        meter(&namespace, &tcp.url(), &many(), &[])?;
    }
    let packets: Vec<Packet> = many().into_iter().map(|(_, packet)| packet).collect();
    let received = udp.stop();
    received.assert_well_formed();
    let mut sources: Vec<_> = received.datagrams.iter().map(|d| d.source).collect();
    sources.dedup();
    assert_eq!(sources.len(), 2, "one after the other");
    let mut sessions: Vec<Vec<Message>> = Vec::new();
    for source in sources {
        let of = received.datagrams.iter().filter(|d| d.source == source);
        let octets: Vec<_> = of.map(|datagram| datagram.octets.clone()).collect();
        sessions.push(decoded(&octets)?);
    }
    for session in tcp.stop() {
        sessions.push(well_formed(&session)?);
    }
    assert_eq!(sessions.len(), 4);
    for messages in sessions {
        assert_sequences(&messages);
        let flows = flows(&messages)?;
        truth(&packets, 1).assert_equals(&flowprobe_tests::flow::Truth::of(&flows));
    }
    Ok(())
}

/// RFC 5471, restart of a collector over UDP: one that has forgotten everything can read the first
/// flow that it gets, long before templates are due again.
#[test]
fn rfc5471_a_udp_collector_that_restarts_is_told_everything_again() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let mut collector = Collector::start(&pair.sensor, ADDRESS, true)?;
    let url = collector.url();
    let to = ["-i", Pair::SENSOR, "--collector", &url];
    let once = ["--template-refresh", "86400"];
    let probe = Probe::start(&pair.sensor, &[&to[..], &once, &SOON].concat())?;
    send(&sender, &burst(0))?;
    collector.wait_until("the first burst", |received| received.flows.len() >= 200)?;
    let mut number = 1;
    collector.absent(&pair.sensor, || {
        for _ in 0..5 {
            send(&sender, &burst(number))?;
            number += 1;
            thread::sleep(Duration::from_millis(300));
        }
        Ok(())
    })?;
    let before = collector.received().datagrams.len();
    let last = burst(100);
    send(&sender, &last)?;
    let back = |flows: &[Flow]| keys(flows).is_superset(&keys_of(&last));
    collector.wait_until("the last burst", |received| back(&received.flows))?;
    probe.stop()?.summary.assert_balanced();
    let received = collector.stop();
    received.assert_well_formed();
    let octets: Vec<_> = received.datagrams[before..]
        .iter()
        .map(|datagram| datagram.octets.clone())
        .collect();
    // Nothing of what came before is known to this decoder.
    let messages = decoded(&octets)?;
    assert!(has(&messages, &last));
    // The numbers go on: this session never ended (RFC 7011 §3.1), and its gap is what was lost.
    assert!(messages[0].sequence >= 200, "{}", messages[0].sequence);
    Ok(())
}
