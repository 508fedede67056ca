//! A UDP collector that believes nothing.

use std::{
    collections::BTreeMap,
    io::ErrorKind,
    mem,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    flow::{Flow, Truth},
    ipfix::{Decoder, Record},
    netns::Netns,
    stream::split,
};

/// Octets that the socket may hold while the collector decodes.
const BUFFER: i32 = 512 << 20;

/// All that came.
#[derive(Debug, Default)]
pub struct Received {
    /// Messages.
    pub messages: u64,
    /// Flow records.
    pub flows: Vec<Flow>,
    /// Records described by options templates.
    pub options: Vec<Record>,
    /// By observation domain.
    pub domains: BTreeMap<u32, Sequence>,
    /// What was malformed or could not be understood.
    pub errors: Vec<String>,
    /// The messages as they came, where they are to be kept.
    pub datagrams: Vec<Datagram>,
    /// The records in their order, each with its observation domain, likewise.
    pub records: Vec<(u32, Record)>,
    /// Octets of messages that sessions broke off in.
    pub cut_octets: usize,
}

/// A message as it came.
#[derive(Clone, Debug)]
pub struct Datagram {
    /// Sender.
    pub source: SocketAddr,
    /// Payload.
    pub octets: Vec<u8>,
}

/// The sequence numbers of one observation domain (RFC 7011 §3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// The number that the next message should have.
    pub next: u32,
    /// Data records received.
    pub received: u64,
    /// Data records that the numbers say were sent and did not come.
    pub missing: u64,
}

impl Received {
    /// What came in sessions over streams, each with templates and sequence numbers of its own
    /// (RFC 7011 §10.4); the records are kept.
    #[must_use]
    pub fn of_sessions<S: AsRef<[u8]>>(sessions: &[S]) -> Self {
        let mut all = Self::default();
        for (number, octets) in sessions.iter().enumerate() {
            let one = Self::of_session(octets.as_ref());
            let errors = one.errors.iter();
            all.errors
                .extend(errors.map(|error| format!("session {number}: {error}")));
            all.messages += one.messages;
            all.cut_octets += one.cut_octets;
            all.flows.extend(one.flows);
            all.options.extend(one.options);
            all.records.extend(one.records);
            for (id, of_session) in one.domains {
                let domain = all.domains.entry(id).or_default();
                domain.received += of_session.received;
                domain.missing += of_session.missing;
            }
        }
        all
    }

    fn of_session(octets: &[u8]) -> Self {
        let mut received = Self::default();
        let mut decoder = Decoder::default();
        let (messages, rest) = split(octets);
        for message in messages {
            // A session begins with number 0 in each domain.
            if let Some(&[a, b, c, d]) = message.get(12..16) {
                let id = u32::from_be_bytes([a, b, c, d]);
                received.domains.entry(id).or_default();
            }
            take(&mut received, &mut decoder, message, true);
        }
        received.cut_octets = rest.len();
        received
    }

    /// Flows that came more than once, if no two packets sent were of one flow.
    #[must_use]
    pub fn twice(&self) -> usize {
        let mut keys: Vec<_> = self.flows.iter().map(|flow| flow.key).collect();
        keys.sort_unstable();
        keys.windows(2).filter(|pair| pair[0] == pair[1]).count()
    }

    /// Counts by flow, over all records.
    #[must_use]
    pub fn truth(&self) -> Truth {
        Truth::of(&self.flows)
    }

    /// Data records that did not come, over all domains.
    #[must_use]
    pub fn missing(&self) -> u64 {
        self.domains.values().map(|domain| domain.missing).sum()
    }

    /// Every message was well-formed.
    ///
    /// # Panics
    /// Where one was not.
    #[track_caller]
    pub fn assert_well_formed(&self) {
        assert!(self.errors.is_empty(), "{}", self.errors.join("\n"));
        assert!(self.messages > 0, "no message came");
    }
}

/// A running collector; it ends with its guard, and its socket with it.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    received: Arc<Mutex<Received>>,
    stop: Arc<AtomicBool>,
    keep: bool,
    thread: Option<JoinHandle<Sessions>>,
}

/// Templates of each transport session: over UDP, of each sender (RFC 7011 §2).
type Sessions = BTreeMap<SocketAddr, Decoder>;

