//! flowprobe's own program under test: its settings, its counters, its rings.
//!
//! It is loaded like any other object, with libbpf. What is shared with it is the contract crate.

use std::{
    collections::BTreeMap,
    ops::AddAssign,
    os::fd::BorrowedFd,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use anyhow::{Result, ensure};
use flowprobe::sampling::Sampling;
use flowprobe_ebpf::{
    cpu::Cpu,
    hash::SECRET_WORDS,
    ring::Part,
    sampling::next_random,
    table::{BucketV4, Control, State, WAYS},
};

use crate::{
    dispatcher::Kind,
    mapping::Mapping,
    object_file::{Edits, Loaded},
};

/// Parts in one ring: 8 MiB, so that the drainer may sleep or be descheduled for some
/// milliseconds while each packet evicts a flow.
const RING_PARTS: u32 = 1 << 16;

/// A fixed secret, so that runs can be compared: the same flows meet in the same buckets.
const SECRET_SEED: u64 = 0x666c_6f77_7072_6f62;

/// The loaded program and its memory.
pub(crate) struct Meter {
    loaded: Loaded,
    cpus: Mapping<Cpu>,
    rings: Mapping<Part>,
    flows: Mapping<BucketV4>,
    /// Packets of the parts that were drained.
    drained_packets: AtomicU64,
}

/// Counters of all CPUs together, in packets; `inserted` and `evicted` in flows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) seen: u64,
    pub(crate) unsampled: u64,
    pub(crate) accounted: u64,
    pub(crate) lost: u64,
    pub(crate) ignored: u64,
    pub(crate) inserted: u64,
    /// Parts that went to the ring, single packets included.
    pub(crate) evicted: u64,
    pub(crate) clock_error_max_ns: u64,
    pub(crate) clock_error_sum_ns: u64,
}

impl Meter {
    /// Loads it with room for `max_flows` IPv4 flows on each CPU.
    pub(crate) fn load(
        object: &Path,
        program: &str,
        kind: Kind,
        max_flows: u32,
        sampling: Sampling,
    ) -> Result<Self> {
        let ways = WAYS as u32;
        ensure!(
            max_flows.is_power_of_two() && max_flows >= ways,
            "{max_flows} flows: not a power of two from {ways} on"
        );
        let partitions = u32::try_from(libbpf_rs::num_possible_cpus()?)?;
        let buckets = max_flows / ways;
        let mut seed = SECRET_SEED;
        let secret = [(); SECRET_WORDS].map(|()| next_random(&mut seed));
        let globals = [
            ("PARTITIONS", partitions.to_le_bytes().to_vec()),
            ("BUCKET_MASK_V4", (buckets - 1).to_le_bytes().to_vec()),
            // One bucket: no packet of the benchmark is IPv6.
            ("BUCKET_MASK_V6", vec![0]),
            ("RING_MASK", (RING_PARTS - 1).to_le_bytes().to_vec()),
            (
                "HASH_SECRET",
                secret.iter().flat_map(|word| word.to_le_bytes()).collect(),
            ),
        ];
        let entries = [
            ("FLOWS_V4", partitions * buckets),
            ("FLOWS_V6", partitions),
            ("CPUS", partitions + 1),
            ("RINGS", partitions * RING_PARTS),
        ];
        let edits = Edits {
            globals: owned(globals),
            entries: owned(entries),
        };
        let loaded = Loaded::new(object, program, kind, &edits)?;
        let meter = Self {
            cpus: Mapping::new(loaded.map("CPUS")?)?,
            rings: Mapping::new(loaded.map("RINGS")?)?,
            flows: Mapping::new(loaded.map("FLOWS_V4")?)?,
            drained_packets: AtomicU64::new(0),
            loaded,
        };
        for i in 0..meter.cpus.len() {
            let cpu = meter.cpus.element(i);
            // SAFETY: an element of the map; the program does not run yet.
            unsafe {
                (&raw mut (*cpu).random).write_volatile(next_random(&mut seed));
                (&raw mut (*cpu).gap_scale).write_volatile(sampling.gap_scale());
                (&raw mut (*cpu).sampling).write_volatile(sampling.word(0).0);
            }
        }
        Ok(meter)
    }

