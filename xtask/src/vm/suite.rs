//! The tests that need network namespaces, in guests: for machines that make none, and for other
//! kernels than the machine's. A guest sees the files of the machine and writes to its own memory,
//! so that it runs the very programs that were built here.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::probe::end_with_parent;

use super::{
    directory,
    guest::{self, Threads},
    initramfs, kernel,
};
use crate::{
    interrupt,
    workspace::{self, cargo, find, output},
};

/// The tests that need network namespaces.
const TESTS: &str =
    "(package(flowprobe-tests) and kind(test) and not binary(pcap)) or binary(attach)";
/// The first process of such a guest.
const INIT: &str = include_str!("suite-init");
/// What it has the drivers of: the files of the machine.
const DRIVERS: &[&str] = &["virtio_pci", "9pnet_virtio", "9p", "overlay"];
/// Of a guest, in MiB: a million flows, and what the tests write.
const MEMORY: u32 = 6144;
/// What a guest prints last, before its status.
const MARK: &str = "-- the tests have ended, status ";

/// A filter for nextest: the tests that [`run`] leaves out.
pub(crate) fn others() -> String {
    format!("not ({TESTS})")
}

/// Runs the tests in as many guests as this machine has CPUs, a part in each.
pub(crate) fn run(series: &str) -> Result<()> {
    let entry = super::entry_of(series)?;
    ensure!(
        entry.runs,
        "Linux {series} is too old for flowprobe: its tests fail there"
    );
    interrupt::watch()?;
    let files = entry.kernel.fetch()?;
    let initramfs = directory().join("suite.cpio");
    fs::create_dir_all(directory())?;
    let root = initramfs::begin(&files, DRIVERS, INIT, &initramfs)?;
    initramfs::end(&root, &initramfs)?;
    let built = Built::new()?;
    let guests = thread::available_parallelism()?.get();
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
             --partition slice:{number}/{guests} -E '{TESTS}'",
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
    model: &str,
    kernel: &kernel::Files,
    initramfs: &Path,
    script: &Path,
) -> Result<()> {
    let console = directory().join(format!("suite-{number}.console"));
    let mut command = Command::new("qemu-system-x86_64");
    // With threads side by side, qemu's emulation loses the order in which code is patched.
    guest::describe(&mut command, model, 2, Threads::InTurn, MEMORY);
    command
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!(
            "console=ttyS0 quiet panic=-1 script={} modules={}",
            script.display(),
            kernel.base.join("lib/modules").display()
        ))
        .args(["-serial", "stdio"])
        .args([
            "-fsdev",
            "local,id=host,path=/,security_model=none,readonly=on,multidevs=remap",
        ])
        .args(["-device", "virtio-9p-pci,fsdev=host,mount_tag=host"])
        .args(["-device", "virtio-rng-pci"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(File::create(console.with_extension("qemu"))?);
    end_with_parent(&mut command);
    let mut qemu = command.spawn().context("cannot run qemu-system-x86_64")?;
    let output = qemu.stdout.take().context("no stdout")?;
    let mut kept = File::create(&console)?;
    let mut status = None;
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        writeln!(kept, "{line}")?;
        if let Some(told) = line.strip_prefix(MARK) {
            status = Some(told.to_owned());
        } else if status.is_none() && !line.starts_with('[') {
            eprintln!("guest {number}: {line}");
        }
        if interrupt::check().is_err() {
            qemu.kill()?;
        }
    }
    qemu.wait()?;
    match status.as_deref() {
        Some("0") => Ok(()),
        Some(_) => anyhow::bail!("tests fail in guest {number}, as said above"),
        None => anyhow::bail!(
            "guest {number} has ended before its tests:\n{}",
            guest::tail(&console).unwrap_or_default()
        ),
    }
}
