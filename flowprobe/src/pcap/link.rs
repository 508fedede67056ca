//! Link layers of captures: where the packet begins in a frame, and what it is.
//!
//! Numbers and formats are those of <https://www.tcpdump.org/linktypes.html>.

use std::fmt;

use flowprobe_ebpf::{
    Frame, Parsed, Skip, Tunnels,
    flow::Macs,
    parse, parse_at,
    wire::{ethernet, ethertype},
};

/// The number of a link type, as a capture has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkType(pub u16);

/// Names of link types that captures are often of and that cannot be read.
const NAMES: &[(u16, &str)] = &[
    (6, "IEEE802_5"),
    (9, "PPP"),
    (50, "PPP_HDLC"),
    (51, "PPP_ETHER"),
    (104, "C_HDLC"),
    (105, "IEEE802_11"),
    (107, "FRELAY"),
    (119, "IEEE802_11_PRISM"),
    (122, "IP_OVER_FC"),
    (127, "IEEE802_11_RADIOTAP"),
    (187, "BLUETOOTH_HCI_H4"),
    (189, "USB_LINUX"),
    (195, "IEEE802_15_4_WITHFCS"),
    (201, "BLUETOOTH_HCI_H4_WITH_PHDR"),
    (220, "USB_LINUX_MMAPPED"),
    (227, "CAN_SOCKETCAN"),
    (230, "IEEE802_15_4_NOFCS"),
    (239, "NFLOG"),
    (249, "USBPCAP"),
    (252, "WIRESHARK_UPPER_PDU"),
    (253, "NETLINK"),
];

impl fmt::Display for LinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        match NAMES.iter().find(|(number, _)| *number == self.0) {
            Some((_, name)) => write!(f, " ({name})"),
            None if (147..=162).contains(&self.0) => write!(f, " (USER{})", self.0 - 147),
            None => Ok(()),
        }
    }
}

/// A link layer that can be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// ETHERNET.
    Ethernet,
    /// RAW, IPV4, IPV6 and what some systems write for RAW: no header at all.
    Raw,
    /// LINUX_SLL: what Linux captures on the device "any".
    CookedV1,
    /// LINUX_SLL2.
    CookedV2,
    /// NULL and LOOP: an address family, in the order of the machine or of the network.
    Loopback,
}

/// LINUX_SLL header fields.
mod cooked_v1 {
    /// Octets of the sender's address, 2 octets; then the address.
    pub(super) const ADDRESS_LEN: usize = 4;
    pub(super) const ADDRESS: usize = 6;
    pub(super) const PROTOCOL: usize = 14;
    pub(super) const LEN: usize = 16;
}

/// LINUX_SLL2 header fields.
mod cooked_v2 {
    pub(super) const PROTOCOL: usize = 0;
    /// Octets of the sender's address, 1 octet; then the address.
    pub(super) const ADDRESS_LEN: usize = 11;
    pub(super) const ADDRESS: usize = 12;
    pub(super) const LEN: usize = 20;
}

/// Octets of the address family.
const FAMILY_LEN: usize = 4;
const AF_INET: u32 = 2;
/// Linux; NetBSD and OpenBSD; FreeBSD; macOS.
const AF_INET6: [u32; 4] = [10, 24, 28, 30];

impl Link {
    /// The link layer of this number, if it can be read.
    #[must_use]
    pub fn of(number: LinkType) -> Option<Self> {
        match number.0 {
            1 => Some(Self::Ethernet),
            12 | 14 | 101 | 228 | 229 => Some(Self::Raw),
            113 => Some(Self::CookedV1),
            276 => Some(Self::CookedV2),
            0 | 108 => Some(Self::Loopback),
            _ => None,
        }
    }

    /// Parses a frame.
    ///
    /// # Errors
    /// The reason why it belongs to no flow.
    pub fn parse<F: Frame + ?Sized>(self, frame: &F, tunnels: &Tunnels) -> Result<Parsed, Skip> {
        let (ethertype, offset) = match self {
            Self::Ethernet => return parse(frame, tunnels),
            Self::Raw => (version(frame)?, 0),
            Self::CookedV1 => (number(frame, cooked_v1::PROTOCOL)?, cooked_v1::LEN),
            Self::CookedV2 => (number(frame, cooked_v2::PROTOCOL)?, cooked_v2::LEN),
            Self::Loopback => (family(frame)?, FAMILY_LEN),
        };
        let mut parsed = Parsed::EMPTY;
        parse_at(frame, tunnels, ethertype, offset, &mut parsed)?;
        Ok(parsed)
    }

    /// The MAC addresses of a frame; zeros where it has none.
    #[must_use]
    pub fn macs<F: Frame + ?Sized>(self, frame: &F) -> Macs {
        let octets = match self {
            Self::Ethernet => frame.read(ethernet::ADDRESSES),
            Self::CookedV1 => match frame.read(cooked_v1::ADDRESS_LEN) {
                Some([0, 6]) => frame.read(cooked_v1::ADDRESS).map(from_source),
                _ => None,
            },
            Self::CookedV2 => match frame.read(cooked_v2::ADDRESS_LEN) {
                Some([6]) => frame.read(cooked_v2::ADDRESS).map(from_source),
                _ => None,
            },
            Self::Raw | Self::Loopback => None,
        };
        Macs::new(octets.unwrap_or_default())
    }
}

