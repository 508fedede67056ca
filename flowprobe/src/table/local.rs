//! The flow table of inputs that are read in userspace: one owner, and a clock that packets drive.
//!
//! A flow leaves it at the moment when it is due, and not at the next sweep. It is scheduled for the
//! earliest time at which it can be due; when that comes, it is looked at, and scheduled again if
//! packets came since. So a packet touches nothing but its flow.
//!
//! Packets are accounted in bursts: the memory that their look-ups need is fetched for all of them
//! first, and then they are taken one by one, as if each had come alone.

mod burst;
mod fetch;
mod hash;
mod index;
mod part;
mod shelf;
mod slab;
#[cfg(test)]
pub(crate) mod tests;
mod wheel;

use flowprobe_ebpf::{
    Addresses, Counters, KeyV4, KeyV6, KeyWide, Marks, Packet, Parsed, flow::Macs,
    hash::SECRET_WORDS, sampling::Sampled, wire::tcp,
};

pub use self::{
    burst::BURST,
    part::{Met, Part},
};
use self::{
    burst::{Burst, Place, Taken, Waiting},
    shelf::{Cold, Hot, Kept, Shelves},
    wheel::{Look, Wheel},
};
use crate::{
    record::{EndReason, Volume},
    table::{
        Flow,
        expiry::{Due, Expiry},
    },
};

/// Stamps may step back this far and still be of the same recording: those of packets that
/// several interfaces or queues received, or of a clock that was set. The clock of the table
/// stands still meanwhile. Whatever is further back is another recording.
pub const MAX_STEP_BACK_NS: u64 = 60_000_000_000;

/// Looks that may be in a wheel beside two for each slot before it is made anew: those of flows
/// that have left stay in it until their time comes.
const STALE: usize = 4096;

/// Takes the flows that leave the table, and why they do.
pub trait Leave {
    /// Takes one.
    fn leave(&mut self, flow: &Flow, reason: EndReason);
    /// Takes one of which other tables may have parts.
    #[inline(always)]
    fn leave_part(&mut self, part: &Part) {
        self.leave(&part.flow, part.reason);
    }
    /// It is `now_ns` on the clock of the table.
    fn at(&mut self, now_ns: u64) {
        let _ = now_ns;
    }
}

/// Flows in memory of this process.
#[derive(Debug)]
pub struct LocalTable {
    secret: [u64; SECRET_WORDS],
    expiry: Expiry,
    capacity: usize,
    shelves: Shelves,
    burst: Burst,
    /// When each flow is looked at: never after it is due.
    wheel: Wheel,
    /// The same by silence, see [`rank`]. There only since the table was full.
    silence: Option<Wheel>,
    len: usize,
    /// The latest stamp of this recording that was accounted, and that came.
    now_ns: u64,
    latest_ns: u64,
    peak: usize,
    inserted: u64,
    displaced: u64,
    steps_back: u64,
}

/// Does something for the shelf of this number.
macro_rules! of_family {
    ($family:expr, $key:ident => $do:expr) => {
        match $family {
            KeyV4::FAMILY => {
                type $key = KeyV4;
                $do
            }
            KeyV6::FAMILY => {
                type $key = KeyV6;
                $do
            }
            _ => {
                type $key = KeyWide;
                $do
            }
        }
    };
}

const FAMILIES: [u8; 3] = [KeyV4::FAMILY, KeyV6::FAMILY, KeyWide::FAMILY];

impl LocalTable {
    /// An empty table for at most `capacity` flows. `secret` keeps senders from aiming at one
    /// place of it.
    #[must_use]
    pub fn new(capacity: u32, expiry: Expiry, secret: [u64; SECRET_WORDS]) -> Self {
        Self {
            secret,
            expiry,
            capacity: (capacity as usize).max(1),
            shelves: Shelves::default(),
            burst: Burst::default(),
            wheel: Wheel::default(),
            silence: None,
            len: 0,
            now_ns: 0,
            latest_ns: 0,
            peak: 0,
            inserted: 0,
            displaced: 0,
            steps_back: 0,
        }
    }

