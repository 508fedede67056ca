//! A collector over TCP (RFC 7011 §10.4) that believes nothing, and can be slow, rude or gone.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    mem,
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    collector::Received,
    ipfix::{Decoder, Message},
    netns::Netns,
    socket::set,
};

/// How long something may take that does come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Octets of a message's header up to and with its length (RFC 7011 §3.1).
const LENGTH_END: usize = 4;
/// Octets that the kernel holds of a connection at most (net.ipv4.tcp_rmem).
const HELD: usize = 8 << 20;
/// Between two looks at the sockets.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits until something listens at a TCP port.
///
/// # Errors
/// Where nothing does within two minutes.
pub fn wait_for_listener(namespace: &Netns, port: u16) -> Result<()> {
    // The port in hexadecimal, and the state LISTEN, as /proc/net/tcp has them.
    let listening = format!(":{port:04X} 00000000:0000 0A");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let sockets = namespace.run(|| fs::read_to_string("/proc/thread-self/net/tcp"))??;
        if sockets.contains(&listening) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "nothing listens at {port}");
        thread::sleep(LOOK_EVERY);
    }
}

/// What came in one connection, which is a transport session.
#[derive(Clone, Debug, Default)]
pub struct Session {
    /// The octets.
    pub octets: Vec<u8>,
    /// How it ended.
    pub end: End,
}

/// How a connection ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    #[default]
    Open,
    /// The exporter closed it, after a whole message.
    InOrder,
    /// The collector reset it.
    Cut,
    /// Anything else.
    Broken,
}

impl Session {
    /// The whole messages.
    #[must_use]
    pub fn parts(&self) -> Vec<&[u8]> {
        split(&self.octets).0
    }

    /// The whole messages, read strictly.
    ///
    /// # Errors
    /// The first that is malformed.
    pub fn messages(&self) -> Result<Vec<Message>> {
        let mut decoder = Decoder::of_a_session();
        let decode = |(number, part): (usize, &[u8])| {
            let message = decoder.decode(part);
            message.with_context(|| format!("message {number}"))
        };
        (1..).zip(self.parts()).map(decode).collect()
    }
}

impl AsRef<[u8]> for Session {
    fn as_ref(&self) -> &[u8] {
        &self.octets
    }
}

/// Splits a stream at the lengths of its messages (RFC 7011 §3.1: nothing is between them), and
/// what is behind the last whole one.
#[must_use]
pub fn split(stream: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let (mut parts, mut rest) = (Vec::new(), stream);
    while let Some(&[_, _, high, low]) = rest.first_chunk::<LENGTH_END>() {
        // A length of 0 would be found again and again: what is in front of it is no message.
        let length = usize::from(u16::from_be_bytes([high, low])).max(LENGTH_END);
        let Some((part, behind)) = rest.split_at_checked(length) else {
            break;
        };
        parts.push(part);
        rest = behind;
    }
    (parts, rest)
}

/// A running collector. Its sessions are reset with its guard.
#[derive(Debug)]
pub struct TcpCollector {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// In the order in which they began.
    sessions: Mutex<Vec<Session>>,
    /// Octets that are read of each session.
    limit: AtomicUsize,
    /// Sessions are to be reset.
    cut: AtomicBool,
    /// No more sessions.
    stop: AtomicBool,
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl TcpCollector {
    /// Listens at `address` in a namespace, and reads all that comes.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub fn start(namespace: &Netns, address: &str) -> Result<Self> {
        Self::reading(namespace, address, usize::MAX)
    }

