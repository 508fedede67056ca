//! Flows on their way into messages, and what becomes of a message that is not taken.

use std::time::{Duration, Instant};

use super::{
    Ending, PROBE_EVERY, SESSION_EVERY, Sender,
    path::Path,
    wire::{Cause, Stop},
};
use crate::export::{account::Run, link::Link};

/// A message that is not full waits no longer than this for more records (see `Sender::worth_sending`).
const FLUSH_AFTER: Duration = Duration::from_secs(1);
/// How long a full socket is tried before its message is dropped.
const BUSY_LIMIT: Duration = Duration::from_secs(1);
/// Between tries of a full socket.
const BUSY_WAIT: Duration = Duration::from_millis(1);
/// Batches before the network's errors are looked at.
const TURN: usize = 16;

impl<L: Link> Sender<L> {
    /// Sends flows; returns when to come back.
    pub(super) fn flows(&mut self) -> Result<Instant, Stop> {
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
    pub(super) fn fill(&mut self) -> Result<usize, Option<Instant>> {
        let now = self.wire.now.at;
        let first = {
            let account = self.wire.outlet.account();
            let runs = account.runs(self.worth_sending(account.capacity()));
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
                return Ok(self.wire.load(run.class, run.records, 1));
            }
            _ => self.on_trial = None,
        }
        let records = self.pacer.affords(now).max(run.records);
        let most = self.until_refresh();
        Ok(self.wire.load(run.class, records, most))
    }

    /// Records that do not wait for more: a message of them, or what a small queue must not be full of.
    fn worth_sending(&self, capacity: usize) -> usize {
        self.full_message.min(capacity / 4).max(1)
    }

    /// Until when a message of `run` waits for more records.
    pub(super) fn ripe_at(&self, run: &Run) -> Instant {
        let more_may_come = run.records < run.enough && !run.complete;
        if more_may_come && matches!(self.ending, Ending::No) {
            run.since + FLUSH_AFTER
        } else {
            run.since
        }
    }

    /// A message was not taken: keeps its records for later, or drops it.
    pub(super) fn stopped(&mut self, stop: &Stop) -> Option<Instant> {
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
            // What the network says now may be of an earlier message.
            Cause::TooBig if self.hear() || self.fit() => return Some(now),
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
