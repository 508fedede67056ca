//! The flows whose keys are of one size. What each packet changes is one line of the cache for
//! IPv4, two for IPv6; all else of a flow is apart.

use flowprobe_ebpf::{
    Counters, KeyV4, KeyV6, KeyWide, Marks, Packet, flow::Macs, hash::SECRET_WORDS, key::Key,
};

use super::{
    Part,
    burst::{Waiting, packed},
    fetch, hash,
    index::Index,
    slab::Slab,
};
use crate::{
    record::{EndReason, FlowKey},
    table::{Flow, expiry::Expiry},
};

/// A key that flows are kept under.
pub(super) trait Kept: Key {
    /// Number of its shelf.
    const FAMILY: u8;

    fn flow_key(self) -> FlowKey;
    /// The hash that flows are found by.
    fn hash_here(&self, secret: &[u64; SECRET_WORDS]) -> u64;
    fn shelf(shelves: &Shelves) -> &Shelf<Self>;
    fn shelf_mut(shelves: &mut Shelves) -> &mut Shelf<Self>;
}

macro_rules! kept {
    ($key:ident, $family:literal, $variant:ident, $shelf:ident, $hash:path) => {
        impl Kept for $key {
            const FAMILY: u8 = $family;

            fn flow_key(self) -> FlowKey {
                FlowKey::$variant(self)
            }

            #[inline(always)]
            fn hash_here(&self, secret: &[u64; SECRET_WORDS]) -> u64 {
                $hash(&self.words, secret)
            }

            #[inline(always)]
            fn shelf(shelves: &Shelves) -> &Shelf<Self> {
                &shelves.$shelf
            }

            #[inline(always)]
            fn shelf_mut(shelves: &mut Shelves) -> &mut Shelf<Self> {
                &mut shelves.$shelf
            }
        }
    };
}

kept!(KeyV4, 0, V4, v4, hash::hash);
kept!(KeyV6, 1, V6, v6, hash::hash);
// They are few, and have an odd number of words, for each of which there is one of the secret.
kept!(KeyWide, 2, Wide, wide, flowprobe_ebpf::hash::hash);

/// All flows.
#[derive(Debug, Default)]
pub(super) struct Shelves {
    pub(super) v4: Shelf<KeyV4>,
    pub(super) v6: Shelf<KeyV6>,
    pub(super) wide: Shelf<KeyWide>,
}

impl Shelves {
    /// Slots that there are, with a flow or without.
    pub(super) fn slots(&self) -> usize {
        self.v4.hot.len() + self.v6.hot.len() + self.wide.hot.len()
    }
}

/// What packets change.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Hot<K> {
    pub(super) key: K,
    /// No packets: a free slot.
    pub(super) counters: Counters,
    /// See [`packed`].
    marks: u64,
}

const _: () = assert!(size_of::<Hot<KeyV4>>() == 64 && size_of::<Hot<KeyV6>>() == 128);

/// What hardly any packet changes.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Cold {
    hash: u64,
    /// The table's clock at the first packet, and at the last one that was stamped before it.
    /// Unlike stamps the clock never steps back.
    pub(super) since_ns: u64,
    late_ns: u64,
    /// When it is looked at next; looks that are said to be at another time are not for it.
    pub(super) look_ns: u64,
    /// The same for looks by silence.
    pub(super) rank: u64,
    flow_label: u32,
    inner_priority: u8,
    macs: Macs,
}

const _: () = assert!(size_of::<Cold>() == 64);

/// The word of [`packed`].
#[inline(always)]
fn word(marks: &Marks) -> u64 {
    u64::from(marks.tcp_flags)
        | u64::from(marks.bits) << packed::BITS
        | u64::from(marks.min_ttl) << packed::MIN_TTL
        | u64::from(marks.max_ttl) << packed::MAX_TTL
        | u64::from(marks.options) << packed::OPTIONS
}

impl<K> Hot<K> {
    #[inline(always)]
    pub(super) fn is_free(&self) -> bool {
        self.counters.packets == 0
    }

    pub(super) fn marks(&self) -> Marks {
        Marks {
            tcp_flags: self.marks as u8,
            min_ttl: (self.marks >> packed::MIN_TTL) as u8,
            max_ttl: (self.marks >> packed::MAX_TTL) as u8,
            bits: (self.marks >> packed::BITS) as u8,
            options: (self.marks >> packed::OPTIONS) as u32,
            ..Marks::default()
        }
    }

