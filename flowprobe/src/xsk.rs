//! Packets past the kernel's stack: AF_XDP sockets, one for each receive queue.
//!
//! The program in the kernel decides which packets come here, and writes a [`Note`] before each
//! frame; see [`crate::load::handover`]. A [`Queue`] has memory of its own, of buffers of one size.
//! The kernel takes buffers from the fill ring, puts a frame into each, and hands it over in the
//! receive ring; [`Queue::receive`] looks at frames where they are and gives the buffers back.

mod error;
mod memory;
mod ring;
mod settings;
mod socket;
mod statistics;
mod umem;

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd},
    thread,
    time::{Duration, Instant},
};

use flowprobe_ebpf::{cpu::Tally, handover::Note};

pub use self::{
    error::OpenError,
    settings::{Settings, SettingsError, ZeroCopy},
    statistics::{Statistics, Unaccounted},
};
use self::{
    ring::{Consumer, Producer},
    socket::Socket,
    umem::Umem,
};
use crate::attach::Interface;

/// The kernel takes a socket off its queue some time after it was closed.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// How often it is asked meanwhile.
const BUSY_STEP: Duration = Duration::from_millis(10);

/// So many frames ahead of the one that is looked at memory is fetched.
const AHEAD: u32 = 8;

/// A frame that was handed over.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The first buffer of the frame, in which its headers are.
    pub octets: &'a [u8],
    /// Octets of the whole frame.
    pub len: u64,
    /// What the program says of it.
    pub note: Note,
}

/// What kind of pages the buffers lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// Huge ones, of those that were set apart.
    Huge,
    /// Any.
    Ordinary,
}

impl fmt::Display for Pages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Huge => "huge pages",
            Self::Ordinary => "ordinary pages",
        })
    }
}

/// The socket of one queue of one interface, with its memory. Dropping it gives all back.
#[derive(Debug)]
pub struct Queue {
    rx: Consumer<libc::xdp_desc>,
    fill: Producer<u64>,
    /// Before the memory, so that the kernel has let go of it.
    socket: Socket,
    umem: Umem,
    zero_copy: bool,
    several_buffers: bool,
    busy_poll: bool,
    received: Tally,
}

impl Queue {
    /// Opens and binds, by zero copy where the driver has it.
    ///
    /// A queue that is taken is asked for again for a second: one whose socket was closed a moment
    /// ago is free soon.
    ///
    /// # Errors
    /// See [`OpenError`]; nothing is held then.
    pub fn open(interface: &Interface, queue: u32, settings: &Settings) -> Result<Self, OpenError> {
        settings.check()?;
        let failed = |what| move |source| OpenError::of(interface, queue, what, source);
        let socket = Socket::new().map_err(failed("socket"))?;
        let umem = Umem::new(settings)?;
        socket
            .register(&umem)
            .map_err(|source| OpenError::of_memory(umem.octets(), source))?;
        let (rx, mut fill) = socket
            .rings(settings.ring, settings.frames().next_power_of_two())
            .map_err(failed("rings"))?;
        if settings.busy_poll {
            socket.prefer_busy_poll().map_err(failed("busy polling"))?;
        }
        fill.look();
        let mut buffers = 0;
        for address in umem.addresses() {
            fill.put(buffers, address);
            buffers += 1;
        }
        fill.publish(buffers);
        let several_buffers = bind(&socket, interface, queue, settings.zero_copy)
            .map_err(|source| OpenError::of_bind(interface, queue, settings.zero_copy, source))?;
        let zero_copy = socket.is_zero_copy().map_err(failed("options"))?;
        Ok(Self {
            rx,
            fill,
            socket,
            umem,
            zero_copy,
            several_buffers,
            busy_poll: settings.busy_poll,
            received: Tally::default(),
        })
    }

    /// Whether the device writes into the memory itself, and the kernel copies nothing.
    #[must_use]
    pub fn is_zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// Whether frames that are longer than a buffer come in several (6.6). Else they are dropped, and
    /// counted.
    #[must_use]
    pub fn takes_several_buffers(&self) -> bool {
        self.several_buffers
    }

    /// What kind of pages the buffers lie in.
    #[must_use]
    pub fn pages(&self) -> Pages {
        self.umem.pages()
    }

