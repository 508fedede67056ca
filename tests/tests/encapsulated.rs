//! Packets with more around them than Ethernet, in tunnels and in fragments, counted per flow.

use std::{collections::BTreeMap, thread, time::Duration};

use flowprobe_tests::{
    collector::Collector,
    flow::Flow,
    live::pin_to_cpu,
    mix::{encapsulated, ignored, tunnels},
    packets::{Ip, Packet, flag, truth},
    probe::{Finished, Probe},
    sender::Sender,
    summary::Tally,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

const INNER: [&str; 2] = ["--tunnels", "inner"];

fn v4() -> Ip {
    Ip::new("192.0.2.1", "198.51.100.2")
}

fn v6() -> Ip {
    Ip::new("2001:db8::1", "2001:db8:1::2")
}

/// As a meter counts that opens tunnels.
fn opened(packets: Vec<Packet>) -> Vec<Packet> {
    packets.into_iter().map(Packet::opened).collect()
}

/// Sends all packets in order, as often as `times` says; every flow's counts are exact.
fn meter(packets: &[Packet], times: usize, options: &[&str]) -> anyhow::Result<Finished> {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &[&["-i", Pair::SENSOR], options].concat())?;
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    // As a NIC has all fragments of a packet in one queue.
    pin_to_cpu(0)?;
    let finished = probe.meter(&sender, &frames, times)?;
    finished.assert_exact(packets, times);
    Ok(finished)
}

/// The only record of the flow from this port.
#[track_caller]
fn flow_from(finished: &Finished, port: u16) -> &Flow {
    let flows = finished.flows.iter();
    let found: Vec<_> = flows.filter(|flow| flow.key.source_port == port).collect();
    match found[..] {
        [flow] => flow,
        _ => panic!("one flow from port {port}: {found:?}"),
    }
}

#[test]
fn tags_labels_sessions_and_snap_are_counted_to_the_octet() -> Result {
    let finished = meter(&encapsulated(), 25, &[])?;
    assert_eq!(finished.summary.interfaces[0].mode, "native");
    let priorities = |port| flow_from(&finished, port).priorities;
    assert_eq!(priorities(6000), Some((5, 2)));
    assert_eq!(priorities(6001), Some((7, 1)));
    assert_eq!(priorities(6004), None, "no tag, no label");
    Ok(())
}

#[test]
fn what_is_no_ip_is_counted_by_kind() -> Result {
    let (reasons, packets): (Vec<_>, Vec<_>) = ignored().into_iter().unzip();
    let finished = meter(&packets, 10, &[])?;
    let mut expected = BTreeMap::<_, Tally>::new();
    for (reason, packet) in reasons.into_iter().zip(&packets) {
        let tally = expected.entry(reason.to_owned()).or_default();
        tally.packets += 10;
        tally.octets += 10 * packet.frame.len() as u64;
    }
    let mut counted = finished.summary.ledger.ignored.clone();
    counted.retain(|_, tally| *tally != Tally::default());
    assert_eq!(counted, expected);
    Ok(())
}

