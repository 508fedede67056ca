//! What is asked and told over the control socket while a run goes on.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{RunError, budget::Adaptive, classes::Classes};
use crate::{
    clock::{Clock, unix_ms},
    control::{self, Control, Handle, Reply, Request, Status},
    export::{Domain, Exporter},
    ledger::{Books, Ledger},
    sampling::{Rates, Sampling, Selection},
    table::{ChangeError, Changed, Shared, emit::Exported},
};

/// Where the control socket is to be.
#[derive(Clone, Debug)]
pub enum ControlSocket {
    /// Nowhere.
    None,
    /// At the usual place, if that can be had.
    Default,
    /// Here, or the run does not start.
    At(std::path::PathBuf),
}

impl ControlSocket {
    /// Makes the socket.
    pub(super) fn bind(&self) -> Result<Option<Control>, RunError> {
        match self {
            Self::None => Ok(None),
            Self::At(path) => Ok(Some(Control::bind(path)?)),
            Self::Default => match Control::bind(Path::new(control::DEFAULT_PATH)) {
                Ok(control) => Ok(Some(control)),
                Err(error) => {
                    tracing::info!("no `flowprobe ctl` for this run: {error}");
                    Ok(None)
                }
            },
        }
    }
}

/// Who samples classes in another way.
pub(super) trait Change {
    /// Samples a class in another way. The answer comes when all flows of the rate before have left
    /// the tables; it fails if metering ends first.
    fn change(
        &self,
        class: u8,
        sampling: Sampling,
    ) -> oneshot::Receiver<Result<Changed, ChangeError>>;
}

/// What a run tells of itself, and what it needs to change a rate.
pub(super) struct Facts {
    pub(super) started: Instant,
    pub(super) clock: Arc<Clock>,
    /// How long a flow is kept without a packet.
    pub(super) idle: Duration,
    pub(super) interfaces: Vec<String>,
    pub(super) classes: Classes,
    pub(super) domains: Vec<Domain>,
    pub(super) rates: Arc<Rates>,
    pub(super) shared: Arc<Shared>,
    pub(super) books: Arc<dyn Books>,
    pub(super) exported: Arc<Exported>,
    /// Not kept alive: the run ends it.
    pub(super) exporter: Weak<Exporter>,
    /// Whether packets are parsed before samplers are asked.
    pub(super) parse_first: bool,
    /// Whether other sensors may have the key that packets are selected by.
    pub(super) keyed: bool,
    /// Whether all packets are metered to compare a sample with them.
    pub(super) shadow: bool,
    /// When the present epoch of each class began, milliseconds since 1970-01-01 UTC.
    pub(super) since_ms: Mutex<Vec<u64>>,
    /// Held by the one who walks all tables to say how it is going.
    pub(super) walking: tokio::sync::Mutex<()>,
}

impl Facts {
    /// Says what is metered, and of which rate.
    pub(super) fn say_what_is_metered(&self) {
        let interfaces = self.interfaces.join(", ");
        match self.classes.budget() {
            Some(budget) => tracing::info!(sample = %budget, "metering {interfaces}"),
            None => {
                let rest = self.domains.first().map(|domain| domain.sampling);
                let rest = rest.unwrap_or(Sampling::All);
                tracing::info!(sample = %rest, "metering {interfaces}");
            }
        }
        for domain in self.domains.iter().skip(1) {
            tracing::info!(
                domain = domain.id,
                sample = %domain.sampling,
                "of its own rate: {}",
                domain.name
            );
        }
    }

    /// A class as it is now.
    pub(super) fn class(&self, class: usize) -> Option<control::Class> {
        let domain = self.domains.get(class)?;
        let (epoch, sampling) = self.rates.current(class as u8)?;
        let Selection { observed, selected } = self.shared.selection(class as u8, epoch);
        let since_ms = self.since_ms.lock().unwrap_or_else(PoisonError::into_inner);
        Some(control::Class {
            name: match domain.name.as_str() {
                "" => "rest".to_owned(),
                name => name.to_owned(),
            },
            domain: domain.id,
            rate: sampling.to_string(),
            epoch,
            since_ms: since_ms.get(class).copied().unwrap_or_default(),
            observed,
            selected,
            measured_ratio: match observed {
                0 => 0.0,
                observed => selected as f64 / observed as f64,
            },
        })
    }

    /// How the rest is sampled now.
    pub(super) fn rest(&self) -> Sampling {
        self.rates
            .current(0)
            .map_or(Sampling::All, |(_, sampling)| sampling)
    }

    /// All classes as they are now.
    pub(super) fn all_classes(&self) -> Vec<control::Class> {
        (0..self.domains.len())
            .filter_map(|class| self.class(class))
            .collect()
    }

