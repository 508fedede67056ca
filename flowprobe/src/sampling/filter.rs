//! Small filters for packets, in the words of tcpdump: protocol, port, prefix, interface.
//!
//! Not a language: all conditions have to hold, each is written once at most, and none is negated.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use flowprobe_ebpf::class::has_port_numbers;

/// Conditions on a packet, all of which have to hold. At least one is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filter {
    /// It was received here.
    pub interface: Option<String>,
    /// It has this protocol (behind IPv6 extension headers).
    pub protocol: Option<u8>,
    /// It has a port of these.
    pub port: Option<PortMatch>,
    /// It has an address in this prefix.
    pub net: Option<NetMatch>,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PortMatch {
    /// Which of the two.
    pub side: Side,
    /// The first.
    pub first: u16,
    /// The last, at least `first`.
    pub last: u16,
}

/// Addresses whose first `length` bits are those of `address`, whose other bits are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetMatch {
    /// Which of the two.
    pub side: Side,
    /// The prefix.
    pub address: IpAddr,
    /// Its length in bits.
    pub length: u8,
}

/// Which of a packet's two addresses or ports is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// At least one of them.
    Either,
    /// The source's.
    Source,
    /// The destination's.
    Destination,
}

/// What filters ask of a packet. As in the flow's key, ports are 0 where there are none.
#[derive(Clone, Copy, Debug)]
pub struct Observed<'a> {
    /// Where it was received.
    pub interface: &'a str,
    /// Its protocol.
    pub protocol: u8,
    /// From where.
    pub source: IpAddr,
    /// To where.
    pub destination: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
}

/// Names of protocols (IANA: protocol-numbers). The first of a number is what is printed.
const PROTOCOLS: [(&str, u8); 12] = [
    ("icmp", 1),
    ("tcp", 6),
    ("udp", 17),
    ("dccp", 33),
    ("gre", 47),
    ("esp", 50),
    ("ah", 51),
    ("icmp6", 58),
    ("icmpv6", 58),
    ("ospf", 89),
    ("sctp", 132),
    ("udplite", 136),
];

/// An interface's name is shorter (linux/if.h: IFNAMSIZ, with the zero behind it).
const MAX_NAME: usize = 15;

/// Why a filter does not parse.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// No condition.
    #[error("the filter is empty: write for example \"udp port 53\" or \"net 10.0.0.0/8\"")]
    Empty,
    /// Not a word of filters.
    #[error(
        "{0:?} is no word of filters: known are interface, proto, port, net, src, dst, and, and the \
         protocols tcp, udp, icmp, icmp6, sctp, udplite, dccp, gre, esp, ah, ospf"
    )]
    Unknown(String),
    /// The word wants another behind it.
    #[error("{0:?} is not followed by {1}")]
    Missing(String, &'static str),
    /// A condition twice.
    #[error("{0:?} comes after another condition on the {1}: each can be given once")]
    Twice(String, &'static str),
    /// `and` with nothing on one side.
    #[error("\"and\" stands between two conditions")]
    And,
    /// Not a protocol.
    #[error("{0:?} is no protocol: write a name such as tcp, or a number from 0 to 255")]
    Protocol(String),
    /// Not a port.
    #[error("{0:?} is no port: write a number from 0 to 65535, or two as in 80-90")]
    Port(String),
    /// The last before the first.
    #[error("the ports {0}-{1} are none: write the lower one first, {1}-{0}")]
    Backwards(u16, u16),
    /// ICMP has no ports.
    #[error("{0} has no ports: leave out the port, or name tcp, udp, sctp, udplite or dccp")]
    NoPorts(String),
    /// Not a prefix.
    #[error("{0:?} is no prefix: write for example 10.0.0.0/8 or 2001:db8::/32")]
    Net(String),
    /// Longer than the address.
    #[error("{0:?} is no prefix: {1} bits are the most for such an address")]
    Length(String, u8),
    /// Bits behind the prefix.
    #[error("{0} has bits behind the prefix: did you mean {1}/{2}?")]
    HostBits(String, IpAddr, u8),
    /// Longer than the kernel's names.
    #[error("{0:?} is no interface: names have at most {MAX_NAME} octets")]
    Name(String),
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        let mut words = text.split_whitespace().peekable();
        let mut conditions = 0;
        while let Some(word) = words.next() {
            if word == "and" {
                if conditions == 0 || words.peek().is_none_or(|next| *next == "and") {
                    return Err(FilterError::And);
                }
                continue;
            }
            filter.condition(word, &mut words)?;
            conditions += 1;
        }
        match filter.protocol {
            _ if conditions == 0 => Err(FilterError::Empty),
            Some(protocol) if filter.port.is_some() && !has_port_numbers(protocol) => {
                Err(FilterError::NoPorts(Named(protocol).to_string()))
            }
            _ => Ok(filter),
        }
    }
}

