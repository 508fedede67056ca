//! What one thread passes on to another, in order, many at a time.
//!
//! The sender never waits: where the receiver is just emptying the box, what is to be sent stays with
//! the sender until next time. A box has no capacity of its own. What goes round between tables is
//! bounded by what they hold; what leaves them waits in workers that do not read on, see
//! [`super::worker`].

use std::sync::{
    Mutex, PoisonError, TryLockError,
    atomic::{AtomicUsize, Ordering},
};

/// A queue of batches.
#[derive(Debug)]
pub struct Mailbox<T> {
    items: Mutex<Vec<T>>,
    /// How many there are, so that an empty box is not locked.
    len: AtomicUsize,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        Self {
            items: Mutex::default(),
            len: AtomicUsize::new(0),
        }
    }
}

impl<T> Mailbox<T> {
    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.load(Ordering::Relaxed)
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Puts in all of `items`, behind what is there, or nothing.
    pub fn post(&self, items: &mut Vec<T>) {
        if items.is_empty() {
            return;
        }
        let mut inside = match self.items.try_lock() {
            Ok(inside) => inside,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if inside.is_empty() {
            // Nothing is copied, and the room goes back and forth.
            std::mem::swap(&mut *inside, items);
        } else {
            inside.append(items);
        }
        self.len.store(inside.len(), Ordering::Release);
    }

    /// Puts in one, for who can wait a moment.
    pub fn send(&self, item: T) {
        let mut inside = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        inside.push(item);
        self.len.store(inside.len(), Ordering::Release);
    }

    /// Takes out everything, into `items`, which is empty.
    pub fn take(&self, items: &mut Vec<T>) {
        debug_assert!(items.is_empty(), "what was taken has not been looked at");
        if self.len.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut inside = self.items.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut *inside, items);
        self.len.store(0, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn everything_arrives_once_and_in_order() {
        const ALL: u64 = 200_000;
        let mailbox = Mailbox::default();
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut items = Vec::new();
                for n in 0..ALL {
                    items.push(n);
                    if n % 7 == 0 {
                        mailbox.post(&mut items);
                    }
                }
                while !items.is_empty() {
                    mailbox.post(&mut items);
                }
            });
            let (mut next, mut items) = (0, Vec::new());
            while next < ALL {
                mailbox.take(&mut items);
                for item in items.drain(..) {
                    assert_eq!(item, next);
                    next += 1;
                }
            }
        });
        assert!(mailbox.is_empty());
    }
}
