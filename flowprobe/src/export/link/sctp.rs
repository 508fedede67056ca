//! IPFIX over SCTP (RFC 7011 §10.2): one message in each SCTP message, with the kernel's SCTP.
//!
//! All messages go over stream 0, in order. So templates come before their data without a word about
//! their order on different streams (RFC 7011 §8.2), and each observation domain has one sequence
//! number, which is what an encoder counts and what collectors that do not look at streams expect
//! (§3.1: each stream has its own). More streams would keep a message that is lost from holding up
//! those of other domains; no collector is known that needs that.
//!
//! The kernel does not say which messages are acknowledged, but it keeps each until it is. So all
//! have arrived whenever it keeps none; and no more than a window is sent before that is so.
//!
//! **With a lifetime** messages of flows alone are given up by the kernel when they come too late
//! (§10.2.6; PR-SCTP with timed reliability, RFC 3758 §4.1), if the collector's side has agreed to that.
//! What templates and options are in is reliable always (§8.3). A message that was given up has had its
//! sequence numbers: the collector sees the gap (§10.2.2). See [`window`] for how it is known which one. Messages
//! fit into packets then, so that one that is lost takes no other octets with it, and none is
//! delivered in part (RFC 6458 §6.1.7).
//!
//! Linux looks at the time when it sends, when an acknowledgement comes, and when one is overdue. It
//! counts as given up what it has not cleared away by then, even what is acknowledged out of order,
//! behind a message that was lost, and what is acknowledged only now. So `expired` is never less
//! than what is missing; it is more where the network loses packets, or takes longer than the
//! lifetime. Against that, acknowledgements are asked for at once, and what is lost is sent again
//! within the lifetime.

mod partial;
mod socket;
mod window;

use std::{
    io::{self, ErrorKind},
    mem::{self, MaybeUninit},
    net::Shutdown,
    thread,
    time::{Duration, Instant},
};

use socket2::Socket;

use self::{
    partial::{Heard, Partial},
    window::Window,
};
use super::{
    Link,
    dial::{Dialer, Peer},
    error::Broken,
};

/// Messages that may be on the way. They fill the socket's buffer first, unless they are small.
const WINDOW: usize = 256;
/// How often the end of a session looks for acknowledgements.
const END_STEP: Duration = Duration::from_millis(5);
/// Octets around a message in its packet: IPv6, the common header of SCTP and that of a DATA chunk
/// (RFC 9260 §3).
const OVERHEAD: u16 = 40 + 12 + 16;
/// A collector sends nothing; more than this at a time is not listened to.
const LISTEN: usize = 16;

/// SCTP associations with a collector. A message may have up to 65535 octets (RFC 7011 §3.1).
#[derive(Debug)]
pub(in crate::export) struct Sctp {
    dialer: Dialer,
    session: Session,
    /// How long messages of flows are worth having; for ever if it is not said.
    lifetime: Option<Duration>,
    /// It was said that the collector's side does not give anything up.
    told: bool,
}

#[derive(Debug)]
enum Session {
    /// None, and what became of the messages of the latest one.
    Down(Window),
    Up(Association),
    /// Nothing more will be sent.
    Ending(Association),
}

#[derive(Debug)]
struct Association {
    socket: Socket,
    window: Window,
    /// Where messages may be given up.
    partial: Option<Partial>,
    /// Octets that the kernel kept when it was last asked, and whether there were more before.
    kept: u32,
    moves: bool,
    /// Why it is over, found while it was asked for something else.
    ended: Option<io::Error>,
}

impl Sctp {
    /// A link to `port` of `host`, a name or an address without brackets. Nothing is sent yet.
    /// Messages of flows are given up after `lifetime`.
    pub(in crate::export) fn new(host: &str, port: u16, lifetime: Option<Duration>) -> Self {
        Self {
            dialer: Dialer::new(Peer::new(host, port), socket::new),
            session: Session::Down(Window::default()),
            lifetime,
            told: false,
        }
    }

    /// Octets of a message that a packet holds.
    pub(in crate::export) const fn max_message(mtu: u16) -> u16 {
        // DATA chunks are padded to four octets.
        mtu.saturating_sub(OVERHEAD) / 4 * 4
    }

    /// A session is there.
    fn begin(&mut self, socket: Socket) -> io::Result<()> {
        let partial = match self.lifetime {
            Some(lifetime) => Partial::agreed(&socket, lifetime)?,
            None => None,
        };
        if self.lifetime.is_some() && partial.is_none() && !mem::replace(&mut self.told, true) {
            let collector = self.dialer.peer.host();
            tracing::warn!(
                collector,
                "no partial reliability (RFC 3758) on one of both sides: no flows are given up"
            );
        }
        self.session = Session::Up(Association {
            socket,
            window: Window::default(),
            partial,
            kept: 0,
            moves: false,
            ended: None,
        });
        Ok(())
    }

