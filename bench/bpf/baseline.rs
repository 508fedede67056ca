//! Flow metering in the usual design: a hash map of the kernel, the clock read for each packet.
//!
//! The way of plain frames through the parser, and the statistics, are flowprobe's own, so that only
//! table and clock differ. The maps are
//! allocated in full beforehand, which makes a new flow cheaper than allocating at its first
//! packet would; the values are changed in place, and nothing is sent to userspace.

use core::intrinsics::{AtomicOrdering, atomic_xadd};

use aya_ebpf::{
    bindings::BPF_NOEXIST,
    btf_maps::{LruHashMap, PerCpuHashMap},
    macros::btf_map,
    programs::XdpContext,
};
use flowprobe_ebpf::{Addresses, Counters, Marks, Packet, parse::plain};

use crate::{
    clock::{cached_ns, ktime_ns},
    frame::XdpFrame,
};

/// Both families in one 40-octet key: addresses (IPv4 mapped, RFC 4291 §2.5.5.2), ports,
/// protocol, traffic class, VLAN.
#[repr(C)]
struct Key {
    source: [u64; 2],
    destination: [u64; 2],
    rest: u64,
}

/// Counts, times, flags and TTLs.
#[repr(C)]
struct Flow {
    counters: Counters,
    marks: Marks,
}

const _: () = assert!(size_of::<Key>() == 40 && size_of::<Flow>() == 48);

// The harness sets the sizes.
#[btf_map]
static PERCPU_FLOWS: PerCpuHashMap<Key, Flow, 1> = PerCpuHashMap::new();
#[btf_map]
static CLOCKED_FLOWS: PerCpuHashMap<Key, Flow, 1> = PerCpuHashMap::new();
#[btf_map]
static LRU_FLOWS: LruHashMap<Key, Flow, 1> = LruHashMap::new();

#[inline(always)]
pub(crate) fn percpu_hash(ctx: &XdpContext) {
    if let Some(packet) = plain(&XdpFrame::new(ctx)) {
        count_percpu(&PERCPU_FLOWS, &packet, ktime_ns());
    }
}

#[inline(always)]
pub(crate) fn percpu_hash_same_clock(ctx: &XdpContext) {
    if let Some(packet) = plain(&XdpFrame::new(ctx)) {
        count_percpu(&CLOCKED_FLOWS, &packet, cached_ns());
    }
}

#[inline(always)]
pub(crate) fn lru_hash(ctx: &XdpContext) {
    if let Some(packet) = plain(&XdpFrame::new(ctx)) {
        count_shared(&packet, ktime_ns());
    }
}

#[inline(always)]
fn count_percpu(flows: &PerCpuHashMap<Key, Flow, 1>, packet: &Packet, now_ns: u64) {
    let key = Key::new(packet);
    if let Some(flow) = flows.get_ptr_mut(&key) {
        // SAFETY: this CPU's own value, and softirqs do not nest.
        let flow = unsafe { &mut *flow };
        if flow.counters.packets == 0 {
            // Another CPU made the entry: the kernel zeroed the value of this one.
            *flow = Flow::first(packet, now_ns);
        } else {
            flow.counters.add(packet, now_ns);
            flow.marks.add(packet);
        }
        return;
    }
    let first = Flow::first(packet, now_ns);
    if flows.insert(&key, &first, u64::from(BPF_NOEXIST)).is_err() {
        // Another CPU was faster.
        if let Some(flow) = flows.get_ptr_mut(&key) {
            // SAFETY: as above.
            unsafe { *flow = first };
        }
    }
}

/// All CPUs share the values here, so counts are added atomically.
#[inline(always)]
fn count_shared(packet: &Packet, now_ns: u64) {
    let key = Key::new(packet);
    if let Some(flow) = LRU_FLOWS.get_ptr_mut(&key) {
        // SAFETY: a whole value of the map. The times and marks of two CPUs at once may mix,
        // which programs of this design put up with.
        unsafe { add_shared(flow, packet, now_ns) };
        return;
    }
    let first = Flow::first(packet, now_ns);
    let inserted = LRU_FLOWS.insert(&key, &first, u64::from(BPF_NOEXIST));
    if inserted.is_err()
        && let Some(flow) = LRU_FLOWS.get_ptr_mut(&key)
    {
        // SAFETY: as above.
        unsafe { add_shared(flow, packet, now_ns) };
    }
}

/// # Safety
/// `flow` points to a whole value of the map.
#[inline(always)]
unsafe fn add_shared(flow: *mut Flow, packet: &Packet, now_ns: u64) {
    // SAFETY: the caller's.
    unsafe {
        add(&raw mut (*flow).counters.packets, 1);
        add(&raw mut (*flow).counters.octets, u64::from(packet.octets));
        (*flow).counters.last_ns = now_ns;
        (*flow).marks.add(packet);
    }
}

/// # Safety
/// `target` points to 8 aligned octets of a map value.
#[inline(always)]
unsafe fn add(target: *mut u64, value: u64) {
    // SAFETY: the caller's.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(target, value) };
}

impl Key {
    #[inline(always)]
    fn new(packet: &Packet) -> Self {
        let (source, destination) = match packet.addresses {
            Addresses::V4(both) => {
                let [a, b, c, d, e, f, g, h] = both.to_ne_bytes();
                (mapped([a, b, c, d]), mapped([e, f, g, h]))
            }
            Addresses::V6([a, b, c, d]) => ([a, b], [c, d]),
        };
        Self {
            source,
            destination,
            rest: u64::from(packet.ports)
                | u64::from(packet.protocol) << 32
                | u64::from(packet.traffic_class) << 40
                | u64::from(packet.vlan) << 48,
        }
    }
}

/// An IPv4-mapped IPv6 address.
#[inline(always)]
fn mapped([a, b, c, d]: [u8; 4]) -> [u64; 2] {
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

impl Flow {
    #[inline(always)]
    fn first(packet: &Packet, now_ns: u64) -> Self {
        Self {
            counters: Counters::first(packet, now_ns),
            marks: Marks::first(packet),
        }
    }
}
