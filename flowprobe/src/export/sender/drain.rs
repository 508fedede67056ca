//! What collectors have missed: it is sent from disk, in a session of its own, before anything newer.

use std::{
    io,
    time::{Duration, Instant},
};

use super::{SESSION_EVERY, Sender};
use crate::export::{link::Link, spool::SpoolError};

/// Messages of a spool that are sent before anything else is looked at.
const DRAINED_AT_ONCE: usize = 64;
/// A spool that has failed works again once it has for so long.
const RECOVERED: Duration = Duration::from_secs(5);

/// Why a spool is not emptied further.
pub(super) enum Drained {
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

impl<L: Link> Sender<L> {
    /// Sends what is on disk, before anything newer.
    pub(super) fn drain(&mut self) -> Option<Instant> {
        let now = self.wire.now;
        if self.draining.is_none() {
            if self.wire.messages > self.session_from {
                // Templates and sequence numbers of the files are others than those of the queue.
                self.renew();
                return Some(now.at);
            }
            self.begin_to_drain();
        }
        match self.drain_some() {
            Ok(Some(next)) => Some(next),
            Ok(None) => {
                self.renew();
                Some(now.at)
            }
            Err(Drained::Session(error)) => {
                self.broken(&error);
                self.give_up_or(now.at)
            }
            Err(Drained::Spool(error)) => {
                tracing::error!(collector = self.name, %error, "what is on disk stays there, for the next run or for flowprobe replay");
                self.stop_draining();
                if let Some(shared) = &self.spool {
                    shared.give_up();
                }
                self.renew();
                Some(now.at)
            }
        }
    }

    /// This session is for what is on disk.
    fn begin_to_drain(&mut self) {
        if let Some(shared) = &self.spool {
            let collector = &self.name;
            tracing::info!(collector, "what waits on disk is sent to it");
            shared.spool().begin(self.octets);
            self.draining = Some(0);
            self.wire.moved = self.wire.now.at;
        }
    }

    /// The session is not for what is on disk any more.
    pub(super) fn stop_draining(&mut self) {
        if let (Some(shared), Some(_)) = (&self.spool, self.draining.take()) {
            shared.spool().end();
        }
    }

    /// Takes note of what of it has arrived.
    pub(super) fn note_drained(&mut self) -> Result<(), SpoolError> {
        if let (Some(shared), Some(known)) = (&self.spool, self.draining) {
            let arrived = self.wire.link.acknowledged();
            self.draining = Some(arrived);
            if arrived > known || self.wire.link.moves() {
                self.wire.moved = self.wire.now.at;
            }
            shared.acknowledged(known, arrived, self.wire.now)?;
        }
        Ok(())
    }

    /// Sends some of it; returns when to come back, or none if all has arrived.
    fn drain_some(&mut self) -> Result<Option<Instant>, Drained> {
        let now = self.wire.now;
        self.note_drained()?;
        let Some(shared) = self.spool.clone() else {
            return Ok(None);
        };
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

    /// Another is next: waits for what is on its way.
    pub(super) fn settle(&mut self) -> Option<Instant> {
        if self.draining.is_some() {
            if let Err(error) = self.note_drained() {
                tracing::error!(collector = self.name, %error, "what is on disk is sent again");
            }
            let spool = self.spool.as_ref();
            if spool.is_none_or(|shared| !shared.spool().is_on_the_way()) {
                self.renew();
            }
        }
        Some(self.wire.now.at + SESSION_EVERY)
    }

    /// The spool, for this is its sender, has taken nothing.
    pub(super) fn spool_failed(&mut self, error: &io::Error) {
        if !self.missed {
            self.missed = true;
            tracing::error!(spool = self.name, %error, "flows cannot go to disk: they wait until there is room, which is looked for by itself");
        }
        self.failed = Some((self.wire.now.at, self.wire.flows_arrived));
    }

    /// A spool that has failed takes flows again, and has done so for a while: a disk that is full
    /// takes the beginning of a file again and again.
    pub(super) fn note_recovery(&mut self) {
        let Some((at, flows)) = self.failed else {
            return;
        };
        if self.wire.now.at >= at + RECOVERED && self.wire.flows_arrived > flows {
            self.missed = false;
            self.failed = None;
            tracing::info!(spool = self.name, "flows go to disk again");
        }
    }
}
