//! Flows in several records, and what of them is settled.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{super::NOW, encode, encoder, parts, read, sum};
use crate::{
    encode::{Fit, Mark},
    ipfix::tests::sample::{key, nth},
    netflow::v5::{Encoder, MIN_OCTETS},
    record::FlowRecord,
};

proptest! {
    /// Whatever is sent, lost or never sent on the way, in the end each flow is there once.
    #[test]
    fn a_message_never_sent_is_encoded_again(
        counters in prop::collection::vec((1..50_u64, 1..20_u64), 1..20),
        fates in prop::collection::vec(0..3_u8, 200),
        octets in MIN_OCTETS as u16..400,
    ) {
        let flows: Vec<_> = counters
            .iter()
            .enumerate()
            .map(|(i, (packets, parts))| FlowRecord {
                key: key(false, [[i as u8; 16]; 2], 17, [1, 2], 0, 0, 3),
                packets: *packets,
                octets: parts * u64::from(u32::MAX) - 1,
                ..nth(0)
            })
            .collect();
        let mut encoder = Encoder::new(7, octets).expect("large enough");
        let mut fates = fates.into_iter().chain(std::iter::repeat(0));
        let mut records = Vec::new();
        // How many flows are in committed messages, and in the message at hand.
        let (mut settled, mut at) = (0, 0);
        while settled < flows.len() {
            let fit = flows.get(at).map_or(Fit::Full, |flow| encoder.flow(flow));
            if fit == Fit::In {
                at += 1;
                continue;
            }
            prop_assert_eq!(fit, Fit::Full);
            let before = encoder.mark();
            let message = read(encoder.message(NOW));
            prop_assert_eq!(message.header.flow_sequence as usize, records.len());
            match fates.next() {
                Some(1) => {
                    encoder.discard();
                    at = settled;
                }
                Some(2) => {
                    // Built ahead, and then taken back.
                    encoder.commit();
                    encoder.go_to(before);
                    at = settled;
                }
                _ => {
                    encoder.commit();
                    records.extend(message.flowsets);
                    settled = at;
                }
            }
        }
        let mut rest = &records[..];
        for flow in &flows {
            let (own, after) = rest.split_at(parts(flow));
            rest = after;
            prop_assert!(own.iter().all(|record| IpAddr::from(record.src_addr) == flow.key.source()));
            prop_assert_eq!(sum(&own.iter().collect::<Vec<_>>()), (flow.packets, flow.octets));
        }
        prop_assert!(rest.is_empty());
    }
}

#[test]
fn counters_up_to_their_limits() {
    let most = u64::from(u32::MAX);
    let flow = |packets, octets| FlowRecord {
        packets,
        octets,
        ..nth(0)
    };
    for (packets, octets, records) in [
        (0, 0, 1),
        (most, most, 1),
        (1, most + 1, 2),
        (most + 1, most, 2),
        (1, 30 * most, 30),
    ] {
        let (messages, _) = encode(&[flow(packets, octets)], 2000);
        let [message] = &messages[..] else {
            panic!("{} messages", messages.len());
        };
        let message = read(message);
        assert_eq!(message.flowsets.len(), records);
        assert_eq!(
            sum(&message.flowsets.iter().collect::<Vec<_>>()),
            (packets, octets)
        );
    }
    // The largest of all, in part.
    let mut encoder = encoder();
    let largest = flow(u64::MAX, u64::MAX);
    assert_eq!(encoder.flow(&largest), Fit::Full);
    let message = read(encoder.message(NOW));
    let first = &message.flowsets[0];
    assert_eq!((first.d_pkts, first.d_octets), (u32::MAX, u32::MAX));
    encoder.go_to(Mark {
        sequence: 0,
        parts: 1 << 32,
    });
    assert_eq!(encoder.flow(&largest), Fit::In);
    assert_eq!(encoder.units(), 1, "2³² + 1 records in all");
}

#[test]
fn a_flow_goes_on_in_the_next_message() {
    let flow = FlowRecord {
        packets: 64,
        octets: 64 * u64::from(u32::MAX),
        ..nth(0)
    };
    let mut encoder = Encoder::new(7, 2000).expect("large enough");
    assert_eq!(encoder.flow(&nth(2)), Fit::In);
    assert_eq!(encoder.flow(&flow), Fit::Full);
    assert_eq!(encoder.units(), 30);
    assert_eq!(
        encoder.flow(&flow),
        Fit::Full,
        "asked again, nothing changes"
    );
    assert_eq!(
        encoder.mark(),
        Mark {
            sequence: 0,
            parts: 0
        }
    );
    encoder.commit();
    assert_eq!(
        encoder.mark(),
        Mark {
            sequence: 30,
            parts: 29
        }
    );
    assert_eq!(encoder.flow(&flow), Fit::Full);
    encoder.discard();
    assert_eq!(
        encoder.mark(),
        Mark {
            sequence: 30,
            parts: 29
        },
        "never sent"
    );
    encoder.commit();
    assert_eq!(encoder.mark().parts, 29, "nor was anything now");
    assert_eq!(encoder.flow(&flow), Fit::Full);
    encoder.commit();
    assert_eq!(
        encoder.mark(),
        Mark {
            sequence: 60,
            parts: 59
        }
    );
    assert_eq!(encoder.flow(&flow), Fit::In);
    assert_eq!(encoder.units(), 5);
    assert_eq!(encoder.flow(&nth(2)), Fit::In);
    encoder.commit();
    assert_eq!(
        encoder.mark(),
        Mark {
            sequence: 66,
            parts: 0
        }
    );
}

#[test]
fn sequence_counts_records_modulo_32_bits() {
    let mut encoder = encoder();
    encoder.go_to(Mark {
        sequence: u32::MAX,
        parts: 0,
    });
    assert!(encoder.flow(&nth(0)) == Fit::In && encoder.flow(&nth(1)) == Fit::In);
    assert_eq!(read(encoder.message(NOW)).header.flow_sequence, u32::MAX);
    encoder.commit();
    assert_eq!(encoder.mark().sequence, 1);
}
