//! One collector: announces, paces, sends, and notices when nobody is there.
//!
//! Each class of sampling is an observation domain: its messages, their sequence numbers and its
//! templates are its own. A change of its rate is told between the last record of the old rate and
//! the first one of the new.
//!
//! **Without sessions** (UDP, RFC 7011 §10.3) a collector that cannot be reached is asked once a
//! second with a template; meanwhile the flows wait in the queue. Messages that an ICMP error
//! reports as undelivered have kept their sequence numbers, so that the collector sees the gap, and
//! count as dropped.
//!
//! **With sessions** (TCP, §10.4) records stay queued until the other side's transport has
//! acknowledged them. After a break all that has not been acknowledged is sent again in the next
//! session: a collector that had read it, and whose acknowledgement was lost, gets it twice.

mod batch;
mod history;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    sync::Arc,
    time::{Duration, Instant},
};

use self::wire::{Cause, Stop, Wire};
use super::{
    Now, Settings,
    account::{Outlet, Run},
    announce::{Facts, Told},
    encoder::Encoder,
    link::Link,
    members::{Presence, Seat, Turn},
    pace::Pacer,
    spool::{SpoolError, intake::Shared},
};
use crate::ipfix::element;

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
/// Batches before the network's errors are looked at.
const TURN: usize = 16;
/// How often a session that is being set up is looked at, and what it has not acknowledged.
const SESSION_EVERY: Duration = Duration::from_millis(10);
/// How often a session is tried at the end, once a second.
const LAST_TRIES: u32 = 5;
/// Messages of a spool that are sent before anything else is looked at.
const DRAINED_AT_ONCE: usize = 64;
/// At the end: time to put on disk what a collector has not taken.
const SPOOL_TIME: Duration = Duration::from_secs(5);
/// How often a collector that stands by looks whether it is its turn.
const STAND_BY_EVERY: Duration = Duration::from_millis(100);

/// What is known of the collector.
#[derive(Clone, Copy, Debug)]
enum Path {
    /// Nothing bad.
    Up,
    /// It could not be reached, or there is no session yet.
    Down {
        cause: Cause,
        /// When to ask next, or to take silence for an answer.
        next: Instant,
        /// Whether a question is out.
        asked: bool,
    },
}

/// One message is out, or will be, and the next waits for what comes back.
#[derive(Clone, Copy, Debug)]
struct Trial {
    /// Silence until then is an answer.
    until: Instant,
    sent: bool,
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

/// Exports to one collector, in steps.
pub(super) struct Sender<L> {
    /// The collector, as the user wrote it.
    name: String,
    wire: Wire<L>,
    sessions: bool,
    facts: Arc<Facts>,
    /// What is still to be said of each class.
    told: Vec<Told>,
    pacer: Pacer,
    template_refresh: Duration,
    /// And after so many messages, where that is not 0.
    refresh_messages: u64,
    /// Messages before the latest templates.
    refreshed: u64,
    /// Records of a message that is full for sure.
    full_message: usize,
    path: Path,
    /// It was there, or was expected to be, and is away.
    missed: bool,
    up_since: Option<Instant>,
    /// One message of flows is to show whether anybody is there.
    on_trial: Option<Trial>,
    busy_since: Option<Instant>,
    ending: Ending,
    /// Classes whose last statistics are sent.
    concluded: usize,
    /// Tries at the end that failed.
    last_tries: u32,
    /// Its place in a group.
    seat: Option<Seat>,
    /// What it has missed.
    spool: Option<Arc<Shared>>,
    /// It is being sent what it has missed, and of that so many messages have arrived.
    draining: Option<u64>,
    /// Octets of the largest message.
    max_octets: u16,
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
        let full_message = encoders[0].full_message();
        let sessions = link.has_sessions();
        let path = if sessions {
            Path::Down {
                cause: Cause::Unreachable,
                next: now.at,
                asked: true,
            }
        } else {
            Path::Up
        };
        Self {
            name: outlet.destination().to_owned(),
            wire: Wire::new(link, encoders, outlet, now),
            sessions,
            facts,
            told: Told::of(&settings.domains, now.at),
            pacer: Pacer::new(settings.export_rate, full_message, now.at),
            template_refresh: settings.template_refresh,
            refresh_messages: settings.template_refresh_packets.into(),
            refreshed: 0,
            full_message,
            path,
            missed: false,
            up_since: None,
            on_trial: None,
            busy_since: None,
            ending: Ending::No,
            concluded: 0,
            last_tries: 0,
            seat: None,
            spool: None,
            draining: None,
            max_octets: 0,
        }
    }

