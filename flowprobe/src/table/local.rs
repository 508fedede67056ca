//! The flow table of inputs that are read in userspace: one owner, and a clock that packets drive.
//!
//! A flow leaves it at the moment when it is due, and not at the next sweep: what is due first
//! stands at the front of one of three orders, so that neither a packet nor the end of a flow
//! costs more where there are more flows.

mod order;
#[cfg(test)]
mod tests;

use flowprobe_ebpf::{
    Counters, Marks, Packet, Parsed, flow::Macs, hash::SECRET_WORDS, sampling::Sampled, wire::tcp,
};
use hashbrown::HashTable;

use self::order::{Order, Queue};
use crate::{
    record::{EndReason, FlowKey, Volume},
    table::{
        Flow,
        expiry::{Due, Expiry},
    },
};

/// Stamps may step back this far and still be of the same recording: those of packets that
/// several interfaces or queues received, or of a clock that was set. The clock of the table
/// stands still meanwhile. Whatever is further back is another recording.
pub const MAX_STEP_BACK_NS: u64 = 60_000_000_000;

/// Takes the flows that leave the table, and why they do.
pub trait Leave {
    /// Takes one.
    fn leave(&mut self, flow: &Flow, reason: EndReason);
}

/// A flow, and what places it.
#[derive(Debug)]
struct Entry {
    flow: Flow,
    hash: u64,
    /// The table's clock at the first and at the last packet. Unlike stamps it never steps back,
    /// so that the orders are sorted by it.
    since_ns: u64,
    touched_ns: u64,
}

/// Flows in memory of this process.
#[derive(Debug)]
pub struct LocalTable {
    secret: [u64; SECRET_WORDS],
    expiry: Expiry,
    capacity: usize,
    index: HashTable<u32>,
    entries: Vec<Entry>,
    free: Vec<u32>,
    /// All flows, by their first packet.
    by_age: Order,
    all: Queue,
    /// By the last packet: flows without FIN and RST, and those with one.
    by_silence: Order,
    silent: [Queue; 2],
    /// The latest stamp of this recording.
    now_ns: u64,
    /// No flow is due before.
    next_due_ns: u64,
    peak: usize,
    displaced: u64,
    steps_back: u64,
}

impl LocalTable {
    /// An empty table for at most `capacity` flows. `secret` keeps senders from aiming at one
    /// place of it.
    #[must_use]
    pub fn new(capacity: u32, expiry: Expiry, secret: [u64; SECRET_WORDS]) -> Self {
        Self {
            secret,
            expiry,
            capacity: (capacity as usize).max(1),
            index: HashTable::new(),
            entries: Vec::new(),
            free: Vec::new(),
            by_age: Order::default(),
            all: Queue::default(),
            by_silence: Order::default(),
            silent: [Queue::default(); 2],
            now_ns: 0,
            next_due_ns: u64::MAX,
            peak: 0,
            displaced: 0,
            steps_back: 0,
        }
    }

    /// Octets of a flow; the index takes up to 12 more, and both grow by doubling.
    #[must_use]
    pub fn entry_octets() -> usize {
        size_of::<Entry>() + Order::LINK_OCTETS * 2
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.index.len()
    }

