//! `flowprobe pcap`: captures of every kind that it reads, and what it says of others.

mod formats;
mod real;
mod refused;
mod table;

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use flowprobe_tests::{flow::Truth, judges::Directory, offline::Offline};

type Result<T = ()> = anyhow::Result<T>;

/// 2023-11-14 22:13:20 UTC, in nanoseconds since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;
/// The same in milliseconds.
const START_MS: u64 = START_NS / 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Captures in files, gone with the guard.
struct Files {
    directory: Directory,
    paths: Vec<PathBuf>,
}

impl Files {
    fn new(name: &str, captures: &[&[u8]]) -> Result<Self> {
        static DIRECTORIES: AtomicU32 = AtomicU32::new(0);
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowprobe-{name}-{}-{number}", std::process::id());
        let directory = Directory::new(&name)?;
        let mut paths = Vec::new();
        for (number, capture) in captures.iter().enumerate() {
            let path = directory.path().join(format!("{number}.cap"));
            fs::write(&path, capture)?;
            paths.push(path);
        }
        Ok(Self { directory, paths })
    }
}

/// It ended in order, and its flows are these.
#[track_caller]
fn assert_flows(run: &Offline, truth: &Truth) {
    assert_eq!(run.code, 0, "{}", run.log);
    let ledger = run.ledger();
    truth.assert_equals(&Truth::of(&run.flows));
    assert_eq!(ledger.accounted.packets, truth.total().packets);
}
