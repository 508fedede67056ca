//! Pacing: a token bucket, so that a burst of expiring flows does not overrun the receive
//! buffer of a collector.

use std::time::{Duration, Instant};

/// Tokens for 2 ms go out at once: longer than a thread takes to wake up. At the default rate
/// these are 400 records, which take up to 130 KiB of a collector's receive buffer as the kernel
/// counts it (small messages take most); the usual one has 208 KiB.
const BURST: Duration = Duration::from_millis(2);

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

    /// How many records may go now.
    pub(super) fn affords(&self, now: Instant) -> usize {
        let left = self
            .burst
            .saturating_sub(self.full_at.saturating_duration_since(now));
        match u128::from(self.rate) {
            0 => usize::MAX,
            rate => (left.as_nanos() * rate / 1_000_000_000) as usize,
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Sends messages of `message` records as early as allowed, for `seconds`.
    fn sent(rate: u32, message: usize, seconds: u64) -> usize {
        let start = Instant::now();
        let mut pacer = Pacer::new(rate, message, start);
        let (mut now, mut records) = (start, 0);
        while now <= start + Duration::from_secs(seconds) {
            records += message;
            pacer.spend(message, now);
            now = now.max(pacer.ready_at(message));
        }
        records
    }

    #[test]
    fn sends_at_the_rate_plus_one_burst() {
        assert_eq!(sent(1000, 10, 4), 4000 + 10, "burst of one message");
        assert_eq!(sent(200_000, 10, 2), 400_000 + 400, "burst of 2 ms");
        assert_eq!(sent(1, 10, 30), 40, "a message that takes ten seconds");
    }

    #[test]
    fn time_without_flows_saves_one_burst() {
        let start = Instant::now();
        let mut pacer = Pacer::new(1000, 10, start);
        let later = start + Duration::from_secs(3600);
        pacer.spend(10, later);
        assert_eq!(pacer.ready_at(10), later + Duration::from_millis(10));
        assert_eq!(pacer.ready_at(1), later + Duration::from_millis(1));
    }

    #[test]
    fn rate_zero_never_waits() {
        let start = Instant::now();
        let mut pacer = Pacer::new(0, 10, start);
        pacer.spend(1_000_000, start);
        assert!(pacer.ready_at(10) <= start);
    }
}
