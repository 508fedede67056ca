//! Encoded messages, read back by two decoders that know nothing of the encoder.

pub(crate) mod decode;
pub(crate) mod sample;

use std::net::IpAddr;

use netflow_parser::{NetflowPacket, NetflowParser, variable_versions::ipfix::lookup::IPFixField};
use proptest::prelude::*;

use self::{
    decode::{Collected, Fields, number},
    sample::{any_record, many, nth},
};
use super::{
    Encoder, Field, Template, element,
    message::{HEADER, MIN_OCTETS, SET_HEADER},
    options::{
        CountSelector, ExportingReliability, FlowKeys, InterfaceName, MeteringReliability,
        MeteringStatistics, OptionsRecord, ProbabilitySelector, SamplingRate, SelectionSequence,
        SelectionStatistics, Selector, Text,
    },
};
use crate::record::FlowRecord;

const TEMPLATES: [&Template; 12] = [
    &element::IPV4,
    &element::IPV6,
    &SamplingRate::TEMPLATE,
    &CountSelector::TEMPLATE,
    &ProbabilitySelector::TEMPLATE,
    &InterfaceName::TEMPLATE,
    &SelectionSequence::TEMPLATE,
    &SelectionStatistics::TEMPLATE,
    &MeteringStatistics::TEMPLATE,
    &MeteringReliability::TEMPLATE,
    &ExportingReliability::TEMPLATE,
    &FlowKeys::TEMPLATE,
];

/// Number and length of each field.
fn shape(template: &Template) -> Vec<(u16, u16)> {
    let fields = template.fields.iter();
    fields.map(|field| (field.number, field.length)).collect()
}

#[test]
fn flow_templates_are_what_every_collector_takes() {
    let rest = [
        (7, 2),
        (11, 2),
        (4, 1),
        (6, 1),
        (5, 1),
        (60, 1),
        (10, 4),
        (14, 4),
        (61, 1),
        (136, 1),
        (152, 8),
        (153, 8),
        (2, 8),
        (1, 8),
        (52, 1),
        (53, 1),
    ];
    let last = [(58, 2), (56, 6), (80, 6), (34, 4)];
    let v4 = [&[(8, 4), (12, 4)], &rest[..], &[(32, 2)], &last].concat();
    let v6 = [
        &[(27, 16), (28, 16)],
        &rest[..],
        &[(31, 4), (139, 2)],
        &last,
    ]
    .concat();
    assert_eq!((element::IPV4.id, shape(&element::IPV4)), (256, v4));
    assert_eq!((element::IPV6.id, shape(&element::IPV6)), (257, v6));
}

#[test]
fn options_templates_have_the_scopes_of_their_rfcs() {
    let shapes: Vec<_> = TEMPLATES[2..]
        .iter()
        .map(|template| (template.id, template.scopes, shape(template)))
        .collect();
    let expected = [
        (512, 1, vec![(149, 4), (34, 4)]),
        (513, 1, vec![(302, 8), (304, 2), (305, 4), (306, 4)]),
        (513, 1, vec![(302, 8), (304, 2), (311, 8), (335, 24)]),
        (515, 1, vec![(10, 4), (82, 16), (83, 32)]),
        (517, 1, vec![(301, 8), (149, 4), (302, 8)]),
        (518, 1, vec![(301, 8), (318, 8), (319, 8)]),
        (520, 2, vec![(149, 4), (143, 4), (40, 8), (41, 8), (42, 8)]),
        (
            521,
            2,
            vec![(149, 4), (143, 4), (164, 8), (165, 8), (323, 8), (323, 8)],
        ),
        (
            522,
            1,
            vec![(144, 4), (166, 8), (167, 8), (168, 8), (323, 8), (323, 8)],
        ),
        (523, 1, vec![(145, 2), (173, 8)]),
    ];
    assert_eq!(shapes, expected);
}

/// Another project's copy of the registry gives each number the same name.
#[test]
fn names_are_those_of_the_registry() {
    for Field { name, number, .. } in TEMPLATES.iter().flat_map(|t| t.fields) {
        let theirs = match IPFixField::new(*number, None) {
            IPFixField::IANA(field) => format!("{field:?}"),
            other => panic!("{number} is {other:?}"),
        };
        assert_eq!(
            theirs.to_lowercase(),
            name.to_lowercase(),
            "element {number}"
        );
    }
}

