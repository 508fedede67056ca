//! IPFIX over TLS (RFC 7011 §11): TLS 1.2 or 1.3 on a TCP connection.
//!
//! A message is acknowledged once the last octet of its record is.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use openssl::ssl::{ErrorCode, SslStream, SslVersion};

use super::{
    alert,
    connection::{Connection, Protocol, Speaker},
    dial::{Peer, STEP},
    error::Broken,
    stream::Stream,
    sys::{self, Ready},
    trust::{Handshake, Kind, TlsError, Trust},
    verdict::Verdict,
};
use crate::export::Identity;

/// How long a handshake may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// With TLS 1.3 a handshake ends before the collector has seen our certificate, and TCP would
/// acknowledge what a collector throws away that does not like it. So its ticket is waited for, or its
/// alert; for no longer than this, since not all collectors give tickets.
const CONFIRMATION: Duration = Duration::from_secs(1);
/// A collector sends nothing but alerts and tickets; no more than this is read at a time.
const LISTEN: usize = 16;

/// TLS around the messages.
#[derive(Debug)]
pub(in crate::export) struct Sealed {
    trust: Trust,
}

/// A TLS session with a collector.
pub(in crate::export) type Tls = Connection<Sealed>;

impl Tls {
    /// A link to `port` of `host`, a name or an address without brackets. Nothing is sent yet.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub(in crate::export) fn new(
        host: &str,
        port: u16,
        identity: &Identity,
    ) -> Result<Self, TlsError> {
        let trust = Trust::new(Kind::Tls, host, identity)?;
        Ok(Self::with(Sealed { trust }, Peer::new(host, port)))
    }
}

/// A connection that speaks TLS.
#[derive(Debug)]
pub(in crate::export) struct SealedStream {
    ssl: SslStream<Stream>,
    verdict: Verdict,
    is_named: bool,
    ticket: Arc<AtomicBool>,
    address: SocketAddr,
    phase: Phase,
}

#[derive(Clone, Copy, Debug)]
enum Phase {
    /// The handshake has to be done by then.
    Handshake(Instant),
    /// It is done, and the collector has until then to say that it is not.
    Confirmation(Instant),
    Up,
}

impl Protocol for Sealed {
    type Speaker = SealedStream;

    fn begin(&mut self, stream: Stream, address: SocketAddr) -> io::Result<SealedStream> {
        let Handshake {
            ssl,
            verdict,
            is_named,
            ticket,
        } = self.trust.handshake().map_err(io::Error::other)?;
        Ok(SealedStream {
            ssl: SslStream::new(ssl, stream)?,
            verdict,
            is_named,
            ticket,
            address,
            phase: Phase::Handshake(Instant::now() + PATIENCE),
        })
    }
}

impl SealedStream {
    fn explain(&self, error: openssl::ssl::Error) -> io::Error {
        alert::explain(error, &self.verdict, self.is_named)
    }

    /// A step of the handshake; whether it is done.
    fn shake_hands(&mut self) -> io::Result<bool> {
        let done = self.ssl.do_handshake();
        let pushed = self.ssl.get_mut().push();
        match done {
            Ok(()) => pushed.map(|_| true),
            Err(error) if error.code() == ErrorCode::WANT_READ => pushed.map(|_| false),
            Err(error) => Err(self.explain(error)),
        }
    }
}

impl Speaker for SealedStream {
    fn set_up(&mut self, now: Instant) -> io::Result<bool> {
        match self.phase {
            Phase::Handshake(until) => {
                if self.shake_hands()? {
                    self.phase = match self.ssl.ssl().version2() {
                        Some(SslVersion::TLS1_3) => Phase::Confirmation(now + CONFIRMATION),
                        _ => Phase::Up,
                    };
                } else if now >= until {
                    return Err(Broken::Slow {
                        what: "the TLS handshake",
                        address: self.address,
                        seconds: PATIENCE.as_secs(),
                    }
                    .into());
                }
            }
            Phase::Confirmation(until) => {
                self.listen()?;
                if now >= until || self.ticket.load(Ordering::Relaxed) {
                    self.phase = Phase::Up;
                }
            }
            Phase::Up => {}
        }
        let is_up = matches!(self.phase, Phase::Up);
        if !is_up {
            sys::wait(self.ssl.get_ref().socket(), Ready::Read, STEP);
        }
        Ok(is_up)
    }

    fn say(&mut self, mut message: &[u8]) -> io::Result<()> {
        while !message.is_empty() {
            // The outbox takes everything, so this does not have to wait.
            match self.ssl.ssl_write(message) {
                Ok(octets) => message = &message[octets..],
                Err(error) => return Err(self.explain(error)),
            }
        }
        Ok(())
    }

    fn listen(&mut self) -> io::Result<()> {
        let mut ignored = [0; 1024];
        for _ in 0..LISTEN {
            match self.ssl.ssl_read(&mut ignored) {
                Ok(_) => {}
                Err(error) if error.code() == ErrorCode::WANT_READ => break,
                Err(error) => return Err(self.explain(error)),
            }
        }
        Ok(())
    }

    fn say_goodbye(&mut self) {
        // It fails only where the session has failed, and then nobody waits for it.
        let _ = self.ssl.shutdown();
    }

    fn stream(&mut self) -> &mut Stream {
        self.ssl.get_mut()
    }
}
