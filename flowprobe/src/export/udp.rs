//! One collector over UDP (RFC 7011 §10.3): announces, paces, sends, and notices when nobody
//! is there.
//!
//! Each class of sampling is an observation domain: its messages, their sequence numbers and its
//! templates are its own. A change of its rate is told between the last record of the old rate and
//! the first one of the new.
//!
//! A collector that cannot be reached is asked once a second with a template; meanwhile the
//! flows wait in the queue. Messages that an ICMP error reports as undelivered have kept their
//! sequence numbers, so that the collector sees the gap, and count as dropped.

mod history;
pub(super) mod socket;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use self::wire::{Cause, Link, Stop, Wire};
use super::{
    Now, Settings,
    account::{Outlet, Run},
    announce::{Facts, Told},
    pace::Pacer,
};
use crate::ipfix::{Encoder, element, message::SET_HEADER};

/// A message that is not full waits no longer than this for more records.
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// How often a collector that does not answer is asked, and how long an ICMP error may take.
/// Kernels answer with at most one a second.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How long a full socket is tried before its message is dropped.
const BUSY_LIMIT: Duration = Duration::from_secs(1);
/// Between tries of a full socket.
const BUSY_WAIT: Duration = Duration::from_millis(1);
/// After the last message: time for its ICMP error to come back.
const LINGER: Duration = Duration::from_millis(100);
/// How often errors are looked for while nothing else is to do.
const LISTEN_EVERY: Duration = Duration::from_secs(1);
/// Messages before the other collectors have their turn.
const TURN: usize = 64;

/// What is known of the collector.
#[derive(Clone, Copy, Debug)]
enum Path {
    /// Nothing bad.
    Up,
    /// It could not be reached.
    Down {
        cause: Cause,
        /// When to ask next, or to take silence for an answer.
        next: Instant,
        /// Whether a question is out.
        asked: bool,
    },
}

/// How far the end has come.
#[derive(Clone, Copy, Debug)]
enum Ending {
    /// Not asked to end.
    No,
    /// What is queued goes out, until then.
    Flushing(Instant),
    /// All is sent; errors may still come in until then.
    Lingering(Instant),
}

/// Exports to one collector, in steps that never wait.
pub(super) struct Sender<L> {
    wire: Wire<L>,
    facts: Arc<Facts>,
    /// What the collector knows of each class.
    told: Vec<Told>,
    pacer: Pacer,
    template_refresh: Duration,
    /// Records of a message that is full for sure.
    full_message: usize,
    path: Path,
    busy_since: Option<Instant>,
    ending: Ending,
    /// Classes whose last statistics are sent.
    concluded: usize,
    /// A question asked at the end was answered with an error: nobody will come back.
    hopeless: bool,
}

impl<L: Link> Sender<L> {
    /// A sender with an encoder for each of the domains in `settings`, of which there is one.
    pub(super) fn new(
        link: L,
        encoders: Vec<Encoder>,
        outlet: Arc<Outlet>,
        facts: Arc<Facts>,
        settings: &Settings,
        now: Now,
    ) -> Self {
        let room = encoders[0].remaining() - SET_HEADER;
        let full_message = room / element::IPV4.record_length();
        Self {
            wire: Wire::new(link, encoders, outlet, now),
            facts,
            told: Told::of(&settings.domains, now.at),
            pacer: Pacer::new(settings.export_rate, full_message, now.at),
            template_refresh: settings.template_refresh,
            full_message,
            path: Path::Up,
            busy_since: None,
            ending: Ending::No,
            concluded: 0,
            hopeless: false,
        }
    }

    /// Does what is due. Returns when to come back, or none when all is done.
    pub(super) fn step(&mut self, now: Now, finish_by: Option<Instant>) -> Option<Instant> {
        self.wire.now = now;
        if let (Ending::No, Some(by)) = (self.ending, finish_by) {
            self.begin_to_end(by);
        }
        self.hear();
        match self.ending {
            Ending::Flushing(by) if now.at >= by => return self.abandon("shutdown"),
            Ending::Lingering(until) if now.at >= until => return None,
            Ending::Lingering(until) => return Some(until),
            _ => {}
        }
        if let Some(next) = self.ask() {
            return self.give_up_or(next);
        }
        match self.announce().and_then(|()| self.flows()) {
            Ok(next) => Some(next.min(self.announce_at()).min(now.at + LISTEN_EVERY)),
            Err(stop) => self.stopped(&stop),
        }
    }

