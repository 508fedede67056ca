//! Several domains, and rates that change.

use super::*;
use crate::ipfix::tests::{decode::Fields, sample::of_class};

/// A bench of two domains: 7, without a name, and 8.
fn two_domains() -> Bench {
    Bench::new(|settings| {
        settings.domains = vec![
            domain(7, "", "1/100"),
            domain(8, "udp and port 53", "random:1/8"),
        ];
    })
}

/// Records of a class, metered at 1 in `n`.
fn metered(class: u8, count: u32, n: u32) -> Vec<FlowRecord> {
    let mut records = of_class(class, many(count));
    for record in &mut records {
        record.sampling_n = n;
    }
    records
}

/// The ids of the data records of a domain, as runs of one id.
fn order(collected: &Collected, domain: u32) -> Vec<(u16, usize)> {
    let mut order: Vec<(u16, usize)> = Vec::new();
    for (id, _) in collected.in_domain(domain) {
        let id = if (256..=263).contains(id) { 256 } else { *id };
        match order.last_mut() {
            Some((last, count)) if *last == id => *count += 1,
            _ => order.push((id, 1)),
        }
    }
    order
}

/// Each domain is announced before its first flow, has messages, sequence numbers and statistics
/// of its own, and what concerns the process is said once.
#[test]
fn domains_have_templates_sequences_and_statistics_of_their_own() {
    let mut bench = two_domains();
    for _ in 0..10 {
        bench.send([metered(0, 30, 100), metered(1, 20, 8)].concat());
        bench.run(300);
    }
    let report = bench.finish();
    assert_eq!(report.sent, bench.exported);
    // The decoder has checked that templates come first, in each domain, and found no gap.
    let collected = bench.collected();
    assert_eq!(collected.gap, 0);
    assert_eq!(report.encoded, collected.records.len() as u64);
    assert_eq!(
        order(&collected, 7),
        [
            (512, 1),
            (513, 1),
            (517, 1),
            (515, 1),
            (523, 8),
            (518, 1),
            (520, 1),
            (521, 1),
            (522, 1),
            (256, 300),
            (518, 1),
            (520, 1),
            (521, 1),
            (522, 1),
        ]
    );
    assert_eq!(
        order(&collected, 8),
        [
            (512, 1),
            (519, 1),
            (517, 1),
            (528, 1),
            (515, 1),
            (523, 8),
            (518, 1),
            (520, 1),
            (521, 1),
            (256, 200),
            (518, 1),
            (520, 1),
            (521, 1),
        ]
    );
    let of = |domain, id: u16| -> Vec<&Fields> {
        let records = collected.in_domain(domain).into_iter();
        let records = records.filter(|(of, _)| *of == id);
        records.map(|(_, fields)| fields).collect()
    };
    for (class, (domain, n)) in [(7, 100), (8, 8)].into_iter().enumerate() {
        assert_eq!(number(of(domain, 512)[0], 34), n);
        assert_eq!(number(of(domain, 518)[0], 318), 1000 + 100 * class as u64);
        assert_eq!(number(of(domain, 521)[0], 164), 3 + class as u64);
        for id in [512, 517, 520, 521] {
            assert_eq!(number(of(domain, id)[0], 149), u64::from(domain), "{id}");
        }
        let flows = [of(domain, 256), of(domain, 257)].concat();
        assert!(flows.iter().all(|flow| number(flow, 34) == n));
    }
    let name = &of(8, 528)[0][1];
    assert!(name.0 == 300 && name.1.starts_with(b"udp and port 53\0"));
    // What both domains were sent is what the collector was sent, but for their last messages.
    let last = |domain| *of(domain, 520).last().expect("statistics");
    let sum = |element| number(last(7), element) + number(last(8), element);
    assert_eq!(sum(42), 500);
    assert_eq!((number(last(7), 42), number(last(8), 42)), (300, 200));
    assert_eq!(sum(41), report.messages - 2);
}

