//! What is said besides flows, and when: templates and options, again and again, and changes of a rate.

use std::time::Instant;

use super::{LISTEN_EVERY, Sender, wire::Stop};
use crate::export::link::Link;

impl<L: Link> Sender<L> {
    /// When templates and options are next due.
    pub(super) fn announce_at(&self) -> Instant {
        let due = self.told.iter().map(|told| told.again_at);
        due.min().unwrap_or(self.wire.now.at + LISTEN_EVERY)
    }

    /// Whether so many messages have gone out that templates are due (RFC 7011 §8.4). Where nothing
    /// is lost they are said once.
    pub(super) fn many_messages(&self) -> bool {
        self.until_refresh() == 0
    }

    /// How many messages may go out before.
    pub(super) fn until_refresh(&self) -> u64 {
        if self.refresh_messages == 0 || self.wire.link.is_reliable() {
            return u64::MAX;
        }
        let since = self.wire.messages - self.refreshed;
        self.refresh_messages.saturating_sub(since)
    }

    /// All is to be said again, now.
    pub(super) fn forget_told(&mut self) {
        let now = self.wire.now.at;
        self.told.iter_mut().for_each(|told| told.forget(now));
    }

    /// Templates and options of each domain, when they are due (RFC 7011 §8.4). Templates are
    /// valid in their domain only (§3.4.1). In a session they are said once (§8.1).
    pub(super) fn announce(&mut self) -> Result<(), Stop> {
        let now = self.wire.now.at;
        if self.many_messages() {
            self.forget_told();
        }
        if self.announce_at() <= now {
            self.fit();
        }
        for told in self.told.iter_mut().filter(|told| told.again_at <= now) {
            self.wire.turn_to(told.class);
            let front = self.wire.outlet.account().front(told.class);
            let interfaces = self.facts.announce(told, front, &mut self.wire)?;
            self.wire.flush()?;
            told.templates = self.wire.link.is_reliable();
            told.interfaces = interfaces;
            told.again_at = now + self.template_refresh;
            self.refreshed = self.wire.messages;
        }
        self.tell_interfaces()
    }

    /// The names of interfaces that have come since, before their flows.
    fn tell_interfaces(&mut self) -> Result<(), Stop> {
        let version = self.facts.interfaces_version();
        for told in self
            .told
            .iter_mut()
            .filter(|told| told.interfaces != version)
        {
            self.wire.turn_to(told.class);
            let interfaces = self.facts.interfaces(told.interfaces, &mut self.wire)?;
            self.wire.flush()?;
            told.interfaces = interfaces;
        }
        Ok(())
    }

    /// Tells the changes of rates that are next in their queues.
    pub(super) fn changes(&mut self) -> Result<(), Stop> {
        loop {
            let (class, sampling, front) = {
                let mut account = self.wire.outlet.account();
                account.bring_back();
                let Some((class, sampling)) = account.change() else {
                    return Ok(());
                };
                (class, sampling, account.front(class))
            };
            self.wire.turn_to(class);
            let told = &self.told[class];
            self.facts.change(told, front, sampling, &mut self.wire)?;
            self.wire.flush()?;
            // Only what was handed over counts as told; else all of it is said again.
            self.wire.outlet.account().settle_change(class);
        }
    }
}
