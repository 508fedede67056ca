//! Messages on their way to the collector, and what is known of those before them.

use std::{
    collections::VecDeque,
    io::{self, ErrorKind},
    mem,
    sync::Arc,
    time::Instant,
};

use super::{
    batch::{Batch, Unsent},
    history::History,
};
use crate::{
    encode::{Fit, Mark, TooSmall},
    export::{
        Now,
        account::{Cargo, Load, Outlet},
        announce::Stream,
        encoder::Encoder,
        link::Link,
    },
    ipfix::{Template, element::Both},
};

/// Why records are dropped or wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// Nobody listens on the port.
    Refused,
    /// No way to the host.
    Unreachable,
    /// It is not who it should be, or does not believe that we are.
    Untrusted,
    /// More octets than the path takes.
    TooBig,
    /// The socket takes nothing now.
    Busy,
}

impl Cause {
    pub(super) fn of(error: &io::Error) -> Self {
        match (error.kind(), error.raw_os_error()) {
            (ErrorKind::ConnectionRefused, _) => Self::Refused,
            // Where the operating system says so, it is a firewall.
            (ErrorKind::PermissionDenied, None) => Self::Untrusted,
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
            Self::Untrusted => "untrusted",
            Self::TooBig => "too_big",
            Self::Busy => "socket_full",
        }
    }
}

/// Why a message was not taken.
pub(super) struct Stop {
    pub(super) cause: Cause,
    pub(super) error: io::Error,
    /// The message. Its records wait still, and its encoder is where it was before it.
    pub(super) unsent: Box<Unsent>,
}

/// The messages at hand, and the way they go.
pub(super) struct Wire<L> {
    pub(super) link: L,
    /// One for each class: an observation domain has its own sequence number (RFC 7011 §3.1).
    encoders: Vec<Encoder>,
    /// Whose messages are at hand.
    class: usize,
    pub(super) outlet: Arc<Outlet>,
    /// What is in the message that is being built.
    cargo: Cargo,
    /// Messages that are built.
    batch: Batch,
    history: History,
    /// Messages of this session that are not acknowledged.
    on_the_way: VecDeque<Cargo>,
    /// Messages of this session that are.
    acknowledged: u64,
    /// When one was last, or when the oldest of them was handed over.
    pub(super) moved: Instant,
    /// Flow records that were acknowledged, in all sessions.
    pub(super) flows_arrived: u64,
    /// Messages handed over.
    pub(super) messages: u64,
    pub(super) now: Now,
}

impl<L: Link> Wire<L> {
    pub(super) fn new(link: L, encoders: Vec<Encoder>, outlet: Arc<Outlet>, now: Now) -> Self {
        Self {
            link,
            encoders,
            class: 0,
            outlet,
            cargo: Cargo::default(),
            batch: Batch::default(),
            history: History::default(),
            on_the_way: VecDeque::new(),
            acknowledged: 0,
            moved: now.at,
            flows_arrived: 0,
            messages: 0,
            now,
        }
    }

    /// The message that is being built.
    pub(super) fn encoder(&mut self) -> &mut Encoder {
        &mut self.encoders[self.class]
    }

    /// Nothing yet, of `class`.
    fn cargo_of(&self, class: usize) -> Cargo {
        Cargo::of(class, self.link.is_spool())
    }

    /// The next messages are of `class`; those before are gone.
    pub(super) fn turn_to(&mut self, class: usize) {
        debug_assert!(
            self.encoder().is_empty() && self.batch.is_empty(),
            "a message is of one domain"
        );
        self.class = class;
        self.cargo = self.cargo_of(class);
    }

