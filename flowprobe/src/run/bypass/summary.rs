//! What there is to say of tables in userspace.

use std::fmt;

use serde::Serialize;

use crate::{bypass::Counted, table::shared::Totals, xsk};

/// Octets of an IPv4 flow and of one with a wide key, the most: 128 to 256, 11 in the index, and 16
/// for each of up to two looks. See [`crate::table::LocalTable::peak_octets`].
const FLOW_OCTETS: [u64; 2] = [128 + 11 + 16, 256 + 11 + 32];

/// The tables.
#[derive(Clone, Debug, Serialize)]
pub(in crate::run) struct TableSummary {
    /// In each of them.
    max_flows: u32,
    /// One for each queue.
    tables: usize,
    /// The most flows that there ever were, summed over tables.
    peak: usize,
    /// Octets that so many take.
    peak_octets: usize,
    /// Flows put into the tables, parts of one in several.
    inserted: u64,
    /// Flows that left since a table was full.
    displaced: u64,
    /// Later fragments whose first one was not known; they are in flows with ports 0.
    fragment_orphans: u64,
    /// Packets of each queue.
    queues: Vec<u64>,
}

impl TableSummary {
    pub(super) fn new(max_flows: u32, counted: &[Counted], totals: &Totals) -> Self {
        let sum = |count: fn(&Counted) -> usize| counted.iter().map(count).sum();
        Self {
            max_flows,
            tables: counted.len(),
            peak: sum(|one| one.peak),
            peak_octets: sum(|one| one.peak_octets),
            inserted: totals.inserted,
            displaced: counted.iter().map(|one| one.displaced).sum(),
            fragment_orphans: totals.fragment_orphans,
            queues: counted.iter().map(|one| one.received().packets).collect(),
        }
    }
}

impl fmt::Display for TableSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} tables: up to {} flows, in {} MiB ({} octets a flow)",
            self.tables,
            self.peak,
            self.peak_octets.div_ceil(1 << 20),
            self.peak_octets / self.peak.max(1)
        )?;
        if self.displaced > 0 {
            write!(
                f,
                "\n{} flows left early, since --max-flows {} were in a table",
                self.displaced, self.max_flows
            )?;
        }
        Ok(())
    }
}

/// Says what memory metering takes, and may take.
pub(super) fn say_memory(max_flows: u32, tables: usize, queue: &xsk::Settings) {
    let mib = |octets: u64| octets.div_ceil(1 << 20);
    let most = FLOW_OCTETS.map(|octets| mib(octets * u64::from(max_flows) * tables as u64));
    tracing::info!(
        "flow tables: up to {max_flows} flows in each of {tables}, {} octets each for IPv4 and up to \
         {} else, so up to {} to {} MiB, of which none is taken before it is needed; buffers: {} MiB",
        FLOW_OCTETS[0],
        FLOW_OCTETS[1],
        most[0],
        most[1],
        mib(queue.umem_octets() * tables as u64),
    );
}
