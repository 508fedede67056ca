//! The information elements of a flow record, one row each.
//!
//! A row gives the IANA name and number, the type (and so the encoded length and the look in
//! JSON), whether it is part of the flow key, and how it is taken from a [`FlowRecord`].
//! Templates, encoders and JSON are generated from the rows, so that they cannot disagree.

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

use flowprobe_ebpf::{
    Around, KeyV4, KeyV6, KeyWide,
    flow::bits,
    parse::{MAX_LABELS, tunnel::kind},
    wire::protocol,
};

use super::template::{Field, Template};
use crate::record::{FlowKey, FlowRecord};

/// The value of an information element.
pub trait Value: Copy {
    /// Encoded octets.
    const LENGTH: u16;

    /// Writes the value in network order into `to`, which is [`Self::LENGTH`] octets long.
    fn put(self, to: &mut [u8]);
}

/// The value as people read it.
pub trait Show: Value {
    /// Appends the value as JSON.
    fn show(self, to: &mut Vec<u8>);
}

/// Appends formatted text; memory does not fail to take it.
fn append(to: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    to.write_fmt(text).expect("a Vec takes all it is given");
}

macro_rules! unsigned {
    ($($kind:ty),+) => {$(
        impl Value for $kind {
            const LENGTH: u16 = size_of::<Self>() as u16;

            #[inline(always)]
            fn put(self, to: &mut [u8]) {
                to.copy_from_slice(&self.to_be_bytes());
            }
        }

        impl Show for $kind {
            fn show(self, to: &mut Vec<u8>) {
                append(to, format_args!("{self}"));
            }
        }
    )+};
}
unsigned!(u8, u16, u32, u64);

macro_rules! address {
    ($($kind:ty),+) => {$(
        impl Value for $kind {
            const LENGTH: u16 = size_of::<Self>() as u16;

            #[inline(always)]
            fn put(self, to: &mut [u8]) {
                to.copy_from_slice(&self.octets());
            }
        }

        impl Show for $kind {
            fn show(self, to: &mut Vec<u8>) {
                append(to, format_args!("\"{self}\""));
            }
        }
    )+};
}
address!(Ipv4Addr, Ipv6Addr);

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl Value for Mac {
    const LENGTH: u16 = 6;

    #[inline(always)]
    fn put(self, to: &mut [u8]) {
        to.copy_from_slice(&self.0);
    }
}

impl Show for Mac {
    fn show(self, to: &mut Vec<u8>) {
        let [a, b, c, d, e, f] = self.0;
        append(
            to,
            format_args!("\"{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}\""),
        );
    }
}

/// An MPLS label stack entry without its TTL: label, traffic class, bottom of stack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label(pub u32);

impl Value for Label {
    const LENGTH: u16 = 3;

    #[inline(always)]
    fn put(self, to: &mut [u8]) {
        to.copy_from_slice(&self.0.to_be_bytes()[1..]);
    }
}

impl Show for Label {
    fn show(self, to: &mut Vec<u8>) {
        append(to, format_args!("{}", self.0));
    }
}

/// Type·256 + code of a flow of the given ICMP, 0 for any other protocol.
#[inline(always)]
fn icmp_type_code(protocol: u8, icmp: u8, destination_port: u16) -> u16 {
    if protocol == icmp {
        destination_port
    } else {
        0
    }
}

/// A wide key seen as one of packets of version `INNER`, out of a tunnel of version `OUTER`, or of
/// none where that is 0.
struct Wide<'a, const INNER: u8, const OUTER: u8> {
    key: &'a KeyWide,
    around: Around,
}

/// Which of the six kinds a wide key is.
macro_rules! as_wide {
    ($key:expr, |$wide:ident| $then:expr) => {{
        let key = $key;
        let around = key.around();
        match (around.version, around.outer_version) {
            (4, 4) => {
                let $wide = Wide::<4, 4> { key, around };
                $then
            }
            (4, 6) => {
                let $wide = Wide::<4, 6> { key, around };
                $then
            }
            (4, _) => {
                let $wide = Wide::<4, 0> { key, around };
                $then
            }
            (_, 4) => {
                let $wide = Wide::<6, 4> { key, around };
                $then
            }
            (_, 6) => {
                let $wide = Wide::<6, 6> { key, around };
                $then
            }
            _ => {
                let $wide = Wide::<6, 0> { key, around };
                $then
            }
        }
    }};
}

macro_rules! delegate {
    ($($name:ident -> $kind:ty),+) => {
        impl<const INNER: u8, const OUTER: u8> Wide<'_, INNER, OUTER> {
            $(fn $name(&self) -> $kind {
                self.key.$name()
            })+
        }
    };
}

delegate!(
    source_port -> u16, destination_port -> u16, protocol -> u8, traffic_class -> u8, vlan -> u16,
    ifindex -> u32
);

impl<const OUTER: u8> Wide<'_, 4, OUTER> {
    fn source(&self) -> [u8; 4] {
        self.key.v4().unwrap_or_default()[0]
    }

    fn destination(&self) -> [u8; 4] {
        self.key.v4().unwrap_or_default()[1]
    }
}

