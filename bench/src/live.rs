//! `live`: flowprobe and other exporters on the same live traffic.
//!
//! Millions of frames a second go into a veth; one exporter after the other meters its other end and
//! sends NetFlow v5 to a collector that adds up what the records say. What the veth has received is the
//! truth: what of that is in no record is lost. The generator and all that the kernel does with a frame
//! until it is metered are on one CPU, the exporter and the collector on another.

pub(crate) mod bypass;
mod collector;
mod cost;
pub(crate) mod ring;
mod subject;

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowprobe::adaptive::runtime::Window;
use flowprobe_tests::{
    bpf::enable_stats,
    live::{Live, pin_to_cpu},
    packets::Ip,
    topology::{Pair, Wire},
};
use serde_json::{Value, json};

pub(crate) use self::{bypass::AfxdpArgs, ring::RingArgs};
use self::{
    collector::Collector,
    cost::Cost,
    subject::{Running, Subject},
};
use crate::timing::{settle, thread_cpu_ns};

/// flowprobe and other exporters on the same live traffic
///
/// Loss is what the interface has received and no record says. User and system time are those of the
/// exporter; sender is the time of the generator's thread, in which the kernel also receives and meters:
/// that of "nobody" is the generator's own. Of flowprobe the run time of its BPF program is told too, from
/// rounds of their own, without what counting it takes. All times are CPU seconds per million packets.
#[derive(Args)]
pub(crate) struct LiveArgs {
    /// Flows, each a power of two
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 1 << 13, 1 << 20])]
    flows: Vec<u32>,
    /// Packets a second; 0 is as fast as it goes
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1_000_000, 0])]
    rates: Vec<u64>,
    /// CPU of the exporter and the collector
    #[arg(long, value_name = "N", default_value_t = 1)]
    exporter_cpu: usize,
    #[command(flatten)]
    runs: Runs,
}

/// What all comparisons are told.
#[derive(Args)]
struct Runs {
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Frames between two looks at the clock.
const STEP: u64 = 1 << 15;

/// What a run came to.
struct Run {
    received: u64,
    counted: u64,
    records: u64,
    /// Of the exporter.
    cost: Cost,
    sender_s: f64,
    seconds: f64,
    /// Of the BPF program: runs, and seconds in all.
    program: Option<(u64, f64)>,
}

impl Run {
    /// The part of what was received that is in no record.
    fn loss(&self) -> f64 {
        1.0 - self.counted as f64 / self.received.max(1) as f64
    }

    fn per_million(&self, seconds: f64) -> f64 {
        seconds * 1e6 / self.received.max(1) as f64
    }
}

/// What is compared, and how.
struct Plan<'a> {
    subjects: Vec<Subject>,
    flows: &'a [u32],
    rates: &'a [u64],
    exporter_cpu: usize,
    runs: &'a Runs,
}

pub(crate) fn run(args: &LiveArgs) -> Result<()> {
    compare(&Plan {
        subjects: chosen(Subject::exporters(), &args.runs.only)?,
        flows: &args.flows,
        rates: &args.rates,
        exporter_cpu: args.exporter_cpu,
        runs: &args.runs,
    })
}

/// Those that are named, or all.
fn chosen(subjects: Vec<Subject>, only: &[String]) -> Result<Vec<Subject>> {
    for name in only {
        let known = subjects.iter().any(|subject| subject.name == name);
        ensure!(known, "--only {name}: there is no such thing here");
    }
    let is_chosen = |subject: &Subject| only.is_empty() || only.iter().any(|n| n == subject.name);
    Ok(subjects.into_iter().filter(is_chosen).collect())
}

fn compare(plan: &Plan<'_>) -> Result<()> {
    for flows in plan.flows {
        ensure!(flows.is_power_of_two(), "{flows} flows: not a power of two");
    }
    // What is started stays there.
    settle(plan.exporter_cpu, 0)?;
    let window = Window::new().context("run time of BPF programs")?;
    let mut cases = Vec::new();
    for &flows in plan.flows {
        for &rate in plan.rates {
            let packets = plan.runs.packets.max(8 * u64::from(flows));
            let packets = packets.next_multiple_of(STEP.max(flows.into()));
            let load = Load {
                flows,
                rate,
                packets,
            };
            let case = case(plan, &load, &window)?;
            if !plan.runs.json {
                print(&load, &case);
            }
            cases.push(json!({
                "flows": flows, "rate": rate, "packets": packets, "results": case,
            }));
        }
    }
    if plan.runs.json {
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "cases": cases }))?
        );
    }
    Ok(())
}

/// All on the same load, in turns.
fn case(plan: &Plan<'_>, load: &Load, window: &Window) -> Result<Vec<Value>> {
    let mut runs: Vec<Vec<Run>> = plan.subjects.iter().map(|_| Vec::new()).collect();
    let mut programs: Vec<Vec<f64>> = plan.subjects.iter().map(|_| Vec::new()).collect();
    for _ in 0..plan.runs.rounds {
        for (at, subject) in plan.subjects.iter().enumerate() {
            if !subject.is_installed() {
                continue;
            }
            let told = || format!("{}, {} flows", subject.name, load.flows);
            runs[at].push(meter(plan.runs.cpu, load, subject, false).with_context(told)?);
            if !subject.has_program {
                continue;
            }
            let counted = meter(plan.runs.cpu, load, subject, true).with_context(told)?;
            if let Some((times, seconds)) = counted.program {
                let own = seconds - times as f64 * window.overhead_ns() / 1e9;
                programs[at].push(own.max(0.0) * 1e6 / times.max(1) as f64);
            }
        }
    }
    let summaries = plan.subjects.iter().zip(&runs).zip(&mut programs);
    Ok(summaries
        .map(|((subject, runs), programs)| {
            programs.sort_unstable_by(f64::total_cmp);
            summary(subject, runs, programs.get(programs.len() / 2).copied())
        })
        .collect())
}

