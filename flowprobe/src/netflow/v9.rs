//! NetFlow v9 (RFC 3954).
//!
//! Flow records have the fields of IPFIX, by the same numbers, but for their times: FIRST_SWITCHED
//! and LAST_SWITCHED (22, 21), which every collector of v9 reads. goflow2 reads no others in v9;
//! nfdump and nfacctd read 152 and 153 there too. RFC 3954 §8 has numbers up to 89; those above are
//! IPFIX's, and collectors skip what they do not know. Of tunnels the outer header is first here
//! too, and nfdump and nfacctd take the packet inside for the flow. Where a user asks for some fields,
//! they are those, in that order.
//!
//! | options | in v9 |
//! |---|---|
//! | sampling rate | scope System, 34; 34 and 35; or 48, 49 and 50, as the profile says |
//! | interface names | scope Interface, 82 and 83 |
//! | metering statistics | scope System, 40, 41 and 42; without the process |
//! | selectors and selection sequences (PSAMP) | none: 34 says it |
//! | reliability statistics | none |
//! | flow keys | none |
//! | names of domains | none |
//!
//! What collectors make of it, tried with the messages of this encoder:
//!
//! | | nfdump 1.7.1 | nfacctd 1.7.7 | tshark 4.0.17 |
//! |---|---|---|---|
//! | every field of all eight templates | those it has a place for | those it has a place for | all but 507 |
//! | times | to the millisecond | to the second, as for every v9 | by uptime |
//! | rate in options, 34 | scales | scales | shown |
//! | rate in options, 34 and 35 | does not see it | scales | shown |
//! | rate in options, 48 to 50 | does not see it | does not see it | shown |
//! | rate in flows, 34 | does not see it | scales | shown |
//! | a rate that changes | from the new options on | from the new options on | shown |
//! | several options templates in a flowset | reads the first one | reads the first one, and drops the rest of the message | all |
//! | a message that is missing | counts it | | says so |

mod body;
mod part;
mod table;

use self::{
    body::{Body, FLOWSET_HEADER, aligned},
    part::{Parts, Piece},
    table::Time,
};
use super::{
    TIME,
    uptime::{Misfit, Span},
};
use crate::{
    encode::{Fit, Mark, Stamp, TooSmall},
    ipfix::{self, Fields, Template, element, options::OptionsRecord},
    record::FlowRecord,
};

/// Octets of the message header (RFC 3954 §5.1).
pub const HEADER: usize = 20;

/// Smallest message that any template, flow record or group of options records fits in, as in
/// IPFIX: nothing is longer than there, but for the header and the padding.
pub const MIN_OCTETS: usize = aligned(ipfix::message::MIN_OCTETS + HEADER - ipfix::message::HEADER);

/// Version in the header.
const VERSION: u16 = 9;
/// Flowset of templates (RFC 3954 §5.2).
const TEMPLATES: u16 = 0;
/// Flowset of options templates (RFC 3954 §6.1).
const OPTIONS_TEMPLATES: u16 = 1;

/// A time in the message, written when those of the header are known.
#[derive(Clone, Copy, Debug)]
struct Moment {
    at: usize,
    /// In milliseconds since 1970-01-01 UTC.
    unix_ms: u64,
}

impl Moment {
    fn of(record: &FlowRecord, time: Time, at: usize) -> Self {
        let unix_ms = match time {
            Time::Start => record.start_ms.min(record.end_ms),
            Time::End => record.end_ms,
        };
        Self { at, unix_ms }
    }
}

/// Builds the messages of one exporter and source id, one at a time.
///
/// As [`ipfix::Encoder`]: records go in until one does not fit, [`Self::message`] is what to send,
/// and then [`Self::commit`] or [`Self::discard`] starts the next message.
#[derive(Debug)]
pub struct Encoder {
    source_id: u32,
    body: Body,
    /// Messages committed, modulo 2³².
    sequence: u32,
    span: Span,
    moments: Vec<Moment>,
    /// See [`Self::use_dot1q`].
    dot1q: bool,
    /// See [`Self::use_fields`].
    parts: Option<Parts>,
}

