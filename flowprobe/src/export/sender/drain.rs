//! What the collector has missed: it is sent from disk, in a session of its own, before anything newer.

use std::{io, sync::Arc, time::Instant};

use super::{SESSION_EVERY, Sender, path::Path};
use crate::export::{
    link::Link,
    spool::{SpoolError, intake::Shared},
};

/// Messages of a spool that are sent before anything else is looked at.
const DRAINED_AT_ONCE: usize = 64;

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
    /// If something is in the spool, this session is for that.
    pub(super) fn begin_to_drain(&mut self) {
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
    pub(super) fn ask_for_spool(&self) {
        if let Some(spool) = &self.spool {
            let cannot = matches!(self.path, Path::Down { .. }) || self.draining.is_some();
            let account = self.wire.outlet.account();
            let waiting = account.queued().records;
            let half = account.room().is_some_and(|room| waiting > room as u64);
            spool.want(cannot && half);
        }
    }

    /// Sends what the collector has missed, before anything newer.
    pub(super) fn drain(&mut self) -> Option<Instant> {
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
    pub(super) fn drain_some(&mut self) -> Result<Option<Instant>, Drained> {
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
}
