//! NetFlow v9.

mod decode;
mod fields;

use netflow_parser::{
    NetflowPacket, NetflowParser,
    variable_versions::v9::{FlowSetBody, V9},
};
use proptest::prelude::*;

use self::decode::{Collected, Record};
use super::{NOW, WRAP, any_flow, lasting};
use crate::{
    encode::{Fit, Mark, Stamp},
    ipfix::{
        Template, element,
        options::{
            AlgorithmRate, DomainName, ExportingReliability, FlowKeys, InterfaceName,
            MeteringReliability, MeteringStatistics, OptionsRecord as _, SamplerRate, SamplingRate,
            SelectionSequence, SelectionStatistics, Selector, Text,
        },
        tests::{
            OPTIONS,
            expected::{expected, expected_outer, outer_elements, template_of},
            sample::{many, nth, one_of_each_wide},
        },
    },
    netflow::v9::{Encoder, HEADER, MIN_OCTETS},
    record::FlowRecord,
};

const RATE: SamplingRate = SamplingRate {
    observation_domain: 7,
    interval: 100,
};

fn encoder() -> Encoder {
    Encoder::new(7, 1400).expect("large enough")
}

/// Encodes templates and `records` in messages of at most `octets`; returns the records that are
/// in them too.
fn encode(records: &[FlowRecord], octets: u16, dot1q: bool) -> (Vec<Vec<u8>>, Vec<FlowRecord>) {
    let mut encoder = Encoder::new(7, octets).expect("large enough");
    encoder.use_dot1q(dot1q);
    encode_with(encoder, records)
}

/// The same by this encoder.
fn encode_with(mut encoder: Encoder, records: &[FlowRecord]) -> (Vec<Vec<u8>>, Vec<FlowRecord>) {
    let mut messages = Vec::new();
    let mut flush = |encoder: &mut Encoder| {
        messages.push(encoder.message(NOW).to_vec());
        encoder.commit();
    };
    for template in &element::ALL {
        if !encoder.template(template) {
            flush(&mut encoder);
            assert!(encoder.template(template));
        }
    }
    let mut sent = Vec::new();
    for record in records {
        let mut fit = encoder.flow(record);
        if fit == Fit::Full {
            flush(&mut encoder);
            fit = encoder.flow(record);
        }
        match fit {
            Fit::In => sent.push(*record),
            Fit::Full => panic!("an empty message is full"),
            Fit::Never(reason) => assert_eq!(reason, "time"),
        }
    }
    flush(&mut encoder);
    (messages, sent)
}

/// Every field, by its number in the registry of IPFIX but for the times.
fn assert_flow(record: &Record, flow: &FlowRecord) {
    let outer = outer_elements(record.template);
    for (i, (field, octets)) in record.fields.iter().enumerate() {
        let time = || u32::from_be_bytes(octets[..].try_into().expect("4 octets"));
        match field {
            22 => assert_eq!(record.clock.unix_ms(time()), flow.start_ms),
            21 => assert_eq!(record.clock.unix_ms(time()), flow.end_ms),
            _ if i < outer => assert_eq!(*octets, expected_outer(flow, *field), "{field}"),
            _ => assert_eq!(*octets, expected(flow, *field), "field {field}"),
        }
    }
}

fn collect(messages: &[Vec<u8>]) -> Collected {
    let mut collected = Collected::default();
    for message in messages {
        collected.message(message);
    }
    collected
}

/// The message as another project reads it.
fn parse(parser: &mut NetflowParser, message: &[u8]) -> V9 {
    let mut parsed = parser.parse_bytes(message);
    assert!(parsed.error.is_none(), "{:?}", parsed.error);
    match parsed.packets.pop() {
        Some(NetflowPacket::V9(v9)) if parsed.packets.is_empty() => v9,
        other => panic!("one message of v9, not {other:?}"),
    }
}

