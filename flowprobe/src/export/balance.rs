//! Which collector of a group that balances gets a flow.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Instant,
};

use super::{Now, account::Outlet, members::Members};
use crate::record::{FlowKey, FlowRecord};

/// Collectors that share the flows, each with a queue of its own.
#[derive(Debug)]
pub(super) struct Balance {
    queues: Vec<(Arc<Outlet>, Arc<Members>)>,
    /// Keyed, so that nobody can choose flows that all go to one collector.
    keyed: RandomState,
}

impl Balance {
    /// Each is a queue, and who takes from it.
    pub(super) fn new(queues: Vec<(Arc<Outlet>, Arc<Members>)>) -> Self {
        Self {
            queues,
            keyed: RandomState::new(),
        }
    }

    /// Queues each record for one of them. They are in the order of their classes, and stay so.
    pub(super) fn push(&self, records: &[FlowRecord], now: Now) {
        let takers = self.takers(now.at);
        let mut shares = vec![Vec::new(); self.queues.len()];
        for record in records {
            shares[self.taker(&record.key, &takers)].push(*record);
        }
        for ((outlet, _), share) in self.queues.iter().zip(shares) {
            outlet.account().push(&Arc::new(share), now);
        }
    }

    /// Those that new flows may go to: the steady ones and those that are new, or else all that are
    /// there, or else all: one of them has to keep them.
    fn takers(&self, now: Instant) -> Vec<usize> {
        let standing = |(_, members): &(_, Arc<Members>)| members.standing(now);
        let standings: Vec<_> = self.queues.iter().map(standing).collect();
        let best = standings.iter().max();
        let numbered = standings.iter().enumerate();
        let takers = numbered.filter(|(_, standing)| Some(*standing) == best);
        takers.map(|(number, _)| number).collect()
    }

    /// The one of `takers` that has this conversation: the one with the highest number that hash
    /// and place make. So where one of them goes, only its conversations go elsewhere.
    fn taker(&self, key: &FlowKey, takers: &[usize]) -> usize {
        let conversation = self.keyed.hash_one(key.conversation());
        let rank = |taker: &&usize| self.keyed.hash_one((conversation, **taker));
        takers.iter().max_by_key(rank).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeSet, time::Duration};

    use super::*;
    use crate::{
        export::members::Presence::{Away, Coming, There},
        ipfix::tests::sample::key,
        sampling::Sampling,
    };

    const HOLD_DOWN: Duration = Duration::from_secs(30);

    fn balance(count: usize) -> Balance {
        let queue = |i: usize| {
            let outlet = Outlet::new(i.to_string(), 1 << 20, &[Sampling::All]);
            (Arc::new(outlet), Members::new(1, false, HOLD_DOWN))
        };
        Balance::new((0..count).map(queue).collect())
    }

    #[test]
    fn new_flows_go_to_those_that_are_there_and_steady() {
        let balance = balance(3);
        let seats: Vec<_> = balance.queues.iter().map(|(_, m)| m.seat(0)).collect();
        let now = Instant::now();
        assert_eq!(balance.takers(now), [0, 1, 2]);
        seats[0].turn(There, true, now);
        seats[1].turn(Coming, true, now);
        assert_eq!(balance.takers(now), [0, 1, 2], "nothing has gone wrong");
        seats[1].turn(Away, true, now);
        assert_eq!(balance.takers(now), [0, 2]);
        seats[1].turn(There, true, now);
        assert_eq!(balance.takers(now), [0, 2]);
        assert_eq!(balance.takers(now + HOLD_DOWN), [0, 1, 2]);
        seats[0].turn(Away, true, now);
        seats[2].turn(Away, true, now);
        assert_eq!(balance.takers(now), [1], "better one that is new than none");
        seats[1].turn(Away, true, now);
        assert_eq!(
            balance.takers(now),
            [0, 1, 2],
            "one of them has to keep them"
        );
    }

    #[test]
    fn both_directions_go_together_and_all_members_get_some() {
        let balance = balance(3);
        let mut used = BTreeSet::new();
        for v6 in [false, true] {
            for protocol in [1, 6, 17, 58] {
                for i in 0..50 {
                    let ends = [[i; 16], [200; 16]];
                    let there = key(v6, ends, protocol, [1024, 53], 3, 4, 5);
                    let back = key(v6, [ends[1], ends[0]], protocol, [53, 1024], 0, 4, 6);
                    let all = [0, 1, 2];
                    let taker = balance.taker(&there, &all);
                    assert_eq!(taker, balance.taker(&back, &all));
                    used.insert(taker);
                    // Without another one it stays; without this one it goes.
                    let other = (taker + 1) % 3;
                    let rest: Vec<_> = all.into_iter().filter(|one| *one != other).collect();
                    assert_eq!(balance.taker(&there, &rest), taker);
                    let rest: Vec<_> = all.into_iter().filter(|one| *one != taker).collect();
                    assert_ne!(balance.taker(&there, &rest), taker);
                }
            }
        }
        assert_eq!(used.len(), 3);
    }

    #[test]
    fn each_record_goes_to_one() {
        let balance = balance(2);
        let records = crate::ipfix::tests::sample::many(1000);
        balance.push(&records, Now::read());
        let queues = balance.queues.iter();
        let queued = queues.map(|(outlet, _)| outlet.account().queued().records);
        let queued: Vec<_> = queued.collect();
        assert_eq!(queued.iter().sum::<u64>(), 1000);
        assert!(queued.iter().all(|share| *share > 0), "{queued:?}");
    }
}
