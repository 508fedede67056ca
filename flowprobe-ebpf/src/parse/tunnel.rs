//! Tunnels: the packet inside, where one asks for it. One level is opened.

use super::{
    Addresses, Packet, Parsed, link,
    network::{self, Payload, Start, within},
};
use crate::{
    frame::Frame,
    skip::Skip,
    wire::{ethernet, ethertype, geneve, gre, gtpu, protocol, udp, vxlan},
};

/// Values of [`super::Around::tunnel`].
pub mod kind {
    /// IP in IP, of either version in either (RFC 2003, RFC 4213, RFC 2473).
    pub const IP: u8 = 1;
    /// GRE (RFC 2784, RFC 2890); the identifier is its key.
    pub const GRE: u8 = 2;
    /// NVGRE (RFC 7637); the identifier is the VSID.
    pub const NVGRE: u8 = 3;
    /// VXLAN (RFC 7348); the identifier is the VNI.
    pub const VXLAN: u8 = 4;
    /// GENEVE (RFC 8926); the identifier is the VNI.
    pub const GENEVE: u8 = 5;
    /// GTP-U (3GPP TS 29.281); the identifier is the TEID.
    pub const GTPU: u8 = 6;
}

/// Ports that one kind of tunnel may have.
pub const PORTS: usize = 4;

/// GTP-U extension headers that are walked; in a packet with more the tunnel stays closed.
pub const MAX_GTPU_EXTENSIONS: usize = 4;

/// Which tunnels are opened, and how those over UDP are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Tunnels {
    /// Whether the flow is that of the packet inside.
    pub inner: bool,
    /// Destination ports of VXLAN; 0 is none.
    pub vxlan: [u16; PORTS],
    /// Destination ports of GENEVE.
    pub geneve: [u16; PORTS],
    /// Destination ports of GTP-U.
    pub gtpu: [u16; PORTS],
}

impl Tunnels {
    /// None is opened.
    pub const OUTER: Self = Self {
        inner: false,
        vxlan: [0; PORTS],
        geneve: [0; PORTS],
        gtpu: [0; PORTS],
    };

    /// All are opened, at the ports that IANA has assigned.
    pub const INNER: Self = Self {
        inner: true,
        vxlan: [vxlan::PORT, 0, 0, 0],
        geneve: [geneve::PORT, 0, 0, 0],
        gtpu: [gtpu::PORT, 0, 0, 0],
    };

    /// Whether a packet that [`super::plain`] has read may be a tunnel that is to be opened.
    #[inline(always)]
    #[must_use]
    pub fn may_be(&self, packet: &Packet) -> bool {
        let port = destination_port(packet);
        self.inner
            && packet.protocol == protocol::UDP
            && (is_one_of(port, &self.vxlan)
                || is_one_of(port, &self.geneve)
                || is_one_of(port, &self.gtpu))
    }
}

#[inline(always)]
fn destination_port(packet: &Packet) -> u16 {
    let [_, _, a, b] = packet.ports.to_ne_bytes();
    u16::from_be_bytes([a, b])
}

/// A tunnel, and what is in it.
struct Inside {
    kind: u8,
    id: u32,
    /// EtherType of what is inside; [`ethertype::BRIDGED`] for an Ethernet frame.
    ethertype: u16,
    at: usize,
}

/// Opens the tunnel that `payload` of the packet in `parsed` may be. Where there is none, or no
/// whole IP packet in it, `parsed` stays what it is: the flow is the outer one.
#[inline(always)]
pub(super) fn open<F: Frame + ?Sized>(
    frame: &F,
    tunnels: &Tunnels,
    payload: &Payload,
    parsed: &mut Parsed,
) {
    let Ok(Some(inside)) = recognise(frame, tunnels, payload, &parsed.packet) else {
        return;
    };
    // Parsed in its place, so that only what is copied as a whole is kept beside it: some verifiers
    // lose track of a structure on the stack that is written at variable places.
    let outer = *parsed;
    parsed.packet = Packet {
        vlan: outer.packet.vlan,
        priorities: outer.packet.priorities,
        ..Packet::EMPTY
    };
    let at = frame.forget(inside.at);
    let Ok(()) = parse_inside(frame, inside.ethertype, at, payload.end, parsed) else {
        *parsed = outer;
        return;
    };
    let around = &mut parsed.around;
    around.tunnel = inside.kind;
    around.tunnel_id = inside.id;
    around.outer_protocol = outer.packet.protocol;
    match outer.packet.addresses {
        Addresses::V4(both) => {
            around.outer_version = 4;
            around.outer[0] = both;
        }
        Addresses::V6(words) => {
            around.outer_version = 6;
            around.outer = words;
        }
    }
}

#[inline(always)]
fn parse_inside<F: Frame + ?Sized>(
    frame: &F,
    kind: u16,
    at: usize,
    end: usize,
    inner: &mut Parsed,
) -> Result<(), Skip> {
    let (kind, at) = if kind == ethertype::BRIDGED {
        let kind = within(frame, at + ethernet::TYPE, end)?;
        (u16::from_be_bytes(kind), at + ethernet::LEN)
    } else {
        (kind, at)
    };
    let start = link::walk(frame, kind, at, inner)?;
    let start = Start {
        v6: start.v6,
        at: frame.forget(start.at),
    };
    let (payload, fragment) = network::parse(frame, start, end, &mut inner.packet)?;
    inner.arrive(start, &payload, fragment);
    Ok(())
}

