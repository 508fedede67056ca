//! `flowprobe experiment`: which sampling rate is enough for given traffic.
//!
//! One pass over the packets counts the truth, and shows each packet to all samplers beside it:
//! methods × rates × runs with different seeds. At the end each sampler's counters are scaled up
//! and compared with the truth, and what theory says stands beside.
//!
//! [`Experiment::see`] is all that a source of packets needs: captures, or an interface.

mod content;
mod csv;
mod error;
mod estimate;
mod html;
mod live;
mod method;
mod out;
mod plots;
mod report;
mod selector;
mod statistics;
mod svg;
mod terminal;
#[cfg(test)]
mod tests;
mod theory;
mod truth;

use std::{
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flowprobe_ebpf::{Frame, Parsed, Tunnels, hash::SECRET_WORDS, sampling::next_random};
use tokio::sync::oneshot;

use self::{
    content::content,
    estimate::evaluate,
    live::Live,
    out::Out,
    report::Pass,
    selector::{Bank, Design, Seen, derived},
    truth::{Flows, is_syn},
};
pub use self::{
    error::ExperimentError,
    estimate::Quantity,
    live::{LiveError, LiveOf},
    method::{Method, MethodError, Rate, RateError},
    report::{Answer, AnswerOf, Combination, Cost, DesignOf, Figure, Name, Report, TruthOf},
    statistics::{BoundKind, Summary},
    theory::{Theory, TheoryKind},
    truth::PrefixBits,
};
use crate::{
    load::random_words,
    pcap::{Captures, FileSummary, Take, capture::Captured, link::Link},
    run::ending::Signals,
    table::fragments::Fragments,
};

/// Most samplers: each takes 8 kB of bookkeeping at least, and a hash table.
const MAX_SAMPLERS: usize = 100_000;

/// What to compare.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where packets come from.
    pub source: Source,
    /// Which tunnels to open.
    pub tunnels: Tunnels,
    /// Methods, each once.
    pub methods: Vec<Method>,
    /// Rates, each once, from the densest to the rarest.
    pub rates: Vec<Rate>,
    /// Samplers of each method and rate; at least 1.
    pub runs: u32,
    /// What all random numbers come from; drawn if there is none.
    pub seed: Option<u64>,
    /// How many of the largest flows, prefixes and ports are compared.
    pub top: usize,
    /// What prefixes are.
    pub prefix_bits: PrefixBits,
    /// Length of the windows of method `time`, in nanoseconds.
    pub window_ns: u64,
    /// What the answer is about.
    pub error: Target,
    /// The error that it may have, as a ratio.
    pub within: f64,
    /// MiB that flows may take.
    pub max_memory_mib: u64,
    /// Directory for files.
    pub out: Option<PathBuf>,
}

/// Where packets come from.
#[derive(Clone, Debug)]
pub enum Source {
    /// Captures, read one after the other; `-` is standard input.
    Captures(Vec<PathBuf>),
    /// What an interface receives.
    Interface {
        /// Name.
        name: String,
        /// How long; without one, until a signal.
        duration: Option<Duration>,
    },
}

/// What the answer is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// All packets.
    Packets,
    /// All octets.
    Octets,
    /// Octets of the largest flows.
    Top,
    /// Octets of the largest prefixes.
    Prefix,
    /// Octets of the largest ports.
    Port,
    /// The number of flows.
    Flows,
}