impl Collector {
    /// Listens at `address` in a namespace; `keep` keeps the messages as they came.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub fn start(namespace: &Netns, address: &str, keep: bool) -> Result<Self> {
        let mut collector = Self {
            address: address.parse().context("address of the collector")?,
            received: Arc::default(),
            stop: Arc::default(),
            keep,
            thread: None,
        };
        collector.listen(namespace, Sessions::new())?;
        Ok(collector)
    }

    fn listen(&mut self, namespace: &Netns, sessions: Sessions) -> Result<()> {
        let socket = namespace.udp(self.address)?;
        enlarge(&socket)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        self.address = socket.local_addr()?;
        self.stop.store(false, Ordering::Relaxed);
        let (received, stop) = (Arc::clone(&self.received), Arc::clone(&self.stop));
        let keep = self.keep;
        let receive = move || receive(&socket, sessions, &received, &stop, keep);
        self.thread = Some(thread::spawn(receive));
        Ok(())
    }

    /// Closes the socket, so that senders meet a closed port, runs `away`, and listens again
    /// with the templates it knows.
    ///
    /// # Errors
    /// Those of `away`, or where the port is no longer free.
    pub fn absent(&mut self, namespace: &Netns, away: impl FnOnce() -> Result<()>) -> Result<()> {
        let sessions = self.end();
        away()?;
        self.listen(namespace, sessions)
    }

    /// Starts again, so that it knows no template any more. Where nothing is sent meanwhile,
    /// nobody can tell.
    ///
    /// # Errors
    /// Where the port is no longer free.
    pub fn forget(&mut self, namespace: &Netns) -> Result<()> {
        self.end();
        self.listen(namespace, Sessions::new())
    }

    /// As `--collector` takes it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("udp://{}", self.address)
    }

    /// What came so far.
    ///
    /// # Panics
    /// Never: a panic of the collector's thread leaves what it had received.
    pub fn received(&self) -> MutexGuard<'_, Received> {
        self.received.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until what came satisfies `enough`.
    ///
    /// # Errors
    /// Where it does not within two minutes.
    pub fn wait_until(&self, what: &str, enough: impl Fn(&Received) -> bool) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(120);
        while !enough(&self.received()) {
            if Instant::now() > deadline {
                let received = self.received();
                bail!(
                    "{what}: after two minutes {} messages, {} flows, errors: {:?}",
                    received.messages,
                    received.flows.len(),
                    received.errors
                );
            }
            thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Reads what the socket still holds, closes it, and hands over what came.
    #[must_use]
    pub fn stop(mut self) -> Received {
        self.end();
        mem::take(&mut self.received())
    }

    fn end(&mut self) -> Sessions {
        self.stop.store(true, Ordering::Relaxed);
        let Some(thread) = self.thread.take() else {
            return Sessions::new();
        };
        thread.join().unwrap_or_else(|_| {
            let error = "the collector's thread panicked".into();
            self.received().errors.push(error);
            Sessions::new()
        })
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.end();
    }
}

/// Receives until told to stop *and* nothing has come for one timeout of the socket.
fn receive(
    socket: &UdpSocket,
    mut sessions: Sessions,
    received: &Mutex<Received>,
    stop: &AtomicBool,
    keep: bool,
) -> Sessions {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let (length, source) = match socket.recv_from(&mut buffer) {
            Ok(datagram) => datagram,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if stop.load(Ordering::Relaxed) {
                    return sessions;
                }
                continue;
            }
            Err(error) => {
                lock(received).errors.push(error.to_string());
                return sessions;
            }
        };
        let decoder = sessions.entry(source).or_default();
        let mut received = lock(received);
        take(&mut received, decoder, &buffer[..length], keep);
        if keep {
            received.datagrams.push(Datagram {
                source,
                octets: buffer[..length].to_vec(),
            });
        }
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

fn take(received: &mut Received, decoder: &mut Decoder, octets: &[u8], keep: bool) {
    received.messages += 1;
    let number = received.messages;
    let message = match decoder.decode(octets) {
        Ok(message) => message,
        Err(error) => {
            received.errors.push(format!("message {number}: {error}"));
            return;
        }
    };
    let count = message.records.len();
    let known = received.domains.contains_key(&message.domain);
    let domain = received.domains.entry(message.domain).or_default();
    // RFC 7011 §3.1: modulo 2³². A collector that joins late cannot know what it missed.
    let missing = message.sequence.wrapping_sub(domain.next);
    if known && missing > 0 {
        domain.missing += u64::from(missing);
    }
    domain.next = message.sequence.wrapping_add(count as u32);
    domain.received += count as u64;
    for record in message.records {
        if keep {
            received.records.push((message.domain, record.clone()));
        }
        if record.is_options() {
            received.options.push(record);
            continue;
        }
        match Flow::from_ipfix(&record) {
            Ok(flow) => received.flows.push(flow),
            Err(error) => received.errors.push(format!("message {number}: {error:#}")),
        }
    }
}

fn enlarge(socket: &UdpSocket) -> Result<()> {
    // SAFETY: a plain system call with a 4-octet option that is alive.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            ptr::from_ref(&BUFFER).cast(),
            size_of_val(&BUFFER) as u32,
        )
    };
    ensure!(result == 0, "SO_RCVBUFFORCE needs CAP_NET_ADMIN");
    Ok(())
}