    /// Encodes up to `count` waiting records of `class`, as many as fit into the messages of a
    /// batch, `most` of them. What does not fill another message is left for the next time. Returns how many
    /// there are.
    pub(super) fn load(&mut self, class: usize, count: usize, most: u64) -> usize {
        self.turn_to(class);
        let outlet = Arc::clone(&self.outlet);
        let account = outlet.account();
        self.encoders[class].select_by(account.front(class).sampling);
        let biflows = self.encoders[class].has_biflows();
        let mut loaded = 0;
        let mut waiting = account.waiting(class).peekable();
        while loaded + self.cargo.records < count
            && let Some(record) = waiting.next()
        {
            let both = match biflows {
                true => Both::of(record, waiting.peek().copied()),
                false => None,
            };
            loop {
                let encoder = &mut self.encoders[class];
                let fit = match &both {
                    Some(both) => encoder.biflow(both),
                    None => encoder.flow(record),
                };
                match (fit, &both) {
                    (Fit::In, Some(both)) => self.cargo.add_both(both),
                    (Fit::In, None) => self.cargo.add(record),
                    (Fit::Never(reason), _) => self.cargo.pass_over(record, reason),
                    (Fit::Full, _) => {
                        loaded += self.cargo.records;
                        self.close();
                        if self.batch.is_full(most) {
                            return loaded;
                        }
                        continue;
                    }
                }
                break;
            }
            if both.is_some() {
                waiting.next();
            }
        }
        if self.batch.is_empty() {
            return self.cargo.records;
        }
        self.encoders[class].discard();
        self.cargo = self.cargo_of(class);
        loaded
    }

    /// The message that is being built is whole.
    fn close(&mut self) {
        let stamp = self.now.stamp();
        let next = self.cargo_of(self.class);
        let cargo = mem::replace(&mut self.cargo, next);
        let encoder = &mut self.encoders[self.class];
        let (before, units) = (encoder.mark(), encoder.units());
        if !encoder.is_empty() {
            self.batch.write(encoder.message(stamp));
            encoder.commit();
        } else if cargo.records == 0 {
            return;
        }
        self.batch.close(Unsent {
            cargo,
            units,
            before,
            after: encoder.mark(),
        });
    }

    /// Hands over all messages at hand.
    pub(super) fn flush(&mut self) -> Result<(), Stop> {
        self.close();
        self.history.next_batch();
        loop {
            let (taken, result) = if self.batch.has_flows() {
                self.link.send_flows(&mut self.batch.messages())
            } else {
                self.link.send_all(&mut self.batch.messages())
            };
            self.messages += taken as u64;
            for _ in 0..taken {
                self.taken();
            }
            let Some(next) = self.batch.pop() else {
                return Ok(());
            };
            if let Err(error) = result {
                self.batch.clear();
                self.encoder().go_to(next.before);
                return Err(Stop {
                    cause: Cause::of(&error),
                    error,
                    unsent: Box::new(next),
                });
            }
            // Nothing in it that its format can say.
            let mut account = self.outlet.account();
            account.settle_dropped(&next.cargo, "unfit", self.now);
        }
    }

    /// The first message at hand was taken.
    fn taken(&mut self) {
        let octets = self.batch.first();
        let Some(load) = self.batch.cargo().map(Load::from) else {
            return;
        };
        let mut account = self.outlet.account();
        // What is on disk has not been handed over.
        let counts = !self.link.is_spool();
        if counts {
            account.count_message(load.class, octets.len());
        }
        let sessions = self.link.has_sessions();
        if !sessions {
            self.history.push(octets, load);
        }
        let Some(message) = self.batch.pop() else {
            return;
        };
        if counts {
            account.count_encoded(message.units);
        }
        if sessions {
            if self.on_the_way.is_empty() {
                self.moved = self.now.at;
            }
            account.send_off(&message.cargo);
            self.on_the_way.push_back(message.cargo);
        } else {
            account.settle_sent(&message.cargo, self.now);
        }
    }

    /// The messages at hand will not go out; their records will, in others.
    pub(super) fn discard(&mut self) {
        if let Some(first) = self.batch.pop() {
            self.batch.clear();
            self.encoder().go_to(first.before);
        }
        self.encoder().discard();
        self.cargo = self.cargo_of(self.class);
    }

