//! New messages for what others were made of: of another size, with sequence numbers of their own.

use std::collections::{BTreeMap, VecDeque};

use super::{
    message::{OPTIONS_TEMPLATE_SET, TEMPLATE_SET},
    session::{Item, Kind},
};
use crate::{
    encode::Fit,
    ipfix::message::{HEADER, SET_HEADER},
    record::Volume,
};

/// Version of IPFIX in the message header.
const VERSION: u16 = 10;

/// No message has room for a record, or for its template.
const TOO_LARGE: Fit = Fit::Never("a record or its template is longer than a message");

#[derive(Debug)]
struct Known {
    options: bool,
    /// The template record.
    record: Box<[u8]>,
    /// Whether some message has room for it; if none has, its data cannot be sent either.
    fits: bool,
}

/// Builds the messages of one session, one at a time, from items of other messages.
///
/// Template ids and domains stay as they are. Each domain has its own sequence number, from 0
/// (RFC 7011 §3.1).
#[derive(Debug)]
pub struct Framer {
    max_octets: usize,
    /// Whether templates can be withdrawn: not over UDP (RFC 7011 §8.4).
    withdraws: bool,
    /// The message at hand, at least a header.
    buffer: Vec<u8>,
    /// Its domain, if there is anything in it.
    domain: u32,
    /// Id of the open set, and where it starts.
    set: Option<(u16, usize)>,
    data_records: u32,
    volume: Volume,
    /// Data records in the committed messages of each domain.
    sequences: BTreeMap<u32, u32>,
    known: BTreeMap<(u32, u16), Known>,
    /// Templates to be said again.
    again: VecDeque<(u32, u16)>,
}

impl Framer {
    /// For a new session, whose messages have at most `max_octets`; `withdraws` if its transport
    /// knows template withdrawals.
    #[must_use]
    pub fn new(max_octets: u16, withdraws: bool) -> Self {
        Self {
            max_octets: max_octets.into(),
            withdraws,
            buffer: vec![0; HEADER],
            domain: 0,
            set: None,
            data_records: 0,
            volume: Volume::default(),
            sequences: BTreeMap::new(),
            known: BTreeMap::new(),
            again: VecDeque::new(),
        }
    }

    /// Adds an item, whose octets are `octets`; what need not be said again is in, too.
    pub fn add(&mut self, item: &Item, octets: &[u8]) -> Fit {
        let key = (item.domain, item.id);
        match item.kind {
            Kind::Template { options } => self.template(key, options, octets),
            Kind::Withdrawal { options } => self.withdrawal(key, options),
            Kind::Record(volume) => self.record(key, volume, octets),
        }
    }

    /// All templates are to be said again: see [`Self::announce`].
    pub fn refresh(&mut self) {
        self.again = self.known.keys().copied().collect();
    }

    /// A new session begins: sequence numbers from 0, and all templates are to be said again. The
    /// message at hand is discarded.
    pub fn restart(&mut self) {
        self.discard();
        self.sequences.clear();
        self.refresh();
    }

    /// Adds templates that are to be said again.
    pub fn announce(&mut self) -> Fit {
        while let Some(key) = self.again.front().copied() {
            let Some(known) = self.known.get(&key).filter(|known| known.fits) else {
                self.again.pop_front(); // withdrawn meanwhile
                continue;
            };
            let (options, record) = (known.options, known.record.clone());
            if self.put_template(key.0, options, &record) == Fit::Full {
                return Fit::Full;
            }
            self.again.pop_front();
        }
        Fit::In
    }

    /// A message with a template that is known already, or with none where none is: a question
    /// that has no sequence number to lose. The message at hand stays as it is.
    #[must_use]
    pub fn probe(&self, export_time_s: u32) -> Vec<u8> {
        let mut probe = Self::new(u16::MAX, false);
        let mut known = self.known.iter().filter(|(_, known)| known.fits);
        if let Some((key, known)) = known.next() {
            let sequence = self.sequences.get(&key.0).copied();
            probe.sequences.insert(key.0, sequence.unwrap_or(0));
            // It is shorter than a message.
            let _ = probe.put_template(key.0, known.options, &known.record);
        }
        probe.message(export_time_s).to_vec()
    }

    fn template(&mut self, key: (u32, u16), options: bool, record: &[u8]) -> Fit {
        if let Some(known) = self.known.get(&key) {
            if known.options == options && *known.record == *record {
                return if known.fits { Fit::In } else { TOO_LARGE };
            }
            // RFC 7011 §8.1: an id gets another meaning only after its withdrawal.
            if known.fits && self.withdrawal(key, known.options) == Fit::Full {
                return Fit::Full;
            }
        }
        let fit = self.put_template(key.0, options, record);
        if fit != Fit::Full {
            let known = Known {
                options,
                record: record.into(),
                fits: fit == Fit::In,
            };
            self.known.insert(key, known);
        }
        fit
    }

