//! The tests that need network namespaces, in guests: for machines that make none, and for other
//! kernels than the machine's. A guest sees the files of the machine and writes to its own memory,
//! so that it runs the very programs that were built here.

use std::{
    fs::{self, File},
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    Entry, directory,
    guest::{self, Heard, Machine, Qemu, Threads},
    initramfs, kernel,
};
use crate::{
    interrupt,
    workspace::{self, cargo, find, output},
};

/// The tests that need network namespaces, or root.
const TESTS: &str = "(package(flowprobe-tests) and kind(test) and not binary(pcap) \
     and not binary(page)) \
     or test(flows_go_to_a_collector_as_those_of_run_do) \
     or binary(attach) or test(either_way_of_waiting_works_here)";
/// The first process of such a guest.
const INIT: &str = include_str!("suite-init");
/// What it has the drivers of: the files of the machine.
const DRIVERS: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// Of a guest, in MiB: a million flows, and what the tests write.
const MEMORY: u32 = 6144;
/// How long a guest may be silent: nextest speaks of each test that takes longer than 300 s.
const PATIENCE: Duration = Duration::from_secs(900);
/// What a guest prints last, before its status.
const MARK: &str = "-- the tests have ended, status ";

/// A filter for nextest: the tests that [`run`] leaves out.
pub(crate) fn others() -> String {
    format!("not ({TESTS})")
}

/// Refuses a series that is not there or too old.
pub(crate) fn check(series: &str) -> Result<()> {
    entry(series).map(drop)
}

fn entry(series: &str) -> Result<&'static Entry> {
    let entry = super::entry_of(series)?;
    ensure!(
        entry.runs,
        "Linux {series} is too old for flowprobe: its tests fail there"
    );
    Ok(entry)
}

/// Runs the tests in as many guests as this machine has CPUs, a part in each.
pub(crate) fn run(series: &str) -> Result<()> {
    let entry = entry(series)?;
    interrupt::watch()?;
    let files = entry.kernel.fetch()?;
    let initramfs = directory().join("suite.cpio");
    fs::create_dir_all(directory())?;
    let root = initramfs::begin(&files, DRIVERS, INIT, &initramfs)?;
    initramfs::end(&root, &initramfs)?;
    let built = Built::new()?;
    let guests = guests()?;
    eprintln!("running the tests that need network namespaces in {guests} guests, Linux {series}");
    let parts: Vec<_> = thread::scope(|scope| {
        let parts = (1..=guests).map(|number| {
            let script = built.script(number, guests);
            let (files, initramfs) = (&files, &initramfs);
            scope.spawn(move || part(number, entry.machine.model, files, initramfs, &script?))
        });
        let parts: Vec<_> = parts.collect();
        parts
            .into_iter()
            .map(thread::ScopedJoinHandle::join)
            .collect()
    });
    interrupt::check()?;
    for part in parts {
        part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
    }
    Ok(())
}

/// How many this machine has CPUs and memory for.
fn guests() -> Result<usize> {
    let memory = fs::read_to_string("/proc/meminfo")?;
    let line = memory
        .lines()
        .find(|line| line.starts_with("MemAvailable:"));
    let words = line.and_then(|line| line.split_whitespace().nth(1));
    let kibibytes: usize = words.context("no MemAvailable")?.parse()?;
    let fit = kibibytes / 1024 / MEMORY as usize;
    Ok(thread::available_parallelism()?.get().min(fit).max(1))
}

/// What nextest has to know, where there is no cargo.
struct Built {
    binaries: PathBuf,
    workspace: PathBuf,
    nextest: PathBuf,
}

impl Built {
    /// Builds the tests.
    fn new() -> Result<Self> {
        let built = Self {
            binaries: directory().join("binaries.json"),
            workspace: directory().join("workspace.json"),
            nextest: find("cargo-nextest").context("no cargo-nextest: run `cargo xtask setup`")?,
        };
        let mut list = cargo();
        list.args(["nextest", "list", "--workspace", "--cargo-quiet"]);
        list.args(["--list-type", "binaries-only", "--message-format", "json"]);
        fs::write(&built.binaries, output(&mut list)?)?;
        let mut metadata = cargo();
        metadata.args(["metadata", "--format-version", "1"]);
        fs::write(&built.workspace, output(&mut metadata)?)?;
        Ok(built)
    }

