use std::time::Duration;

use flowprobe_ebpf::{Addresses, Counters, KeyV4, Marks, Packet, flow::Macs, wire::protocol::UDP};

use super::*;
use crate::{
    record::{Biflow, FlowKey},
    table::{Patience, Timeouts},
};

const SECOND: u64 = 1_000_000_000;

/// The records of each batch.
#[derive(Default)]
struct Batches(Mutex<Vec<Vec<FlowRecord>>>);

impl Sink for Batches {
    fn take(&self, records: Vec<FlowRecord>) {
        self.0.lock().expect("lock").push(records);
    }
}

/// Who waits for room for a batch waits for no more than that.
#[test]
fn what_is_released_comes_in_batches_that_part_no_biflow() {
    let (emitter, _, exported) = emitter();
    let batches = Arc::<Batches>::default();
    let mut emitter = Emitter {
        sink: Arc::clone(&batches) as Arc<dyn Sink>,
        ..emitter
    };
    emitter.at(SECOND);
    // One alone, so that a biflow would stand across the end of a batch.
    emitter.emit(&flow(1, false, 0), EndReason::IdleTimeout);
    for port in 2..2000 {
        emitter.emit(&flow(port, false, 0), EndReason::IdleTimeout);
        emitter.emit(&flow(port, true, 0), EndReason::IdleTimeout);
    }
    for port in 2000..5000 {
        emitter.emit(&flow(port, false, 0), EndReason::IdleTimeout);
    }
    emitter.finish();
    let batches = std::mem::take(&mut *batches.0.lock().expect("lock"));
    assert!(batches.iter().all(|batch| batch.len() <= BATCH));
    for batch in &batches {
        assert_ne!(batch[0].biflow, Biflow::Reverse);
    }
    let records: u64 = batches.iter().map(|batch| batch.len() as u64).sum();
    assert_eq!((records, exported.volume().records), (6997, 6997));
}

/// What reaches the sink, in its order: the source port of a record and its half, or a change.
#[derive(Debug, PartialEq)]
enum Reached {
    Record(u16, bool),
    Change(u32),
}

#[derive(Default)]
struct Log(Mutex<Vec<Reached>>);

impl Sink for Log {
    fn take(&self, records: Vec<FlowRecord>) {
        let half = |record: &FlowRecord| {
            Reached::Record(record.key.source_port(), record.biflow != Biflow::None)
        };
        let mut log = self.0.lock().expect("lock");
        log.extend(records.iter().map(half));
    }

    fn change(&self, _class: u8, epoch: u32, _sampling: Sampling) {
        self.0.lock().expect("lock").push(Reached::Change(epoch));
    }
}

impl Log {
    fn reached(&self) -> Vec<Reached> {
        std::mem::take(&mut self.0.lock().expect("lock"))
    }
}

/// A flow between port 1000 and this one, there or back, of an epoch.
fn flow(port: u16, back: bool, epoch: u32) -> Flow {
    let mut ends = [([10, 0, 0, 1], 1000_u16), ([10, 0, 0, 2], port)];
    if back {
        ends.reverse();
    }
    let [(from, from_port), (to, to_port)] = ends;
    let [a, b, c, d] = from;
    let [e, f, g, h] = to;
    let [[i, j], [k, l]] = [from_port, to_port].map(u16::to_be_bytes);
    let packet = Packet {
        addresses: Addresses::V4(u64::from_ne_bytes([a, b, c, d, e, f, g, h])),
        ports: u32::from_ne_bytes([i, j, k, l]),
        protocol: UDP,
        ..Packet::EMPTY
    };
    let addresses = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    Flow {
        key: FlowKey::V4(KeyV4::new(addresses, &packet, 1, Sampled::new(0, epoch))),
        counters: Counters {
            packets: 1,
            octets: 100,
            first_ns: SECOND,
            last_ns: SECOND,
        },
        marks: Marks::default(),
        macs: Macs::default(),
    }
}

fn emitter() -> (Emitter, Arc<Log>, Arc<Exported>) {
    let timeouts = Timeouts {
        idle: Duration::from_secs(15),
        active: Duration::from_secs(60),
        linger: Duration::from_secs(1),
    };
    let pairing = Pairing::new(Patience::exact(&timeouts), 10_000);
    let exported = Arc::new(Exported::in_biflows(Some(pairing)));
    let log = Arc::<Log>::default();
    let emitter = Emitter::new(
        Arc::new(Clock::time_of_day()),
        Arc::clone(&exported),
        Arc::clone(&log) as Arc<dyn Sink>,
        Arc::new(Rates::of(Sampling::All)),
    );
    (emitter, log, exported)
}

#[test]
fn halves_that_leave_one_after_the_other_reach_the_sink_together() {
    let (mut emitter, log, exported) = emitter();
    emitter.at(SECOND);
    emitter.emit(&flow(53, false, 0), EndReason::IdleTimeout);
    emitter.emit(&flow(54, false, 0), EndReason::IdleTimeout);
    emitter.flush();
    assert_eq!(log.reached(), []);
    assert_eq!(
        (exported.volume().records, exported.waiting().records),
        (0, 2)
    );
    // From another thread.
    let mut another = emitter.another();
    another.at(2 * SECOND);
    another.emit(&flow(53, true, 0), EndReason::IdleTimeout);
    another.flush();
    let together = [Reached::Record(1000, true), Reached::Record(53, true)];
    assert_eq!(log.reached(), together);
    assert_eq!(
        (exported.volume().records, exported.waiting().records),
        (2, 1)
    );
    emitter.finish();
    assert_eq!(log.reached(), [Reached::Record(1000, false)]);
    assert_eq!(
        (exported.volume().records, exported.waiting().records),
        (3, 0)
    );
}

/// A collector takes all that comes behind a change for the new rate.
#[test]
fn what_waits_for_its_other_half_is_out_before_the_rate_changes() {
    let (mut emitter, log, exported) = emitter();
    emitter.at(SECOND);
    emitter.emit(&flow(53, false, 0), EndReason::IdleTimeout);
    emitter.flush();
    assert_eq!(emitter.begin(0, Sampling::All), Some(1));
    emitter.emit(&flow(54, false, 1), EndReason::IdleTimeout);
    emitter.emit(&flow(55, false, 0), EndReason::ForcedEnd);
    emitter.conclude(Sampling::All);
    let alone = || Reached::Record(1000, false);
    assert_eq!(log.reached(), [alone(), alone(), Reached::Change(1)]);
    // The one of the new epoch still waits, and no half of the old one is there for it.
    assert_eq!(exported.waiting().records, 1);
    emitter.emit(&flow(54, true, 1), EndReason::IdleTimeout);
    emitter.flush();
    assert_eq!(log.reached().len(), 2);
}
