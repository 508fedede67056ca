//! What is done with this repository besides `cargo build`: see `cargo xtask --help`.

mod bench;
mod cache;
mod captures;
mod demo;
mod ebpf;
mod fuzz;
mod interrupt;
mod setup;
mod test;
mod vm;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the kernel half and write the object that is committed, or check that it is current
    BuildEbpf(ebpf::Args),
    /// Install what `test` needs on a Debian machine (as root), or say what is missing
    Setup,
    /// Measure flowprobe, beside the usual designs (as root)
    Bench(bench::Args),
    /// Show the whole path on this machine: hosts, gateway, traffic, flows, ledger (as root)
    Demo(demo::Args),
    /// Boot other kernels in guests, and see whether flowprobe counts on them (as root)
    Vm(vm::Args),
    /// Try the parser on frames that nobody thought of, and stop at the first rule that it breaks
    Fuzz(fuzz::Args),
    /// Everything that continuous integration checks
    Test(test::Args),
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::BuildEbpf(args) => ebpf::run(&args),
        Task::Setup => setup::run(),
        Task::Bench(args) => bench::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Test(args) => test::run(&args),
    }
}
