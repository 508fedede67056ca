//! Makes biflows (RFC 5103) of the records that leave a table: finds the two directions of a
//! conversation, and says who began it.
//!
//! Tables keep each direction as a flow of its own, so the two leave one after the other: the one
//! that is silent first leaves first, and the other one an idle timeout after that at the latest,
//! unless it goes on by itself. So a record waits here for its other half for that long, and then
//! goes on alone, as what it is: a flow in one direction. Records that can have no other half, to a
//! group of hosts or ICMP that is no question and no answer, do not wait.
//!
//! A record waits in about 250 octets, in the order of arrival. Where too many wait the one that
//! has waited for longest goes on alone; so does, of more than [`OF_ONE`] of one conversation, the
//! first: connections of the same ports that nobody answers, one after the other.

mod counterpart;
#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, VecDeque},
    hash::{BuildHasher as _, RandomState},
    time::Duration,
};

use hashbrown::HashTable;

use self::counterpart::{Opening, can_have_one, is_counterpart};
use super::{Timeouts, flow::TICK_NS};
use crate::record::{Biflow, Direction, EndReason, FlowRecord, Volume};

/// How many records of one conversation wait: each one that comes looks at all of them.
const OF_ONE: usize = 8;

/// Places that have been left may be as many as those that are taken, and so many more.
const LEFT: usize = 4096;

/// How long records wait, and how far their order can be told.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// What a record waits for its other half.
    wait: Duration,
    /// A flow that goes on leaves in parts, at most this far apart.
    parts: Duration,
    /// Stamps that are closer to each other do not tell which packet was first.
    doubt: Duration,
}

impl Patience {
    /// For flows that the program keeps, in a table that is passed over each `sweep_interval`.
    #[must_use]
    pub fn live(timeouts: &Timeouts, sweep_interval: Duration) -> Self {
        Self {
            // A flow leaves a pass late at most, and so does the other one.
            wait: timeouts.idle + timeouts.linger + 2 * sweep_interval,
            parts: timeouts.active,
            doubt: Duration::from_nanos(TICK_NS),
        }
    }

    /// For flows that leave at the very packet that shows that they are due.
    #[must_use]
    pub fn exact(timeouts: &Timeouts) -> Self {
        Self {
            wait: timeouts.idle + timeouts.linger,
            parts: timeouts.active,
            doubt: Duration::ZERO,
        }
    }
}

/// Records that wait for their other halves.
#[derive(Debug)]
pub struct Pairing {
    wait_ns: u64,
    parts_ns: u64,
    doubt_ns: u64,
    /// How many may wait.
    capacity: usize,
    /// Keyed, so that nobody can choose conversations that are looked up slowly.
    keyed: RandomState,
    /// Those that wait, oldest first; none where one has found its other half.
    waiting: VecDeque<Waiting>,
    /// Number of the first of them.
    first: u64,
    /// Numbers of those that wait, by their conversation.
    places: HashTable<u64>,
    volume: Volume,
    begun: Begun,
}

/// A record, and the stamp of its first packet.
#[derive(Clone, Copy, Debug)]
pub struct Stamped {
    /// The record.
    pub record: FlowRecord,
    /// Nanoseconds on the clock of the table.
    pub first_ns: u64,
}

#[derive(Debug)]
struct Waiting {
    stamped: Option<Stamped>,
    conversation: u64,
    until_ns: u64,
}

/// Who began the conversations that go on, so that all their parts have the same source.
#[derive(Debug, Default)]
struct Begun {
    sources: HashMap<u64, Source>,
    /// When they are forgotten, and which.
    order: VecDeque<(u64, u64)>,
}

#[derive(Clone, Copy, Debug)]
struct Source {
    /// Whether its end is the lower one of the two.
    is_lower: bool,
    direction: Direction,
    until_ns: u64,
}

