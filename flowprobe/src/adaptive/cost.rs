//! What a packet costs that is skipped, and one that is metered, learnt from what runs cost at
//! different n.

use std::num::NonZeroU32;

use super::STEPS;

/// The cost of a run at n is `skipped + metered / n`: a line in 1/n, through the latest figures of the
/// smallest and of the largest n that there was.
#[derive(Clone, Debug, Default)]
pub struct CostModel {
    /// The latest cost of a run at each of [`STEPS`], nanoseconds.
    at: [Option<f64>; STEPS.len()],
}

impl CostModel {
    /// Takes in what a run cost on average where one packet in n was metered.
    pub fn note(&mut self, n: NonZeroU32, ns_a_run: f64) {
        if let Some(step) = STEPS.iter().position(|step| *step == n.get()) {
            self.at[step] = Some(ns_a_run);
        }
    }

    /// Nanoseconds of a packet that is skipped; 0 as long as there was one n only, which makes a
    /// first guess of what another n would cost too low and never too high.
    #[must_use]
    pub fn skipped_ns(&self) -> f64 {
        let mut known = STEPS
            .iter()
            .zip(self.at)
            .filter_map(|(n, ns)| Some((1.0 / f64::from(*n), ns?)));
        let (Some(small), Some(large)) = (known.next(), known.next_back()) else {
            return 0.0;
        };
        let metered = (small.1 - large.1) / (small.0 - large.0);
        (large.1 - metered * large.0).clamp(0.0, large.1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn n(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).expect("not 0")
    }

    #[test]
    fn both_costs_are_told_apart() {
        let mut model = CostModel::default();
        assert_eq!(model.skipped_ns(), 0.0);
        model.note(n(1), 103.0);
        assert_eq!(model.skipped_ns(), 0.0);
        model.note(n(100), 4.0);
        assert!((model.skipped_ns() - 3.0).abs() < 1e-9);
        // The latest figures count, of the largest n too.
        model.note(n(1000), 2.1);
        assert!((model.skipped_ns() - 2.0).abs() < 0.01);
        model.note(n(100), 50.0);
        assert!((model.skipped_ns() - 2.0).abs() < 0.01);
    }

    #[test]
    fn noise_makes_no_nonsense() {
        let mut model = CostModel::default();
        model.note(n(10), 20.0);
        model.note(n(20), 25.0);
        // More at a larger n: all of it is fixed, as far as one can say.
        assert_eq!(model.skipped_ns(), 25.0);
        model.note(n(20), 1.0);
        assert_eq!(model.skipped_ns(), 0.0);
    }
}
