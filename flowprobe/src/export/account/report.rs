//! What users see of an account.

use serde::{Serialize, Serializer};

use crate::record::Volume;

/// What became of the records for one destination: exported = sent + dropped + queued + spooled.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DestinationReport {
    /// The collector's URL, or `stdout`.
    #[serde(rename = "collector")]
    pub destination: String,
    /// The group that balances in which it gets a part of the records; else it gets all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Acknowledged by the other side's transport. UDP has no such thing: handed to the socket, and
    /// no error reported since.
    pub sent: Volume,
    /// Not sent, or reported undelivered, by reason.
    #[serde(serialize_with = "by_reason")]
    pub dropped: Vec<(&'static str, Volume)>,
    /// Waiting, or on its way; nothing after [`crate::export::Exporter::finish`].
    pub queued: Volume,
    /// In the spool on disk: they wait for the collector, or for the next run.
    pub spooled: Volume,
    /// Sent besides, from what an earlier run had left in the spool.
    pub recovered: Volume,
    /// Messages handed to the socket, those with templates and options too; chunks of text for
    /// `stdout`.
    pub messages: u64,
    /// Their octets, without UDP and IP headers.
    pub wire_octets: u64,
    /// Data Records encoded, flows and options: the sum over the observation domains of the
    /// sequence number that a next message would have, before it wraps. A collector received this
    /// many, less the gaps that it saw.
    pub encoded: u64,
    /// Times that the collector could not be reached.
    pub outages: u64,
}

impl DestinationReport {
    /// Everything that was ever queued for it.
    #[must_use]
    pub fn total(&self) -> Volume {
        let mut total = self.sent;
        total += self.queued;
        total += self.spooled;
        for (_, dropped) in &self.dropped {
            total += *dropped;
        }
        total
    }
}

fn by_reason<S: Serializer>(
    dropped: &[(&'static str, Volume)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_map(dropped.iter().copied())
}
