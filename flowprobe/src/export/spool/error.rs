//! What is wrong with a spool.

use std::{
    io,
    path::{Path, PathBuf},
};

use super::MIN_LIMIT;
use crate::ipfix_file::ReadError;

/// What is wrong with a spool.
#[derive(Debug, thiserror::Error)]
pub enum SpoolError {
    /// Another process writes it.
    #[error("spool {0}: another flowprobe has it; give each collector a directory of its own")]
    Taken(PathBuf),
    /// Too small to be of use.
    #[error("a spool of {0} octets is too small: at least {MIN_LIMIT}")]
    Limit(u64),
    /// The operating system refuses.
    #[error("spool {path}: {error}")]
    System {
        /// File or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file cannot be read.
    #[error("spool {0}")]
    Read(#[from] ReadError),
    /// What was to be appended is no IPFIX message, or has data before its template.
    #[error("this is no IPFIX message of the spool's session")]
    NoMessage,
}

/// The error of the operating system about `path`.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> SpoolError {
    let path = path.to_owned();
    move |error| SpoolError::System { path, error }
}
