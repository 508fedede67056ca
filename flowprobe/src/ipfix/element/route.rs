//! What routes say of a flow, behind all else: only those have it who ask for it.
//!
//! The way out is egressInterface (14), which all records have.

use std::net::IpAddr;

use super::{
    ALL, ALL_BIFLOWS, MOST_FIELDS,
    value::{Show as _, Value as _, append, append_name},
};
use crate::{
    ipfix::template::{Field, Template},
    record::FlowRecord,
};

/// The fields of one version of IP: next hop, prefix lengths of source and destination.
type Fields = [Field; 3];

const fn field(name: &'static str, number: u16, length: u16) -> Field {
    Field {
        name,
        enterprise: 0,
        number,
        length,
        key: false,
    }
}

const V4: Fields = [
    field("ipNextHopIPv4Address", 15, 4),
    field("sourceIPv4PrefixLength", 9, 1),
    field("destinationIPv4PrefixLength", 13, 1),
];

const V6: Fields = [
    field("ipNextHopIPv6Address", 62, 16),
    field("sourceIPv6PrefixLength", 29, 1),
    field("destinationIPv6PrefixLength", 30, 1),
];

/// A template with these fields behind its own.
macro_rules! routed {
    ($whole:expr, $more:expr) => {{
        const WHOLE: Template = $whole;
        const MORE: Fields = $more;
        const FIELDS: [Field; WHOLE.fields.len() + MORE.len()] = {
            let mut fields = [Field::NONE; WHOLE.fields.len() + MORE.len()];
            let (whole, more) = fields.split_at_mut(WHOLE.fields.len());
            whole.copy_from_slice(WHOLE.fields);
            more.copy_from_slice(&MORE);
            fields
        };
        const { assert!(FIELDS.len() <= MOST_FIELDS) };
        Template {
            fields: &FIELDS,
            ..WHOLE
        }
    }};
}

macro_rules! all_routed {
    ($all:expr) => {
        [
            routed!($all[0], V4),
            routed!($all[1], V6),
            routed!($all[2], V4),
            routed!($all[3], V6),
            $all[4],
            $all[5],
            $all[6],
            $all[7],
        ]
    };
}

/// [`ALL`], with what routes say: not of tunnels, whose packets go by the addresses around them.
pub(crate) const ALL_ROUTED: [Template; 8] = all_routed!(ALL);
/// [`ALL_BIFLOWS`], with what routes say of the flow from the source.
pub(crate) const ALL_BIFLOWS_ROUTED: [Template; 8] = all_routed!(ALL_BIFLOWS);

/// The next hop, if it is of the flow's own version; and the prefix lengths.
fn values(record: &FlowRecord) -> (Option<IpAddr>, [u8; 2]) {
    let route = record.route.unwrap_or_default();
    let is_v4 = record.key.source().is_ipv4();
    let next_hop = route.next_hop.filter(|hop| hop.is_ipv4() == is_v4);
    (next_hop, [route.source_prefix, route.destination_prefix])
}

/// Whether the records of its template have these fields, where they are asked for.
pub(super) fn has_route(record: &FlowRecord) -> bool {
    record.key.around().is_none_or(|around| around.tunnel == 0)
}

/// Writes what routes say of a flow behind the `length` octets of its record.
pub(crate) fn put_route(record: &FlowRecord, to: &mut [u8], length: usize) {
    if !has_route(record) {
        return;
    }
    let (next_hop, prefixes) = values(record);
    let hop_octets = if record.key.source().is_ipv4() { 4 } else { 16 };
    let to = &mut to[length..length + hop_octets + prefixes.len()];
    let (hop, rest) = to.split_at_mut(hop_octets);
    match next_hop {
        Some(IpAddr::V4(next)) => next.put(hop),
        Some(IpAddr::V6(next)) => next.put(hop),
        None => hop.fill(0),
    }
    rest.copy_from_slice(&prefixes);
}

/// Appends the same as JSON.
pub(super) fn show(record: &FlowRecord, to: &mut Vec<u8>) {
    let (next_hop, prefixes) = values(record);
    let [hop, rest @ ..] = match record.key.source() {
        IpAddr::V4(_) => V4,
        IpAddr::V6(_) => V6,
    };
    append_name(hop.name, to);
    match (next_hop, hop.length) {
        (Some(next), _) => append(to, format_args!("\"{next}\"")),
        (None, 4) => append(to, format_args!("\"0.0.0.0\"")),
        (None, _) => append(to, format_args!("\"::\"")),
    }
    for (field, prefix) in rest.iter().zip(prefixes) {
        append_name(field.name, to);
        prefix.show(to);
    }
}

/// The names of these fields.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    V4.iter().chain(&V6).map(|field| field.name)
}
