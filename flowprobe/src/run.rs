//! `flowprobe run`: the stages put together, from attaching to the last record.

mod threads;

use std::{
    fs,
    io::{self, Write as _},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use aya::programs::ProgramError;
use serde::Serialize;
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use self::threads::{Ended, Threads};
use crate::{
    attach::{
        self, AttachError, Attached, FactsError, Interface, InterfaceStats, LookupError, Programs,
        PromiscError, Promiscuous, XdpMode, preflight,
    },
    clock::Clock,
    export::{ExportError, Exporter, Telemetry},
    host::{self, HostError},
    ledger::Ledger,
    load::{Kernel, LoadError, OBJECT, Options, RING_PARTS},
    record::FlowRecord,
    sampling::Sampling,
    table::{
        Drainer, Emitter, Overflow, Shared, Sweeper, Timeouts,
        emit::{Exported, Lateness, Sink},
        grace::{GracePeriod as _, Rcu},
        held::held,
    },
    telemetry::Meter,
};

/// What to run.
#[derive(Debug)]
pub struct Settings {
    /// Names of the interfaces to watch.
    pub interfaces: Vec<String>,
    /// Where the program attaches.
    pub xdp_mode: XdpMode,
    /// Receive frames for other hosts too.
    pub promisc: bool,
    /// Which packets to meter.
    pub sampling: Sampling,
    /// Flows in each table of each CPU.
    pub max_flows: u32,
    /// Flows kept in userspace.
    pub max_overflow_flows: usize,
    /// How long flows are kept.
    pub timeouts: Timeouts,
    /// Time of one pass over the table.
    pub sweep_interval: Duration,
    /// What becomes of the records; the interfaces are filled in here.
    pub export: crate::export::Settings,
    /// Where to write the summary.
    pub summary: Option<PathBuf>,
    /// When to stop.
    pub duration: Option<Duration>,
    /// Another BPF object than the built-in one.
    pub object: Option<PathBuf>,
}

/// Why metering did not start, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A name.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The same interface twice would count each packet once, but be refused by the kernel.
    #[error("interface {0} is given twice: name each interface once")]
    Twice(String),
    /// An interface.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The object file.
    #[error("cannot read {path}: {source}")]
    Object {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A loaded program has no descriptor: cannot happen, but the type says so.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The hook.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The packet socket.
    #[error(transparent)]
    Promisc(#[from] PromiscError),
    /// The collectors.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// No way to take flows out.
    #[error("this kernel offers no way to wait for running programs: {0}")]
    Grace(io::Error),
    /// The summary.
    #[error("cannot write the summary to {path}: {source}")]
    Summary {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The operating system refused a thread or a signal handler.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// A fault in flowprobe: what was counted until then is in the ledger.
    #[error("the {0} thread broke off; the ledger says what was exported until then")]
    Broken(&'static str),
}

impl RunError {
    /// Whether nothing had been attached yet: bad input, or a machine that cannot do it.
    #[must_use]
    pub fn before_start(&self) -> bool {
        !matches!(self, Self::Summary { .. } | Self::Broken(_))
    }
}

/// One interface in the summary.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceSummary {
    name: String,
    ifindex: u32,
    mode: String,
    frags: bool,
    #[serde(flatten)]
    counters: InterfaceStats,
}

/// How packets were sampled.
#[derive(Clone, Debug, Serialize)]
struct SamplingSummary {
    method: &'static str,
    n: u32,
}

/// The table.
#[derive(Clone, Debug, Serialize)]
struct TableSummary {
    max_flows: u32,
    partitions: u32,
    memory_octets: u64,
    inserted: u64,
    evicted: u64,
    single: u64,
    overflow_peak: usize,
}

/// Everything a run has to say at its end.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    version: &'static str,
    interfaces: Vec<InterfaceSummary>,
    sampling: SamplingSummary,
    /// The ledger.
    pub ledger: Ledger,
    end_reasons: std::collections::BTreeMap<u8, u64>,
    lateness_ms: Lateness,
    table: TableSummary,
}

impl Sink for Exporter {
    fn take(&self, records: Vec<FlowRecord>) {
        self.send(records);
    }
}

/// An interface that is being watched. Dropping it detaches.
struct Watched {
    attached: Attached,
    _promisc: Option<Promiscuous>,
    before: InterfaceStats,
}

/// Meters until a signal or the end of `duration`.
///
/// # Errors
/// See [`RunError`]. Nothing stays attached in any case.
pub async fn run(mut settings: Settings) -> Result<Summary, RunError> {
    let host = host::check(settings.promisc)?;
    let interfaces = find(&settings.interfaces)?;
    for interface in &interfaces {
        for warning in preflight(&interface.facts()?, settings.xdp_mode) {
            tracing::warn!("{warning}");
        }
    }
    let grace = Rcu::new().map_err(RunError::Grace)?;
    if matches!(grace, Rcu::MapInMap(_)) {
        tracing::info!("membarrier is not available (nohz_full?): waiting by map updates");
    }
    let options = Options {
        max_flows: settings.max_flows,
        partitions: host.possible_cpus.slots() as u32,
        ring_parts: RING_PARTS,
        sampling: settings.sampling,
    };
    let mut kernel = load(settings.object.take(), &options)?;
    let shared = Arc::clone(kernel.shared());
    let overflow = Arc::new(Overflow::new(
        shared.geometry(),
        settings.max_overflow_flows,
    ));
    say_memory(&shared, &settings);

    settings.export.interfaces = interfaces
        .iter()
        .map(|interface| crate::export::Interface {
            ifindex: interface.index,
            name: interface.name.clone(),
            description: String::new(),
        })
        .collect();
    let clock = Arc::new(Clock::default());
    let exported = Arc::new(Exported::default());
    let meter = Arc::new(Meter::new(Arc::clone(&shared), Arc::clone(&clock)));
    let telemetry = Arc::clone(&meter) as Arc<dyn Telemetry>;
    let exporter = Arc::new(Exporter::start(&settings.export, telemetry)?);
    let emitter = Emitter::new(
        Arc::clone(&clock),
        Arc::clone(&exported),
        Arc::clone(&exporter) as Arc<dyn Sink>,
        settings.sampling.n(),
    );
    let drainer = Drainer::new(
        Arc::clone(&shared),
        Arc::clone(&overflow),
        emitter.another(),
    );
    let sweeper = Sweeper::new(
        Arc::clone(&shared),
        Arc::clone(&overflow),
        settings.timeouts.into(),
        Box::new(Rcu::new().map_err(RunError::Grace)?),
        emitter,
    );
    let logs = forward_logs(&mut kernel);
    let mut threads =
        Threads::start(drainer, sweeper, settings.sweep_interval).map_err(RunError::Start)?;

    // Before attaching: a signal that comes earlier than its handler ends the process at once.
    let signals = Signals::new().map_err(RunError::Start)?;
    let watched = watch(&mut kernel, &interfaces, &settings)?;
    let names: Vec<_> = interfaces
        .iter()
        .map(|interface| interface.name.as_str())
        .collect();
    tracing::info!(sample = %settings.sampling, "metering {}", names.join(", "));
    let broken = wait(signals, &mut threads, &clock, &meter, settings.duration)
        .await
        .map_err(RunError::Start)?;

    // From here on: detach, one grace period, and everything that was counted comes out.
    let counters = detach(watched);
    grace.wait().map_err(RunError::Grace)?;
    let ended = threads.stop();
    if let Some((mut drainer, mut sweeper)) = ended {
        while drainer.drain() > 0 {}
        sweeper.flush();
    }
    drop(logs);
    let reports = finish(exporter);
    let summary = summarise(
        &settings.sampling,
        &shared,
        &overflow,
        &exported,
        counters,
        reports,
    );
    if let Some(path) = &settings.summary {
        write_summary(path, &summary)?;
    }
    report(&summary);
    match broken {
        Some(thread) => Err(RunError::Broken(thread)),
        None => Ok(summary),
    }
}

fn find(names: &[String]) -> Result<Vec<Interface>, RunError> {
    let mut interfaces: Vec<Interface> = Vec::new();
    for name in names {
        let interface = Interface::find(name)?;
        if interfaces.contains(&interface) {
            return Err(RunError::Twice(name.clone()));
        }
        interfaces.push(interface);
    }
    Ok(interfaces)
}

fn load(object: Option<PathBuf>, options: &Options) -> Result<Kernel, RunError> {
    let kernel = match object {
        None => Kernel::load(OBJECT, options)?,
        Some(path) => {
            let object = fs::read(&path).map_err(|source| RunError::Object { path, source })?;
            Kernel::load(&object, options)?
        }
    };
    Ok(kernel)
}

fn say_memory(shared: &Shared, settings: &Settings) {
    let geometry = shared.geometry();
    let mib = |octets: u64| octets.div_ceil(1 << 20);
    tracing::info!(
        "flow tables: {} IPv4 and {} IPv6 flows on each of {} possible CPUs, {} MiB of kernel \
         memory; up to {} more flows in userspace, up to {} MiB",
        geometry.max_flows(),
        geometry.max_flows(),
        geometry.partitions,
        mib(geometry.memory_octets()),
        settings.max_overflow_flows,
        mib(settings.max_overflow_flows as u64 * Overflow::entry_octets() as u64 * 16 / 7),
    );
}

/// Attaches to every interface, or to none.
fn watch(
    kernel: &mut Kernel,
    interfaces: &[Interface],
    settings: &Settings,
) -> Result<Vec<Watched>, RunError> {
    let frags = kernel
        .program(true)?
        .fd()?
        .try_clone()
        .map_err(RunError::Start)?;
    let linear = kernel
        .program(false)?
        .fd()?
        .try_clone()
        .map_err(RunError::Start)?;
    let programs = Programs {
        frags: frags.as_fd(),
        linear: Some(linear.as_fd()),
    };
    interfaces
        .iter()
        .map(|interface| {
            let promisc = settings
                .promisc
                .then(|| Promiscuous::new(&interface.name, interface.index))
                .transpose()?;
            let before = interface.statistics()?;
            let attached = attach::attach(interface, programs, settings.xdp_mode)?;
            tracing::info!(
                interface = interface.name,
                "attached, {}{}",
                attached.mode,
                if attached.frags { ", frags" } else { "" }
            );
            Ok(Watched {
                attached,
                _promisc: promisc,
                before,
            })
        })
        .collect()
}

/// Detaches everything; returns what each interface received meanwhile.
fn detach(watched: Vec<Watched>) -> Vec<InterfaceSummary> {
    watched
        .into_iter()
        .map(|watched| {
            let Attached {
                interface,
                mode,
                frags,
                ..
            } = &watched.attached;
            let after = interface.statistics().unwrap_or_else(|error| {
                tracing::warn!("{error}: its counters are missing from the summary");
                watched.before
            });
            InterfaceSummary {
                name: interface.name.clone(),
                ifindex: interface.index,
                mode: mode.to_string(),
                frags: *frags,
                counters: after.since(&watched.before),
            }
        })
        .collect()
}

/// What ends the run in order.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }
}

/// Waits for a signal, the end of `duration`, or a broken thread, whose name is returned.
async fn wait(
    signals: Signals,
    threads: &mut Threads,
    clock: &Clock,
    meter: &Meter,
    duration: Option<Duration>,
) -> io::Result<Option<&'static str>> {
    let Signals {
        mut interrupt,
        mut terminate,
    } = signals;
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = async {
        match duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = &mut end => break,
            Ended(thread) = threads.ended() => return Ok(Some(thread)),
            // Slewed or set: the time of day is measured again each second.
            _ = second.tick() => {
                clock.measure();
                meter.look();
            }
        }
    }
    // What is left to do may take as long as the export rate makes it.
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("flowprobe: second signal: records not yet sent are given up");
        std::process::exit(130);
    });
    Ok(None)
}

