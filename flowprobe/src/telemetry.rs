//! What collectors are told of the metering itself.

use std::sync::{Arc, Mutex, PoisonError};

use crate::{
    clock::{Clock, monotonic_ns, unix_ms},
    export::{Metering, Telemetry},
    ledger::Books,
    sampling::{Rates, Selection},
    table::Shared,
};

/// Reads the ledger's counters for the options records.
pub struct Meter {
    books: Arc<dyn Books>,
    shared: Arc<Shared>,
    rates: Arc<Rates>,
    clock: Arc<Clock>,
    ignored: Mutex<Ignored>,
}

/// When packets were last found to be in no flow.
#[derive(Default)]
struct Ignored {
    packets: u64,
    span_ms: Option<(u64, u64)>,
}

impl Meter {
    /// A meter of what is in `books`, of packets that the program selects.
    #[must_use]
    pub fn new(
        books: Arc<dyn Books>,
        shared: Arc<Shared>,
        rates: Arc<Rates>,
        clock: Arc<Clock>,
    ) -> Self {
        Self {
            books,
            shared,
            rates,
            clock,
            ignored: Mutex::default(),
        }
    }

    /// Looks at the counters. The program keeps no time of what it ignores, so the times of the
    /// first and last ignored packet are as exact as this is called often.
    pub fn look(&self) -> Metering {
        let totals = self.books.totals();
        let (mut packets, mut octets) = (0, 0);
        for tally in totals.ignored.iter().chain(&totals.lost) {
            packets += tally.packets;
            octets += tally.octets;
        }
        let mut ignored = self.ignored.lock().unwrap_or_else(PoisonError::into_inner);
        if packets != ignored.packets {
            let now_ms = unix_ms(monotonic_ns(), self.clock.offset_ns());
            let first_ms = ignored.span_ms.map_or(now_ms, |(first, _)| first);
            ignored.packets = packets;
            ignored.span_ms = Some((first_ms, now_ms));
        }
        Metering {
            ignored_packets: packets,
            ignored_octets: octets,
            ignored_span_ms: ignored.span_ms,
        }
    }
}

impl Telemetry for Meter {
    fn metering(&self, class: usize) -> Metering {
        // What is ignored is in no flow, and so in no class: it is told with the rest.
        match class {
            0 => self.look(),
            _ => Metering::default(),
        }
    }

    fn selection(&self, class: usize, epoch: u32) -> Option<Selection> {
        let class = u8::try_from(class).ok()?;
        let (current, _) = self.rates.current(class)?;
        // The program knows of the epoch that goes on, and of the one before it.
        let known = || (epoch + 1 >= current).then(|| self.shared.selection(class, epoch));
        self.rates.ended(class, epoch).or_else(known)
    }
}
