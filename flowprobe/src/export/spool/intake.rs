//! A spool as a collector that stands in: it takes the flows while the real one is away and its
//! queue fills up.

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Instant,
};

use super::{Spool, SpoolError};
use crate::export::{Now, account::Outlet, link::Link};

/// Why flows in the spool are lost: it is full.
const FULL: &str = "spool_full";
/// A file of it cannot be read.
const DAMAGED: &str = "spool_damaged";

/// A spool, as the sender of its collector and the one that fills it share it.
#[derive(Debug)]
pub(in crate::export) struct Shared {
    spool: Mutex<Spool>,
    /// Whether flows are to go into it.
    wanted: AtomicBool,
    outlet: Arc<Outlet>,
}

impl Shared {
    /// Takes over what an earlier run has left, too.
    pub(in crate::export) fn new(spool: Spool, outlet: Arc<Outlet>) -> Arc<Self> {
        outlet.account().inherit(spool.waiting());
        Arc::new(Self {
            spool: Mutex::new(spool),
            wanted: AtomicBool::new(false),
            outlet,
        })
    }

    pub(in crate::export) fn spool(&self) -> MutexGuard<'_, Spool> {
        self.spool.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whether flows are to go into it.
    pub(in crate::export) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Ordering::Release);
    }

    fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Acquire)
    }

    /// So many messages of the session that empties it have arrived, `known` of which were known.
    pub(in crate::export) fn acknowledged(
        &self,
        known: u64,
        messages: u64,
        now: Now,
    ) -> Result<(), SpoolError> {
        let mut spool = self.spool();
        let mut account = self.outlet.account();
        for message in known..messages {
            let settled = spool.acknowledged(message + 1)?;
            account.leave_spool(settled.sent, None, now);
            account.leave_spool(settled.dropped, Some(DAMAGED), now);
        }
        Ok(())
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

    fn open(&mut self, _now: Instant) -> io::Result<bool> {
        self.taken = 0;
        Ok(self.shared.is_wanted())
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let dropped = self.shared.spool().append(message);
        let dropped = dropped.map_err(io::Error::other)?;
        self.taken += 1;
        let mut account = self.shared.outlet.account();
        account.leave_spool(dropped, Some(FULL), Now::read());
        Ok(())
    }

    fn acknowledged(&mut self) -> u64 {
        self.taken
    }

    /// Each file begins with all options, lest they go with an older one.
    fn is_due(&mut self, _now: Instant) -> bool {
        !self.shared.is_wanted() || (self.taken > 0 && self.shared.spool().begins_file())
    }
}
