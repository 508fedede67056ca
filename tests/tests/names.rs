//! Interfaces by pattern, that come and go, are renamed, go down and change their MTU.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use flowprobe_tests::{
    bpf::programs_of_tc,
    collector::Collector,
    ipfix::Record,
    netns::Netns,
    packets::{Ip, Packet},
    probe::{self, Finished, Probe},
    sender::Sender,
    topology::{Pair, Routed, Uplink, Wire},
};

/// Frames that are sent at a time.
const SENT: u64 = 100;

/// A packet to this port, of which the flow is known.
fn packet(port: u16) -> Packet {
    Ip::new("192.0.2.1", "198.51.100.2").udp(1000, port, 72)
}

/// Sends frames to the interface of the sensor, and waits until they are there.
fn send(pair: &Pair, generator: &str, sensor: &str, port: u16) -> Result<()> {
    let before = pair.sensor.counters(sensor)?.rx_packets;
    let frames = vec![packet(port).frame; SENT as usize];
    Sender::new(&pair.generator, generator)?.send(&frames)?;
    until("received", || {
        Ok(pair.sensor.counters(sensor)?.rx_packets == before + SENT)
    })
}

fn until(what: &str, mut done: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done()? {
        ensure!(Instant::now() < deadline, "not {what} after a minute");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Waits until it is attached to an interface.
fn attached(probe: &mut Probe, name: &str) -> Result<()> {
    probe.wait_for_log(&format!("interface=\"{name}\""))
}

/// Packets to each of these ports.
fn packets(finished: &Finished, ports: &[u16]) -> Vec<u64> {
    let of = |port: &u16| {
        let flows = finished.flows.iter();
        let flows = flows.filter(|flow| flow.key.destination_port == *port);
        flows.map(|flow| flow.counts.packets).sum()
    };
    ports.iter().map(of).collect()
}

/// Name, whether it is gone, and packets of each interface in the summary.
fn watched(finished: &Finished) -> Vec<(&str, bool, u64)> {
    let interfaces = finished.summary.interfaces.iter();
    interfaces
        .map(|one| (one.name.as_str(), one.gone, one.rx_packets))
        .collect()
}

#[test]
fn interfaces_that_match_are_watched_from_when_they_come_until_they_go() -> Result<()> {
    let pair = Pair::without_wire()?;
    let mut probe = Probe::start(&pair.sensor, &["-i", "mon[0-9]", "--egress"])?;
    pair.wire("gen0", "other0", Wire::default())?;
    send(&pair, "gen0", "other0", 1)?;
    ensure!(!pair.sensor.has_xdp("other0")?, "nobody asked for that one");
    for port in [2, 3] {
        pair.wire("gen1", "mon1", Wire::default())?;
        attached(&mut probe, "mon1")?;
        let index = pair.sensor.index("mon1")?;
        assert_eq!(pair.sensor.run(|| programs_of_tc(index, true))??, 1);
        send(&pair, "gen1", "mon1", port)?;
        pair.generator.ip("link delete gen1")?;
        probe.wait_for_log("mon1 has gone away")?;
    }
    pair.wire("gen2", "mon2", Wire::default())?;
    attached(&mut probe, "mon2")?;
    send(&pair, "gen2", "mon2", 4)?;
    let finished = probe.stop()?;
    ensure!(finished.log.contains("nothing yet"), "{}", finished.log);
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    assert_eq!(packets(&finished, &[1, 2, 3, 4]), [0, SENT, SENT, SENT]);
    assert_eq!(finished.summary.ledger.seen.packets, 3 * SENT);
    let expected = [
        ("mon1", true, SENT),
        ("mon1", true, SENT),
        ("mon2", false, SENT),
    ];
    assert_eq!(watched(&finished), expected);
    // Each has an index of its own, and its flows have that.
    let indices = finished.summary.interfaces.iter().map(|one| one.ifindex);
    for (port, index) in [2, 3, 4].into_iter().zip(indices) {
        let mut flows = finished.flows.iter();
        let flow = flows.find(|flow| flow.key.destination_port == port);
        assert_eq!(flow.map(|flow| flow.interface), Some(index), "{port}");
    }
    Ok(())
}

#[test]
fn one_that_is_given_by_name_is_watched_again_when_it_is_back() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    let mut probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
    send(&pair, Pair::GENERATOR, Pair::SENSOR, 1)?;
    pair.generator
        .ip(&format!("link delete {}", Pair::GENERATOR))?;
    probe.wait_for_log("has gone away")?;
    pair.wire(Pair::GENERATOR, Pair::SENSOR, Wire::default())?;
    attached(&mut probe, Pair::SENSOR)?;
    send(&pair, Pair::GENERATOR, Pair::SENSOR, 2)?;
    // To another namespace, which is as good as away.
    let elsewhere = Netns::new("elsewhere")?;
    let go = format!("link set {} netns {}", Pair::SENSOR, elsewhere.name());
    pair.sensor.ip(&go)?;
    probe.wait_for_log("has gone away")?;
    until("detached", || Ok(!elsewhere.has_xdp(Pair::SENSOR)?))?;
    elsewhere.ip(&format!(
        "link set {} netns {}",
        Pair::SENSOR,
        pair.sensor.name()
    ))?;
    attached(&mut probe, Pair::SENSOR)?;
    pair.sensor.ip(&format!("link set {} up", Pair::SENSOR))?;
    send(&pair, Pair::GENERATOR, Pair::SENSOR, 3)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    assert_eq!(packets(&finished, &[1, 2, 3]), [SENT; 3]);
    assert_eq!(watched(&finished).len(), 3);
    Ok(())
}

/// The names in the options that a collector has got, by index.
fn names(records: &[Record]) -> Vec<(u64, String)> {
    let names = records.iter().filter_map(|record| {
        let name = record.get(82)?;
        Some((
            record.number(10)?,
            String::from_utf8_lossy(name)
                .trim_end_matches('\0')
                .to_owned(),
        ))
    });
    names.collect()
}

#[test]
fn renamed_interfaces_are_watched_by_their_names_and_collectors_are_told() -> Result<()> {
    let pair = Pair::without_wire()?;
    let uplink = Uplink::new(&pair.sensor)?;
    pair.wire("gen0", "mon0", Wire::default())?;
    pair.wire("gen1", "other1", Wire::default())?;
    let collector = Collector::start(&uplink.collector, "10.20.0.2:4739", false)?;
    let url = collector.url();
    // Nothing is said again so soon, but for what is new.
    let refresh = ["--template-refresh", "3600"];
    let arguments = ["-i", "mon*", "--collector", &url, "--output", "json"];
    let mut probe = Probe::start(&pair.sensor, &[&arguments[..], &refresh].concat())?;
    send(&pair, "gen0", "mon0", 1)?;
    let [first, second] = [pair.sensor.index("mon0")?, pair.sensor.index("other1")?];
    let is_told = |index: u32, name: &str| {
        let told = (u64::from(index), name.to_owned());
        collector.wait_until(name, |received| names(&received.options).contains(&told))
    };
    is_told(first, "mon0")?;
    // Still wanted; wanted from now on; not any more.
    pair.sensor.ip("link set mon0 name mon7")?;
    probe.wait_for_log("the new name of mon0")?;
    send(&pair, "gen0", "mon7", 2)?;
    is_told(first, "mon7")?;
    pair.sensor.ip("link set other1 name mon1")?;
    attached(&mut probe, "mon1")?;
    send(&pair, "gen1", "mon1", 3)?;
    is_told(second, "mon1")?;
    pair.sensor.ip("link set mon7 name other7")?;
    probe.wait_for_log("not watched any more")?;
    send(&pair, "gen0", "other7", 4)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    assert_eq!(packets(&finished, &[1, 2, 3, 4]), [SENT, SENT, SENT, 0]);
    let expected = [("mon7", false, 2 * SENT), ("mon1", false, SENT)];
    assert_eq!(watched(&finished), expected);
    Ok(())
}

fn descriptors(probe: &Probe) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", probe.pid()))?.count())
}

