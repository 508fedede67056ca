//! The information elements of a flow record, one row each.
//!
//! A row gives the IANA name and number, the type (and so the encoded length and the look in
//! JSON), its role, and how it is taken from a [`FlowRecord`]. Templates, encoders and JSON are
//! generated from the rows, so that they cannot disagree.
//!
//! | role | |
//! |---|---|
//! | `outer` | of the packet around a tunnel |
//! | `key` | of the flow key |
//! | `own` | of the flow key, and the way back has its own |
//! | `value` | a value, and the way back has its own |
//! | `once` | a value of which the way back tells nothing |
//!
//! A biflow (RFC 5103) has all elements of the flow from its source, then the reverse ones of what
//! the way back has of its own, then who began. It does without the reverse of what has the ends
//! exchanged (addresses, ports, MAC addresses), of what a question says of its answer (ICMP), and of
//! labels, inner VLANs and priorities, and in tunnels of interface and direction of what goes out:
//! tshark takes no template of more than [`MOST_FIELDS`].

mod biflow;
mod route;
mod value;
mod wide;

use std::net::{Ipv4Addr, Ipv6Addr};

use flowprobe_ebpf::{
    KeyV4, KeyV6, KeyWide,
    flow::bits,
    parse::{MAX_LABELS, tunnel::kind},
    wire::protocol,
};

pub(super) use self::biflow::{BIFLOWS, encode_both};
pub(crate) use self::route::{ALL_BIFLOWS_ROUTED, ALL_ROUTED, names as names_of_routes, put_route};
pub use self::{
    biflow::Both,
    value::{Mac, Show, Value},
};
use self::{
    biflow::{BIFLOW, OF_BOTH},
    value::{Label, append, append_name},
    wide::{Wide, as_wide},
};
use super::template::{Field, REVERSE, Template};
use crate::record::{FlowKey, FlowRecord};

/// Type·256 + code of a flow of the given ICMP, 0 for any other protocol.
#[inline(always)]
fn icmp_type_code(protocol: u8, icmp: u8, destination_port: u16) -> u16 {
    if protocol == icmp {
        destination_port
    } else {
        0
    }
}

/// Keeps what belongs to a template. A row is of one version, of both, of wide keys, of tunnels,
/// of all but these, or of tunnels of one outer version; a template is one of those that [`templates`] lists.
macro_rules! only {
    (Both, $template:ident, $($row:tt)*) => { $($row)* };
    (V4, V4, $($row:tt)*) => { $($row)* };
    (V4, W4, $($row:tt)*) => { $($row)* };
    (V4, T44, $($row:tt)*) => { $($row)* };
    (V4, T46, $($row:tt)*) => { $($row)* };
    (V6, V6, $($row:tt)*) => { $($row)* };
    (V6, W6, $($row:tt)*) => { $($row)* };
    (V6, T64, $($row:tt)*) => { $($row)* };
    (V6, T66, $($row:tt)*) => { $($row)* };
    (Wide, V4, $($row:tt)*) => {};
    (Wide, V6, $($row:tt)*) => {};
    (Wide, $template:ident, $($row:tt)*) => { $($row)* };
    (Bare, V4, $($row:tt)*) => { $($row)* };
    (Bare, V6, $($row:tt)*) => { $($row)* };
    (Bare, W4, $($row:tt)*) => { $($row)* };
    (Bare, W6, $($row:tt)*) => { $($row)* };
    (Tunnel, T44, $($row:tt)*) => { $($row)* };
    (Tunnel, T46, $($row:tt)*) => { $($row)* };
    (Tunnel, T64, $($row:tt)*) => { $($row)* };
    (Tunnel, T66, $($row:tt)*) => { $($row)* };
    (Outer4, T44, $($row:tt)*) => { $($row)* };
    (Outer4, T64, $($row:tt)*) => { $($row)* };
    (Outer6, T46, $($row:tt)*) => { $($row)* };
    (Outer6, T66, $($row:tt)*) => { $($row)* };
    ($of:ident, $template:ident, $($row:tt)*) => {};
}

/// Keeps what each direction of a conversation has of its own.
macro_rules! own {
    (own, $($row:tt)*) => { $($row)* };
    (value, $($row:tt)*) => { $($row)* };
    ($role:ident, $($row:tt)*) => {};
}