    /// Adds a packet that is stamped with what the clock says, if it is one of this flow's and
    /// nothing but counts. It says whether it was.
    #[inline(always)]
    fn touch(&mut self, key: &K, waiting: &Waiting, expiry: &Expiry) -> bool
    where
        K: Key,
    {
        // No stamp of the flow is later than the clock.
        let span_ns = waiting.at_ns.wrapping_sub(self.counters.first_ns);
        let counts = self.key.same(key)
            && !self.is_free()
            && !waiting.is_a_turn()
            && !expiry.is_active_for(span_ns);
        if !counts {
            return false;
        }
        self.counters.packets += 1;
        self.counters.octets += u64::from(waiting.octets);
        self.counters.last_ns = waiting.at_ns;
        self.marks |= waiting.marks;
        if (self.marks >> packed::MIN_TTL) as u16 != waiting.ttls {
            self.see_ttl(waiting.ttls as u8);
        }
        true
    }

    /// A packet came whose TTL is not that of all others.
    #[cold]
    fn see_ttl(&mut self, ttl: u8) {
        let mut marks = self.marks();
        marks.min_ttl = marks.min_ttl.min(ttl);
        marks.max_ttl = marks.max_ttl.max(ttl);
        self.put(&marks);
    }

    /// Adds a packet, whose stamp may be earlier than those before it.
    #[inline(always)]
    pub(super) fn add(&mut self, packet: &Packet, at_ns: u64) {
        let Counters {
            first_ns, last_ns, ..
        } = self.counters;
        self.counters.add(packet, at_ns.max(last_ns));
        self.counters.first_ns = at_ns.min(first_ns);
        let mut marks = self.marks();
        marks.add(packet);
        self.put(&marks);
    }

    #[inline(always)]
    fn put(&mut self, marks: &Marks) {
        self.marks = word(marks);
    }
}

impl Cold {
    /// The table's clock at the last packet of `hot`, to which this belongs. Where packets are
    /// in order, that is the stamp of the last one.
    pub(super) fn touched_ns<K>(&self, hot: &Hot<K>) -> u64 {
        hot.counters.last_ns.max(self.late_ns)
    }

    /// A packet came that was stamped before the clock, which says `now_ns`.
    pub(super) fn touch_late(&mut self, now_ns: u64) {
        self.late_ns = now_ns;
    }
}

#[derive(Debug)]
pub(super) struct Shelf<K: Copy> {
    pub(super) index: Index,
    pub(super) hot: Slab<Hot<K>>,
    pub(super) cold: Slab<Cold>,
    free: Vec<u32>,
}

impl<K: Copy> Default for Shelf<K> {
    fn default() -> Self {
        Self {
            index: Index::default(),
            hot: Slab::default(),
            cold: Slab::default(),
            free: Vec::new(),
        }
    }
}

impl<K: Kept> Shelf<K> {
    /// Octets of a flow beside the index.
    const FLOW_OCTETS: usize = size_of::<Hot<K>>() + size_of::<Cold>();

    /// Octets of the most flows that there ever were.
    pub(super) fn peak_octets(&self) -> usize {
        let flows = self.hot.most() * Self::FLOW_OCTETS;
        flows + self.free.capacity() * size_of::<u32>() + self.index.octets()
    }

    /// Slots that have a flow.
    pub(super) fn live(&self) -> impl Iterator<Item = u32> {
        let slots = 0..self.hot.len() as u32;
        slots.filter(|&slot| !self.hot[slot].is_free())
    }

    /// The flow of a slot, if there is one.
    pub(super) fn get(&self, slot: u32) -> Option<(&Hot<K>, &Cold)> {
        let hot = self.hot.get(slot as usize)?;
        (!hot.is_free()).then(|| (hot, &self.cold[slot]))
    }

    /// The slot that a hash most likely has, which is fetched.
    #[inline(always)]
    pub(super) fn guess(&self, hash: u64) -> u32 {
        let slot = self.index.guess(hash);
        if let Some(hot) = self.hot.get(slot as usize) {
            fetch::ahead(hot);
        }
        slot
    }

    /// Adds a packet as [`Hot::touch`] does, if it was guessed which flow it is of.
    #[inline(always)]
    pub(super) fn touch(&mut self, key: &K, waiting: &Waiting, expiry: &Expiry) -> bool {
        let hot = self.hot.get_mut(waiting.guess as usize);
        hot.is_some_and(|hot| hot.touch(key, waiting, expiry))
    }