    /// The same, but it reads only so many octets of a session, see [`Self::read_up_to`]; the
    /// kernel takes little more.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub fn reading(namespace: &Netns, address: &str, limit: usize) -> Result<Self> {
        let address: SocketAddr = address.parse().context("address of the collector")?;
        let listener = namespace.run(|| TcpListener::bind(address))?;
        let listener = listener.with_context(|| format!("binding {address}"))?;
        if limit != usize::MAX {
            // Connections inherit it.
            set(&listener, libc::SO_RCVBUF, &4096)?;
        }
        listener.set_nonblocking(true)?;
        let shared = Arc::<Shared>::default();
        shared.limit.store(limit, Ordering::Relaxed);
        let address = listener.local_addr()?;
        let of_thread = Arc::clone(&shared);
        let thread = Some(thread::spawn(move || serve(&listener, &of_thread)));
        Ok(Self {
            address,
            shared,
            thread,
        })
    }

    /// As `--collector` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// From now on it reads up to so many octets of each session.
    pub fn read_up_to(&self, octets: usize) {
        self.shared.limit.store(octets, Ordering::Relaxed);
    }

    /// Resets the sessions there are. What the kernel has got for them came, read or not.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
        while self.shared.cut.load(Ordering::Relaxed) {
            thread::sleep(LOOK_EVERY);
        }
    }

    /// The sessions there were so far.
    ///
    /// # Panics
    /// Never: a panic of the collector's thread leaves what it had received.
    pub fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        self.shared.sessions()
    }

    /// Octets that came so far, over all sessions.
    #[must_use]
    pub fn octets(&self) -> usize {
        let sessions = self.sessions();
        sessions.iter().map(|session| session.octets.len()).sum()
    }

    /// What came so far.
    #[must_use]
    pub fn received(&self) -> Received {
        Received::of_sessions(&self.shared.sessions())
    }

    /// Waits until what came satisfies `enough`.
    ///
    /// # Errors
    /// Where it does not within two minutes.
    pub fn wait_until(&self, what: &str, enough: impl Fn(&[Session]) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while !enough(&self.sessions()) {
            if Instant::now() > deadline {
                let received = self.received();
                bail!(
                    "{what}: not within two minutes, but {} flows in {} sessions: {:?}",
                    received.flows.len(),
                    self.sessions().len(),
                    received.errors
                );
            }
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits until so many flows came.
    ///
    /// # Errors
    /// Where they do not within two minutes.
    pub fn wait_for_flows(&self, flows: usize) -> Result<()> {
        self.wait_until(&format!("{flows} flows"), |sessions| {
            Received::of_sessions(sessions).flows.len() >= flows
        })
    }

    /// Reads what has come, resets its sessions, closes its socket, and hands over what came, by
    /// session.
    #[must_use]
    pub fn stop(mut self) -> Vec<Session> {
        self.end();
        mem::take(&mut self.shared.sessions())
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has read is there even if it panicked; the session that it was at is open.
            let _ = thread.join();
        }
    }
}

impl Drop for TcpCollector {
    fn drop(&mut self) {
        self.end();
    }
}

/// A connection, and the number of its session.
struct Connection {
    stream: TcpStream,
    session: usize,
}

fn serve(listener: &TcpListener, shared: &Shared) {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let stop = shared.stop.load(Ordering::Relaxed);
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).expect("a socket");
            let mut sessions = shared.sessions();
            sessions.push(Session::default());
            connections.push(Connection {
                stream,
                session: sessions.len() - 1,
            });
        }
        let cut = shared.cut.load(Ordering::Relaxed);
        let limit = shared.limit.load(Ordering::Relaxed);
        connections.retain_mut(|connection| {
            // What the kernel has acknowledged is the collector's.
            if cut {
                connection.peek(shared);
            } else {
                connection.read(shared, if stop { usize::MAX } else { limit });
            }
            shared.sessions()[connection.session].end == End::Open
        });
        if cut || stop {
            for connection in connections.drain(..) {
                shared.sessions()[connection.session].end = End::Cut;
                let now = libc::linger {
                    l_onoff: 1,
                    l_linger: 0,
                };
                // Closing it then sends a reset.
                set(&connection.stream, libc::SO_LINGER, &now).expect("a socket");
            }
            shared.cut.store(false, Ordering::Relaxed);
        }
        if stop {
            return;
        }
        thread::sleep(LOOK_EVERY);
    }
}

impl Connection {
    /// Takes what the kernel has, and leaves it no room for more.
    fn peek(&mut self, shared: &Shared) {
        let mut buffer = vec![0; HELD];
        if let Ok(octets) = self.stream.peek(&mut buffer) {
            let session = &mut shared.sessions()[self.session];
            session.octets.extend(&buffer[..octets]);
        }
    }

    fn read(&mut self, shared: &Shared, limit: usize) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = shared.sessions()[self.session].octets.len();
            let room = limit.saturating_sub(read).min(buffer.len());
            if room == 0 {
                return;
            }
            let read = self.stream.read(&mut buffer[..room]);
            let session = &mut shared.sessions()[self.session];
            match read {
                Ok(0) if split(&session.octets).1.is_empty() => session.end = End::InOrder,
                Ok(0) => session.end = End::Broken,
                Ok(octets) => {
                    session.octets.extend(&buffer[..octets]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => session.end = End::Broken,
            }
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn a_stream_is_split_at_the_lengths() {
        let stream = [0, 10, 0, 5, 1, 0, 10, 0, 6, 2, 3, 0, 10, 0];
        let (parts, rest) = split(&stream);
        assert_eq!(parts, [&[0, 10, 0, 5, 1][..], &[0, 10, 0, 6, 2, 3]]);
        assert_eq!(rest, [0, 10, 0]);
        assert_eq!(split(&stream[..9]), (vec![&stream[..5]], &stream[5..9]));
    }
}
