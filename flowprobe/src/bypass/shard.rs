//! One of several tables that have the flows together, in a ring.
//!
//! Nobody else looks into a table while packets are counted in it. A flow that leaves one may have
//! parts in others, so it is shown to all of them: each passes it on to the next, by a queue that
//! keeps the order. Parts that leave several tables at about the same time must meet, so each
//! flow has a home, the same for all of its parts:
//!
//! 1. A part goes to its home.
//! 2. From there it tours the ring. A table that has a part of the same flow adds it, or keeps both
//!    if the flow is not due by what it knows.
//! 3. Parts that come home meanwhile wait for the tour's end and join it. What has left a table
//!    before the tour came by is ahead of it in the same queues, and so is home before it.
//!
//! Then the flow is whole, and goes out. With one table it does so at once.

#[cfg(test)]
mod tests;

use flowprobe_ebpf::{Packet, Parsed, flow::Macs, sampling::Sampled};
use hashbrown::{HashTable, hash_table::Entry};

use crate::{
    record::{EndReason, FlowKey},
    table::{
        Flow, LocalTable,
        local::{Leave, Met, Part},
    },
};

/// What a table passes on to the next one.
#[derive(Clone, Copy, Debug)]
pub enum Message {
    /// A part on its way home.
    Homing(Part),
    /// A part on its tour, with all that was added to it.
    Tour(Part),
    /// The tour of this key is over: the flow lives on somewhere.
    Over(FlowKey, u64),
    /// Comes behind all that was on its way when it was sent; see [`Shard::mark`].
    Mark {
        /// Which.
        id: u64,
        /// Tables that it is still to visit.
        left: u32,
    },
}

impl Message {
    /// The part of a flow that it carries.
    #[must_use]
    pub fn part(&self) -> Option<&Part> {
        match self {
            Self::Homing(part) | Self::Tour(part) => Some(part),
            Self::Over(..) | Self::Mark { .. } => None,
        }
    }
}

/// What a table sends out of the ring.
#[derive(Clone, Copy, Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all of them are flows")]
pub enum Out {
    /// A whole flow.
    Flow(Part),
    /// All that had left tables before this mark was sent is out; of this table, that is.
    Mark(u64),
}

/// How often a [`Message::Mark`] goes round: a part goes home, then on its tour, then on that of
/// those which it has waited for, each once round at most; and what a mark does not overtake may be
/// a round behind it. Twice as often, for more than two that wait for each other.
const MARK_ROUNDS: u32 = 8;

/// A tour that is on its way, at its home.
#[derive(Debug)]
struct Touring {
    key: FlowKey,
    hash: u64,
    /// Parts that came home meanwhile.
    late: Vec<Part>,
}

/// What has just left the table.
#[derive(Debug, Default)]
struct Departed(Vec<Part>);

impl Leave for Departed {
    fn leave(&mut self, _: &Flow, _: EndReason) {}

    #[inline]
    fn leave_part(&mut self, part: &Part) {
        self.0.push(*part);
    }
}

/// One of several tables.
#[derive(Debug)]
pub struct Shard {
    number: u32,
    of: u32,
    table: LocalTable,
    touring: HashTable<Touring>,
    departed: Departed,
    /// For the next table, in this order.
    pub next: Vec<Message>,
    /// For those who make records of flows, in this order.
    pub out: Vec<Out>,
}

impl Shard {
    /// The table that is number `number` of `of`. All tables have the same secret and timeouts.
    ///
    /// # Panics
    /// There is no such number.
    #[must_use]
    pub fn new(number: u32, of: u32, table: LocalTable) -> Self {
        assert!(number < of, "table {number} of {of}");
        Self {
            number,
            of,
            table,
            touring: HashTable::new(),
            departed: Departed::default(),
            next: Vec::new(),
            out: Vec::new(),
        }
    }

    /// Others are no more: from now on flows leave as they are, and so does what was on its way.
    pub fn stand_alone(&mut self) {
        self.settle();
        let late = self.touring.drain().flat_map(|touring| touring.late);
        self.out.extend(late.map(Out::Flow));
        let sent = self.next.drain(..);
        let parts = sent.filter_map(|message| message.part().copied());
        self.out.extend(parts.map(Out::Flow));
        (self.number, self.of) = (0, 1);
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> &LocalTable {
        &self.table
    }

    /// Whether no flow of which it is the home is on its tour.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.touring.is_empty()
    }

    /// Adds a packet to its flow, later: with the burst that it fills up, or at [`Shard::settle`].
    #[inline(always)]
    pub fn push(&mut self, parsed: &Parsed, at: (u32, Sampled), macs: Macs, at_ns: u64) {
        self.table
            .push_sampled(parsed, at, macs, at_ns, &mut self.departed);
    }