proptest! {
    #[test]
    fn any_flow_is_read_back_as_it_was(
        records in prop::collection::vec(any_flow(), 1..60),
        octets in MIN_OCTETS as u16..3000,
        dot1q in any::<bool>(),
    ) {
        let (messages, sent) = encode(&records, octets, dot1q);
        for message in &messages {
            prop_assert!(message.len() <= usize::from(octets));
        }
        let collected = collect(&messages);
        prop_assert_eq!((collected.gap, collected.source_id), (0, 7));
        prop_assert_eq!(collected.records.len(), sent.len());
        for (record, flow) in collected.records.iter().zip(&sent) {
            prop_assert_eq!(record.template, template_of(flow, dot1q));
            assert_flow(record, flow);
        }
    }

    /// The other decoder reads every flowset, and writes the message again as it was.
    #[test]
    fn another_decoder_agrees(
        records in prop::collection::vec(any_flow(), 1..30),
        dot1q in any::<bool>(),
    ) {
        let mut parser = NetflowParser::default();
        let (messages, _) = encode(&records, 1352, dot1q);
        for (sequence, message) in messages.iter().enumerate() {
            let v9 = parse(&mut parser, message);
            prop_assert_eq!(v9.header.sequence_number as usize, sequence);
            for flowset in &v9.flowsets {
                let known = matches!(flowset.body, FlowSetBody::Template(_) | FlowSetBody::Data(_));
                prop_assert!(known, "{:?}", flowset);
            }
            prop_assert_eq!(&v9.to_be_bytes().expect("encodes"), message);
        }
    }
}

/// What every template is in v9: what IPFIX has, with other times.
#[test]
fn templates_have_the_times_of_v9() {
    let (messages, _) = encode(&[nth(0)], 1400, false);
    let collected = collect(&messages);
    for template in &element::ALL {
        let fields = template.fields.iter().map(|field| match field.number {
            152 => (22, 4),
            153 => (21, 4),
            number => (number, field.length),
        });
        let shape = [Vec::new(), fields.collect()];
        assert_eq!(collected.templates[&template.id], shape);
    }
}