    /// The slot of a key. It may be `guess`, which may be a slot that is not there any more.
    #[inline(always)]
    pub(super) fn find(&self, key: &K, hash: u64, guess: u32) -> Option<u32> {
        let is = |slot: u32| {
            let hot = self.hot.get(slot as usize);
            hot.is_some_and(|hot| hot.key.same(key) && !hot.is_free())
        };
        match is(guess) {
            true => Some(guess),
            false => self.index.find(hash, is),
        }
    }

    /// Puts in a flow that is not there, and of which `packet` is the first one.
    pub(super) fn insert(
        &mut self,
        key: K,
        hash: u64,
        (packet, macs): (&Packet, Macs),
        (at_ns, now_ns): (u64, u64),
    ) -> u32 {
        let marks = Marks::first(packet);
        let hot = Hot {
            key,
            counters: Counters::first(packet, at_ns),
            marks: word(&marks),
        };
        let cold = Cold {
            hash,
            since_ns: now_ns,
            late_ns: now_ns,
            look_ns: u64::MAX,
            rank: u64::MAX,
            flow_label: marks.flow_label,
            inner_priority: marks.inner_priority,
            macs,
        };
        if self.index.is_full() {
            let (hot, cold) = (&self.hot, &self.cold);
            let slots = (0..hot.len() as u32).filter(|&slot| !hot[slot].is_free());
            self.index.grow(slots.map(|slot| (cold[slot].hash, slot)));
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                self.hot[slot] = hot;
                self.cold[slot] = cold;
                slot
            }
            None => {
                self.hot.push(hot);
                self.cold.push(cold);
                (self.hot.len() - 1) as u32
            }
        };
        self.index.insert(hash, slot);
        slot
    }

    /// Takes a flow out. Why is not said yet.
    pub(super) fn remove(&mut self, slot: u32) -> Part {
        let part = self.part(slot);
        self.hot[slot].counters = Counters::default();
        self.index.remove(self.cold[slot].hash, slot);
        self.free.push(slot);
        part
    }

    /// The flow of a slot that has one.
    #[inline(always)]
    pub(super) fn part(&self, slot: u32) -> Part {
        let (hot, cold) = (&self.hot[slot], &self.cold[slot]);
        Part {
            flow: self.flow(slot),
            hash: cold.hash,
            since_ns: cold.since_ns,
            touched_ns: cold.touched_ns(hot),
            reason: EndReason::ForcedEnd,
            due_ns: None,
            cut_ns: None,
        }
    }

    /// Puts what other tables knew of a flow to what is in its slot.
    pub(super) fn set(&mut self, slot: u32, whole: &Part) {
        let (hot, cold) = (&mut self.hot[slot], &mut self.cold[slot]);
        let Flow {
            counters,
            marks,
            macs,
            ..
        } = whole.flow;
        hot.counters = counters;
        hot.put(&marks);
        cold.since_ns = whole.since_ns;
        cold.late_ns = whole.touched_ns;
        cold.flow_label = marks.flow_label;
        cold.inner_priority = marks.inner_priority;
        cold.macs = macs;
    }

    fn flow(&self, slot: u32) -> Flow {
        let (hot, cold) = (&self.hot[slot], &self.cold[slot]);
        Flow {
            key: hot.key.flow_key(),
            counters: hot.counters,
            marks: Marks {
                flow_label: cold.flow_label,
                inner_priority: cold.inner_priority,
                ..hot.marks()
            },
            macs: cold.macs,
        }
    }

    /// Takes all flows out, and their slots with them.
    pub(super) fn drain(&mut self, mut take: impl FnMut(Part)) {
        // Emptying the index at once costs as much as its size, which may be of another time.
        let at_once = self.index.is_loaded();
        for slot in 0..self.hot.len() as u32 {
            if self.hot[slot].is_free() {
                continue;
            }
            if !at_once {
                self.index.remove(self.cold[slot].hash, slot);
            }
            take(self.part(slot));
        }
        if at_once {
            self.index.clear();
        }
        self.hot.clear();
        self.cold.clear();
        self.free.clear();
    }

    /// Fetches all of a slot. Looks may be of slots that there are no more.
    #[inline(always)]
    pub(super) fn fetch(&self, slot: u32) {
        if let Some(hot) = self.hot.get(slot as usize) {
            fetch::ahead(hot);
            fetch::ahead(&self.cold[slot]);
        }
    }
}
