//! What a run has to say at its end, for people and as JSON.

use std::collections::BTreeMap;

use serde::Serialize;

use super::bypass;
use crate::{
    attach::InterfaceStats,
    control::Class,
    export::DestinationReport,
    ledger::Ledger,
    sampling::Sampling,
    shadow::ShadowSummary,
    table::{
        Overflow, Shared,
        emit::{Exported, Lateness},
        held::held,
    },
};

/// One interface in the summary.
#[derive(Clone, Debug, Serialize)]
pub struct InterfaceSummary {
    pub(super) name: String,
    pub(super) ifindex: u32,
    pub(super) mode: String,
    /// Whether what goes out is counted too.
    pub(super) egress: bool,
    pub(super) frags: bool,
    /// Whether VLAN tags were read that stand beside packets.
    pub(super) vlan_metadata: bool,
    #[serde(flatten)]
    pub(super) counters: InterfaceStats,
}

/// What to say of an interface beside its mode.
pub(super) fn tags_from(vlan_metadata: bool) -> &'static str {
    if vlan_metadata {
        ", VLAN tags from metadata"
    } else {
        ""
    }
}

/// How packets were sampled.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct SamplingSummary {
    /// Of the rest, at the end.
    method: &'static str,
    n: u32,
    /// Each class in its last epoch, the rest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    classes: Vec<Class>,
    /// What was sampled beside the metering of everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    shadow: Option<ShadowSummary>,
}

impl SamplingSummary {
    pub(crate) fn new(rest: Sampling, classes: Vec<Class>, shadow: Option<ShadowSummary>) -> Self {
        Self {
            method: rest.method(),
            n: rest.n(),
            classes,
            shadow,
        }
    }
}

/// The tables.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(super) enum Tables {
    Kernel(TableSummary),
    Userspace(bypass::TableSummary),
}

/// The kernel's tables.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TableSummary {
    max_flows: u32,
    partitions: u32,
    memory_octets: u64,
    inserted: u64,
    evicted: u64,
    single: u64,
    /// Later fragments whose first one was not known; they are in flows with ports 0.
    fragment_orphans: u64,
    overflow_peak: usize,
}

/// Everything a run has to say at its end.
#[derive(Clone, Debug, Serialize)]
pub struct Summary {
    version: &'static str,
    interfaces: Vec<InterfaceSummary>,
    sampling: SamplingSummary,
    /// The ledger.
    pub ledger: Ledger,
    end_reasons: BTreeMap<u8, u64>,
    lateness_ms: Lateness,
    table: Tables,
}

impl Summary {
    /// Draws it up, once nothing moves any more.
    pub(super) fn new(
        sampling: SamplingSummary,
        shared: &Shared,
        overflow: &Overflow,
        exported: &Exported,
        interfaces: Vec<InterfaceSummary>,
        reports: Vec<DestinationReport>,
    ) -> Self {
        let totals = shared.totals();
        let geometry = shared.geometry();
        let mut held = held(shared, overflow);
        held += exported.waiting();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            interfaces,
            sampling,
            ledger: Ledger::new(&totals, exported.volume(), held, reports),
            end_reasons: exported.by_reason(),
            lateness_ms: exported.lateness(),
            table: Tables::Kernel(TableSummary {
                max_flows: geometry.max_flows(),
                partitions: geometry.partitions,
                memory_octets: geometry.memory_octets(),
                inserted: totals.inserted,
                evicted: totals.evicted,
                single: totals.single,
                fragment_orphans: totals.fragment_orphans,
                overflow_peak: overflow.peak(),
            }),
        }
    }

    /// The same of tables in userspace.
    pub(super) fn of_userspace(
        sampling: SamplingSummary,
        ledger: Ledger,
        table: bypass::TableSummary,
        exported: &Exported,
        interfaces: Vec<InterfaceSummary>,
    ) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            interfaces,
            sampling,
            ledger,
            end_reasons: exported.by_reason(),
            lateness_ms: exported.lateness(),
            table: Tables::Userspace(table),
        }
    }

    /// Prints the end of a run for people.
    pub(super) fn print(&self) {
        eprintln!("{}", self.ledger);
        if self.sampling.classes.len() > 1 || self.sampling.n > 1 {
            for class in &self.sampling.classes {
                eprintln!(
                    "{}, domain {}: {}, {} of {} packets since epoch {} began",
                    class.name,
                    class.domain,
                    class.rate,
                    class.selected,
                    class.observed,
                    class.epoch
                );
            }
        }
        if let Some(shadow) = &self.sampling.shadow {
            eprintln!("{shadow}");
        }
        for interface in &self.interfaces {
            let counters = &interface.counters;
            eprintln!(
                "{} ({}{}{}): {} packets received; lost before the hook: {} missed, {} no buffer; \
             {} errors, {} dropped by driver or stack",
                interface.name,
                interface.mode,
                tags_from(interface.vlan_metadata),
                if interface.egress { ", both ways" } else { "" },
                counters.rx_packets,
                counters.rx_missed,
                counters.rx_fifo_errors,
                counters.rx_errors,
                counters.rx_dropped,
            );
        }
        if let Tables::Userspace(table) = &self.table {
            eprintln!("{table}");
        }
        let late = &self.lateness_ms;
        eprintln!(
            "expiry was late by: p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            late.p50, late.p99, late.max
        );
    }
}
