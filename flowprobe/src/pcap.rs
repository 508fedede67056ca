//! `flowprobe pcap`: the stages put together for captures, from the first file to the last record.
//!
//! One thread reads and meters. It waits for the exporter where a queue is full, which live
//! metering never does: a file can wait.

pub mod capture;
mod error;
mod input;
pub mod link;
mod merged;
mod meter;
mod packed;
pub mod progress;
mod summary;
mod time;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use flowprobe_ebpf::Tunnels;
use tokio::sync::oneshot;

use self::{
    capture::{Capture, CaptureError, Captured, Problem},
    input::Input,
    meter::{Counted, Figures, Meter},
    progress::Progress,
};
pub use self::{
    error::PcapError,
    summary::{FileSummary, Summary},
};
use crate::{
    clock::Clock,
    export::{self, Exporter, Telemetry},
    load::random_words,
    record::FlowRecord,
    run::ending::{Signals, SummaryFile, each_second, give_up, nobody_reads, send_rest},
    sampling::{Rates, Sampling},
    table::{
        Emitter, LocalTable, Pairing, Patience, Timeouts,
        emit::{BATCH, Exported, Sink},
        fragments::Fragments,
    },
};

/// Records that wait for each destination until reading waits for it.
pub const QUEUE: usize = 65_536;
// A batch that never fits would be waited for without end.
const _: () = assert!(BATCH <= QUEUE);

/// What to read, and what to make of it.
#[derive(Debug)]
pub struct Settings {
    /// Captures; `-` is standard input.
    pub files: Vec<PathBuf>,
    /// Whether their packets are merged by time. Otherwise one is read after the other.
    pub merge: bool,
    /// Which tunnels to open.
    pub tunnels: Tunnels,
    /// Flows in the table.
    pub max_flows: u32,
    /// How long flows are kept.
    pub timeouts: Timeouts,
    /// What becomes of the records.
    pub export: export::Settings,
    /// Where to write the summary.
    pub summary: Option<PathBuf>,
}

/// Meters captures until the end of the last one, or until a signal.
///
/// # Errors
/// See [`PcapError`].
pub async fn pcap(settings: Settings) -> Result<Summary, PcapError> {
    let reading = Reading::start(settings)?;
    reading.finish().await
}

/// What takes the packets of captures.
pub(crate) trait Take {
    /// Takes one.
    fn take(&mut self, captured: &Captured<'_>);
    /// The next packet may be long in coming.
    fn waits(&mut self) {}
}

/// Captures that are opened, and those that will be.
pub(crate) struct Captures {
    /// All that are merged, or the one that comes first.
    opened: Vec<Capture<Input>>,
    rest: Vec<PathBuf>,
    stop: Arc<AtomicBool>,
    /// Octets read.
    octets: Arc<AtomicU64>,
}

impl Captures {
    /// Opens the first one, and looks at the heads of the others where that takes nothing away.
    pub(crate) fn open(files: Vec<PathBuf>, stop: &Arc<AtomicBool>) -> Result<Self, PcapError> {
        check(&files)?;
        for path in input::regular(&files) {
            open(path, stop, &Arc::default())?;
        }
        let octets = Arc::default();
        let mut rest = files.into_iter();
        let first = rest.next().ok_or(PcapError::Nothing)?;
        Ok(Self {
            opened: vec![open(&first, stop, &octets)?],
            rest: rest.collect(),
            stop: Arc::clone(stop),
            octets,
        })
    }

    /// Opens them all, to merge them.
    fn open_all(files: &[PathBuf], stop: &Arc<AtomicBool>) -> Result<Self, PcapError> {
        check(files)?;
        let octets = Arc::default();
        let opened = files.iter().map(|path| open(path, stop, &octets));
        Ok(Self {
            opened: opened.collect::<Result<_, _>>()?,
            rest: Vec::new(),
            stop: Arc::clone(stop),
            octets,
        })
    }

