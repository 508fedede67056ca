//! Partial reliability (RFC 3758, RFC 7496): messages that the kernel may give up.

use std::{
    io::{self, ErrorKind},
    mem,
    os::fd::AsRawFd as _,
    time::Duration,
};

use socket2::Socket;

use super::socket::{get, patience, set};
use crate::export::link::error::Broken;

/// Options of IPPROTO_SCTP.
const SCTP_PR_SUPPORTED: libc::c_int = 113;
const SCTP_PR_ASSOC_STATUS: libc::c_int = 115;
const SCTP_EVENT: libc::c_int = 127;

/// The notification that returns a message (RFC 6458 §6.1.11).
const SCTP_SEND_FAILED_EVENT: u16 = 0x800d;
/// Where it has the number that the message was sent under (`ssfe_info.snd_context`), and how many
/// octets are in front of the message.
const CONTEXT: usize = 20;
const NOTE: usize = 32;
/// Of the flags of a message that is received: it is a notification.
const MSG_NOTIFICATION: libc::c_int = 0x8000;
/// Of those of a message that is sent: to be acknowledged at once (RFC 7053). Else an
/// acknowledgement may come 200 ms later, and what has arrived would be given up before it.
const SACK_IMMEDIATELY: u16 = 1 << 3;

/// Octets of a message (RFC 7011 §3.1), and of what is in front of it when it comes back.
const RETURNED: usize = u16::MAX as usize + NOTE;

/// How often a message goes within its lifetime, where that is short.
const TRIES: u32 = 4;

/// `struct sctp_event`.
#[repr(C)]
struct Event {
    association: i32,
    kind: u16,
    on: u8,
    padding: u8,
}

/// Two control messages, of one `struct sctp_sndinfo` and one `struct sctp_prinfo`.
#[repr(C)]
struct Control {
    how: libc::cmsghdr,
    info: libc::sctp_sndinfo,
    until: libc::cmsghdr,
    policy: libc::sctp_prinfo,
}

// A header follows the data before it at the next word (cmsg(3), CMSG_ALIGN).
const _: () = assert!(mem::offset_of!(Control, until).is_multiple_of(size_of::<usize>()));
const _: () = assert!(mem::offset_of!(Control, info) == size_of::<libc::cmsghdr>());

/// What the socket has for us.
#[derive(Debug)]
pub(super) enum Heard {
    Nothing,
    /// A message that was given up, or a fragment of it, by the number that it was sent under.
    Returned(u32),
    /// Anything else.
    Other,
}

/// An association whose peer lets messages be given up.
#[derive(Debug)]
pub(super) struct Partial {
    lifetime: Duration,
    buffer: Vec<u8>,
}

impl Partial {
    /// None if the peer has not agreed to it (RFC 3758 §3.3).
    pub(super) fn agreed(socket: &Socket, lifetime: Duration) -> io::Result<Option<Self>> {
        let mut supported = [0; 2];
        get(
            socket,
            libc::IPPROTO_SCTP,
            SCTP_PR_SUPPORTED,
            &mut supported,
        )?;
        if supported[1] == 0 {
            return Ok(None);
        }
        let returns = Event {
            association: 0,
            kind: SCTP_SEND_FAILED_EVENT,
            on: 1,
            padding: 0,
        };
        set(socket, SCTP_EVENT, &returns)?;
        // RFC 7011 §10.2.6: what is lost goes again for as long as it is worth it.
        patience(socket, Some(lifetime / TRIES))?;
        let buffer = vec![0; RETURNED];
        Ok(Some(Self { lifetime, buffer }))
    }

    /// For how long the kernel tries.
    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Sends a message under a number, on stream 0 and in order, until its time is over.
    pub(super) fn send(&self, socket: &Socket, message: &[u8], number: u32) -> io::Result<()> {
        // SAFETY: all of it is integers, for which zero is a value.
        let mut control: Control = unsafe { mem::zeroed() };
        let header = |header: &mut libc::cmsghdr, kind, octets: usize| {
            header.cmsg_level = libc::IPPROTO_SCTP;
            header.cmsg_type = kind;
            header.cmsg_len = (size_of::<libc::cmsghdr>() + octets) as _;
        };
        header(
            &mut control.how,
            libc::SCTP_SNDINFO,
            size_of::<libc::sctp_sndinfo>(),
        );
        control.info.snd_flags = SACK_IMMEDIATELY;
        control.info.snd_context = number;
        header(
            &mut control.until,
            libc::SCTP_PRINFO,
            size_of::<libc::sctp_prinfo>(),
        );
        control.policy.pr_policy = libc::SCTP_PR_SCTP_TTL as u16;
        control.policy.pr_value = self.lifetime.as_millis() as u32;
        let mut part = libc::iovec {
            iov_base: message.as_ptr().cast_mut().cast(),
            iov_len: message.len(),
        };
        // SAFETY: all zeros is a msghdr without name, parts and control.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = size_of::<Control>() as _;
        // SAFETY: the header points to one part and one control, which outlive the call; the part
        // is the message, which is only read.
        let sent =
            unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const header, libc::MSG_NOSIGNAL) };
        if sent < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// The next thing that the socket has.
    pub(super) fn hear(&mut self, socket: &Socket) -> io::Result<Heard> {
        let mut part = libc::iovec {
            iov_base: self.buffer.as_mut_ptr().cast(),
            iov_len: self.buffer.len(),
        };
        // SAFETY: all zeros is a msghdr without name, parts and control.
        let mut header: libc::msghdr = unsafe { mem::zeroed() };
        header.msg_iov = &raw mut part;
        header.msg_iovlen = 1;
        // SAFETY: the header points to one part, the buffer, of which the kernel writes no more
        // than its length.
        let octets = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut header, 0) };
        let octets = match usize::try_from(octets) {
            Ok(0) => return Err(Broken::Closed.into()),
            Ok(octets) => octets,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == ErrorKind::WouldBlock => return Ok(Heard::Nothing),
                error if error.kind() == ErrorKind::Interrupted => return Ok(Heard::Other),
                error => return Err(error),
            },
        };
        if header.msg_flags & MSG_NOTIFICATION == 0 {
            return Ok(Heard::Other);
        }
        let heard = &self.buffer[..octets];
        let kind = heard.first_chunk().map(|kind| u16::from_ne_bytes(*kind));
        let number = heard.get(CONTEXT..).and_then(<[u8]>::first_chunk);
        Ok(match (kind, number) {
            (Some(SCTP_SEND_FAILED_EVENT), Some(number)) => {
                Heard::Returned(u32::from_ne_bytes(*number))
            }
            _ => Heard::Other,
        })
    }

    /// How many messages of the association were given up, sent or not; fails once it is over.
    pub(super) fn given_up(&self, socket: &Socket) -> io::Result<u64> {
        // `struct sctp_prstatus`: association; stream and policy; two counts of 64 bits.
        let [low, high] = (libc::SCTP_PR_SCTP_TTL as u16).to_ne_bytes();
        let mut status = [0; 6];
        status[1] = u32::from_ne_bytes([0, 0, low, high]);
        get(
            socket,
            libc::IPPROTO_SCTP,
            SCTP_PR_ASSOC_STATUS,
            &mut status,
        )?;
        let count = |at: usize| {
            let mut octets = [0; 8];
            octets[..4].copy_from_slice(&status[at].to_ne_bytes());
            octets[4..].copy_from_slice(&status[at + 1].to_ne_bytes());
            u64::from_ne_bytes(octets)
        };
        Ok(count(2) + count(4))
    }
}