/// Sends what is left, and says what became of all records.
fn finish(exporter: Arc<Exporter>) -> Vec<crate::export::DestinationReport> {
    match Arc::into_inner(exporter) {
        Some(exporter) => exporter.finish(),
        // Only a broken thread can still hold it.
        None => Vec::new(),
    }
}

fn summarise(
    sampling: &Sampling,
    shared: &Shared,
    overflow: &Overflow,
    exported: &Exported,
    interfaces: Vec<InterfaceSummary>,
    reports: Vec<crate::export::DestinationReport>,
) -> Summary {
    let totals = shared.totals();
    let geometry = shared.geometry();
    let held = held(shared, overflow);
    Summary {
        version: env!("CARGO_PKG_VERSION"),
        interfaces,
        sampling: SamplingSummary {
            method: match sampling {
                Sampling::All => "all",
                Sampling::Count(_) => "count",
                Sampling::Random(_) => "random",
            },
            n: sampling.n(),
        },
        ledger: Ledger::new(&totals, exported.volume(), held, reports),
        end_reasons: exported
            .by_reason()
            .into_iter()
            .map(|(reason, count)| (reason as u8, count))
            .collect(),
        lateness_ms: exported.lateness(),
        table: TableSummary {
            max_flows: geometry.max_flows(),
            partitions: geometry.partitions,
            memory_octets: geometry.memory_octets(),
            inserted: totals.inserted,
            evicted: totals.evicted,
            single: totals.single,
            overflow_peak: overflow.peak(),
        },
    }
}

