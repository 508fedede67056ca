//! The rates that each class of packets has had: what the records of an epoch were metered with.

use std::{
    collections::BTreeMap,
    sync::{
        PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicU32, Ordering},
    },
};

use flowprobe_ebpf::sampling::{SHADOW_CLASS, Sampled, Word};

use super::{Sampling, Selection};

/// Epochs that have ended of which it is known how many packets were selected.
const REMEMBERED: usize = 256;

/// The rates of all classes.
#[derive(Debug)]
pub struct Rates {
    /// The present epoch of each class.
    epochs: Vec<AtomicU32>,
    history: RwLock<History>,
    shadow: Option<Sampling>,
}

#[derive(Debug)]
struct History {
    /// Of each class, the sampling of each epoch.
    classes: Vec<Vec<Sampling>>,
    /// What was selected in epochs that have ended, by class and epoch; the last ones.
    ended: BTreeMap<(u8, u32), Selection>,
}

impl Rates {
    /// Of classes that begin with these samplings, and of what is sampled beside the metering of
    /// everything.
    #[must_use]
    pub fn new(samplings: &[Sampling], shadow: Option<Sampling>) -> Self {
        Self {
            epochs: samplings.iter().map(|_| AtomicU32::new(0)).collect(),
            history: RwLock::new(History {
                classes: samplings.iter().map(|first| vec![*first]).collect(),
                ended: BTreeMap::new(),
            }),
            shadow,
        }
    }

    /// Of one class whose rate does not change.
    #[must_use]
    pub fn of(sampling: Sampling) -> Self {
        Self::new(&[sampling], None)
    }

    /// The sampling of an epoch of a class; `None` if there was no such one.
    #[must_use]
    pub fn sampling(&self, sampled: Sampled) -> Option<Sampling> {
        if sampled.class() == SHADOW_CLASS {
            return self.shadow;
        }
        let history = self.read();
        let epochs = history.classes.get(usize::from(sampled.class()))?;
        epochs.get(sampled.epoch() as usize).copied()
    }

    /// Whether another epoch of its class has begun since.
    #[must_use]
    pub fn is_past(&self, sampled: Sampled) -> bool {
        let epoch = self.epochs.get(usize::from(sampled.class()));
        epoch.is_some_and(|epoch| epoch.load(Ordering::Relaxed) != sampled.epoch())
    }

    /// The present epoch of a class, and its sampling.
    #[must_use]
    pub fn current(&self, class: u8) -> Option<(u32, Sampling)> {
        let history = self.read();
        let epochs = history.classes.get(usize::from(class))?;
        let last = epochs.last()?;
        Some((epochs.len() as u32 - 1, *last))
    }

    /// Begins an epoch of a class; `None` if there is no such class, or have been 2²⁴ − 1 epochs.
    pub fn begin(&self, class: u8, sampling: Sampling) -> Option<u32> {
        let mut history = self.write();
        let epochs = history.classes.get_mut(usize::from(class))?;
        let epoch = epochs.len() as u32;
        if epoch > Word::MAX_EPOCH {
            return None;
        }
        epochs.push(sampling);
        self.epochs[usize::from(class)].store(epoch, Ordering::Relaxed);
        Some(epoch)
    }

    /// Remembers what was selected in an epoch that has ended.
    pub fn end(&self, class: u8, epoch: u32, selection: Selection) {
        let mut history = self.write();
        history.ended.insert((class, epoch), selection);
        let of_class = (class, 0)..=(class, epoch);
        if history.ended.range(of_class.clone()).count() > REMEMBERED {
            let oldest = history.ended.range(of_class).next().map(|(key, _)| *key);
            oldest.map(|key| history.ended.remove(&key));
        }
    }

    /// What was selected in an epoch that has ended.
    #[must_use]
    pub fn ended(&self, class: u8, epoch: u32) -> Option<Selection> {
        self.read().ended.get(&(class, epoch)).copied()
    }

    fn read(&self) -> RwLockReadGuard<'_, History> {
        self.history.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, History> {
        self.history.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn count(n: u32) -> Sampling {
        Sampling::Count(NonZeroU32::new(n).expect("not 0"))
    }

    #[test]
    fn each_epoch_keeps_its_rate() {
        let rates = Rates::new(&[count(10), Sampling::All], Some(count(7)));
        assert_eq!(rates.begin(0, count(20)), Some(1));
        assert_eq!(rates.begin(0, count(30)), Some(2));
        assert_eq!(rates.begin(2, count(30)), None);
        let sampling = |class, epoch| rates.sampling(Sampled::new(class, epoch));
        assert_eq!(sampling(0, 0), Some(count(10)));
        assert_eq!(sampling(0, 1), Some(count(20)));
        assert_eq!(sampling(0, 2), Some(count(30)));
        assert_eq!(sampling(0, 3), None);
        assert_eq!(sampling(1, 0), Some(Sampling::All));
        assert_eq!(sampling(2, 0), None);
        assert_eq!(sampling(SHADOW_CLASS, 0), Some(count(7)));
        assert_eq!(rates.current(0), Some((2, count(30))));
        assert_eq!(rates.current(1), Some((0, Sampling::All)));
    }

    #[test]
    fn only_the_last_epoch_of_a_class_is_present() {
        let rates = Rates::new(&[count(10), count(10)], None);
        rates.begin(1, count(5));
        assert!(!rates.is_past(Sampled::new(0, 0)));
        assert!(rates.is_past(Sampled::new(1, 0)));
        assert!(!rates.is_past(Sampled::new(1, 1)));
        // What is sampled beside never changes.
        assert!(!rates.is_past(Sampled::new(SHADOW_CLASS, 0)));
    }

    #[test]
    fn as_many_ended_epochs_are_remembered() {
        let rates = Rates::new(&[count(10), count(10)], None);
        let of = |observed| Selection {
            observed,
            selected: 1,
        };
        rates.end(1, 0, of(5));
        for epoch in 0..300 {
            rates.end(0, epoch, of(epoch.into()));
        }
        assert_eq!(rates.ended(0, 299), Some(of(299)));
        assert_eq!(rates.ended(0, 44), Some(of(44)));
        assert_eq!(rates.ended(0, 43), None);
        assert_eq!(rates.ended(1, 0), Some(of(5)));
    }
}
