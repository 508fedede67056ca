//! The flow table's side of the kernel: find the packet's flow or make one, and count.
//!
//! The rules that keep counts exact while userspace takes flows out are in ARCHITECTURE.md,
//! "The retire protocol". In short: only this CPU writes ways of its partition; a way that
//! userspace has taken (`User`) is neither matched nor reused; a new flow is stored in full
//! before its control word says so; a flow is moved to the ring only after a place there is sure.
//!
//! A known flow in the way that its hash prefers is counted inline. All else is a function of its
//! own, so that what it needs takes no registers from the packets that nearly all are.

use core::mem::offset_of;

use aya_ebpf::{bindings::xdp_md, helpers::bpf_get_smp_processor_id, programs::XdpContext};
use flowprobe_ebpf::{
    Counters, Frame as _, Lost, Marks, Packet, Parsed,
    cpu::{Cpu, SCRATCH_WORDS},
    flow::{Macs, bits},
    hash::{fingerprint, preferred_way},
    key::{Key, MAX_WORDS},
    macs::MacPair,
    ring::{Part, cause},
    table::{Bucket, Control, State, WAYS, Way},
    wire::ethernet,
};

use super::{atomic, frame::XdpFrame, maps, tag::Beside};

/// A packet on its way through the program, where it is not a plain one of a flow that is found at
/// once: in memory of its CPU, so that functions can share it and the verifier forgets it.
#[repr(C)]
pub(crate) struct Scratch {
    /// What is known of the frame; [`settle`] needs the packet only.
    pub(super) parsed: Parsed,
    hash: u64,
    key: [u64; MAX_WORDS],
    /// Octets of the frame.
    pub(super) octets: u64,
    /// See [`XdpFrame::forget`].
    pub(super) forgotten: u64,
    /// The VLAN tag beside the frame, where that is asked for.
    pub(super) beside: Beside,
}

const _: () = assert!(size_of::<Scratch>() <= 8 * SCRATCH_WORDS && align_of::<Scratch>() <= 8);

/// The scratch memory of a CPU.
#[inline(always)]
pub(super) fn scratch(cpu: *mut Cpu) -> *mut Scratch {
    // SAFETY: only the address is taken.
    unsafe { (&raw mut (*cpu).scratch).cast() }
}

/// Counts `packet` into the flow `key`. `KEPT` says that both are in the scratch memory.
///
/// # Safety
/// `cpu` points to the element of this CPU, and its clock has been set for this packet.
#[inline(always)]
pub(super) unsafe fn account<const KEPT: bool, W: Way>(
    ctx: *mut xdp_md,
    cpu: *mut Cpu,
    bucket_of: impl Fn(u32, u64) -> Option<*mut Bucket<W>>,
    key: &W::Key,
    packet: &Packet,
) -> Result<(), Lost> {
    let hash = key.hash_by(maps::hash_secret);
    // SAFETY: the caller's. `bucket` points to a whole element of the table, in the partition of
    // this CPU. A way found live is not touched by userspace before this run has ended.
    unsafe {
        let bucket = bucket_of((*cpu).first_bucket, hash).ok_or(Lost::NoPartition)?;
        if add(
            bucket,
            preferred_way(fingerprint(hash)),
            key,
            hash,
            packet,
            cpu,
        ) {
            return Ok(());
        }
        let scratch = scratch(cpu);
        (*scratch).hash = hash;
        if !KEPT {
            (*scratch).parsed.packet = *packet;
            self::key::<W::Key>(cpu).write(*key);
        }
        settle(ctx, cpu, bucket)
    }
}

/// Adds the packet to the flow in way `i`, if that is its flow and the packet begins no other.
///
/// # Safety
/// As [`account`]; `bucket` is a bucket of this partition.
#[inline(always)]
unsafe fn add<W: Way>(
    bucket: *mut Bucket<W>,
    i: usize,
    key: &W::Key,
    hash: u64,
    packet: &Packet,
    cpu: *mut Cpu,
) -> bool {
    // SAFETY: the caller's.
    unsafe {
        if !holds(bucket, i, key, hash) {
            return false;
        }
        let way = &mut (*bucket).ways[i];
        if way.restarted_by(packet) {
            return false;
        }
        widen_window();
        way.add(packet, (*cpu).now_ns);
        (*bucket).note_options(i, packet);
    }
    true
}

