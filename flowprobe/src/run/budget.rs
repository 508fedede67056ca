//! Keeps the cost of metering within a budget: looks at the load about once a second, asks the
//! controller, and changes the rate of the rest.

use std::{
    num::NonZeroU32,
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::oneshot::{self, error::TryRecvError};

use super::{
    RunError,
    steer::{Change, Facts},
};
use crate::{
    adaptive::{
        Budget, Controller, CostModel, Load,
        runtime::{Cost, RunTimeError, WINDOW, Window},
    },
    sampling::Sampling,
    table::{ChangeError, Changed, shared::Totals},
};

/// Shorter than this, a look says nothing of a second.
const SHORTEST: Duration = Duration::from_millis(100);

/// Keeps the cost of metering within a budget.
pub(super) struct Adaptive {
    budget: Budget,
    controller: Controller,
    costs: CostModel,
    window: Option<Arc<Window>>,
    /// All that may be attached; known when it is.
    programs: Arc<Vec<OwnedFd>>,
    /// The cost of runs, which is being measured.
    measured: Option<oneshot::Receiver<Result<Cost, RunTimeError>>>,
    started: Instant,
    /// The last look, and the counters of then.
    before: Option<(Instant, Totals)>,
    /// A change that is on its way.
    change: Option<oneshot::Receiver<Result<Changed, ChangeError>>>,
    /// Flows that the last change took out of the tables: so many may come in again that are not new.
    returning: u64,
    /// Until then.
    returning_until: Instant,
}

impl Adaptive {
    /// # Errors
    /// The kernel does not tell what programs cost.
    pub(super) fn new(budget: Budget) -> Result<Self, RunError> {
        let window = match budget {
            Budget::Cpu { .. } => Some(Arc::new(Window::new()?)),
            Budget::Flows(_) | Budget::Packets(_) => None,
        };
        let now = Instant::now();
        Ok(Self {
            budget,
            controller: Controller::new(budget, NonZeroU32::MIN),
            costs: CostModel::default(),
            window,
            programs: Arc::default(),
            measured: None,
            started: now,
            before: None,
            change: None,
            returning: 0,
            returning_until: now,
        })
    }

    /// Says what runs.
    pub(super) fn watch(&mut self, programs: Vec<OwnedFd>) {
        self.programs = Arc::new(programs);
    }

    /// Looks at the load, and changes the rate where it has to.
    pub(super) fn look(&mut self, facts: &Facts, threads: &impl Change) {
        if !self.has_settled(facts) {
            return;
        }
        let cost = self.take_cost();
        self.measure();
        let now = (Instant::now(), facts.books.totals());
        let Some(before) = self.before.replace(now) else {
            return;
        };
        let Some(load) = self.load(&before, &now, cost) else {
            return;
        };
        let next = self.controller.observe(self.started.elapsed(), load);
        if self.controller.newly_exceeded() {
            self.say_exceeded(&load);
        }
        let Some(next) = next else { return };
        tracing::info!(
            from = load.n,
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
        // What is measured in between is of two rates.
        self.before = None;
        self.measured = None;
    }

    fn say_exceeded(&self, load: &Load) {
        let why = if load.fixed > 0.0 {
            "nearly all of the load is packets that are skipped, and a rarer rate would save next to \
             nothing"
        } else {
            "there is no rarer rate"
        };
        tracing::warn!(
            load = format_args!("{:.4}", load.total),
            limit = self.budget.a_second(),
            "--sample {} cannot be kept at 1/{}: {why}",
            self.budget,
            load.n
        );
    }

    /// Whether the last change is done.
    fn has_settled(&mut self, facts: &Facts) -> bool {
        let Some(change) = &mut self.change else {
            return true;
        };
        match change.try_recv() {
            // Closed: the sweeper has ended, and so will the run.
            Err(TryRecvError::Empty | TryRecvError::Closed) => return false,
            Ok(Ok(changed)) => {
                facts.begun(0, &changed);
                self.returning = changed.flows;
                self.returning_until = Instant::now() + facts.idle;
            }
            Ok(Err(error)) => tracing::warn!("{error}"),
        }
        self.change = None;
        true
    }

    /// Begins to measure what runs cost, for a moment.
    fn measure(&mut self) {
        let Some(window) = &self.window else { return };
        let (window, programs) = (Arc::clone(window), Arc::clone(&self.programs));
        let (done, measured) = oneshot::channel();
        self.measured = Some(measured);
        tokio::spawn(async move {
            // Nobody waits for it any more where the rate has changed.
            drop(done.send(cost(&window, &programs).await));
        });
    }

    /// What runs cost in the last second, nanoseconds each.
    fn take_cost(&mut self) -> Option<f64> {
        match self.measured.take()?.try_recv().ok()? {
            Ok(cost) => cost.ns_a_run(),
            Err(error) => {
                tracing::warn!("{error}");
                None
            }
        }
    }

    /// The load between two looks; none where it is not known yet.
    fn load(
        &mut self,
        before: &(Instant, Totals),
        now: &(Instant, Totals),
        cost: Option<f64>,
    ) -> Option<Load> {
        let time = now.0.duration_since(before.0);
        if time < SHORTEST {
            return None;
        }
        let n = self.controller.n();
        let more = |count: fn(&Totals) -> u64| count(&now.1).saturating_sub(count(&before.1));
        let a_second = |count: u64| count as f64 / time.as_secs_f64();
        let (total, fixed) = match self.budget {
            Budget::Packets(_) => {
                let selected = |t: &Totals| t.seen.packets.saturating_sub(t.unsampled.packets);
                (a_second(more(selected)), 0.0)
            }
            Budget::Flows(_) => {
                let begun = more(|totals| totals.inserted + totals.single);
                (a_second(self.new_flows(begun, now.0)), 0.0)
            }
            Budget::Cpu { .. } => {
                let packets = a_second(more(|totals| totals.seen.packets));
                // No run in the window is no cost; with runs, there is one or it is not known.
                let ns = match cost {
                    Some(ns) => ns,
                    None if packets == 0.0 => 0.0,
                    None => return None,
                };
                self.costs.note(self.started.elapsed(), n, ns);
                let seconds = |ns: f64| ns * packets / 1e9;
                (seconds(ns), seconds(self.costs.skipped_ns().min(ns)))
            }
        };
        Some(Load { n, total, fixed })
    }

    /// Of so many flows that came into the tables, those that are not only back after a change.
    fn new_flows(&mut self, begun: u64, now: Instant) -> u64 {
        if now >= self.returning_until {
            self.returning = 0;
        }
        let back = begun.min(self.returning);
        self.returning -= back;
        begun - back
    }
}

async fn cost(window: &Window, programs: &[OwnedFd]) -> Result<Cost, RunTimeError> {
    let programs: Vec<_> = programs.iter().map(|program| program.as_fd()).collect();
    let open = window.open(&programs)?;
    tokio::time::sleep(WINDOW).await;
    open.close(&programs)
}
