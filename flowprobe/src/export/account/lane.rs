//! The queue of one class.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use crate::{
    ipfix::element::Both,
    record::{FlowRecord, Volume},
    sampling::Sampling,
};

/// Records of one class that came together; all destinations share them.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) records: Arc<Vec<FlowRecord>>,
    /// The part that waits.
    pub(super) next: usize,
    pub(super) end: usize,
    pub(super) since: Instant,
}

impl Batch {
    fn len(&self) -> usize {
        self.end - self.next
    }

    /// Takes the oldest `count` records, or all that there are, off the front.
    fn split(&mut self, count: usize) -> Self {
        let end = self.end.min(self.next.saturating_add(count));
        let front = Self {
            records: Arc::clone(&self.records),
            next: self.next,
            end,
            since: self.since,
        };
        self.next = end;
        front
    }
}

/// What waits in a lane.
#[derive(Debug)]
enum Item {
    Records(Batch),
    /// What is behind was metered so. Takes no room, and is never dropped.
    Change(Sampling),
}

/// What the records at the front of a lane were metered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::export) struct Front {
    pub(in crate::export) sampling: Sampling,
    /// How many rates came before.
    pub(in crate::export) epoch: u32,
}

/// What a message takes out of a lane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::export) struct Cargo {
    pub(in crate::export) class: usize,
    /// Whether it goes to disk. What a collector has on its way meanwhile is apart from it.
    pub(in crate::export) to_disk: bool,
    /// All of them, in the order of the lane.
    pub(in crate::export) records: usize,
    /// Those that are in the message.
    pub(in crate::export) sent: Volume,
    /// In so many Flow Records: a biflow is one.
    pub(in crate::export) flow_records: u64,
    /// Those that its format cannot say, by reason.
    pub(in crate::export) unfit: Vec<(&'static str, Volume)>,
}

impl Cargo {
    pub(in crate::export) fn of(class: usize, to_disk: bool) -> Self {
        Self {
            class,
            to_disk,
            ..Self::default()
        }
    }

    /// A record of the lane is in the message.
    #[inline]
    pub(in crate::export) fn add(&mut self, record: &FlowRecord) {
        self.records += 1;
        self.flow_records += 1;
        self.sent += Volume::from(record);
    }

    /// A biflow of the lane, which is two of its records, is in the message.
    pub(in crate::export) fn add_both(&mut self, both: &Both<'_>) {
        self.add(both.forward);
        self.add(both.reverse);
        self.flow_records -= 1;
    }

    /// A record of the lane cannot be.
    pub(in crate::export) fn pass_over(&mut self, record: &FlowRecord, reason: &'static str) {
        self.records += 1;
        let volume = Volume::from(record);
        match self.unfit.iter_mut().find(|(name, _)| *name == reason) {
            Some((_, sum)) => *sum += volume,
            None => self.unfit.push((reason, volume)),
        }
    }

    /// All that it takes out.
    pub(in crate::export) fn volume(&self) -> Volume {
        let mut volume = self.sent;
        for (_, unfit) in &self.unfit {
            volume += *unfit;
        }
        volume
    }
}

/// What a message carried, to be taken back if it does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::export) struct Load {
    /// Of one class.
    pub(in crate::export) class: usize,
    pub(in crate::export) volume: Volume,
    /// In so many Flow Records.
    pub(in crate::export) flow_records: u64,
}

impl From<&Cargo> for Load {
    fn from(cargo: &Cargo) -> Self {
        Self {
            class: cargo.class,
            volume: cargo.sent,
            flow_records: cargo.flow_records,
        }
    }
}

/// Records of one class and one rate that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::export) struct Run {
    pub(in crate::export) class: usize,
    /// How many, as far as was asked.
    pub(in crate::export) records: usize,
    /// That is, up to so many.
    pub(in crate::export) enough: usize,
    /// Since when the oldest waits.
    pub(in crate::export) since: Instant,
    /// No more will come: a change of the rate is behind them.
    pub(in crate::export) complete: bool,
}

/// The queue of one class, and what was handed over of it.
#[derive(Debug)]
pub(super) struct Lane {
    items: VecDeque<Item>,
    /// Handed over in this session, and not acknowledged; oldest first. All of one rate, since a
    /// change waits until there is none.
    on_the_way: VecDeque<Batch>,
    /// The same of what goes to disk.
    to_disk: VecDeque<Batch>,
    /// What comes back of them.
    aside: VecDeque<Batch>,
    pub(super) front: Front,
    /// Flow records handed over; those that had to be taken back are not among them.
    pub(super) sent_records: u64,
    pub(super) messages: u64,
    pub(super) wire_octets: u64,
}

