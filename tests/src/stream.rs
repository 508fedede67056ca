//! A collector over TCP that can be slow, rude or gone.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    mem,
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    ptr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{collector::Received, netns::Netns};

/// How long something may take that does come.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at the sockets.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Waits until something listens at a TCP port.
///
/// # Errors
/// Where nothing does within a minute.
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

/// A running collector. Its sessions are reset with its guard.
#[derive(Debug)]
pub struct TcpCollector {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Octets of each session, in the order in which they began.
    sessions: Mutex<Vec<Vec<u8>>>,
    /// Octets that are read of each session.
    limit: AtomicUsize,
    /// Sessions are to be reset.
    cut: AtomicBool,
    /// No more sessions.
    stop: AtomicBool,
}

impl Shared {
    fn sessions(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
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

    /// Resets the sessions there are, once all that has come for them is read.
    pub fn cut(&self) {
        self.shared.cut.store(true, Ordering::Relaxed);
        while self.shared.cut.load(Ordering::Relaxed) {
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Sessions there were so far.
    #[must_use]
    pub fn sessions(&self) -> usize {
        self.shared.sessions().len()
    }

    /// Octets that came so far, over all sessions.
    #[must_use]
    pub fn octets(&self) -> usize {
        self.shared.sessions().iter().map(Vec::len).sum()
    }

    /// What came so far.
    #[must_use]
    pub fn received(&self) -> Received {
        Received::of_sessions(&self.shared.sessions())
    }

    /// Waits until so many octets came, or a session began and they are 0.
    ///
    /// # Errors
    /// Where they do not within a minute.
    pub fn wait_for_octets(&self, octets: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.octets() < octets || self.sessions() == 0 {
            ensure!(Instant::now() < deadline, "{} octets came", self.octets());
            thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Waits until so many flows came.
    ///
    /// # Errors
    /// Where they do not within a minute.
    pub fn wait_for_flows(&self, flows: usize) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let received = self.received();
            if received.flows.len() >= flows {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{} flows of {flows} came in {} sessions: {:?}",
                received.flows.len(),
                self.sessions(),
                received.errors
            );
            thread::sleep(LOOK_EVERY);
        }
    }

    /// Reads what has come, resets its sessions, closes its socket, and hands over what came, by
    /// session.
    #[must_use]
    pub fn stop(mut self) -> Vec<Vec<u8>> {
        self.end();
        mem::take(&mut self.shared.sessions())
    }

    fn end(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What it has read is there even if it panicked.
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
    is_open: bool,
}

fn serve(listener: &TcpListener, shared: &Shared) {
    let mut connections: Vec<Connection> = Vec::new();
    loop {
        let stop = shared.stop.load(Ordering::Relaxed);
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true).expect("a socket");
            let mut sessions = shared.sessions();
            sessions.push(Vec::new());
            connections.push(Connection {
                stream,
                session: sessions.len() - 1,
                is_open: true,
            });
        }
        let cut = shared.cut.load(Ordering::Relaxed);
        let limit = shared.limit.load(Ordering::Relaxed);
        for connection in &mut connections {
            // What the kernel has acknowledged is the collector's.
            let limit = if cut || stop { usize::MAX } else { limit };
            connection.read(shared, limit);
        }
        connections.retain(|connection| connection.is_open);
        if cut || stop {
            for connection in connections.drain(..) {
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
    fn read(&mut self, shared: &Shared, limit: usize) {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let read = shared.sessions()[self.session].len();
            let room = limit.saturating_sub(read).min(buffer.len());
            if room == 0 {
                return;
            }
            match self.stream.read(&mut buffer[..room]) {
                Ok(0) => self.is_open = false,
                Ok(octets) => {
                    shared.sessions()[self.session].extend(&buffer[..octets]);
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => self.is_open = false,
            }
            return;
        }
    }
}

fn set<T>(socket: &impl AsRawFd, option: i32, value: &T) -> Result<()> {
    // SAFETY: a plain system call with an option that is alive and of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(value).cast(),
            size_of_val(value) as u32,
        )
    };
    ensure!(
        result == 0,
        "setsockopt: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}
