//! Times as NetFlow v5 and v9 have them: milliseconds of a device's uptime, in 32 bits.
//!
//! A collector gets the time of day back from the header: `unix_secs · 1000 − (sysUptime −
//! first)`. Three things make that come out right in every collector, to the millisecond:
//!
//! - The header's times are of the same instant, a whole second. v9 has no fraction of a second
//!   (RFC 3954 §5.1), and pmacct does not read that of v5, so a sysUptime of any other instant
//!   would move all flows of the message by up to a second.
//! - No flow ends after that instant. pmacct, goflow2 and nfdump from 1.7.8 subtract in 32 bits
//!   without sign, where one millisecond too late is 49.7 days too early. So where a flow ended
//!   in the second that is not over, the header has the second's end.
//! - sysUptime does not wrap within a message. nfdump 1.7.1 adds to a boot time in 64 bits, which
//!   takes flows that began before the wrap, and are sent after it, 49.7 days into the future. A
//!   message with a flow that began before sysUptime was last 0 has a sysUptime of its own, as if
//!   the device had booted a millisecond before its earliest flow. Only differences are ever read.
//!
//! What is further back than 32 bits reach, 49.7 days, is sent too, as a replayed capture of
//! last year: the header then has the time of its flows and not that of sending.

use crate::{encode::Stamp, record::FlowRecord};

/// From the start of a message's earliest flow to the time in its header, at most: sysUptime is
/// one more, and has 32 bits.
const REACH_MS: u64 = u32::MAX as u64 - 1;
/// The last second that headers have (2106).
const LAST_MS: u64 = u32::MAX as u64 * 1000;

/// The time from the start of the first to the end of the last flow of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Span {
    /// Both in milliseconds since 1970-01-01 UTC; nothing without flows.
    ends: Option<(u64, u64)>,
}

/// Why a flow is not in the span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Misfit {
    /// It is too far from the others of the message.
    Apart,
    /// It lasts longer than 32 bits of milliseconds, or ends after 2106.
    Ever,
}

impl Span {
    /// The span with `record` too.
    pub(super) fn with(self, record: &FlowRecord) -> Result<Self, Misfit> {
        let own = (record.start_ms.min(record.end_ms), record.end_ms);
        if !fits(own) {
            return Err(Misfit::Ever);
        }
        let ends = self
            .ends
            .map_or(own, |(first, last)| (first.min(own.0), last.max(own.1)));
        if !fits(ends) {
            return Err(Misfit::Apart);
        }
        Ok(Self { ends: Some(ends) })
    }

    /// The times of the header of a message that goes out `now`.
    pub(super) fn header(self, now: Stamp) -> Header {
        const WRAP: u64 = 1 << u32::BITS;
        let now_ms = now.unix_ms / 1000 * 1000;
        let (at_ms, least) = match self.ends {
            None => (now_ms, 0),
            Some((first, last)) => {
                let end = second_after(last);
                let at = now_ms.max(end);
                let within = at <= LAST_MS && at - first <= REACH_MS;
                let at = if within { at } else { end };
                (at, at - first + 1)
            }
        };
        let uptime = at_ms.checked_sub(now.boot_unix_ms).map(|ms| ms % WRAP);
        let uptime = uptime.filter(|uptime| *uptime >= least).unwrap_or(least);
        Header {
            at_ms,
            uptime_ms: uptime as u32,
        }
    }
}

/// Whether a header can have times from which both ends are counted.
fn fits((first, last): (u64, u64)) -> bool {
    last <= LAST_MS && second_after(last) - first <= REACH_MS
}

/// The whole second at `ms` or after it, not after [`LAST_MS`] where `ms` is not.
fn second_after(ms: u64) -> u64 {
    ms.div_ceil(1000) * 1000
}

/// The times of a message's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// A whole second, in milliseconds since 1970-01-01 UTC.
    at_ms: u64,
    /// sysUptime at that time.
    pub(super) uptime_ms: u32,
}

impl Header {
    /// Seconds since 1970-01-01 UTC.
    pub(super) fn unix_s(self) -> u32 {
        (self.at_ms / 1000) as u32
    }

    /// sysUptime at a time of the span: never 0, which nfdump 1.7.1 takes for no time at all.
    pub(super) fn uptime_at(self, unix_ms: u64) -> u32 {
        (u64::from(self.uptime_ms) + unix_ms - self.at_ms) as u32
    }
}