    /// Octets of the buffers.
    #[must_use]
    pub fn umem_octets(&self) -> u64 {
        self.umem.octets()
    }

    /// Frames received so far.
    #[must_use]
    pub fn received(&self) -> Tally {
        self.received
    }

    /// Calls `take` with the frames that have come, `most` at most, in their order; returns how many
    /// there were. Their buffers go back to the kernel.
    ///
    /// Where the queue is polled, the kernel is made to look for packets first.
    pub fn receive(&mut self, most: usize, mut take: impl FnMut(Received<'_>)) -> usize {
        if self.busy_poll {
            self.socket.poll_device();
        }
        let entries = self.rx.look();
        // A buffer can be given back as soon as there is a place for it. The kernel moves its
        // position in the fill ring a little later than that in the receive ring.
        let room = self.fill.look();
        let (mut used, mut frames) = (0, 0);
        for ahead in 0..entries.min(AHEAD) {
            self.umem.fetch(self.rx.get(ahead).addr);
        }
        while frames < most
            && let Some((buffers, len)) = self.measure(used, entries)
            && used + buffers <= room
        {
            if used + AHEAD < entries {
                self.umem.fetch(self.rx.get(used + AHEAD).addr);
            }
            let first = self.rx.get(used);
            // SAFETY: the entry is ours until it is released, and the buffer until it is in the fill
            // ring, which is published below.
            if let Some((note, octets)) = unsafe { self.umem.frame(first.addr, first.len) } {
                self.received.count(len);
                take(Received { octets, len, note });
            }
            for i in used..used + buffers {
                let buffer = self.umem.buffer(self.rx.get(i).addr);
                self.fill.put(i, buffer);
            }
            used += buffers;
            frames += 1;
        }
        if used > 0 {
            self.rx.release(used);
            self.fill.publish(used);
        }
        if self.fill.wants_wakeup() && !self.busy_poll {
            self.socket.poll_device();
        }
        frames
    }

    /// Buffers and octets of the frame that begins at an entry; `None` where its end is not there.
    fn measure(&self, first: u32, entries: u32) -> Option<(u32, u64)> {
        let mut octets = 0;
        for at in first..entries {
            let entry = self.rx.get(at);
            octets += u64::from(entry.len);
            if entry.options & libc::XDP_PKT_CONTD == 0 {
                return Some((at + 1 - first, octets));
            }
        }
        None
    }

    /// Sleeps until there are frames, `at_most` so long.
    ///
    /// # Errors
    /// The socket is over, as where its interface has gone away (ENETDOWN); or the kernel's own.
    pub fn wait(&self, at_most: Duration) -> io::Result<()> {
        self.socket.wait(at_most)
    }

    /// Whether the socket still is what it was.
    ///
    /// # Errors
    /// As [`Queue::wait`]; an error is told once, by the one or the other.
    pub fn check(&self) -> io::Result<()> {
        self.socket.check()
    }

    /// What the kernel has counted since the queue was opened.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn statistics(&self) -> io::Result<Statistics> {
        Ok(Statistics::of(&self.socket.statistics()?, self.zero_copy))
    }
}

impl AsFd for Queue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Binds; says whether frames may lie in several buffers.
fn bind(
    socket: &Socket,
    interface: &Interface,
    queue: u32,
    zero_copy: ZeroCopy,
) -> io::Result<bool> {
    let copy = match zero_copy {
        // The kernel tries zero copy first, and falls back.
        ZeroCopy::Auto => 0,
        ZeroCopy::Always => libc::XDP_ZEROCOPY,
        ZeroCopy::Never => libc::XDP_COPY,
    };
    let attempt = |more| {
        let flags = copy | libc::XDP_USE_NEED_WAKEUP | more;
        let until = Instant::now() + BUSY_FOR;
        loop {
            match socket.bind(interface.index, queue, flags) {
                Err(error)
                    if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until =>
                {
                    thread::sleep(BUSY_STEP);
                }
                result => return result,
            }
        }
    };
    match attempt(libc::XDP_USE_SG) {
        Ok(()) => Ok(true),
        // Not known before 6.6, or not by the driver, where zero copy is wanted at any price.
        Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
            attempt(0).map(|()| false)
        }
        Err(error) => Err(error),
    }
}
