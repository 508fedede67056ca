//! The queue of a destination, and the account of every record that was put into it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use serde::{Serialize, Serializer};

use super::Now;
use crate::record::{FlowRecord, Volume};

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
    /// Data Records encoded, flows and options: the sequence number that a next message would
    /// have, before it wraps. A collector received this many, less the gaps that it saw.
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

/// Records that came together; all destinations share them.
#[derive(Debug)]
struct Batch {
    records: Arc<Vec<FlowRecord>>,
    /// The part that waits.
    next: usize,
    end: usize,
    since: Instant,
}

/// Queue and counts of one destination.
#[derive(Debug)]
pub(super) struct Account {
    batches: VecDeque<Batch>,
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
    fn new(capacity: usize) -> Self {
        Self {
            batches: VecDeque::new(),
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

    /// Queues the records; those that do not fit, the newest, are dropped.
    pub(super) fn push(&mut self, records: &Arc<Vec<FlowRecord>>, now: Now) {
        let end = records.len().min(self.room().unwrap_or(0));
        let (taken, left) = records.split_at(end);
        if !taken.is_empty() {
            self.queued += Volume::of(taken);
            self.batches.push_back(Batch {
                records: Arc::clone(records),
                next: 0,
                end,
                since: now.at,
            });
        }
        let reason = self.closed.unwrap_or("queue_full");
        self.drop(reason, Volume::of(left), now);
    }

    /// Records that still fit into the queue; `None` if it takes no more.
    pub(super) fn room(&self) -> Option<usize> {
        match self.closed {
            Some(_) => None,
            None => Some(self.capacity - self.queued.records as usize),
        }
    }

    /// The waiting records, oldest first.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &FlowRecord> {
        let batches = self.batches.iter();
        batches.flat_map(|batch| &batch.records[batch.next..batch.end])
    }

    /// What waits.
    pub(super) fn queued(&self) -> Volume {
        self.queued
    }

    /// Since when the oldest record waits.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.batches.front().map(|batch| batch.since)
    }

    /// The `count` oldest records are sent.
    pub(super) fn settle_sent(&mut self, count: usize) -> Volume {
        let volume = self.take(count);
        self.sent += volume;
        volume
    }

    /// The `count` oldest records will never be sent.
    pub(super) fn settle_dropped(&mut self, count: usize, reason: &'static str, now: Now) {
        let volume = self.take(count);
        self.drop(reason, volume, now);
    }

    /// Records that counted as sent were not delivered.
    pub(super) fn undelivered(&mut self, volume: Volume, reason: &'static str, now: Now) {
        self.sent -= volume;
        self.drop(reason, volume, now);
    }

    /// Drops what waits, and takes no more: what still comes is dropped for the same reason.
    pub(super) fn close(&mut self, reason: &'static str, now: Now) {
        self.settle_dropped(usize::MAX, reason, now);
        self.closed.get_or_insert(reason);
    }

    /// A message was handed over.
    pub(super) fn count_message(&mut self, octets: usize) {
        self.messages += 1;
        self.wire_octets += octets as u64;
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

    /// Messages, octets and flow records handed over.
    pub(super) fn handed_over(&self) -> (u64, u64, u64) {
        (self.messages, self.wire_octets, self.sent.records)
    }

    /// Takes the `count` oldest records, or as many as there are, out of the queue.
    fn take(&mut self, mut count: usize) -> Volume {
        let mut taken = Volume::default();
        while count > 0
            && let Some(batch) = self.batches.front_mut()
        {
            let end = batch.end.min(batch.next.saturating_add(count));
            taken += Volume::of(&batch.records[batch.next..end]);
            count -= end - batch.next;
            batch.next = end;
            if batch.next == batch.end {
                self.batches.pop_front();
            }
        }
        self.queued -= taken;
        taken
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
    pub(super) fn new(destination: String, capacity: usize) -> Self {
        Self {
            destination,
            account: Mutex::new(Account::new(capacity)),
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
    use crate::ipfix::tests::sample::many;

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
        let outlet = Outlet::new("x".to_owned(), 10);
        let first = Arc::new(many(8));
        let second = Arc::new(many(6));
        outlet.account().push(&first, Now::read());
        outlet.account().push(&second, Now::read());
        let waiting: Vec<_> = outlet.account().waiting().copied().collect();
        assert_eq!(waiting, [&first[..], &second[..2]].concat());
        let report = outlet.report();
        assert_eq!(report.dropped, [("queue_full", Volume::of(&second[2..]))]);
        let mut exported = Volume::of(&first);
        exported += Volume::of(&second);
        assert_balanced(&report, exported);

        // What was taken makes room again, also in the middle of a batch.
        outlet.account().settle_sent(9);
        outlet.account().push(&first, Now::read());
        assert_eq!(outlet.report().queued.records, 9);
        assert_eq!(outlet.report().dropped[0].1.records, 4);
    }

    #[test]
    fn every_record_is_in_one_term() {
        let outlet = Outlet::new("x".to_owned(), 100);
        let records = Arc::new(many(40));
        let now = Now::read();
        let mut account = outlet.account();
        account.push(&records, now);
        let volume = account.settle_sent(20);
        account.undelivered(volume, "refused", now);
        account.settle_sent(5);
        account.settle_dropped(5, "socket_full", now);
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

    #[test]
    fn reports_are_json_with_drops_by_reason() {
        let outlet = Outlet::new("udp://[::1]:4739".to_owned(), 1);
        outlet.account().push(&Arc::new(many(2)), Now::read());
        let shown = serde_json::to_value(outlet.report()).expect("JSON");
        let volume = |records, packets, octets| serde_json::json!({"records": records, "packets": packets, "octets": octets});
        assert_eq!(shown["collector"], "udp://[::1]:4739");
        assert_eq!(shown["queued"], volume(1, 1, 100));
        assert_eq!(shown["dropped"]["queue_full"], volume(1, 2, 200));
    }
}
