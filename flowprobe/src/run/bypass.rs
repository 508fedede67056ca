//! `flowprobe run --mode afxdp`: the stages put together where packets are metered in userspace.

mod port;
mod summary;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use self::port::Port;
pub(super) use self::summary::TableSummary;
use super::{
    RunError, Settings, Summary,
    budget::Adaptive,
    classes::Classes,
    domains,
    ending::{Signals, SummaryFile, after, each_second, nobody_reads, send_rest},
    initialiser, lasting, load,
    steer::{Change, Facts, Steering},
    summary::SamplingSummary,
    watch::within,
};
use crate::{
    attach::Netns,
    bypass::{
        Crew, Poll,
        books::Both,
        crew::{Program, desks},
        source::Tapped,
    },
    clock::{Clock, monotonic_ns, unix_ms},
    export::{Exporter, Interfaces, Telemetry},
    host,
    ledger::{Books as _, Ledger},
    load::{Kernel, Options},
    routes::Routes,
    sampling::{Rates, Sampling},
    table::{
        ChangeError, Changed, Emitter, Pairing, Patience,
        emit::{Exported, Sink},
        grace::{GracePeriod as _, Rcu},
    },
    telemetry::Meter,
    xsk,
};

/// Where packets are metered.
#[derive(Clone, Debug, Default)]
pub enum Mode {
    /// Where the program sees them.
    #[default]
    Xdp,
    /// In userspace: the program hands them over.
    AfXdp(BypassSettings),
}

/// What can be chosen about metering in userspace.
#[derive(Clone, Copy, Debug, Default)]
pub struct BypassSettings {
    /// How workers wait for packets.
    pub poll: Poll,
    /// Rings and buffers of each queue.
    pub queue: xsk::Settings,
    /// Take packets that this machine needs, too.
    pub take_packets: bool,
}

/// Largest `--max-flows` of this mode, for the table of each queue.
pub const MAX_FLOWS: u32 = 1 << 24;

/// How long a flow that is due may take to leave, for biflows.
const LATE: Duration = Duration::from_millis(100);

/// Meters until a signal or the end of `duration`.
pub(super) async fn run(settings: Settings, bypass: &BypassSettings) -> Result<Summary, RunError> {
    let mut metering = Metering::start(settings, bypass)?;
    let broken = metering.wait().await;
    metering.finish(broken).await
}

impl Change for Crew<Tapped> {
    fn change(
        &self,
        class: u8,
        sampling: Sampling,
    ) -> oneshot::Receiver<Result<Changed, ChangeError>> {
        Crew::change(self, class, sampling)
    }
}

/// Everything that is at work while packets are metered.
struct Metering {
    duration: Option<Duration>,
    max_flows: u32,
    summary: Option<SummaryFile>,
    exported: Arc<Exported>,
    exporter: Arc<Exporter>,
    clock: Arc<Clock>,
    meter: Arc<Meter>,
    books: Arc<Both>,
    grace: Rcu,
    crew: Crew<Tapped>,
    signals: Signals,
    steering: Steering,
    /// Where interfaces are, if that is another one.
    netns: Option<Netns>,
    ports: Vec<Port>,
    _kernel: Kernel,
}

