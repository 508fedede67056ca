//! Finds flows that are due and takes them out while the program goes on counting.
//!
//! A step looks at one range of buckets on all CPUs and at the shard of the overflow table that
//! holds their flows. What is due is retired; after one grace period for the whole step the
//! slots are read, parts of one flow are added up, and the slots are given back.

mod change;
mod flush;

pub use change::{ChangeError, ChangeRequest, Changed};

use std::{io, ops::Range, sync::Arc};

use flowprobe_ebpf::{
    Counters, KeyV4, KeyV6, KeyWide, Marks,
    key::Key,
    table::{Control, State, WAYS, Way, WayV4, WayV6, WayWide},
};

use crate::{
    clock::monotonic_ns,
    record::{EndReason, FlowKey},
    sampling::Rates,
    table::{
        Emitter, Flow, GracePeriod, Overflow, Shared,
        expiry::{Due, Expiry},
        overflow::Shard,
        shared::{Slot, Table},
    },
};

/// Takes due flows out of the table.
pub struct Sweeper {
    shared: Arc<Shared>,
    overflow: Arc<Overflow>,
    expiry: Expiry,
    grace: Box<dyn GracePeriod>,
    emitter: Emitter,
    /// When the sampling of a class was last changed; flows of its epochs before are due since.
    changed_ns: u64,
    /// Number of the pass over the table, from 1.
    pass: u64,
    /// CPUs that have had a flow. The others' partitions are empty, and there may be many: a
    /// virtual machine often has hundreds of possible CPUs and a few online.
    used: Vec<u32>,
    v4: Lane<WayV4>,
    v6: Lane<WayV6>,
    wide: Lane<WayWide>,
    /// Flows that wait for the grace period.
    leaving: Vec<Leaving>,
}

/// What is kept between scanning and reading, for one family.
struct Lane<W: Way> {
    /// Live ways of the bucket at hand.
    live: Vec<Live<W::Key>>,
    retired: Vec<Retired>,
}

impl<W: Way> Default for Lane<W> {
    fn default() -> Self {
        Self {
            live: Vec::new(),
            retired: Vec::new(),
        }
    }
}

/// A live way, as it was when it was looked at.
struct Live<K> {
    slot: Slot,
    control: Control,
    key: K,
    counters: Counters,
    marks: Marks,
}

/// A way that has been retired: userspace's, to be read after the grace period.
struct Retired {
    slot: Slot,
    control: Control,
    /// Index of its flow in `leaving`; none where it is all of its flow.
    flow: Option<usize>,
}

/// A flow on its way out.
struct Leaving {
    due: Due,
    /// What is known of it: its part in userspace at first, then all.
    flow: Option<Flow>,
}

/// Keys of either family, as the rest of userspace has them.
trait AnyKey: Key {
    fn any(self) -> FlowKey;
}

impl AnyKey for KeyV4 {
    fn any(self) -> FlowKey {
        FlowKey::V4(self)
    }
}

impl AnyKey for KeyV6 {
    fn any(self) -> FlowKey {
        FlowKey::V6(self)
    }
}

impl AnyKey for KeyWide {
    fn any(self) -> FlowKey {
        FlowKey::Wide(self)
    }
}

impl Sweeper {
    /// A sweeper that exports flows as `expiry` says.
    #[must_use]
    pub fn new(
        shared: Arc<Shared>,
        overflow: Arc<Overflow>,
        expiry: Expiry,
        grace: Box<dyn GracePeriod>,
        emitter: Emitter,
    ) -> Self {
        Self {
            shared,
            overflow,
            expiry,
            grace,
            emitter,
            changed_ns: 0,
            pass: 0,
            used: Vec::new(),
            v4: Lane::default(),
            v6: Lane::default(),
            wide: Lane::default(),
            leaving: Vec::new(),
        }
    }

    /// Steps of one pass over the table.
    #[must_use]
    pub fn steps(&self) -> u32 {
        self.overflow.shards()
    }

    /// Takes out what is due in `steps` of a pass, with one grace period.
    ///
    /// # Errors
    /// The kernel refused a grace period. The flows that were retired then stay unread until the
    /// next step that is granted one, or [`Sweeper::flush`].
    pub fn sweep(&mut self, steps: Range<u32>) -> io::Result<()> {
        if steps.start == 0 {
            self.pass += 1;
        }
        let shared = &self.shared;
        self.used.clear();
        self.used
            .extend((0..shared.geometry().partitions).filter(|cpu| shared.cpu(*cpu).inserted != 0));
        let now_ns = monotonic_ns();
        for step in steps {
            self.scan(step, now_ns);
        }
        if !self.v4.retired.is_empty()
            || !self.v6.retired.is_empty()
            || !self.wide.retired.is_empty()
        {
            self.grace.wait()?;
        }
        self.emit(now_ns);
        self.emitter.at(now_ns);
        self.emitter.flush();
        Ok(())
    }

