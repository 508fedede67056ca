//! The interfaces that collectors are told the names of, which come and go.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// An interface as collectors shall call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Index, as in flow keys.
    pub ifindex: u32,
    /// Name.
    pub name: String,
    /// Description, may be empty.
    pub description: String,
}

/// Names of interfaces. One that is gone is told for as long as there may be flows of it.
#[derive(Debug, Default)]
pub struct Interfaces {
    all: Mutex<All>,
    /// How long flows of an interface that is gone may still be sent.
    lasting: Duration,
}

#[derive(Debug, Default)]
struct All {
    /// Of the latest change.
    version: u64,
    interfaces: Vec<Known>,
}

#[derive(Debug)]
struct Known {
    interface: Interface,
    /// The version in which it came, or got this name.
    since: u64,
    gone_at: Option<Instant>,
}

impl Interfaces {
    /// None yet; those that will be gone are told for so long.
    #[must_use]
    pub fn new(lasting: Duration) -> Self {
        Self {
            lasting,
            ..Self::default()
        }
    }

    /// An interface is there, under this name.
    pub fn put(&self, ifindex: u32, name: &str) {
        let mut all = self.all();
        all.version += 1;
        let since = all.version;
        // An index that is given anew is of the new one: later flows are.
        all.interfaces
            .retain(|known| known.interface.ifindex != ifindex);
        all.interfaces.push(Known {
            interface: Interface {
                ifindex,
                name: name.to_owned(),
                description: String::new(),
            },
            since,
            gone_at: None,
        });
    }

    /// An interface is gone, or not watched any more.
    pub fn lose(&self, ifindex: u32, now: Instant) {
        let mut all = self.all();
        let lasting = self.lasting;
        all.interfaces
            .retain(|known| known.gone_at.is_none_or(|gone| now < gone + lasting));
        let mut known = all.interfaces.iter_mut();
        if let Some(known) = known.find(|known| known.interface.ifindex == ifindex) {
            known.gone_at = Some(now);
        }
    }

    /// The version, and the interfaces that are new or have another name since an earlier one; all
    /// of them since 0.
    pub(super) fn since(&self, version: u64) -> (u64, Vec<Interface>) {
        let all = self.all();
        let new = all.interfaces.iter().filter(|known| known.since > version);
        let new = new.map(|known| known.interface.clone()).collect();
        (all.version, new)
    }

    /// Of the latest change.
    pub(super) fn version(&self) -> u64 {
        self.all().version
    }

    /// The names of those that are there.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        let all = self.all();
        let there = all
            .interfaces
            .iter()
            .filter(|known| known.gone_at.is_none());
        there.map(|known| known.interface.name.clone()).collect()
    }

    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LASTING: Duration = Duration::from_secs(60);

    fn told(interfaces: &Interfaces, version: u64) -> Vec<(u32, String)> {
        let (_, new) = interfaces.since(version);
        new.into_iter().map(|new| (new.ifindex, new.name)).collect()
    }

    #[test]
    fn what_is_new_is_told_once_and_all_to_who_knows_nothing() {
        let interfaces = Interfaces::new(LASTING);
        interfaces.put(2, "a");
        interfaces.put(3, "b");
        let (version, _) = interfaces.since(0);
        assert_eq!(told(&interfaces, version), []);
        interfaces.put(4, "c");
        interfaces.put(2, "renamed");
        let new = [(4, "c".to_owned()), (2, "renamed".to_owned())];
        assert_eq!(told(&interfaces, version), new);
        assert_eq!(told(&interfaces, 0).len(), 3);
    }

    #[test]
    fn one_that_is_gone_is_told_while_there_may_be_flows_of_it() {
        let interfaces = Interfaces::new(LASTING);
        let now = Instant::now();
        interfaces.put(2, "a");
        interfaces.put(3, "b");
        interfaces.lose(2, now);
        assert_eq!(interfaces.names(), ["b"]);
        interfaces.lose(3, now + LASTING - Duration::from_secs(1));
        assert_eq!(told(&interfaces, 0).len(), 2);
        interfaces.put(4, "c");
        interfaces.lose(4, now + LASTING);
        let left = [(3, "b".to_owned()), (4, "c".to_owned())];
        assert_eq!(told(&interfaces, 0), left);
    }

    #[test]
    fn an_index_that_is_given_anew_has_the_new_name() {
        let interfaces = Interfaces::new(LASTING);
        interfaces.put(2, "a");
        interfaces.lose(2, Instant::now());
        interfaces.put(2, "b");
        assert_eq!(told(&interfaces, 0), [(2, "b".to_owned())]);
        assert_eq!(interfaces.names(), ["b"]);
    }
}
