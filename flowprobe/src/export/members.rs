//! Collectors that stand in for each other, or share the flows: who is there, and whose turn it is.
//!
//! In a group with failover they have one queue, and one of them at a time takes from it: the first
//! one that is there. A collector that fails loses its turn at once, and what it has not
//! acknowledged waits again for the next one. In a group that balances each has a queue, and gets
//! new flows as long as it is there. In both, one that comes back has to be there for a while, the
//! hold-down, before flows go to it again, so that one that comes and goes does not take them along.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Whose turn it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// This one's, as before.
    Mine,
    /// This one's from now on.
    Begins,
    /// That of another, or of nobody yet.
    Anothers,
}

/// What a member says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    /// It takes flows.
    There,
    /// Its first session is being set up, and nothing has gone wrong.
    Coming,
    /// It cannot be reached.
    Away,
}

/// What is known of a member.
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

#[derive(Debug)]
struct State {
    /// In the order of preference.
    members: Vec<Health>,
    holder: Option<usize>,
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
}

impl State {
    /// Who should have the turn.
    fn wanted(&self, hold_down: Duration, now: Instant) -> Option<usize> {
        let holder = self
            .holder
            .filter(|holder| self.members[*holder].is_there());
        let mut members = self.members.iter();
        let steady = members.position(|health| health.is_steady(hold_down, now));
        match (steady, holder) {
            // One that is less preferred does not take over from one that works.
            (Some(steady), Some(holder)) => Some(steady.min(holder)),
            (steady, holder) => {
                let any = || self.members.iter().position(|health| health.is_there());
                holder.or(steady).or_else(any)
            }
        }
    }
}

/// The collectors of a group, in the order of preference.
#[derive(Debug)]
pub(super) struct Members {
    /// Whether one of them at a time has the flows.
    turns: bool,
    hold_down: Duration,
    state: Mutex<State>,
}

impl Members {
    /// A group of so many; `turns` if one at a time has the flows.
    pub(super) fn new(count: usize, turns: bool, hold_down: Duration) -> Arc<Self> {
        Arc::new(Self {
            turns,
            hold_down,
            state: Mutex::new(State {
                members: vec![Health::New; count],
                holder: None,
            }),
        })
    }

    /// The place of the one at `index`.
    pub(super) fn seat(self: &Arc<Self>, index: usize) -> Seat {
        Seat {
            group: Arc::clone(self),
            index,
        }
    }

