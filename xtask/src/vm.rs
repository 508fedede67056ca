//! `vm`: flowprobe on the kernels that it is meant for, in guests under qemu's own emulation, and
//! what the verifier of each makes of its programs.

mod clock;
mod figures;
mod guest;
mod initramfs;
mod kernel;
pub(crate) mod suite;
mod trial;

use std::{fs, path::PathBuf, process::Command, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use flowprobe_tests::verifier::Verdict;

use self::{
    figures::Kept,
    guest::{Guest, Machine},
    initramfs::Programs,
    kernel::Kernel,
};
use crate::{
    interrupt,
    workspace::{self, output},
};

#[derive(clap::Args, Default)]
pub(crate) struct Args {
    /// Boot every kernel, and not only the one that continuous integration boots
    #[arg(long, conflicts_with = "kernel")]
    all: bool,
    /// Boot this kernel, for example 6.1; may be given more than once
    #[arg(long, value_name = "SERIES")]
    kernel: Vec<String>,
    /// Keep what the verifiers say as the figures to compare with from now on
    #[arg(long)]
    accept: bool,
    /// Use the programs of this object, for example a variant, and not the committed ones
    #[arg(long, value_name = "FILE", conflicts_with = "accept")]
    object: Option<PathBuf>,
}

/// One guest.
struct Entry {
    kernel: Kernel,
    machine: Machine,
    /// Whether flowprobe has to run on it, or to refuse.
    runs: bool,
}

/// All guests. A model is one with which qemu 7.2 boots that kernel.
const MATRIX: &[Entry] = &[
    entry("5.10", "bullseye", "max", 2, false),
    entry("6.1", "bookworm", "max", 8, true),
    entry(CI, "bookworm-backports", "Haswell-v4", 8, true),
    entry("6.18", "trixie-backports", "max", 2, true),
    entry("7.3", "trixie-backports", "max", 2, true),
];

/// The kernel that is booted where none is asked for.
const CI: &str = "6.12";

const fn entry(
    series: &'static str,
    suite: &'static str,
    model: &'static str,
    cpus: usize,
    runs: bool,
) -> Entry {
    Entry {
        kernel: Kernel { series, suite },
        machine: Machine { model, cpus },
        runs,
    }
}

/// Where root file systems and consoles are kept.
fn directory() -> PathBuf {
    workspace::target().join("vm")
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let entries = chosen(args)?;
    interrupt::watch()?;
    let programs = Programs::build(args.object.as_deref())?;
    let mut kept = Kept::read()?;
    let mut verdicts = vec![ask_this_machine(&programs)?];
    let mut failures = Vec::new();
    for entry in entries {
        let console = console(entry);
        let _ = fs::remove_file(&console);
        match examine(entry, &programs, &mut verdicts) {
            Ok(()) => (),
            Err(error) => {
                interrupt::check()?;
                eprintln!("Linux {} fails: {error:#}", entry.kernel.series);
                if let Some(tail) = guest::tail(&console) {
                    eprintln!("the end of {}:\n{tail}", console.display());
                }
                failures.push(format!(
                    "Linux {} fails, as said above",
                    entry.kernel.series
                ));
            }
        }
    }
    figures::print(&verdicts);
    if args.accept {
        kept.accept(&verdicts)?;
    }
    for verdict in &verdicts {
        failures.extend(
            verdict.refused.iter().map(|(program, log)| {
                format!("Linux {} refuses {program}:\n{log}", verdict.release)
            }),
        );
        failures.extend(kept.complaints(verdict));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

fn chosen(args: &Args) -> Result<Vec<&'static Entry>> {
    if args.all {
        return Ok(MATRIX.iter().collect());
    }
    let ci = [CI.to_owned()];
    let names = if args.kernel.is_empty() {
        &ci[..]
    } else {
        &args.kernel[..]
    };
    names.iter().map(|name| entry_of(name)).collect()
}

/// The guest with the kernel of this series.
fn entry_of(series: &str) -> Result<&'static Entry> {
    let mut entries = MATRIX.iter();
    let Some(entry) = entries.find(|entry| entry.kernel.series == series) else {
        let known: Vec<_> = MATRIX.iter().map(|entry| entry.kernel.series).collect();
        bail!("no kernel {series}: there are {}", known.join(", "));
    };
    Ok(entry)
}

fn ask_this_machine(programs: &Programs) -> Result<Verdict> {
    let answer = output(Command::new(&programs.verifier).args(&programs.object))
        .context("cannot ask this machine's own kernel")?;
    Ok(serde_json::from_str(&answer)?)
}

fn console(entry: &Entry) -> PathBuf {
    directory().join(format!("{}.console", entry.kernel.series))
}

/// Boots a kernel and does everything with it. A kernel that is too old has no verdict.
fn examine(entry: &Entry, programs: &Programs, verdicts: &mut Vec<Verdict>) -> Result<()> {
    let series = entry.kernel.series;
    let files = entry.kernel.fetch()?;
    let initramfs = directory().join(format!("{series}.cpio"));
    programs.pack(&files, &initramfs)?;
    let start = Instant::now();
    let mut guest = Guest::boot(entry.machine, &files, &initramfs, &console(entry))?;
    let release = guest.run("uname -r")?;
    eprintln!(
        "Linux {release} has booted, {:.0} s",
        start.elapsed().as_secs_f64()
    );
    ensure!(
        release.starts_with(&format!("{series}.")),
        "{release} is not of the series {series}: remove {}",
        entry.kernel.directory().display()
    );
    if !entry.runs {
        let said = trial::refuse(&mut guest)?;
        eprintln!("Linux {release}: {said}");
        return Ok(());
    }
    let object = programs.object_in_guest();
    verdicts.push(trial::ask_verifier(&mut guest, object)?);
    eprintln!(
        "the verifier has answered, {:.0} s",
        start.elapsed().as_secs_f64()
    );
    let result = trial::test_sctp(&mut guest)?;
    eprintln!("SCTP: {result}; {:.0} s", start.elapsed().as_secs_f64());
    let shown = trial::meter(&mut guest, entry.machine.cpus, object)?;
    eprintln!(
        "Linux {release}: native{}, {} queues; {} packets of {} flows, all counted, \
         by CPUs {:?} in the last phase; CPUs left and came back {} times; {:.0} s",
        if shown.frags { " with frags" } else { "" },
        shown.queues,
        shown.packets,
        shown.flows,
        shown.by_cpu,
        shown.leaves,
        start.elapsed().as_secs_f64()
    );
    let flows = clock::set_back(&mut guest)?;
    eprintln!(
        "Linux {release}: the clock was set back an hour, and {flows} flows around it are right in IPFIX, \
         v9 and v5; {:.0} s",
        start.elapsed().as_secs_f64()
    );
    let (packets, clsact) = trial::meter_tc(&mut guest, object)?;
    ensure!(
        clsact != entry.kernel.has_tcx(),
        "traffic control: by a clsact qdisc where there is TCX, or the other way round"
    );
    let by = if clsact { "a clsact qdisc" } else { "TCX" };
    eprintln!("traffic control by {by}: {packets} packets, all counted");
    Ok(())
}