    /// Flows in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no flow.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most flows that there ever were.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// Octets that the most flows took: 128 each, of IPv6 192, of wide keys 256; 5 to 11 in the
    /// index, and 16 for each look.
    #[must_use]
    pub fn peak_octets(&self) -> usize {
        let Shelves { v4, v6, wide } = &self.shelves;
        let wheels = [Some(&self.wheel), self.silence.as_ref()];
        let wheels = wheels.into_iter().flatten().map(Wheel::peak_octets);
        v4.peak_octets() + v6.peak_octets() + wide.peak_octets() + wheels.sum::<usize>()
    }

    /// Flows that began in it.
    #[must_use]
    pub fn inserted(&self) -> u64 {
        self.inserted
    }

    /// Flows that had to leave since the table was full.
    #[must_use]
    pub fn displaced(&self) -> u64 {
        self.displaced
    }

    /// Times that stamps stepped back by more than [`MAX_STEP_BACK_NS`].
    #[must_use]
    pub fn steps_back(&self) -> u64 {
        self.steps_back
    }

    /// The latest stamp, also of packets that wait.
    #[must_use]
    pub fn latest_ns(&self) -> u64 {
        self.latest_ns
    }

    /// What is in the table.
    #[must_use]
    pub fn held(&self) -> Volume {
        let mut held = Volume::default();
        for family in FAMILIES {
            of_family!(family, K => {
                let shelf = K::shelf(&self.shelves);
                for counters in shelf.live().map(|slot| &shelf.hot[slot].counters) {
                    held += Volume {
                        records: 1,
                        packets: counters.packets,
                        octets: counters.octets,
                    };
                }
            });
        }
        held
    }

    /// A packet was stamped `at_ns`: lets go what is due by then.
    pub fn advance(&mut self, at_ns: u64, out: &mut impl Leave) {
        self.settle(out);
        self.latest_ns = stepped(self.latest_ns, at_ns);
        self.step(at_ns, out);
    }

    /// Adds the packet of a frame that came in on `ifindex`, stamped `at_ns`, to its flow. It is of
    /// the first epoch of the only class; see [`LocalTable::push_sampled`].
    pub fn account(
        &mut self,
        parsed: &Parsed,
        ifindex: u32,
        macs: Macs,
        at_ns: u64,
        out: &mut impl Leave,
    ) {
        self.push(parsed, ifindex, macs, at_ns, out);
        self.settle(out);
    }

    /// The same as [`LocalTable::account`], later: with the burst that it fills up, or with the
    /// next [`LocalTable::settle`].
    pub fn push(
        &mut self,
        parsed: &Parsed,
        ifindex: u32,
        macs: Macs,
        at_ns: u64,
        out: &mut impl Leave,
    ) {
        self.push_sampled(parsed, (ifindex, Sampled::default()), macs, at_ns, out);
    }

    /// The same for a packet that was selected as `sampled`.
    #[inline(always)]
    pub fn push_sampled(
        &mut self,
        parsed: &Parsed,
        (ifindex, sampled): (u32, Sampled),
        macs: Macs,
        at_ns: u64,
        out: &mut impl Leave,
    ) {
        let packet = &parsed.packet;
        if !parsed.around.is_wide() {
            return self.push_plain_sampled(packet, (ifindex, sampled), macs, at_ns, out);
        }
        let key = KeyWide::new(packet, &parsed.around, ifindex, sampled);
        let hash = key.hash_here(&self.secret);
        self.shelves.wide.index.fetch(hash);
        let place = self.burst.keep_wide(key);
        self.wait((place, KeyV4::default(), hash), packet, macs, at_ns, out);
    }

    /// The same for a packet with nothing around it that belongs to the key.
    #[inline(always)]
    pub fn push_plain(
        &mut self,
        packet: &Packet,
        ifindex: u32,
        macs: Macs,
        at_ns: u64,
        out: &mut impl Leave,
    ) {
        self.push_plain_sampled(packet, (ifindex, Sampled::default()), macs, at_ns, out);
    }

    /// The same for a packet that was selected as `sampled`.
    #[inline(always)]
    pub fn push_plain_sampled(
        &mut self,
        packet: &Packet,
        (ifindex, sampled): (u32, Sampled),
        macs: Macs,
        at_ns: u64,
        out: &mut impl Leave,
    ) {
        match packet.addresses {
            Addresses::V4(addresses) => {
                let key = KeyV4::new(addresses, packet, ifindex, sampled);
                let hash = key.hash_here(&self.secret);
                self.shelves.v4.index.fetch(hash);
                self.wait((Place::V4, key, hash), packet, macs, at_ns, out);
            }
            Addresses::V6(addresses) => {
                let key = KeyV6::new(addresses, packet, ifindex, sampled);
                let hash = key.hash_here(&self.secret);
                self.shelves.v6.index.fetch(hash);
                let place = self.burst.keep_v6(key);
                self.wait((place, KeyV4::default(), hash), packet, macs, at_ns, out);
            }
        }
    }