/// The name of the reverse of an element (RFC 5103 §6.1).
macro_rules! reverse_name {
    ($name:ident) => {{
        const NAME: &str = stringify!($name);
        const OCTETS: [u8; REVERSED.len() + NAME.len()] = reverse_name(NAME);
        match std::str::from_utf8(&OCTETS) {
            Ok(name) => name,
            Err(_) => panic!("names are ASCII"),
        }
    }};
}

/// What the names of reverse elements begin with.
const REVERSED: &str = "reverse";

const fn reverse_name<const N: usize>(name: &str) -> [u8; N] {
    let mut octets = [0; N];
    let mut i = 0;
    while i < N {
        octets[i] = if i < REVERSED.len() {
            REVERSED.as_bytes()[i]
        } else {
            name.as_bytes()[i - REVERSED.len()]
        };
        i += 1;
    }
    octets[REVERSED.len()] = octets[REVERSED.len()].to_ascii_uppercase();
    octets
}

macro_rules! is_key {
    (value) => {
        false
    };
    (once) => {
        false
    };
    ($key:ident) => {
        true
    };
}

/// Whether the row says something of the packet around the tunnel.
macro_rules! is_outer {
    (outer) => {
        true
    };
    ($inner:ident) => {
        false
    };
}

macro_rules! elements {
    (
        |$record:ident, $key:ident|
        $($of:ident $role:ident $name:ident $number:literal $kind:ty = $take:expr;)+
    ) => {
        elements!(@template V4 [KeyV4] 256 |$record, $key|
            $($of $role $name $number $kind = $take;)+);
        elements!(@template V6 [KeyV6] 257 |$record, $key|
            $($of $role $name $number $kind = $take;)+);
        elements!(@template W4 [Wide<'_, 4, 0>] 258 |$record, $key|
            $($of $role $name $number $kind = $take;)+);
        elements!(@template W6 [Wide<'_, 6, 0>] 259 |$record, $key|
            $($of $role $name $number $kind = $take;)+);
        elements!(@template T44 [Wide<'_, 4, 4>] 260 |$record, $key|
            $($of $role $name $number $kind = $take;)+);
        elements!(@template T46 [Wide<'_, 4, 6>] 261 |$record, $key|
            $($of $role $name $number $kind = $take;)+);
        elements!(@template T64 [Wide<'_, 6, 4>] 262 |$record, $key|
            $($of $role $name $number $kind = $take;)+);
        elements!(@template T66 [Wide<'_, 6, 6>] 263 |$record, $key|
            $($of $role $name $number $kind = $take;)+);
    };
    (
        @template $template:ident [$view:ty] $id:literal |$record:ident, $key:ident|
        $($of:ident $role:ident $name:ident $number:literal $kind:ty = $take:expr;)+
    ) => {
        impl FlowElements for $view {
            const TEMPLATE: Template = Template {
                id: $id,
                scopes: 0,
                v9: None,
                fields: {
                    const COUNT: usize = {
                        let mut count = 0;
                        $(only!($of, $template, count += 1;);)+
                        count
                    };
                    const FIELDS: [Field; COUNT] = {
                        let mut fields = [Field::NONE; COUNT];
                        let mut i = 0;
                        $(only!($of, $template,
                            fields[i] = Field {
                                name: stringify!($name),
                                enterprise: 0,
                                number: $number,
                                length: <$kind as Value>::LENGTH,
                                key: is_key!($role),
                            };
                            i += 1;
                        );)+
                        assert!(i == COUNT);
                        fields
                    };
                    &FIELDS
                },
            };

            const BIFLOW: Template = Template {
                id: $id + BIFLOW,
                scopes: 0,
                v9: None,
                fields: {
                    const THERE: &[Field] = <$view as FlowElements>::TEMPLATE.fields;
                    const COUNT: usize = {
                        let mut count = THERE.len() + OF_BOTH.len();
                        $(only!($of, $template, own!($role, count += 1;););)+
                        count
                    };
                    const FIELDS: [Field; COUNT] = {
                        let mut fields = [Field::NONE; COUNT];
                        let (there, back) = fields.split_at_mut(THERE.len());
                        there.copy_from_slice(THERE);
                        let mut i = 0;
                        $(only!($of, $template, own!($role,
                            back[i] = Field {
                                name: reverse_name!($name),
                                enterprise: REVERSE,
                                number: $number,
                                length: <$kind as Value>::LENGTH,
                                key: false,
                            };
                            i += 1;
                        ););)+
                        back.split_at_mut(i).1.copy_from_slice(&OF_BOTH);
                        fields
                    };
                    &FIELDS
                },
            };

            #[inline(always)]
            fn encode(&self, $record: &FlowRecord, to: &mut [u8]) {
                let $key = self;
                let mut rest = to;
                $(only!($of, $template,
                    let (field, after) = rest.split_at_mut(<$kind as Value>::LENGTH as usize);
                    <$kind as Value>::put($take, field);
                    rest = after;
                );)+
                debug_assert!(rest.is_empty());
            }

            fn encode_reverse<'a>(&self, $record: &FlowRecord, to: &'a mut [u8]) -> &'a mut [u8] {
                let $key = self;
                let mut rest = to;
                $(only!($of, $template, own!($role,
                    let (field, after) = rest.split_at_mut(<$kind as Value>::LENGTH as usize);
                    <$kind as Value>::put($take, field);
                    rest = after;
                ););)+
                rest
            }

            fn show_reverse(&self, $record: &FlowRecord, to: &mut Vec<u8>) {
                let $key = self;
                $(only!($of, $template, own!($role,
                    append_name(reverse_name!($name), to);
                    <$kind as Show>::show($take, to);
                ););)+
            }

            fn show(&self, outer: bool, $record: &FlowRecord, to: &mut Vec<u8>) {
                let $key = self;
                $(only!($of, $template,
                    if is_outer!($role) == outer {
                        append_name(stringify!($name), to);
                        <$kind as Show>::show($take, to);
                    }
                );)+
            }
        }
    };
}

/// What the rows generate for the key of each template.
pub(super) trait FlowElements {
    /// The template of these flow records.
    const TEMPLATE: Template;
    /// The template of biflows of them.
    const BIFLOW: Template;

    /// Writes the data record into `to`, which is as long as the template says.
    fn encode(&self, record: &FlowRecord, to: &mut [u8]);

    /// Writes what the way back has of its own, and returns what is left of `to`.
    fn encode_reverse<'a>(&self, record: &FlowRecord, to: &'a mut [u8]) -> &'a mut [u8];

    /// Appends the same as JSON.
    fn show_reverse(&self, record: &FlowRecord, to: &mut Vec<u8>);

    /// Appends `,"name":value` for each element that is of the packet around a tunnel, or of none
    /// of them.
    fn show(&self, outer: bool, record: &FlowRecord, to: &mut Vec<u8>);
}

// RFC 7011 §8: where an element occurs twice, that of the outer header comes first.
elements! { |record, key|
    Outer4 outer sourceIPv4Address           8 Ipv4Addr = key.outer_addresses()[0];
    Outer4 outer destinationIPv4Address     12 Ipv4Addr = key.outer_addresses()[1];
    Outer6 outer sourceIPv6Address          27 Ipv6Addr = key.outer_addresses()[0];
    Outer6 outer destinationIPv6Address     28 Ipv6Addr = key.outer_addresses()[1];
    Tunnel outer protocolIdentifier          4 u8       = key.around.outer_protocol;
    Tunnel key   greKey                    296 u32      = key.id(kind::GRE);
    Tunnel key   layer2SegmentId           351 u64      = key.segment();
    Tunnel own   gtpuTEid                  507 u32      = key.id(kind::GTPU);
    V4     key   sourceIPv4Address           8 Ipv4Addr = key.source().into();
    V4     key   destinationIPv4Address     12 Ipv4Addr = key.destination().into();
    V6     key   sourceIPv6Address          27 Ipv6Addr = key.source().into();
    V6     key   destinationIPv6Address     28 Ipv6Addr = key.destination().into();
    Both   key   sourceTransportPort         7 u16      = key.source_port();
    Both   key   destinationTransportPort   11 u16      = key.destination_port();
    Both   key   protocolIdentifier          4 u8       = key.protocol();
    // The registry says 16 bits; reduced to one octet (RFC 7011 §6.2), which is all that
    // some collectors read.
    Both   value tcpControlBits              6 u8       = record.marks.tcp_flags;
    Both   own   ipClassOfService            5 u8       = key.traffic_class();
    V4     key   ipVersion                  60 u8       = 4;
    V6     key   ipVersion                  60 u8       = 6;
    // A packet is seen on one interface, coming in or going out: the other one is unknown, but for what a
    // route says.
    Both   own   ingressInterface           10 u32      = key.ingress();
    Bare   own   egressInterface            14 u32      = record.egress();
    Tunnel key   egressInterface            14 u32      = record.egress();
    // 0 is in, 1 is out.
    Bare   own   flowDirection              61 u8       = u8::from(key.is_egress());
    Tunnel key   flowDirection              61 u8       = u8::from(key.is_egress());
    Both   value flowEndReason             136 u8       = record.reason as u8;
    Both   value flowStartMilliseconds     152 u64      = record.start_ms;
    Both   value flowEndMilliseconds       153 u64      = record.end_ms;
    Both   value packetDeltaCount            2 u64      = record.packets;
    Both   value octetDeltaCount             1 u64      = record.octets;
    Both   value minimumTTL                 52 u8       = record.marks.min_ttl;
    Both   value maximumTTL                 53 u8       = record.marks.max_ttl;
    Both   value fragmentFlags             197 u8       =
        record.marks.bits & bits::FRAGMENT_FLAGS;
    V4     value ipv4Options               208 u32      = record.marks.options;
    V6     value ipv6ExtensionHeaders       64 u32      = record.marks.options;
    V6     value flowLabelIPv6              31 u32      = record.marks.flow_label;
    // Also in the destination port, where most collectors look for it.
    V4     key   icmpTypeCodeIPv4           32 u16      =
        icmp_type_code(key.protocol(), protocol::ICMP, key.destination_port());
    V6     key   icmpTypeCodeIPv6          139 u16      =
        icmp_type_code(key.protocol(), protocol::ICMPV6, key.destination_port());
    Both   own   vlanId                     58 u16      = key.vlan();
    Wide   key   postVlanId                 59 u16      = key.inner_vlan();
    Wide   key   dot1qVlanId               243 u16      = key.vlan();
    Wide   once  dot1qPriority             244 u8       = record.marks.bits & bits::PRIORITY;
    Wide   key   dot1qCustomerVlanId       245 u16      = key.inner_vlan();
    Wide   once  dot1qCustomerPriority     246 u8       = record.marks.inner_priority;
    Wide   key   mplsTopLabelStackSection   70 Label    = key.label(0);
    Wide   key   mplsLabelStackSection2     71 Label    = key.label(1);
    Wide   key   mplsLabelStackSection3     72 Label    = key.label(2);
    Wide   key   mplsLabelStackSection4     73 Label    = key.label(3);
    Wide   key   mplsLabelStackSection5     74 Label    = key.label(4);
    Wide   key   mplsLabelStackSection6     75 Label    = key.label(5);
    Both   once  sourceMacAddress           56 Mac      = Mac(record.source_mac);
    Both   once  destinationMacAddress      80 Mac      = Mac(record.destination_mac);
    Both   once  samplingInterval           34 u32      = record.sampling_n;
}

const _: () = assert!(MAX_LABELS == 6, "a row for each label");

/// Fields of a template, at most: tshark 4.0 takes 60 unless told otherwise, nfcapd 1.7.1 takes 80.
const MOST_FIELDS: usize = 60;

const _: () = {
    let mut i = 0;
    while i < ALL_BIFLOWS.len() {
        assert!(ALL_BIFLOWS[i].fields.len() <= MOST_FIELDS);
        i += 1;
    }
};

/// Template of IPv4 flow records.
pub const IPV4: Template = <KeyV4 as FlowElements>::TEMPLATE;
/// Template of IPv6 flow records.
pub const IPV6: Template = <KeyV6 as FlowElements>::TEMPLATE;

/// Templates of all flow records: IPv4 and IPv6; the same with several VLAN tags or MPLS labels;
/// and out of tunnels, each version in each.
pub const ALL: [Template; 8] = [
    IPV4,
    IPV6,
    Wide::<4, 0>::TEMPLATE,
    Wide::<6, 0>::TEMPLATE,
    Wide::<4, 4>::TEMPLATE,
    Wide::<4, 6>::TEMPLATE,
    Wide::<6, 4>::TEMPLATE,
    Wide::<6, 6>::TEMPLATE,
];

/// Templates of all biflows, in the same order.
pub const ALL_BIFLOWS: [Template; 8] = [
    KeyV4::BIFLOW,
    KeyV6::BIFLOW,
    Wide::<4, 0>::BIFLOW,
    Wide::<6, 0>::BIFLOW,
    Wide::<4, 4>::BIFLOW,
    Wide::<4, 6>::BIFLOW,
    Wide::<6, 4>::BIFLOW,
    Wide::<6, 6>::BIFLOW,
];

/// Octets of the longest template or flow record.
pub(crate) const LONGEST: usize = longest(&ALL_ROUTED);
/// The same of biflows.
pub(crate) const LONGEST_BIFLOW: usize = longest(&ALL_BIFLOWS_ROUTED);

const fn longest(templates: &[Template]) -> usize {
    let mut longest = 0;
    let mut i = 0;
    while i < templates.len() {
        if templates[i].longest() > longest {
            longest = templates[i].longest();
        }
        i += 1;
    }
    longest
}

/// Encodes a record with a wide key: `room` gives the octets for a record of a template, or
/// nothing if the message is full.
pub(super) fn encode_wide<'a>(
    key: &KeyWide,
    record: &FlowRecord,
    room: impl FnOnce(&Template) -> Option<&'a mut [u8]>,
) -> bool {
    fn encode<'a, V: FlowElements>(
        view: &V,
        record: &FlowRecord,
        room: impl FnOnce(&Template) -> Option<&'a mut [u8]>,
    ) -> bool {
        let to = room(&V::TEMPLATE);
        to.map(|to| view.encode(record, to)).is_some()
    }
    as_wide!(key, |wide| encode(&wide, record, room))
}

/// Encodes a record: `room` gives the octets for a record of a template, or nothing if the message
/// is full. With `dot1q`, one VLAN tag is told in the templates of several.
#[inline]
pub(crate) fn encode<'a>(
    record: &FlowRecord,
    dot1q: bool,
    room: impl FnOnce(&Template) -> Option<&'a mut [u8]>,
) -> bool {
    if dot1q && record.key.vlan() != 0 {
        return encode_wide(&record.key.widened(), record, room);
    }
    match &record.key {
        FlowKey::V4(key) => room(&IPV4).map(|to| key.encode(record, to)).is_some(),
        FlowKey::V6(key) => room(&IPV6).map(|to| key.encode(record, to)).is_some(),
        FlowKey::Wide(key) => encode_wide(key, record, room),
    }
}