/// Counts the packet in the scratch memory, whose flow is not in the way that its hash prefers, or
/// begins anew there.
///
/// # Safety
/// As [`add`].
#[inline(never)]
unsafe fn settle<W: Way>(
    ctx: *mut xdp_md,
    cpu: *mut Cpu,
    bucket: *mut Bucket<W>,
) -> Result<(), Lost> {
    // SAFETY: the caller's.
    unsafe {
        let arrival = arrival::<W>(cpu);
        let preferred = preferred_way(fingerprint(arrival.hash));
        let found = if holds(bucket, preferred, arrival.key, arrival.hash) {
            preferred
        } else if (*bucket).ways[preferred].displaced() {
            displaced(bucket, cpu)
        } else {
            WAYS
        };
        let Arrival { key, hash, packet } = arrival;
        if found < WAYS
            && (add(bucket, found, key, hash, packet, cpu) || restart(ctx, cpu, bucket, found))
        {
            return Ok(());
        }
        let Some((i, control)) = free(bucket, arrival.hash) else {
            return evict(ctx, cpu, bucket);
        };
        Partition { ctx, cpu }.store(bucket, i, control, &arrival);
        (*cpu).inserted += 1;
    }
    Ok(())
}

/// See [`Partition::restart`].
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn restart<W: Way>(
    ctx: *mut xdp_md,
    cpu: *mut Cpu,
    bucket: *mut Bucket<W>,
    i: usize,
) -> bool {
    // SAFETY: the caller's, and `i` is masked for the verifier.
    unsafe { Partition { ctx, cpu }.restart(bucket, i & (WAYS - 1), &arrival::<W>(cpu)) }
}

/// See [`Partition::evict`].
///
/// # Safety
/// As there.
#[inline(never)]
unsafe fn evict<W: Way>(
    ctx: *mut xdp_md,
    cpu: *mut Cpu,
    bucket: *mut Bucket<W>,
) -> Result<(), Lost> {
    // SAFETY: the caller's.
    unsafe { Partition { ctx, cpu }.evict(bucket, &arrival::<W>(cpu)) }
}

/// The packet that [`account`] has put into the scratch memory.
///
/// # Safety
/// As [`add`].
#[inline(always)]
unsafe fn arrival<'a, W: Way>(cpu: *mut Cpu) -> Arrival<'a, W::Key> {
    let scratch = scratch(cpu);
    // SAFETY: the caller's; every key fits into the longest one's place.
    unsafe {
        Arrival {
            key: &*key(cpu),
            hash: (*scratch).hash,
            packet: &(*scratch).parsed.packet,
        }
    }
}

/// The room for a parsed frame, with nothing in it. Word by word: a structure at once becomes a loop
/// over its octets.
///
/// # Safety
/// `scratch` is the scratch memory of this CPU.
#[inline(always)]
pub(super) unsafe fn emptied<'a>(scratch: *mut Scratch) -> &'a mut Parsed {
    const { assert!(size_of::<Parsed>() % 8 == 0 && offset_of!(Scratch, parsed) == 0) };
    let words = scratch.cast::<u64>();
    let mut i = 0;
    while i < size_of::<Parsed>() / 8 {
        // SAFETY: the caller's, and within the structure.
        unsafe { words.add(i).write_volatile(0) };
        i += 1;
    }
    // SAFETY: the caller's; all zeros is a `Parsed`, and the empty one.
    unsafe { &mut (*scratch).parsed }
}

/// The place for a key in the scratch memory of a CPU.
#[inline(always)]
pub(super) fn key<K: Key>(cpu: *mut Cpu) -> *mut K {
    const { assert!(size_of::<K>() <= 8 * MAX_WORDS) };
    // SAFETY: only the address is taken.
    unsafe { (&raw mut (*scratch(cpu)).key).cast() }
}

