//! Builds frames from a description, and says what a parser has to see in them.
//!
//! Written from the RFCs, with none of the parser's constants.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::seen::Seen;

/// A frame, described.
#[derive(Clone, Debug)]
pub(crate) struct Stack {
    /// EtherType and tag control information of each tag.
    pub(crate) tags: Vec<(u16, u16)>,
    pub(crate) network: Network,
    pub(crate) transport: Transport,
    /// Octets behind the transport header.
    pub(crate) payload: usize,
    /// How many octets of what IP carries its length field admits to, if not all: the rest is
    /// then padding to it.
    pub(crate) admitted: Option<usize>,
    /// Octets behind the IP packet.
    pub(crate) padding: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Network {
    V4(V4),
    V6(V6),
}

#[derive(Clone, Debug)]
pub(crate) struct V4 {
    /// Units of 4 octets.
    pub(crate) options: u8,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    /// Flags and offset: the whole field.
    pub(crate) fragment: u16,
    pub(crate) source: [u8; 4],
    pub(crate) destination: [u8; 4],
}

#[derive(Clone, Debug)]
pub(crate) struct V6 {
    pub(crate) class: u8,
    pub(crate) label: u32,
    pub(crate) hop_limit: u8,
    pub(crate) extensions: Vec<Extension>,
    pub(crate) source: [u8; 16],
    pub(crate) destination: [u8; 16],
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Extension {
    /// Own number, and 8-octet units beyond the first (RFC 8200 §4).
    Common(u8, u8),
    /// 4-octet units, less 2 (RFC 4302 §2.2): odd here, since 8-octet alignment is IPv6's rule.
    Ah(u8),
    /// Offset and flags: the whole field (RFC 8200 §4.5).
    Fragment(u16),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Transport {
    Tcp(u16, u16, u8),
    Udp(u16, u16),
    UdpLite(u16, u16),
    Sctp(u16, u16),
    Dccp(u16, u16),
    Icmp(u8, u8),
    Icmpv6(u8, u8),
    Other(u8),
}

impl Transport {
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Icmp(..) => 1,
            Self::Tcp(..) => 6,
            Self::Udp(..) => 17,
            Self::Dccp(..) => 33,
            Self::Icmpv6(..) => 58,
            Self::Sctp(..) => 132,
            Self::UdpLite(..) => 136,
            Self::Other(number) => number,
        }
    }

    /// Octets that hold all that a flow needs of the header.
    pub(crate) fn needed(self) -> usize {
        match self {
            Self::Tcp(..) => 14,
            Self::Icmp(..) | Self::Icmpv6(..) => 2,
            Self::Other(_) => 0,
            _ => 4,
        }
    }

    fn ports(self) -> (u16, u16) {
        match self {
            Self::Tcp(a, b, _)
            | Self::Udp(a, b)
            | Self::UdpLite(a, b)
            | Self::Sctp(a, b)
            | Self::Dccp(a, b) => (a, b),
            Self::Icmp(kind, code) | Self::Icmpv6(kind, code) => {
                (0, u16::from(kind) * 256 + u16::from(code))
            }
            Self::Other(_) => (0, 0),
        }
    }

    fn header(self, payload: usize) -> Vec<u8> {
        let mut octets = Vec::new();
        let (source, destination) = self.ports();
        match self {
            Self::Icmp(kind, code) | Self::Icmpv6(kind, code) => octets.extend([kind, code]),
            Self::Other(_) => return octets,
            _ => {
                octets.extend(source.to_be_bytes());
                octets.extend(destination.to_be_bytes());
            }
        }
        match self {
            Self::Tcp(_, _, flags) => {
                octets.extend([0xde, 0xad, 0xbe, 0xef, 0xca, 0xfe, 0xba, 0xbe, 0x50, flags]);
                octets.extend([0xff; 6]);
            }
            Self::Udp(..) => {
                octets.extend((payload as u16 + 8).to_be_bytes());
                octets.extend([0xff; 2]);
            }
            Self::Icmp(..) | Self::Icmpv6(..) => octets.extend([0; 6]),
            _ => octets.extend([0xff; 8]),
        }
        octets
    }
}

impl Extension {
    fn number(self) -> u8 {
        match self {
            Self::Common(number, _) => number,
            Self::Ah(_) => 51,
            Self::Fragment(_) => 44,
        }
    }

    pub(crate) fn is_later_fragment(self) -> bool {
        matches!(self, Self::Fragment(field) if field >> 3 != 0)
    }

    /// All but the next header.
    fn rest(self) -> Vec<u8> {
        match self {
            Self::Common(_, units) => {
                let mut rest = vec![units];
                rest.resize(7 + usize::from(units) * 8, 0);
                rest
            }
            Self::Ah(units) => {
                let mut rest = vec![units];
                rest.resize(7 + usize::from(units) * 4, 0x11);
                rest
            }
            Self::Fragment(field) => {
                let [a, b] = field.to_be_bytes();
                vec![0, a, b, 1, 2, 3, 4]
            }
        }
    }
}

impl Stack {
    /// UDP in IPv4 without anything special.
    pub(crate) fn v4(transport: Transport) -> Self {
        Self {
            tags: Vec::new(),
            network: Network::V4(V4 {
                options: 0,
                tos: 0xb8,
                ttl: 61,
                fragment: 0x4000,
                source: [10, 1, 2, 3],
                destination: [192, 0, 2, 9],
            }),
            transport,
            payload: 30,
            admitted: None,
            padding: 0,
        }
    }