    fn put_template(&mut self, domain: u32, options: bool, record: &[u8]) -> Fit {
        if !options {
            return self.put(domain, TEMPLATE_SET, record);
        }
        // In a set to itself, see `ipfix::Encoder::template`.
        let fit = self.put_alone(domain, OPTIONS_TEMPLATE_SET, record);
        self.close_set();
        fit
    }

    /// Withdraws a template, or all of a kind where the id is that of a set.
    fn withdrawal(&mut self, (domain, id): (u32, u16), options: bool) -> Fit {
        let set = if options {
            OPTIONS_TEMPLATE_SET
        } else {
            TEMPLATE_SET
        };
        let goes = |of: (u32, u16), known: &Known| {
            of.0 == domain
                && if id == set {
                    known.options == options
                } else {
                    of.1 == id
                }
        };
        let mut known = self.known.iter();
        let was_told = known.any(|(of, known)| goes(*of, known) && known.fits);
        if self.withdraws && was_told {
            let [[a, b], [c, d]] = [id, 0].map(u16::to_be_bytes);
            // RFC 7011 §8.1: no set has templates and withdrawals.
            if self.put_alone(domain, set, &[a, b, c, d]) == Fit::Full {
                return Fit::Full;
            }
            self.close_set();
        }
        self.known.retain(|of, known| !goes(*of, known));
        Fit::In
    }

    fn record(&mut self, key: (u32, u16), volume: Volume, octets: &[u8]) -> Fit {
        if !self.known.get(&key).is_some_and(|known| known.fits) {
            return TOO_LARGE;
        }
        let fit = self.put(key.0, key.1, octets);
        if fit == Fit::In {
            self.data_records += 1;
            self.volume = sum(self.volume, volume);
        }
        fit
    }

    /// Puts a record into a set that has nothing else in it yet.
    fn put_alone(&mut self, domain: u32, set: u16, record: &[u8]) -> Fit {
        let open = self.set.take();
        let fit = self.put(domain, set, record);
        if fit != Fit::In {
            self.set = open;
        }
        fit
    }

    fn put(&mut self, domain: u32, set: u16, record: &[u8]) -> Fit {
        if !self.is_empty() && domain != self.domain {
            return Fit::Full; // RFC 7011 §3.1: a message is of one domain
        }
        let opens = self.set.is_none_or(|(open, _)| open != set);
        let header = if opens { SET_HEADER } else { 0 };
        if self.buffer.len() + header + record.len() > self.max_octets {
            return if self.is_empty() {
                TOO_LARGE
            } else {
                Fit::Full
            };
        }
        self.domain = domain;
        if opens {
            let start = self.buffer.len();
            self.buffer.extend(set.to_be_bytes());
            self.buffer.extend([0; 2]);
            self.set = Some((set, start));
        }
        self.buffer.extend(record);
        if let Some((_, start)) = self.set {
            let length = (self.buffer.len() - start) as u16;
            self.buffer[start + 2..start + 4].copy_from_slice(&length.to_be_bytes());
        }
        Fit::In
    }

    fn close_set(&mut self) {
        self.set = None;
    }

    /// Whether nothing has been added since the last message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.len() == HEADER
    }

    /// Observation domain of the message at hand.
    #[must_use]
    pub fn domain(&self) -> u32 {
        self.domain
    }

    /// Data records in the message at hand.
    #[must_use]
    pub fn data_records(&self) -> u32 {
        self.data_records
    }

    /// Flows in the message at hand.
    #[must_use]
    pub fn volume(&self) -> Volume {
        self.volume
    }

    /// The message at hand, as it goes out at `export_time_s`, seconds since 1970-01-01 UTC.
    pub fn message(&mut self, export_time_s: u32) -> &[u8] {
        let sequence = self.sequences.get(&self.domain).copied().unwrap_or(0);
        let length = self.buffer.len() as u16;
        let header = &mut self.buffer[..HEADER];
        header[..2].copy_from_slice(&VERSION.to_be_bytes());
        header[2..4].copy_from_slice(&length.to_be_bytes());
        header[4..8].copy_from_slice(&export_time_s.to_be_bytes());
        header[8..12].copy_from_slice(&sequence.to_be_bytes());
        header[12..].copy_from_slice(&self.domain.to_be_bytes());
        &self.buffer
    }

    /// The message is sent, or lost for good.
    pub fn commit(&mut self) {
        let sequence = self.sequences.entry(self.domain).or_default();
        // RFC 7011 §3.1: modulo 2³².
        *sequence = sequence.wrapping_add(self.data_records);
        self.discard();
    }

    fn discard(&mut self) {
        self.buffer.truncate(HEADER);
        self.set = None;
        self.data_records = 0;
        self.volume = Volume::default();
    }
}

/// The sum of two volumes; files may count anything, so it does not overflow.
pub(crate) fn sum(one: Volume, other: Volume) -> Volume {
    Volume {
        records: one.records.saturating_add(other.records),
        packets: one.packets.saturating_add(other.packets),
        octets: one.octets.saturating_add(other.octets),
    }
}
