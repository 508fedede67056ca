//! The latest messages, to find the one that an ICMP error quotes.

use std::collections::VecDeque;

use crate::{export::account::Load, record::Volume};

/// Errors arrive within a round trip, so this many messages cover it: at 20,000 messages a
/// second 50 ms.
const MESSAGES: usize = 1024;

/// Tells the messages of all domains apart. In IPFIX that is their header, which has the domain and
/// its sequence number, and that of their first set, since a message of templates has the sequence
/// number of the next one; in NetFlow v9 and v5 it is in there too.
const HEAD: usize = 24;

/// The first octets of a message. Those of a shorter one, a record of a field or two, end in zeros;
/// its length is among them, so that none is taken for another.
fn head(message: &[u8]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    let octets = message.len().min(HEAD);
    head[..octets].copy_from_slice(&message[..octets]);
    head
}

/// The latest messages, and the flow records in each, all of one class.
#[derive(Debug, Default)]
pub(super) struct History {
    sent: VecDeque<Sent>,
    /// Number of the batch at hand.
    batch: u64,
}

#[derive(Debug)]
struct Sent {
    head: [u8; HEAD],
    load: Load,
    octets: usize,
    batch: u64,
}

impl History {
    /// The next messages are handed over together.
    pub(super) fn next_batch(&mut self) {
        self.batch += 1;
    }

    /// A message was sent.
    pub(super) fn push(&mut self, message: &[u8], load: Load) {
        if self.sent.len() == MESSAGES {
            self.sent.pop_front();
        }
        self.sent.push_back(Sent {
            head: head(message),
            load,
            octets: message.len(),
            batch: self.batch,
        });
    }

    /// The message that begins with `quote`, taken out: what it carried. Routers need not
    /// return more of a datagram than the UDP header (RFC 792): then it is the latest message.
    ///
    /// With `all_behind` those that were handed over together with it and behind it too: where
    /// nobody listens the host answers the first of them only, and the loopback device even takes
    /// them for one datagram.
    pub(super) fn take(&mut self, quote: &[u8], all_behind: bool) -> Option<Load> {
        let at = self.position(quote)?;
        let first = self.sent.get(at)?;
        let (class, batch) = (first.load.class, first.batch);
        let together = self.sent.iter().skip(at);
        let together = together.take_while(|sent| sent.batch == batch).count();
        let end = at + if all_behind { together } else { 1 };
        let mut load = Load {
            class,
            volume: Volume::default(),
            flow_records: 0,
        };
        for sent in self.sent.drain(at..end) {
            load.volume += sent.load.volume;
            load.flow_records += sent.load.flow_records;
        }
        Some(load)
    }

    /// The messages from that which begins with `quote` on that are longer than `octets`, taken out:
    /// what they carried. A router that refuses those that are too long for the path says so
    /// of one in a while.
    pub(super) fn take_longer(&mut self, quote: &[u8], octets: usize) -> Vec<Load> {
        let Some(at) = self.position(quote) else {
            return Vec::new();
        };
        let behind = self.sent.split_off(at);
        let mut taken = Vec::new();
        for sent in behind {
            if sent.octets > octets {
                taken.push(sent.load);
            } else {
                self.sent.push_back(sent);
            }
        }
        taken
    }

    /// Where the message is that begins with `quote`; the latest one if too little is quoted.
    fn position(&self, quote: &[u8]) -> Option<usize> {
        let quoted = head(quote);
        let found = self.sent.iter().rposition(|sent| sent.head == quoted);
        let cut_off = quote.len() < HEAD;
        let latest = || self.sent.len().checked_sub(1).filter(|_| cut_off);
        found.or_else(latest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(records: u64) -> Load {
        Load {
            class: 0,
            volume: Volume {
                records,
                ..Volume::default()
            },
            flow_records: records / 2,
        }
    }

    /// One record of a field or two makes a message that is shorter than the head of others.
    #[test]
    fn a_message_shorter_than_a_head_is_found_too() {
        let message = |number: u8| [number; HEAD - 3];
        let mut history = History::default();
        for number in 1..4 {
            history.push(&message(number), load(1 << number));
        }
        history.push(&[4; HEAD], load(16));
        assert_eq!(history.take(&message(2), false), Some(load(4)));
        assert_eq!(history.take(&[4; HEAD + 3], false), Some(load(16)));
        // What a router has cut off is of the latest; what is whole and unknown of none.
        assert_eq!(history.take(&[1; 8], false), Some(load(8)));
        assert_eq!(history.take(&[5; HEAD], false), None);
    }

    #[test]
    fn what_is_longer_than_the_path_takes_is_lost_from_the_first_on() {
        let mut history = History::default();
        let octets = [100, 60, 100, 24, 61];
        for (number, octets) in octets.into_iter().enumerate() {
            history.next_batch();
            let mut message = vec![number as u8; HEAD];
            message.resize(octets, 0);
            history.push(&message, load(1 << number));
        }
        assert_eq!(history.take_longer(&[9; HEAD], 60), []);
        let taken = history.take_longer(&[1; HEAD], 60);
        assert_eq!(taken, [load(4), load(16)]);
        assert_eq!(history.take_longer(&[2; HEAD], 60), [], "taken once");
        let left = [0, 1, 3].map(|number| history.take(&[number; HEAD], false));
        assert_eq!(left.map(|left| left.is_some()), [true; 3]);
    }

    #[test]
    fn a_refusal_speaks_for_what_was_handed_over_behind_it() {
        let message = |number: u8| [number; HEAD];
        let filled = || {
            let mut history = History::default();
            for batch in [1..4, 4..6] {
                history.next_batch();
                for number in batch {
                    history.push(&message(number), load(1 << number));
                }
            }
            history
        };
        for (quoted, behind, expected) in [
            (2, false, 4),
            (2, true, 4 + 8),
            (1, true, 2 + 4 + 8),
            (4, true, 16 + 32),
            (5, true, 32),
        ] {
            let mut history = filled();
            let taken = history.take(&message(quoted), behind);
            assert_eq!(taken, Some(load(expected)), "{quoted}");
            assert_eq!(history.take(&message(quoted), behind), None, "taken once");
        }
    }
}
