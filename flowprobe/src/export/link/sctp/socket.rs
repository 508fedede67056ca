//! What is particular to sockets of SCTP (RFC 6458, linux/sctp.h).

use std::{io, net::SocketAddr, os::fd::AsRawFd as _, ptr, time::Duration};

use socket2::{Domain, Protocol, Socket, Type};

use crate::export::link::error::Broken;

/// Options of IPPROTO_SCTP.
const SCTP_RTOINFO: libc::c_int = 0;
const SCTP_ASSOCINFO: libc::c_int = 1;
const SCTP_NODELAY: libc::c_int = 3;
const SCTP_STATUS: libc::c_int = 14;

/// How long an answer may take before a message is sent again, at most, and how often that is done
/// without an answer before the peer is taken for gone: 1 + 2 + 4 + 8 + 8 + 8 s. The defaults are
/// 60 s and 10 times, which is more than 6 minutes.
const LONGEST_TIMEOUT_MS: u32 = 8000;
const RETRIES: u16 = 5;

/// How long an answer is waited for at least: what RFC 9260 §16 recommends, and the least that is
/// told from the scheduling of a busy host.
const USUAL_TIMEOUT: Duration = Duration::from_secs(1);
const LEAST_TIMEOUT: Duration = Duration::from_millis(50);

/// Words of a `struct sctp_status` and some more; the state is the second.
const STATUS_WORDS: usize = 64;
/// States in which messages leave the kernel only when they have arrived: SCTP_ESTABLISHED up to
/// SCTP_SHUTDOWN_ACK_SENT.
const ALIVE: std::ops::RangeInclusive<u32> = 4..=8;

/// SK_MEMINFO_WMEM_QUEUED of linux/sock_diag.h, and how many figures there are.
const QUEUED: usize = 5;
const MEMORY_WORDS: usize = 9;

/// `struct sctp_rtoinfo`, in milliseconds; 0 is no change.
#[repr(C)]
struct Timeouts {
    association: i32,
    first: u32,
    longest: u32,
    shortest: u32,
}

/// `struct sctp_assocparams`; 0 is no change.
#[repr(C)]
struct Parameters {
    association: i32,
    retries: u16,
    destinations: u16,
    peer_window: u32,
    window: u32,
    cookie_life: u32,
}

/// A socket for [`super::super::dial::Dialer`].
pub(super) fn new(address: SocketAddr) -> io::Result<Socket> {
    let protocol = Protocol::from(libc::IPPROTO_SCTP);
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(protocol)).map_err(missing)?;
    socket.set_nonblocking(true)?;
    // A message is as long as it is going to be: nothing is gained by waiting for more.
    let on: libc::c_int = 1;
    set(&socket, SCTP_NODELAY, &on)?;
    patience(&socket, None)?;
    Ok(socket)
}

/// Sets how soon something is sent again without an answer, and how often. Who wants it to be soon
/// waits for as long altogether.
pub(super) fn patience(socket: &Socket, first: Option<Duration>) -> io::Result<()> {
    let shortest = first.map_or(USUAL_TIMEOUT, |first| {
        first.clamp(LEAST_TIMEOUT, USUAL_TIMEOUT)
    });
    let sooner = (USUAL_TIMEOUT.as_millis() / shortest.as_millis()).ilog2();
    let timeouts = Timeouts {
        association: 0,
        first: 0,
        longest: LONGEST_TIMEOUT_MS,
        shortest: shortest.as_millis() as u32,
    };
    set(socket, SCTP_RTOINFO, &timeouts)?;
    let parameters = Parameters {
        association: 0,
        retries: RETRIES + sooner as u16,
        destinations: 0,
        peer_window: 0,
        window: 0,
        cookie_life: 0,
    };
    set(socket, SCTP_ASSOCINFO, &parameters)
}

fn missing(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EPROTONOSUPPORT | libc::ESOCKTNOSUPPORT) => Broken::NoSctp.into(),
        _ => error,
    }
}

/// Octets that the kernel keeps of messages which have not arrived.
pub(super) fn kept(socket: &Socket) -> io::Result<u32> {
    let mut memory = [0u32; MEMORY_WORDS];
    get(socket, libc::SOL_SOCKET, libc::SO_MEMINFO, &mut memory)?;
    Ok(memory[QUEUED])
}

/// Whether there is an association.
pub(super) fn is_alive(socket: &Socket) -> bool {
    let mut status = [0u32; STATUS_WORDS];
    let asked = get(socket, libc::IPPROTO_SCTP, SCTP_STATUS, &mut status);
    asked.is_ok() && ALIVE.contains(&status[1])
}

pub(super) fn set<T>(socket: &Socket, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the kernel reads no more than the given length, which is that of the value.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_SCTP,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

pub(super) fn get(
    socket: &Socket,
    level: i32,
    option: libc::c_int,
    words: &mut [u32],
) -> io::Result<()> {
    let mut length = size_of_val(words) as libc::socklen_t;
    // SAFETY: the kernel writes no more than `length` octets to `words`, which are as many.
    let done = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            words.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if done == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}
