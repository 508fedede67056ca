//! The few calls on sockets that the standard library does not have.

use std::{
    ffi::CString,
    io, mem,
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    ptr,
};

/// A packet socket on an interface of this thread's namespace, which receives frames of one protocol
/// (`ETH_P_…`; 0 for none).
///
/// # Errors
/// Without CAP_NET_RAW, or where there is no such interface.
pub(crate) fn packet(interface: &str, protocol: i32) -> io::Result<OwnedFd> {
    let name = CString::new(interface)?;
    // SAFETY: a NUL-terminated name.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // Protocol 0: nothing comes before the socket is bound.
    // SAFETY: a plain system call.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a new descriptor that nobody else owns.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: an address of zeroes is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (protocol as u16).to_be();
    address.sll_ifindex = index as i32;
    // SAFETY: `address` is a link-layer address of the size given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            ptr::from_ref(&address).cast(),
            size_of_val(&address) as u32,
        )
    };
    match bound {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets an option of SOL_SOCKET, whose value is what the kernel takes for it.
///
/// # Errors
/// What the kernel says.
pub fn set<T>(socket: &impl AsRawFd, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: a plain system call with a value that is alive and of the size given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            option,
            ptr::from_ref(value).cast(),
            size_of_val(value) as u32,
        )
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
