//! A class of packets is sampled in another way from now on: one epoch of it ends, another begins.
//!
//! All flows of the old epoch leave the tables before the first record of the new one goes to export,
//! so that a collector which applies the last rate that it was told is never wrong.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::Sweeper;
use crate::{clock::monotonic_ns, sampling::Sampling};

/// How long the drainer may take for what the rings hold.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Between looks at the rings.
const DRAIN_WAIT: Duration = Duration::from_millis(1);

/// Why a class is not sampled in another way.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such class.
    #[error("there is no class {0} of packets")]
    Class(u8),
    /// The old epoch's flows leave the tables later, each still with its own rate.
    #[error(
        "the rate is changed, but flows of the old one are still to come: no grace period: {0}"
    )]
    Grace(#[from] io::Error),
}

impl Sweeper {
    /// Samples a class in another way. Returns the number of the epoch that begins.
    ///
    /// # Errors
    /// There is no such class; or the kernel refused a grace period, but the rate has changed.
    pub fn change(&mut self, class: u8, sampling: Sampling) -> Result<u32, ChangeError> {
        let begun = self.emitter.begin(class, sampling);
        let epoch = begun.ok_or(ChangeError::Class(class))?;
        self.changed_ns = monotonic_ns();
        self.shared.change(class, epoch, sampling);
        let taken_out = self.take_out_old();
        let ended = epoch - 1;
        let selection = self.shared.selection(class, ended);
        self.emitter.rates().end(class, ended, selection);
        self.emitter.conclude(sampling);
        taken_out?;
        Ok(epoch)
    }

    /// Takes out all flows of epochs that have ended.
    fn take_out_old(&mut self) -> io::Result<()> {
        // From here on no program goes by the old word, and nothing of its epoch enters a table.
        self.grace.wait()?;
        self.sweep(0..self.steps())?;
        // What the program had moved to the rings before that is now in userspace's table, once the
        // rings have been read as far as they were written.
        self.wait_for_drainer();
        self.sweep(0..self.steps())
    }

    fn wait_for_drainer(&self) {
        let cpus = 0..self.shared.geometry().partitions;
        let heads: Vec<(u32, u64)> = cpus.map(|cpu| (cpu, self.shared.ring_head(cpu))).collect();
        let start = Instant::now();
        let behind = |(cpu, head): &(u32, u64)| self.shared.ring_tail(*cpu) < *head;
        while heads.iter().any(behind) && start.elapsed() < DRAIN_LIMIT {
            thread::sleep(DRAIN_WAIT);
        }
    }
}
