//! Rates that change while packets come.

use std::num::NonZeroU32;

use flowprobe::{
    load::{Class, Options},
    record::{EndReason, FlowRecord},
    sampling::{Sampling, Selection},
};
use flowprobe_ebpf::class::{Rule, side};
use flowprobe_tests::packets::Ip;

use crate::meter::{Changed, Meter, SMALL};

fn n(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("at least 1")
}

fn meter(sampling: Sampling, classes: &[Class]) -> Meter {
    Meter::new(&Options {
        max_flows: 1 << 10,
        sampling,
        classes,
        ..SMALL
    })
}

/// The rates of `records`, in their order, each once.
fn rates(records: &[FlowRecord]) -> Vec<u32> {
    let mut rates: Vec<u32> = records.iter().map(|record| record.sampling_n).collect();
    rates.dedup();
    rates
}

/// Through every method and back, with packets of the same flows all the time: each record has
/// packets of one epoch, and as many as that epoch selected.
#[test]
fn each_record_has_the_rate_that_it_was_metered_with() {
    const EACH: u64 = 3000;
    let steps = [
        Sampling::Count(n(1_000_000)),
        Sampling::Count(n(10)),
        Sampling::Random(n(5)),
        Sampling::All,
        Sampling::NOfN {
            size: n(2),
            population: n(50),
        },
        Sampling::Count(n(3)),
        Sampling::Random(n(100_000_000)),
        Sampling::All,
        Sampling::Count(n(4)),
    ];
    let mut meter = meter(steps[0], &[]);
    let flows: Vec<_> = (0..10)
        .map(|i| Ip::new("10.0.0.1", "10.0.0.2").udp(i, 2, 0))
        .collect();
    let mut records = Vec::new();
    for (epoch, sampling) in steps.into_iter().enumerate() {
        let epoch = epoch as u32;
        if epoch > 0 {
            assert_eq!(meter.change(0, sampling), epoch);
            let taken = meter.taken();
            // Nothing of what is past stays, and nothing of what is to come is out.
            assert!(
                taken
                    .iter()
                    .all(|record| record.reason == EndReason::ForcedEnd)
            );
            assert!(
                taken
                    .iter()
                    .all(|record| record.key.sampled().epoch() == epoch - 1)
            );
            assert_eq!(meter.assert_balanced().packets, 0);
            records.extend(taken);
        }
        for i in 0..EACH {
            meter.run(&flows[(i % 10) as usize].frame);
        }
        let Selection { observed, selected } = meter.shared().selection(0, epoch);
        assert_eq!(observed, EACH, "{sampling}");
        let expected = match sampling {
            Sampling::All => EACH..=EACH,
            Sampling::Count(n) | Sampling::Random(n) if n.get() > 1000 => 0..=1,
            Sampling::Count(n) => {
                let floor = EACH / u64::from(n.get());
                floor..=floor + 1
            }
            Sampling::NOfN { .. } => 120..=120,
            // Seven standard deviations.
            _ => 450..=755,
        };
        assert!(expected.contains(&selected), "{selected} by {sampling}");
    }
    let selections: Vec<u64> = (0..steps.len() as u32)
        .map(|epoch| meter.shared().selection(0, epoch).selected)
        .collect();
    records.extend(meter.flush());
    for (epoch, sampling) in steps.iter().enumerate() {
        let of_epoch: Vec<_> = records
            .iter()
            .filter(|record| record.key.sampled().epoch() == epoch as u32)
            .copied()
            .collect();
        let packets: u64 = of_epoch.iter().map(|record| record.packets).sum();
        if let Some(rate) = rates(&of_epoch).first() {
            assert_eq!(*rate, sampling.n());
        }
        // The program keeps the last two; what was before, the change had to remember.
        if epoch + 2 >= steps.len() {
            assert_eq!(packets, selections[epoch], "{sampling}");
        }
        assert!(packets > 0 || sampling.n() > 1000, "{sampling}");
    }
    assert_eq!(meter.changes().len(), steps.len() - 1);
    meter.assert_balanced();
}

/// The change stands between the records of the old rate and those of the new one.
#[test]
fn a_change_goes_to_export_between_the_records() {
    let mut meter = meter(Sampling::All, &[]);
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(1, 2, 0);
    meter.run_many(&packet.frame, false, 7);
    meter.change(0, Sampling::Count(n(2)));
    meter.run_many(&packet.frame, false, 8);
    meter.change(0, Sampling::Count(n(4)));
    meter.run_many(&packet.frame, false, 8);
    let records = meter.flush();
    let seen: Vec<_> = records.iter().map(|r| (r.packets, r.sampling_n)).collect();
    assert_eq!(seen, [(7, 1), (4, 2), (2, 4)]);
    let changed = |epoch, behind| Changed {
        class: 0,
        epoch,
        behind,
    };
    assert_eq!(meter.changes(), [changed(1, 1), changed(2, 2)]);
}

/// Flows that were moved to the ring and to userspace are of their epoch too.
#[test]
fn flows_outside_of_the_table_leave_as_well() {
    let mut meter = Meter::new(&SMALL);
    for port in 0..100 {
        let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(port, 2, 0);
        meter.run(&packet.frame);
    }
    assert!(meter.totals().evicted > 50);
    meter.change(0, Sampling::Count(n(2)));
    let records = meter.taken();
    assert_eq!((records.len(), rates(&records)), (100, vec![1]));
    assert_eq!(meter.assert_balanced().packets, 0);
}

/// Other classes go on as they are.
#[test]
fn one_class_changes_by_itself() {
    let dns = Rule {
        port_sides: side::SOURCE | side::DESTINATION,
        first_port: 53,
        last_port: 53,
        ..Rule::default()
    };
    let class = Class {
        rule: dns,
        sampling: Sampling::All,
    };
    let mut meter = meter(Sampling::Count(n(10)), &[class]);
    let dns = Ip::new("10.0.0.1", "10.0.0.2").udp(1, 53, 0);
    let rest = Ip::new("10.0.0.1", "10.0.0.2").udp(1, 54, 0);
    for _ in 0..100 {
        meter.run(&dns.frame);
        meter.run(&rest.frame);
    }
    assert_eq!(meter.change(1, Sampling::Count(n(5))), 1);
    let records = meter.taken();
    assert_eq!(records.len(), 1);
    assert_eq!((records[0].packets, records[0].sampling_n), (100, 1));
    for _ in 0..100 {
        meter.run(&dns.frame);
        meter.run(&rest.frame);
    }
    let selection = |class, epoch| meter.shared().selection(class, epoch);
    let of = |observed, selected| Selection { observed, selected };
    assert_eq!(selection(0, 0), of(200, 20));
    assert_eq!(selection(1, 0), of(100, 100));
    assert_eq!(selection(1, 1), of(100, 20));
    let mut seen: Vec<_> = meter
        .flush()
        .iter()
        .map(|r| (r.packets, r.sampling_n))
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [(20, 5), (20, 10)]);
    meter.assert_balanced();
}
