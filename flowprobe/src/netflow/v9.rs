//! NetFlow v9 (RFC 3954).
//!
//! Flow records have the fields of IPFIX, by the same numbers, but for their times: FIRST_SWITCHED
//! and LAST_SWITCHED (22, 21), which every collector of v9 reads. goflow2 reads no others in v9;
//! nfdump and nfacctd read 152 and 153 there too. RFC 3954 §8 has numbers up to 89; those above are
//! IPFIX's, and collectors skip what they do not know. Of tunnels the outer header is first here
//! too, and nfdump and nfacctd take the packet inside for the flow.
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

mod table;

use super::{
    TIME,
    uptime::{Misfit, Span},
};
use crate::{
    encode::{Fit, Mark, Stamp, TooSmall},
    ipfix::{self, Template, element, options::OptionsRecord},
    record::FlowRecord,
};

/// Octets of the message header (RFC 3954 §5.1).
pub const HEADER: usize = 20;
/// Octets of a flowset header (RFC 3954 §5.2, §5.3, §6.1).
const FLOWSET_HEADER: usize = 4;

/// Smallest message that any template, flow record or group of options records fits in, as in
/// IPFIX: nothing is longer than there, but for the header and the padding.
pub const MIN_OCTETS: usize = aligned(ipfix::message::MIN_OCTETS + HEADER - ipfix::message::HEADER);

/// Version in the header.
const VERSION: u16 = 9;
/// Flowset of templates (RFC 3954 §5.2).
const TEMPLATES: u16 = 0;
/// Flowset of options templates (RFC 3954 §6.1).
const OPTIONS_TEMPLATES: u16 = 1;

/// The next multiple of four: where a flowset may begin (RFC 3954 §5.3).
const fn aligned(octets: usize) -> usize {
    octets.next_multiple_of(4)
}

/// The two times of a flow in the message, written when the header's are known.
#[derive(Clone, Copy, Debug)]
struct Times {
    at: usize,
    start_ms: u64,
    end_ms: u64,
}