fn signal(probe: &Probe, signal: i32) -> Result<()> {
    let pid = i32::try_from(probe.pid())?;
    // SAFETY: a plain system call; the child is not waited for, so the number is its own.
    ensure!(unsafe { libc::kill(pid, signal) } == 0, "flowprobe is gone");
    Ok(())
}

/// A hundred wires at once, up and gone again. Then the same while flowprobe is held, so that the
/// kernel has no room for all that it has to tell.
#[test]
fn a_hundred_that_come_and_go_leave_nothing_behind() -> Result<()> {
    const WIRES: usize = 100;
    let pair = Pair::new(Wire::default())?;
    let arguments = ["-i", Pair::SENSOR, "-i", "v[0-9]*", "--log", "debug"];
    let mut probe = Probe::start(&pair.sensor, &arguments)?;
    let lines = |line: &dyn Fn(usize) -> String| -> String {
        let lines: Vec<_> = (0..WIRES).map(line).collect();
        lines.join("\n")
    };
    let sensor = pair.sensor.name();
    let make = lines(&|i| {
        format!("link add g{i} type veth peer name v{i} netns {sensor}\nlink set g{i} up")
    });
    let up = lines(&|i| format!("link set v{i} up"));
    let remove = lines(&|i| format!("link delete g{i}"));
    let before = descriptors(&probe)?;
    for (is_held, rounds) in [(false, 2), (true, 5)] {
        if is_held {
            signal(&probe, libc::SIGSTOP)?;
        }
        for round in 0..rounds {
            if round > 0 {
                pair.generator.ip(&remove)?;
            }
            pair.generator.ip(&make)?;
            pair.sensor.ip(&up)?;
        }
        if is_held {
            signal(&probe, libc::SIGCONT)?;
        }
        until("attached to all", || {
            let mut all = (0..WIRES).map(|i| pair.sensor.has_xdp(&format!("v{i}")));
            all.try_fold(true, |all, one| Ok(all && one?))
        })?;
        pair.generator.ip(&remove)?;
        // All is read in its order, so this comes last.
        pair.wire("g100", "v100", Wire::default())?;
        until("attached", || pair.sensor.has_xdp("v100"))?;
        pair.generator.ip("link delete g100")?;
        probe.wait_for_log("v100 has gone away")?;
        until("closed", || Ok(descriptors(&probe)? == before))?;
    }
    send(&pair, Pair::GENERATOR, Pair::SENSOR, 1)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    assert_eq!(packets(&finished, &[1]), [SENT]);
    ensure!(
        finished.log.contains("faster than was read"),
        "there was room for all events"
    );
    let named = |name: &str| {
        let all = finished.summary.interfaces.iter();
        all.filter(|one| one.name == name && one.gone).count()
    };
    for i in 0..WIRES {
        // Not seen are those that came and went while flowprobe was held.
        let times = named(&format!("v{i}"));
        ensure!((2..=4).contains(&times), "v{i} was watched {times} times");
    }
    Ok(())
}