    /// Retires what is due in one step.
    fn scan(&mut self, step: u32, now_ns: u64) {
        let mut shard = self.overflow.shard(step);
        let decision = Decision {
            expiry: &self.expiry,
            rates: self.emitter.rates(),
            changed_ns: self.changed_ns,
            now_ns,
        };
        let mut scan = Scan {
            shared: &self.shared,
            used: &self.used,
            decision,
            pass: self.pass,
            shard: &mut shard,
            leaving: &mut self.leaving,
        };
        for bucket in self.overflow.buckets(step) {
            scan.bucket(&self.shared.v4, bucket, &mut self.v4);
            scan.bucket(&self.shared.v6, bucket, &mut self.v6);
        }
        for bucket in self.overflow.wide_buckets(step) {
            scan.bucket(&self.shared.wide, bucket, &mut self.wide);
        }
        let pass = self.pass;
        let leaving = &mut self.leaving;
        shard.take_due(
            // A flow with a live part was decided with it.
            |entry| {
                let Flow {
                    key,
                    counters,
                    marks,
                    ..
                } = &entry.flow;
                (entry.live_pass != pass)
                    .then(|| decision.due(key, counters, marks))
                    .flatten()
            },
            |flow, due| {
                leaving.push(Leaving {
                    due,
                    flow: Some(*flow),
                });
            },
        );
    }

    /// Reads the retired slots and gives them back, and emits what is due now that everything is
    /// known; the rest lives on in userspace.
    fn emit(&mut self, now_ns: u64) {
        let mut last = LastLook {
            shared: &self.shared,
            overflow: &self.overflow,
            expiry: &self.expiry,
            changed_ns: self.changed_ns,
            now_ns,
            // Later than `now_ns` by the grace period.
            out_ns: monotonic_ns(),
            emitter: &mut self.emitter,
        };
        self.v4
            .collect(&mut last, &self.shared.v4, &mut self.leaving);
        self.v6
            .collect(&mut last, &self.shared.v6, &mut self.leaving);
        self.wide
            .collect(&mut last, &self.shared.wide, &mut self.leaving);
        for leaving in self.leaving.drain(..) {
            if let Some(flow) = &leaving.flow {
                last.take(flow);
            }
        }
    }
}

/// Decides on flows that are out of the table, whole.
struct LastLook<'a> {
    shared: &'a Shared,
    overflow: &'a Overflow,
    expiry: &'a Expiry,
    changed_ns: u64,
    now_ns: u64,
    /// When it is taken.
    out_ns: u64,
    emitter: &'a mut Emitter,
}

impl LastLook<'_> {
    fn take(&mut self, flow: &Flow) {
        let decision = Decision {
            expiry: self.expiry,
            rates: self.emitter.rates(),
            changed_ns: self.changed_ns,
            now_ns: self.now_ns,
        };
        if let Some(due) = decision.due(&flow.key, &flow.counters, &flow.marks) {
            return self.emitter.emit_due(flow, due, self.out_ns);
        }
        // A packet came between the look and the retirement.
        let hash = flow.key.hash(self.shared.secret());
        let kept = self.overflow.shard_of(hash).merge(hash, flow);
        if kept.is_err() {
            self.emitter.emit(flow, EndReason::LackOfResources);
        }
    }
}

/// What decides whether a flow is to leave.
#[derive(Clone, Copy)]
struct Decision<'a> {
    expiry: &'a Expiry,
    rates: &'a Rates,
    changed_ns: u64,
    now_ns: u64,
}

impl Decision<'_> {
    /// Why a flow is to leave, if it is: by its times, or since its class is sampled in another way
    /// now. What came first counts.
    fn due(&self, key: &FlowKey, counters: &Counters, marks: &Marks) -> Option<Due> {
        let due = self.expiry.due(counters, marks, self.now_ns);
        let was_due = due.is_some_and(|due| due.since_ns <= self.changed_ns);
        if was_due || !self.rates.is_past(key.sampled()) {
            return due;
        }
        Some(Due {
            reason: EndReason::ForcedEnd,
            since_ns: self.changed_ns,
        })
    }
}