/// Builds the messages of one exporter and source id, one at a time.
///
/// As [`ipfix::Encoder`]: records go in until one does not fit, [`Self::message`] is what to send,
/// and then [`Self::commit`] or [`Self::discard`] starts the next message.
#[derive(Debug)]
pub struct Encoder {
    source_id: u32,
    /// As long as the largest message, and what a record in its form of IPFIX is longer.
    buffer: Box<[u8]>,
    /// Octets of the largest message.
    limit: usize,
    /// Octets of the message so far, at least [`HEADER`], without padding at its end.
    length: usize,
    /// The open flowset and where it starts.
    flowset: Option<(u16, usize)>,
    /// Messages committed, modulo 2³².
    sequence: u32,
    /// Records in the message, templates too.
    records: u16,
    span: Span,
    times: Vec<Times>,
    /// See [`Self::use_dot1q`].
    dot1q: bool,
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
            buffer: vec![0; limit + table::SHORTER].into_boxed_slice(),
            limit,
            length: HEADER,
            flowset: None,
            sequence: 0,
            records: 0,
            span: Span::default(),
            times: Vec::new(),
            dot1q: false,
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
        self.buffer = vec![0; limit + table::SHORTER].into_boxed_slice();
        self.limit = limit;
        Ok(())
    }

    /// Adds a template, if it is of flows or of options that have a form in v9; false if the
    /// message is full.
    #[must_use]
    pub fn template(&mut self, template: &Template) -> bool {
        let Some(shape) = table::Shape::of(template) else {
            return true;
        };
        let flowset = if template.scopes == 0 {
            TEMPLATES
        } else {
            // In a flowset to itself: nfdump 1.7.1 and nfacctd 1.7.7 read the first one only.
            self.close();
            OPTIONS_TEMPLATES
        };
        let Some(to) = self.room(flowset, shape.encoded_length()) else {
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
        let span = match self.span.with(record) {
            Ok(span) => span,
            Err(Misfit::Apart) => return Fit::Full,
            Err(Misfit::Ever) => return Fit::Never(TIME),
        };
        let mut times_at = 0;
        let encoder = &mut *self;
        let added = element::encode(record, encoder.dot1q, |template| {
            let octets = table::record_length(template);
            let start = encoder.reserve(template.id, octets)?;
            times_at = start + table::times_at(template);
            Some(&mut encoder.buffer[start..start + template.record_length()])
        });
        if !added {
            return Fit::Full;
        }
        // What comes after the times, closer to them.
        let [long, short] = [table::LONG_TIMES, table::TIMES];
        let end = self.length + table::SHORTER;
        self.buffer
            .copy_within(times_at + long..end, times_at + short);
        self.times.push(Times {
            at: times_at,
            start_ms: record.start_ms.min(record.end_ms),
            end_ms: record.end_ms,
        });
        self.span = span;
        Fit::In
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
        let Some(mut to) = self.room(R::TEMPLATE.id, shape.record_length()) else {
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
        self.limit - aligned(self.length)
    }

    /// Whether nothing has been added since the last message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == HEADER
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
        let end = self.finish();
        let times = self.span.header(now);
        for flow in &self.times {
            let to = &mut self.buffer[flow.at..flow.at + table::TIMES];
            to[..4].copy_from_slice(&times.uptime_at(flow.start_ms).to_be_bytes());
            to[4..].copy_from_slice(&times.uptime_at(flow.end_ms).to_be_bytes());
        }
        let header = &mut self.buffer[..HEADER];
        header[..2].copy_from_slice(&VERSION.to_be_bytes());
        // RFC 3954 §5.1: of flows, of options, and templates of both.
        header[2..4].copy_from_slice(&self.records.to_be_bytes());
        header[4..8].copy_from_slice(&times.uptime_ms.to_be_bytes());
        header[8..12].copy_from_slice(&times.unix_s().to_be_bytes());
        // RFC 3954 §5.1: counts messages.
        header[12..16].copy_from_slice(&self.sequence.to_be_bytes());
        header[16..].copy_from_slice(&self.source_id.to_be_bytes());
        &self.buffer[..end]
    }

    /// The message is sent, or lost for good: it has its number, so that a collector that does not
    /// get it sees the gap.
    pub fn commit(&mut self) {
        self.sequence = self.sequence.wrapping_add(self.units());
        self.discard();
    }

    /// The message was never sent: its records will be encoded again.
    pub fn discard(&mut self) {
        self.length = HEADER;
        self.flowset = None;
        self.records = 0;
        self.span = Span::default();
        self.times.clear();
    }

    /// Room for a record of `octets` in the flowset `id`.
    fn room(&mut self, id: u16, octets: usize) -> Option<&mut [u8]> {
        let start = self.reserve(id, octets)?;
        Some(&mut self.buffer[start..start + octets])
    }

    /// Where a record of `octets` goes in the flowset `id`, which is opened if another one is
    /// open. Nothing if the message, padding included, would be too long.
    #[inline]
    fn reserve(&mut self, id: u16, octets: usize) -> Option<usize> {
        let opens = self.flowset.is_none_or(|(open, _)| open != id);
        let start = if opens {
            aligned(self.length) + FLOWSET_HEADER
        } else {
            self.length
        };
        if aligned(start + octets) > self.limit {
            return None;
        }
        if opens {
            self.close();
            let header = self.length;
            self.flowset = Some((id, header));
            self.buffer[header..header + 2].copy_from_slice(&id.to_be_bytes());
        }
        self.length = start + octets;
        self.records += 1;
        Some(start)
    }

    /// Ends the open flowset for good.
    fn close(&mut self) {
        self.length = self.finish();
        self.flowset = None;
    }

    /// Writes padding behind the open flowset, and its length. Returns where it ends then.
    fn finish(&mut self) -> usize {
        let end = aligned(self.length);
        if let Some((_, start)) = self.flowset {
            // RFC 3954 §5.3, §6.1: what follows begins at a multiple of four octets; the length
            // counts the padding, which is shorter than any record (erratum 2096).
            self.buffer[self.length..end].fill(0);
            let octets = (end - start) as u16;
            self.buffer[start + 2..start + 4].copy_from_slice(&octets.to_be_bytes());
        }
        end
    }
}