/// The EtherType in a header.
fn number<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<u16, Skip> {
    let octets = frame.read(at).ok_or(Skip::TruncatedLink)?;
    Ok(u16::from_be_bytes(octets))
}

/// The EtherType of a packet without link layer, by its version.
fn version<F: Frame + ?Sized>(frame: &F) -> Result<u16, Skip> {
    let [first] = frame.read(0).ok_or(Skip::TruncatedLink)?;
    match first >> 4 {
        4 => Ok(ethertype::IPV4),
        6 => Ok(ethertype::IPV6),
        _ => Err(Skip::BadVersion),
    }
}

/// The EtherType of an address family. All families are below 2¹⁶, which tells the byte order.
fn family<F: Frame + ?Sized>(frame: &F) -> Result<u16, Skip> {
    let family = u32::from_be_bytes(frame.read(0).ok_or(Skip::TruncatedLink)?);
    let family = match family >> 16 {
        0 => family,
        _ => family.swap_bytes(),
    };
    match family {
        AF_INET => Ok(ethertype::IPV4),
        family if AF_INET6.contains(&family) => Ok(ethertype::IPV6),
        _ => Err(Skip::OtherEthertype),
    }
}

/// Cooked headers have the sender's address only.
fn from_source(source: [u8; 6]) -> [u8; 12] {
    let mut octets = [0; 12];
    octets[6..].copy_from_slice(&source);
    octets
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: [u8; 20] = [
        0x45, 0, 0, 20, 0, 0, 0, 0, 64, 47, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2,
    ];
    const SENDER: [u8; 8] = [2, 0, 0, 0, 0, 9, 0, 0];

    fn ipv6() -> Vec<u8> {
        let mut octets = vec![0; 40];
        octets[0] = 0x60;
        octets[6] = 59;
        octets
    }

    fn protocol(link: u16, frame: &[u8]) -> Result<u8, Skip> {
        let link = Link::of(LinkType(link)).expect("can be read");
        let parsed = link.parse(frame, &Tunnels::OUTER);
        parsed.map(|parsed| parsed.packet.protocol)
    }

    #[test]
    fn raw_packets_are_what_their_version_says() {
        for link in [12, 14, 101, 228, 229] {
            assert_eq!(protocol(link, &IPV4), Ok(47));
            assert_eq!(protocol(link, &ipv6()), Ok(59));
            assert_eq!(protocol(link, &[0x50, 0]), Err(Skip::BadVersion));
            assert_eq!(protocol(link, &[]), Err(Skip::TruncatedLink));
        }
    }

    #[test]
    fn address_families_come_in_either_order() {
        for link in [0, 108] {
            for order in [u32::to_be_bytes, u32::to_le_bytes] {
                let packet = |family: u32, packet: &[u8]| [&order(family), packet].concat();
                assert_eq!(protocol(link, &packet(2, &IPV4)), Ok(47));
                for family in [10, 24, 28, 30] {
                    assert_eq!(protocol(link, &packet(family, &ipv6())), Ok(59));
                }
                let other = protocol(link, &packet(7, &IPV4));
                assert_eq!(other, Err(Skip::OtherEthertype));
            }
            assert_eq!(protocol(link, &[2, 0, 0]), Err(Skip::TruncatedLink));
        }
    }

    #[test]
    fn cooked_frames_name_their_payload() {
        let v1 = |ethertype: u16, payload: &[u8]| {
            let head = [&[0, 4, 0, 1, 0, 6][..], &SENDER, &ethertype.to_be_bytes()];
            [&head.concat(), payload].concat()
        };
        let v2 = |ethertype: u16, payload: &[u8]| {
            let head = [&ethertype.to_be_bytes()[..], &[0; 9], &[6], &SENDER];
            [&head.concat(), payload].concat()
        };
        let tagged = [&[0x60, 7, 0x08, 0][..], &IPV4].concat();
        type Frame<'a> = &'a dyn Fn(u16, &[u8]) -> Vec<u8>;
        let frames: [(u16, Frame<'_>); 2] = [(113, &v1), (276, &v2)];
        for (link, frame) in frames {
            assert_eq!(protocol(link, &frame(0x0800, &IPV4)), Ok(47));
            assert_eq!(protocol(link, &frame(0x86dd, &ipv6())), Ok(59));
            assert_eq!(protocol(link, &frame(0x0806, &IPV4)), Err(Skip::Arp));
            let short = frame(0x0800, &[]);
            let short = &short[..short.len() - 9];
            assert!(protocol(link, short).is_err());

            let link = Link::of(LinkType(link)).expect("can be read");
            let parsed = link.parse(&frame(0x8100, &tagged)[..], &Tunnels::OUTER);
            let packet = parsed.expect("a packet").packet;
            assert_eq!((packet.protocol, packet.vlan), (47, 7));
            let macs = link.macs(&frame(0x0800, &IPV4)[..]);
            assert_eq!(macs.octets(), [0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 9]);
        }
    }

    #[test]
    fn other_link_types_are_named() {
        assert_eq!(Link::of(LinkType(127)), None);
        assert_eq!(LinkType(127).to_string(), "127 (IEEE802_11_RADIOTAP)");
        assert_eq!(LinkType(150).to_string(), "150 (USER3)");
        assert_eq!(LinkType(999).to_string(), "999");
    }
}