    /// Takes a message whole, or nothing of it.
    fn take(&mut self, message: &[u8], has_flows: bool) -> io::Result<()> {
        let taken = self.act(|association| association.send(message, has_flows))?;
        taken.then_some(()).ok_or(ErrorKind::WouldBlock.into())
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
    /// Looks whether all has arrived, or was given up.
    fn settle(&mut self) -> io::Result<()> {
        // In this order: an association that ends forgets its messages, so that only if it is still
        // there does it tell that there were none.
        let kept = socket::kept(&self.socket)?;
        self.moves |= kept < self.kept;
        self.kept = kept;
        let all = kept == 0;
        let given_up = self.hear()?;
        if all && socket::is_alive(&self.socket) {
            self.window.settle(given_up, Instant::now());
        }
        Ok(())
    }

    /// Listens for what was given up; returns how many messages of the session that is.
    fn hear(&mut self) -> io::Result<u64> {
        let Some(partial) = &mut self.partial else {
            return Ok(0);
        };
        let mut returned = Vec::new();
        let mut others = 0;
        while others < LISTEN {
            match partial.hear(&self.socket) {
                Ok(Heard::Returned(number)) => returned.push(number),
                Ok(Heard::Other) => others += 1,
                Ok(Heard::Nothing) => break,
                Err(error) => {
                    let kind = error.kind();
                    self.ended.get_or_insert(error);
                    return Err(kind.into());
                }
            }
        }
        // An association that ends returns everything: only if it is still there after that was it
        // given up.
        let given_up = partial.given_up(&self.socket)?;
        for number in returned {
            self.window.returned(number);
        }
        self.window.count(given_up, Instant::now());
        Ok(given_up)
    }

    /// Whether the message was taken.
    fn send(&mut self, message: &[u8], has_flows: bool) -> io::Result<bool> {
        if self.window.open() >= WINDOW {
            self.settle()?;
            if self.window.open() > 0 {
                return Ok(false);
            }
        }
        let partial = self.partial.as_ref().filter(|_| has_flows);
        // Before the kernel's clock runs, so that it is never thought to be later.
        let due = partial.map(|partial| Instant::now() + partial.lifetime());
        loop {
            let sent = match partial {
                Some(partial) => {
                    // What it returns has this number: the lower half is enough for a window.
                    let number = self.window.sent() as u32;
                    partial.send(&self.socket, message, number)
                }
                None => {
                    let sent = self.socket.send_with_flags(message, libc::MSG_NOSIGNAL);
                    sent.map(drop)
                }
            };
            match sent {
                Ok(()) => {
                    self.window.push(due);
                    return Ok(true);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    fn listen(&mut self) -> io::Result<()> {
        if let Some(error) = self.ended.take() {
            return Err(error);
        }
        if self.partial.is_some() {
            let heard = self.hear().map(drop);
            return self.ended.take().map_or(heard, Err);
        }
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
    /// in another session. Returns what became of its messages.
    fn abandon(&mut self) -> Window {
        // Where these fail the association is already gone.
        let _ = self.settle();
        let _ = self.socket.set_linger(Some(Duration::ZERO));
        self.window.end();
        mem::take(&mut self.window)
    }

    /// Waits until all has arrived, and says goodbye: `WouldBlock` if it has not by `until`.
    fn finish(&mut self, until: Instant) -> io::Result<()> {
        loop {
            self.settle()?;
            if self.window.open() == 0 {
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

    fn leave(&mut self) {
        if let Session::Up(association) | Session::Ending(association) = &mut self.session {
            self.session = Session::Down(association.abandon());
        }
    }

    fn open(&mut self, now: Instant) -> io::Result<bool> {
        match mem::replace(&mut self.session, Session::Down(Window::default())) {
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
        self.begin(socket)?;
        Ok(true)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.take(message, false)
    }

    fn send_flows(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) -> (usize, io::Result<()>) {
        let mut taken = 0;
        for message in messages {
            if let Err(error) = self.take(message, true) {
                return (taken, Err(error));
            }
            taken += 1;
        }
        (taken, Ok(()))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.act(Association::listen)
    }

    fn acknowledged(&mut self) -> u64 {
        match &mut self.session {
            Session::Down(window) => window.settled(),
            Session::Up(association) | Session::Ending(association) => {
                // If it fails, nothing more is known to have arrived.
                let _ = association.settle();
                association.window.settled()
            }
        }
    }

    fn gave_up(&mut self, message: u64) -> bool {
        match &mut self.session {
            Session::Down(window) => window.gave_up(message),
            Session::Up(association) | Session::Ending(association) => {
                association.window.gave_up(message)
            }
        }
    }

    fn moves(&mut self) -> bool {
        match &mut self.session {
            Session::Down(_) => false,
            Session::Up(association) | Session::Ending(association) => {
                mem::take(&mut association.moves)
            }
        }
    }

    /// May be called again after `WouldBlock`, to wait for longer.
    fn close(&mut self, until: Instant) -> io::Result<()> {
        let down = Session::Down(Window::default());
        self.session = match mem::replace(&mut self.session, down) {
            Session::Up(association) => Session::Ending(association),
            session => session,
        };
        let Session::Ending(association) = &mut self.session else {
            return Ok(());
        };
        let done = association.finish(until);
        if !matches!(&done, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            // Where it failed the kernel may still be sending.
            let window = match done.is_err() {
                true => association.abandon(),
                false => {
                    let mut window = mem::take(&mut association.window);
                    window.end();
                    window
                }
            };
            self.session = Session::Down(window);
        }
        done
    }
}
