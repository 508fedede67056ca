//! A flowprobe that is killed while it sends what was on disk.

use std::{fs, path::Path, thread, time::Duration};

use flowprobe_tests::{
    collector::Received,
    flow::Key,
    judges::Directory,
    probe::Probe,
    sender::Sender,
    stream::TcpCollector,
    topology::{Pair, Wire},
};

use crate::{Result, SOON, assert_right, burst, bursts, flows_of, send};

/// What is in the files of a spool.
fn waiting(spool: &Path) -> Result<Received> {
    let mut files = Vec::new();
    for entry in fs::read_dir(spool.join("tcp-127.0.0.1-4739"))? {
        let path = entry?.path();
        if path.to_string_lossy().contains(".ipfix") {
            files.push(fs::read(path)?);
        }
    }
    Ok(Received::of_sessions(&files))
}

fn keys(received: &Received) -> Vec<Key> {
    received.flows.iter().map(|flow| flow.key).collect()
}

/// Each record arrives; those that had, but were not noted as such before the end, arrive twice.
#[test]
fn what_is_sent_from_disk_when_killed_goes_on_where_it_was() -> Result {
    const BURSTS: u16 = 20;
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let directory = Directory::new(&format!("{}-spool", pair.sensor.name()))?;
    let spool = format!("--spool={}", directory.path().display());
    let start = |options: &[&str]| {
        let to = ["-i", Pair::SENSOR, "-c", "tcp://127.0.0.1:4739", &spool];
        Probe::start(&pair.sensor, &[&to[..], &SOON, options].concat())
    };
    let probe = start(&["--export-queue", "300"])?;
    for number in 0..BURSTS {
        send(&sender, &burst(number))?;
        thread::sleep(Duration::from_millis(100));
    }
    probe.kill()?;
    let on_disk = waiting(directory.path())?;
    on_disk.assert_well_formed();
    let all = flows_of(&on_disk);
    assert!(all.len() > 2000, "{} flows are in the spool", all.len());

    let collector = TcpCollector::start(&pair.sensor, "127.0.0.1:4739")?;
    let probe = start(&["--export-rate", "1000"])?;
    collector.wait_for_flows(1000)?;
    probe.kill()?;
    let first = Received::of_sessions(&collector.stop());
    assert!(first.flows.len() < all.len(), "it was killed too late");

    let collector = TcpCollector::start(&pair.sensor, "127.0.0.1:4739")?;
    let probe = start(&[])?;
    collector.wait_until("the rest", |sessions| {
        let came = Received::of_sessions(sessions);
        let mut came = flows_of(&came);
        came.extend(flows_of(&first));
        came.len() == all.len()
    })?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    let second = Received::of_sessions(&collector.stop());
    for received in [&first, &second] {
        received.assert_well_formed();
        assert_right(received, &bursts(BURSTS));
    }
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.recovered.records, second.flows.len() as u64);
    assert_eq!(report.dropped_records(), 0, "{report:?}");
    assert_eq!(waiting(directory.path())?.flows.len(), 0);
    // The end of the first is the beginning of the second, and no more than that came twice.
    let (first, second) = (keys(&first), keys(&second));
    let twice = first.len() + second.len() - all.len();
    assert!(twice < first.len(), "all of it came twice");
    assert_eq!(first[first.len() - twice..], second[..twice]);
    Ok(())
}