#[test]
fn options_have_the_scopes_of_v9() {
    let mut encoder = encoder();
    for template in OPTIONS {
        assert!(encoder.template(template));
    }
    assert!(encoder.options(&RATE));
    assert!(encoder.options(&AlgorithmRate {
        observation_domain: 7,
        interval: 101,
        algorithm: 2,
    }));
    assert!(encoder.options(&SamplerRate {
        observation_domain: 7,
        sampler: 1,
        mode: 2,
        interval: 102,
    }));
    for (interface, name) in [(3, "eth0"), (70_000, "eth1")] {
        assert!(encoder.options(&InterfaceName {
            interface,
            name: Text::new(name),
            description: Text::new("uplink"),
        }));
    }
    assert!(encoder.options(&MeteringStatistics {
        observation_domain: 7,
        process: 4711,
        octets: 1 << 40,
        messages: 56,
        flows: 78,
    }));
    let mut collected = Collected::default();
    collected.message(encoder.message(NOW));
    let mut shapes: Vec<_> = collected.templates.clone().into_iter().collect();
    shapes.sort();
    let system = || vec![(1, 4)];
    let expected = [
        (512, [system(), vec![(34, 4)]]),
        (514, [system(), vec![(34, 4), (35, 1)]]),
        (515, [vec![(2, 4)], vec![(82, 16), (83, 32)]]),
        (516, [system(), vec![(48, 1), (49, 1), (50, 4)]]),
        (520, [system(), vec![(40, 8), (41, 8), (42, 8)]]),
    ];
    assert_eq!(shapes, expected);
    let number = |octets: &[u8]| octets.iter().fold(0, |sum, o| sum << 8 | u64::from(*o));
    let numbers = |record: &Record| -> Vec<u64> {
        let fields = record.scopes.iter().chain(&record.fields);
        fields.map(|(_, octets)| number(octets)).collect()
    };
    let of = |template| numbers(collected.of(template)[0]);
    assert_eq!(of(512), [7, 100]);
    assert_eq!(of(514), [7, 101, 2]);
    assert_eq!(of(516), [7, 1, 2, 102]);
    assert_eq!(of(520), [7, 1 << 40, 56, 78]);
    let names = collected.of(515).into_iter().map(|record| {
        let text = |i: usize| String::from_utf8_lossy(&record.fields[i].1).into_owned();
        (number(&record.scopes[0].1), text(0), text(1))
    });
    let padded = |text: &str, to: usize| format!("{text:\0<to$}");
    let expected = [(3, "eth0"), (70_000, "eth1")]
        .map(|(i, name)| (i, padded(name, 16), padded("uplink", 32)));
    assert_eq!(names.collect::<Vec<_>>(), expected);
    // And another decoder has the scopes of both kinds, and all records.
    let v9 = parse(&mut NetflowParser::default(), encoder.message(NOW));
    let records = v9.flowsets.iter().map(|flowset| match &flowset.body {
        FlowSetBody::OptionsTemplate(templates) => (1, templates.templates.len()),
        FlowSetBody::OptionsData(data) => (flowset.header.flowset_id, data.fields.len()),
        other => panic!("{other:?}"),
    });
    let expected =
        [(1, 1); 5]
            .into_iter()
            .chain([(512, 1), (514, 1), (516, 1), (515, 2), (520, 1)]);
    assert_eq!(records.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
}

/// What v9 has no form for is not sent, nor does it fill a message.
#[test]
fn what_only_ipfix_has_is_left_out() {
    let mut encoder = encoder();
    let selectors = [
        "1/10",
        "random:1/10",
        "nofn:1/10",
        "time:1/9",
        "hash:1/10",
        "flow:1/10",
    ];
    for selector in selectors.map(|text| Selector::new(text.parse().expect("a rate"))) {
        assert!(encoder.template(selector.template()));
        let sent = match selector {
            Selector::Count(report) => encoder.options(&report),
            Selector::Probability(report) => encoder.options(&report),
            Selector::NOfN(report) => encoder.options(&report),
            Selector::Time(report) => encoder.options(&report),
            Selector::Hash(report) => encoder.options(&report),
            Selector::Flow(report) => encoder.options(&report),
        };
        assert!(sent);
    }
    assert!(encoder.options(&SelectionSequence {
        sequence: 1,
        observation_domain: 7,
        selector: 1
    }));
    assert!(encoder.options(&SelectionStatistics {
        sequence: 1,
        observed: 1,
        selected: 1
    }));
    assert!(encoder.options(&MeteringReliability {
        observation_domain: 7,
        process: 1,
        packets: 0,
        octets: 0,
        first_ms: 0,
        last_ms: 0,
    }));
    assert!(encoder.options(&ExportingReliability {
        process: 1,
        flows: 0,
        packets: 0,
        octets: 0,
        first_ms: 0,
        last_ms: 0,
    }));
    assert!(encoder.options(&FlowKeys {
        template: 256,
        keys: 1
    }));
    assert!(encoder.options(&DomainName {
        observation_domain: 7,
        name: Text::new("x")
    }));
    assert!(encoder.withdraw(&element::IPV4));
    assert!(encoder.is_empty());
    assert_eq!(encoder.units(), 0);
}

/// RFC 3954 §5.1: one for each message, whatever is in it; modulo 2³².
#[test]
fn sequence_counts_messages() {
    let sequence = |encoder: &mut Encoder| {
        let message = encoder.message(NOW);
        u32::from_be_bytes(message[12..16].try_into().expect("4 octets"))
    };
    let mut encoder = encoder();
    encoder.commit();
    assert_eq!(encoder.mark().sequence, 0, "nothing was sent");
    assert!(encoder.template(&element::IPV4));
    assert_eq!((sequence(&mut encoder), encoder.units()), (0, 1));
    encoder.commit();
    assert!(encoder.flow(&nth(0)) == Fit::In && encoder.flow(&nth(1)) == Fit::In);
    assert_eq!((sequence(&mut encoder), encoder.units()), (1, 1));
    encoder.discard();
    assert!(encoder.is_empty());
    assert!(encoder.options(&RATE));
    assert_eq!(
        sequence(&mut encoder),
        1,
        "a message never sent has no number"
    );
    encoder.commit();
    assert_eq!(encoder.mark().sequence, 2);
    let last = Mark {
        sequence: u32::MAX,
        parts: 0,
    };
    assert!(encoder.options(&RATE));
    encoder.go_to(last);
    assert!(encoder.is_empty(), "the message at hand is gone");
    assert!(encoder.options(&RATE));
    assert_eq!(sequence(&mut encoder), u32::MAX);
    encoder.commit();
    assert_eq!(encoder.mark().sequence, 0);
}

#[test]
fn a_message_may_be_looked_at_before_it_is_full() {
    let mut encoder = encoder();
    assert!(encoder.template(&element::IPV4) && encoder.template(&element::IPV6));
    let mut flows = Vec::new();
    // Records of 77 and 105 octets: padding of every length, and none that stays inside.
    for i in 0..8 {
        flows.push(nth(i));
        assert_eq!(encoder.flow(&nth(i)), Fit::In);
        let mut collected = Collected::default();
        collected.message(encoder.message(NOW));
        assert_eq!(collected.records.len(), flows.len());
        for (record, flow) in collected.records.iter().zip(&flows) {
            assert_flow(record, flow);
        }
    }
}

#[test]
fn no_size_from_the_smallest_up_is_exceeded_or_refused() {
    let mut records = many(40);
    for i in 0..4 {
        let at = 10 * i;
        records.splice(at..at, one_of_each_wide());
    }
    for octets in MIN_OCTETS..=1500 {
        let (messages, sent) = encode(&records, octets as u16, false);
        assert_eq!(sent.len(), records.len());
        for message in &messages {
            assert!(message.len() <= octets, "{} > {octets}", message.len());
        }
        assert_eq!(collect(&messages).records.len(), records.len());
    }
    let error = Encoder::new(7, MIN_OCTETS as u16 - 1).expect_err("too small");
    let text = format!(
        "a message of {} octets is too small: at least {MIN_OCTETS} are needed",
        MIN_OCTETS - 1
    );
    assert_eq!(error.to_string(), text);
}

/// The largest message, the longest padding: as much as is promised is there.
#[test]
fn every_template_and_options_record_fits_the_smallest_message() {
    let templates = element::ALL.iter().chain(OPTIONS);
    for template in templates {
        let mut encoder = Encoder::new(7, MIN_OCTETS as u16).expect("large enough");
        assert_eq!(encoder.remaining(), MIN_OCTETS - HEADER);
        assert!(encoder.template(template), "{}", template.id);
        assert!(HEADER + 4 + template.record_length() <= MIN_OCTETS);
    }
}

/// A capture of ten years in one message would need a header of all its times.
#[test]
fn flows_too_far_apart_are_in_messages_of_their_own() {
    let mut encoder = encoder();
    assert_eq!(encoder.flow(&lasting(NOW.unix_ms, NOW.unix_ms)), Fit::In);
    let old = NOW.unix_ms - WRAP;
    assert_eq!(encoder.flow(&lasting(old, old)), Fit::Full);
    let records: Vec<_> = [0, 3, 1, 2]
        .map(|i| lasting(old + i * WRAP / 4, old + i * WRAP / 4 + 5))
        .into();
    let records = [&records[..], &[lasting(old, NOW.unix_ms)]].concat();
    let (messages, sent) = encode(&records, 1400, false);
    assert_eq!(sent.len(), 4, "what lasts longer is never sent");
    let collected = collect(&messages);
    for (record, flow) in collected.records.iter().zip(&sent) {
        assert_flow(record, flow);
    }
}

/// nfdump 1.7.1 adds to a boot time without regard to a wrap: so none is in a message.
#[test]
fn flows_from_before_the_wrap_have_their_times() {
    let now = Stamp {
        boot_unix_ms: NOW.unix_ms - WRAP - 2000,
        ..NOW
    };
    let mut encoder = encoder();
    let flow = lasting(NOW.unix_ms - 9000, NOW.unix_ms - 8000);
    assert!(encoder.template(&element::IPV4) && encoder.flow(&flow) == Fit::In);
    let mut collected = Collected::default();
    collected.message(encoder.message(now));
    assert_flow(&collected.records[0], &flow);
    // As if booted a millisecond before it.
    assert_eq!(collected.records[0].clock.uptime_ms, 9000 - 789 + 1);
    // Without flows it is what it is.
    encoder.commit();
    assert!(encoder.template(&SamplingRate::TEMPLATE) && encoder.options(&RATE));
    collected.message(encoder.message(now));
    assert_eq!(collected.records[1].clock.uptime_ms, 2000 - 789);
}

#[test]
fn options_templates_are_one_in_a_flowset() {
    let templates: [&Template; 2] = [&SamplingRate::TEMPLATE, &InterfaceName::TEMPLATE];
    let mut encoder = encoder();
    for template in templates {
        assert!(encoder.template(template));
    }
    let message = encoder.message(NOW);
    // 6 octets, a scope and a field, and padding; 6, a scope and two.
    let lengths = [message[HEADER + 3], message[HEADER + 20 + 3]];
    assert_eq!(lengths, [20, 24]);
    assert_eq!(message.len(), HEADER + 20 + 24);
}
