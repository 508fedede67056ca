//! The rounds: each program in turn, so that all of them meet the same weather.

use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use flowprobe_bench::{FIRST_ORDER, LATER_ORDER, MAX_FLOWS};
use libbpf_rs::RingBufferBuilder;

use crate::{
    dispatcher::Dispatcher,
    meter::Meter,
    subject::{DEFAULT_MAX_FLOWS, Running, Subject},
    timing::settle,
};

/// Flows of the cell in which each packet starts a new one.
pub(crate) const NEW_FLOWS: u32 = 1 << 20;

/// Most packets that may move a flow to the ring, of all packets, in a table that is said to hold
/// the flows.
const HOLDS_SHARE: f64 = 0.05;

/// How often the room is doubled before the search for one that holds the flows ends.
const DOUBLINGS: u32 = 4;

/// Packets that bring a program's code and flows into the caches before a timed run.
const WARM_UP: u32 = 1 << 16;

/// Pause of the drainer when the rings are empty: much shorter than a ring takes to fill.
const DRAIN_PAUSE: Duration = Duration::from_micros(500);

/// What is measured at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cell {
    /// Packets of so many flows that the program knows already.
    Flows(u32),
    /// The first packet of each of [`NEW_FLOWS`] flows.
    New,
}

/// How to measure.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) rounds: u32,
    /// Packets in a timed run, or the flows if those are more.
    pub(crate) packets: u32,
    /// Room for flows; `None` searches for it.
    pub(crate) max_flows: Option<u32>,
    /// CPU of the rings' reader.
    pub(crate) drain_cpu: usize,
    pub(crate) nice: i32,
}

/// One program in one cell.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) cell: Cell,
    /// Nanoseconds per packet, dispatcher included.
    pub(crate) samples: Samples,
    pub(crate) max_flows: Option<u32>,
    /// Packets in timed runs that moved a flow to the ring, of all packets there.
    pub(crate) evicted_share: Option<f64>,
    pub(crate) keys: Option<usize>,
    /// Why the row does not count.
    pub(crate) fault: Option<String>,
}

/// A cell of all programs.
pub(crate) struct Measured {
    pub(crate) cell: Cell,
    /// Samples of the empty program.
    pub(crate) empty: Samples,
    /// In the order of the subjects.
    pub(crate) rows: Vec<Row>,
}

/// Measures `subjects` in one cell.
pub(crate) fn measure(
    dispatcher: &Dispatcher,
    subjects: &[Subject],
    cell: Cell,
    settings: &Settings,
) -> Result<Measured> {
    let mut rows = Vec::new();
    let mut running = Vec::new();
    for subject in subjects {
        let name = &subject.name;
        let found = holding(dispatcher, subject, cell.flows(), settings);
        let (program, sent) = found.with_context(|| format!("{name}, {cell}"))?;
        rows.push(Row {
            cell,
            samples: Samples::default(),
            max_flows: program.max_flows(),
            evicted_share: None,
            keys: None,
            fault: None,
        });
        running.push((program, sent));
    }
    let empty = match cell {
        Cell::Flows(flows) => steady(dispatcher, &running, flows, &mut rows, settings)?,
        Cell::New => {
            drop(running);
            fresh(dispatcher, subjects, &mut rows, settings)?
        }
    };
    Ok(Measured { cell, empty, rows })
}

/// Loads `subject` with the least room that holds the flows, a power of two, and sends them
/// through it; returns it with the packets sent so far.
fn holding(
    dispatcher: &Dispatcher,
    subject: &Subject,
    flows: u32,
    settings: &Settings,
) -> Result<(Running, u64)> {
    let least = flows.max(DEFAULT_MAX_FLOWS);
    let mut capacity = settings.max_flows.unwrap_or(least);
    loop {
        let running = subject.load(capacity)?;
        let send = || dispatcher.run(Some(running.fd()), flows, FIRST_ORDER, flows);
        let evicted = drained(&[&running], settings, || {
            send()?; // every flow is new
            let before = running.evicted();
            send()?;
            Ok(running.evicted() - before)
        })?;
        let sent = 2 * u64::from(flows);
        let holds = evicted as f64 <= HOLDS_SHARE * f64::from(flows)
            && running.verify(sent, flows).fault.is_none();
        if holds || settings.max_flows.is_some() || capacity >= least << DOUBLINGS {
            return Ok((running, sent));
        }
        capacity *= 2;
    }
}

