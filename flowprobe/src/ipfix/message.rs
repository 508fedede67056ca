//! Messages (RFC 7011 §3): header, sets, sequence number, and a size that is never exceeded.

use flowprobe_ebpf::{KeyV4, KeyV6, KeyWide};

use super::{
    Fields,
    element::{self, Both, FlowElements, IPV4, IPV6},
    options::{OptionsRecord, TakesOptions},
    template::Template,
};
use crate::{
    encode::{Fit, Mark, Stamp, TooSmall},
    record::{FlowKey, FlowRecord},
};

/// Octets of the message header (RFC 7011 §3.1).
pub const HEADER: usize = 16;
/// Octets of a set header (RFC 7011 §3.3.2).
pub const SET_HEADER: usize = 4;
/// Octets around a message in a packet: IPv6 and UDP header. IPv4 needs 20 less, but one size
/// for both keeps collectors of either family at the same messages.
pub const PACKET_OVERHEAD: u16 = 40 + 8;

/// Smallest message that any template, flow record or group of options records fits in.
pub const MIN_OCTETS: usize = HEADER + SET_HEADER + element::LONGEST;
/// The same with biflows.
pub const MIN_OCTETS_BIFLOW: usize = HEADER + SET_HEADER + element::LONGEST_BIFLOW;

/// Version of IPFIX in the message header.
const VERSION: u16 = 10;
/// Set of templates (RFC 7011 §3.3.2).
const TEMPLATE_SET: u16 = 2;
/// Set of options templates (RFC 7011 §3.3.2).
const OPTIONS_TEMPLATE_SET: u16 = 3;

/// Builds the messages of one stream in one observation domain, one at a time.
///
/// Records go in until one does not fit, [`Self::message`] is what to send, and then
/// [`Self::commit`] or [`Self::discard`] starts the next message.
#[derive(Debug)]
pub struct Encoder {
    observation_domain: u32,
    /// As long as the largest message.
    buffer: Box<[u8]>,
    /// Octets of the message so far, at least [`HEADER`].
    length: usize,
    /// The open set and where it starts.
    set: Option<(u16, usize)>,
    /// Data records in all committed messages, modulo 2³².
    pub(super) sequence: u32,
    /// Data records in the message.
    data_records: u32,
    /// See [`Self::use_dot1q`].
    dot1q: bool,
    /// See [`Self::use_fields`].
    fields: Option<Fields>,
    /// See [`Self::use_biflows`].
    biflows: bool,
}

impl Encoder {
    /// An encoder whose messages have at most `max_octets`.
    ///
    /// # Errors
    /// If that is less than [`MIN_OCTETS`].
    pub fn new(observation_domain: u32, max_octets: u16) -> Result<Self, TooSmall> {
        let octets = usize::from(max_octets);
        if octets < MIN_OCTETS {
            return Err(TooSmall {
                octets,
                least: MIN_OCTETS,
            });
        }
        Ok(Self {
            observation_domain,
            buffer: vec![0; octets].into_boxed_slice(),
            length: HEADER,
            set: None,
            sequence: 0,
            data_records: 0,
            dot1q: false,
            fields: None,
            biflows: false,
        })
    }

    /// Messages have at most `max_octets` from here on. The message at hand has to be empty.
    ///
    /// # Errors
    /// If that is less than what it needs; nothing has changed then.
    pub fn fit(&mut self, max_octets: u16) -> Result<(), TooSmall> {
        let octets = usize::from(max_octets);
        let least = match self.biflows {
            true => MIN_OCTETS_BIFLOW,
            false => MIN_OCTETS,
        };
        if octets < least {
            return Err(TooSmall { octets, least });
        }
        debug_assert!(
            self.is_empty(),
            "what is in the message may not fit any more"
        );
        self.buffer = vec![0; octets].into_boxed_slice();
        Ok(())
    }

    /// Adds a template; false if the message is full.
    #[must_use]
    pub fn template(&mut self, template: &Template) -> bool {
        let part = self.fields.as_ref();
        let part = part
            .and_then(|fields| fields.template(template.id))
            .copied();
        let template = part.as_ref().unwrap_or(template);
        let set = if template.scopes == 0 {
            TEMPLATE_SET
        } else {
            // In a set to itself: nfacctd 1.7.7 reads the first one of a set, calls the others
            // malformed, and skips the rest of the message, sampling rate and all.
            self.close_set();
            self.set = None;
            OPTIONS_TEMPLATE_SET
        };
        match self.room(set, template.encoded_length()) {
            Some(record) => template.encode(record),
            None => return false,
        }
        true
    }

