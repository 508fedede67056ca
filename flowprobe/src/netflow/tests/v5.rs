//! NetFlow v5.

mod parts;

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv4Addr},
};

use netflow_parser::{
    NetflowPacket, NetflowParser,
    static_versions::v5::{FlowSet, V5},
};
use proptest::prelude::*;

use super::{Clock, NOW, WRAP, any_flow, lasting};
use crate::{
    encode::{Fit, Stamp},
    ipfix::{
        element,
        options::SamplingRate,
        tests::sample::{many, nth, one_of_each_wide},
    },
    netflow::v5::{Encoder, HEADER, MAX_RECORDS, MIN_OCTETS, RECORD},
    record::FlowRecord,
};

fn encoder() -> Encoder {
    Encoder::new(0x1234_5607, 1400).expect("large enough")
}

/// The message, as two decoders read it: this one, from Cisco's table, and another project's.
fn read(message: &[u8]) -> V5 {
    let mut parsed = NetflowParser::default().parse_bytes(message);
    assert!(parsed.error.is_none(), "{:?}", parsed.error);
    let Some(NetflowPacket::V5(v5)) = parsed.packets.pop() else {
        panic!("one message of v5");
    };
    assert!(parsed.packets.is_empty());
    assert_eq!(v5.to_be_bytes(), message);
    let u16_at = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    let u32_at = |at: usize| u32::from(u16_at(at)) << 16 | u32::from(u16_at(at + 2));
    assert_eq!(u16_at(0), 5, "version");
    let count = usize::from(u16_at(2));
    assert!((1..=30).contains(&count), "{count} records");
    assert_eq!(message.len(), 24 + 48 * count, "as long as its records");
    assert_eq!(v5.flowsets.len(), count);
    for (i, theirs) in v5.flowsets.iter().enumerate() {
        let at = 24 + 48 * i;
        let address = |at| Ipv4Addr::from(u32_at(at));
        let ours = FlowSet {
            src_addr: address(at),
            dst_addr: address(at + 4),
            next_hop: address(at + 8),
            input: u16_at(at + 12),
            output: u16_at(at + 14),
            d_pkts: u32_at(at + 16),
            d_octets: u32_at(at + 20),
            first: u32_at(at + 24),
            last: u32_at(at + 28),
            src_port: u16_at(at + 32),
            dst_port: u16_at(at + 34),
            pad1: message[at + 36],
            tcp_flags: message[at + 37],
            protocol_number: message[at + 38],
            protocol_type: theirs.protocol_type,
            tos: message[at + 39],
            src_as: u16_at(at + 40),
            dst_as: u16_at(at + 42),
            src_mask: message[at + 44],
            dst_mask: message[at + 45],
            pad2: u16_at(at + 46),
        };
        assert_eq!(ours, *theirs);
    }
    v5
}

/// Encodes `records` in messages of at most `octets`; returns the records that are in them too.
fn encode(records: &[FlowRecord], octets: u16) -> (Vec<Vec<u8>>, Vec<FlowRecord>) {
    let mut encoder = Encoder::new(7, octets).expect("large enough");
    let mut messages = Vec::new();
    let mut sent = Vec::new();
    for record in records {
        loop {
            match encoder.flow(record) {
                Fit::In => sent.push(*record),
                Fit::Full => {
                    assert!(!encoder.is_empty(), "an empty message is full");
                    messages.push(encoder.message(NOW).to_vec());
                    encoder.commit();
                    continue;
                }
                Fit::Never(_) => {}
            }
            break;
        }
    }
    if !encoder.is_empty() {
        messages.push(encoder.message(NOW).to_vec());
    }
    (messages, sent)
}

/// Every field but the counters, which are of one of `parts` records.
fn assert_flow(record: &FlowSet, clock: Clock, flow: &FlowRecord) {
    let key = &flow.key;
    assert_eq!(IpAddr::from(record.src_addr), key.source());
    assert_eq!(IpAddr::from(record.dst_addr), key.destination());
    let route = flow.route.unwrap_or_default();
    let next_hop = match route.next_hop {
        Some(IpAddr::V4(next_hop)) => next_hop,
        _ => Ipv4Addr::UNSPECIFIED,
    };
    assert_eq!(record.next_hop, next_hop);
    let number = |ifindex: u32| u16::try_from(ifindex).unwrap_or(0);
    let ifindex = number(key.ifindex());
    let ways = match (key.is_egress(), flow.route) {
        (true, None) => (0, ifindex),
        (true, Some(route)) => (0, number(route.egress)),
        (false, None) => (ifindex, 0),
        (false, Some(route)) => (ifindex, number(route.egress)),
    };
    assert_eq!((record.input, record.output), ways);
    assert_eq!(clock.unix_ms(record.first), flow.start_ms);
    assert_eq!(clock.unix_ms(record.last), flow.end_ms);
    assert_eq!(record.src_port, key.source_port());
    assert_eq!(record.dst_port, key.destination_port());
    assert_eq!(record.tcp_flags, flow.marks.tcp_flags);
    assert_eq!(record.protocol_number, key.protocol());
    assert_eq!(record.tos, key.traffic_class());
    let prefixes = (route.source_prefix, route.destination_prefix);
    assert_eq!((record.src_mask, record.dst_mask), prefixes);
    assert_eq!((record.src_as, record.dst_as), (0, 0));
    assert_eq!((record.pad1, record.pad2), (0, 0));
}

