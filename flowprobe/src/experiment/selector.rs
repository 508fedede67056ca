//! All samplers side by side: each selects from the same packets, by itself.
//!
//! A sampler that counts packets knows the next one that it selects, and waits for it in a wheel,
//! so that packets which it skips cost it nothing. Hash-based selection compares one hash for each
//! run. What was selected is kept by flow, 16 octets each in a table of its own: a sampler has at
//! most as many as there are flows or selected packets. Whole-flow selection keeps nothing: it is
//! worked out from the truth at the end.

use flowprobe_ebpf::sampling::{geometric_gap, next_random};
use hashbrown::HashTable;

use super::method::{Method, Rate};
use crate::sampling::gap_scale;

/// A packet as samplers see it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Seen {
    /// Number of its flow.
    pub(super) flow: u32,
    /// Octets of the IP packet.
    pub(super) octets: u32,
    /// Nanoseconds since 1970-01-01 UTC.
    pub(super) at_ns: u64,
    /// Hash of what stays the same in it.
    pub(super) content: u64,
    /// Whether it begins a flow of TCP.
    pub(super) syn: bool,
}

/// What a sampler has of one flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cell {
    /// Number of the flow.
    pub(super) flow: u32,
    pub(super) packets: u32,
    pub(super) octets: u64,
}

/// What a sampler selected.
#[derive(Debug, Default)]
pub(super) struct Sample {
    pub(super) packets: u64,
    pub(super) octets: u64,
    /// Packets that begin a flow of TCP.
    pub(super) syns: u64,
    /// Selected packets that belong to no flow.
    pub(super) others: u64,
    pub(super) cells: HashTable<Cell>,
}

impl Sample {
    fn add(&mut self, seen: &Seen) {
        self.packets += 1;
        self.octets += u64::from(seen.octets);
        self.syns += u64::from(seen.syn);
        let cell = self
            .cells
            .entry(
                spread(seen.flow),
                |cell| cell.flow == seen.flow,
                |cell| spread(cell.flow),
            )
            .or_insert(Cell {
                flow: seen.flow,
                packets: 0,
                octets: 0,
            })
            .into_mut();
        cell.packets = cell.packets.saturating_add(1);
        cell.octets += u64::from(seen.octets);
    }
}

