//! RFC 7011 §3: headers, sets and records.

use std::{
    process::Stdio,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::ensure;
use flowprobe_tests::{
    collector::Collector,
    netns::Netns,
    packets::{Ip, Packet, flag},
    sniffer::Sniffer,
    topology::Uplink,
};

use crate::{
    Export, Result, SECOND, assert_sequences,
    live::{Live, Options},
    many, meter, over_each, over_udp,
};

/// Octets of the message header and of a set's.
const HEADER: usize = 16;
const SET_HEADER: usize = 4;

/// Set ids and contents of a message, split by nothing but the lengths.
fn sets(message: &[u8]) -> Vec<(u16, &[u8])> {
    let mut rest = &message[HEADER..];
    let mut sets = Vec::new();
    while let [a, b, c, d, ..] = *rest {
        let (set, after) = rest.split_at(u16::from_be_bytes([c, d]).into());
        sets.push((u16::from_be_bytes([a, b]), &set[SET_HEADER..]));
        rest = after;
    }
    sets
}

#[test]
fn rfc7011_3_1_sequence_counts_data_records() -> Result {
    for export in over_each(&many(), &[])? {
        let sent = assert_sequences(&export.messages);
        assert_eq!(sent.len(), 1, "one domain");
        // It would show if templates or messages counted.
        assert!(export.messages.len() > 1 && !export.messages[0].templates.is_empty());
        assert!(sent[&1] as usize > 600 + export.messages.len());
    }
    Ok(())
}

#[test]
fn rfc7011_3_1_each_domain_has_a_sequence_of_its_own() -> Result {
    let sample = ["--sample", "udp port 53 = 1/1", "--sample", "1/1"];
    let live = Live::start(Options {
        probe: &[&sample[..], &["--observation-domain", "70"]].concat(),
        ..Options::default()
    })?;
    let ip = Ip::new("10.0.0.1", "10.0.0.2");
    let of = |port| (1000..1100).map(move |n| (n, port));
    let packets: Vec<Packet> = of(53).chain(of(54)).map(|(n, p)| ip.udp(n, p, 9)).collect();
    live.send(&packets)?;
    let came = live.stop()?;
    for messages in [came.udp()?, came.tcp()] {
        let domains: Vec<u32> = assert_sequences(&messages).into_keys().collect();
        assert_eq!(domains, [70, 71]);
        for domain in domains {
            let of = |message: &&_| crate::flows(std::slice::from_ref(*message));
            let in_it = messages.iter().filter(|message| message.domain == domain);
            let flows = in_it
                .map(|message| of(&message))
                .collect::<Result<Vec<_>>>()?;
            assert_eq!(flows.concat().len(), 100);
        }
    }
    Ok(())
}

#[test]
fn rfc7011_3_1_export_time_is_the_time_of_sending() -> Result {
    let now = || {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map(|d| d.as_secs())
    };
    let from = now()?;
    // The packets are of 2023.
    let exports = over_each(&many(), &[])?;
    let to = now()?;
    for Export { messages, .. } in &exports {
        let times = messages
            .iter()
            .map(|message| u64::from(message.export_time));
        assert!(times.clone().all(|time| (from..=to).contains(&time)));
        assert!(times.is_sorted());
    }
    Ok(())
}

/// Padding would be allowed in data sets, but a set of records that ends where they end can be
/// misread by nobody.
#[test]
fn rfc7011_3_3_1_sets_are_of_one_kind_and_have_no_padding() -> Result {
    for export in over_each(&many(), &[])? {
        let mut lengths = std::collections::BTreeMap::new();
        for (message, octets) in export.messages.iter().zip(&export.octets) {
            for template in &message.templates {
                let fields = template
                    .fields
                    .iter()
                    .map(|field| usize::from(field.length));
                lengths.insert(template.id, fields.sum::<usize>());
            }
            for (id, set) in sets(octets).into_iter().filter(|(id, _)| *id > 255) {
                assert_eq!(set.len() % lengths[&id], 0, "set {id}");
                assert!(!set.is_empty());
            }
        }
        assert!(lengths.len() > 8, "templates of flows and of options");
    }
    Ok(())
}

/// RFC 5471: several records in a set, several sets in a message, templates beside data.
#[test]
fn rfc5471_messages_have_many_sets_and_sets_have_many_records() -> Result {
    for export in over_each(&many(), &[])? {
        let sets: Vec<_> = export.octets.iter().map(|octets| sets(octets)).collect();
        assert!(sets.iter().any(|sets| sets.len() > 5));
        let of_ipv4 = |set: &(u16, &[u8])| set.0 == 256 && set.1.len() > 10 * 85;
        assert!(sets.iter().flatten().any(of_ipv4), "{}", export.transport);
    }
    Ok(())
}

/// RFC 7011 §10.3.3: with the smallest limit that is taken, and the default one.
#[test]
fn rfc7011_10_3_3_udp_messages_fit_the_path() -> Result {
    for (options, limit) in [(&["--mtu", "512"][..], 512), (&[], 1400)] {
        let export = over_udp(&many(), options)?;
        let longest = export.octets.iter().map(Vec::len).max().unwrap_or(0);
        // IPv4 and UDP headers; there is room for IPv6's 20 octets more.
        assert!(longest + 20 + 8 <= limit, "{longest} octets and headers");
        assert!(longest + 40 + 8 > limit - 120, "{longest} of {limit}");
    }
    Ok(())
}

/// RFC 5102 §5.11.3 and IANA's registry: why each flow record was made.
#[test]
fn rfc7012_flow_end_reason_says_why() -> Result {
    let ip = Ip::new("10.0.0.1", "10.0.0.2");
    let at = |seconds, packet| (seconds * SECOND, packet);
    let fin = flag::FIN | flag::ACK;
    let mut packets = vec![
        at(0, ip.udp(1, 53, 10)),      // and no more: idle
        at(0, ip.tcp(3, 80, fin, 10)), // ends
        at(0, ip.tcp(6, 80, flag::RST, 0)),
        at(100, ip.udp(4, 53, 10)), // still there at the end
    ];
    packets.extend((0..=10).map(|n| at(10 * n, ip.udp(2, 53, 10)))); // goes on
    packets.sort_by_key(|(at, _)| *at);
    for export in over_each(&packets, &[])? {
        let flows = export.flows()?;
        let reasons = |port| {
            let of = flows
                .iter()
                .filter(move |flow| flow.key.source_port == port);
            of.map(|flow| flow.reason).collect::<Vec<_>>()
        };
        assert_eq!(reasons(1), [1]);
        assert_eq!(reasons(2), [2, 4]);
        assert_eq!(reasons(3), [3]);
        assert_eq!(reasons(4), [4]);
        assert_eq!(reasons(6), [3]);
    }
    let crowd: Vec<_> = (1..=20).map(|n| at(0, ip.udp(n, 53, 10))).collect();
    let export = over_udp(&crowd, &["--max-flows", "10"])?;
    let early = export
        .flows()?
        .iter()
        .filter(|flow| flow.reason == 5)
        .count();
    assert_eq!(early, 10, "lack of resources");
    Ok(())
}

/// RFC 7011 §10.3.2, as they are on the wire. A sender that leaves them to its device, as a veth lets it,
/// would show nothing.
#[test]
fn rfc7011_10_3_2_udp_checksums_are_there_and_right() -> Result {
    let sensor = Netns::new("sensor")?;
    let uplink = Uplink::new(&sensor)?;
    let mut ethtool = sensor.command("ethtool");
    let offload = ethtool.args(["-K", Uplink::SENSOR, "tx", "off"]);
    ensure!(offload.stdout(Stdio::null()).status()?.success());
    let sniffer = Sniffer::start(&uplink.collector, Uplink::COLLECTOR)?;
    let address = format!("{}:4739", Uplink::ADDRESS);
    let collector = Collector::start(&uplink.collector, &address, false)?;
    meter(&sensor, &collector.url(), &many(), &[])?;
    let messages = collector.stop().messages as usize;
    sniffer.wait_until("all messages", 4739, |datagrams| {
        datagrams.len() == messages
    })?;
    assert!(messages > 10, "{messages} messages");
    for datagram in sniffer.datagrams(4739) {
        assert_ne!(datagram.checksum(), 0);
        assert!(datagram.adds_up(), "{datagram:?}");
    }
    Ok(())
}