impl Filter {
    fn condition(
        &mut self,
        word: &str,
        words: &mut dyn Iterator<Item = &str>,
    ) -> Result<(), FilterError> {
        let (side, word) = match word {
            "src" => (Side::Source, None),
            "dst" => (Side::Destination, None),
            _ => (Side::Either, Some(word)),
        };
        let sided = match side {
            Side::Source => "src",
            Side::Destination => "dst",
            Side::Either => "",
        };
        let mut next = |after: &str, what| {
            let missing = || FilterError::Missing(after.to_owned(), what);
            words.next().ok_or_else(missing)
        };
        let word = match word {
            Some(word) => word,
            None => match next(sided, "port or net")? {
                word @ ("port" | "net" | "host") => word,
                _ => return Err(FilterError::Missing(sided.to_owned(), "port or net")),
            },
        };
        match word {
            "port" => {
                let ports = PortMatch::parse(next(word, "a port")?, side)?;
                set(&mut self.port, ports, word, "port")
            }
            "net" | "host" => {
                let net = NetMatch::parse(next(word, "a prefix")?, side)?;
                set(&mut self.net, net, word, "prefix")
            }
            "interface" | "iface" => {
                let name = next(word, "a name")?;
                if name.len() > MAX_NAME {
                    return Err(FilterError::Name(name.to_owned()));
                }
                set(&mut self.interface, name.to_owned(), word, "interface")
            }
            "proto" => {
                let name = next(word, "a protocol")?;
                let number = protocol(name).or_else(|| name.parse().ok());
                let number = number.ok_or_else(|| FilterError::Protocol(name.to_owned()))?;
                set(&mut self.protocol, number, word, "protocol")
            }
            _ => {
                let unknown = || FilterError::Unknown(word.to_owned());
                let number = protocol(word).ok_or_else(unknown)?;
                set(&mut self.protocol, number, word, "protocol")
            }
        }
    }

    /// Whether all conditions hold. This is what the kernel half has to say too.
    #[must_use]
    pub fn matches(&self, packet: &Observed<'_>) -> bool {
        let interface = |name: &String| name == packet.interface;
        let protocol = |number: u8| number == packet.protocol;
        let port = |ports: PortMatch| {
            has_port_numbers(packet.protocol)
                && ports
                    .side
                    .any(packet.source_port, packet.destination_port, |port| {
                        (ports.first..=ports.last).contains(&port)
                    })
        };
        let net = |net: NetMatch| {
            net.side.any(packet.source, packet.destination, |address| {
                masked(address, net.length) == Some(net.address)
            })
        };
        self.interface.as_ref().is_none_or(interface)
            && self.protocol.is_none_or(protocol)
            && self.port.is_none_or(port)
            && self.net.is_none_or(net)
    }
}

fn set<T>(
    to: &mut Option<T>,
    value: T,
    word: &str,
    condition: &'static str,
) -> Result<(), FilterError> {
    match to.replace(value) {
        None => Ok(()),
        Some(_) => Err(FilterError::Twice(word.to_owned(), condition)),
    }
}

fn protocol(name: &str) -> Option<u8> {
    let known = PROTOCOLS.iter().find(|(known, _)| *known == name);
    known.map(|(_, number)| *number)
}

/// The address with zeros behind the prefix; nothing if it is shorter than the prefix.
fn masked(address: IpAddr, length: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let behind = 32_u32.checked_sub(u32::from(length))?;
            let mask = u32::MAX.checked_shl(behind).unwrap_or(0);
            Some(Ipv4Addr::from(u32::from(address) & mask).into())
        }
        IpAddr::V6(address) => {
            let behind = 128_u32.checked_sub(u32::from(length))?;
            let mask = u128::MAX.checked_shl(behind).unwrap_or(0);
            Some(Ipv6Addr::from(u128::from(address) & mask).into())
        }
    }
}

impl Side {
    fn any<T>(self, source: T, destination: T, holds: impl Fn(T) -> bool) -> bool {
        match self {
            Self::Either => holds(source) || holds(destination),
            Self::Source => holds(source),
            Self::Destination => holds(destination),
        }
    }
}

impl PortMatch {
    fn parse(text: &str, side: Side) -> Result<Self, FilterError> {
        let bad = |_| FilterError::Port(text.to_owned());
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse().map_err(bad)?, last.parse().map_err(bad)?);
        if last < first {
            return Err(FilterError::Backwards(first, last));
        }
        Ok(Self { side, first, last })
    }
}

impl NetMatch {
    fn parse(text: &str, side: Side) -> Result<Self, FilterError> {
        let bad = || FilterError::Net(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits = if address.is_ipv4() { 32 } else { 128 };
        let length: u8 = match length {
            Some(length) => length.parse().map_err(|_| bad())?,
            None => bits,
        };
        let Some(prefix) = masked(address, length) else {
            return Err(FilterError::Length(text.to_owned(), bits));
        };
        if prefix != address {
            return Err(FilterError::HostBits(text.to_owned(), prefix, length));
        }
        Ok(Self {
            side,
            address,
            length,
        })
    }
}

/// A protocol by its name, or by its number where it has none here.
struct Named(u8);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match PROTOCOLS.iter().find(|(_, number)| *number == self.0) {
            Some((name, _)) => write!(f, "{name}"),
            None => write!(f, "proto {}", self.0),
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Either => "",
            Self::Source => "src ",
            Self::Destination => "dst ",
        })
    }
}

impl fmt::Display for PortMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}port {}", self.side, self.first)?;
        if self.last > self.first {
            write!(f, "-{}", self.last)?;
        }
        Ok(())
    }
}

impl fmt::Display for NetMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}net {}/{}", self.side, self.address, self.length)
    }
}

impl fmt::Display for Filter {
    /// In words that read back as the same filter.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            self.interface
                .as_ref()
                .map(|name| format!("interface {name}")),
            self.protocol.map(|number| Named(number).to_string()),
            self.port.map(|ports| ports.to_string()),
            self.net.map(|net| net.to_string()),
        ];
        let words: Vec<_> = words.into_iter().flatten().collect();
        f.write_str(&words.join(" "))
    }
}

#[cfg(test)]
mod tests;
