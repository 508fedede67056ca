//! Biflows (RFC 5103), read back.

use netflow_parser::variable_versions::ipfix::lookup::IPFixField;
use proptest::prelude::*;

use super::{
    at,
    decode::{CERT, Collected, ENTERPRISE, Fields as Decoded},
    expected::{expected, template_of},
    sample::{any_record, nth},
};
use crate::{
    encode::Fit,
    ipfix::{
        Encoder, Fields,
        element::{self, Both},
        message::MIN_OCTETS_BIFLOW,
    },
    record::{Biflow, Direction, FlowRecord},
};

/// Two records of one kind, as a biflow.
fn any_biflow() -> impl Strategy<Value = [FlowRecord; 2]> {
    let arbitrary = any::<bool>();
    (any_record(), any_record(), arbitrary).prop_map(|(mut forward, mut reverse, arbitrary)| {
        if template_of(&forward, false) != template_of(&reverse, false) {
            reverse.key = forward.key;
        }
        forward.biflow = Biflow::Forward(match arbitrary {
            true => Direction::Arbitrary,
            false => Direction::Initiator,
        });
        reverse.biflow = Biflow::Reverse;
        [forward, reverse]
    })
}

fn both([forward, reverse]: &[FlowRecord; 2]) -> Both<'_> {
    Both::of(forward, Some(reverse)).expect("a biflow")
}

fn encoder(octets: u16, dot1q: bool, fields: Option<Fields>) -> Encoder {
    let mut encoder = Encoder::new(7, octets).expect("large enough");
    encoder.use_biflows(true);
    encoder.use_dot1q(dot1q);
    encoder.use_fields(fields);
    encoder
}

/// Encodes the templates, then flows, then biflows.
fn collect(mut encoder: Encoder, flows: &[FlowRecord], biflows: &[[FlowRecord; 2]]) -> Collected {
    let mut collected = Collected::default();
    let mut flush = |encoder: &mut Encoder| {
        collected.message(encoder.message(at(1_700_000_000)));
        encoder.commit();
    };
    for template in encoder.flow_templates() {
        if !encoder.template(&template) {
            flush(&mut encoder);
            assert!(encoder.template(&template));
        }
    }
    for flow in flows {
        assert_eq!(encoder.flow(flow), Fit::In);
    }
    for biflow in biflows {
        if encoder.biflow(&both(biflow)) == Fit::Full {
            flush(&mut encoder);
            assert_eq!(encoder.biflow(&both(biflow)), Fit::In);
        }
    }
    flush(&mut encoder);
    collected
}

/// Who began, and the milliseconds until the answer.
fn of_both([forward, reverse]: &[FlowRecord; 2]) -> [(u16, Vec<u8>); 2] {
    let direction = u8::from(forward.biflow == Biflow::Forward(Direction::Initiator));
    let delta = reverse.start_ms.saturating_sub(forward.start_ms);
    let delta = u32::try_from(delta).unwrap_or(u32::MAX);
    [
        (239, vec![direction]),
        (ENTERPRISE | CERT | 21, delta.to_be_bytes().to_vec()),
    ]
}

fn assert_biflow(fields: &Decoded, template: u16, biflow: &[FlowRecord; 2]) {
    let flow = element::ALL.iter().find(|flow| flow.id == template - 8);
    let (there, rest) = fields.split_at(flow.expect("its flows").fields.len());
    super::assert_flow(template - 8, &there.to_vec(), &biflow[0]);
    let (back, last) = rest.split_at(rest.len() - 2);
    for (element, octets) in back {
        assert_eq!(element & ENTERPRISE, ENTERPRISE);
        let value = expected(&biflow[1], element & !ENTERPRISE);
        assert_eq!(*octets, value, "reverse of {element}");
    }
    assert_eq!(last, of_both(biflow));
}

