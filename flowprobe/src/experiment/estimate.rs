//! What a collector would make of one sample, and how far that is from the truth.

use std::collections::BTreeMap;

use super::{
    method::{Method, Rate},
    selector::{Cell, Sample, Sampler, is_below, keyed, threshold},
    truth::{SIZE_CLASSES, Top, Truth, UNRANKED, size_class},
};

/// What is compared with the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Relative error of the number of packets, with its sign.
    Packets,
    /// Relative error of the octets, with its sign.
    Octets,
    /// Σ |error of each of the largest flows| / Σ their octets.
    Top,
    /// The same of prefixes.
    Prefix,
    /// The same of ports.
    Port,
    /// Relative error of the estimated number of flows, with its sign.
    Flows,
    /// Kolmogorov–Smirnov distance of the flow sizes, 0 to 1.
    Sizes,
    /// The same, each flow weighted by its packets.
    SizesByPackets,
    /// Share of the flows of which at least one packet was selected.
    Seen,
    /// Share of the largest flows that are among the largest of the sample.
    Recall,
    /// Share of the flows of this class of [`SIZE_CLASSES`] of which no packet was selected.
    Missed(usize),
}

impl Quantity {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Packets,
        Self::Octets,
        Self::Top,
        Self::Prefix,
        Self::Port,
        Self::Flows,
        Self::Sizes,
        Self::SizesByPackets,
        Self::Seen,
        Self::Recall,
        Self::Missed(0),
        Self::Missed(1),
        Self::Missed(2),
        Self::Missed(3),
        Self::Missed(4),
    ];

    /// Its name in files.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Packets => "packets_error",
            Self::Octets => "octets_error",
            Self::Top => "top_flows_octets_error",
            Self::Prefix => "prefixes_octets_error",
            Self::Port => "ports_octets_error",
            Self::Flows => "flow_count_error",
            Self::Sizes => "flow_sizes_distance",
            Self::SizesByPackets => "flow_sizes_by_packets_distance",
            Self::Seen => "flows_seen",
            Self::Recall => "top_flows_recall",
            Self::Missed(0) => "missed_of_1_packet",
            Self::Missed(1) => "missed_of_2_to_9_packets",
            Self::Missed(2) => "missed_of_10_to_99_packets",
            Self::Missed(3) => "missed_of_100_to_999_packets",
            Self::Missed(_) => "missed_of_1000_or_more_packets",
        }
    }

    /// Whether its values scatter around 0.
    #[must_use]
    pub fn is_signed(self) -> bool {
        matches!(self, Self::Packets | Self::Octets | Self::Flows)
    }

    pub(super) fn place(self) -> usize {
        Self::ALL
            .iter()
            .position(|&other| other == self)
            .unwrap_or(0)
    }
}

/// What one sampler came to.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    /// By [`Quantity::place`]; NaN where there is nothing to compare.
    pub(super) values: [f64; Quantity::ALL.len()],
    /// Packets that it selected, and flows that they were of.
    pub(super) selected_packets: u64,
    pub(super) selected_flows: u64,
}

/// Compares a sampler's sample with the truth.
pub(super) fn evaluate(truth: &Truth, sampler: Sampler, rate: Rate) -> Outcome {
    let Sampler {
        method,
        seed,
        sample,
        ..
    } = sampler;
    let (sample, cells) = match method {
        Method::Flow => whole_flows(truth, rate, seed),
        _ => {
            let mut cells: Vec<Cell> = sample.cells.iter().copied().collect();
            // The order of a hash table would decide how floating point numbers add up.
            cells.sort_unstable_by_key(|cell| cell.flow);
            (sample, cells)
        }
    };
    Comparison {
        truth,
        whole: method == Method::Flow,
        rate,
        sample,
        cells,
    }
    .outcome()
}

/// Whole-flow selection: flows by the hash of their key.
fn whole_flows(truth: &Truth, rate: Rate, key: u64) -> (Sample, Vec<Cell>) {
    let threshold = threshold(rate);
    let mut sample = Sample::default();
    let mut cells = Vec::new();
    for (number, flow) in truth.flows.iter().enumerate() {
        if is_below(keyed(flow.hash, key), threshold) {
            sample.packets += flow.packets;
            sample.octets += flow.octets;
            sample.syns += u64::from(flow.syns);
            cells.push(Cell {
                flow: number as u32,
                packets: u32::try_from(flow.packets).unwrap_or(u32::MAX),
                octets: flow.octets,
            });
        }
    }
    (sample, cells)
}

