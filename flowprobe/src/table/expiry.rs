//! When a flow is due.

use std::time::Duration;

use flowprobe_ebpf::{Counters, Marks};

use crate::record::EndReason;

/// How long flows are kept.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Without a packet for this long, a flow has ended.
    pub idle: Duration,
    /// A flow that goes on is reported this often.
    pub active: Duration,
    /// After FIN or RST, stragglers are waited for this long.
    pub linger: Duration,
}

/// Why a flow is to be exported, and since when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Due {
    /// Why.
    pub reason: EndReason,
    /// Since when, nanoseconds of CLOCK_MONOTONIC.
    pub since_ns: u64,
}

/// [`Timeouts`] in the units of the table.
#[derive(Clone, Copy, Debug)]
pub struct Expiry {
    idle_ns: u64,
    active_ns: u64,
    linger_ns: u64,
}

impl From<Timeouts> for Expiry {
    fn from(timeouts: Timeouts) -> Self {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            idle_ns: ns(timeouts.idle),
            active_ns: ns(timeouts.active),
            linger_ns: ns(timeouts.linger),
        }
    }
}

impl Expiry {
    /// Whether a flow with these statistics is due at `now_ns`: for the reason that came first.
    #[must_use]
    pub fn due(&self, counters: &Counters, marks: &Marks, now_ns: u64) -> Option<Due> {
        let due = self.next(counters, marks);
        (due.since_ns <= now_ns).then_some(due)
    }

    /// Why and when a flow with these statistics will be due, if no packet comes until then.
    #[must_use]
    pub fn next(&self, counters: &Counters, marks: &Marks) -> Due {
        let idle = Due {
            reason: EndReason::IdleTimeout,
            since_ns: counters.last_ns.saturating_add(self.idle_ns),
        };
        let active = Due {
            reason: EndReason::ActiveTimeout,
            since_ns: counters.first_ns.saturating_add(self.active_ns),
        };
        let end = Due {
            reason: EndReason::EndOfFlow,
            since_ns: match marks.ended() {
                true => counters.last_ns.saturating_add(self.linger_ns),
                false => u64::MAX,
            },
        };
        let earlier = |a: Due, b: Due| if b.since_ns < a.since_ns { b } else { a };
        let due = earlier(earlier(end, idle), active);
        // A flow that is both over its active time and known to have ended has ended: the
        // linger would only have delayed saying so.
        let reason = match due.reason {
            EndReason::ActiveTimeout if marks.ended() => EndReason::EndOfFlow,
            reason => reason,
        };
        Due { reason, ..due }
    }

    /// Whether a flow that spans `span_ns` has gone on for the active timeout.
    #[inline]
    #[must_use]
    pub fn is_active_for(&self, span_ns: u64) -> bool {
        span_ns >= self.active_ns
    }

    /// No flow is due sooner than this after a packet.
    #[must_use]
    pub fn shortest_ns(&self) -> u64 {
        self.idle_ns.min(self.active_ns).min(self.linger_ns)
    }
}

#[cfg(test)]
mod tests {
    use flowprobe_ebpf::wire::tcp;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn expiry() -> Expiry {
        Timeouts {
            idle: Duration::from_secs(15),
            active: Duration::from_secs(60),
            linger: Duration::from_secs(1),
        }
        .into()
    }

    fn due_at(first: u64, last: u64, flags: u8, now: u64) -> Option<(EndReason, u64)> {
        let counters = Counters {
            first_ns: first * SECOND,
            last_ns: last * SECOND,
            ..Counters::default()
        };
        let marks = Marks {
            tcp_flags: flags,
            ..Marks::default()
        };
        let due = expiry().due(&counters, &marks, now * SECOND)?;
        Some((due.reason, due.since_ns / SECOND))
    }

    #[test]
    fn a_silent_flow_is_idle_from_its_last_packet() {
        assert_eq!(due_at(100, 110, 0, 124), None);
        assert_eq!(
            due_at(100, 110, 0, 125),
            Some((EndReason::IdleTimeout, 125))
        );
    }

    #[test]
    fn a_lasting_flow_is_active_from_its_first_packet() {
        assert_eq!(due_at(100, 159, 0, 159), None);
        assert_eq!(
            due_at(100, 160, 0, 160),
            Some((EndReason::ActiveTimeout, 160))
        );
    }

    #[test]
    fn fin_and_rst_end_a_flow_after_the_linger() {
        for flag in [tcp::FIN, tcp::RST] {
            assert_eq!(due_at(100, 101, flag, 101), None);
            assert_eq!(
                due_at(100, 101, flag, 102),
                Some((EndReason::EndOfFlow, 102))
            );
        }
        assert_eq!(due_at(100, 101, tcp::SYN | tcp::ACK, 102), None);
    }

    #[test]
    fn a_flow_that_ended_is_never_called_active() {
        assert_eq!(
            due_at(100, 160, tcp::FIN, 160),
            Some((EndReason::EndOfFlow, 160))
        );
    }

    #[test]
    fn packets_stamped_after_now_are_not_due() {
        assert_eq!(due_at(200, 200, 0, 100), None);
    }
}
