//! What the fields of a record have to be, by their numbers in the registry.

use std::net::IpAddr;

use flowprobe_ebpf::parse::tunnel::kind;

use crate::{ipfix::Field, record::FlowRecord};

fn address(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// The octets of an element of the flow's own packets, by its number in the registry.
pub(crate) fn expected(record: &FlowRecord, element: u16) -> Vec<u8> {
    let key = &record.key;
    let marks = &record.marks;
    let v6 = key.source().is_ipv6();
    let around = key.around().unwrap_or_default();
    let id_of = |of: &[u8]| {
        let is = of.contains(&around.tunnel);
        if is { around.tunnel_id } else { 0 }
    };
    match element {
        1 => record.octets.to_be_bytes().to_vec(),
        2 => record.packets.to_be_bytes().to_vec(),
        4 => vec![key.protocol()],
        5 => vec![key.traffic_class()],
        6 => vec![marks.tcp_flags],
        7 => key.source_port().to_be_bytes().to_vec(),
        8 | 27 => address(key.source()),
        10 if key.is_egress() => vec![0; 4],
        14 if record.route.is_some() => record.egress().to_be_bytes().to_vec(),
        14 if !key.is_egress() => vec![0; 4],
        10 | 14 => key.ifindex().to_be_bytes().to_vec(),
        11 => key.destination_port().to_be_bytes().to_vec(),
        12 | 28 => address(key.destination()),
        31 => marks.flow_label.to_be_bytes().to_vec(),
        32 | 139 if key.protocol() == if v6 { 58 } else { 1 } => {
            key.destination_port().to_be_bytes().to_vec()
        }
        32 | 139 => vec![0; 2],
        34 => record.sampling_n.to_be_bytes().to_vec(),
        52 => vec![marks.min_ttl],
        53 => vec![marks.max_ttl],
        56 => record.source_mac.to_vec(),
        58 | 243 => key.vlan().to_be_bytes().to_vec(),
        59 | 245 => around.inner_vlans[0].to_be_bytes().to_vec(),
        60 => vec![if v6 { 6 } else { 4 }],
        61 => vec![key.is_egress().into()],
        64 | 208 => marks.options.to_be_bytes().to_vec(),
        70..=75 => around.label_stack[usize::from(element) - 70].to_be_bytes()[1..].to_vec(),
        80 => record.destination_mac.to_vec(),
        136 => vec![record.reason as u8],
        152 => record.start_ms.to_be_bytes().to_vec(),
        153 => record.end_ms.to_be_bytes().to_vec(),
        197 => vec![marks.bits & 0x60],
        244 => vec![marks.bits & 0x07],
        246 => vec![marks.inner_priority],
        296 => id_of(&[kind::GRE]).to_be_bytes().to_vec(),
        351 => {
            let id = id_of(&[kind::VXLAN, kind::NVGRE, kind::GENEVE]).to_be_bytes();
            // 1 is VXLAN, 2 is NVGRE; the registry has nothing for GENEVE.
            let overlay = match around.tunnel {
                kind::VXLAN => 1,
                kind::NVGRE => 2,
                _ => 0,
            };
            [&[overlay, 0, 0, 0], &id[..]].concat()
        }
        507 => id_of(&[kind::GTPU]).to_be_bytes().to_vec(),
        other => panic!("element {other} is in no flow template"),
    }
}

/// The octets of an element of the packet around a tunnel.
pub(crate) fn expected_outer(record: &FlowRecord, element: u16) -> Vec<u8> {
    let around = record.key.around().expect("a wide key");
    let octets: Vec<u8> = around.outer.iter().flat_map(|w| w.to_ne_bytes()).collect();
    match element {
        4 => vec![around.outer_protocol],
        8 => octets[..4].to_vec(),
        12 => octets[4..8].to_vec(),
        27 => octets[..16].to_vec(),
        28 => octets[16..].to_vec(),
        other => panic!("element {other} does not belong to the outer packet"),
    }
}

/// How many elements at the front of a record are of the packet around a tunnel.
pub(crate) fn outer_elements(template: u16) -> usize {
    if template >= 260 { 3 } else { 0 }
}

/// The template that a record belongs to.
pub(crate) fn template_of(record: &FlowRecord, dot1q: bool) -> u16 {
    let around = record.key.around();
    let (version, outer) = match around {
        Some(around) => (around.version, around.outer_version),
        None if record.key.source().is_ipv6() => (6, 0),
        None => (4, 0),
    };
    let wide = around.is_some() || dot1q && record.key.vlan() != 0;
    match (wide, version, outer) {
        (false, 4, 0) => 256,
        (false, 6, 0) => 257,
        (true, 4, 0) => 258,
        (true, 6, 0) => 259,
        (true, 4, 4) => 260,
        (true, 4, 6) => 261,
        (true, 6, 4) => 262,
        (true, 6, 6) => 263,
        other => panic!("no flow is {other:?}"),
    }
}

/// What JSON has for a field.
pub(super) fn json(field: &Field, octets: &[u8]) -> serde_json::Value {
    match field.name {
        name if name.contains("IPv4Address") => {
            let octets: [u8; 4] = octets.try_into().expect("4 octets");
            IpAddr::from(octets).to_string().into()
        }
        name if name.contains("IPv6Address") => {
            let octets: [u8; 16] = octets.try_into().expect("16 octets");
            IpAddr::from(octets).to_string().into()
        }
        name if name.contains("MacAddress") => {
            let hex: Vec<_> = octets.iter().map(|o| format!("{o:02x}")).collect();
            hex.join(":").into()
        }
        _ => {
            let number = |sum: u64, octet: &u8| sum << 8 | u64::from(*octet);
            octets.iter().fold(0, number).into()
        }
    }
}
