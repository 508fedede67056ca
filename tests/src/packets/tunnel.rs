//! Tunnels: a packet in a packet, with the truth for meters that open them and for those that do
//! not.

use super::{Ip, Packet};
use crate::flow::{Around, Key, Tunnel};

/// What tells one tunnel from another, as the elements of a record have it.
#[derive(Clone, Copy, Default)]
struct Identifier {
    gre_key: u32,
    segment: u64,
    teid: u32,
}

/// Kinds of overlay in the first octet of layer2SegmentId (IE 351).
const OVERLAY_VXLAN: u64 = 1 << 56;
const OVERLAY_NVGRE: u64 = 2 << 56;

impl Ip {
    /// VXLAN (RFC 7348 §5) to a UDP port.
    #[must_use]
    pub fn vxlan(&self, port: u16, vni: u32, inner: &Packet) -> Packet {
        let header = [0x0800_0000_u32.to_be_bytes(), (vni << 8).to_be_bytes()].concat();
        let id = Identifier {
            segment: OVERLAY_VXLAN | u64::from(vni),
            ..Identifier::default()
        };
        self.over_udp(port, &header, inner, true, id)
    }

    /// GENEVE (RFC 8926 §3.4) with `words` times 4 octets of options: an Ethernet frame in it, or
    /// the IP packet alone.
    #[must_use]
    pub fn geneve(&self, vni: u32, words: u8, inner: &Packet, bridged: bool) -> Packet {
        let [a, b] = ethertype(inner, bridged).to_be_bytes();
        let mut header = vec![words, 0, a, b];
        header.extend((vni << 8).to_be_bytes());
        header.resize(header.len() + usize::from(words) * 4, 0);
        let id = Identifier {
            segment: u64::from(vni),
            ..Identifier::default()
        };
        self.over_udp(6081, &header, inner, bridged, id)
    }

    /// GTP-U (3GPP TS 29.281 §5): with sequence number and an extension header, or without.
    #[must_use]
    pub fn gtpu(&self, teid: u32, extended: bool, inner: &Packet) -> Packet {
        let optional: &[u8] = if extended {
            // Sequence number, N-PDU number, type of the extension: a PDU session container of
            // one word, and none behind it.
            &[0, 1, 0, 0x85, 1, 0, 9, 0]
        } else {
            &[]
        };
        let flags = if extended { 0x36 } else { 0x30 };
        let length = (optional.len() + inner.ip().len()) as u16;
        let mut header = vec![flags, 255];
        header.extend(length.to_be_bytes());
        header.extend(teid.to_be_bytes());
        header.extend(optional);
        let id = Identifier {
            teid,
            ..Identifier::default()
        };
        self.over_udp(2152, &header, inner, false, id)
    }

    /// GRE (RFC 2784, RFC 2890) with an IP packet in it.
    #[must_use]
    pub fn gre(&self, key: Option<u32>, inner: &Packet) -> Packet {
        let [a, b] = ethertype(inner, false).to_be_bytes();
        let mut header = vec![if key.is_some() { 0x20 } else { 0 }, 0, a, b];
        header.extend(key.into_iter().flat_map(u32::to_be_bytes));
        let id = Identifier {
            gre_key: key.unwrap_or(0),
            ..Identifier::default()
        };
        self.carry(47, &header, (0, 0), inner, false, id)
    }

    /// NVGRE (RFC 7637 §3.2), an Ethernet frame in GRE.
    #[must_use]
    pub fn nvgre(&self, vsid: u32, flow: u8, inner: &Packet) -> Packet {
        let mut header = vec![0x20, 0, 0x65, 0x58];
        header.extend((vsid << 8 | u32::from(flow)).to_be_bytes());
        let id = Identifier {
            segment: OVERLAY_NVGRE | u64::from(vsid),
            ..Identifier::default()
        };
        self.carry(47, &header, (0, 0), inner, true, id)
    }

    /// An IP packet of either version in this one (RFC 2003, RFC 4213, RFC 2473).
    #[must_use]
    pub fn ip_in_ip(&self, inner: &Packet) -> Packet {
        let v4 = inner.key.is_some_and(|key| key.source.is_ipv4());
        let protocol = if v4 { 4 } else { 41 };
        self.carry(protocol, &[], (0, 0), inner, false, Identifier::default())
    }

    fn over_udp(
        &self,
        port: u16,
        tunnel: &[u8],
        inner: &Packet,
        bridged: bool,
        id: Identifier,
    ) -> Packet {
        // The source port spreads flows over paths: any.
        let source = 49_999;
        let octets = 8 + tunnel.len() + content(inner, bridged).len();
        let mut header = super::ports(source, port).to_vec();
        header.extend((octets as u16).to_be_bytes());
        header.extend([0, 0]);
        header.extend(tunnel);
        self.carry(17, &header, (source, port), inner, bridged, id)
    }

    fn carry(
        &self,
        protocol: u8,
        header: &[u8],
        ports: (u16, u16),
        inner: &Packet,
        bridged: bool,
        id: Identifier,
    ) -> Packet {
        let all = [header, content(inner, bridged)].concat();
        let mut packet = self.build(protocol, &all, 0, ports);
        let (outside, key) = (packet.key, inner.key);
        let (outside, key) = outside.zip(key).expect("IP in IP");
        let tunnel = Tunnel {
            source: self.source,
            destination: self.destination,
            protocol,
            gre_key: id.gre_key,
            segment: id.segment,
            teid: id.teid,
        };
        packet.inside = Some((inside(&outside, &key, bridged, tunnel), inner.octets));
        packet
    }
}

/// What a tunnel has in it: the frame, or the IP packet.
fn content(inner: &Packet, bridged: bool) -> &[u8] {
    if bridged { &inner.frame } else { inner.ip() }
}

fn ethertype(inner: &Packet, bridged: bool) -> u16 {
    match inner.key {
        _ if bridged => 0x6558,
        Some(key) if key.source.is_ipv4() => 0x0800,
        _ => 0x86dd,
    }
}

/// The key of the packet in the tunnel: tags and labels of the frame around come before those of
/// the frame inside.
fn inside(outside: &Key, key: &Key, bridged: bool, tunnel: Tunnel) -> Key {
    let mut vlans = vec![outside.vlan, outside.around.inner_vlan];
    let mut labels = outside.around.labels.to_vec();
    if bridged {
        vlans.extend([key.vlan, key.around.inner_vlan]);
        labels.extend(key.around.labels);
    }
    vlans.retain(|vlan| *vlan != 0);
    labels.retain(|label| *label != 0);
    vlans.resize(2, 0);
    labels.resize(6, 0);
    Key {
        vlan: vlans[0],
        around: Around {
            inner_vlan: vlans[1],
            labels: labels.try_into().expect("six"),
            tunnel: Some(tunnel),
        },
        ..*key
    }
}
