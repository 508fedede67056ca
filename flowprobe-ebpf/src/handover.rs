//! Packets that the program hands over to userspace, by AF_XDP: what it says of each, and how it
//! knows to whom.
//!
//! Each receive queue of an interface has a slot: an element of the map of sockets, and a
//! [`Heartbeat`] of the worker that reads the socket. Where the worker has not given a sign of life
//! for [`STALLED_NS`], packets stay with the kernel's stack.

/// What the program says of a packet, in the [`NOTE_LEN`] octets before its frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Note {
    /// When it came, nanoseconds of CLOCK_MONOTONIC, as exact as the clock of
    /// [`crate::cpu::Cpu::now_ns`].
    pub now_ns: u64,
    /// What it was sampled as: [`crate::sampling::Sampled`].
    pub sampled: u32,
    /// The VLAN tag that stood beside the frame: [`Note::TAGGED`] and its control information, or
    /// 0.
    pub tag: u32,
}

/// Octets of a [`Note`].
pub const NOTE_LEN: usize = size_of::<Note>();

// Metadata of XDP: at most 32 octets, of which there are whole words of 4.
const _: () = assert!(NOTE_LEN == 16 && NOTE_LEN.is_multiple_of(4) && NOTE_LEN <= 32);

impl Note {
    /// In [`Note::tag`]: there was a tag. Its control information has the 16 bits below.
    pub const TAGGED: u32 = 1 << 16;

    /// [`Note::tag`] of a frame with this control information beside it.
    #[inline(always)]
    #[must_use]
    pub fn tag_of(control: Option<u16>) -> u32 {
        match control {
            Some(control) => Self::TAGGED | u32::from(control),
            None => 0,
        }
    }

    /// Control information of the tag beside the frame.
    #[inline(always)]
    #[must_use]
    pub fn control(self) -> Option<u16> {
        (self.tag & Self::TAGGED != 0).then_some(self.tag as u16)
    }
}

/// When the worker of a slot was last seen at work. On a line of its own: each worker writes often.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Heartbeat {
    /// Nanoseconds of CLOCK_MONOTONIC. Userspace writes it.
    pub at_ns: u64,
    /// Zero; fills the line.
    pub pad: [u64; 7],
}

const _: () = assert!(size_of::<Heartbeat>() == 64);

/// So long after its last heartbeat a worker is taken for dead, or hanging. Workers give a sign of
/// life each 100 ms at least, and packets are to pass again within a second.
pub const STALLED_NS: u64 = 500_000_000;

/// Slots, of all queues of all interfaces.
pub const SLOTS: u32 = 1024;

/// The queues of one interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Port {
    /// Index of the interface; 0 where there is none. Userspace writes it last.
    pub ifindex: u32,
    /// Slot of its first queue; those of the others follow.
    pub first_slot: u32,
    /// Queues with a slot.
    pub queues: u32,
    /// Not 0 where what sampling skips is dropped, and not left to the stack.
    pub drop_skipped: u32,
}

const _: () = assert!(size_of::<Port>() == 16);

/// Ports, a power of two.
pub const PORTS: u32 = 256;

/// A port is at its interface's index modulo [`PORTS`], or at one of the places behind that: so many
/// are looked at.
pub const PORT_PLACES: u32 = 8;

/// The n-th place where the port of an interface may be.
#[inline(always)]
#[must_use]
pub fn port_place(ifindex: u32, n: u32) -> u32 {
    ifindex.wrapping_add(n) & (PORTS - 1)
}
