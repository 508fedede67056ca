//! Encoded messages, read back by two decoders that know nothing of the encoder.

mod biflow;
pub(crate) mod decode;
pub(crate) mod expected;
mod registry;
pub(crate) mod route;
pub(crate) mod sample;
mod shape;

use flowprobe_ebpf::{Around, parse::tunnel::kind};
use netflow_parser::{NetflowPacket, NetflowParser};
use proptest::prelude::*;

use self::{
    decode::{Collected, Fields, number},
    expected::{expected, expected_outer, json, outer_elements, template_of},
    sample::{any_record, key, many, nth, one_of_each_wide, tunnel, wrapped},
};
use super::{
    Encoder, Template, element,
    message::{HEADER, MIN_OCTETS, MIN_OCTETS_BIFLOW, PACKET_OVERHEAD, SET_HEADER},
    options::{
        AlgorithmRate, CountSelector, DomainName, ExportingReliability, FlowKeys, FlowSelector,
        HashSelector, InterfaceName, MeteringReliability, MeteringStatistics, NOfNSelector,
        OptionsRecord, ProbabilitySelector, SamplerRate, SamplingRate, SelectionSequence,
        SelectionStatistics, Selector, TakesOptions as _, Text, TimeSelector,
    },
};
use crate::{
    encode::{Fit, Stamp},
    record::{FlowKey, FlowRecord},
};

pub(crate) const OPTIONS: [&Template; 17] = [
    &SamplingRate::TEMPLATE,
    &CountSelector::TEMPLATE,
    &AlgorithmRate::TEMPLATE,
    &InterfaceName::TEMPLATE,
    &SamplerRate::TEMPLATE,
    &SelectionSequence::TEMPLATE,
    &SelectionStatistics::TEMPLATE,
    &ProbabilitySelector::TEMPLATE,
    &MeteringStatistics::TEMPLATE,
    &MeteringReliability::TEMPLATE,
    &ExportingReliability::TEMPLATE,
    &FlowKeys::TEMPLATE,
    &NOfNSelector::TEMPLATE,
    &TimeSelector::TEMPLATE,
    &HashSelector::TEMPLATE,
    &FlowSelector::TEMPLATE,
    &DomainName::TEMPLATE,
];

/// Those of flows, and those of options.
fn every_template() -> impl Iterator<Item = &'static Template> {
    let flows = element::ALL_ROUTED
        .iter()
        .chain(&element::ALL_BIFLOWS_ROUTED);
    flows.chain(OPTIONS)
}

fn assert_flow(template: u16, fields: &Fields, record: &FlowRecord) {
    for (i, (element, octets)) in fields.iter().enumerate() {
        let expected = if i < outer_elements(template) {
            expected_outer(record, *element)
        } else {
            expected(record, *element)
        };
        assert_eq!(*octets, expected, "element {element} of {template}");
    }
}

/// A message leaves at this second.
fn at(unix_s: u64) -> Stamp {
    Stamp {
        unix_ms: 1000 * unix_s,
        boot_unix_ms: 0,
    }
}