#[test]
fn options_and_extension_headers_are_told_and_add_up() -> Result {
    let record_route = [7, 3, 4, 1];
    let router_alert = [0x94, 4, 0, 0];
    let timestamp_and_end = [0x44, 4, 5, 0, 0, 0, 0, 0];
    let packets = [
        v4().udp(1, 53, 0),
        v4().options_of(&record_route).udp(2, 53, 1),
        // One flow, whose packets differ.
        v4().options_of(&router_alert).udp(3, 53, 2),
        v4().udp(3, 53, 3),
        v4().options_of(&timestamp_and_end).udp(3, 53, 4),
        v4().dont_fragment().udp(4, 53, 5),
        v6().udp(5, 53, 6),
        v6().extension(0, 1).udp(6, 53, 7),
        v6().extension(43, 3).udp(6, 53, 8),
        v6().extension(0, 2)
            .extension(60, 1)
            .fragment(0, true)
            .udp(7, 53, 96),
        v6().fragment(13, false).udp(7, 53, 9),
        // In a wide key too.
        v4().label(7).options_of(&record_route).udp(8, 53, 10),
        v6().label(7).extension(60, 1).udp(9, 53, 11),
    ];
    let finished = meter(&packets, 3, &[])?;
    let told = |port| {
        let flow = flow_from(&finished, port);
        (flow.options, flow.fragment_flags)
    };
    // The figures of ipv4Options and ipv6ExtensionHeaders in IANA's registry, bits from the left.
    let bit = |bit: u32| 1 << (31 - bit);
    let (rr, ts, nop, eool, rtralt) = (bit(0), bit(3), bit(6), bit(7), bit(19));
    let (dst, hop, fra0, rh, fra1) = (bit(0), bit(1), bit(4), bit(5), bit(6));
    let (df, mf) = (0x40, 0x20);
    assert_eq!(told(1), (0, 0));
    assert_eq!(told(2), (rr | nop, 0));
    assert_eq!(told(3), (rtralt | ts | eool, 0));
    assert_eq!(told(4), (0, df));
    assert_eq!(told(5), (0, 0));
    assert_eq!(told(6), (hop | rh, 0));
    assert_eq!(told(7), (hop | dst | fra0 | fra1, mf));
    assert_eq!(told(8), (rr | nop, 0));
    assert_eq!(told(9), (dst, 0));
    Ok(())
}

/// A packet of three fragments.
fn fragments(ip: &Ip, id: u16, port: u16) -> [Packet; 3] {
    let part = |offset, more| ip.clone().identification(id).fragment(offset, more);
    [
        part(0, true).udp(port, 53, 800),
        part(101, true).udp(port, 53, 800),
        part(202, false).udp(port, 53, 33),
    ]
}

/// The same as one whose first fragment is not known.
fn orphans(ip: &Ip, id: u16, port: u16) -> [Packet; 3] {
    let [first, ..] = fragments(ip, id, port);
    let [_, middle, last] = fragments(&ip.clone().orphan(), id, port);
    [first, middle, last]
}

#[test]
fn fragments_are_in_the_flow_of_the_first_one() -> Result {
    for ip in [v4(), v6(), v4().tag(0x8100, 5), v6().label(9).label(10)] {
        // In order, one packet after the other, and all of one flow.
        let mut packets = Vec::new();
        for id in 0..100 {
            packets.extend(fragments(&ip, id, 1000));
        }
        // Mixed with those of other packets between the same hosts.
        let several = (1..30).map(|i| fragments(&ip, 100 + i, 2000 + i));
        let several: Vec<_> = several.collect();
        for part in 0..3 {
            packets.extend(several.iter().map(|fragments| fragments[part].clone()));
        }
        // The last before the one in the middle.
        let [first, middle, last] = fragments(&ip, 300, 3000);
        packets.extend([first, last, middle]);
        let finished = meter(&packets, 1, &[])?;
        assert_eq!(finished.summary.table.fragment_orphans, 0);
        assert_eq!(finished.flows.len(), 1 + 29 + 1);
        assert!(
            finished
                .flows
                .iter()
                .all(|flow| flow.fragment_flags == 0x20)
        );
    }
    Ok(())
}

#[test]
fn fragments_before_their_first_one_are_counted_as_orphans() -> Result {
    for ip in [v4(), v6(), v4().tag(0x8100, 5).tag(0x8100, 6)] {
        let mut packets = Vec::new();
        for id in 0..10 {
            let [first, middle, last] = orphans(&ip, id, 1000);
            packets.extend([last, middle, first]);
        }
        // The first one comes in time for the one behind it.
        let [_, middle, _] = orphans(&ip, 500, 1001);
        let [first, _, last] = fragments(&ip, 500, 1001);
        packets.extend([middle, first, last]);
        let finished = meter(&packets, 1, &[])?;
        assert_eq!(finished.summary.table.fragment_orphans, 2 * 10 + 1);
        assert_eq!(finished.flows.len(), 3, "ports 1000 and 1001, and none");
    }
    Ok(())
}