    /// The program.
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.loaded.program()
    }

    /// The counters now.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for i in 0..self.cpus.len() {
            counts += Counts::from(&self.cpus.read(i));
        }
        counts
    }

    /// Takes out what is in the rings; returns how many parts that was.
    pub(crate) fn drain(&self) -> u64 {
        let partitions = self.cpus.len() - 1;
        let ring = self.rings.len() / partitions;
        let mut parts = 0;
        for partition in 0..partitions {
            let cpu = self.cpus.element(partition);
            // SAFETY: aligned words of the mapping, which the program writes atomically.
            let (head, tail) = unsafe {
                (
                    AtomicU64::from_ptr(&raw mut (*cpu).ring_head),
                    AtomicU64::from_ptr(&raw mut (*cpu).ring_tail),
                )
            };
            let end = head.load(Ordering::Acquire);
            let start = tail.load(Ordering::Relaxed);
            let mut packets = 0;
            for position in start..end {
                let part = self.rings.read(partition * ring + position as usize % ring);
                packets += part.counters.packets;
            }
            self.drained_packets.fetch_add(packets, Ordering::Relaxed);
            tail.store(end, Ordering::Release);
            parts += end - start;
        }
        parts
    }

    /// Whether every accounted packet since the load is in a flow of the table or was drained.
    /// For a program that does not run, with drained rings.
    pub(crate) fn audit(&self) -> Result<(), String> {
        let mut held = 0;
        for i in 0..self.flows.len() {
            let bucket = self.flows.element(i);
            for way in 0..WAYS {
                // SAFETY: an element of the mapping.
                unsafe {
                    let control = (&raw const (*bucket).control[way]).read_volatile();
                    if Control(control).state() != State::Free {
                        held += (&raw const (*bucket).ways[way].counters.packets).read_volatile();
                    }
                }
            }
        }
        let drained = self.drained_packets.load(Ordering::Relaxed);
        let accounted = self.counts().accounted;
        if held + drained == accounted {
            Ok(())
        } else {
            Err(format!(
                "{accounted} packets accounted, but {held} held and {drained} drained"
            ))
        }
    }
}

fn owned<V, const N: usize>(pairs: [(&str, V); N]) -> BTreeMap<String, V> {
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

impl Counts {
    /// What was added since `earlier`; the largest clock error is that of all time.
    pub(crate) fn since(&self, earlier: &Self) -> Self {
        Self {
            seen: self.seen - earlier.seen,
            unsampled: self.unsampled - earlier.unsampled,
            accounted: self.accounted - earlier.accounted,
            lost: self.lost - earlier.lost,
            ignored: self.ignored - earlier.ignored,
            inserted: self.inserted - earlier.inserted,
            evicted: self.evicted - earlier.evicted,
            clock_error_max_ns: self.clock_error_max_ns,
            clock_error_sum_ns: self.clock_error_sum_ns - earlier.clock_error_sum_ns,
        }
    }
}

impl From<&Cpu> for Counts {
    fn from(cpu: &Cpu) -> Self {
        Self {
            seen: cpu.seen.packets,
            unsampled: cpu.unsampled.packets,
            accounted: cpu.accounted.packets,
            lost: cpu.lost.iter().map(|tally| tally.packets).sum(),
            ignored: cpu.ignored.iter().map(|tally| tally.packets).sum(),
            inserted: cpu.inserted,
            evicted: cpu.evicted + cpu.single,
            clock_error_max_ns: cpu.clock_error_max_ns,
            clock_error_sum_ns: cpu.clock_error_sum_ns,
        }
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.seen += other.seen;
        self.unsampled += other.unsampled;
        self.accounted += other.accounted;
        self.lost += other.lost;
        self.ignored += other.ignored;
        self.inserted += other.inserted;
        self.evicted += other.evicted;
        self.clock_error_max_ns = self.clock_error_max_ns.max(other.clock_error_max_ns);
        self.clock_error_sum_ns += other.clock_error_sum_ns;
    }
}
