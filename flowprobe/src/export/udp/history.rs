//! The latest messages, to find the one that an ICMP error quotes.

use std::collections::VecDeque;

use crate::{
    ipfix::message::{HEADER, SET_HEADER},
    record::Volume,
};

/// Errors arrive within a round trip, so this many messages cover it: at 20,000 messages a
/// second 50 ms.
const MESSAGES: usize = 1024;

/// Tells the messages of all domains apart: their header, which has the domain and its sequence
/// number, and that of their first set, since a message of templates has the sequence number of
/// the next one.
const HEAD: usize = HEADER + SET_HEADER;

/// The flow records in a message, all of one class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cargo {
    pub(super) class: usize,
    pub(super) volume: Volume,
}

/// The latest messages, and the flow records in each.
#[derive(Debug, Default)]
pub(super) struct History {
    sent: VecDeque<([u8; HEAD], Cargo)>,
}

impl History {
    /// A message was sent.
    pub(super) fn push(&mut self, message: &[u8], cargo: Cargo) {
        let Some(head) = message.first_chunk() else {
            return; // no set, no records
        };
        if self.sent.len() == MESSAGES {
            self.sent.pop_front();
        }
        self.sent.push_back((*head, cargo));
    }

    /// The message that begins with `quote`, taken out. Routers need not return more of a
    /// datagram than the UDP header (RFC 792): then it is the latest message.
    pub(super) fn take(&mut self, quote: &[u8]) -> Option<Cargo> {
        let at = match quote.first_chunk() {
            Some(quoted) => self.sent.iter().rposition(|(head, _)| head == quoted),
            None => self.sent.len().checked_sub(1),
        };
        let (_, cargo) = self.sent.remove(at?)?;
        Some(cargo)
    }
}