    /// The same over IPv6.
    pub(crate) fn v6(transport: Transport, extensions: &[Extension]) -> Self {
        let mut source = [0; 16];
        source[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        let mut destination = source;
        (source[15], destination[15]) = (1, 2);
        Self {
            network: Network::V6(V6 {
                class: 0x2e,
                label: 0xa_bcde,
                hop_limit: 59,
                extensions: extensions.to_vec(),
                source,
                destination,
            }),
            ..Self::v4(transport)
        }
    }

    /// Octets of Ethernet header and tags.
    pub(crate) fn link_len(&self) -> usize {
        14 + self.tags.len() * 4
    }

    /// What IP carries, and how much of it the length field admits to.
    fn carried(&self) -> (Vec<u8>, usize) {
        let mut octets = self.transport.header(self.payload);
        octets.resize(octets.len() + self.payload, 0x77);
        let admitted = self.admitted.unwrap_or(octets.len()).min(octets.len());
        (octets, admitted)
    }

    /// Octets of the IP packet by its own length field.
    pub(crate) fn ip_len(&self) -> usize {
        let (_, admitted) = self.carried();
        let headers = match &self.network {
            Network::V4(v4) => 20 + usize::from(v4.options) * 4,
            Network::V6(v6) => {
                let extensions = v6.extensions.iter();
                40 + extensions
                    .map(|header| 1 + header.rest().len())
                    .sum::<usize>()
            }
        };
        headers + admitted
    }

    /// The frame.
    pub(crate) fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        for (ethertype, control) in &self.tags {
            frame.extend(ethertype.to_be_bytes());
            frame.extend(control.to_be_bytes());
        }
        let (carried, _) = self.carried();
        let ip_len = self.ip_len();
        match &self.network {
            Network::V4(v4) => {
                frame.extend([0x08, 0x00, 0x45 + v4.options, v4.tos]);
                frame.extend((ip_len as u16).to_be_bytes());
                frame.extend([0xaa, 0xbb]);
                frame.extend(v4.fragment.to_be_bytes());
                frame.extend([v4.ttl, self.transport.number(), 0, 0]);
                frame.extend(v4.source);
                frame.extend(v4.destination);
                frame.resize(frame.len() + usize::from(v4.options) * 4, 1);
            }
            Network::V6(v6) => {
                let numbers = v6.extensions.iter().map(|header| header.number());
                let mut numbers = numbers.chain([self.transport.number()]);
                let first = 6 << 28 | u32::from(v6.class) << 20 | v6.label;
                frame.extend([0x86, 0xdd]);
                frame.extend(first.to_be_bytes());
                frame.extend((ip_len as u16 - 40).to_be_bytes());
                frame.extend(numbers.next());
                frame.push(v6.hop_limit);
                frame.extend(v6.source);
                frame.extend(v6.destination);
                for header in &v6.extensions {
                    frame.extend(numbers.next());
                    frame.extend(header.rest());
                }
            }
        }
        frame.extend(carried);
        frame.resize(frame.len() + self.padding, 0x55);
        frame
    }

    /// What is in a frame that parses.
    pub(crate) fn seen(&self) -> Seen {
        let later = self.later_fragment();
        let (source, destination, traffic_class, ttl, flow_label) = match &self.network {
            Network::V4(v4) => (
                IpAddr::from(Ipv4Addr::from(v4.source)),
                IpAddr::from(Ipv4Addr::from(v4.destination)),
                v4.tos,
                v4.ttl,
                0,
            ),
            Network::V6(v6) => (
                Ipv6Addr::from(v6.source).into(),
                Ipv6Addr::from(v6.destination).into(),
                v6.class,
                v6.hop_limit,
                v6.label,
            ),
        };
        Seen {
            source,
            destination,
            ports: match later {
                None => self.transport.ports(),
                Some(_) => (0, 0),
            },
            protocol: later.unwrap_or_else(|| self.transport.number()),
            traffic_class,
            vlan: self.tags.first().map_or(0, |(_, control)| control & 0xfff),
            ttl,
            tcp_flags: match self.transport {
                Transport::Tcp(_, _, flags) if later.is_none() => flags,
                _ => 0,
            },
            octets: self.ip_len() as u32,
            flow_label,
        }
    }

    /// The protocol that a later fragment names, if this is one.
    pub(crate) fn later_fragment(&self) -> Option<u8> {
        match &self.network {
            Network::V4(v4) => (v4.fragment & 0x1fff != 0).then(|| self.transport.number()),
            Network::V6(v6) => {
                let mut headers = v6.extensions.iter();
                headers.find(|header| header.is_later_fragment())?;
                let next = headers.next().map(|header| header.number());
                Some(next.unwrap_or_else(|| self.transport.number()))
            }
        }
    }

    /// Whether the IP packet ends before the ports, although the frame may go on.
    pub(crate) fn cuts_transport(&self) -> bool {
        let (_, admitted) = self.carried();
        self.later_fragment().is_none() && admitted < self.transport.needed()
    }
}
