//! Promiscuous mode for taps: a packet socket's membership, not the interface's flag.
//!
//! The kernel counts memberships, so that others who asked for the same are not disturbed, and
//! gives this one up when the socket goes: at exit, on panic, and after kill -9.

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

/// The interface takes every packet on the wire for as long as this lives.
#[derive(Debug)]
pub struct Promiscuous {
    _socket: OwnedFd,
}

/// Why an interface could not be made promiscuous.
#[derive(Debug, thiserror::Error)]
pub enum PromiscError {
    /// CAP_NET_RAW is missing.
    #[error("--promisc needs CAP_NET_RAW: run with sudo or add cap_net_raw+ep with setcap")]
    Denied,
    /// The kernel has no packet sockets.
    #[error("--promisc needs packet sockets, which this kernel lacks (CONFIG_PACKET)")]
    NoPacketSockets,
    /// Anything else.
    #[error("cannot set {interface} promiscuous: {source}")]
    Kernel {
        /// Name.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl Promiscuous {
    /// Joins.
    ///
    /// # Errors
    /// See [`PromiscError`].
    pub fn new(interface: &str, ifindex: u32) -> Result<Self, PromiscError> {
        let failed = || {
            let source = io::Error::last_os_error();
            match source.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => PromiscError::Denied,
                Some(libc::EAFNOSUPPORT) => PromiscError::NoPacketSockets,
                _ => PromiscError::Kernel {
                    interface: interface.to_owned(),
                    source,
                },
            }
        };
        // Protocol 0: the socket itself receives nothing and costs nothing per packet.
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(failed());
        }
        // SAFETY: the descriptor is new and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let membership = libc::packet_mreq {
            mr_ifindex: ifindex.cast_signed(),
            mr_type: libc::PACKET_MR_PROMISC as u16,
            mr_alen: 0,
            mr_address: [0; 8],
        };
        // SAFETY: the pointer and length are those of `membership`.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_ADD_MEMBERSHIP,
                std::ptr::from_ref(&membership).cast(),
                mem::size_of_val(&membership) as libc::socklen_t,
            )
        };
        if result < 0 {
            return Err(failed());
        }
        Ok(Self { _socket: socket })
    }
}
