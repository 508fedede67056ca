//! One collector: gets the files one after the other, and again from where a session broke off.

mod wait;

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use super::{inspect::Contents, summary::Outcome};
use crate::{
    encode::Fit,
    export::{Link, Now, pace::Pacer},
    ipfix_file::{Filled, Framer, ReadError, Reframe, sum},
    record::Volume,
};

/// How long a collector is waited for that cannot be reached, or takes nothing.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often it is asked, and how long an ICMP error may take.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// Between looks at what takes its time.
const TICK: Duration = Duration::from_millis(1);
/// Datagrams that an ICMP error may still be about; errors arrive within a round trip.
const WINDOW: usize = 1024;
/// Tells messages apart: their header, and that of their first set.
const HEAD: usize = 20;
/// A router has refused a message.
const NARROWER: &str =
    "the path takes shorter messages than it seemed to: replay again, or with a smaller --mtu";
/// Data records that go out at once at most, see [`Pacer`]: those of a message of 64 KiB.
const BURST: usize = 1000;

/// What a collector is to get, and how.
pub(super) struct Plan {
    pub(super) name: String,
    pub(super) max_octets: u16,
    pub(super) template_refresh: Duration,
    pub(super) export_rate: u32,
    pub(super) contents: Arc<Contents>,
    pub(super) stop: Arc<AtomicBool>,
}

/// How much of the files is dealt with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    /// Index of a file.
    file: usize,
    /// Data records of it.
    data_records: u64,
}

/// A message that may still be lost.
struct Sent {
    head: [u8; HEAD],
    octets: usize,
    domain: u32,
    data_records: u32,
    flows: Volume,
    /// Data records passed over since the message before.
    too_large: u64,
    /// Up to where all is dealt with once it has arrived.
    to: Position,
}

/// Why it does not go on.
enum Ended {
    /// The session broke; there may be another.
    Broken(io::Error),
    /// The session has lasted long enough: another one follows.
    Due,
    /// The collector does not come back.
    Away(io::Error),
    /// A file is not what it was when all were read before.
    File(ReadError),
    /// A signal.
    Asked,
}

impl From<ReadError> for Ended {
    fn from(error: ReadError) -> Self {
        Self::File(error)
    }
}

/// Sends the files to one collector.
pub(super) struct Target {
    link: Box<dyn Link + Send>,
    plan: Plan,
    sessions: bool,
    /// Whether no message of a session is lost, so that templates need not be said again.
    reliable: bool,
    framer: Framer,
    pacer: Pacer,
    refresh_at: Instant,
    in_flight: VecDeque<Sent>,
    /// Messages of this session that have arrived.
    acknowledged: u64,
    /// Data records passed over since the last message.
    too_large: u64,
    /// Up to where all is dealt with.
    settled: Position,
    /// When something was last taken or acknowledged.
    progress_at: Instant,
    outcome: Outcome,
}

impl Target {
    pub(super) fn new(link: Box<dyn Link + Send>, plan: Plan) -> Self {
        let now = Instant::now();
        let (sessions, reliable) = (link.has_sessions(), link.is_reliable());
        Self {
            link,
            sessions,
            reliable,
            framer: Framer::new(plan.max_octets, reliable),
            pacer: Pacer::new(plan.export_rate, BURST, now),
            refresh_at: now,
            in_flight: VecDeque::new(),
            acknowledged: 0,
            too_large: 0,
            settled: Position::default(),
            progress_at: now,
            outcome: Outcome {
                collector: plan.name.clone(),
                ..Outcome::default()
            },
            plan,
        }
    }