/// A message that waits to be full holds up no other domain, and where pacing lets wait, records
/// go by their age.
#[test]
fn no_domain_waits_for_another() {
    let mut bench = two_domains();
    bench.run(10);
    bench.send([metered(0, 3, 100), metered(1, 100, 8)].concat());
    bench.run(1);
    let collected = bench.collected();
    assert!(collected.in_domain(8).len() > 90 && collected.flows() < 103);
    bench.run(1100);
    assert_eq!(bench.collected().flows(), 103);

    let mut bench = Bench::new(|settings| {
        settings.domains.push(domain(8, "", "1/8"));
        settings.export_rate = 1000;
    });
    bench.send(metered(0, 2000, 100));
    bench.send(metered(1, 3, 8));
    bench.run(500);
    bench.send(metered(0, 5000, 100));
    bench.run(2600);
    let flows = order(&bench.collected(), 8).last().copied();
    assert_eq!(flows, Some((256, 3)), "in their turn");
    assert!(bench.collected().flows() < 3500);
}

/// Two domains send messages of one length with one sequence number in one second: the domain in
/// the header tells whose message came back.
#[test]
fn an_error_blames_the_message_of_its_own_domain() {
    let mut bench = two_domains();
    bench.run(10);
    bench.send([metered(0, 10, 100), metered(1, 10, 8)].concat());
    bench.run(1100);
    let first = bench.delivered() - 2;
    let heads: Vec<_> = bench.network.borrow().delivered[first..]
        .iter()
        .map(|message| message[..28].to_vec())
        .collect();
    assert_eq!(heads[0][..12], heads[1][..12]);
    assert_eq!((heads[0][15], heads[1][15]), (7, 8));
    let sent = |bench: &Bench| [0, 1].map(|class| bench.outlet.account().handed_over(class).2);
    assert_eq!(sent(&bench), [10, 10]);
    for (head, left) in heads.into_iter().zip([[0, 10], [0, 0]]) {
        bench.network.borrow_mut().errors.push_back(Undelivered {
            error: io::Error::from_raw_os_error(libc::EHOSTUNREACH),
            quote: head,
        });
        bench.run(3000);
        assert_eq!(sent(&bench), left);
    }
    assert_eq!(dropped(&bench.finish(), "unreachable"), 20);
}

/// The old flows, the last statistics of the old rate, the new options, the new flows; the other
/// domain goes on as it was.
#[test]
fn a_change_of_rate_comes_between_the_flows_of_both() {
    let mut bench = two_domains();
    bench.run(10);
    let announced = bench.collected().in_domain(7).len();
    bench.send([metered(0, 50, 100), metered(1, 5, 8)].concat());
    bench.change(0, "random:1/20");
    bench.send([metered(0, 30, 20), metered(1, 5, 8)].concat());
    bench.change(0, "1/3");
    bench.change(0, "1/4");
    bench.send(metered(0, 10, 4));
    bench.run(10);
    let collected = bench.collected();
    assert_eq!(
        (collected.flows(), collected.of(518).len()),
        (80, 5),
        "at once"
    );
    bench.run(3000);
    let collected = bench.collected();
    assert_eq!(collected.gap, 0);
    let before = order(&collected, 7).iter().position(|(id, _)| *id == 256);
    assert_eq!(
        order(&collected, 7)[before.expect("flows")..],
        [
            (256, 50),
            (518, 1),
            (512, 1),
            (519, 1),
            (517, 1),
            (256, 30),
            (518, 1),
            (512, 1),
            (513, 1),
            (517, 1),
            (518, 1),
            (512, 1),
            (513, 1),
            (517, 1),
            (256, 10),
        ]
    );
    // Each flow has the rate that was announced last, and each sequence its own statistics.
    let (mut rate, mut epoch, mut told) = (100, 0, Vec::new());
    for (id, fields) in &collected.in_domain(7)[announced..] {
        match id {
            512 => rate = number(fields, 34),
            517 => {
                epoch += 1;
                assert_eq!(number(fields, 301), epoch + 1);
                assert_eq!(number(fields, 302), 1);
            }
            518 => told.push([301, 318, 319].map(|element| number(fields, element))),
            256..=263 => assert_eq!(number(fields, 34), rate),
            _ => {}
        }
    }
    assert_eq!(told, [[1, 1000, 10], [2, 1001, 11], [3, 1002, 12]]);
    assert_eq!(rate, 4);
    let other = order(&collected, 8);
    assert_eq!(other.last(), Some(&(256, 10)), "{other:?}");

    // What is repeated is the newest rate, in the newest sequence.
    let before = bench.delivered();
    bench.run(60_000);
    let mut again = Collected::default();
    for message in &bench.network.borrow().delivered[before..] {
        again.message(message);
    }
    let first = |id: u16| {
        let records = again.in_domain(7).into_iter();
        let mut records = records.filter(|(of, _)| *of == id);
        records.next().map(|(_, fields)| fields).expect("repeated")
    };
    assert_eq!(number(first(512), 34), 4);
    assert_eq!(number(first(513), 306), 3);
    assert_eq!((number(first(517), 301), number(first(518), 301)), (4, 4));
    assert_eq!(number(first(518), 318), 1003);
    assert!(again.in_domain(7).iter().all(|(id, _)| *id != 519));
}

