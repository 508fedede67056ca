//! IPFIX over DTLS 1.2 (RFC 7011 §11): a session over UDP, one message in each datagram.
//!
//! Nothing is acknowledged. A message counts as arrived if no ICMP error has come back for a while, or
//! if one that was sent behind it is the first to be refused; so a collector that has ended, on a host
//! that is still there, loses and doubles next to nothing. Templates have to be repeated, as with UDP
//! (§8.4).
//!
//! What no one notices: a host that is gone, and a collector that has started again so quickly that
//! its port was never closed. It does not know the session and drops what it gets without a word. So
//! a session has a lifetime, and then another follows.

mod datagrams;

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    mem,
    net::SocketAddr,
    thread,
    time::{Duration, Instant},
};

use openssl::ssl::{ErrorCode, SslStream};

use self::datagrams::Datagrams;
use super::{
    Link, alert,
    dial::{Peer, STEP},
    error::Broken,
    icmp, path,
    sys::{self, Ready},
    trust::{Handshake, Kind, TlsError, Trust},
    verdict::Verdict,
};
use crate::{export::Identity, ipfix::message::PACKET_OVERHEAD};

/// Octets around a message in its datagram: record header (RFC 6347 §4.1), and for the suites of
/// [`super::trust`] an explicit nonce of 8 at most and a tag of 16 (RFC 5288 §3, RFC 7905 §2).
pub(in crate::export) const OVERHEAD: u16 = 13 + 8 + 16;

/// How long a handshake may take: its messages are sent at 0, 1, 3 and 7 s (RFC 6347 §4.2.4).
const PATIENCE: Duration = Duration::from_secs(10);
/// How long an ICMP error may take to come back.
const SETTLED: Duration = Duration::from_millis(300);
/// Datagrams read at a time; a collector sends none but alerts.
const LISTEN: usize = 16;

/// DTLS sessions with a collector.
#[derive(Debug)]
pub(in crate::export) struct Dtls {
    peer: Peer,
    trust: Trust,
    /// Octets of the largest datagram, without UDP header.
    datagram: u16,
    lifetime: Duration,
    session: Session,
}

#[derive(Debug)]
enum Session {
    /// None, and how many messages of the latest one count as arrived.
    Down(u64),
    Beginning(Talk),
    Up(Talk),
}

/// One session.
#[derive(Debug)]
struct Talk {
    ssl: SslStream<Datagrams>,
    verdict: Verdict,
    is_named: bool,
    address: SocketAddr,
    began: Instant,
    /// Messages that an error may still come back for: when they were sent, and the numbers of
    /// their records.
    recent: VecDeque<(Instant, Number)>,
    settled: u64,
}

impl Dtls {
    /// The octets that a message may have where packets, with IP header and all, have up to `mtu`.
    pub(in crate::export) const fn max_message(mtu: u16) -> u16 {
        mtu.saturating_sub(PACKET_OVERHEAD + OVERHEAD)
    }

    /// A link to `port` of `host`, a name or an address without brackets. Packets have up to `mtu`
    /// octets, and a session lasts for `lifetime`. Nothing is sent yet.
    ///
    /// # Errors
    /// If a file cannot be read or used.
    pub(in crate::export) fn new(
        host: &str,
        port: u16,
        identity: &Identity,
        mtu: u16,
        lifetime: Duration,
    ) -> Result<Self, TlsError> {
        Ok(Self {
            peer: Peer::new(host, port),
            trust: Trust::new(Kind::Dtls, host, identity)?,
            datagram: mtu.saturating_sub(PACKET_OVERHEAD),
            lifetime,
            session: Session::Down(0),
        })
    }

    /// Does something with the session; an error ends it.
    fn act<T>(&mut self, act: impl FnOnce(&mut Talk) -> io::Result<T>) -> io::Result<T> {
        let Session::Up(talk) = &mut self.session else {
            return Err(Broken::NoSession.into());
        };
        let done = act(talk);
        if done.is_err() {
            talk.settle_before_refused();
            self.session = Session::Down(talk.settled);
        }
        done
    }

    fn begin(&mut self, address: SocketAddr) -> io::Result<Talk> {
        let failed = |source| Broken::Connect { address, source };
        let datagrams = Datagrams::connected(address).map_err(failed)?;
        let Handshake {
            mut ssl,
            verdict,
            is_named,
            ..
        } = self.trust.handshake().map_err(io::Error::other)?;
        // The handshake has to fit, too.
        let path = path::datagram_octets(&datagrams.socket, address).unwrap_or(u16::MAX);
        ssl.set_mtu(self.datagram.min(path).into())?;
        Ok(Talk {
            ssl: SslStream::new(ssl, datagrams)?,
            verdict,
            is_named,
            address,
            began: Instant::now(),
            recent: VecDeque::new(),
            settled: 0,
        })
    }
}

/// Epoch and sequence number of a record: 2 and 6 octets, which go up together.
type Number = u64;

/// The number in the header of a record (RFC 6347 §4.1), behind its type and version.
fn number(record: &[u8]) -> Option<Number> {
    let octets = record.get(3..11)?.first_chunk()?;
    Some(u64::from_be_bytes(*octets))
}

impl Talk {
    fn explain(&self, error: openssl::ssl::Error) -> io::Error {
        let error = alert::explain(error, &self.verdict, self.is_named);
        if error.raw_os_error().is_none() {
            return error;
        }
        let address = self.address;
        Broken::Connect {
            address,
            source: error,
        }
        .into()
    }

