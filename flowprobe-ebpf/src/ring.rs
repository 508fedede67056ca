//! The rings that carry parts of flows from the program to userspace.
//!
//! One ring per CPU, single producer (the program on that CPU), single consumer (the drainer):
//! an array map with a run of [`Part`]s per partition. The producer's position is in
//! [`crate::cpu::Cpu::ring_head`], the consumer's in [`crate::cpu::Cpu::ring_tail`]; both count
//! parts since the start and never wrap in practice (2⁶⁴).

use crate::flow::{Counters, Macs, Marks};

/// Which key a part has.
pub mod family {
    /// The first three words are a `KeyV4`.
    pub const V4: u32 = 4;
    /// A `KeyV6`.
    pub const V6: u32 = 6;
}

/// Why a part is in the ring.
pub mod cause {
    /// The bucket was full: the flow goes on in userspace.
    pub const EVICTED: u32 = 0;
    /// No way could be had: this is one packet.
    pub const SINGLE: u32 = 1;
    /// A SYN followed FIN or RST: the flow is over.
    pub const RESTARTED: u32 = 2;
}

/// A part of a flow: 128 octets.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Part {
    /// Words of the key; the last three are 0 for IPv4.
    pub key: [u64; 6],
    /// Counts and times.
    pub counters: Counters,
    /// Flags, TTLs, label.
    pub marks: Marks,
    /// MAC addresses.
    pub macs: Macs,
    /// Zero.
    pub macs_pad: u32,
    /// See [`family`].
    pub family: u32,
    /// See [`cause`].
    pub cause: u32,
    /// The hash of the key, so that the drainer need not compute it.
    pub hash: u64,
    /// Zero.
    pub pad: u64,
}

const _: () = assert!(size_of::<Part>() == 128);
