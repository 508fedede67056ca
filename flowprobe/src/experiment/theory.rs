//! What theory says of each quantity, to stand beside what was measured.
//!
//! With p the share that is selected and x the octets of a packet, or 1 for packets, the relative
//! standard error of a total X = Σx is √(v) / X with the variance v:
//!
//! - `random`, `hash`: (1−p)/p · Σx². For equal packets that is √((1−p)/(p·c)). Bernoulli sampling
//!   with the Horvitz–Thompson estimator (Särndal, Swensson, Wretman, "Model Assisted Survey
//!   Sampling", §3.2). A good hash selects as if at random (Duffield, Grossglauser, "Trajectory
//!   Sampling for Direct Traffic Observation", IEEE/ACM ToN 9(3), 2001), but packets that are equal
//!   are selected together.
//! - `nofn`, `count`: as many packets are drawn as are due, so that (1−p)/p · (Σx² − X²/C), of C
//!   packets in all: simple random sampling without replacement (Cochran, "Sampling Techniques",
//!   §2.5). Traffic that does not come well mixed is estimated better by `nofn`, since its windows
//!   are strata; `count` may do better or worse: traffic that has a period in common with N is off
//!   without a limit (RFC 5475 §5.1).
//! - `time`: that of `random`, which it does not reach where packets come in bursts.
//! - `flow`: (1−p)/p · Σs² over flows of size s: flows are what is selected.
//!
//! Of a number of packets, `count` and `nofn` know all but the last, incomplete interval.

use serde::Serialize;

use super::{
    estimate::Quantity,
    method::{Method, Rate},
    truth::{SIZE_CLASSES, Sums, Truth, size_class},
};

/// How the value of theory relates to what is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum TheoryKind {
    /// The method is exactly that.
    Exact,
    /// For traffic that is well mixed.
    WellMixed,
    /// The method is at best as good.
    AtBest,
}

/// A value of theory: the standard error of errors with a sign, and the mean of others.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Theory {
    /// Ratio: 0.01 is 1 %.
    pub theory_ratio: f64,
    /// What it holds for.
    pub theory_kind: TheoryKind,
}

/// Theory of a quantity, where there is one.
pub(super) fn theory(
    truth: &Truth,
    method: Method,
    rate: Rate,
    quantity: Quantity,
) -> Option<Theory> {
    let of = Of {
        truth,
        method,
        rate,
    };
    let (theory_ratio, theory_kind) = match quantity {
        Quantity::Packets => (of.packets(), of.packets_kind()),
        Quantity::Octets => (of.error(&truth.total), of.kind()),
        Quantity::Top if method == Method::Flow => (1.0 - rate.share(), TheoryKind::Exact),
        Quantity::Top => (of.weighted(&truth.top_flows.sums), of.kind()),
        Quantity::Prefix => (of.weighted(&truth.top_prefixes.sums), of.kind()),
        Quantity::Port => (of.weighted(&truth.top_ports.sums), of.kind()),
        Quantity::Flows => of.flow_count()?,
        Quantity::Seen => (1.0 - of.missed(|_| true)?, of.kind()),
        Quantity::Missed(class) => (of.missed(|other| other == class)?, of.kind()),
        Quantity::Sizes if method == Method::Flow => (of.sizes(), TheoryKind::Exact),
        Quantity::Sizes | Quantity::SizesByPackets | Quantity::Recall => return None,
    };
    Some(Theory {
        theory_ratio,
        theory_kind,
    })
}

/// The mean of |z| for a normal z of variance 1.
fn mean_absolute() -> f64 {
    std::f64::consts::FRAC_2_PI.sqrt()
}

/// The variance of how many of `n` places in a row are among `rest` in a row, over all phases of a
/// circle of `of` places: from the smallest to the largest number and back in steps of one.
fn overlap_variance(n: f64, rest: f64, of: f64) -> f64 {
    let (most, least) = (n.min(rest), (n + rest - of).max(0.0));
    if most <= least {
        return 0.0;
    }
    let mean = rest * n / of;
    let between = most - least - 1.0;
    let at_most = (n - rest).abs() + 1.0;
    let at_least = of - at_most - 2.0 * between;
    let slopes: f64 = (1..=between as u64)
        .map(|step| 2.0 * (least + step as f64 - mean).powi(2))
        .sum();
    (slopes + at_most * (most - mean).powi(2) + at_least * (least - mean).powi(2)) / of
}

struct Of<'a> {
    truth: &'a Truth,
    method: Method,
    rate: Rate,
}