/// Dense numbers as a hash table wants them.
fn spread(flow: u32) -> u64 {
    let mixed = u64::from(flow).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

/// A seed of its own for each purpose.
pub(super) fn derived(seed: u64, purpose: u64, run: u64) -> u64 {
    let mut state = seed ^ purpose.wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mut state = next_random(&mut state) ^ run.wrapping_mul(0xa076_1d64_78bd_642f);
    next_random(&mut state)
}

/// The hash of `base` in a run: another `key` selects independently.
pub(super) fn keyed(base: u64, key: u64) -> u64 {
    let mut state = base ^ key;
    next_random(&mut state)
}

/// Hashes below this are selected; `None` is all of them.
pub(super) fn threshold(rate: Rate) -> Option<u64> {
    let part = (u128::from(rate.n()) << 64) / u128::from(rate.of());
    u64::try_from(part).ok()
}

pub(super) fn is_below(hash: u64, threshold: Option<u64>) -> bool {
    threshold.is_none_or(|threshold| hash < threshold)
}

/// A number below `below`, uniform up to 2⁻³².
fn draw(state: &mut u64, below: u32) -> u32 {
    ((u128::from(next_random(state)) * u128::from(below)) >> 64) as u32
}

/// How a sampler that counts packets goes on.
#[derive(Debug)]
pub(super) enum Plan {
    /// `left` more in this interval, then `skip`.
    Count { n: u32, of: u32, left: u32 },
    /// Gaps are drawn, by the arithmetic of the XDP program.
    Random { state: u64, scale: u64 },
    /// Places in the window that begins at `window`, last first.
    NofN {
        state: u64,
        rate: Rate,
        window: u64,
        places: Vec<u32>,
    },
}

impl Plan {
    /// A plan, and the first packet that it selects, counted from 0.
    pub(super) fn new(method: Method, rate: Rate, seed: u64) -> Option<(Self, u64)> {
        let mut state = seed;
        let (n, of) = (rate.n(), rate.of());
        match method {
            Method::Count => {
                // The first packet is at a random place of the interval.
                let phase = draw(&mut state, of);
                let (left, first) = match phase < n {
                    true => (n - 1 - phase, 0),
                    false => (n - 1, of - phase),
                };
                Some((Self::Count { n, of, left }, u64::from(first)))
            }
            Method::Random => {
                let scale = gap_scale(rate.share());
                let first = geometric_gap(next_random(&mut state), scale);
                Some((Self::Random { state, scale }, u64::from(first)))
            }
            Method::NofN => {
                let mut plan = Self::NofN {
                    state,
                    rate,
                    window: 0,
                    places: Vec::new(),
                };
                plan.draw_places();
                let first = plan.next_place();
                Some((plan, first))
            }
            Method::Time | Method::Hash | Method::Flow => None,
        }
    }

    /// The packet that is selected after the `index`-th one.
    pub(super) fn next(&mut self, index: u64) -> u64 {
        match self {
            Self::Count { left, .. } if *left > 0 => {
                *left -= 1;
                index + 1
            }
            Self::Count { n, of, left } => {
                *left = *n - 1;
                index + 1 + u64::from(*of - *n)
            }
            Self::Random { state, scale } => {
                index + 1 + u64::from(geometric_gap(next_random(state), *scale))
            }
            Self::NofN {
                rate,
                window,
                places,
                ..
            } => {
                if places.is_empty() {
                    *window += u64::from(rate.of());
                    self.draw_places();
                }
                self.next_place()
            }
        }
    }

    /// Draws the places of a window: Floyd's way of n distinct numbers below N.
    fn draw_places(&mut self) {
        let Self::NofN {
            state,
            rate,
            places,
            ..
        } = self
        else {
            return;
        };
        let mut drawn = std::collections::BTreeSet::new();
        for highest in rate.of() - rate.n()..rate.of() {
            let place = draw(state, highest + 1);
            if !drawn.insert(place) {
                drawn.insert(highest);
            }
        }
        places.extend(drawn.into_iter().rev());
    }

    fn next_place(&mut self) -> u64 {
        match self {
            Self::NofN { window, places, .. } => *window + u64::from(places.pop().unwrap_or(0)),
            Self::Count { .. } | Self::Random { .. } => u64::MAX,
        }
    }
}

/// Samplers that know the next packet they select, by that packet modulo the wheel's size.
#[derive(Debug)]
struct Wheel {
    slots: Vec<Vec<(u64, u32)>>,
    /// The slot that is being emptied; kept for its memory.
    now: Vec<(u64, u32)>,
}

impl Wheel {
    /// More than the usual gaps, so that few samplers are looked at before they are due.
    const SLOTS: u64 = 2048;

    fn new() -> Self {
        Self {
            slots: vec![Vec::new(); Self::SLOTS as usize],
            now: Vec::new(),
        }
    }

    fn put(&mut self, due: u64, plan: u32) {
        self.slots[(due % Self::SLOTS) as usize].push((due, plan));
    }

    /// Calls `select` for each one that is due, which gives its next packet.
    fn turn(&mut self, index: u64, mut select: impl FnMut(u32) -> u64) {
        let mut now = std::mem::take(&mut self.now);
        std::mem::swap(&mut now, &mut self.slots[(index % Self::SLOTS) as usize]);
        for (due, plan) in now.drain(..) {
            match due == index {
                true => self.put(select(plan), plan),
                false => self.put(due, plan),
            }
        }
        self.now = now;
    }
}

/// One sampler of many.
#[derive(Debug)]
pub(super) struct Sampler {
    pub(super) method: Method,
    /// Place in the list of rates.
    pub(super) rate: usize,
    /// Its seed, the key of its hash, or the phase of its windows.
    pub(super) seed: u64,
    pub(super) sample: Sample,
}

/// What is compared.
#[derive(Clone, Debug)]
pub(super) struct Design {
    pub(super) methods: Vec<Method>,
    pub(super) rates: Vec<Rate>,
    pub(super) runs: u32,
    pub(super) seed: u64,
    /// How long a window of time is, in nanoseconds.
    pub(super) window_ns: u64,
}

/// The hash-based samplers of a run.
#[derive(Debug)]
struct Hashed {
    key: u64,
    /// Thresholds and their samplers, from the highest on.
    thresholds: Vec<(Option<u64>, u32)>,
}

/// All samplers: methods × rates × runs.
#[derive(Debug)]
pub(super) struct Bank {
    samplers: Vec<Sampler>,
    wheel: Wheel,
    /// Plans and their samplers.
    plans: Vec<(Plan, u32)>,
    /// One of each run.
    hashed: Vec<Hashed>,
    /// Period and phase in nanoseconds, and how much of the period is selected.
    timed: Vec<(u64, u64, u64, u32)>,
    index: u64,
}

impl Bank {
    pub(super) fn new(design: &Design) -> Self {
        let mut bank = Self {
            samplers: Vec::new(),
            wheel: Wheel::new(),
            plans: Vec::new(),
            hashed: Vec::new(),
            timed: Vec::new(),
            index: 0,
        };
        for &method in &design.methods {
            for run in 0..design.runs {
                let mut thresholds = Vec::new();
                // One key for all rates of a run: they are compared with one hash.
                let key = derived(design.seed, method as u64, u64::from(run));
                for (rate, &of) in design.rates.iter().enumerate() {
                    let number = bank.samplers.len() as u32;
                    let seed = match method {
                        Method::Hash | Method::Flow => key,
                        // A rate has the same seed whichever others there are.
                        _ => derived(key, u64::from(of.n()) << 32 | u64::from(of.of()), 0),
                    };
                    thresholds.push((threshold(of), number));
                    bank.plan(method, of, seed, design.window_ns, number);
                    bank.samplers.push(Sampler {
                        method,
                        rate,
                        seed,
                        sample: Sample::default(),
                    });
                }
                if method == Method::Hash {
                    bank.hashed.push(Hashed { key, thresholds });
                }
            }
        }
        bank
    }

    fn plan(&mut self, method: Method, rate: Rate, seed: u64, window_ns: u64, number: u32) {
        if let Some((plan, first)) = Plan::new(method, rate, seed) {
            self.wheel.put(first, self.plans.len() as u32);
            self.plans.push((plan, number));
        }
        if method == Method::Time {
            let period = window_ns.saturating_mul(u64::from(rate.of()));
            let mut state = seed;
            let phase = next_random(&mut state) % period.max(1);
            let selected = window_ns.saturating_mul(u64::from(rate.n()));
            self.timed.push((period.max(1), phase, selected, number));
        }
    }

    /// Shows a packet to all samplers.
    pub(super) fn see(&mut self, seen: &Seen) {
        self.turn(|sample| sample.add(seen));
        let samplers = &mut self.samplers;
        for Hashed { key, thresholds } in &self.hashed {
            let hash = keyed(seen.content, *key);
            for (threshold, sampler) in thresholds {
                if !is_below(hash, *threshold) {
                    break;
                }
                samplers[*sampler as usize].sample.add(seen);
            }
        }
        self.look_at_time(seen.at_ns, |sample| sample.add(seen));
    }

    /// A packet of no flow is selected or skipped as others are, and counted nowhere else. (Whether
    /// hash-based selection takes it changes nothing for others.)
    pub(super) fn see_other(&mut self, at_ns: u64) {
        self.turn(|sample| sample.others += 1);
        self.look_at_time(at_ns, |sample| sample.others += 1);
    }

    /// Samplers that count packets.
    fn turn(&mut self, mut select: impl FnMut(&mut Sample)) {
        let index = self.index;
        let (plans, samplers) = (&mut self.plans, &mut self.samplers);
        self.wheel.turn(index, |plan| {
            let (plan, sampler) = &mut plans[plan as usize];
            select(&mut samplers[*sampler as usize].sample);
            plan.next(index)
        });
        self.index += 1;
    }

    fn look_at_time(&mut self, at_ns: u64, mut select: impl FnMut(&mut Sample)) {
        for (period, phase, selected, sampler) in &self.timed {
            let time = (at_ns % period + phase) % period;
            if time < *selected {
                select(&mut self.samplers[*sampler as usize].sample);
            }
        }
    }

    /// Octets of memory that flows take, about.
    pub(super) fn memory(&self) -> usize {
        let tables = self.samplers.iter();
        tables
            .map(|sampler| sampler.sample.cells.allocation_size())
            .sum()
    }

    pub(super) fn finish(self) -> Vec<Sampler> {
        self.samplers
    }
}

#[cfg(test)]
mod tests;
