//! What each CPU keeps for itself: the ledger's counters, the clock, the sampler, its ring.
//!
//! One element per possible CPU in an array map that userspace maps too. Only the program on
//! that CPU writes it while it runs, but for [`Cpu::ring_tail`] and the word of the sampler. Userspace
//! sets the partition and the sampler before anything is attached.

use crate::{
    sampling::Sampler,
    skip::{Lost, Skip},
};

/// Packets and the octets of their frames, from the first link-layer octet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Octets of the frames.
    pub octets: u64,
}

impl Tally {
    /// Counts one frame.
    #[inline(always)]
    pub fn count(&mut self, frame_octets: u64) {
        self.count_all(1, frame_octets);
    }

    /// Counts the frames of a super-frame.
    #[inline(always)]
    pub fn count_all(&mut self, frames: u64, octets: u64) {
        self.packets += frames;
        self.octets += octets;
    }
}

/// Counters of all CPUs without a partition, added to with atomic instructions.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Stray {
    /// Seen, and lost as [`Lost::NoPartition`].
    pub seen: Tally,
}

/// State of one CPU.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub struct Cpu {
    // First cache line: what every packet touches.
    /// Counted at the hook's entry, never derived.
    pub seen: Tally,
    /// In a flow: in a table, the ring or userspace.
    pub accounted: Tally,
    /// Octets of the IP packets accounted, which the flow records add up to.
    pub accounted_ip_octets: u64,
    /// The tick at which `now_ns` was read.
    pub jiffies: u64,
    /// The clock that packets are stamped with, nanoseconds of CLOCK_MONOTONIC.
    pub now_ns: u64,
    /// Index of the first bucket of this partition, in the tables of IPv4 and IPv6. Userspace sets
    /// it.
    pub first_bucket: u32,
    /// Number of this partition. Userspace sets it.
    pub partition: u32,

    // Second line: sampling.
    /// What sampling skipped.
    pub unsampled: Tally,
    /// The sampler of all packets, where they are one class.
    pub sampler: Sampler,
    /// Parts written to the ring.
    pub ring_head: u64,
    /// Flows inserted into the tables, but for those that took the place of one that had ended.
    pub inserted: u64,

    // Cold from here on.
    /// Flows moved to the ring because their bucket was full.
    pub evicted: u64,
    /// Belongs to a flow but could not be accounted, by [`Lost`].
    pub lost: [Tally; Lost::COUNT],
    /// Belongs to no flow, by [`Skip`].
    pub ignored: [Tally; Skip::COUNT],
    /// What of `seen` went out, and did not come in.
    pub seen_out: Tally,
    /// Handed over to userspace, where what becomes of them is counted.
    pub handed: Tally,
    /// Packets that went through the ring by themselves.
    pub single: u64,
    /// Later fragments whose first one was not known: accounted in the flow with ports 0.
    pub fragment_orphans: u64,
    /// Largest age of the clock seen, nanoseconds (test builds with `check-clock` only).
    pub clock_error_max_ns: u64,
    /// Sum of the ages of the clock, nanoseconds (test builds with `check-clock` only).
    pub clock_error_sum_ns: u64,
    /// Zero; fills the cache line.
    pub pad: [u64; CPU_PAD],

    /// A packet on its way through the program; see `Scratch` there.
    pub scratch: [u64; SCRATCH_WORDS],

    /// Parts that userspace has read from the ring, on a line of its own.
    pub ring_tail: u64,
    /// Zero; fills the cache line.
    pub tail_pad: [u64; 7],
}

/// Words of [`Cpu::scratch`].
pub const SCRATCH_WORDS: usize = 56;

/// Words to fill the last of the cold lines.
const CPU_PAD: usize = 8 - (2 * (Lost::COUNT + Skip::COUNT + 2) + 5 + COLD_START) % 8;

/// Words on the line that the cold ones begin on.
const COLD_START: usize = 4;

/// Packets between two readings of the clock within one tick, a power of two. A VM's jiffies
/// stall where the CPU that keeps them is descheduled.
pub const CLOCK_PACKETS: u64 = 64;

const _: () = assert!(core::mem::offset_of!(Cpu, unsampled) == 64);
const _: () = assert!(core::mem::offset_of!(Cpu, evicted) % 64 == 8 * COLD_START);
const _: () = assert!(core::mem::offset_of!(Cpu, ring_tail) % 64 == 0);