    /// Sends all of it, and says what became of it.
    pub(super) fn run(mut self) -> Outcome {
        self.progress_at = Instant::now();
        let ended = self.send_all();
        let patience = match ended {
            Ok(()) => PATIENCE,
            Err(_) => PROBE_EVERY,
        };
        if let Err(error) = self.link.close(Instant::now() + patience) {
            tracing::debug!(collector = self.plan.name, %error, "the session did not end in order");
        }
        self.take_acknowledged();
        if !self.sessions {
            self.settle(self.in_flight.len());
        }
        let mut outcome = self.outcome;
        outcome.too_large += self.too_large;
        let done = outcome.data_records() + outcome.undelivered + outcome.too_large;
        outcome.not_sent = self.plan.contents.data_records().saturating_sub(done);
        outcome.error = ended.err().map(|ended| match ended {
            Ended::Broken(error) | Ended::Away(error) => error.to_string(),
            Ended::File(error) => format!("changed while it was sent: {error}"),
            Ended::Asked | Ended::Due => "stopped by a signal".to_owned(),
        });
        outcome
    }

    fn send_all(&mut self) -> Result<(), Ended> {
        loop {
            self.connect()?;
            match self.session() {
                Err(Ended::Broken(error)) if self.progress_at.elapsed() < PATIENCE => {
                    let collector = &self.plan.name;
                    tracing::warn!(
                        collector,
                        %error,
                        "session broke: what has not arrived is sent again"
                    );
                    self.take_acknowledged();
                }
                Err(Ended::Due) => {}
                ended => return ended,
            }
            self.in_flight.clear();
            self.acknowledged = 0;
            self.too_large = 0;
        }
    }

    /// Brings up a session, where there are any.
    fn connect(&mut self) -> Result<(), Ended> {
        let mut said = false;
        loop {
            let error = match self.link.open(Instant::now()) {
                Ok(true) => return Ok(()),
                Ok(false) => None,
                Err(error) => Some(error),
            };
            let collector = &self.plan.name;
            if let (Some(error), false) = (&error, said) {
                tracing::warn!(collector, %error, "collector cannot be reached: it is waited for");
                said = true;
            }
            if self.progress_at.elapsed() >= PATIENCE {
                return Err(Ended::Away(error.unwrap_or(ErrorKind::TimedOut.into())));
            }
            self.pause(if error.is_some() { PROBE_EVERY } else { TICK })?;
        }
    }

    /// Sends what is not settled.
    fn session(&mut self) -> Result<(), Ended> {
        // RFC 7011 §10.3.3.
        let path = self.link.path_octets().unwrap_or(u16::MAX);
        self.framer = Framer::new(self.plan.max_octets.min(path), self.reliable);
        self.refresh_at = Instant::now() + self.plan.template_refresh;
        let contents = Arc::clone(&self.plan.contents);
        let from = self.settled;
        for (file, path) in contents.files.iter().enumerate().skip(from.file) {
            let skip = if file == from.file {
                from.data_records
            } else {
                0
            };
            let mut reframe = Reframe::open(path)?.from(skip);
            loop {
                let before = reframe.unsendable();
                let filled = reframe.fill(&mut self.framer)?;
                self.too_large += reframe.unsendable() - before;
                let data_records = reframe.data_records();
                self.flush(Position { file, data_records })?;
                if filled == Filled::End {
                    break;
                }
            }
        }
        self.wait_for_the_last()
    }

    /// Sends the message at hand, if there is anything in it, and templates when they are due
    /// (RFC 7011 §8.4).
    fn flush(&mut self, to: Position) -> Result<(), Ended> {
        if self.framer.is_empty() {
            return Ok(());
        }
        self.deliver(to)?;
        if self.sessions && self.link.is_due(Instant::now()) {
            self.wait_for_the_last()?;
            let closed = self.link.close(Instant::now() + PROBE_EVERY);
            closed.map_err(Ended::Broken)?;
            return Err(Ended::Due);
        }
        if self.reliable || Instant::now() < self.refresh_at {
            return Ok(());
        }
        self.framer.refresh();
        loop {
            let fit = self.framer.announce();
            if !self.framer.is_empty() {
                self.deliver(to)?;
            }
            if fit != Fit::Full {
                self.refresh_at = Instant::now() + self.plan.template_refresh;
                return Ok(());
            }
        }
    }