/// What is sent.
struct Load {
    flows: u32,
    rate: u64,
    packets: u64,
}

/// Has an exporter meter the load; `counted` asks the kernel what its program takes, which costs.
fn meter(cpu: usize, load: &Load, subject: &Subject, counted: bool) -> Result<Run> {
    let pair = Pair::new(Wire::default())?;
    // A veth takes live frames where its peer has a program of XDP, or GRO.
    let status = pair
        .sensor
        .command("ethtool")
        .args(["-K", Pair::SENSOR, "gro", "on"])
        .status()
        .context("ethtool")?;
    ensure!(status.success(), "ethtool -K gro on: {status}");
    let collector = Collector::start(&pair.sensor)?;
    let exporter = subject.start(&pair.sensor, collector.port(), load.flows)?;
    let statistics = counted.then(enable_stats).transpose()?;
    let packet = Ip::new("198.18.0.1", "198.19.0.1").udp(0, 0, 18);
    let live = Live::new(&pair.generator, Pair::GENERATOR, packet, 0, load.flows)?;
    let received = || anyhow::Ok(pair.sensor.counters(Pair::SENSOR)?.rx_packets);
    let before = received()?;
    let idle = exporter.as_ref().map(Running::cost).transpose()?;
    let (sender_s, seconds) = send(cpu, &pair, &live, load)?;
    // What waits in sockets is read, and flows are over.
    let end = Instant::now() + 3 * Duration::from_secs(subject::IDLE.into());
    thread::sleep(Duration::from_millis(500));
    let received = received()? - before;
    while subject.counts && collector.packets() < received && Instant::now() < end {
        thread::sleep(Duration::from_millis(100));
    }
    let program = match (&exporter, &statistics) {
        (Some(exporter), Some(_)) => exporter.program()?,
        _ => None,
    };
    drop(statistics);
    let (cost, own) = match exporter {
        Some(exporter) => exporter.stop()?,
        None => (Cost::default(), None),
    };
    let (counted, records) = own.map_or_else(|| collector.stop(), Ok)?;
    Ok(Run {
        received,
        counted,
        records,
        cost: cost.since(idle.unwrap_or_default()),
        sender_s,
        seconds,
        program,
    })
}

/// Sends, on a CPU of its own; returns what its thread took of that, and how long it was.
fn send(cpu: usize, pair: &Pair, live: &Live, load: &Load) -> Result<(f64, f64)> {
    let sending = || {
        pin_to_cpu(cpu)?;
        let (cpu_ns, start) = (thread_cpu_ns()?, Instant::now());
        let step = match load.rate {
            0 => load.packets,
            _ => STEP.next_multiple_of(load.flows.into()).min(load.packets),
        };
        let mut sent = 0;
        while sent < load.packets {
            live.send_here(step.min(load.packets - sent))?;
            sent += step;
            if load.rate > 0 {
                let due = Duration::from_secs_f64(sent as f64 / load.rate as f64);
                thread::sleep(due.saturating_sub(start.elapsed()));
            }
        }
        anyhow::Ok((
            (thread_cpu_ns()? - cpu_ns) as f64 / 1e9,
            start.elapsed().as_secs_f64(),
        ))
    };
    pair.generator.run(sending)?
}

fn median(runs: &[Run], of: impl Fn(&Run) -> f64) -> f64 {
    let mut values: Vec<f64> = runs.iter().map(of).collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

fn summary(subject: &Subject, runs: &[Run], program: Option<f64>) -> Value {
    if runs.is_empty() {
        return json!({ "name": subject.name, "installed": false });
    }
    let user = median(runs, |run| run.per_million(run.cost.user_s));
    let mut summary = json!({
        "name": subject.name,
        "installed": true,
        "received": median(runs, |run| run.received as f64),
        "packets_a_second": median(runs, |run| run.received as f64 / run.seconds),
        "user_s": user,
        "system_s": median(runs, |run| run.per_million(run.cost.system_s)),
        "sender_s": median(runs, |run| run.per_million(run.sender_s)),
    });
    if subject.counts {
        let loss = runs.iter().map(Run::loss).fold(f64::MIN, f64::max);
        summary["loss_max"] = loss.into();
        summary["records"] = median(runs, |run| run.records as f64).into();
    }
    if let Some(program) = program {
        summary["program_s"] = program.into();
        summary["user_and_program_s"] = (user + program).into();
    }
    summary
}

fn print(load: &Load, exporters: &[Value]) {
    let rate = match load.rate {
        0 => "as fast as it goes".to_owned(),
        rate => format!("{rate} packets/s"),
    };
    println!("{} flows, {} packets, {rate}", load.flows, load.packets);
    println!(
        "                  M/s     loss %    user  system  sender  program   (s of CPU per million packets)"
    );
    for exporter in exporters {
        let name = exporter["name"].as_str().unwrap_or_default();
        if exporter["installed"] == false {
            println!("  {name:<12} not installed");
            continue;
        }
        let number = |name: &str| exporter[name].as_f64();
        let text = |value: Option<f64>, digits: usize, width: usize| match value {
            Some(value) => format!("{value:>width$.digits$}"),
            None => format!("{:>width$}", "-"),
        };
        println!(
            "  {name:<12} {} {} {} {} {} {}",
            text(number("packets_a_second").map(|rate| rate / 1e6), 2, 7),
            text(number("loss_max").map(|loss| loss * 100.0), 4, 10),
            text(number("user_s"), 3, 7),
            text(number("system_s"), 3, 7),
            text(number("sender_s"), 3, 7),
            text(number("program_s"), 3, 8),
        );
    }
}
