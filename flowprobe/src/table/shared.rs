//! The flow tables, the per-CPU state and the rings, mapped from the program's maps.
//!
//! The program writes this memory at any time, so nothing here ever becomes a reference to plain
//! data: words are read and written through atomics, larger values by volatile copies whose
//! meaning the control words and positions around them decide.

use std::{
    io,
    ops::Range,
    os::fd::{AsRawFd, BorrowedFd},
    ptr::{self, NonNull},
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
};

use flowprobe_ebpf::{
    Lost, Skip,
    class::Rule,
    cpu::{Cpu, Stray, Tally},
    flow::{Macs, Marks, bits},
    fragments::FragmentSet,
    hash::SECRET_WORDS,
    macs::{MAC_PAIRS, MacPair},
    ring::Part,
    sampling::{MAX_CLASSES, SHADOW_CLASS, Sampled, Sampler},
    table::{
        Asides, Bucket, BucketV4, BucketV6, BucketWide, Control, State, WAYS, WIDE_SHIFT, Way,
        WayV4, WayV6, WayWide,
    },
};

use crate::{
    load::{FRAGMENT_SETS, LoadError},
    sampling::{Sampling, Selection},
};

/// How large everything is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Partitions: one for each CPU with a lower number, and where packets are sampled beside the
    /// metering of everything another one for each.
    pub partitions: u32,
    /// Whether there are those.
    pub shadow: bool,
    /// Buckets of the IPv4 and of the IPv6 table in one partition, a power of two.
    pub buckets: u32,
    /// Parts in one ring, a power of two.
    pub ring_parts: u32,
}

impl Geometry {
    /// Sizes for `max_flows` flows, rounded up to a power of two, in each table of a partition.
    #[must_use]
    pub fn new(max_flows: u32, partitions: u32, ring_parts: u32) -> Self {
        let slots = max_flows.max(WAYS as u32).next_power_of_two();
        Self {
            partitions,
            shadow: false,
            buckets: slots / WAYS as u32,
            ring_parts: ring_parts.next_power_of_two(),
        }
    }

    /// The same with as many partitions again, for sampling beside the metering of everything.
    #[must_use]
    pub fn with_shadow(self) -> Self {
        Self {
            partitions: 2 * self.partitions,
            shadow: true,
            ..self
        }
    }

    /// CPUs with a partition.
    #[must_use]
    pub fn cpus(&self) -> u32 {
        self.partitions >> u32::from(self.shadow)
    }

    /// Flows in one table of one partition.
    #[must_use]
    pub fn max_flows(&self) -> u32 {
        self.buckets * WAYS as u32
    }

    /// How many times fewer buckets the wide table has, as a power of two.
    #[must_use]
    pub fn wide_shift(&self) -> u32 {
        WIDE_SHIFT.min(self.buckets.trailing_zeros())
    }

    /// Buckets of the wide table in one partition, a power of two.
    #[must_use]
    pub fn wide_buckets(&self) -> u32 {
        self.buckets >> self.wide_shift()
    }

    /// Octets of kernel memory: (buckets × (512 + 1,024 + 1,536 / 4 + 128 × (1 + 1 + 1 / 4)) +
    /// ring × 184 + fragments × 64 + MAC pairs × 16) × partitions, and the counters.
    #[must_use]
    pub fn memory_octets(&self) -> u64 {
        let asides = size_of::<Asides>();
        let bucket = size_of::<BucketV4>() + size_of::<BucketV6>() + 2 * asides;
        let wide_bucket = size_of::<BucketWide>() + asides;
        let partition = u64::from(self.buckets) * bucket as u64
            + u64::from(self.wide_buckets()) * wide_bucket as u64
            + u64::from(self.ring_parts) * size_of::<Part>() as u64
            + u64::from(FRAGMENT_SETS) * size_of::<FragmentSet>() as u64
            + u64::from(MAC_PAIRS) * size_of::<MacPair>() as u64;
        u64::from(self.partitions) * partition
            + u64::from(self.partitions) * size_of::<Cpu>() as u64
    }
}

/// The elements of one array map in this process's memory.
pub(crate) struct Mapped<T> {
    first: NonNull<T>,
    len: usize,
    octets: usize,
}

// SAFETY: shared memory without an owner; all access is through atomics or volatile copies.
unsafe impl<T> Send for Mapped<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Mapped<T> {}