    /// Reads them all. One that cannot be read to its end does not keep the others from it.
    pub(crate) fn read(self, to: &mut impl Take) -> Vec<FileSummary> {
        let mut files = match self.opened.len() {
            1 => Vec::new(),
            _ => return merged::read(self.opened.into_iter(), to, &self.stop),
        };
        for capture in self.opened {
            files.push(read(capture, to, &self.stop));
        }
        for path in self.rest {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            files.push(match open(&path, &self.stop, &self.octets) {
                Ok(capture) => read(capture, to, &self.stop),
                Err(error) => FileSummary::unread(&error),
            });
        }
        files
    }
}

/// Whether captures are given that can all be read.
fn check(files: &[PathBuf]) -> Result<(), PcapError> {
    match files.iter().filter(|path| input::is_stdin(path)).count() {
        _ if files.is_empty() => Err(PcapError::Nothing),
        0 | 1 => Ok(()),
        _ => Err(PcapError::Twice),
    }
}

fn open(
    path: &Path,
    stop: &Arc<AtomicBool>,
    octets: &Arc<AtomicU64>,
) -> Result<Capture<Input>, CaptureError> {
    let name = input::name(path);
    match input::open(path, stop, octets) {
        Ok(input) => Capture::open(&name, input),
        Err(error) => Err(CaptureError {
            name,
            problem: Problem::Open(error),
        }),
    }
}

/// Reads one capture.
fn read(mut capture: Capture<Input>, to: &mut impl Take, stop: &AtomicBool) -> FileSummary {
    tracing::info!("metering {} ({})", capture.name(), capture.format());
    let mut file = FileSummary::new(capture.name(), capture.format());
    let may_wait = input::may_wait(capture.input());
    while !stop.load(Ordering::Relaxed) {
        capture.each(|captured| {
            to.take(captured);
            file.count(captured);
        });
        let waits = || {
            if may_wait {
                to.waits();
            }
        };
        match capture.next(waits) {
            Ok(Some(captured)) => {
                to.take(&captured);
                file.count(&captured);
            }
            Ok(None) => break,
            // Broken off in the middle of a packet.
            Err(_) if stop.load(Ordering::Relaxed) => break,
            Err(error) => {
                file.fail(&error);
                break;
            }
        }
    }
    file.warn();
    file
}

/// Hands records to the exporter as soon as all destinations have room for them.
struct Patient {
    exporter: Arc<Exporter>,
    given_up: Arc<AtomicBool>,
}

impl Sink for Patient {
    fn take(&self, records: Vec<FlowRecord>) {
        /// How often to ask again: senders must not pay for a wake-up that nobody else needs.
        const PAUSE: Duration = Duration::from_millis(1);
        /// Pacing alone makes nobody wait for as long.
        const LONG: Duration = Duration::from_secs(10);
        let start = Instant::now();
        let mut said = false;
        while self.exporter.room() < records.len() && !self.given_up.load(Ordering::Relaxed) {
            thread::sleep(PAUSE);
            if !said && start.elapsed() > LONG {
                tracing::warn!("no room in the queue to a destination: reading waits for it");
                said = true;
            }
        }
        self.exporter.send(records);
    }
}

/// Everything that is at work while captures are metered.
struct Reading {
    max_flows: u32,
    summary: Option<SummaryFile>,
    exported: Arc<Exported>,
    exporter: Arc<Exporter>,
    signals: Signals,
    figures: Arc<Figures>,
    progress: Option<Progress>,
    /// Reading ends.
    stop: Arc<AtomicBool>,
    /// Records that were not sent yet are given up.
    given_up: Arc<AtomicBool>,
    done: oneshot::Receiver<(Counted, Vec<FileSummary>)>,
}

impl Reading {
    /// Opens what can be opened, starts the exporter, and last of all the thread that reads.
    fn start(settings: Settings) -> Result<Self, PcapError> {
        let stop = Arc::new(AtomicBool::new(false));
        let captures = match settings.merge {
            true => Captures::open_all(&settings.files, &stop)?,
            false => Captures::open(settings.files.clone(), &stop)?,
        };
        let prints = settings.export.output.is_some();
        let progress = Progress::new(&settings.files, &captures.octets, prints);
        let summary = settings.summary.map(SummaryFile::create).transpose()?;
        let secret = random_words().map_err(PcapError::Start)?;
        let table = LocalTable::new(settings.max_flows, settings.timeouts.into(), secret);
        let figures = Arc::new(Figures::default());
        let telemetry = Arc::clone(&figures) as Arc<dyn Telemetry>;
        let exporter = Arc::new(Exporter::start(&settings.export, telemetry)?);
        let pairing = settings.export.content.biflows.then(|| {
            let patience = Patience::exact(&settings.timeouts);
            Pairing::new(patience, settings.max_flows as usize)
        });
        let exported = Arc::new(Exported::in_biflows(pairing));
        let given_up = Arc::new(AtomicBool::new(false));
        let patient = Patient {
            exporter: Arc::clone(&exporter),
            given_up: Arc::clone(&given_up),
        };
        let emitter = Emitter::new(
            Arc::new(Clock::time_of_day()),
            Arc::clone(&exported),
            Arc::new(patient),
            Arc::new(Rates::of(Sampling::All)),
        );
        let fragments = Fragments::new(secret);
        let counted = Arc::clone(&figures);
        let mut meter = Meter::new(settings.tunnels, fragments, table, emitter, counted);
        let signals = Signals::new().map_err(PcapError::Start)?;
        let (tell, done) = oneshot::channel();
        let read = move || {
            let files = captures.read(&mut meter);
            meter.finish();
            // Nobody listens any more if the main thread has panicked.
            drop(tell.send((meter.close(), files)));
        };
        spawn("reader", read).map_err(PcapError::Start)?;
        Ok(Self {
            max_flows: settings.max_flows,
            summary,
            exported,
            exporter,
            signals,
            figures,
            progress,
            stop,
            given_up,
            done,
        })
    }

