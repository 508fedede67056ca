//! What the driver says of one interface: name, offloads and channels, by SIOCETHTOOL.
//!
//! Drivers implement what they like of it, so that an answer missing is never an error.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

// linux/ethtool.h.
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GCHANNELS: u32 = 0x3c;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;

// struct ethtool_drvinfo: 196 octets, `driver` is a string of 32 after `cmd`.
const DRIVER_INFO_WORDS: usize = 49;
const DRIVER_NAME: std::ops::Range<usize> = 4..36;

/// Receive offloads that decide what XDP sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offloads {
    /// Large receive offload: the NIC merges TCP segments.
    pub lro: bool,
    /// The NIC takes VLAN tags out of the packet.
    pub rx_vlan: bool,
}

/// Channels: pairs of queues and their interrupts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Channels {
    /// The most that the driver can give as receive-only.
    pub max_rx: u32,
    /// The most that the driver can give as receive and transmit together.
    pub max_combined: u32,
    /// Receive-only in use.
    pub rx: u32,
    /// Combined in use.
    pub combined: u32,
}

/// Asks the driver of one interface.
#[derive(Debug)]
pub struct Ethtool {
    socket: OwnedFd,
    name: [libc::c_char; libc::IFNAMSIZ],
}

impl Ethtool {
    /// # Errors
    /// No socket can be had.
    pub fn open(interface: &str) -> io::Result<Self> {
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        let mut name = [0; libc::IFNAMSIZ];
        // The last octet stays 0; the kernel's own names are no longer.
        for (to, from) in name[..libc::IFNAMSIZ - 1].iter_mut().zip(interface.bytes()) {
            *to = from as libc::c_char;
        }
        // SAFETY: the descriptor is new and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, name })
    }

    /// Name of the driver: `ixgbe`, `veth`, …
    #[must_use]
    pub fn driver(&self) -> Option<String> {
        let info = self.ask(ETHTOOL_GDRVINFO, [0; DRIVER_INFO_WORDS])?;
        let octets: Vec<u8> = info.iter().flat_map(|word| word.to_ne_bytes()).collect();
        let name = &octets[DRIVER_NAME];
        let end = name.iter().position(|&c| c == 0).unwrap_or(name.len());
        (end > 0).then(|| String::from_utf8_lossy(&name[..end]).into_owned())
    }

    /// Receive offloads.
    #[must_use]
    pub fn offloads(&self) -> Option<Offloads> {
        // struct ethtool_value { cmd, data }.
        let [_, flags] = self.ask(ETHTOOL_GFLAGS, [0; 2])?;
        Some(Offloads {
            lro: flags & ETH_FLAG_LRO != 0,
            rx_vlan: flags & ETH_FLAG_RXVLAN != 0,
        })
    }

    /// Channels.
    #[must_use]
    pub fn channels(&self) -> Option<Channels> {
        // struct ethtool_channels { cmd, max rx, tx, other, combined, then the same in use }.
        let [_, max_rx, _, _, max_combined, rx, _, _, combined] =
            self.ask(ETHTOOL_GCHANNELS, [0; 9])?;
        Some(Channels {
            max_rx,
            max_combined,
            rx,
            combined,
        })
    }

    /// Sends one command; `answer` is the command's structure as words, the first of them `cmd`.
    fn ask<const N: usize>(&self, command: u32, mut answer: [u32; N]) -> Option<[u32; N]> {
        answer[0] = command;
        let mut request = libc::ifreq {
            ifr_name: self.name,
            ifr_ifru: libc::__c_anonymous_ifr_ifru {
                ifru_data: answer.as_mut_ptr().cast(),
            },
        };
        // SAFETY: `ifru_data` points to `answer`, which lives past the call and has the size of
        // the structure that `command` fills: each caller states which.
        let result = unsafe {
            libc::ioctl(
                self.socket.as_raw_fd(),
                libc::SIOCETHTOOL as _,
                std::ptr::from_mut(&mut request),
            )
        };
        (result == 0).then_some(answer)
    }
}
