//! What hash-based selection hashes: of packets what is the same at every hop and differs from packet
//! to packet, so that all sensors along a path select the same ones (RFC 5475 §6.2, trajectory
//! sampling); of flows their key.
//!
//! Octets of a packet's content, for [`Bob`]:
//!
//! | | IPv4 | IPv6 |
//! |---|---|---|
//! | addresses | source, destination: 8 | source, destination: 32 |
//! | identification | 2 | |
//! | protocol, the last next header; 0 for a later fragment | 1, then a zero | 1, then three zeros |
//! | payload behind all headers of IP | 24 | 24 |
//!
//! Hops change type of service, TTL, options, extension headers, the flow label and checksums, and
//! cards fill in the checksums of TCP, UDP and ICMP late, so none of that is in it; nor is the
//! destination, but zeros, where a source route or a routing header changes it on the way. Payload
//! beyond the packet's end counts as zeros, and so does what a driver puts into a further buffer.

use crate::{
    frame::Frame,
    parse::{Addresses, Fragment, Packet, Parsed, network::extension},
    wire::{ipv4, protocol},
};

/// Octets of the payload that are hashed (IE 328, hashIPPayloadSize).
pub const PAYLOAD: u32 = 24;

/// The hash function BOB (RFC 5475 Appendix A.2; Jenkins, "A Hash Function for Hash Table Lookup",
/// 1997), over a number of octets that is a multiple of 12.
#[derive(Clone, Copy, Debug)]
pub struct Bob {
    a: u32,
    b: u32,
    c: u32,
    octets: u32,
}

impl Bob {
    /// The golden ratio, an arbitrary value.
    const START: u32 = 0x9e37_79b9;

    /// A hash with this initialiser (IE 334, hashInitialiserValue).
    #[inline(always)]
    #[must_use]
    pub fn new(initialiser: u32) -> Self {
        Self {
            a: Self::START,
            b: Self::START,
            c: initialiser,
            octets: 0,
        }
    }

    /// Takes in 12 octets, as words with the first octet lowest.
    #[inline(always)]
    pub fn take(&mut self, [x, y, z]: [u32; 3]) {
        self.a = self.a.wrapping_add(x);
        self.b = self.b.wrapping_add(y);
        self.c = self.c.wrapping_add(z);
        self.octets += 12;
        self.mix();
    }

    /// Takes in two IPv6 addresses, and one word more.
    #[inline(always)]
    fn take_v6(&mut self, addresses: [u64; 4], last: u32) {
        let [a, b, c, d] = addresses.map(halves);
        self.take([a[0], a[1], b[0]]);
        self.take([b[1], c[0], c[1]]);
        self.take([d[0], d[1], last]);
    }

    /// The hash of what was taken in.
    #[inline(always)]
    #[must_use]
    pub fn finish(mut self) -> u32 {
        self.c = self.c.wrapping_add(self.octets);
        self.mix();
        self.c
    }

    #[inline(always)]
    fn mix(&mut self) {
        let Self {
            mut a,
            mut b,
            mut c,
            ..
        } = *self;
        a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 13);
        b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 8);
        c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 13);
        a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 12);
        b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 16);
        c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 5);
        a = a.wrapping_sub(b).wrapping_sub(c) ^ (c >> 3);
        b = b.wrapping_sub(c).wrapping_sub(a) ^ (a << 10);
        c = c.wrapping_sub(a).wrapping_sub(b) ^ (b >> 15);
        (self.a, self.b, self.c) = (a, b, c);
    }
}

/// Both halves of a word of memory, with their first octets lowest.
#[inline(always)]
pub(crate) fn halves(word: u64) -> [u32; 2] {
    let word = u64::from_le_bytes(word.to_ne_bytes());
    [word as u32, (word >> 32) as u32]
}

