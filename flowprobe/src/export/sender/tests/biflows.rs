//! Biflows: two records of a queue that are one on the wire.

use super::*;
use crate::{
    ipfix::tests::sample::nth,
    record::{Biflow, Direction},
};

/// So many biflows, and a flow by itself before each.
fn biflows(count: u32) -> Vec<FlowRecord> {
    let half = |i, biflow| FlowRecord {
        biflow,
        ..nth(5 * i)
    };
    (0..count)
        .flat_map(|i| {
            let forward = Biflow::Forward(Direction::Initiator);
            [
                half(i, Biflow::None),
                half(i, forward),
                half(i + 1, Biflow::Reverse),
            ]
        })
        .collect()
}

fn bench(queue: usize) -> Bench {
    Bench::new(|settings| {
        settings.queue = queue;
        settings.content.biflows = true;
    })
}

/// Records by template: flows and biflows of IPv4.
fn by_template(collected: &Collected) -> [usize; 2] {
    [256, 264].map(|id| collected.of(id).len())
}

#[test]
fn both_halves_are_one_record_and_two_in_the_account() {
    let mut bench = bench(1 << 20);
    bench.run(10);
    bench.send(biflows(1000));
    bench.run(3000);
    let report = bench.finish();
    let collected = bench.collected();
    assert_eq!(by_template(&collected), [1000, 1000]);
    assert_eq!((report.sent.records, collected.gap), (3000, 0));
    // RFC 7011 §4.1: exportedFlowRecordTotalCount counts Flow Records.
    let statistics = collected.of(520);
    let last = statistics.last().expect("statistics");
    assert_eq!(number(last, 42), 2000);
    // Templates of both are told, and the keys of both.
    let keys = collected.of(523);
    let keys = keys.iter().map(|fields| number(fields, 145));
    let templates: Vec<_> = keys.collect();
    assert!((256..=271).all(|id| templates.contains(&id)));
}

#[test]
fn halves_that_a_full_queue_has_parted_are_flows() {
    // The last one that fits is the first half of a biflow.
    let mut bench = bench(5);
    bench.send(biflows(2));
    let report = bench.finish();
    assert_eq!(by_template(&bench.collected()), [3, 1]);
    assert_eq!(
        (report.sent.records, dropped(&report, "queue_full")),
        (5, 1)
    );
}

#[test]
fn what_did_not_arrive_is_taken_off_in_both_counts() {
    let mut bench = bench(1 << 20);
    bench.run(10);
    bench.send(biflows(100));
    bench.network.borrow_mut().closed = true;
    bench.run(5000);
    bench.network.borrow_mut().closed = false;
    let report = bench.finish();
    let collected = bench.collected();
    let arrived = by_template(&collected);
    assert_eq!((arrived[0] + 2 * arrived[1]) as u64, report.sent.records);
    let statistics = collected.of(520);
    let last = statistics.last().expect("statistics");
    assert_eq!(number(last, 42), (arrived[0] + arrived[1]) as u64);
    assert!(dropped(&report, "refused") > 0);
}

#[test]
fn without_a_reverse_field_the_way_back_is_a_flow() {
    let mut bench = Bench::new(|settings| {
        settings.content.biflows = true;
        let fields = "sourceIPv4Address,sourceIPv6Address,octetDeltaCount";
        settings.content.fields = Some(fields.parse().expect("fields"));
    });
    bench.send(biflows(10));
    let report = bench.finish();
    assert_eq!(by_template(&bench.collected()), [30, 0]);
    assert_eq!(report.sent.records, 30);
}

#[test]
fn formats_without_reverse_elements_have_two_flows() {
    for format in [Format::V9, Format::V5] {
        let network = Rc::new(RefCell::new(Network::default()));
        let mut bench = Bench::of(format, network, |settings| settings.content.biflows = true);
        bench.send(biflows(10));
        let report = bench.finish();
        assert_eq!(report.sent.records, 30, "{format:?}");
        assert_eq!(report.dropped, []);
    }
}
