//! What the network says of earlier datagrams, each by what it quotes of it (ip(7), `IP_RECVERR`).

use std::{
    io, mem,
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    ptr,
};

use super::Undelivered;

/// Octets of a quoted datagram that are looked at.
const QUOTE: usize = 64;
/// Octets of control messages: `sock_extended_err` and the address of the router that answered,
/// in words of 8, so that they are aligned.
const CONTROL_WORDS: usize = 16;

/// The socket keeps what the network says.
pub(super) fn report(socket: &UdpSocket, peer: SocketAddr) -> io::Result<()> {
    let (level, option) = match peer {
        SocketAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_RECVERR),
        SocketAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_RECVERR),
    };
    let on: libc::c_int = 1;
    // SAFETY: the descriptor is open, and the option's value is a c_int of the given length.
    let set = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(&on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    match set {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The next datagram that is reported.
pub(super) fn next(socket: &UdpSocket) -> Option<Undelivered> {
    loop {
        let (report, origin) = receive_error(socket)?;
        // What fails locally has been reported by `send`.
        if matches!(origin, libc::SO_EE_ORIGIN_ICMP | libc::SO_EE_ORIGIN_ICMP6) {
            return Some(report);
        }
    }
}

/// The next entry of the socket's error queue, and its origin; none if it is empty.
fn receive_error(socket: &UdpSocket) -> Option<(Undelivered, u8)> {
    let mut quote = [0; QUOTE];
    let mut control = [0u64; CONTROL_WORDS];
    let mut part = libc::iovec {
        iov_base: quote.as_mut_ptr().cast(),
        iov_len: quote.len(),
    };
    // SAFETY: all zeros is a msghdr without name, parts and control.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control) as _;
    // SAFETY: the descriptor is open; the message points to buffers of the lengths given, which
    // outlive the call.
    let octets = unsafe {
        libc::recvmsg(
            socket.as_raw_fd(),
            &raw mut message,
            libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
        )
    };
    let octets = usize::try_from(octets).ok()?;
    let cause = extended_error(&message)?;
    let report = Undelivered {
        error: io::Error::from_raw_os_error(cause.ee_errno as i32),
        quote: quote[..octets.min(QUOTE)].to_vec(),
    };
    Some((report, cause.ee_origin))
}

/// The `sock_extended_err` among the control messages of `message`, which `recvmsg` has filled.
fn extended_error(message: &libc::msghdr) -> Option<libc::sock_extended_err> {
    // SAFETY: the kernel has set msg_controllen to what it wrote into msg_control.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so CMSG_FIRSTHDR or CMSG_NXTHDR has found a whole header there.
        let control = unsafe { header.read_unaligned() };
        if matches!(
            (control.cmsg_level, control.cmsg_type),
            (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
        ) {
            // SAFETY: a control message of this type holds a sock_extended_err (ip(7)), and the
            // buffer has room for all of it.
            return Some(unsafe {
                libc::CMSG_DATA(header)
                    .cast::<libc::sock_extended_err>()
                    .read_unaligned()
            });
        }
        // SAFETY: `header` lies in the control buffer of `message`.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}
