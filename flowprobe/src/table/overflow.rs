//! Flows that the kernel's table had no room for live on here.
//!
//! The drainer adds what comes through the rings, the sweeper takes out what is due. The table
//! is cut into shards by bucket number, so that one step of a sweep sees the buckets of a range
//! on all CPUs and the one shard that holds these flows' parts in userspace.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use hashbrown::{HashTable, hash_table};

use crate::{
    record::FlowKey,
    table::{Flow, Geometry},
};

/// Most shards, and so steps of a sweep. The drainer waits while a step looks at its range: with
/// the default of 65,536 flows that is 4 buckets on each CPU, with a million 32, some 10 µs a CPU.
pub const MAX_SHARDS: u32 = 4096;

/// A flow, with its hash: growing the table must not compute hashes anew.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    hash: u64,
    /// The flow.
    pub flow: Flow,
    /// The last pass of the sweep that found a part of this flow live in the kernel.
    pub live_pass: u64,
}

/// There is no room for another flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// All flows kept in userspace.
#[derive(Debug)]
pub struct Overflow {
    shards: Vec<Mutex<HashTable<Entry>>>,
    bucket_mask: u32,
    shard_shift: u32,
    wide_shift: u32,
    capacity: usize,
    len: AtomicUsize,
    peak: AtomicUsize,
}

impl Overflow {
    /// Room for `capacity` flows, beside tables of `geometry`.
    #[must_use]
    pub fn new(geometry: &Geometry, capacity: usize) -> Self {
        // At least one bucket of each table for each shard.
        let shards = geometry.wide_buckets().min(MAX_SHARDS);
        Self {
            shards: (0..shards).map(|_| Mutex::new(HashTable::new())).collect(),
            bucket_mask: geometry.buckets - 1,
            shard_shift: (geometry.buckets / shards).trailing_zeros(),
            wide_shift: geometry.wide_shift(),
            capacity,
            len: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }
    }

    /// Number of shards.
    #[must_use]
    pub fn shards(&self) -> u32 {
        self.shards.len() as u32
    }

    /// The buckets whose flows are in shard `shard`.
    #[must_use]
    pub fn buckets(&self, shard: u32) -> std::ops::Range<u32> {
        shard << self.shard_shift..(shard + 1) << self.shard_shift
    }

    /// The buckets of the wide table whose flows are in shard `shard`.
    #[must_use]
    pub fn wide_buckets(&self, shard: u32) -> std::ops::Range<u32> {
        let std::ops::Range { start, end } = self.buckets(shard);
        start >> self.wide_shift..end >> self.wide_shift
    }

    /// Flows in all shards.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether there is no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The most flows that there ever were.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::Relaxed)
    }

    /// Octets of a flow kept here; the table may take 8/7 to 16/7 of that, rounded up to a power
    /// of two of entries.
    #[must_use]
    pub fn entry_octets() -> usize {
        size_of::<Entry>() + 1
    }

    /// The shard of a flow by its hash.
    pub fn shard_of(&self, hash: u64) -> Shard<'_> {
        let bucket = flowprobe_ebpf::hash::bucket(hash, self.bucket_mask);
        self.shard(bucket >> self.shard_shift)
    }

    /// A shard by its number.
    pub fn shard(&self, shard: u32) -> Shard<'_> {
        Shard {
            table: self.shards[shard as usize]
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
            overflow: self,
        }
    }

    /// Takes a place; false if all are taken.
    fn grow(&self) -> bool {
        let taken = self
            .len
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |len| {
                (len < self.capacity).then_some(len + 1)
            });
        if let Ok(before) = taken {
            self.peak.fetch_max(before + 1, Ordering::Relaxed);
        }
        taken.is_ok()
    }

    fn shrink(&self, by: usize) {
        self.len.fetch_sub(by, Ordering::Relaxed);
    }
}

/// One shard, held.
pub struct Shard<'a> {
    table: MutexGuard<'a, HashTable<Entry>>,
    overflow: &'a Overflow,
}

impl Shard<'_> {
    /// Whether the shard has no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.is_empty()
    }

    /// All flows of the shard.
    pub fn flows(&self) -> impl Iterator<Item = &Flow> {
        self.table.iter().map(|entry| &entry.flow)
    }

    /// Adds a part of a flow.
    ///
    /// # Errors
    /// It would be a new flow, and there is no room.
    pub fn merge(&mut self, hash: u64, flow: &Flow) -> Result<(), Full> {
        let entry = self
            .table
            .entry(hash, |entry| entry.flow.key == flow.key, |entry| entry.hash);
        match entry {
            hash_table::Entry::Occupied(mut entry) => entry.get_mut().flow.merge(flow),
            hash_table::Entry::Vacant(entry) => {
                if !self.overflow.grow() {
                    return Err(Full);
                }
                entry.insert(Entry {
                    hash,
                    flow: *flow,
                    live_pass: 0,
                });
            }
        }
        Ok(())
    }

    /// The part of a flow that is kept here.
    pub fn find(&mut self, hash: u64, key: &FlowKey) -> Option<&mut Entry> {
        self.table.find_mut(hash, |entry| entry.flow.key == *key)
    }

    /// Takes a flow out.
    pub fn take(&mut self, hash: u64, key: &FlowKey) -> Option<Flow> {
        let entry = self
            .table
            .find_entry(hash, |entry| entry.flow.key == *key)
            .ok()?;
        let (entry, _) = entry.remove();
        self.overflow.shrink(1);
        Some(entry.flow)
    }

    /// Takes out every flow that `due` says something of, and passes both to `out`. What the
    /// flood of an attack made grow is given back when the shard is empty.
    pub fn take_due<T>(
        &mut self,
        mut due: impl FnMut(&Entry) -> Option<T>,
        mut out: impl FnMut(&Flow, T),
    ) {
        let mut taken = 0;
        self.table.retain(|entry| match due(entry) {
            Some(why) => {
                out(&entry.flow, why);
                taken += 1;
                false
            }
            None => true,
        });
        self.overflow.shrink(taken);
        if taken != 0 && self.table.is_empty() {
            self.table.shrink_to(0, |entry| entry.hash);
        }
    }
}

