//! How long a datagram may be on its path (RFC 7011 §10.3.3), as the kernel knows it: from the
//! device, the route, and routers that refused one (RFC 1191, RFC 8201).

use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    ptr,
};

/// UDP header.
const UDP: u16 = 8;
/// IP headers without options.
const IPV4: u16 = 20;
const IPV6: u16 = 40;

/// A datagram is never cut into fragments: one that is too long for its path is an error.
pub(super) fn never_fragment(socket: &UdpSocket, peer: SocketAddr) -> io::Result<()> {
    let (level, option, value) = match peer {
        SocketAddr::V4(_) => (
            libc::IPPROTO_IP,
            libc::IP_MTU_DISCOVER,
            libc::IP_PMTUDISC_DO,
        ),
        SocketAddr::V6(_) => (
            libc::IPPROTO_IPV6,
            libc::IPV6_MTU_DISCOVER,
            libc::IPV6_PMTUDISC_DO,
        ),
    };
    // SAFETY: the descriptor is open, and the option's value is a c_int of the given length.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&value).cast(),
            size_of_val(&value) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Octets of the longest datagram to the peer of a connected socket, without its headers.
pub(super) fn datagram_octets(socket: &UdpSocket, peer: SocketAddr) -> Option<u16> {
    let (level, option, header) = match peer {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_MTU, IPV4),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_MTU, IPV6),
    };
    let mut mtu: libc::c_int = 0;
    let mut length = size_of_val(&mtu) as libc::socklen_t;
    // SAFETY: the descriptor is open, and the kernel writes at most `length` octets, those of a
    // c_int.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_mut(&mut mtu).cast(),
            &raw mut length,
        )
    };
    // Not connected, for want of a route.
    let mtu = (got == 0).then_some(mtu)?;
    let octets = mtu.saturating_sub(libc::c_int::from(header + UDP));
    Some(u16::try_from(octets.max(0)).unwrap_or(u16::MAX))
}
