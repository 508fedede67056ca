//! Sampling beside the metering of everything.

use std::num::NonZeroU32;

use flowprobe::{load::Options, sampling::Sampling};
use flowprobe_ebpf::sampling::SHADOW_CLASS;
use flowprobe_tests::packets::{Ip, not_ip};

use crate::meter::{Meter, SMALL};

#[test]
fn both_are_metered_by_themselves() {
    let mut meter = Meter::new(&Options {
        max_flows: 1 << 10,
        shadow: NonZeroU32::new(10).map(Sampling::Count),
        ..SMALL
    });
    let v4 = Ip::new("10.0.0.1", "10.0.0.2");
    let packets = [
        v4.udp(1, 2, 0),
        v4.clone().tag(0x8100, 5).options(1).tcp(3, 4, 0, 9),
        Ip::new("2001:db8::1", "2001:db8::2").udp(5, 6, 3),
        v4.clone().label(77).udp(1, 2, 0),
        not_ip(0x0806),
    ];
    for frags in [false, true] {
        for packet in &packets {
            meter.run_many(&packet.frame, frags, 1000);
        }
    }
    let (all, shadow) = (meter.totals(), meter.shared().shadow_totals());
    assert_eq!(all.seen.packets, 10_000);
    assert_eq!(all.seen, shadow.seen);
    assert_eq!(
        (all.unsampled.packets, shadow.unsampled.packets),
        (0, 9_000)
    );
    assert_eq!(
        (all.accounted.packets, shadow.accounted.packets),
        (8_000, 800)
    );
    let ignored = |totals: &flowprobe::table::shared::Totals| {
        totals
            .ignored
            .iter()
            .map(|tally| tally.packets)
            .sum::<u64>()
    };
    assert_eq!((ignored(&all), ignored(&shadow)), (2_000, 200));
    let selection = meter.shared().selection(SHADOW_CLASS, 0);
    assert_eq!((selection.observed, selection.selected), (10_000, 1_000));
    let (sampled, whole): (Vec<_>, Vec<_>) = meter
        .flush()
        .into_iter()
        .partition(|record| record.key.sampled().class() == SHADOW_CLASS);
    assert_eq!((whole.len(), sampled.len()), (4, 4));
    assert!(whole.iter().all(|r| (r.packets, r.sampling_n) == (2000, 1)));
    assert!(
        sampled
            .iter()
            .all(|r| (r.packets, r.sampling_n) == (200, 10))
    );
    let octets = |records: &[flowprobe::record::FlowRecord]| -> u64 {
        records.iter().map(|record| record.octets).sum()
    };
    assert_eq!(octets(&whole), 10 * octets(&sampled));
    assert_eq!(octets(&sampled), shadow.accounted_ip_octets);
}