/// What was set for interfaces holds for those that come later.
#[test]
fn classes_of_interfaces_are_of_those_that_come_later() -> Result<()> {
    let pair = Pair::without_wire()?;
    pair.wire("gen0", "mon0", Wire::default())?;
    let class = "interface mon1 = 1/4";
    let mut probe = Probe::start(&pair.sensor, &["-i", "mon*", "--sample", class])?;
    send(&pair, "gen0", "mon0", 1)?;
    pair.wire("gen1", "mon1", Wire::default())?;
    attached(&mut probe, "mon1")?;
    send(&pair, "gen1", "mon1", 2)?;
    pair.sensor.ip("link set mon1 name mon2")?;
    probe.wait_for_log("the new name of mon1")?;
    send(&pair, "gen1", "mon2", 3)?;
    pair.sensor.ip("link set mon0 name mon1")?;
    probe.wait_for_log("the new name of mon0")?;
    send(&pair, "gen0", "mon1", 4)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let quarter = SENT / 4;
    let expected = [SENT, quarter, SENT, quarter];
    assert_eq!(packets(&finished, &[1, 2, 3, 4]), expected);
    let unsampled = finished.summary.ledger.unsampled.packets;
    assert_eq!(unsampled, 2 * (SENT - quarter));
    Ok(())
}

