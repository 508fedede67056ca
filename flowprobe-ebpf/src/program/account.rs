//! The flow table's side of the kernel: find the packet's flow or make one, and count.
//!
//! The rules that keep counts exact while userspace takes flows out are in ARCHITECTURE.md,
//! "The retire protocol". In short: only this CPU writes ways of its partition; a way that
//! userspace has taken (`User`) is neither matched nor reused; a new flow is stored in full
//! before its control word says so; a flow is moved to the ring only after a place there is sure.

use flowprobe_ebpf::{
    Counters, Frame, Lost, Marks, Packet,
    cpu::Cpu,
    flow::Macs,
    hash::{fingerprint, preferred_way},
    key::Key,
    ring::{Part, cause},
    table::{Bucket, Control, State, WAYS, Way},
    wire::{ethernet, tcp},
};

use super::{atomic, clock, maps};

/// The part of tables and rings that one CPU writes.
pub(super) struct Partition {
    /// Its CPU.
    pub(super) id: u32,
    /// State of that CPU.
    pub(super) cpu: *mut Cpu,
}

/// A packet on its way into the table.
struct Arrival<'a, K, F> {
    key: &'a K,
    hash: u64,
    packet: &'a Packet,
    frame: &'a F,
    now_ns: u64,
}

impl Partition {
    /// Counts `packet` into the flow `key`.
    #[inline(always)]
    pub(super) fn account<W: Way>(
        &self,
        bucket_of: impl Fn(u32, u64) -> Option<*mut Bucket<W>>,
        key: &W::Key,
        packet: &Packet,
        frame: &impl Frame,
    ) -> Result<(), Lost> {
        // SAFETY: `cpu` is the element of this CPU.
        let now_ns = unsafe { clock::now_ns(self.cpu) };
        let hash = key.hash_by(maps::hash_secret);
        // SAFETY: as above.
        let first = unsafe { (*self.cpu).first_bucket };
        let bucket = bucket_of(first, hash).ok_or(Lost::NoPartition)?;
        let arrival = Arrival {
            key,
            hash,
            packet,
            frame,
            now_ns,
        };
        // SAFETY: `bucket` points to a whole element of the table, in the partition of this CPU.
        // A way found live is not touched by userspace before this run of the program has ended.
        unsafe {
            let Some(i) = find(bucket, key, hash) else {
                return self.insert(bucket, &arrival);
            };
            let way = &mut (*bucket).ways[i];
            if packet.tcp_flags & tcp::SYN != 0 && way.marks().ended() {
                return self.restart(bucket, i, &arrival);
            }
            way.add(packet, now_ns);
        }
        Ok(())
    }

    /// A SYN after FIN or RST: the flow in way `i` is over, its place is the new flow's.
    ///
    /// # Safety
    /// `bucket` is a bucket of this partition, and way `i` was live when this program run began.
    #[inline(always)]
    unsafe fn restart<W: Way>(
        &self,
        bucket: *mut Bucket<W>,
        i: usize,
        arrival: &Arrival<W::Key, impl Frame>,
    ) -> Result<(), Lost> {
        // SAFETY: the caller's.
        unsafe {
            let Some((place, position)) = self.reserve() else {
                // Rather one flow that ended twice than a packet in none.
                (*bucket).ways[i].add(arrival.packet, arrival.now_ns);
                return Ok(());
            };
            let Some(taken) = take(bucket, i) else {
                return self.insert(bucket, arrival);
            };
            fill_from_way(place, bucket, i, arrival.hash, cause::RESTARTED);
            self.publish(position);
            store(bucket, i, taken, arrival);
        }
        Ok(())
    }