impl Lane {
    pub(super) fn new(sampling: Sampling) -> Self {
        Self {
            items: VecDeque::new(),
            on_the_way: VecDeque::new(),
            to_disk: VecDeque::new(),
            aside: VecDeque::new(),
            front: Front { sampling, epoch: 0 },
            sent_records: 0,
            messages: 0,
            wire_octets: 0,
        }
    }

    pub(super) fn push(&mut self, batch: Batch) {
        self.items.push_back(Item::Records(batch));
    }

    pub(super) fn push_change(&mut self, sampling: Sampling) {
        self.items.push_back(Item::Change(sampling));
    }

    /// A change that nothing is before.
    pub(super) fn change(&self) -> Option<Sampling> {
        match self.items.front() {
            Some(Item::Change(sampling)) if self.nothing_on_the_way() => Some(*sampling),
            _ => None,
        }
    }

    fn nothing_on_the_way(&self) -> bool {
        self.on_the_way.is_empty() && self.to_disk.is_empty() && self.aside.is_empty()
    }

    /// The change at the front is made.
    pub(super) fn settle_change(&mut self) {
        let Some(Item::Change(sampling)) = self.items.pop_front() else {
            unreachable!("who settles a change has seen it at the front");
        };
        self.front.sampling = sampling;
        self.front.epoch += 1;
    }

    /// The records before the next change of the rate, oldest first.
    pub(super) fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.items.iter().map_while(|item| match item {
            Item::Records(batch) => Some(batch),
            Item::Change(_) => None,
        })
    }

    /// The oldest of them and how many there are, counted up to `enough`.
    pub(super) fn run(&self, class: usize, enough: usize) -> Option<Run> {
        let since = self.batches().next()?.since;
        let (mut records, mut batches) = (0, 0);
        for batch in self.batches() {
            records += batch.len();
            batches += 1;
            if records >= enough {
                break;
            }
        }
        Some(Run {
            class,
            records: records.min(enough),
            enough,
            since,
            complete: matches!(self.items.get(batches), Some(Item::Change(_))),
        })
    }

    /// Takes the `count` oldest records that wait out of the queue; they are all before the next
    /// change of the rate.
    pub(super) fn take(&mut self, count: usize) {
        self.take_each(count, drop);
    }

    /// The oldest records that wait are on their way: those of a message.
    pub(super) fn send_off(&mut self, cargo: &Cargo) {
        let mut taken = VecDeque::new();
        self.take_each(cargo.records, |batch| taken.push_back(batch));
        self.way(cargo.to_disk).append(&mut taken);
    }

    fn way(&mut self, to_disk: bool) -> &mut VecDeque<Batch> {
        if to_disk {
            &mut self.to_disk
        } else {
            &mut self.on_the_way
        }
    }

    fn take_each(&mut self, mut count: usize, mut keep: impl FnMut(Batch)) {
        while count > 0
            && let Some(Item::Records(batch)) = self.items.front_mut()
        {
            let taken = batch.split(count);
            let empty = batch.len() == 0;
            count -= taken.len();
            keep(taken);
            if empty {
                self.items.pop_front();
            }
        }
        debug_assert_eq!(count, 0, "what is taken was there");
    }

    /// The oldest records on their way, those of a message, have arrived, or never will.
    pub(super) fn acknowledge(&mut self, cargo: &Cargo) {
        self.settle(cargo, drop);
    }

    /// The oldest records on their way, those of a message, come back once all of them are judged.
    pub(super) fn set_aside(&mut self, cargo: &Cargo) {
        let mut aside = VecDeque::new();
        self.settle(cargo, |batch| aside.push_back(batch));
        self.aside.append(&mut aside);
    }

    fn settle(&mut self, cargo: &Cargo, mut keep: impl FnMut(Batch)) {
        let mut count = cargo.records;
        let way = self.way(cargo.to_disk);
        while count > 0
            && let Some(batch) = way.front_mut()
        {
            let settled = batch.split(count);
            let empty = batch.len() == 0;
            count -= settled.len();
            keep(settled);
            if empty {
                way.pop_front();
            }
        }
        debug_assert_eq!(count, 0, "what arrives was on its way");
    }

    /// What was set aside waits again, in front of all else. Only between two batches of who takes
    /// flows out of the queue: it counts those at the front.
    pub(super) fn take_back(&mut self) {
        while let Some(batch) = self.aside.pop_back() {
            self.items.push_front(Item::Records(batch));
        }
    }

    pub(super) fn clear(&mut self) {
        self.items.clear();
        self.on_the_way.clear();
        self.to_disk.clear();
        self.aside.clear();
    }
}
