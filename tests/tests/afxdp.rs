//! Packets that are metered in userspace: counted as exactly, and lost where it says so.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    flow::Truth,
    live::{Live, on_one_cpu, send_from_all},
    mix::mix,
    netns::Netns,
    packets::{Ip, Packet, flag},
    probe::{self, Finished, Probe},
    sender::Sender,
    sniffer::Sniffer,
    summary::Tally,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

const AFXDP: [&str; 4] = ["-i", Pair::SENSOR, "--mode", "afxdp"];

const TWO_QUEUES: Wire = Wire {
    queues: 2,
    mtu: 1500,
};

fn v4() -> Ip {
    Ip::new("192.0.2.1", "198.51.100.2")
}

fn start(namespace: &Netns, options: &[&str]) -> anyhow::Result<Probe> {
    Probe::start(namespace, &[&AFXDP, options].concat())
}

fn frames(packets: &[Packet]) -> Vec<&Vec<u8>> {
    packets.iter().map(|packet| &packet.frame).collect()
}

fn lost(finished: &Finished, reason: &str) -> Tally {
    finished
        .summary
        .ledger
        .lost
        .get(reason)
        .copied()
        .unwrap_or_default()
}

/// Frames reach a worker a moment after they are sent.
fn settled() {
    thread::sleep(Duration::from_millis(200));
}

fn meter(wire: Wire, packets: &[Packet], options: &[&str]) -> anyhow::Result<Finished> {
    let pair = Pair::new(wire)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = start(&pair.sensor, options)?;
    let finished = probe.meter(&sender, &frames(packets), 25)?;
    finished.assert_exact(packets, 25);
    assert!(
        finished.summary.interfaces[0]
            .mode
            .contains("AF_XDP by copy")
    );
    ensure!(!pair.sensor.has_xdp(Pair::SENSOR)?, "still attached");
    Ok(finished)
}

#[test]
fn every_kind_of_frame_is_counted_to_the_octet() -> Result {
    for (wire, poll) in [
        (Wire::default(), "adaptive"),
        (TWO_QUEUES, "wakeup"),
        (TWO_QUEUES, "busy"),
    ] {
        let finished = meter(wire, &mix(), &["--poll", poll])?;
        let ignored = &finished.summary.ledger.ignored;
        for reason in ["arp", "lldp"] {
            assert_eq!(ignored[reason].packets, 25, "{reason}");
            assert_eq!(ignored[reason].octets, 25 * 60, "{reason}");
        }
        let queues = &finished.summary.table.queues;
        assert_eq!(queues.len(), wire.queues as usize);
        assert!(queues.iter().all(|packets| *packets > 0), "{queues:?}");
    }
    Ok(())
}

#[test]
fn frames_in_several_buffers_count_in_full() -> Result {
    let wire = Wire {
        mtu: 9000,
        ..Wire::default()
    };
    let packets = [
        v4().udp(1, 2, 9000 - 28),
        v4().tag(0x8100, 5).udp(6, 7, 8000),
        v4().udp(3, 4, 100),
    ];
    meter(wire, &packets, &[])?;
    Ok(())
}

#[test]
fn tunnels_are_opened_and_fragments_have_their_ports() -> Result {
    let inner = v4().tcp(40000, 443, flag::ACK, 300);
    let outer = Ip::new("10.9.0.1", "10.9.0.2");
    let packets: Vec<Packet> = [
        outer.vxlan(4789, 77, &inner),
        outer.gre(Some(5), &inner),
        outer.ip_in_ip(&inner),
        v4().identification(7).fragment(0, true).udp(5000, 53, 64),
    ]
    .into_iter()
    .map(Packet::opened)
    .collect();
    let finished = meter(TWO_QUEUES, &packets, &["--tunnels", "inner"])?;
    assert_eq!(finished.summary.table.fragment_orphans, 0);
    Ok(())
}

/// Both CPUs send the same flows, so that each queue has a part of every one.
#[test]
fn a_flow_of_several_queues_is_one_record() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    let live = || Live::new(&pair.generator, Pair::GENERATOR, packet.clone(), 0, 1024);
    let probe = start(&pair.sensor, &["--ring", "65536"])?;
    let generators = [live()?, live()?];
    for _ in 0..4 {
        // As many as the rings hold.
        send_from_all(&pair.generator, &generators, 1 << 14)?;
        settled();
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let queues = &finished.summary.table.queues;
    assert_eq!(queues[..], [4 << 14, 4 << 14]);
    assert_eq!(finished.flows.len(), 1024, "one record for each flow");
    let mut all = live()?.truth(4 << 14);
    for counts in all.0.values_mut() {
        counts.add(*counts);
    }
    all.assert_equals(&Truth::of(&finished.flows));
    Ok(())
}