    fn begin_to_end(&mut self, by: Instant) {
        self.ending = Ending::Flushing(by);
        if let Path::Down { next, .. } = &mut self.path {
            *next = self.wire.now.at; // one last question, now
        }
    }

    /// Takes in what the network reports of earlier datagrams.
    fn hear(&mut self) -> bool {
        let mut heard = false;
        while let Some(report) = self.wire.link.undelivered() {
            heard = true;
            let cause = Cause::of(&report.error);
            self.wire.blame(&report.quote, cause);
            if matches!(cause, Cause::Refused | Cause::Unreachable) {
                self.down(cause, &report.error);
            }
        }
        heard
    }

    /// The collector cannot be reached: ask again later.
    fn down(&mut self, cause: Cause, error: &io::Error) {
        match self.path {
            Path::Up => {
                let collector = self.wire.outlet.destination();
                tracing::warn!(%collector, %error, "collector cannot be reached: flows wait");
                self.wire.outlet.account().count_outage();
            }
            Path::Down { asked, .. } => {
                self.hopeless |= asked && matches!(self.ending, Ending::Flushing(_));
            }
        }
        self.path = Path::Down {
            cause,
            next: self.wire.now.at + PROBE_EVERY,
            asked: false,
        };
    }

    /// While the collector is away: asks for it, and returns when to come back. A template is
    /// the question, because it has no sequence number to lose.
    fn ask(&mut self) -> Option<Instant> {
        let Path::Down { cause, next, asked } = &mut self.path else {
            return None;
        };
        let now = self.wire.now.at;
        if now < *next {
            return Some(*next);
        }
        if *asked {
            let collector = self.wire.outlet.destination();
            tracing::info!(%collector, "collector can be reached again");
            self.path = Path::Up;
            // It may have restarted, and forgotten every template.
            for told in &mut self.told {
                told.again_at = now;
            }
            return None;
        }
        *asked = true;
        *next = now + PROBE_EVERY;
        let (cause, next) = (*cause, *next);
        if !self.wire.encoder().template(&element::IPV4) {
            unreachable!("MIN_OCTETS: every message holds a template");
        }
        if let Err(stop) = self.wire.flush() {
            self.wire.discard();
            self.hear();
            self.down(cause, &stop.error);
        }
        Some(next)
    }

    /// At the end, a collector that is away and does not come back is not waited for.
    fn give_up_or(&mut self, next: Instant) -> Option<Instant> {
        let Path::Down { cause, .. } = self.path else {
            return Some(next);
        };
        let nothing_waits = self.wire.outlet.account().queued().records == 0;
        let ending = matches!(self.ending, Ending::Flushing(_));
        if ending && (nothing_waits || self.hopeless) {
            return self.abandon(cause.label());
        }
        Some(next)
    }

    /// Drops what waits.
    fn abandon(&mut self, reason: &'static str) -> Option<Instant> {
        self.wire.outlet.account().close(reason, self.wire.now);
        None
    }

    /// When templates and options are next due.
    fn announce_at(&self) -> Instant {
        let due = self.told.iter().map(|told| told.again_at);
        due.min().unwrap_or(self.wire.now.at + LISTEN_EVERY)
    }

    /// Templates and options of each domain, when they are due (RFC 7011 §8.4). Templates are
    /// valid in their domain only (§3.4.1).
    fn announce(&mut self) -> Result<(), Stop> {
        let now = self.wire.now.at;
        for told in self.told.iter_mut().filter(|told| told.again_at <= now) {
            self.wire.turn_to(told.class);
            let delivery = self.facts.delivery(told, &self.wire.outlet.account());
            self.facts.announce(told, &delivery, &mut self.wire)?;
            self.wire.flush()?;
            told.again_at = now + self.template_refresh;
        }
        Ok(())
    }

