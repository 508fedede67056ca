//! What a packet costs that is skipped, and one that is metered, learnt from what runs cost at
//! different n.

use std::{num::NonZeroU32, time::Duration};

use super::STEPS;

/// How long a figure says something: other traffic costs something else.
const FRESH: Duration = Duration::from_secs(60);

/// The cost of a run at n is `skipped + metered / n`: a line in 1/n, through the latest figures of the
/// smallest and of the largest n of the last minute.
#[derive(Clone, Debug, Default)]
pub struct CostModel {
    /// The latest cost of a run at each of [`STEPS`], nanoseconds, and when that was.
    at: [Option<(Duration, f64)>; STEPS.len()],
}

impl CostModel {
    /// Takes in what a run cost on average where one packet in n was metered. `now` is any clock that
    /// only goes forward.
    pub fn note(&mut self, now: Duration, n: NonZeroU32, ns_a_run: f64) {
        for figure in &mut self.at {
            *figure = figure.filter(|(then, _)| now.saturating_sub(*then) < FRESH);
        }
        if let Some(step) = STEPS.iter().position(|step| *step == n.get()) {
            self.at[step] = Some((now, ns_a_run));
        }
    }

    /// Nanoseconds of a packet that is skipped. 0 where that is not known, since there was one n only
    /// or a larger n cost more: then a larger n is tried, and never thought to be in vain.
    #[must_use]
    pub fn skipped_ns(&self) -> f64 {
        let mut known = STEPS
            .iter()
            .zip(self.at)
            .filter_map(|(n, figure)| Some((1.0 / f64::from(*n), figure?.1)));
        let (Some(small), Some(large)) = (known.next(), known.next_back()) else {
            return 0.0;
        };
        let metered = (small.1 - large.1) / (small.0 - large.0);
        if metered <= 0.0 {
            return 0.0;
        }
        (large.1 - metered * large.0).clamp(0.0, large.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).expect("not 0")
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn both_costs_are_told_apart() {
        let mut model = CostModel::default();
        assert_eq!(model.skipped_ns(), 0.0);
        model.note(SECOND, n(1), 103.0);
        assert_eq!(model.skipped_ns(), 0.0);
        model.note(2 * SECOND, n(100), 4.0);
        assert!((model.skipped_ns() - 3.0).abs() < 1e-9);
        // The latest figures count, of the largest n too.
        model.note(3 * SECOND, n(1000), 2.1);
        assert!((model.skipped_ns() - 2.0).abs() < 0.01);
        model.note(4 * SECOND, n(100), 50.0);
        assert!((model.skipped_ns() - 2.0).abs() < 0.01);
    }

    #[test]
    fn other_traffic_makes_no_nonsense() {
        let mut model = CostModel::default();
        model.note(SECOND, n(1), 100.0);
        // A flood of new flows costs more each: nothing is known of skipped packets.
        model.note(2 * SECOND, n(2), 128.0);
        assert_eq!(model.skipped_ns(), 0.0);
        model.note(3 * SECOND, n(10), 28.0);
        assert!(
            (model.skipped_ns() - 20.0).abs() < 0.1,
            "{}",
            model.skipped_ns()
        );
        // A minute later what cost so much is forgotten.
        model.note(90 * SECOND, n(10), 12.0);
        assert_eq!(model.skipped_ns(), 0.0);
    }
}
