//! Why a queue could not be opened.

use std::io;

use super::{SettingsError, ZeroCopy};
use crate::attach::Interface;

/// Why a queue could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Settings that cannot be.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The kernel is made without.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): --mode xdp does without it")]
    NoAfXdp,
    /// Not allowed.
    #[error(
        "the kernel forbids AF_XDP on {interface}: CAP_NET_RAW and CAP_NET_ADMIN are needed; run \
         with sudo"
    )]
    Denied {
        /// Name.
        interface: String,
    },
    /// More memory than the machine has to give.
    #[error(
        "buffers of {} MiB for one queue are more than the {} MiB of memory that are available: \
         choose a smaller ring", octets >> 20, available >> 20
    )]
    TooLarge {
        /// Of all buffers.
        octets: u64,
        /// By the kernel's estimate.
        available: u64,
    },
    /// No memory.
    #[error("no {} MiB of memory for the buffers of a queue: {source}; choose a smaller ring", octets >> 20)]
    Memory {
        /// Of all buffers.
        octets: u64,
        /// What the kernel said.
        source: io::Error,
    },
    /// The limit of locked memory.
    #[error(
        "the buffers of a queue are {} KiB of locked memory, more than allowed: raise \
         `ulimit -l`, add CAP_IPC_LOCK, or run with sudo", octets >> 10
    )]
    Locked {
        /// Of all buffers.
        octets: u64,
    },
    /// Taken.
    #[error(
        "another AF_XDP user has queue {queue} of {interface}: `ss --xdp -p` shows who; end it \
         first"
    )]
    Busy {
        /// Name.
        interface: String,
        /// Number.
        queue: u32,
    },
    /// There is none.
    #[error("{interface} has no queue {queue}: see `ethtool -l {interface}`")]
    NoQueue {
        /// Name.
        interface: String,
        /// Number.
        queue: u32,
    },
    /// The driver has none.
    #[error(
        "the driver of {interface} has no zero copy for queue {queue}{}: without it packets are \
         copied",
        source.raw_os_error().map_or_else(String::new, |errno| format!(" (errno {errno})"))
    )]
    NoZeroCopy {
        /// Name.
        interface: String,
        /// Number.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
    /// The interface went away.
    #[error("interface {interface} has gone away")]
    Gone {
        /// Name.
        interface: String,
    },
    /// Anything else.
    #[error("AF_XDP on queue {queue} of {interface} failed ({what}): {source}")]
    Kernel {
        /// Name.
        interface: String,
        /// Number.
        queue: u32,
        /// Which step.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

impl OpenError {
    pub(super) fn of(
        interface: &Interface,
        queue: u32,
        what: &'static str,
        source: io::Error,
    ) -> Self {
        let interface = interface.name.clone();
        match source.raw_os_error() {
            Some(libc::EAFNOSUPPORT) => Self::NoAfXdp,
            Some(libc::EPERM | libc::EACCES) => Self::Denied { interface },
            Some(libc::ENODEV | libc::ENXIO) => Self::Gone { interface },
            _ => Self::Kernel {
                interface,
                queue,
                what,
                source,
            },
        }
    }

    pub(super) fn of_memory(octets: u64, source: io::Error) -> Self {
        match source.raw_os_error() {
            // net/xdp/xdp_umem.c: beyond RLIMIT_MEMLOCK, without CAP_IPC_LOCK.
            Some(libc::ENOBUFS) => Self::Locked { octets },
            _ => Self::Memory { octets, source },
        }
    }

    pub(super) fn of_bind(
        interface: &Interface,
        queue: u32,
        zero_copy: ZeroCopy,
        source: io::Error,
    ) -> Self {
        match source.raw_os_error() {
            Some(libc::EBUSY) => Self::Busy {
                interface: interface.name.clone(),
                queue,
            },
            Some(libc::EINVAL) => Self::NoQueue {
                interface: interface.name.clone(),
                queue,
            },
            _ if zero_copy == ZeroCopy::Always
                && source.raw_os_error() == Some(libc::EOPNOTSUPP) =>
            {
                Self::NoZeroCopy {
                    interface: interface.name.clone(),
                    queue,
                    source,
                }
            }
            _ => Self::of(interface, queue, "bind", source),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_says_what_to_do() {
        let interface = Interface {
            name: "eth0".to_owned(),
            index: 2,
        };
        let errno = io::Error::from_raw_os_error;
        let bind = |errno_, zero_copy| {
            OpenError::of_bind(&interface, 3, zero_copy, errno(errno_)).to_string()
        };
        let lines = [
            (
                bind(libc::EBUSY, ZeroCopy::Auto),
                "another AF_XDP user has queue 3 of eth0",
            ),
            (bind(libc::EINVAL, ZeroCopy::Auto), "`ethtool -l eth0`"),
            (bind(libc::EOPNOTSUPP, ZeroCopy::Always), "no zero copy"),
            (bind(libc::ENODEV, ZeroCopy::Auto), "eth0 has gone away"),
            (bind(libc::EPERM, ZeroCopy::Auto), "run with sudo"),
            (bind(libc::EIO, ZeroCopy::Auto), "(bind)"),
            (
                OpenError::of_memory(32 << 20, errno(libc::ENOBUFS)).to_string(),
                "`ulimit -l`",
            ),
            (
                OpenError::of_memory(32 << 20, errno(libc::ENOMEM)).to_string(),
                "no 32 MiB",
            ),
            (
                OpenError::of(&interface, 3, "socket", errno(libc::EAFNOSUPPORT)).to_string(),
                "CONFIG_XDP_SOCKETS",
            ),
        ];
        for (line, part) in lines {
            assert!(line.contains(part), "{line}");
            assert!(!line.contains("  ") && !line.contains('\n'), "{line}");
        }
    }
}
