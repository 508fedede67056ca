//! Pacing: a token bucket, so that a burst of expiring flows does not overrun the receive
//! buffer of a collector.

use std::time::{Duration, Instant};

/// Tokens for 5 ms go out at once: more than a thread's wake-up takes, and at the default rate
/// 1000 records, which a receive buffer of the usual 208 KiB holds.
const BURST: Duration = Duration::from_millis(5);

/// A token bucket that holds the time at which it will be full again.
#[derive(Debug)]
pub(super) struct Pacer {
    /// Records a second; 0 is no limit.
    rate: u32,
    burst: Duration,
    full_at: Instant,
}

impl Pacer {
    /// A full bucket, of at least `message` records, so that each message can go at once.
    pub(super) fn new(rate: u32, message: usize, now: Instant) -> Self {
        let mut pacer = Self {
            rate,
            burst: BURST,
            full_at: now,
        };
        pacer.burst = BURST.max(pacer.cost(message));
        pacer
    }

    /// When `records` may go; at most a message's.
    pub(super) fn ready_at(&self, records: usize) -> Instant {
        // The bucket may be short of full by what it holds beyond these records.
        let slack = self.burst.saturating_sub(self.cost(records));
        self.full_at.checked_sub(slack).unwrap_or(self.full_at)
    }

    /// Takes the tokens of `records`.
    pub(super) fn spend(&mut self, records: usize, now: Instant) {
        self.full_at = self.full_at.max(now) + self.cost(records);
    }

    fn cost(&self, records: usize) -> Duration {
        match u64::from(self.rate) {
            0 => Duration::ZERO,
            rate => Duration::from_nanos(records as u64 * 1_000_000_000 / rate),
        }
    }
}
