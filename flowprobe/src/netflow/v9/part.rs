//! Flow records with the fields that a user asks for, in the form of v9.

use std::ops::Range;

use super::table::{Time, record_length};
use crate::ipfix::{Fields, Template, element};

/// A field, and where it comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// These octets of the record in IPFIX.
    Same(Range<usize>),
    /// A time, which has another form here.
    Time(Time),
}

/// Some of the fields of a flow record.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// That of IPFIX: `Shape` has its form here.
    template: Template,
    /// Octets of a record.
    pub(super) octets: usize,
    /// In the order of the template.
    pub(super) pieces: Vec<Piece>,
}

/// Those of each template.
#[derive(Clone, Debug)]
pub(super) struct Parts {
    parts: Vec<Part>,
    /// Whether records have any time; all of them or none.
    pub(super) have_times: bool,
}

impl Parts {
    pub(super) fn of(fields: &Fields) -> Self {
        let parts: Vec<_> = element::ALL
            .iter()
            .filter_map(|whole| fields.part(whole.id))
            .map(|(template, places)| Part::of(template, places))
            .collect();
        let times = |part: &Part| part.pieces.iter().any(Piece::is_time);
        Self {
            have_times: parts.iter().any(times),
            parts,
        }
    }

    /// The one of this template.
    pub(super) fn get(&self, id: u16) -> Option<&Part> {
        self.parts.iter().find(|part| part.template.id == id)
    }

    /// The template that takes the place of the one of this number.
    pub(super) fn template(&self, id: u16) -> Option<&Template> {
        self.get(id).map(|part| &part.template)
    }

    pub(super) fn templates(&self) -> Vec<Template> {
        self.parts.iter().map(|part| part.template).collect()
    }

    /// Octets of the shortest record.
    pub(super) fn shortest(&self) -> usize {
        let lengths = self.parts.iter().map(|part| part.octets);
        lengths.min().unwrap_or(usize::MAX)
    }
}

impl Part {
    fn of(template: &Template, places: &[Range<usize>]) -> Self {
        let fields = template.fields.iter().zip(places);
        let pieces = fields.map(|(field, place)| match Time::of(field) {
            Some(time) => Piece::Time(time),
            None => Piece::Same(place.clone()),
        });
        Self {
            template: *template,
            octets: record_length(template),
            pieces: pieces.collect(),
        }
    }
}

impl Piece {
    fn is_time(&self) -> bool {
        matches!(self, Self::Time(_))
    }
}