/// Appends the flow record as a JSON object: IANA names, addresses as text, times in
/// milliseconds since 1970-01-01 UTC. What is of the packet around a tunnel is in an object of its
/// own, `outer`. If `next` is the other half of a biflow, that is in it too.
pub fn show(
    record: &FlowRecord,
    next: Option<&FlowRecord>,
    observation_domain: u32,
    to: &mut Vec<u8>,
) {
    let start = to.len();
    match &record.key {
        FlowKey::V4(key) => key.show(false, record, to),
        FlowKey::V6(key) => key.show(false, record, to),
        FlowKey::Wide(key) => as_wide!(key, |wide| {
            wide.show(false, record, to);
            if wide.around.tunnel != 0 {
                to.extend_from_slice(b",\"outer\":");
                let outer = to.len();
                wide.show(true, record, to);
                to[outer] = b'{';
                to.push(b'}');
            }
        }),
    }
    if let Some(both) = Both::of(record, next) {
        both.show(to);
    }
    if record.route.is_some() && route::has_route(record) {
        route::show(record, to);
    }
    // In messages it is in the header.
    append(
        to,
        format_args!(",\"observationDomainId\":{observation_domain}"),
    );
    if record.key.protocol() == protocol::TCP {
        // No element says this; the name is ours.
        let began = record.marks.began_with_syn();
        append(to, format_args!(",\"firstPacketSyn\":{began}"));
    }
    to[start] = b'{'; // in the place of the first comma
    to.push(b'}');
}