/// Reads packets, compares, writes the files and prints the result. A signal ends the reading, and
/// the result is that of the packets before it; a second one gives it up.
///
/// # Errors
/// See [`ExperimentError`]. After one that is [`ExperimentError::Incomplete`] the result is
/// written and printed all the same.
pub async fn experiment(settings: Settings) -> Result<Report, ExperimentError> {
    check(&settings)?;
    let seed = match settings.seed {
        Some(seed) => seed,
        None => {
            let [seed] = random_words().map_err(ExperimentError::Seed)?;
            seed
        }
    };
    let stop = Arc::new(AtomicBool::new(false));
    let out = settings.out.as_deref().map(Out::new).transpose()?;
    let opened = Opened::open(&settings.source, &stop)?;
    let mut signals = Signals::new().map_err(ExperimentError::Start)?;
    let (tell, mut done) = oneshot::channel();
    let told = Arc::clone(&stop);
    let pass = move || {
        // Nobody listens any more after a second signal.
        drop(tell.send(pass(&settings, seed, opened, &stop)));
    };
    let reader = thread::Builder::new().name("reader".to_owned());
    reader.spawn(pass).map_err(ExperimentError::Start)?;
    let report = loop {
        tokio::select! {
            report = &mut done => break report.map_err(|_| ExperimentError::Broken)??,
            () = signals.any() => match told.swap(true, Ordering::Relaxed) {
                false => tracing::info!("comparing what was read so far; another signal gives it up"),
                true => return Err(ExperimentError::GivenUp),
            }
        }
    };
    if let Some(out) = out {
        out.write(&report)?;
    }
    print(&terminal::text(&report)).map_err(ExperimentError::Print)?;
    let failed = report.files.iter().filter(|file| file.failed()).count();
    let ended = report
        .live
        .as_ref()
        .is_some_and(|live| live.error.is_some());
    match (failed, ended) {
        (0, false) => Ok(report),
        (0, true) => Err(ExperimentError::Ended),
        (failed, _) => Err(ExperimentError::Incomplete {
            failed,
            of: report.files.len(),
        }),
    }
}

/// A source that could be opened.
enum Opened {
    Captures(Captures),
    Live(Live),
}

impl Opened {
    fn open(source: &Source, stop: &Arc<AtomicBool>) -> Result<Self, ExperimentError> {
        Ok(match source {
            Source::Captures(files) => Self::Captures(
                Captures::open(files.clone(), stop).map_err(ExperimentError::Capture)?,
            ),
            Source::Interface { name, duration } => Self::Live(Live::open(name, *duration)?),
        })
    }
}

/// What was read.
#[derive(Debug, Default)]
struct Origin {
    files: Vec<FileSummary>,
    live: Option<LiveOf>,
    /// A signal came before the end.
    cut_short: bool,
}

/// Reads all packets and compares.
fn pass(
    settings: &Settings,
    seed: u64,
    opened: Opened,
    stop: &Arc<AtomicBool>,
) -> Result<Report, ExperimentError> {
    let started = Instant::now();
    let mut experiment = Experiment::new(settings, seed, Arc::clone(stop));
    let mut origin = Origin::default();
    match opened {
        Opened::Captures(captures) => origin.files = captures.read(&mut experiment),
        Opened::Live(live) => origin.live = Some(live.read(&mut experiment, stop)),
    }
    let endless = matches!(settings.source, Source::Interface { duration: None, .. });
    origin.cut_short = stop.load(Ordering::Relaxed) && !endless;
    tracing::info!(
        "{} packets past {} samplers in {:.1} s; comparing",
        experiment.packets,
        experiment.samplers,
        started.elapsed().as_secs_f64()
    );
    experiment.finish(settings, origin)
}

/// What the command line cannot tell of one option alone.
fn check(settings: &Settings) -> Result<(), ExperimentError> {
    let (methods, rates) = (settings.methods.len(), settings.rates.len());
    let all = (methods * rates).saturating_mul(settings.runs as usize);
    if all > MAX_SAMPLERS {
        return Err(ExperimentError::TooMany {
            methods,
            rates,
            runs: settings.runs,
            all,
            most: MAX_SAMPLERS,
        });
    }
    Ok(())
}

