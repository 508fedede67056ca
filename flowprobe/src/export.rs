//! Sends finished flows on: to IPFIX collectors over UDP, or printed to standard output.
//!
//! Live metering never waits here. [`Exporter::send`] puts the records into a bounded queue of each
//! destination and returns; threads of the exporter do the rest. Every destination gets every
//! record, and accounts for each: sent, still queued, or dropped for a named reason.

pub mod account;
mod announce;
mod balance;
pub mod collector;
mod encoder;
pub mod group;
pub mod interfaces;
mod link;
mod members;
mod pace;
mod print;
pub mod replay;
mod sender;
mod spool;
mod start;
pub mod template;
#[cfg(test)]
mod tests;

use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime},
};

pub use account::DestinationReport;
pub use collector::{Collector, CollectorError, Format, Identity, Transport};
pub use encoder::Content;
pub use group::{Group, GroupError, Mode};
pub use interfaces::{Interface, Interfaces};
pub use link::{LinkError, TlsError};
pub use spool::SpoolError;
pub use template::{NamedTemplate, NoTemplate, TemplateName};

use self::{
    account::Outlet,
    balance::Balance,
    encoder::Encoder,
    link::{Link, Ways},
    print::Printer,
};
use crate::{
    clock::uptime_ms,
    encode::{Stamp, TooSmall},
    ipfix::message::{MIN_OCTETS, PACKET_OVERHEAD},
    ipfix_file::Rotation,
    record::FlowRecord,
    sampling::{Profile, Sampling, Selection},
};

/// Time to send what is queued at [`Exporter::finish`], beyond what pacing needs.
const GRACE: Duration = Duration::from_secs(30);

/// Smallest `--spool-octets`.
pub const MIN_SPOOL: u64 = spool::MIN_LIMIT;

/// Smallest `--mtu`.
pub const MIN_MTU: u16 = MIN_OCTETS as u16 + PACKET_OVERHEAD;

/// What to send, where, and how fast.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Collectors; each gets every record.
    pub collectors: Vec<Collector>,
    /// Collectors that have the records together.
    pub groups: Vec<Group>,
    /// Who is who in secure transports, where a collector does not say.
    pub identity: Identity,
    /// Where collectors with sessions have what they miss; each in a directory of its own.
    pub spool: Option<SpoolSettings>,
    /// When a file of a collector that is a directory is followed by the next one.
    pub rotation: Rotation,
    /// Octets of the largest packet: message, UDP and IP header.
    pub mtu: u16,
    /// How often templates and options are sent again (RFC 7011 §8.4).
    pub template_refresh: Duration,
    /// And after so many messages, where messages may be lost; 0 does not count them.
    pub template_refresh_packets: u32,
    /// Flow records a second to each collector; 0 is as fast as the socket takes them.
    pub export_rate: u32,
    /// Records that wait for each destination. One takes about 215 octets, shared between
    /// destinations; when the queue is full the newest are dropped and counted.
    pub queue: usize,
    /// The observation domain of each class of sampling; the index is the class.
    pub domains: Vec<Domain>,
    /// How collectors are told so.
    pub sampling_profile: Profile,
    /// Interfaces to name to the collectors.
    pub interfaces: Arc<Interfaces>,
    /// What flow records have in them.
    pub content: Content,
    /// What to print on standard output.
    pub output: Option<Output>,
}

impl Settings {
    /// The templates that no collector asks for; their indexes.
    pub fn idle_templates(&self) -> impl Iterator<Item = usize> {
        let grouped = self.groups.iter().flat_map(|group| &group.collectors);
        let collectors = self.collectors.iter().chain(grouped);
        let used = move |name: &TemplateName| {
            let mut collectors = collectors.clone();
            collectors.any(|collector| collector.template() == Some(name))
        };
        let templates = self.content.templates.iter().enumerate();
        templates.filter_map(move |(i, template)| (!used(&template.name)).then_some(i))
    }

    fn ways(&self) -> Ways<'_> {
        Ways {
            mtu: self.mtu,
            identity: &self.identity,
            rotation: self.rotation,
        }
    }
}

