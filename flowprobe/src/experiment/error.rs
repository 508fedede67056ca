//! Why an experiment is not made, or not to its end.

use std::{io, path::PathBuf};

use super::live::LiveError;
use crate::pcap::PcapError;

/// Why an experiment was not made, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExperimentError {
    /// The captures.
    #[error(transparent)]
    Capture(PcapError),
    /// The interface.
    #[error(transparent)]
    Live(#[from] LiveError),
    /// `--out`, before anything was read.
    #[error(
        "cannot write to the directory {path}: {cause}; name one with --out that you may write to"
    )]
    Out {
        /// Directory.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The operating system refused random numbers.
    #[error("cannot draw a seed: {0}; give one with --seed")]
    Seed(io::Error),
    /// The operating system refused a thread or a signal handler.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// Too many samplers.
    #[error(
        "{methods} methods × {rates} rates × {runs} runs are {all} samplers: at most {most} fit, \
         give fewer --runs or --rates"
    )]
    TooMany {
        /// Methods.
        methods: usize,
        /// Rates.
        rates: usize,
        /// Runs.
        runs: u32,
        /// Samplers in all.
        all: usize,
        /// Most that there may be.
        most: usize,
    },
    /// No packet belongs to a flow.
    #[error("{packets} packets were read, and none belongs to a flow: there is nothing to compare")]
    Nothing {
        /// Packets that were read.
        packets: u64,
    },
    /// Flows took more than they may.
    #[error(
        "after {packets} packets {flows} flows and what {samplers} samplers have of them take \
         more than --max-memory {limit_mib} MiB: give more, or fewer --runs, --rates or packets"
    )]
    Memory {
        /// Packets that were read.
        packets: u64,
        /// Flows in them.
        flows: usize,
        /// Samplers.
        samplers: usize,
        /// The limit, in MiB.
        limit_mib: u64,
    },
    /// A file of the report.
    #[error("cannot write {path}: {cause}")]
    Write {
        /// File.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// The table on standard output.
    #[error("cannot print: {0}")]
    Print(io::Error),
    /// Damaged or cut off; the log says which and where.
    #[error(
        "{failed} of {of} captures could not be read to the end; the result is of all packets \
         before that"
    )]
    Incomplete {
        /// How many.
        failed: usize,
        /// Of how many.
        of: usize,
    },
    /// The interface went down or away.
    #[error("the interface could not be read to the end; the result is of all packets before that")]
    Ended,
    /// A second signal came.
    #[error("given up by a second signal: nothing is written")]
    GivenUp,
    /// A fault in flowprobe.
    #[error("the reader broke off: this is a fault of flowprobe, please report it")]
    Broken,
}

impl ExperimentError {
    /// Whether nothing had been read yet: bad input.
    #[must_use]
    pub fn before_start(&self) -> bool {
        match self {
            Self::Capture(error) => error.before_start(),
            Self::Live(_)
            | Self::Out { .. }
            | Self::Seed(_)
            | Self::Start(_)
            | Self::TooMany { .. } => true,
            _ => false,
        }
    }
}
