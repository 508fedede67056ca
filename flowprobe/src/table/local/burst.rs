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
    /// The slot that it most likely belongs to, or [`NO_GUESS`].
    pub(super) guess: u32,
    pub(super) macs: Macs,
    rest: Rest,
}

/// Less than 128 octets are copied without a call.
const _: () = assert!(size_of::<Waiting>() < 128);

/// No slot: there are never so many.
pub(super) const NO_GUESS: u32 = u32::MAX;

/// What there is to know of a packet beside its key.
#[derive(Clone, Copy, Debug, Default)]
struct Rest {
    octets: u32,
    flow_label: u32,
    options: u32,
    ttl: u8,
    tcp_flags: u8,
    fragment_flags: u8,
    priorities: u8,
}

impl Waiting {
    #[inline(always)]
    pub(super) fn new(key: Place, hash: u64, packet: &Packet, macs: Macs, at_ns: u64) -> Self {
        Self {
            key,
            hash,
            at_ns,
            guess: NO_GUESS,
            macs,
            rest: Rest {
                octets: packet.octets,
                flow_label: packet.flow_label,
                options: packet.options,
                ttl: packet.ttl,
                tcp_flags: packet.tcp_flags,
                fragment_flags: packet.fragment_flags,
                priorities: packet.priorities,
            },
        }
    }

    /// The packet, without what is in its key.
    #[inline(always)]
    pub(super) fn packet(&self) -> Packet {
        Packet {
            octets: self.rest.octets,
            flow_label: self.rest.flow_label,
            options: self.rest.options,
            ttl: self.rest.ttl,
            tcp_flags: self.rest.tcp_flags,
            fragment_flags: self.rest.fragment_flags,
            priorities: self.rest.priorities,
            ..Packet::EMPTY
        }
    }
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