impl Encoder {
    /// An encoder whose messages have at most `max_octets`.
    ///
    /// # Errors
    /// If that is less than [`MIN_OCTETS`].
    pub fn new(observation_domain: u32, max_octets: u16) -> Result<Self, TooSmall> {
        let limit = usize::from(max_octets);
        if limit < MIN_OCTETS {
            return Err(TooSmall {
                octets: limit,
                least: MIN_OCTETS,
            });
        }
        Ok(Self {
            source_id: observation_domain,
            body: Body::new(limit),
            sequence: 0,
            span: Span::default(),
            moments: Vec::new(),
            dot1q: false,
            parts: None,
        })
    }

    /// Messages have at most `max_octets` from here on. The message at hand has to be empty.
    ///
    /// # Errors
    /// If that is less than [`MIN_OCTETS`]; nothing has changed then.
    pub fn fit(&mut self, max_octets: u16) -> Result<(), TooSmall> {
        let limit = usize::from(max_octets);
        if limit < MIN_OCTETS {
            return Err(TooSmall {
                octets: limit,
                least: MIN_OCTETS,
            });
        }
        debug_assert!(
            self.is_empty(),
            "what is in the message may not fit any more"
        );
        self.body = Body::new(limit);
        Ok(())
    }

    /// Adds a template, if it is of flows or of options that have a form in v9; false if the
    /// message is full.
    #[must_use]
    pub fn template(&mut self, template: &Template) -> bool {
        let part = self.parts.as_ref();
        let part = part.and_then(|parts| parts.template(template.id)).copied();
        let template = part.as_ref().unwrap_or(template);
        let Some(shape) = table::Shape::of(template) else {
            return true;
        };
        let flowset = if template.scopes == 0 {
            TEMPLATES
        } else {
            // In a flowset to itself: nfdump 1.7.1 and nfacctd 1.7.7 read the first one only.
            self.body.close();
            OPTIONS_TEMPLATES
        };
        let Some(to) = self.body.room(flowset, shape.encoded_length()) else {
            return false;
        };
        shape.encode(to);
        true
    }

    /// Does nothing: there are no withdrawals in v9. A template that is not sent any more is
    /// forgotten in the end (RFC 3954 §9).
    #[must_use]
    pub fn withdraw(&mut self, _: &Template) -> bool {
        true
    }

    /// Adds a flow record.
    #[inline]
    pub fn flow(&mut self, record: &FlowRecord) -> Fit {
        let has_times = self.parts.as_ref().is_none_or(|parts| parts.have_times);
        let span = match self.span.with(record) {
            // Nothing in the message is counted from the times of its header.
            _ if !has_times => self.span,
            Ok(span) => span,
            Err(Misfit::Apart) => return Fit::Full,
            Err(Misfit::Ever) => return Fit::Never(TIME),
        };
        let added = match self.parts {
            None => self.add_whole(record),
            Some(_) => self.add_part(record),
        };
        if added.is_none() {
            return Fit::Full;
        }
        self.span = span;
        Fit::In
    }

    /// Adds a record with all fields, unless the message is full.
    #[inline]
    fn add_whole(&mut self, record: &FlowRecord) -> Option<()> {
        let mut times_at = 0;
        let body = &mut self.body;
        let added = element::encode(record, self.dot1q, |template| {
            let octets = table::record_length(template);
            let start = body.reserve(template.id, octets)?;
            times_at = start + table::times_at(template);
            Some(&mut body.buffer[start..start + template.record_length()])
        });
        if !added {
            return None;
        }
        // What comes after the times, closer to them.
        let [long, short] = [table::LONG_TIMES, table::TIMES];
        let end = self.body.length + table::SHORTER;
        let buffer = &mut self.body.buffer;
        buffer.copy_within(times_at + long..end, times_at + short);
        let both = [
            Moment::of(record, Time::Start, times_at),
            Moment::of(record, Time::End, times_at + table::TIME),
        ];
        self.moments.extend(both);
        Some(())
    }

    /// Adds the fields of a record that were asked for, unless the message is full.
    fn add_part(&mut self, record: &FlowRecord) -> Option<()> {
        let mut whole = [0; element::LONGEST];
        let (mut of, mut octets) = (0, 0);
        element::encode(record, self.dot1q, |template| {
            (of, octets) = (template.id, template.record_length());
            Some(&mut whole[..octets])
        });
        element::put_route(record, &mut whole, octets);
        let part = self.parts.as_ref()?.get(of)?;
        let mut at = self.body.reserve(of, part.octets)?;
        for piece in &part.pieces {
            match piece {
                Piece::Same(place) => {
                    let field = &whole[place.clone()];
                    self.body.buffer[at..at + field.len()].copy_from_slice(field);
                    at += field.len();
                }
                Piece::Time(time) => {
                    self.moments.push(Moment::of(record, *time, at));
                    at += table::TIME;
                }
            }
        }
        Some(())
    }

