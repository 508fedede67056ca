//! Flow records with the fields that a user asks for.

use std::collections::BTreeSet;

use netflow_parser::{NetflowParser, variable_versions::v9::FlowSetBody};
use proptest::prelude::*;

use super::{
    super::{NOW, WRAP, any_flow, lasting},
    collect,
    decode::Record,
    encode_with, encoder, parse,
};
use crate::{
    encode::Fit,
    ipfix::{
        self, Fields, element,
        tests::{
            decode::{Collected, Fields as Values},
            sample::{many, one_of_each_wide},
        },
    },
    netflow::v9::{Encoder, MIN_OCTETS},
    record::FlowRecord,
};

fn fields(names: &str) -> Fields {
    names.parse().expect(names)
}

/// Some of all names, in any order.
fn any_names() -> impl Strategy<Value = Vec<&'static str>> {
    let all = element::ALL_ROUTED
        .iter()
        .flat_map(|template| template.fields);
    let names: BTreeSet<_> = all.map(|field| field.name).collect();
    let names: Vec<_> = names.into_iter().collect();
    let count = names.len();
    prop::sample::subsequence(names, 1..=count).prop_shuffle()
}

/// The same records in IPFIX.
fn in_ipfix(records: &[FlowRecord], fields: &Fields, dot1q: bool) -> Vec<(u16, Values)> {
    let mut encoder = ipfix::Encoder::new(7, u16::MAX).expect("large enough");
    encoder.use_dot1q(dot1q);
    encoder.use_fields(Some(fields.clone()));
    for template in encoder.flow_templates() {
        assert!(encoder.template(&template));
    }
    for record in records {
        assert_eq!(encoder.flow(record), Fit::In);
    }
    let mut collected = Collected::default();
    collected.message(encoder.message(NOW));
    collected.records
}

/// Each field in the place that it has in IPFIX, and each time.
fn assert_same(record: &Record, (template, values): &(u16, Values)) {
    assert_eq!(record.template, *template);
    assert_eq!(record.fields.len(), values.len());
    for ((number, octets), (element, value)) in record.fields.iter().zip(values) {
        let uptime = || u32::from_be_bytes(octets[..].try_into().expect("4 octets"));
        let time = || u64::from_be_bytes(value[..].try_into().expect("8 octets"));
        match element {
            152 => assert_eq!((*number, record.clock.unix_ms(uptime())), (22, time())),
            153 => assert_eq!((*number, record.clock.unix_ms(uptime())), (21, time())),
            _ => assert_eq!((number, octets), (element, value)),
        }
    }
}

proptest! {
    #[test]
    fn any_fields_are_those_of_ipfix(
        names in any_names(),
        records in prop::collection::vec(any_flow(), 1..60),
        octets in MIN_OCTETS as u16..3000,
        dot1q in any::<bool>(),
    ) {
        let fields = Fields::new(&names);
        prop_assume!(fields.is_ok());
        let fields = fields.expect("assumed");
        let mut encoder = Encoder::new(7, octets).expect("large enough");
        encoder.use_dot1q(dot1q);
        encoder.use_fields(Some(&fields));
        let (messages, sent) = encode_with(encoder, &records);
        for message in &messages {
            prop_assert!(message.len() <= usize::from(octets));
        }
        if !names.iter().any(|name| name.ends_with("Milliseconds")) {
            prop_assert_eq!(sent.len(), records.len());
        }
        let collected = collect(&messages);
        let expected = in_ipfix(&sent, &fields, dot1q);
        prop_assert_eq!(collected.records.len(), expected.len());
        for (record, expected) in collected.records.iter().zip(&expected) {
            assert_same(record, expected);
        }
    }
}

#[test]
fn times_are_where_they_are_asked_for() {
    let fields = fields("flowEndMilliseconds,ipVersion,flowStartMilliseconds");
    let mut encoder = encoder();
    encoder.use_fields(Some(&fields));
    // A record of 9 octets is known to be full by that.
    assert_eq!(encoder.full_message(), (1400 - 20 - 4) / 9);
    let records = [many(20), one_of_each_wide().to_vec()].concat();
    let (messages, sent) = encode_with(encoder, &records);
    let collected = collect(&messages);
    assert_eq!(sent.len(), records.len());
    for template in &element::ALL {
        let shape = [Vec::new(), vec![(21, 4), (60, 1), (22, 4)]];
        assert_eq!(collected.templates[&template.id], shape);
    }
    for (record, expected) in collected
        .records
        .iter()
        .zip(in_ipfix(&sent, &fields, false))
    {
        assert_same(record, &expected);
    }
}

/// What has no times in it depends on no clock: a flow of years is told, beside one of another
/// year, in a message of now.
#[test]
fn without_times_any_flow_can_be_told() {
    let fields = fields("octetDeltaCount,ipVersion");
    let mut encoder = encoder();
    encoder.use_fields(Some(&fields));
    let old = NOW.unix_ms - 9 * WRAP;
    let records = [
        lasting(old, NOW.unix_ms),
        lasting(old, old),
        lasting(NOW.unix_ms, NOW.unix_ms),
    ];
    let (messages, sent) = encode_with(encoder, &records);
    assert_eq!((messages.len(), sent.len()), (1, 3));
    let collected = collect(&messages);
    let clock = collected.records[0].clock;
    assert_eq!(u64::from(clock.unix_s), NOW.unix_ms / 1000);
}

/// Erratum 2096 of RFC 3954: what looks like one more record is none.
#[test]
fn padding_is_never_as_long_as_a_record() {
    for names in ["ipVersion", "vlanId", "ipVersion,vlanId"] {
        let fields = fields(names);
        for count in 1..12 {
            let mut encoder = encoder();
            encoder.use_fields(Some(&fields));
            let records = many(count);
            let (messages, sent) = encode_with(encoder, &records);
            let collected = collect(&messages);
            assert_eq!(collected.records.len(), sent.len());
            for (record, expected) in collected
                .records
                .iter()
                .zip(in_ipfix(&sent, &fields, false))
            {
                assert_same(record, &expected);
            }
            // Another decoder sees as many.
            let v9 = parse(&mut NetflowParser::default(), &messages[0]);
            let seen = v9.flowsets.iter().map(|flowset| match &flowset.body {
                FlowSetBody::Data(data) => data.fields.len(),
                _ => 0,
            });
            assert_eq!(seen.sum::<usize>(), records.len(), "{names}");
        }
    }
}
