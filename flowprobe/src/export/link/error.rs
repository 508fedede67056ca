//! Why there is no session, in one line each.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    path::PathBuf,
};

/// Why a session did not begin, or ended.
#[derive(Debug, thiserror::Error)]
pub(in crate::export) enum Broken {
    /// Not a name that the resolver knows.
    #[error("the host name {host:?} does not resolve: {source}")]
    Resolve {
        /// As the user wrote it.
        host: String,
        /// What the resolver says.
        source: io::Error,
    },
    /// The host, or one on the way to it, says no.
    #[error("no connection to {address}: {source}")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the kernel says.
        source: io::Error,
    },
    /// Nobody says anything.
    #[error("{what} with {address} is not done after {seconds} s")]
    Slow {
        /// The step that takes so long.
        what: &'static str,
        /// With whom.
        address: SocketAddr,
        /// How long it may take.
        seconds: u64,
    },
    /// The peer is gone, or a cable is.
    #[error("the collector has not answered for {seconds} s")]
    Silent {
        /// How long it may be silent.
        seconds: u64,
    },
    /// It is there, and reads nothing.
    #[error("the collector has read nothing for {seconds} s, and the queue is nearly full")]
    Stalled {
        /// How long others have waited for it.
        seconds: u64,
    },
    /// Nobody has bound it, or it may not be written to.
    #[error("cannot reach the socket {}: {source}", path.display())]
    Path {
        /// Where it should be.
        path: PathBuf,
        /// What the kernel says.
        source: io::Error,
    },
    /// A stream, for example.
    #[error("{} is a socket, but not of datagrams (SOCK_DGRAM)", path.display())]
    NotDatagram {
        /// Where it is.
        path: PathBuf,
    },
    /// Its module is not there, or not loaded.
    #[error("this kernel has no SCTP: load its module (modprobe sctp), or use TCP")]
    NoSctp,
    /// The peer has ended the session.
    #[error("the collector closed the connection")]
    Closed,
    /// Nobody has asked for a session yet, or it has ended before.
    #[error("there is no session with the collector")]
    NoSession,
}

impl From<Broken> for io::Error {
    fn from(broken: Broken) -> Self {
        let kind = match &broken {
            Broken::Resolve { .. } => ErrorKind::NotFound,
            Broken::Connect { source, .. } | Broken::Path { source, .. } => source.kind(),
            Broken::NoSctp => ErrorKind::Unsupported,
            Broken::NotDatagram { .. } => ErrorKind::InvalidInput,
            Broken::Slow { .. } | Broken::Silent { .. } | Broken::Stalled { .. } => {
                ErrorKind::TimedOut
            }
            Broken::Closed => ErrorKind::ConnectionAborted,
            Broken::NoSession => ErrorKind::NotConnected,
        };
        Self::new(kind, broken)
    }
}