/// A packet in the scratch memory.
struct Arrival<'a, K> {
    key: &'a K,
    hash: u64,
    packet: &'a Packet,
}

/// The part of tables and rings that one CPU writes, and the packet that it writes there.
struct Partition {
    ctx: *mut xdp_md,
    /// State of that CPU.
    cpu: *mut Cpu,
}

impl Partition {
    /// A SYN after FIN or RST: the flow in way `i` is over, its place is the new flow's. False if
    /// userspace has taken it meanwhile; the packet is not counted then.
    ///
    /// # Safety
    /// `bucket` is a bucket of this partition, and way `i` was live when this program run began.
    #[inline(always)]
    unsafe fn restart<W: Way>(
        &self,
        bucket: *mut Bucket<W>,
        i: usize,
        arrival: &Arrival<'_, W::Key>,
    ) -> bool {
        // SAFETY: the caller's.
        unsafe {
            let Some((place, position)) = self.reserve() else {
                // Rather one flow that ended twice than a packet in none.
                (*bucket).ways[i].add(arrival.packet, (*self.cpu).now_ns);
                (*bucket).note_options(i, arrival.packet);
                return true;
            };
            let Some(taken) = take(bucket, i) else {
                return false;
            };
            fill_from_way(place, bucket, i, cause::RESTARTED);
            self.publish(position);
            self.store(bucket, i, taken, arrival);
        }
        true
    }

    /// Makes room for a new flow in a full bucket: another flow goes to the ring.
    ///
    /// # Safety
    /// `bucket` is a bucket of this partition.
    #[inline(always)]
    unsafe fn evict<W: Way>(
        &self,
        bucket: *mut Bucket<W>,
        arrival: &Arrival<'_, W::Key>,
    ) -> Result<(), Lost> {
        // SAFETY: the caller's.
        unsafe {
            let (place, position) = self.reserve().ok_or(Lost::RingFull)?;
            let i = victim(bucket, arrival.hash);
            match take(bucket, i) {
                Some(taken) => {
                    fill_from_way(place, bucket, i, cause::EVICTED);
                    self.publish(position);
                    self.store(bucket, i, taken, arrival);
                    (*self.cpu).inserted += 1;
                    (*self.cpu).evicted += 1;
                }
                None => {
                    self.fill_from_packet::<W>(place, arrival);
                    self.publish(position);
                    (*self.cpu).single += 1;
                }
            }
        }
        Ok(())
    }

    /// A place in the ring, and its position; `None` while the ring is full.
    #[inline(always)]
    fn reserve(&self) -> Option<(*mut Part, u64)> {
        // SAFETY: `cpu` points to a map element; userspace writes `ring_tail`, so it is read
        // anew. The stores into the place depend on this load, which keeps their order.
        let (head, tail) = unsafe {
            (
                (*self.cpu).ring_head,
                (&raw const (*self.cpu).ring_tail).read_volatile(),
            )
        };
        if head.wrapping_sub(tail) > u64::from(maps::ring_mask()) {
            return None;
        }
        // SAFETY: a helper without arguments.
        let id = unsafe { bpf_get_smp_processor_id() };
        Some((maps::ring_part(id, head)?, head))
    }

    /// Hands the part at `position` to userspace.
    ///
    /// # Safety
    /// `position` came from [`Partition::reserve`] and every field there is written.
    #[inline(always)]
    unsafe fn publish(&self, position: u64) {
        // SAFETY: points into a map element.
        unsafe { atomic::publish(&raw mut (*self.cpu).ring_head, position + 1) };
    }

