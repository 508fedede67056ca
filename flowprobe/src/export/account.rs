//! The queue of a destination, and the account of every record that was put into it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::{Serialize, Serializer};

use super::Now;
use crate::{
    record::{FlowRecord, Volume},
    sampling::Sampling,
};

/// What became of the records for one destination: exported = sent + dropped + queued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DestinationReport {
    /// The collector's URL, or `stdout`.
    #[serde(rename = "collector")]
    pub destination: String,
    /// Handed to the socket, and no error reported since. UDP promises no more.
    pub sent: Volume,
    /// Not sent, or reported undelivered, by reason.
    #[serde(serialize_with = "by_reason")]
    pub dropped: Vec<(&'static str, Volume)>,
    /// Waiting; nothing after [`super::Exporter::finish`].
    pub queued: Volume,
    /// Messages handed to the socket, those with templates and options too; chunks of text for
    /// `stdout`.
    pub messages: u64,
    /// Their octets, without UDP and IP headers.
    pub wire_octets: u64,
    /// Data Records encoded, flows and options: the sum over the observation domains of the
    /// sequence number that a next message would have, before it wraps. A collector received this
    /// many, less the gaps that it saw.
    pub encoded: u64,
    /// Times that the collector could not be reached.
    pub outages: u64,
}

impl DestinationReport {
    /// Everything that was ever queued for it.
    #[must_use]
    pub fn total(&self) -> Volume {
        let mut total = self.sent;
        total += self.queued;
        for (_, dropped) in &self.dropped {
            total += *dropped;
        }
        total
    }
}

