//! IPFIX over SCTP (RFC 7011 §10.2): one message in each SCTP message, with the kernel's SCTP.
//!
//! All messages go over stream 0, reliably and in order: so templates come before their data (§8.3),
//! and each observation domain has one sequence number, which is what an encoder counts (§3.1: it is
//! one for each stream). Data over a stream of its own with a lifetime (PR-SCTP, RFC 3758) would need
//! another sequence number, and an account of what the kernel gave up; it is not here.
//!
//! The kernel does not say which messages are acknowledged, but it keeps each until it is. So all
//! have arrived whenever it keeps none; and no more than a window is sent before that is so.

mod socket;

use std::{
    io::{self, ErrorKind},
    mem::{self, MaybeUninit},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use super::{
    Link,
    dial::{Dialer, Peer},
    error::Broken,
};

/// Messages that may be on the way. They fill the socket's buffer first, unless they are small.
const WINDOW: u64 = 256;
/// How often the end of a session looks for acknowledgements.
const END_STEP: Duration = Duration::from_millis(5);
/// A collector sends nothing; more than this at a time is not listened to.
const LISTEN: usize = 16;

/// SCTP associations with a collector. A message may have up to 65535 octets (RFC 7011 §3.1).
#[derive(Debug)]
pub(in crate::export) struct Sctp {
    dialer: Dialer,
    session: Session,
}

#[derive(Debug)]
enum Session {
    /// None, and how many messages of the latest one have arrived.
    Down(u64),
    Up(Association),
    /// Nothing more will be sent.
    Ending(Association),
}

#[derive(Debug)]
struct Association {
    socket: Socket,
    /// Messages sent, and those of them that have arrived.
    sent: u64,
    arrived: u64,
}

impl Sctp {
    /// A link to `port` of `host`, a name or an address without brackets. Nothing is sent yet.
    pub(in crate::export) fn new(host: &str, port: u16) -> Self {
        Self {
            dialer: Dialer::new(Peer::new(host, port), socket::new),
            session: Session::Down(0),
        }
    }

    /// Does something with the session; an error ends it.
    fn act<T>(&mut self, act: impl FnOnce(&mut Association) -> io::Result<T>) -> io::Result<T> {
        let Session::Up(association) = &mut self.session else {
            return Err(Broken::NoSession.into());
        };
        let done = act(association);
        if done.is_err() {
            self.session = Session::Down(association.abandon());
        }
        done
    }
}

impl Association {
    /// Looks whether all has arrived.
    fn settle(&mut self) -> io::Result<()> {
        // In this order: an association that ends forgets its messages, so that only if it is still
        // there does it tell that there were none.
        if socket::kept(&self.socket)? == 0 && socket::is_alive(&self.socket) {
            self.arrived = self.sent;
        }
        Ok(())
    }

    /// Whether the message was taken.
    fn send(&mut self, message: &[u8]) -> io::Result<bool> {
        if self.sent - self.arrived >= WINDOW {
            self.settle()?;
            if self.sent > self.arrived {
                return Ok(false);
            }
        }
        loop {
            match self.socket.send_with_flags(message, libc::MSG_NOSIGNAL) {
                Ok(_) => {
                    self.sent += 1;
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn listen(&mut self) -> io::Result<()> {
        let mut ignored = [MaybeUninit::uninit(); 1024];
        for _ in 0..LISTEN {
            match self.socket.recv(&mut ignored) {
                Ok(0) => return Err(Broken::Closed.into()),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// It is dropped next, and nothing of what the kernel still holds shall arrive: it will be sent
    /// in another session. Returns the messages that have arrived.
    fn abandon(&mut self) -> u64 {
        // Where these fail the association is already gone.
        let _ = self.settle();
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        self.arrived
    }

    /// Waits until all has arrived, and says goodbye: `WouldBlock` if it has not by `until`.
    fn finish(&mut self, until: Instant) -> io::Result<()> {
        loop {
            self.settle()?;
            if self.arrived == self.sent {
                return self.socket.shutdown(Shutdown::Write);
            }
            self.listen()?;
            if Instant::now() >= until {
                return Err(ErrorKind::WouldBlock.into());
            }
            thread::sleep(END_STEP);
        }
    }
}

impl Link for Sctp {
    fn has_sessions(&self) -> bool {
        true
    }

    fn open(&mut self, now: Instant) -> io::Result<bool> {
        match mem::replace(&mut self.session, Session::Down(0)) {
            Session::Up(association) => {
                self.session = Session::Up(association);
                return Ok(true);
            }
            Session::Ending(mut association) => drop(association.abandon()),
            Session::Down(_) => {}
        }
        let Some((socket, _)) = self.dialer.dial(now)? else {
            return Ok(false);
        };
        self.dialer.peer.settle();
        self.session = Session::Up(Association {
            socket,
            sent: 0,
            arrived: 0,
        });
        Ok(true)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        let taken = self.act(|association| association.send(message))?;
        taken.then_some(()).ok_or(ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.act(Association::listen)
    }

    fn acknowledged(&mut self) -> u64 {
        match &mut self.session {
            Session::Down(arrived) => *arrived,
            Session::Up(association) | Session::Ending(association) => {
                // If it fails, nothing more is known to have arrived.
                let _ = association.settle();
                association.arrived
            }
        }
    }

    /// May be called again after `WouldBlock`, to wait for longer.
    fn close(&mut self, until: Instant) -> io::Result<()> {
        self.session = match mem::replace(&mut self.session, Session::Down(0)) {
            Session::Up(association) => Session::Ending(association),
            session => session,
        };
        let Session::Ending(association) = &mut self.session else {
            return Ok(());
        };
        let done = association.finish(until);
        if !matches!(&done, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            self.session = Session::Down(association.arrived);
        }
        done
    }
}