proptest! {
    #[test]
    fn any_biflow_is_read_back_as_it_was(
        biflows in prop::collection::vec(any_biflow(), 1..60),
        octets in MIN_OCTETS_BIFLOW as u16..3000,
        dot1q in any::<bool>(),
    ) {
        let collected = collect(encoder(octets, dot1q, None), &[], &biflows);
        prop_assert_eq!(collected.gap, 0);
        prop_assert_eq!(collected.records.len(), biflows.len());
        for ((template, fields), biflow) in collected.records.iter().zip(&biflows) {
            let tagged = biflow.iter().map(|record| template_of(record, dot1q)).max();
            prop_assert_eq!(Some(template - 8), tagged);
            assert_biflow(fields, *template, biflow);
        }
    }

    #[test]
    fn json_of_a_biflow_has_both(biflow in any_biflow()) {
        let object = |record: &FlowRecord, next| -> serde_json::Map<String, serde_json::Value> {
            let mut text = Vec::new();
            element::show(record, next, 7, &mut text);
            serde_json::from_slice(&text).expect("JSON")
        };
        let [forward, reverse] = &biflow;
        let (there, back) = (object(forward, None), object(reverse, None));
        let mut shown = object(forward, Some(reverse));
        for (name, value) in &there {
            prop_assert_eq!(shown.remove(name), Some(value.clone()));
        }
        let id = template_of(forward, false) + 8;
        let template = element::ALL_BIFLOWS.iter().find(|template| template.id == id);
        let fields = template.expect("a template").fields;
        for field in fields.iter().filter(|field| field.enterprise == 29305) {
            let name = field.name.strip_prefix("reverse").expect("reverse");
            let forward = fields.iter().rfind(|forward| forward.number == field.number && forward.enterprise == 0);
            let forward = forward.expect(name).name;
            prop_assert_eq!(shown.remove(field.name), back.get(forward).cloned(), "{}", name);
        }
        let [(_, direction), (_, delta)] = of_both(&biflow);
        prop_assert_eq!(shown.remove("biflowDirection"), Some(direction[0].into()));
        let delta = u32::from_be_bytes(delta.try_into().expect("four"));
        prop_assert_eq!(shown.remove("reverseFlowDeltaMilliseconds"), Some(delta.into()));
        prop_assert!(shown.is_empty(), "{:?}", shown);
    }
}

#[test]
fn fields_may_be_reverse_ones_and_flows_do_without() {
    let names = "reverseOctetDeltaCount,sourceIPv4Address,sourceIPv6Address,biflowDirection,\
                 reverseFlowDeltaMilliseconds,octetDeltaCount";
    let fields: Fields = names.parse().expect("fields");
    assert_eq!(fields.of_biflows(), Some("reverseOctetDeltaCount"));
    let plain: Fields = "ipVersion,vlanId".parse().expect("fields");
    assert_eq!(plain.of_biflows(), None);
    let biflow = [
        (0, Biflow::Forward(Direction::Initiator)),
        (5, Biflow::Reverse),
    ];
    let biflow = biflow.map(|(i, biflow)| FlowRecord { biflow, ..nth(i) });
    let encoder = encoder(1400, false, Some(fields));
    let full = encoder.full_message();
    let collected = collect(encoder, &[nth(10)], &[biflow]);
    let [(flow, alone), (id, together)] = collected.records.as_slice() else {
        panic!("{:?}", collected.records);
    };
    assert_eq!((*flow, *id), (256, 264));
    let numbers = |fields: &Decoded| fields.iter().map(|(number, _)| *number).collect::<Vec<_>>();
    assert_eq!(numbers(alone), [8, 1]);
    let reverse = ENTERPRISE | 1;
    assert_eq!(
        numbers(together),
        [reverse, 8, 239, ENTERPRISE | CERT | 21, 1]
    );
    assert_eq!(together[0].1, 600_u64.to_be_bytes());
    assert_eq!(together[4].1, 100_u64.to_be_bytes());
    // 25 octets of a biflow are fewer for each of its records than the 12 of a flow.
    assert_eq!(full, (1400 - 16 - 4) / 12);
}

/// The other decoder knows what reverse elements are.
#[test]
fn another_decoder_knows_the_reverse() {
    let template = element::ALL_BIFLOWS[0];
    for field in template
        .fields
        .iter()
        .filter(|field| field.enterprise == 29305)
    {
        let theirs = IPFixField::new(field.number | ENTERPRISE, Some(field.enterprise));
        let name = format!("{theirs:?}").to_lowercase();
        assert!(name.contains("reverse"), "{}: {name}", field.name);
    }
}
