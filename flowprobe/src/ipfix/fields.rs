//! Flow records with the fields that a user asks for, instead of all that there are.

use std::{
    ops::Range,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};

use super::{
    element::{ALL_BIFLOWS_ROUTED, ALL_ROUTED, names_of_routes},
    template::{Field, Template},
};
use crate::nearest::nearest;

/// Why records cannot have these fields.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldsError {
    /// Neither key nor statistics have it.
    #[error("{}", unknown(.0))]
    Unknown(String),
    /// A template says each of its fields once.
    #[error("{0} is named twice")]
    Twice(String),
    /// A template without fields would withdraw itself (RFC 7011 §8.1).
    #[error("this leaves flows of IPv{0} without a field: add one that they have")]
    Nothing(u8),
    /// The same, of flows out of tunnels, of which routes tell nothing.
    #[error("this leaves flows out of tunnels without a field: add one that they have")]
    NothingOfTunnels,
}

/// All templates, those of flows first.
fn all() -> impl Iterator<Item = &'static Template> {
    ALL_ROUTED.iter().chain(&ALL_BIFLOWS_ROUTED)
}

/// All names, each at least once.
fn names() -> impl Iterator<Item = &'static str> {
    all()
        .flat_map(|template| template.fields)
        .map(|field| field.name)
}

fn unknown(name: &str) -> String {
    match nearest(name, names()) {
        Some(one) => format!("{name:?} is no element of flow records: did you mean {one}?"),
        None => format!("{name:?} is no element of flow records; README.md has a list"),
    }
}

/// A template with some of the fields of another.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Part {
    template: Template,
    /// Where each field is in a record of the whole template.
    places: Vec<Range<usize>>,
}

/// The fields of flow records, in the order of their templates. Encoders share them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// In the order of [`all`].
    parts: Arc<[Part]>,
}

impl Fields {
    /// Those of these IANA names, in this order. What a template has not is left out there; what
    /// it has twice, outside of a tunnel and in it, is there twice, outer first (RFC 7011 §8).
    ///
    /// # Errors
    /// An unknown name, one that comes twice, or nothing for one version of IP.
    pub fn new(wanted: &[&str]) -> Result<Self, FieldsError> {
        for (i, name) in wanted.iter().enumerate() {
            if !names().any(|known| known == *name) {
                return Err(FieldsError::Unknown((*name).to_owned()));
            }
            if wanted[..i].contains(name) {
                return Err(FieldsError::Twice((*name).to_owned()));
            }
        }
        let parts: Arc<[_]> = all().map(|whole| Part::of(whole, wanted)).collect();
        for (part, version) in parts.iter().zip([4, 6]) {
            if part.places.is_empty() {
                return Err(FieldsError::Nothing(version));
            }
        }
        if parts.iter().any(|part| part.places.is_empty()) {
            return Err(FieldsError::NothingOfTunnels);
        }
        Ok(Self { parts })
    }

    /// All that there are, those of routes too, in the order of the whole templates.
    #[must_use]
    pub fn everything() -> Self {
        let part = |whole: &Template| Part::of_places(whole, placed(whole));
        Self {
            parts: all().map(part).collect(),
        }
    }

    /// The first field of which only routes tell.
    #[must_use]
    pub fn of_routes(&self) -> Option<&'static str> {
        names_of_routes().find(|name| self.has(name))
    }

    /// The templates.
    pub fn templates(&self) -> impl Iterator<Item = &Template> {
        self.parts.iter().map(|part| &part.template)
    }

    /// Whether one of them has this name.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        let mut fields = self.templates().flat_map(|template| template.fields);
        fields.any(|field| field.name == name)
    }

    /// The first field that only biflows have.
    #[must_use]
    pub fn of_biflows(&self) -> Option<&'static str> {
        let flows = || ALL_ROUTED.iter().flat_map(|template| template.fields);
        let mut fields = self.templates().flat_map(|template| template.fields);
        let field = fields.find(|field| !flows().any(|known| known.name == field.name));
        field.map(|field| field.name)
    }

    /// The template that takes the place of the one of this number, and where each of its fields
    /// is in a record of that one.
    pub(crate) fn part(&self, id: u16) -> Option<(&Template, &[Range<usize>])> {
        let mut parts = self.parts.iter();
        let part = parts.find(|part| part.template.id == id)?;
        Some((&part.template, &part.places))
    }

    /// The template that takes the place of the one of this number.
    pub(super) fn template(&self, id: u16) -> Option<&Template> {
        self.templates().find(|template| template.id == id)
    }

    /// Copies the fields of a record of the whole template `id` into `to`, which is as long as a
    /// record of the part.
    pub(super) fn copy(&self, id: u16, whole: &[u8], to: &mut [u8]) {
        let part = self.parts.iter().find(|part| part.template.id == id);
        let mut rest = to;
        for place in part.iter().flat_map(|part| &part.places) {
            let (field, after) = rest.split_at_mut(place.len());
            field.copy_from_slice(&whole[place.clone()]);
            rest = after;
        }
        debug_assert!(rest.is_empty());
    }
}