#[test]
fn packets_that_sampling_skips_never_come_to_userspace() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let sniffer = Sniffer::start(&pair.sensor, Pair::SENSOR)?;
    let probe = start(&pair.sensor, &["--sample", "1/10"])?;
    let packet = v4().udp(1, 2, 100);
    on_one_cpu(|| sender.send(&vec![&packet.frame; 10_000]))?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let ledger = &finished.summary.ledger;
    assert_eq!(
        (ledger.unsampled.packets, ledger.accounted.packets),
        (9000, 1000)
    );
    assert_eq!(finished.summary.table.queues[..], [1000]);
    assert!(finished.flows.iter().all(|flow| flow.sampling == 10));
    // Nor to a stack that does not want them.
    assert!(sniffer.datagrams(2).is_empty());
    Ok(())
}

#[test]
fn several_interfaces_are_metered_by_one() -> Result {
    let pair = Pair::new(Wire::default())?;
    pair.generator.ip(&format!(
        "link add gen1 type veth peer name mon1 netns {}\n\
         link set gen1 addrgenmode none multicast off arp off up",
        pair.sensor.name()
    ))?;
    pair.sensor
        .ip("link set mon1 addrgenmode none multicast off arp off up")?;
    let senders = [Pair::GENERATOR, "gen1"].map(|name| Sender::new(&pair.generator, name));
    let probe = start(&pair.sensor, &["-i", "mon1"])?;
    let packet = v4().udp(1, 2, 100);
    for (sender, packets) in senders.into_iter().zip([300, 200]) {
        sender?.send(&vec![&packet.frame; packets])?;
    }
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let mut flows: Vec<_> = finished
        .flows
        .iter()
        .map(|flow| (flow.interface, flow.counts.packets))
        .collect();
    flows.sort_unstable();
    let index = |name| pair.sensor.index(name);
    let mut expected = [(index(Pair::SENSOR)?, 300), (index("mon1")?, 200)];
    expected.sort_unstable();
    assert_eq!(flows[..], expected);
    Ok(())
}

#[test]
fn flows_leave_when_they_are_idle_and_while_they_go_on() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let timeouts = ["--idle-timeout", "1", "--active-timeout", "2"];
    let probe = start(&pair.sensor, &timeouts)?;
    let (short, long) = (v4().udp(1, 2, 100), v4().udp(3, 4, 100));
    sender.send(&[&short.frame])?;
    for _ in 0..30 {
        sender.send(&[&long.frame])?;
        thread::sleep(Duration::from_millis(100));
    }
    sender.send(&[&short.frame])?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let reasons = &finished.summary.end_reasons;
    let count = |reason: &str| reasons.get(reason).copied().unwrap_or_default();
    assert_eq!((count("1"), count("4")), (1, 2), "{reasons:?}");
    assert!(count("2") >= 1, "{reasons:?}");
    Ok(())
}

#[test]
fn both_directions_are_one_record_where_that_is_asked() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = start(&pair.sensor, &["--biflow"])?;
    let there = v4().tcp(40000, 443, flag::SYN, 0);
    let back = Ip::new("198.51.100.2", "192.0.2.1").tcp(443, 40000, flag::SYN | flag::ACK, 0);
    sender.send(&[&there.frame, &back.frame, &there.frame])?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    assert_eq!(finished.summary.ledger.exported.records, 2);
    Ok(())
}

#[test]
fn a_rate_changes_while_packets_come() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let socket = std::env::temp_dir().join(format!("{}-control", pair.sensor.name()));
    let socket = socket.display().to_string();
    let probe = start(&pair.sensor, &["--control", &socket])?;
    let ctl = |arguments: &[&str]| -> anyhow::Result<String> {
        let arguments = [&["ctl", "--control", &socket], arguments].concat();
        let output = probe::output(&pair.sensor, &arguments)?;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{error}");
        Ok(String::from_utf8(output.stdout)?)
    };
    let packets: Vec<Packet> = (0..40).map(|port| v4().udp(1000 + port, 53, 50)).collect();
    let send = || on_one_cpu(|| (0..25).try_for_each(|_| sender.send(&frames(&packets))));
    send()?;
    ctl(&["sample", "1/10"])?;
    send()?;
    settled();
    let status = ctl(&["status", "--json"]).or_else(|_| ctl(&["status"]))?;
    assert!(status.contains("1/10"), "{status}");
    ctl(&["sample", "1/1"])?;
    send()?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let mut sums = [0, 0];
    for flow in &finished.flows {
        match flow.sampling {
            1 => sums[0] += flow.counts.packets,
            10 => sums[1] += flow.counts.packets,
            other => panic!("1/{other}: {flow:?}"),
        }
    }
    assert_eq!(sums, [2000, 100]);
    Ok(())
}