    /// Withdraws a template (RFC 7011 §8.1): its number with no fields; false if the message is
    /// full.
    #[must_use]
    pub fn withdraw(&mut self, template: &Template) -> bool {
        const WITHDRAWAL: usize = 4;
        let set = if template.scopes == 0 {
            TEMPLATE_SET
        } else {
            self.close_set();
            self.set = None;
            OPTIONS_TEMPLATE_SET
        };
        let Some(to) = self.room(set, WITHDRAWAL) else {
            return false;
        };
        to[..2].copy_from_slice(&template.id.to_be_bytes());
        to[2..].fill(0);
        // §8.1: withdrawals and templates are not in one set.
        self.close_set();
        self.set = None;
        true
    }

    /// Adds a flow record.
    #[inline]
    pub fn flow(&mut self, record: &FlowRecord) -> Fit {
        match self.add_flow(record) {
            true => Fit::In,
            false => Fit::Full,
        }
    }

    #[inline]
    fn add_flow(&mut self, record: &FlowRecord) -> bool {
        if self.fields.is_some() {
            return self.some_fields(record, None);
        }
        if self.dot1q && record.key.vlan() != 0 {
            return self.wide(&record.key.widened(), record);
        }
        const V4: usize = IPV4.record_length();
        const V6: usize = IPV6.record_length();
        match &record.key {
            FlowKey::V4(key) => {
                self.data(IPV4.id, |to: &mut [u8; V4]| KeyV4::encode(key, record, to))
            }
            FlowKey::V6(key) => {
                self.data(IPV6.id, |to: &mut [u8; V6]| KeyV6::encode(key, record, to))
            }
            FlowKey::Wide(key) => self.wide(key, record),
        }
    }

    /// Adds a record with a wide key; false if the message is full.
    fn wide(&mut self, key: &KeyWide, record: &FlowRecord) -> bool {
        let message = &mut *self;
        let added = element::encode_wide(key, record, move |template| {
            message.room(template.id, template.record_length())
        });
        self.data_records += u32::from(added);
        added
    }

    /// Adds a biflow, as one record.
    pub fn biflow(&mut self, both: &Both<'_>) -> Fit {
        let dot1q = self.dot1q;
        let added = if self.fields.is_some() {
            self.some_fields(both.forward, Some(both))
        } else {
            let message = &mut *self;
            let added = element::encode_both(both, dot1q, move |template| {
                message.room(template.id, template.record_length())
            });
            self.data_records += u32::from(added);
            added
        };
        if added { Fit::In } else { Fit::Full }
    }

    /// Makes one record of the two halves of a biflow (RFC 5103). The message at hand has to be empty.
    ///
    /// # Errors
    /// If messages are shorter than [`MIN_OCTETS_BIFLOW`].
    pub fn use_biflows(&mut self) -> Result<(), TooSmall> {
        self.biflows = true;
        self.fit(self.buffer.len() as u16)
    }

    /// See [`Self::use_biflows`].
    #[must_use]
    pub fn has_biflows(&self) -> bool {
        self.biflows
    }

    /// Adds the fields that were asked for of a record, or of a biflow; false if the message is full.
    fn some_fields(&mut self, record: &FlowRecord, both: Option<&Both<'_>>) -> bool {
        let mut whole = [0; element::LONGEST_BIFLOW];
        let (mut of, mut octets) = (0, 0);
        match both {
            Some(both) => element::encode_both(both, self.dot1q, |template| {
                (of, octets) = (template.id, template.record_length());
                Some(&mut whole[..octets])
            }),
            None => element::encode(record, self.dot1q, |template| {
                (of, octets) = (template.id, template.record_length());
                Some(&mut whole[..octets])
            }),
        };
        element::put_route(record, &mut whole, octets);
        let Some(fields) = self.fields.take() else {
            return false;
        };
        let octets = fields.template(of).map_or(0, Template::record_length);
        let room = self.room(of, octets);
        let added = room.map(|to| fields.copy(of, &whole, to)).is_some();
        self.fields = Some(fields);
        self.data_records += u32::from(added);
        added
    }

    /// Flow records have these fields only; with none, all that there are.
    pub fn use_fields(&mut self, fields: Option<Fields>) {
        self.fields = fields;
    }

