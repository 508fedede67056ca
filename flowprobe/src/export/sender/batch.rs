//! Messages that are built and not handed over yet.

use std::collections::VecDeque;

use crate::{encode::Mark, export::account::Cargo};

/// Messages handed over at once: with 1,400 octets each they fill a datagram of 64 KiB, which is
/// what the kernel cuts up (`UDP_SEGMENT`).
const MESSAGES: u64 = 44;

/// A message that is built.
#[derive(Clone, Debug)]
pub(super) struct Unsent {
    pub(super) cargo: Cargo,
    /// By how much it advances the sequence number.
    pub(super) units: u32,
    /// Its encoder before it.
    pub(super) before: Mark,
    /// And after it.
    pub(super) after: Mark,
}

/// Messages of one class, oldest first: of flows, or of what is said besides.
#[derive(Debug, Default)]
pub(super) struct Batch {
    octets: Vec<u8>,
    /// Where each ends, and what it is.
    messages: VecDeque<(usize, Unsent)>,
    /// Where the first one begins.
    start: usize,
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    /// Whether it has all that it may have: so many messages, or fewer.
    pub(super) fn is_full(&self, most: u64) -> bool {
        self.messages.len() as u64 >= most.min(MESSAGES)
    }

    /// Whether it is flows that they carry, and nothing else.
    pub(super) fn has_flows(&self) -> bool {
        self.cargo().is_some_and(|cargo| cargo.records > 0)
    }

    /// Octets of the next message; it need not have any.
    pub(super) fn write(&mut self, message: &[u8]) {
        if self.is_empty() {
            self.clear();
        }
        self.octets.extend_from_slice(message);
    }

    /// The message is whole.
    pub(super) fn close(&mut self, unsent: Unsent) {
        self.messages.push_back((self.octets.len(), unsent));
    }

    /// Octets of the first message.
    pub(super) fn first(&self) -> &[u8] {
        let end = self.messages.front().map_or(self.start, |(end, _)| *end);
        &self.octets[self.start..end]
    }

    /// What the first message carries.
    pub(super) fn cargo(&self) -> Option<&Cargo> {
        self.messages.front().map(|(_, unsent)| &unsent.cargo)
    }

    /// The messages up to the first that says nothing.
    pub(super) fn messages(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = self.start;
        let slices = self.messages.iter().map(move |(end, _)| {
            let message = &self.octets[start..*end];
            start = *end;
            message
        });
        slices.take_while(|message| !message.is_empty())
    }

    /// Takes the first message out.
    pub(super) fn pop(&mut self) -> Option<Unsent> {
        let (end, unsent) = self.messages.pop_front()?;
        self.start = end;
        Some(unsent)
    }

    pub(super) fn clear(&mut self) {
        self.octets.clear();
        self.messages.clear();
        self.start = 0;
    }
}