/// Runs flowprobe and returns the one line with which it refuses to start.
fn refuse(namespace: &Netns, arguments: &[&str]) -> anyhow::Result<String> {
    let output = probe::output(namespace, &[&["run", "--no-control"], arguments].concat())?;
    let text = String::from_utf8(output.stderr)?;
    let lines = text.lines().filter(|line| !line.is_empty()).count();
    let code = output.status.code();
    ensure!(code == Some(2), "{arguments:?}: exit code {code:?}: {text}");
    ensure!(lines == 1, "{arguments:?}: not one line: {text}");
    Ok(text)
}

#[test]
fn what_makes_no_sense_is_refused_in_one_line() -> Result {
    let pair = Pair::new(Wire::default())?;
    let cases: &[(&[&str], &str)] = &[
        (&["-i", "mon*"], "--interface with a pattern"),
        (&["--hook", "tc"], "--hook tc"),
        (&["--egress"], "--egress"),
        (&["--shadow", "10"], "--shadow"),
        (&["--max-overflow-flows", "9"], "--max-overflow-flows"),
        (&["--sample", "auto:cpu=5%"], "auto:packets"),
        (&["--max-flows", "16777217"], "16777216"),
        (&["--ring", "1000"], "power of two"),
        (&["--frame-size", "1000"], "2048 or 4096"),
        (&["--poll", "often"], "adaptive, wakeup, busy"),
        (&["--umem", "1073741824"], "smaller ring"),
    ];
    for (options, names) in cases {
        let line = refuse(&pair.sensor, &[&AFXDP, *options].concat())?;
        assert!(line.contains(names), "{options:?}: {line}");
        ensure!(!pair.sensor.has_xdp(Pair::SENSOR)?, "attached");
    }
    for option in [
        "--take-packets",
        "--poll=busy",
        "--ring=64",
        "--zero-copy=auto",
    ] {
        let line = refuse(&pair.sensor, &["-i", Pair::SENSOR, option])?;
        assert!(line.contains("--mode afxdp"), "{option}: {line}");
    }
    Ok(())
}

#[test]
fn packets_that_this_machine_needs_are_taken_on_purpose_only() -> Result {
    let pair = Pair::new(Wire::default())?;
    pair.sensor
        .ip(&format!("address add 10.1.2.3/24 dev {}", Pair::SENSOR))?;
    let line = refuse(&pair.sensor, &AFXDP)?;
    assert!(
        line.contains("10.1.2.3/24") && line.contains("--take-packets"),
        "{line}"
    );
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let packet = v4().udp(1, 2, 100);
    let probe = start(&pair.sensor, &["--take-packets"])?;
    let finished = probe.meter(&sender, &[&packet.frame], 10)?;
    finished.assert_exact(&[packet], 10);
    Ok(())
}

#[test]
fn another_user_of_a_queue_is_named() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    pair.sensor.run(|| {
        let interface = flowprobe::attach::Interface::find(Pair::SENSOR)?;
        let settings = flowprobe::xsk::Settings {
            ring: 64,
            ..flowprobe::xsk::Settings::default()
        };
        let _other = flowprobe::xsk::Queue::open(&interface, 1, &settings)?;
        let line = refuse(&pair.sensor, &AFXDP)?;
        assert!(line.contains("another AF_XDP user has queue 1"), "{line}");
        anyhow::Ok(())
    })??;
    ensure!(!pair.sensor.has_xdp(Pair::SENSOR)?, "attached");
    Ok(())
}

fn signal(probe: &Probe, signal: i32) -> Result {
    let pid = i32::try_from(probe.pid())?;
    // SAFETY: a plain system call; the child is not waited for yet.
    ensure!(unsafe { libc::kill(pid, signal) } == 0, "flowprobe is gone");
    Ok(())
}

