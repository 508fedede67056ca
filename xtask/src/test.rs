//! `test`: everything that continuous integration checks, stage by stage.

use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum as _;
use flowprobe_tests::netns;

use crate::{
    ebpf::{self, Variant},
    fuzz, setup,
    vm::{self, suite},
    workspace::{self, cargo},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Run the tests that need network namespaces in guests with this kernel, for example 7.3, and
    /// not here. This is the default, with 7.3, where the machine cannot make namespaces
    #[arg(long, value_name = "SERIES", conflicts_with = "nextest")]
    guest: Option<String>,
    /// Passed on to `cargo nextest run`, for example a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}

/// The kernel of guests where none is asked for.
const GUEST: &str = "7.3";

pub(crate) fn run(args: &Args) -> Result<()> {
    if let Some(series) = &args.guest {
        suite::check(series)?;
    }
    stage("setup", setup::run)?;
    let guest = args.guest.clone().or_else(|| {
        let reason = netns::refusal()?;
        eprintln!(
            "this machine makes no network namespaces ({reason}): running those tests in guests"
        );
        Some(GUEST.to_owned())
    });
    ensure!(
        guest.is_none() || args.nextest.is_empty(),
        "arguments for nextest do not go to guests: leave them out"
    );
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
    stage("fuzz", || fuzz::run(&fuzz::Args::default()))?;
    // The last lines are nextest's own summary, with its time.
    let mut nextest = cargo();
    nextest.args(["nextest", "run", "--workspace"]);
    if let Some(series) = &guest {
        stage("tests in guests", || suite::run(series))?;
        nextest.args(["-E", &suite::others()]);
    } else {
        stage("guest", || vm::run(&vm::Args::default()))?;
    }
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
