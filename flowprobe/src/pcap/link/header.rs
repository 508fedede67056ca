//! Headers of link layers that are not Ethernet's: what they carry, as EtherType, and where that begins.

use flowprobe_ebpf::{
    Frame, Skip,
    wire::{ethernet, ethertype},
};

use super::{LinkType, of_family};

/// In the place of an EtherType: a length, behind which LLC follows (IEEE 802.3 §3.2.6).
pub(super) const LLC: u16 = 0;
/// Octets of both names (RFC 2625 §3.2).
pub(super) const FIBRE_CHANNEL_LEN: usize = 16;
/// Octets of address family, security parameters index and flags.
pub(super) const ENC_LEN: usize = 12;
/// Octets before an Ethernet frame (IEEE 802.3br).
pub(super) const PREAMBLE_LEN: usize = 8;

type Start = Result<(u16, usize), Skip>;

pub(super) fn octets<F: Frame + ?Sized, const N: usize>(
    frame: &F,
    at: usize,
) -> Result<[u8; N], Skip> {
    frame.read(at).ok_or(Skip::TruncatedLink)
}

/// A header of `len` octets with an EtherType at `kind`.
pub(super) fn typed<F: Frame + ?Sized>(frame: &F, at: usize, kind: usize, len: usize) -> Start {
    Ok((u16::from_be_bytes(octets(frame, at + kind)?), at + len))
}

pub(super) fn ethernet<F: Frame + ?Sized>(frame: &F, at: usize) -> Start {
    typed(frame, at, ethernet::TYPE, ethernet::LEN)
}

/// PPP: address and control may be missing, and the first octet of the protocol too where it is 0
/// (RFC 1661 §6.5, §6.6). PPP_PPPD has a direction in the place of the address.
pub(super) fn ppp<F: Frame + ?Sized>(frame: &F, at: usize) -> Start {
    const CONTROL: u8 = 0x03;
    let [first, second] = octets(frame, at)?;
    if matches!(first, CISCO_UNICAST | CISCO_MULTICAST) && second == 0 {
        // Numbered PPP_HDLC as well.
        return cisco_hdlc(frame, at);
    }
    // No protocol has 03 as its second octet, nor an even one.
    let at = match (first, second) {
        (0 | 1 | 0xff, CONTROL) => at + 2,
        _ => at,
    };
    let [first] = octets(frame, at)?;
    let (protocol, at) = match first & 1 {
        1 => (u16::from(first), at + 1),
        _ => (u16::from_be_bytes(octets(frame, at)?), at + 2),
    };
    // RFC 1332, RFC 5072, RFC 3032 §4.
    match protocol {
        0x0021 => Ok((ethertype::IPV4, at)),
        0x0057 => Ok((ethertype::IPV6, at)),
        0x0281 => Ok((ethertype::MPLS, at)),
        _ => Err(Skip::PppControl),
    }
}

/// Addresses of Cisco's framing (RFC 1547 §4.3.1).
const CISCO_UNICAST: u8 = 0x0f;
const CISCO_MULTICAST: u8 = 0x8f;

pub(super) fn cisco_hdlc<F: Frame + ?Sized>(frame: &F, at: usize) -> Start {
    typed(frame, at, 2, 4)
}

/// Frame relay: an address whose last octet has the lowest bit set, then RFC 2427 §3.
pub(super) fn frame_relay<F: Frame + ?Sized>(frame: &F, at: usize) -> Start {
    const MAX_ADDRESS: usize = 4;
    const UNNUMBERED: u8 = 0x03;
    let mut at = at;
    for octet in 1.. {
        let [address] = octets(frame, at)?;
        at += 1;
        if address & 1 == 1 {
            break;
        }
        if octet == MAX_ADDRESS {
            return Err(Skip::OtherEthertype);
        }
    }
    let [control] = octets(frame, at)?;
    if control != UNNUMBERED {
        // Cisco's own form: the EtherType at once.
        return typed(frame, at, 0, 2);
    }
    at += 1;
    let [mut protocol] = octets(frame, at)?;
    if protocol == 0 {
        at += 1;
        [protocol] = octets(frame, at)?;
    }
    match protocol {
        0xcc => Ok((ethertype::IPV4, at + 1)),
        0x8e => Ok((ethertype::IPV6, at + 1)),
        // SNAP of EtherTypes (RFC 2427 §4).
        0x80 => match octets(frame, at + 1)? {
            [0, 0, 0] => typed(frame, at, 4, 6),
            _ => Err(Skip::Llc),
        },
        _ => Err(Skip::OtherEthertype),
    }
}

/// Token ring: access and frame control, two addresses, a route where the source says so.
pub(super) fn token_ring<F: Frame + ?Sized>(frame: &F, at: usize) -> Start {
    const LLC_FRAME: u8 = 0x40;
    const HEADER: usize = 14;
    let [_, control] = octets(frame, at)?;
    if control & 0xc0 != LLC_FRAME {
        return Err(Skip::OtherEthertype);
    }
    let [source] = octets(frame, at + 8)?;
    let route = match source & 0x80 {
        0 => 0,
        _ => {
            let [length] = octets(frame, at + HEADER)?;
            usize::from(length & 0x1f)
        }
    };
    Ok((LLC, at + HEADER + route))
}

/// FDDI: frame control, two addresses.
pub(super) fn fddi<F: Frame + ?Sized>(frame: &F, at: usize) -> Start {
    const LLC_FRAME: u8 = 0x50;
    match octets(frame, at)? {
        [control] if control & 0x70 == LLC_FRAME => Ok((LLC, at + 13)),
        _ => Err(Skip::OtherEthertype),
    }
}

/// PFLOG: its length without padding, then the address family.
pub(super) fn pflog<F: Frame + ?Sized>(frame: &F, at: usize) -> Start {
    let [len, family] = octets(frame, at)?;
    let kind = of_family(family.into())?;
    Ok((kind, at + usize::from(len).next_multiple_of(4)))
}

/// NFLOG: family, version, resource; then fields of length, type and value, each padded to 4 octets.
pub(super) fn nflog<F: Frame + ?Sized>(frame: &F, at: usize) -> Start {
    const HEADER: usize = 4;
    const PAYLOAD: u16 = 9;
    /// Linux has fewer.
    const MAX_FIELDS: usize = 32;
    let [family, version] = octets(frame, at)?;
    if version != 0 {
        return Err(Skip::OtherEthertype);
    }
    let kind = of_family(family.into())?;
    let mut at = at + HEADER;
    for _ in 0..MAX_FIELDS {
        let [a, b, c, d] = octets(frame, at)?;
        // In the order of the machine that logged: types are small, which tells it.
        let (len, field) = match d {
            0 => (u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d])),
            _ => (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])),
        };
        if field & 0x7fff == PAYLOAD {
            return Ok((kind, at + HEADER));
        }
        if usize::from(len) < HEADER {
            break;
        }
        at += usize::from(len).next_multiple_of(4);
    }
    Err(Skip::OtherEthertype)
}

/// PPI: its length and the number of the link layer that follows, both little-endian.
pub(super) fn ppi<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<(LinkType, usize), Skip> {
    let len = u16::from_le_bytes(octets(frame, at + 2)?);
    let [a, b, c, d] = octets(frame, at + 4)?;
    if [c, d] != [0, 0] {
        return Err(Skip::OtherEthertype);
    }
    let number = LinkType(u16::from_le_bytes([a, b]));
    Ok((number, at + usize::from(len)))
}
