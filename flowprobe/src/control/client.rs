//! The side of `flowprobe ctl`.

use std::{
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{Reply, Request};

/// For the answer. A change waits until the flows of the old rate are out.
const PATIENCE: Duration = Duration::from_secs(60);

/// There was no answer, or a refusal.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody there.
    #[error(
        "no flowprobe answers at {0}: is it running? Start it with `flowprobe run -i NAME`, or say \
         where it is with --control PATH"
    )]
    NotRunning(PathBuf),
    /// Not in the group.
    #[error(
        "no permission for {0}, whose mode is 0660: be the user or in the group that flowprobe runs as"
    )]
    Denied(PathBuf),
    /// Too slow.
    #[error(
        "flowprobe at {0} gave no answer within {PATIENCE:?}; a change may still be made, see \
         `flowprobe ctl sample`"
    )]
    Silent(PathBuf),
    /// Nothing.
    #[error("flowprobe at {0} has ended before it answered")]
    Ended(PathBuf),
    /// No reply of ours.
    #[error("what answers at {0} is no flowprobe of this version: {1}")]
    Foreign(PathBuf, serde_json::Error),
    /// It did not do it.
    #[error("{0}")]
    Refused(String),
    /// Anything else.
    #[error("{0}: {1}")]
    Io(PathBuf, io::Error),
}

/// Sends a request, and waits for the answer. A refusal is an error.
///
/// # Errors
/// See [`ClientError`].
pub fn ask(path: &Path, request: &Request) -> Result<Reply, ClientError> {
    let failed = |error: io::Error| {
        let path = path.to_owned();
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(path)
            }
            io::ErrorKind::PermissionDenied => ClientError::Denied(path),
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ClientError::Silent(path),
            _ => ClientError::Io(path, error),
        }
    };
    let foreign = |error| ClientError::Foreign(path.to_owned(), error);
    let mut line = serde_json::to_vec(&request.line()).map_err(foreign)?;
    line.push(b'\n');
    let mut stream = UnixStream::connect(path).map_err(failed)?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.write_all(&line).map_err(failed)?;
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .map_err(failed)?;
    if answer.is_empty() {
        return Err(ClientError::Ended(path.to_owned()));
    }
    match serde_json::from_str(&answer).map_err(foreign)? {
        Reply::Error(error) => Err(ClientError::Refused(error)),
        reply => Ok(reply),
    }
}
