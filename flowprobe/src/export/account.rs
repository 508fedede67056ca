//! The queue of a destination, and the account of every record that was put into it.

mod lane;
mod report;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use self::lane::{Batch, Lane};
pub(super) use self::lane::{Cargo, Front, Load, Run};
pub use self::report::DestinationReport;
use super::Now;
use crate::{
    record::{FlowRecord, Volume},
    sampling::Sampling,
};

/// Queue and counts of one destination.
#[derive(Debug)]
pub(super) struct Account {
    /// One for each class, so that a message of one need not wait for records of another.
    lanes: Vec<Lane>,
    /// Records in all of them.
    capacity: usize,
    /// Takes no more, and why.
    closed: Option<&'static str>,
    queued: Volume,
    sent: Volume,
    /// Put into the spool, and taken out of it again. A message on disk can have arrived before the one
    /// who has put it there takes note of that: then the second is ahead.
    spooled: Volume,
    unspooled: Volume,
    /// What an earlier run left in the spool, in front of what is spooled.
    inherited: Volume,
    recovered: Volume,
    dropped: Vec<(&'static str, Volume)>,
    /// First and last drop, in milliseconds since 1970-01-01 UTC.
    dropped_span_ms: Option<(u64, u64)>,
    messages: u64,
    wire_octets: u64,
    encoded: u64,
    outages: u64,
}

impl Account {
    fn new(capacity: usize, rates: &[Sampling]) -> Self {
        Self {
            lanes: rates.iter().copied().map(Lane::new).collect(),
            capacity,
            closed: None,
            queued: Volume::default(),
            sent: Volume::default(),
            spooled: Volume::default(),
            unspooled: Volume::default(),
            inherited: Volume::default(),
            recovered: Volume::default(),
            dropped: Vec::new(),
            dropped_span_ms: None,
            messages: 0,
            wire_octets: 0,
            encoded: 0,
            outages: 0,
        }
    }

    /// Queues the records, each behind those of its class; those that do not fit, the newest, are
    /// dropped. Best in the order of their classes.
    ///
    /// A record of a class that nobody named is dropped: no domain has its rate.
    pub(super) fn push(&mut self, records: &Arc<Vec<FlowRecord>>, now: Now) {
        let room = self.room().unwrap_or(0).min(records.len());
        // Each class has its share of the room, lest it is always the last one that loses.
        let share = |at: usize| at * room / records.len();
        let full = self.closed.unwrap_or("queue_full");
        let mut end = 0;
        for run in records.chunk_by(|one, next| one.class() == next.class()) {
            let start = end;
            end += run.len();
            let Some(lane) = self.lanes.get_mut(run[0].class()) else {
                self.drop("unknown_class", Volume::of(run), now);
                continue;
            };
            let (taken, left) = run.split_at(share(end) - share(start));
            if !taken.is_empty() {
                lane.push(Batch {
                    records: Arc::clone(records),
                    next: start,
                    end: start + taken.len(),
                    since: now.at,
                });
                self.queued += Volume::of(taken);
            }
            self.drop(full, Volume::of(left), now);
        }
    }

    /// What is queued from now on of `class` was metered with `sampling`.
    pub(super) fn push_change(&mut self, class: usize, sampling: Sampling) {
        if let (Some(lane), None) = (self.lanes.get_mut(class), self.closed) {
            lane.push_change(sampling);
        }
    }

    /// Records that the queue has room for when it is empty.
    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Records that still fit into the queue; `None` if it takes no more.
    pub(super) fn room(&self) -> Option<usize> {
        match self.closed {
            Some(_) => None,
            None => Some(self.capacity - self.queued.records as usize),
        }
    }

    /// A change of the rate that nothing is before any more, and whose it is. What is on its way
    /// is before it: if it has to be sent again, it will be under its own rate.
    pub(super) fn change(&self) -> Option<(usize, Sampling)> {
        let changes = self.lanes.iter().map(Lane::change);
        let mut classed = changes.enumerate();
        classed.find_map(|(class, change)| Some((class, change?)))
    }

    /// The change at the front of `class` is made.
    pub(super) fn settle_change(&mut self, class: usize) {
        self.lanes[class].settle_change();
    }

    /// What the records at the front of `class` were metered with.
    pub(super) fn front(&self, class: usize) -> Front {
        self.lanes[class].front
    }