/// Each of two has the name of the other when they are listed, after the renaming was missed.
#[test]
fn classes_follow_names_that_are_swapped_unheard() -> Result<()> {
    // Some 500 have room.
    const EVENTS: u32 = 4000;
    let pair = Pair::without_wire()?;
    pair.wire("gen0", "mon0", Wire::default())?;
    pair.wire("gen1", "mon1", Wire::default())?;
    pair.wire("gen2", "other", Wire::default())?;
    let [half, quarter] = ["interface mon0 = 1/2", "interface mon1 = 1/4"];
    let classes = ["--sample", half, "--sample", quarter];
    let arguments = ["-i", "mon*", "--log", "debug"];
    let mut probe = Probe::start(&pair.sensor, &[&arguments[..], &classes].concat())?;
    signal(&probe, libc::SIGSTOP)?;
    let noise = (0..EVENTS).map(|i| format!("link set other mtu {}\n", 1400 + i % 2));
    pair.sensor.ip(&noise.collect::<String>())?;
    pair.sensor
        .ip("link set mon0 name between\nlink set mon1 name mon0\nlink set between name mon1")?;
    signal(&probe, libc::SIGCONT)?;
    for before in ["mon0", "mon1"] {
        probe.wait_for_log(&format!("the new name of {before}"))?;
    }
    send(&pair, "gen0", "mon1", 1)?;
    send(&pair, "gen1", "mon0", 2)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    ensure!(
        finished.log.contains("faster than was read"),
        "there was room for all events"
    );
    assert_eq!(packets(&finished, &[1, 2]), [SENT / 4, SENT / 2]);
    Ok(())
}

/// What is forwarded between interfaces that both come later is counted once, as it comes in.
#[test]
fn dedup_knows_interfaces_that_come_later() -> Result<()> {
    let network = Routed::new()?;
    let rename = |from: &str, to: &str| network.gateway.ip(&format!("link set {from} name {to}"));
    let (lan, wan) = (Routed::LAN, Routed::WAN);
    rename(lan, "a0")?;
    rename(wan, "b0")?;
    let arguments = ["-i", "lan*", "-i", "wan*", "--egress", "--dedup"];
    let mut probe = Probe::start(&network.gateway, &arguments)?;
    let socket = network.client.udp("10.10.1.2:1000".parse()?)?;
    // Ports that nobody listens on would be told of, which comes back the same way.
    let _listeners = [53, 54].map(|port| network.server.udp(([10, 10, 2, 2], port).into()));
    let forward = |port: u16, interface: &str| -> Result<()> {
        let before = network.gateway.counters(interface)?.rx_packets;
        for _ in 0..SENT {
            socket.send_to(&[0; 72], (Routed::SERVER_V4, port))?;
        }
        until("forwarded", || {
            Ok(network.gateway.counters(interface)?.rx_packets >= before + SENT)
        })
    };
    rename("b0", wan)?;
    attached(&mut probe, wan)?;
    // Comes in where nobody looks.
    forward(53, "a0")?;
    rename("a0", lan)?;
    attached(&mut probe, lan)?;
    forward(54, lan)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let ways = |port: u16| {
        let flows = finished.flows.iter();
        let flows = flows.filter(|flow| flow.key.destination_port == port);
        flows
            .map(|flow| (flow.direction, flow.counts.packets))
            .collect::<Vec<_>>()
    };
    assert_eq!(ways(53), [(1, SENT)]);
    assert_eq!(ways(54), [(0, SENT)]);
    let again = finished.summary.ledger.ignored["seen_coming_in"];
    assert_eq!(again.packets, SENT);
    Ok(())
}

