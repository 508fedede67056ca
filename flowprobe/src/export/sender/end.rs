//! The end: what waits goes out, then the last statistics, and who is away is not waited for.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{PROBE_EVERY, SESSION_EVERY, Sender, path::Path, wire::Stop};
use crate::export::link::Link;

/// After the last message: time for its ICMP error to come back.
const LINGER: Duration = Duration::from_millis(100);
/// How often a session is tried at the end, once a second.
const LAST_TRIES: u32 = 5;
/// At the end: time to put on disk what a collector has not taken.
const SPOOL_TIME: Duration = Duration::from_secs(5);

/// How far the end has come.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// Not asked to end.
    No,
    /// What is queued goes out, until then.
    Flushing(Instant),
    /// All is sent; errors may still come in until then.
    Lingering(Instant),
}

/// What comes after the last message.
pub(super) enum Lingering {
    Ended,
    Until(Instant),
    /// It has to be sent again.
    Broken,
}

impl<L: Link> Sender<L> {
    pub(super) fn begin_to_end(&mut self, by: Instant) {
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

    /// At the end, a collector that is away and does not come back is not waited for.
    pub(super) fn give_up_or(&mut self, next: Instant) -> Option<Instant> {
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

    /// Drops what waits, unless another stands in.
    pub(super) fn abandon(&mut self, reason: &'static str) -> Option<Instant> {
        self.wire.end_session();
        self.stop_draining();
        if self.seat.retire() {
            self.wire.outlet.account().close(reason, self.wire.now);
        }
        None
    }

    /// The last statistics, after the last flow.
    pub(super) fn conclude(&mut self) -> Result<Instant, Stop> {
        while let Some(told) = self.told.get(self.concluded) {
            self.wire.turn_to(told.class);
            let front = self.wire.outlet.account().front(told.class);
            self.facts.statistics(told, front, &mut self.wire)?;
            self.wire.flush()?;
            self.concluded += 1;
        }
        let until = self.wire.now.at + LINGER;
        self.ending = Ending::Lingering(until);
        Ok(until)
    }

    /// All is sent: waits for errors, or for a session to end in order.
    pub(super) fn linger(&mut self, until: Instant, finish_by: Option<Instant>) -> Lingering {
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
}
