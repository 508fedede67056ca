//! VLAN tags that a device hands over beside the frame: read in native mode, missed and warned of
//! in generic mode.

use std::{
    os::fd::OwnedFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    bpf::{attach_egress, load_egress, op, program_exists},
    collector::Collector,
    flow::{Flow, Truth},
    netns::Netns,
    packets::{Ip, Packet, flag, truth},
    probe::{Finished, Probe},
    sender::Sender,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

/// What the interface line and the log say where tags are read beside the frame.
const FROM_METADATA: &str = "VLAN tags from metadata";
/// Part of the warning that they are not.
const MISSED: &str = "beside packets are missed";

/// Octets of a VLAN tag.
const TAG: usize = 4;

fn v4() -> Ip {
    Ip::new("192.0.2.1", "198.51.100.2")
}

fn v6() -> Ip {
    Ip::new("2001:db8::1", "2001:db8:1::2")
}

/// Makes the veths at `interface` hand over the outermost tag of each frame beside it: the program
/// on the way out takes off the outermost, and the kernel then puts the second one beside the
/// frame. [`on_the_way`] gives each tagged frame one more for that.
fn beside(namespace: &Netns, interface: &str) -> anyhow::Result<OwnedFd> {
    let on = ["-K", interface, "txvlan", "on"];
    ensure!(namespace.command("ethtool").args(on).status()?.success());
    let program = [
        op(0x85, 0, 0, 0, 19), // r0 = bpf_skb_vlan_pop(r1), which leaves untagged frames alone
        op(0xb7, 0, 0, 0, 0),  // r0 = TC_ACT_OK
        op(0x95, 0, 0, 0, 0),  // exit
    ];
    let program = load_egress("tag_beside", &program)?;
    let index = namespace.index(interface)?;
    namespace.run(|| attach_egress(&program, index))?
}

fn has_tag(frame: &[u8]) -> bool {
    matches!(frame[12..14], [0x81, 0x00] | [0x88, 0xa8])
}

/// Behind a single tag.
fn has_labels(frame: &[u8]) -> bool {
    has_tag(frame) && frame[16..18] == [0x88, 0x47]
}

/// The frame as it is sent: see [`beside`].
fn on_the_way(packet: &Packet) -> Vec<u8> {
    let frame = &packet.frame;
    let mut sent = frame.clone();
    if has_tag(frame) {
        sent.splice(12..12, [0x81, 0x00, 0x0f, 0xff]);
    }
    sent
}

/// Octets of the frame as XDP sees it.
fn seen_octets(packet: &Packet) -> usize {
    packet.frame.len() - if has_tag(&packet.frame) { TAG } else { 0 }
}

/// Frames without tags and with up to four, the outermost always beside the frame.
fn packets() -> Vec<Packet> {
    let mut packets = Vec::new();
    for (port, ip) in [(1000, v4()), (2000, v6())] {
        packets.extend([
            ip.clone().udp(port, 53, 20),
            ip.clone().tag_of_priority(0x8100, 5, 6).udp(port, 53, 20),
            ip.clone().tag_of_priority(0x8100, 6, 1).udp(port, 53, 20),
            // A priority alone, in which there is no VLAN.
            ip.clone()
                .tag_of_priority(0x8100, 0, 7)
                .udp(port + 1, 53, 20),
            ip.clone()
                .tag_of_priority(0x88a8, 4095 - 1, 2)
                .tcp(port + 2, 80, flag::ACK, 9),
            // The tag that is in the frame is the second.
            ip.clone()
                .tag_of_priority(0x8100, 7, 4)
                .tag_of_priority(0x8100, 8, 5)
                .udp(port + 3, 53, 21),
            ip.clone()
                .tag_of_priority(0x88a8, 9, 0)
                .tag_of_priority(0x8100, 10, 1)
                .tag_of_priority(0x8100, 11, 2)
                .tag_of_priority(0x8100, 12, 3)
                .udp(port + 4, 53, 22),
            // Walked layer by layer.
            ip.clone().tag(0x8100, 13).icmp(8, 0, 40),
            ip.clone().tag(0x8100, 14).label(77).udp(port + 5, 53, 23),
        ]);
    }
    packets.push(v4().tag(0x8100, 15).options(2).tcp(3000, 80, flag::SYN, 0));
    packets
}

/// Priorities of the two outermost tags, where the record tells them.
fn priorities(flows: &[Flow], port: u16, vlan: u16) -> Option<(u8, u8)> {
    let mut found = flows
        .iter()
        .filter(|flow| flow.key.source_port == port && flow.key.vlan == vlan);
    let flow = found.next().expect("a flow of this port and VLAN");
    assert!(found.next().is_none(), "one flow of this port and VLAN");
    flow.priorities
}

fn meter(
    pair: &Pair,
    packets: &[Packet],
    times: usize,
    options: &[&str],
) -> anyhow::Result<Finished> {
    let _beside = beside(&pair.generator, Pair::GENERATOR)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &[&["-i", Pair::SENSOR], options].concat())?;
    let frames: Vec<Vec<u8>> = packets.iter().map(on_the_way).collect();
    let finished = probe.meter(&sender, &frames, times)?;
    // A kernel that knows MPLS (NET_MPLS_GSO) puts the tag back into frames with labels.
    let octets: usize = packets.iter().map(seen_octets).sum();
    let labelled = packets.iter().filter(|packet| has_labels(&packet.frame));
    let seen = [octets, octets + TAG * labelled.count()].map(|octets| (octets * times) as u64);
    let octets = finished.summary.ledger.seen.octets;
    assert!(seen.contains(&octets), "{octets} of {seen:?} octets");
    Ok(finished)
}

