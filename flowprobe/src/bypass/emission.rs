//! The thread that makes records of all workers' flows.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use super::{mailbox::Mailbox, shard::Out};
use crate::{
    clock::monotonic_ns,
    table::{Emitter, expiry::Due, local::Part},
};

/// How long it sleeps where nothing has come.
const PAUSE: Duration = Duration::from_millis(2);
/// Records of a batch that is not full wait so long for more.
const FLUSH_NS: u64 = 50_000_000;

/// What other threads tell it, and it them.
#[derive(Debug, Default)]
pub struct Marks {
    stop: AtomicBool,
    /// The last mark that has come out of all tables.
    reached: AtomicU64,
}

impl Marks {
    /// Whether all is handed on that left tables before this mark was sent.
    #[must_use]
    pub fn has_reached(&self, id: u64) -> bool {
        self.reached.load(Ordering::Acquire) >= id
    }

    /// Tells it to end.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }
}

/// Makes records of flows.
pub struct Emission {
    emitter: Emitter,
    /// Of each worker.
    outs: Vec<Arc<Mailbox<Out>>>,
    marks: Arc<Marks>,
    /// The last mark of each.
    reached: Vec<u64>,
    taken: Vec<Out>,
    flushed_ns: u64,
}

impl Emission {
    /// One that has not begun.
    #[must_use]
    pub fn new(emitter: Emitter, outs: Vec<Arc<Mailbox<Out>>>, marks: Arc<Marks>) -> Self {
        Self {
            emitter,
            reached: vec![0; outs.len()],
            outs,
            marks,
            taken: Vec::new(),
            flushed_ns: 0,
        }
    }

    /// Works until it is told to stop.
    pub fn run(&mut self) {
        while !self.marks.stop.load(Ordering::Acquire) {
            let some = self.look();
            if !some {
                thread::sleep(PAUSE);
            }
        }
    }

    /// Takes all that is there; whether there was anything.
    pub fn look(&mut self) -> bool {
        let now_ns = monotonic_ns();
        let (mut some, mut marked) = (false, false);
        for i in 0..self.outs.len() {
            let mut taken = std::mem::take(&mut self.taken);
            self.outs[i].take(&mut taken);
            some |= !taken.is_empty();
            for out in taken.drain(..) {
                match out {
                    Out::Flow(part) => self.emit(&part, now_ns),
                    Out::Mark(id) => {
                        self.reached[i] = id;
                        marked = true;
                    }
                }
            }
            self.taken = taken;
        }
        if marked || now_ns >= self.flushed_ns + FLUSH_NS {
            // What waits for the other half of a biflow waits by this clock.
            self.emitter.at(now_ns);
            self.emitter.flush();
            self.flushed_ns = now_ns;
        }
        if marked && let Some(all) = self.reached.iter().min() {
            self.marks.reached.store(*all, Ordering::Release);
        }
        some
    }

    /// Makes a record of a flow.
    pub fn emit(&mut self, part: &Part, now_ns: u64) {
        let reason = part.reason;
        match part.due_ns {
            Some(since_ns) => self
                .emitter
                .emit_due(&part.flow, Due { reason, since_ns }, now_ns),
            None => self.emitter.emit(&part.flow, reason),
        }
    }

    /// Hands on all there is, since nothing more will come.
    pub fn finish(mut self) {
        self.look();
        self.emitter.finish();
    }
}
