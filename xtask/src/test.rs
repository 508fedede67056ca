//! `test`: everything that continuous integration checks, stage by stage.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use crate::{
    ebpf::{self, Variant},
    setup,
    workspace::{self, cargo},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed on to `cargo nextest run`, for example a filter
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    nextest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let mut stages = Stages::default();
    stages.run("setup", setup::run)?;
    stages.run("format", || call(&["fmt", "--all", "--check"]))?;
    // The lints of the kernel half are those of its build, with warnings denied: Debian's
    // compiler comes without clippy, and its library is linted here like any other.
    stages.run("lint", || {
        call(&[
            "clippy",
            "--quiet",
            "--workspace",
            "--all-targets",
            "--",
            "-Dwarnings",
        ])
    })?;
    stages.run("eBPF object", ebpf::check)?;
    stages.run("eBPF variants", || {
        Variant::value_variants()
            .iter()
            .try_for_each(|variant| ebpf::build_variant(*variant).map(drop))
    })?;
    stages.run("build", || {
        call(&["build", "--quiet", "--package", "flowprobe"])
    })?;
    stages.run("test", || {
        let mut nextest = cargo();
        nextest.args(["nextest", "run", "--workspace"]);
        workspace::run(nextest.args(&args.nextest))
    })?;
    stages.report();
    Ok(())
}

fn call(args: &[&str]) -> Result<()> {
    workspace::run(cargo().args(args))
}

/// How long each stage took.
#[derive(Default)]
struct Stages(Vec<(&'static str, Duration)>);

impl Stages {
    fn run(&mut self, name: &'static str, stage: impl FnOnce() -> Result<()>) -> Result<()> {
        // On stderr, where cargo and nextest write, so that the order holds.
        eprintln!("── {name}");
        let start = Instant::now();
        let result = stage();
        self.0.push((name, start.elapsed()));
        if result.is_err() {
            self.report();
        }
        result.with_context(|| format!("stage `{name}` failed"))
    }

    fn report(&self) {
        let stages: Vec<String> = self
            .0
            .iter()
            .map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64()))
            .collect();
        eprintln!("stages: {}", stages.join(", "));
    }
}
