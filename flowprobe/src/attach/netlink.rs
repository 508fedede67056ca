//! What the kernel says of interfaces: RTM_GETLINK over a NETLINK_ROUTE socket, and in [`monitor`]
//! of all of them, whenever one changes.
//!
//! Not a netlink library: one question, one answer, read with bounds checked everywhere.

pub mod monitor;
pub mod route;

use std::{
    io, mem,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use super::interface::InterfaceStats;

/// A reply holds one interface without its virtual functions: about 2 KiB, or a part of a list, of which
/// the kernel makes none larger unless it is asked to. Larger ones are an error.
const REPLY_BYTES: usize = 32 * 1024;

pub(super) const HEADER: usize = 16; // struct nlmsghdr
const INFO: usize = 16; // struct ifinfomsg
pub(super) const ATTRIBUTE: usize = 4; // struct nlattr
const STATS64: usize = 24 * 8; // struct rtnl_link_stats64 up to rx_nohandler, kernel 4.6

// linux/if_link.h: enum { IFLA_XDP_… }.
const IFLA_XDP_ATTACHED: u16 = 2;
const IFLA_XDP_PROG_ID: u16 = 4;
const IFLA_XDP_DRV_PROG_ID: u16 = 5;
const IFLA_XDP_SKB_PROG_ID: u16 = 6;
const IFLA_XDP_HW_PROG_ID: u16 = 7;
// linux/if_link.h: XDP_ATTACHED_*.
const XDP_ATTACHED_DRV: u8 = 1;
const XDP_ATTACHED_SKB: u8 = 2;
const XDP_ATTACHED_HW: u8 = 3;

/// Why the kernel's word on an interface could not be had.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket failed, or the kernel answered with an error.
    #[error("asking the kernel about the interface failed: {0}")]
    Kernel(#[from] io::Error),
    /// The answer is not one, or is cut.
    #[error("the kernel's answer about the interface is malformed at octet {0}")]
    Malformed(usize),
}

/// One interface, as RTM_GETLINK describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkInfo {
    /// ifindex.
    pub index: u32,
    /// IFF_UP, IFF_LOWER_UP, …
    pub flags: u32,
    /// ARPHRD_*: what its frames begin with.
    pub hardware: u16,
    /// Name.
    pub name: String,
    /// MTU, octets.
    pub mtu: u32,
    /// ifindex of the bridge or bond that the interface belongs to.
    pub master: Option<u32>,
    /// ifindex of what it is made on: the interface below a VLAN, the other end of a veth.
    pub lower: Option<u32>,
    /// Whether that is in another network namespace.
    pub lower_is_elsewhere: bool,
    /// Kind: `veth`, `bridge`, …; none for hardware.
    pub kind: Option<String>,
    /// Kind of the master.
    pub master_kind: Option<String>,
    /// Number of receive queues the device was made with.
    pub rx_queues: Option<u32>,
    /// XDP programs.
    pub xdp: XdpPrograms,
    /// Counters since the interface was made.
    pub stats: InterfaceStats,
}

/// Ids of the XDP programs of an interface, one per mode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpPrograms {
    /// In the driver.
    pub native: Option<u32>,
    /// In the stack.
    pub generic: Option<u32>,
    /// In the hardware.
    pub offloaded: Option<u32>,
}

/// Asks for one interface.
///
/// # Errors
/// ENODEV where there is no such interface in this network namespace.
pub fn link(ifindex: u32) -> Result<LinkInfo, NetlinkError> {
    parse(&ask(libc::NETLINK_ROUTE, &request(ifindex, 0))?)
}

/// Sends one request over a socket of its own, and returns what comes back first.
pub(super) fn ask(protocol: libc::c_int, request: &[u8]) -> Result<Vec<u8>, NetlinkError> {
    let socket = socket(protocol, 0)?;
    send(&socket, request)?;
    receive(&socket)
}

/// Sends one request, and returns all messages up to the acknowledgement, or to the end of the list,
/// whichever was asked for.
pub(super) fn converse(socket: &OwnedFd, request: &[u8]) -> Result<Vec<Vec<u8>>, NetlinkError> {
    send(socket, request)?;
    let mut answers = Vec::new();
    loop {
        let octets = receive(socket)?;
        let mut any = false;
        for (kind, _, message) in messages(&octets) {
            any = true;
            match i32::from(kind) {
                libc::NLMSG_DONE => return Ok(answers),
                libc::NLMSG_ERROR => {
                    let errno = u32_at(message, HEADER)?.cast_signed();
                    return match errno {
                        0 => Ok(answers),
                        _ => Err(io::Error::from_raw_os_error(errno.saturating_neg()).into()),
                    };
                }
                _ => answers.push(message.to_vec()),
            }
        }
        if !any {
            return Err(NetlinkError::Malformed(0));
        }
    }
}