    /// What waits at the front of each class, counted up to `enough`.
    pub(super) fn runs(&self, enough: usize) -> impl Iterator<Item = Run> {
        let lanes = self.lanes.iter().enumerate();
        lanes.filter_map(move |(class, lane)| lane.run(class, enough))
    }

    /// The waiting records of `class` and one rate, oldest first.
    pub(super) fn waiting(&self, class: usize) -> impl Iterator<Item = &FlowRecord> {
        let batches = self.lanes[class].batches();
        batches.flat_map(|batch| &batch.records[batch.next..batch.end])
    }

    /// What waits, or is on its way.
    pub(super) fn queued(&self) -> Volume {
        self.queued
    }

    /// Whether half of the queue is taken.
    pub(super) fn is_half_full(&self) -> bool {
        self.is_full_to(1)
    }

    /// Whether three quarters of the queue are taken.
    pub(super) fn is_nearly_full(&self) -> bool {
        self.is_full_to(3)
    }

    /// Whether more than `times` as much is taken as there is room.
    fn is_full_to(&self, times: u64) -> bool {
        let room = self.room().map(|room| room as u64);
        room.is_some_and(|room| self.queued.records > times.saturating_mul(room))
    }

    /// The oldest records that wait are sent, and nobody will say whether they arrived.
    pub(super) fn settle_sent(&mut self, cargo: &Cargo, now: Now) {
        let lane = &mut self.lanes[cargo.class];
        lane.take(cargo.records);
        lane.sent_records += cargo.flow_records;
        self.queued -= cargo.volume();
        self.sent += cargo.sent;
        self.drop_unfit(cargo, now);
    }

    /// The oldest records that wait are on their way. They stay queued until they are
    /// acknowledged.
    pub(super) fn send_off(&mut self, cargo: &Cargo) {
        let lane = &mut self.lanes[cargo.class];
        lane.send_off(cargo);
        lane.sent_records += cargo.flow_records;
    }

    /// The oldest records that are on their way have arrived.
    pub(super) fn settle_acknowledged(&mut self, cargo: &Cargo, now: Now) {
        self.lanes[cargo.class].acknowledge(cargo);
        self.queued -= cargo.volume();
        self.sent += cargo.sent;
        self.drop_unfit(cargo, now);
    }

    /// The oldest records that are on their way came too late, and were given up.
    pub(super) fn settle_expired(&mut self, cargo: &Cargo, now: Now) {
        let lane = &mut self.lanes[cargo.class];
        lane.acknowledge(cargo);
        lane.sent_records -= cargo.flow_records;
        self.queued -= cargo.volume();
        self.drop("expired", cargo.sent, now);
        self.drop_unfit(cargo, now);
    }

    /// The oldest records that are on their way are on disk.
    pub(super) fn settle_spooled(&mut self, cargo: &Cargo, now: Now) {
        let lane = &mut self.lanes[cargo.class];
        lane.acknowledge(cargo);
        lane.sent_records -= cargo.flow_records;
        self.queued -= cargo.volume();
        self.spooled += cargo.sent;
        self.drop_unfit(cargo, now);
    }

    /// What is in the spool, of this run.
    fn in_spool(&self) -> Volume {
        let mut left = self.spooled;
        if self.unspooled.records >= left.records {
            return Volume::default();
        }
        left -= self.unspooled;
        left
    }

    /// An earlier run left so much in the spool.
    pub(super) fn inherit(&mut self, volume: Volume) {
        self.inherited += volume;
    }

    /// The oldest records of the spool have arrived, or else are dropped for a reason. What is left
    /// of an earlier run comes first, and is in no term of this one.
    pub(super) fn leave_spool(&mut self, volume: Volume, reason: Option<&'static str>, now: Now) {
        let mut own = volume;
        let mut earlier = self.inherited;
        if volume.records <= earlier.records {
            (own, earlier) = (Volume::default(), volume);
        } else {
            own -= earlier;
        }
        self.inherited -= earlier;
        self.unspooled += own;
        match reason {
            None => {
                self.sent += own;
                self.recovered += earlier;
            }
            Some(reason) => self.drop(reason, own, now),
        }
    }

    /// What is on its way, that of these messages, may not have arrived: it will wait again, in front;
    /// see [`Self::bring_back`]. Of each of them goes whether it was given up: such records do not
    /// come back.
    pub(super) fn take_back(&mut self, messages: impl Iterator<Item = (Cargo, bool)>, now: Now) {
        for (cargo, expired) in messages {
            if expired {
                self.settle_expired(&cargo, now);
            } else {
                let lane = &mut self.lanes[cargo.class];
                lane.sent_records -= cargo.flow_records;
                lane.set_aside(&cargo);
            }
        }
    }