/// Packets of one that is not watched after all are counted as they go out of another.
#[test]
fn dedup_knows_interfaces_that_refuse() -> Result<()> {
    let network = Routed::new()?;
    let (lan, wan) = (Routed::LAN, Routed::WAN);
    tc(&network.gateway, &format!("qdisc add dev {lan} ingress"))?;
    let patterns = ["-i", "lan*", "-i", "wan*"];
    let ways = ["--egress", "--clsact", "--dedup"];
    let probe = Probe::start(&network.gateway, &[&patterns[..], &ways].concat())?;
    let socket = network.client.udp("10.10.1.2:1000".parse()?)?;
    let _listener = network.server.udp(([10, 10, 2, 2], 53).into())?;
    let before = network.gateway.counters(wan)?.tx_packets;
    for _ in 0..SENT {
        socket.send_to(&[0; 72], (Routed::SERVER_V4, 53))?;
    }
    until("forwarded", || {
        Ok(network.gateway.counters(wan)?.tx_packets >= before + SENT)
    })?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    ensure!(finished.log.contains("not watched: "), "{}", finished.log);
    assert_eq!(packets(&finished, &[53]), [SENT]);
    Ok(())
}

fn tc(namespace: &Netns, command: &str) -> Result<()> {
    let mut tc = namespace.command("tc");
    let status = tc.args(command.split(' ')).status()?;
    ensure!(status.success(), "tc {command}: {status}");
    Ok(())
}

/// An ingress qdisc refuses what goes out, at attaching: that changes nothing and is not tried again and again,
/// but now and then, since the kernel does not say when the qdisc has gone.
#[test]
fn what_refuses_is_tried_again_now_and_then() -> Result<()> {
    let pair = Pair::without_wire()?;
    pair.wire("gen0", "other0", Wire::default())?;
    tc(&pair.sensor, "qdisc add dev other0 ingress")?;
    let arguments = ["-i", "mon*", "--egress", "--clsact", "--log", "debug"];
    let mut probe = Probe::start(&pair.sensor, &arguments)?;
    pair.sensor.ip("link set other0 name mon0")?;
    probe.wait_for_log("not watched: mon0 has a qdisc of kind ingress")?;
    thread::sleep(Duration::from_secs(3));
    tc(&pair.sensor, "qdisc delete dev mon0 ingress")?;
    probe.wait_for_log("attached, ")?;
    send(&pair, "gen0", "mon0", 1)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    assert_eq!(packets(&finished, &[1]), [SENT]);
    let tries = finished.log.matches("not watched: ").count();
    // One in 5 seconds, and none upon what the tries themselves change.
    ensure!(tries < 20, "{}", finished.log);
    Ok(())
}

#[test]
fn a_link_that_goes_down_and_up_or_changes_its_mtu_is_counted_on() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
    send(&pair, Pair::GENERATOR, Pair::SENSOR, 1)?;
    let both = |what: &str| -> Result<()> {
        pair.generator
            .ip(&format!("link set {} {what}", Pair::GENERATOR))?;
        pair.sensor.ip(&format!("link set {} {what}", Pair::SENSOR))
    };
    for end in [
        (&pair.sensor, Pair::SENSOR),
        (&pair.generator, Pair::GENERATOR),
    ] {
        end.0.ip(&format!("link set {} down", end.1))?;
        end.0.ip(&format!("link set {} up", end.1))?;
    }
    send(&pair, Pair::GENERATOR, Pair::SENSOR, 2)?;
    // More than fits one page: only a program that takes several buffers gets such frames.
    both("mtu 9000")?;
    let large = Ip::new("192.0.2.1", "198.51.100.2").udp(1000, 3, 8000);
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    sender.send(&[&large.frame, &large.frame])?;
    both("mtu 1500")?;
    send(&pair, Pair::GENERATOR, Pair::SENSOR, 4)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    assert_eq!(packets(&finished, &[1, 2, 3, 4]), [SENT, SENT, 2, SENT]);
    let octets: u64 = finished.flows.iter().map(|flow| flow.counts.octets).sum();
    assert_eq!(octets, 3 * SENT * 100 + 2 * 8028);
    assert_eq!(watched(&finished).len(), 1);
    Ok(())
}

