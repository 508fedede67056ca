//! `test`: everything that continuous integration checks, stage by stage.

use std::time::Instant;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use crate::{
    ebpf::{self, Variant},
    fuzz, setup, vm,
    workspace::{self, cargo},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to `cargo nextest run`, for example a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    stage("setup", setup::run)?;
    stage("format", || call(&["fmt", "--all", "--check"]))?;
    // The lints of the kernel half are those of its build, with warnings denied: Debian's
    // compiler comes without clippy, and its library is linted here like any other.
    stage("lint", || {
        call(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-Dwarnings",
        ])?;
        let target = ["--package", "flowprobe-tests", "--bin", "parse"];
        let lint = ["clippy", "--quiet", "--features", "fuzz"];
        call(&[&lint[..], &target, &["--", "-Dwarnings"]].concat())
    })?;
    stage("eBPF object", ebpf::check)?;
    stage("eBPF variants", || {
        Variant::value_variants()
            .iter()
            .try_for_each(|variant| ebpf::build_variant(*variant).map(drop))
    })?;
    stage("eBPF programs of the benchmark", || {
        ebpf::build_program("flowprobe-bench", "flowprobe-bench-bpf").map(drop)
    })?;
    stage("build", || {
        call(&["build", "--quiet", "--package", "flowprobe"])
    })?;
    stage("guest", || vm::run(&vm::Args::default()))?;
    stage("fuzz", || fuzz::run(&fuzz::Args::default()))?;
    // The last lines are nextest's own summary, with its time.
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--workspace"]);
    workspace::run(nextest.args(&args.nextest)).context("stage `test` failed")
}

fn call(args: &[&str]) -> Result<()> {
    workspace::run(cargo().args(args))
}

/// Runs one stage and says how long it took, on stderr, where cargo and nextest write too.
fn stage(name: &str, run: impl FnOnce() -> Result<()>) -> Result<()> {
    eprintln!("stage `{name}`");
    let start = Instant::now();
    let result = run();
    let seconds = start.elapsed().as_secs_f64();
    eprintln!("stage `{name}`: {seconds:.1} s");
    result.with_context(|| format!("stage `{name}` failed"))
}
