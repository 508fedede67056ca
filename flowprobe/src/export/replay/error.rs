//! Why files are not sent, or not all of them.

use std::io;

use crate::{export::ExportError, ipfix_file::ReadError, run::SummaryError};

/// Why files were not sent, or not all of them.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A file that cannot be read, is damaged, or is none. Nothing was sent.
    #[error(transparent)]
    File(#[from] ReadError),
    /// The collectors.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// A collector of NetFlow.
    #[error("collector {0}: files are sent as they are, which is IPFIX: leave out the format")]
    Format(String),
    /// A collector that asks for other fields.
    #[error(
        "collector {0}: files are sent as they are, with the fields of their own templates: leave \
         out the template"
    )]
    Template(String),
    /// The summary.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// The operating system refused a thread or a signal handler.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// The log and the summary say which collectors, and why.
    #[error("not all was sent: {records} data records are missing, over all collectors")]
    Incomplete {
        /// How many.
        records: u64,
    },
    /// A fault in flowprobe.
    #[error("a thread broke off: this is a fault of flowprobe, please report it")]
    Broken,
}

impl ReplayError {
    /// Whether nothing had been sent yet: bad input.
    #[must_use]
    pub fn before_start(&self) -> bool {
        !matches!(
            self,
            Self::Incomplete { .. } | Self::Broken | Self::Summary(SummaryError::Write { .. })
        )
    }
}
