//! `afxdp`: what it costs to take packets past the kernel's stack, beside other ways to meter them.

use anyhow::Result;
use clap::Args;

use super::{Plan, chosen, compare, subject::Subject};

/// What a packet costs with AF_XDP, beside other ways
///
/// The same live traffic as in `live`, as fast as it goes, by flows: a program of XDP that drops all (what
/// the veth can do), a packet socket's ring (TPACKET_V3) read into flowprobe's table, `flowprobe run` with
/// its tables in the kernel, and with AF_XDP. What is in no record is lost, in rings or anywhere else.
#[derive(Args)]
pub(crate) struct AfxdpArgs {
    /// Flows, each a power of two
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 1 << 16, 1 << 20, 1 << 22])]
    flows: Vec<u32>,
    /// Packets of each run; with more flows there are 8 of each
    #[arg(long, value_name = "N", default_value_t = 1 << 23)]
    packets: u64,
    /// Rounds; the median is told, and the most of losses
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// These only
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// CPU of the generator, and of the kernel's work on a frame
    #[arg(long, value_name = "N", default_value_t = 0)]
    cpu: usize,
    /// CPU of whoever reads packets, and of the collector
    #[arg(long, value_name = "N", default_value_t = 1)]
    reader_cpu: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &AfxdpArgs) -> Result<()> {
    compare(&Plan {
        subjects: chosen(Subject::ways(), &args.only)?,
        flows: &args.flows,
        rates: &[0],
        packets: args.packets,
        rounds: args.rounds,
        cpu: args.cpu,
        exporter_cpu: args.reader_cpu,
        json: args.json,
    })
}
