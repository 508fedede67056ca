//! What a test compares: a parsed packet in plain values.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use flowprobe_ebpf::{Addresses, KeyV4, KeyV6, Skip, parse};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    pub(crate) ports: (u16, u16),
    pub(crate) protocol: u8,
    pub(crate) traffic_class: u8,
    pub(crate) vlan: u16,
    pub(crate) ttl: u8,
    pub(crate) tcp_flags: u8,
    pub(crate) octets: u32,
    pub(crate) flow_label: u32,
}

/// Parses `frame`, through the packet and the key that is made of it.
pub(crate) fn look(frame: &[u8]) -> Result<Seen, Skip> {
    let packet = parse(frame)?;
    macro_rules! seen {
        ($key:expr, $address:ident) => {{
            let key = $key;
            Seen {
                source: $address::from(key.source()).into(),
                destination: $address::from(key.destination()).into(),
                ports: (key.source_port(), key.destination_port()),
                protocol: key.protocol(),
                traffic_class: key.traffic_class(),
                vlan: key.vlan(),
                ttl: packet.ttl,
                tcp_flags: packet.tcp_flags,
                octets: packet.octets,
                flow_label: packet.flow_label,
            }
        }};
    }
    Ok(match packet.addresses {
        Addresses::V4(addresses) => seen!(KeyV4::new(addresses, &packet, 0, 0), Ipv4Addr),
        Addresses::V6(addresses) => seen!(KeyV6::new(addresses, &packet, 0, 0), Ipv6Addr),
    })
}