    /// The same as [`LocalTable::advance`], later.
    pub fn push_time(&mut self, at_ns: u64, out: &mut impl Leave) {
        let nothing = (Place::None, KeyV4::default(), 0);
        self.wait(nothing, &Packet::EMPTY, Macs::default(), at_ns, out);
    }

    #[inline(always)]
    fn wait(
        &mut self,
        key: (Place, KeyV4, u64),
        packet: &Packet,
        macs: Macs,
        at_ns: u64,
        out: &mut impl Leave,
    ) {
        self.latest_ns = match at_ns >= self.latest_ns {
            true => at_ns,
            false => stepped(self.latest_ns, at_ns),
        };
        self.burst.push(key, packet, macs, at_ns);
        if self.burst.len() == BURST {
            self.settle(out);
        }
    }

    /// Accounts all packets that wait.
    pub fn settle(&mut self, out: &mut impl Leave) {
        let count = self.burst.len();
        if count == 0 {
            return;
        }
        self.guess();
        let mut before_ns = self.now_ns;
        for at in 0..count {
            before_ns = self.now_ns;
            if !self.touch(at, out) {
                self.take(at, before_ns, out);
            }
        }
        out.at(before_ns);
        self.burst.clear();
    }

    /// Guesses the slot of each packet that waits, by its tag, and fetches it.
    #[inline(always)]
    fn guess(&mut self) {
        for waiting in self.burst.waiting_mut() {
            let hash = waiting.hash;
            waiting.guess = match waiting.key {
                Place::V4 => self.shelves.v4.guess(hash),
                Place::V6(_) => self.shelves.v6.guess(hash),
                Place::Wide(_) => self.shelves.wide.guess(hash),
                Place::None => continue,
            };
        }
    }

    /// Moves the clock to the stamp of a packet that waits, and adds it to its flow if that was
    /// guessed and there is nothing else to do, as for nearly all; else it says false.
    #[inline(always)]
    fn touch(&mut self, at: usize, out: &mut impl Leave) -> bool {
        let waiting = self.burst.waiting(at);
        let at_ns = waiting.at_ns;
        if self.now_ns <= at_ns && at_ns < self.wheel.next() {
            self.now_ns = at_ns;
        } else {
            self.step(at_ns, out);
            if self.now_ns != at_ns {
                return false;
            }
        }
        let (waiting, shelves) = (self.burst.waiting(at), &mut self.shelves);
        match waiting.key {
            Place::V4 => shelves.v4.touch(&waiting.v4, waiting, &self.expiry),
            Place::V6(key) => (shelves.v6).touch(self.burst.v6(key), waiting, &self.expiry),
            Place::Wide(key) => (shelves.wide).touch(self.burst.wide(key), waiting, &self.expiry),
            Place::None => true,
        }
    }

    /// Adds a packet that waits to its flow, whatever it takes. The clock said `before_ns` before it.
    #[inline(never)]
    fn take(&mut self, at: usize, before_ns: u64, out: &mut impl Leave) {
        out.at(before_ns);
        let taken = self.burst.take(at);
        let Waiting { key, v4, .. } = *self.burst.waiting(at);
        match key {
            Place::V4 => self.add(v4, &taken, out),
            Place::V6(key) => self.add(*self.burst.v6(key), &taken, out),
            Place::Wide(key) => self.add(*self.burst.wide(key), &taken, out),
            Place::None => {}
        }
    }

    /// Lets everything go, since metering ends.
    pub fn flush(&mut self, out: &mut impl Leave) {
        self.settle(out);
        self.empty(out);
    }

    fn empty(&mut self, out: &mut impl Leave) {
        for family in FAMILIES {
            of_family!(family, K => {
                K::shelf_mut(&mut self.shelves).drain(|part| {
                    out.leave_part(&Part { reason: last_reason(&part.flow.marks), ..part });
                });
            });
        }
        self.len = 0;
        self.wheel.clear();
        self.silence = None;
    }

