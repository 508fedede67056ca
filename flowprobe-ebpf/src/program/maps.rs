//! The maps that are shared with userspace, and the settings that it writes before loading.
//!
//! All maps are arrays that userspace maps into its memory. Their sizes here are placeholders:
//! the loader sets them.

use aya_ebpf::{
    bindings::{BPF_F_MMAPABLE, xdp_action},
    btf_maps::Array,
    helpers::generated::bpf_redirect_map,
    macros::btf_map,
};
use flowprobe_ebpf::{
    class::Rule,
    cpu::{Cpu, Stray},
    fragments::FragmentSet,
    handover::{self, Heartbeat, Port, SLOTS, port_place},
    hash::{SECRET_WORDS, bucket, wide_bucket},
    macs::{MAC_PAIRS, MacPair},
    parse::Tunnels,
    ring::Part,
    sampling::{MAX_CLASSES, Sampler},
    table::{Asides, Bucket, BucketV4, BucketV6, BucketWide, Way, WayV4, WayV6, WayWide},
};

const SHARED: usize = BPF_F_MMAPABLE as usize;

/// One run of (`BUCKET_MASK` + 1) buckets per partition.
#[btf_map]
static FLOWS_V4: Array<BucketV4, 1, SHARED> = Array::new();

/// One run of (`BUCKET_MASK` + 1) buckets per partition.
#[btf_map]
static FLOWS_V6: Array<BucketV6, 1, SHARED> = Array::new();

/// One run of (`BUCKET_MASK` + 1) >> `WIDE_SHIFT` buckets per partition.
#[btf_map]
static FLOWS_WIDE: Array<BucketWide, 1, SHARED> = Array::new();

/// One for each bucket of `FLOWS_V4`.
#[btf_map]
static ASIDES_V4: Array<Asides, 1, SHARED> = Array::new();

/// One for each bucket of `FLOWS_V6`.
#[btf_map]
static ASIDES_V6: Array<Asides, 1, SHARED> = Array::new();

/// One for each bucket of `FLOWS_WIDE`.
#[btf_map]
static ASIDES_WIDE: Array<Asides, 1, SHARED> = Array::new();

/// One run of [`MAC_PAIRS`] per partition.
#[btf_map]
static MACS: Array<MacPair, 1, SHARED> = Array::new();

/// One run of (`FRAGMENT_MASK` + 1) sets per partition.
#[btf_map]
static FRAGMENTS: Array<FragmentSet, 1> = Array::new();

/// One per partition.
#[btf_map]
static CPUS: Array<Cpu, 1, SHARED> = Array::new();

/// For packets on CPUs without a partition.
#[btf_map]
static STRAY: Array<Stray, 1, SHARED> = Array::new();

/// By index: not 0 for interfaces on which packets have been seen when they came in. Indices beyond
/// are of other interfaces.
#[btf_map]
static WATCHED: Array<u32, 1> = Array::new();

/// One run of [`MAX_CLASSES`] per partition, where packets are of several classes.
#[btf_map]
static SAMPLERS: Array<Sampler, 1, SHARED> = Array::new();

/// What the packets of each class have in common; class 0 has none.
#[btf_map]
static RULES: Array<Rule, { MAX_CLASSES as usize }, SHARED> = Array::new();

/// One run of (`RING_MASK` + 1) parts per partition.
#[btf_map]
static RINGS: Array<Part, 1, SHARED> = Array::new();

/// Stands for the map of sockets by slot, which the loader puts in its place for the programs that
/// hand packets over. Kernels without AF_XDP have no such map, and load the others all the same.
#[btf_map]
static SOCKETS: Array<u32, 1> = Array::new();

/// By slot.
#[btf_map]
static HEARTBEATS: Array<Heartbeat, { SLOTS as usize }, SHARED> = Array::new();

/// See [`handover::port_place`].
#[btf_map]
static PORTS: Array<Port, { handover::PORTS as usize }, SHARED> = Array::new();