    /// Tells the changes of rates that are next in their queues.
    fn changes(&mut self) -> Result<(), Stop> {
        loop {
            let change = self.wire.outlet.account().change();
            let Some((class, sampling)) = change else {
                return Ok(());
            };
            let told = &mut self.told[class];
            self.wire.turn_to(class);
            self.facts.change(told, sampling, &mut self.wire)?;
            self.wire.flush()?;
            // Only what was handed over counts as told; else all of it is said again.
            told.changed(sampling);
            self.wire.outlet.account().settle_change(class);
        }
    }

    /// Sends flows; returns when to come back.
    fn flows(&mut self) -> Result<Instant, Stop> {
        for _ in 0..TURN {
            self.changes()?;
            if let Err(wait) = self.fill() {
                return match (wait, self.ending) {
                    (Some(until), _) => Ok(until),
                    (None, Ending::Flushing(_)) => self.conclude(),
                    (None, _) => Ok(self.announce_at()),
                };
            }
            let records = self.wire.flows;
            self.wire.flush()?;
            self.busy_since = None;
            self.pacer.spend(records, self.wire.now.at);
        }
        Ok(self.wire.now.at)
    }

    /// Encodes a message of flows. If it is not yet time for one, returns when it will be, or
    /// none if nothing waits.
    fn fill(&mut self) -> Result<(), Option<Instant>> {
        let now = self.wire.now.at;
        let first = {
            let account = self.wire.outlet.account();
            let runs = account.runs(self.full_message);
            // Of those that may go, the one that waits for longest, so that none waits for
            // records that came later.
            runs.min_by_key(|run| (self.ripe_at(run).max(now), run.since))
        };
        let run = first.ok_or(None)?;
        let go = self.ripe_at(&run).max(self.pacer.ready_at(run.records));
        if go > now {
            return Err(Some(go));
        }
        self.wire.load(run.class, run.records);
        Ok(())
    }

    /// Until when a message of `run` waits for more records.
    fn ripe_at(&self, run: &Run) -> Instant {
        let more_may_come = run.records < self.full_message && !run.complete;
        if more_may_come && matches!(self.ending, Ending::No) {
            run.since + FLUSH_AFTER
        } else {
            run.since
        }
    }

    /// The last statistics, after the last flow.
    fn conclude(&mut self) -> Result<Instant, Stop> {
        while let Some(told) = self.told.get(self.concluded) {
            self.wire.turn_to(told.class);
            let delivery = self.facts.delivery(told, &self.wire.outlet.account());
            self.facts.statistics(told, &delivery, &mut self.wire)?;
            self.wire.flush()?;
            self.concluded += 1;
        }
        let until = self.wire.now.at + LINGER;
        self.ending = Ending::Lingering(until);
        Ok(until)
    }

    /// A message was not taken: keeps its records for later, or drops it.
    fn stopped(&mut self, stop: &Stop) -> Option<Instant> {
        let now = self.wire.now.at;
        let has_flows = self.wire.flows > 0;
        match stop.cause {
            Cause::Busy => {
                let since = *self.busy_since.get_or_insert(now);
                if has_flows && now >= since + BUSY_LIMIT {
                    self.busy_since = None;
                    self.wire.lose(stop.cause);
                } else {
                    self.wire.discard();
                }
                return Some(now + BUSY_WAIT);
            }
            Cause::TooBig if has_flows => {
                self.wire.lose(stop.cause);
                return Some(now);
            }
            _ => {}
        }
        self.wire.discard();
        // A refusal speaks of an earlier datagram; the report says of which.
        if !self.hear() && stop.cause == Cause::Refused {
            self.wire.blame(&[], stop.cause);
        }
        if let Path::Up = self.path {
            self.down(stop.cause, &stop.error);
        }
        self.give_up_or(now + PROBE_EVERY)
    }
}
