//! The way to the collector: whether it can be reached, and sessions that begin, break and end.

use std::{io, time::Instant};

use super::{Ending, PROBE_EVERY, SESSION_EVERY, STAND_BY_EVERY, Sender, wire::Cause};
use crate::{encode::TooSmall, export::link::Link, ipfix::element};

/// What is known of the collector.
#[derive(Clone, Copy, Debug)]
pub(super) enum Path {
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
pub(super) struct Trial {
    /// Silence until then is an answer.
    pub(super) until: Instant,
    pub(super) sent: bool,
}

impl<L: Link> Sender<L> {
    /// Takes in what the network reports of earlier datagrams.
    pub(super) fn hear(&mut self) -> bool {
        let mut heard = false;
        while let Some(report) = self.wire.link.undelivered() {
            heard = true;
            let cause = Cause::of(&report.error);
            let too_big = cause == Cause::TooBig;
            let path = too_big.then(|| self.wire.link.path_octets()).flatten();
            if let Some(octets) = path {
                self.wire.blame_longer(&report.quote, octets);
                self.fit();
                // What was lost may have had templates in it.
                self.forget_told();
            } else {
                self.wire.blame(&report.quote, cause);
            }
            if matches!(cause, Cause::Refused | Cause::Unreachable) {
                self.down(cause, &report.error);
            }
        }
        heard
    }

    /// Makes messages as long as their path takes them, but no longer than was set; whether that is
    /// another length than before.
    pub(super) fn fit(&mut self) -> bool {
        let path = self.wire.link.path_octets();
        let octets = path.map_or(self.most_octets, |path| path.min(self.most_octets));
        if octets == self.octets {
            return false;
        }
        let collector = &self.name;
        if let Err(TooSmall { least, .. }) = self.wire.fit(octets) {
            if !self.narrow {
                self.narrow = true;
                tracing::error!(
                    collector,
                    "the path takes messages of {octets} octets, and a record may need {least}: \
                     flows are lost; give fewer --fields, no --biflow, or a collector of tcp://"
                );
            }
            return false;
        }
        if octets < self.octets {
            tracing::warn!(
                collector,
                "the path takes messages of {octets} octets: they are shorter"
            );
        } else {
            tracing::info!(
                collector,
                "the path takes longer messages: they have {octets} octets"
            );
        }
        self.narrow = false;
        self.octets = octets;
        self.full_message = self.wire.encoder().full_message();
        true
    }

    /// The collector cannot be reached: ask again later.
    pub(super) fn down(&mut self, cause: Cause, error: &io::Error) {
        if self.wire.link.is_spool() {
            self.spool_failed(error);
        } else if !self.missed {
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
    pub(super) fn up(&mut self) {
        let collector = &self.name;
        if self.wire.link.is_spool() {
            // Whether it takes flows is another question: see `note_recovery`.
        } else if self.missed {
            self.missed = false;
            tracing::info!(collector, "collector can be reached again");
        } else {
            tracing::debug!(collector, "collector is connected");
        }
        self.session_from = self.wire.messages;
        self.path = Path::Up;
        self.up_since = Some(self.wire.now.at);
        // It may have restarted, and forgotten every template.
        self.forget_told();
    }

    /// While the collector is away: asks for it, and returns when to come back. A template is
    /// the question, because it has no sequence number to lose; where the format has none, one
    /// message of flows.
    pub(super) fn ask(&mut self) -> Option<Instant> {
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
    pub(super) fn connect(&mut self) -> Option<Instant> {
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

    /// The session is over before its time: what has not arrived waits for the next one.
    pub(super) fn broken(&mut self, error: &io::Error) {
        if let Err(error) = self.note_drained() {
            tracing::error!(collector = self.name, %error, "what is on disk is sent again");
        }
        self.stop_draining();
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
    pub(super) fn renew(&mut self) {
        let now = self.wire.now.at;
        self.stop_draining();
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
}

impl Path {
    /// When to come back, where it is down.
    pub(super) fn next(self) -> Option<Instant> {
        match self {
            Self::Up => None,
            Self::Down { next, .. } => Some(next),
        }
    }
}