/// What has no ports has nothing to miss.
#[test]
fn fragments_without_ports_are_no_orphans() -> Result {
    let part = |offset, more| v4().fragment(offset, more).other(47, 800);
    let packets = [part(0, true), part(100, true), part(200, false)];
    let finished = meter(&packets, 5, &[])?;
    assert_eq!(finished.summary.table.fragment_orphans, 0);
    assert_eq!(finished.flows.len(), 1);
    Ok(())
}

#[test]
fn tunnels_are_flows_of_the_outer_packets_by_default() -> Result {
    let finished = meter(&tunnels(), 25, &[])?;
    let tunnel = |flow: &Flow| flow.key.around.tunnel.is_some();
    assert!(!finished.flows.iter().any(tunnel));
    meter(&tunnels(), 5, &["--tunnels", "outer"])?;
    Ok(())
}

#[test]
fn opened_tunnels_are_flows_of_the_inner_packets() -> Result {
    let packets = opened(tunnels());
    let finished = meter(&packets, 25, &INNER)?;
    assert_eq!(finished.flows.len(), packets.len(), "a flow of each");
    let tunnel = |flow: &Flow| flow.key.around.tunnel.is_some();
    assert!(finished.flows.iter().all(tunnel));
    let tcp = flow_from(&finished, 7300);
    assert_eq!(tcp.tcp_flags, flag::SYN);
    // What is in no tunnel is counted as ever.
    meter(&opened(encapsulated()), 5, &INNER)?;
    Ok(())
}

