//! What may change while a run goes on: sampling rates, on request over the control socket, and by
//! itself where they have a budget.

use std::{
    num::NonZeroU32,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, Instant, SystemTime},
};

use tokio::{sync::oneshot, task::JoinHandle};

use super::{RunError, classes::Classes, threads::Threads};
use crate::{
    adaptive::{
        Budget, Controller, CostModel, Load,
        runtime::{Cost, RunTimeError, WINDOW, Window},
    },
    control::{self, Control, Handle, Reply, Request, Status},
    export::{Domain, Exporter},
    ledger::Ledger,
    sampling::{Rates, Sampling, Selection},
    table::{ChangeError, Overflow, Shared, emit::Exported, held::held, shared::Totals},
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

/// What a run tells of itself, and what it needs to change a rate.
pub(super) struct Facts {
    pub(super) started: Instant,
    pub(super) interfaces: Vec<String>,
    pub(super) classes: Classes,
    pub(super) domains: Vec<Domain>,
    pub(super) rates: Arc<Rates>,
    pub(super) shared: Arc<Shared>,
    pub(super) overflow: Arc<Overflow>,
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
        let held = held(&self.shared, &self.overflow);
        let ledger = Ledger::new(&self.shared.totals(), self.exported.volume(), held, reports);
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
    fn begun(&self, class: usize) {
        let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
        let mut since_ms = self.since_ms.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(since) = since_ms.get_mut(class) {
            *since = unix.as_millis() as u64;
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
    /// `programs` are all that may be attached.
    pub(super) fn new(
        facts: Facts,
        control: Option<Control>,
        programs: Vec<OwnedFd>,
    ) -> Result<Self, RunError> {
        let adaptive = facts
            .classes
            .budget()
            .map(|budget| Adaptive::new(budget, programs))
            .transpose()?;
        Ok(Self {
            facts: Arc::new(facts),
            control,
            adaptive,
        })
    }

    /// The next request; never without a control socket.
    pub(super) async fn request(&mut self) -> (Request, Handle) {
        match &mut self.control {
            Some(control) => control.next().await,
            None => std::future::pending().await,
        }
    }

    /// Does what was asked. Never waits: what takes time answers by itself.
    pub(super) fn answer(&self, request: Request, handle: Handle, threads: &Threads) {
        let facts = &self.facts;
        let (sampling, class) = match request {
            Request::Status => return handle.reply(Reply::Status(facts.status())),
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
                Ok(Ok(epoch)) => {
                    facts.begun(number);
                    said(&facts, number, epoch, sampling);
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
    pub(super) fn look(&mut self, threads: &Threads) {
        if let Some(adaptive) = &mut self.adaptive {
            adaptive.look(&self.facts, threads);
        }
    }
}

fn said(facts: &Facts, class: usize, epoch: u32, sampling: Sampling) {
    let name = facts.classes.name(class);
    let class = if name.is_empty() { "rest" } else { &name };
    tracing::info!(class, epoch, sample = %sampling, "another sampling rate");
}

/// Keeps the cost of metering within a budget.
struct Adaptive {
    budget: Budget,
    controller: Controller,
    costs: CostModel,
    programs: Arc<Vec<OwnedFd>>,
    window: Option<Arc<Window>>,
    /// The cost of runs, which is being measured.
    measuring: Option<JoinHandle<Result<Cost, RunTimeError>>>,
    started: Instant,
    /// Since when the rate is what it is, and the counters of then.
    before: Option<(Instant, Totals)>,
    /// A change that is on its way.
    change: Option<oneshot::Receiver<Result<u32, ChangeError>>>,
}

impl Adaptive {
    fn new(budget: Budget, programs: Vec<OwnedFd>) -> Result<Self, RunError> {
        let window = match budget {
            Budget::Cpu { .. } => Some(Arc::new(Window::new()?)),
            Budget::Flows(_) | Budget::Packets(_) => None,
        };
        Ok(Self {
            budget,
            controller: Controller::new(budget, NonZeroU32::MIN),
            costs: CostModel::default(),
            programs: Arc::new(programs),
            window,
            measuring: None,
            started: Instant::now(),
            before: None,
            change: None,
        })
    }

    fn look(&mut self, facts: &Facts, threads: &Threads) {
        if !self.has_settled(facts) {
            return;
        }
        let cost = self.take_cost();
        self.measure();
        let now = (Instant::now(), facts.shared.totals());
        let Some(before) = self.before.replace(now) else {
            return;
        };
        let n = self.controller.n();
        let Some(load) = self.load(&before, &now, cost) else {
            return;
        };
        let next = self.controller.observe(self.started.elapsed(), load);
        if self.controller.newly_exceeded() {
            tracing::warn!(
                load = format_args!("{:.4}", load.total),
                limit = self.budget.a_second(),
                "--sample {} cannot be kept: at 1/{n} nearly all of the load is packets that are \
                 skipped, and a rarer rate would save next to nothing",
                self.budget,
            );
        }
        if let Some(next) = next {
            tracing::info!(
                from = n,
                to = next,
                load = format_args!("{:.4}", load.total),
                limit = self.budget.a_second(),
                "sampling adapts"
            );
            let sampling = match next {
                NonZeroU32::MIN => Sampling::All,
                next => Sampling::Random(next),
            };
            self.change = Some(threads.change(0, sampling));
            self.before = None;
        }
    }

    /// Whether the last change is done.
    fn has_settled(&mut self, facts: &Facts) -> bool {
        let Some(change) = &mut self.change else {
            return true;
        };
        match change.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => return false,
            Ok(Ok(epoch)) => {
                facts.begun(0);
                tracing::debug!(epoch, "settled");
            }
            Ok(Err(error)) => tracing::warn!("{error}"),
            Err(oneshot::error::TryRecvError::Closed) => return false,
        }
        self.change = None;
        // What was measured in between is of two rates.
        if let Some(measuring) = self.measuring.take() {
            measuring.abort();
        }
        true
    }

    /// Begins to measure what runs cost, for a moment.
    fn measure(&mut self) {
        let Some(window) = &self.window else { return };
        let (window, programs) = (Arc::clone(window), Arc::clone(&self.programs));
        self.measuring = Some(tokio::spawn(async move {
            let programs: Vec<_> = programs.iter().map(|program| program.as_fd()).collect();
            let open = window.open(&programs)?;
            tokio::time::sleep(WINDOW).await;
            open.close(&programs)
        }));
    }

    /// What runs cost in the last second, nanoseconds each.
    fn take_cost(&mut self) -> Option<f64> {
        let measuring = self
            .measuring
            .take_if(|measuring| measuring.is_finished())?;
        let mut measuring = std::pin::pin!(measuring);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match measuring.as_mut().poll(&mut context) {
            std::task::Poll::Ready(Ok(Ok(cost))) => cost.ns_a_run(),
            std::task::Poll::Ready(Ok(Err(error))) => {
                tracing::warn!("{error}");
                None
            }
            _ => None,
        }
    }

    /// The load between two moments; none where it is not known yet.
    fn load(
        &mut self,
        before: &(Instant, Totals),
        now: &(Instant, Totals),
        cost: Option<f64>,
    ) -> Option<Load> {
        let seconds = now.0.duration_since(before.0).as_secs_f64();
        if seconds < Duration::from_millis(100).as_secs_f64() {
            return None;
        }
        let n = self.controller.n();
        let a_second = |count: fn(&Totals) -> u64| {
            (count(&now.1).saturating_sub(count(&before.1))) as f64 / seconds
        };
        let (total, fixed) = match self.budget {
            Budget::Packets(_) => {
                let metered = |t: &Totals| t.seen.packets.saturating_sub(t.unsampled.packets);
                (a_second(metered), 0.0)
            }
            Budget::Flows(_) => (a_second(|totals| totals.inserted + totals.single), 0.0),
            Budget::Cpu { .. } => {
                let packets = a_second(|totals| totals.seen.packets);
                let Some(ns) = cost else {
                    // No run in the window is no cost.
                    return (packets == 0.0).then_some(Load {
                        n,
                        total: 0.0,
                        fixed: 0.0,
                    });
                };
                self.costs.note(n, ns);
                let seconds = |ns: f64| ns * packets / 1e9;
                (seconds(ns), seconds(self.costs.skipped_ns().min(ns)))
            }
        };
        Some(Load { n, total, fixed })
    }
}
