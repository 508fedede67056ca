//! `afxdp`: what it costs to take packets past the kernel's stack, beside other ways to meter them.

use anyhow::Result;
use clap::Args;

use super::{Plan, Runs, chosen, compare, subject::Subject};

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
    /// CPU of whoever reads packets, and of the collector
    #[arg(long, value_name = "N", default_value_t = 1)]
    reader_cpu: usize,
    #[command(flatten)]
    runs: Runs,
}

pub(crate) fn run(args: &AfxdpArgs) -> Result<()> {
    compare(&Plan {
        subjects: chosen(Subject::ways(), &args.runs.only)?,
        flows: &args.flows,
        rates: &[0],
        exporter_cpu: args.reader_cpu,
        runs: &args.runs,
    })
}
