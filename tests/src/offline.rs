//! `flowprobe pcap` as a child process.

use std::{
    ffi::OsStr,
    fs,
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    flow::Flow,
    judges::Directory,
    netns::Netns,
    probe::{binary, end_with_parent},
    summary::Ledger,
};

/// What is left of it.
#[derive(Debug)]
pub struct Offline {
    /// Its exit code.
    pub code: i32,
    /// What it printed.
    pub flows: Vec<Flow>,
    /// The same with all elements, as objects.
    pub printed: Vec<Value>,
    /// What it logged.
    pub log: String,
    /// Its summary, where it got as far as that.
    pub summary: Option<Value>,
}

impl Offline {
    /// The ledger, which must balance, with nothing lost, held or dropped.
    ///
    /// # Panics
    /// Where it does not, or where there is none.
    #[must_use]
    #[track_caller]
    pub fn ledger(&self) -> Ledger {
        let Some(summary) = &self.summary else {
            panic!("there is no summary\n{}", self.log);
        };
        let ledger: Ledger =
            serde_json::from_value(summary["ledger"].clone()).expect("as documented");
        assert_eq!(ledger.errors(), [""; 0], "{}", self.log);
        assert!(ledger.lost.values().all(|lost| lost.packets == 0));
        assert_eq!(ledger.held.packets, 0);
        let mut collectors = ledger.collectors.iter();
        assert!(collectors.all(|collector| collector.dropped.is_empty()));
        ledger
    }

    /// Later fragments whose first one was not known, by its summary.
    #[must_use]
    pub fn fragment_orphans(&self) -> Option<u64> {
        self.summary.as_ref()?["table"]["fragment_orphans"].as_u64()
    }
}

/// Runs `flowprobe pcap` with these arguments and this on its standard input.
///
/// # Errors
/// Where it cannot be run, is killed, or prints what is no flow.
pub fn pcap<S: AsRef<OsStr>>(arguments: &[S], input: &[u8]) -> Result<Offline> {
    run(Command::new(binary()?), arguments, input)
}

/// The same in a namespace, for what goes to a collector there.
///
/// # Errors
/// Where it cannot be run, is killed, or prints what is no flow.
pub fn pcap_in(namespace: &Netns, arguments: &[&str], input: &[u8]) -> Result<Offline> {
    pcap_by(&binary()?, namespace, arguments, input)
}

/// The same with a program that runs flowprobe.
///
/// # Errors
/// Where it cannot be run, is killed, or prints what is no flow.
pub fn pcap_by(
    program: &Path,
    namespace: &Netns,
    arguments: &[&str],
    input: &[u8],
) -> Result<Offline> {
    run(namespace.command(program), arguments, input)
}

fn run<S: AsRef<OsStr>>(mut command: Command, arguments: &[S], input: &[u8]) -> Result<Offline> {
    static RUNS: AtomicU32 = AtomicU32::new(0);
    let run = RUNS.fetch_add(1, Ordering::Relaxed);
    let directory = Directory::new(&format!("flowprobe-pcap-{}-{run}", std::process::id()))?;
    let summary = directory.path().join("summary.json");
    command.arg("pcap").arg("--summary").arg(&summary);
    command.args(arguments);
    command.stdin(Stdio::piped());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    end_with_parent(&mut command);
    let mut child = command.spawn().context("cannot run flowprobe")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let input = input.to_vec();
    // It may end without having read all.
    let feed = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output()?;
    feed.join().expect("no panic");
    let text = String::from_utf8(output.stdout)?;
    let summary = fs::read(&summary).ok().filter(|text| !text.is_empty());
    Ok(Offline {
        code: output.status.code().context("killed by a signal")?,
        flows: text.lines().map(Flow::from_json).collect::<Result<_>>()?,
        printed: text
            .lines()
            .map(serde_json::from_str)
            .collect::<Result<_, _>>()?,
        log: String::from_utf8(output.stderr)?,
        summary: summary
            .map(|text| serde_json::from_slice(&text))
            .transpose()?,
    })
}