/// One step's look at the table.
struct Scan<'a, 'b> {
    shared: &'a Shared,
    used: &'a [u32],
    decision: Decision<'a>,
    pass: u64,
    shard: &'a mut Shard<'b>,
    leaving: &'a mut Vec<Leaving>,
}

impl Scan<'_, '_> {
    /// Retires the due flows of one bucket, on all CPUs.
    fn bucket<W>(&mut self, table: &Table<W>, bucket: u32, lane: &mut Lane<W>)
    where
        W: Way + Copy,
        W::Key: AnyKey,
    {
        lane.live.clear();
        for slot in slots(self.used.iter().copied(), bucket) {
            let control = table.load(slot);
            if control.state() == State::Live {
                let way = table.way(slot);
                lane.live.push(Live {
                    slot,
                    control,
                    key: *way.key(),
                    counters: way.counters(),
                    marks: table.marks(slot, &way),
                });
            }
        }
        if self.used.len() > 1 {
            // Brings the parts of one flow together. Two flows of one bucket that share a
            // fingerprint (one pair in 2³²) may stay in several parts, each of them right.
            lane.live
                .sort_unstable_by_key(|live| live.control.fingerprint());
        }
        let Lane { live, retired } = lane;
        for parts in live.chunk_by(|a, b| {
            a.control.fingerprint() == b.control.fingerprint() && a.key.same(&b.key)
        }) {
            self.flow(table, parts, retired);
        }
    }

    /// Decides on one flow by all its parts.
    fn flow<W>(&mut self, table: &Table<W>, parts: &[Live<W::Key>], retired: &mut Vec<Retired>)
    where
        W: Way + Copy,
        W::Key: AnyKey,
    {
        let Some((first, rest)) = parts.split_first() else {
            return;
        };
        let (mut counters, mut marks) = (first.counters, first.marks);
        for part in rest {
            counters.merge(&part.counters);
            marks.merge(&part.marks);
        }
        let key = first.key.any();
        let mut kept = None;
        if !self.shard.is_empty() {
            let hash = first.key.hash(self.shared.secret());
            if let Some(entry) = self.shard.find(hash, &key) {
                entry.live_pass = self.pass;
                counters.merge(&entry.flow.counters);
                marks.merge(&entry.flow.marks);
                kept = Some(hash);
            }
        }
        let Some(due) = self.decision.due(&key, &counters, &marks) else {
            return;
        };
        let taken = kept.and_then(|hash| self.shard.take(hash, &key));
        let alone = parts.len() == 1 && taken.is_none();
        let flow = (!alone).then_some(self.leaving.len());
        if !alone {
            self.leaving.push(Leaving { due, flow: taken });
        }
        for part in parts {
            // Refused where the program has moved the flow to the ring: it comes from there.
            if let Some(control) = table.retire(part.slot, part.control) {
                retired.push(Retired {
                    slot: part.slot,
                    control,
                    flow,
                });
            }
        }
    }
}

impl<W> Lane<W>
where
    W: Way + Copy,
    W::Key: AnyKey,
{
    /// Reads the retired ways into their flows and gives them back to the program. Those that are
    /// all of their flow are taken at once.
    fn collect(&mut self, last: &mut LastLook<'_>, table: &Table<W>, leaving: &mut [Leaving]) {
        for retired in self.retired.drain(..) {
            let part = read(last.shared, table, retired.slot);
            table.release(retired.slot, retired.control);
            let Some(flow) = retired.flow else {
                last.take(&part);
                continue;
            };
            match &mut leaving[flow].flow {
                Some(flow) => flow.merge(&part),
                none => *none = Some(part),
            }
        }
    }
}

/// All ways of a bucket in these partitions.
fn slots(partitions: impl Iterator<Item = u32>, bucket: u32) -> impl Iterator<Item = Slot> {
    partitions.flat_map(move |partition| {
        (0..WAYS as u32).map(move |way| Slot {
            partition,
            bucket,
            way,
        })
    })
}

fn read<W>(shared: &Shared, table: &Table<W>, slot: Slot) -> Flow
where
    W: Way + Copy,
    W::Key: AnyKey,
{
    let way = table.way(slot);
    Flow {
        key: way.key().any(),
        counters: way.counters(),
        marks: table.marks(slot, &way),
        macs: shared.macs(table, slot, &way),
    }
}