impl Metering {
    /// Checks, loads, opens the queues, starts the threads, and last of all attaches.
    fn start(mut settings: Settings, bypass: &BypassSettings) -> Result<Self, RunError> {
        let host = host::check(true)?;
        let netns = settings.netns.as_ref().map(Netns::open).transpose()?;
        let interfaces = within(netns.as_ref(), || port::find(&settings, bypass))??;
        let names = Arc::new(Interfaces::new(lasting(&settings)));
        let grace = Rcu::new().map_err(RunError::Grace)?;
        let classes = Classes::new(std::mem::take(&mut settings.classes));
        let samplings = classes.samplings();
        settings.export.domains = domains(&settings, &classes)?;
        let options = Options {
            // No flow is kept in the kernel.
            max_flows: 1,
            ring_parts: 1,
            partitions: host.possible_cpus.slots() as u32,
            sampling: samplings[0],
            classes: &classes.with_filters(&settings.interfaces, &interfaces)?,
            sample_key: initialiser(settings.sample_key)?,
            shadow: None,
            tunnels: settings.tunnels,
            dedup: None,
        };
        let parse_first = options.parse_first();
        let adaptive = classes.budget().map(Adaptive::new).transpose()?;
        let control = settings.control.bind()?;
        let kernel = load(settings.object.take(), &options)?;
        let handover = kernel.handover()?;
        let shared = Arc::clone(kernel.shared());
        let clock = Arc::new(Clock::default());
        let pairing = settings.export.content.biflows.then(|| {
            let patience = Patience::live(&settings.timeouts, LATE);
            Pairing::new(patience, settings.max_flows as usize)
        });
        let exported = Arc::new(Exported::in_biflows(pairing));
        let rates = Arc::new(Rates::new(&samplings, None));
        // From here on there are queues, of which nobody takes packets before all is attached.
        let open = || port::open(&handover, &interfaces, bypass);
        let mut opened = within(netns.as_ref(), open)??;
        let recruits = port::recruits(&mut opened, &settings)?;
        let tables = recruits.len();
        for interface in &interfaces {
            names.put(interface.index, &interface.name);
        }
        settings.export.interfaces = Arc::clone(&names);
        let desks = desks(tables);
        let books = Arc::new(Both::new(
            Arc::clone(&shared),
            Arc::clone(&exported),
            desks.clone(),
        ));
        let meter = Arc::new(Meter::new(
            Arc::clone(&books) as Arc<_>,
            Arc::clone(&shared),
            Arc::clone(&rates),
            Arc::clone(&clock),
        ));
        let telemetry = Arc::clone(&meter) as Arc<dyn Telemetry>;
        let exporter = Arc::new(Exporter::start(&settings.export, telemetry)?);
        let routes = match settings.next_hop {
            true => Some(Arc::new(
                within(netns.as_ref(), Routes::open)?.map_err(RunError::Routes)?,
            )),
            false => None,
        };
        let emitter = Emitter::new(
            Arc::clone(&clock),
            Arc::clone(&exported),
            Arc::clone(&exporter) as Arc<dyn Sink>,
            Arc::clone(&rates),
        )
        .with_routes(routes);
        // A signal that comes earlier than its handler ends the process at once.
        let signals = Signals::new().map_err(RunError::Start)?;
        let summary = settings
            .summary
            .take()
            .map(SummaryFile::create)
            .transpose()?;
        let program = Program {
            shared: Arc::clone(&shared),
            grace: Rcu::new().map_err(RunError::Grace)?,
        };
        let crew = Crew::start(recruits, desks, bypass.poll, &emitter, &rates, program)?;
        drop(emitter);
        let attach = || port::attach(opened, &handover, &settings);
        let ports = match within(netns.as_ref(), attach)
            .map_err(RunError::from)
            .flatten()
        {
            Ok(ports) => ports,
            Err(error) => {
                // Threads end before their memory goes.
                let _ = crew.stop();
                return Err(error);
            }
        };
        summary::say_memory(settings.max_flows, tables, &bypass.queue);
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
            shared,
            books: Arc::clone(&books) as Arc<_>,
            exported: Arc::clone(&exported),
            exporter: Arc::downgrade(&exporter),
            parse_first,
            keyed: settings.sample_key.is_some(),
            shadow: false,
        };
        let there: Vec<_> = interfaces.iter().map(|one| one.name.as_str()).collect();
        facts.say_what_is_metered(&there.join(", "));
        Ok(Self {
            duration: settings.duration,
            max_flows: settings.max_flows,
            summary,
            exported,
            exporter,
            clock,
            meter,
            books,
            grace,
            crew,
            signals,
            steering: Steering::new(facts, control, adaptive),
            netns,
            ports,
            _kernel: kernel,
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
                thread = self.crew.ended() => return Some(thread),
                (request, handle) = self.steering.request() => {
                    self.steering.answer(request, handle, &self.crew);
                    continue;
                }
                _ = second.tick() => {}
            }
            self.steering.look(&self.crew);
            self.clock.measure();
            self.meter.look();
            let (netns, ports) = (self.netns.as_ref(), &mut self.ports);
            if let Err(error) = within(netns, || ports.iter_mut().for_each(Port::look)) {
                tracing::warn!("{error}");
            }
            if nobody_reads(&self.exporter) {
                return None;
            }
        }
    }

    /// Detaches, waits for one grace period, and takes out everything that was counted.
    async fn finish(self, mut broken: Option<&'static str>) -> Result<Summary, RunError> {
        let Self {
            exported,
            exporter,
            mut signals,
            mut steering,
            books,
            ..
        } = self;
        steering.close();
        let ports = self.ports;
        let detach = || ports.into_iter().map(Port::detach).unzip();
        let detached = within(self.netns.as_ref(), detach);
        let (interfaces, shares): (Vec<_>, Vec<_>) = detached.unwrap_or_else(|error| {
            tracing::error!("{error}: the summary has no interfaces");
            Default::default()
        });
        if let Err(error) = self.grace.wait() {
            // What comes late is counted as lost.
            tracing::error!("no grace period after detaching: {error}");
            broken = Some("kernel");
        }
        let remains = self.crew.stop();
        drop(shares);
        broken = broken.or(remains.broken);
        books.end();
        let reports = send_rest(exporter, &mut signals, Arc::default()).await;
        let reports = reports.unwrap_or_else(|| {
            broken = Some("exporter");
            Vec::new()
        });
        let sampling =
            SamplingSummary::new(steering.facts.rest(), steering.facts.all_classes(), None);
        // A table that nobody can look into any more has what it counted and never gave away.
        let mut held = match remains.broken {
            None => remains.held,
            Some(_) => books.held(),
        };
        held += exported.waiting();
        let totals = books.totals();
        let ledger = Ledger::new(&totals, exported.volume(), held, reports);
        let table = TableSummary::new(self.max_flows, &remains.counted, &totals);
        let summary = Summary::of_userspace(sampling, ledger, table, &exported, interfaces);
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
