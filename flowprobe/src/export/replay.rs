//! `flowprobe replay`: sends what is in IPFIX files on to collectors.
//!
//! All files are read once before anything is sent, so that nothing of bad input goes out. Then
//! each collector has a thread that reads the files by itself: one that is slow or away does not
//! hold up the others.
//!
//! Messages are made anew. Domains, template ids, the order of records and every octet of them
//! stay; export time and sequence numbers are those of the new session, and a message has as many
//! records as the collector's transport takes.

mod error;
mod inspect;
mod summary;
mod target;
#[cfg(test)]
mod tests;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

pub use self::{error::ReplayError, summary::ReplaySummary};
use self::{
    inspect::{Contents, inspect},
    summary::Outcome,
    target::{Plan, Target},
};
use super::{Collector, ExportError, Format, Identity, Link, Ways};
use crate::{
    ipfix_file::Rotation,
    run::ending::{Signals, SummaryFile},
};

/// What to send, where, and how fast.
#[derive(Clone, Debug)]
pub struct ReplaySettings {
    /// IPFIX files, sent one after the other.
    pub files: Vec<PathBuf>,
    /// Each gets all of it.
    pub collectors: Vec<Collector>,
    /// Who is who in secure transports, where a collector does not say.
    pub identity: Identity,
    /// Octets of the largest packet: message, UDP and IP header.
    pub mtu: u16,
    /// How often templates are sent again where there are no sessions (RFC 7011 §8.4).
    pub template_refresh: Duration,
    /// Data records a second to each collector; 0 is as fast as it takes them.
    pub export_rate: u32,
    /// Where to write the summary.
    pub summary: Option<PathBuf>,
}

/// Sends files to collectors, until all is sent or a signal comes.
///
/// # Errors
/// See [`ReplayError`].
pub async fn replay(settings: ReplaySettings) -> Result<ReplaySummary, ReplayError> {
    let contents = Arc::new(inspect(&settings.files)?);
    let summary = settings.summary.clone().map(SummaryFile::create);
    let summary = summary.transpose()?;
    let mut signals = Signals::new().map_err(ReplayError::Start)?;
    let stop = Arc::new(AtomicBool::new(false));
    let targets = targets(&settings, &contents, &stop)?;
    let mut outcomes = Vec::new();
    for mut done in start(targets)? {
        let outcome = loop {
            tokio::select! {
                outcome = &mut done => break outcome,
                () = signals.any() => stop.store(true, Ordering::Relaxed),
            }
        };
        outcomes.push(outcome.map_err(|_| ReplayError::Broken)?);
    }
    let result = ReplaySummary::new(&settings.files, &contents, outcomes);
    result.print();
    if let Some(file) = summary {
        file.write(&result)?;
    }
    match result.missing() {
        0 => Ok(result),
        records => Err(ReplayError::Incomplete { records }),
    }
}

fn targets(
    settings: &ReplaySettings,
    contents: &Arc<Contents>,
    stop: &Arc<AtomicBool>,
) -> Result<Vec<Target>, ReplayError> {
    let target = |collector: &Collector| {
        let (link, max_octets) = link(collector, settings)?;
        let plan = Plan {
            name: collector.to_string(),
            max_octets,
            template_refresh: settings.template_refresh,
            export_rate: settings.export_rate,
            contents: Arc::clone(contents),
            stop: Arc::clone(stop),
        };
        Ok(Target::new(link, plan))
    };
    settings.collectors.iter().map(target).collect()
}

/// The way to a collector, and octets of the largest message on it.
fn link(
    collector: &Collector,
    settings: &ReplaySettings,
) -> Result<(Box<dyn Link + Send>, u16), ReplayError> {
    let format = collector.format().unwrap_or_default();
    if format != Format::Ipfix {
        return Err(ReplayError::Format(collector.to_string()));
    }
    if collector.template().is_some() {
        return Err(ReplayError::Template(collector.to_string()));
    }
    let ways = Ways {
        mtu: settings.mtu,
        identity: &settings.identity,
        rotation: Rotation::default(),
    };
    let link = ways.to(collector).map_err(|why| ExportError::Link {
        collector: collector.to_string(),
        why,
    })?;
    Ok((link, ways.message_octets(collector)))
}

/// Gives each target a thread, and returns where its outcome will be.
fn start(targets: Vec<Target>) -> Result<Vec<oneshot::Receiver<Outcome>>, ReplayError> {
    let spawn = |target: Target| {
        let (tell, done) = oneshot::channel();
        let thread = thread::Builder::new().name("replay".to_owned());
        // Nobody listens any more if the main thread has panicked.
        let thread = thread.spawn(move || drop(tell.send(target.run())));
        thread.map_err(ReplayError::Start)?;
        Ok(done)
    };
    targets.into_iter().map(spawn).collect()
}