/// Changes wait with their flows. Whoever comes back is told the rate of the oldest flow that
/// waits, then each change in its place.
#[test]
fn changes_wait_for_a_collector_that_is_away() {
    let mut bench = two_domains();
    bench.run(10);
    bench.change(0, "1/3");
    bench.run(10);
    bench.network.borrow_mut().no_route = true;
    bench.send(metered(0, 50, 3));
    bench.change(0, "1/20");
    bench.change(0, "1/30");
    bench.send(metered(0, 30, 30));
    bench.run(10_000);
    assert_eq!(bench.outlet.report().queued.records, 80);
    bench.network.borrow_mut().no_route = false;
    let before = bench.delivered();
    bench.run(5000);
    let mut restarted = Collected::default();
    for message in &bench.network.borrow().delivered[before..] {
        restarted.message(message);
    }
    let mut rates = Vec::new();
    let mut flows = 0;
    for (id, fields) in restarted.in_domain(7) {
        match id {
            512 => rates.push((number(fields, 34), flows)),
            256..=263 => {
                assert_eq!(
                    Some(number(fields, 34)),
                    rates.last().map(|(rate, _)| *rate)
                );
                flows += 1;
            }
            _ => {}
        }
    }
    assert_eq!((rates, flows), (vec![(3, 0), (20, 50), (30, 50)], 80));
    bench.finish();
    assert_eq!(bench.collected().gap, 0);
}

/// A socket that is full in the middle of a change: all of the change is said again.
#[test]
fn a_change_that_the_socket_does_not_take_is_made_later() {
    let mut bench = two_domains();
    bench.run(10);
    let before = bench.collected().in_domain(7).len();
    bench.network.borrow_mut().full = true;
    bench.change(0, "1/3");
    bench.send(metered(0, 10, 3));
    bench.run(900);
    bench.network.borrow_mut().full = false;
    bench.run(1100);
    let order: Vec<u16> = bench.collected().in_domain(7)[before..]
        .iter()
        .map(|(id, _)| *id)
        .collect();
    assert_eq!(order[..4], [518, 512, 513, 517]);
    assert_eq!((order.len(), bench.collected().gap), (14, 0));
}

#[test]
fn flows_of_an_unknown_class_are_dropped_by_name() {
    let mut bench = two_domains();
    bench.send([metered(0, 5, 100), metered(2, 3, 8)].concat());
    let report = bench.finish();
    assert_eq!(dropped(&report, "unknown_class"), 3);
    assert_eq!((bench.collected().flows(), bench.collected().gap), (5, 0));
}