/// Rounds over programs that know all flows; returns the samples of the empty one.
fn steady(
    dispatcher: &Dispatcher,
    running: &[(Running, u64)],
    flows: u32,
    rows: &mut [Row],
    settings: &Settings,
) -> Result<Samples> {
    let packets = settings.packets.max(flows);
    let warm_up = WARM_UP.max(flows);
    let mut empty = Samples::default();
    let mut evicted = vec![0; running.len()];
    let programs: Vec<_> = running.iter().map(|(program, _)| program).collect();
    drained(&programs, settings, || {
        for _ in 0..settings.rounds {
            dispatcher.run(None, flows, LATER_ORDER, warm_up)?;
            empty.push(dispatcher.run(None, flows, LATER_ORDER, packets)?);
            for (i, program) in programs.iter().enumerate() {
                // The other programs have had the caches meanwhile.
                dispatcher.run(Some(program.fd()), flows, LATER_ORDER, warm_up)?;
                let before = program.evicted();
                let sample = dispatcher.run(Some(program.fd()), flows, LATER_ORDER, packets)?;
                rows[i].samples.push(sample);
                evicted[i] += program.evicted() - before;
            }
        }
        Ok(())
    })?;
    let rounds = u64::from(settings.rounds);
    let timed = rounds * u64::from(packets);
    for (i, (program, sent)) in running.iter().enumerate() {
        let sent = sent + rounds * u64::from(warm_up) + timed;
        rows[i].conclude(program, sent, flows, evicted[i] as f64 / timed as f64);
    }
    Ok(empty)
}

/// Rounds over programs that are loaded afresh for each; returns the samples of the empty one.
fn fresh(
    dispatcher: &Dispatcher,
    subjects: &[Subject],
    rows: &mut [Row],
    settings: &Settings,
) -> Result<Samples> {
    let mut empty = Samples::default();
    for _ in 0..settings.rounds {
        empty.push(dispatcher.run(None, NEW_FLOWS, FIRST_ORDER, NEW_FLOWS)?);
        for (subject, row) in subjects.iter().zip(&mut *rows) {
            let program = subject.load(row.max_flows.unwrap_or(NEW_FLOWS))?;
            let sample = drained(&[&program], settings, || {
                dispatcher.run(Some(program.fd()), NEW_FLOWS, FIRST_ORDER, NEW_FLOWS)
            })?;
            row.samples.push(sample);
            let evicted = program.evicted() as f64 / f64::from(NEW_FLOWS);
            row.conclude(&program, u64::from(NEW_FLOWS), NEW_FLOWS, evicted);
        }
    }
    Ok(empty)
}

/// Runs `work` while another CPU empties the programs' rings.
fn drained<T>(
    programs: &[&Running],
    settings: &Settings,
    work: impl FnOnce() -> Result<T>,
) -> Result<T> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let drainer = scope.spawn(|| drain(programs, settings, &stop));
        let done = work();
        stop.store(true, Ordering::Release);
        let drainer = drainer.join();
        drainer.unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        done
    })
}

fn drain(programs: &[&Running], settings: &Settings, stop: &AtomicBool) -> Result<()> {
    settle(settings.drain_cpu, settings.nice)?;
    let mut builder = RingBufferBuilder::new();
    let mut buffers = false;
    for map in programs.iter().filter_map(|p| p.ring_buffers()) {
        for map in map.ring_buffers() {
            builder.add(map, |_| 0)?;
            buffers = true;
        }
    }
    let buffers = buffers.then(|| builder.build()).transpose()?;
    while !stop.load(Ordering::Acquire) {
        let mut parts = 0;
        for program in programs {
            parts += program.meter().map_or(0, Meter::drain);
        }
        if let Some(buffers) = &buffers {
            parts += u64::from(buffers.consume_raw().unsigned_abs());
        }
        if parts == 0 {
            thread::sleep(DRAIN_PAUSE);
        }
    }
    Ok(())
}

