//! `demo`: flowprobe on a gateway between two hosts, on a machine that needs no NIC.

mod report;
mod traffic;

use std::{path::Path, thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::{
    bpf,
    collector::{Collector, Received},
    probe::{Finished, Probe},
    topology::Routed,
};

use crate::{
    interrupt,
    workspace::{self, cargo},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Print one JSON object with `ledger`, `flows`, `balanced`, and nothing else
    #[arg(long)]
    json: bool,
}

/// What the demonstration showed.
struct Shown {
    finished: Finished,
    received: Received,
    cost: Cost,
}

/// What the program cost while it ran.
#[derive(Clone, Copy)]
struct Cost {
    packets: u64,
    nanoseconds: u64,
}

impl Shown {
    /// What does not add up, from the wire to the collector.
    fn errors(&self) -> Vec<String> {
        let summary = &self.finished.summary;
        let mut errors = summary.ledger.errors();
        errors.extend(self.received.errors.iter().cloned());
        let mut equal = |name: &str, left: u64, right: u64| {
            if left != right {
                errors.push(format!("{name}: {left} is not {right}"));
            }
        };
        let exported = summary.ledger.exported;
        let collected = self.received.truth().total();
        let wire = summary.interfaces.iter().map(|port| port.rx_packets).sum();
        equal(
            "seen = received by the interfaces",
            summary.ledger.seen.packets,
            wire,
        );
        equal(
            "packets exported = collected",
            exported.packets,
            collected.packets,
        );
        equal(
            "octets exported = collected",
            exported.octets,
            collected.octets,
        );
        equal(
            "records missing in the sequence",
            self.received.missing(),
            0,
        );
        errors
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    interrupt::watch()?;
    workspace::run(cargo().args(["build", "--quiet", "--package", "flowprobe"]))?;
    let binary = workspace::target().join("debug/flowprobe");
    let shown = show(&binary)?;
    if args.json {
        println!("{}", report::json(&shown));
    } else {
        report::print(&shown);
    }
    let errors = shown.errors();
    ensure!(
        errors.is_empty(),
        "the ledger does not balance: {}",
        errors.join("; ")
    );
    Ok(())
}

/// Whatever ends this, an error, a panic or Ctrl-C, the guards take down what they set up.
fn show(binary: &Path) -> Result<Shown> {
    eprintln!("client ── gateway ── server, in namespaces of their own");
    let network = Routed::new()?;
    // On the gateway's loopback, so that the export is not among the traffic.
    let collector = Collector::start(&network.gateway, "127.0.0.1:4739", false)?;
    let counting = bpf::enable_stats()?;
    let url = collector.url();
    let interfaces = ["-i", Routed::LAN, "-i", Routed::WAN];
    let arguments = [&interfaces[..], &["--collector", &url]].concat();
    let probe = Probe::start_binary(binary, &network.gateway, &arguments)?;
    interrupt::check()?;

    eprintln!(
        "flowprobe meters {} and {}; sending",
        Routed::LAN,
        Routed::WAN
    );
    traffic::run(&network)?;
    // Closing a TCP connection takes a few packets more than the programs wait for.
    thread::sleep(Duration::from_millis(200));
    interrupt::check()?;

    let (packets, nanoseconds) = probe.cost()?;
    let finished = probe.stop().context("flowprobe")?;
    drop(counting);
    Ok(Shown {
        finished,
        received: collector.stop(),
        cost: Cost {
            packets,
            nanoseconds,
        },
    })
}