#[test]
fn tags_beside_the_frame_are_the_outermost() -> Result {
    for mtu in [1500, 9000] {
        let pair = Pair::new(Wire {
            mtu,
            ..Wire::default()
        })?;
        let finished = meter(&pair, &packets(), 25, &["--vlan-elements", "dot1q"])?;
        let [interface] = &finished.summary.interfaces[..] else {
            panic!("one interface");
        };
        assert_eq!(interface.mode, "native");
        assert!(interface.vlan_metadata && finished.log.contains(FROM_METADATA));
        assert!(!finished.log.contains(MISSED), "{}", finished.log);
        truth(&packets(), 25).assert_equals(&Truth::of(&finished.flows));
        let flows = &finished.flows;
        for port in [1000, 2000] {
            assert_eq!(priorities(flows, port + 3, 7), Some((4, 5)));
            assert_eq!(priorities(flows, port + 4, 9), Some((0, 1)));
        }
    }
    Ok(())
}

/// A single tag's priority is told by the elements of 802.1Q.
#[test]
fn the_priority_of_a_single_tag_is_told() -> Result {
    let pair = Pair::new(Wire::default())?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", false)?;
    let packets = [
        v4().udp(1, 53, 10),
        v4().tag_of_priority(0x8100, 5, 6).udp(2, 53, 11),
        v6().tag_of_priority(0x8100, 6, 7).udp(3, 53, 12),
        v4().tag_of_priority(0x8100, 7, 1).icmp(8, 0, 12),
    ];
    let options = ["--collector", &collector.url(), "--vlan-elements", "dot1q"];
    meter(&pair, &packets, 3, &options)?;
    let mut received = collector.stop();
    received.assert_well_formed();
    truth(&packets, 3).assert_equals(&received.truth());
    received.flows.sort_by_key(|flow| flow.key.vlan);
    let told = received.flows.iter().map(|flow| flow.priorities);
    let expected = [None, Some((6, 0)), Some((7, 0)), Some((1, 0))];
    assert!(told.eq(expected), "{:?}", received.flows);
    Ok(())
}

/// Then the kernel finds next to nothing to take out of the program, and needs the room in front of
/// it for what it puts in.
#[test]
fn tags_are_read_with_tunnels_opened_too() -> Result {
    let pair = Pair::new(Wire::default())?;
    let finished = meter(&pair, &packets(), 5, &["--tunnels", "inner"])?;
    let interface = &finished.summary.interfaces[0];
    assert!(interface.vlan_metadata, "{}", finished.log);
    truth(&packets(), 5).assert_equals(&Truth::of(&finished.flows));
    Ok(())
}