    /// What was taken back waits again. For who takes flows out of the queue, between two batches:
    /// somebody else may have taken back his.
    pub(super) fn bring_back(&mut self) {
        for lane in &mut self.lanes {
            lane.take_back();
        }
    }

    /// The oldest records that wait will never be sent.
    pub(super) fn settle_dropped(&mut self, cargo: &Cargo, reason: &'static str, now: Now) {
        self.lanes[cargo.class].take(cargo.records);
        self.queued -= cargo.volume();
        self.drop(reason, cargo.sent, now);
        self.drop_unfit(cargo, now);
    }

    fn drop_unfit(&mut self, cargo: &Cargo, now: Now) {
        for (reason, volume) in &cargo.unfit {
            self.drop(reason, *volume, now);
        }
    }

    /// What counted as sent was not delivered.
    pub(super) fn undelivered(&mut self, load: Load, reason: &'static str, now: Now) {
        self.lanes[load.class].sent_records -= load.flow_records;
        self.sent -= load.volume;
        self.drop(reason, load.volume, now);
    }

    /// Drops what waits, and takes no more: what still comes is dropped for the same reason.
    pub(super) fn close(&mut self, reason: &'static str, now: Now) {
        for lane in &mut self.lanes {
            lane.clear();
        }
        let volume = std::mem::take(&mut self.queued);
        self.drop(reason, volume, now);
        self.closed.get_or_insert(reason);
    }

    /// A message of `class` was handed over.
    pub(super) fn count_message(&mut self, class: usize, octets: usize) {
        self.messages += 1;
        self.wire_octets += octets as u64;
        self.lanes[class].messages += 1;
        self.lanes[class].wire_octets += octets as u64;
    }

    /// Data Records got their sequence numbers.
    pub(super) fn count_encoded(&mut self, units: u32) {
        self.encoded += u64::from(units);
    }

    pub(super) fn count_outage(&mut self) {
        self.outages += 1;
    }

    /// The sum of all drops, with first and last time.
    pub(super) fn not_sent(&self) -> (Volume, Option<(u64, u64)>) {
        let mut sum = Volume::default();
        for (_, volume) in &self.dropped {
            sum += *volume;
        }
        (sum, self.dropped_span_ms)
    }

    /// Messages, octets and flow records of `class` that were handed over.
    pub(super) fn handed_over(&self, class: usize) -> (u64, u64, u64) {
        let lane = &self.lanes[class];
        (lane.messages, lane.wire_octets, lane.sent_records)
    }

    fn drop(&mut self, reason: &'static str, volume: Volume, now: Now) {
        if volume.records == 0 {
            return;
        }
        let first_ms = self.dropped_span_ms.map_or(now.unix_ms, |(first, _)| first);
        self.dropped_span_ms = Some((first_ms, now.unix_ms));
        match self.dropped.iter_mut().find(|(name, _)| *name == reason) {
            Some((_, sum)) => *sum += volume,
            None => self.dropped.push((reason, volume)),
        }
    }
}

/// A destination, as its thread and the metering share it.
#[derive(Debug)]
pub(super) struct Outlet {
    destination: String,
    /// The group that balances which it is in.
    group: Option<String>,
    account: Mutex<Account>,
}

impl Outlet {
    /// A destination for the records of so many classes, each with its first rate.
    pub(super) fn new(destination: String, capacity: usize, rates: &[Sampling]) -> Self {
        Self {
            destination,
            group: None,
            account: Mutex::new(Account::new(capacity, rates)),
        }
    }

    /// It gets a part of the records only: that of a member of a group.
    pub(super) fn share_of(mut self, group: String) -> Self {
        self.group = Some(group);
        self
    }

    pub(super) fn destination(&self) -> &str {
        &self.destination
    }

    /// The account, for a moment: whoever holds it keeps the metering waiting.
    pub(super) fn account(&self) -> MutexGuard<'_, Account> {
        self.account.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn report(&self) -> DestinationReport {
        let account = self.account();
        DestinationReport {
            destination: self.destination.clone(),
            group: self.group.clone(),
            sent: account.sent,
            dropped: account.dropped.clone(),
            queued: account.queued,
            spooled: account.in_spool(),
            recovered: account.recovered,
            messages: account.messages,
            wire_octets: account.wire_octets,
            encoded: account.encoded,
            outages: account.outages,
        }
    }
}
