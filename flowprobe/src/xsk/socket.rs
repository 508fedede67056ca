//! The system calls of an AF_XDP socket.

use std::{
    io, mem,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
    ptr,
    sync::Arc,
    time::Duration,
};

use super::{
    memory::Memory,
    ring::{Consumer, Offsets, Producer},
    umem::Umem,
};

/// Entries of the ring in which sent frames come back. None are sent, but the kernel wants one.
const COMPLETION_ENTRIES: u32 = 2;

/// Microseconds that a call may look for packets, and how many of them at most, where the queue is
/// polled and does not interrupt.
const BUSY_POLL_US: libc::c_int = 20;
const BUSY_POLL_PACKETS: libc::c_int = 64;

/// A socket.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Socket {
    pub(super) fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd })
    }

    /// Tells the kernel of the memory, which pins its pages.
    pub(super) fn register(&self, umem: &Umem) -> io::Result<()> {
        self.set(
            libc::SOL_XDP,
            libc::XDP_UMEM_REG,
            &libc::xdp_umem_reg {
                addr: umem.address(),
                len: umem.octets(),
                chunk_size: umem.frame_size(),
                headroom: 0,
                flags: 0,
                tx_metadata_len: 0,
            },
        )
    }

    /// Makes the rings, and maps them: received frames, and buffers for them.
    pub(super) fn rings(
        &self,
        received: u32,
        fill: u32,
    ) -> io::Result<(Consumer<libc::xdp_desc>, Producer<u64>)> {
        self.set(libc::SOL_XDP, libc::XDP_RX_RING, &received)?;
        self.set(libc::SOL_XDP, libc::XDP_UMEM_FILL_RING, &fill)?;
        self.set(
            libc::SOL_XDP,
            libc::XDP_UMEM_COMPLETION_RING,
            &COMPLETION_ENTRIES,
        )?;
        // SAFETY: integers only.
        let offsets: libc::xdp_mmap_offsets =
            unsafe { self.get(libc::SOL_XDP, libc::XDP_MMAP_OFFSETS)? };
        let rx = self.map(
            offsets.rx,
            received,
            size_of::<libc::xdp_desc>(),
            libc::XDP_PGOFF_RX_RING,
        )?;
        let fr = self.map(
            offsets.fr,
            fill,
            size_of::<u64>(),
            libc::XDP_UMEM_PGOFF_FILL_RING as i64,
        )?;
        Ok((
            Consumer::new(rx.0, rx.1, received),
            Producer::new(fr.0, fr.1, fill),
        ))
    }

    fn map(
        &self,
        offset: libc::xdp_ring_offset,
        entries: u32,
        entry_octets: usize,
        page_offset: i64,
    ) -> io::Result<(Arc<Memory>, Offsets)> {
        let offsets = Offsets {
            producer: offset.producer as usize,
            consumer: offset.consumer as usize,
            flags: offset.flags as usize,
            entries: offset.desc as usize,
        };
        let octets = offsets.entries + entries as usize * entry_octets;
        let memory = Memory::shared(self.fd.as_fd(), octets, page_offset)?;
        Ok((Arc::new(memory), offsets))
    }

    /// Binds to a queue of an interface; `flags` are XDP_COPY and the like.
    pub(super) fn bind(&self, ifindex: u32, queue: u32, flags: u16) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: libc::AF_XDP as u16,
            sxdp_flags: flags,
            sxdp_ifindex: ifindex,
            sxdp_queue_id: queue,
            sxdp_shared_umem_fd: 0,
        };
        // SAFETY: the pointer and length are those of `address`.
        let result = unsafe {
            libc::bind(
                self.fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        done(result)
    }

    /// Whether the device writes into the memory itself.
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        // SAFETY: integers only.
        let options: libc::xdp_options = unsafe { self.get(libc::SOL_XDP, libc::XDP_OPTIONS)? };
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    /// What the kernel has counted.
    pub(super) fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        // SAFETY: integers only.
        unsafe { self.get(libc::SOL_XDP, libc::XDP_STATISTICS) }
    }

    /// Makes the queue's interrupts wait for [`Socket::poll_device`] (5.11).
    pub(super) fn prefer_busy_poll(&self) -> io::Result<()> {
        self.set(libc::SOL_SOCKET, libc::SO_PREFER_BUSY_POLL, &1)?;
        self.set(libc::SOL_SOCKET, libc::SO_BUSY_POLL, &BUSY_POLL_US)?;
        self.set(
            libc::SOL_SOCKET,
            libc::SO_BUSY_POLL_BUDGET,
            &BUSY_POLL_PACKETS,
        )
    }

    /// Makes the kernel look at the queue, or at the buffers that it was given. That it does so
    /// when it likes is no error.
    pub(super) fn poll_device(&self) {
        // SAFETY: nothing is written: there is no buffer.
        let _nothing_to_receive = unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                ptr::null_mut(),
                ptr::null_mut(),
            )
        };
    }

    /// Waits until there are frames, or something is wrong.
    pub(super) fn wait(&self, at_most: Duration) -> io::Result<()> {
        let mut poll = libc::pollfd {
            fd: self.fd.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        // Whole milliseconds, and not 0 where time was asked for.
        let ms = at_most.as_nanos().div_ceil(1_000_000);
        let ms = libc::c_int::try_from(ms).unwrap_or(libc::c_int::MAX);
        // SAFETY: one structure, which outlives the call.
        let result = unsafe { libc::poll(&raw mut poll, 1, ms) };
        if result < 0 {
            let error = io::Error::last_os_error();
            return match error.kind() {
                io::ErrorKind::Interrupted => Ok(()),
                _ => Err(error),
            };
        }
        // To poll does not tell that the interface has gone away.
        if poll.revents & libc::POLLIN == 0 {
            self.check()?;
        }
        Ok(())
    }

    /// The error that the kernel keeps for the socket, which is over then.
    pub(super) fn check(&self) -> io::Result<()> {
        // SAFETY: an integer.
        let errno: libc::c_int = unsafe { self.get(libc::SOL_SOCKET, libc::SO_ERROR)? };
        match errno {
            0 => Ok(()),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }

    fn set<T>(&self, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
        // SAFETY: the pointer and length are those of `value`.
        let result = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                ptr::from_ref(value).cast(),
                size_of::<T>() as libc::socklen_t,
            )
        };
        done(result)
    }

    /// # Safety
    /// Any bits are a `T`, zeros too: an older kernel fills in less.
    unsafe fn get<T>(&self, level: libc::c_int, name: libc::c_int) -> io::Result<T> {
        // SAFETY: the caller's.
        let mut value: T = unsafe { mem::zeroed() };
        let mut len = size_of::<T>() as libc::socklen_t;
        // SAFETY: the pointer and length are those of `value`.
        let result = unsafe {
            libc::getsockopt(
                self.fd.as_raw_fd(),
                level,
                name,
                (&raw mut value).cast(),
                &raw mut len,
            )
        };
        done(result).map(|()| value)
    }
}

fn done(result: libc::c_int) -> io::Result<()> {
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
