//! The ways to a collector.

mod alert;
mod connection;
mod dial;
pub(super) mod dtls;
mod error;
pub(super) mod file;
mod icmp;
mod path;
pub(super) mod sctp;
mod stream;
mod sys;
pub(super) mod tcp;
#[cfg(test)]
mod tests;
pub(super) mod tls;
mod trust;
pub(super) mod udp;
pub(super) mod unix;
mod verdict;

use std::{
    io,
    net::{SocketAddr, ToSocketAddrs as _},
    time::{Duration, Instant},
};

pub(super) use self::error::Broken;
pub use self::trust::TlsError;
use self::{dtls::Dtls, file::Files, sctp::Sctp, tcp::Tcp, tls::Tls, udp::Socket, unix::Unix};
use super::{Collector, Identity, Transport};
use crate::{
    ipfix::message::PACKET_OVERHEAD,
    ipfix_file::{Pattern, PatternError, Rotation},
};

/// Octets of a message that no packet has to hold. A whole message can have 65,535; smaller ones are
/// with the collector sooner, and cost little more.
const STREAM_OCTETS: u16 = 16_384;
/// Octets of a message in a file.
const FILE_OCTETS: u16 = u16::MAX;
/// A DTLS session is followed by another after this long: a collector that has started again does
/// not know it, and nobody says so.
const DTLS_LIFETIME: Duration = Duration::from_secs(600);

/// Why there is no way to a collector.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// A host name without an address.
    #[error("the host name does not resolve: {0}")]
    Resolve(io::Error),
    /// No socket.
    #[error("cannot open a socket: {0}")]
    Socket(io::Error),
    /// Files that show who is who.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Files that cannot be called so.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

/// What ways have in common.
#[derive(Clone, Debug)]
pub(super) struct Ways<'a> {
    /// Octets of the largest packet.
    pub(super) mtu: u16,
    /// Who is who, where a collector does not say.
    pub(super) identity: &'a Identity,
    /// When a file is followed by the next one.
    pub(super) rotation: Rotation,
}

impl Ways<'_> {
    /// Octets of the largest message to a collector.
    pub(super) fn message_octets(&self, collector: &Collector) -> u16 {
        match collector.transport() {
            Transport::Udp => self.mtu.saturating_sub(PACKET_OVERHEAD),
            Transport::Dtls => Dtls::max_message(self.mtu),
            Transport::Sctp if collector.lifetime().is_some() => Sctp::max_message(self.mtu),
            Transport::Tcp | Transport::Tls | Transport::Sctp | Transport::Unix => STREAM_OCTETS,
            Transport::File => FILE_OCTETS,
        }
    }

    /// The way to a collector. Nothing is sent yet.
    pub(super) fn to(&self, collector: &Collector) -> Result<Box<dyn Link + Send>, LinkError> {
        let (host, port) = (collector.host(), collector.port());
        let identity = || collector.identity().or(self.identity);
        Ok(match collector.transport() {
            Transport::Udp => {
                let address = resolve(host, port).map_err(LinkError::Resolve)?;
                Box::new(Socket::open(address).map_err(LinkError::Socket)?)
            }
            Transport::Tcp => Box::new(Tcp::new(host, port)),
            Transport::Tls => Box::new(Tls::new(host, port, &identity())?),
            Transport::Dtls => {
                let dtls = Dtls::new(host, port, &identity(), self.mtu, DTLS_LIFETIME)?;
                Box::new(dtls)
            }
            Transport::Sctp => Box::new(Sctp::new(host, port, collector.lifetime())),
            Transport::Unix => Box::new(Unix::new(&collector.path())),
            Transport::File => Box::new(Files::new(
                Pattern::parse(&collector.path())?,
                self.rotation,
            )),
        })
    }
}

fn resolve(host: &str, port: u16) -> io::Result<SocketAddr> {
    let mut addresses = (host, port).to_socket_addrs()?;
    let first = addresses.next();
    first.ok_or_else(|| io::Error::other("no address"))
}

/// Takes messages to one collector.
///
/// A way is with sessions (TCP, TLS, SCTP, a file) or without (UDP, Unix datagrams). A session is
/// opened, may break, and is opened again; in a new one nothing of what was said before is known.
/// Each collector has a thread of its own, so a call may take its time, up to 100 ms.
pub(in crate::export) trait Link {
    /// Whether it has sessions.
    fn has_sessions(&self) -> bool {
        false
    }

