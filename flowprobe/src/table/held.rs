//! Counts what is in the tables: the ledger's `held`, which is nothing after a clean end. What is
//! sampled beside the metering of everything is no part of it.

use flowprobe_ebpf::{
    Counters,
    sampling::SHADOW_CLASS,
    table::{State, WAYS, Way},
};

use std::sync::Arc;

use crate::{
    ledger::Books,
    record::Volume,
    table::{
        Overflow, Shared,
        shared::{Slot, Table, Totals},
    },
};

/// Everything in the kernel's tables, the rings and userspace. Exact while the program is
/// detached; otherwise within what is in flight.
#[must_use]
pub fn held(shared: &Shared, overflow: &Overflow) -> Volume {
    let mut volume = in_tables(shared);
    for cpu in 0..shared.geometry().cpus() {
        for position in shared.ring_tail(cpu)..shared.ring_head(cpu) {
            let counters = shared.ring_part(cpu, position).counters;
            volume += flow(&counters);
        }
    }
    for shard in 0..overflow.shards() {
        for kept in overflow.shard(shard).flows() {
            if kept.key.sampled().class() != SHADOW_CLASS {
                volume += flow(&kept.counters);
            }
        }
    }
    volume
}

/// The program, and the flows in its tables and in userspace.
pub struct Kept {
    /// Its memory.
    pub shared: Arc<Shared>,
    /// Flows that its tables had no room for.
    pub overflow: Arc<Overflow>,
}

impl Books for Kept {
    fn totals(&self) -> Totals {
        self.shared.totals()
    }

    fn held(&self) -> Volume {
        held(&self.shared, &self.overflow)
    }
}

/// The same of the kernel's tables alone.
#[must_use]
pub fn in_tables(shared: &Shared) -> Volume {
    let mut volume = Volume::default();
    let geometry = shared.geometry();
    let partitions = geometry.cpus();
    for bucket in 0..geometry.buckets {
        count(&shared.v4, partitions, bucket, &mut volume);
        count(&shared.v6, partitions, bucket, &mut volume);
    }
    for bucket in 0..geometry.wide_buckets() {
        count(&shared.wide, partitions, bucket, &mut volume);
    }
    volume
}

fn count<W: Way + Copy>(table: &Table<W>, partitions: u32, bucket: u32, volume: &mut Volume) {
    for partition in 0..partitions {
        for way in 0..WAYS as u32 {
            let slot = Slot {
                partition,
                bucket,
                way,
            };
            if table.load(slot).state() != State::Free {
                *volume += flow(&table.way(slot).counters());
            }
        }
    }
}

fn flow(counters: &Counters) -> Volume {
    Volume {
        records: 1,
        packets: counters.packets,
        octets: counters.octets,
    }
}