impl Of<'_> {
    fn kind(&self) -> TheoryKind {
        match self.method {
            Method::Random | Method::Hash | Method::Flow => TheoryKind::Exact,
            Method::Count | Method::NofN => TheoryKind::WellMixed,
            Method::Time => TheoryKind::AtBest,
        }
    }

    fn packets_kind(&self) -> TheoryKind {
        match self.method {
            Method::Count | Method::NofN => TheoryKind::Exact,
            _ => self.kind(),
        }
    }

    /// (1−p)/p.
    fn odds(&self) -> f64 {
        let share = self.rate.share();
        (1.0 - share) / share
    }

    /// Relative standard error of a number of octets.
    fn error(&self, sums: &Sums) -> f64 {
        let squares = match self.method {
            Method::Random | Method::Hash | Method::Time => sums.squares,
            Method::Count | Method::NofN => {
                let all = self.truth.packets as f64;
                (sums.squares - sums.octets * sums.octets / all).max(0.0)
            }
            Method::Flow => sums.flow_octets_squares,
        };
        (self.odds() * squares).sqrt() / sums.octets
    }

    /// Relative standard error of the number of all packets.
    fn packets(&self) -> f64 {
        let total = &self.truth.total;
        let (n, of) = (f64::from(self.rate.n()), f64::from(self.rate.of()));
        match self.method {
            Method::Random | Method::Hash | Method::Time => (self.odds() / total.packets).sqrt(),
            Method::Flow => (self.odds() * total.flow_packets_squares).sqrt() / total.packets,
            // Of the last interval `rest` packets came: of the n that are drawn of N, a
            // hypergeometric number is among them.
            Method::NofN => {
                let rest = (self.truth.packets % u64::from(self.rate.of())) as f64;
                let share = rest / of;
                let variance = n * share * (1.0 - share) * (of - n) / (of - 1.0).max(1.0);
                variance.sqrt() * self.rate.scale() / total.packets
            }
            Method::Count => {
                let rest = (self.truth.packets % u64::from(self.rate.of())) as f64;
                overlap_variance(n, rest, of).sqrt() * self.rate.scale() / total.packets
            }
        }
    }

    /// The expected weighted error of groups: their mean absolute errors, √(2/π) standard errors
    /// each where many packets are expected, over their sum.
    fn weighted(&self, groups: &[Sums]) -> f64 {
        let share = self.rate.share();
        let each = groups.iter().map(|sums| {
            let normal = mean_absolute() * self.error(sums);
            // With less than one packet expected, the sample has none, or too many:
            // E|X̂−X| = 2·E(X−X̂)⁺ = 2X·P(none). This is also the most that there can be.
            let none = 2.0 * (1.0 - share).powf(sums.packets);
            let rare = self.method != Method::Flow && share * sums.packets < 1.0;
            sums.octets * if rare { none } else { normal.min(2.0) }
        });
        let octets: f64 = groups.iter().map(|sums| sums.octets).sum();
        each.sum::<f64>() / octets
    }

    /// Standard error of the estimated number of flows: of the part by SYN, where all flows have one.
    fn flow_count(&self) -> Option<(f64, TheoryKind)> {
        let flows = self.truth.flows.len() as f64;
        if self.method == Method::Flow {
            return Some(((self.odds() / flows).sqrt(), TheoryKind::Exact));
        }
        let marked = |flow: &super::truth::Flow| flow.is_tcp() && flow.syns == 1;
        if !self.truth.flows.iter().all(marked) {
            return None;
        }
        Some(((self.odds() / flows).sqrt(), self.kind()))
    }

    /// Share of the flows of some classes of which no packet is selected: (1−p)^c for c packets.
    fn missed(&self, of: impl Fn(usize) -> bool) -> Option<f64> {
        debug_assert!(SIZE_CLASSES[0] == 1, "every flow has a class");
        let share = self.rate.share();
        let (mut all, mut missed) = (0.0, 0.0);
        for &(packets, flows) in &self.truth.sizes {
            if of(size_class(packets)) {
                all += flows as f64;
                missed += flows as f64
                    * match self.method {
                        Method::Flow => 1.0 - share,
                        _ => (1.0 - share).powf(packets as f64),
                    };
            }
        }
        (all > 0.0).then(|| missed / all)
    }

    /// Mean Kolmogorov–Smirnov distance of a random part of the flows from all of them:
    /// √(π/2)·ln 2 / √m for m flows (the mean of Kolmogorov's distribution), less for the share
    /// that they are; at most that where sizes are equal.
    fn sizes(&self) -> f64 {
        let mean = std::f64::consts::FRAC_PI_2.sqrt() * std::f64::consts::LN_2;
        let share = self.rate.share();
        let selected = share * self.truth.flows.len() as f64;
        (mean * ((1.0 - share) / selected).sqrt()).min(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlaps_vary_as_counted() {
        for (n, rest, of) in [
            (1, 3, 10),
            (3, 1, 10),
            (4, 7, 10),
            (5, 5, 10),
            (9, 9, 10),
            (2, 0, 7),
        ] {
            let overlap = |phase: u32| (0..n).filter(|i| (phase + i) % of < rest).count() as f64;
            let all: Vec<f64> = (0..of).map(overlap).collect();
            let mean = all.iter().sum::<f64>() / f64::from(of);
            let variance = all.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(of);
            let said = overlap_variance(f64::from(n), f64::from(rest), f64::from(of));
            assert!(
                (said - variance).abs() < 1e-9,
                "{n} {rest} {of}: {said} {variance}"
            );
        }
    }
}