    /// The same for a packet with nothing around it that belongs to the key.
    #[inline(always)]
    pub fn push_plain(&mut self, packet: &Packet, at: (u32, Sampled), macs: Macs, at_ns: u64) {
        self.table
            .push_plain_sampled(packet, at, macs, at_ns, &mut self.departed);
    }

    /// A packet that is in no flow came at `at_ns`.
    pub fn push_time(&mut self, at_ns: u64) {
        self.table.push_time(at_ns, &mut self.departed);
    }

    /// Accounts all packets that wait, and sends off what leaves.
    pub fn settle(&mut self) {
        self.table.settle(&mut self.departed);
        self.send_off();
    }

    /// Lets go what is due at `now_ns`.
    pub fn advance(&mut self, now_ns: u64) {
        self.table.advance(now_ns, &mut self.departed);
        self.send_off();
    }

    /// Lets all flows go for which `of` says so.
    pub fn let_go_all(&mut self, of: impl Fn(&FlowKey) -> bool) {
        self.table.let_go_all(of, &mut self.departed);
        self.send_off();
    }

    /// Lets everything go, since metering ends.
    pub fn flush(&mut self) {
        self.table.flush(&mut self.departed);
        self.send_off();
    }

    /// A mark that the first table is to receive. It comes out of each table once, behind all that has
    /// left tables before.
    #[must_use]
    pub fn mark(id: u64, of: u32) -> Message {
        Message::Mark {
            id,
            left: MARK_ROUNDS * of - 1,
        }
    }

    /// Takes what the table before it has passed on. Packets that wait are accounted first.
    pub fn receive(&mut self, message: Message) {
        self.settle();
        match message {
            Message::Homing(part) if self.is_home(part.hash) => self.come_home(part),
            Message::Tour(part) if self.is_home(part.hash) => self.end_tour(part),
            Message::Over(key, hash) if self.is_home(hash) => {
                for part in self.take_late(&key, hash) {
                    self.come_home(part);
                }
            }
            Message::Tour(mut part) => self.next.push(match self.table.meet(&mut part) {
                Met::Absent | Met::Taken => Message::Tour(part),
                Met::Kept => Message::Over(part.flow.key, part.hash),
            }),
            Message::Homing(_) | Message::Over(..) => self.next.push(message),
            Message::Mark { id, left } => {
                if left < self.of {
                    self.out.push(Out::Mark(id));
                }
                if let Some(left) = left.checked_sub(1) {
                    self.next.push(Message::Mark { id, left });
                }
            }
        }
    }

    /// Whether flows of this hash have their home here. The index of a table uses the lowest bits of
    /// a hash, and the highest.
    fn is_home(&self, hash: u64) -> bool {
        let middle = hash >> 24 & u64::from(u32::MAX);
        (middle * u64::from(self.of)) >> 32 == u64::from(self.number)
    }

    fn send_off(&mut self) {
        if self.departed.0.is_empty() {
            return;
        }
        let mut departed = std::mem::take(&mut self.departed.0);
        for part in departed.drain(..) {
            if self.of == 1 {
                self.out.push(Out::Flow(part));
            } else if self.is_home(part.hash) {
                self.come_home(part);
            } else {
                self.next.push(Message::Homing(part));
            }
        }
        self.departed.0 = departed;
    }

    /// A part is home: it goes on its tour, or waits for the end of the one that goes on.
    fn come_home(&mut self, mut part: Part) {
        let key = part.flow.key;
        let place = self
            .touring
            .entry(part.hash, |other| other.key == key, |other| other.hash);
        let place = match place {
            Entry::Occupied(mut touring) => return touring.get_mut().late.push(part),
            Entry::Vacant(place) => place,
        };
        if self.table.meet(&mut part) == Met::Kept {
            return;
        }
        place.insert(Touring {
            key,
            hash: part.hash,
            late: Vec::new(),
        });
        self.next.push(Message::Tour(part));
    }

    /// A part has been round: with what came home meanwhile it is whole.
    fn end_tour(&mut self, mut part: Part) {
        let late = self.take_late(&part.flow.key, part.hash);
        let expiry = *self.table.expiry();
        let (joins, others): (Vec<_>, Vec<_>) = late
            .into_iter()
            .partition(|late| part.is_one_with(late, &expiry));
        for late in joins {
            part.merge(&late);
            let due_ns = late.due_ns.max(part.due_ns).unwrap_or(0);
            let is_due = part.judge(&expiry, due_ns.max(self.table.latest_ns()));
            if !is_due && late.reason == EndReason::LackOfResources {
                part.reason = late.reason;
            }
        }
        if self.table.meet(&mut part) != Met::Kept {
            self.out.push(Out::Flow(part));
        }
        for part in others {
            self.come_home(part);
        }
    }

    fn take_late(&mut self, key: &FlowKey, hash: u64) -> Vec<Part> {
        let touring = self.touring.find_entry(hash, |other| other.key == *key);
        touring.map_or_else(|_| Vec::new(), |entry| entry.remove().0.late)
    }
}