#[test]
fn with_one_beside_the_frame_there_is_room_for_three_in_it() -> Result {
    let pair = Pair::new(Wire::default())?;
    let tagged = |tags: u16| {
        (1..=tags)
            .fold(v4(), |ip, id| ip.tag(0x8100, id))
            .udp(1, 2, 30)
    };
    let finished = meter(&pair, &[tagged(4), tagged(5)], 10, &[])?;
    truth(&[tagged(4)], 10).assert_equals(&Truth::of(&finished.flows));
    assert_eq!(finished.summary.ledger.ignored["too_many_tags"].packets, 10);
    Ok(())
}

#[test]
fn generic_mode_misses_them_and_says_so() -> Result {
    let pair = Pair::new(Wire::default())?;
    let tagged = [
        v4().udp(1, 2, 30),
        v4().tag(0x8100, 5).udp(1, 2, 30),
        v6().tag(0x8100, 5).udp(1, 2, 30),
    ];
    let finished = meter(&pair, &tagged, 10, &["--xdp-mode", "generic"])?;
    assert!(finished.log.contains(MISSED), "{}", finished.log);
    assert!(!finished.log.contains(FROM_METADATA), "{}", finished.log);
    assert_eq!(finished.summary.interfaces[0].mode, "generic");
    assert!(!finished.summary.interfaces[0].vlan_metadata);
    let untagged = [v4(), v4(), v6()].map(|ip| ip.udp(1, 2, 30));
    truth(&untagged, 10).assert_equals(&Truth::of(&finished.flows));
    Ok(())
}

/// A program is bound to one device, so there is one for each; the flows are in one table.
#[test]
fn each_interface_has_a_program_of_its_own() -> Result {
    let first = Pair::new(Wire::default())?;
    first.generator.ip(&format!(
        "link add gen1 type veth peer name mon1 netns {}",
        first.sensor.name()
    ))?;
    first.generator.ip("link set gen1 up addrgenmode none")?;
    first.sensor.ip("link set mon1 up addrgenmode none")?;
    let _both = [
        beside(&first.generator, Pair::GENERATOR)?,
        beside(&first.generator, "gen1")?,
    ];
    let senders = [
        Sender::new(&first.generator, Pair::GENERATOR)?,
        Sender::new(&first.generator, "gen1")?,
    ];
    let probe = Probe::start(&first.sensor, &["-i", Pair::SENSOR, "-i", "mon1"])?;
    let programs = [Pair::SENSOR, "mon1"].map(|name| program(&first.sensor, name));
    let [one, other] = programs;
    assert_ne!(one?, other?);
    let packets = [5, 6].map(|vlan| v4().tag(0x8100, vlan).udp(1, 2, 30));
    for (sender, packet) in senders.iter().zip(&packets) {
        sender.send(&[on_the_way(packet), on_the_way(packet)])?;
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    truth(&packets, 2).assert_equals(&Truth::of(&finished.flows));
    for interface in &finished.summary.interfaces {
        assert!(interface.vlan_metadata, "{interface:?}");
        let vlan = if interface.name == "mon1" { 6 } else { 5 };
        let flow = finished.flows.iter().find(|flow| flow.key.vlan == vlan);
        assert_eq!(flow.context("a flow")?.interface, interface.ifindex);
    }
    Ok(())
}

#[test]
fn nothing_is_left_after_kill_9() -> Result {
    let pair = Pair::new(Wire::default())?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
    let id = program(&pair.sensor, Pair::SENSOR)?;
    ensure!(exists(id)?, "no program {id}");
    probe.kill()?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while pair.sensor.has_xdp(Pair::SENSOR)? || exists(id)? {
        ensure!(Instant::now() < deadline, "still there after 30 seconds");
        thread::sleep(Duration::from_millis(10));
    }
    // And nothing keeps the next one from starting.
    let finished = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?.stop()?;
    assert!(finished.summary.interfaces[0].vlan_metadata);
    Ok(())
}

/// The id of the program on an interface.
fn program(namespace: &Netns, interface: &str) -> anyhow::Result<u64> {
    let output = Command::new("ip")
        .args([
            "-n",
            namespace.name(),
            "-j",
            "link",
            "show",
            "dev",
            interface,
        ])
        .output()?;
    let links: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let id = links[0]["xdp"]["prog"]["id"].as_u64();
    id.with_context(|| format!("no program on {interface}: {links}"))
}

/// Whether the kernel still has a program.
fn exists(id: u64) -> anyhow::Result<bool> {
    Ok(program_exists(u32::try_from(id)?))
}
