//! `flowprobe-bench packet`: what one packet costs in an XDP or TC program.

use std::{fs, path::PathBuf, str::FromStr, sync::Arc};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowprobe::load::OBJECT;
use flowprobe_bench::{FRAMES, Frame};

use crate::{
    dispatcher::{Dispatcher, Kind},
    measure::{Cell, Settings, measure},
    object_file::Edits,
    report::Report,
    subject::Subject,
    timing::settle,
};

/// Rounds of a quick look.
const QUICK_ROUNDS: u32 = 3;

/// What one packet costs in flowprobe, in baselines of the usual design, or in any other object
///
/// Each run is BPF_PROG_TEST_RUN of a dispatcher that writes the number of a flow into a 64-octet
/// UDP packet and tail-calls the program; nothing is attached. The programs run in turn, round by
/// round. Times are of the running thread's CPU clock, in nanoseconds per packet, dispatcher
/// included: `empty` is the dispatcher with an empty program behind it, and "net" is the
/// difference. A cell counts only if every packet was accounted.
#[derive(Args)]
pub(crate) struct PacketArgs {
    /// Measure this object instead of flowprobe and the baselines
    #[arg(long, requires = "prog")]
    obj: Option<PathBuf>,
    /// Name of the program (function) in it
    #[arg(long, requires = "obj")]
    prog: Option<String>,
    /// Kind of the program
    #[arg(long = "type", value_enum, default_value_t = Kind::Xdp)]
    kind: Kind,
    /// NAME=VALUE: initial value of a variable in .rodata or .data of --obj; may be repeated
    #[arg(long, value_parser = pair::<u64>, requires = "obj")]
    global: Vec<(String, u64)>,
    /// MAP=N: max_entries of a map of --obj; may be repeated
    #[arg(long, value_parser = pair::<u32>, requires = "obj")]
    entries: Vec<(String, u32)>,
    /// Read the BPF ring buffers of --obj meanwhile, on another CPU
    #[arg(long, requires = "obj")]
    drain: bool,

    /// Numbers of flows, and `new` for packets that each start a new one
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "1,4096,65536,262144,1048576,new"
    )]
    flows: Vec<Cell>,
    /// What the packets are: plain, ipv6, vlan, qinq, mpls, or vxlan (opened). All but plain
    /// measure flowprobe alone
    #[arg(long, default_value = "plain", value_parser = frame)]
    frame: &'static Frame,
    /// Which programs, all by default: flowprobe, flowprobe_sampled_100, percpu_hash,
    /// percpu_hash_same_clock, lru_hash
    #[arg(long, value_delimiter = ',', conflicts_with = "obj")]
    programs: Vec<String>,
    /// Rounds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Only three rounds
    #[arg(long, conflicts_with = "rounds")]
    quick: bool,
    /// Packets in a run; as many as there are flows if those are more
    #[arg(long, default_value_t = 1 << 20, value_parser = clap::value_parser!(u32).range(1..))]
    packets: u32,
    /// Room for flows in each program, instead of the least that holds them
    #[arg(long, conflicts_with = "obj")]
    max_flows: Option<u32>,
    /// CPU to run on
    #[arg(long, default_value_t = 1)]
    cpu: usize,
    /// Nice value; at -20 other jobs on the CPU wait
    #[arg(long, default_value_t = -20, allow_hyphen_values = true)]
    nice: i32,
    /// Print JSON
    #[arg(long)]
    json: bool,

    /// flowprobe's BPF object, instead of the one in the library
    #[arg(long, value_name = "FILE")]
    flowprobe_object: Option<PathBuf>,
    /// The BPF object of the benchmark
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/bpf/bpfel-unknown-none/bpf/flowprobe-bench-bpf"
    )]
    bench_object: PathBuf,
}

/// Measures and prints.
pub(crate) fn run(args: PacketArgs) -> Result<()> {
    let cpus = libbpf_rs::num_possible_cpus()?;
    let rounds = if args.quick {
        QUICK_ROUNDS
    } else {
        args.rounds
    };
    let settings = Settings {
        rounds,
        packets: args.packets,
        max_flows: args.max_flows,
        // On a machine with one CPU they share it.
        drain_cpu: (0..cpus).find(|&cpu| cpu != args.cpu).unwrap_or(args.cpu),
        nice: args.nice,
    };
    let dispatcher = Dispatcher::load(&args.bench_object, args.kind, *args.frame)?;
    let (flows, json) = (args.flows.clone(), args.json);
    settle(args.cpu, args.nice)?;
    let subjects = subjects(args)?;
    let mut report = Report::new(&subjects);
    for cell in flows {
        report.add(measure(&dispatcher, &subjects, cell, &settings)?);
    }
    if json {
        println!("{:#}", report.json(rounds));
        eprint!("{}", report.targets());
    } else {
        print!("{}{}", report.text(), report.targets());
    }
    Ok(())
}

fn subjects(args: PacketArgs) -> Result<Vec<Subject>> {
    if let (Some(object), Some(program)) = (args.obj, args.prog) {
        let edits = Edits {
            globals: args.global.into_iter().collect(),
            entries: args.entries.into_iter().collect(),
        };
        return Ok(vec![Subject::other(
            object, program, args.kind, edits, args.drain,
        )]);
    }
    ensure!(
        args.kind != Kind::Tc,
        "flowprobe has no TC program: name another object with --obj"
    );
    let flowprobe: Arc<[u8]> = match &args.flowprobe_object {
        Some(path) => fs::read(path)
            .with_context(|| path.display().to_string())?
            .into(),
        None => OBJECT.into(),
    };
    let mut all = Subject::all(&flowprobe, &args.bench_object, args.kind, args.frame);
    for name in &args.programs {
        ensure!(
            all.iter().any(|subject| subject.name == *name),
            "no program `{name}` of this kind; there are {}",
            all.iter()
                .map(|s| s.name.as_str())
                .collect::<Vec<_>>()
                .join(", ")
        );
    }
    if !args.programs.is_empty() {
        all.retain(|subject| args.programs.contains(&subject.name));
    }
    Ok(all)
}

/// The kind of test packet of this name.
fn frame(name: &str) -> Result<&'static Frame, String> {
    let found = FRAMES.iter().find(|frame| frame.name == name);
    found.ok_or_else(|| {
        let names: Vec<_> = FRAMES.iter().map(|frame| frame.name).collect();
        format!("want one of {}", names.join(", "))
    })
}

/// Parses NAME=VALUE.
fn pair<T: FromStr>(text: &str) -> Result<(String, T), String> {
    let (name, value) = text.split_once('=').ok_or("want NAME=VALUE")?;
    let value = value.parse().map_err(|_| format!("bad value `{value}`"))?;
    Ok((name.to_owned(), value))
}