#[test]
fn flow_keys_are_the_fields_that_tell_flows_apart() {
    let keys = |template: &Template| -> Vec<u16> {
        let bits = template.flow_keys();
        let fields = template.fields.iter().enumerate();
        let keys = fields.filter(|(i, _)| bits >> i & 1 == 1);
        keys.map(|(_, field)| field.number).collect()
    };
    assert_eq!(keys(&element::IPV4), [8, 12, 7, 11, 4, 5, 60, 10, 32, 58]);
    assert_eq!(keys(&element::IPV6), [27, 28, 7, 11, 4, 5, 60, 10, 139, 58]);
}

/// The octets of an element, by its number in the registry.
fn expected(record: &FlowRecord, element: u16) -> Vec<u8> {
    let key = &record.key;
    let address = |address| match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let v6 = key.source().is_ipv6();
    match element {
        1 => record.octets.to_be_bytes().to_vec(),
        2 => record.packets.to_be_bytes().to_vec(),
        4 => vec![key.protocol()],
        5 => vec![key.traffic_class()],
        6 => vec![record.tcp_flags],
        7 => key.source_port().to_be_bytes().to_vec(),
        8 | 27 => address(key.source()),
        10 => key.ifindex().to_be_bytes().to_vec(),
        11 => key.destination_port().to_be_bytes().to_vec(),
        12 | 28 => address(key.destination()),
        14 => vec![0; 4],
        31 => record.flow_label.to_be_bytes().to_vec(),
        32 | 139 if key.protocol() == if v6 { 58 } else { 1 } => {
            key.destination_port().to_be_bytes().to_vec()
        }
        32 | 139 => vec![0; 2],
        34 => record.sampling_n.to_be_bytes().to_vec(),
        52 => vec![record.min_ttl],
        53 => vec![record.max_ttl],
        56 => record.source_mac.to_vec(),
        58 => key.vlan().to_be_bytes().to_vec(),
        60 => vec![if v6 { 6 } else { 4 }],
        61 => vec![0],
        80 => record.destination_mac.to_vec(),
        136 => vec![record.reason as u8],
        152 => record.start_ms.to_be_bytes().to_vec(),
        153 => record.end_ms.to_be_bytes().to_vec(),
        other => panic!("element {other} is in no flow template"),
    }
}

fn assert_flow(fields: &Fields, record: &FlowRecord) {
    for (element, octets) in fields {
        assert_eq!(*octets, expected(record, *element), "element {element}");
    }
}

/// Encodes templates and `records` in messages of at most `octets`.
fn encode(records: &[FlowRecord], octets: u16) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(7, octets).expect("large enough");
    let mut messages = Vec::new();
    let mut flush = |encoder: &mut Encoder| {
        messages.push(encoder.message(1_700_000_000).to_vec());
        encoder.commit();
    };
    for template in [&element::IPV4, &element::IPV6] {
        if !encoder.template(template) {
            flush(&mut encoder);
            assert!(encoder.template(template));
        }
    }
    for record in records {
        if !encoder.flow(record) {
            flush(&mut encoder);
            assert!(encoder.flow(record));
        }
    }
    flush(&mut encoder);
    messages
}

proptest! {
    #[test]
    fn any_flow_is_read_back_as_it_was(
        records in prop::collection::vec(any_record(), 1..100),
        octets in MIN_OCTETS as u16..3000,
    ) {
        let mut collected = Collected::default();
        for message in encode(&records, octets) {
            prop_assert!(message.len() <= usize::from(octets));
            collected.message(&message);
        }
        prop_assert_eq!(collected.gap, 0);
        prop_assert_eq!(collected.records.len(), records.len());
        for ((_, fields), record) in collected.records.iter().zip(&records) {
            assert_flow(fields, record);
        }
    }

    /// The other decoder reads every record, and writes the message again as it was.
    #[test]
    fn another_decoder_agrees(records in prop::collection::vec(any_record(), 1..30)) {
        let mut parser = NetflowParser::default();
        for message in encode(&records, 1352) {
            let parsed = parser.parse_bytes(&message);
            prop_assert!(parsed.error.is_none(), "{:?}", parsed.error);
            let [NetflowPacket::IPFix(ipfix)] = parsed.packets.as_slice() else {
                panic!("one IPFIX message, not {:?}", parsed.packets);
            };
            prop_assert_eq!(ipfix.to_be_bytes().expect("encodes"), message);
        }
    }

    #[test]
    fn json_has_the_elements_of_the_template(record in any_record()) {
        let mut text = Vec::new();
        element::show(&record, &mut text);
        let object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&text).expect("JSON");
        let v6 = record.key.source().is_ipv6();
        let template = if v6 { element::IPV6 } else { element::IPV4 };
        prop_assert_eq!(object.len(), template.fields.len());
        for field in template.fields {
            let octets = expected(&record, field.number);
            let value = octets.iter().fold(0, |sum, octet| sum << 8 | u128::from(*octet));
            match &object[field.name] {
                serde_json::Value::Number(shown) => {
                    prop_assert_eq!(shown.as_u64().map(u128::from), Some(value));
                }
                serde_json::Value::String(mac) if field.length == 6 => {
                    let hex: Vec<_> = octets.iter().map(|o| format!("{o:02x}")).collect();
                    prop_assert_eq!(mac, &hex.join(":"));
                }
                serde_json::Value::String(address) => {
                    let address: IpAddr = address.parse().expect("an address");
                    let is = [record.key.source(), record.key.destination()];
                    prop_assert!(is.contains(&address));
                }
                other => panic!("{}: {other}", field.name),
            }
        }
    }
}