/// Encodes templates and `records` in messages of at most `octets`.
fn encode(records: &[FlowRecord], octets: u16, dot1q: bool) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(7, octets).expect("large enough");
    encoder.use_dot1q(dot1q);
    let mut messages = Vec::new();
    let mut flush = |encoder: &mut Encoder| {
        messages.push(encoder.message(at(1_700_000_000)).to_vec());
        encoder.commit();
    };
    for template in &element::ALL {
        if !encoder.template(template) {
            flush(&mut encoder);
            assert!(encoder.template(template));
        }
    }
    for record in records {
        if encoder.flow(record) == Fit::Full {
            flush(&mut encoder);
            assert_eq!(encoder.flow(record), Fit::In);
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
        dot1q in any::<bool>(),
    ) {
        let mut collected = Collected::default();
        for message in encode(&records, octets, dot1q) {
            prop_assert!(message.len() <= usize::from(octets));
            collected.message(&message);
        }
        prop_assert_eq!(collected.gap, 0);
        prop_assert_eq!(collected.records.len(), records.len());
        for ((template, fields), record) in collected.records.iter().zip(&records) {
            prop_assert_eq!(*template, template_of(record, dot1q));
            assert_flow(*template, fields, record);
        }
    }

    /// The other decoder reads every record, and writes the sets again as they were, but for
    /// padding to four octets, which it adds.
    #[test]
    fn another_decoder_agrees(
        records in prop::collection::vec(any_record(), 1..30),
        dot1q in any::<bool>(),
    ) {
        let mut parser = NetflowParser::default();
        for message in encode(&records, 1352, dot1q) {
            let parsed = parser.parse_bytes(&message);
            prop_assert!(parsed.error.is_none(), "{:?}", parsed.error);
            let [NetflowPacket::IPFix(ipfix)] = parsed.packets.as_slice() else {
                panic!("one IPFIX message, not {:?}", parsed.packets);
            };
            let again = ipfix.to_be_bytes().expect("encodes");
            prop_assert_eq!(sets(&again).len(), sets(&message).len());
            for ((theirs, padded), (ours, set)) in sets(&again).into_iter().zip(sets(&message)) {
                prop_assert_eq!(theirs, ours);
                let padding = padded.strip_prefix(set);
                let padding = padding.expect("the set as it was");
                prop_assert!(padding.len() < 4 && padding.iter().all(|octet| *octet == 0));
            }
        }
    }

    #[test]
    fn json_has_the_elements_of_the_template(record in any_record()) {
        let mut text = Vec::new();
        element::show(&record, None, 7, &mut text);
        let mut object: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(&text).expect("JSON");
        let id = template_of(&record, false);
        let template = element::ALL.iter().find(|template| template.id == id);
        let (outer, own) = template.expect("a template").fields.split_at(outer_elements(id));
        for field in own {
            let shown = object.remove(field.name).expect(field.name);
            prop_assert_eq!(shown, json(field, &expected(&record, field.number)));
        }
        if !outer.is_empty() {
            let mut around = object.remove("outer").expect("outer");
            let around = around.as_object_mut().expect("an object");
            for field in outer {
                let shown = around.remove(field.name).expect(field.name);
                prop_assert_eq!(shown, json(field, &expected_outer(&record, field.number)));
            }
            prop_assert!(around.is_empty(), "{:?}", around);
        }
        prop_assert_eq!(object.remove("observationDomainId"), Some(7.into()));
        if record.key.protocol() == 6 {
            let began = object.remove("firstPacketSyn");
            prop_assert_eq!(began, Some((record.marks.bits & 0x08 != 0).into()));
        }
        prop_assert!(object.is_empty(), "{:?}", object);
    }
}

/// Id and contents of each set of a message.
pub(crate) fn sets(message: &[u8]) -> Vec<(u16, &[u8])> {
    let mut sets = Vec::new();
    let mut rest = &message[HEADER..];
    while let [a, b, c, d, ..] = *rest {
        let (set, after) = rest.split_at(u16::from_be_bytes([c, d]).into());
        sets.push((u16::from_be_bytes([a, b]), &set[SET_HEADER..]));
        rest = after;
    }
    sets
}