/// The messages in what was received, with their types and flags; ends at the first malformed one.
fn messages(octets: &[u8]) -> impl Iterator<Item = (u16, u16, &[u8])> {
    let mut rest = octets;
    std::iter::from_fn(move || {
        let length = u32_at(rest, 0).ok()? as usize;
        let message = rest.get(..length).filter(|_| length >= HEADER)?;
        let next = length.next_multiple_of(mem::align_of::<u32>());
        rest = rest.get(next..).unwrap_or_default();
        Some((u16_at(message, 4).ok()?, u16_at(message, 6).ok()?, message))
    })
}

/// A netlink socket with these flags beside SOCK_CLOEXEC.
pub(super) fn socket(protocol: libc::c_int, flags: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = unsafe {
        libc::socket(
            libc::AF_NETLINK,
            libc::SOCK_RAW | libc::SOCK_CLOEXEC | flags,
            protocol,
        )
    };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(super) fn send(socket: &OwnedFd, request: &[u8]) -> io::Result<()> {
    // SAFETY: the pointer and length are those of `request`. Without an address a netlink
    // message goes to the kernel.
    let sent = unsafe {
        libc::send(
            socket.as_raw_fd(),
            request.as_ptr().cast(),
            request.len(),
            0,
        )
    };
    match sent {
        ..0 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}

/// What comes next, which is one message or more.
pub(super) fn receive(socket: &OwnedFd) -> Result<Vec<u8>, NetlinkError> {
    let mut reply = vec![0_u8; REPLY_BYTES];
    // SAFETY: the pointer and length are those of `reply`.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            reply.as_mut_ptr().cast(),
            reply.len(),
            libc::MSG_TRUNC,
        )
    };
    let length = usize::try_from(length).map_err(|_| io::Error::last_os_error())?;
    // MSG_TRUNC makes recv say how long the message was, not how much of it fits.
    if length > reply.len() {
        return Err(NetlinkError::Malformed(REPLY_BYTES));
    }
    reply.truncate(length);
    Ok(reply)
}