    /// Moves the clock to a stamp, and lets go what is due by then.
    #[cold]
    fn step(&mut self, at_ns: u64, out: &mut impl Leave) {
        out.at(self.now_ns);
        let now_ns = stepped(self.now_ns, at_ns);
        if now_ns < self.now_ns {
            self.empty(out);
            self.steps_back += 1;
        }
        self.now_ns = now_ns;
        if self.wheel.next() <= now_ns {
            self.let_go_due(out);
        }
    }

    fn let_go_due(&mut self, out: &mut impl Leave) {
        loop {
            let shelves = &self.shelves;
            let fetch =
                |look: &Look| of_family!(look.family(), K => K::shelf(shelves).fetch(look.slot));
            let Some(look) = self.wheel.pop(self.now_ns, fetch) else {
                return;
            };
            of_family!(look.family(), K => self.look::<K>(look, out));
        }
    }

    /// Lets a flow go that is due, or schedules it for when it will be.
    fn look<K: Kept>(&mut self, look: Look, out: &mut impl Leave) {
        let shelf = K::shelf_mut(&mut self.shelves);
        let Some((hot, cold)) = shelf.get(look.slot) else {
            return;
        };
        if cold.look_ns != look.at {
            return;
        }
        let due = self.expiry.of(hot, cold);
        // Even if it is over by now, others may be due before it.
        if due.since_ns > look.at {
            self.schedule::<K>(look.slot, due.since_ns);
        } else {
            self.let_go::<K>(look.slot, out, |part| Part {
                reason: due.reason,
                due_ns: Some(due.since_ns),
                ..part
            });
        }
    }

    fn schedule<K: Kept>(&mut self, slot: u32, at_ns: u64) {
        K::shelf_mut(&mut self.shelves).cold[slot].look_ns = at_ns;
        self.wheel.push(at_ns, slot, K::FAMILY);
        if self.wheel.len() > 2 * self.shelves.slots() + STALE {
            self.wheel.clear();
            for family in FAMILIES {
                of_family!(family, K => {
                    let shelf = K::shelf(&self.shelves);
                    for slot in shelf.live() {
                        let at = shelf.cold[slot].look_ns;
                        self.wheel.push(at, slot, family);
                    }
                });
            }
        }
    }

    /// Adds a packet to its flow.
    #[inline(always)]
    fn add<K: Kept>(&mut self, key: K, taken: &Taken, out: &mut impl Leave) {
        let &Taken {
            hash,
            at_ns,
            guess,
            ref packet,
            ..
        } = taken;
        let shelf = K::shelf_mut(&mut self.shelves);
        if let Some(slot) = shelf.find(&key, hash, guess) {
            let hot = &mut shelf.hot[slot];
            let ended = hot.marks().ended();
            match over_before(&self.expiry, hot, packet, at_ns) {
                Some(reason) => self.let_go::<K>(slot, out, |part| Part {
                    reason,
                    cut_ns: Some(at_ns),
                    ..part
                }),
                None => {
                    hot.add(packet, at_ns);
                    let ends = hot.marks().ended() != ended;
                    if at_ns < self.now_ns {
                        shelf.cold[slot].touch_late(self.now_ns);
                    }
                    if ends {
                        self.end::<K>(slot);
                    }
                    return;
                }
            }
        }
        self.insert(key, taken, out);
    }

    /// A flow has ended: it is due earlier, and is the first to leave of those as silent.
    #[cold]
    fn end<K: Kept>(&mut self, slot: u32) {
        let shelf = K::shelf(&self.shelves);
        let (hot, cold) = (&shelf.hot[slot], &shelf.cold[slot]);
        let due = self.expiry.of(hot, cold);
        if due.since_ns < cold.look_ns {
            self.schedule::<K>(slot, due.since_ns);
        }
        self.place::<K>(slot);
    }

    #[inline(never)]
    fn insert<K: Kept>(&mut self, key: K, taken: &Taken, out: &mut impl Leave) {
        if self.len == self.capacity {
            self.displace(out);
        }
        let shelf = K::shelf_mut(&mut self.shelves);
        let times = (taken.at_ns, self.now_ns);
        let slot = shelf.insert(key, taken.hash, (&taken.packet, taken.macs), times);
        let due = self.expiry.of(&shelf.hot[slot], &shelf.cold[slot]);
        self.len += 1;
        self.inserted += 1;
        self.peak = self.peak.max(self.len);
        self.schedule::<K>(slot, due.since_ns);
        self.place::<K>(slot);
    }