#[test]
fn tunnels_are_known_by_the_ports_that_are_given() -> Result {
    let around = || Ip::new("203.0.113.1", "203.0.113.2");
    let inner = v6().udp(1, 2, 3);
    let [standard, other, third] = [4789, 8472, 8473].map(|port| around().vxlan(port, 7, &inner));
    let [geneve, gtpu] = [
        around().geneve(8, 1, &inner, true),
        around().gtpu(9, true, &inner),
    ];
    let packets = |open: [bool; 5]| -> Vec<Packet> {
        let all = [&standard, &other, &third, &geneve, &gtpu];
        let all = all.into_iter().cloned().zip(open);
        all.map(|(packet, open)| if open { packet.opened() } else { packet })
            .collect()
    };
    let given = |options: &[&'static str]| [&INNER, options].concat();
    let ports: [(&[&str], [bool; 5]); 4] = [
        (&[], [true, false, false, true, true]),
        (&["--vxlan-port", "8472"], [false, true, false, true, true]),
        (
            &["--vxlan-port", "8473,4789", "--geneve-port", "6082"],
            [true, false, true, false, true],
        ),
        (&["--gtpu-port", "2153"], [true, false, false, true, false]),
    ];
    for (options, open) in ports {
        meter(&packets(open), 4, &given(options))?;
    }
    Ok(())
}

/// Flows of every encapsulation, more than the table of wide keys has room for.
fn many() -> Vec<Packet> {
    let around = Ip::new("203.0.113.1", "203.0.113.2");
    let mut packets = Vec::new();
    for port in 1..=600 {
        packets.extend([
            v4().tag(0x88a8, 9).tag(0x8100, 10).udp(port, 53, 10),
            v6().label(11).label(12).udp(port, 53, 11),
            around.vxlan(4789, port.into(), &v4().udp(port, 53, 12)),
            around.gtpu(port.into(), false, &v6().udp(port, 53, 13)),
        ]);
    }
    opened(packets)
}

#[test]
fn more_wide_flows_than_room_live_on_in_userspace() -> Result {
    // Room for 8, 8, 16 and 16,384 wide flows on each CPU.
    for (max_flows, evicted) in [("8", true), ("16", true), ("64", true), ("65536", false)] {
        let options = [&INNER[..], &["--max-flows", max_flows]].concat();
        let packets = many();
        let room = [&options[..], &["--max-overflow-flows", "10000"]].concat();
        let finished = meter(&packets, 3, &room)?;
        assert_eq!(finished.flows.len(), packets.len(), "one record of each");
        assert_eq!(
            finished.summary.table.evicted > 2000,
            evicted,
            "{max_flows}"
        );
        // Where userspace has no room either, flows become several records that add up.
        let finished = meter(
            &packets,
            3,
            &[&options[..], &["--max-overflow-flows", "100"]].concat(),
        )?;
        assert_eq!(finished.flows.iter().any(|flow| flow.reason == 5), evicted);
    }
    Ok(())
}

#[test]
fn wide_flows_that_go_on_are_reported_at_the_active_timeout() -> Result {
    let packets = opened(vec![
        v4().tag(0x88a8, 9).tag(0x8100, 10).udp(1, 53, 10),
        v6().label(11).udp(2, 53, 11),
        Ip::new("203.0.113.1", "203.0.113.2").vxlan(4789, 3, &v6().udp(3, 53, 12)),
    ]);
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", false)?;
    let url = collector.url();
    let options = [
        "-i",
        Pair::SENSOR,
        "--collector",
        &url,
        "--active-timeout",
        "0.2",
    ];
    let options = [&options[..], &["--sweep-interval", "0.05"], &INNER].concat();
    let probe = Probe::start(&pair.sensor, &options)?;
    let mut times = 0;
    let reported = |port: u16| {
        let received = collector.received();
        let active = received.flows.iter().filter(|flow| flow.reason == 2);
        active.filter(|flow| flow.key.source_port == port).count()
    };
    while (1..=3).any(|port| reported(port) < 3) {
        sender.send(&frames)?;
        times += 1;
        thread::sleep(Duration::from_millis(1));
        anyhow::ensure!(times < 60_000, "a minute without three reports of each");
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let received = collector.stop();
    received.assert_well_formed();
    assert_eq!(received.missing(), 0);
    truth(&packets, times).assert_equals(&received.truth());
    Ok(())
}

#[test]
fn generic_mode_counts_the_same() -> Result {
    // The stack takes the outer VLAN tag off before the generic hook.
    let mut packets: Vec<Packet> = encapsulated().into_iter().chain(tunnels()).collect();
    packets.retain(|packet| packet.key.is_some_and(|key| key.vlan == 0));
    let options = [&INNER[..], &["--xdp-mode", "generic"]].concat();
    let finished = meter(&opened(packets), 10, &options)?;
    assert_eq!(finished.summary.interfaces[0].mode, "generic");
    assert!(finished.flows.len() > 40, "{}", finished.flows.len());
    Ok(())
}

/// A single tag is told by vlanId alone, or by the elements of 802.1Q too where that is asked for.
#[test]
fn a_single_tag_is_told_as_is_asked_for() -> Result {
    let packets = [
        v4().udp(1, 53, 10),
        v4().tag_of_priority(0x8100, 5, 6).udp(2, 53, 11),
        v6().tag_of_priority(0x8100, 6, 7).udp(3, 53, 12),
    ];
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    let some = [None, Some((6, 0)), Some((7, 0))];
    for (elements, expected) in [("vlan", [None; 3]), ("dot1q", some)] {
        let pair = Pair::new(Wire::default())?;
        let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
        let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", false)?;
        let url = collector.url();
        let options = [
            "-i",
            Pair::SENSOR,
            "--collector",
            &url,
            "--vlan-elements",
            elements,
        ];
        let probe = Probe::start(&pair.sensor, &options)?;
        sender.send(&frames)?;
        probe.stop()?.summary.assert_balanced();
        let mut received = collector.stop();
        received.assert_well_formed();
        truth(&packets, 1).assert_equals(&received.truth());
        received.flows.sort_by_key(|flow| flow.key.source_port);
        let told = received.flows.iter().map(|flow| flow.priorities);
        assert!(told.eq(expected), "{elements}: {:?}", received.flows);
    }
    Ok(())
}
