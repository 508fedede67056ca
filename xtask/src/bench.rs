//! `bench`: builds what is measured from the sources as they are, and runs the benchmark.

use std::{ffi::OsString, os::unix::process::CommandExt as _, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    ebpf::{self, Variant},
    workspace::{self, cargo},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(clap::Subcommand)]
enum Benchmark {
    /// What one packet costs in flowprobe and in baselines, or in any other object (as root)
    #[command(disable_help_flag = true)]
    Packet(Rest),
    /// How far the time that packets are stamped with lags behind the clock (as root)
    #[command(disable_help_flag = true)]
    Clock(Rest),
    /// What a record costs from the table to a collector (as root)
    #[command(disable_help_flag = true)]
    Export(Rest),
    /// What a packet costs in the flow table of captures
    #[command(disable_help_flag = true)]
    Table(Rest),
    /// `flowprobe pcap` beside softflowd and nfpcapd
    #[command(disable_help_flag = true)]
    Pcap(Rest),
    /// flowprobe and other exporters on the same live traffic (as root)
    #[command(disable_help_flag = true)]
    Live(Rest),
    /// What a packet costs with AF_XDP, beside other ways to meter it (as root)
    #[command(disable_help_flag = true)]
    Afxdp(Rest),
}

#[derive(clap::Args)]
struct Rest {
    /// Passed on to flowprobe-bench; --help tells more
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<OsString>,
}

/// Builds in release and becomes the benchmark.
pub(crate) fn run(args: &Args) -> Result<()> {
    let program = || ebpf::build_program("flowprobe-ebpf", "flowprobe-bpf");
    let (name, rest, flowprobe) = match &args.benchmark {
        Benchmark::Packet(rest) => ("packet", rest, Some(program()?)),
        Benchmark::Export(rest) => ("export", rest, Some(program()?)),
        Benchmark::Clock(rest) => {
            let variant = ebpf::build_variant(Variant::CheckClock)?;
            ("clock", rest, Some(variant))
        }
        // No BPF in it.
        Benchmark::Table(rest) => ("table", rest, None),
        Benchmark::Pcap(rest) => ("pcap", rest, None),
        // The objects are in the binary.
        Benchmark::Live(rest) => ("live", rest, None),
        Benchmark::Afxdp(rest) => ("afxdp", rest, None),
    };
    let mut build = cargo();
    build.args(["build", "--quiet", "--locked", "--release"]);
    build.args(["--package", "flowprobe-bench"]);
    if let Benchmark::Pcap(_) | Benchmark::Live(_) | Benchmark::Afxdp(_) = &args.benchmark {
        build.args(["--package", "flowprobe"]);
    }
    workspace::run(&mut build)?;

    let mut bench = Command::new(binary());
    bench.arg(name);
    if let Some(flowprobe) = flowprobe {
        let programs = ebpf::build_program("flowprobe-bench", "flowprobe-bench-bpf")?;
        bench.arg("--bench-object").arg(programs);
        bench.arg("--flowprobe-object").arg(flowprobe);
    }
    let error = bench.args(&rest.args).exec();
    Err(error).with_context(|| binary().display().to_string())
}

fn binary() -> PathBuf {
    workspace::target().join("release/flowprobe-bench")
}
