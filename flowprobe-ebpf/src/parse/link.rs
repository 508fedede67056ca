//! The link layer: VLAN tags, LLC/SNAP, PPPoE sessions, MPLS labels, and what is no IP.

use super::{Parsed, network::Start};
use crate::{
    frame::Frame,
    skip::Skip,
    wire::{ethernet, ethertype, llc, mpls, ppp},
};

/// VLAN tags that are walked; a frame with more is [`Skip::TooManyTags`].
pub const MAX_TAGS: usize = 4;

/// MPLS labels that are walked; a frame with more is [`Skip::TooManyLabels`].
pub const MAX_LABELS: usize = 6;

/// Walks from what `ethertype` names at `offset` to the IP packet.
#[inline(always)]
pub(super) fn walk<F: Frame + ?Sized>(
    frame: &F,
    ethertype: u16,
    offset: usize,
    parsed: &mut Parsed,
) -> Result<Start, Skip> {
    let (mut kind, mut at) = tags(frame, ethertype, offset, parsed)?;
    if kind <= llc::MAX_LENGTH {
        // The EtherType field is a length: LLC (IEEE 802.3 §3.2.6), with SNAP or without.
        let head: [u8; llc::SNAP_LEN] = frame.read(at).ok_or(Skip::TruncatedLink)?;
        let [a, b, c, d, e, f, g, h] = head;
        if [a, b, c, d, e, f] != llc::SNAP_ETHERNET {
            return Err(Skip::Llc);
        }
        kind = u16::from_be_bytes([g, h]);
        at = frame.forget(at + llc::SNAP_LEN);
    }
    if kind == ethertype::PPPOE_SESSION {
        let head: [u8; ppp::PPPOE_LEN + 2] = frame.read(at).ok_or(Skip::TruncatedLink)?;
        let [version_type, code, _, _, _, _, a, b] = head;
        if version_type != ppp::PPPOE_VERSION_TYPE || code != ppp::PPPOE_SESSION_DATA {
            return Err(Skip::PppControl);
        }
        kind = match u16::from_be_bytes([a, b]) {
            ppp::IPV4 => ethertype::IPV4,
            ppp::IPV6 => ethertype::IPV6,
            ppp::MPLS => ethertype::MPLS,
            _ => return Err(Skip::PppControl),
        };
        at = frame.forget(at + head.len());
    }
    if kind == ethertype::MPLS || kind == ethertype::MPLS_UPSTREAM {
        at = labels(frame, at, parsed)?;
        // Nothing in the stack says what follows; by agreement the first nibble does
        // (RFC 4928 §2).
        let [version] = frame.read(at).ok_or(Skip::TruncatedLink)?;
        kind = match version >> 4 {
            4 => ethertype::IPV4,
            6 => ethertype::IPV6,
            _ => return Err(Skip::MplsPayload),
        };
    }
    match kind {
        ethertype::IPV4 => Ok(Start { v6: false, at }),
        ethertype::IPV6 => Ok(Start { v6: true, at }),
        _ => Err(no_ip(kind)),
    }
}

/// Walks VLAN tags; returns the type of what the last one holds, and where that begins.
#[inline(always)]
fn tags<F: Frame + ?Sized>(
    frame: &F,
    ethertype: u16,
    offset: usize,
    parsed: &mut Parsed,
) -> Result<(u16, usize), Skip> {
    let (mut kind, mut at) = (ethertype, offset);
    let mut walked = 0;
    while walked <= MAX_TAGS {
        if !is_tag(kind) {
            return Ok((kind, at));
        }
        if walked == MAX_TAGS {
            break;
        }
        walked += 1;
        // The tag control information, then the EtherType of what the tag holds.
        let [a, b, c, d] = frame.read(at).ok_or(Skip::TruncatedLink)?;
        let control = u16::from_be_bytes([a, b]);
        let id = control & ethernet::VLAN_ID_MASK;
        let priority = (control >> ethernet::PRIORITY_SHIFT) as u8;
        // What is compared must be what is indexed with, or the verifier sees no bound.
        let outside = frame.forget(parsed.around.tags as usize);
        if outside == 0 {
            parsed.packet.put_outer_tag(control);
        } else if outside < MAX_TAGS {
            parsed.around.inner_vlans[outside - 1] = id;
            if outside == 1 {
                parsed.packet.priorities |= priority << 4;
            }
        } else {
            // Tags inside a tunnel, beyond those outside; or one that stood beside the frame.
            break;
        }
        parsed.around.tags += 1;
        kind = u16::from_be_bytes([c, d]);
        at = frame.forget(at + ethernet::TAG_LEN);
    }
    Err(Skip::TooManyTags)
}

#[inline(always)]
fn is_tag(kind: u16) -> bool {
    kind == ethertype::VLAN || kind == ethertype::SERVICE_VLAN || kind == ethertype::OLD_QINQ
}

/// Walks MPLS labels (RFC 3032 §2.1) to the bottom of the stack; returns where that ends.
#[inline(always)]
fn labels<F: Frame + ?Sized>(frame: &F, offset: usize, parsed: &mut Parsed) -> Result<usize, Skip> {
    let mut at = offset;
    let mut walked = 0;
    while walked < MAX_LABELS {
        walked += 1;
        let entry = frame.read(at).ok_or(Skip::TruncatedLink)?;
        // Label, traffic class, bottom of stack; the TTL is no part of a flow.
        let label = u32::from_be_bytes(entry) >> 8;
        let above = frame.forget(parsed.around.labels as usize);
        if above >= MAX_LABELS {
            break;
        }
        parsed.around.label_stack[above] = label;
        parsed.around.labels += 1;
        at = frame.forget(at + mpls::ENTRY_LEN);
        if label & mpls::BOTTOM != 0 {
            return Ok(at);
        }
    }
    Err(Skip::TooManyLabels)
}

/// The reason that counts frames of an EtherType in which there is no IP.
#[inline(always)]
fn no_ip(kind: u16) -> Skip {
    match kind {
        ethertype::ARP | ethertype::RARP => Skip::Arp,
        ethertype::LLDP => Skip::Lldp,
        ethertype::SLOW => Skip::SlowProtocol,
        ethertype::EAPOL => Skip::Eapol,
        ethertype::MACSEC => Skip::Macsec,
        ethertype::PTP => Skip::Ptp,
        ethertype::CFM => Skip::Cfm,
        ethertype::PPPOE_DISCOVERY => Skip::PppControl,
        _ => Skip::OtherEthertype,
    }
}
