//! The way out of the table: flows become records, are counted, and go to export.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use flowprobe_ebpf::sampling::Sampled;
use hdrhistogram::Histogram;

use crate::{
    clock::{Clock, monotonic_ns, unix_ms},
    record::{Biflow, EndReason, FlowKey, FlowRecord, Route, Volume},
    routes::Routes,
    sampling::{Rates, Sampling},
    shadow::Shadow,
    table::{Flow, Pairing, expiry::Due, local::Leave, pairing::Stamped},
};

/// Takes finished records. Where packets arrive by themselves it must not wait: metering does not
/// stop for export. Where they are read from a file it may.
pub trait Sink: Send + Sync {
    /// Takes a batch.
    fn take(&self, records: Vec<FlowRecord>);

    /// A class is sampled in another way: all records of its epochs before `epoch` have been taken,
    /// and none of `epoch`.
    fn change(&self, class: u8, epoch: u32, sampling: Sampling) {
        let _ = (class, epoch, sampling);
    }
}

/// What has left the table, and how late.
#[derive(Debug)]
pub struct Exported {
    records: AtomicU64,
    packets: AtomicU64,
    octets: AtomicU64,
    by_reason: [AtomicU64; EndReason::ALL.len()],
    lateness_us: Mutex<Histogram<u64>>,
    /// Has left the table, and waits for the other half of a biflow.
    pairing: Option<Mutex<Pairing>>,
}

/// How long after they were due flows left the table, in milliseconds.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub struct Lateness {
    /// Median.
    pub p50: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

impl Default for Exported {
    fn default() -> Self {
        Self {
            records: AtomicU64::new(0),
            packets: AtomicU64::new(0),
            octets: AtomicU64::new(0),
            by_reason: Default::default(),
            // Three digits, to a day; later than that is a day.
            lateness_us: Mutex::new(
                Histogram::new_with_max(86_400_000_000, 3).expect("valid bounds"),
            ),
            pairing: None,
        }
    }
}

impl Exported {
    /// Of records of which `pairing` makes biflows.
    #[must_use]
    pub fn in_biflows(pairing: Option<Pairing>) -> Self {
        Self {
            pairing: pairing.map(Mutex::new),
            ..Self::default()
        }
    }