/// A pattern takes what it can get; a name has to be there.
#[test]
fn what_a_pattern_names_and_cannot_be_watched_is_left_alone() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    pair.sensor.ip("tuntap add dev mon9 mode tun")?;
    let mut probe = Probe::start(&pair.sensor, &["-i", "mon*"])?;
    pair.sensor.ip("tuntap add dev mon8 mode tun")?;
    probe.wait_for_log("not watched")?;
    send(&pair, Pair::GENERATOR, Pair::SENSOR, 1)?;
    let finished = probe.stop()?;
    assert_eq!(packets(&finished, &[1]), [SENT]);
    assert_eq!(watched(&finished), [(Pair::SENSOR, false, SENT)]);
    for name in ["mon8", "mon9"] {
        let said = format!("not watched: {name} has no Ethernet frames");
        assert_eq!(finished.log.matches(&said).count(), 1, "{}", finished.log);
    }
    Ok(())
}

/// A namespace by name, by a process in it, and by a path. Collectors are reached from where flowprobe
/// was started, which has no way to the interfaces.
#[test]
fn interfaces_of_another_namespace_are_watched_and_collectors_reached_from_here() -> Result<()> {
    let here = Netns::new("here")?;
    let uplink = Uplink::new(&here)?;
    let pair = Pair::without_wire()?;
    let mut resident = pair.sensor.command("sleep");
    probe::end_with_parent(&mut resident);
    let mut resident = resident.arg("600").spawn()?;
    let by_path = format!("/run/netns/{}", pair.sensor.name());
    let names = [
        pair.sensor.name().to_owned(),
        resident.id().to_string(),
        by_path,
    ];
    // `ip netns exec` becomes the program once it is there.
    until("there", || {
        let namespace = |id: &str| fs::read_link(format!("/proc/{id}/ns/net"));
        Ok(namespace(&resident.id().to_string())? != namespace("self")?)
    })?;
    for (port, name) in (1..).zip(&names) {
        let collector = Collector::start(&uplink.collector, "10.20.0.2:4739", false)?;
        let url = collector.url();
        let arguments = ["--netns", name, "-i", "mon*", "--egress", "-c", &url];
        let mut probe = Probe::start(&here, &arguments)?;
        pair.wire("gen0", "mon0", Wire::default())?;
        attached(&mut probe, "mon0")?;
        send(&pair, "gen0", "mon0", port)?;
        let index = pair.sensor.index("mon0")?;
        let finished = probe.stop()?;
        finished.summary.assert_balanced();
        finished.summary.assert_nothing_lost();
        assert_eq!(watched(&finished), [("mon0", false, SENT)]);
        ensure!(!pair.sensor.has_xdp("mon0")?, "still attached");
        collector.wait_until("the flow", |received| !received.flows.is_empty())?;
        let received = collector.stop();
        let flow = &received.flows[0];
        assert_eq!((flow.key.destination_port, flow.interface), (port, index));
        assert_eq!(flow.counts.packets, SENT);
        pair.generator.ip("link delete gen0")?;
    }
    resident.kill()?;
    resident.wait()?;
    Ok(())
}

#[test]
fn a_namespace_that_is_not_there_is_refused() -> Result<()> {
    let here = Netns::new("here")?;
    for (name, why) in [
        (
            "flowprobe-nowhere",
            "no network namespace flowprobe-nowhere",
        ),
        ("/proc/version", "is no network namespace"),
        ("4194305", "/proc/4194305/ns/net"),
        ("..", "give a name"),
    ] {
        let refused = probe::output(&here, &["run", "-i", "x", "--netns", name])?;
        assert_eq!(refused.status.code(), Some(2), "{name}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(
            said.contains(why) && said.lines().count() == 1,
            "{name}: {said}"
        );
    }
    Ok(())
}