    /// The templates of flow records.
    #[must_use]
    pub fn flow_templates(&self) -> Vec<Template> {
        let all = element::ALL.iter();
        let all = all.chain(element::ALL_BIFLOWS.iter().filter(|_| self.biflows));
        match &self.fields {
            Some(fields) => all.filter_map(|t| fields.template(t.id)).copied().collect(),
            None => all.copied().collect(),
        }
    }

    /// Flow records of a message that is full for sure.
    #[must_use]
    pub fn full_message(&self) -> usize {
        let templates = self.flow_templates();
        let lengths = templates.iter().map(|template| {
            let records = if template.is_biflow() { 2 } else { 1 };
            template.record_length() / records
        });
        (self.remaining() - SET_HEADER) / lengths.min().unwrap_or(1).max(1)
    }

    /// Whether flows with one VLAN tag are told with the elements of 802.1Q too (243, 244), in the
    /// templates of flows with several.
    pub fn use_dot1q(&mut self, dot1q: bool) {
        self.dot1q = dot1q;
    }

    /// Octets that are left for records and their set headers.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.buffer.len() - self.length
    }

    /// Whether nothing has been added since the last message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == HEADER
    }

    /// How far it has come: the sequence number of the next message is the number of Data Records
    /// in all messages committed.
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

    /// Data Records, flows and options, in the message at hand.
    #[must_use]
    pub fn units(&self) -> u32 {
        self.data_records
    }

    /// The message as it goes out now.
    ///
    /// Records may still be added to it afterwards.
    pub fn message(&mut self, now: Stamp) -> &[u8] {
        self.close_set();
        let header = &mut self.buffer[..HEADER];
        header[..2].copy_from_slice(&VERSION.to_be_bytes());
        header[2..4].copy_from_slice(&(self.length as u16).to_be_bytes());
        // RFC 7011 §3.1: when the message leaves, in seconds.
        header[4..8].copy_from_slice(&now.unix_s().to_be_bytes());
        // RFC 7011 §3.1: Data Records sent before this message; templates do not count.
        header[8..12].copy_from_slice(&self.sequence.to_be_bytes());
        header[12..].copy_from_slice(&self.observation_domain.to_be_bytes());
        &self.buffer[..self.length]
    }

    /// The message is sent, or lost for good: its data records have their numbers, so that a
    /// collector that does not get them sees the gap.
    pub fn commit(&mut self) {
        self.sequence = self.sequence.wrapping_add(self.data_records);
        self.discard();
    }

    /// The message was never sent: its records will be encoded again.
    pub fn discard(&mut self) {
        self.length = HEADER;
        self.set = None;
        self.data_records = 0;
    }

    #[inline(always)]
    fn data<const N: usize>(&mut self, set: u16, encode: impl FnOnce(&mut [u8; N])) -> bool {
        let Some(to) = self.room(set, N).and_then(<[u8]>::first_chunk_mut) else {
            return false;
        };
        encode(to);
        self.data_records += 1;
        true
    }

    /// Room for a record of `octets` in the set `id`, which is opened if another one is open.
    #[inline(always)]
    fn room(&mut self, id: u16, octets: usize) -> Option<&mut [u8]> {
        if self.set.is_none_or(|(open, _)| open != id) {
            self.open_set(id, octets)?;
        }
        let record = self.buffer.get_mut(self.length..self.length + octets)?;
        self.length += octets;
        Some(record)
    }

    /// Opens a set, unless `octets` would not fit into it.
    #[cold]
    fn open_set(&mut self, id: u16, octets: usize) -> Option<()> {
        if self.remaining() < SET_HEADER + octets {
            return None;
        }
        self.close_set();
        self.set = Some((id, self.length));
        self.buffer[self.length..self.length + 2].copy_from_slice(&id.to_be_bytes());
        self.length += SET_HEADER;
        Some(())
    }

    /// Writes the length of the open set; none is padded (RFC 7011 §3.3.1 leaves it open).
    fn close_set(&mut self) {
        if let Some((_, start)) = self.set {
            let octets = (self.length - start) as u16;
            self.buffer[start + 2..start + 4].copy_from_slice(&octets.to_be_bytes());
        }
    }
}

impl TakesOptions for Encoder {
    fn options<R: OptionsRecord>(&mut self, record: &R) -> bool {
        match self.room(R::TEMPLATE.id, R::TEMPLATE.record_length()) {
            Some(to) => record.encode(to),
            None => return false,
        }
        self.data_records += 1;
        true
    }
}
