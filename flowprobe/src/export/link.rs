//! The ways to a collector.

mod alert;
mod connection;
mod dial;
pub(super) mod dtls;
mod error;
pub(super) mod file;
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

use std::{io, time::Instant};

pub use self::trust::TlsError;

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

    /// Moves on what `send` has taken and the kernel not yet. An error is the end of the session.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// The next datagram that the network reports as undelivered.
    fn undelivered(&mut self) -> Option<Undelivered> {
        None
    }

    /// Messages of the session that the other side's transport has acknowledged.
    fn acknowledged(&mut self) -> u64 {
        0
    }

    /// Whether the session shall end now, and a new one begin, without anything being wrong.
    fn is_due(&mut self, now: Instant) -> bool {
        let _ = now;
        false
    }

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
