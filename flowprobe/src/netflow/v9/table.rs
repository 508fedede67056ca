//! What v9 has in the place of a template of IPFIX, of which it takes everything else: numbers,
//! lengths and values come from the same rows.

use std::ops::Range;

use crate::ipfix::{Field, Template, template::Scope};

/// The two times of a flow in IPFIX, which follow each other there: flowStartMilliseconds and
/// flowEndMilliseconds, 8 octets each.
const MILLISECONDS: [u16; 2] = [152, 153];
/// What is in their place: FIRST_SWITCHED and LAST_SWITCHED (RFC 3954 §8), 4 octets each.
const SWITCHED: [u16; 2] = [22, 21];

/// Octets of both times in IPFIX.
pub(super) const LONG_TIMES: usize = 16;
/// Octets of both times here.
pub(super) const TIMES: usize = 8;
/// By how much flow records are shorter than in IPFIX.
pub(super) const SHORTER: usize = LONG_TIMES - TIMES;

/// Octets of a flow record.
pub(super) const fn record_length(template: &Template) -> usize {
    template.record_length() - SHORTER
}

/// Where the times begin in a flow record.
pub(super) const fn times_at(template: &Template) -> usize {
    let mut at = 0;
    let mut i = 0;
    while template.fields[i].number != MILLISECONDS[0] {
        at += template.fields[i].length as usize;
        i += 1;
    }
    assert!(template.fields[i + 1].number == MILLISECONDS[1]);
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
            match MILLISECONDS.iter().position(|time| *time == field.number) {
                Some(i) => (SWITCHED[i], (TIMES / 2) as u16),
                None => (field.number, field.length),
            }
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
