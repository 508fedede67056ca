//! All interfaces there are, and what becomes of them: a dump, and the kernel's multicast.

use std::{
    io, mem,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use super::{HEADER, LinkInfo, NetlinkError, messages, receive, request, send, socket};

/// linux/rtnetlink.h: RTMGRP_LINK.
const GROUP_LINKS: u32 = 1;
/// linux/netlink.h: the list was not of one moment.
const NLM_F_DUMP_INTR: u16 = 0x10;
/// A list is asked for so many times at most, if interfaces come and go meanwhile.
const TRIES: usize = 16;

/// Octets of events that may wait, as the kernel counts them: some 500 events. What is more is lost,
/// and said to be (ENOBUFS).
const WAITING: libc::c_int = 1 << 20;

/// What has become of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It is there, and is so now.
    There(Box<LinkInfo>),
    /// It has been removed, or moved to another network namespace; this is what it was last.
    Gone(Box<LinkInfo>),
    /// Events were lost: only a list of all says what is there.
    Lost,
}

/// What becomes of the interfaces of the network namespace that it was opened in.
#[derive(Debug)]
pub struct Monitor {
    socket: OwnedFd,
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Monitor {
    /// Opens it: from now on nothing is missed.
    ///
    /// # Errors
    /// No such socket can be had.
    pub fn open() -> io::Result<Self> {
        Self::with_room(WAITING)
    }

    /// The same with room for so many octets.
    ///
    /// # Errors
    /// No such socket can be had.
    pub fn with_room(octets: libc::c_int) -> io::Result<Self> {
        let socket = socket(libc::NETLINK_ROUTE, libc::SOCK_NONBLOCK)?;
        // Only with CAP_NET_ADMIN beyond the system's limit; else the limit has to do.
        for option in [libc::SO_RCVBUFFORCE, libc::SO_RCVBUF] {
            // SAFETY: the pointer and length are those of `octets`.
            let result = unsafe {
                libc::setsockopt(
                    socket.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const octets).cast(),
                    mem::size_of_val(&octets) as libc::socklen_t,
                )
            };
            if result == 0 {
                break;
            }
        }
        // SAFETY: all integers, for which zeros are values.
        let mut address: libc::sockaddr_nl = unsafe { mem::zeroed() };
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = GROUP_LINKS;
        // SAFETY: the pointer and length are those of `address`.
        let result = unsafe {
            libc::bind(
                socket.as_raw_fd(),
                (&raw const address).cast(),
                mem::size_of_val(&address) as libc::socklen_t,
            )
        };
        match result {
            0 => Ok(Self { socket }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The next events, in their order; `WouldBlock` where there are none yet.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn read(&mut self) -> io::Result<Vec<Event>> {
        match receive(&self.socket) {
            Ok(octets) => Ok(events(&octets)),
            Err(NetlinkError::Kernel(error)) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                Ok(vec![Event::Lost])
            }
            Err(NetlinkError::Kernel(error)) => Err(error),
            // Longer than any that the kernel sends so.
            Err(NetlinkError::Malformed(_)) => Ok(vec![Event::Lost]),
        }
    }
}

fn events(octets: &[u8]) -> Vec<Event> {
    messages(octets)
        .filter_map(|(kind, _, message)| match kind {
            libc::RTM_NEWLINK => Some(Event::There(Box::new(whole(message)?))),
            libc::RTM_DELLINK => Some(Event::Gone(Box::new(whole(message)?))),
            _ => None,
        })
        .collect()
}

/// An interface that is described as such. Bridges tell of their ports in the same way, under a family
/// of their own, and radios of what they hear, without a name.
fn whole(message: &[u8]) -> Option<LinkInfo> {
    let is_of_bridge = message.get(HEADER) != Some(&(libc::AF_UNSPEC as u8));
    let link = super::describe(message).ok().filter(|_| !is_of_bridge)?;
    (!link.name.is_empty()).then_some(link)
}

/// A list of interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links {
    /// The interfaces.
    pub links: Vec<LinkInfo>,
    /// Whether they are those of one moment; else some may be missing that were there all the time.
    pub is_whole: bool,
}

/// All interfaces of this network namespace.
///
/// # Errors
/// The kernel's own, or an answer that makes no sense.
pub fn links() -> Result<Links, NetlinkError> {
    let mut links = list()?;
    for _ in 1..TRIES {
        if links.is_whole {
            break;
        }
        links = list()?;
    }
    Ok(links)
}

fn list() -> Result<Links, NetlinkError> {
    let socket = socket(libc::NETLINK_ROUTE, 0)?;
    send(&socket, &request(0, libc::NLM_F_DUMP))?;
    let (mut links, mut is_whole) = (Vec::new(), true);
    loop {
        let octets = receive(&socket)?;
        let mut any = false;
        for (kind, flags, message) in messages(&octets) {
            any = true;
            is_whole &= flags & NLM_F_DUMP_INTR == 0;
            if i32::from(kind) == libc::NLMSG_DONE {
                return Ok(Links { links, is_whole });
            }
            links.push(super::parse(message)?);
        }
        if !any {
            return Err(NetlinkError::Malformed(0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VETH: &[u8] = include_bytes!("veth_in_bridge.bin");

    fn with(kind: u16, family: u8) -> Vec<u8> {
        let mut message = VETH.to_vec();
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message[HEADER] = family;
        message
    }

    #[test]
    fn several_messages_are_several_events() {
        let mut octets = with(libc::RTM_NEWLINK, 0);
        octets.extend(with(libc::RTM_DELLINK, 0));
        // RTM_NEWADDR.
        octets.extend(with(20, 0));
        let [Event::There(there), Event::Gone(gone)] = &events(&octets)[..] else {
            panic!("{:?}", events(&octets));
        };
        assert_eq!((there.name.as_str(), there), ("v1", gone));
    }

    #[test]
    fn what_bridges_say_of_their_ports_is_no_event() {
        let bridge = libc::AF_BRIDGE as u8;
        assert_eq!(events(&with(libc::RTM_DELLINK, bridge)), []);
    }

    #[test]
    fn a_message_without_a_name_is_no_event() {
        let mut wireless = with(libc::RTM_NEWLINK, 0);
        wireless.truncate(HEADER + 16);
        wireless[..4].copy_from_slice(&(HEADER as u32 + 16).to_ne_bytes());
        assert_eq!(events(&wireless), []);
    }

    #[test]
    fn events_that_are_cut_are_left_out() {
        let whole = with(libc::RTM_NEWLINK, 0);
        for length in 0..whole.len() {
            assert_eq!(events(&whole[..length]), [], "{length}");
        }
    }
}
