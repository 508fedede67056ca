//! `flowprobe run`: the stages put together, from attaching to the last record.

mod budget;
mod bypass;
mod classes;
pub(crate) mod ending;
mod error;
mod rx_vlan;
mod steer;
mod summary;
mod threads;
mod watch;

use std::{
    fs,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use flowprobe_ebpf::Tunnels;
use tokio::{io::unix::AsyncFd, task::JoinHandle};

pub(crate) use self::summary::SamplingSummary;
use self::{
    budget::Adaptive,
    classes::Classes,
    ending::{Signals, SummaryFile, after, each_second, nobody_reads, send_rest},
    steer::{Facts, Steering},
    threads::{Ended, Threads},
    watch::{Means, Watch},
};
pub use self::{
    bypass::{BypassSettings, MAX_FLOWS as MAX_USERSPACE_FLOWS, Mode},
    ending::SummaryError,
    error::RunError,
    steer::ControlSocket,
    summary::{InterfaceSummary, Summary},
};
use crate::{
    attach::{Hook, NetnsName, Pattern, XdpMode},
    clock::{Clock, monotonic_ns, unix_ms},
    export::{self, Exporter, Interfaces, Telemetry},
    host,
    ledger::Books,
    load::{Kernel, LoadError, OBJECT, Options, RING_PARTS, random_words},
    record::FlowRecord,
    routes::Routes,
    sampling::{Rated, Rates, SampleKey, Sampling},
    shadow::Shadow,
    table::{
        Drainer, Emitter, Overflow, Pairing, Patience, Shared, Sweeper, Timeouts,
        emit::{Exported, Sink},
        grace::{GracePeriod as _, Rcu},
        held::Kept,
    },
    telemetry::Meter,
};

/// What to run.
#[derive(Debug)]
pub struct Settings {
    /// The interfaces to watch.
    pub interfaces: Vec<Pattern>,
    /// The network namespace that they are in, where it is another one.
    pub netns: Option<NetnsName>,
    /// Whether packets are metered where they are seen, or handed over to userspace.
    pub mode: Mode,
    /// Where packets are counted as they come in.
    pub hook: Hook,
    /// Where the XDP program attaches.
    pub xdp_mode: XdpMode,
    /// Count packets as they go out, too.
    pub egress: bool,
    /// Attach by traffic control as on kernels before 6.6.
    pub clsact: bool,
    /// Of a packet that comes in and goes out on watched interfaces, count what comes in only.
    pub dedup: bool,
    /// Receive frames for other hosts too.
    pub promisc: bool,
    /// Which packets to meter, of each class; the first is the rest, without a filter.
    pub classes: Vec<Rated>,
    /// Key of the hashes that select packets and flows; else one that no other sensor has.
    pub sample_key: Option<SampleKey>,
    /// What to sample beside the metering of everything.
    pub shadow: Option<Sampling>,
    /// Where to be asked and told.
    pub control: ControlSocket,
    /// Which tunnels to open.
    pub tunnels: Tunnels,
    /// Flows in each table of each CPU.
    pub max_flows: u32,
    /// Flows kept in userspace.
    pub max_overflow_flows: usize,
    /// How long flows are kept.
    pub timeouts: Timeouts,
    /// Time of one pass over the table.
    pub sweep_interval: Duration,
    /// What becomes of the records; interfaces are filled in here, and the domains of classes behind
    /// the first.
    pub export: export::Settings,
    /// Where to write the summary.
    pub summary: Option<PathBuf>,
    /// Say of flows where they go on to.
    pub next_hop: bool,
    /// When to stop.
    pub duration: Option<Duration>,
    /// Another BPF object than the built-in one.
    pub object: Option<PathBuf>,
}

impl Sink for Exporter {
    fn take(&self, records: Vec<FlowRecord>) {
        self.send(records);
    }

    fn change(&self, class: u8, _: u32, sampling: Sampling) {
        Exporter::change(self, class.into(), sampling);
    }
}

/// Meters until a signal or the end of `duration`.
///
/// # Errors
/// See [`RunError`]. Nothing stays attached in any case.
pub async fn run(mut settings: Settings) -> Result<Summary, RunError> {
    if let Mode::AfXdp(bypass) = std::mem::take(&mut settings.mode) {
        return bypass::run(settings, &bypass).await;
    }
    let mut metering = Metering::start(settings)?;
    let broken = metering.wait().await;
    metering.finish(broken).await
}

/// Everything that is at work while packets are metered.
struct Metering {
    duration: Option<Duration>,
    summary: Option<SummaryFile>,
    shared: Arc<Shared>,
    overflow: Arc<Overflow>,
    exported: Arc<Exported>,
    exporter: Arc<Exporter>,
    clock: Arc<Clock>,
    meter: Arc<Meter>,
    grace: Rcu,
    threads: Threads,
    signals: Signals,
    logs: Option<JoinHandle<()>>,
    steering: Steering,
    shadow: Option<Arc<Shadow>>,
    watch: Watch,
    kernel: Kernel,
}

impl Metering {
    /// Checks, loads, starts the threads, and last of all attaches.
    fn start(mut settings: Settings) -> Result<Self, RunError> {
        let host = host::check(settings.promisc)?;
        let names = Arc::new(Interfaces::new(lasting(&settings)));
        let mut watch = Watch::new(&settings, Arc::clone(&names))?;
        let grace = Rcu::new().map_err(RunError::Grace)?;
        if matches!(grace, Rcu::MapInMap(_)) {
            tracing::info!("membarrier is not available (nohz_full?): waiting by map updates");
        }
        let classes = Classes::new(std::mem::take(&mut settings.classes));
        let samplings = classes.samplings();
        let is_sampled = samplings.len() > 1 || samplings[0] != Sampling::All;
        if settings.shadow.is_some() && (is_sampled || classes.budget().is_some()) {
            return Err(RunError::ShadowOfSample);
        }
        settings.export.domains = domains(&settings, &classes)?;
        let seen = watch.seen();
        let options = Options {
            max_flows: settings.max_flows,
            partitions: host.possible_cpus.slots() as u32,
            ring_parts: RING_PARTS,
            sampling: samplings[0],
            classes: &classes.with_filters(&settings.interfaces, &watch.candidates())?,
            sample_key: initialiser(settings.sample_key)?,
            shadow: settings.shadow,
            tunnels: settings.tunnels,
            dedup: seen.as_deref(),
        };
        let parse_first = options.parse_first();
        let adaptive = classes.budget().map(Adaptive::new).transpose()?;
        let control = settings.control.bind()?;
        let mut kernel = load(settings.object.take(), &options)?;
        let shared = Arc::clone(kernel.shared());
        let capacity = settings.max_overflow_flows;
        let overflow = Arc::new(Overflow::new(shared.geometry(), capacity));
        let clock = Arc::new(Clock::default());
        let pairing = settings.export.content.biflows.then(|| {
            let patience = Patience::live(&settings.timeouts, settings.sweep_interval);
            Pairing::new(patience, settings.max_overflow_flows)
        });
        let exported = Arc::new(Exported::in_biflows(pairing));
        let rates = Arc::new(Rates::new(&samplings, settings.shadow));
        let books: Arc<dyn Books> = Arc::new(Kept {
            shared: Arc::clone(&shared),
            overflow: Arc::clone(&overflow),
        });
        let meter = Arc::new(Meter::new(
            Arc::clone(&books),
            Arc::clone(&shared),
            Arc::clone(&rates),
            Arc::clone(&clock),
        ));
        settings.export.interfaces = Arc::clone(&names);
        let telemetry = Arc::clone(&meter) as Arc<dyn Telemetry>;
        let exporter = Arc::new(Exporter::start(&settings.export, telemetry)?);
        let shadow = settings
            .shadow
            .map(|sampling| Arc::new(Shadow::new(sampling, settings.max_overflow_flows)));
        let routes = match settings.next_hop {
            true => Some(Arc::new(
                watch.within(Routes::open)?.map_err(RunError::Routes)?,
            )),
            false => None,
        };
        let emitter = Emitter::new(
            Arc::clone(&clock),
            Arc::clone(&exported),
            Arc::clone(&exporter) as Arc<dyn Sink>,
            Arc::clone(&rates),
        )
        .with_shadow(shadow.clone())
        .with_routes(routes);
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
        // A signal that comes earlier than its handler ends the process at once.
        let signals = Signals::new().map_err(RunError::Start)?;
        let threads =
            Threads::start(drainer, sweeper, settings.sweep_interval).map_err(RunError::Start)?;
        let summary = settings
            .summary
            .take()
            .map(SummaryFile::create)
            .transpose()?;
        watch.attach(&mut Means {
            kernel: &mut kernel,
            classes: &classes,
        })?;
        say_memory(&shared, capacity);
        let now_ms = unix_ms(monotonic_ns(), clock.offset_ns());
        let facts = Facts {
            started: Instant::now(),
            clock: Arc::clone(&clock),
            idle: settings.timeouts.idle,
            walking: tokio::sync::Mutex::default(),
            interfaces: names,
            since_ms: Mutex::new(vec![now_ms; samplings.len()]),
            classes,
            domains: settings.export.domains,
            rates,
            shared: Arc::clone(&shared),
            books,
            exported: Arc::clone(&exported),
            exporter: Arc::downgrade(&exporter),
            parse_first,
            keyed: settings.sample_key.is_some(),
            shadow: shadow.is_some(),
        };
        facts.say_what_is_metered(&watch.in_words());
        let mut steering = Steering::new(facts, control, adaptive);
        steering.watch(|| watch.programs(&mut kernel));
        Ok(Self {
            duration: settings.duration,
            summary,
            shared,
            overflow,
            exported,
            exporter,
            clock,
            meter,
            grace,
            threads,
            signals,
            logs,
            steering,
            shadow,
            watch,
            kernel,
        })
    }

    /// Waits for a signal, the end of `duration`, or a broken thread, whose name is returned.
    async fn wait(&mut self) -> Option<&'static str> {
        let mut second = each_second();
        let end = after(self.duration);
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = self.signals.any() => return None,
                () = &mut end => return None,
                Ended(thread) = self.threads.ended() => return Some(thread),
                (request, handle) = self.steering.request() => {
                    self.steering.answer(request, handle, &self.threads);
                    continue;
                }
                () = self.watch.changed() => match self.follow() {
                    Ok(()) => continue,
                    Err(error) => {
                        tracing::error!("{error}");
                        return Some("watch over interfaces");
                    }
                },
                _ = second.tick() => {}
            }
            self.steering.look(&self.threads);
            // Slewed or set: the time of day is measured again each second.
            self.clock.measure();
            self.meter.look();
            if nobody_reads(&self.exporter) {
                return None;
            }
        }
    }

    /// Does what has become of interfaces.
    fn follow(&mut self) -> Result<(), RunError> {
        let facts = Arc::clone(&self.steering.facts);
        let attached = self.watch.follow(&mut Means {
            kernel: &mut self.kernel,
            classes: &facts.classes,
        })?;
        if attached {
            self.steering
                .watch(|| self.watch.programs(&mut self.kernel));
        }
        Ok(())
    }

    /// Detaches, waits for one grace period, and takes out everything that was counted.
    async fn finish(self, mut broken: Option<&'static str>) -> Result<Summary, RunError> {
        let Self {
            shared,
            overflow,
            exported,
            exporter,
            mut signals,
            mut steering,
            ..
        } = self;
        steering.close();
        let interfaces = self.watch.detach();
        if let Err(error) = self.grace.wait() {
            // The flows stay unread: they show as held, and the ledger says so.
            tracing::error!("no grace period after detaching: {error}");
            broken = Some("sweeper");
        } else {
            let (drainer, sweeper) = self.threads.stop();
            if let Some(mut drainer) = drainer {
                while drainer.drain() > 0 {}
            }
            if let Some(mut sweeper) = sweeper {
                sweeper.flush();
            }
        }
        drop(self.logs);
        let reports = send_rest(exporter, &mut signals, Arc::default()).await;
        let reports = reports.unwrap_or_else(|| {
            broken = Some("exporter");
            Vec::new()
        });
        let shadow = self
            .shadow
            .map(|shadow| shadow.summary(&shared.shadow_totals()));
        let sampling =
            SamplingSummary::new(steering.facts.rest(), steering.facts.all_classes(), shadow);
        let summary = Summary::new(sampling, &shared, &overflow, &exported, interfaces, reports);
        summary.print();
        if let Some(file) = self.summary {
            file.write(&summary)?;
        }
        match broken {
            Some(thread) => Err(RunError::Broken(thread)),
            None => Ok(summary),
        }
    }
}