impl Part {
    fn of(whole: &Template, wanted: &[&str]) -> Self {
        let placed = placed(whole);
        let chosen = wanted
            .iter()
            .flat_map(|name| placed.iter().filter(move |(field, _)| field.name == *name));
        Self::of_places(whole, chosen.cloned().collect())
    }

    fn of_places(whole: &Template, chosen: Vec<(Field, Range<usize>)>) -> Self {
        let (fields, places) = chosen.into_iter().unzip();
        Self {
            template: Template {
                fields: constant(fields),
                ..*whole
            },
            places,
        }
    }
}

/// The fields of a template, and where each is in its records.
fn placed(whole: &Template) -> Vec<(Field, Range<usize>)> {
    let mut at = 0;
    let place = |field: &Field| {
        let start = at;
        at += usize::from(field.length);
        (*field, start..at)
    };
    whole.fields.iter().map(place).collect()
}

/// The one copy of a list of fields. Templates are constants wherever no user chooses them, so
/// these live until the end of the process too; a list that is asked for again takes no more room.
fn constant(fields: Vec<Field>) -> &'static [Field] {
    static KNOWN: Mutex<Vec<&'static [Field]>> = Mutex::new(Vec::new());
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(same) = known.iter().find(|list| **list == fields) {
        return same;
    }
    let list: &'static [Field] = Vec::leak(fields);
    known.push(list);
    list
}

/// Names with commas between them.
impl FromStr for Fields {
    type Err = FieldsError;

    fn from_str(text: &str) -> Result<Self, FieldsError> {
        let wanted: Vec<_> = text.split(',').map(str::trim).collect();
        Self::new(&wanted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        encode::{Fit, Stamp},
        ipfix::{
            Encoder,
            tests::{
                decode::Collected,
                sample::{many, one_of_each_wide},
            },
        },
    };

    /// Records with some fields have them as records with all have them.
    #[test]
    fn fields_are_those_of_whole_records_in_the_order_asked_for() {
        let records = [many(20), one_of_each_wide().to_vec()].concat();
        let names = "octetDeltaCount, sourceIPv4Address, sourceIPv6Address,packetDeltaCount";
        let fields: Fields = names.parse().expect("fields");
        let collect = |fields: Option<Fields>| {
            let mut encoder = Encoder::new(7, 16_000).expect("large enough");
            encoder.use_fields(fields);
            for template in encoder.flow_templates() {
                assert!(encoder.template(&template));
            }
            for record in &records {
                assert_eq!(encoder.flow(record), Fit::In);
            }
            let mut collected = Collected::default();
            collected.message(encoder.message(Stamp {
                unix_ms: 0,
                boot_unix_ms: 0,
            }));
            collected
        };
        let (all, some) = (collect(None), collect(Some(fields)));
        assert_eq!(some.records.len(), all.records.len());
        for ((of, whole), (id, part)) in all.records.iter().zip(&some.records) {
            assert_eq!(of, id);
            let named = |number: u16| whole.iter().filter(move |(element, _)| *element == number);
            let expected: Vec<_> = [1, 8, 27, 2].into_iter().flat_map(named).collect();
            assert_eq!(part.iter().collect::<Vec<_>>(), expected, "{id}");
        }
    }

    /// Each value of an option is judged several times, in a file once more.
    #[test]
    fn the_same_fields_take_their_room_once() {
        let twice = ["ipVersion,vlanId"; 2].map(|text| text.parse::<Fields>().expect("fields"));
        let [one, other] = twice.each_ref().map(Fields::templates);
        for (one, other) in one.zip(other) {
            assert!(std::ptr::eq(one.fields, other.fields), "{}", one.id);
        }
    }

    #[test]
    fn errors_name_the_nearest_element() {
        let error = |text: &str| text.parse::<Fields>().expect_err(text).to_string();
        for (text, message) in [
            (
                "octetDeltaCont",
                "\"octetDeltaCont\" is no element of flow records: did you mean octetDeltaCount?",
            ),
            (
                "applicationName",
                "\"applicationName\" is no element of flow records; README.md has a list",
            ),
            (
                "",
                "\"\" is no element of flow records; README.md has a list",
            ),
            ("ipVersion,ipVersion", "ipVersion is named twice"),
            (
                "sourceIPv6Address",
                "this leaves flows of IPv4 without a field: add one that they have",
            ),
            (
                "sourceIPv4Address",
                "this leaves flows of IPv6 without a field: add one that they have",
            ),
            (
                "ipNextHopIPv4Address,ipNextHopIPv6Address",
                "this leaves flows out of tunnels without a field: add one that they have",
            ),
        ] {
            assert_eq!(error(text), message);
        }
    }
}