#[cfg(test)]
mod tests {
    use flowprobe_ebpf::{
        Counters, KeyV4, KeyWide, Marks,
        flow::Macs,
        hash::{SECRET_WORDS, wide_bucket},
    };

    use super::*;

    fn flow(n: u64, packets: u64) -> Flow {
        Flow {
            key: FlowKey::V4(KeyV4 { words: [n, 0, 0] }),
            counters: Counters {
                packets,
                octets: packets * 100,
                first_ns: 10 - packets,
                last_ns: 10 + packets,
            },
            marks: Marks::default(),
            macs: Macs::default(),
        }
    }

    #[test]
    fn parts_of_a_flow_add_up() {
        let overflow = Overflow::new(&Geometry::new(1024, 1, 1), 10);
        overflow.shard_of(7).merge(7, &flow(1, 2)).unwrap();
        overflow.shard_of(7).merge(7, &flow(1, 3)).unwrap();
        let whole = overflow.shard_of(7).take(7, &flow(1, 0).key).unwrap();
        assert_eq!(
            whole.counters,
            Counters {
                packets: 5,
                octets: 500,
                first_ns: 7,
                last_ns: 13
            }
        );
        assert!(overflow.is_empty());
    }

    #[test]
    fn a_full_table_takes_known_flows_only() {
        let overflow = Overflow::new(&Geometry::new(1024, 1, 1), 2);
        for n in 0..2 {
            overflow.shard_of(n).merge(n, &flow(n, 1)).unwrap();
        }
        assert_eq!(overflow.shard_of(5).merge(5, &flow(5, 1)), Err(Full));
        overflow.shard_of(1).merge(1, &flow(1, 1)).unwrap();
        assert_eq!((overflow.len(), overflow.peak()), (2, 2));
        overflow.shard_of(0).take(0, &flow(0, 0).key).unwrap();
        overflow.shard_of(5).merge(5, &flow(5, 1)).unwrap();
    }

    #[test]
    fn every_bucket_is_in_the_shard_that_names_it() {
        for slots in [8, 64, 512, 1 << 16] {
            let geometry = Geometry::new(slots, 1, 1);
            let overflow = Overflow::new(&geometry, 1 << 20);
            let mut next = 0;
            for shard in 0..overflow.shards() {
                let range = overflow.buckets(shard);
                assert_eq!(range.start, next);
                next = range.end;
                for bucket in range {
                    let hash = u64::from(bucket) | 0xdead_0000_0000_0000;
                    overflow
                        .shard_of(hash)
                        .merge(hash, &flow(u64::from(bucket), 1))
                        .unwrap();
                    let key = flow(u64::from(bucket), 1).key;
                    assert!(overflow.shard(shard).find(hash, &key).is_some());
                }
            }
            assert_eq!(next, geometry.buckets);
            let wide = overflow.wide_buckets(overflow.shards() - 1);
            assert_eq!(wide.end, geometry.wide_buckets());
        }
    }

    /// A sweep decides on a flow of the wide table with its part in userspace at hand: the step
    /// that scans the bucket where the program puts it holds the shard where the drainer does.
    #[test]
    fn every_wide_bucket_is_scanned_with_the_shard_of_its_flows() {
        let secret: [u64; SECRET_WORDS] = std::array::from_fn(|i| 0x9e37_79b9 * (i as u64 + 1));
        for max_flows in [1, 8, 16, 32, 64, 128, 1000, 1 << 14, 1 << 16, 1 << 20] {
            let geometry = Geometry::new(max_flows, 1, 1);
            let overflow = Overflow::new(&geometry, 1 << 20);
            let mut next = 0;
            for shard in 0..overflow.shards() {
                let range = overflow.wide_buckets(shard);
                assert!(range.start == next && !range.is_empty(), "{max_flows}");
                next = range.end;
            }
            assert_eq!(next, geometry.wide_buckets(), "{max_flows}");

            for n in 0..300 {
                let mut words = KeyWide::default().words;
                words[0] = n;
                words[6] = 0x0200_0000_0007;
                let key = FlowKey::Wide(KeyWide { words });
                let flow = Flow { key, ..flow(n, 1) };
                let hash = key.hash(&secret);
                overflow.shard_of(hash).merge(hash, &flow).unwrap();
                let mask = geometry.buckets - 1;
                let bucket = wide_bucket(hash, mask, geometry.wide_shift());
                let step = (0..overflow.shards()).find(|step| {
                    let wide = overflow.wide_buckets(*step);
                    wide.contains(&bucket)
                });
                let step = step.expect("a step scans each bucket");
                let found = overflow.shard(step).find(hash, &key).is_some();
                assert!(found, "{max_flows}: bucket {bucket}, step {step}");
            }
        }
    }
}