/// Sends a packet again and again until one comes to the stack.
fn until_it_passes(
    sender: &Sender,
    packet: &Packet,
    sniffer: &Sniffer,
    port: u16,
) -> anyhow::Result<u64> {
    let deadline = Instant::now() + Duration::from_secs(30);
    let mut sent = 0;
    while sniffer.datagrams(port).is_empty() {
        ensure!(Instant::now() < deadline, "no packet passes");
        sender.send(&[&packet.frame])?;
        sent += 1;
        thread::sleep(Duration::from_millis(20));
    }
    Ok(sent)
}

/// A process that is stopped gives no sign of life.
#[test]
fn packets_pass_while_workers_hang_and_are_counted() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let sniffer = Sniffer::start(&pair.sensor, Pair::SENSOR)?;
    let probe = start(&pair.sensor, &[])?;
    let packet = v4().udp(1, 2, 100);
    sender.send(&vec![&packet.frame; 100])?;
    settled();
    assert!(sniffer.datagrams(2).is_empty(), "they pass at once");
    signal(&probe, libc::SIGSTOP)?;
    let sent = until_it_passes(&sender, &packet, &sniffer, 2)?;
    sender.send(&vec![&packet.frame; 100])?;
    signal(&probe, libc::SIGCONT)?;
    // They are taken again.
    thread::sleep(Duration::from_secs(1));
    sender.send(&vec![&packet.frame; 100])?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let ledger = &finished.summary.ledger;
    assert_eq!(ledger.seen.packets, 300 + sent);
    let passed = lost(&finished, "worker_stalled").packets;
    assert!(passed > 100 && passed <= 100 + sent, "{passed} of {sent}");
    assert_eq!(ledger.accounted.packets, 300 + sent - passed);
    Ok(())
}

#[test]
fn a_worker_that_hangs_for_a_while_does_not_keep_packets() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let sniffer = Sniffer::start(&pair.sensor, Pair::SENSOR)?;
    let mut probe = drilled(&pair.sensor, "hang")?;
    let packet = v4().udp(1, 2, 100);
    let sent = until_it_passes(&sender, &packet, &sniffer, 2)?;
    ensure!(!probe.has_logged("broke off")?);
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    assert_eq!(finished.summary.ledger.seen.packets, sent);
    assert!(lost(&finished, "worker_stalled").packets > 0);
    Ok(())
}

/// With a worker that does so once it has taken a packet.
fn drilled(namespace: &Netns, what: &str) -> anyhow::Result<Probe> {
    // The process inherits it, and so do those of other tests in this one: nextest runs each apart.
    // SAFETY: no other thread of this test looks at the environment now.
    unsafe { std::env::set_var("FLOWPROBE_DRILL", what) };
    start(namespace, &[])
}

#[test]
fn a_worker_that_breaks_off_ends_the_run_with_an_error() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = drilled(&pair.sensor, "panic")?;
    sender.send(&[&v4().udp(1, 2, 100).frame])?;
    let error = probe.wait().map(|_| ()).expect_err("it fails").to_string();
    assert!(error.contains("exit status: 1"), "{error}");
    assert!(error.contains("the worker of a queue broke off"), "{error}");
    ensure!(!pair.sensor.has_xdp(Pair::SENSOR)?, "still attached");
    // What it had in hand is in a term, too.
    assert!(error.contains("balanced: yes"), "{error}");
    Ok(())
}

/// The other end drops what it is to send until the kernel has told it that there is somebody again.
fn wait_for_carrier(generator: &Netns) -> Result {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let mut show = Command::new("ip");
        show.args([
            "-n",
            generator.name(),
            "link",
            "show",
            "dev",
            Pair::GENERATOR,
        ]);
        if String::from_utf8_lossy(&show.output()?.stdout).contains("state UP") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not up again");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_link_that_goes_down_and_up_is_metered_on() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = start(&pair.sensor, &[])?;
    let packet = v4().udp(1, 2, 100);
    sender.send(&vec![&packet.frame; 100])?;
    settled();
    for state in ["down", "up"] {
        pair.sensor
            .ip(&format!("link set {} {state}", Pair::SENSOR))?;
    }
    wait_for_carrier(&pair.generator)?;
    sender.send(&vec![&packet.frame; 100])?;
    settled();
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    assert_eq!(finished.summary.ledger.accounted.packets, 200);
    Ok(())
}

