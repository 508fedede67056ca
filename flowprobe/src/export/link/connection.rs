//! Sessions over TCP connections (RFC 7011 §10.4): what plain TCP and TLS have in common.

use std::{
    io::{self, ErrorKind},
    mem,
    net::SocketAddr,
    time::Instant,
};

use super::{
    Link,
    dial::{Dialer, Peer},
    error::Broken,
    stream::{self, Stream},
};

/// How messages are said over a connection.
pub(in crate::export) trait Protocol {
    /// A connection that speaks it.
    type Speaker: Speaker;

    /// Begins to speak on a new connection.
    fn begin(&mut self, stream: Stream, address: SocketAddr) -> io::Result<Self::Speaker>;
}

/// A connection and what is said on it.
pub(in crate::export) trait Speaker {
    /// A step towards the first message; whether it may be sent.
    fn set_up(&mut self, now: Instant) -> io::Result<bool>;

    /// Puts a message into the stream's outbox, all of it.
    fn say(&mut self, message: &[u8]) -> io::Result<()>;

    /// Listens to what the collector says, which is nothing but its end.
    fn listen(&mut self) -> io::Result<()>;

    /// Puts the last word into the outbox.
    fn say_goodbye(&mut self) {}

    /// The connection.
    fn stream(&mut self) -> &mut Stream;
}

/// A connection to a collector, made anew as often as [`Link::open`] is called after it broke.
///
/// A message may have up to 65535 octets (RFC 7011 §3.1).
#[derive(Debug)]
pub(in crate::export) struct Connection<P: Protocol> {
    dialer: Dialer,
    protocol: P,
    pub(super) session: Session<P::Speaker>,
}

#[derive(Debug)]
pub(super) enum Session<S> {
    /// None, and how many messages of the latest one have arrived.
    Down(u64),
    Beginning(S),
    Up(S),
    /// The last word is said.
    Ending(S),
}

impl<P: Protocol> Connection<P> {
    pub(super) fn with(protocol: P, peer: Peer) -> Self {
        Self {
            dialer: Dialer::new(peer, stream::socket),
            protocol,
            session: Session::Down(0),
        }
    }

    /// Does something with the session; an error ends it.
    fn act<T>(&mut self, act: impl FnOnce(&mut P::Speaker) -> io::Result<T>) -> io::Result<T> {
        let Session::Up(speaker) = &mut self.session else {
            return Err(Broken::NoSession.into());
        };
        let done = act(speaker).map_err(|error| telling(error, speaker.listen()));
        if done.is_err() {
            self.abandon();
        }
        done
    }

    /// The session is over, and nothing of it shall arrive any more.
    fn abandon(&mut self) {
        self.session = Session::Down(match &mut self.session {
            Session::Down(arrived) => *arrived,
            Session::Beginning(speaker) | Session::Up(speaker) | Session::Ending(speaker) => {
                speaker.stream().abandon()
            }
        });
    }
}

impl<P: Protocol> Link for Connection<P> {
    fn has_sessions(&self) -> bool {
        true
    }

    fn open(&mut self, now: Instant) -> io::Result<bool> {
        match &self.session {
            Session::Up(_) => return Ok(true),
            Session::Beginning(_) => {}
            Session::Ending(_) | Session::Down(_) => {
                self.abandon();
                self.session = Session::Down(0);
                let Some((socket, address)) = self.dialer.dial(now)? else {
                    return Ok(false);
                };
                let speaker = self.protocol.begin(Stream::new(socket), address)?;
                self.session = Session::Beginning(speaker);
            }
        }
        // Whatever fails now, there is no session.
        let Session::Beginning(mut speaker) = mem::replace(&mut self.session, Session::Down(0))
        else {
            unreachable!("it has just begun");
        };
        let is_up = speaker.set_up(now)?;
        self.session = if is_up {
            self.dialer.peer.settle();
            Session::Up(speaker)
        } else {
            Session::Beginning(speaker)
        };
        Ok(is_up)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.send_all(&mut [message].into_iter()).1
    }

    fn send_all(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) -> (usize, io::Result<()>) {
        let mut taken = 0;
        let done = self.act(|speaker| {
            for message in messages {
                if !speaker.stream().has_room()? {
                    return Ok(false);
                }
                speaker.say(message)?;
                speaker.stream().end_message();
                taken += 1;
            }
            speaker.stream().push()?;
            Ok(true)
        });
        let done = done.and_then(|all| all.then_some(()).ok_or(ErrorKind::WouldBlock.into()));
        (taken, done)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.act(|speaker| {
            speaker.listen()?;
            speaker.stream().push()?;
            Ok(speaker.stream().look(Instant::now())?)
        })
    }

    fn acknowledged(&mut self) -> u64 {
        match &mut self.session {
            Session::Down(arrived) => *arrived,
            Session::Beginning(_) => 0,
            Session::Up(speaker) | Session::Ending(speaker) => speaker.stream().arrived(),
        }
    }

    fn leave(&mut self) {
        self.abandon();
    }

    /// May be called again after `WouldBlock`, to wait for longer.
    fn close(&mut self, until: Instant) -> io::Result<()> {
        self.session = match mem::replace(&mut self.session, Session::Down(0)) {
            Session::Up(mut speaker) => {
                speaker.say_goodbye();
                Session::Ending(speaker)
            }
            Session::Beginning(_) => Session::Down(0),
            session => session,
        };
        let Session::Ending(speaker) = &mut self.session else {
            return Ok(());
        };
        let stream = speaker.stream();
        let done = stream.finish(until);
        if !matches!(&done, Err(error) if error.kind() == ErrorKind::WouldBlock) {
            self.session = Session::Down(stream.arrived());
        }
        done
    }
}

/// Of an error and what was heard after it, that which tells more: the collector may have said why.
fn telling(error: io::Error, heard: io::Result<()>) -> io::Error {
    match heard {
        Err(heard)
            if error.kind() == ErrorKind::BrokenPipe
                || heard.kind() != ErrorKind::ConnectionAborted =>
        {
            heard
        }
        _ => error,
    }
}
