//! What `--summary` says, and the sums that must hold in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Packets and frame octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Tally {
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub octets: u64,
}

impl Tally {
    fn plus(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            octets: self.octets + other.octets,
        }
    }

    fn sum(tallies: &BTreeMap<String, Self>) -> Self {
        tallies
            .values()
            .fold(Self::default(), |sum, tally| sum.plus(*tally))
    }
}

/// Records, and the packets and IP-layer octets in them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
pub struct Records {
    /// Flow records.
    pub records: u64,
    /// Packets.
    pub packets: u64,
    /// Octets.
    pub octets: u64,
}

impl Records {
    fn plus(self, other: Self) -> Self {
        Self {
            records: self.records + other.records,
            packets: self.packets + other.packets,
            octets: self.octets + other.octets,
        }
    }
}

/// The file as a whole.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Summary {
    /// Watched interfaces.
    pub interfaces: Vec<Interface>,
    /// How packets were selected.
    pub sampling: Sampling,
    /// Where every packet went.
    pub ledger: Ledger,
    /// Records by flowEndReason.
    pub end_reasons: BTreeMap<String, u64>,
    /// The flow table.
    pub table: Table,
}

/// An interface and what its own counters say, from attaching to detaching.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// `native`, `generic` or `tc`.
    pub mode: String,
    /// Whether what goes out is counted too.
    pub egress: bool,
    /// Whether VLAN tags were read that stand beside frames.
    pub vlan_metadata: bool,
    /// Whether the program takes frames of several buffers.
    pub frags: bool,
    /// Frames received.
    pub rx_packets: u64,
}

/// The sampling method.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Sampling {
    /// `all`, `count` or `random`.
    pub method: String,
    /// One packet in n.
    pub n: u32,
    /// Each class in its last epoch.
    #[serde(default)]
    pub classes: Vec<Class>,
    /// What was sampled beside the metering of everything.
    #[serde(default)]
    pub shadow: Option<serde_json::Value>,
}

/// A class of packets, and what was selected of it in its last epoch.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Class {
    /// Filter, or `rest`.
    pub name: String,
    /// Observation domain.
    pub domain: u32,
    /// As on the command line.
    pub rate: String,
    /// How often it had changed.
    pub epoch: u32,
    /// When that was.
    pub since_ms: u64,
    /// Packets of the epoch.
    pub observed: u64,
    /// Of these, metered.
    pub selected: u64,
    /// Share of them.
    pub measured_ratio: f64,
}

/// The flow table.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Table {
    /// Size.
    pub max_flows: u64,
    /// Flows moved to userspace because their bucket was full.
    #[serde(default)]
    pub evicted: u64,
    /// Packets that went to userspace by themselves.
    #[serde(default)]
    pub single: u64,
    /// Later fragments whose first one was not known.
    pub fragment_orphans: u64,
    /// Packets of each queue that was metered in userspace.
    #[serde(default)]
    pub queues: Vec<u64>,
}

/// Every packet in exactly one term.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ledger {
    /// Counted at the hook's entry.
    pub seen: Tally,
    /// What of it went out.
    pub seen_out: Tally,
    /// Skipped by sampling.
    pub unsampled: Tally,
    /// In no flow, by reason.
    pub ignored: BTreeMap<String, Tally>,
    /// In a flow but not accounted, by reason.
    pub lost: BTreeMap<String, Tally>,
    /// In a flow.
    pub accounted: Tally,
    /// IP-layer octets of those.
    pub accounted_ip_octets: u64,
    /// Taken out and handed to the exporters.
    pub exported: Records,
    /// Still in tables and rings.
    pub held: Records,
    /// What became of the exported records, for each collector.
    pub collectors: Vec<Collector>,
    /// flowprobe's own judgement.
    pub balanced: bool,
}

/// What became of the exported records at one collector.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Collector {
    /// Address.
    pub collector: String,
    /// The group that balances in which it has a part; else it has all.
    pub group: Option<String>,
    /// Records in messages that the socket took, or that were acknowledged.
    pub sent: Records,
    /// The others, by reason.
    pub dropped: BTreeMap<String, Records>,
    /// Waiting; nothing at the end.
    pub queued: Records,
    /// On disk, for the next run.
    pub spooled: Records,
    /// Sent besides, of what an earlier run had left on disk.
    pub recovered: Records,
    /// Times that it could not be reached.
    pub outages: u64,
    /// Messages.
    pub messages: u64,
}

impl Collector {
    /// All that it was to get.
    #[must_use]
    pub fn total(&self) -> Records {
        let kept = self.sent.plus(self.queued).plus(self.spooled);
        let dropped = self.dropped.values();
        dropped.fold(kept, |sum, dropped| sum.plus(*dropped))
    }

    /// Records that it did not get, for any reason.
    #[must_use]
    pub fn dropped_records(&self) -> u64 {
        self.dropped.values().map(|dropped| dropped.records).sum()
    }
}

impl Ledger {
    /// The equations that do not hold, computed here and not taken from `balanced`.
    #[must_use]
    pub fn errors(&self) -> Vec<String> {
        let mut errors = Vec::new();
        let mut equal = |name: &str, left: (u64, u64), right: (u64, u64)| {
            if left != right {
                errors.push(format!("{name}: {left:?} is not {right:?}"));
            }
        };
        let terms = self
            .unsampled
            .plus(Tally::sum(&self.ignored))
            .plus(Tally::sum(&self.lost))
            .plus(self.accounted);
        equal(
            "seen = unsampled + ignored + lost + accounted",
            (self.seen.packets, self.seen.octets),
            (terms.packets, terms.octets),
        );
        let out = self.exported.plus(self.held);
        equal(
            "accounted = exported + held",
            (self.accounted.packets, self.accounted_ip_octets),
            (out.packets, out.octets),
        );
        // Those of a group that balances have the records together.
        let mut sums = BTreeMap::<&str, Records>::new();
        for collector in &self.collectors {
            let name = collector.group.as_ref().unwrap_or(&collector.collector);
            let sum = sums.entry(name).or_default();
            *sum = sum.plus(collector.total());
        }
        for (name, sum) in sums {
            if sum != self.exported {
                errors.push(format!(
                    "{name}: exported = sent + dropped + queued + spooled: {:?} is not {sum:?}",
                    self.exported
                ));
            }
        }
        if !self.balanced {
            errors.push("flowprobe says that it is not balanced".into());
        }
        errors
    }
}

impl Summary {
    /// The ledger balances, and what was seen coming in is what the interfaces received.
    ///
    /// # Panics
    /// Where it does not.
    #[track_caller]
    pub fn assert_balanced(&self) {
        let errors = self.ledger.errors();
        assert!(errors.is_empty(), "{}\n{self:#?}", errors.join("\n"));
        let received: u64 = self.interfaces.iter().map(|port| port.rx_packets).sum();
        assert_eq!(
            self.ledger.seen.packets - self.ledger.seen_out.packets,
            received,
            "what came in is not what the interfaces received\n{self:#?}"
        );
    }

    /// Nothing was lost.
    ///
    /// # Panics
    /// Where something was.
    #[track_caller]
    pub fn assert_nothing_lost(&self) {
        let lost = Tally::sum(&self.ledger.lost);
        assert_eq!(lost, Tally::default(), "{self:#?}");
    }
}