#[test]
fn no_size_from_the_smallest_up_is_exceeded_or_refused() {
    let records = many(40);
    for octets in MIN_OCTETS..=1500 {
        let messages = encode(&records, octets as u16);
        let mut collected = Collected::default();
        for message in &messages {
            assert!(message.len() <= octets, "{} > {octets}", message.len());
            collected.message(message);
        }
        assert_eq!(collected.flows(), records.len(), "{octets} octets");
    }
    Encoder::new(7, MIN_OCTETS as u16 - 1).expect_err("too small");
}

#[test]
fn every_template_and_options_record_fits_the_smallest_message() {
    for template in TEMPLATES {
        let longest = template.record_length().max(template.encoded_length());
        assert!(
            HEADER + SET_HEADER + longest <= MIN_OCTETS,
            "{}",
            template.id
        );
    }
}

/// RFC 7011 §3.1: Data Records, options included, templates not; modulo 2³².
#[test]
fn sequence_counts_data_records_of_committed_messages() {
    let mut encoder = Encoder::new(7, 1352).expect("large enough");
    let sequence = |encoder: &mut Encoder| {
        let message = encoder.message(0);
        u32::from_be_bytes(message[8..12].try_into().expect("4 octets"))
    };
    assert!(encoder.template(&element::IPV4));
    assert_eq!(sequence(&mut encoder), 0);
    encoder.commit();
    assert!(encoder.flow(&nth(0)) && encoder.flow(&nth(4)));
    assert!(encoder.options(&SamplingRate {
        observation_domain: 7,
        interval: 1,
    }));
    assert_eq!(sequence(&mut encoder), 0);
    encoder.commit();
    assert_eq!(encoder.sequence(), 3);
    assert!(encoder.flow(&nth(0)));
    assert_eq!(sequence(&mut encoder), 3);
    encoder.discard();
    assert_eq!(encoder.sequence(), 3, "a message never sent has no numbers");
    encoder.sequence = u32::MAX;
    assert!(encoder.flow(&nth(0)) && encoder.flow(&nth(1)));
    encoder.commit();
    assert_eq!(encoder.sequence(), 1);
}

#[test]
fn selectors_say_what_the_sampling_does() {
    let selector = |text: &str| Selector::new(text.parse().expect("a rate"));
    let mut encoder = Encoder::new(7, 1352).expect("large enough");
    for rate in ["1/1", "1/100"] {
        let Selector::Count(report) = selector(rate) else {
            panic!("{rate} is count-based");
        };
        assert!(encoder.template(&CountSelector::TEMPLATE) && encoder.options(&report));
    }
    let mut collected = Collected::default();
    collected.message(encoder.message(0));
    let shown: Vec<_> = collected
        .of(513)
        .iter()
        .map(|r| [304, 305, 306].map(|element| number(r, element)))
        .collect();
    assert_eq!(shown, [[1, 1, 0], [1, 1, 99]]);

    let Selector::Probability(report) = selector("random:1/8") else {
        panic!("random is probabilistic");
    };
    encoder.discard();
    assert!(encoder.template(&ProbabilitySelector::TEMPLATE) && encoder.options(&report));
    let mut collected = Collected::default();
    collected.message(encoder.message(0));
    let report = collected.of(513)[0];
    assert_eq!(number(report, 304), 4);
    assert_eq!(f64::from_bits(number(report, 311)).to_string(), "0.125");
    assert!(report[3].1.starts_with(b"random:1/8\0"));
}

#[test]
fn text_is_cut_between_characters() {
    assert_eq!(Text::<4>::new("ab"), Text::new("ab\0\0"));
    assert_eq!(Text::<4>::new("abcdé"), Text::new("abcd"));
    assert_eq!(Text::<4>::new("abcé"), Text::new("abc"));
}
