//! Which collector of a group that balances gets a flow.

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
};

use super::{Now, account::Outlet, members::Members};
use crate::record::{FlowKey, FlowRecord};

/// Collectors that share the flows.
#[derive(Debug)]
pub(super) struct Balance {
    outlets: Vec<Arc<Outlet>>,
    members: Arc<Members>,
    /// Keyed, so that nobody can choose flows that all go to one collector.
    keyed: RandomState,
}

impl Balance {
    pub(super) fn new(outlets: Vec<Arc<Outlet>>, members: Arc<Members>) -> Self {
        Self {
            outlets,
            members,
            keyed: RandomState::new(),
        }
    }

    /// Queues each record for one of them. They are in the order of their classes, and stay so.
    pub(super) fn push(&self, records: &[FlowRecord], now: Now) {
        let takers = self.members.takers(now.at);
        let mut shares = vec![Vec::new(); self.outlets.len()];
        for record in records {
            shares[self.taker(&record.key, &takers)].push(*record);
        }
        for (outlet, share) in self.outlets.iter().zip(shares) {
            outlet.account().push(&Arc::new(share), now);
        }
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
    use crate::{ipfix::tests::sample::key, sampling::Sampling};

    fn balance(count: usize) -> Balance {
        let outlet = |i: usize| Arc::new(Outlet::new(i.to_string(), 1 << 20, &[Sampling::All]));
        let members = Members::new(count, false, Duration::from_secs(1));
        Balance::new((0..count).map(outlet).collect(), members)
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
        let queued = balance.outlets.iter().map(|o| o.account().queued().records);
        let queued: Vec<_> = queued.collect();
        assert_eq!(queued.iter().sum::<u64>(), 1000);
        assert!(queued.iter().all(|share| *share > 0), "{queued:?}");
    }
}
