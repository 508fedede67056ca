//! `build-ebpf`: from the sources of flowprobe-ebpf to the object that flowprobe embeds.
//!
//! The object is committed, so that `cargo build` needs nothing but stable Rust, and beside it
//! a manifest of what it was built from, so that a forgotten rebuild is found without the
//! toolchain.

mod sources;
mod toolchain;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;

use self::toolchain::Toolchain;
use crate::workspace::{self, root};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Change nothing; fail if the committed object is not what the sources give
    #[arg(long, conflicts_with = "variant")]
    check: bool,
    /// Build a variant for tests instead, to target/ebpf/NAME.o
    #[arg(long, value_name = "NAME")]
    variant: Option<Variant>,
}

/// A build of the program that is never committed.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Variant {
    /// Waits between matching a flow and updating it
    WidenWindow,
    /// Compares the cached clock with ktime at each packet
    CheckClock,
    /// Logs what it ignores
    Log,
}

impl Variant {
    /// The feature of flowprobe-ebpf, which is the name of the object too.
    fn name(self) -> &'static str {
        match self {
            Self::WidenWindow => "widen-window",
            Self::CheckClock => "check-clock",
            Self::Log => "log",
        }
    }
}

fn object() -> PathBuf {
    root().join("flowprobe/ebpf/flowprobe.bpf.o")
}

fn manifest() -> PathBuf {
    object().with_extension("sha256")
}

pub(crate) fn run(args: &Args) -> Result<()> {
    match args.variant {
        Some(variant) => build_variant(variant).map(drop),
        None if args.check => check(),
        None => commit(),
    }
}

/// Whether all that `build-ebpf` needs is installed.
pub(crate) fn toolchain_is_complete() -> bool {
    Toolchain::find().is_ok()
}

/// Builds a variant and returns its path.
pub(crate) fn build_variant(variant: Variant) -> Result<PathBuf> {
    let built = build(&Toolchain::find()?, &Program::flowprobe(variant.name()))?;
    let to = workspace::target()
        .join("ebpf")
        .join(variant.name())
        .with_extension("o");
    write(&to, &built)?;
    println!("wrote {}", to.display());
    Ok(to)
}

/// Builds a program of `package` as its sources are, and returns its path.
pub(crate) fn build_program(package: &str, bin: &str) -> Result<PathBuf> {
    let program = Program {
        package,
        bin,
        feature: PLAIN,
    };
    let built = build(&Toolchain::find()?, &program)?;
    let to = workspace::target()
        .join("ebpf")
        .join(bin)
        .with_extension("o");
    write(&to, &built)?;
    Ok(to)
}

fn commit() -> Result<()> {
    let toolchain = Toolchain::find()?;
    let built = build(&toolchain, &Program::flowprobe(PLAIN))?;
    write(&object(), &built)?;
    let text = sources::manifest(&toolchain.versions()?, &built)?;
    write(&manifest(), text.as_bytes())?;
    println!("wrote {} ({} octets)", object().display(), built.len());
    Ok(())
}

/// Fails with the reason when the committed object is stale.
pub(crate) fn check() -> Result<()> {
    let recorded = fs::read_to_string(manifest())
        .with_context(|| format!("{}: run `cargo xtask build-ebpf`", manifest().display()))?;
    let committed = fs::read(object()).with_context(|| object().display().to_string())?;
    let differing = sources::differing(&recorded, &committed)?;
    ensure!(
        differing.is_empty(),
        "the committed eBPF object is stale, since these have changed: {}. \
         Run `cargo xtask build-ebpf` and commit the result",
        differing.join(", ")
    );
    let toolchain = Toolchain::find()?;
    let built = build(&toolchain, &Program::flowprobe(PLAIN))?;
    let versions = toolchain.versions()?;
    if sources::toolchain(&recorded) != Some(versions.as_str()) {
        println!(
            "the committed object is current; it was built with {}, so it is not compared \
             with what {versions} gives",
            sources::toolchain(&recorded).unwrap_or("another toolchain"),
        );
        return Ok(());
    }
    if built != committed {
        let other = workspace::target().join("ebpf/flowprobe.o");
        write(&other, &built)?;
        bail!(
            "the committed eBPF object is not what its sources give: compare {} with {}, or run \
             `cargo xtask build-ebpf` and commit the result",
            object().display(),
            other.display()
        );
    }
    println!("the committed object is current, octet for octet");
    Ok(())
}

/// The feature that has the programs and nothing else.
const PLAIN: &str = "program";

/// A binary that is a BPF object.
struct Program<'a> {
    package: &'a str,
    bin: &'a str,
    feature: &'a str,
}

impl<'a> Program<'a> {
    fn flowprobe(feature: &'a str) -> Self {
        Self {
            package: "flowprobe-ebpf",
            bin: "flowprobe-bpf",
            feature,
        }
    }
}

/// Compiles, links and strips; what is left is code, maps and BTF.
fn build(toolchain: &Toolchain, program: &Program<'_>) -> Result<Vec<u8>> {
    eprintln!(
        "building {} ({}) with {toolchain}",
        program.bin, program.feature
    );
    let target = workspace::target().join("bpf");
    let mut cargo = toolchain.cargo();
    cargo.args(["build", "--quiet", "--locked"]);
    cargo.args(["--package", program.package, "--bin", program.bin]);
    cargo.args(["--features", program.feature, "--profile", "bpf"]);
    cargo.args(["--target", toolchain::TARGET, "--target-dir"]);
    cargo.arg(&target);
    workspace::run(&mut cargo).with_context(|| format!("building {} for BPF", program.package))?;

    let linked = target.join(toolchain::TARGET).join("bpf").join(program.bin);
    let stripped = linked.with_extension("stripped");
    toolchain.strip(&linked, &stripped)?;
    let built = fs::read(&stripped)?;
    let home = workspace::cargo_home();
    for place in [root(), home.as_path()] {
        let place = place.as_os_str().as_encoded_bytes();
        ensure!(
            !built.windows(place.len()).any(|octets| octets == place),
            "{} names directories of this machine",
            stripped.display()
        );
    }
    Ok(built)
}

fn write(path: &Path, octets: &[u8]) -> Result<()> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    fs::write(path, octets).with_context(|| path.display().to_string())
}
