//! What metering captures has to say at its end, for people and as JSON.

use std::collections::BTreeMap;

use flowprobe_ebpf::Frame as _;
use serde::Serialize;

use super::{
    capture::{CaptureError, Captured, Problem},
    link::LinkType,
    meter::{Counted, UNREADABLE_LINK},
};
use crate::{
    export::DestinationReport,
    ledger::{Count, Ledger},
    run::SamplingSummary,
    sampling::Sampling,
    table::emit::Exported,
};

/// One capture in the summary.
#[derive(Clone, Debug, Serialize)]
pub struct FileSummary {
    name: String,
    /// `pcap` or `pcapng`; none if it could not be opened.
    format: Option<&'static str>,
    #[serde(flatten)]
    seen: Count,
    /// Interfaces whose link type cannot be read: the interface of the flow key, and the type.
    unreadable: Vec<(u32, u16)>,
    /// Packets that no interface with a readable link type captured.
    unreadable_packets: u64,
    /// Packets without a time of their own.
    timeless_packets: u64,
    /// Why it was not read to its end.
    error: Option<String>,
}

impl FileSummary {
    pub(super) fn new(name: &str, format: &'static str) -> Self {
        Self {
            name: name.to_owned(),
            format: Some(format),
            seen: Count::default(),
            unreadable: Vec::new(),
            unreadable_packets: 0,
            timeless_packets: 0,
            error: None,
        }
    }

    /// A capture that could not be opened.
    pub(super) fn unread(error: &CaptureError) -> Self {
        let mut file = Self::new(&error.name, "");
        file.format = None;
        file.fail(error);
        file
    }

    #[inline(always)]
    pub(super) fn count(&mut self, captured: &Captured<'_>) {
        self.seen.packets += 1;
        self.seen.octets += captured.len() as u64;
        self.timeless_packets += u64::from(captured.at_ns.is_none());
        if let Err(LinkType(number)) = captured.link {
            self.unreadable_packets += 1;
            if !self.unreadable.contains(&(captured.ifindex, number)) {
                self.unreadable.push((captured.ifindex, number));
            }
        }
    }

    /// Whether it was not read to its end.
    pub(crate) fn failed(&self) -> bool {
        self.error.is_some()
    }

    /// What messages call it.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn fail(&mut self, error: &CaptureError) {
        tracing::error!("{error}");
        self.error = Some(error.problem.to_string());
    }

    /// The same, once [`FileSummary::warn`] has said what there is to say.
    pub(super) fn warned(mut self) -> Self {
        self.warn();
        self
    }

    /// Says what is not as one would expect.
    pub(super) fn warn(&mut self) {
        let name = &self.name;
        for &(interface, number) in &self.unreadable {
            tracing::warn!(
                "{name}: interface {} has link type {}, which cannot be read: its packets are \
                 ignored",
                interface - 1,
                LinkType(number)
            );
        }
        if self.timeless_packets > 0 {
            tracing::warn!(
                "{name}: {} packets have no time (Simple Packet Blocks): each counts as captured \
                 with the latest packet before it",
                self.timeless_packets
            );
        }
        let nothing_else = self.seen.packets == self.unreadable_packets;
        if let (Some(&(_, number)), true, None) =
            (self.unreadable.first(), nothing_else, &self.error)
        {
            self.error = Some(Problem::Link(LinkType(number)).to_string());
        }
    }
}

/// The table.
#[derive(Clone, Debug, Serialize)]
struct TableSummary {
    max_flows: u32,
    /// The most flows that there ever were.
    peak: usize,
    /// Octets that so many take.
    peak_octets: usize,
    /// Flows that left since it was full.
    displaced: u64,
    /// Later fragments whose first one was not known; they are in flows with ports 0.
    fragment_orphans: u64,
    /// Times that the captures' time stepped back so far that all flows were ended.
    steps_back: u64,
}

/// Everything to be said at the end.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    version: &'static str,
    /// The captures, in the order in which they were read.
    pub files: Vec<FileSummary>,
    sampling: SamplingSummary,
    /// The ledger.
    pub ledger: Ledger,
    end_reasons: BTreeMap<u8, u64>,
    table: TableSummary,
}

impl Summary {
    /// Draws it up, once nothing moves any more.
    pub(super) fn new(
        max_flows: u32,
        counted: &Counted,
        exported: &Exported,
        files: Vec<FileSummary>,
        reports: Vec<DestinationReport>,
    ) -> Self {
        let Counted {
            table,
            totals,
            unreadable_link,
        } = counted;
        let mut held = table.held();
        held += exported.waiting();
        let ledger = Ledger::new(totals, exported.volume(), held, reports);
        Self {
            version: env!("CARGO_PKG_VERSION"),
            files,
            sampling: SamplingSummary::new(Sampling::All, Vec::new(), None),
            ledger: ledger.also_ignored(UNREADABLE_LINK, *unreadable_link),
            end_reasons: exported.by_reason(),
            table: TableSummary {
                max_flows,
                peak: table.peak(),
                peak_octets: table.peak_octets(),
                displaced: table.displaced(),
                fragment_orphans: totals.fragment_orphans,
                steps_back: table.steps_back(),
            },
        }
    }

    /// Captures that were not read to their end.
    pub(super) fn failed(&self) -> usize {
        self.files.iter().filter(|file| file.failed()).count()
    }

    /// Prints the end for people.
    pub(super) fn print(&self) {
        eprintln!("{}", self.ledger);
        for file in &self.files {
            let FileSummary { name, seen, .. } = file;
            match &file.error {
                None => eprintln!("{name}: {} packets", seen.packets),
                Some(error) => eprintln!("{name}: {} packets; {error}", seen.packets),
            }
        }
        let TableSummary {
            peak, peak_octets, ..
        } = self.table;
        eprintln!(
            "table: up to {peak} flows, in {} MiB ({} octets a flow)",
            peak_octets.div_ceil(1 << 20),
            peak_octets / peak.max(1)
        );
        if self.table.displaced > 0 {
            eprintln!(
                "{} flows left early, since --max-flows {} were in the table",
                self.table.displaced, self.table.max_flows
            );
        }
        if self.table.steps_back > 0 {
            eprintln!(
                "time stepped back {} times by more than a minute: all flows were ended then",
                self.table.steps_back
            );
        }
    }
}
