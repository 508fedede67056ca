//! The numbers that must balance:
//!
//! ```text
//! seen      = unsampled + ignored(by reason) + accounted + lost(by reason)
//! accounted = exported + still held (kernel tables, rings, userspace table)
//! exported  = sent + queued + spooled + dropped(by reason), for each collector
//! ```
//!
//! `seen` is counted at the hook's entry, or as a packet is read from a capture, and never derived. Octets of the first line are those
//! of frames, from the first link-layer octet; from `accounted_ip_octets` on they are those of
//! IP packets, as flow records have them.

use std::{collections::BTreeMap, fmt};

use flowprobe_ebpf::{Lost, Skip, cpu::Tally};
use serde::Serialize;

use crate::{export::DestinationReport, record::Volume, table::shared::Totals};

/// Packets, and octets of their frames.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub octets: u64,
}

impl From<Tally> for Count {
    fn from(tally: Tally) -> Self {
        Self {
            packets: tally.packets,
            octets: tally.octets,
        }
    }
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            octets: self.octets + other.octets,
        }
    }
}

/// Who counts packets, and has the flows that they are in.
pub trait Books: Send + Sync {
    /// What became of all packets. While they come, some may be on their way from one to another.
    fn totals(&self) -> Totals;

    /// What is in flows that have not left.
    fn held(&self) -> Volume;
}

/// Every packet that the hook saw, in exactly one term.
#[derive(Clone, Debug, Serialize)]
pub struct Ledger {
    /// At the hook's entry.
    pub seen: Count,
    /// What of it went out, and did not come in.
    pub seen_out: Count,
    /// Skipped by sampling.
    pub unsampled: Count,
    /// In no flow, by reason.
    pub ignored: BTreeMap<&'static str, Count>,
    /// Belongs to a flow but could not be accounted, by reason.
    pub lost: BTreeMap<&'static str, Count>,
    /// In a flow.
    pub accounted: Count,
    /// IP-layer octets in flows.
    pub accounted_ip_octets: u64,
    /// In records that have left the table.
    pub exported: Volume,
    /// In flows that have not.
    pub held: Volume,
    /// What became of the records, for each destination.
    pub collectors: Vec<DestinationReport>,
    /// Whether all the sums above agree.
    pub balanced: bool,
}

impl Ledger {
    /// Draws up the ledger.
    #[must_use]
    pub fn new(
        totals: &Totals,
        exported: Volume,
        held: Volume,
        collectors: Vec<DestinationReport>,
    ) -> Self {
        let by_label = |labels: Vec<&'static str>, tallies: &[Tally]| {
            labels
                .into_iter()
                .zip(tallies.iter().map(|tally| Count::from(*tally)))
                .collect()
        };
        let mut ledger = Self {
            seen: totals.seen.into(),
            seen_out: totals.seen_out.into(),
            unsampled: totals.unsampled.into(),
            ignored: by_label(
                Skip::ALL.iter().map(|skip| skip.label()).collect(),
                &totals.ignored,
            ),
            lost: by_label(
                Lost::ALL.iter().map(|lost| lost.label()).collect(),
                &totals.lost,
            ),
            accounted: totals.accounted.into(),
            accounted_ip_octets: totals.accounted_ip_octets,
            exported,
            held,
            collectors,
            balanced: false,
        };
        ledger.balanced = ledger.balances();
        ledger
    }

    /// With packets ignored for a reason that the parser does not know of.
    #[must_use]
    pub fn also_ignored(mut self, reason: &'static str, tally: Tally) -> Self {
        self.ignored.insert(reason, tally.into());
        self.balanced = self.balances();
        self
    }

    fn balances(&self) -> bool {
        let terms = self
            .ignored
            .values()
            .chain(self.lost.values())
            .fold(self.unsampled.plus(self.accounted), |sum, count| {
                sum.plus(*count)
            });
        let packets = self.exported.packets + self.held.packets;
        let octets = self.exported.octets + self.held.octets;
        self.seen == terms
            && self.accounted.packets == packets
            && self.accounted_ip_octets == octets
            && self.all_delivered_or_known()
    }

    /// Whether each destination accounts for all records; those of a group that balances together.
    fn all_delivered_or_known(&self) -> bool {
        let mut groups: BTreeMap<&str, Volume> = BTreeMap::new();
        self.collectors
            .iter()
            .all(|collector| match &collector.group {
                None => collector.total() == self.exported,
                Some(group) => {
                    *groups.entry(group).or_default() += collector.total();
                    true
                }
            })
            && groups.values().all(|total| *total == self.exported)
    }
}

