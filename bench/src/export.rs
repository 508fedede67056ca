//! `flowprobe-bench export`: what a flow record costs on its way from the table to a collector.

use std::{
    fs, io,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    path::PathBuf,
    ptr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowprobe::{
    clock::Clock,
    encode::{Fit, Stamp},
    export::{self, Domain, Exporter, Metering, Telemetry},
    ipfix::{Encoder, message::HEADER},
    ipfix_file::Rotation,
    load::OBJECT,
    record::{Biflow, EndReason, FlowKey, FlowRecord},
    sampling::{Profile, Rates, Sampling, Selection},
    table::{
        Drainer, Emitter, Overflow, Sweeper, Timeouts,
        emit::{Exported, Sink},
        grace::Rcu,
    },
};
use flowprobe_bench::{FIRST_ORDER, PLAIN};
use flowprobe_ebpf::{KeyV4, Marks, Tunnels, parse::Packet, sampling::Sampled};
use serde_json::{Value, json};

use crate::{
    dispatcher::{Dispatcher, Kind},
    measure::{median, min},
    meter::Meter,
    timing::{settle, thread_cpu_ns},
};

/// What a record costs on its way from the table to a collector
///
/// First encoding alone: IPFIX messages of --mtu octets, nothing sent. Then the whole path, as it is
/// in `flowprobe run`: a table that is full of IPv4 flows, all due at once, is swept; records are
/// queued, encoded, and sent to a UDP collector on loopback, which counts what it reads. Sweeper and
/// exporter share one CPU, the collector has another. What the kernel does to bring datagrams into
/// the collector's socket is the sender's time too.
#[derive(Args)]
pub(crate) struct ExportArgs {
    /// Flows in the table, a power of two
    #[arg(long, default_value_t = 1 << 20)]
    flows: u32,
    /// Octets of the largest packet
    #[arg(long, default_value_t = 1400)]
    mtu: u16,
    /// Rounds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// CPU of sweeper and exporter
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

/// Encoding is held to this.
const ENCODE_BUDGET_NS: f64 = 25.0;
/// And the whole path to this, in records a second of one core.
const PATH_TARGET: f64 = 5e6;

/// A pass takes so many grace periods, as in `flowprobe run` with the default of a second: one for
/// all steps that fall within 25 ms.
const BATCHES_OF_STEPS: u32 = 40;

/// Records of the encoder's input: more than the first-level cache holds, as a batch is.
const BATCH: usize = 4096;
/// Batches of one timed run.
const BATCHES: usize = 64;

/// What one round of the path took, in nanoseconds of CPU a record; but for `seconds`.
struct Round {
    sweep: f64,
    export: f64,
    /// From the first look at the table until all is sent.
    seconds: f64,
}

/// Measures and prints.
pub(crate) fn run(args: &ExportArgs) -> Result<()> {
    ensure!(args.flows.is_power_of_two(), "--flows: a power of two");
    let object: Arc<[u8]> = match &args.flowprobe_object {
        Some(path) => fs::read(path)
            .with_context(|| path.display().to_string())?
            .into(),
        None => OBJECT.into(),
    };
    settle(args.cpu, args.nice)?;
    let encode: Vec<f64> = (0..args.rounds)
        .map(|_| encode(args.mtu))
        .collect::<Result<_>>()?;
    let dispatcher = Dispatcher::load(&args.bench_object, Kind::Xdp, PLAIN)?;
    let mut rounds = Vec::new();
    for _ in 0..args.rounds {
        rounds.push(path(args, &dispatcher, &object)?);
    }
    let report = report(args, &encode, &rounds);
    if args.json {
        println!("{report:#}");
    } else {
        print!("{}", text(&report));
    }
    Ok(())
}

/// Nanoseconds of CPU for a record, encoding alone.
fn encode(mtu: u16) -> Result<f64> {
    let records: Vec<_> = (0..BATCH as u32).map(record).collect();
    let octets = mtu - flowprobe::ipfix::message::PACKET_OVERHEAD;
    let mut encoder = Encoder::new(1, octets)?;
    let now = Stamp {
        unix_ms: 1_800_000_000_000,
        boot_unix_ms: 1_700_000_000_000,
    };
    let mut octets = 0;
    let start = thread_cpu_ns()?;
    for _ in 0..BATCHES {
        for record in &records {
            while encoder.flow(record) == Fit::Full {
                octets += std::hint::black_box(encoder.message(now)).len();
                encoder.commit();
            }
        }
    }
    let spent = thread_cpu_ns()? - start;
    ensure!(octets > HEADER, "nothing was encoded");
    Ok(spent as f64 / (BATCH * BATCHES) as f64)
}

/// A record of a flow like those in the table.
fn record(number: u32) -> FlowRecord {
    let mut random = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut next = || {
        random ^= random >> 29;
        random = random.wrapping_mul(0xbf58_476d_1ce4_e5b9);
        random
    };
    let packet = Packet {
        ports: next() as u32,
        protocol: 17,
        ..Packet::EMPTY
    };
    FlowRecord {
        key: FlowKey::V4(KeyV4::new(next(), &packet, 3, Sampled::default())),
        packets: next() >> 44,
        octets: next() >> 34,
        start_ms: 1_799_999_000_000 + (next() >> 50),
        end_ms: 1_799_999_999_000,
        reason: EndReason::IdleTimeout,
        marks: Marks::default(),
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        sampling_n: 1,
        biflow: Biflow::None,
        route: None,
    }
}

/// Nobody knows any figures here.
struct NoFigures;

impl Telemetry for NoFigures {
    fn metering(&self, _class: usize) -> Metering {
        Metering::default()
    }

    fn selection(&self, _class: usize, _epoch: u32) -> Option<Selection> {
        None
    }
}

/// One round of the whole path.
fn path(args: &ExportArgs, dispatcher: &Dispatcher, object: &Arc<[u8]>) -> Result<Round> {
    let meter = Meter::load(object, Kind::Xdp, args.flows, Sampling::All, Tunnels::OUTER)?;
    let shared = meter.share();
    let collector = Collector::start(args.cpu)?;
    let overflow = Arc::new(Overflow::new(shared.geometry(), 8 * args.flows as usize));
    let exporter = exporter(args, &collector)?;
    let exported = Arc::new(Exported::default());
    let emitter = Emitter::new(
        Arc::new(Clock::default()),
        Arc::clone(&exported),
        Arc::clone(&exporter) as Arc<dyn Sink>,
        Arc::new(Rates::new(&[Sampling::All], None)),
    );
    let mut drainer = Drainer::new(
        Arc::clone(&shared),
        Arc::clone(&overflow),
        emitter.another(),
    );
    let at_once = Duration::from_nanos(1);
    let timeouts = Timeouts {
        idle: at_once,
        active: at_once,
        linger: at_once,
    };
    let grace = Box::new(Rcu::new().context("no grace period")?);
    let mut sweeper = Sweeper::new(
        Arc::clone(&shared),
        overflow,
        timeouts.into(),
        grace,
        emitter,
    );

    fill(dispatcher, &meter, &mut drainer, args)?;
    let before = threads_ns("export")?;
    let started = Instant::now();
    let cpu = thread_cpu_ns()?;
    let steps = sweeper.steps();
    let at_once = steps.div_ceil(BATCHES_OF_STEPS);
    for first in (0..steps).step_by(at_once as usize) {
        let range = first..steps.min(first + at_once);
        sweeper.sweep(range).context("no grace period")?;
    }
    let sweep_ns = thread_cpu_ns()? - cpu;
    let records = u64::from(args.flows);
    loop {
        let sent: u64 = exporter
            .reports()
            .iter()
            .map(|report| report.sent.records)
            .sum();
        if sent >= records {
            break;
        }
        ensure!(
            started.elapsed() < Duration::from_secs(60),
            "{sent} of {records} records sent"
        );
        thread::sleep(Duration::from_micros(200));
    }
    let seconds = started.elapsed().as_secs_f64();
    let export_ns = threads_ns("export")? - before;
    drop(sweeper);
    drop(drainer);
    let exporter = Arc::into_inner(exporter).context("the exporter is in use")?;
    let reports = exporter.finish();
    ensure!(
        exported.volume().records == records,
        "{:?}",
        exported.volume()
    );
    let report = reports.first().context("no collector")?;
    ensure!(report.dropped.is_empty(), "{:?}", report.dropped);
    collector.finish(report.messages)?;
    let each = |ns: u64| ns as f64 / records as f64;
    Ok(Round {
        sweep: each(sweep_ns),
        export: each(export_ns),
        seconds,
    })
}

fn exporter(args: &ExportArgs, collector: &Collector) -> Result<Arc<Exporter>> {
    let settings = export::Settings {
        collectors: vec![format!("udp://127.0.0.1:{}", collector.port).parse()?],
        groups: Vec::new(),
        identity: export::Identity::default(),
        spool: None,
        rotation: Rotation::default(),
        mtu: args.mtu,
        template_refresh: Duration::from_secs(3600),
        template_refresh_packets: 0,
        export_rate: 0,
        queue: 2 * args.flows as usize,
        domains: vec![Domain {
            id: 1,
            name: String::new(),
            sampling: Sampling::All,
        }],
        sampling_profile: Profile::Default,
        interfaces: Arc::default(),
        content: export::Content::default(),
        output: None,
    };
    let exporter = Exporter::start(&settings, Arc::new(NoFigures))?;
    Ok(Arc::new(exporter))
}

/// Fills the table: each packet begins a flow. Those that find no room go through the rings.
fn fill(
    dispatcher: &Dispatcher,
    meter: &Meter,
    drainer: &mut Drainer,
    args: &ExportArgs,
) -> Result<()> {
    let done = AtomicBool::new(false);
    let drain_cpu = usize::from(args.cpu == 0);
    thread::scope(|scope| {
        let draining = scope.spawn(|| {
            settle(drain_cpu, args.nice)?;
            while !done.load(Ordering::Acquire) {
                drainer.drain();
                thread::sleep(Duration::from_micros(200));
            }
            drainer.drain();
            anyhow::Ok(())
        });
        let sent = dispatcher.run(Some(meter.program()), args.flows, FIRST_ORDER, args.flows);
        done.store(true, Ordering::Release);
        let drained = draining.join();
        drained.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        sent.map(drop)
    })?;
    let counts = meter.counts();
    ensure!(
        counts.accounted == u64::from(args.flows),
        "the table was not filled: {counts:?}"
    );
    Ok(())
}

/// Nanoseconds that the threads of this name have run.
fn threads_ns(name: &str) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir("/proc/self/task")? {
        let task = task?.path();
        if fs::read_to_string(task.join("comm"))?.trim() == name {
            let times = fs::read_to_string(task.join("schedstat"))?;
            let ran = times.split_whitespace().next();
            sum += ran.context("an empty schedstat")?.parse::<u64>()?;
        }
    }
    Ok(sum)
}

/// Reads messages on a CPU of its own, and counts them.
struct Collector {
    port: u16,
    messages: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: thread::JoinHandle<Result<()>>,
}

impl Collector {
    fn start(not_on: usize) -> Result<Self> {
        /// A reader that is held up for a while loses nothing.
        const BUFFER: libc::c_int = 512 << 20;
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        // SAFETY: the descriptor is open, and the value is a c_int of the given length.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_RCVBUFFORCE,
                ptr::from_ref(&BUFFER).cast(),
                size_of_val(&BUFFER) as libc::socklen_t,
            )
        };
        ensure!(set == 0, "receive buffer: {}", io::Error::last_os_error());
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let port = socket.local_addr()?.port();
        let (messages, stop) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (counted, told) = (Arc::clone(&messages), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            settle(usize::from(not_on == 0), 0)?;
            let mut buffer = [0; 1 << 16];
            loop {
                match socket.recv(&mut buffer) {
                    Ok(_) => drop(counted.fetch_add(1, Ordering::Relaxed)),
                    Err(_) if told.load(Ordering::Acquire) => return Ok(()),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) => return Err(error.into()),
                }
            }
        });
        Ok(Self {
            port,
            messages,
            stop,
            thread,
        })
    }

    /// Ends it, when it has read all that was sent.
    fn finish(self, sent: u64) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        let ended = self.thread.join();
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        let read = self.messages.load(Ordering::Relaxed);
        ensure!(read == sent, "{read} of {sent} messages were read");
        Ok(())
    }
}

