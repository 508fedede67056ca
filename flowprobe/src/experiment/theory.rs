//! What theory says of each quantity, to stand beside what was measured.
//!
//! With p the share that is selected and x the octets of a packet, or 1 for packets, the relative
//! standard error of a total X = Σx is √(v) / X with the variance v:
//!
//! - `random`, `hash`: (1−p)/p · Σx², since each packet is selected by itself. For equal packets
//!   that is √((1−p)/(p·c)). A good hash selects as if at random (Duffield, Grossglauser,
//!   "Trajectory Sampling for Direct Traffic Observation", IEEE/ACM ToN 9(3), 2001), but packets
//!   that are equal are selected together.
//! - `nofn`, `count`: as many packets are drawn as are due, so that (1−p)/p · (Σx² − X²/C), of C
//!   packets in all: simple random sampling without replacement (Cochran, "Sampling Techniques"). Traffic that does not come well mixed is estimated better by `nofn`, since its windows
//!   are strata; `count` may do better or worse: traffic that has a period in common with N is off
//!   without a limit, as a test shows.
//! - `time`: that of `random`, which it does not reach where packets come in bursts.
//! - `flow`: (1−p)/p · Σs² over flows of size s: flows are what is selected.
//!
//! Of a number of packets, `count` and `nofn` know all but the last, incomplete interval; unless
//! packets of no flow take turns as well.
//!
//! Of groups (top flows, prefixes, ports) the mean of |error| is measured, and often few packets of
//! one are expected, so that the normal law's √(2/π) standard errors are wrong. They are taken for
//! as many equal packets as have the same total and the same variance, X²/Σx² of them: then the
//! mean deviation is that of the binomial distribution (de Moivre), which is exact for equal
//! packets.

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
    /// Near to it: of packets or flows of unlike sizes, or with a limit theorem.
    Approximate,
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
        Quantity::Top => (of.weighted(&truth.top_flows.sums), of.groups_kind()),
        Quantity::Prefix => (of.weighted(&truth.top_prefixes.sums), of.groups_kind()),
        Quantity::Port => (of.weighted(&truth.top_ports.sums), of.groups_kind()),
        Quantity::Flows => of.flow_count()?,
        Quantity::Seen => (1.0 - of.missed(|_| true)?, of.kind()),
        Quantity::Missed(class) => (of.missed(|other| other == class)?, of.kind()),
        Quantity::Sizes if method == Method::Flow => (of.sizes(), TheoryKind::Approximate),
        Quantity::Sizes | Quantity::SizesByPackets | Quantity::Recall => return None,
    };
    Some(Theory {
        theory_ratio,
        theory_kind,
    })
}

/// ln n!, by Stirling's series where that is exact enough.
fn ln_factorial(n: f64) -> f64 {
    if n < 32.0 {
        return (2..=n as u32).map(|i| f64::from(i).ln()).sum();
    }
    let series = 1.0 / (12.0 * n) - 1.0 / (360.0 * n.powi(3));
    n * n.ln() - n + 0.5 * (std::f64::consts::TAU * n).ln() + series
}

/// E|K − np| / np for K of the binomial distribution: 2 m C(n,m) pᵐ (1−p)ⁿ⁻ᵐ⁺¹ / np with
/// m = ⌊np⌋ + 1. Between whole n, a straight line.
fn mean_deviation(n: f64, share: f64) -> f64 {
    if share >= 1.0 {
        return 0.0;
    }
    let whole = |n: f64| {
        let m = (n * share).floor() + 1.0;
        let ln = m.ln() + ln_factorial(n) - ln_factorial(m) - ln_factorial(n - m)
            + m * share.ln()
            + (n - m + 1.0) * (-share).ln_1p();
        2.0 * ln.exp() / (n * share)
    };
    let (low, part) = (n.floor().max(1.0), n.fract());
    whole(low) * (1.0 - part) + whole(low + 1.0) * part
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
            Method::Random | Method::Flow => TheoryKind::Exact,
            Method::Count | Method::NofN => TheoryKind::WellMixed,
            // Equal packets are selected together; so are those of a burst.
            Method::Hash | Method::Time => TheoryKind::AtBest,
        }
    }

    fn packets_kind(&self) -> TheoryKind {
        match self.method {
            Method::Count | Method::NofN if self.truth.ignored == 0 => TheoryKind::Exact,
            _ => self.kind(),
        }
    }

    fn groups_kind(&self) -> TheoryKind {
        match self.kind() {
            TheoryKind::Exact => TheoryKind::Approximate,
            kind => kind,
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
                let all = self.truth.frames();
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
            Method::Count | Method::NofN if self.truth.ignored > 0 => {
                let missed = 1.0 - total.packets / self.truth.frames();
                (self.odds() * missed / total.packets).sqrt()
            }
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

    /// The expected weighted error of groups: their mean absolute errors over their sum.
    fn weighted(&self, groups: &[Sums]) -> f64 {
        let share = self.rate.share();
        let each = groups.iter().map(|sums| {
            let squares = match self.method {
                Method::Flow => sums.flow_octets_squares,
                _ => sums.squares,
            };
            let equal = sums.octets * sums.octets / squares;
            // Without replacement less than the binomial distribution says.
            let independent = (self.odds() * squares).sqrt() / sums.octets;
            let less = match independent > 0.0 {
                true => self.error(sums) / independent,
                false => 0.0,
            };
            sums.octets * mean_deviation(equal, share) * less
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

    /// Against the sum over all of the distribution.
    #[test]
    fn mean_deviations_are_those_of_the_binomial_distribution() {
        for (n, share) in [
            (1, 0.1),
            (5, 0.5),
            (7, 0.3),
            (40, 0.01),
            (300, 0.02),
            (1000, 0.1),
        ] {
            let (mut term, mut sum) = ((1.0_f64 - share).powi(n), 0.0);
            let mean = f64::from(n) * share;
            for k in 0..=n {
                sum += term * (f64::from(k) - mean).abs();
                term *= f64::from(n - k) / f64::from(k + 1) * share / (1.0 - share);
            }
            let said = mean_deviation(f64::from(n), share);
            assert!(
                (said * mean / sum - 1.0).abs() < 1e-6,
                "{n} {share}: {said}"
            );
        }
        // The normal law.
        let normal = (std::f64::consts::FRAC_2_PI * 0.9 / 0.1 / 1e6).sqrt();
        assert!((mean_deviation(1e6, 0.1) / normal - 1.0).abs() < 1e-4);
        assert!(mean_deviation(10.0, 1.0).abs() < 1e-12);
    }

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
