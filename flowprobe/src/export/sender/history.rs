//! The latest messages, to find the one that an ICMP error quotes.

use std::collections::VecDeque;

use crate::record::Volume;

/// Errors arrive within a round trip, so this many messages cover it: at 20,000 messages a
/// second 50 ms.
const MESSAGES: usize = 1024;

/// Tells the messages of all domains apart. In IPFIX that is their header, which has the domain and
/// its sequence number, and that of their first set, since a message of templates has the sequence
/// number of the next one; in NetFlow v9 and v5 it is in there too.
const HEAD: usize = 24;

/// The latest messages, and the flow records in each, all of one class.
#[derive(Debug, Default)]
pub(super) struct History {
    sent: VecDeque<([u8; HEAD], usize, Volume)>,
}

impl History {
    /// A message of `class` was sent.
    pub(super) fn push(&mut self, message: &[u8], class: usize, volume: Volume) {
        let Some(head) = message.first_chunk() else {
            return; // no set, no records
        };
        if self.sent.len() == MESSAGES {
            self.sent.pop_front();
        }
        self.sent.push_back((*head, class, volume));
    }

    /// The message that begins with `quote`, taken out: its class and its flows. Routers need not
    /// return more of a datagram than the UDP header (RFC 792): then it is the latest message.
    pub(super) fn take(&mut self, quote: &[u8]) -> Option<(usize, Volume)> {
        let at = match quote.first_chunk() {
            Some(quoted) => self.sent.iter().rposition(|(head, ..)| head == quoted),
            None => self.sent.len().checked_sub(1),
        };
        let (_, class, volume) = self.sent.remove(at?)?;
        Some((class, volume))
    }
}