fn report(args: &ExportArgs, encode: &[f64], rounds: &[Round]) -> Value {
    let both = |samples: &[f64]| json!({ "min": min(samples), "median": median(samples) });
    let of = |what: fn(&Round) -> f64| -> Vec<f64> { rounds.iter().map(what).collect() };
    let cpu = of(|round| round.sweep + round.export);
    let per_second = |ns: Option<f64>| ns.map(|ns| 1e9 / ns);
    json!({
        "rounds": args.rounds,
        "flows": args.flows,
        "mtu": args.mtu,
        "encode": {
            "ns_per_record": both(encode),
            "records_per_second": per_second(median(encode)),
            "cpu_seconds_per_million": median(encode).map(|ns| ns / 1000.0),
            "wanted_ns": ENCODE_BUDGET_NS,
        },
        "path": {
            "sweep_ns_per_record": both(&of(|round| round.sweep)),
            "export_ns_per_record": both(&of(|round| round.export)),
            "cpu_ns_per_record": both(&cpu),
            "records_per_second_of_one_core": {
                "best": per_second(min(&cpu)), "median": per_second(median(&cpu)),
            },
            "cpu_seconds_per_million": median(&cpu).map(|ns| ns / 1000.0),
            "seconds": both(&of(|round| round.seconds)),
            "wanted_records_per_second": PATH_TARGET,
        },
    })
}

fn text(report: &Value) -> String {
    let ns = |of: &str, what: &str| {
        let value = &report[of][what];
        let number = |which: &str| value[which].as_f64().unwrap_or(f64::NAN);
        format!("{:>8.1}{:>10.1}", number("min"), number("median"))
    };
    let rate = |which: &str| {
        let rates = &report["path"]["records_per_second_of_one_core"];
        rates[which].as_f64().unwrap_or(f64::NAN) / 1e6
    };
    format!(
        "ns of CPU a record{:>16}{:>10}\n\
         encode alone      {:>16}   wanted {ENCODE_BUDGET_NS}\n\
         sweep             {:>16}\n\
         encode and send   {:>16}\n\
         both              {:>16}\n\
         records a second of one core: {:.2} million at best, {:.2} in the middle; wanted {}\n",
        "min",
        "median",
        ns("encode", "ns_per_record"),
        ns("path", "sweep_ns_per_record"),
        ns("path", "export_ns_per_record"),
        ns("path", "cpu_ns_per_record"),
        rate("best"),
        rate("median"),
        PATH_TARGET / 1e6,
    )
}
