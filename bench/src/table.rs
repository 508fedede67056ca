//! `table`: what a packet costs in the flow table of captures, alone and in bursts.
//!
//! Packets are those of random flows, made as they go. Both ways are measured in turns, in one run and
//! over the same table, so that their ratio holds on a machine that others use too. Times are those of
//! this thread's CPU.

use std::time::Duration;

use anyhow::{Result, ensure};
use flowprobe::{
    record::EndReason,
    table::{
        Flow, LocalTable, Timeouts,
        local::{BURST, Leave},
    },
};
use flowprobe_ebpf::{Addresses, Parsed, flow::Macs, hash::SECRET_WORDS, wire::protocol};

use crate::timing::thread_cpu_ns;

/// Measure a packet in the table of captures.
#[derive(clap::Args)]
pub(crate) struct TableArgs {
    /// Flows in the table
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1 << 16, 1 << 20, 1 << 22])]
    flows: Vec<u32>,
    /// Rounds of each; the least and the median are told
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Packets of a round.
const PACKETS: u64 = 4_000_000;
/// Nanoseconds between two packets: the flows go on for longer than all rounds.
const GAP_NS: u64 = 1;

/// Nobody: no flow leaves while it is measured.
#[derive(Default)]
struct Left(u64);

impl Leave for Left {
    fn leave(&mut self, _: &Flow, _: EndReason) {
        self.0 += 1;
    }
}

/// A table, and packets for it.
struct Load {
    table: LocalTable,
    parsed: Parsed,
    left: Left,
    at_ns: u64,
    /// Marsaglia's xorshift64.
    state: u64,
}

impl Load {
    /// All flows, once.
    fn new(flows: u32) -> Self {
        let timeouts = Timeouts {
            idle: Duration::from_secs(3600),
            active: Duration::from_secs(3600),
            linger: Duration::from_secs(1),
        };
        let secret = std::array::from_fn::<u64, SECRET_WORDS, _>(|i| spread(i as u64 + 1));
        let mut parsed = Parsed::EMPTY;
        parsed.packet.protocol = protocol::UDP;
        parsed.packet.octets = 100;
        parsed.around.version = 4;
        let mut load = Self {
            table: LocalTable::new(flows, timeouts.into(), secret),
            parsed,
            left: Left::default(),
            at_ns: 0,
            state: 1,
        };
        for flow in 0..flows {
            load.packet(flow);
        }
        load.table.settle(&mut load.left);
        load
    }

    fn packet(&mut self, flow: u32) {
        self.at_ns += GAP_NS;
        self.parsed.packet.addresses = Addresses::V4(spread(flow.into()));
        let (parsed, left) = (&self.parsed, &mut self.left);
        self.table
            .push(parsed, 0, Macs::default(), self.at_ns, left);
    }

    fn random(&mut self, flows: u32) -> u32 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (((self.state >> 32) * u64::from(flows)) >> 32) as u32
    }

    /// Nanoseconds of a packet in a round of which `burst` wait at most.
    fn round(&mut self, flows: u32, burst: usize) -> Result<f64> {
        let start_ns = thread_cpu_ns()?;
        for n in 0..PACKETS {
            let flow = self.random(flows);
            self.packet(flow);
            if burst == 1 || n + 1 == PACKETS {
                self.table.settle(&mut self.left);
            }
        }
        Ok((thread_cpu_ns()? - start_ns) as f64 / PACKETS as f64)
    }
}

/// Different numbers for different ones, all over the 64 bits.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(crate) fn run(args: &TableArgs) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds 0 measures nothing");
    let mut rows = Vec::new();
    for &flows in &args.flows {
        let mut load = Load::new(flows);
        let octets = load.table.peak_octets() as f64 / f64::from(flows.max(1));
        let mut ns = [1, BURST].map(|burst| (burst, Vec::new()));
        for _ in 0..args.rounds {
            for (burst, rounds) in &mut ns {
                rounds.push(load.round(flows, *burst)?);
            }
        }
        ensure!(load.left.0 == 0, "{} flows left meanwhile", load.left.0);
        let mut row = serde_json::json!({ "flows": flows, "octets_a_flow": octets });
        for (burst, mut rounds) in ns {
            rounds.sort_unstable_by(f64::total_cmp);
            let (least, median) = (rounds[0], rounds[rounds.len() / 2]);
            row[format!("burst_{burst}")] =
                serde_json::json!({ "min_ns": least, "median_ns": median });
            if !args.json {
                println!(
                    "{flows:>8} flows, {burst:>2} packets at once: {least:6.1} ns a packet (median \
                     {median:.1}); {octets:.0} octets a flow"
                );
            }
        }
        rows.push(row);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    Ok(())
}
