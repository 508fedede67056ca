//! Chooses n so that the load stays within a budget. Without clock and without I/O.
//!
//! n goes through the steps 1, 2, 5, 10, … 1,000,000, and sampling is uniform probabilistic. The n
//! of an epoch is chosen from loads of earlier epochs only; which packets the epoch selects is drawn
//! afterwards. So each packet counts n with probability 1/n whatever was chosen, and the estimate is
//! unbiased: see `ARCHITECTURE.md`.
//!
//! **Up at once**: a load above the budget raises n to the first step whose predicted load is at most
//! 80 % of it; where skipped packets alone take nearly as much, to the first at which all others take a
//! tenth of what those do. **Down slowly**: one step, after 10 s in which the load predicted there was below 60 %,
//! and not before the hold-down has passed. The hold-down begins at 10 s, doubles with each raise that
//! takes back a lowering, up to 640 s, and begins anew after an hour without a raise.
//!
//! **Why it cannot thrash.** Call a raise that follows a lowering a reversal. Between a raise and
//! the next lowering there is the hold-down, so between two reversals there are 20 s, then 40 s, up
//! to 640 s. In T seconds without such an hour there are therefore at most 7 + T/640 of them: 12 in an
//! hour, whatever the traffic does. Each reversal is followed by at most 18 changes of the same
//! direction up, as there are 19 steps, and lowerings take a step each.

use std::{num::NonZeroU32, time::Duration};

use super::Budget;

/// The values that n may have.
pub const STEPS: [u32; 19] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000,
    200_000, 500_000, 1_000_000,
];

/// A raise aims at this share of the budget.
const AIM: f64 = 0.8;
/// It never aims below this times what skipped packets take: a larger n would throw packets away and
/// save next to nothing.
const IN_VAIN: f64 = 1.1;
/// A lowering needs a predicted load below this share of it.
const CALM: f64 = 0.6;
/// For so long.
const CALM_FOR: Duration = Duration::from_secs(10);
/// The hold-down after a raise.
const MIN_HOLD: Duration = Duration::from_secs(10);
/// Where it stops to double.
const MAX_HOLD: Duration = Duration::from_secs(640);
/// Without a raise for so long, the hold-down begins anew.
const FORGIVEN_AFTER: Duration = Duration::from_secs(3600);

/// What metering cost in one observation, in the unit of [`Budget::a_second`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Load {
    /// The n of the whole observation.
    pub n: NonZeroU32,
    /// All of it, a second.
    pub total: f64,
    /// Of that, what no n makes smaller: the CPU time that skipped packets take.
    pub fixed: f64,
}

impl Load {
    /// The load at another n: exact for packets and CPU time. For flows the truth is above it where
    /// n is raised, and below it where n is lowered, as larger flows are missed later (the number of
    /// flows seen is concave in 1/n).
    fn at(&self, n: u32) -> f64 {
        let fixed = self.fixed.clamp(0.0, self.total.max(0.0));
        fixed + (self.total - fixed) * f64::from(self.n.get()) / f64::from(n)
    }
}

/// Chooses n.
#[derive(Clone, Debug)]
pub struct Controller {
    budget: Budget,
    step: usize,
    calm_since: Option<Duration>,
    not_before: Duration,
    hold: Duration,
    raised: Option<Duration>,
    lowered_since_raise: bool,
    exceeded: bool,
    exceeded_told: bool,
}

impl Controller {
    /// Begins at the first step that is at least `n`.
    #[must_use]
    pub fn new(budget: Budget, n: NonZeroU32) -> Self {
        let step = STEPS.iter().position(|step| *step >= n.get());
        Self {
            budget,
            step: step.unwrap_or(STEPS.len() - 1),
            calm_since: None,
            not_before: Duration::ZERO,
            hold: MIN_HOLD,
            raised: None,
            lowered_since_raise: false,
            exceeded: false,
            exceeded_told: false,
        }
    }

    /// The present n.
    #[must_use]
    pub fn n(&self) -> NonZeroU32 {
        NonZeroU32::new(STEPS[self.step]).unwrap_or(NonZeroU32::MIN)
    }

    /// Takes a load in, and returns another n where one is due. `now` is any clock that only goes
    /// forward. A load that is no number, or was observed under another n, is left out.
    pub fn observe(&mut self, now: Duration, load: Load) -> Option<NonZeroU32> {
        if load.n != self.n() || !load.total.is_finite() || !load.fixed.is_finite() {
            return None;
        }
        let limit = self.budget.a_second();
        if load.total > limit {
            self.calm_since = None;
            let raised = self.raise(now, &load, limit);
            self.exceeded = raised.is_none();
            return raised;
        }
        self.exceeded = false;
        let lower = self.step.checked_sub(1)?;
        if load.at(STEPS[lower]) >= CALM * limit {
            self.calm_since = None;
            return None;
        }
        let since = *self.calm_since.get_or_insert(now);
        if now.saturating_sub(since) < CALM_FOR || now < self.not_before {
            return None;
        }
        self.step = lower;
        self.calm_since = None;
        self.lowered_since_raise = true;
        Some(self.n())
    }

    fn raise(&mut self, now: Duration, load: &Load, limit: f64) -> Option<NonZeroU32> {
        let aim = (AIM * limit).max(load.fixed * IN_VAIN);
        let enough = STEPS.iter().position(|n| load.at(*n) <= aim);
        let step = enough.unwrap_or(STEPS.len() - 1);
        if step <= self.step {
            // No step above would take more than a trifle off.
            return None;
        }
        self.step = step;
        let quiet = self.raised.map(|raised| now.saturating_sub(raised));
        if quiet.is_some_and(|quiet| quiet >= FORGIVEN_AFTER) {
            self.hold = MIN_HOLD;
        } else if self.lowered_since_raise {
            self.hold = (self.hold * 2).min(MAX_HOLD);
        }
        self.raised = Some(now);
        self.not_before = now + self.hold;
        self.lowered_since_raise = false;
        Some(self.n())
    }

    /// True once, when no n keeps to the budget; and once more when that has changed and comes again.
    pub fn newly_exceeded(&mut self) -> bool {
        let newly = self.exceeded && !self.exceeded_told;
        self.exceeded_told = self.exceeded;
        newly
    }
}

#[cfg(test)]
mod tests;
