//! Times come out right in every collector, to the millisecond.

use proptest::prelude::*;

use super::{Clock, NOW, WRAP, any_flow, lasting};
use crate::{
    encode::Stamp,
    netflow::uptime::{Header, Misfit, Span},
    record::FlowRecord,
};

fn span(records: &[FlowRecord]) -> Span {
    let with = |span: Span, record| span.with(record).expect("fits");
    records.iter().fold(Span::default(), with)
}

/// Checks the times of `records` in a message sent `now`, and returns its header's.
fn check(records: &[FlowRecord], now: Stamp) -> Clock {
    let header = span(records).header(now);
    let clock = clock(header);
    for record in records {
        let start_ms = record.start_ms.min(record.end_ms);
        assert_eq!(clock.unix_ms(header.uptime_at(start_ms)), start_ms);
        assert_eq!(
            clock.unix_ms(header.uptime_at(record.end_ms)),
            record.end_ms
        );
        // nfdump 1.7.1 takes 0 for no time at all.
        assert!(header.uptime_at(start_ms) > 0);
    }
    clock
}

fn clock(header: Header) -> Clock {
    Clock {
        unix_s: header.unix_s(),
        uptime_ms: header.uptime_ms,
    }
}

#[test]
fn header_is_of_the_last_whole_second() {
    let clock = check(&[lasting(NOW.unix_ms - 5000, NOW.unix_ms - 1000)], NOW);
    assert_eq!(clock.unix_s, 1_700_600_000);
    // Since boot, less what is not a whole second of the time of day.
    assert_eq!(clock.uptime_ms, 100_000_666 - 789);
    let empty = self::clock(Span::default().header(NOW));
    assert_eq!(
        (empty.unix_s, empty.uptime_ms),
        (clock.unix_s, clock.uptime_ms)
    );
}

/// Or nfacctd 1.7.7 has it end 49.7 days earlier.
#[test]
fn header_is_never_before_the_end_of_a_flow() {
    let clock = check(&[lasting(NOW.unix_ms - 5000, NOW.unix_ms)], NOW);
    assert_eq!(
        (clock.unix_s, clock.uptime_ms),
        (1_700_600_001, 100_000_877)
    );
    // The clock was set back since.
    let ahead = NOW.unix_ms + 3_600_000;
    let clock = check(&[lasting(NOW.unix_ms, ahead)], NOW);
    assert_eq!(u64::from(clock.unix_s), ahead.div_ceil(1000));
    // A whole second is not after itself.
    let whole = NOW.unix_ms / 1000 * 1000;
    assert_eq!(check(&[lasting(whole, whole)], NOW).unix_s, 1_700_600_000);
}

#[test]
fn uptime_wraps_between_messages_and_not_within_one() {
    // Two seconds and a bit after the wrap.
    let now = Stamp {
        boot_unix_ms: NOW.unix_ms - WRAP - 2000,
        ..NOW
    };
    let after = check(&[lasting(NOW.unix_ms - 1900, NOW.unix_ms - 1800)], now);
    assert_eq!(after.uptime_ms, 2000 - 789);
    let before = check(&[lasting(NOW.unix_ms - 9000, NOW.unix_ms - 8000)], now);
    assert_eq!(before.uptime_ms, 9000 - 789 + 1);
    // And with that in the same message, both.
    let both = [
        lasting(NOW.unix_ms - 1900, NOW.unix_ms - 1800),
        lasting(NOW.unix_ms - 9000, NOW.unix_ms - 8000),
    ];
    assert_eq!(check(&both, now).uptime_ms, before.uptime_ms);
    // A second before the wrap.
    let now = Stamp {
        boot_unix_ms: NOW.unix_ms - WRAP + 1000,
        ..NOW
    };
    let last = check(&[lasting(NOW.unix_ms - 9000, NOW.unix_ms - 8000)], now);
    assert_eq!(u64::from(last.uptime_ms), WRAP - 1000 - 789);
}

/// To the millisecond: the earliest flow is at an uptime of 1 then, and the header's is 2³² − 1.
#[test]
fn reach_is_all_of_32_bits() {
    let whole = NOW.unix_ms / 1000 * 1000;
    let first = whole - (WRAP - 2);
    let now = Stamp {
        boot_unix_ms: whole - WRAP,
        ..NOW
    };
    assert_eq!(check(&[lasting(first, whole)], now).uptime_ms, u32::MAX);
    let longer = lasting(first - 1, whole);
    assert_eq!(Span::default().with(&longer), Err(Misfit::Ever));
    // What ended before is in reach at its own time, and not at that of sending.
    let clock = check(&[lasting(first - 1, whole - 1000)], now);
    assert_eq!(u64::from(clock.unix_s), whole / 1000 - 1);
}

#[test]
fn what_is_older_than_the_wrap_is_of_its_own_time() {
    let year = 365 * 86_400_000;
    let start_ms = NOW.unix_ms - year;
    let clock = check(&[lasting(start_ms, start_ms + 1)], NOW);
    assert_eq!(u64::from(clock.unix_s), start_ms.div_ceil(1000));
    // Still in reach, but from before boot.
    let start_ms = NOW.unix_ms - 40 * 86_400_000;
    let clock = check(&[lasting(start_ms, start_ms + 1)], NOW);
    assert_eq!(clock.unix_s, 1_700_600_000);
}

#[test]
fn a_message_has_flows_of_49_days_at_most() {
    let (start_ms, last_ms) = (NOW.unix_ms - WRAP + 2000, NOW.unix_ms);
    let long = lasting(start_ms, last_ms);
    check(&[long, lasting(last_ms, last_ms)], NOW);
    let early = lasting(start_ms - 3000, start_ms);
    assert_eq!(span(&[long]).with(&early), Err(Misfit::Apart));
    assert_eq!(span(&[early]).with(&long), Err(Misfit::Apart));
    check(&[early], NOW);
    let too_long = lasting(start_ms - 3000, last_ms);
    assert_eq!(Span::default().with(&too_long), Err(Misfit::Ever));
}

/// 7 February 2106 is the last day that 32 bits of seconds have.
#[test]
fn time_ends_in_2106() {
    let last_ms = u64::from(u32::MAX) * 1000;
    for sent_ms in [last_ms + 999, last_ms + 5000] {
        let late = Stamp {
            unix_ms: sent_ms,
            ..NOW
        };
        let clock = check(&[lasting(last_ms - 5, last_ms)], late);
        assert_eq!(clock.unix_s, u32::MAX);
    }
    let after = lasting(last_ms, last_ms + 1);
    assert_eq!(Span::default().with(&after), Err(Misfit::Ever));
}

proptest! {
    #[test]
    fn any_flows_have_their_times(
        records in prop::collection::vec(any_flow(), 1..20),
        unix_ms in prop_oneof![Just(NOW.unix_ms), NOW.unix_ms..NOW.unix_ms + 2 * WRAP, 0..2 * NOW.unix_ms],
        boot_unix_ms in prop_oneof![NOW.unix_ms - 2 * WRAP..NOW.unix_ms, 0..2 * NOW.unix_ms],
    ) {
        let mut fit = Vec::new();
        let mut span = Span::default();
        for record in records {
            if let Ok(with) = span.with(&record) {
                span = with;
                fit.push(record);
            }
        }
        check(&fit, Stamp { unix_ms, boot_unix_ms });
    }
}