    /// Gives it a spool: what waits there goes first, in messages of at most `max_octets`.
    pub(super) fn spooling(mut self, spool: Arc<Shared>, max_octets: u16) -> Self {
        self.spool = Some(spool);
        self.max_octets = max_octets;
        self
    }

    /// Makes it one of a group, in which it has a name of its own.
    pub(super) fn seated(mut self, name: String, seat: Seat) -> Self {
        self.name = name;
        self.seat = Some(seat);
        self
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
            Ending::Lingering(until) => match self.linger(until, finish_by) {
                Lingering::Ended => return None,
                Lingering::Until(next) => return Some(next),
                Lingering::Broken => {}
            },
            _ => {}
        }
        let away = if self.sessions {
            self.connect()
        } else {
            self.ask()
        };
        let turn = self.turn(away.is_none() && self.draining.is_none());
        self.ask_for_spool();
        if let Some(next) = away {
            return self.give_up_or(next);
        }
        if self.draining.is_some() {
            return self.drain();
        }
        if turn == Turn::Anothers {
            return self.stand_by();
        }
        match self.announce().and_then(|()| self.flows()) {
            Ok(next) => {
                let mut next = next.min(self.announce_at()).min(now.at + LISTEN_EVERY);
                if self.wire.acknowledge() > 0 {
                    next = next.min(now.at + SESSION_EVERY);
                }
                Some(next)
            }
            Err(stop) => self.stopped(&stop),
        }
    }

    fn begin_to_end(&mut self, by: Instant) {
        // With a spool there is time left to put on disk what it has not taken.
        let by = match &self.spool {
            Some(_) => by.checked_sub(SPOOL_TIME).unwrap_or(by),
            None => by,
        };
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
        if !self.missed && self.wire.link.is_spool() {
            self.missed = true;
            tracing::error!(spool = self.name, %error, "flows cannot go to disk: they wait");
        }
        if !self.missed {
            self.missed = true;
            let collector = &self.name;
            tracing::warn!(collector, %error, "collector cannot be reached: flows wait");
            self.wire.outlet.account().count_outage();
        }
        if let (Path::Down { asked: true, .. }, Ending::Flushing(_)) = (self.path, self.ending) {
            self.last_tries += 1;
        }
        self.on_trial = None;
        self.path = Path::Down {
            cause,
            next: self.wire.now.at + PROBE_EVERY,
            asked: self.sessions,
        };
    }

    /// The collector can be reached.
    fn up(&mut self) {
        let collector = &self.name;
        if self.missed {
            tracing::info!(collector, "collector can be reached again");
        } else {
            tracing::debug!(collector, "collector is connected");
        }
        self.missed = false;
        self.path = Path::Up;
        self.up_since = Some(self.wire.now.at);
        // It may have restarted, and forgotten every template.
        for told in &mut self.told {
            told.forget(self.wire.now.at);
        }
    }

    /// While the collector is away: asks for it, and returns when to come back. A template is
    /// the question, because it has no sequence number to lose; where the format has none, one
    /// message of flows.
    fn ask(&mut self) -> Option<Instant> {
        let Path::Down { cause, next, asked } = &mut self.path else {
            return None;
        };
        let now = self.wire.now.at;
        if now < *next {
            return Some(*next);
        }
        if *asked {
            self.up();
            return None;
        }
        if !self.wire.encoder().has_templates() {
            self.up();
            self.on_trial = Some(Trial {
                until: self.wire.now.at + PROBE_EVERY,
                sent: false,
            });
            return None;
        }
        *asked = true;
        *next = now + PROBE_EVERY;
        let (cause, next) = (*cause, *next);
        self.wire.turn_to(0);
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

    /// Sees to it that there is a session. Returns when to come back if there is none.
    fn connect(&mut self) -> Option<Instant> {
        let now = self.wire.now.at;
        if let Path::Up = self.path {
            if let Err(error) = self.wire.link.flush() {
                self.broken(&error);
            } else if self.wire.link.is_due(now) {
                self.renew();
            } else {
                return None;
            }
        }
        let Path::Down { next, .. } = self.path else {
            return None;
        };
        if now < next {
            return Some(next);
        }
        match self.wire.link.open(now) {
            Ok(true) => {
                self.up();
                self.begin_to_drain();
                None
            }
            Ok(false) if self.wire.link.is_spool() => Some(now + STAND_BY_EVERY),
            Ok(false) => Some(now + SESSION_EVERY),
            Err(error) => {
                self.down(Cause::of(&error), &error);
                self.path.next()
            }
        }
    }

    /// If something is in the spool, this session is for that.
    fn begin_to_drain(&mut self) {
        let max_octets = self.max_octets;
        let begin = |shared: &Arc<Shared>| {
            let mut spool = shared.spool();
            let waits = !spool.is_empty();
            if waits {
                spool.begin(max_octets);
            }
            waits
        };
        self.draining = self.spool.as_ref().is_some_and(begin).then_some(0);
        if self.draining.is_some() {
            tracing::info!(
                collector = self.name,
                "what it has missed is sent from disk"
            );
        }
    }

    /// Says whether flows shall go to disk: once half the queue is full of what cannot be sent.
    fn ask_for_spool(&self) {
        if let Some(spool) = &self.spool {
            let cannot = matches!(self.path, Path::Down { .. }) || self.draining.is_some();
            let account = self.wire.outlet.account();
            let waiting = account.queued().records;
            let half = account.room().is_some_and(|room| waiting > room as u64);
            spool.want(cannot && half);
        }
    }

    /// Sends what the collector has missed, before anything newer.
    fn drain(&mut self) -> Option<Instant> {
        let now = self.wire.now;
        match self.drain_some() {
            Ok(Some(next)) => Some(next),
            Ok(None) => {
                self.draining = None;
                self.renew();
                Some(now.at)
            }
            Err(Drained::Session(error)) => {
                self.broken(&error);
                self.give_up_or(now.at)
            }
            Err(Drained::Spool(error)) => {
                tracing::error!(collector = self.name, %error, "what is on disk stays there");
                self.draining = None;
                self.spool = None;
                self.renew();
                Some(now.at)
            }
        }
    }

    /// Sends some of it; returns when to come back, or none if all has arrived.
    fn drain_some(&mut self) -> Result<Option<Instant>, Drained> {
        let now = self.wire.now;
        let (Some(shared), Some(known)) = (self.spool.clone(), self.draining) else {
            return Ok(None);
        };
        let arrived = self.wire.link.acknowledged();
        shared.acknowledged(known, arrived, now)?;
        self.draining = Some(arrived);
        let mut spool = shared.spool();
        for _ in 0..DRAINED_AT_ONCE {
            let records = spool.data_records() as usize;
            let go = self.pacer.ready_at(records.min(self.full_message));
            if go > now.at {
                return Ok(Some(go));
            }
            let Some(message) = spool.message(now.stamp().unix_s())? else {
                return Ok((!spool.is_empty()).then_some(now.at + SESSION_EVERY));
            };
            match self.wire.link.send(message) {
                Ok(()) => {
                    let octets = message.len();
                    self.wire.outlet.account().count_message(0, octets);
                    self.pacer.spend(spool.data_records() as usize, now.at);
                    spool.taken();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(Some(now.at + SESSION_EVERY));
                }
                Err(error) => return Err(Drained::Session(error)),
            }
        }
        Ok(Some(now.at))
    }

    /// The session is over before its time: what has not arrived waits for the next one.
    fn broken(&mut self, error: &io::Error) {
        if let (Some(shared), Some(known)) = (&self.spool, self.draining.take()) {
            let arrived = self.wire.link.acknowledged();
            let settled = shared.acknowledged(known, arrived, self.wire.now);
            if let Err(error) = settled {
                tracing::error!(collector = self.name, %error, "what is on disk is sent again");
            }
            shared.spool().end();
        }
        self.wire.end_session();
        self.concluded = 0;
        self.down(Cause::of(error), error);
        let lasted = self
            .up_since
            .is_some_and(|up| self.wire.now.at >= up + PROBE_EVERY);
        if !lasted && matches!(self.ending, Ending::Flushing(_)) {
            self.last_tries += 1;
        }
        if let Path::Down { next, asked, .. } = &mut self.path {
            // The next one is tried at once; whether it fails is another question. One that breaks
            // as soon as it is there is not tried all the time: a disk that is full takes the
            // beginning of a file, again and again.
            if lasted {
                *next = self.wire.now.at;
            }
            *asked = false;
        }
    }

    /// A session that has lasted long enough is followed by another.
    fn renew(&mut self) {
        let now = self.wire.now.at;
        if let Some(shared) = &self.spool {
            shared.spool().end();
        }
        if let Err(error) = self.wire.link.close(now + PROBE_EVERY) {
            return self.broken(&error);
        }
        self.wire.end_session();
        self.path = Path::Down {
            cause: Cause::Unreachable,
            next: now,
            asked: false,
        };
    }

    /// Whether the flows are for this collector now.
    fn turn(&mut self, up: bool) -> Turn {
        let Some(seat) = &self.seat else {
            return Turn::Mine;
        };
        // What is on its way must have arrived, or wait again, before another goes on.
        let idle = self.wire.acknowledge() == 0;
        let presence = match (up, self.missed) {
            (true, _) => Presence::There,
            (false, false) => Presence::Coming,
            (false, true) => Presence::Away,
        };
        let turn = seat.turn(presence, idle, self.wire.now.at);
        if turn == Turn::Begins {
            tracing::info!(collector = self.name, "flows go to this collector now");
            for told in &mut self.told {
                told.forget(self.wire.now.at);
            }
            return Turn::Mine;
        }
        turn
    }

    /// Another collector gets the flows: this one is told what it needs to take over.
    fn stand_by(&mut self) -> Option<Instant> {
        let now = self.wire.now.at;
        if let Err(stop) = self.announce() {
            return self.stopped(&stop);
        }
        if matches!(self.ending, Ending::Flushing(_))
            && self.wire.outlet.account().queued().records == 0
        {
            return match self.conclude() {
                Ok(next) => Some(next),
                Err(stop) => self.stopped(&stop),
            };
        }
        Some((now + STAND_BY_EVERY).min(self.announce_at()))
    }

    /// At the end, a collector that is away and does not come back is not waited for.
    fn give_up_or(&mut self, next: Instant) -> Option<Instant> {
        let Path::Down { cause, .. } = self.path else {
            return Some(next);
        };
        let nothing_waits = self.wire.outlet.account().queued().records == 0;
        let ending = matches!(self.ending, Ending::Flushing(_));
        // A session keeps what was not acknowledged: its collector may just be starting again.
        let enough = if self.sessions { LAST_TRIES } else { 1 };
        if ending && (nothing_waits || self.last_tries >= enough) {
            return self.abandon(cause.label());
        }
        Some(next)
    }

    /// Drops what waits, unless another collector stands in.
    fn abandon(&mut self, reason: &'static str) -> Option<Instant> {
        self.wire.end_session();
        if let Some(shared) = &self.spool {
            shared.spool().end();
            shared.want(true);
        }
        if self.seat.as_ref().is_none_or(Seat::retire) {
            self.wire.outlet.account().close(reason, self.wire.now);
        }
        None
    }

    /// When templates and options are next due.
    fn announce_at(&self) -> Instant {
        let due = self.told.iter().map(|told| told.again_at);
        due.min().unwrap_or(self.wire.now.at + LISTEN_EVERY)
    }

    /// Whether so many messages have gone out that templates are due (RFC 7011 §8.4). Where nothing
    /// is lost they are said once.
    fn many_messages(&self) -> bool {
        let since = self.wire.messages - self.refreshed;
        self.refresh_messages > 0 && since >= self.refresh_messages && !self.wire.link.is_reliable()
    }

    /// Templates and options of each domain, when they are due (RFC 7011 §8.4). Templates are
    /// valid in their domain only (§3.4.1). In a session they are said once (§8.1).
    fn announce(&mut self) -> Result<(), Stop> {
        let now = self.wire.now.at;
        if self.many_messages() {
            self.told.iter_mut().for_each(|told| told.forget(now));
        }
        for told in self.told.iter_mut().filter(|told| told.again_at <= now) {
            self.wire.turn_to(told.class);
            let (front, delivery) = self.facts.standing(told, &self.wire.outlet.account());
            self.facts
                .announce(told, front, &delivery, &mut self.wire)?;
            self.wire.flush()?;
            told.templates = self.wire.link.is_reliable();
            told.again_at = now + self.template_refresh;
            self.refreshed = self.wire.messages;
        }
        Ok(())
    }

    /// Tells the changes of rates that are next in their queues.
    fn changes(&mut self) -> Result<(), Stop> {
        loop {
            let (class, sampling, front) = {
                let account = self.wire.outlet.account();
                let Some((class, sampling)) = account.change() else {
                    return Ok(());
                };
                (class, sampling, account.front(class))
            };
            self.wire.turn_to(class);
            let told = &self.told[class];
            self.facts.change(told, front, sampling, &mut self.wire)?;
            self.wire.flush()?;
            // Only what was handed over counts as told; else all of it is said again.
            self.wire.outlet.account().settle_change(class);
        }
    }

    /// Sends flows; returns when to come back.
    fn flows(&mut self) -> Result<Instant, Stop> {
        for _ in 0..TURN {
            self.changes()?;
            let loaded = match self.fill() {
                Ok(loaded) => loaded,
                Err(Some(until)) => return Ok(until),
                Err(None) if matches!(self.ending, Ending::Flushing(_)) => {
                    if self.wire.outlet.account().queued().records == 0 {
                        return self.conclude();
                    }
                    // What is on its way may have to be sent again.
                    return Ok(self.wire.now.at + SESSION_EVERY);
                }
                Err(None) => return Ok(self.announce_at()),
            };
            self.wire.flush()?;
            self.busy_since = None;
            self.pacer.spend(loaded, self.wire.now.at);
            if self.many_messages() {
                break;
            }
        }
        Ok(self.wire.now.at)
    }

    /// Encodes messages of flows, and returns how many flows. If it is not yet time for one,
    /// returns when it will be, or none if nothing waits.
    fn fill(&mut self) -> Result<usize, Option<Instant>> {
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
        match &mut self.on_trial {
            Some(trial) if now < trial.until => {
                if trial.sent {
                    return Err(Some(trial.until));
                }
                trial.sent = true;
                return Ok(self.wire.load(run.class, run.records));
            }
            _ => self.on_trial = None,
        }
        let records = self.pacer.affords(now).max(run.records);
        Ok(self.wire.load(run.class, records))
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
            let (front, delivery) = self.facts.standing(told, &self.wire.outlet.account());
            self.facts
                .statistics(told, front, &delivery, &mut self.wire)?;
            self.wire.flush()?;
            self.concluded += 1;
        }
        let until = self.wire.now.at + LINGER;
        self.ending = Ending::Lingering(until);
        Ok(until)
    }

    /// All is sent: waits for errors, or for a session to end in order.
    fn linger(&mut self, until: Instant, finish_by: Option<Instant>) -> Lingering {
        let now = self.wire.now.at;
        if !self.sessions {
            return if now >= until {
                Lingering::Ended
            } else {
                Lingering::Until(until)
            };
        }
        let by = finish_by.unwrap_or(until);
        match self.wire.link.close(by.min(now + PROBE_EVERY)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && now < by => {
                Lingering::Until(now + SESSION_EVERY)
            }
            result => {
                let failed = result.err();
                let lost = self.wire.acknowledge() > 0;
                self.wire.end_session();
                if lost && now < by {
                    let error = failed.unwrap_or_else(|| io::ErrorKind::ConnectionReset.into());
                    self.ending = Ending::Flushing(by);
                    self.broken(&error);
                    return Lingering::Broken;
                }
                if lost {
                    self.abandon("unacknowledged");
                }
                Lingering::Ended
            }
        }
    }

    /// A message was not taken: keeps its records for later, or drops it.
    fn stopped(&mut self, stop: &Stop) -> Option<Instant> {
        let now = self.wire.now.at;
        let has_flows = stop.unsent.cargo.records > 0;
        self.wire.discard();
        match stop.cause {
            Cause::Busy if self.sessions => return Some(now + BUSY_WAIT),
            Cause::Busy => {
                let since = *self.busy_since.get_or_insert(now);
                if has_flows && now >= since + BUSY_LIMIT {
                    self.busy_since = None;
                    self.wire.lose(&stop.unsent, stop.cause);
                }
                return Some(now + BUSY_WAIT);
            }
            Cause::TooBig if has_flows && !self.sessions => {
                self.wire.lose(&stop.unsent, stop.cause);
                return Some(now);
            }
            _ => {}
        }
        if self.sessions {
            self.broken(&stop.error);
            return self.give_up_or(now);
        }
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

/// Why a spool is not emptied further.
enum Drained {
    /// The session broke.
    Session(io::Error),
    /// It cannot be read.
    Spool(SpoolError),
}

impl From<SpoolError> for Drained {
    fn from(error: SpoolError) -> Self {
        Self::Spool(error)
    }
}

/// What comes after the last message.
enum Lingering {
    Ended,
    Until(Instant),
    /// It has to be sent again.
    Broken,
}

impl Path {
    /// When to come back, where it is down.
    fn next(self) -> Option<Instant> {
        match self {
            Self::Up => None,
            Self::Down { next, .. } => Some(next),
        }
    }
}