struct Comparison<'a> {
    truth: &'a Truth,
    /// Whether whole flows were selected, so that each one's counters are true.
    whole: bool,
    rate: Rate,
    sample: Sample,
    cells: Vec<Cell>,
}

impl Comparison<'_> {
    fn outcome(&self) -> Outcome {
        let Self { truth, sample, .. } = self;
        let scale = self.rate.scale();
        let mut values = [f64::NAN; Quantity::ALL.len()];
        let mut put = |quantity: Quantity, value: f64| values[quantity.place()] = value;
        put(
            Quantity::Packets,
            relative(sample.packets as f64 * scale, truth.packets as f64),
        );
        put(
            Quantity::Octets,
            relative(sample.octets as f64 * scale, truth.octets as f64),
        );
        put(Quantity::Top, self.top_flows());
        put(
            Quantity::Prefix,
            self.top(&truth.top_prefixes, |flow| truth.flows[flow].prefixes),
        );
        put(
            Quantity::Port,
            self.top(&truth.top_ports, |flow| truth.flows[flow].ports),
        );
        put(
            Quantity::Flows,
            relative(self.flow_count(), truth.flows.len() as f64),
        );
        let (by_flows, by_packets) = self.size_distances();
        put(Quantity::Sizes, by_flows);
        put(Quantity::SizesByPackets, by_packets);
        put(
            Quantity::Seen,
            self.cells.len() as f64 / truth.flows.len() as f64,
        );
        put(Quantity::Recall, self.recall());
        for (class, missed) in self.missed().into_iter().enumerate() {
            put(Quantity::Missed(class), missed);
        }
        Outcome {
            values,
            selected_packets: sample.packets + sample.others,
            selected_flows: self.cells.len() as u64,
        }
    }

    /// What a flow's counters are multiplied by.
    fn flow_scale(&self) -> f64 {
        if self.whole { 1.0 } else { self.rate.scale() }
    }

    fn top_flows(&self) -> f64 {
        let top = &self.truth.top_flows;
        let mut estimates = vec![0.0; top.sums.len()];
        for cell in &self.cells {
            let rank = top.rank[cell.flow as usize];
            if rank != UNRANKED {
                estimates[rank as usize] = cell.octets as f64 * self.flow_scale();
            }
        }
        weighted_error(top, &estimates)
    }

    /// The error of groups of flows; `of` gives the two groups that a flow is in.
    fn top(&self, top: &Top, of: impl Fn(usize) -> [u32; 2]) -> f64 {
        let mut estimates = vec![0.0; top.sums.len()];
        for cell in &self.cells {
            for group in of(cell.flow as usize) {
                let rank = top.rank[group as usize];
                if rank != UNRANKED {
                    estimates[rank as usize] += cell.octets as f64 * self.rate.scale();
                }
            }
        }
        weighted_error(top, &estimates)
    }

    /// The estimated number of flows.
    ///
    /// TCP: selected packets with SYN, scaled up (Duffield, Lund, Thorup, "Estimating Flow
    /// Distributions from Sampled Flow Statistics", SIGCOMM 2003). That is unbiased where each flow
    /// has exactly one such packet; flows that began before the capture are not in it, and a SYN
    /// that was sent again counts twice.
    ///
    /// Others: flows seen, and a lower bound of those that were not, f₁² / (2 f₂ + p/(1−p) f₁) with
    /// the numbers of flows that were seen once and twice (Chao and Lin, "Nonparametric Lower Bounds
    /// for Species Richness … under Sampling without Replacement", Biometrics 2012). There is no
    /// unbiased estimate without such a mark in each flow.
    ///
    /// Whole flows: flows seen, scaled up.
    fn flow_count(&self) -> f64 {
        let share = self.rate.share();
        if self.whole || share >= 1.0 {
            return self.cells.len() as f64 * self.rate.scale();
        }
        let (mut others, mut once, mut twice) = (0.0, 0.0, 0.0);
        for cell in &self.cells {
            if self.truth.flows[cell.flow as usize].is_tcp() {
                continue;
            }
            others += 1.0;
            match cell.packets {
                1 => once += 1.0,
                2 => twice += 1.0,
                _ => (),
            }
        }
        let unseen = match once > 0.0 {
            true => once * once / (2.0 * twice + share / (1.0 - share) * once),
            false => 0.0,
        };
        self.sample.syns as f64 * self.rate.scale() + others + unseen
    }

    /// Kolmogorov–Smirnov distances between the true sizes of all flows and the scaled ones of the
    /// flows seen, each flow counting once, and by its packets. Nothing is inverted: this is what
    /// a collector has.
    fn size_distances(&self) -> (f64, f64) {
        let mut seen = BTreeMap::<u32, u64>::new();
        for cell in &self.cells {
            *seen.entry(cell.packets).or_default() += 1;
        }
        let scale = self.flow_scale();
        let seen: Vec<(f64, f64)> = seen
            .into_iter()
            .map(|(packets, flows)| (f64::from(packets) * scale, flows as f64))
            .collect();
        let sizes = self.truth.sizes.iter();
        let truth: Vec<(f64, f64)> = sizes
            .map(|&(packets, flows)| (packets as f64, flows as f64))
            .collect();
        let weighted = |sizes: &[(f64, f64)]| -> Vec<(f64, f64)> {
            sizes
                .iter()
                .map(|&(size, flows)| (size, size * flows))
                .collect()
        };
        (
            distance(&truth, &seen),
            distance(&weighted(&truth), &weighted(&seen)),
        )
    }

    fn recall(&self) -> f64 {
        let top = &self.truth.top_flows;
        let wanted = top.sums.len();
        let mut order: Vec<&Cell> = self.cells.iter().collect();
        // Equal ones by their number, as in the truth.
        let by_octets = |a: &&Cell, b: &&Cell| b.octets.cmp(&a.octets).then(a.flow.cmp(&b.flow));
        if order.len() > wanted && wanted > 0 {
            order.select_nth_unstable_by(wanted - 1, by_octets);
            order.truncate(wanted);
        }
        let found = order
            .iter()
            .filter(|cell| top.rank[cell.flow as usize] != UNRANKED);
        found.count() as f64 / wanted as f64
    }

    /// The share of each class of sizes that was not seen; NaN where there is no such flow.
    fn missed(&self) -> [f64; SIZE_CLASSES.len()] {
        let (mut all, mut seen) = ([0_u64; SIZE_CLASSES.len()], [0_u64; SIZE_CLASSES.len()]);
        for &(packets, flows) in &self.truth.sizes {
            all[size_class(packets)] += flows;
        }
        for cell in &self.cells {
            seen[size_class(self.truth.flows[cell.flow as usize].packets)] += 1;
        }
        std::array::from_fn(|class| (all[class] - seen[class]) as f64 / all[class] as f64)
    }
}

