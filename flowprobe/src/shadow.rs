//! What sampling would have cost: flows that were metered in full beside the same flows sampled, both
//! of the same packets, by the kernel.
//!
//! Records of both come here as they leave the tables. A flow is all records of one key, so that
//! neither timeouts nor evictions of one side only make a difference. The comparison keeps 160
//! octets a flow, up to twice that with the table's spare room; flows beyond its limit are in the totals
//! only.

use std::{
    cmp::Reverse,
    collections::HashMap,
    fmt,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Mutex, MutexGuard, PoisonError},
};

use flowprobe_ebpf::sampling::SHADOW_CLASS;
use serde::Serialize;

use crate::{
    record::{FlowKey, FlowRecord, Volume},
    sampling::Sampling,
    table::shared::Totals,
};

/// Flows, prefixes and ports that are compared one by one: the largest.
const TOP: usize = 20;

/// Flow sizes that are told apart, in packets: the smallest of each class.
const SIZES: [u64; 4] = [1, 10, 100, 1000];

/// Packets and octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum {
    packets: u64,
    octets: u64,
}

impl Sum {
    fn add(&mut self, other: Self) {
        self.packets += other.packets;
        self.octets += other.octets;
    }
}

/// What is known of a flow, prefix or port.
#[derive(Clone, Copy, Debug, Default)]
struct Both {
    full: Sum,
    sampled: Sum,
}

/// Compares what is metered in full with what is sampled.
#[derive(Debug)]
pub struct Shadow {
    sampling: Sampling,
    limit: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    flows: HashMap<FlowKey, Both>,
    full: Volume,
    sampled: Volume,
    /// Records of flows beyond the limit.
    uncompared: u64,
}

/// The comparison so far. Errors are relative; positive where the sample says too much.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ShadowSummary {
    method: &'static str,
    n: u32,
    /// Packets that the sampler was asked about, and selected.
    observed: u64,
    selected: u64,
    /// In flows, in full and sampled.
    full: Volume,
    sampled: Volume,
    packets_error: f64,
    octets_error: f64,
    /// Relative standard error of the packets by theory: √((1 − p) / (p · c)) of independent
    /// selection with probability p of c packets.
    packets_standard_error: f64,
    flows: u64,
    flows_seen: u64,
    /// Flows by their size, and of how many none was selected.
    missed: Vec<Missed>,
    top_flows: Group,
    top_prefixes: Group,
    top_ports: Group,
    /// Records of flows that are in the totals only, since there was no room to compare them.
    records_uncompared: u64,
    /// Whether each packet that was selected is in a record or in another term.
    balanced: bool,
}

/// Flows of a size, and how many of them the sample missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
struct Missed {
    packets_at_least: u64,
    /// None for the largest.
    packets_at_most: Option<u64>,
    flows: u64,
    missed: u64,
}

/// The largest of a kind by octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
struct Group {
    /// How many.
    count: usize,
    /// Σ |error of each| / Σ their octets.
    octets_error: f64,
    /// Share of them that are among as many largest of the sample.
    recall: f64,
}

impl Shadow {
    /// A comparison with what is sampled so, of up to `limit` flows.
    #[must_use]
    pub fn new(sampling: Sampling, limit: usize) -> Self {
        // At once, since to move all of a large table would keep the drainer for long. Memory is
        // taken as it is used.
        let flows = HashMap::with_capacity(limit);
        Self {
            sampling,
            limit,
            state: Mutex::new(State {
                flows,
                ..State::default()
            }),
        }
    }

    /// Takes in a record of either side. True if it is of the sample, and so nobody else's.
    pub fn take(&self, record: &FlowRecord) -> bool {
        let sampled = record.key.sampled().class() == SHADOW_CLASS;
        let mut state = self.state();
        let volume = Volume {
            records: 1,
            packets: record.packets,
            octets: record.octets,
        };
        if sampled {
            state.sampled += volume;
        } else {
            state.full += volume;
        }
        let key = record.key.unsampled();
        if state.flows.len() >= self.limit && !state.flows.contains_key(&key) {
            state.uncompared += 1;
            return sampled;
        }
        let both = state.flows.entry(key).or_default();
        let side = if sampled {
            &mut both.sampled
        } else {
            &mut both.full
        };
        side.add(Sum {
            packets: record.packets,
            octets: record.octets,
        });
        sampled
    }

