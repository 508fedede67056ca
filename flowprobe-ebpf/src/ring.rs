//! The rings that carry parts of flows from the program to userspace.
//!
//! One ring per CPU, single producer (the program on that CPU), single consumer (the drainer):
//! an array map with a run of [`Part`]s per partition. The producer's position is in
//! [`crate::cpu::Cpu::ring_head`], the consumer's in [`crate::cpu::Cpu::ring_tail`]; both count
//! parts since the start and never wrap in practice (2⁶⁴).

use crate::{
    flow::{Counters, Macs, Marks},
    key::MAX_WORDS,
};

/// Which key a part has.
pub mod family {
    /// The first three words are a `KeyV4`.
    pub const V4: u16 = 4;
    /// The first six are a `KeyV6`.
    pub const V6: u16 = 6;
    /// All are a `KeyWide`.
    pub const WIDE: u16 = 15;
}

/// Why a part is in the ring.
pub mod cause {
    /// The bucket was full: the flow goes on in userspace.
    pub const EVICTED: u16 = 0;
    /// No way could be had: this is one packet.
    pub const SINGLE: u16 = 1;
    /// A SYN followed FIN or RST: the flow is over.
    pub const RESTARTED: u16 = 2;
}

/// A part of a flow: 184 octets.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Part {
    /// Words of the key. Those beyond its family's are left over from other parts.
    pub key: [u64; MAX_WORDS],
    /// Counts and times.
    pub counters: Counters,
    /// Flags, TTLs, label, options.
    pub marks: Marks,
    /// MAC addresses.
    pub macs: Macs,
    /// See [`family`].
    pub family: u16,
    /// See [`cause`].
    pub cause: u16,
}

const _: () = assert!(size_of::<Part>() == 184);