macro_rules! settings {
    ($($(#[$doc:meta])* $name:ident: $kind:ty, $get:ident;)+) => {
        $(
            $(#[$doc])*
            #[unsafe(no_mangle)]
            static $name: $kind = 0;

            $(#[$doc])*
            #[inline(always)]
            pub(super) fn $get() -> $kind {
                // SAFETY: a valid static. Volatile, since the loader has changed its value.
                unsafe { (&raw const $name).read_volatile() }
            }
        )+
    };
}

settings! {
    /// Buckets of one partition of each table, less one.
    BUCKET_MASK: u32, bucket_mask;
    /// See [`flowprobe_ebpf::table::WIDE_SHIFT`]; less where the tables are tiny.
    WIDE_SHIFT: u32, wide_shift;
    /// Sets of first fragments of one partition, less one.
    FRAGMENT_MASK: u32, fragment_mask;
    /// Not 0 where the flow is that of the packet in a tunnel.
    TUNNELS_INNER: u32, tunnels_inner;
    /// Ports of VXLAN, four of 16 bits.
    VXLAN_PORTS: u64, vxlan_ports;
    /// Ports of GENEVE, likewise.
    GENEVE_PORTS: u64, geneve_ports;
    /// Ports of GTP-U, likewise.
    GTPU_PORTS: u64, gtpu_ports;
    /// Parts of one ring, less one.
    RING_MASK: u32, ring_mask;
    /// Not 0 where one of the next two is not, or `SHADOW`.
    SEVERAL_SAMPLERS: u32, several_samplers;
    /// Classes of packets with a sampler of their own, class 0 among them; 0 where all packets are of
    /// one.
    CLASSES: u32, classes;
    /// Not 0 where a packet has to be parsed before a sampler can be asked about it.
    PARSE_FIRST: u32, parse_first;
    /// Initialiser of the hashes that select packets and flows.
    SAMPLE_KEY: u32, sample_key;
    /// Phase of time-based sampling, nanoseconds.
    PHASE_NS: u64, phase_ns;
    /// Partitions before those that sample beside the metering of everything; 0 where there are
    /// none.
    SHADOW: u32, shadow;
    /// Not 0 where a packet that was seen when it came in is not counted again when it goes out.
    DEDUP: u32, dedup;
    /// Nanoseconds of a tick; 0 where that is not known.
    TICK_NS: u32, tick_ns;
    /// Not 0 where the hardware makes stores visible in program order.
    STORES_IN_ORDER: u32, stores_in_order;
}

/// The secret of the hash, drawn at random at each start.
#[unsafe(no_mangle)]
static HASH_SECRET: [u64; SECRET_WORDS] = [0; SECRET_WORDS];

/// Word `i` of the secret of the hash.
#[inline(always)]
pub(super) fn hash_secret(i: usize) -> u64 {
    // SAFETY: in bounds or it does not compile to anything. Volatile, since the loader has
    // changed the value.
    unsafe { (&raw const HASH_SECRET[i]).read_volatile() }
}

/// The state of CPU `id`, if it has a partition.
#[inline(always)]
pub(super) fn cpu(id: u32) -> Option<*mut Cpu> {
    CPUS.get_ptr_mut(id)
}

/// The sampler of a class in a partition.
#[inline(always)]
pub(super) fn sampler(partition: u32, class: u32) -> Option<*mut Sampler> {
    SAMPLERS.get_ptr_mut(partition * MAX_CLASSES + (class & (MAX_CLASSES - 1)))
}

/// What the packets of a class have in common.
#[inline(always)]
pub(super) fn rule(class: u32) -> Option<*mut Rule> {
    RULES.get_ptr_mut(class)
}

/// Whether packets that came in on an interface have been seen.
#[inline(always)]
pub(super) fn is_watched(ifindex: u32) -> bool {
    // SAFETY: a word of a map element, which nobody writes any more.
    WATCHED
        .get_ptr_mut(ifindex)
        .is_some_and(|watched| unsafe { watched.read() != 0 })
}

/// The queues of an interface whose packets are handed over.
#[inline(always)]
pub(super) fn port(ifindex: u32) -> Option<*mut Port> {
    let mut n = 0;
    while n < handover::PORT_PLACES {
        let port = PORTS.get_ptr_mut(port_place(ifindex, n))?;
        // SAFETY: a word of a map element.
        if unsafe { (&raw const (*port).ifindex).read_volatile() } == ifindex {
            return Some(port);
        }
        n += 1;
    }
    None
}

/// When the worker of a slot was last seen at work.
#[inline(always)]
pub(super) fn heartbeat(slot: u32) -> Option<*mut Heartbeat> {
    HEARTBEATS.get_ptr_mut(slot)
}

/// Prepares to redirect the packet to the socket in a slot; false if there is none.
#[inline(always)]
pub(super) fn redirect(slot: u32) -> bool {
    // SAFETY: the address of a map, in whose place the loader puts one of sockets.
    let action = unsafe {
        bpf_redirect_map(
            (&raw const SOCKETS).cast_mut().cast(),
            slot.into(),
            xdp_action::XDP_PASS.into(),
        )
    };
    action == i64::from(xdp_action::XDP_REDIRECT)
}

/// The counters of all CPUs without a partition.
#[inline(always)]
pub(super) fn stray() -> Option<*mut Stray> {
    STRAY.get_ptr_mut(0)
}

/// The table that a kind of way belongs to.
pub(super) trait Table: Way + Sized {
    /// The bucket of a hash, in the partition that starts at bucket `first` of the IPv4 table.
    fn bucket(first: u32, hash: u64) -> Option<*mut Bucket<Self>>;
    /// What is kept beside that bucket.
    fn asides(first: u32, hash: u64) -> Option<*mut Asides>;
}

macro_rules! table {
    ($way:ident, $flows:ident, $asides:ident, $index:ident) => {
        impl Table for $way {
            #[inline(always)]
            fn bucket(first: u32, hash: u64) -> Option<*mut Bucket<Self>> {
                $flows.get_ptr_mut($index(first, hash))
            }

            #[inline(always)]
            fn asides(first: u32, hash: u64) -> Option<*mut Asides> {
                $asides.get_ptr_mut($index(first, hash))
            }
        }
    };
}

table!(WayV4, FLOWS_V4, ASIDES_V4, index);
table!(WayV6, FLOWS_V6, ASIDES_V6, index);
table!(WayWide, FLOWS_WIDE, ASIDES_WIDE, wide_index);

#[inline(always)]
fn index(first: u32, hash: u64) -> u32 {
    first + bucket(hash, bucket_mask())
}

#[inline(always)]
fn wide_index(first: u32, hash: u64) -> u32 {
    let shift = wide_shift();
    (first >> shift) + wide_bucket(hash, bucket_mask(), shift)
}

/// The place of a pair of MAC addresses in the dictionary of a CPU.
#[inline(always)]
pub(super) fn mac_pair(cpu: u32, place: u32) -> Option<*mut MacPair> {
    MACS.get_ptr_mut(cpu * MAC_PAIRS + (place & (MAC_PAIRS - 1)))
}

/// The set of first fragments that a tag belongs to, in the table of a CPU.
#[inline(always)]
pub(super) fn fragment_set(cpu: u32, tag: u64) -> Option<*mut FragmentSet> {
    let mask = fragment_mask();
    FRAGMENTS.get_ptr_mut(cpu * (mask + 1) + (tag as u32 & mask))
}

/// Which tunnels are opened.
#[inline(always)]
pub(super) fn tunnels() -> Tunnels {
    let four = |word: u64| {
        [
            word as u16,
            (word >> 16) as u16,
            (word >> 32) as u16,
            (word >> 48) as u16,
        ]
    };
    Tunnels {
        inner: tunnels_inner() != 0,
        vxlan: four(vxlan_ports()),
        geneve: four(geneve_ports()),
        gtpu: four(gtpu_ports()),
    }
}

/// The place of part number `position` in the ring of a CPU.
#[inline(always)]
pub(super) fn ring_part(cpu: u32, position: u64) -> Option<*mut Part> {
    let mask = ring_mask();
    RINGS.get_ptr_mut(cpu * (mask + 1) + (position as u32 & mask))
}