    /// Sends the message at hand.
    fn deliver(&mut self, to: Position) -> Result<(), Ended> {
        let data_records = self.framer.data_records();
        // A message may have more records than the bucket holds; then it is overdrawn.
        let ready_at = self.pacer.ready_at(BURST.min(data_records as usize));
        self.pause(ready_at.saturating_duration_since(Instant::now()))?;
        let export_time_s = loop {
            self.listen()?;
            // RFC 7011 §3.1: when it leaves.
            let export_time_s = Now::read().stamp().unix_s();
            let message = self.framer.message(export_time_s);
            let error = match self.link.send(message) {
                Ok(()) => break export_time_s,
                Err(error) => error,
            };
            match error.raw_os_error() {
                Some(libc::ENOBUFS | libc::ENOMEM) => self.wait_for_room()?,
                _ if error.kind() == ErrorKind::WouldBlock => self.wait_for_room()?,
                _ if self.sessions => return Err(Ended::Broken(error)),
                Some(libc::EMSGSIZE) => {
                    let error = io::Error::new(error.kind(), NARROWER);
                    return Err(Ended::Away(error));
                }
                _ => self.wait_for_collector(error)?,
            }
        };
        let message = self.framer.message(export_time_s);
        self.in_flight.push_back(Sent {
            head: head(message),
            octets: message.len(),
            domain: self.framer.domain(),
            data_records,
            flows: self.framer.volume(),
            too_large: std::mem::take(&mut self.too_large),
            to,
        });
        self.framer.commit();
        self.pacer.spend(data_records as usize, Instant::now());
        if !self.sessions {
            self.progress_at = Instant::now();
            self.settle(self.in_flight.len().saturating_sub(WINDOW));
        }
        Ok(())
    }

    /// Takes in what has arrived, and what has not.
    fn listen(&mut self) -> Result<(), Ended> {
        if self.plan.stop.load(Ordering::Relaxed) {
            return Err(Ended::Asked);
        }
        if self.sessions {
            self.link.flush().map_err(Ended::Broken)?;
            self.take_acknowledged();
            return Ok(());
        }
        match self.take_undelivered() {
            Some(error) => self.wait_for_collector(error),
            None => Ok(()),
        }
    }

    fn take_acknowledged(&mut self) {
        if !self.sessions {
            return;
        }
        let arrived = self.link.acknowledged();
        let more = arrived.saturating_sub(self.acknowledged);
        if more > 0 {
            self.acknowledged = arrived;
            self.progress_at = Instant::now();
            self.settle(more as usize);
        }
    }

    /// The oldest `messages` have arrived, as far as can be known.
    fn settle(&mut self, messages: usize) {
        let messages = messages.min(self.in_flight.len());
        for sent in self.in_flight.drain(..messages) {
            let outcome = &mut self.outcome;
            outcome.messages += 1;
            outcome.wire_octets += sent.octets as u64;
            outcome.too_large += sent.too_large;
            outcome.flows = sum(outcome.flows, sent.flows);
            if sent.data_records > 0 {
                *outcome.domains.entry(sent.domain).or_default() += u64::from(sent.data_records);
            }
            // Templates of a new session come before what was settled in the one before.
            self.settled = self.settled.max(sent.to);
        }
    }

    /// Takes out the datagrams that did not arrive; returns the last reason.
    fn take_undelivered(&mut self) -> Option<io::Error> {
        let mut last = None;
        while let Some(report) = self.link.undelivered() {
            let quoted = report.quote.first_chunk::<HEAD>();
            let at = match quoted {
                Some(quoted) => self.in_flight.iter().rposition(|sent| sent.head == *quoted),
                // RFC 792: routers need not return more than the UDP header.
                None => self.in_flight.len().checked_sub(1),
            };
            if let Some(sent) = at.and_then(|at| self.in_flight.remove(at)) {
                self.outcome.undelivered += u64::from(sent.data_records);
                self.outcome.too_large += sent.too_large;
            }
            last = Some(report.error);
        }
        last
    }
}

/// The first octets of a message; a message that is sent has a set.
fn head(message: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let octets = message.len().min(HEAD);
    head[..octets].copy_from_slice(&message[..octets]);
    head
}
