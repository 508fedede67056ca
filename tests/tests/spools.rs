//! Spools of groups, and disks that are full and have room again.

use std::{
    fs::{self, File},
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use flowprobe_tests::{
    collector::Received,
    judges::Directory,
    packets::{Ip, Packet, truth},
    probe::{Probe, binary},
    sender::Sender,
    stream::TcpCollector,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

/// Flows in a burst.
const BURST: usize = 200;
/// Flows are exported soon after their last packet; the queue has room for two bursts.
const COMMON: [&str; 8] = [
    "-i",
    Pair::SENSOR,
    "--idle-timeout",
    "0.05",
    "--sweep-interval",
    "0.02",
    "--export-queue",
    "400",
];

/// A burst of flows that no other burst has.
fn burst(number: u16) -> Vec<Packet> {
    let ip = Ip::new("192.0.2.1", "198.51.100.2");
    (0..BURST as u16)
        .map(|port| ip.udp(1000 + number, port, 64))
        .collect()
}

/// Sends bursts, each when the one before has been exported.
fn send(sender: &Sender, bursts: std::ops::Range<u16>) -> Result {
    for number in bursts {
        let packets = burst(number);
        let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
        sender.send(&frames)?;
        thread::sleep(Duration::from_millis(300));
    }
    Ok(())
}

/// None of a group is there: its flows are on disk, and then with the one that comes.
#[test]
fn what_a_group_misses_goes_to_the_one_that_comes() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let directory = Directory::new(&format!("{}-spool", pair.sensor.name()))?;
    let spool = format!("--spool={}", directory.path().display());
    let group = "failover hold-down=1 tcp://127.0.0.1:4739 tcp://127.0.0.1:4740";
    let arguments = [&COMMON[..], &["-g", group, &spool]].concat();
    let probe = Probe::start(&pair.sensor, &arguments)?;
    send(&sender, 0..6)?;
    let collector = TcpCollector::start(&pair.sensor, "127.0.0.1:4740")?;
    collector.wait_for_flows(6 * BURST)?;
    send(&sender, 6..7)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.sent, finished.summary.ledger.exported, "{report:?}");
    let received = Received::of_sessions(&collector.stop());
    received.assert_well_formed();
    let packets: Vec<_> = (0..7).flat_map(burst).collect();
    truth(&packets, 1).assert_equals(&received.truth());
    Ok(())
}

/// A collector is there and does not read: what its queue has no room for is on disk, and with it in
/// the end.
#[test]
fn a_collector_that_does_not_keep_up_loses_nothing() -> Result {
    reads_after(Duration::ZERO)
}

/// It reads nothing for so long that it is left: of what it has not acknowledged nothing arrives in
/// the session that is over, and all in another.
#[test]
fn a_collector_that_was_left_gets_nothing_twice() -> Result {
    reads_after(Duration::from_secs(13))
}

/// Stops reading until flows are on disk, and for a pause.
fn reads_after(pause: Duration) -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let directory = Directory::new(&format!("{}-spool", pair.sensor.name()))?;
    let spool = format!("--spool={}", directory.path().display());
    // Until the kernels on both sides have taken what they take.
    let collector = TcpCollector::reading(&pair.sensor, "127.0.0.1:4739", 2000)?;
    let url = collector.url();
    // A quarter of the queue holds a burst: the spool looks ten times a second whether it is needed.
    let own = ["--export-queue", "1000", "-c", &url, &spool];
    let [rest @ .., _, _] = &COMMON;
    let probe = Probe::start(&pair.sensor, &[rest, &own[..]].concat())?;
    let on_disk = || {
        let names = fs::read_dir(directory.path().join("tcp-127.0.0.1-4739"));
        names.is_ok_and(|names| names.count() > 2)
    };
    let mut bursts = 0;
    while !on_disk() {
        assert!(bursts < 300, "nothing goes to disk");
        send(&sender, bursts..bursts + 1)?;
        bursts += 1;
    }
    send(&sender, bursts..bursts + 6)?;
    bursts += 6;
    thread::sleep(pause);
    collector.read_up_to(usize::MAX);
    let flows = usize::from(bursts) * BURST;
    collector.wait_for_flows(flows)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.sent, finished.summary.ledger.exported, "{report:?}");
    let received = Received::of_sessions(&collector.stop());
    received.assert_well_formed();
    let packets: Vec<_> = (0..bursts).flat_map(burst).collect();
    truth(&packets, 1).assert_equals(&received.truth());
    Ok(())
}

