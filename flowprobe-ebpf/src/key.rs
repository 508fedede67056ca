//! The flow key: what makes two packets one flow.
//!
//! A key is kept as 64-bit words, so that the program compares it in three (IPv4) or six (IPv6)
//! instructions. Addresses and ports are memory images of the wire, in network byte order.
//! Packets with several VLAN tags, with MPLS labels or out of a tunnel have a wide key, of either
//! version.

use crate::{
    hash::{SECRET_WORDS, hash_by},
    parse::{AROUND_WORDS, Addresses, Around, Packet},
    sampling::Sampled,
};

/// Said with the index of an interface, which is less (the kernel's is an `int`): packets that go out
/// there. Together they are the observation point (RFC 7011 §2): a packet that comes in on one
/// interface and goes out on another is seen at two of them, and is in two flows.
pub const EGRESS: u32 = 1 << 31;

/// Words of the longest key.
pub const MAX_WORDS: usize = 6 + AROUND_WORDS;

/// The last two words of both keys: ports, protocol, VLAN and traffic class; observation point (see
/// [`EGRESS`]) and what the packet was sampled as. `join` puts the halves of a word together.
#[inline(always)]
fn tail(packet: &Packet, point: u32, sampled: Sampled, join: impl Fn(u64, u32) -> u64) -> [u64; 2] {
    let transport = u64::from(packet.protocol) << 32
        | u64::from(packet.vlan) << 40
        | u64::from(packet.traffic_class) << 56;
    [
        join(transport, packet.ports),
        join(u64::from(sampled.0) << 32, point),
    ]
}

/// Joins the halves of a word.
#[inline(always)]
fn join(upper: u64, lower: u32) -> u64 {
    upper | u64::from(lower)
}

/// Keeps the compiler from loading many words before it stores the first: a program has registers
/// for a few, and its stack is small.
#[inline(always)]
pub(crate) fn one_by_one() {
    core::sync::atomic::compiler_fence(core::sync::atomic::Ordering::SeqCst);
}

/// A flow key of either family.
pub trait Key: Copy {
    /// Whether both are the same flow. Unlike `==` this never becomes a call of `memcmp`, which
    /// BPF does not have.
    fn same(&self, other: &Self) -> bool;
    /// The hash that places the flow, under the secret whose words `secret` gives.
    fn hash_by(&self, secret: impl Fn(usize) -> u64) -> u64;
    /// The hash that places the flow, under `secret`.
    fn hash(&self, secret: &[u64; SECRET_WORDS]) -> u64 {
        self.hash_by(|i| secret[i])
    }
    /// Writes the words to the start of `to`; the rest stays what it is.
    fn write(&self, to: &mut [u64; MAX_WORDS]);
    /// The key whose words these begin with.
    fn read(from: &[u64; MAX_WORDS]) -> Self;
}

