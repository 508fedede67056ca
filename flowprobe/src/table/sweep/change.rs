//! A class of packets is sampled in another way from now on: one epoch of it ends, another begins.
//!
//! All flows of the old epoch leave the tables before the first record of the new one goes to export,
//! so that a collector which applies the last rate that it was told is never wrong.

use std::{
    io,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::Sweeper;
use crate::{clock::monotonic_ns, sampling::Sampling};

/// Parts of a pass that share a grace period: of a table that is full of old flows, few ways are
/// taken out of the program's hands at a time.
const PARTS: u32 = 16;
/// How long the drainer may take for what the rings hold.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);
/// Between looks at the rings.
const DRAIN_WAIT: Duration = Duration::from_millis(1);

/// Why a class is not sampled in another way.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// There is no such class, or it has had all epochs that there are numbers for.
    #[error("class {0} of packets is not there, or its rate has changed 16 million times")]
    Class(u8),
    /// The rings are not read.
    #[error(
        "the rate is changed, but flows of the old one are still to come: the rings were not emptied \
         within {DRAIN_LIMIT:?}"
    )]
    Rings,
    /// A worker hangs.
    #[error(
        "the rate is changed, but flows of the old one are still to come: the workers did not let \
         them go within {0:?}"
    )]
    Workers(Duration),
    /// The old epoch's flows leave the tables later, each still with its own rate.
    #[error(
        "the rate is changed, but flows of the old one are still to come: no grace period: {0}"
    )]
    Grace(#[from] io::Error),
}

/// A class is sampled in another way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Changed {
    /// The epoch that has begun.
    pub epoch: u32,
    /// When it began, nanoseconds of CLOCK_MONOTONIC.
    pub since_ns: u64,
    /// Flows that the old epoch had in the tables. Those that go on come into them anew.
    pub flows: u64,
}

/// A class is to be sampled in another way: what the thread that does it is sent.
#[derive(Debug)]
pub struct ChangeRequest {
    class: u8,
    sampling: Sampling,
    answer: oneshot::Sender<Result<Changed, ChangeError>>,
}

impl ChangeRequest {
    /// Sends one; the answer comes when it is done. Where nobody receives any more, nobody answers
    /// either.
    pub fn send(
        to: &mpsc::Sender<Self>,
        class: u8,
        sampling: Sampling,
    ) -> oneshot::Receiver<Result<Changed, ChangeError>> {
        let (answer, answered) = oneshot::channel();
        drop(to.send(Self {
            class,
            sampling,
            answer,
        }));
        answered
    }

    /// Does it, and tells who asked, who may have gone.
    pub fn carry_out(self, change: impl FnOnce(u8, Sampling) -> Result<Changed, ChangeError>) {
        drop(self.answer.send(change(self.class, self.sampling)));
    }
}

impl Sweeper {
    /// Samples a class in another way.
    ///
    /// # Errors
    /// There is no such class. Any other error comes after the rate has changed.
    pub fn change(&mut self, class: u8, sampling: Sampling) -> Result<Changed, ChangeError> {
        let begun = self.emitter.begin(class, sampling);
        let epoch = begun.ok_or(ChangeError::Class(class))?;
        self.changed_ns = monotonic_ns();
        let before = self.emitter.records();
        self.shared.change(class, epoch, sampling);
        let taken_out = self.take_out_old(class, epoch - 1);
        self.emitter.conclude(sampling);
        taken_out?;
        Ok(Changed {
            epoch,
            since_ns: self.changed_ns,
            flows: self.emitter.records() - before,
        })
    }

    /// Takes out all flows of epochs that have ended, of which `ended` of `class` is the last.
    fn take_out_old(&mut self, class: u8, ended: u32) -> Result<(), ChangeError> {
        // From here on no program goes by the old word, and nothing of its epoch enters a table.
        self.grace.wait()?;
        let selection = self.shared.selection(class, ended);
        self.emitter.rates().end(class, ended, selection);
        self.pass()?;
        // A flow that a program is moving from the table to the ring is in neither.
        self.grace.wait()?;
        // What is in the rings now is in userspace's table once they are read so far.
        self.wait_for_drainer()?;
        self.pass()
    }

    /// Looks at every flow.
    fn pass(&mut self) -> Result<(), ChangeError> {
        let steps = self.steps();
        let part = steps.div_ceil(PARTS);
        for first in (0..steps).step_by(part as usize) {
            self.sweep(first..steps.min(first + part))?;
        }
        Ok(())
    }

    fn wait_for_drainer(&self) -> Result<(), ChangeError> {
        let cpus = 0..self.shared.geometry().partitions;
        let heads: Vec<(u32, u64)> = cpus.map(|cpu| (cpu, self.shared.ring_head(cpu))).collect();
        let start = Instant::now();
        let behind = |(cpu, head): &(u32, u64)| self.shared.ring_tail(*cpu) < *head;
        while heads.iter().any(behind) {
            if start.elapsed() > DRAIN_LIMIT {
                return Err(ChangeError::Rings);
            }
            thread::sleep(DRAIN_WAIT);
        }
        Ok(())
    }
}