/// The hash of the content of the packet that was found in `frame`.
#[inline(always)]
#[must_use]
pub fn packet<F: Frame + ?Sized>(frame: &F, parsed: &Parsed, initialiser: u32) -> u32 {
    let Parsed {
        packet,
        fragment,
        place,
        ..
    } = parsed;
    let header = frame.forget(place.header as usize);
    let payload = frame.forget(place.payload as usize);
    let end = frame.forget(header + packet.octets as usize);
    // What a later fragment is said to be depends on whether its first one was seen.
    let is_later = fragment.part == Fragment::LATER;
    let protocol = if is_later {
        0
    } else {
        u32::from(packet.protocol)
    };
    let mut hash = Bob::new(initialiser);
    match packet.addresses {
        Addresses::V4(both) => {
            let [source, mut destination] = halves(both);
            if packet.options & SOURCE_ROUTES != 0 {
                destination = 0;
            }
            let id = frame.read(header + ipv4::ID).map_or(0, u16::from_le_bytes);
            hash.take([source, destination, u32::from(id) | protocol << 16]);
        }
        Addresses::V6([a, b, mut c, mut d]) => {
            if packet.options & extension::ROUTING != 0 {
                (c, d) = (0, 0);
            }
            hash.take_v6([a, b, c, d], protocol);
        }
    }
    // Where the checksum of the transport is.
    let (checksum, others) = match packet.protocol {
        _ if is_later => (NONE, 0),
        protocol::TCP => (4, 0xffff_0000),
        protocol::UDP | protocol::UDP_LITE => (1, 0x0000_ffff),
        protocol::ICMP | protocol::ICMPV6 => (0, 0x0000_ffff),
        _ => (NONE, 0),
    };
    let word = |i: usize| {
        let at = payload + 4 * i;
        // The last word may not be whole: then it is read from before, so that what comes behind the
        // packet is not.
        let start = if at + 4 > end { end - 4 } else { at };
        let word = match frame.read(start) {
            Some(octets) if at < end => u32::from_le_bytes(octets),
            _ => 0,
        };
        // Forgotten, or the compiler shifts before it has looked whether there is a word.
        let word = frame.forget(word as usize) as u32 >> ((8 * (at - start)) & 31);
        if i == checksum { word & others } else { word }
    };
    hash.take([word(0), word(1), word(2)]);
    hash.take([word(3), word(4), word(5)]);
    hash.finish()
}

/// Loose and strict source route (RFC 791 §3.1), as bits of [`Packet::options`].
const SOURCE_ROUTES: u32 = 1 << (3 ^ 0x18) | 1 << (9 ^ 0x18);

/// No word of the payload.
const NONE: usize = usize::MAX;

/// The hash of a flow: of addresses, ports and protocol, and the same for the other direction, so
/// that a conversation is selected as a whole. Of fragments whose first one is not known nobody knows
/// the ports: they are selected by themselves.
#[inline(always)]
#[must_use]
pub fn flow(packet: &Packet, initialiser: u32) -> u32 {
    let ports = match packet.protocol {
        // Type and code differ between request and reply.
        protocol::ICMP | protocol::ICMPV6 => 0,
        _ => u32::from_le_bytes(packet.ports.to_ne_bytes()),
    };
    let (source_port, destination_port) = (ports & 0xffff, ports >> 16);
    let mut hash = Bob::new(initialiser);
    // The end with the lesser number first. Of IPv6 that is a digest of the address: two addresses
    // with the same one, as nobody has by chance, would be selected each way for itself.
    let (source, destination) = match packet.addresses {
        Addresses::V4(both) => {
            let [source, destination] = halves(both);
            (u64::from(source), u64::from(destination))
        }
        Addresses::V6([a, b, c, d]) => (digest(a, b), digest(c, d)),
    };
    let swap = (destination, destination_port) < (source, source_port);
    let ports = if swap {
        destination_port | source_port << 16
    } else {
        ports
    };
    match packet.addresses {
        Addresses::V4(both) => {
            let [source, destination] = halves(both);
            let (x, y) = if swap {
                (destination, source)
            } else {
                (source, destination)
            };
            hash.take([x, y, ports]);
        }
        Addresses::V6([a, b, c, d]) => {
            let both = if swap { [c, d, a, b] } else { [a, b, c, d] };
            hash.take_v6(both, ports);
        }
    }
    hash.take([u32::from(packet.protocol), 0, 0]);
    hash.finish()
}

#[inline(always)]
fn digest(a: u64, b: u64) -> u64 {
    a ^ b.rotate_left(32).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}
