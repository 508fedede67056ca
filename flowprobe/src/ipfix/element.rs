//! The information elements of a flow record, one row each.
//!
//! A row gives the IANA name and number, the type (and so the encoded length and the look in
//! JSON), whether it is part of the flow key, and how it is taken from a [`FlowRecord`].
//! Templates, encoders and JSON are generated from the rows, so that they cannot disagree.

use std::{
    io::Write,
    net::{Ipv4Addr, Ipv6Addr},
};

use flowprobe_ebpf::{KeyV4, KeyV6, wire::protocol};

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

/// Type·256 + code of a flow of the given ICMP, 0 for any other protocol.
#[inline(always)]
fn icmp_type_code(protocol: u8, icmp: u8, destination_port: u16) -> u16 {
    if protocol == icmp {
        destination_port
    } else {
        0
    }
}

/// Keeps what belongs to a template: rows of its own family, and those of both.
macro_rules! only {
    (V4, V6, $($row:tt)*) => {};
    (V6, V4, $($row:tt)*) => {};
    ($family:ident, $of:ident, $($row:tt)*) => { $($row)* };
}

macro_rules! is_key {
    (key) => {
        true
    };
    (value) => {
        false
    };
}

macro_rules! elements {
    (
        |$record:ident, $key:ident|
        $($of:ident $role:ident $name:ident $number:literal $kind:ty = $take:expr;)+
    ) => {
        elements!(@family V4 KeyV4 256 |$record, $key| $($of $role $name $number $kind = $take;)+);
        elements!(@family V6 KeyV6 257 |$record, $key| $($of $role $name $number $kind = $take;)+);
    };
    (
        @family $family:ident $key_type:ident $id:literal |$record:ident, $key:ident|
        $($of:ident $role:ident $name:ident $number:literal $kind:ty = $take:expr;)+
    ) => {
        impl FlowElements for $key_type {
            const TEMPLATE: Template = Template {
                id: $id,
                scopes: 0,
                fields: {
                    const COUNT: usize = {
                        let mut count = 0;
                        $(only!($family, $of, count += 1;);)+
                        count
                    };
                    const FIELDS: [Field; COUNT] = {
                        let mut fields = [Field::NONE; COUNT];
                        let mut i = 0;
                        $(only!($family, $of,
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
                $(only!($family, $of,
                    let (field, after) = rest.split_at_mut(<$kind as Value>::LENGTH as usize);
                    <$kind as Value>::put($take, field);
                    rest = after;
                );)+
                debug_assert!(rest.is_empty());
            }

            fn show(&self, $record: &FlowRecord, to: &mut Vec<u8>) {
                let $key = self;
                $(only!($family, $of,
                    to.extend_from_slice(concat!(",\"", stringify!($name), "\":").as_bytes());
                    <$kind as Show>::show($take, to);
                );)+
            }
        }
    };
}

/// What the rows generate for the key of each family.
pub(super) trait FlowElements {
    /// The template of the family's flow records.
    const TEMPLATE: Template;

    /// Writes the data record into `to`, which is as long as the template says.
    fn encode(&self, record: &FlowRecord, to: &mut [u8]);

    /// Appends `,"name":value` for each element.
    fn show(&self, record: &FlowRecord, to: &mut Vec<u8>);
}

elements! { |record, key|
    V4   key   sourceIPv4Address           8 Ipv4Addr = key.source().into();
    V4   key   destinationIPv4Address     12 Ipv4Addr = key.destination().into();
    V6   key   sourceIPv6Address          27 Ipv6Addr = key.source().into();
    V6   key   destinationIPv6Address     28 Ipv6Addr = key.destination().into();
    Both key   sourceTransportPort         7 u16      = key.source_port();
    Both key   destinationTransportPort   11 u16      = key.destination_port();
    Both key   protocolIdentifier          4 u8       = key.protocol();
    // The registry says 16 bits; reduced to one octet (RFC 7011 §6.2), which is all that
    // some collectors read.
    Both value tcpControlBits              6 u8       = record.tcp_flags;
    Both key   ipClassOfService            5 u8       = key.traffic_class();
    V4   key   ipVersion                  60 u8       = 4;
    V6   key   ipVersion                  60 u8       = 6;
    Both key   ingressInterface           10 u32      = key.ifindex();
    // XDP runs before routing: the way out is unknown.
    Both value egressInterface            14 u32      = 0;
    // 0: ingress, where XDP is.
    Both value flowDirection              61 u8       = 0;
    Both value flowEndReason             136 u8       = record.reason as u8;
    Both value flowStartMilliseconds     152 u64      = record.start_ms;
    Both value flowEndMilliseconds       153 u64      = record.end_ms;
    Both value packetDeltaCount            2 u64      = record.packets;
    Both value octetDeltaCount             1 u64      = record.octets;
    Both value minimumTTL                 52 u8       = record.min_ttl;
    Both value maximumTTL                 53 u8       = record.max_ttl;
    V6   value flowLabelIPv6              31 u32      = record.flow_label;
    // Also in the destination port, where most collectors look for it.
    V4   key   icmpTypeCodeIPv4           32 u16      =
        icmp_type_code(key.protocol(), protocol::ICMP, key.destination_port());
    V6   key   icmpTypeCodeIPv6          139 u16      =
        icmp_type_code(key.protocol(), protocol::ICMPV6, key.destination_port());
    Both key   vlanId                     58 u16      = key.vlan();
    Both value sourceMacAddress           56 Mac      = Mac(record.source_mac);
    Both value destinationMacAddress      80 Mac      = Mac(record.destination_mac);
    Both value samplingInterval           34 u32      = record.sampling_n;
}

/// Template of IPv4 flow records.
pub const IPV4: Template = <KeyV4 as FlowElements>::TEMPLATE;
/// Template of IPv6 flow records.
pub const IPV6: Template = <KeyV6 as FlowElements>::TEMPLATE;

/// Appends the flow record as a JSON object: IANA names, addresses as text, times in
/// milliseconds since 1970-01-01 UTC.
pub fn show(record: &FlowRecord, to: &mut Vec<u8>) {
    let start = to.len();
    match &record.key {
        FlowKey::V4(key) => key.show(record, to),
        FlowKey::V6(key) => key.show(record, to),
    }
    to[start] = b'{'; // in the place of the first comma
    to.push(b'}');
}