    /// Whether there is no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.index.is_empty()
    }

    /// The most flows that there ever were.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Flows that had to leave since the table was full.
    #[must_use]
    pub fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Times that stamps stepped back by more than [`MAX_STEP_BACK_NS`].
    #[must_use]
    pub fn steps_back(&self) -> u64 {
        self.steps_back
    }

    /// The latest stamp.
    #[must_use]
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// What is in the table.
    #[must_use]
    pub fn held(&self) -> Volume {
        let mut held = Volume::default();
        for &slot in &self.index {
            let counters = &self.entries[slot as usize].flow.counters;
            held += Volume {
                records: 1,
                packets: counters.packets,
                octets: counters.octets,
            };
        }
        held
    }

    /// A packet was stamped `at_ns`: lets go what is due by then.
    pub fn advance(&mut self, at_ns: u64, out: &mut impl Leave) {
        if at_ns.saturating_add(MAX_STEP_BACK_NS) < self.now_ns {
            self.flush(out);
            self.steps_back += 1;
            self.now_ns = at_ns;
        }
        self.now_ns = self.now_ns.max(at_ns);
        if self.next_due_ns > self.now_ns {
            return;
        }
        while let Some((slot, due)) = self.next() {
            self.next_due_ns = due.since_ns;
            if due.since_ns > self.now_ns {
                return;
            }
            self.let_go(slot, due.reason, out);
        }
        self.next_due_ns = u64::MAX;
    }

    /// Adds the packet of a frame that came in on `ifindex`, stamped `at_ns`, to its flow.
    pub fn account(
        &mut self,
        parsed: &Parsed,
        ifindex: u32,
        macs: Macs,
        at_ns: u64,
        out: &mut impl Leave,
    ) {
        self.advance(at_ns, out);
        let packet = &parsed.packet;
        let key = FlowKey::of(parsed, ifindex, Sampled::default());
        let hash = key.hash(&self.secret);
        let found = self
            .index
            .find(hash, |&slot| self.entries[slot as usize].flow.key == key);
        if let Some(&slot) = found {
            match self.over_before(slot, packet, at_ns) {
                None => return self.add(slot, packet, at_ns),
                Some(reason) => self.let_go(slot, reason, out),
            }
        }
        if self.len() == self.capacity {
            self.displace(out);
        }
        self.insert(Flow::first(key, packet, macs, at_ns), hash);
    }

    /// Lets everything go, since metering ends.
    pub fn flush(&mut self, out: &mut impl Leave) {
        while let Some(slot) = self.all.front() {
            let reason = last_reason(&self.entries[slot as usize].flow.marks);
            self.let_go(slot, reason, out);
        }
        self.next_due_ns = u64::MAX;
    }

    /// Why a flow has to leave before `packet` can begin another one of the same key.
    fn over_before(&self, slot: u32, packet: &Packet, at_ns: u64) -> Option<EndReason> {
        let Flow {
            counters, marks, ..
        } = &self.entries[slot as usize].flow;
        if packet.tcp_flags & tcp::SYN != 0 && marks.ended() {
            return Some(EndReason::EndOfFlow);
        }
        // By the clock it would have left already; stamps that step back can span more.
        let span_ns = counters.last_ns.max(at_ns) - counters.first_ns.min(at_ns);
        let over = self.expiry.is_active_for(span_ns);
        over.then_some(match marks.ended() {
            true => EndReason::EndOfFlow,
            false => EndReason::ActiveTimeout,
        })
    }

    fn add(&mut self, slot: u32, packet: &Packet, at_ns: u64) {
        let entry = &mut self.entries[slot as usize];
        let ended = entry.flow.marks.ended();
        entry.flow.add(packet, at_ns);
        entry.touched_ns = self.now_ns;
        let ends = entry.flow.marks.ended();
        let [from, to] = [ended, ends].map(usize::from);
        self.by_silence.remove(&mut self.silent[from], slot);
        self.by_silence.push_back(&mut self.silent[to], slot);
        if ends != ended {
            self.expect(self.now_ns);
        }
    }

    fn insert(&mut self, flow: Flow, hash: u64) {
        let ends = flow.marks.ended();
        let entry = Entry {
            flow,
            hash,
            since_ns: self.now_ns,
            touched_ns: self.now_ns,
        };
        let slot = match self.free.pop() {
            Some(slot) => {
                self.entries[slot as usize] = entry;
                slot
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.by_age.push_back(&mut self.all, slot);
        let to = &mut self.silent[usize::from(ends)];
        self.by_silence.push_back(to, slot);
        let entries = &self.entries;
        self.index
            .insert_unique(hash, slot, |&slot| entries[slot as usize].hash);
        self.peak = self.peak.max(self.index.len());
        self.expect(self.now_ns);
    }

    /// Something changed at `now_ns` that may be due sooner than all else.
    fn expect(&mut self, now_ns: u64) {
        let due_ns = now_ns.saturating_add(self.expiry.shortest_ns());
        self.next_due_ns = self.next_due_ns.min(due_ns);
    }

    /// What is due first, and when.
    fn next(&self) -> Option<(u32, Due)> {
        let [going_on, ended] = &self.silent;
        let fronts = [ended.front(), going_on.front(), self.all.front()];
        let due = |slot: u32| {
            let entry = &self.entries[slot as usize];
            let times = Counters {
                first_ns: entry.since_ns,
                last_ns: entry.touched_ns,
                ..entry.flow.counters
            };
            (slot, self.expiry.next(&times, &entry.flow.marks))
        };
        let fronts = fronts.into_iter().flatten();
        fronts.map(due).min_by_key(|(_, due)| due.since_ns)
    }

    /// Makes room: the flow that has been silent for longest leaves.
    fn displace(&mut self, out: &mut impl Leave) {
        // Of two that are silent for as long, the one that has ended.
        let fronts = self.silent.iter().rev().filter_map(Queue::front);
        let silent = fronts.min_by_key(|&slot| self.entries[slot as usize].touched_ns);
        if let Some(slot) = silent {
            self.displaced += 1;
            self.let_go(slot, EndReason::LackOfResources, out);
        }
    }

    /// Takes a flow out.
    fn let_go(&mut self, slot: u32, reason: EndReason, out: &mut impl Leave) {
        let entry = &self.entries[slot as usize];
        let from = &mut self.silent[usize::from(entry.flow.marks.ended())];
        self.by_silence.remove(from, slot);
        self.by_age.remove(&mut self.all, slot);
        if let Ok(found) = self.index.find_entry(entry.hash, |&other| other == slot) {
            found.remove();
        }
        self.free.push(slot);
        out.leave(&entry.flow, reason);
    }
}

/// Why a flow leaves that has to leave with the table.
fn last_reason(marks: &Marks) -> EndReason {
    match marks.ended() {
        true => EndReason::EndOfFlow,
        false => EndReason::ForcedEnd,
    }
}