    /// Those that new flows may go to: the steady ones and those that are new, or else all that are
    /// there, or else all.
    pub(super) fn takers(&self, now: Instant) -> Vec<usize> {
        let state = self.lock();
        let those = |may: &dyn Fn(&Health) -> bool| -> Vec<usize> {
            let members = state.members.iter().enumerate();
            members
                .filter(|(_, health)| may(health))
                .map(|(i, _)| i)
                .collect()
        };
        let may = |health: &Health| *health == Health::New || health.is_steady(self.hold_down, now);
        let steady = those(&may);
        let there = || those(&|health| health.is_there());
        [steady]
            .into_iter()
            .chain(std::iter::once_with(there))
            .find(|found| !found.is_empty())
            .unwrap_or_else(|| those(&|_| true))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one of them.
#[derive(Debug)]
pub(super) struct Seat {
    group: Arc<Members>,
    index: usize,
}

impl Seat {
    /// Says whether this one is there, and whether nothing of its is on the way; answers whether
    /// the flows are its own.
    pub(super) fn turn(&self, presence: Presence, idle: bool, now: Instant) -> Turn {
        let mut state = self.group.lock();
        let me = self.index;
        state.members[me] = match (state.members[me], presence) {
            (Health::New, Presence::There) => Health::Well,
            (Health::Away, Presence::There) => Health::Back(now),
            (health, Presence::There) => health,
            (Health::New, Presence::Coming) => Health::New,
            (_, Presence::Coming | Presence::Away) => Health::Away,
        };
        if !self.group.turns {
            return Turn::Mine;
        }
        let wanted = state.wanted(self.group.hold_down, now);
        match state.holder {
            Some(holder) if holder == me => {
                if wanted == Some(me) || wanted.is_none() || !idle {
                    return Turn::Mine;
                }
                state.holder = None;
                Turn::Anothers
            }
            None if wanted == Some(me) => {
                state.holder = Some(me);
                Turn::Begins
            }
            _ => Turn::Anothers,
        }
    }

    /// This one ends. Returns whether nobody is left who could take what waits.
    pub(super) fn retire(&self) -> bool {
        let mut state = self.group.lock();
        state.members[self.index] = Health::Gone;
        if state.holder == Some(self.index) {
            state.holder = None;
        }
        !self.group.turns || state.members.iter().all(|health| *health == Health::Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        Presence::{Away, Coming, There},
        *,
    };

    const HOLD_DOWN: Duration = Duration::from_secs(30);

    fn seats(count: usize) -> Vec<Seat> {
        let group = Members::new(count, true, HOLD_DOWN);
        (0..count).map(|index| group.seat(index)).collect()
    }

    #[test]
    fn the_first_that_is_there_has_the_turn_and_takes_it_back_after_the_hold_down() {
        let seats = seats(3);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seats[0].turn(There, true, at(0)), Turn::Begins);
        assert_eq!(seats[1].turn(There, true, at(0)), Turn::Anothers);
        assert_eq!(seats[0].turn(There, true, at(1)), Turn::Mine);
        // It fails; the next one takes over once it has let go.
        assert_eq!(seats[1].turn(There, true, at(2)), Turn::Anothers);
        assert_eq!(seats[0].turn(Away, true, at(2)), Turn::Anothers);
        assert_eq!(seats[2].turn(There, true, at(2)), Turn::Anothers);
        assert_eq!(seats[1].turn(There, true, at(2)), Turn::Begins);
        // It is back, but not for long enough.
        assert_eq!(seats[0].turn(There, true, at(10)), Turn::Anothers);
        assert_eq!(seats[1].turn(There, true, at(39)), Turn::Mine);
        // It comes and goes: the time begins again.
        assert_eq!(seats[0].turn(Away, true, at(39)), Turn::Anothers);
        assert_eq!(seats[0].turn(There, true, at(41)), Turn::Anothers);
        assert_eq!(seats[1].turn(There, true, at(50)), Turn::Mine);
        // What is on its way is waited for.
        assert_eq!(seats[1].turn(There, false, at(72)), Turn::Mine);
        assert_eq!(seats[0].turn(There, true, at(72)), Turn::Anothers);
        assert_eq!(seats[1].turn(There, true, at(72)), Turn::Anothers);
        assert_eq!(seats[0].turn(There, true, at(72)), Turn::Begins);
    }

    #[test]
    fn where_none_is_there_the_first_that_comes_back_has_the_turn() {
        let seats = seats(2);
        let now = Instant::now();
        assert_eq!(seats[0].turn(There, true, now), Turn::Begins);
        for seat in seats.iter().rev() {
            seat.turn(Away, true, now);
        }
        assert_eq!(seats[0].turn(Away, true, now), Turn::Mine);
        // The one that holds it lets go of it as soon as another is there.
        assert_eq!(seats[1].turn(There, true, now), Turn::Anothers);
        assert_eq!(seats[0].turn(Away, true, now), Turn::Anothers);
        assert_eq!(seats[1].turn(There, true, now), Turn::Begins);
        assert!(!seats[1].retire());
        assert!(seats[0].retire());
    }

    #[test]
    fn new_flows_go_to_those_that_are_there_and_steady() {
        let group = Members::new(3, false, HOLD_DOWN);
        let seats: Vec<_> = (0..3).map(|index| group.seat(index)).collect();
        let now = Instant::now();
        assert_eq!(group.takers(now), [0, 1, 2]);
        assert_eq!(seats[1].turn(Away, true, now), Turn::Mine);
        assert_eq!(group.takers(now), [0, 2]);
        seats[1].turn(There, true, now);
        assert_eq!(group.takers(now), [0, 2]);
        assert_eq!(group.takers(now + HOLD_DOWN), [0, 1, 2]);
        seats[0].turn(Away, true, now);
        seats[2].turn(Away, true, now);
        assert_eq!(group.takers(now), [1], "better one that is new than none");
        seats[1].turn(Away, true, now);
        assert_eq!(group.takers(now), [0, 1, 2], "one of them has to keep them");
        assert!(seats[0].retire());
    }

    /// Connections come up in any order: the first of the list has the turn once it is there.
    #[test]
    fn one_that_is_only_coming_has_not_failed() {
        let seats = seats(2);
        let now = Instant::now();
        assert_eq!(seats[0].turn(Coming, true, now), Turn::Anothers);
        assert_eq!(seats[1].turn(There, true, now), Turn::Begins);
        assert_eq!(seats[0].turn(There, true, now), Turn::Anothers);
        assert_eq!(seats[1].turn(There, true, now), Turn::Anothers);
        assert_eq!(seats[0].turn(There, true, now), Turn::Begins);
        let group = Members::new(2, false, HOLD_DOWN);
        let seats: Vec<_> = (0..2).map(|index| group.seat(index)).collect();
        seats[0].turn(There, true, now);
        seats[1].turn(Coming, true, now);
        assert_eq!(group.takers(now), [0, 1]);
        seats[1].turn(Away, true, now);
        assert_eq!(group.takers(now), [0]);
    }
}
