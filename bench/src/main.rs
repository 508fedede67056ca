//! Benchmarks of flowprobe. `cargo xtask bench` builds the BPF objects and runs this.

mod clock;
mod dispatcher;
mod export;
mod live;
mod measure;
mod meter;
mod object_file;
mod packet;
mod pcap;
mod report;
mod subject;
mod table;
mod timing;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    benchmark: Benchmark,
}

#[derive(Subcommand)]
enum Benchmark {
    Packet(packet::PacketArgs),
    Clock(clock::ClockArgs),
    Export(export::ExportArgs),
    Table(table::TableArgs),
    Pcap(pcap::PcapArgs),
    Live(live::LiveArgs),
    Afxdp(live::AfxdpArgs),
    /// What `afxdp` starts
    #[command(hide = true)]
    PacketRing(live::RingArgs),
}

fn main() -> ExitCode {
    let result = match Cli::parse().benchmark {
        Benchmark::Packet(args) => packet::run(args),
        Benchmark::Clock(args) => clock::run(&args),
        Benchmark::Export(args) => export::run(&args),
        Benchmark::Table(args) => table::run(&args),
        Benchmark::Pcap(args) => pcap::run(&args),
        Benchmark::Live(args) => live::run(&args),
        Benchmark::Afxdp(args) => live::bypass::run(&args),
        Benchmark::PacketRing(args) => live::ring::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