/// A flow of each kind as one reads it.
#[test]
fn json_of_a_tunnel_names_both_packets() {
    let [a, b] = [[10; 16], [11; 16]];
    let around = tunnel(kind::VXLAN, 0x00ab_cdef, 17, false, [[192; 16], [193; 16]]);
    let around = Around {
        tags: 2,
        inner_vlans: [300, 0, 0],
        labels: 1,
        label_stack: [0x1_0001, 0, 0, 0, 0, 0],
        ..around
    };
    let record = FlowRecord {
        key: wrapped(&key(true, [a, b], 6, [1, 2], 0, 200, 3), &around),
        ..nth(4)
    };
    let mut text = Vec::new();
    element::show(&record, None, 7, &mut text);
    let text = String::from_utf8(text).expect("text");
    assert!(text.starts_with(r#"{"greKey":0,"layer2SegmentId":72057594049187311,"gtpuTEid":0,"#));
    let inner = r#""sourceIPv6Address":"a0a:a0a:a0a:a0a:a0a:a0a:a0a:a0a","#;
    assert!(text.contains(inner), "{text}");
    let tags = r#""vlanId":200,"postVlanId":300,"dot1qVlanId":200,"dot1qPriority":0,"#;
    assert!(text.contains(tags), "{text}");
    assert!(
        text.contains(r#""mplsTopLabelStackSection":65537,"#),
        "{text}"
    );
    let outer = concat!(
        r#","outer":{"sourceIPv4Address":"192.192.192.192","#,
        r#""destinationIPv4Address":"193.193.193.193","protocolIdentifier":17},"#,
        r#""observationDomainId":7,"firstPacketSyn":false}"#
    );
    assert!(text.ends_with(outer), "{text}");
}

/// With `--vlan-elements dot1q` a single tag is told in the templates of several; what has none
/// stays where it was.
#[test]
fn dot1q_changes_the_template_of_tagged_flows_only() {
    let with_vlan = |v6, vlan| FlowRecord {
        key: key(v6, [[10; 16]; 2], 17, [1, 2], 0, vlan, 3),
        ..nth(0)
    };
    let records = [
        with_vlan(false, 0),
        with_vlan(true, 0),
        with_vlan(false, 5),
        with_vlan(true, 5),
    ];
    for (dot1q, templates) in [(false, [256, 257, 256, 257]), (true, [256, 257, 258, 259])] {
        let mut collected = Collected::default();
        for message in encode(&records, 1352, dot1q) {
            collected.message(&message);
        }
        let ids: Vec<_> = collected.records.iter().map(|(id, _)| *id).collect();
        assert_eq!(ids, templates);
    }
}

/// A key is the same flow in its wide form: nothing of it is lost or changed.
#[test]
fn a_widened_key_has_the_fields_of_the_narrow_one() {
    for v6 in [false, true] {
        let narrow = key(v6, [[1; 16], [2; 16]], 6, [1, 2], 3, 4, 5);
        let wide = FlowKey::Wide(narrow.widened());
        assert_eq!(wide.source(), narrow.source());
        assert_eq!(wide.destination(), narrow.destination());
        assert_eq!(wide.source_port(), narrow.source_port());
        assert_eq!(wide.destination_port(), narrow.destination_port());
        assert_eq!(wide.protocol(), narrow.protocol());
        assert_eq!(wide.traffic_class(), narrow.traffic_class());
        assert_eq!((wide.vlan(), wide.ifindex()), (4, 5));
        assert_eq!(wide.sampled(), narrow.sampled());
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
        let messages = encode(&records, octets as u16, false);
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
    for template in every_template() {
        let longest = template.record_length().max(template.encoded_length());
        let least = match template.is_biflow() {
            true => MIN_OCTETS_BIFLOW,
            false => MIN_OCTETS,
        };
        assert!(HEADER + SET_HEADER + longest <= least, "{}", template.id);
    }
    // RFC 7011 §10.3.3: 512 octets where nothing is known of the path.
    assert!(MIN_OCTETS_BIFLOW + usize::from(PACKET_OVERHEAD) <= 512);
}

/// RFC 7011 §3.1: Data Records, options included, templates not; modulo 2³².
/// nfacctd 1.7.7 reads one options template of a set and skips what is behind it.
#[test]
fn each_options_template_has_a_set_to_itself() {
    let mut encoder = Encoder::new(1, 1400).unwrap();
    let mut lengths =
        vec![SET_HEADER + element::IPV4.encoded_length() + element::IPV6.encoded_length()];
    assert!(encoder.template(&element::IPV4) && encoder.template(&element::IPV6));
    for template in OPTIONS {
        assert!(encoder.template(template));
        lengths.push(SET_HEADER + template.encoded_length());
    }
    let message = encoder.message(at(0));
    let found: Vec<_> = sets(message)
        .iter()
        .map(|(id, set)| (*id, SET_HEADER + set.len()))
        .collect();
    let ids = [2].into_iter().chain([3; OPTIONS.len()]);
    assert_eq!(found, ids.zip(lengths).collect::<Vec<_>>());
}

#[test]
fn sequence_counts_data_records_of_committed_messages() {
    let mut encoder = Encoder::new(7, 1352).expect("large enough");
    let sequence = |encoder: &mut Encoder| {
        let message = encoder.message(at(0));
        u32::from_be_bytes(message[8..12].try_into().expect("4 octets"))
    };
    assert!(encoder.template(&element::IPV4));
    assert_eq!(sequence(&mut encoder), 0);
    encoder.commit();
    assert!([nth(0), nth(4)].iter().all(|r| encoder.flow(r) == Fit::In));
    assert!(encoder.options(&SamplingRate {
        observation_domain: 7,
        interval: 1,
    }));
    assert_eq!(sequence(&mut encoder), 0);
    encoder.commit();
    assert_eq!(encoder.mark().sequence, 3);
    assert_eq!(encoder.flow(&nth(0)), Fit::In);
    assert_eq!(sequence(&mut encoder), 3);
    encoder.discard();
    assert_eq!(
        encoder.mark().sequence,
        3,
        "a message never sent has no numbers"
    );
    encoder.sequence = u32::MAX;
    assert!([nth(0), nth(1)].iter().all(|r| encoder.flow(r) == Fit::In));
    encoder.commit();
    assert_eq!(encoder.mark().sequence, 1);
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
    collected.message(encoder.message(at(0)));
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
    collected.message(encoder.message(at(0)));
    let report = collected.of(519)[0];
    assert_eq!(number(report, 304), 4);
    assert_eq!(f64::from_bits(number(report, 311)).to_string(), "0.125");
    assert!(report[3].1.starts_with(b"random:1/8\0"));
}

/// RFC 5476 §6.5.2.6 with its example's numbers, and the same for flows.
#[test]
fn hash_based_selectors_tell_their_ranges_and_no_secret() {
    let [output, selected] = [[0, 0xffff_ffff], [100, 200]];
    let packets = Selector::Hash(HashSelector::new(4, 16, output, selected, "hash:1/8"));
    let flows = Selector::Flow(FlowSelector::new(output, selected, "flow:1/8"));
    let mut encoder = Encoder::new(7, 1352).expect("large enough");
    for selector in [packets, flows] {
        assert!(encoder.template(selector.template()) && selector.put(&mut encoder));
    }
    let mut collected = Collected::default();
    collected.message(encoder.message(at(0)));
    let ranges = [(329, 0), (330, 0xffff_ffff), (331, 100), (332, 200)];
    // A boolean of RFC 7011 §6.1.5 that is false.
    let own = [(302, 1), (304, 6), (327, 4), (328, 16), (333, 2)];
    for (id, fields) in [(526, &own[..]), (527, &[(302, 1), (390, 6)])] {
        let report = collected.of(id)[0];
        for (element, value) in fields.iter().chain(&ranges) {
            assert_eq!(number(report, *element), *value, "{element} of {id}");
        }
        assert!(report.iter().all(|(element, _)| *element != 334));
    }
}

/// RFC 7011 §8.4: a number never means another template, whatever the rate changes to.
#[test]
fn no_template_shares_its_number() {
    let mut ids: Vec<_> = every_template().map(|template| template.id).collect();
    ids.sort_unstable();
    let all = ids.len();
    ids.dedup();
    assert_eq!(ids.len(), all);
}

#[test]
fn text_is_cut_between_characters() {
    assert_eq!(Text::<4>::new("ab"), Text::new("ab\0\0"));
    assert_eq!(Text::<4>::new("abcdé"), Text::new("abcd"));
    assert_eq!(Text::<4>::new("abcé"), Text::new("abc"));
}