    /// Waits for the end of the last capture. A signal breaks it off; a second one gives up what
    /// the exporter has not taken yet. `None` if the reader broke off.
    async fn wait(&mut self) -> Option<(Counted, Vec<FileSummary>)> {
        let mut second = each_second();
        loop {
            tokio::select! {
                counted = &mut self.done => return counted.ok(),
                () = self.signals.any() => {
                    if self.stop.swap(true, Ordering::Relaxed) {
                        give_up(&self.given_up);
                    }
                }
                _ = second.tick() => {
                    if let Some(progress) = &mut self.progress {
                        progress.show(self.figures.packets());
                    }
                    if !self.stop.load(Ordering::Relaxed) && nobody_reads(&self.exporter) {
                        self.stop.store(true, Ordering::Relaxed);
                    }
                }
            }
        }
    }

    /// Sends what is left, and says what became of all packets.
    async fn finish(mut self) -> Result<Summary, PcapError> {
        let counted = self.wait().await;
        self.progress = None;
        let Self {
            exporter,
            mut signals,
            given_up,
            ..
        } = self;
        let reports = send_rest(exporter, &mut signals, given_up).await;
        let (counted, files) = counted.ok_or(PcapError::Broken("reader"))?;
        let reports = reports.ok_or(PcapError::Broken("exporter"))?;
        let summary = Summary::new(self.max_flows, &counted, &self.exported, files, reports);
        summary.print();
        if let Some(file) = self.summary {
            file.write(&summary)?;
        }
        match summary.failed() {
            0 => Ok(summary),
            failed => Err(PcapError::Incomplete {
                failed,
                of: summary.files.len(),
            }),
        }
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let thread = thread::Builder::new().name(name.to_owned()).spawn(run);
    thread.map(drop)
}