macro_rules! key {
    ($(#[$doc:meta])* $name:ident, $words:expr, $transport:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
        #[repr(C)]
        pub struct $name {
            /// Source and destination address as on the wire, then the two words of the rest.
            pub words: [u64; $words],
        }

        impl Key for $name {
            #[inline(always)]
            fn same(&self, other: &Self) -> bool {
                let mut difference = 0;
                let mut i = 0;
                while i < $words {
                    difference |= self.words[i] ^ other.words[i];
                    i += 1;
                }
                difference == 0
            }

            #[inline(always)]
            fn hash_by(&self, secret: impl Fn(usize) -> u64) -> u64 {
                hash_by(&self.words, secret)
            }

            #[inline(always)]
            fn write(&self, to: &mut [u64; MAX_WORDS]) {
                let mut i = 0;
                while i < $words {
                    to[i] = self.words[i];
                    one_by_one();
                    i += 1;
                }
            }

            fn read(from: &[u64; MAX_WORDS]) -> Self {
                Self { words: core::array::from_fn(|i| from[i]) }
            }
        }

        impl $name {
            const TRANSPORT: usize = $transport;
            const PLACE: usize = $transport + 1;

            /// Both ports as on the wire, as one word of memory.
            #[inline(always)]
            #[must_use]
            pub fn ports(&self) -> u32 {
                self.words[Self::TRANSPORT] as u32
            }

            /// Source port, 0 where the protocol has none.
            #[must_use]
            pub fn source_port(&self) -> u16 {
                let [a, b, _, _] = self.ports().to_ne_bytes();
                u16::from_be_bytes([a, b])
            }

            /// Destination port; for ICMP type·256 + code.
            #[must_use]
            pub fn destination_port(&self) -> u16 {
                let [_, _, a, b] = self.ports().to_ne_bytes();
                u16::from_be_bytes([a, b])
            }

            /// IP protocol; the last next header of IPv6.
            #[must_use]
            pub fn protocol(&self) -> u8 {
                (self.words[Self::TRANSPORT] >> 32) as u8
            }

            /// IPv4 type of service or IPv6 traffic class, the whole octet.
            #[inline(always)]
            #[must_use]
            pub fn traffic_class(&self) -> u8 {
                (self.words[Self::TRANSPORT] >> 56) as u8
            }

            /// Identifier of the outer VLAN, 0 where the frame has no tag.
            #[must_use]
            pub fn vlan(&self) -> u16 {
                (self.words[Self::TRANSPORT] >> 40) as u16
            }

            /// Index of the interface at which the packet was seen.
            #[must_use]
            pub fn ifindex(&self) -> u32 {
                self.words[Self::PLACE] as u32 & !EGRESS
            }

            /// Whether it went out there; else it came in.
            #[must_use]
            pub fn is_egress(&self) -> bool {
                self.words[Self::PLACE] as u32 & EGRESS != 0
            }

            /// Interface on which it came in, 0 where that is not known.
            #[must_use]
            pub fn ingress(&self) -> u32 {
                if self.is_egress() { 0 } else { self.ifindex() }
            }

            /// Interface on which it went out, 0 where that is not known.
            #[must_use]
            pub fn egress(&self) -> u32 {
                if self.is_egress() { self.ifindex() } else { 0 }
            }

            /// Makes it a flow that was sampled so.
            pub fn set_sampled(&mut self, sampled: Sampled) {
                let place = self.words[Self::PLACE] & u64::from(u32::MAX);
                self.words[Self::PLACE] = place | u64::from(sampled.0) << 32;
            }

            /// What it was sampled as: a flow never spans two classes or two sampling rates.
            #[must_use]
            pub fn sampled(&self) -> Sampled {
                Sampled((self.words[Self::PLACE] >> 32) as u32)
            }
        }
    };
}

key!(
    /// Key of an IPv4 flow.
    KeyV4,
    3,
    1
);
key!(
    /// Key of an IPv6 flow.
    KeyV6,
    6,
    4
);
key!(
    /// Key of a flow of either version with several VLAN tags, MPLS labels or a tunnel around it.
    KeyWide,
    MAX_WORDS,
    4
);

/// An octet string of `N` octets at `start` of the memory image of `words`.
#[inline(always)]
fn octets<const N: usize>(words: &[u64], start: usize) -> [u8; N] {
    core::array::from_fn(|i| {
        let at = start + i;
        words[at / 8].to_ne_bytes()[at % 8]
    })
}

macro_rules! addresses {
    ($name:ident, $len:literal) => {
        impl $name {
            /// Octets of one address.
            pub const ADDRESS_LEN: usize = $len;

            /// Source address, in network order.
            #[must_use]
            pub fn source(&self) -> [u8; $len] {
                octets(&self.words, 0)
            }

            /// Destination address, in network order.
            #[must_use]
            pub fn destination(&self) -> [u8; $len] {
                octets(&self.words, $len)
            }
        }
    };
}

addresses!(KeyV4, 4);
addresses!(KeyV6, 16);

impl KeyWide {
    /// The key of a packet and what is around it.
    #[must_use]
    pub fn new(packet: &Packet, around: &Around, point: u32, sampled: Sampled) -> Self {
        let mut key = Self::default();
        key.set(packet, around, point, sampled);
        key
    }

    /// Becomes the key of a packet and what is around it, word by word.
    #[inline(always)]
    pub fn set(&mut self, packet: &Packet, around: &Around, point: u32, sampled: Sampled) {
        let addresses = match packet.addresses {
            Addresses::V4(both) => [both, 0, 0, 0],
            Addresses::V6(words) => words,
        };
        let mut i = 0;
        while i < 4 {
            self.words[i] = addresses[i];
            i += 1;
        }
        [self.words[4], self.words[5]] = tail(packet, point, sampled, join);
        one_by_one();
        let mut i = 0;
        while i < AROUND_WORDS {
            self.words[6 + i] = around.words()[i];
            one_by_one();
            i += 1;
        }
    }

    /// A key of packets with nothing around them but the VLAN tag that it may name.
    fn of([a, b, c, d, transport, place]: [u64; 6], version: u8) -> Self {
        let around = Around {
            version,
            ..Around::EMPTY
        };
        let [e, f, g, h, i, j, k, l, m] = *around.words();
        Self {
            words: [a, b, c, d, transport, place, e, f, g, h, i, j, k, l, m],
        }
    }

    /// What is around the packets.
    #[must_use]
    pub fn around(&self) -> Around {
        let [_, _, _, _, _, _, around @ ..] = self.words;
        Around::from_words(around)
    }

    /// Source and destination address, in network order, where the packets are IPv4.
    #[must_use]
    pub fn v4(&self) -> Option<[[u8; 4]; 2]> {
        (self.around().version == 4).then(|| [octets(&self.words, 0), octets(&self.words, 4)])
    }

    /// Source and destination address, in network order, where the packets are IPv6.
    #[must_use]
    pub fn v6(&self) -> Option<[[u8; 16]; 2]> {
        (self.around().version == 6).then(|| [octets(&self.words, 0), octets(&self.words, 16)])
    }
}

impl KeyV4 {
    /// The key of a packet with the address words `addresses`.
    #[inline(always)]
    #[must_use]
    pub fn new(addresses: u64, packet: &Packet, point: u32, sampled: Sampled) -> Self {
        Self::joined(addresses, packet, point, sampled, join)
    }

    /// The same; `join` puts the halves of a word together, the upper one as it is and the lower one
    /// below.
    #[inline(always)]
    #[must_use]
    pub fn joined(
        addresses: u64,
        packet: &Packet,
        point: u32,
        sampled: Sampled,
        join: impl Fn(u64, u32) -> u64,
    ) -> Self {
        let [transport, place] = tail(packet, point, sampled, join);
        Self {
            words: [addresses, transport, place],
        }
    }
}

impl KeyV4 {
    /// The same key in the form that has room for what is around the packets.
    #[must_use]
    pub fn widened(&self) -> KeyWide {
        let [both, transport, place] = self.words;
        KeyWide::of([both, 0, 0, 0, transport, place], 4)
    }
}

impl KeyV6 {
    /// The same key in the form that has room for what is around the packets.
    #[must_use]
    pub fn widened(&self) -> KeyWide {
        KeyWide::of(self.words, 6)
    }

    /// The key of a packet with the address words `addresses`.
    #[inline(always)]
    #[must_use]
    pub fn new(addresses: [u64; 4], packet: &Packet, point: u32, sampled: Sampled) -> Self {
        let [a, b, c, d] = addresses;
        let [transport, place] = tail(packet, point, sampled, join);
        Self {
            words: [a, b, c, d, transport, place],
        }
    }
}

const _: () = assert!(size_of::<KeyV4>() == 24 && size_of::<KeyV6>() == 48);
