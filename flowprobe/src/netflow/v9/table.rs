//! What v9 has in the place of a template of IPFIX, of which it takes everything else: numbers,
//! lengths and values come from the same rows.

use std::ops::Range;

use crate::ipfix::{Field, Template, template::Scope};

/// Octets of a time here.
pub(super) const TIME: usize = 4;
/// Octets of both times of a flow in IPFIX, which follow each other there.
pub(super) const LONG_TIMES: usize = 2 * 8;
/// Octets of both times here.
pub(super) const TIMES: usize = 2 * TIME;
/// By how much whole flow records are shorter than in IPFIX.
pub(super) const SHORTER: usize = LONG_TIMES - TIMES;

/// A time of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Time {
    Start,
    End,
}

impl Time {
    /// The one that this field of IPFIX is: flowStartMilliseconds or flowEndMilliseconds.
    pub(super) const fn of(field: &Field) -> Option<Self> {
        match field.number {
            152 => Some(Self::Start),
            153 => Some(Self::End),
            _ => None,
        }
    }

    /// What is in its place: FIRST_SWITCHED or LAST_SWITCHED (RFC 3954 §8).
    fn number(self) -> u16 {
        match self {
            Self::Start => 22,
            Self::End => 21,
        }
    }
}

/// Octets of a field.
const fn length(field: &Field) -> usize {
    match Time::of(field) {
        Some(_) => TIME,
        None => field.length as usize,
    }
}

/// Octets of a flow record.
pub(super) const fn record_length(template: &Template) -> usize {
    let mut octets = 0;
    let mut i = 0;
    while i < template.fields.len() {
        octets += length(&template.fields[i]);
        i += 1;
    }
    octets
}

/// Where the times begin in a whole flow record.
pub(super) const fn times_at(template: &Template) -> usize {
    let mut at = 0;
    let mut i = 0;
    while !matches!(Time::of(&template.fields[i]), Some(Time::Start)) {
        at += length(&template.fields[i]);
        i += 1;
    }
    assert!(matches!(Time::of(&template.fields[i + 1]), Some(Time::End)));
    at
}

/// A template of v9.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape<'a> {
    template: &'a Template,
    /// Nothing for flow records.
    scope: Option<Scope>,
}

impl<'a> Shape<'a> {
    /// The form of `template` in v9, if it has one.
    pub(super) fn of(template: &'a Template) -> Option<Self> {
        let is_flow = template.scopes == 0;
        (is_flow || template.v9.is_some()).then_some(Self {
            template,
            scope: template.v9,
        })
    }

    /// The fields that are no scopes.
    fn fields(&self) -> &'a [Field] {
        &self.template.fields[usize::from(self.template.scopes)..]
    }

    /// Octets of the template record itself (RFC 3954 §5.2, §6.1).
    pub(super) fn encoded_length(&self) -> usize {
        let header = if self.scope.is_some() { 6 + 4 } else { 4 };
        header + 4 * self.fields().len()
    }

    /// Octets of an options record.
    pub(super) fn record_length(&self) -> usize {
        self.kept().iter().map(Range::len).sum()
    }

    /// What an options record keeps of that of IPFIX: of the scopes the first, and all else.
    pub(super) fn kept(&self) -> [Range<usize>; 2] {
        let scopes = &self.template.fields[..usize::from(self.template.scopes)];
        let scopes: usize = scopes.iter().map(|field| usize::from(field.length)).sum();
        [
            0..usize::from(self.template.fields[0].length),
            scopes..self.template.record_length(),
        ]
    }

    /// Writes the template record into `to`, which is [`Self::encoded_length`] octets long.
    pub(super) fn encode(&self, to: &mut [u8]) {
        let fields = self.fields().iter().map(|field| {
            let number = Time::of(field).map_or(field.number, Time::number);
            (number, length(field) as u16)
        });
        let count = self.fields().len() as u16;
        let mut words = vec![self.template.id];
        match self.scope {
            None => words.push(count),
            // RFC 3954 §6.1: lengths in octets of the scopes, and of the options.
            Some(scope) => {
                words.extend([4, 4 * count, scope as u16, self.template.fields[0].length]);
            }
        }
        words.extend(fields.flat_map(|(number, length)| [number, length]));
        for (to, word) in to.chunks_exact_mut(2).zip(words) {
            to.copy_from_slice(&word.to_be_bytes());
        }
    }
}