    /// Stores a new flow into a way that is the program's, then says so.
    ///
    /// # Safety
    /// `bucket` is a bucket of this partition; the way is free or taken, and `control` is what
    /// stands there.
    #[inline(always)]
    unsafe fn store<W: Way>(
        &self,
        bucket: *mut Bucket<W>,
        i: usize,
        control: Control,
        arrival: &Arrival<'_, W::Key>,
    ) {
        let fingerprint = fingerprint(arrival.hash);
        let preferred = preferred_way(fingerprint);
        // SAFETY: the caller's.
        unsafe {
            let number = mac_number(self.ctx);
            let now_ns = (*self.cpu).now_ns;
            (*bucket).ways[i].fill(arrival.key, arrival.packet, number, now_ns);
            (*bucket).note_options(i, arrival.packet);
            if i != preferred {
                (*bucket).asides.set(i, fingerprint);
                *(*bucket).ways[preferred].bits() |= bits::DISPLACED;
            }
            if number == 0 {
                (*bucket).asides.0[i].macs = macs(self.ctx);
            }
            let place = W::control(&raw mut (*bucket).ways[i]);
            atomic::publish(place, control.next_live(fingerprint).0);
        }
    }

    /// Writes a single packet into the ring.
    ///
    /// # Safety
    /// `place` is reserved.
    #[inline(always)]
    unsafe fn fill_from_packet<W: Way>(&self, place: *mut Part, arrival: &Arrival<'_, W::Key>) {
        // SAFETY: the caller's.
        unsafe {
            arrival.key.write(&mut (*place).key);
            (*place).counters = Counters::first(arrival.packet, (*self.cpu).now_ns);
            (*place).marks = Marks::first(arrival.packet);
            (*place).macs = macs(self.ctx);
            (*place).family = W::FAMILY;
            (*place).cause = cause::SINGLE;
        }
    }
}

/// Whether way `i` holds the flow `key`, live.
///
/// # Safety
/// `bucket` points to a whole element of the table, and `i` is a way.
#[inline(always)]
unsafe fn holds<W: Way>(bucket: *mut Bucket<W>, i: usize, key: &W::Key, hash: u64) -> bool {
    // SAFETY: the caller's.
    unsafe {
        control(bucket, i).tag() == Control::live_tag(fingerprint(hash))
            && (*bucket).ways[i].holds(key)
    }
}

/// The way that holds the flow of the packet, where that is not the way that its hash prefers;
/// [`WAYS`] if there is none.
///
/// # Safety
/// As [`holds`].
#[inline(never)]
unsafe fn displaced<W: Way>(bucket: *mut Bucket<W>, cpu: *mut Cpu) -> usize {
    // SAFETY: the caller's.
    let arrival = unsafe { arrival::<W>(cpu) };
    let fingerprint = fingerprint(arrival.hash);
    let preferred = preferred_way(fingerprint);
    // SAFETY: the caller's; only this CPU writes the flag and the hints.
    unsafe {
        if let Some(i) = (*bucket).asides.find(fingerprint)
            && holds(bucket, i, arrival.key, arrival.hash)
        {
            return i;
        }
        if (*bucket).asides.displaced_from(preferred) == 0 {
            *(*bucket).ways[preferred].bits() &= !bits::DISPLACED;
        }
    }
    WAYS
}

/// The control word of way `i`, read anew.
///
/// # Safety
/// As [`holds`].
#[inline(always)]
unsafe fn control<W: Way>(bucket: *mut Bucket<W>, i: usize) -> Control {
    // SAFETY: the caller's.
    Control(unsafe { W::control(&raw mut (*bucket).ways[i]).read_volatile() })
}

/// A free way, the one that the hash prefers before all others.
///
/// # Safety
/// As [`holds`].
#[inline(always)]
unsafe fn free<W: Way>(bucket: *mut Bucket<W>, hash: u64) -> Option<(usize, Control)> {
    let start = preferred_way(fingerprint(hash));
    let mut i = 0;
    while i < WAYS {
        let way = (start + i) & (WAYS - 1);
        // SAFETY: the caller's, and `way` is one.
        let control = unsafe { control(bucket, way) };
        if control.state() == State::Free {
            return Some((way, control));
        }
        i += 1;
    }
    None
}