/// To standard output; that nobody reads it any more is no error.
fn print(text: &str) -> io::Result<()> {
    let mut to = io::stdout().lock();
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

/// A pass over packets.
struct Experiment {
    tunnels: Tunnels,
    fragments: Fragments,
    /// Of the content hash.
    initialisers: [u32; 2],
    flows: Flows,
    bank: Bank,
    design: Design,
    seed: u64,
    top: usize,
    packets: u64,
    samplers: usize,
    ignored_packets: u64,
    /// First and latest stamp.
    span_ns: Option<(u64, u64)>,
    max_memory_mib: u64,
    /// Set to end reading, with `full`.
    stop: Arc<AtomicBool>,
    full: bool,
}

impl Take for Experiment {
    fn take(&mut self, captured: &Captured<'_>) {
        match captured.link {
            Ok(link) => self.see(link, captured, captured.ifindex, captured.at_ns),
            Err(_) => self.ignore(captured.at_ns),
        }
    }
}

impl Experiment {
    /// How often to look at the memory, in packets.
    const LOOK: u64 = 1 << 16;

    fn new(settings: &Settings, seed: u64, stop: Arc<AtomicBool>) -> Self {
        let [word, ..] = secret(seed, 102);
        let design = Design {
            methods: settings.methods.clone(),
            rates: settings.rates.clone(),
            runs: settings.runs,
            seed,
            window_ns: settings.window_ns,
        };
        Self {
            tunnels: settings.tunnels,
            fragments: Fragments::new(secret(seed, 101)),
            initialisers: [word as u32, (word >> 32) as u32],
            flows: Flows::new(secret(seed, 103), settings.prefix_bits),
            samplers: design.methods.len() * design.rates.len() * design.runs as usize,
            bank: Bank::new(&design),
            design,
            seed,
            top: settings.top,
            packets: 0,
            ignored_packets: 0,
            span_ns: None,
            max_memory_mib: settings.max_memory_mib,
            stop,
            full: false,
        }
    }

    /// Takes a packet of `link`. One without a time gets that of the latest packet before it.
    fn see<F: Frame + ?Sized>(&mut self, link: Link, frame: &F, ifindex: u32, at_ns: Option<u64>) {
        let Ok(parsed) = link.parse(frame, &self.tunnels) else {
            self.ignore(at_ns);
            return;
        };
        let at_ns = self.stamp(at_ns);
        let (first, latest) = self.span_ns.unwrap_or((at_ns, at_ns));
        self.span_ns = Some((first.min(at_ns), latest.max(at_ns)));
        // Before later fragments get ports that another observer may not know.
        let content = content(frame, &parsed, self.initialisers);
        self.count(parsed, ifindex, at_ns, content);
    }

    /// A frame that belongs to no flow takes its turn with the samplers, as in the kernel.
    fn ignore(&mut self, at_ns: Option<u64>) {
        self.ignored_packets += 1;
        self.bank.see_other(self.stamp(at_ns));
    }

    fn stamp(&self, at_ns: Option<u64>) -> u64 {
        at_ns.unwrap_or(self.span_ns.map_or(0, |(_, latest)| latest))
    }

    fn count(&mut self, mut parsed: Parsed, ifindex: u32, at_ns: u64, content: u64) {
        self.fragments.follow(&mut parsed, ifindex, at_ns);
        let flow = self.flows.count(&parsed, ifindex);
        self.bank.see(&Seen {
            flow,
            octets: parsed.packet.octets,
            at_ns,
            content,
            syn: is_syn(&parsed),
        });
        self.packets += 1;
        if self.packets.is_multiple_of(Self::LOOK) && !self.full {
            let octets = (self.flows.memory() + self.bank.memory()) as u64;
            self.full = octets >> 20 >= self.max_memory_mib;
            if self.full {
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }

    /// Compares all samplers with the truth.
    fn finish(self, settings: &Settings, origin: Origin) -> Result<Report, ExperimentError> {
        if self.full {
            return Err(ExperimentError::Memory {
                packets: self.packets,
                flows: self.flows.len(),
                samplers: self.samplers,
                limit_mib: self.max_memory_mib,
            });
        }
        if self.packets == 0 {
            return Err(ExperimentError::Nothing {
                packets: self.ignored_packets,
            });
        }
        let truth = self.flows.finish(self.top, self.ignored_packets);
        let rates = &self.design.rates;
        let mut outcomes: Vec<_> = self
            .design
            .methods
            .iter()
            .flat_map(|&method| rates.iter().map(move |&rate| (method, rate, Vec::new())))
            .collect();
        for sampler in self.bank.finish() {
            let (method, rate) = (sampler.method, rates[sampler.rate]);
            let outcome = evaluate(&truth, sampler, rate);
            let place = outcomes.iter_mut().find(|o| (o.0, o.1) == (method, rate));
            if let Some((_, _, runs)) = place {
                runs.push(outcome);
            }
        }
        let pass = Pass {
            truth,
            ignored_packets: self.ignored_packets,
            duration_ns: self.span_ns.map_or(0, |(first, latest)| latest - first),
            outcomes,
            origin,
        };
        Ok(Report::new(settings, self.seed, pass))
    }
}

/// Words that a hash is keyed with, from the seed.
fn secret(seed: u64, purpose: u64) -> [u64; SECRET_WORDS] {
    let mut state = derived(seed, purpose, 0);
    std::array::from_fn(|_| next_random(&mut state))
}