    /// Writes what guest `number` of `guests` runs.
    fn script(&self, number: usize, guests: usize) -> Result<PathBuf> {
        let path = directory().join(format!("suite-{number}.sh"));
        let mut script = File::create(&path)?;
        let variable = |name: &str| std::env::var(name).unwrap_or_default();
        writeln!(script, "export HOME='{}'", variable("HOME"))?;
        writeln!(script, "export PATH='{}'", variable("PATH"))?;
        writeln!(script, "cd '{}'", workspace::root().display())?;
        writeln!(script, "ip link set lo up")?;
        writeln!(
            script,
            "'{}' nextest run --profile guest --color never --show-progress none \
             --binaries-metadata '{}' --cargo-metadata '{}' \
             --no-tests pass --partition slice:{number}/{guests} -E '{TESTS}'",
            self.nextest.display(),
            self.binaries.display(),
            self.workspace.display(),
        )?;
        writeln!(script, "echo \"{MARK}$?\"")?;
        writeln!(script, "poweroff -f")?;
        Ok(path)
    }
}

/// Runs a part of the tests in one guest, and prints what nextest does.
fn part(
    number: usize,
    model: &'static str,
    kernel: &kernel::Files,
    initramfs: &Path,
    script: &Path,
) -> Result<()> {
    let console = directory().join(format!("suite-{number}.console"));
    let mut command = Command::new("qemu-system-x86_64");
    let words = format!(
        "quiet script={} modules={}",
        script.display(),
        kernel.base.join("lib/modules").display()
    );
    // With threads side by side, qemu's emulation loses the order in which code is patched.
    let threads = Threads::InTurn;
    guest::describe(
        &mut command,
        Machine { model, cpus: 2 },
        threads,
        MEMORY,
        kernel,
        initramfs,
        &words,
    );
    command
        .args(["-serial", "stdio"])
        .args([
            "-fsdev",
            "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        ])
        .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"])
        .args(["-device", "virtio-rng-pci"])
        .stdin(Stdio::null());
    let qemu = Qemu::start(&mut command, &console)?;
    let mut kept = File::create(&console)?;
    let mut status = None;
    loop {
        let line = match qemu.listen(Instant::now() + PATIENCE)? {
            Heard::Line(line) => line,
            Heard::End => break,
            Heard::Nothing => bail!(
                "guest {number} says nothing any more:\n{}",
                guest::tail(&console).unwrap_or_default()
            ),
        };
        writeln!(kept, "{line}")?;
        if let Some(told) = line.strip_prefix(MARK) {
            status = Some(told.to_owned());
        } else if status.is_none() && !is_of_kernel(&line) {
            eprintln!("guest {number}: {line}");
        }
    }
    match status.as_deref() {
        Some("0") => Ok(()),
        Some(_) => bail!("tests fail in guest {number}, as said above"),
        None => bail!(
            "guest {number} has ended before its tests:\n{}",
            guest::tail(&console).unwrap_or_default()
        ),
    }
}

/// Whether a line of a console begins with the kernel's time, `[    1.234567] `.
fn is_of_kernel(line: &str) -> bool {
    let time = line.strip_prefix('[').and_then(|rest| rest.split_once(']'));
    time.is_some_and(|(time, _)| time.trim().parse::<f64>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::is_of_kernel;

    #[test]
    fn lines_of_the_kernel_begin_with_a_time() {
        assert!(is_of_kernel("[   12.345678] veth: up"));
        assert!(!is_of_kernel("[1, 2, 3]"));
        assert!(!is_of_kernel("    PASS [   2.366s] flowprobe::attach"));
    }
}
