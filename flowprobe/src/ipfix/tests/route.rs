//! What routes say, behind all else, where that is asked for.

use std::net::IpAddr;

use proptest::prelude::*;

use super::{decode::Collected, sample::any_record};
use crate::{
    encode::{Fit, Stamp},
    ipfix::{Encoder, Fields, element},
    record::{FlowRecord, Route},
};

pub(crate) fn any_route() -> impl Strategy<Value = Option<Route>> {
    let hop = prop_oneof![
        Just(None),
        any::<[u8; 4]>().prop_map(|octets| Some(IpAddr::from(octets))),
        any::<[u8; 16]>().prop_map(|octets| Some(IpAddr::from(octets))),
    ];
    let route = (hop, any::<u32>(), 0..129_u8, 0..129_u8);
    prop::option::of(
        route.prop_map(
            |(next_hop, egress, source_prefix, destination_prefix)| Route {
                next_hop,
                egress,
                source_prefix,
                destination_prefix,
            },
        ),
    )
}

proptest! {
    #[test]
    fn a_record_with_its_route_is_the_whole_one_and_three_fields(
        record in any_record(),
        route in any_route(),
        dot1q in any::<bool>(),
    ) {
        let record = FlowRecord { route, ..record };
        let collect = |fields: Option<Fields>| {
            let mut encoder = Encoder::new(7, 16_000).expect("large enough");
            encoder.use_dot1q(dot1q);
            encoder.use_fields(fields);
            for template in encoder.flow_templates() {
                assert!(encoder.template(&template));
            }
            assert_eq!(encoder.flow(&record), Fit::In);
            let mut collected = Collected::default();
            collected.message(encoder.message(Stamp { unix_ms: 0, boot_unix_ms: 0 }));
            collected.records.remove(0)
        };
        let (whole, routed) = (collect(None), collect(Some(Fields::everything())));
        prop_assert_eq!(routed.0, whole.0);
        let is_tunnel = record.key.around().is_some_and(|around| around.tunnel != 0);
        let (own, behind) = routed.1.split_at(whole.1.len());
        prop_assert_eq!(own, &whole.1[..]);
        let route = route.unwrap_or_default();
        let numbers = match (is_tunnel, record.key.source().is_ipv4()) {
            (true, _) => {
                prop_assert!(behind.is_empty());
                return Ok(());
            }
            (_, true) => [15, 9, 13],
            (_, false) => [62, 29, 30],
        };
        let hop = match (route.next_hop, record.key.source()) {
            (Some(IpAddr::V4(hop)), IpAddr::V4(_)) => hop.octets().to_vec(),
            (Some(IpAddr::V6(hop)), IpAddr::V6(_)) => hop.octets().to_vec(),
            (_, IpAddr::V4(_)) => vec![0; 4],
            (_, IpAddr::V6(_)) => vec![0; 16],
        };
        let values = [hop, vec![route.source_prefix], vec![route.destination_prefix]];
        let expected: Vec<_> = numbers.into_iter().zip(values).collect();
        prop_assert_eq!(behind, &expected[..]);
    }

    #[test]
    fn the_way_out_is_the_routes_where_that_is_known(record in any_record(), route in any_route()) {
        let egress = route.map_or(record.key.egress(), |route| route.egress);
        prop_assert_eq!(FlowRecord { route, ..record }.egress(), egress);
    }
}

#[test]
fn only_who_asks_has_what_routes_say() {
    let routed = |fields: &str| fields.parse::<Fields>().expect(fields).of_routes();
    assert_eq!(routed("ipVersion,vlanId"), None);
    for name in ["ipNextHopIPv4Address", "sourceIPv6PrefixLength"] {
        assert_eq!(routed(&format!("ipVersion,{name}")), Some(name));
    }
    let names = |template: &crate::ipfix::Template| {
        let names = template.fields.iter().map(|field| field.name);
        names.filter(|name| name.contains("NextHop")).count()
    };
    assert_eq!(element::ALL.iter().map(names).sum::<usize>(), 0);
    assert_eq!(element::ALL_ROUTED.iter().map(names).sum::<usize>(), 4);
}

#[test]
fn json_has_it_where_it_was_asked_for() {
    let shown = |record: &FlowRecord| {
        let mut text = Vec::new();
        element::show(record, None, 1, &mut text);
        serde_json::from_slice::<serde_json::Value>(&text).expect("JSON")
    };
    let record = super::sample::nth(0);
    assert!(shown(&record).get("ipNextHopIPv4Address").is_none());
    let route = Route {
        next_hop: Some([192, 0, 2, 1].into()),
        egress: 9,
        source_prefix: 8,
        destination_prefix: 24,
    };
    let shown = shown(&FlowRecord {
        route: Some(route),
        ..record
    });
    assert_eq!(shown["ipNextHopIPv4Address"], "192.0.2.1");
    assert_eq!(shown["egressInterface"], 9);
    assert_eq!(shown["sourceIPv4PrefixLength"], 8);
    assert_eq!(shown["destinationIPv4PrefixLength"], 24);
}