    /// A message will never go out. Its records keep their sequence numbers: the collector
    /// sees a gap.
    pub(super) fn lose(&mut self, unsent: &Unsent, cause: Cause) {
        let mut account = self.outlet.account();
        account.settle_dropped(&unsent.cargo, cause.label(), self.now);
        account.count_encoded(unsent.units);
        self.encoders[unsent.cargo.class].go_to(unsent.after);
    }

    /// An earlier message was not delivered.
    pub(super) fn blame(&mut self, quote: &[u8], cause: Cause) {
        if let Some(load) = self.history.take(quote, cause == Cause::Refused) {
            let mut account = self.outlet.account();
            account.undelivered(load, cause.label(), self.now);
        }
    }

    /// Messages from the quoted one on that are longer than `octets` were not delivered.
    pub(super) fn blame_longer(&mut self, quote: &[u8], octets: u16) {
        let mut account = self.outlet.account();
        for load in self.history.take_longer(quote, octets.into()) {
            account.undelivered(load, Cause::TooBig.label(), self.now);
        }
    }

    /// Messages have at most `octets` from here on.
    pub(super) fn fit(&mut self, octets: u16) -> Result<(), TooSmall> {
        self.discard();
        let mut encoders = self.encoders.iter_mut();
        encoders.try_for_each(|encoder| encoder.fit(octets))
    }

    /// Takes note of what has arrived since; returns how many messages have not.
    pub(super) fn acknowledge(&mut self) -> usize {
        let acknowledged = self.link.acknowledged();
        if self.link.moves() {
            self.moved = self.now.at;
        }
        let mut account = self.outlet.account();
        while self.acknowledged < acknowledged
            && let Some(cargo) = self.on_the_way.pop_front()
        {
            if self.link.is_spool() {
                account.settle_spooled(&cargo, self.now);
            } else if self.link.gave_up(self.acknowledged) {
                account.settle_expired(&cargo, self.now);
            } else {
                account.settle_acknowledged(&cargo, self.now);
            }
            self.acknowledged += 1;
            self.moved = self.now.at;
            self.flows_arrived += cargo.sent.records;
        }
        self.on_the_way.len()
    }

    /// Whether something of the session is not acknowledged.
    pub(super) fn has_on_the_way(&self) -> bool {
        !self.on_the_way.is_empty()
    }

    /// The session is over. What did not arrive waits again, and sequence numbers begin at 0
    /// (RFC 7011 §3.1: they count what was sent in a transport session).
    pub(super) fn end_session(&mut self) {
        self.discard();
        // What comes again in the next session must not arrive in this one, too.
        self.link.leave();
        self.acknowledge();
        let first = self.acknowledged;
        let messages = mem::take(&mut self.on_the_way);
        let fates = messages.into_iter().zip(first..);
        let fates = fates.map(|(cargo, number)| (cargo, self.link.gave_up(number)));
        self.outlet.account().take_back(fates, self.now);
        self.acknowledged = 0;
        for encoder in &mut self.encoders {
            encoder.go_to(Mark::default());
        }
    }
}

impl<L: Link> Stream for Wire<L> {
    type Stop = Stop;

    fn flow_templates(&self) -> Vec<Template> {
        self.encoders[self.class].flow_templates()
    }

    fn has_sessions(&self) -> bool {
        self.link.is_reliable()
    }

    fn outlet(&self) -> &Arc<Outlet> {
        &self.outlet
    }

    fn put(&mut self, add: impl Fn(&mut Encoder) -> bool) -> Result<(), Stop> {
        // RFC 7011 §8.3, §10.2.6: no template or option is in a message that may be given up.
        debug_assert_eq!(self.cargo.records, 0, "flows are in messages of their own");
        if !add(self.encoder()) {
            self.flush()?;
            if !add(self.encoder()) {
                unreachable!("MIN_OCTETS: an empty message holds any options record");
            }
        }
        Ok(())
    }
}
