//! The flow table's side of the kernel: find the packet's flow or make one, and count.
//!
//! The rules that keep counts exact while userspace takes flows out are in ARCHITECTURE.md,
//! "The retire protocol". In short: only this CPU writes ways of its partition; a way that
//! userspace has taken (`User`) is neither matched nor reused; a new flow is stored in full
//! before its control word says so; a flow is moved to the ring only after a place there is sure.
//!
//! A known flow in the way that its hash prefers is counted inline. All else is a function of its
//! own, so that what it needs takes no registers from the packets that nearly all are.

use core::{arch::asm, mem::offset_of};

use flowprobe_ebpf::{
    Counters, Frame as _, Lost, Marks, Packet, Parsed,
    cpu::{Cpu, SCRATCH_WORDS},
    flow::Macs,
    hash::{fingerprint, preferred_way},
    key::{Key, MAX_WORDS},
    ring::{Part, cause},
    table::{Bucket, Control, State, WAYS, at_distance, distance, search},
    wire::ethernet,
};

use super::{
    atomic,
    hook::Hook,
    maps::{self, Table},
    tag::Beside,
};

/// A packet on its way through the program, where it is not a plain one of a flow that is found at
/// once: in memory of its CPU, so that functions can share it and the verifier forgets it.
#[repr(C)]
pub(crate) struct Scratch {
    /// What is known of the frame; [`settle`] needs the packet only.
    pub(super) parsed: Parsed,
    hash: u64,
    key: [u64; MAX_WORDS],
    /// Octets of the frame, or of all frames that a super-frame is on the wire.
    pub(super) octets: u64,
    /// Octets of IP that a super-frame is more on the wire: headers that it has once.
    pub(super) repeated: u64,
    /// See [`forget`](super::frame::forget).
    pub(super) forgotten: u64,
    /// The VLAN tag beside the frame, where that is asked for.
    pub(super) beside: Beside,
    /// Where traffic control has seen the packet, as keys have it.
    pub(super) point: u32,
    /// Octets of the link layer in front of it that are the same in all its frames: an Ethernet
    /// header, or none.
    pub(super) link_len: u32,
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
pub(super) unsafe fn account<const KEPT: bool, H: Hook, W: Table>(
    ctx: H,
    cpu: *mut Cpu,
    key: &W::Key,
    packet: &Packet,
) -> Result<(), Lost> {
    let hash = key.hash_by(maps::hash_secret);
    // SAFETY: the caller's. `bucket` points to a whole element of the table, in the partition of
    // this CPU. A way found live is not touched by userspace before this run has ended.
    unsafe {
        let bucket = W::bucket((*cpu).first_bucket, hash).ok_or(Lost::NoPartition)?;
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
unsafe fn add<W: Table>(
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
        note_options(cpu, way, i, hash, packet);
    }
    true
}

/// Notes the options of a packet of the flow in `way`, which is way `i` of the hash's bucket.
///
/// # Safety
/// As [`account`].
#[inline(always)]
unsafe fn note_options<W: Table>(cpu: *mut Cpu, way: &mut W, i: usize, hash: u64, packet: &Packet) {
    // Few packets have any, so others do not touch the memory where they are kept.
    if packet.options == 0 {
        return;
    }
    // SAFETY: the caller's; there are asides for each bucket.
    unsafe {
        if let Some(asides) = W::asides((*cpu).first_bucket, hash) {
            (*asides).note_options(i, way, packet);
        }
    }
}

/// Counts the packet in the scratch memory, whose flow is not in the way that its hash prefers, or
/// begins anew there.
///
/// # Safety
/// As [`add`].
#[inline(never)]
unsafe fn settle<H: Hook, W: Table>(
    ctx: H,
    cpu: *mut Cpu,
    bucket: *mut Bucket<W>,
) -> Result<(), Lost> {
    // SAFETY: the caller's.
    unsafe {
        let arrival = arrival::<W>(cpu);
        let preferred = preferred_way(fingerprint(arrival.hash));
        let found = if holds(bucket, preferred, arrival.key, arrival.hash) {
            preferred
        } else if (*bucket).ways[preferred].reach() != 0 {
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
unsafe fn restart<H: Hook, W: Table>(
    ctx: H,
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
unsafe fn evict<H: Hook, W: Table>(
    ctx: H,
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
unsafe fn arrival<'a, W: Table>(cpu: *mut Cpu) -> Arrival<'a, W::Key> {
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
struct Partition<H> {
    ctx: H,
    /// State of that CPU.
    cpu: *mut Cpu,
}

impl<H: Hook> Partition<H> {
    /// A SYN after FIN or RST: the flow in way `i` is over, its place is the new flow's. False if
    /// userspace has taken it meanwhile; the packet is not counted then.
    ///
    /// # Safety
    /// `bucket` is a bucket of this partition, and way `i` was live when this program run began.
    #[inline(always)]
    unsafe fn restart<W: Table>(
        &self,
        bucket: *mut Bucket<W>,
        i: usize,
        arrival: &Arrival<'_, W::Key>,
    ) -> bool {
        // SAFETY: the caller's.
        unsafe {
            let Some((place, position)) = self.reserve() else {
                // Rather one flow that ended twice than a packet in none.
                let way = &mut (*bucket).ways[i];
                way.add(arrival.packet, (*self.cpu).now_ns);
                note_options(self.cpu, way, i, arrival.hash, arrival.packet);
                return true;
            };
            let Some(taken) = take(bucket, i) else {
                return false;
            };
            self.fill_from_way(place, bucket, i, arrival.hash, cause::RESTARTED);
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
    unsafe fn evict<W: Table>(
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
                    self.fill_from_way(place, bucket, i, arrival.hash, cause::EVICTED);
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

    /// Its number.
    #[inline(always)]
    fn partition(&self) -> u32 {
        // SAFETY: `cpu` points to a map element.
        unsafe { (*self.cpu).partition }
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
        Some((maps::ring_part(self.partition(), head)?, head))
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
    unsafe fn store<W: Table>(
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
            let number = mac_number(self.ctx, self.cpu, self.partition());
            let way = &mut (*bucket).ways[i];
            way.fill(arrival.key, arrival.packet, number, (*self.cpu).now_ns);
            note_options(self.cpu, way, i, arrival.hash, arrival.packet);
            if number == 0
                && let Some(asides) = W::asides((*self.cpu).first_bucket, arrival.hash)
            {
                (*asides).macs[i] = macs(self.ctx, self.cpu);
            }
            let (distance, preferred) = (distance(i, preferred), &mut (*bucket).ways[preferred]);
            if distance > preferred.reach() {
                preferred.set_reach(distance);
            }
            let place = W::control(&raw mut (*bucket).ways[i]);
            atomic::publish(place, control.next_live(fingerprint).0);
        }
    }

    /// Copies the flow of a taken way of the hash's bucket into the ring.
    ///
    /// # Safety
    /// As [`holds`]; `place` is reserved.
    #[inline(always)]
    unsafe fn fill_from_way<W: Table>(
        &self,
        place: *mut Part,
        bucket: *mut Bucket<W>,
        i: usize,
        hash: u64,
        cause: u16,
    ) {
        // SAFETY: the caller's.
        unsafe {
            let way = &(*bucket).ways[i];
            way.key().write(&mut (*place).key);
            (*place).counters = way.counters();
            (*place).marks = way.marks();
            (*place).family = W::FAMILY;
            (*place).cause = cause;
            if let Some(asides) = W::asides((*self.cpu).first_bucket, hash) {
                (*place).marks = (*asides).marks(i, way);
                let number = way.mac_number().checked_sub(1);
                let pair = number.and_then(|place| maps::mac_pair(self.partition(), place));
                (*place).macs = match pair {
                    Some(pair) => (*pair).macs,
                    None => (*asides).macs[i],
                };
            }
        }
    }

    /// Writes a single packet into the ring.
    ///
    /// # Safety
    /// `place` is reserved.
    #[inline(always)]
    unsafe fn fill_from_packet<W: Table>(&self, place: *mut Part, arrival: &Arrival<'_, W::Key>) {
        // SAFETY: the caller's.
        unsafe {
            arrival.key.write(&mut (*place).key);
            (*place).counters = Counters::first(arrival.packet, (*self.cpu).now_ns);
            (*place).marks = Marks::first(arrival.packet);
            (*place).macs = macs(self.ctx, self.cpu);
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
unsafe fn holds<W: Table>(bucket: *mut Bucket<W>, i: usize, key: &W::Key, hash: u64) -> bool {
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
unsafe fn displaced<W: Table>(bucket: *mut Bucket<W>, cpu: *mut Cpu) -> usize {
    // SAFETY: the caller's.
    let arrival = unsafe { arrival::<W>(cpu) };
    let fingerprint = fingerprint(arrival.hash);
    let preferred = preferred_way(fingerprint);
    // SAFETY: the caller's; only this CPU writes the reach.
    unsafe {
        let reach = (*bucket).ways[preferred].reach();
        let found = search(fingerprint, reach, |i| control(bucket, a_way(i)));
        if found.distance == 0 {
            if found.reach < reach {
                (*bucket).ways[preferred].set_reach(found.reach);
            }
            return WAYS;
        }
        let i = a_way(at_distance(preferred, found.distance));
        if holds(bucket, i, arrival.key, arrival.hash) {
            return i;
        }
    }
    WAYS
}

/// The same way, with an instruction that says to the verifier that it is one: those before kernel
/// 6.10 know nothing of what an XOR gives.
#[inline(always)]
fn a_way(i: usize) -> usize {
    let mut i = i;
    // SAFETY: an AND of a register.
    unsafe {
        asm!(
            "{i} &= {mask}",
            i = inout(reg) i,
            mask = const WAYS - 1,
            options(pure, nomem, nostack)
        );
    }
    i & (WAYS - 1) // the compiler does not know it now, and would check the bounds
}

/// The control word of way `i`, read anew.
///
/// # Safety
/// As [`holds`].
#[inline(always)]
unsafe fn control<W: Table>(bucket: *mut Bucket<W>, i: usize) -> Control {
    // SAFETY: the caller's.
    Control(unsafe { W::control(&raw mut (*bucket).ways[i]).read_volatile() })
}

/// The free way that is nearest to the one that the hash prefers.
///
/// # Safety
/// As [`holds`].
#[inline(always)]
unsafe fn free<W: Table>(bucket: *mut Bucket<W>, hash: u64) -> Option<(usize, Control)> {
    let start = preferred_way(fingerprint(hash));
    let mut i = 0;
    while i < WAYS {
        let way = a_way(at_distance(start, i));
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
unsafe fn take<W: Table>(bucket: *mut Bucket<W>, i: usize) -> Option<Control> {
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

/// Which flow leaves a full bucket: of the pair of ways that the newcomer's hash picks, the one
/// that has been silent longer. Near to least-recently-used for two cache lines instead of eight.
///
/// # Safety
/// As [`holds`].
#[inline(always)]
unsafe fn victim<W: Table>(bucket: *mut Bucket<W>, hash: u64) -> usize {
    let a = preferred_way(fingerprint(hash));
    let b = a_way(at_distance(a, 1));
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

/// Both MAC addresses of the frame, 0 where it has none.
#[inline(always)]
fn macs<H: Hook>(ctx: H, cpu: *mut Cpu) -> Macs {
    // SAFETY: the memory of this CPU, which was asked for with this packet.
    if !unsafe { ctx.is_ethernet(scratch(cpu)) } {
        return Macs::default();
    }
    let frame = ctx.head(core::ptr::null_mut());
    let word = |i: usize| {
        let octets = frame.read(ethernet::ADDRESSES + 4 * i);
        octets.map_or(0, u32::from_ne_bytes)
    };
    Macs {
        words: [word(0), word(1), word(2)],
    }
}

/// The number of the frame's MAC addresses in the dictionary of a partition: 1 + their place, or 0
/// where that is another pair's.
#[inline(never)]
fn mac_number<H: Hook>(ctx: H, cpu: *mut Cpu, partition: u32) -> u64 {
    let macs = macs(ctx, cpu);
    let place = flowprobe_ebpf::macs::place(&macs);
    match maps::mac_pair(partition, place) {
        // SAFETY: a place of the dictionary that only this CPU writes.
        Some(pair) if unsafe { (*pair).claim(&macs) } => u64::from(place) + 1,
        _ => 0,
    }
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
