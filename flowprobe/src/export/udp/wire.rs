//! The message at hand on its way to the collector, and what is known of those before it.

use std::{
    io::{self, ErrorKind},
    sync::Arc,
};

use super::history::{Cargo, History};
use crate::{
    export::{Now, account::Outlet, announce::Stream},
    ipfix::Encoder,
};

/// Takes datagrams to one collector.
pub(in crate::export) trait Link {
    /// Hands a datagram to the network, or fails at once.
    fn send(&mut self, datagram: &[u8]) -> io::Result<()>;

    /// The next datagram that the network reports as undelivered.
    fn undelivered(&mut self) -> Option<Undelivered>;
}

/// What the network says of an earlier datagram.
#[derive(Debug)]
pub(in crate::export) struct Undelivered {
    /// Why.
    pub(super) error: io::Error,
    /// The first octets of the datagram, as many as came back; may be none.
    pub(super) quote: Vec<u8>,
}

/// Why records are dropped or wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody listens on the port.
    Refused,
    /// No way to the host.
    Unreachable,
    /// More octets than the path takes.
    TooBig,
    /// The socket takes nothing now.
    Busy,
}

impl Cause {
    pub(super) fn of(error: &io::Error) -> Self {
        match (error.kind(), error.raw_os_error()) {
            (ErrorKind::ConnectionRefused, _) => Self::Refused,
            (ErrorKind::WouldBlock, _) | (_, Some(libc::ENOBUFS | libc::ENOMEM)) => Self::Busy,
            (_, Some(libc::EMSGSIZE)) => Self::TooBig,
            // No route, no neighbour, an interface that is down, a firewall's veto.
            _ => Self::Unreachable,
        }
    }

    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TooBig => "too_big",
            Self::Busy => "socket_full",
        }
    }
}

/// Why a message was not taken. It is still in the encoder.
pub(super) struct Stop {
    pub(super) cause: Cause,
    pub(super) error: io::Error,
}

/// The message at hand, and the way it goes.
pub(super) struct Wire<L> {
    pub(super) link: L,
    /// One for each class: an observation domain has its own sequence number (RFC 7011 §3.1).
    encoders: Vec<Encoder>,
    /// Whose message is at hand.
    class: usize,
    pub(super) outlet: Arc<Outlet>,
    history: History,
    /// Flow records in the message at hand.
    pub(super) flows: usize,
    pub(super) now: Now,
}

impl<L: Link> Wire<L> {
    pub(super) fn new(link: L, encoders: Vec<Encoder>, outlet: Arc<Outlet>, now: Now) -> Self {
        Self {
            link,
            encoders,
            class: 0,
            outlet,
            history: History::default(),
            flows: 0,
            now,
        }
    }

    /// The message at hand.
    pub(super) fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoders[self.class]
    }

    /// The next message is of `class`; the one before is gone.
    pub(super) fn turn_to(&mut self, class: usize) {
        debug_assert!(self.encoder().is_empty(), "a message is of one domain");
        self.class = class;
    }

    /// Encodes up to `count` waiting records of `class`, as many as fit.
    pub(super) fn load(&mut self, class: usize, count: usize) {
        self.turn_to(class);
        let outlet = Arc::clone(&self.outlet);
        let account = outlet.account();
        let encoder = self.encoder();
        let waiting = account.waiting(class).take(count);
        self.flows = waiting.take_while(|record| encoder.flow(record)).count();
    }

    /// Sends the message at hand, if there is anything in it.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        let encoder = &mut self.encoders[self.class];
        if encoder.is_empty() {
            return Ok(());
        }
        let message = encoder.message(self.now.unix_s());
        self.link.send(message).map_err(|error| Stop {
            cause: Cause::of(&error),
            error,
        })?;
        let mut account = self.outlet.account();
        let class = self.class;
        account.count_message(class, message.len());
        let volume = account.settle_sent(class, self.flows);
        self.history.push(message, Cargo { class, volume });
        account.count_encoded(encoder.data_records());
        encoder.commit();
        self.flows = 0;
        Ok(())
    }

    /// The message will not go out; its records will, in another one.
    pub(super) fn discard(&mut self) {
        self.encoder().discard();
        self.flows = 0;
    }

    /// The message will never go out. Its records keep their sequence numbers: the collector
    /// sees a gap.
    pub(super) fn lose(&mut self, cause: Cause) {
        let encoder = &mut self.encoders[self.class];
        let mut account = self.outlet.account();
        account.settle_dropped(self.class, self.flows, cause.label(), self.now);
        account.count_encoded(encoder.data_records());
        encoder.commit();
        self.flows = 0;
    }

    /// An earlier message was not delivered.
    pub(super) fn blame(&mut self, quote: &[u8], cause: Cause) {
        if let Some(Cargo { class, volume }) = self.history.take(quote) {
            let mut account = self.outlet.account();
            account.undelivered(class, volume, cause.label(), self.now);
        }
    }
}

impl<L: Link> Stream for Wire<L> {
    type Stop = Stop;

    fn put(&mut self, add: impl Fn(&mut Encoder) -> bool) -> Result<(), Stop> {
        if !add(self.encoder()) {
            self.flush()?;
            if !add(self.encoder()) {
                unreachable!("MIN_OCTETS: an empty message holds any options record");
            }
        }
        Ok(())
    }
}