    /// Whether nothing is lost within a session: if it may be, templates have to be repeated
    /// (RFC 7011 §8.4).
    fn is_reliable(&self) -> bool {
        self.has_sessions()
    }

    /// Whether what it takes waits on disk, and has not arrived yet.
    fn is_spool(&self) -> bool {
        false
    }

    /// Brings a session up: true once messages can be sent, false while it is being set up.
    fn open(&mut self, now: Instant) -> io::Result<bool> {
        let _ = now;
        Ok(true)
    }

    /// Takes a message whole, or nothing of it ([`io::ErrorKind::WouldBlock`]). Any other error
    /// ends a session.
    fn send(&mut self, message: &[u8]) -> io::Result<()>;

    /// Takes messages in their order; returns how many, and why no more.
    fn send_all(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) -> (usize, io::Result<()>) {
        let mut taken = 0;
        for message in messages {
            if let Err(error) = self.send(message) {
                return (taken, Err(error));
            }
            taken += 1;
        }
        (taken, Ok(()))
    }

    /// Octets of the longest message that the path takes, as far as is known.
    fn path_octets(&mut self) -> Option<u16> {
        None
    }

    /// Takes messages like [`Self::send_all`] that have nothing but flow records in them: a way that
    /// was told how long those are worth having may give them up later.
    fn send_flows(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) -> (usize, io::Result<()>) {
        self.send_all(messages)
    }

    /// Moves on what `send` has taken and the kernel not yet. An error is the end of the session.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The next datagram that the network reports as undelivered.
    fn undelivered(&mut self) -> Option<Undelivered> {
        None
    }

    /// Messages of the session that the other side's transport has acknowledged, and those before
    /// them that were given up.
    fn acknowledged(&mut self) -> u64 {
        0
    }

    /// Whether the message of this number, from 0 in each session, was given up. It is asked for each
    /// one once, in their order, and after a session for those too that are not acknowledged.
    fn gave_up(&mut self, message: u64) -> bool {
        let _ = message;
        false
    }

    /// Whether something has arrived since this was last asked, where [`Self::acknowledged`] does not
    /// tell before more has.
    fn moves(&mut self) -> bool {
        false
    }

    /// Whether the session shall end now, and a new one begin, without anything being wrong.
    fn is_due(&mut self, now: Instant) -> bool {
        let _ = now;
        false
    }

    /// Ends the session at once, if there is one: nothing arrives any more of what has not by now.
    fn leave(&mut self) {}

    /// Ends the session in order; gives all of it until `until` to be acknowledged.
    fn close(&mut self, until: Instant) -> io::Result<()> {
        let _ = until;
        Ok(())
    }
}

/// What the network says of an earlier datagram.
#[derive(Debug)]
pub(in crate::export) struct Undelivered {
    /// Why.
    pub(in crate::export) error: io::Error,
    /// The first octets of the datagram, as many as came back; may be none.
    pub(in crate::export) quote: Vec<u8>,
}

impl<L: Link + ?Sized> Link for Box<L> {
    fn has_sessions(&self) -> bool {
        (**self).has_sessions()
    }

    fn is_reliable(&self) -> bool {
        (**self).is_reliable()
    }

    fn is_spool(&self) -> bool {
        (**self).is_spool()
    }

    fn open(&mut self, now: Instant) -> io::Result<bool> {
        (**self).open(now)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        (**self).send(message)
    }

    fn send_all(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) -> (usize, io::Result<()>) {
        (**self).send_all(messages)
    }

    fn path_octets(&mut self) -> Option<u16> {
        (**self).path_octets()
    }

    fn send_flows(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) -> (usize, io::Result<()>) {
        (**self).send_flows(messages)
    }

    fn flush(&mut self) -> io::Result<()> {
        (**self).flush()
    }

    fn undelivered(&mut self) -> Option<Undelivered> {
        (**self).undelivered()
    }

    fn acknowledged(&mut self) -> u64 {
        (**self).acknowledged()
    }

    fn gave_up(&mut self, message: u64) -> bool {
        (**self).gave_up(message)
    }

    fn moves(&mut self) -> bool {
        (**self).moves()
    }

    fn is_due(&mut self, now: Instant) -> bool {
        (**self).is_due(now)
    }

    fn leave(&mut self) {
        (**self).leave();
    }

    fn close(&mut self, until: Instant) -> io::Result<()> {
        (**self).close(until)
    }
}