    /// A step of the handshake; whether it is done. It sends again what was not answered, as often
    /// as it is time for that.
    fn shake_hands(&mut self, now: Instant) -> io::Result<bool> {
        let done = self.ssl.do_handshake();
        let pushed = self.push();
        match done {
            Ok(()) => return pushed.map(|_| true),
            Err(error) if error.code() == ErrorCode::WANT_READ => pushed.map(drop)?,
            Err(error) => return Err(self.explain(error)),
        }
        if now >= self.began + PATIENCE {
            return Err(Broken::Slow {
                what: "the DTLS handshake",
                address: self.address,
                seconds: PATIENCE.as_secs(),
            }
            .into());
        }
        sys::wait(&self.ssl.get_ref().socket, Ready::Read, STEP);
        Ok(false)
    }

    /// Hands on what the kernel takes; whether that is all.
    fn push(&mut self) -> io::Result<bool> {
        let address = self.address;
        let pushed = self.ssl.get_mut().push();
        pushed.map_err(|source| Broken::Connect { address, source }.into())
    }

    fn say(&mut self, message: &[u8]) -> io::Result<()> {
        // The outbox takes it, so this does not have to wait.
        let said = self.ssl.ssl_write(message);
        said.map_err(|error| self.explain(error))?;
        let record = self.ssl.get_ref().outbox.back();
        let number = record.and_then(|record| number(record));
        self.recent
            .push_back((Instant::now(), number.unwrap_or_default()));
        self.push().map(drop)
    }

    fn listen(&mut self) -> io::Result<()> {
        let mut ignored = [0; 1 << 11];
        for _ in 0..LISTEN {
            match self.ssl.ssl_read(&mut ignored) {
                Ok(_) => {}
                Err(error) if error.code() == ErrorCode::WANT_READ => break,
                Err(error) => return Err(self.explain(error)),
            }
        }
        Ok(())
    }

    /// Messages that no error will come back for any more.
    fn settle(&mut self, now: Instant) {
        self.settle_while(|(sent, _)| now >= *sent + SETTLED);
    }

    fn settle_while(&mut self, is_settled: impl Fn(&(Instant, Number)) -> bool) {
        while self.recent.pop_front_if(|sent| is_settled(sent)).is_some() {
            self.settled += 1;
        }
    }

    /// After the end: a datagram that was refused names its record, and those before it have found
    /// somebody. (Hosts refuse a few in a row, and then only one a second.)
    fn settle_before_refused(&mut self) {
        while let Some(report) = icmp::next(&self.ssl.get_ref().socket) {
            if report.error.kind() == ErrorKind::ConnectionRefused
                && let Some(refused) = number(&report.quote)
            {
                return self.settle_while(|(_, number)| *number < refused);
            }
        }
    }
}

impl Link for Dtls {
    fn has_sessions(&self) -> bool {
        true
    }

    fn is_reliable(&self) -> bool {
        false
    }

    fn open(&mut self, now: Instant) -> io::Result<bool> {
        let mut talk = match mem::replace(&mut self.session, Session::Down(0)) {
            Session::Up(talk) => {
                self.session = Session::Up(talk);
                return Ok(true);
            }
            Session::Beginning(talk) => talk,
            Session::Down(_) => match self.peer.next()? {
                Some(address) => self.begin(address)?,
                None => return Ok(false),
            },
        };
        let is_up = talk.shake_hands(now)?;
        self.session = if is_up {
            self.peer.settle();
            Session::Up(talk)
        } else {
            Session::Beginning(talk)
        };
        Ok(is_up)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        if message.len() > usize::from(self.datagram.saturating_sub(OVERHEAD)) {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        let taken = self.act(|talk| {
            let has_room = talk.push()?;
            if has_room {
                talk.say(message)?;
            }
            Ok(has_room)
        })?;
        taken.then_some(()).ok_or(ErrorKind::WouldBlock.into())
    }

    fn path_octets(&mut self) -> Option<u16> {
        let Session::Up(talk) = &self.session else {
            return None;
        };
        let socket = &talk.ssl.get_ref().socket;
        let octets = path::datagram_octets(socket, talk.address)?;
        Some(octets.saturating_sub(OVERHEAD))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.act(|talk| {
            talk.listen()?;
            talk.push().map(drop)
        })
    }

    fn acknowledged(&mut self) -> u64 {
        match &mut self.session {
            Session::Down(settled) => *settled,
            Session::Beginning(_) => 0,
            Session::Up(talk) => {
                talk.settle(Instant::now());
                talk.settled
            }
        }
    }

    fn is_due(&mut self, now: Instant) -> bool {
        matches!(&self.session, Session::Up(talk) if now >= talk.began + self.lifetime)
    }

    fn close(&mut self, until: Instant) -> io::Result<()> {
        while let Session::Up(talk) = &mut self.session {
            let now = Instant::now();
            talk.settle(now);
            if talk.recent.is_empty() {
                // It fails only where the session has failed, and then nobody waits for it.
                let _ = talk.ssl.shutdown();
                let pushed = talk.push();
                self.session = Session::Down(talk.settled);
                return pushed.map(drop);
            }
            if now >= until {
                return Err(ErrorKind::WouldBlock.into());
            }
            thread::sleep(until.saturating_duration_since(now).min(STEP));
            self.flush()?;
        }
        if let Session::Beginning(_) = self.session {
            self.session = Session::Down(0);
        }
        Ok(())
    }
}
