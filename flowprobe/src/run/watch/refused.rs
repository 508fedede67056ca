//! Interfaces that cannot be watched as they are, and when each is tried again.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use crate::attach::netlink::LinkInfo;

/// How long after a try the next one may be, if the interface is another matter then; doubles with each
/// refusal. To attach and to fail changes some interfaces too, which must not be followed by the next try at once.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST: Duration = Duration::from_secs(64);

/// How long until one is tried again that another program has: one held by a bpf_link goes without a word.
const TAKEN: Duration = Duration::from_secs(5);

/// What keeps an interface from being watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Obstacle {
    /// It is so itself, until it is told that it has changed.
    Itself,
    /// Somebody else's program is there, which may go at any time.
    Taken,
}

/// A refusal.
#[derive(Debug)]
struct Refusal {
    /// Told to the user.
    why: String,
    obstacle: Obstacle,
    /// When it was tried last, and how long it is left alone after that.
    at: Instant,
    pause: Duration,
    /// When it is tried again; none while nothing has changed.
    due: Option<Instant>,
}

/// All of them, by index.
#[derive(Debug, Default)]
pub(super) struct Refused {
    all: BTreeMap<u32, Refusal>,
}

impl Refused {
    /// Notes a refusal; says whether it is news to the user.
    pub(super) fn note(
        &mut self,
        ifindex: u32,
        why: String,
        obstacle: Obstacle,
        now: Instant,
    ) -> bool {
        let before = self.all.get(&ifindex);
        let is_news = before.is_none_or(|before| before.why != why);
        let pause = before.map_or(PAUSE, |before| LONGEST.min(2 * before.pause));
        let refusal = Refusal {
            why,
            obstacle,
            at: now,
            pause,
            due: (obstacle == Obstacle::Taken).then_some(now + TAKEN),
        };
        self.all.insert(ifindex, refusal);
        is_news
    }

    /// Whether it is to be left alone for now.
    pub(super) fn is_closed(&self, ifindex: u32, now: Instant) -> bool {
        let refusal = self.all.get(&ifindex);
        refusal.is_some_and(|refusal| refusal.due.is_none_or(|due| due > now))
    }

    /// When the next one that is closed now is to be tried again.
    pub(super) fn next_due(&self, now: Instant) -> Option<Instant> {
        let dues = self.all.values().filter_map(|refusal| refusal.due);
        dues.filter(|due| *due > now).min()
    }

    /// What is told of an interface: tries it again if that bears on the refusal.
    pub(super) fn changed(&mut self, before: &LinkInfo, now: &LinkInfo) {
        let Some(refusal) = self.all.get_mut(&now.index) else {
            return;
        };
        let has_changed = bearing(before) != bearing(now);
        let has_left = refusal.obstacle == Obstacle::Taken && before.xdp != now.xdp;
        if has_changed || has_left {
            let soonest = refusal.at + refusal.pause;
            refusal.due = Some(refusal.due.map_or(soonest, |due| due.min(soonest)));
        }
    }

    /// The interface is watched, or gone.
    pub(super) fn forget(&mut self, ifindex: u32) {
        self.all.remove(&ifindex);
    }
}

/// What attaching depends on. Not what attaching changes itself: programs, carrier, counters.
fn bearing(link: &LinkInfo) -> impl PartialEq + use<'_> {
    let LinkInfo {
        flags,
        hardware,
        name,
        mtu,
        master,
        lower,
        lower_is_elsewhere,
        kind,
        rx_queues,
        ..
    } = link;
    let is_up = flags & libc::IFF_UP as u32 != 0;
    let above = (master, lower, lower_is_elsewhere);
    (is_up, hardware, name, mtu, above, kind, rx_queues)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(mtu: u32) -> LinkInfo {
        LinkInfo {
            index: 7,
            mtu,
            ..LinkInfo::default()
        }
    }

    fn with_program(id: Option<u32>) -> LinkInfo {
        let mut link = link(1500);
        link.xdp.native = id;
        link
    }

    #[test]
    fn what_does_not_change_is_left_alone_and_said_once() {
        let now = Instant::now();
        let mut refused = Refused::default();
        assert!(refused.note(7, "why".to_owned(), Obstacle::Itself, now));
        assert!(!refused.note(7, "why".to_owned(), Obstacle::Itself, now));
        assert!(refused.note(7, "another".to_owned(), Obstacle::Itself, now));
        assert!(refused.is_closed(7, now + LONGEST) && !refused.is_closed(8, now));
        assert_eq!(refused.next_due(now), None);
        // As attaching for a moment does.
        refused.changed(&with_program(None), &with_program(Some(1)));
        let mut without_carrier = link(1500);
        without_carrier.flags = libc::IFF_LOWER_UP as u32;
        refused.changed(&link(1500), &without_carrier);
        assert_eq!(refused.next_due(now), None);
        refused.forget(7);
        assert!(!refused.is_closed(7, now));
    }

    #[test]
    fn each_try_is_longer_after_the_one_before_whatever_changes() {
        let mut now = Instant::now();
        let mut refused = Refused::default();
        let mut pauses = Vec::new();
        for mtu in 0..12 {
            refused.note(7, mtu.to_string(), Obstacle::Itself, now);
            refused.changed(&link(mtu), &link(mtu + 1));
            assert!(refused.is_closed(7, now));
            let due = refused.next_due(now).expect("it has changed");
            pauses.push(due - now);
            now = due;
            assert!(!refused.is_closed(7, now));
        }
        assert_eq!((pauses[0], pauses[1]), (PAUSE, 2 * PAUSE));
        assert_eq!(pauses[11], LONGEST);
        // One that was tried long ago is tried at once.
        refused.note(7, "why".to_owned(), Obstacle::Itself, now);
        refused.changed(&link(1), &link(2));
        assert!(!refused.is_closed(7, now + 2 * LONGEST));
    }

    #[test]
    fn one_that_another_program_has_is_tried_again_without_a_word() {
        let now = Instant::now();
        let mut refused = Refused::default();
        for _ in 0..20 {
            refused.note(7, "why".to_owned(), Obstacle::Taken, now);
        }
        assert_eq!(refused.next_due(now), Some(now + TAKEN));
        refused.forget(7);
        refused.note(7, "why".to_owned(), Obstacle::Taken, now);
        refused.changed(&with_program(Some(1)), &with_program(None));
        assert_eq!(refused.next_due(now), Some(now + PAUSE));
    }
}
