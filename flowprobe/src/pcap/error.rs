//! Why captures are not metered, or not to their end.

use std::io;

use super::capture::CaptureError;
use crate::{export::ExportError, run::SummaryError};

/// Why captures were not metered, or not to their end.
#[derive(Debug, thiserror::Error)]
pub enum PcapError {
    /// It can be read once only.
    #[error("standard input is given twice: name - once")]
    Twice,
    /// No file.
    #[error("no capture is given: name a file, or - for standard input")]
    Nothing,
    /// A capture that cannot be opened, or is none.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The collectors.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// The summary.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// The operating system refused a thread, a signal handler or random numbers.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// Damaged, cut off, or of another kind; the log says which and where.
    #[error(
        "{failed} of {of} captures could not be read to the end; all packets before that are \
         exported"
    )]
    Incomplete {
        /// How many.
        failed: usize,
        /// Of how many.
        of: usize,
    },
    /// A fault in flowprobe.
    #[error("the {0} broke off: this is a fault of flowprobe, please report it")]
    Broken(&'static str),
}

impl PcapError {
    /// Whether nothing had been metered yet: bad input.
    #[must_use]
    pub fn before_start(&self) -> bool {
        !matches!(
            self,
            Self::Incomplete { .. } | Self::Broken(_) | Self::Summary(SummaryError::Write { .. })
        )
    }
}
