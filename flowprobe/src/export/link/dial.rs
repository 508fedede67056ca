//! From a host's name to a connection, in steps that never wait for long.
//!
//! The name is resolved anew for each session, so that a collector may move; each of its addresses
//! is tried in turn.

use std::{
    collections::VecDeque,
    io,
    net::{IpAddr, SocketAddr, ToSocketAddrs as _},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use super::{
    error::Broken,
    sys::{self, Ready},
};

/// How long a step may wait.
pub(super) const STEP: Duration = Duration::from_millis(50);
/// How long a connection may take to come about: SYNs at 0, 1, 3 and 7 s.
const PATIENCE: Duration = Duration::from_secs(10);

/// A collector's host and port, and which of its addresses are still to be tried.
#[derive(Debug)]
pub(super) struct Peer {
    host: String,
    port: u16,
    /// The resolver's answer, once it has one. It may take seconds, so it is asked in a thread.
    lookup: Option<Receiver<io::Result<Vec<SocketAddr>>>>,
    untried: VecDeque<SocketAddr>,
}

impl Peer {
    /// `host` is a name, or an address without brackets.
    pub(super) fn new(host: &str, port: u16) -> Self {
        Self {
            host: host.to_owned(),
            port,
            lookup: None,
            untried: VecDeque::new(),
        }
    }

    /// As the user wrote it.
    pub(super) fn host(&self) -> &str {
        &self.host
    }

    /// Whether there are addresses that [`Self::next`] has not returned since it last asked.
    pub(super) fn has_more(&self) -> bool {
        !self.untried.is_empty()
    }

    /// The next address to try, or none while the resolver has not answered.
    pub(super) fn next(&mut self) -> Result<Option<SocketAddr>, Broken> {
        if let Some(address) = self.untried.pop_front() {
            return Ok(Some(address));
        }
        if let Ok(address) = self.host.parse::<IpAddr>() {
            return Ok(Some(SocketAddr::new(address, self.port)));
        }
        let failed = |source| Broken::Resolve {
            host: self.host.clone(),
            source,
        };
        let lookup = match self.lookup.take() {
            Some(lookup) => lookup,
            None => look_up(self.host.clone(), self.port).map_err(failed)?,
        };
        match lookup.recv_timeout(STEP) {
            Ok(answer) => self.untried = answer.map_err(failed)?.into(),
            Err(RecvTimeoutError::Timeout) => {
                self.lookup = Some(lookup);
                return Ok(None);
            }
            Err(RecvTimeoutError::Disconnected) => {
                return Err(failed(io::Error::other("the resolver panicked")));
            }
        }
        let first = self.untried.pop_front();
        first
            .map(Some)
            .ok_or_else(|| failed(io::Error::other("it has no address")))
    }

    /// A session is up: the next one begins with the resolver again.
    pub(super) fn settle(&mut self) {
        self.untried.clear();
    }
}

fn look_up(host: String, port: u16) -> io::Result<Receiver<io::Result<Vec<SocketAddr>>>> {
    let (answer, lookup) = mpsc::channel();
    thread::Builder::new()
        .name("resolve".to_owned())
        .spawn(move || {
            let found = (host.as_str(), port).to_socket_addrs();
            // Nobody listens any more where the exporter has ended meanwhile.
            let _ = answer.send(found.map(Iterator::collect));
        })?;
    Ok(lookup)
}

/// Connects to a peer, over TCP or SCTP.
#[derive(Debug)]
pub(super) struct Dialer {
    pub(super) peer: Peer,
    /// Makes a socket that does not block.
    socket: fn(SocketAddr) -> io::Result<Socket>,
    attempt: Option<Attempt>,
}

/// A connection that is coming about.
#[derive(Debug)]
struct Attempt {
    socket: Socket,
    address: SocketAddr,
    until: Instant,
}

impl Dialer {
    pub(super) fn new(peer: Peer, socket: fn(SocketAddr) -> io::Result<Socket>) -> Self {
        Self {
            peer,
            socket,
            attempt: None,
        }
    }

    /// One step: a connected socket that does not block, or none yet.
    pub(super) fn dial(&mut self, now: Instant) -> Result<Option<(Socket, SocketAddr)>, Broken> {
        let attempt = match self.attempt.take() {
            Some(attempt) => attempt,
            None => {
                let Some(address) = self.peer.next()? else {
                    return Ok(None);
                };
                self.begin(address, now)?
            }
        };
        match attempt.outcome(now) {
            Ok(true) => return Ok(Some((attempt.socket, attempt.address))),
            Ok(false) => self.attempt = Some(attempt),
            Err(error) if self.peer.has_more() => {
                tracing::debug!(host = self.peer.host(), %error, "trying its next address");
            }
            Err(error) => return Err(error),
        }
        Ok(None)
    }

    fn begin(&self, address: SocketAddr, now: Instant) -> Result<Attempt, Broken> {
        let failed = |source| Broken::Connect { address, source };
        let socket = (self.socket)(address).map_err(failed)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(failed(error)),
            _ => Ok(Attempt {
                socket,
                address,
                until: now + PATIENCE,
            }),
        }
    }
}

impl Attempt {
    /// Whether the connection is there.
    fn outcome(&self, now: Instant) -> Result<bool, Broken> {
        let address = self.address;
        if !sys::wait(&self.socket, Ready::Write, STEP) {
            if now < self.until {
                return Ok(false);
            }
            return Err(Broken::Slow {
                what: "the connection",
                address,
                seconds: PATIENCE.as_secs(),
            });
        }
        match self.socket.take_error() {
            Ok(None) => Ok(true),
            Ok(Some(source)) | Err(source) => Err(Broken::Connect { address, source }),
        }
    }
}
