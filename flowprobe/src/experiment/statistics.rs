//! Means, intervals and bounds over the runs of one sampler.

use serde::Serialize;

/// Confidence of intervals and bounds, and the share of samplings that a bound covers.
pub(super) const CONFIDENCE: f64 = 0.95;

/// Quantiles of the normal distribution, of 95 % on one side and on both.
const Z_ONE_SIDED: f64 = 1.644_853_626_951_472_7;
const Z_TWO_SIDED: f64 = 1.959_963_984_540_054;

/// How a bound was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum BoundKind {
    /// Order statistic: no assumption on the distribution. From 59 runs on.
    OrderStatistic,
    /// Tolerance limit of a normal distribution.
    NormalTolerance,
}

/// One quantity over all runs. Ratios: 0.01 is 1 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// Runs that have a value.
    pub runs: u32,
    /// Mean; for errors with a sign the bias.
    pub mean_ratio: f64,
    /// Student's interval of the mean, 95 %.
    pub mean_low_ratio: Option<f64>,
    /// Its upper end.
    pub mean_high_ratio: Option<f64>,
    /// Root of the mean square.
    pub rms_ratio: f64,
    /// 95 % of the runs have at most this absolute value.
    pub p95_abs_ratio: f64,
    /// With 95 % confidence, 95 % of all samplings have at most this absolute value.
    pub bound_ratio: Option<f64>,
    /// How the bound was found.
    pub bound_kind: Option<BoundKind>,
}

impl Summary {
    /// Sums up the values of all runs; `None` without any. `signed` values scatter around 0,
    /// others are at least 0.
    #[must_use]
    pub fn of(values: &[f64], signed: bool) -> Option<Self> {
        let values: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        if values.is_empty() {
            return None;
        }
        let count = values.len() as f64;
        let mean = values.iter().sum::<f64>() / count;
        let squares = values.iter().map(|v| v * v).sum::<f64>();
        let deviations = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>();
        let mut absolute: Vec<f64> = values.iter().map(|v| v.abs()).collect();
        absolute.sort_by(f64::total_cmp);
        let runs = values.len() as u32;
        let spread = (runs > 1).then(|| (deviations / (count - 1.0)).sqrt());
        let half = spread.map(|spread| student(runs - 1) * spread / count.sqrt());
        // Nearest rank.
        let rank = (CONFIDENCE * count).ceil() as usize;
        let (bound_ratio, bound_kind) = match (order_rank(runs), tolerance(runs, signed), spread) {
            (Some(rank), _, _) => (Some(absolute[rank - 1]), Some(BoundKind::OrderStatistic)),
            (None, Some(factor), Some(spread)) => (
                Some(mean.abs() + factor * spread),
                Some(BoundKind::NormalTolerance),
            ),
            _ => (None, None),
        };
        Some(Self {
            runs,
            mean_ratio: mean,
            mean_low_ratio: half.map(|half| mean - half),
            mean_high_ratio: half.map(|half| mean + half),
            rms_ratio: (squares / count).sqrt(),
            p95_abs_ratio: absolute[rank.clamp(1, absolute.len()) - 1],
            bound_ratio,
            bound_kind,
        })
    }
}

/// The quantile of Student's distribution for an interval of 95 %: a table, and from 5 degrees on
/// an expansion in 1/degrees, good to 0.2 %.
fn student(degrees: u32) -> f64 {
    const FEW: [f64; 4] = [12.706, 4.303, 3.182, 2.776];
    if let Some(&quantile) = (degrees as usize)
        .checked_sub(1)
        .and_then(|place| FEW.get(place))
    {
        return quantile;
    }
    let (n, z) = (f64::from(degrees), Z_TWO_SIDED);
    z + (z.powi(3) + z) / (4.0 * n)
        + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n.powi(2))
        + (3.0 * z.powi(7) + 19.0 * z.powi(5) + 17.0 * z.powi(3) - 15.0 * z) / (384.0 * n.powi(3))
}

/// Standard deviations from the mean within which, with 95 % confidence, 95 % of a normal
/// distribution lie (NIST/SEMATECH e-Handbook of Statistical Methods §7.2.6.3): on both sides by
/// Howe's approximation, and on one. `None` for fewer than three runs.
fn tolerance(runs: u32, two_sided: bool) -> Option<f64> {
    if runs < 3 {
        return None;
    }
    let n = f64::from(runs);
    let degrees = n - 1.0;
    if two_sided {
        // The lower 5 % quantile of χ² by Wilson and Hilferty.
        let part = 2.0 / (9.0 * degrees);
        let chi_square = degrees * (1.0 - part - Z_ONE_SIDED * part.sqrt()).powi(3);
        return Some(Z_TWO_SIDED * (degrees * (1.0 + 1.0 / n) / chi_square).sqrt());
    }
    let z = Z_ONE_SIDED;
    let a = 1.0 - z * z / (2.0 * degrees);
    let b = z * z - z * z / n;
    Some((z + (z * z - a * b).sqrt()) / a)
}