    /// Gives a flow its place among those that may have to leave.
    fn place<K: Kept>(&mut self, slot: u32) {
        let Some(silence) = &mut self.silence else {
            return;
        };
        let shelf = K::shelf_mut(&mut self.shelves);
        let cold = &mut shelf.cold[slot];
        cold.rank = rank(&shelf.hot[slot], cold);
        silence.push(cold.rank, slot, K::FAMILY);
        if silence.len() > 2 * self.capacity + STALE {
            self.silence = None;
        }
    }

    /// Makes room: the flow that has been silent for longest leaves.
    #[cold]
    fn displace(&mut self, out: &mut impl Leave) {
        if self.silence.is_none() {
            self.silence = Some(Wheel::default());
            for family in FAMILIES {
                of_family!(family, K => {
                    for slot in 0..K::shelf(&self.shelves).hot.len() as u32 {
                        if K::shelf(&self.shelves).get(slot).is_some() {
                            self.place::<K>(slot);
                        }
                    }
                });
            }
        }
        while let Some(look) = self.silence.as_mut().and_then(|s| s.pop(u64::MAX, |_| ())) {
            let gone = of_family!(look.family(), K => self.is_most_silent::<K>(look));
            if gone {
                self.displaced += 1;
                of_family!(look.family(), K => self.let_go::<K>(look.slot, out, |part| Part {
                    reason: EndReason::LackOfResources,
                    ..part
                }));
                return;
            }
        }
    }

    /// Whether a flow is as silent as it was said to be; places it anew if it is not.
    fn is_most_silent<K: Kept>(&mut self, look: Look) -> bool {
        let Some((hot, cold)) = K::shelf(&self.shelves).get(look.slot) else {
            return false;
        };
        if cold.rank != look.at {
            return false;
        }
        let is = rank(hot, cold) == look.at;
        if !is {
            self.place::<K>(look.slot);
        }
        is
    }

    /// Takes a flow out, for the reason that `why` puts into it.
    #[inline(always)]
    fn let_go<K: Kept>(&mut self, slot: u32, out: &mut impl Leave, why: impl FnOnce(Part) -> Part) {
        let part = K::shelf_mut(&mut self.shelves).remove(slot);
        self.len -= 1;
        out.leave_part(&why(part));
    }
}

/// What the clock says after a stamp.
#[inline(never)]
fn stepped(now_ns: u64, at_ns: u64) -> u64 {
    if at_ns.saturating_add(MAX_STEP_BACK_NS) < now_ns {
        at_ns
    } else {
        now_ns.max(at_ns)
    }
}

/// Flows leave a full table by this number, the lowest one first: by their last packet, and of two
/// that are silent for as long, the one that has ended.
fn rank<K>(hot: &Hot<K>, cold: &Cold) -> u64 {
    let touched_ns = cold.touched_ns(hot).min(u64::MAX >> 1);
    touched_ns << 1 | u64::from(!hot.marks().ended())
}

impl Expiry {
    /// Why and when a flow will be due.
    fn of<K>(&self, hot: &Hot<K>, cold: &Cold) -> Due {
        let times = Counters {
            first_ns: cold.since_ns,
            last_ns: cold.touched_ns(hot),
            ..hot.counters
        };
        self.next(&times, &hot.marks())
    }
}

/// Why a flow has to leave before `packet` can begin another one of the same key.
#[inline(always)]
fn over_before<K>(expiry: &Expiry, hot: &Hot<K>, packet: &Packet, at_ns: u64) -> Option<EndReason> {
    let marks = hot.marks();
    if packet.tcp_flags & tcp::SYN != 0 && marks.ended() {
        return Some(EndReason::EndOfFlow);
    }
    // By the clock it would have left already; stamps that step back can span more.
    let Counters {
        first_ns, last_ns, ..
    } = hot.counters;
    let over = expiry.is_active_for(last_ns.max(at_ns) - first_ns.min(at_ns));
    over.then_some(match marks.ended() {
        true => EndReason::EndOfFlow,
        false => EndReason::ActiveTimeout,
    })
}

/// Why a flow leaves that has to leave with the table.
fn last_reason(marks: &Marks) -> EndReason {
    match marks.ended() {
        true => EndReason::EndOfFlow,
        false => EndReason::ForcedEnd,
    }
}