/// How long flows of an interface that is gone may still be sent: until they time out, and then as
/// long as they may wait for a collector, which is a guess.
fn lasting(settings: &Settings) -> Duration {
    const WAITING: Duration = Duration::from_secs(600);
    settings.timeouts.active + settings.timeouts.idle + WAITING
}

/// Domains of all classes; that of the first is the one that was asked for.
fn domains(settings: &Settings, classes: &Classes) -> Result<Vec<export::Domain>, RunError> {
    let first = settings.export.domains.first();
    classes.domains(first.map_or(0, |domain| domain.id))
}

/// Of the hashes that select packets and flows.
fn initialiser(key: Option<SampleKey>) -> Result<u32, LoadError> {
    match key {
        Some(key) => Ok(key.initialiser()),
        None => Ok(random_words::<1>().map_err(LoadError::Random)?[0] as u32),
    }
}

fn load(object: Option<PathBuf>, options: &Options<'_>) -> Result<Kernel, RunError> {
    let kernel = match object {
        None => Kernel::load(OBJECT, options)?,
        Some(path) => {
            let object = fs::read(&path).map_err(|source| RunError::Object { path, source })?;
            Kernel::load(&object, options)?
        }
    };
    Ok(kernel)
}

fn say_memory(shared: &Shared, overflow: usize) {
    let geometry = shared.geometry();
    let mib = |octets: u64| octets.div_ceil(1 << 20);
    tracing::info!(
        "flow tables: {} IPv4 and {} IPv6 flows on each of {} possible CPUs{}, {} MiB of kernel \
         memory; up to {} more flows in userspace, up to {} MiB",
        geometry.max_flows(),
        geometry.max_flows(),
        geometry.cpus(),
        if geometry.shadow { ", twice" } else { "" },
        mib(geometry.memory_octets()),
        overflow,
        mib(overflow as u64 * Overflow::entry_octets() as u64 * 16 / 7),
    );
}

/// Bridges the program's own log, which only a debug build of it has, into ours.
fn forward_logs(kernel: &mut Kernel) -> Option<JoinHandle<()>> {
    kernel.ebpf_mut().map("AYA_LOGS")?;
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