/// An observation domain: a class of sampling that has a rate of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Domain {
    /// observationDomainId of its messages; no two have the same.
    pub id: u32,
    /// What the class is, as collectors shall read it: the filter. Empty for the rest.
    pub name: String,
    /// How its packets are selected at first; see [`Exporter::change`].
    pub sampling: Sampling,
}

/// Where what collectors miss waits for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// A directory, with one for each collector in it.
    pub directory: PathBuf,
    /// Octets for each collector; when they are used up the oldest flows are dropped.
    pub octets: u64,
}

/// How flows are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// A table for people.
    Table,
    /// One JSON object a line.
    Json,
}

/// What options records need to know of the metering of a class, since it began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Metering {
    /// Selected packets that are in no flow (IE 164).
    pub ignored_packets: u64,
    /// Their octets (IE 165).
    pub ignored_octets: u64,
    /// When the first and the last of them came, in milliseconds since 1970-01-01 UTC; none
    /// before the first.
    pub ignored_span_ms: Option<(u64, u64)>,
}

/// Who knows the figures. Asked from the exporter's thread: at each template refresh, at each
/// change of a rate, and at the end.
pub trait Telemetry: Send + Sync {
    /// The figures of now.
    fn metering(&self, class: usize) -> Metering;

    /// What was selected of `class` in its epoch number `epoch`, counted from 0 by
    /// [`Exporter::change`]: so far, or in all of it if it has ended. Collectors that are behind
    /// ask for epochs that have ended; `None` if they are forgotten, and then nothing is said.
    fn selection(&self, class: usize, epoch: u32) -> Option<Selection>;
}

/// Why export cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// No template or record would fit.
    #[error("--mtu {mtu} is too small for {collector}: one flow record needs at least {least}")]
    Mtu {
        /// As set.
        mtu: u16,
        /// For which collector.
        collector: String,
        /// What it needs.
        least: usize,
    },
    /// A queue of nothing.
    #[error("--export-queue 0 would drop every flow: it must be at least 1")]
    Queue,
    /// Templates without end.
    #[error("--template-refresh 0 would send nothing but templates: it must be above 0")]
    TemplateRefresh,
    /// Every flow would be lost.
    #[error("flows have nowhere to go: name a collector or an output")]
    Nowhere,
    /// Nowhere to put a record.
    #[error("no observation domain is named: at least one is needed")]
    NoDomain,
    /// Their sequence numbers would be one.
    #[error("observation domain {id} is given to two classes: each needs an id of its own")]
    SameDomain {
        /// Which.
        id: u32,
    },
    /// No way to a collector.
    #[error("collector {collector}: {why}")]
    Link {
        /// Which.
        collector: String,
        /// Why.
        why: LinkError,
    },
    /// A template that nobody has defined.
    #[error("collector {collector}: {why}")]
    Template {
        /// For which collector.
        collector: String,
        /// Why.
        why: NoTemplate,
    },
    /// What is on disk could not be accounted for.
    #[error(
        "collector {collector}: flows on disk are counted by their records: give {missing} among its \
         fields too, or leave out --spool"
    )]
    Uncounted {
        /// Which.
        collector: String,
        /// The element that its fields lack.
        missing: &'static str,
    },
    /// No place for what a collector misses.
    #[error("collector {collector}: {why}")]
    Spool {
        /// Which.
        collector: String,
        /// Why.
        why: SpoolError,
    },
    /// No thread.
    #[error("cannot start the export thread: {0}")]
    Thread(io::Error),
}

/// The time, as the steps of the exporter take it.
#[derive(Clone, Copy, Debug)]
struct Now {
    at: Instant,
    /// Milliseconds since 1970-01-01 UTC.
    unix_ms: u64,
    /// Milliseconds since the machine booted.
    uptime_ms: u64,
}

impl Now {
    fn read() -> Self {
        let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        Self {
            at: Instant::now(),
            unix_ms: unix.as_millis() as u64,
            uptime_ms: uptime_ms(),
        }
    }

    /// Where the clock was set, the machine has booted at another time of day: sysUptime goes on.
    fn stamp(self) -> Stamp {
        Stamp {
            unix_ms: self.unix_ms,
            boot_unix_ms: self.unix_ms.saturating_sub(self.uptime_ms),
        }
    }
}

