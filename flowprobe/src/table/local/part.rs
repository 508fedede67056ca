//! Flows of which several tables have parts: one that leaves is shown to the others, as in the
//! kernel's tables all parts of a flow are looked at together.

use flowprobe_ebpf::{Counters, KeyV4, KeyV6, KeyWide};

use super::{Kept, Leave, LocalTable, burst::NO_GUESS, last_reason};
use crate::{
    record::{EndReason, FlowKey},
    table::{
        Flow,
        expiry::{Due, Expiry},
    },
};

/// A flow that has left a table, of which others may have parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// What the table knew of it.
    pub flow: Flow,
    /// Of its key: the same in all tables of one secret.
    pub hash: u64,
    /// The table's clock at its first packet.
    pub since_ns: u64,
    /// The same at its last one.
    pub touched_ns: u64,
    /// Why it left.
    pub reason: EndReason,
    /// When it was due, where it left by time.
    pub due_ns: Option<u64>,
    /// The stamp of the packet that began another flow of the same key, where it left by that.
    pub cut_ns: Option<u64>,
}

/// What a table says to a part of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Met {
    /// It has nothing of this flow.
    Absent,
    /// What it had is in the part now.
    Taken,
    /// The part is in the table now, since the flow goes on there.
    Kept,
}

impl Part {
    /// Why and when all that is known of it is due.
    fn next(&self, expiry: &Expiry) -> Due {
        let times = Counters {
            first_ns: self.since_ns,
            last_ns: self.touched_ns,
            ..self.flow.counters
        };
        expiry.next(&times, &self.flow.marks)
    }

    /// From then on packets of its key are another flow.
    fn ends_ns(&self, expiry: &Expiry) -> u64 {
        let due_ns = self.next(expiry).since_ns;
        self.cut_ns.map_or(due_ns, |cut_ns| cut_ns.min(due_ns))
    }

    /// Whether both are parts of one flow, and neither began when the other was over.
    #[must_use]
    pub fn is_one_with(&self, other: &Self, expiry: &Expiry) -> bool {
        self.flow.key == other.flow.key
            && self.ends_ns(expiry) > other.since_ns
            && other.ends_ns(expiry) > self.since_ns
    }

    /// Adds another part of the same flow.
    pub fn merge(&mut self, other: &Self) {
        self.flow.merge(&other.flow);
        self.since_ns = self.since_ns.min(other.since_ns);
        self.touched_ns = self.touched_ns.max(other.touched_ns);
        self.cut_ns = match (self.cut_ns, other.cut_ns) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }

    /// Says why the flow leaves, of which this is all that there is, at `now_ns`; false if it has no
    /// reason to, since its last packet is younger than was known where it left.
    #[must_use]
    pub fn judge(&mut self, expiry: &Expiry, now_ns: u64) -> bool {
        if self.cut_ns.is_some() {
            self.due_ns = None;
            self.reason = match self.flow.marks.ended() {
                true => EndReason::EndOfFlow,
                false => EndReason::ActiveTimeout,
            };
            return true;
        }
        let due = self.next(expiry);
        if due.since_ns <= now_ns {
            self.reason = due.reason;
            self.due_ns = Some(due.since_ns);
            return true;
        }
        self.due_ns = None;
        if self.reason == EndReason::ForcedEnd {
            self.reason = last_reason(&self.flow.marks);
            return true;
        }
        false
    }
}

impl LocalTable {
    /// When flows are due.
    #[must_use]
    pub fn expiry(&self) -> &Expiry {
        &self.expiry
    }

    /// Shows the table a part of a flow that has left another one. Packets that wait are accounted
    /// first: call [`LocalTable::settle`].
    pub fn meet(&mut self, part: &mut Part) -> Met {
        debug_assert!(self.burst.len() == 0, "packets wait");
        match part.flow.key {
            FlowKey::V4(key) => self.meet_in(key, part),
            FlowKey::V6(key) => self.meet_in(key, part),
            FlowKey::Wide(key) => self.meet_in(key, part),
        }
    }

    fn meet_in<K: Kept>(&mut self, key: K, part: &mut Part) -> Met {
        let shelf = K::shelf_mut(&mut self.shelves);
        let Some(slot) = shelf.find(&key, part.hash, NO_GUESS) else {
            return Met::Absent;
        };
        let mine = shelf.part(slot);
        if !part.is_one_with(&mine, &self.expiry) {
            return Met::Absent;
        }
        let mut whole = *part;
        whole.merge(&mine);
        if whole.judge(&self.expiry, self.now_ns) {
            shelf.remove(slot);
            self.len -= 1;
            *part = whole;
            return Met::Taken;
        }
        shelf.set(slot, &whole);
        let due_ns = whole.next(&self.expiry).since_ns;
        if due_ns < shelf.cold[slot].look_ns {
            self.schedule::<K>(slot, due_ns);
        }
        self.place::<K>(slot);
        Met::Kept
    }

    /// Lets all flows go for which `of` says so, whether they are due or not.
    pub fn let_go_all(&mut self, of: impl Fn(&FlowKey) -> bool, out: &mut impl Leave) {
        self.settle(out);
        self.let_go_of::<KeyV4>(&of, out);
        self.let_go_of::<KeyV6>(&of, out);
        self.let_go_of::<KeyWide>(&of, out);
    }

    fn let_go_of<K: Kept>(&mut self, of: &impl Fn(&FlowKey) -> bool, out: &mut impl Leave) {
        let shelf = K::shelf(&self.shelves);
        let is_one = |slot: &u32| of(&shelf.hot[*slot].key.flow_key());
        let slots: Vec<u32> = shelf.live().filter(is_one).collect();
        for slot in slots {
            self.let_go::<K>(slot, out, |part| Part {
                reason: last_reason(&part.flow.marks),
                ..part
            });
        }
    }
}
