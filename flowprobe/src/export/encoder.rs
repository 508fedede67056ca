//! The format that a collector reads.

use crate::{
    encode::{Fit, Mark, Stamp},
    ipfix::{
        self, Template,
        options::{OptionsRecord, TakesOptions},
    },
    record::FlowRecord,
};

/// Builds the messages of one stream in one observation domain, in the format of its collector.
#[derive(Debug)]
pub(super) enum Encoder {
    /// IPFIX (RFC 7011).
    Ipfix(ipfix::Encoder),
}

macro_rules! delegate {
    ($self:ident, $encoder:ident => $call:expr) => {
        match $self {
            Self::Ipfix($encoder) => $call,
        }
    };
}

impl Encoder {
    /// Adds a template, where the format has it; false if the message is full.
    #[must_use]
    pub(super) fn template(&mut self, template: &Template) -> bool {
        delegate!(self, encoder => encoder.template(template))
    }

    /// Withdraws a template, where the format can; false if the message is full.
    #[must_use]
    pub(super) fn withdraw(&mut self, template: &Template) -> bool {
        delegate!(self, encoder => encoder.withdraw(template))
    }

    /// Adds a flow record.
    #[inline]
    pub(super) fn flow(&mut self, record: &FlowRecord) -> Fit {
        delegate!(self, encoder => encoder.flow(record))
    }

    /// The message as it goes out.
    pub(super) fn message(&mut self, now: Stamp) -> &[u8] {
        delegate!(self, encoder => encoder.message(now))
    }

    /// Octets that are left for records and their set headers.
    pub(super) fn remaining(&self) -> usize {
        delegate!(self, encoder => encoder.remaining())
    }

    /// Whether nothing has been added since the last message.
    pub(super) fn is_empty(&self) -> bool {
        delegate!(self, encoder => encoder.is_empty())
    }

    /// How far it has come with what is committed.
    pub(super) fn mark(&self) -> Mark {
        delegate!(self, encoder => encoder.mark())
    }

    /// Goes to where it was, or would have been. The message at hand is gone.
    pub(super) fn go_to(&mut self, mark: Mark) {
        delegate!(self, encoder => encoder.go_to(mark));
    }

    /// By how much [`Self::commit`] will advance the sequence number.
    pub(super) fn units(&self) -> u32 {
        delegate!(self, encoder => encoder.units())
    }

    /// The message has its sequence number: the next one begins.
    pub(super) fn commit(&mut self) {
        delegate!(self, encoder => encoder.commit());
    }

    /// The message is never sent: its records will be encoded again.
    pub(super) fn discard(&mut self) {
        delegate!(self, encoder => encoder.discard());
    }
}

impl TakesOptions for Encoder {
    /// Adds an options record, where the format has it.
    fn options<R: OptionsRecord>(&mut self, record: &R) -> bool {
        delegate!(self, encoder => encoder.options(record))
    }
}
