//! How every kind of run ends: by a signal or by itself, with all records sent or given up, and
//! with a summary.

use std::{
    fs::File,
    io::{self, Write as _},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use serde::Serialize;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    time::{Interval, MissedTickBehavior, interval},
};

use crate::export::{DestinationReport, Exporter};

/// What ends the run in order.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// Waits for either.
    pub(crate) async fn any(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Sends what is left, as long as the export rate makes it, until another signal or until
/// `given_up` is set, and says what became of all records; `None` if a thread that broke off has
/// kept the exporter.
pub(crate) async fn send_rest(
    exporter: Arc<Exporter>,
    signals: &mut Signals,
    given_up: Arc<AtomicBool>,
) -> Option<Vec<DestinationReport>> {
    let exporter = Arc::into_inner(exporter)?;
    let told = Arc::clone(&given_up);
    let sending = tokio::task::spawn_blocking(move || exporter.finish_unless(&told));
    tokio::pin!(sending);
    let reports = tokio::select! {
        reports = &mut sending => reports,
        () = signals.any() => {
            give_up(&given_up);
            sending.await
        }
    };
    reports.ok()
}

/// A second signal came.
pub(crate) fn give_up(given_up: &AtomicBool) {
    tracing::warn!("second signal: records that were not sent yet are given up");
    given_up.store(true, Ordering::Relaxed);
}

/// Whether all flows go to a pipe that has been closed, which is said then: the run has to end.
pub(crate) fn nobody_reads(exporter: &Exporter) -> bool {
    let is_closed = |report: &DestinationReport| {
        let mut reasons = report.dropped.iter().map(|(reason, _)| *reason);
        reasons.any(|reason| reason == "broken_pipe")
    };
    let nobody = exporter.reports().iter().all(is_closed);
    if nobody {
        tracing::info!("standard output is closed, and there is no collector: ending");
    }
    nobody
}

/// Ends after `duration`, or never.
pub(crate) async fn after(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}

/// Ticks for what a run looks after each second.
pub(crate) fn each_second() -> Interval {
    let mut second = interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    second
}

/// Why there is no summary.
#[derive(Debug, thiserror::Error)]
pub enum SummaryError {
    /// Before anything was metered.
    #[error("cannot create the summary {path}: {source}")]
    Create {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// At the end.
    #[error("cannot write the summary to {path}: {source}")]
    Write {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The file of `--summary`, made before anything is metered.
#[derive(Debug)]
pub(crate) struct SummaryFile {
    path: PathBuf,
    file: File,
}

impl SummaryFile {
    pub(crate) fn create(path: PathBuf) -> Result<Self, SummaryError> {
        match File::create(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(source) => Err(SummaryError::Create { path, source }),
        }
    }

    /// Writes it as JSON.
    pub(crate) fn write(self, summary: &impl Serialize) -> Result<(), SummaryError> {
        let Self { path, mut file } = self;
        let written = serde_json::to_writer_pretty(&mut file, summary).map_err(io::Error::from);
        written
            .and_then(|()| file.write_all(b"\n"))
            .map_err(|source| SummaryError::Write { path, source })
    }
}
