//! Who takes the flows out of a queue: the collectors that may, in the order of preference, and
//! behind all of them the spool.
//!
//! One of them at a time has the flows: the first collector that is there. One that fails loses its
//! turn at once, and what it has not acknowledged waits again for the next one. One that comes back
//! has to be there for a while, the hold-down, before it takes the turn from another, so that one
//! that comes and goes does not take the flows along.
//!
//! The spool has them while no collector can, or where the one that has them does not keep up and the
//! queue is nearly full. What is in it is older than what waits in the queue: the collector whose turn
//! it is gets that first, and meanwhile the spool may go on to take flows.

#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

/// For so long collectors of which nothing is known yet are waited for at the start: as long as a
/// connection may take.
const COMING: Duration = Duration::from_secs(10);

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The flows are for this one, as before.
    Mine,
    /// They are from now on.
    Begins,
    /// This collector is sent what is on disk.
    Drains,
    /// Another is next: what is on its way shall arrive, and nothing more be sent.
    Settles,
    /// That of another, or of nobody yet.
    Anothers,
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It takes flows.
    There,
    /// A session is being set up, and nothing has gone wrong.
    Coming,
    /// It cannot be reached.
    Away,
}

/// Whether new flows should be kept for a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Standing {
    /// None of its collectors is there.
    Away,
    /// One is, and not for long yet.
    Back,
    /// One is, or nothing bad is known of it.
    Steady,
}

/// What is known of a collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
    /// Nothing yet.
    New,
    /// Nothing bad so far.
    Well,
    /// It has failed, and is there again since then.
    Back(Instant),
    Away,
    /// It has ended.
    Gone,
}

/// A member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// By its number in the order of preference.
    Collector(usize),
    Spool,
}

#[derive(Debug)]
struct State {
    /// In the order of preference.
    collectors: Vec<Health>,
    /// Whether the spool takes flows; none where there is no spool.
    spool: Option<bool>,
    /// Since when there are any.
    began: Option<Instant>,
    /// Who takes flows out of the queue.
    queue: Option<Place>,
    /// The collector that is sent what is on disk.
    drain: Option<usize>,
}

impl Health {
    /// Whether it is there, and has been for long enough.
    fn is_steady(self, hold_down: Duration, now: Instant) -> bool {
        match self {
            Self::Well => true,
            Self::Back(since) => now >= since + hold_down,
            Self::New | Self::Away | Self::Gone => false,
        }
    }

    fn is_there(self) -> bool {
        matches!(self, Self::Well | Self::Back(_))
    }

    fn after(self, presence: Presence, now: Instant) -> Self {
        match (self, presence) {
            (Self::New, Presence::There) => Self::Well,
            (Self::Away, Presence::There) => Self::Back(now),
            (health, Presence::There | Presence::Coming) => health,
            (_, Presence::Away) => Self::Away,
        }
    }
}

impl State {
    /// The collector whose turn it is.
    fn collector(&self, hold_down: Duration, now: Instant) -> Option<usize> {
        let holder = match (self.drain, self.queue) {
            (Some(holder), _) | (None, Some(Place::Collector(holder))) => Some(holder),
            (None, Some(Place::Spool) | None) => None,
        };
        let holder = holder.filter(|holder| self.collectors[*holder].is_there());
        let mut collectors = self.collectors.iter();
        let steady = collectors.position(|health| health.is_steady(hold_down, now));
        let found = match (steady, holder) {
            // One that is less preferred does not take over from one that works.
            (Some(steady), Some(holder)) => Some(steady.min(holder)),
            (steady, holder) => {
                let any = || self.collectors.iter().position(|health| health.is_there());
                holder.or(steady).or_else(any)
            }
        };
        // Connections come up in any order.
        let waited = self.began.is_none_or(|began| now >= began + COMING);
        found.filter(|found| waited || !self.collectors[..*found].contains(&Health::New))
    }

    fn note(&mut self, place: Place, presence: Presence, now: Instant) {
        self.began.get_or_insert(now);
        match place {
            Place::Collector(i) => self.collectors[i] = self.collectors[i].after(presence, now),
            Place::Spool => self.spool = Some(presence == Presence::There),
        }
    }

    fn let_go(&mut self, place: Place) {
        if self.queue == Some(place) {
            self.queue = None;
        }
        if self.drain.map(Place::Collector) == Some(place) {
            self.drain = None;
        }
    }

    fn collectors_are_gone(&self) -> bool {
        let mut collectors = self.collectors.iter();
        collectors.all(|health| *health == Health::Gone)
    }
}

/// The members of a queue.
#[derive(Debug)]
pub(super) struct Members {
    hold_down: Duration,
    /// Whether anything is on disk that is to be sent.
    backlog: AtomicBool,
    /// Whether the queue is nearly full.
    pressed: AtomicBool,
    state: Mutex<State>,
}