#[test]
fn an_interface_that_goes_away_leaves_a_balanced_ledger() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let mut probe = start(&pair.sensor, &[])?;
    let packet = v4().udp(1, 2, 100);
    sender.send(&vec![&packet.frame; 100])?;
    settled();
    pair.sensor.ip(&format!("link delete {}", Pair::SENSOR))?;
    probe.wait_for_log("not watched any more")?;
    let finished = probe.stop()?;
    let ledger = &finished.summary.ledger;
    assert!(ledger.errors().is_empty(), "{ledger:#?}");
    assert!(ledger.balanced, "{ledger:#?}");
    assert_eq!(ledger.accounted.packets, 100);
    Ok(())
}

#[test]
fn queues_that_nobody_reads_are_told_of() -> Result {
    let pair = Pair::new(TWO_QUEUES)?;
    let channels = |count: &str| -> Result {
        let mut ethtool = pair.sensor.command("ethtool");
        let status = ethtool.args(["-L", Pair::SENSOR, "rx", count]).status()?;
        ensure!(status.success(), "ethtool -L {count}: {status}");
        Ok(())
    };
    channels("1")?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let mut probe = start(&pair.sensor, &[])?;
    channels("2")?;
    probe.wait_for_log("2 queues, of which 1 have a worker")?;
    let packets: Vec<Packet> = (0..40).map(|port| v4().udp(1000 + port, 53, 50)).collect();
    sender.send(&frames(&packets))?;
    settled();
    let finished = probe.stop()?;
    let ledger = &finished.summary.ledger;
    assert!(ledger.errors().is_empty() && ledger.balanced, "{ledger:#?}");
    assert!(ledger.accounted.packets > 0);
    Ok(())
}

/// Too few buffers, and frames of several of them.
#[test]
fn frames_without_a_buffer_are_counted_as_such() -> Result {
    let pair = Pair::new(Wire {
        mtu: 9000,
        ..Wire::default()
    })?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = start(&pair.sensor, &["--ring", "64", "--umem", "16"])?;
    signal(&probe, libc::SIGSTOP)?;
    let packet = v4().udp(1, 2, 100);
    sender.send(&vec![&packet.frame; 50])?;
    signal(&probe, libc::SIGCONT)?;
    settled();
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let ledger = &finished.summary.ledger;
    assert_eq!(ledger.seen.packets, 50);
    let lost = lost(&finished, "fill_ring_empty").packets;
    assert!(lost > 0, "{ledger:#?}");
    assert_eq!(ledger.accounted.packets, 50 - lost);
    Ok(())
}

/// More than two workers can take: what is lost is counted to the packet.
#[test]
fn a_flood_is_counted_to_the_packet() -> Result {
    const PACKETS: u64 = 1 << 20;
    let pair = Pair::new(TWO_QUEUES)?;
    let probe = start(&pair.sensor, &["--ring", "1024", "--umem", "2048"])?;
    let generators = [
        (0, Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18)),
        (4096, Ip::new("fd00::1", "fd00::2").udp(0, 0, 30)),
    ]
    .map(|(first, packet)| Live::new(&pair.generator, Pair::GENERATOR, packet, first, 4096));
    let generators: Vec<Live> = generators.into_iter().collect::<anyhow::Result<_>>()?;
    send_from_all(&pair.generator, &generators, PACKETS)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let ledger = &finished.summary.ledger;
    assert_eq!(ledger.seen.packets, 2 * PACKETS);
    let full = lost(&finished, "rx_ring_full").packets;
    assert!(full > 0, "the rings are large enough: {ledger:#?}");
    assert_eq!(lost(&finished, "redirect"), Tally::default());
    let all: u64 = ledger.lost.values().map(|lost| lost.packets).sum();
    assert_eq!(
        Truth::of(&finished.flows).total().packets,
        2 * PACKETS - all
    );
    Ok(())
}

#[test]
fn a_large_table_says_what_it_takes() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = start(&pair.sensor, &["--max-flows", "16777216"])?;
    let packets: Vec<Packet> = (0..2000)
        .map(|n: u16| Ip::new("10.0.0.1", &format!("10.1.{}.{}", n >> 8, n & 255)).udp(1, 2, 9))
        .collect();
    let finished = probe.meter(&sender, &frames(&packets), 2)?;
    finished.assert_exact(&packets, 2);
    let said = finished
        .log
        .lines()
        .find(|line| line.contains("flow tables"));
    let said = said.context("nothing of tables")?;
    assert!(said.contains("16777216 flows in each of 1"), "{said}");
    assert!(
        said.contains("155 octets") && said.contains("MiB"),
        "{said}"
    );
    Ok(())
}
