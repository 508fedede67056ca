//! What the kernel half and userspace agree on: the parser, the flow key, the statistics of a
//! flow, the layout of the shared memory they are kept in, and the arithmetic of sampling.
//!
//! Everything here runs unchanged in the XDP program and in host tests. It allocates nothing,
//! reads no clock and does no I/O. The programs themselves are in `main.rs`.
#![no_std]

#[cfg(test)]
extern crate std;

pub mod class;
pub mod content;
pub mod cpu;
pub mod flow;
pub mod fragments;
pub mod frame;
pub mod handover;
pub mod hash;
pub mod key;
pub mod macs;
pub mod parse;
pub mod ring;
pub mod rx_vlan;
pub mod sampling;
pub mod skip;
pub mod table;
pub mod wire;

pub use flow::{Counters, Marks};
pub use frame::Frame;
pub use key::{KeyV4, KeyV6, KeyWide};
pub use parse::{Addresses, Around, Fragment, Packet, Parsed, Tunnels, parse, parse_at};
pub use skip::{Lost, Skip};