/// Wakes the threads of the exporter, and tells them when to end.
#[derive(Debug, Default)]
struct Bell {
    state: Mutex<BellState>,
    rung: Condvar,
}

#[derive(Debug, Default)]
struct BellState {
    /// Counts the rings, so that each thread sees each of them.
    rings: u64,
    /// The exporter shall finish by then.
    finish_by: Option<Instant>,
}

impl Bell {
    fn state(&self) -> MutexGuard<'_, BellState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        self.state().rings += 1;
        self.rung.notify_all();
    }

    fn finish(&self, by: Instant) {
        self.state().finish_by.get_or_insert(by);
        self.ring();
    }

    fn finish_by(&self) -> Option<Instant> {
        self.state().finish_by
    }

    /// Waits for a ring after the `heard` ones, or until `until`; returns the rings so far.
    fn wait(&self, heard: u64, until: Instant) -> u64 {
        let mut state = self.state();
        while state.rings == heard {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            let waited = self.rung.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.rings
    }
}

/// The exporter: its queues and its threads.
#[derive(Debug)]
pub struct Exporter {
    /// All destinations.
    outlets: Vec<Arc<Outlet>>,
    /// Those that get every record.
    whole: Vec<Arc<Outlet>>,
    /// Those that share them.
    balanced: Vec<Balance>,
    bell: Arc<Bell>,
    threads: Vec<JoinHandle<()>>,
    export_rate: u32,
    classes: usize,
    /// Said once that there are records of a class that has no domain.
    complained: AtomicBool,
}

impl Exporter {
    /// Opens the sockets and sends templates and options to each collector.
    ///
    /// # Errors
    /// If a setting makes no sense, a host name does not resolve or a socket does not open. A
    /// collector that cannot be reached is no error: it is retried.
    pub fn start(settings: &Settings, telemetry: Arc<dyn Telemetry>) -> Result<Self, ExportError> {
        if settings.queue == 0 {
            return Err(ExportError::Queue);
        }
        if settings.template_refresh.is_zero() {
            return Err(ExportError::TemplateRefresh);
        }
        if settings.collectors.is_empty() && settings.groups.is_empty() && settings.output.is_none()
        {
            return Err(ExportError::Nowhere);
        }
        check(&settings.domains)?;
        let mut exporter = Self {
            outlets: Vec::new(),
            whole: Vec::new(),
            balanced: Vec::new(),
            bell: Arc::default(),
            threads: Vec::new(),
            export_rate: settings.export_rate,
            classes: settings.domains.len(),
            complained: AtomicBool::new(false),
        };
        exporter.start_senders(settings, telemetry)?;
        if let Some(output) = settings.output {
            let outlet = exporter.outlet("stdout".to_owned(), settings);
            let bell = Arc::clone(&exporter.bell);
            let printer = Printer::stdout(output, outlet, &settings.domains);
            exporter.spawn("print", move || printer.run(&bell))?;
        }
        Ok(exporter)
    }

    /// Queues the records for each destination. Never waits for any of them.
    ///
    /// A record of a class without a domain is dropped, for the reason `unknown_class`: in
    /// another domain collectors would take it for one of that rate.
    pub fn send(&self, mut records: Vec<FlowRecord>) {
        // Stable: within a class records stay in the order in which they came.
        records.sort_by_key(FlowRecord::class);
        let Some(last) = records.last() else {
            return;
        };
        if last.class() >= self.classes && !self.complained.swap(true, Ordering::Relaxed) {
            let class = last.class();
            tracing::error!(class, "flows of a class without a domain are dropped");
        }
        let records = Arc::new(records);
        let now = Now::read();
        for outlet in &self.whole {
            outlet.account().push(&records, now);
        }
        for balance in &self.balanced {
            balance.push(&records, now);
        }
        self.bell.ring();
    }

    /// From now on records of `class` are metered with `sampling`. Each collector is told so after
    /// the last record that was sent before, and before the first one that is sent behind. Never
    /// waits for any of them.
    pub fn change(&self, class: usize, sampling: Sampling) {
        if class >= self.classes {
            tracing::error!(class, "the rate of a class without a domain cannot change");
            return;
        }
        for outlet in &self.outlets {
            outlet.account().push_change(class, sampling);
        }
        self.bell.ring();
    }