    /// Flow records have these fields only; with none, all that there are.
    pub fn use_fields(&mut self, fields: Option<&Fields>) {
        self.parts = fields.map(Parts::of);
    }

    /// The templates of flow records, as IPFIX has them.
    #[must_use]
    pub fn flow_templates(&self) -> Vec<Template> {
        match &self.parts {
            Some(parts) => parts.templates(),
            None => element::ALL.to_vec(),
        }
    }

    /// Flow records of a message that is full for sure.
    #[must_use]
    pub fn full_message(&self) -> usize {
        let shortest = self
            .parts
            .as_ref()
            .map_or(table::record_length(&element::IPV4), Parts::shortest);
        (self.remaining() - FLOWSET_HEADER) / shortest
    }

    /// Whether flows with one VLAN tag are told with the elements of 802.1Q too (243, 244), in the
    /// templates of flows with several.
    pub fn use_dot1q(&mut self, dot1q: bool) {
        self.dot1q = dot1q;
    }

    /// Adds an options record, if it has a form in v9; false if the message is full.
    #[must_use]
    pub fn options<R: OptionsRecord>(&mut self, record: &R) -> bool {
        let Some(shape) = table::Shape::of(&R::TEMPLATE) else {
            return true;
        };
        let mut octets = [0; element::LONGEST];
        let octets = &mut octets[..R::TEMPLATE.record_length()];
        record.encode(octets);
        let Some(mut to) = self.body.room(R::TEMPLATE.id, shape.record_length()) else {
            return false;
        };
        for kept in shape.kept() {
            let (field, rest) = to.split_at_mut(kept.len());
            field.copy_from_slice(&octets[kept]);
            to = rest;
        }
        true
    }

    /// Octets that are left for records and their flowset headers.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.body.remaining()
    }

    /// Whether nothing has been added since the last message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.body.is_empty()
    }

    /// How far it has come: the sequence number of the next message is the number of messages
    /// committed.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            sequence: self.sequence,
            parts: 0,
        }
    }

    /// Goes to where it was, or would have been. The message at hand is gone.
    pub fn go_to(&mut self, mark: Mark) {
        self.sequence = mark.sequence;
        self.discard();
    }

    /// By how much [`Self::commit`] will advance the sequence number: one for the message at hand.
    #[must_use]
    pub fn units(&self) -> u32 {
        u32::from(!self.is_empty())
    }

    /// The message as it goes out now.
    ///
    /// Records may still be added to it afterwards.
    pub fn message(&mut self, now: Stamp) -> &[u8] {
        let end = self.body.finish();
        let buffer = &mut self.body.buffer;
        let times = self.span.header(now);
        for moment in &self.moments {
            let uptime = times.uptime_at(moment.unix_ms);
            buffer[moment.at..moment.at + table::TIME].copy_from_slice(&uptime.to_be_bytes());
        }
        let header = &mut buffer[..HEADER];
        header[..2].copy_from_slice(&VERSION.to_be_bytes());
        // RFC 3954 §5.1: of flows, of options, and templates of both.
        header[2..4].copy_from_slice(&self.body.records.to_be_bytes());
        header[4..8].copy_from_slice(&times.uptime_ms.to_be_bytes());
        header[8..12].copy_from_slice(&times.unix_s().to_be_bytes());
        // RFC 3954 §5.1: counts messages.
        header[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        header[16..].copy_from_slice(&self.source_id.to_be_bytes());
        &self.body.buffer[..end]
    }

    /// The message is sent, or lost for good: it has its number, so that a collector that does not
    /// get it sees the gap.
    pub fn commit(&mut self) {
        self.sequence = self.sequence.wrapping_add(self.units());
        self.discard();
    }

    /// The message was never sent: its records will be encoded again.
    pub fn discard(&mut self) {
        self.body.clear();
        self.span = Span::default();
        self.moments.clear();
    }
}
