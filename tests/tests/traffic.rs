//! Frames of every kind that flowprobe parses, counted to the octet.

use flowprobe_tests::{
    flow::Truth,
    mix::mix,
    packets::{Ip, Packet, flag, truth},
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

fn meter(wire: Wire, packets: &[Packet], times: usize) -> anyhow::Result<Finished> {
    let pair = Pair::new(wire)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    let finished = probe.meter(&sender, &frames, times)?;
    let received = pair.sensor.counters(Pair::SENSOR)?;
    let sent = (packets.len() * times) as u64;
    assert_eq!(received.rx_packets, sent, "the wire itself");
    finished.assert_exact(packets, times);
    Ok(finished)
}

#[test]
fn every_kind_of_frame_is_counted_to_the_octet() -> Result {
    let packets = mix();
    let finished = meter(Wire::default(), &packets, 25)?;
    let ignored = &finished.summary.ledger.ignored;
    for reason in ["arp", "lldp"] {
        assert_eq!(ignored[reason].packets, 25, "{reason}");
        assert_eq!(ignored[reason].octets, 25 * 60, "{reason}");
    }
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
