//! Paths that take no long messages (RFC 7011 §10.3.3).

use super::*;

fn longest(bench: &Bench, from: usize) -> usize {
    let network = bench.network.borrow();
    let longest = network.delivered[from..].iter().map(Vec::len).max();
    longest.expect("messages")
}

/// The host knows it: nothing is lost, at the start or later.
#[test]
fn messages_fit_a_path_that_is_known() {
    for format in [Format::Ipfix, Format::V9] {
        let network = Rc::new(RefCell::new(Network {
            known_path: Some(1000),
            quoted: 64,
            ..Network::default()
        }));
        let mut bench = Bench::of(format, network, |_| {});
        bench.send(many(200));
        bench.run(2000);
        assert!((900..=1000).contains(&longest(&bench, 0)));
        bench.network.borrow_mut().known_path = Some(600);
        let before = bench.delivered();
        bench.send(many(200));
        bench.run(2000);
        assert!((500..=600).contains(&longest(&bench, before)));
        // It gets wider: noticed when templates are said again, and no longer than was set.
        bench.network.borrow_mut().known_path = Some(9000);
        bench.run(60_000);
        let before = bench.delivered();
        bench.send(many(200));
        let report = bench.finish();
        assert!((1250..=1352).contains(&longest(&bench, before)));
        assert_eq!((report.sent.records, report.dropped.len()), (600, 0));
        if format == Format::Ipfix {
            assert_eq!(bench.collected().gap, 0);
        }
    }
}

/// A router says it of one message: those that were on their way and too long are counted, and no
/// others are lost.
#[test]
fn what_a_router_refuses_is_counted_once_and_then_messages_fit() {
    let mut bench = Bench::new(|_| {});
    bench.send(many(100));
    bench.run(2000);
    bench.network.borrow_mut().path = Some(800);
    bench.send(many(200));
    bench.run(2000);
    let report = bench.outlet.report();
    let lost = dropped(&report, "too_big");
    assert!(lost > 0 && lost <= 200, "{report:?}");

    let before = bench.delivered();
    bench.send(many(200));
    let report = bench.finish();
    assert!((700..=800).contains(&longest(&bench, before)));
    assert_eq!(dropped(&report, "too_big"), lost);
    assert_eq!(report.outages, 0);
    assert_eq!(bench.collected().gap, lost);
    assert_eq!(bench.collected().flows() as u64, 500 - lost);
}

/// What is lost so may be the templates: they come again at once.
#[test]
fn templates_that_a_router_refuses_come_again() {
    let mut bench = Bench::new(|_| {});
    bench.network.borrow_mut().path = Some(800);
    bench.run(10);
    bench.send(many(100));
    bench.run(3000);
    let report = bench.outlet.report();
    let has_templates = |message: &&Vec<u8>| {
        let sets = crate::ipfix::tests::sets(message);
        sets.iter().any(|(id, _)| *id == 2)
    };
    // Options that fitted came before them, and no flow.
    let network = bench.network.borrow();
    let mut collected = Collected::default();
    for message in network
        .delivered
        .iter()
        .skip_while(|one| !has_templates(one))
    {
        collected.message(message);
    }
    assert_eq!(collected.flows() as u64, report.sent.records);
    assert!(report.sent.records > 50, "{report:?}");
}

/// Nothing fits: it is said, what cannot be sent is counted, and the end is not held up.
#[test]
fn a_path_that_takes_no_message_loses_what_is_counted() {
    let mut bench = Bench::new(|_| {});
    bench.run(10);
    bench.network.borrow_mut().known_path = Some(100);
    bench.send(many(100));
    let report = bench.finish();
    assert_eq!(dropped(&report, "too_big"), 100);
}
