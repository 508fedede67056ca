//! IPFIX in datagrams to a socket of this machine: `unix:///run/collector.sock`.
//!
//! The kernel puts a datagram into the receiver's queue or refuses it at once, so nothing is lost on
//! the way and nothing needs to be acknowledged. What the receiver has not read when it ends is lost.

use std::{
    io::{self, ErrorKind},
    os::unix::net::UnixDatagram,
    path::{Path, PathBuf},
};

use super::{Link, error::Broken};

/// Datagrams to a path. A message may have up to 65535 octets (RFC 7011 §3.1).
#[derive(Debug)]
pub(in crate::export) struct Unix {
    path: PathBuf,
    /// None while nobody is there. Who binds the path anew is another socket, so it is connected
    /// anew then.
    socket: Option<UnixDatagram>,
}

impl Unix {
    /// A link to the socket at `path`. Nothing is opened yet.
    pub(in crate::export) fn new(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
            socket: None,
        }
    }

    fn connected(&mut self) -> io::Result<&UnixDatagram> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_nonblocking(true)?;
                socket
                    .connect(&self.path)
                    .map_err(|error| self.away(error))?;
                socket
            }
        };
        Ok(self.socket.insert(socket))
    }

    /// What is wrong with the path, as a user can mend it.
    fn away(&self, source: io::Error) -> io::Error {
        let path = self.path.clone();
        match source.raw_os_error() {
            Some(libc::EPROTOTYPE) => Broken::NotDatagram { path }.into(),
            _ => Broken::Path { path, source }.into(),
        }
    }
}

impl Link for Unix {
    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let Err(error) = self.connected()?.send(message) else {
            return Ok(());
        };
        match error.raw_os_error() {
            // The receiver's queue is full (net.unix.max_dgram_qlen), or the sender's.
            Some(libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM) => Err(ErrorKind::WouldBlock.into()),
            Some(libc::EMSGSIZE) => Err(error),
            _ => {
                self.socket = None;
                Err(self.away(error))
            }
        }
    }
}
