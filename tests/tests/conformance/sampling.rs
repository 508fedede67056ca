//! RFC 5476 and 5477: what is said of sampling.

use flowprobe_tests::{
    ipfix::{Message, Record},
    packets::Ip,
};

use crate::{
    Result,
    live::{Came, Live, Options},
    number,
};

const RATE: u16 = 512;
const SEQUENCE: u16 = 517;
const STATISTICS: u16 = 518;
const METERING_RELIABILITY: u16 = 521;

/// 1,000 packets of 10 flows, sampled.
fn sampled(rate: &str) -> Result<Came> {
    let live = Live::start(Options {
        probe: &["--sample", rate],
        ..Options::default()
    })?;
    let packets: Vec<_> = (0..1000)
        .map(|n| Ip::new("10.0.0.1", "10.0.0.2").udp(n % 10, 53, 40))
        .collect();
    live.send(&packets)?;
    live.stop()
}

fn of(messages: &[Message], template: u16) -> Vec<&Record> {
    let records = messages.iter().flat_map(|message| &message.records);
    records
        .filter(|record| record.template.id == template)
        .collect()
}

#[test]
fn rfc5476_6_5_2_each_selector_has_a_report() -> Result {
    // selectorAlgorithm, parameters and their values.
    for (rate, template, values) in [
        ("1/1", 513, &[(304, 1), (305, 1), (306, 0)][..]),
        ("1/10", 513, &[(304, 1), (305, 1), (306, 9)]),
        ("nofn:2/20", 524, &[(304, 3), (309, 2), (310, 20)]),
        ("time:100/900", 525, &[(304, 2), (307, 100), (308, 900)]),
        ("random:1/8", 519, &[(304, 4), (311, 0.125_f64.to_bits())]),
    ] {
        let came = sampled(rate)?;
        for messages in [came.udp()?, came.tcp()] {
            let reports = of(&messages, template);
            let report = reports.first().expect("a selector report");
            assert_eq!(report.template.scopes, 1);
            assert_eq!(number(report, 302), 1, "selectorId, which is the scope");
            for (element, value) in values {
                assert_eq!(number(report, *element), *value, "{element} of {rate}");
            }
            // Some collectors keep the rate that they read last, or misread a report that is alone.
            let message = messages
                .iter()
                .find(|m| m.records.iter().any(|r| r == *report));
            let beside = message.expect("its message").records.iter();
            let order: Vec<u16> = beside.map(|record| record.template.id).collect();
            let place = order
                .iter()
                .position(|id| *id == template)
                .expect("it is there");
            assert_eq!(order[place - 1], RATE, "{order:?}");
        }
    }
    Ok(())
}

#[test]
fn rfc5476_6_5_1_and_6_5_3_selection_sequences_and_what_they_selected() -> Result {
    let came = sampled("1/10")?;
    let ledger = &came.summary.ledger;
    assert_eq!((ledger.seen.packets, ledger.unsampled.packets), (1000, 900));
    for messages in [came.udp()?, came.tcp()] {
        let reports = of(&messages, SEQUENCE);
        let report = reports.first().expect("a selection sequence report");
        let fields = &report.template.fields;
        assert_eq!((report.template.scopes, fields[0].id), (1, 301));
        assert_eq!([149, 302].map(|id| number(report, id)), [1, 1]);
        let statistics = of(&messages, STATISTICS);
        let last = statistics.last().expect("statistics");
        assert_eq!(number(last, 301), number(report, 301), "of that sequence");
        assert_eq!([318, 319].map(|id| number(last, id)), [1000, 100]);
        // What sampling skips was not ignored (RFC 7011 §4.2).
        let ignored = of(&messages, METERING_RELIABILITY);
        assert_eq!(number(ignored.last().expect("one"), 164), 0);
        let flows = messages.iter().flat_map(|message| &message.records);
        let flows = flows.filter(|record| !record.is_options());
        assert!(flows.clone().all(|flow| number(flow, 34) == 10));
        assert_eq!(
            flows.map(|flow| number(flow, 2)).sum::<u64>(),
            100,
            "raw counters"
        );
    }
    Ok(())
}
