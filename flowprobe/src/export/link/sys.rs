//! Questions to the kernel that neither the standard library nor socket2 asks.

use std::{io, mem, os::fd::AsRawFd, time::Duration};

/// What to wait for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ready {
    /// Something to read, or the end of it.
    Read,
    /// Room to write, or a connection that has come about or failed.
    Write,
}

/// Waits until a socket is ready or has failed, but no longer than `at_most`; whether it is.
pub(super) fn wait(socket: &impl AsRawFd, ready: Ready, at_most: Duration) -> bool {
    let events = match ready {
        Ready::Read => libc::POLLIN,
        Ready::Write => libc::POLLOUT,
    };
    let mut asked = libc::pollfd {
        fd: socket.as_raw_fd(),
        events,
        revents: 0,
    };
    // Round up: less than a millisecond would be a loop that spins.
    let milliseconds = at_most.as_micros().div_ceil(1000);
    let milliseconds = libc::c_int::try_from(milliseconds).unwrap_or(libc::c_int::MAX);
    // SAFETY: one pollfd, which outlives the call; its descriptor is borrowed for as long.
    unsafe { libc::poll(&raw mut asked, 1, milliseconds) > 0 }
}

/// Octets written to a TCP socket that its peer has not acknowledged (tcp(7), SIOCOUTQ). A FIN
/// counts as one. The figure stays what it was when a connection is reset.
pub(super) fn unacknowledged(socket: &impl AsRawFd) -> io::Result<u64> {
    let mut octets: libc::c_int = 0;
    // SAFETY: SIOCOUTQ, which is TIOCOUTQ, writes a c_int to where its argument points.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut octets) };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(u64::from(octets.unsigned_abs()))
}

/// Probes without an answer that say something. One may be lost, and kernels leave one unanswered
/// that comes within 500 ms of another (tcp_invalid_ratelimit).
const PROBES: u8 = 3;

/// What the kernel knows of a TCP connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts {
    /// Whether it is over: in order, or reset.
    pub(super) is_over: bool,
    /// Whether something was sent again, or probes were sent, and no answer has come since. One
    /// that has no room for what is sent does answer.
    pub(super) is_unanswered: bool,
}

/// Asks for them (tcp(7), TCP_INFO).
pub(super) fn facts(socket: &impl AsRawFd) -> io::Result<Facts> {
    /// TCP_CLOSE of linux/tcp_states.h.
    const CLOSE: u8 = 7;
    // SAFETY: tcp_info is integers only, for which zero is a value.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut length = size_of_val(&info) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` octets to `info`, which is as long.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            (&raw mut info).cast(),
            &raw mut length,
        )
    };
    if done != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Facts {
        is_over: info.tcpi_state == CLOSE,
        // The ages are of the latest, in milliseconds. Any answer clears the probes.
        is_unanswered: info.tcpi_probes >= PROBES
            || (info.tcpi_retransmits > 0 && info.tcpi_last_ack_recv > info.tcpi_last_data_sent),
    })
}