impl Row {
    /// What the program says after its runs. The first fault stays.
    fn conclude(&mut self, program: &Running, sent: u64, flows: u32, evicted_share: f64) {
        self.evicted_share = program.meter().map(|_| evicted_share);
        let verdict = program.verify(sent, flows);
        self.keys = verdict.keys;
        self.fault = self.fault.take().or(verdict.fault);
    }

    /// The fastest rounds.
    pub(crate) fn min(&self) -> Option<f64> {
        self.samples.of(min)
    }

    /// The rounds in the middle.
    pub(crate) fn median(&self) -> Option<f64> {
        self.samples.of(median)
    }
}

/// What is made of the times of all rounds.
pub(crate) type Choose = fn(&[f64]) -> Option<f64>;

/// Times of one program in one cell: the slices of each round.
///
/// Other guests of the host slow a program down for some milliseconds or seconds. Rounds are
/// therefore compared slice by slice: the same packets in the same place of the run. What is said
/// of a program is the mean over its slices, so that no part of a run is favoured: neither the
/// start, when a table is empty, nor the end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Samples {
    rounds: Vec<Vec<f64>>,
}

impl Samples {
    /// Adds a round.
    pub(crate) fn push(&mut self, slices: Vec<f64>) {
        self.rounds.push(slices);
    }

    /// The mean over the slices of what `choose` makes of each slice's rounds.
    pub(crate) fn of(&self, choose: Choose) -> Option<f64> {
        let slices = self.rounds.iter().map(Vec::len).min()?;
        let mut sum = 0.0;
        for slice in 0..slices {
            let rounds: Vec<_> = self.rounds.iter().map(|round| round[slice]).collect();
            sum += choose(&rounds)?;
        }
        (slices != 0).then(|| sum / slices as f64)
    }
}

/// The smallest of some times.
pub(crate) fn min(times: &[f64]) -> Option<f64> {
    times.iter().copied().min_by(f64::total_cmp)
}

/// The median of some times; the mean of two where their number is even.
pub(crate) fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let upper = *sorted.get(middle)?;
    if sorted.len() % 2 == 1 {
        Some(upper)
    } else {
        Some(f64::midpoint(sorted[middle - 1], upper))
    }
}

impl Cell {
    /// Flows in it.
    pub(crate) fn flows(self) -> u32 {
        match self {
            Self::Flows(flows) => flows,
            Self::New => NEW_FLOWS,
        }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flows(flows) => flows.fmt(f),
            Self::New => f.pad("new"),
        }
    }
}

impl FromStr for Cell {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "new" {
            return Ok(Self::New);
        }
        match text.parse::<u32>() {
            Ok(flows) if flows.is_power_of_two() && flows <= MAX_FLOWS => Ok(Self::Flows(flows)),
            _ => Err(format!(
                "want `new` or a power of two up to {MAX_FLOWS}, not `{text}`"
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn median_of_odd_even_and_none() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
        assert_eq!(min(&[3.0, 1.0, 2.0]), Some(1.0));
    }

    #[test]
    fn slices_are_compared_with_themselves() {
        let mut samples = Samples::default();
        assert_eq!(samples.of(min), None);
        samples.push(vec![1.0, 20.0]);
        samples.push(vec![5.0, 10.0]);
        assert_eq!(samples.of(min), Some(5.5));
        assert_eq!(samples.of(median), Some(9.0));
    }

    #[test]
    fn cells_parse() {
        assert_eq!("new".parse(), Ok(Cell::New));
        assert_eq!("4096".parse(), Ok(Cell::Flows(4096)));
        for bad in ["", "0", "3", "old", "33554432"] {
            assert!(bad.parse::<Cell>().is_err(), "{bad}");
        }
    }
}
