//! What a queue keeps, and that all of it is accounted for.

use super::*;
use crate::ipfix::tests::sample::{many, of_class};

/// The oldest `count` records of class 0.
fn cargo(account: &Account, count: usize) -> Cargo {
    let mut cargo = Cargo::of(0, false);
    account
        .waiting(0)
        .take(count)
        .for_each(|record| cargo.add(record));
    cargo
}

fn sent(account: &mut Account, count: usize) -> Volume {
    let cargo = cargo(account, count);
    account.settle_sent(&cargo, Now::read());
    cargo.sent
}

fn assert_balanced(report: &DestinationReport, exported: Volume) {
    assert_eq!(report.total(), exported);
}

#[test]
fn a_full_queue_drops_the_newest_and_counts_them() {
    let outlet = Outlet::new("x".to_owned(), 10, &[Sampling::All; 1]);
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
    sent(&mut outlet.account(), 9);
    outlet.account().push(&first, Now::read());
    assert_eq!(outlet.report().queued.records, 9);
    assert_eq!(outlet.report().dropped[0].1.records, 4);
}

#[test]
fn every_record_is_in_one_term() {
    let outlet = Outlet::new("x".to_owned(), 100, &[Sampling::All; 1]);
    let records = Arc::new(many(40));
    let now = Now::read();
    let mut account = outlet.account();
    account.push(&records, now);
    let volume = sent(&mut account, 20);
    let load = Load {
        class: 0,
        volume,
        flow_records: volume.records,
    };
    account.undelivered(load, "refused", now);
    sent(&mut account, 5);
    let lost = cargo(&account, 5);
    account.settle_dropped(&lost, "socket_full", now);
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
    let outlet = Outlet::new("x".to_owned(), 50, &[Sampling::All; 2]);
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
    let outlet = Outlet::new("x".to_owned(), 3, &[Sampling::All; 2]);
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
    sent(&mut account, 2);
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
    let outlet = Outlet::new("udp://[::1]:4739".to_owned(), 1, &[Sampling::All; 1]);
    outlet.account().push(&Arc::new(many(2)), Now::read());
    let shown = serde_json::to_value(outlet.report()).expect("JSON");
    let volume = |records, packets, octets| serde_json::json!({"records": records, "packets": packets, "octets": octets});
    assert_eq!(shown["collector"], "udp://[::1]:4739");
    assert_eq!(shown["queued"], volume(1, 1, 100));
    assert_eq!(shown["dropped"]["queue_full"], volume(1, 2, 200));
}

/// What is on its way is queued until it has arrived; what has not waits again, in front, and a
/// change waits for all of it.
#[test]
fn what_is_on_its_way_is_not_lost() {
    let outlet = Outlet::new("x".to_owned(), 10, &[Sampling::All]);
    let records = Arc::new(many(6));
    let now = Now::read();
    let mut account = outlet.account();
    account.push(&records, now);
    account.push_change(0, "1/5".parse().expect("a rate"));
    let messages = [2, 3].map(|count| {
        let cargo = cargo(&account, count);
        account.send_off(&cargo);
        cargo
    });
    assert_eq!((account.queued().records, account.room()), (6, Some(4)));
    account.settle_acknowledged(&messages[0], now);
    assert_eq!(account.sent, Volume::of(&records[..2]));
    assert_eq!(account.handed_over(0).2, 5);
    account.take_back([(messages[1].clone(), false)].into_iter(), now);
    account.bring_back();
    assert_eq!(account.handed_over(0).2, 2);
    assert!(account.waiting(0).eq(&records[2..]));
    let rest = cargo(&account, 4);
    account.send_off(&rest);
    assert_eq!(account.change(), None, "its records may come back");
    account.settle_acknowledged(&rest, now);
    assert_eq!(account.change().map(|(class, _)| class), Some(0));
    assert_eq!(account.queued(), Volume::default());
    assert_eq!(account.sent, Volume::of(&records));
}

/// A session ends: what was given up is dropped, and what was sent before and behind it comes back,
/// in its order.
#[test]
fn what_was_given_up_does_not_come_back() {
    let outlet = Outlet::new("x".to_owned(), 10, &[Sampling::All]);
    let records = Arc::new(many(8));
    let now = Now::read();
    let mut account = outlet.account();
    account.push(&records, now);
    let messages = [1, 2, 2, 2].map(|count| {
        let cargo = cargo(&account, count);
        account.send_off(&cargo);
        cargo
    });
    account.settle_expired(&messages[0], now);
    let fates = [false, true, false];
    account.take_back(messages[1..].iter().cloned().zip(fates), now);
    account.bring_back();
    let left = records[1..3].iter().chain(&records[5..]);
    assert!(account.waiting(0).eq(left));
    assert_eq!(account.handed_over(0).2, 0);
    drop(account);
    let report = outlet.report();
    let expired = Volume::of(&[&records[..1], &records[3..5]].concat());
    assert_eq!(report.dropped, [("expired", expired)]);
    assert_balanced(&report, Volume::of(&records));
}

/// What a format cannot say is dropped by name, in the middle of what it can.
#[test]
fn records_that_a_format_cannot_say_are_dropped_by_name() {
    let outlet = Outlet::new("x".to_owned(), 10, &[Sampling::All]);
    let records = Arc::new(many(3));
    let mut account = outlet.account();
    account.push(&records, Now::read());
    let mut cargo = Cargo::of(0, false);
    cargo.add(&records[0]);
    cargo.pass_over(&records[1], "ipv6");
    cargo.add(&records[2]);
    account.settle_sent(&cargo, Now::read());
    drop(account);
    let report = outlet.report();
    assert_eq!(report.sent.records, 2);
    assert_eq!(report.dropped, [("ipv6", Volume::of(&records[1..2]))]);
    assert_balanced(&report, Volume::of(&records));
}

/// A message on disk is sent, and acknowledged, before the one who has put it there takes note.
#[test]
fn what_leaves_the_spool_at_once_counts_once() {
    let outlet = Outlet::new("x".to_owned(), 100, &[Sampling::All; 1]);
    let records = Arc::new(many(40));
    let now = Now::read();
    outlet.account().inherit(Volume::of(&many(3)));
    outlet.account().push(&records, now);
    let cargo = cargo(&outlet.account(), 20);
    outlet.account().send_off(&cargo);
    let mut both = cargo.sent;
    both += Volume::of(&many(3));
    outlet.account().leave_spool(both, None, now);
    assert_eq!(outlet.report().spooled, Volume::default());
    outlet.account().settle_spooled(&cargo, now);
    let report = outlet.report();
    assert_eq!(report.recovered, Volume::of(&many(3)));
    assert_eq!(
        (report.sent, report.spooled),
        (cargo.sent, Volume::default())
    );
    assert_eq!(report.total(), Volume::of(&records));
}
