//! Several captures as one, by the time of their packets.
//!
//! Each capture is in the order that it has: where its own stamps step back, that packet is the next
//! one. Memory is that of one capture, times their number.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, binary_heap::PeekMut},
    io::Read,
    sync::atomic::{AtomicBool, Ordering},
};

use super::{FileSummary, Take, capture::Capture};

/// A capture, and what it had so far.
struct Source<R> {
    capture: Capture<R>,
    file: FileSummary,
    /// The stamp of its next packet, or of the last one that had a stamp.
    at_ns: u64,
}

/// Reads them all, to the end of the last one.
pub(super) fn read<R: Read>(
    captures: impl Iterator<Item = Capture<R>>,
    to: &mut impl Take,
    stop: &AtomicBool,
) -> Vec<FileSummary> {
    let mut sources: Vec<_> = captures.map(Source::new).collect();
    // By time, and at the same time in the order in which they were named.
    let mut next = BinaryHeap::new();
    for (number, source) in sources.iter_mut().enumerate() {
        if source.step(to, stop) {
            next.push(Reverse((source.at_ns, number)));
        }
    }
    while let Some(mut first) = next.peek_mut() {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let Reverse((at_ns, number)) = &mut *first;
        let source = &mut sources[*number];
        source.give(to);
        match source.step(to, stop) {
            true => *at_ns = source.at_ns,
            false => drop(PeekMut::pop(first)),
        }
    }
    let files = sources.into_iter().map(|source| source.file);
    files.map(FileSummary::warned).collect()
}

impl<R: Read> Source<R> {
    fn new(capture: Capture<R>) -> Self {
        let (name, format) = (capture.name(), capture.format());
        tracing::info!("metering {name} ({format})");
        Self {
            file: FileSummary::new(name, format),
            capture,
            at_ns: 0,
        }
    }

    /// Goes to the next packet; false if there is none.
    fn step(&mut self, to: &mut impl Take, stop: &AtomicBool) -> bool {
        match self.capture.next(|| to.waits()) {
            Ok(Some(captured)) => {
                self.at_ns = captured.at_ns.unwrap_or(self.at_ns);
                true
            }
            Ok(None) => false,
            Err(error) => {
                // Unless it was broken off in the middle of a packet.
                if !stop.load(Ordering::Relaxed) {
                    self.file.fail(&error);
                }
                false
            }
        }
    }

    /// Hands on the packet that it is at.
    fn give(&mut self, to: &mut impl Take) {
        if let Some(captured) = self.capture.current() {
            to.take(&captured);
            self.file.count(&captured);
        }
    }
}