impl Members {
    /// So many collectors, and a spool or none.
    pub(super) fn new(collectors: usize, spool: bool, hold_down: Duration) -> Arc<Self> {
        Arc::new(Self {
            hold_down,
            backlog: AtomicBool::new(false),
            pressed: AtomicBool::new(false),
            state: Mutex::new(State {
                collectors: vec![Health::New; collectors],
                spool: spool.then_some(false),
                began: None,
                queue: None,
                drain: None,
            }),
        })
    }

    /// The place of the collector with this number.
    pub(super) fn seat(self: &Arc<Self>, number: usize) -> Seat {
        self.place(Place::Collector(number))
    }

    /// The place of the spool.
    pub(super) fn spool_seat(self: &Arc<Self>) -> Seat {
        self.place(Place::Spool)
    }

    fn place(self: &Arc<Self>, place: Place) -> Seat {
        Seat {
            members: Arc::clone(self),
            place,
        }
    }

    /// Says whether anything is on disk that is to be sent. Who says so holds the spool, so that
    /// what is said last is true.
    pub(super) fn set_backlog(&self, backlog: bool) {
        self.backlog.store(backlog, Ordering::Release);
    }

    fn backlog(&self) -> bool {
        self.backlog.load(Ordering::Acquire)
    }

    /// Says whether the queue is nearly full: whoever takes flows out of it does not keep up.
    pub(super) fn set_pressed(&self, pressed: bool) {
        self.pressed.store(pressed, Ordering::Release);
    }

    fn pressed(&self) -> bool {
        self.pressed.load(Ordering::Acquire)
    }

    /// Whether no collector takes flows, or not fast enough: none is there, what is on disk goes
    /// first, or the queue is nearly full.
    pub(super) fn nobody_takes(&self, now: Instant) -> bool {
        self.backlog() || self.pressed() || self.lock().collector(self.hold_down, now).is_none()
    }

    /// Whether no collector will ever take any.
    pub(super) fn collectors_are_gone(&self) -> bool {
        self.lock().collectors_are_gone()
    }

    /// Whether new flows should be kept for it.
    pub(super) fn standing(&self, now: Instant) -> Standing {
        let standing = |health: &Health| match health {
            Health::New => Standing::Steady,
            health if health.is_steady(self.hold_down, now) => Standing::Steady,
            health if health.is_there() => Standing::Back,
            _ => Standing::Away,
        };
        let state = self.lock();
        let best = state.collectors.iter().map(standing).max();
        best.unwrap_or(Standing::Away)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one of them.
#[derive(Debug)]
pub(super) struct Seat {
    members: Arc<Members>,
    place: Place,
}

impl Seat {
    /// Says whether this one is there, and whether nothing of its is on the way; answers whether
    /// the flows are its own.
    pub(super) fn turn(&self, presence: Presence, idle: bool, now: Instant) -> Turn {
        let mut state = self.members.lock();
        let me = self.place;
        state.note(me, presence, now);
        let collector = state.collector(self.members.hold_down, now);
        let collector = collector.map(Place::Collector);
        let spool = (state.spool == Some(true)).then_some(Place::Spool);
        let (queue, drain) = if self.members.backlog() {
            (spool, collector)
        } else if self.members.pressed() {
            // What the collector has is let arrive; then it goes on with what is on disk.
            (spool.or(collector), None)
        } else {
            (collector.or(spool), None)
        };
        let drains = |state: &State| state.drain.map(Place::Collector);
        let kept = [
            (state.queue, queue, Turn::Mine),
            (drains(&state), drain, Turn::Drains),
        ];
        for (holder, wanted, turn) in kept {
            if holder == Some(me) {
                if wanted == Some(me) {
                    return turn;
                }
                // The spool does not wait: what it takes is apart from what is on its way.
                if !idle && wanted != Some(Place::Spool) {
                    return Turn::Settles;
                }
            }
        }
        state.let_go(me);
        if !idle {
            return Turn::Settles;
        }
        let others = matches!(state.queue, Some(Place::Collector(_)));
        match me {
            Place::Collector(i) if drain == Some(me) && drains(&state).is_none() && !others => {
                state.drain = Some(i);
                Turn::Drains
            }
            // While a collector is sent what is on disk the queue is the spool's, or nobody's.
            _ if queue == Some(me)
                && state.queue.is_none()
                && (me == Place::Spool || state.drain.is_none()) =>
            {
                state.queue = Some(me);
                Turn::Begins
            }
            _ => Turn::Anothers,
        }
    }

    /// Whether other collectors may have the flows.
    pub(super) fn has_others(&self) -> bool {
        self.members.lock().collectors.len() > 1
    }

    /// Whether anything is on disk that is to be sent.
    pub(super) fn has_backlog(&self) -> bool {
        self.members.backlog()
    }

    /// This one ends. Returns whether nobody is left who could take what waits.
    pub(super) fn retire(&self) -> bool {
        let mut state = self.members.lock();
        match self.place {
            Place::Collector(i) => state.collectors[i] = Health::Gone,
            Place::Spool => state.spool = None,
        }
        state.let_go(self.place);
        state.spool.is_none() && state.collectors_are_gone()
    }
}
