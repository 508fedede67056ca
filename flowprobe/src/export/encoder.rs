//! The format that a collector reads.

use super::{Collector, Format, NamedTemplate, NoTemplate, template::chosen};
use crate::{
    encode::{Fit, Mark, Stamp, TooSmall},
    ipfix::{
        self, Fields, Template,
        element::Both,
        options::{OptionsRecord, TakesOptions},
    },
    netflow::{v5, v9},
    record::FlowRecord,
    sampling::Sampling,
};

/// What flow records have in them, where the format leaves a choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Content {
    /// Whether single VLAN tags are told by the elements of 802.1Q too.
    pub dot1q: bool,
    /// Which fields, of IPFIX and NetFlow v9; all where it is not said.
    pub fields: Option<Fields>,
    /// What collectors may ask for in the place of these fields.
    pub templates: Vec<NamedTemplate>,
    /// Whether the two halves of a biflow are one record, of IPFIX (RFC 5103).
    pub biflows: bool,
}

impl Content {
    /// An element without which records do not say how much they count, if fields lack one.
    pub(super) fn uncounted(&self) -> Option<&'static str> {
        const THERE: [&str; 2] = ["packetDeltaCount", "octetDeltaCount"];
        const BACK: [&str; 2] = ["reversePacketDeltaCount", "reverseOctetDeltaCount"];
        let fields = self.fields.as_ref()?;
        let back = self.biflows && fields.of_biflows().is_some();
        let mut needed = THERE.iter().chain(BACK.iter().filter(|_| back));
        needed.find(|name| !fields.has(name)).copied()
    }

    /// What the records of this collector have in them.
    pub(super) fn of(&self, collector: &Collector) -> Result<Self, NoTemplate> {
        let chosen = chosen(collector, &self.templates)?;
        Ok(Self {
            dot1q: self.dot1q,
            fields: chosen.or(self.fields.as_ref()).cloned(),
            templates: Vec::new(),
            biflows: self.biflows,
        })
    }
}

/// Builds the messages of one stream in one observation domain, in the format of its collector.
#[derive(Debug)]
pub(super) enum Encoder {
    /// IPFIX (RFC 7011).
    Ipfix(ipfix::Encoder),
    /// NetFlow version 9 (RFC 3954).
    V9(v9::Encoder),
    /// NetFlow version 5.
    V5(Box<v5::Encoder>),
}

macro_rules! delegate {
    ($self:ident, $encoder:ident => $call:expr) => {
        match $self {
            Self::Ipfix($encoder) => $call,
            Self::V9($encoder) => $call,
            Self::V5($encoder) => $call,
        }
    };
}

impl Encoder {
    /// An encoder whose messages have at most `max_octets`.
    pub(super) fn new(
        format: Format,
        observation_domain: u32,
        max_octets: u16,
        content: &Content,
    ) -> Result<Self, TooSmall> {
        let dot1q = content.dot1q;
        match format {
            Format::Ipfix => {
                let mut encoder = ipfix::Encoder::new(observation_domain, max_octets)?;
                encoder.use_dot1q(dot1q);
                encoder.use_fields(content.fields.clone());
                // Without a reverse field the way back would be lost: then it is a record too.
                let has_reverse = |fields: &Fields| fields.of_biflows().is_some();
                if content.biflows && content.fields.as_ref().is_none_or(has_reverse) {
                    encoder.use_biflows()?;
                }
                Ok(Self::Ipfix(encoder))
            }
            Format::V9 => {
                let mut encoder = v9::Encoder::new(observation_domain, max_octets)?;
                encoder.use_dot1q(dot1q);
                encoder.use_fields(content.fields.as_ref());
                Ok(Self::V9(encoder))
            }
            Format::V5 => v5::Encoder::new(observation_domain, max_octets)
                .map(|encoder| Self::V5(Box::new(encoder))),
        }
    }

    /// Messages have at most `max_octets` from here on. The message at hand has to be empty.
    pub(super) fn fit(&mut self, max_octets: u16) -> Result<(), TooSmall> {
        delegate!(self, encoder => encoder.fit(max_octets))
    }

    /// Flow records of a message that is full for sure.
    pub(super) fn full_message(&self) -> usize {
        match self {
            Self::Ipfix(encoder) => encoder.full_message(),
            Self::V9(encoder) => encoder.full_message(),
            Self::V5(encoder) => encoder.remaining() / v5::RECORD,
        }
    }

    /// The templates of flow records, where the format has any.
    pub(super) fn flow_templates(&self) -> Vec<Template> {
        match self {
            Self::Ipfix(encoder) => encoder.flow_templates(),
            Self::V9(encoder) => encoder.flow_templates(),
            Self::V5(_) => Vec::new(),
        }
    }

    /// Whether a template is a message of its own: something to ask with whether anybody is there.
    pub(super) fn has_templates(&self) -> bool {
        !matches!(self, Self::V5(_))
    }

    /// The flows from here on were sampled so. Other formats than v5 say it in options.
    pub(super) fn select_by(&mut self, sampling: Sampling) {
        if let Self::V5(encoder) = self {
            encoder.select_by(sampling);
        }
    }

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

    /// Whether the two halves of a biflow are one record. Other formats than IPFIX have no reverse
    /// elements: there each half is a record of its own.
    pub(super) fn has_biflows(&self) -> bool {
        matches!(self, Self::Ipfix(encoder) if encoder.has_biflows())
    }

    /// Adds a biflow, where [`Self::has_biflows`].
    pub(super) fn biflow(&mut self, both: &Both<'_>) -> Fit {
        match self {
            Self::Ipfix(encoder) => encoder.biflow(both),
            Self::V9(_) | Self::V5(_) => Fit::Never("biflow"),
        }
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