fn request(ifindex: u32, flags: libc::c_int) -> [u8; HEADER + INFO] {
    let flags = (libc::NLM_F_REQUEST | flags) as u16;
    let mut request = [0; HEADER + INFO];
    request[0..4].copy_from_slice(&((HEADER + INFO) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&libc::RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&flags.to_ne_bytes());
    request[HEADER + 4..HEADER + 8].copy_from_slice(&ifindex.to_ne_bytes());
    request
}

/// Reads an answer to RTM_GETLINK: the first message of `reply`.
///
/// # Errors
/// The kernel's own error, or the octet from which the message makes no sense.
pub fn parse(reply: &[u8]) -> Result<LinkInfo, NetlinkError> {
    describe(message(reply, libc::RTM_NEWLINK)?)
}

/// Reads a message of RTM_NEWLINK or RTM_DELLINK.
fn describe(message: &[u8]) -> Result<LinkInfo, NetlinkError> {
    let mut link = LinkInfo {
        index: u32_at(message, HEADER + 4)?,
        flags: u32_at(message, HEADER + 8)?,
        hardware: u16_at(message, HEADER + 2)?,
        ..LinkInfo::default()
    };
    for attribute in attributes(message, HEADER + INFO, message.len()) {
        let Attribute { kind, start, end } = attribute?;
        match kind {
            libc::IFLA_IFNAME => link.name = text(&message[start..end]),
            libc::IFLA_MTU => link.mtu = u32_at(&message[..end], start)?,
            libc::IFLA_MASTER => link.master = Some(u32_at(&message[..end], start)?),
            libc::IFLA_LINK => link.lower = Some(u32_at(&message[..end], start)?),
            libc::IFLA_LINK_NETNSID => link.lower_is_elsewhere = true,
            libc::IFLA_NUM_RX_QUEUES => link.rx_queues = Some(u32_at(&message[..end], start)?),
            libc::IFLA_LINKINFO => read_kinds(&mut link, message, start, end)?,
            libc::IFLA_XDP => link.xdp = xdp(message, start, end)?,
            libc::IFLA_STATS64 => link.stats = stats(message, start, end)?,
            _ => {}
        }
    }
    Ok(link)
}

/// The first message of `reply`, which is of type `kind`.
pub(super) fn message(reply: &[u8], kind: u16) -> Result<&[u8], NetlinkError> {
    let length = u32_at(reply, 0)? as usize;
    let message = reply.get(..length).ok_or(NetlinkError::Malformed(0))?;
    let found = u16_at(message, 4)?;
    if i32::from(found) == libc::NLMSG_ERROR {
        let errno = u32_at(message, HEADER)?.cast_signed();
        return Err(io::Error::from_raw_os_error(errno.saturating_neg()).into());
    }
    if found != kind {
        return Err(NetlinkError::Malformed(4));
    }
    Ok(message)
}

fn read_kinds(
    link: &mut LinkInfo,
    message: &[u8],
    start: usize,
    end: usize,
) -> Result<(), NetlinkError> {
    for attribute in attributes(message, start, end) {
        let Attribute { kind, start, end } = attribute?;
        match kind {
            libc::IFLA_INFO_KIND => link.kind = Some(text(&message[start..end])),
            libc::IFLA_INFO_SLAVE_KIND => link.master_kind = Some(text(&message[start..end])),
            _ => {}
        }
    }
    Ok(())
}

fn xdp(message: &[u8], start: usize, end: usize) -> Result<XdpPrograms, NetlinkError> {
    let mut attached = 0;
    let mut only = None;
    let mut programs = XdpPrograms::default();
    for attribute in attributes(message, start, end) {
        let Attribute { kind, start, end } = attribute?;
        let value = &message[..end];
        match kind {
            IFLA_XDP_ATTACHED => {
                attached = *value.get(start).ok_or(NetlinkError::Malformed(start))?;
            }
            IFLA_XDP_PROG_ID => only = Some(u32_at(value, start)?),
            IFLA_XDP_DRV_PROG_ID => programs.native = Some(u32_at(value, start)?),
            IFLA_XDP_SKB_PROG_ID => programs.generic = Some(u32_at(value, start)?),
            IFLA_XDP_HW_PROG_ID => programs.offloaded = Some(u32_at(value, start)?),
            _ => {}
        }
    }
    // Kernels give the id per mode since 4.19, and before only this one.
    match attached {
        XDP_ATTACHED_DRV => programs.native = programs.native.or(only),
        XDP_ATTACHED_SKB => programs.generic = programs.generic.or(only),
        XDP_ATTACHED_HW => programs.offloaded = programs.offloaded.or(only),
        _ => {}
    }
    Ok(programs)
}

/// linux/if_link.h: struct rtnl_link_stats64, all u64.
fn stats(message: &[u8], start: usize, end: usize) -> Result<InterfaceStats, NetlinkError> {
    if end - start < STATS64 {
        return Err(NetlinkError::Malformed(start));
    }
    let field = |index: usize| {
        let at = start + 8 * index;
        let octets = message.get(at..at + 8).ok_or(NetlinkError::Malformed(at))?;
        let octets = octets.try_into().map_err(|_| NetlinkError::Malformed(at))?;
        Ok::<u64, NetlinkError>(u64::from_ne_bytes(octets))
    };
    Ok(InterfaceStats {
        rx_packets: field(0)?,
        rx_octets: field(2)?,
        rx_errors: field(4)?,
        rx_dropped: field(6)?,
        rx_fifo_errors: field(14)?,
        rx_missed: field(15)?,
        rx_nohandler: field(23)?,
    })
}

/// Type of an attribute, and where its value lies in the message.
pub(super) struct Attribute {
    pub(super) kind: u16,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Walks the attributes in `message[start..end]`; ends at the first malformed one with an error.
pub(super) fn attributes(
    message: &[u8],
    start: usize,
    end: usize,
) -> impl Iterator<Item = Result<Attribute, NetlinkError>> {
    let mut at = start;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let header = (|| Ok((u16_at(message, at)?, u16_at(message, at + 2)?)))();
        let (length, kind) = match header {
            Ok(header) => header,
            Err(error) => {
                at = end;
                return Some(Err(error));
            }
        };
        let found = Attribute {
            kind: kind & libc::NLA_TYPE_MASK as u16,
            start: at + ATTRIBUTE,
            end: at + usize::from(length),
        };
        if found.end < found.start || found.end > end {
            let error = NetlinkError::Malformed(at);
            at = end;
            return Some(Err(error));
        }
        // Attributes begin at multiples of four octets.
        at += usize::from(length).next_multiple_of(mem::align_of::<u32>());
        Some(Ok(found))
    })
}

pub(super) fn u16_at(octets: &[u8], at: usize) -> Result<u16, NetlinkError> {
    let field = octets.get(at..at + 2).ok_or(NetlinkError::Malformed(at))?;
    Ok(u16::from_ne_bytes([field[0], field[1]]))
}

pub(super) fn u32_at(octets: &[u8], at: usize) -> Result<u32, NetlinkError> {
    let field = octets.get(at..at + 4).ok_or(NetlinkError::Malformed(at))?;
    Ok(u32::from_ne_bytes([field[0], field[1], field[2], field[3]]))
}

pub(super) fn text(octets: &[u8]) -> String {
    let end = octets.iter().position(|&c| c == 0).unwrap_or(octets.len());
    String::from_utf8_lossy(&octets[..end]).into_owned()
}

#[cfg(test)]
mod tests;
