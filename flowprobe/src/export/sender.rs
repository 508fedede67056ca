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
//!
//! A spool is filled by a sender too: its link appends to files.

mod batch;
mod drain;
mod end;
mod flows;
mod history;
mod path;
mod tell;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use self::{
    end::{Ending, Lingering},
    path::{Path, Trial},
    wire::{Cause, Wire},
};
use super::{
    Now, Settings,
    account::Outlet,
    announce::{Facts, Told},
    encoder::Encoder,
    link::{Broken, Link},
    members::{Members, Presence, Seat, Turn},
    pace::Pacer,
    spool::intake::Shared,
};

/// How often a collector that does not answer is asked, and how long an ICMP error may take.
/// Kernels answer with at most one a second.
const PROBE_EVERY: Duration = Duration::from_secs(1);
/// How often errors are looked for while nothing else is to do.
const LISTEN_EVERY: Duration = Duration::from_secs(1);
/// How often a session that is being set up is looked at, and what it has not acknowledged.
const SESSION_EVERY: Duration = Duration::from_millis(10);
/// How often a collector that stands by looks whether it is its turn.
const STAND_BY_EVERY: Duration = Duration::from_millis(100);

/// How long a collector may read nothing, once the queue is nearly full.
const STALLED: Duration = Duration::from_secs(10);

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
    /// Octets of the largest message: as was set, and as the path takes it.
    most_octets: u16,
    octets: u16,
    /// Said once that no message fits.
    narrow: bool,
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
    /// Its place among those who take flows out of the queue.
    seat: Seat,
    /// What they have missed.
    spool: Option<Arc<Shared>>,
    /// It is being sent what is on disk, and of that so many messages have arrived.
    draining: Option<u64>,
    /// Messages handed over before this session.
    session_from: u64,
    /// When the spool failed last, and flows that had gone into it then.
    failed: Option<(Instant, u64)>,
}

impl<L: Link> Sender<L> {
    /// A sender with an encoder for each of the domains in `settings`, of which there is one, for
    /// messages of at most so many octets.
    pub(super) fn new(
        link: L,
        (encoders, octets): (Vec<Encoder>, u16),
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
            most_octets: octets,
            octets,
            narrow: false,
            path,
            missed: false,
            up_since: None,
            on_trial: None,
            busy_since: None,
            ending: Ending::No,
            concluded: 0,
            last_tries: 0,
            seat: Members::new(1, false, Duration::ZERO).seat(0),
            spool: None,
            draining: None,
            session_from: 0,
            failed: None,
        }
    }

    /// What waits in this spool goes first.
    pub(super) fn spooling(mut self, spool: Arc<Shared>) -> Self {
        self.spool = Some(spool);
        self
    }

    /// Gives it a place in a queue, which may have others, and a name of its own.
    pub(super) fn seated(mut self, name: String, seat: Seat) -> Self {
        self.name = name;
        self.seat = seat;
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
                Lingering::Ended => {
                    self.seat.retire();
                    return None;
                }
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
        let turn = self.turn(away.is_none());
        self.note_recovery();
        if let Some(next) = away {
            return self.give_up_or(next);
        }
        if self.is_stalled(turn) {
            let seconds = STALLED.as_secs();
            self.broken(&Broken::Stalled { seconds }.into());
            self.turn(false);
            return self.give_up_or(now.at);
        }
        match turn {
            Turn::Mine | Turn::Begins => {}
            Turn::Drains => return self.drain(),
            Turn::Settles => return self.settle(),
            Turn::Anothers => return self.stand_by(),
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

    /// Whether the collector is there and reads nothing, though another could take over, and has to:
    /// its turn is over, the queue fills up, or what is on disk is to be sent.
    fn is_stalled(&self, turn: Turn) -> bool {
        let stands_still = || self.wire.now.at >= self.wire.moved + STALLED;
        match (turn, &self.spool) {
            (Turn::Anothers, _) => false,
            (_, Some(shared)) if self.draining.is_some() => {
                self.seat.has_others() && stands_still() && shared.spool().is_on_the_way()
            }
            (Turn::Settles, _) => self.wire.has_on_the_way() && stands_still(),
            (_, spool) => {
                (spool.is_some() || self.seat.has_others())
                    && self.wire.has_on_the_way()
                    && stands_still()
                    && self.wire.outlet.account().is_nearly_full()
            }
        }
    }

    /// Whether the flows are for this one now.
    fn turn(&mut self, up: bool) -> Turn {
        // What is on its way must have arrived, or wait again, before another goes on.
        let idle = self.wire.acknowledge() == 0 && self.draining.is_none();
        let presence = match (up, self.missed) {
            (true, _) => Presence::There,
            (false, false) => Presence::Coming,
            (false, true) => Presence::Away,
        };
        let turn = self.seat.turn(presence, idle, self.wire.now.at);
        if turn == Turn::Begins {
            if self.wire.link.is_spool() {
                tracing::debug!(spool = self.name, "flows go to disk now");
            } else if self.seat.has_others() {
                tracing::info!(collector = self.name, "flows go to this collector now");
            }
            self.forget_told();
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
            && !self.seat.has_backlog()
        {
            return match self.conclude() {
                Ok(next) => Some(next),
                Err(stop) => self.stopped(&stop),
            };
        }
        Some((now + STAND_BY_EVERY).min(self.announce_at()))
    }
}