    fn pairing(&self) -> Option<MutexGuard<'_, Pairing>> {
        let pairing = self.pairing.as_ref()?;
        Some(pairing.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// What has left the table and is still held, for the other half of a biflow.
    #[must_use]
    pub fn waiting(&self) -> Volume {
        self.pairing()
            .map(|pairing| pairing.volume())
            .unwrap_or_default()
    }

    /// Counts records that are on their way out.
    fn count(&self, records: &[FlowRecord]) {
        let volume = Volume::of(records);
        self.records.fetch_add(volume.records, Ordering::Relaxed);
        self.packets.fetch_add(volume.packets, Ordering::Relaxed);
        self.octets.fetch_add(volume.octets, Ordering::Relaxed);
        let mut by_reason = [0; EndReason::ALL.len()];
        for record in records {
            by_reason[record.reason as usize - 1] += 1;
        }
        for (all, count) in self.by_reason.iter().zip(by_reason) {
            all.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Everything so far.
    #[must_use]
    pub fn volume(&self) -> Volume {
        Volume {
            records: self.records.load(Ordering::Relaxed),
            packets: self.packets.load(Ordering::Relaxed),
            octets: self.octets.load(Ordering::Relaxed),
        }
    }

    /// Records by flowEndReason.
    #[must_use]
    pub fn by_reason(&self) -> BTreeMap<u8, u64> {
        let count = |reason: &EndReason| {
            let count = &self.by_reason[*reason as usize - 1];
            (*reason as u8, count.load(Ordering::Relaxed))
        };
        EndReason::ALL.iter().map(count).collect()
    }

    /// How late flows that came due by time were.
    #[must_use]
    pub fn lateness(&self) -> Lateness {
        let histogram = self
            .lateness_us
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let ms = |us: u64| us as f64 / 1000.0;
        Lateness {
            p50: ms(histogram.value_at_quantile(0.5)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        }
    }
}

/// Makes records of flows and hands them on in batches.
pub struct Emitter {
    clock: Arc<Clock>,
    exported: Arc<Exported>,
    sink: Arc<dyn Sink>,
    rates: Arc<Rates>,
    gate: Arc<Gate>,
    shadow: Option<Arc<Shadow>>,
    routes: Option<Arc<Routes>>,
    /// The time on the clock of the table.
    now_ns: u64,
    /// The last rate that was looked up.
    rate: (Sampled, u32),
    batch: Vec<FlowRecord>,
    /// Where halves of biflows are looked for: the first packet of each.
    first_ns: Vec<u64>,
    late_us: Vec<u64>,
}

/// Holds back the records of an epoch until those of the one before are out.
#[derive(Debug, Default)]
struct Gate {
    /// Whether records are held back; only with `held` locked it is sure.
    closed: AtomicBool,
    held: Mutex<Held>,
}

#[derive(Debug, Default)]
struct Held {
    /// What the records are of.
    sampled: Sampled,
    records: Vec<FlowRecord>,
}

impl Gate {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds back from now on what is of `sampled`. There is nothing of it yet.
    fn close(&self, sampled: Sampled) {
        self.held().sampled = sampled;
        self.closed.store(true, Ordering::Release);
    }

    /// Hands `batch` to `sink`, but for what is held back.
    fn pass(&self, batch: Vec<FlowRecord>, sink: &dyn Sink) {
        if !self.closed.load(Ordering::Acquire) {
            return sink.take(batch);
        }
        let mut held = self.held();
        if !self.closed.load(Ordering::Relaxed) {
            drop(held);
            return sink.take(batch);
        }
        let (later, now): (Vec<_>, Vec<_>) = batch
            .into_iter()
            .partition(|record| record.key.sampled() == held.sampled);
        held.records.extend(later);
        drop(held);
        if !now.is_empty() {
            sink.take(now);
        }
    }

    /// Tells `sink` of the change, then hands it what was held back.
    fn open(&self, sampling: Sampling, sink: &dyn Sink) {
        let mut held = self.held();
        let Held { sampled, records } = &mut *held;
        sink.change(sampled.class(), sampled.epoch(), sampling);
        let records = std::mem::take(records);
        if !records.is_empty() {
            sink.take(records);
        }
        self.closed.store(false, Ordering::Release);
    }
}

/// Records handed on at once, at most: with 215 octets each they fit into a second-level cache, where
/// exporters find them, and into what the allocator keeps for itself.
pub const BATCH: usize = 512;

impl Emitter {
    /// An emitter of records that were metered at `rates`.
    #[must_use]
    pub fn new(
        clock: Arc<Clock>,
        exported: Arc<Exported>,
        sink: Arc<dyn Sink>,
        rates: Arc<Rates>,
    ) -> Self {
        let first = Sampled::default();
        let rate = (first, n(&rates, first));
        Self {
            clock,
            exported,
            sink,
            rates,
            gate: Arc::default(),
            shadow: None,
            routes: None,
            now_ns: 0,
            rate,
            batch: Vec::new(),
            first_ns: Vec::new(),
            late_us: Vec::new(),
        }
    }

    /// The same, which also compares what is metered in full with what is sampled beside it.
    #[must_use]
    pub fn with_shadow(mut self, shadow: Option<Arc<Shadow>>) -> Self {
        self.shadow = shadow;
        self
    }

    /// The same, whose records say where their flows go on to.
    #[must_use]
    pub fn with_routes(mut self, routes: Option<Arc<Routes>>) -> Self {
        self.routes = routes;
        self
    }

    /// It is `now_ns` on the clock of the table.
    pub fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }

    /// Another one to the same sink, for another thread.
    #[must_use]
    pub fn another(&self) -> Self {
        Self {
            clock: Arc::clone(&self.clock),
            exported: Arc::clone(&self.exported),
            sink: Arc::clone(&self.sink),
            rates: Arc::clone(&self.rates),
            gate: Arc::clone(&self.gate),
            shadow: self.shadow.clone(),
            routes: self.routes.clone(),
            now_ns: self.now_ns,
            rate: self.rate,
            batch: Vec::new(),
            first_ns: Vec::new(),
            late_us: Vec::new(),
        }
    }

    /// The rates of its records.
    #[must_use]
    pub fn rates(&self) -> &Rates {
        &self.rates
    }

    /// Records that this emitter and all others of its kind have emitted.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.exported.records.load(Ordering::Relaxed)
    }

    /// Begins an epoch of a class: its records are held back until [`Emitter::conclude`].
    /// `None` if there is no such class.
    pub fn begin(&mut self, class: u8, sampling: Sampling) -> Option<u32> {
        let epoch = self.rates.begin(class, sampling)?;
        self.gate.close(Sampled::new(class, epoch));
        Some(epoch)
    }

    /// Ends the change that [`Emitter::begin`] began.
    pub fn conclude(&mut self, sampling: Sampling) {
        self.flush();
        // What waits for its other half is out, too.
        let next = self.gate.held().sampled;
        self.release(|sampled| sampled.class() == next.class() && sampled != next);
        self.gate.open(sampling, &*self.sink);
    }

    /// Hands on all there is, since nothing more will come.
    pub fn finish(&mut self) {
        self.flush();
        self.release(|_| true);
    }

    /// Hands on what still waits for the other half of a biflow.
    fn release(&mut self, of: impl Fn(Sampled) -> bool) {
        let Some(mut pairing) = self.exported.pairing() else {
            return;
        };
        let mut records = Vec::new();
        pairing.release(|record| of(record.key.sampled()), &mut records);
        // Who releases what waits finds all of it handed on, by whichever thread.
        self.hand_on(records);
        drop(pairing);
    }

    /// Emits a flow that came due by time; it is `now_ns` on the monotonic clock.
    pub fn emit_due(&mut self, flow: &Flow, due: Due, now_ns: u64) {
        let late_ns = now_ns.saturating_sub(due.since_ns);
        self.late_us.push(late_ns / 1000);
        self.now_ns = now_ns;
        self.emit(flow, due.reason);
    }

    /// Emits a flow.
    pub fn emit(&mut self, flow: &Flow, reason: EndReason) {
        let offset_ns = self.clock.offset_ns();
        let [destination_mac, source_mac] = macs(&flow.macs.octets());
        let record = FlowRecord {
            key: flow.key,
            packets: flow.counters.packets,
            octets: flow.counters.octets,
            start_ms: unix_ms(flow.counters.first_ns, offset_ns),
            end_ms: unix_ms(flow.counters.last_ns, offset_ns),
            reason,
            marks: flow.marks,
            source_mac,
            destination_mac,
            sampling_n: self.sampling_n(flow.key.sampled()),
            biflow: Biflow::None,
            route: self.route(&flow.key),
        };
        if let Some(shadow) = &self.shadow
            && shadow.take(&record)
        {
            return;
        }
        if self.batch.capacity() == 0 {
            self.batch.reserve_exact(BATCH);
        }
        self.batch.push(record);
        if self.exported.pairing.is_some() {
            self.first_ns.push(flow.counters.first_ns);
        }
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    fn route(&self, key: &FlowKey) -> Option<Route> {
        let routes = self.routes.as_ref()?;
        Some(routes.of(key, monotonic_ns()))
    }

    fn sampling_n(&mut self, sampled: Sampled) -> u32 {
        if self.rate.0 != sampled {
            self.rate = (sampled, n(&self.rates, sampled));
        }
        self.rate.1
    }

    /// Hands on what is left of a batch.
    pub fn flush(&mut self) {
        if !self.late_us.is_empty() {
            let mut histogram = self
                .exported
                .lateness_us
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            for late in self.late_us.drain(..) {
                histogram.saturating_record(late);
            }
        }
        let batch = std::mem::take(&mut self.batch);
        let Some(mut pairing) = self.exported.pairing() else {
            return self.hand_on(batch);
        };
        let mut on = Vec::with_capacity(batch.len());
        let firsts = self.first_ns.drain(..);
        let stamped = batch.into_iter().zip(firsts);
        let stamped = stamped.map(|(record, first_ns)| Stamped { record, first_ns });
        pairing.pass(stamped, self.now_ns, &mut on);
        // As in `release`.
        self.hand_on(on);
        drop(pairing);
    }

    /// In batches, of which none ends within a biflow.
    fn hand_on(&self, records: Vec<FlowRecord>) {
        if records.len() <= BATCH {
            return self.hand_on_batch(records);
        }
        let mut rest = &records[..];
        while !rest.is_empty() {
            let within = rest
                .get(BATCH)
                .is_some_and(|next| next.biflow == Biflow::Reverse);
            let end = if within {
                BATCH - 1
            } else {
                BATCH.min(rest.len())
            };
            let (batch, after) = rest.split_at(end);
            self.hand_on_batch(batch.to_vec());
            rest = after;
        }
    }

    fn hand_on_batch(&self, batch: Vec<FlowRecord>) {
        if !batch.is_empty() {
            self.exported.count(&batch);
            self.gate.pass(batch, &*self.sink);
        }
    }
}

/// One packet in so many was metered; 0, which is no rate, where nobody ever asked for that epoch.
fn n(rates: &Rates, sampled: Sampled) -> u32 {
    rates.sampling(sampled).map_or(0, Sampling::n)
}

impl Leave for Emitter {
    fn leave(&mut self, flow: &Flow, reason: EndReason) {
        self.emit(flow, reason);
    }

    fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }
}

fn macs(octets: &[u8; 12]) -> [[u8; 6]; 2] {
    let mut both = [[0; 6]; 2];
    both[0].copy_from_slice(&octets[..6]);
    both[1].copy_from_slice(&octets[6..]);
    both
}
