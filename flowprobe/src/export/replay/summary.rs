//! What replaying has to say at its end, for people and as JSON.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Serialize;

use super::inspect::Contents;
use crate::record::Volume;

/// What became of the records for one collector.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Outcome {
    pub(super) collector: String,
    /// Messages handed over, with templates or data.
    pub(super) messages: u64,
    /// Their octets, without the headers of the transport.
    pub(super) wire_octets: u64,
    /// Data records sent, of each domain; those that were reported undelivered are none.
    pub(super) domains: BTreeMap<u32, u64>,
    /// Flows among them.
    pub(super) flows: Volume,
    /// Data records that the network reported as undelivered.
    pub(super) undelivered: u64,
    /// Data records that are longer than a message.
    pub(super) too_large: u64,
    /// Data records that were not tried.
    pub(super) not_sent: u64,
    /// Why.
    pub(super) error: Option<String>,
}

impl Outcome {
    pub(super) fn data_records(&self) -> u64 {
        self.domains.values().sum()
    }

    fn missing(&self) -> u64 {
        self.undelivered + self.too_large + self.not_sent
    }

    fn print(&self) {
        let Self {
            collector,
            messages,
            undelivered,
            too_large,
            not_sent,
            ..
        } = self;
        let sent = self.data_records();
        let domains: Vec<_> = self.domains.iter().collect();
        let domains = match domains.as_slice() {
            [] => String::new(),
            [(domain, _)] => format!(" of domain {domain}"),
            several => {
                let each = several
                    .iter()
                    .map(|(domain, records)| format!("domain {domain}: {records}"));
                format!(" ({})", each.collect::<Vec<_>>().join(", "))
            }
        };
        let mut line = format!("{collector}: {messages} messages, {sent} data records{domains}");
        for (count, what) in [
            (not_sent, "not sent"),
            (undelivered, "reported undelivered"),
            (too_large, "longer than a message"),
        ] {
            if *count > 0 {
                line += &format!("; {count} {what}");
            }
        }
        if let Some(error) = &self.error {
            line += &format!(": {error}");
        }
        eprintln!("{line}");
    }
}

/// Everything to be said at the end.
#[derive(Clone, Debug, Serialize)]
pub struct ReplaySummary {
    version: &'static str,
    files: Vec<PathBuf>,
    /// Messages in the files.
    messages: u64,
    /// Data records in the files, of each domain.
    domains: BTreeMap<u32, u64>,
    /// Flows among them.
    flows: Volume,
    collectors: Vec<Outcome>,
}

impl ReplaySummary {
    pub(super) fn new(files: &[PathBuf], contents: &Contents, collectors: Vec<Outcome>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            files: files.iter().map(|path| Path::to_owned(path)).collect(),
            messages: contents.messages,
            domains: contents.domains.clone(),
            flows: contents.flows,
            collectors,
        }
    }

    /// Data records that did not get to a collector, over all of them.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.collectors.iter().map(Outcome::missing).sum()
    }

    /// Prints the end for people.
    pub(super) fn print(&self) {
        let records: u64 = self.domains.values().sum();
        let messages = self.messages;
        eprintln!("in the files: {messages} messages, {records} data records");
        for collector in &self.collectors {
            collector.print();
        }
    }
}