fn by_reason<S: Serializer>(
    dropped: &[(&'static str, Volume)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(dropped.iter().copied())
}

/// Records of one class that came together; all destinations share them.
#[derive(Debug)]
struct Batch {
    records: Arc<Vec<FlowRecord>>,
    /// The part that waits.
    next: usize,
    end: usize,
    since: Instant,
}

/// What waits in a lane.
#[derive(Debug)]
enum Item {
    Records(Batch),
    /// What is behind was metered so. Takes no room, and is never dropped.
    Change(Sampling),
}

/// The queue of one class, and what was handed over of it.
#[derive(Debug, Default)]
struct Lane {
    items: VecDeque<Item>,
    sent_records: u64,
    messages: u64,
    wire_octets: u64,
}

impl Lane {
    /// The records before the next change of the rate, oldest first.
    fn batches(&self) -> impl Iterator<Item = &Batch> {
        self.items.iter().map_while(|item| match item {
            Item::Records(batch) => Some(batch),
            Item::Change(_) => None,
        })
    }

    /// The oldest of them and how many there are, counted up to `enough`.
    fn run(&self, class: usize, enough: usize) -> Option<Run> {
        let since = self.batches().next()?.since;
        let (mut records, mut batches) = (0, 0);
        for batch in self.batches() {
            records += batch.end - batch.next;
            batches += 1;
            if records >= enough {
                break;
            }
        }
        Some(Run {
            class,
            records: records.min(enough),
            since,
            complete: matches!(self.items.get(batches), Some(Item::Change(_))),
        })
    }

    /// Takes the `count` oldest records, or as many as there are before the next change of the
    /// rate, out of the queue.
    fn take(&mut self, mut count: usize) -> Volume {
        let mut taken = Volume::default();
        while count > 0
            && let Some(Item::Records(batch)) = self.items.front_mut()
        {
            let end = batch.end.min(batch.next.saturating_add(count));
            taken += Volume::of(&batch.records[batch.next..end]);
            count -= end - batch.next;
            batch.next = end;
            if batch.next == batch.end {
                self.items.pop_front();
            }
        }
        taken
    }
}

/// Records of one class and one rate that wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) class: usize,
    /// How many, as far as was asked.
    pub(super) records: usize,
    /// Since when the oldest waits.
    pub(super) since: Instant,
    /// No more will come: a change of the rate is behind them.
    pub(super) complete: bool,
}

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
    dropped: Vec<(&'static str, Volume)>,
    /// First and last drop, in milliseconds since 1970-01-01 UTC.
    dropped_span_ms: Option<(u64, u64)>,
    messages: u64,
    wire_octets: u64,
    encoded: u64,
    outages: u64,
}

impl Account {
    fn new(capacity: usize, classes: usize) -> Self {
        Self {
            lanes: (0..classes).map(|_| Lane::default()).collect(),
            capacity,
            closed: None,
            queued: Volume::default(),
            sent: Volume::default(),
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
                lane.items.push_back(Item::Records(Batch {
                    records: Arc::clone(records),
                    next: start,
                    end: start + taken.len(),
                    since: now.at,
                }));
                self.queued += Volume::of(taken);
            }
            self.drop(full, Volume::of(left), now);
        }
    }

    /// What is queued from now on of `class` was metered with `sampling`.
    pub(super) fn push_change(&mut self, class: usize, sampling: Sampling) {
        if let (Some(lane), None) = (self.lanes.get_mut(class), self.closed) {
            lane.items.push_back(Item::Change(sampling));
        }
    }

    /// Records that still fit into the queue; `None` if it takes no more.
    pub(super) fn room(&self) -> Option<usize> {
        match self.closed {
            Some(_) => None,
            None => Some(self.capacity - self.queued.records as usize),
        }
    }

    /// A change of the rate that nothing is before any more, and whose it is.
    pub(super) fn change(&self) -> Option<(usize, Sampling)> {
        let fronts = self.lanes.iter().map(|lane| lane.items.front());
        fronts.enumerate().find_map(|(class, front)| match front {
            Some(Item::Change(sampling)) => Some((class, *sampling)),
            _ => None,
        })
    }

    /// The change at the front of `class` is made.
    pub(super) fn settle_change(&mut self, class: usize) {
        let lane = &mut self.lanes[class];
        let change = lane.items.pop_front();
        debug_assert!(matches!(change, Some(Item::Change(_))));
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

    /// What waits.
    pub(super) fn queued(&self) -> Volume {
        self.queued
    }

    /// The `count` oldest records of `class` are sent.
    pub(super) fn settle_sent(&mut self, class: usize, count: usize) -> Volume {
        let volume = self.lanes[class].take(count);
        self.lanes[class].sent_records += volume.records;
        self.queued -= volume;
        self.sent += volume;
        volume
    }

    /// The `count` oldest records of `class` will never be sent.
    pub(super) fn settle_dropped(
        &mut self,
        class: usize,
        count: usize,
        reason: &'static str,
        now: Now,
    ) {
        let volume = self.lanes[class].take(count);
        self.queued -= volume;
        self.drop(reason, volume, now);
    }

    /// Records of `class` that counted as sent were not delivered.
    pub(super) fn undelivered(
        &mut self,
        class: usize,
        volume: Volume,
        reason: &'static str,
        now: Now,
    ) {
        self.lanes[class].sent_records -= volume.records;
        self.sent -= volume;
        self.drop(reason, volume, now);
    }

    /// Drops what waits, and takes no more: what still comes is dropped for the same reason.
    pub(super) fn close(&mut self, reason: &'static str, now: Now) {
        for lane in &mut self.lanes {
            lane.items.clear();
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
    pub(super) fn count_encoded(&mut self, data_records: u32) {
        self.encoded += u64::from(data_records);
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
    account: Mutex<Account>,
}

impl Outlet {
    /// A destination for the records of so many classes.
    pub(super) fn new(destination: String, capacity: usize, classes: usize) -> Self {
        Self {
            destination,
            account: Mutex::new(Account::new(capacity, classes)),
        }
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
            sent: account.sent,
            dropped: account.dropped.clone(),
            queued: account.queued,
            messages: account.messages,
            wire_octets: account.wire_octets,
            encoded: account.encoded,
            outages: account.outages,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ipfix::tests::sample::{many, of_class};

    fn assert_balanced(report: &DestinationReport, exported: Volume) {
        let mut sum = report.sent;
        sum += report.queued;
        for (_, volume) in &report.dropped {
            sum += *volume;
        }
        assert_eq!(sum, exported);
    }

    #[test]
    fn a_full_queue_drops_the_newest_and_counts_them() {
        let outlet = Outlet::new("x".to_owned(), 10, 1);
        let first = Arc::new(many(8));
        let second = Arc::new(many(6));
        outlet.account().push(&first, Now::read());
        outlet.account().push(&second, Now::read());
        let waiting: Vec<_> = outlet.account().waiting(0).copied().collect();
        assert_eq!(waiting, [&first[..], &second[..2]].concat());
        let report = outlet.report();
        assert_eq!(report.dropped, [("queue_full", Volume::of(&second[2..]))]);
        let mut exported = Volume::of(&first);
        exported += Volume::of(&second);
        assert_balanced(&report, exported);

        // What was taken makes room again, also in the middle of a batch.
        outlet.account().settle_sent(0, 9);
        outlet.account().push(&first, Now::read());
        assert_eq!(outlet.report().queued.records, 9);
        assert_eq!(outlet.report().dropped[0].1.records, 4);
    }

    #[test]
    fn every_record_is_in_one_term() {
        let outlet = Outlet::new("x".to_owned(), 100, 1);
        let records = Arc::new(many(40));
        let now = Now::read();
        let mut account = outlet.account();
        account.push(&records, now);
        let volume = account.settle_sent(0, 20);
        account.undelivered(0, volume, "refused", now);
        account.settle_sent(0, 5);
        account.settle_dropped(0, 5, "socket_full", now);
        account.close("shutdown", now);
        account.push(&records, now);
        drop(account);
        let report = outlet.report();
        assert_eq!(report.sent, Volume::of(&records[20..25]));
        let reasons: Vec<_> = report
            .dropped
            .iter()
            .map(|(r, v)| (*r, v.records))
            .collect();
        assert_eq!(
            reasons,
            [("refused", 20), ("socket_full", 5), ("shutdown", 50)]
        );
        let mut exported = Volume::of(&records);
        exported += exported;
        assert_balanced(&report, exported);
    }

    /// When there is room for half, each class keeps half: its oldest.
    #[test]
    fn classes_share_the_room_and_unknown_ones_are_named() {
        let outlet = Outlet::new("x".to_owned(), 50, 2);
        let classes = [(0, 60), (1, 30), (9, 10)];
        let records = classes.map(|(class, count)| of_class(class, many(count)));
        let records = Arc::new(records.concat());
        outlet.account().push(&records, Now::read());
        let waiting = |class| -> Vec<_> { outlet.account().waiting(class).copied().collect() };
        assert_eq!(waiting(0), records[..30]);
        assert_eq!(waiting(1), records[60..75]);
        let report = outlet.report();
        let dropped = report.dropped.iter().map(|(r, v)| (*r, v.records));
        assert!(dropped.eq([("queue_full", 45), ("unknown_class", 10)]));
        assert_balanced(&report, Volume::of(&records));
    }

    /// A change is seen when all before it is gone, and only then is what is behind it.
    #[test]
    fn changes_keep_their_place_and_take_no_room() {
        let outlet = Outlet::new("x".to_owned(), 3, 2);
        let mut account = outlet.account();
        let now = Now::read();
        account.push(&Arc::new(many(2)), now);
        account.push_change(0, Sampling::All);
        account.push_change(0, "1/5".parse().expect("a rate"));
        account.push_change(1, "1/7".parse().expect("a rate"));
        assert_eq!(account.room(), Some(1));
        account.push(&Arc::new(many(2)), now);
        let run = |account: &Account| account.runs(10).next();
        assert_eq!(account.change().map(|(class, _)| class), Some(1));
        account.settle_change(1);
        assert_eq!(account.change(), None);
        let first = run(&account).expect("records");
        assert_eq!((first.records, first.complete), (2, true));
        account.settle_sent(0, 5);
        assert_eq!(account.change(), Some((0, Sampling::All)));
        account.settle_change(0);
        assert_eq!((run(&account), account.waiting(0).count()), (None, 0));
        account.settle_change(0);
        let second = run(&account).expect("records");
        assert_eq!((second.records, second.complete), (1, false));
        account.push_change(0, Sampling::All);
        account.close("shutdown", now);
        assert_eq!((account.change(), account.queued().records), (None, 0));
    }

    #[test]
    fn reports_are_json_with_drops_by_reason() {
        let outlet = Outlet::new("udp://[::1]:4739".to_owned(), 1, 1);
        outlet.account().push(&Arc::new(many(2)), Now::read());
        let shown = serde_json::to_value(outlet.report()).expect("JSON");
        let volume = |records, packets, octets| serde_json::json!({"records": records, "packets": packets, "octets": octets});
        assert_eq!(shown["collector"], "udp://[::1]:4739");
        assert_eq!(shown["queued"], volume(1, 1, 100));
        assert_eq!(shown["dropped"]["queue_full"], volume(1, 2, 200));
    }
}
