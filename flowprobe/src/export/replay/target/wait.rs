//! Whatever has to be waited for, unless a signal comes.

use std::{
    io::{self, ErrorKind},
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use super::{Ended, PATIENCE, PROBE_EVERY, TICK, Target};
use crate::export::Now;

/// After the last datagram: time for its ICMP error to come back.
const LINGER: Duration = Duration::from_millis(100);

impl Target {
    /// Nothing is taken now.
    pub(super) fn wait_for_room(&mut self) -> Result<(), Ended> {
        if self.progress_at.elapsed() >= PATIENCE {
            let error = io::Error::new(ErrorKind::TimedOut, "it has taken nothing for 30 seconds");
            return Err(Ended::Away(error));
        }
        self.pause(TICK)
    }

    /// Without sessions: asks with a template, which has no sequence number to lose, until there
    /// is no error any more.
    pub(super) fn wait_for_collector(&mut self, error: io::Error) -> Result<(), Ended> {
        let collector = self.plan.name.clone();
        tracing::warn!(collector, %error, "collector cannot be reached: it is waited for");
        let mut error = error;
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            self.pause(PROBE_EVERY)?;
            // Those about datagrams from before are in; what comes now is the answer.
            drop(self.take_undelivered());
            let probe = self.framer.probe(Now::read().stamp().unix_s());
            if let Err(refused) = self.link.send(&probe) {
                error = refused;
                continue;
            }
            self.pause(PROBE_EVERY)?;
            match self.take_undelivered() {
                Some(refused) => error = refused,
                None => {
                    tracing::info!(collector, "collector can be reached again");
                    return Ok(());
                }
            }
        }
        Err(Ended::Away(error))
    }

    /// All is sent; it may not have arrived.
    pub(super) fn wait_for_the_last(&mut self) -> Result<(), Ended> {
        if !self.sessions {
            self.pause(LINGER)?;
            return match self.take_undelivered() {
                Some(error) => Err(Ended::Away(error)),
                None => Ok(()),
            };
        }
        while !self.in_flight.is_empty() {
            self.listen()?;
            if self.progress_at.elapsed() >= PATIENCE {
                return Err(Ended::Broken(ErrorKind::TimedOut.into()));
            }
            thread::sleep(TICK);
        }
        Ok(())
    }

    /// Waits, unless a signal comes.
    pub(super) fn pause(&self, time: Duration) -> Result<(), Ended> {
        const SLICE: Duration = Duration::from_millis(50);
        let until = Instant::now() + time;
        loop {
            if self.plan.stop.load(Ordering::Relaxed) {
                return Err(Ended::Asked);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            thread::sleep(left.min(SLICE));
        }
    }
}
