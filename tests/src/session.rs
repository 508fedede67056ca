//! A TCP collector (RFC 7011 §10.4) that believes nothing: each connection is a transport session.

use std::{
    io::{ErrorKind, Read as _},
    mem,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    ipfix::{Decoder, Message},
    netns::Netns,
};

/// How often it looks for connections, octets and its end.
const STEP: Duration = Duration::from_millis(5);
/// Octets of a message's header up to and with its length (RFC 7011 §3.1).
const LENGTH_END: usize = 4;

/// What came in one connection.
#[derive(Debug, Default)]
pub struct Session {
    /// Messages in their order.
    pub messages: Vec<Message>,
    /// The same as they came.
    pub octets: Vec<Vec<u8>>,
    /// What was malformed.
    pub errors: Vec<String>,
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
    /// The collector cut it.
    Cut,
    /// Anything else.
    Broken,
}

/// A running collector; it ends with its guard.
#[derive(Debug)]
pub struct StreamCollector {
    address: SocketAddr,
    sessions: Arc<Mutex<Vec<Session>>>,
    cut: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl StreamCollector {
    /// Listens at an address in a namespace.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub fn start(namespace: &Netns, address: &str) -> Result<Self> {
        let address: SocketAddr = address.parse().context("address of the collector")?;
        let listener = namespace.run(|| TcpListener::bind(address))??;
        listener.set_nonblocking(true)?;
        let mut collector = Self {
            address: listener.local_addr()?,
            sessions: Arc::default(),
            cut: Arc::default(),
            stop: Arc::default(),
            thread: None,
        };
        let [cut, stop] = [&collector.cut, &collector.stop].map(Arc::clone);
        let sessions = Arc::clone(&collector.sessions);
        let listen = move || listen(&listener, &sessions, &cut, &stop);
        collector.thread = Some(thread::spawn(listen));
        Ok(collector)
    }

    /// As `--collector` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("tcp://{}", self.address)
    }

    /// What came so far.
    ///
    /// # Panics
    /// Never: a panic of the collector's thread leaves what it had received.
    pub fn sessions(&self) -> MutexGuard<'_, Vec<Session>> {
        lock(&self.sessions)
    }

    /// Cuts the connection that is open; the next one is a session of its own.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    /// Waits until what came satisfies `enough`.
    ///
    /// # Errors
    /// Where it does not within two minutes.
    pub fn wait_until(&self, what: &str, enough: impl Fn(&[Session]) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !enough(&self.sessions()) {
            if Instant::now() > deadline {
                bail!("{what}: not within two minutes, but {:?}", self.sessions());
            }
            thread::sleep(STEP);
        }
        Ok(())
    }

    /// Reads the open connection to its end, and hands over what came.
    #[must_use]
    pub fn stop(mut self) -> Vec<Session> {
        self.end();
        mem::take(&mut self.sessions())
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().map(JoinHandle::join);
        if matches!(ended, Some(Err(_))) {
            let error = "the collector's thread panicked".to_owned();
            self.sessions().push(Session {
                errors: vec![error],
                ..Session::default()
            });
        }
    }
}

impl Drop for StreamCollector {
    fn drop(&mut self) {
        self.end();
    }
}

fn lock(sessions: &Mutex<Vec<Session>>) -> MutexGuard<'_, Vec<Session>> {
    sessions.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes one connection after the other until told to stop and nobody asks for one.
fn listen(
    listener: &TcpListener,
    sessions: &Mutex<Vec<Session>>,
    cut: &AtomicBool,
    stop: &AtomicBool,
) {
    loop {
        match listener.accept() {
            Ok((stream, _)) => {
                lock(sessions).push(Session::default());
                let end = read(stream, sessions, cut, stop);
                if let Some(session) = lock(sessions).last_mut() {
                    session.end = end;
                }
            }
            Err(_) if stop.load(Ordering::Relaxed) => return,
            Err(_) => thread::sleep(STEP),
        }
    }
}

/// Splits a stream at the lengths of its messages (RFC 7011 §3.1: nothing is between them).
fn read(
    mut stream: TcpStream,
    sessions: &Mutex<Vec<Session>>,
    cut: &AtomicBool,
    stop: &AtomicBool,
) -> End {
    let mut decoder = Decoder::of_a_session();
    let mut waiting: Vec<u8> = Vec::new();
    let mut buffer = vec![0; 1 << 16];
    let blocking = stream.set_nonblocking(false);
    if blocking.and(stream.set_read_timeout(Some(STEP))).is_err() {
        return End::Broken;
    }
    loop {
        if cut.swap(false, Ordering::Relaxed) {
            // What is not read yet makes the kernel answer with RST.
            drop(stream.shutdown(Shutdown::Both));
            return End::Cut;
        }
        match stream.read(&mut buffer) {
            Ok(0) if waiting.is_empty() => return End::InOrder,
            Ok(0) => return End::Broken,
            Ok(length) => waiting.extend(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return End::Open;
                }
            }
            Err(_) => return End::Broken,
        }
        while let Some(message) = split(&mut waiting) {
            take(&mut lock(sessions), &mut decoder, message);
        }
    }
}

/// The first message, if all of it is there.
fn split(waiting: &mut Vec<u8>) -> Option<Vec<u8>> {
    let [_, _, high, low] = *waiting.first_chunk::<LENGTH_END>()?;
    // A length of 0 would be found again and again: what is in front of it is no message.
    let length = usize::from(u16::from_be_bytes([high, low])).max(LENGTH_END);
    (waiting.len() >= length).then(|| waiting.drain(..length).collect())
}

fn take(sessions: &mut [Session], decoder: &mut Decoder, octets: Vec<u8>) {
    let Some(session) = sessions.last_mut() else {
        return;
    };
    match decoder.decode(&octets) {
        Ok(message) => session.messages.push(message),
        Err(error) => {
            let number = session.octets.len();
            session.errors.push(format!("message {number}: {error}"));
        }
    }
    session.octets.push(octets);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_split_at_the_lengths() {
        let mut waiting = vec![0, 10, 0, 5, 1, 0, 10, 0];
        assert_eq!(split(&mut waiting), Some(vec![0, 10, 0, 5, 1]));
        assert_eq!(split(&mut waiting), None);
        waiting.push(6);
        assert_eq!(split(&mut waiting), None);
        waiting.extend([2, 3]);
        assert_eq!(split(&mut waiting), Some(vec![0, 10, 0, 6, 2, 3]));
        assert!(waiting.is_empty());
    }
}