    /// How many records the fullest queue of a destination that still takes any has room for.
    #[must_use]
    pub fn room(&self) -> usize {
        let rooms = self.outlets.iter().map(|outlet| outlet.account().room());
        rooms.flatten().min().unwrap_or(usize::MAX)
    }

    /// The account of each destination as it stands.
    #[must_use]
    pub fn reports(&self) -> Vec<DestinationReport> {
        self.outlets.iter().map(|outlet| outlet.report()).collect()
    }

    /// Sends what is queued, then the last statistics, and ends. What a destination does not
    /// take in the time that its pacing needs and 30 s more counts as dropped.
    #[must_use]
    pub fn finish(self) -> Vec<DestinationReport> {
        self.finish_unless(&AtomicBool::new(false))
    }

    /// As [`Exporter::finish`], but once `given_up` is set what is left counts as dropped.
    #[must_use]
    pub fn finish_unless(mut self, given_up: &AtomicBool) -> Vec<DestinationReport> {
        let queued = self.outlets.iter().map(|o| o.account().queued().records);
        let paced = match self.export_rate {
            0 => 0.0,
            rate => queued.max().unwrap_or(0) as f64 / f64::from(rate),
        };
        let by = Instant::now() + GRACE + Duration::from_secs_f64(paced);
        self.bell.finish(by);
        for thread in self.threads.drain(..) {
            // A thread that waits for a pipe that nobody reads cannot be joined.
            while !thread.is_finished()
                && Instant::now() < by + Duration::from_secs(1)
                && !given_up.load(Ordering::Relaxed)
            {
                thread::sleep(Duration::from_millis(1));
            }
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("a thread of the exporter panicked");
            }
        }
        for outlet in &self.outlets {
            outlet.account().close("shutdown", Now::read());
        }
        self.reports()
    }

    /// A destination of every record.
    fn outlet(&mut self, destination: String, settings: &Settings) -> Arc<Outlet> {
        let outlet = Arc::new(new_outlet(destination, settings));
        self.outlets.push(Arc::clone(&outlet));
        self.whole.push(Arc::clone(&outlet));
        outlet
    }

    fn spawn(
        &mut self,
        name: &str,
        run: impl FnOnce() + Send + 'static,
    ) -> Result<(), ExportError> {
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
        self.threads.push(thread.map_err(ExportError::Thread)?);
        Ok(())
    }
}

impl Drop for Exporter {
    fn drop(&mut self) {
        self.bell.finish(Instant::now());
    }
}

/// Whether each class has a domain of its own.
fn check(domains: &[Domain]) -> Result<(), ExportError> {
    let mut ids: Vec<_> = domains.iter().map(|domain| domain.id).collect();
    ids.sort_unstable();
    match ids.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => Err(ExportError::SameDomain { id: pair[0] }),
        None if ids.is_empty() => Err(ExportError::NoDomain),
        None => Ok(()),
    }
}

fn new_outlet(destination: String, settings: &Settings) -> Outlet {
    let rates: Vec<_> = settings.domains.iter().map(|d| d.sampling).collect();
    Outlet::new(destination, settings.queue, &rates)
}

/// What a collector's records have in them.
fn content(collector: &Collector, settings: &Settings) -> Result<Content, ExportError> {
    let content = settings.content.of(collector);
    content.map_err(|why| ExportError::Template {
        collector: collector.to_string(),
        why,
    })
}

/// An encoder for each domain.
fn encoders(collector: &Collector, settings: &Settings) -> Result<Vec<Encoder>, ExportError> {
    let mtu = settings.mtu;
    let octets = settings.ways().message_octets(collector);
    let format = collector.format().unwrap_or_default();
    let content = content(collector, settings)?;
    let encoder = |domain: &Domain| Encoder::new(format, domain.id, octets, &content);
    let encoders = settings.domains.iter().map(encoder);
    encoders
        .collect::<Result<_, TooSmall>>()
        .map_err(|TooSmall { least, .. }| ExportError::Mtu {
            mtu,
            collector: collector.to_string(),
            // What is around the message: for DTLS more than for UDP.
            least: least + usize::from(mtu.saturating_sub(octets)),
        })
}