    /// The comparison so far, where the program has counted `totals` for the sample.
    #[must_use]
    pub fn summary(&self, totals: &Totals) -> ShadowSummary {
        let state = self.state();
        let n = f64::from(self.sampling.n());
        let State { full, sampled, .. } = *state;
        let (packets, octets) = (full.packets as f64, full.octets as f64);
        let seen = |both: &Both| both.sampled.packets > 0;
        let missed = SIZES.iter().enumerate().map(|(i, &least)| {
            let most = SIZES.get(i + 1).map(|next| next - 1);
            let sizes = least..=most.unwrap_or(u64::MAX);
            let of_size = |both: &&Both| sizes.contains(&both.full.packets);
            Missed {
                packets_at_least: least,
                packets_at_most: most,
                flows: state.flows.values().filter(of_size).count() as u64,
                missed: state
                    .flows
                    .values()
                    .filter(of_size)
                    .filter(|both| !seen(both))
                    .count() as u64,
            }
        });
        let by = |of: fn(&FlowKey) -> [Option<GroupKey>; 2]| {
            let mut groups: HashMap<GroupKey, Both> = HashMap::new();
            for (key, both) in &state.flows {
                for group in of(key).into_iter().flatten() {
                    let sum = groups.entry(group).or_default();
                    sum.full.add(both.full);
                    sum.sampled.add(both.sampled);
                }
            }
            groups
        };
        let lost = totals.ignored.iter().chain(&totals.lost);
        let terms = lost.fold(
            totals.unsampled.packets + totals.accounted.packets,
            |sum, tally| sum + tally.packets,
        );
        ShadowSummary {
            method: self.sampling.method(),
            n: self.sampling.n(),
            observed: totals.seen.packets,
            selected: totals.seen.packets - totals.unsampled.packets,
            full,
            sampled,
            packets_error: relative(sampled.packets as f64 * n, packets),
            octets_error: relative(sampled.octets as f64 * n, octets),
            packets_standard_error: ((n - 1.0) / packets.max(1.0)).sqrt(),
            flows: state.flows.len() as u64,
            flows_seen: state.flows.values().filter(|both| seen(both)).count() as u64,
            missed: missed.collect(),
            top_flows: top(&state.flows, n),
            top_prefixes: top(&by(prefixes), n),
            top_ports: top(&by(ports), n),
            records_uncompared: state.uncompared,
            balanced: terms == totals.seen.packets
                && totals.accounted.packets == sampled.packets
                && totals.accounted_ip_octets == sampled.octets,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Display for ShadowSummary {
    /// As lines of 80 columns at most.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = |share: f64| 100.0 * share;
        writeln!(
            f,
            "shadow: what {} 1/{} would have shown",
            self.method, self.n
        )?;
        writeln!(
            f,
            "  packets {:+.2} % off, octets {:+.2} %; expected of packets {:.2} %",
            percent(self.packets_error),
            percent(self.octets_error),
            percent(self.packets_standard_error),
        )?;
        writeln!(
            f,
            "  records {} in place of {}; flows {} of {} seen",
            self.sampled.records, self.full.records, self.flows_seen, self.flows
        )?;
        for missed in self.missed.iter().filter(|missed| missed.flows > 0) {
            let sizes = match missed.packets_at_most {
                Some(most) => format!("{} to {most} packets", missed.packets_at_least),
                None => format!("{} packets or more", missed.packets_at_least),
            };
            let Missed { flows, missed, .. } = missed;
            writeln!(f, "  of {sizes}: {missed} of {flows} flows missed")?;
        }
        let groups = [
            ("flows", &self.top_flows),
            ("prefixes", &self.top_prefixes),
            ("ports", &self.top_ports),
        ];
        for (name, group) in groups {
            writeln!(
                f,
                "  top {} {name} by octets: {:.2} % off, {:.0} % of them found",
                group.count,
                percent(group.octets_error),
                percent(group.recall)
            )?;
        }
        if self.records_uncompared > 0 {
            writeln!(
                f,
                "  {} records are of flows beyond --max-overflow-flows: in the totals only",
                self.records_uncompared
            )?;
        }
        write!(
            f,
            "  balanced: {}",
            if self.balanced { "yes" } else { "NO" }
        )
    }
}

/// How far an estimate is from the truth; 0 where there is nothing to estimate.
fn relative(estimate: f64, truth: f64) -> f64 {
    if truth == 0.0 {
        return 0.0;
    }
    estimate / truth - 1.0
}

/// Prefixes and ports, which are summed up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum GroupKey {
    Prefix(IpAddr),
    Port(u8, u16),
}

/// The prefixes of both addresses, /24 and /48.
fn prefixes(key: &FlowKey) -> [Option<GroupKey>; 2] {
    [key.source(), key.destination()].map(|address| {
        let prefix = match address {
            IpAddr::V4(address) => Ipv4Addr::from(u32::from(address) & !0xff).into(),
            IpAddr::V6(address) => Ipv6Addr::from(u128::from(address) & !(u128::MAX >> 48)).into(),
        };
        Some(GroupKey::Prefix(prefix))
    })
}

/// Both ports with the protocol.
fn ports(key: &FlowKey) -> [Option<GroupKey>; 2] {
    [key.source_port(), key.destination_port()]
        .map(|port| (port != 0).then(|| GroupKey::Port(key.protocol(), port)))
}

/// Compares the largest.
fn top<K: Hash + Eq>(all: &HashMap<K, Both>, n: f64) -> Group {
    let largest = |octets: fn(&Both) -> u64| {
        let mut order: Vec<(&K, &Both)> = all.iter().filter(|(_, both)| octets(both) > 0).collect();
        order.sort_unstable_by_key(|(_, both)| Reverse(octets(both)));
        order.truncate(TOP);
        order
    };
    let truth = largest(|both| both.full.octets);
    let sample = largest(|both| both.sampled.octets);
    let (mut error, mut octets, mut found) = (0.0, 0.0, 0);
    for (key, both) in &truth {
        let full = both.full.octets as f64;
        error += (both.sampled.octets as f64 * n - full).abs();
        octets += full;
        found += usize::from(sample.iter().any(|(other, _)| other == key));
    }
    let share = |part: f64, of: f64| if of == 0.0 { 0.0 } else { part / of };
    Group {
        count: truth.len(),
        octets_error: share(error, octets),
        recall: share(found as f64, truth.len() as f64),
    }
}