/// Takes a live way for the program; `None` if it is not live (any more).
///
/// # Safety
/// As [`holds`].
#[inline(always)]
unsafe fn take<W: Way>(bucket: *mut Bucket<W>, i: usize) -> Option<Control> {
    // SAFETY: the caller's.
    unsafe {
        let live = control(bucket, i);
        if live.state() != State::Live {
            return None;
        }
        let taken = live.with_state(State::Kernel);
        let place = W::control(&raw mut (*bucket).ways[i]);
        atomic::replace(place, live.0, taken.0).then_some(taken)
    }
}

/// Which flow leaves a full bucket: of two live ones that the newcomer's hash picks, the one
/// that has been silent longer. Near to least-recently-used for two cache lines instead of eight.
///
/// # Safety
/// As [`holds`].
#[inline(always)]
unsafe fn victim<W: Way>(bucket: *mut Bucket<W>, hash: u64) -> usize {
    let a = preferred_way(fingerprint(hash));
    let b = (a + 1 + ((hash >> 60) as usize & 3)) & (WAYS - 1);
    // SAFETY: the caller's, and both are ways.
    unsafe {
        let live_a = control(bucket, a).state() == State::Live;
        let live_b = control(bucket, b).state() == State::Live;
        let last_a = (*bucket).ways[a].span().last_ns();
        let last_b = (*bucket).ways[b].span().last_ns();
        if live_b && (!live_a || last_b < last_a) {
            b
        } else {
            a
        }
    }
}

/// Copies the flow of a taken way into the ring.
///
/// # Safety
/// As [`holds`]; `place` is reserved.
#[inline(always)]
unsafe fn fill_from_way<W: Way>(place: *mut Part, bucket: *mut Bucket<W>, i: usize, cause: u16) {
    // SAFETY: the caller's.
    unsafe {
        let way = &(*bucket).ways[i];
        way.key().write(&mut (*place).key);
        (*place).counters = way.counters();
        (*place).marks = (*bucket).marks(i);
        (*place).macs = match way.mac_number().checked_sub(1).and_then(mac_pair) {
            Some(pair) => (*pair).macs,
            None => (*bucket).asides.0[i].macs,
        };
        (*place).family = W::FAMILY;
        (*place).cause = cause;
    }
}

/// Both MAC addresses of the frame.
#[inline(always)]
fn macs(ctx: *mut xdp_md) -> Macs {
    let ctx = XdpContext::new(ctx);
    let frame = XdpFrame::<false>::new(&ctx, core::ptr::null_mut());
    let word = |i: usize| {
        let octets = frame.read(ethernet::ADDRESSES + 4 * i);
        octets.map_or(0, u32::from_ne_bytes)
    };
    Macs {
        words: [word(0), word(1), word(2)],
    }
}

/// The number of the frame's MAC addresses in the dictionary of this CPU: 1 + their place, or 0
/// where that is another pair's.
#[inline(never)]
fn mac_number(ctx: *mut xdp_md) -> u64 {
    let macs = macs(ctx);
    let place = flowprobe_ebpf::macs::place(&macs);
    match mac_pair(place) {
        // SAFETY: a place of the dictionary that only this CPU writes.
        Some(pair) if unsafe { (*pair).claim(&macs) } => u64::from(place) + 1,
        _ => 0,
    }
}

/// A place in the dictionary of this CPU.
#[inline(always)]
fn mac_pair(place: u32) -> Option<*mut MacPair> {
    // SAFETY: a helper without arguments.
    maps::mac_pair(unsafe { bpf_get_smp_processor_id() }, place)
}

/// Waits between finding a flow and counting into it, in the test build that proves that the
/// grace period is needed.
#[cfg(feature = "widen-window")]
#[inline(always)]
fn widen_window() {
    let mut i = 0;
    while i < 256 {
        // SAFETY: a helper without arguments.
        unsafe { aya_ebpf::helpers::bpf_ktime_get_ns() };
        i += 1;
    }
}

#[cfg(not(feature = "widen-window"))]
#[inline(always)]
fn widen_window() {}
