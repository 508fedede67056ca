//! A TCP connection that takes whole messages, and knows which of them have arrived.
//!
//! What the kernel does not take at once waits in an outbox, so that messages never mix. TLS writes
//! its records there, and not the messages.
//!
//! A message has arrived when the peer's TCP has acknowledged its last octet. Its application may
//! not have read it yet: TCP tells nothing of that.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr},
    thread,
    time::{Duration, Instant},
};

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::{
    error::Broken,
    sys::{self, Ready},
};

/// Octets that the kernel holds and has not sent yet. More would not be faster, and would be lost
/// to no account if the process were killed.
const UNSENT: u32 = 128 << 10;
/// Octets in the outbox from which on nothing more is taken before the kernel has taken those: what
/// is worth one system call.
const OUTBOX: usize = 64 << 10;
/// How long a peer may leave unanswered what is sent again, or probes. One that is there answers
/// probes even if it reads nothing for hours; TCP_USER_TIMEOUT would end those sessions too.
const PATIENCE: Duration = Duration::from_secs(30);
/// While nothing is sent the kernel asks for the peer: after 15 s, and then every 5 s, three times.
const IDLE: Duration = Duration::from_secs(15);
const IDLE_INTERVAL: Duration = Duration::from_secs(5);
const IDLE_PROBES: u32 = 3;
/// How often the end of a session looks for acknowledgements.
const END_STEP: Duration = Duration::from_millis(5);
/// A collector sends nothing but what TLS does; more than this at a time is not listened to.
const LISTEN: usize = 16;

/// A connection.
#[derive(Debug)]
pub(in crate::export) struct Stream {
    socket: Socket,
    /// Octets taken, of which those from `written` on wait for the kernel.
    outbox: Vec<u8>,
    written: usize,
    /// Octets ever taken.
    taken: u64,
    /// Where messages end that have not arrived, in octets taken.
    ends: VecDeque<u64>,
    arrived: u64,
    /// Whether a FIN is behind what the kernel has.
    is_shut: bool,
    /// Since when the peer answers nothing, and when to look again.
    silent_since: Option<Instant>,
    look_at: Option<Instant>,
    pub(super) patience: Duration,
}

/// A socket for [`super::dial::Dialer`].
pub(super) fn socket(address: SocketAddr) -> io::Result<Socket> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // A message is as long as it is going to be: nothing is gained by waiting for more.
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(UNSENT)?;
    let keepalive = TcpKeepalive::new().with_time(IDLE);
    let keepalive = keepalive.with_interval(IDLE_INTERVAL);
    socket.set_tcp_keepalive(&keepalive.with_retries(IDLE_PROBES))?;
    Ok(socket)
}

impl Stream {
    pub(super) fn new(socket: Socket) -> Self {
        Self {
            socket,
            outbox: Vec::new(),
            written: 0,
            taken: 0,
            ends: VecDeque::new(),
            arrived: 0,
            is_shut: false,
            silent_since: None,
            look_at: None,
            patience: PATIENCE,
        }
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// What has been taken since the last call is a message.
    pub(super) fn end_message(&mut self) {
        self.ends.push_back(self.taken);
    }

    /// Whether another message may be put into the outbox.
    pub(super) fn has_room(&mut self) -> io::Result<bool> {
        Ok(self.outbox.len() < OUTBOX || self.push()?)
    }

    /// Hands on what the kernel takes; whether that is all.
    pub(super) fn push(&mut self) -> io::Result<bool> {
        while self.written < self.outbox.len() {
            match self.socket.write(&self.outbox[self.written..]) {
                Ok(octets) => self.written += octets,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.outbox.clear();
        self.written = 0;
        Ok(true)
    }

    /// Reads what a peer that has nothing to say should not have sent.
    pub(super) fn hear_nothing(&mut self) -> io::Result<()> {
        let mut ignored = [0; 1024];
        for _ in 0..LISTEN {
            match self.socket.read(&mut ignored) {
                Ok(0) => return Err(Broken::Closed.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Messages that have arrived.
    pub(super) fn arrived(&mut self) -> u64 {
        let acknowledged = self.acknowledged();
        while self.ends.front().is_some_and(|end| *end <= acknowledged) {
            self.ends.pop_front();
            self.arrived += 1;
        }
        self.arrived
    }

    /// Octets that the peer has acknowledged. With a FIN under way it may be one too few.
    fn acknowledged(&self) -> u64 {
        let given = self.taken - (self.outbox.len() - self.written) as u64;
        // It does not fail on a TCP socket; if it did, nothing more would be known to arrive.
        sys::unacknowledged(&self.socket).map_or(0, |octets| given.saturating_sub(octets))
    }

    /// Notices a peer that is gone without a word.
    pub(super) fn look(&mut self, now: Instant) -> Result<(), Broken> {
        if self.look_at.is_some_and(|at| now < at) {
            return Ok(());
        }
        self.look_at = Some(now + self.patience / 30);
        if sys::facts(&self.socket).is_ok_and(|facts| !facts.is_unanswered) {
            self.silent_since = None;
            return Ok(());
        }
        let since = *self.silent_since.get_or_insert(now);
        if now < since + self.patience {
            return Ok(());
        }
        let seconds = self.patience.as_secs();
        Err(Broken::Silent { seconds })
    }

    /// The connection is dropped next, and nothing of what the kernel still holds shall arrive: it
    /// will be sent in another session. Returns the messages that have arrived.
    pub(super) fn abandon(&mut self) -> u64 {
        // Fails where the connection is already gone, and so is what the kernel held.
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        self.arrived()
    }

    /// Hands all to the kernel, sends a FIN, and waits until that is acknowledged: `WouldBlock` if
    /// it is not by `until`.
    pub(super) fn finish(&mut self, until: Instant) -> io::Result<()> {
        self.push_until(until)?;
        if !self.is_shut {
            self.socket.shutdown(Shutdown::Write)?;
            self.is_shut = true;
        }
        while sys::unacknowledged(&self.socket)? > 0 {
            if sys::facts(&self.socket)?.is_over {
                return Err(Broken::Closed.into());
            }
            if Instant::now() >= until {
                return Err(ErrorKind::WouldBlock.into());
            }
            thread::sleep(END_STEP);
        }
        // What is left unread would turn the end into a reset, and that may overtake what the
        // peer has not read yet.
        let _ = self.hear_nothing();
        Ok(())
    }

    fn push_until(&mut self, until: Instant) -> io::Result<()> {
        while !self.push()? {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::WouldBlock.into());
            }
            sys::wait(&self.socket, Ready::Write, left);
        }
        Ok(())
    }
}

impl Write for Stream {
    /// Takes all of it, without the kernel; [`Stream::push`] is what moves it on.
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        self.outbox.extend_from_slice(octets);
        self.taken += octets.len() as u64;
        Ok(octets.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Stream {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        self.socket.read(octets)
    }
}