    /// Puts a new flow into a free way, or into that of a flow that goes to the ring.
    ///
    /// # Safety
    /// `bucket` is a bucket of this partition.
    #[inline(always)]
    unsafe fn insert<W: Way>(
        &self,
        bucket: *mut Bucket<W>,
        arrival: &Arrival<W::Key, impl Frame>,
    ) -> Result<(), Lost> {
        // SAFETY: the caller's.
        unsafe {
            if let Some((i, control)) = free(bucket, arrival.hash) {
                store(bucket, i, control, arrival);
                (*self.cpu).inserted += 1;
                return Ok(());
            }
            let (place, position) = self.reserve().ok_or(Lost::RingFull)?;
            let i = victim(bucket, arrival.hash);
            match take(bucket, i) {
                Some(taken) => {
                    // The key of another flow: its hash is not known here.
                    let hash = (*bucket).ways[i].key().hash_by(maps::hash_secret);
                    fill_from_way(place, bucket, i, hash, cause::EVICTED);
                    self.publish(position);
                    store(bucket, i, taken, arrival);
                    (*self.cpu).inserted += 1;
                    (*self.cpu).evicted += 1;
                }
                None => {
                    fill_from_packet::<W>(place, arrival);
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
        Some((maps::ring_part(self.id, head)?, head))
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
}

/// The way that holds the flow `key`, if one does.
///
/// # Safety
/// `bucket` points to a whole element of the table.
#[inline(always)]
unsafe fn find<W: Way>(bucket: *mut Bucket<W>, key: &W::Key, hash: u64) -> Option<usize> {
    let fingerprint = fingerprint(hash);
    let tag = Control::live_tag(fingerprint);
    // SAFETY: the caller's, and `i` is a way.
    let holds = |i| unsafe { control(bucket, i).tag() == tag && (*bucket).ways[i].holds(key) };
    let preferred = preferred_way(fingerprint);
    if holds(preferred) {
        widen_window();
        return Some(preferred);
    }
    // SAFETY: as above; only this CPU writes the flag and the hints.
    unsafe {
        if !(*bucket).ways[preferred].displaced() {
            return None;
        }
        if let Some(i) = (*bucket).asides.find(fingerprint)
            && holds(i)
        {
            widen_window();
            return Some(i);
        }
        let displaced = (*bucket).asides.displaced_from(preferred);
        (*bucket).ways[preferred].set_displaced(displaced as u8);
    }
    None
}

/// The control word of way `i`, read anew.
///
/// # Safety
/// As [`find`].
#[inline(always)]
unsafe fn control<W: Way>(bucket: *mut Bucket<W>, i: usize) -> Control {
    // SAFETY: the caller's.
    Control(unsafe { W::control(&raw mut (*bucket).ways[i]).read_volatile() })
}

/// A free way, the one that the hash prefers before all others.
///
/// # Safety
/// As [`find`].
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
/// As [`find`].
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
/// As [`find`].
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

/// Stores a new flow into a way that is the program's, then says so.
///
/// # Safety
/// As [`find`]; the way is free or taken, and `control` is what stands there.
#[inline(always)]
unsafe fn store<W: Way>(
    bucket: *mut Bucket<W>,
    i: usize,
    control: Control,
    arrival: &Arrival<W::Key, impl Frame>,
) {
    let fingerprint = fingerprint(arrival.hash);
    let preferred = preferred_way(fingerprint);
    // SAFETY: the caller's.
    unsafe {
        (*bucket).ways[i].fill(arrival.key, arrival.packet, arrival.now_ns);
        if i == preferred {
            (*bucket).asides.set_preferred(i, fingerprint);
        } else {
            (*bucket).asides.set(i, fingerprint);
            (*bucket).ways[preferred].set_displaced(1);
        }
        (*bucket).asides.0[i].macs = macs(arrival.frame);
        let place = W::control(&raw mut (*bucket).ways[i]);
        atomic::publish(place, control.next_live(fingerprint).0);
    }
}

/// Copies the flow of a taken way into the ring.
///
/// # Safety
/// As [`find`]; `place` is reserved.
#[inline(always)]
unsafe fn fill_from_way<W: Way>(
    place: *mut Part,
    bucket: *mut Bucket<W>,
    i: usize,
    hash: u64,
    cause: u32,
) {
    // SAFETY: the caller's.
    unsafe {
        let way = &(*bucket).ways[i];
        (*place).key = way.key().padded();
        (*place).counters = way.counters();
        (*place).marks = way.marks();
        (*place).macs = (*bucket).asides.0[i].macs;
        (*place).family = W::FAMILY;
        (*place).cause = cause;
        (*place).hash = hash;
    }
}

/// Writes a single packet into the ring.
///
/// # Safety
/// `place` is reserved.
#[inline(always)]
unsafe fn fill_from_packet<W: Way>(place: *mut Part, arrival: &Arrival<W::Key, impl Frame>) {
    // SAFETY: the caller's.
    unsafe {
        (*place).key = arrival.key.padded();
        (*place).counters = Counters::first(arrival.packet, arrival.now_ns);
        (*place).marks = Marks::first(arrival.packet);
        (*place).macs = macs(arrival.frame);
        (*place).family = W::FAMILY;
        (*place).cause = cause::SINGLE;
        (*place).hash = arrival.hash;
    }
}

/// Both MAC addresses. They are read only here, for the first packet of a flow.
#[inline(always)]
fn macs(frame: &impl Frame) -> Macs {
    Macs {
        octets: frame.read(ethernet::ADDRESSES).unwrap_or_default(),
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
