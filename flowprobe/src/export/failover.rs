//! Collectors that stand in for each other: the flows go to the first one that is there.
//!
//! They share a queue, and one of them at a time takes from it. A collector that fails loses its
//! turn at once, and what it has not acknowledged waits again for the next one. One that comes back
//! has to be there for a while, the hold-down, before it gets its turn again, so that one that comes
//! and goes does not take the flows along.

use std::{
    sync::{Arc, Mutex, PoisonError},
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

/// What is known of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Health {
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

impl State {
    /// Who should have the turn.
    fn wanted(&self, hold_down: Duration, now: Instant) -> Option<usize> {
        let steady = |health: &Health| match health {
            Health::Well => true,
            Health::Back(since) => now >= *since + hold_down,
            Health::Away | Health::Gone => false,
        };
        let there = |health: &Health| matches!(health, Health::Well | Health::Back(_));
        let holder = self.holder.filter(|holder| there(&self.members[*holder]));
        let steady = self.members.iter().position(steady);
        match (steady, holder) {
            // One that is less preferred does not take over from one that works.
            (Some(steady), Some(holder)) => Some(steady.min(holder)),
            (steady, holder) => {
                let any = || self.members.iter().position(there);
                holder.or(steady).or_else(any)
            }
        }
    }
}

/// Collectors in the order of preference.
#[derive(Debug)]
pub(super) struct Failover {
    hold_down: Duration,
    state: Mutex<State>,
}

impl Failover {
    /// Places for collectors of these names.
    pub(super) fn seats(names: &[String], hold_down: Duration) -> Vec<Seat> {
        let group = Arc::new(Self {
            hold_down,
            state: Mutex::new(State {
                members: vec![Health::Well; names.len()],
                holder: None,
            }),
        });
        let seat = |(index, name): (usize, &String)| Seat {
            group: Arc::clone(&group),
            index,
            name: name.clone(),
        };
        names.iter().enumerate().map(seat).collect()
    }
}

/// The place of one of them.
#[derive(Debug)]
pub(super) struct Seat {
    group: Arc<Failover>,
    index: usize,
    name: String,
}

impl Seat {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Says whether this one is there, and whether nothing of its is on the way; answers whether
    /// the flows are its own.
    pub(super) fn turn(&self, up: bool, idle: bool, now: Instant) -> Turn {
        let mut state = self.group.lock();
        let me = self.index;
        state.members[me] = match (state.members[me], up) {
            (Health::Away, true) => Health::Back(now),
            (health, true) => health,
            (_, false) => Health::Away,
        };
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

    /// This one ends. Returns whether nobody is left.
    pub(super) fn retire(&self) -> bool {
        let mut state = self.group.lock();
        state.members[self.index] = Health::Gone;
        if state.holder == Some(self.index) {
            state.holder = None;
        }
        state.members.iter().all(|health| *health == Health::Gone)
    }
}

impl Failover {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOLD_DOWN: Duration = Duration::from_secs(30);

    fn seats(count: usize) -> Vec<Seat> {
        let names: Vec<_> = (0..count).map(|i| i.to_string()).collect();
        Failover::seats(&names, HOLD_DOWN)
    }

    #[test]
    fn the_first_that_is_there_has_the_turn_and_takes_it_back_after_the_hold_down() {
        let seats = seats(3);
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(seats[1].turn(true, true, at(0)), Turn::Anothers);
        assert_eq!(seats[0].turn(true, true, at(0)), Turn::Begins);
        assert_eq!(seats[0].turn(true, true, at(1)), Turn::Mine);
        // It fails; the next one takes over once it has let go.
        assert_eq!(seats[1].turn(true, true, at(2)), Turn::Anothers);
        assert_eq!(seats[0].turn(false, true, at(2)), Turn::Anothers);
        assert_eq!(seats[2].turn(true, true, at(2)), Turn::Anothers);
        assert_eq!(seats[1].turn(true, true, at(2)), Turn::Begins);
        // It is back, but not for long enough.
        assert_eq!(seats[0].turn(true, true, at(10)), Turn::Anothers);
        assert_eq!(seats[1].turn(true, true, at(39)), Turn::Mine);
        // It comes and goes: the time begins again.
        assert_eq!(seats[0].turn(false, true, at(39)), Turn::Anothers);
        assert_eq!(seats[0].turn(true, true, at(41)), Turn::Anothers);
        assert_eq!(seats[1].turn(true, true, at(50)), Turn::Mine);
        // What is on its way is waited for.
        assert_eq!(seats[1].turn(true, false, at(72)), Turn::Mine);
        assert_eq!(seats[0].turn(true, true, at(72)), Turn::Anothers);
        assert_eq!(seats[1].turn(true, true, at(72)), Turn::Anothers);
        assert_eq!(seats[0].turn(true, true, at(72)), Turn::Begins);
    }

    #[test]
    fn where_none_is_there_the_first_that_comes_back_has_the_turn() {
        let seats = seats(2);
        let now = Instant::now();
        assert_eq!(seats[0].turn(true, true, now), Turn::Begins);
        for seat in seats.iter().rev() {
            seat.turn(false, true, now);
        }
        assert_eq!(seats[0].turn(false, true, now), Turn::Mine);
        // The one that holds it lets go of it as soon as another is there.
        assert_eq!(seats[1].turn(true, true, now), Turn::Anothers);
        assert_eq!(seats[0].turn(false, true, now), Turn::Anothers);
        assert_eq!(seats[1].turn(true, true, now), Turn::Begins);
        assert!(!seats[1].retire());
        assert!(seats[0].retire());
    }
}
