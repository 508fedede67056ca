//! Encoded messages, read back by decoders that know nothing of the encoders.

mod uptime;
mod v5;
mod v9;

use proptest::prelude::*;

use crate::{
    encode::Stamp,
    ipfix::tests::{
        route::any_route,
        sample::{any_record, nth},
    },
    record::FlowRecord,
};

/// 49.7 days.
const WRAP: u64 = 1 << 32;
/// When most messages here are sent: 22 November 2023, not at a whole second.
const NOW: Stamp = Stamp {
    unix_ms: 1_700_600_000_789,
    boot_unix_ms: 1_700_500_000_123,
};

/// The times of a flow, as a collector computes them from the times of the header.
#[derive(Clone, Copy, Debug)]
struct Clock {
    unix_s: u32,
    uptime_ms: u32,
}

impl Clock {
    /// The time of day at an uptime, which collectors get to in two ways that have to agree.
    fn unix_ms(self, uptime_ms: u32) -> u64 {
        let sent = i64::from(self.unix_s) * 1000;
        // nfdump 1.7.1: to a boot time, in 64 bits.
        let from_boot = sent - i64::from(self.uptime_ms) + i64::from(uptime_ms);
        // pmacct, goflow2, nfdump 1.7.8: how long ago, in 32 bits without sign.
        let back = sent - i64::from(self.uptime_ms.wrapping_sub(uptime_ms));
        assert_eq!(from_boot, back, "{self:?} {uptime_ms}");
        back as u64
    }
}

/// Any record, most of them of times that can be told.
fn any_flow() -> impl Strategy<Value = FlowRecord> {
    let before = NOW.unix_ms - 3 * WRAP;
    let times = prop_oneof![
        8 => (before..NOW.unix_ms + 1000, 0..100_000_u64),
        1 => (before..NOW.unix_ms, 0..2 * WRAP),
        1 => any::<(u32, u32)>().prop_map(|(start, lasts)| (start.into(), lasts.into())),
    ];
    let whole = (any_record(), times, any_route());
    whole.prop_map(|(record, (start_ms, lasts_ms), route)| FlowRecord {
        route,
        start_ms,
        end_ms: start_ms + lasts_ms,
        ..record
    })
}

/// A record of these times.
fn lasting(start_ms: u64, end_ms: u64) -> FlowRecord {
    FlowRecord {
        start_ms,
        end_ms,
        ..nth(0)
    }
}