    fn status(&self) -> Status {
        let reports = self
            .exporter
            .upgrade()
            .map(|exporter| exporter.reports())
            .unwrap_or_default();
        let mut held = self.books.held();
        held += self.exported.waiting();
        let ledger = Ledger::new(&self.books.totals(), self.exported.volume(), held, reports);
        Status {
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs_f64(),
            interfaces: self.interfaces.clone(),
            classes: self.all_classes(),
            ledger: serde_json::to_value(&ledger).unwrap_or_default(),
        }
    }

    /// Why a class cannot be sampled so, if it cannot.
    fn refuse(&self, class: usize, sampling: Sampling) -> Option<String> {
        if self.shadow {
            return Some(
                "this run compares a sample with all packets (--shadow), so all are metered"
                    .to_owned(),
            );
        }
        if class == 0
            && let Some(budget) = self.classes.budget()
        {
            return Some(format!("the rate is chosen by --sample {budget}"));
        }
        if matches!(sampling, Sampling::Hash(_)) && !self.keyed {
            return Some("this run was started without --sample-key".to_owned());
        }
        (sampling.asks_for_packet() && !self.parse_first).then(|| {
            format!(
                "{sampling} asks for the packet, and this run was started with rates that do not: \
                 start it with --sample {sampling}"
            )
        })
    }

    /// Notes that an epoch has begun.
    pub(super) fn begun(&self, class: usize, changed: &Changed) {
        let mut since_ms = self.since_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = since_ms.get_mut(class) {
            *since = unix_ms(changed.since_ns, self.clock.offset_ns());
        }
    }
}

/// Answers requests, and keeps to a budget.
pub(super) struct Steering {
    pub(super) facts: Arc<Facts>,
    control: Option<Control>,
    adaptive: Option<Adaptive>,
}

impl Steering {
    pub(super) fn new(facts: Facts, control: Option<Control>, adaptive: Option<Adaptive>) -> Self {
        Self {
            facts: Arc::new(facts),
            control,
            adaptive,
        }
    }

    /// Takes no more requests.
    pub(super) fn close(&mut self) {
        self.control = None;
    }

    /// The next request; never without a control socket.
    pub(super) async fn request(&mut self) -> (Request, Handle) {
        match &mut self.control {
            Some(control) => control.next().await,
            None => std::future::pending().await,
        }
    }

    /// Does what was asked. Never waits: what takes time answers by itself.
    pub(super) fn answer(&self, request: Request, handle: Handle, threads: &impl Change) {
        let facts = &self.facts;
        let (sampling, class) = match request {
            Request::Rates => return handle.reply(Reply::Classes(facts.all_classes())),
            Request::Status => {
                let facts = Arc::clone(facts);
                tokio::spawn(async move { handle.reply(status(facts).await) });
                return;
            }
            Request::Sample { sampling, class } => (sampling, class),
        };
        let Some(number) = facts.classes.find(class.as_ref()) else {
            let name = class.map(|class| class.to_string()).unwrap_or_default();
            return handle.reply(Reply::Error(format!(
                "no class has the filter {name:?}: `flowprobe ctl sample` shows all"
            )));
        };
        if let Some(refusal) = facts.refuse(number, sampling) {
            return handle.reply(Reply::Error(refusal));
        }
        let answered = threads.change(number as u8, sampling);
        let facts = Arc::clone(facts);
        tokio::spawn(async move {
            handle.reply(match answered.await {
                Ok(Ok(changed)) => {
                    facts.begun(number, &changed);
                    said(&facts, number, changed.epoch, sampling);
                    match facts.class(number) {
                        Some(class) => Reply::Class(class),
                        None => Reply::Error("the class is gone".to_owned()),
                    }
                }
                Ok(Err(error)) => Reply::Error(error.to_string()),
                Err(_) => Reply::Error("flowprobe is about to end".to_owned()),
            });
        });
    }

    /// Looks at the load, and changes the rate where it has to. To be called about once a second.
    pub(super) fn look(&mut self, threads: &impl Change) {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.look(&self.facts, threads);
        }
    }
}

/// How it is going. All tables are walked for it, on a thread of its own, by one at a time.
async fn status(facts: Arc<Facts>) -> Reply {
    let walked = Arc::clone(&facts);
    let _walking = facts.walking.lock().await;
    let status = tokio::task::spawn_blocking(move || walked.status()).await;
    status.map_or_else(|error| Reply::Error(error.to_string()), Reply::Status)
}

fn said(facts: &Facts, class: usize, epoch: u32, sampling: Sampling) {
    let name = facts.classes.name(class);
    let class = if name.is_empty() { "rest" } else { &name };
    tracing::info!(class, epoch, sample = %sampling, "another sampling rate");
}