impl<T> Mapped<T> {
    pub(crate) fn new((name, fd): NamedMap<'_>, len: usize) -> Result<Self, LoadError> {
        const { assert!(size_of::<T>().is_multiple_of(8)) }; // the kernel's element stride
        let octets = len * size_of::<T>();
        // SAFETY: a new mapping at an address of the kernel's choice.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                octets,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        match NonNull::new(address.cast()) {
            Some(first) if address != libc::MAP_FAILED => Ok(Self { first, len, octets }),
            _ => Err(LoadError::Memory {
                name,
                octets,
                source: io::Error::last_os_error(),
            }),
        }
    }

    /// The element at `index`.
    ///
    /// # Panics
    /// `index` is beyond the map.
    pub(crate) fn element(&self, index: usize) -> *mut T {
        assert!(index < self.len, "element {index} of {}", self.len);
        // SAFETY: just checked.
        unsafe { self.first.as_ptr().add(index) }
    }
}

impl<T> Drop for Mapped<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping made in `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.first.as_ptr().cast(), self.octets) };
    }
}

/// The flow table of one kind of key.
pub struct Table<W> {
    flows: Mapped<Bucket<W>>,
    /// One for each bucket.
    asides: Mapped<Asides>,
    /// Buckets in one partition.
    buckets: u32,
}

/// One way of one bucket in one partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// CPU.
    pub partition: u32,
    /// Bucket in the partition.
    pub bucket: u32,
    /// Way in the bucket.
    pub way: u32,
}

impl<W: Way + Copy> Table<W> {
    fn new(
        [flows, asides]: [NamedMap<'_>; 2],
        partitions: usize,
        buckets: u32,
    ) -> Result<Self, LoadError> {
        let len = partitions * buckets as usize;
        Ok(Self {
            flows: Mapped::new(flows, len)?,
            asides: Mapped::new(asides, len)?,
            buckets,
        })
    }

    /// The bucket's index in both maps.
    fn index(&self, slot: Slot) -> usize {
        debug_assert!(slot.bucket < self.buckets);
        slot.partition as usize * self.buckets as usize + slot.bucket as usize
    }

    fn place(&self, slot: Slot) -> *mut W {
        assert!((slot.way as usize) < WAYS);
        let bucket = self.flows.element(self.index(slot));
        // SAFETY: in bounds.
        unsafe {
            let ways = &raw mut (*bucket).ways;
            ways.cast::<W>().add(slot.way as usize)
        }
    }

    fn control(&self, slot: Slot) -> &AtomicU64 {
        // SAFETY: the word is aligned and lives as long as the mapping.
        unsafe { AtomicU64::from_ptr(W::control(self.place(slot))) }
    }

    /// The control word; what the program stored before it is visible after.
    #[must_use]
    pub fn load(&self, slot: Slot) -> Control {
        Control(self.control(slot).load(Ordering::Acquire))
    }

    /// Takes a live flow out of the program's reach; `None` if `seen` no longer stands there.
    #[must_use]
    pub fn retire(&self, slot: Slot, seen: Control) -> Option<Control> {
        let user = seen.with_state(State::User);
        self.control(slot)
            .compare_exchange(seen.0, user.0, Ordering::AcqRel, Ordering::Relaxed)
            .is_ok()
            .then_some(user)
    }

    /// Gives a way that is userspace's back to the program.
    pub fn release(&self, slot: Slot, user: Control) {
        debug_assert_eq!(user.state(), State::User);
        self.control(slot)
            .store(user.next_free().0, Ordering::Release);
    }

    /// Copies the way. While the flow is live the program may be writing it: the copy then serves
    /// to decide whether to retire it, which fails if the way has changed hands.
    #[must_use]
    pub fn way(&self, slot: Slot) -> W {
        // SAFETY: in bounds; any bits are a valid way.
        unsafe { self.place(slot).read_volatile() }
    }

    /// The marks of `way`, which is a copy of the way at `slot`, with the options that are kept
    /// beside it.
    #[must_use]
    pub fn marks(&self, slot: Slot, way: &W) -> Marks {
        let marks = way.marks();
        if marks.bits & bits::OPTIONS == 0 {
            return marks; // another cache line less
        }
        self.asides(slot).marks(slot.way as usize, way)
    }

    /// Copies what is kept beside the bucket.
    fn asides(&self, slot: Slot) -> Asides {
        // SAFETY: in bounds; any bits are valid.
        unsafe { self.asides.element(self.index(slot)).read_volatile() }
    }
}

/// Everything the program shares with userspace.
pub struct Shared {
    geometry: Geometry,
    secret: [u64; SECRET_WORDS],
    /// IPv4 flows.
    pub v4: Table<WayV4>,
    /// IPv6 flows.
    pub v6: Table<WayV6>,
    /// Flows with a wide key.
    pub wide: Table<WayWide>,
    macs: Mapped<MacPair>,
    cpus: Mapped<Cpu>,
    stray: Mapped<Stray>,
    rings: Mapped<Part>,
    /// Whether packets are of several classes.
    many_classes: bool,
    samplers: Mapped<Sampler>,
    rules: Mapped<Rule>,
}

/// A map by its name, for error messages.
pub type NamedMap<'a> = (&'static str, BorrowedFd<'a>);

/// What all CPUs have counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// At the hook's entry.
    pub seen: Tally,
    /// What of it went out.
    pub seen_out: Tally,
    /// Skipped by sampling.
    pub unsampled: Tally,
    /// In a flow.
    pub accounted: Tally,
    /// Octets of the IP packets in flows.
    pub accounted_ip_octets: u64,
    /// By reason.
    pub lost: [Tally; Lost::COUNT],
    /// By reason.
    pub ignored: [Tally; Skip::COUNT],
    /// Handed over to userspace.
    pub handed: Tally,
    /// Flows put into the tables.
    pub inserted: u64,
    /// Flows that went to a ring for want of room.
    pub evicted: u64,
    /// Packets that went to a ring by themselves.
    pub single: u64,
    /// Later fragments whose first one was not known.
    pub fragment_orphans: u64,
}

/// The maps that are mapped into this process, each with its name; of each table the flows and
/// what is kept beside them.
pub(crate) struct NamedMaps<'a> {
    pub(crate) v4: [NamedMap<'a>; 2],
    pub(crate) v6: [NamedMap<'a>; 2],
    pub(crate) wide: [NamedMap<'a>; 2],
    pub(crate) macs: NamedMap<'a>,
    pub(crate) cpus: NamedMap<'a>,
    pub(crate) stray: NamedMap<'a>,
    pub(crate) rings: NamedMap<'a>,
    pub(crate) samplers: NamedMap<'a>,
    pub(crate) rules: NamedMap<'a>,
}

/// Elements of the map of samplers.
pub(crate) fn samplers(partitions: u32, many_classes: bool) -> usize {
    if many_classes {
        partitions as usize * MAX_CLASSES as usize
    } else {
        1
    }
}

impl Shared {
    pub(crate) fn new(
        geometry: Geometry,
        secret: [u64; SECRET_WORDS],
        many_classes: bool,
        maps: &NamedMaps<'_>,
    ) -> Result<Self, LoadError> {
        let partitions = geometry.partitions as usize;
        let parts = partitions * geometry.ring_parts as usize;
        Ok(Self {
            geometry,
            secret,
            v4: Table::new(maps.v4, partitions, geometry.buckets)?,
            v6: Table::new(maps.v6, partitions, geometry.buckets)?,
            wide: Table::new(maps.wide, partitions, geometry.wide_buckets())?,
            macs: Mapped::new(maps.macs, partitions * MAC_PAIRS as usize)?,
            cpus: Mapped::new(maps.cpus, partitions)?,
            stray: Mapped::new(maps.stray, 1)?,
            rings: Mapped::new(maps.rings, parts)?,
            many_classes,
            samplers: Mapped::new(maps.samplers, samplers(geometry.partitions, many_classes))?,
            rules: Mapped::new(maps.rules, MAX_CLASSES as usize)?,
        })
    }

    /// Sizes.
    #[must_use]
    pub fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// The MAC addresses of the flow in `way`, which is a copy of the way at `slot` of `table`.
    #[must_use]
    pub fn macs<W: Way + Copy>(&self, table: &Table<W>, slot: Slot, way: &W) -> Macs {
        match way.mac_number() {
            number @ 1..=MAC_PAIRS => {
                let index = slot.partition * MAC_PAIRS + number - 1;
                // SAFETY: in bounds; an entry that is named is not changed any more.
                unsafe { self.macs.element(index as usize).read_volatile() }.macs
            }
            _ => table.asides(slot).macs[slot.way as usize],
        }
    }

    /// The secret of the hash.
    #[must_use]
    pub fn secret(&self) -> &[u64; SECRET_WORDS] {
        &self.secret
    }

    /// Tells a CPU which partition it has. Call it before anything is attached.
    pub fn seed(&self, id: u32) {
        let cpu = self.cpus.element(id as usize);
        // SAFETY: in bounds; no program runs yet.
        unsafe {
            (&raw mut (*cpu).first_bucket).write_volatile(id * self.geometry.buckets);
            (&raw mut (*cpu).partition).write_volatile(id);
        }
    }

    /// Gives a class a sampler in a partition, whose chance begins with `random`. Call it before
    /// anything is attached.
    pub fn seed_sampler(&self, partition: u32, class: u8, sampling: Sampling, random: u64) {
        let sampler = self.sampler(partition, class);
        // SAFETY: in bounds; no program runs yet.
        unsafe {
            sampler.write_volatile(Sampler {
                sampling: sampling.word(0).0,
                current: Sampler::NO_WORD,
                sampled: Sampled::new(class, 0),
                random,
                parameters: [sampling.parameter(), 0],
                ..Sampler::default()
            });
        }
    }

    /// Sets the rule of a class. Call it before anything is attached.
    pub fn set_rule(&self, class: u8, rule: &Rule) {
        // SAFETY: in bounds; no program runs yet.
        unsafe { self.rules.element(class.into()).write_volatile(*rule) };
    }

    /// From now on the class is one of packets on this interface; may be called at any time.
    pub fn set_interface(&self, class: u8, ifindex: u32) {
        self.interface(class).store(ifindex, Ordering::Relaxed);
    }

    /// The same where it is one of packets on the interface `from` now.
    pub fn replace_interface(&self, class: u8, from: u32, to: u32) {
        let (set, failed) = (Ordering::Relaxed, Ordering::Relaxed);
        let _is_of_another = self
            .interface(class)
            .compare_exchange(from, to, set, failed);
    }

    fn interface(&self, class: u8) -> &AtomicU32 {
        // SAFETY: aligned, and lives as long as the mapping. Userspace only writes it.
        unsafe {
            let rule = self.rules.element(class.into());
            AtomicU32::from_ptr(&raw mut (*rule).ifindex)
        }
    }

    /// From now on samples a class in another way, as its epoch `epoch`. Packets in flight may
    /// still be of the epoch before; none are after a grace period. There has to be one between two
    /// changes.
    pub fn change(&self, class: u8, epoch: u32, sampling: Sampling) {
        let word = sampling.word(epoch);
        for partition in self.partitions_of(class) {
            let sampler = self.sampler(partition, class);
            // SAFETY: aligned, and lives as long as the mapping. The program reads this half of the
            // parameters once the word says so.
            let (parameter, place) = unsafe {
                let parameters = (&raw mut (*sampler).parameters).cast::<u64>();
                (
                    AtomicU64::from_ptr(parameters.add(Sampler::half(word))),
                    AtomicU64::from_ptr(&raw mut (*sampler).sampling),
                )
            };
            parameter.store(sampling.parameter(), Ordering::Relaxed);
            place.store(word.0, Ordering::Release);
        }
    }

    /// Packets that the sampler of a class was asked about in an epoch, and those that it selected.
    /// Both are exact once the program is detached, or the next epoch is a grace period old and
    /// none has come after that.
    #[must_use]
    pub fn selection(&self, class: u8, epoch: u32) -> Selection {
        let mut sum = Selection::default();
        for partition in self.partitions_of(class) {
            let (observed, skipped) = self.selected_by(partition, class, epoch);
            sum.observed += observed;
            sum.selected += observed.saturating_sub(skipped);
        }
        sum
    }

    /// The same of one partition: observed and skipped.
    fn selected_by(&self, partition: u32, class: u8, epoch: u32) -> (u64, u64) {
        let mut sampler = self.sampler_now(partition, class);
        loop {
            let (mut observed, mut skipped) = (sampler.observed, sampler.skipped);
            if !self.many_classes || class == SHADOW_CLASS {
                let cpu = self.cpu(partition);
                (observed, skipped) = (cpu.seen.packets, cpu.unsampled.packets);
            }
            // While an epoch begins neither is to be trusted.
            let again = self.sampler_now(partition, class);
            if (again.current, again.starts) != (sampler.current, sampler.starts) {
                sampler = again;
                continue;
            }
            let start = |epoch: u32| {
                let start = sampler.starts[(epoch & 1) as usize];
                (start.epoch == u64::from(epoch) + 1).then_some(start)
            };
            let Some(first) = start(epoch) else {
                return (0, 0);
            };
            if let Some(next) = start(epoch + 1) {
                (observed, skipped) = (next.observed, next.skipped);
            }
            // One after the other is read while the program counts.
            return (
                observed.saturating_sub(first.observed),
                skipped.saturating_sub(first.skipped),
            );
        }
    }

    /// A copy of the sampler of a class in a partition, as [`Shared::cpu`].
    #[must_use]
    pub fn sampler_now(&self, partition: u32, class: u8) -> Sampler {
        // SAFETY: in bounds; any bits are valid.
        unsafe { self.sampler(partition, class).read_volatile() }
    }

    fn sampler(&self, partition: u32, class: u8) -> *mut Sampler {
        if !self.many_classes || class == SHADOW_CLASS {
            let cpu = self.cpus.element(partition as usize);
            // SAFETY: in bounds.
            return unsafe { &raw mut (*cpu).sampler };
        }
        assert!(u32::from(class) < MAX_CLASSES);
        self.samplers
            .element((partition * MAX_CLASSES) as usize + usize::from(class))
    }

    /// Partitions that packets of a class are sampled in.
    fn partitions_of(&self, class: u8) -> Range<u32> {
        let main = self.geometry.cpus();
        if class == SHADOW_CLASS {
            main..self.geometry.partitions
        } else {
            0..main
        }
    }

    /// A copy of the state of a CPU. The program may be writing it: each word is right, and all
    /// fit together once it is detached.
    #[must_use]
    pub fn cpu(&self, cpu: u32) -> Cpu {
        // SAFETY: in bounds; any bits are valid.
        unsafe { self.cpus.element(cpu as usize).read_volatile() }
    }

    /// The sum over all CPUs. While the program runs, packets in flight may be missing.
    #[must_use]
    pub fn totals(&self) -> Totals {
        let mut totals = self.sum(0..self.geometry.cpus());
        // SAFETY: in bounds; any bits are valid.
        let stray = unsafe { self.stray.element(0).read_volatile() };
        add(&mut totals.seen, stray.seen);
        add(&mut totals.lost[Lost::NoPartition as usize], stray.seen);
        totals
    }

    /// The same of what is sampled beside the metering of everything.
    #[must_use]
    pub fn shadow_totals(&self) -> Totals {
        self.sum(self.geometry.cpus()..self.geometry.partitions)
    }

    fn sum(&self, partitions: Range<u32>) -> Totals {
        let mut totals = Totals::default();
        for id in partitions {
            let cpu = self.cpu(id);
            add(&mut totals.seen, cpu.seen);
            add(&mut totals.seen_out, cpu.seen_out);
            add(&mut totals.unsampled, cpu.unsampled);
            add(&mut totals.accounted, cpu.accounted);
            add(&mut totals.handed, cpu.handed);
            totals.accounted_ip_octets += cpu.accounted_ip_octets;
            for (sum, tally) in totals.lost.iter_mut().zip(cpu.lost) {
                add(sum, tally);
            }
            for (sum, tally) in totals.ignored.iter_mut().zip(cpu.ignored) {
                add(sum, tally);
            }
            totals.inserted += cpu.inserted;
            totals.evicted += cpu.evicted;
            totals.single += cpu.single;
            totals.fragment_orphans += cpu.fragment_orphans;
        }
        totals
    }

    /// Parts that the program has written to the ring of `cpu` so far.
    #[must_use]
    pub fn ring_head(&self, cpu: u32) -> u64 {
        let cpu = self.cpus.element(cpu as usize);
        // SAFETY: aligned, and lives as long as the mapping.
        unsafe { AtomicU64::from_ptr(&raw mut (*cpu).ring_head) }.load(Ordering::Acquire)
    }

    /// Parts that userspace has read from the ring of `cpu` so far.
    #[must_use]
    pub fn ring_tail(&self, cpu: u32) -> u64 {
        self.tail(cpu).load(Ordering::Relaxed)
    }

    /// Gives the places of all parts before `tail` back to the program.
    pub fn set_ring_tail(&self, cpu: u32, tail: u64) {
        self.tail(cpu).store(tail, Ordering::Release);
    }

    fn tail(&self, cpu: u32) -> &AtomicU64 {
        let cpu = self.cpus.element(cpu as usize);
        // SAFETY: aligned, and lives as long as the mapping.
        unsafe { AtomicU64::from_ptr(&raw mut (*cpu).ring_tail) }
    }

    /// Copies the part at `position`, which lies between tail and head.
    #[must_use]
    pub fn ring_part(&self, cpu: u32, position: u64) -> Part {
        let len = self.geometry.ring_parts as usize;
        let index = cpu as usize * len + (position as usize & (len - 1));
        // SAFETY: in bounds; the program wrote it before it moved the head past it.
        unsafe { self.rings.element(index).read_volatile() }
    }
}

fn add(sum: &mut Tally, tally: Tally) {
    sum.packets += tally.packets;
    sum.octets += tally.octets;
}