/// A script that runs flowprobe with a small disk at `place`, in the mount namespace that `ip netns
/// exec` gives it.
fn on_small_disk(scripts: &Directory, place: &Path) -> anyhow::Result<PathBuf> {
    let path = scripts.path().join("flowprobe.sh");
    let (place, binary) = (place.display(), binary()?);
    let binary = binary.display();
    let text =
        format!("#!/bin/sh\nmount -t tmpfs -o size=1m tmpfs {place}\nexec {binary} \"$@\"\n");
    fs::write(&path, text)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The disk is full under a spool, or under files, and then has room again: what the queue has no room
/// for meanwhile is counted, and all else is there.
#[test]
fn a_disk_that_has_room_again_takes_flows_again() -> Result {
    for destination in ["spool", "file"] {
        let pair = Pair::new(Wire::default())?;
        let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
        let directory = Directory::new(&format!("{}-disk", pair.sensor.name()))?;
        let scripts = Directory::new(&format!("{}-scripts", pair.sensor.name()))?;
        let place = directory.path();
        let program = on_small_disk(&scripts, place)?;
        let spool = format!("--spool={}", place.display());
        let file = format!("file://{}", place.display());
        let (own, failed, again): (&[&str], _, _) = match destination {
            // A file has room reserved when it is begun: small ones, so that the next one has not.
            "file" => (
                &["-c", &file, "--rotate-octets", "20000"],
                "flows wait",
                "can be reached again",
            ),
            // Nobody is there.
            _ => (
                &["-c", "tcp://127.0.0.1:4739", &spool],
                "flows cannot go to disk",
                "flows go to disk again",
            ),
        };
        let mut probe = Probe::start_binary(&program, &pair.sensor, &[&COMMON[..], own].concat())?;
        // As the process sees it.
        let seen = format!("/proc/{}/root{}", probe.pid(), place.display());
        let ballast = Path::new(&seen).join("ballast");
        let mut filled = File::create(&ballast)?;
        while filled.write_all(&[0; 4096]).is_ok() {}
        drop(filled);
        send(&sender, 0..4)?;
        probe.wait_for_log("No space left on device")?;
        send(&sender, 4..6)?;
        fs::remove_file(&ballast)?;
        // Until it is tried again, which may be a while; then by and by, as the queue takes them.
        let mut bursts = 6;
        while !probe.has_logged(again)? {
            assert!(bursts < 100, "{destination}: room is not found");
            send(&sender, bursts..bursts + 1)?;
            bursts += 1;
        }
        let before = u64::from(bursts) * BURST as u64;
        send(&sender, bursts..bursts + 10)?;
        bursts += 10;
        let finished = probe.stop()?;
        finished.summary.assert_balanced();
        let ledger = &finished.summary.ledger;
        let report = &ledger.collectors[0];
        let lost = report.dropped_records();
        assert_eq!(ledger.exported.records, u64::from(bursts) * BURST as u64);
        assert_eq!(report.dropped["queue_full"].records, lost, "{report:?}");
        // Nothing of what came after, and the queue has room for two bursts.
        assert!(
            (1..=before - 400).contains(&lost),
            "{before} {report:?} {}",
            finished.log
        );
        let kept = report.sent.records + report.spooled.records;
        assert_eq!(kept, ledger.exported.records - lost, "{report:?}");
        for said in [failed, again] {
            let log = &finished.log;
            assert_eq!(log.matches(said).count(), 1, "{destination}, {said}: {log}");
        }
    }
    Ok(())
}