impl<const OUTER: u8> Wide<'_, 6, OUTER> {
    fn source(&self) -> [u8; 16] {
        self.key.v6().unwrap_or_default()[0]
    }

    fn destination(&self) -> [u8; 16] {
        self.key.v6().unwrap_or_default()[1]
    }
}

impl<const INNER: u8> Wide<'_, INNER, 4> {
    fn outer_addresses(&self) -> [Ipv4Addr; 2] {
        let [a, b, c, d, e, f, g, h] = self.around.outer[0].to_ne_bytes();
        [[a, b, c, d].into(), [e, f, g, h].into()]
    }
}

impl<const INNER: u8> Wide<'_, INNER, 6> {
    fn outer_addresses(&self) -> [Ipv6Addr; 2] {
        let [a, b, c, d] = self.around.outer;
        [[a, b], [c, d]].map(|[high, low]| {
            let high = u64::from_be_bytes(high.to_ne_bytes());
            let low = u64::from_be_bytes(low.to_ne_bytes());
            (u128::from(high) << 64 | u128::from(low)).into()
        })
    }
}

impl<const INNER: u8, const OUTER: u8> Wide<'_, INNER, OUTER> {
    fn inner_vlan(&self) -> u16 {
        self.around.inner_vlans[0]
    }

    fn label(&self, i: usize) -> Label {
        Label(self.around.label_stack[i])
    }

    /// The identifier, if the tunnel is of this kind.
    fn id(&self, kind: u8) -> u32 {
        if self.around.tunnel == kind {
            self.around.tunnel_id
        } else {
            0
        }
    }

    /// layer2SegmentId (IE 351): the kind of overlay in the first octet, the identifier in the
    /// last three. The registry has kinds for VXLAN and NVGRE; GENEVE has none, and so is 0.
    fn segment(&self) -> u64 {
        let overlay = match self.around.tunnel {
            kind::VXLAN => 1,
            kind::NVGRE => 2,
            kind::GENEVE => 0,
            _ => return 0,
        };
        overlay << 56 | u64::from(self.around.tunnel_id)
    }
}

/// Keeps what belongs to a template. A row is of one version, of both, of wide keys, of tunnels,
/// or of tunnels of one outer version; a template is one of those that [`templates`] lists.
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

macro_rules! is_key {
    (value) => {
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

            fn show(&self, outer: bool, $record: &FlowRecord, to: &mut Vec<u8>) {
                let $key = self;
                $(only!($of, $template,
                    if is_outer!($role) == outer {
                        to.extend_from_slice(concat!(",\"", stringify!($name), "\":").as_bytes());
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

    /// Writes the data record into `to`, which is as long as the template says.
    fn encode(&self, record: &FlowRecord, to: &mut [u8]);

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
    Tunnel key   gtpuTEid                  507 u32      = key.id(kind::GTPU);
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
    Both   key   ipClassOfService            5 u8       = key.traffic_class();
    V4     key   ipVersion                  60 u8       = 4;
    V6     key   ipVersion                  60 u8       = 6;
    Both   key   ingressInterface           10 u32      = key.ifindex();
    // XDP runs before routing: the way out is unknown.
    Both   value egressInterface            14 u32      = 0;
    // 0: ingress, where XDP is.
    Both   value flowDirection              61 u8       = 0;
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
    Both   key   vlanId                     58 u16      = key.vlan();
    Wide   key   postVlanId                 59 u16      = key.inner_vlan();
    Wide   key   dot1qVlanId               243 u16      = key.vlan();
    Wide   value dot1qPriority             244 u8       = record.marks.bits & bits::PRIORITY;
    Wide   key   dot1qCustomerVlanId       245 u16      = key.inner_vlan();
    Wide   value dot1qCustomerPriority     246 u8       = record.marks.inner_priority;
    Wide   key   mplsTopLabelStackSection   70 Label    = key.label(0);
    Wide   key   mplsLabelStackSection2     71 Label    = key.label(1);
    Wide   key   mplsLabelStackSection3     72 Label    = key.label(2);
    Wide   key   mplsLabelStackSection4     73 Label    = key.label(3);
    Wide   key   mplsLabelStackSection5     74 Label    = key.label(4);
    Wide   key   mplsLabelStackSection6     75 Label    = key.label(5);
    Both   value sourceMacAddress           56 Mac      = Mac(record.source_mac);
    Both   value destinationMacAddress      80 Mac      = Mac(record.destination_mac);
    Both   value samplingInterval           34 u32      = record.sampling_n;
}

const _: () = assert!(MAX_LABELS == 6, "a row for each label");

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

/// Octets of the longest template or flow record.
pub(crate) const LONGEST: usize = {
    let mut longest = 0;
    let mut i = 0;
    while i < ALL.len() {
        let lengths = [ALL[i].record_length(), ALL[i].encoded_length()];
        let length = if lengths[0] > lengths[1] {
            lengths[0]
        } else {
            lengths[1]
        };
        if length > longest {
            longest = length;
        }
        i += 1;
    }
    longest
};

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
/// own, `outer`.
pub fn show(record: &FlowRecord, observation_domain: u32, to: &mut Vec<u8>) {
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
