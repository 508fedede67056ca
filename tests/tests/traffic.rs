//! Frames of every kind that flowprobe parses, counted to the octet.

use flowprobe_tests::{
    flow::Truth,
    packets::{Ip, Packet, flag, not_ip, truth},
    probe::{Finished, Probe},
    sender::Sender,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

const V4: (&str, &str) = ("192.0.2.1", "198.51.100.2");
const V6: (&str, &str) = ("2001:db8::1", "2001:db8:1::2");

fn v4() -> Ip {
    Ip::new(V4.0, V4.1)
}

fn v6() -> Ip {
    Ip::new(V6.0, V6.1)
}

/// One of each kind, no two in the same flow unless said.
fn mix() -> Vec<Packet> {
    vec![
        // TCP: the flags of one flow accumulate.
        v4().tcp(40001, 80, flag::SYN, 0),
        v4().tcp(40001, 80, flag::ACK | flag::PSH, 700),
        v6().tcp(40002, 443, flag::SYN, 0),
        v6().tcp(40002, 443, flag::ACK, 1200),
        v4().udp(5000, 53, 33),
        v6().udp(5001, 53, 34),
        v4().icmp(8, 0, 56),
        v4().icmp(3, 1, 28),
        v6().icmp(128, 0, 56),
        v4().sctp(6000, 36412, 40),
        v6().sctp(6001, 36412, 40),
        v4().other(47, 100), // GRE
        v6().other(103, 90), // PIM
        // The traffic class is part of the key.
        v4().traffic_class(0xb8).udp(5002, 53, 20),
        v6().traffic_class(0xb8).udp(5003, 53, 20),
        // So is the outer VLAN, and no inner one.
        v4().tag(0x8100, 100).udp(5004, 53, 200),
        v4().tag(0x8100, 101).udp(5004, 53, 201),
        v6().tag(0x8100, 4094).udp(5005, 53, 202),
        v4().tag(0x88a8, 200).tag(0x8100, 300).udp(5006, 53, 203),
        v6().tag(0x88a8, 201).tag(0x8100, 301).udp(5007, 53, 204),
        // Headers of unusual length.
        v4().options(3).tcp(40003, 22, flag::SYN, 5),
        v4().options(10).udp(5008, 53, 6),
        v6().extension(0, 1).udp(5009, 53, 7),
        v6().extension(0, 2)
            .extension(43, 3)
            .extension(60, 1)
            .tcp(40004, 22, flag::SYN, 8),
        // Fragments: the first has ports, the others share one flow without.
        v4().fragment(0, true).udp(5010, 53, 1000),
        v4().fragment(126, true).udp(5010, 53, 1000),
        v4().fragment(252, false).udp(5010, 53, 77),
        v6().fragment(0, true).udp(5011, 53, 1000),
        v6().fragment(126, false).udp(5011, 53, 77),
        v6().extension(0, 1)
            .fragment(0, true)
            .tcp(40005, 25, flag::ACK, 64),
        // Padding, to the minimum of Ethernet and far beyond the IP packet.
        v4().udp(5012, 53, 0),
        v4().udp(5013, 53, 1),
        v4().pad_to(600).udp(5014, 53, 9),
        v4().pad_to(300).tcp(40006, 25, flag::ACK, 0),
        v6().pad_to(300).udp(5015, 53, 9),
        v4().tag(0x8100, 7).pad_to(400).udp(5016, 53, 9),
        // As long as the MTU lets it be.
        v4().udp(5017, 53, 1500 - 28),
        v6().udp(5018, 53, 1500 - 48),
        not_ip(0x0806), // ARP
        not_ip(0x88cc), // LLDP
    ]
}

fn meter(wire: Wire, packets: &[Packet], times: usize) -> anyhow::Result<Finished> {
    let pair = Pair::new(wire)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    for _ in 0..times {
        sender.send(&frames)?;
    }
    let finished = probe.stop()?;
    let received = pair.sensor.counters(Pair::SENSOR)?;
    let sent = (packets.len() * times) as u64;
    assert_eq!(received.rx_packets, sent, "the wire itself");
    let summary = &finished.summary;
    summary.assert_balanced();
    summary.assert_nothing_lost();
    assert_eq!(summary.ledger.seen.packets, sent);
    let octets: usize = packets.iter().map(|packet| packet.frame.len()).sum();
    assert_eq!(summary.ledger.seen.octets, (octets * times) as u64);
    assert_eq!(summary.ledger.held.records, 0);
    truth(packets, times as u64).assert_equals(&Truth::of(&finished.flows));
    Ok(finished)
}

#[test]
fn every_kind_of_frame_is_counted_to_the_octet() -> Result {
    let packets = mix();
    let finished = meter(Wire::default(), &packets, 25)?;
    let ignored = &finished.summary.ledger.ignored;
    assert_eq!(ignored["not_ip"].packets, 2 * 25);
    assert_eq!(ignored["not_ip"].octets, 2 * 25 * 60);
    let others: u64 = ignored.values().map(|tally| tally.packets).sum();
    assert_eq!(others, 2 * 25, "{ignored:?}");
    Ok(())
}

#[test]
fn each_record_carries_flags_ttl_interface_and_times() -> Result {
    let packets = [
        v4().ttl(64).tcp(1, 2, flag::SYN, 0),
        v4().ttl(60).tcp(1, 2, flag::ACK | flag::PSH, 100),
        v4().ttl(63).tcp(1, 2, flag::ACK, 0),
    ];
    let before = milliseconds();
    let finished = meter(Wire::default(), &packets, 1)?;
    let after = milliseconds();
    let [flow] = finished.flows[..] else {
        panic!("one flow: {:?}", finished.flows);
    };
    assert_eq!(flow.tcp_flags, flag::SYN | flag::ACK | flag::PSH);
    assert_eq!((flow.min_ttl, flow.max_ttl), (60, 64));
    assert_eq!(flow.interface, finished.summary.interfaces[0].ifindex);
    assert_eq!(flow.sampling, 1);
    assert_eq!(flow.reason, 4, "ended by the shutdown");
    // The clock of the program is a tick old at most: 10 ms where HZ is 100.
    assert!(flow.start_ms + 10 >= before, "{flow:?} before {before}");
    assert!(
        flow.start_ms <= flow.end_ms && flow.end_ms <= after,
        "{flow:?}"
    );
    Ok(())
}

#[test]
fn jumbo_frames_count_in_full() -> Result {
    let packets = [
        v4().udp(1, 2, 9000 - 28),
        v6().tcp(3, 4, flag::ACK, 9000 - 60),
        v4().tag(0x8100, 5).udp(6, 7, 8000),
    ];
    let wire = Wire {
        mtu: 9000,
        ..Wire::default()
    };
    let finished = meter(wire, &packets, 100)?;
    assert_eq!(finished.summary.interfaces[0].mode, "native");
    Ok(())
}

#[test]
fn generic_mode_counts_the_same() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let arguments = ["-i", Pair::SENSOR, "--xdp-mode", "generic"];
    let probe = Probe::start(&pair.sensor, &arguments)?;
    let packets = mix();
    // The stack takes VLAN tags off before the generic hook: XDP cannot see them there.
    let packets: Vec<Packet> = packets
        .into_iter()
        .filter(|packet| packet.key.is_some_and(|key| key.vlan == 0))
        .collect();
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    sender.send(&frames)?;
    let finished = probe.stop()?;
    assert_eq!(finished.summary.interfaces[0].mode, "generic");
    assert!(finished.log.contains("generic"), "{}", finished.log);
    finished.summary.assert_balanced();
    truth(&packets, 1).assert_equals(&Truth::of(&finished.flows));
    Ok(())
}

fn milliseconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64
}