/// The lowest order statistic that is at least the 95 % quantile with 95 % confidence, from 1;
/// `None` below 59 runs, where not even the largest is.
fn order_rank(runs: u32) -> Option<usize> {
    let n = f64::from(runs);
    // P(at least `rank` of the runs are below the quantile), from the top down.
    let mut rank = runs;
    let mut term = CONFIDENCE.powi(i32::try_from(runs).ok()?);
    let mut tail = term;
    if tail > 1.0 - CONFIDENCE {
        return None;
    }
    loop {
        let j = f64::from(rank);
        term *= j / (n - j + 1.0) * ((1.0 - CONFIDENCE) / CONFIDENCE);
        if tail + term > 1.0 - CONFIDENCE || rank == 1 {
            return Some(rank as usize);
        }
        tail += term;
        rank -= 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(value: f64, expected: f64, relative: f64) {
        let off = (value / expected - 1.0).abs();
        assert!(off < relative, "{value} is not {expected}");
    }

    /// Tables of the NIST handbook and of Student.
    #[test]
    fn factors_are_those_of_tables() {
        near(student(1), 12.706, 1e-9);
        near(student(5), 2.571, 0.002);
        near(student(29), 2.045, 0.001);
        near(student(1000), 1.962, 0.001);
        near(tolerance(30, true).expect("enough"), 2.549, 0.01);
        near(tolerance(10, true).expect("enough"), 3.379, 0.02);
        near(tolerance(30, false).expect("enough"), 2.220, 0.01);
        near(tolerance(10, false).expect("enough"), 2.911, 0.03);
        assert_eq!(tolerance(2, true), None);
    }

    /// 0.95ⁿ ≤ 0.05: 59 runs, then the second largest of 93, the third of 124.
    #[test]
    fn order_statistics_are_those_of_wilks() {
        assert_eq!(order_rank(58), None);
        assert_eq!(order_rank(59), Some(59));
        assert_eq!(order_rank(92), Some(92));
        assert_eq!(order_rank(93), Some(92));
        assert_eq!(order_rank(124), Some(122));
        assert!(order_rank(10_000).is_some_and(|rank| (9_500..9_550).contains(&rank)));
    }

    #[test]
    fn summaries_have_what_the_runs_allow() {
        assert_eq!(Summary::of(&[], true), None);
        assert_eq!(Summary::of(&[f64::NAN], true), None);
        let one = Summary::of(&[0.5], true).expect("a value");
        assert_eq!((one.mean_ratio, one.mean_low_ratio), (0.5, None));
        assert_eq!(one.bound_ratio, None);
        let three = Summary::of(&[-0.1, 0.0, 0.1], true).expect("values");
        assert!(three.mean_ratio.abs() < 1e-12);
        near(three.p95_abs_ratio, 0.1, 1e-9);
        assert_eq!(three.bound_kind, Some(BoundKind::NormalTolerance));
        assert!(three.bound_ratio.is_some_and(|bound| bound > 0.1));
        let many: Vec<f64> = (1..=100).map(f64::from).collect();
        let many = Summary::of(&many, false).expect("values");
        assert_eq!(many.bound_kind, Some(BoundKind::OrderStatistic));
        assert_eq!(many.bound_ratio, Some(99.0));
    }

    /// How many of 4,000 experiments of `runs` each have a bound that is at least `quantile`, the
    /// true one.
    fn coverage(runs: usize, signed: bool, quantile: f64, mut draw: impl FnMut() -> f64) -> f64 {
        let covers = |_: &i32| {
            let values: Vec<f64> = (0..runs).map(|_| draw()).collect();
            let summary = Summary::of(&values, signed).expect("values");
            summary.bound_ratio.expect("enough runs") >= quantile
        };
        f64::from((0..4000).filter(covers).count() as u32) / 4000.0
    }

    fn uniform(state: &mut u64) -> f64 {
        let random = flowprobe_ebpf::sampling::next_random(state);
        ((random >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
    }

    /// Box and Muller.
    fn normal(state: &mut u64) -> f64 {
        let radius = (-2.0 * uniform(state).ln()).sqrt();
        radius * (std::f64::consts::TAU * uniform(state)).cos()
    }

    /// Of 4,000 the share has a standard error of 0.35 %.
    #[test]
    fn bounds_cover_what_they_claim() {
        const LEAST: f64 = 0.95 - 0.015;
        let state = &mut 1;
        for runs in [5, 10, 30, 58] {
            let signed = coverage(runs, true, Z_TWO_SIDED, || normal(state));
            assert!(signed > LEAST, "{runs}: {signed}");
            let others = coverage(runs, false, 5.0 + Z_ONE_SIDED, || 5.0 + normal(state));
            assert!(others > LEAST, "{runs}: {others}");
        }
        // Any distribution: here the exponential one, whose 95 % quantile is ln 20.
        for runs in [59, 93, 200] {
            let order = coverage(runs, false, 20_f64.ln(), || -uniform(state).ln());
            assert!(order > LEAST, "{runs}: {order}");
        }
    }

    /// Why it is said that few runs assume a normal distribution.
    #[test]
    fn few_runs_of_another_distribution_are_not_covered() {
        let state = &mut 1;
        let few = coverage(30, false, 20_f64.ln(), || -uniform(state).ln());
        assert!(few < 0.85, "{few}");
    }
}
