//! Link layers of captures: where the packet begins in a frame, and what it is.
//!
//! Numbers and formats are those of <https://www.tcpdump.org/linktypes.html>.

mod header;
mod radio;

use std::fmt;

use flowprobe_ebpf::{
    Frame, Packet, Parsed, Skip, Tunnels,
    flow::Macs,
    parse,
    parse::{near_plain, plain},
    parse_at,
    wire::{ethernet, ethertype},
};

/// The number of a link type, as a capture has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkType(pub u16);

/// Names of link types that captures are often of and that cannot be read.
const NAMES: &[(u16, &str)] = &[
    (7, "ARCNET_BSD"),
    (8, "SLIP"),
    (143, "DOCSIS"),
    (187, "BLUETOOTH_HCI_H4"),
    (189, "USB_LINUX"),
    (195, "IEEE802_15_4_WITHFCS"),
    (201, "BLUETOOTH_HCI_H4_WITH_PHDR"),
    (220, "USB_LINUX_MMAPPED"),
    (227, "CAN_SOCKETCAN"),
    (230, "IEEE802_15_4_NOFCS"),
    (197, "ERF"),
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
    /// PPP, PPP_HDLC and PPP_PPPD: with address and control, or the protocol alone (RFC 1661,
    /// RFC 1662).
    Ppp,
    /// PPP_WITH_DIR: a direction, then as [`Link::Ppp`].
    PppWithDirection,
    /// PPP_ETHER: the session header of PPPoE.
    PppEther,
    /// C_HDLC: address, control, EtherType.
    CiscoHdlc,
    /// FRELAY, with the headers of RFC 2427.
    FrameRelay,
    /// ATM_RFC1483: LLC.
    Atm,
    /// IEEE802_5: token ring.
    TokenRing,
    /// FDDI.
    Fddi,
    /// IP_OVER_FC: two names, then LLC (RFC 2625).
    FibreChannel,
    /// APPLE_IP_OVER_IEEE1394: two names, then the EtherType.
    Firewire,
    /// IPOIB: a global route header, then the EtherType (RFC 4391).
    Infiniband,
    /// MPLS: labels.
    Mpls,
    /// ENC: what OpenBSD's IPsec opens. An address family, an index and flags.
    Enc,
    /// PFLOG: what OpenBSD's packet filter logs. Its header says its length and the family.
    Pflog,
    /// NFLOG: what Linux' packet filter logs, as a list of fields.
    Nflog,
    /// ETHERNET_MPACKET: a preamble, then as [`Link::Ethernet`].
    Mpacket,
    /// IEEE802_11.
    Radio,
    /// IEEE802_11_PRISM and IEEE802_11_AVS: what a receiver says, then as [`Link::Radio`].
    Prism,
    /// IEEE802_11_RADIOTAP: the same.
    Radiotap,
    /// PPI: fields, then any other of these.
    Ppi,
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
            9 | 50 | 166 => Some(Self::Ppp),
            204 => Some(Self::PppWithDirection),
            51 => Some(Self::PppEther),
            104 => Some(Self::CiscoHdlc),
            107 => Some(Self::FrameRelay),
            100 => Some(Self::Atm),
            6 => Some(Self::TokenRing),
            10 => Some(Self::Fddi),
            122 => Some(Self::FibreChannel),
            138 => Some(Self::Firewire),
            242 => Some(Self::Infiniband),
            219 => Some(Self::Mpls),
            109 => Some(Self::Enc),
            117 => Some(Self::Pflog),
            239 => Some(Self::Nflog),
            274 => Some(Self::Mpacket),
            105 => Some(Self::Radio),
            119 | 163 => Some(Self::Prism),
            127 => Some(Self::Radiotap),
            192 => Some(Self::Ppi),
            _ => None,
        }
    }

    /// The packet of a frame that is plain, as nearly all of Ethernet are: what [`Link::parse`] says
    /// of it, too.
    #[inline(always)]
    pub fn plain<F: Frame + ?Sized>(self, frame: &F, tunnels: &Tunnels) -> Option<Packet> {
        match self {
            Self::Ethernet => plain(frame).filter(|packet| !tunnels.may_be(packet)),
            _ => None,
        }
    }

    /// The same of a frame that is nearly so.
    #[inline(always)]
    pub fn near_plain<F: Frame + ?Sized>(self, frame: &F, tunnels: &Tunnels) -> Option<Packet> {
        match self {
            Self::Ethernet => near_plain(frame).filter(|packet| !tunnels.may_be(packet)),
            _ => None,
        }
    }

    /// Parses a frame.
    ///
    /// # Errors
    /// The reason why it belongs to no flow.
    #[inline]
    pub fn parse<F: Frame + ?Sized>(self, frame: &F, tunnels: &Tunnels) -> Result<Parsed, Skip> {
        match self {
            Self::Ethernet => parse(frame, tunnels),
            _ => self.parse_other(frame, tunnels),
        }
    }

    fn parse_other<F: Frame + ?Sized>(self, frame: &F, tunnels: &Tunnels) -> Result<Parsed, Skip> {
        let (ethertype, offset) = self.start(frame, 0)?;
        let mut parsed = Parsed::EMPTY;
        parse_at(frame, tunnels, ethertype, offset, &mut parsed)?;
        Ok(parsed)
    }

    /// What the header at `at` carries, as EtherType, and where that begins.
    fn start<F: Frame + ?Sized>(self, frame: &F, at: usize) -> Result<(u16, usize), Skip> {
        match self {
            Self::Ethernet => header::ethernet(frame, at),
            Self::Raw => Ok((version(frame, at)?, at)),
            Self::CookedV1 => header::typed(frame, at, cooked_v1::PROTOCOL, cooked_v1::LEN),
            Self::CookedV2 => header::typed(frame, at, cooked_v2::PROTOCOL, cooked_v2::LEN),
            Self::Loopback => Ok((family(frame, at)?, at + FAMILY_LEN)),
            Self::Ppp => header::ppp(frame, at),
            Self::PppWithDirection => header::ppp(frame, at + 1),
            Self::PppEther => Ok((ethertype::PPPOE_SESSION, at)),
            Self::CiscoHdlc => header::cisco_hdlc(frame, at),
            Self::FrameRelay => header::frame_relay(frame, at),
            Self::Atm => Ok((header::LLC, at)),
            Self::TokenRing => header::token_ring(frame, at),
            Self::Fddi => header::fddi(frame, at),
            Self::FibreChannel => Ok((header::LLC, at + header::FIBRE_CHANNEL_LEN)),
            Self::Firewire => header::typed(frame, at, 16, 18),
            Self::Infiniband => header::typed(frame, at, 40, 44),
            Self::Mpls => Ok((ethertype::MPLS, at)),
            Self::Enc => Ok((family(frame, at)?, at + header::ENC_LEN)),
            Self::Pflog => header::pflog(frame, at),
            Self::Nflog => header::nflog(frame, at),
            Self::Mpacket => header::ethernet(frame, at + header::PREAMBLE_LEN),
            Self::Radio => radio::frame(frame, at),
            Self::Prism => radio::frame(frame, radio::prism(frame, at)?),
            Self::Radiotap => radio::frame(frame, radio::radiotap(frame, at)?),
            Self::Ppi => {
                let (number, at) = header::ppi(frame, at)?;
                match Self::of(number) {
                    None | Some(Self::Ppi) => Err(Skip::OtherEthertype),
                    Some(link) => link.start(frame, at),
                }
            }
        }
    }

    /// The MAC addresses of a frame; zeros where it has none.
    #[inline]
    #[must_use]
    pub fn macs<F: Frame + ?Sized>(self, frame: &F) -> Macs {
        let octets = match self {
            Self::Ethernet => return ethernet_macs(frame),
            Self::CookedV1 => match frame.read(cooked_v1::ADDRESS_LEN) {
                Some([0, 6]) => frame.read(cooked_v1::ADDRESS).map(from_source),
                _ => None,
            },
            Self::CookedV2 => match frame.read(cooked_v2::ADDRESS_LEN) {
                Some([6]) => frame.read(cooked_v2::ADDRESS).map(from_source),
                _ => None,
            },
            Self::Mpacket => frame.read(header::PREAMBLE_LEN + ethernet::ADDRESSES),
            _ => None,
        };
        macs(octets)
    }
}