/// What kind of tunnel the payload of `packet` is, if any.
#[inline(always)]
fn recognise<F: Frame + ?Sized>(
    frame: &F,
    tunnels: &Tunnels,
    payload: &Payload,
    packet: &Packet,
) -> Result<Option<Inside>, Skip> {
    let Payload { at, end } = *payload;
    match packet.protocol {
        protocol::IPV4 | protocol::IPV6 => {
            let ethertype = if packet.protocol == protocol::IPV4 {
                ethertype::IPV4
            } else {
                ethertype::IPV6
            };
            Ok(Some(Inside {
                kind: kind::IP,
                id: 0,
                ethertype,
                at,
            }))
        }
        protocol::GRE => gre(frame, at, end),
        protocol::UDP => {
            let port = destination_port(packet);
            let at = at + udp::LEN;
            if is_one_of(port, &tunnels.vxlan) {
                vxlan(frame, at, end)
            } else if is_one_of(port, &tunnels.geneve) {
                geneve(frame, at, end)
            } else if is_one_of(port, &tunnels.gtpu) {
                gtpu(frame, at, end)
            } else {
                Ok(None)
            }
        }
        _ => Ok(None),
    }
}

#[inline(always)]
fn is_one_of(port: u16, ports: &[u16; PORTS]) -> bool {
    let [a, b, c, d] = *ports;
    port != 0 && (port == a || port == b || port == c || port == d)
}

#[inline(always)]
fn gre<F: Frame + ?Sized>(frame: &F, at: usize, end: usize) -> Result<Option<Inside>, Skip> {
    let [a, b, c, d] = within(frame, at, end)?;
    let flags = u16::from_be_bytes([a, b]);
    let ethertype = u16::from_be_bytes([c, d]);
    // RFC 2784 §2.2: with a routing field or another version it is not to be read on.
    let known = matches!(
        ethertype,
        ethertype::IPV4 | ethertype::IPV6 | ethertype::BRIDGED
    );
    if flags & (gre::ROUTING | gre::VERSION) != 0 || !known {
        return Ok(None);
    }
    let mut at = at + gre::LEN;
    if flags & gre::CHECKSUM != 0 {
        at += gre::FIELD_LEN;
    }
    let (mut kind, mut id) = (kind::GRE, 0);
    if flags & gre::KEY != 0 {
        id = u32::from_be_bytes(within(frame, at, end)?);
        at += gre::FIELD_LEN;
        // RFC 7637 §3.2: NVGRE has a key, and neither checksum nor sequence number. The low octet
        // of the key spreads flows over paths.
        if ethertype == ethertype::BRIDGED && flags & (gre::CHECKSUM | gre::SEQUENCE) == 0 {
            kind = kind::NVGRE;
            id >>= 8;
        }
    }
    if flags & gre::SEQUENCE != 0 {
        at += gre::FIELD_LEN;
    }
    Ok(Some(Inside {
        kind,
        id,
        ethertype,
        at,
    }))
}

#[inline(always)]
fn vxlan<F: Frame + ?Sized>(frame: &F, at: usize, end: usize) -> Result<Option<Inside>, Skip> {
    let [flags, _, _, _, a, b, c, _] = within::<F, { vxlan::LEN }>(frame, at, end)?;
    if flags & vxlan::HAS_VNI == 0 {
        return Ok(None);
    }
    Ok(Some(Inside {
        kind: kind::VXLAN,
        id: u32::from_be_bytes([0, a, b, c]),
        ethertype: ethertype::BRIDGED,
        at: at + vxlan::LEN,
    }))
}

#[inline(always)]
fn geneve<F: Frame + ?Sized>(frame: &F, at: usize, end: usize) -> Result<Option<Inside>, Skip> {
    let [version_len, _, e, f, a, b, c, _] = within::<F, { geneve::LEN }>(frame, at, end)?;
    let ethertype = u16::from_be_bytes([e, f]);
    let known = matches!(
        ethertype,
        ethertype::IPV4 | ethertype::IPV6 | ethertype::BRIDGED
    );
    if version_len & geneve::VERSION != 0 || !known {
        return Ok(None);
    }
    let options = usize::from(version_len & geneve::OPTION_WORDS) * 4;
    Ok(Some(Inside {
        kind: kind::GENEVE,
        id: u32::from_be_bytes([0, a, b, c]),
        ethertype,
        at: at + geneve::LEN + options,
    }))
}

#[inline(always)]
fn gtpu<F: Frame + ?Sized>(frame: &F, at: usize, end: usize) -> Result<Option<Inside>, Skip> {
    let [flags, message, _, _, a, b, c, d] = within::<F, { gtpu::LEN }>(frame, at, end)?;
    if flags & gtpu::VERSION_TYPE != gtpu::VERSION_1 || message != gtpu::G_PDU {
        return Ok(None);
    }
    let mut at = at + gtpu::LEN;
    if flags & gtpu::OPTIONAL != 0 {
        let [_, _, _, mut next] = within(frame, at, end)?;
        at += gtpu::OPTIONAL_LEN;
        if flags & gtpu::EXTENSION == 0 {
            next = 0;
        }
        let mut walked = 0;
        while next != 0 {
            if walked == MAX_GTPU_EXTENSIONS {
                return Ok(None);
            }
            walked += 1;
            at = frame.forget(at);
            // TS 29.281 §5.2.1: the length counts words of 4 octets, the last octet says what
            // follows.
            let [words] = within(frame, at, end)?;
            if words == 0 {
                return Ok(None);
            }
            at = frame.forget(at + usize::from(words) * 4);
            [next] = within(frame, at - 1, end)?;
        }
    }
    let [version] = within(frame, at, end)?;
    let ethertype = match version >> 4 {
        4 => ethertype::IPV4,
        6 => ethertype::IPV6,
        _ => return Ok(None),
    };
    Ok(Some(Inside {
        kind: kind::GTPU,
        id: u32::from_be_bytes([a, b, c, d]),
        ethertype,
        at,
    }))
}
