//! Packets that wait until there are enough of them to be accounted at once.

use flowprobe_ebpf::{KeyV4, KeyV6, KeyWide, Packet, flow::Macs};

/// Packets of a burst: as many look-ups as overlap. More would not fit into the first-level cache
/// together with what they look up.
pub const BURST: usize = 64;

/// A packet that waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) key: Place,
    pub(super) hash: u64,
    pub(super) at_ns: u64,
    /// The slot that it most likely belongs to.
    pub(super) guess: Option<u32>,
    pub(super) macs: Macs,
    pub(super) packet: Packet,
}

/// Where the key of a waiting packet is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    V4(KeyV4),
    V6(KeyV6),
    /// In [`Burst::wide`].
    Wide(u32),
    /// There is no packet, only its time.
    None,
}

#[derive(Debug, Default)]
pub(super) struct Burst {
    pub(super) waiting: Vec<Waiting>,
    pub(super) wide: Vec<KeyWide>,
}