fn relative(estimate: f64, truth: f64) -> f64 {
    (estimate - truth) / truth
}

fn weighted_error(top: &Top, estimates: &[f64]) -> f64 {
    let truths = top.sums.iter().map(|sums| sums.octets);
    let off = truths.clone().zip(estimates);
    let off: f64 = off.map(|(truth, estimate)| (estimate - truth).abs()).sum();
    off / truths.sum::<f64>()
}

/// The largest difference of two distributions, given as values with weights, ascending; 1 if one
/// of them is empty.
fn distance(a: &[(f64, f64)], b: &[(f64, f64)]) -> f64 {
    let sum = |list: &[(f64, f64)]| list.iter().map(|(_, weight)| weight).sum::<f64>();
    let (all_a, all_b) = (sum(a), sum(b));
    if all_a <= 0.0 || all_b <= 0.0 {
        return 1.0;
    }
    let (mut i, mut j, mut below_a, mut below_b, mut largest) = (0, 0, 0.0, 0.0, 0.0_f64);
    while i < a.len() && j < b.len() {
        let value = a[i].0.min(b[j].0);
        while let Some(&(_, weight)) = a.get(i).filter(|(at, _)| *at <= value) {
            below_a += weight;
            i += 1;
        }
        while let Some(&(_, weight)) = b.get(j).filter(|(at, _)| *at <= value) {
            below_b += weight;
            j += 1;
        }
        largest = largest.max((below_a / all_a - below_b / all_b).abs());
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_the_largest_gap() {
        let a = [(1.0, 1.0), (2.0, 1.0)];
        assert!(distance(&a, &a).abs() < 1e-12);
        assert!((distance(&a, &[(2.0, 5.0)]) - 0.5).abs() < 1e-12);
        assert!((distance(&a, &[(3.0, 5.0)]) - 1.0).abs() < 1e-12);
        assert!((distance(&a, &[]) - 1.0).abs() < 1e-12);
    }

    #[test]
    fn quantities_have_their_places_and_names() {
        for (place, quantity) in Quantity::ALL.into_iter().enumerate() {
            assert_eq!(quantity.place(), place);
        }
        let names: std::collections::BTreeSet<_> = Quantity::ALL.map(Quantity::name).into();
        assert_eq!(names.len(), Quantity::ALL.len());
    }
}