fn write_summary(path: &PathBuf, summary: &Summary) -> Result<(), RunError> {
    let write = || {
        let mut file = fs::File::create(path)?;
        serde_json::to_writer_pretty(&mut file, summary)?;
        file.write_all(b"\n")
    };
    write().map_err(|source| RunError::Summary {
        path: path.clone(),
        source,
    })
}

/// Prints the end of a run for people.
fn report(summary: &Summary) {
    eprintln!("{}", summary.ledger);
    for interface in &summary.interfaces {
        let counters = &interface.counters;
        eprintln!(
            "{} ({}): {} packets received; lost before the hook: {} missed, {} no buffer; \
             {} errors, {} dropped by driver or stack",
            interface.name,
            interface.mode,
            counters.rx_packets,
            counters.rx_missed,
            counters.rx_fifo_errors,
            counters.rx_errors,
            counters.rx_dropped,
        );
    }
    let late = &summary.lateness_ms;
    eprintln!(
        "expiry was late by: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
        late.p50, late.p99, late.max
    );
}

/// Bridges the program's own log, which only a debug build of it has, into ours.
fn forward_logs(kernel: &mut Kernel) -> Option<tokio::task::JoinHandle<()>> {
    if kernel.ebpf_mut().map("AYA_LOGS").is_none() {
        return None;
    }
    let logger = match aya_log::EbpfLogger::init(kernel.ebpf_mut()) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!("the program's log cannot be read: {error}");
            return None;
        }
    };
    // SAFETY: the ring buffer owns its descriptor and keeps it open for as long as it lives.
    let logger = unsafe { AsyncFd::register_with_interest(logger, tokio::io::Interest::READABLE) };
    match logger {
        Ok(mut logger) => Some(tokio::spawn(async move {
            while let Ok(mut guard) = logger.readable_mut().await {
                guard.get_inner_mut().flush();
                guard.clear_ready();
            }
        })),
        Err(error) => {
            tracing::warn!("the program's log cannot be waited for: {error}");
            None
        }
    }
}