fn clock(message: &V5) -> Clock {
    assert_eq!(message.header.unix_nsecs, 0);
    Clock {
        unix_s: message.header.unix_secs,
        uptime_ms: message.header.sys_up_time,
    }
}

/// Packets and octets of some records.
fn sum(records: &[&FlowSet]) -> (u64, u64) {
    records.iter().fold((0, 0), |(packets, octets), record| {
        (
            packets + u64::from(record.d_pkts),
            octets + u64::from(record.d_octets),
        )
    })
}

/// Records that the counters of a flow need.
fn parts(flow: &FlowRecord) -> usize {
    let most = u64::from(u32::MAX);
    let needed = flow.packets.div_ceil(most).max(flow.octets.div_ceil(most));
    needed.max(1) as usize
}

fn any_v5_flow() -> impl Strategy<Value = FlowRecord> {
    let counters = prop_oneof![
        3 => (0..1000_u64, 0..100_000_u64),
        1 => (0..1_u64 << 38, 0..1_u64 << 38),
        1 => (0..100_u64, 0..1_u64 << 37),
    ];
    let rate = prop_oneof![3 => Just(1), 3 => 1..200_u32, 1 => 0..40_000_u32];
    (any_flow(), counters, rate).prop_map(|(flow, (packets, octets), sampling_n)| FlowRecord {
        packets,
        octets,
        sampling_n,
        ..flow
    })
}

proptest! {
    #[test]
    fn any_flow_is_read_back_as_it_was(
        flows in prop::collection::vec(any_v5_flow(), 1..60),
        octets in MIN_OCTETS as u16..3000,
    ) {
        let (messages, sent) = encode(&flows, octets);
        let never = |flow: &FlowRecord| {
            flow.key.source().is_ipv6() || flow.sampling_n > 16383 || flow.end_ms - flow.start_ms > WRAP - 2000
        };
        let fit = flows.iter().filter(|flow| !never(flow)).count();
        prop_assert!(sent.len() == fit, "{} of {fit}", sent.len());
        let mut records = Vec::new();
        let mut engines = HashMap::new();
        for message in &messages {
            prop_assert!(message.len() <= usize::from(octets));
            let v5 = read(message);
            prop_assert_eq!(v5.header.flow_sequence as usize, records.len());
            prop_assert_eq!(v5.header.engine_id, 7);
            let (clock, rate) = (clock(&v5), v5.header.sampling_interval);
            let first = *engines.entry(v5.header.engine_type).or_insert(rate);
            prop_assert_eq!(first, rate, "an engine has one rate");
            records.extend(v5.flowsets.into_iter().map(|record| (record, clock, rate)));
        }
        let mut rest = &records[..];
        for flow in &sent {
            let (own, after) = rest.split_at(parts(flow));
            rest = after;
            prop_assert_eq!(sum(&own.iter().map(|(record, ..)| record).collect::<Vec<_>>()), (flow.packets, flow.octets));
            for (record, clock, rate) in own {
                assert_flow(record, *clock, flow);
                prop_assert_eq!(u32::from(*rate & 0x3fff), flow.sampling_n.max(1));
                prop_assert!(record.d_pkts > 0 || flow.packets < own.len() as u64);
            }
        }
        prop_assert!(rest.is_empty());
    }
}

#[test]
fn what_v5_cannot_say_is_refused() {
    let mut encoder = encoder();
    assert_eq!(encoder.flow(&nth(4)), Fit::Never("ipv6"));
    let inner: Vec<_> = one_of_each_wide()
        .iter()
        .map(|flow| encoder.flow(flow))
        .collect();
    let [v4, v6] = [Fit::In, Fit::Never("ipv6")];
    assert_eq!(
        inner,
        [v4, v6, v4, v4, v6, v6],
        "by the version inside a tunnel"
    );
    let rare = |sampling_n| FlowRecord {
        sampling_n,
        ..nth(0)
    };
    encoder.discard();
    assert_eq!(encoder.flow(&rare(16_384)), Fit::Never("sampling_rate"));
    assert_eq!(encoder.flow(&rare(16_383)), Fit::In);
    assert_eq!(read(encoder.message(NOW)).header.sampling_interval, 0x7fff);
    let long = lasting(NOW.unix_ms - WRAP, NOW.unix_ms);
    encoder.discard();
    assert_eq!(encoder.flow(&long), Fit::Never("time"));
    assert!(encoder.is_empty());
}

