//! Classes of packets that have a sampling rate of their own.

use crate::{
    content::halves,
    parse::{Addresses, Packet},
    wire::protocol,
};

/// Source and destination, as bits: which of both a condition is about.
pub mod side {
    /// The source.
    pub const SOURCE: u8 = 1;
    /// The destination.
    pub const DESTINATION: u8 = 2;
}

/// What the packets of a class have in common; all of it has to be so. One without conditions is of
/// all packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// Index of the interface; 0 for any.
    pub ifindex: u32,
    /// IP protocol, plus 1; 0 for any.
    pub protocol: u16,
    /// Sides whose port may be in the range; 0 for any port, or none.
    pub port_sides: u8,
    /// Sides whose address may be in the prefix; 0 for any address.
    pub net_sides: u8,
    /// First port of the range.
    pub first_port: u16,
    /// Last port of the range.
    pub last_port: u16,
    /// IP version of the prefix: 4 or 6.
    pub version: u32,
    /// The prefix: of IPv4 as a number whose lowest octet is the first one, of IPv6 as the words of
    /// memory of [`Addresses::V6`].
    pub net: [u64; 2],
    /// The bits of it that count.
    pub mask: [u64; 2],
}

impl Rule {
    /// Whether the rule looks at more than the interface.
    #[inline(always)]
    #[must_use]
    pub fn asks_for_packet(&self) -> bool {
        self.protocol != 0 || self.port_sides != 0 || self.net_sides != 0
    }

    /// Whether packets of this interface may be of the class.
    #[inline(always)]
    #[must_use]
    pub fn is_of_interface(&self, ifindex: u32) -> bool {
        self.ifindex == 0 || self.ifindex == ifindex
    }

    /// Whether a packet is of the class.
    #[inline(always)]
    #[must_use]
    pub fn is_of(&self, ifindex: u32, packet: &Packet) -> bool {
        self.is_of_interface(ifindex)
            && (self.protocol == 0 || self.protocol == u16::from(packet.protocol) + 1)
            && (self.port_sides == 0 || self.has_port(packet))
            && (self.net_sides == 0 || self.has_address(packet))
    }

    #[inline(always)]
    fn has_port(&self, packet: &Packet) -> bool {
        let [a, b, c, d] = packet.ports.to_ne_bytes();
        let within = |port: u16| port >= self.first_port && port <= self.last_port;
        let sides = sides(
            within(u16::from_be_bytes([a, b])),
            within(u16::from_be_bytes([c, d])),
        );
        has_port_numbers(packet.protocol) && sides & self.port_sides != 0
    }

    #[inline(always)]
    fn has_address(&self, packet: &Packet) -> bool {
        let (version, source, destination) = match packet.addresses {
            Addresses::V4(both) => {
                let [source, destination] = halves(both).map(u64::from);
                (4, [source, 0], [destination, 0])
            }
            Addresses::V6([a, b, c, d]) => (6, [a, b], [c, d]),
        };
        let within = |[a, b]: [u64; 2]| {
            (a ^ self.net[0]) & self.mask[0] | (b ^ self.net[1]) & self.mask[1] == 0
        };
        let sides = sides(within(source), within(destination));
        self.version == version && sides & self.net_sides != 0
    }
}

/// Whether packets of the protocol have ports; what ICMP has in their place is none.
#[inline(always)]
#[must_use]
pub fn has_port_numbers(protocol: u8) -> bool {
    matches!(
        protocol,
        protocol::TCP | protocol::UDP | protocol::SCTP | protocol::UDP_LITE | protocol::DCCP
    )
}

/// See [`side`].
#[inline(always)]
fn sides(source: bool, destination: bool) -> u8 {
    let source = if source { side::SOURCE } else { 0 };
    let destination = if destination { side::DESTINATION } else { 0 };
    source | destination
}
