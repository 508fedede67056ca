//! A spool as a collector that stands in: it takes the flows while no real one does, or none that is
//! fast enough, and the queue fills up.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{Spool, SpoolError};
use crate::export::{Now, account::Outlet, link::Link, members::Members};

/// Why flows in the spool are lost: it is full.
const FULL: &str = "spool_full";
/// A file of it cannot be read.
const DAMAGED: &str = "spool_damaged";

/// A spool, as the senders of its collectors and the one that fills it share it.
#[derive(Debug)]
pub(in crate::export) struct Shared {
    spool: Mutex<Spool>,
    /// Of the queue that it belongs to.
    members: Arc<Members>,
    outlet: Arc<Outlet>,
    /// It cannot be read: what is in it waits for the next run.
    given_up: AtomicBool,
}

impl Shared {
    /// Takes over what an earlier run has left, too.
    pub(in crate::export) fn new(
        spool: Spool,
        members: Arc<Members>,
        outlet: Arc<Outlet>,
    ) -> Arc<Self> {
        outlet.account().inherit(spool.waiting());
        let shared = Self {
            spool: Mutex::new(spool),
            members,
            outlet,
            given_up: AtomicBool::new(false),
        };
        shared.note_backlog(&shared.spool());
        Arc::new(shared)
    }

    pub(in crate::export) fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody shall be sent what is in it any more.
    pub(in crate::export) fn give_up(&self) {
        self.given_up.store(true, Ordering::Relaxed);
        self.note_backlog(&self.spool());
    }

    fn note_backlog(&self, spool: &Spool) {
        let sends = !self.given_up.load(Ordering::Relaxed);
        self.members.set_backlog(sends && !spool.is_empty());
    }

    /// Whether flows are to go into it: once half the queue is full of what nobody takes, or three
    /// quarters of what a collector is too slow for, and at the end all that is left.
    fn is_wanted(&self, now: Instant) -> bool {
        let (waits, half, nearly) = {
            let account = self.outlet.account();
            let waits = account.queued().records > 0;
            (waits, account.is_half_full(), account.is_nearly_full())
        };
        let members = &self.members;
        if nearly {
            members.set_pressed(true);
        } else if !half {
            members.set_pressed(false);
        }
        waits && (members.collectors_are_gone() || half && members.nobody_takes(now))
    }

    /// So many messages of the session that empties it have arrived, `known` of which were known.
    pub(in crate::export) fn acknowledged(
        &self,
        known: u64,
        messages: u64,
        now: Now,
    ) -> Result<(), SpoolError> {
        let mut spool = self.spool();
        // One by one: what was dropped between them is counted in its place.
        for arrived in known..=messages {
            let settled = spool.acknowledged(arrived)?;
            let mut account = self.outlet.account();
            account.leave_spool(settled.sent, None, now);
            account.leave_spool(settled.dropped, Some(DAMAGED), now);
        }
        self.note_backlog(&spool);
        Ok(())
    }

    fn append(&self, message: &[u8]) -> Result<(), SpoolError> {
        let mut spool = self.spool();
        let appended = spool.append(message);
        let (dropped, appended) = match appended {
            Ok(dropped) => (dropped, Ok(())),
            Err(error) => (spool.take_dropped(), Err(error)),
        };
        self.note_backlog(&spool);
        let mut account = self.outlet.account();
        account.leave_spool(dropped, Some(FULL), Now::read());
        appended
    }
}

/// The way into it.
#[derive(Debug)]
pub(in crate::export) struct Intake {
    shared: Arc<Shared>,
    /// Messages of this session.
    taken: u64,
}

impl Intake {
    pub(in crate::export) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, taken: 0 }
    }
}

impl Link for Intake {
    fn has_sessions(&self) -> bool {
        true
    }

    fn is_spool(&self) -> bool {
        true
    }

    fn open(&mut self, now: Instant) -> io::Result<bool> {
        self.taken = 0;
        Ok(self.shared.is_wanted(now))
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.shared.append(message).map_err(io::Error::other)?;
        self.taken += 1;
        Ok(())
    }

    fn acknowledged(&mut self) -> u64 {
        self.taken
    }

    /// Each file begins with all options, lest they go with an older one.
    fn is_due(&mut self, now: Instant) -> bool {
        !self.shared.is_wanted(now) || (self.taken > 0 && self.shared.spool().begins_file())
    }
}

impl Drop for Intake {
    /// The last file is complete, as those before it are.
    fn drop(&mut self) {
        if let Err(error) = self.shared.spool().complete() {
            tracing::error!(%error, "the last file of the spool is not complete");
        }
    }
}