/// Two bits of mode: 1 deterministic, 2 random; and 14 of interval, of all flows in the message.
#[test]
fn a_message_has_one_sampling_rate() {
    let with = |sampling_n| FlowRecord {
        sampling_n,
        ..nth(0)
    };
    let rate = |encoder: &mut Encoder| read(encoder.message(NOW)).header.sampling_interval;
    let mut encoder = encoder();
    for unsampled in [0, 1] {
        assert_eq!(encoder.flow(&with(unsampled)), Fit::In);
        assert_eq!(rate(&mut encoder), 1, "every packet, in no mode");
        assert_eq!(encoder.flow(&with(100)), Fit::Full);
        encoder.commit();
    }
    assert_eq!(encoder.flow(&with(100)), Fit::In);
    assert_eq!(rate(&mut encoder), 1 << 14 | 100);
    for (method, mode) in [
        ("1/100", 1),
        ("random:1/100", 2),
        ("nofn:2/200", 2),
        ("hash:1/100", 1),
    ] {
        encoder.select_by(method.parse().expect("a rate"));
        assert_eq!(rate(&mut encoder), mode << 14 | 100, "{method}");
    }
    assert_eq!(encoder.flow(&with(101)), Fit::Full);
}

/// nfdump keeps the rate that the first message of an engine had.
#[test]
fn each_sampling_rate_has_an_engine() {
    let mut encoder = encoder();
    let mut engine = |sampling_n| {
        let record = FlowRecord {
            sampling_n,
            ..nth(0)
        };
        assert_eq!(encoder.flow(&record), Fit::In);
        let header = read(encoder.message(NOW)).header;
        encoder.commit();
        (header.engine_type, header.engine_id)
    };
    let engines = [1, 1, 10, 100, 10, 1].map(&mut engine);
    assert_eq!(engines, [0, 0, 1, 2, 1, 0].map(|engine| (engine, 7)));
    for n in 101..=352 {
        assert_eq!(engine(n).0, (n - 98) as u8);
    }
    let more = [353, 354, 352, 10].map(|n| engine(n).0);
    assert_eq!(
        more,
        [255, 255, 254, 1],
        "those that are too many share one"
    );
}

#[test]
fn templates_and_options_are_not_there() {
    let mut encoder = encoder();
    assert!(encoder.template(&element::IPV4) && encoder.withdraw(&element::IPV4));
    assert!(encoder.options(&SamplingRate {
        observation_domain: 7,
        interval: 1,
    }));
    assert!(encoder.is_empty());
    assert_eq!(
        encoder.remaining(),
        28 * RECORD,
        "as many records as fit 1400 octets"
    );
}

#[test]
fn no_size_from_the_smallest_up_is_exceeded_or_refused() {
    let flows: Vec<_> = many(100)
        .into_iter()
        .filter(|flow| flow.key.source().is_ipv4())
        .collect();
    for octets in MIN_OCTETS..=1600 {
        let (messages, sent) = encode(&flows, octets as u16);
        assert_eq!(sent.len(), flows.len());
        let counts = messages.iter().map(|message| {
            assert!(message.len() <= octets);
            read(message).flowsets.len()
        });
        let full = ((octets - HEADER) / RECORD).min(MAX_RECORDS.into());
        assert_eq!(counts.max(), Some(full));
    }
    let error = Encoder::new(7, 71).expect_err("too small");
    assert_eq!(
        error.to_string(),
        "a message of 71 octets is too small: at least 72 are needed"
    );
}

#[test]
fn flows_from_before_the_wrap_have_their_times() {
    let now = Stamp {
        boot_unix_ms: NOW.unix_ms - WRAP - 2000,
        ..NOW
    };
    let mut encoder = encoder();
    let flows = [9000, 1000].map(|ago| lasting(NOW.unix_ms - ago, NOW.unix_ms - ago / 2));
    assert!(flows.iter().all(|flow| encoder.flow(flow) == Fit::In));
    let message = read(encoder.message(now));
    for (record, flow) in message.flowsets.iter().zip(&flows) {
        assert_flow(record, clock(&message), flow);
    }
}
