//! flowprobe's own program under test, loaded through the library as `flowprobe run` does.

use std::{
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use anyhow::Result;
use flowprobe::{
    load::{Kernel, Options, RING_PARTS},
    sampling::Sampling,
    table::{Shared, held::in_tables},
};
use flowprobe_ebpf::Tunnels;

use crate::dispatcher::Kind;

/// The loaded program and the memory it shares.
pub(crate) struct Meter {
    program: OwnedFd,
    shared: Arc<Shared>,
    /// Packets of the parts that were drained.
    drained_packets: AtomicU64,
}

/// Counters of all CPUs together, in packets, but for `evicted`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) seen: u64,
    pub(crate) unsampled: u64,
    pub(crate) accounted: u64,
    pub(crate) lost: u64,
    pub(crate) ignored: u64,
    /// Parts that went to the ring: flows, and packets by themselves.
    pub(crate) evicted: u64,
}

impl Meter {
    /// Loads it with room for `max_flows` flows on each CPU.
    pub(crate) fn load(
        object: &[u8],
        kind: Kind,
        max_flows: u32,
        sampling: Sampling,
        tunnels: Tunnels,
    ) -> Result<Self> {
        let options = Options {
            max_flows,
            partitions: u32::try_from(libbpf_rs::num_possible_cpus()?)?,
            ring_parts: RING_PARTS,
            sampling,
            classes: &[],
            sample_key: 0,
            shadow: None,
            tunnels,
            dedup: None,
        };
        let mut kernel = Kernel::load(object, &options)?;
        let program = kernel.program(kind == Kind::XdpFrags)?;
        Ok(Self {
            program: program.fd()?.as_fd().try_clone_to_owned()?,
            shared: Arc::clone(kernel.shared()),
            drained_packets: AtomicU64::new(0),
        })
    }

    /// The program.
    pub(crate) fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// Flows that it has room for.
    pub(crate) fn max_flows(&self) -> u32 {
        self.shared.geometry().max_flows()
    }

    /// The memory shared with it.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The same, to be kept.
    pub(crate) fn share(&self) -> Arc<Shared> {
        Arc::clone(&self.shared)
    }

    /// The counters now.
    pub(crate) fn counts(&self) -> Counts {
        let totals = self.shared.totals();
        Counts {
            seen: totals.seen.packets,
            unsampled: totals.unsampled.packets,
            accounted: totals.accounted.packets,
            lost: totals.lost.iter().map(|tally| tally.packets).sum(),
            ignored: totals.ignored.iter().map(|tally| tally.packets).sum(),
            evicted: totals.evicted + totals.single,
        }
    }

    /// Takes out what is in the rings; returns how many parts that was. For one thread at a time.
    pub(crate) fn drain(&self) -> u64 {
        let mut parts = 0;
        for cpu in 0..self.shared.geometry().partitions {
            let (start, end) = (self.shared.ring_tail(cpu), self.shared.ring_head(cpu));
            let flows = (start..end).map(|position| self.shared.ring_part(cpu, position));
            let packets: u64 = flows.map(|flow| flow.counters.packets).sum();
            self.drained_packets.fetch_add(packets, Ordering::Relaxed);
            self.shared.set_ring_tail(cpu, end);
            parts += end - start;
        }
        parts
    }

    /// Whether all of `sent` packets since the load were accounted or left out by sampling, and
    /// each one accounted is in a flow of the table or was drained. For a program that does not
    /// run any more. The error says what is wrong.
    pub(crate) fn verify(&self, sent: u64) -> Result<(), String> {
        self.drain();
        let counts = self.counts();
        if counts.seen != sent || counts.accounted + counts.unsampled != sent {
            return Err(format!(
                "of {sent} packets {} seen, {} accounted, {} unsampled, {} lost, {} ignored",
                counts.seen, counts.accounted, counts.unsampled, counts.lost, counts.ignored
            ));
        }
        let (held, drained) = (
            in_tables(&self.shared).packets,
            self.drained_packets.load(Ordering::Relaxed),
        );
        if held + drained != counts.accounted {
            return Err(format!(
                "{} packets accounted, but {held} held and {drained} drained",
                counts.accounted
            ));
        }
        Ok(())
    }
}