/// Those of an Ethernet frame.
#[inline(always)]
pub fn ethernet_macs<F: Frame + ?Sized>(frame: &F) -> Macs {
    macs(frame.read(ethernet::ADDRESSES))
}

/// These addresses, in a copy of three words.
#[inline(always)]
fn macs(octets: Option<[u8; 12]>) -> Macs {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = octets.unwrap_or_default();
    Macs {
        words: [[a, b, c, d], [e, f, g, h], [i, j, k, l]].map(u32::from_ne_bytes),
    }
}

/// The EtherType of a packet without link layer, by its version.
fn version<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<u16, Skip> {
    let [first] = frame.read(at).ok_or(Skip::TruncatedLink)?;
    match first >> 4 {
        4 => Ok(ethertype::IPV4),
        6 => Ok(ethertype::IPV6),
        _ => Err(Skip::BadVersion),
    }
}

/// The EtherType of an address family. All families are below 2¹⁶, which tells the byte order.
fn family<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<u16, Skip> {
    let family = u32::from_be_bytes(frame.read(at).ok_or(Skip::TruncatedLink)?);
    of_family(match family >> 16 {
        0 => family,
        _ => family.swap_bytes(),
    })
}

fn of_family(family: u32) -> Result<u16, Skip> {
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
mod tests;