/// A line of the printed ledger.
fn line(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    packets: u64,
    octets: u64,
    note: &str,
) -> fmt::Result {
    writeln!(f, "{name:<36}{packets:>16}{octets:>20}  {note}")
}

impl fmt::Display for Ledger {
    /// As a table of 80 columns; counters that are 0 are left out, apart from the main ones.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<36}{:>16}{:>20}", "ledger", "packets", "octets")?;
        let frames = "frame";
        let ip = "IP";
        line(f, "seen", self.seen.packets, self.seen.octets, frames)?;
        if self.seen_out.packets > 0 {
            let out = self.seen_out;
            line(f, "(of which going out)", out.packets, out.octets, frames)?;
        }
        let sum = self.unsampled;
        line(f, "  unsampled", sum.packets, sum.octets, frames)?;
        for (term, reasons) in [("ignored", &self.ignored), ("lost", &self.lost)] {
            let sum = reasons
                .values()
                .fold(Count::default(), |sum, count| sum.plus(*count));
            line(f, &format!("  {term}"), sum.packets, sum.octets, frames)?;
            for (reason, count) in reasons.iter().filter(|(_, count)| count.packets > 0) {
                let name = format!("    {reason}");
                line(f, &name, count.packets, count.octets, frames)?;
            }
        }
        let accounted = self.accounted;
        line(
            f,
            "  accounted",
            accounted.packets,
            accounted.octets,
            frames,
        )?;
        let name = "accounted, in IP octets";
        line(f, name, accounted.packets, self.accounted_ip_octets, ip)?;
        for (term, volume) in [("exported", &self.exported), ("held", &self.held)] {
            let name = format!("  {term} ({} records)", volume.records);
            line(f, &name, volume.packets, volume.octets, ip)?;
        }
        for collector in &self.collectors {
            writeln!(f, "{}", collector.destination)?;
            let sent = &collector.sent;
            let name = format!("  sent ({} records)", sent.records);
            line(f, &name, sent.packets, sent.octets, ip)?;
            let spooled = &collector.spooled;
            if spooled.records > 0 {
                let name = format!("  in the spool ({} records)", spooled.records);
                line(f, &name, spooled.packets, spooled.octets, ip)?;
            }
            let recovered = &collector.recovered;
            if recovered.records > 0 {
                let name = format!("  sent of earlier runs ({} records)", recovered.records);
                line(f, &name, recovered.packets, recovered.octets, ip)?;
            }
            for (reason, dropped) in &collector.dropped {
                let name = format!("  dropped {reason} ({} records)", dropped.records);
                line(f, &name, dropped.packets, dropped.octets, ip)?;
            }
        }
        let verdict = if self.balanced { "yes" } else { "NO" };
        writeln!(f, "balanced: {verdict}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(group: Option<&str>, records: u64) -> DestinationReport {
        DestinationReport {
            destination: "udp://h".to_owned(),
            group: group.map(str::to_owned),
            sent: volume(records),
            dropped: Vec::new(),
            queued: Volume::default(),
            spooled: Volume::default(),
            recovered: Volume::default(),
            messages: 0,
            wire_octets: 0,
            encoded: 0,
            outages: 0,
        }
    }

    fn volume(records: u64) -> Volume {
        Volume {
            records,
            ..Volume::default()
        }
    }

    #[test]
    fn members_that_share_the_flows_balance_together_and_others_alone() {
        let balanced = |reports| {
            let held = Volume::default();
            Ledger::new(&Totals::default(), volume(10), held, reports).balanced
        };
        assert!(balanced(vec![report(None, 10), report(None, 10)]));
        assert!(!balanced(vec![report(None, 10), report(None, 9)]));
        let group = |records| report(Some("balance a b"), records);
        assert!(balanced(vec![group(3), report(None, 10), group(7)]));
        assert!(!balanced(vec![group(3), report(None, 10), group(6)]));
        assert!(!balanced(vec![group(10), report(Some("balance c d"), 9)]));
    }
}