impl Pairing {
    /// Up to `capacity` records wait as `patience` says.
    #[must_use]
    pub fn new(patience: Patience, capacity: usize) -> Self {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            wait_ns: ns(patience.wait),
            parts_ns: ns(patience.parts),
            doubt_ns: ns(patience.doubt),
            capacity,
            keyed: RandomState::new(),
            waiting: VecDeque::new(),
            first: 0,
            places: HashTable::new(),
            volume: Volume::default(),
            begun: Begun::default(),
        }
    }

    /// What waits.
    #[must_use]
    pub fn volume(&self) -> Volume {
        self.volume
    }

    /// Takes in records that leave the table at `now_ns`, and appends to `to` what goes on: biflows,
    /// and what has waited for long enough.
    pub fn pass(
        &mut self,
        records: impl Iterator<Item = Stamped>,
        now_ns: u64,
        to: &mut Vec<FlowRecord>,
    ) {
        self.begun.forget(now_ns);
        for stamped in records {
            if can_have_one(&stamped.record.key) {
                self.take(stamped, now_ns, to);
            } else {
                to.push(stamped.record);
            }
        }
        while let Some(oldest) = self.waiting.front()
            && (oldest.stamped.is_none() || oldest.until_ns <= now_ns)
        {
            to.extend(self.take_out(self.first).map(|stamped| stamped.record));
            self.waiting.pop_front();
            self.first += 1;
        }
    }

    /// Appends to `to` all that wait and that are `of` what ends now.
    pub fn release(&mut self, of: impl Fn(&FlowRecord) -> bool, to: &mut Vec<FlowRecord>) {
        for number in self.first..self.first + self.waiting.len() as u64 {
            let waiting = &self.waiting[(number - self.first) as usize];
            if waiting.stamped.is_some_and(|stamped| of(&stamped.record)) {
                to.extend(self.take_out(number).map(|stamped| stamped.record));
            }
        }
    }

    fn take(&mut self, stamped: Stamped, now_ns: u64, to: &mut Vec<FlowRecord>) {
        let conversation = self.keyed.hash_one(stamped.record.key.conversation());
        if let Some(number) = self.counterpart(conversation, &stamped.record)
            && let Some(other) = self.take_out(number)
        {
            to.extend(self.biflow([other, stamped], conversation, now_ns));
            return;
        }
        let of_one = self.places.iter_hash(conversation).copied();
        let first = of_one.clone().min().filter(|_| of_one.count() >= OF_ONE);
        if let Some(first) = first {
            to.extend(self.take_out(first).map(|stamped| stamped.record));
        } else if self.places.len() >= self.capacity {
            to.extend(self.give_up());
        }
        if self.waiting.len() > 2 * self.places.len() + LEFT {
            self.close_up();
        }
        let number = self.first + self.waiting.len() as u64;
        self.waiting.push_back(Waiting {
            stamped: Some(stamped),
            conversation,
            until_ns: now_ns.saturating_add(self.wait_ns),
        });
        self.volume += Volume::from(&stamped.record);
        let (first, waiting) = (self.first, &self.waiting);
        self.places
            .insert_unique(conversation, number, |number: &u64| {
                waiting[(number - first) as usize].conversation
            });
    }

    /// The oldest that waits for this record.
    fn counterpart(&self, conversation: u64, record: &FlowRecord) -> Option<u64> {
        let numbers = self.places.iter_hash(conversation).copied();
        let waits_for = |number: &u64| {
            let waiting = &self.waiting[(number - self.first) as usize];
            let other = waiting.stamped.as_ref();
            other.is_some_and(|other| is_counterpart(&other.record.key, &record.key))
        };
        numbers.filter(waits_for).min()
    }

    /// Takes out the one of this number.
    fn take_out(&mut self, number: u64) -> Option<Stamped> {
        let waiting = self.waiting.get_mut((number - self.first) as usize)?;
        let stamped = waiting.stamped.take()?;
        self.volume -= Volume::from(&stamped.record);
        let place = self
            .places
            .find_entry(waiting.conversation, |place| *place == number);
        if let Ok(place) = place {
            place.remove();
        }
        Some(stamped)
    }

    /// Takes out the oldest one that waits.
    fn give_up(&mut self) -> Option<FlowRecord> {
        loop {
            let first = self.waiting.front()?.stamped;
            self.take_out(self.first);
            self.waiting.pop_front();
            self.first += 1;
            if let Some(stamped) = first {
                return Some(stamped.record);
            }
        }
    }

    /// Gives back the places that have been left.
    fn close_up(&mut self) {
        self.waiting.retain(|waiting| waiting.stamped.is_some());
        self.places.clear();
        let (first, waiting) = (self.first, &self.waiting);
        for (number, place) in (first..).zip(waiting) {
            self.places
                .insert_unique(place.conversation, number, |number: &u64| {
                    waiting[(number - first) as usize].conversation
                });
        }
    }

    /// The two as a biflow, its source first.
    fn biflow(&mut self, both: [Stamped; 2], conversation: u64, now_ns: u64) -> [FlowRecord; 2] {
        let [a, b] = both;
        let lower = |one: &Stamped| one.record.key.is_lower_end();
        let known = self.begun.sources.remove(&conversation);
        let (is_a, direction) = match Opening::by(&a.record, &b.record) {
            Some(a_began) => (a_began, Direction::Initiator),
            None => match known {
                Some(source) => (source.is_lower == lower(&a), source.direction),
                None => self.by_time(&a, &b),
            },
        };
        let [mut forward, mut reverse] = if is_a { [a, b] } else { [b, a] };
        if [a, b]
            .iter()
            .any(|one| one.record.reason == EndReason::ActiveTimeout)
        {
            let until_ns = now_ns
                .saturating_add(self.parts_ns)
                .saturating_add(self.wait_ns);
            let source = Source {
                is_lower: lower(&forward),
                direction,
                until_ns,
            };
            self.begun.remember(conversation, source, self.capacity);
        }
        forward.record.biflow = Biflow::Forward(direction);
        reverse.record.biflow = Biflow::Reverse;
        [forward.record, reverse.record]
    }

    /// Whether `a` was first, and how sure that is.
    fn by_time(&self, a: &Stamped, b: &Stamped) -> (bool, Direction) {
        let (a_ns, b_ns) = (a.first_ns, b.first_ns);
        if a_ns.abs_diff(b_ns) > self.doubt_ns {
            // Of a connection that nobody saw begin, the first packet seen says little.
            let direction = match counterpart::is_connection(&a.record.key) {
                true => Direction::Arbitrary,
                false => Direction::Initiator,
            };
            return (a_ns < b_ns, direction);
        }
        // Services have the lower ports.
        let to = |one: &Stamped| (one.record.key.destination_port(), one.first_ns);
        (to(a) <= to(b), Direction::Arbitrary)
    }
}

impl Begun {
    fn remember(&mut self, conversation: u64, source: Source, capacity: usize) {
        // Those that were seen again stand there twice.
        if self.order.len() >= 2 * capacity {
            self.forget_oldest();
        }
        self.order.push_back((source.until_ns, conversation));
        self.sources.insert(conversation, source);
    }

    fn forget(&mut self, now_ns: u64) {
        while self
            .order
            .front()
            .is_some_and(|(until_ns, _)| *until_ns <= now_ns)
        {
            self.forget_oldest();
        }
    }

    fn forget_oldest(&mut self) {
        let Some((until_ns, conversation)) = self.order.pop_front() else {
            return;
        };
        // It may have been seen again since.
        let known = self.sources.get(&conversation);
        if known.is_some_and(|source| source.until_ns == until_ns) {
            self.sources.remove(&conversation);
        }
    }
}
