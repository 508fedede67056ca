//! Templates as they are found in files, of any exporter.

use super::message::{FIRST_TEMPLATE, Flaw, OPTIONS_TEMPLATE_SET, TEMPLATE_SET, u16_at};
use crate::{
    ipfix::{Field, template::REVERSE},
    record::Volume,
};

/// In a field specifier: an enterprise number follows (RFC 7011 §3.2).
const ENTERPRISE: u16 = 0x8000;
/// octetDeltaCount.
const OCTETS: u16 = 1;
/// packetDeltaCount.
const PACKETS: u16 = 2;
/// Longest value that one octet gives the length of (RFC 7011 §7).
const SHORT: u8 = 254;

/// How long a value is, and what it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Value {
    length: u16,
    counts: Option<Counted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Counted {
    Octets,
    Packets,
}

/// A template or options template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Whether its records are options, which are no flows.
    options: bool,
    /// Flows in a record: a biflow is two.
    flows: u64,
    values: Box<[Value]>,
    /// Octets of the shortest record.
    shortest: usize,
    /// Whether some value says its own length.
    varies: bool,
}

/// A template record in its set.
pub(super) struct TemplateRecord {
    pub(super) id: u16,
    /// `None` withdraws the template.
    pub(super) template: Option<Template>,
    /// Octets of the record.
    pub(super) length: usize,
}

impl TemplateRecord {
    /// The record that `octets`, the rest of a set, begin with (RFC 7011 §3.4.1, §3.4.2.2, §8.1).
    pub(super) fn read(octets: &[u8], options: bool) -> Result<Self, Flaw> {
        let number = |at: usize| match octets.get(at..at + 2) {
            Some(_) => Ok(u16_at(octets, at)),
            None => Err(Flaw::TemplateLength),
        };
        let (id, count) = (number(0)?, number(2)?);
        // RFC 7011 §8.1: the id of the set withdraws all templates of its kind.
        let all = if options {
            OPTIONS_TEMPLATE_SET
        } else {
            TEMPLATE_SET
        };
        if id < FIRST_TEMPLATE && !(count == 0 && id == all) {
            return Err(Flaw::TemplateId(id));
        }
        let mut length = 4;
        if count == 0 {
            let template = None;
            return Ok(Self {
                id,
                template,
                length,
            });
        }
        if options {
            let scopes = number(length)?;
            if scopes > count {
                let fields = count;
                return Err(Flaw::Scopes { id, scopes, fields });
            }
            length += 2;
        }
        let mut is_biflow = false;
        let mut values = Vec::with_capacity(usize::from(count).min(octets.len() / 4));
        for _ in 0..count {
            let (element, octets_of) = (number(length)?, number(length + 2)?);
            length += 4;
            let mut counts = match element {
                OCTETS => Some(Counted::Octets),
                PACKETS => Some(Counted::Packets),
                _ => None,
            };
            if element & ENTERPRISE != 0 {
                let enterprise = (number(length)?, number(length + 2)?);
                length += 4;
                // RFC 5103 §6.1: what came back counts too.
                let reverse = u32::from(enterprise.0) << 16 | u32::from(enterprise.1) == REVERSE;
                counts = match element & !ENTERPRISE {
                    OCTETS if reverse => Some(Counted::Octets),
                    PACKETS if reverse => Some(Counted::Packets),
                    _ => None,
                };
                is_biflow |= counts.is_some();
            }
            values.push(Value {
                length: octets_of,
                counts,
            });
        }
        let flows = if is_biflow { 2 } else { 1 };
        let template = Some(Template::new(options, flows, values));
        Ok(Self {
            id,
            template,
            length,
        })
    }
}

impl Template {
    fn new(options: bool, flows: u64, values: Vec<Value>) -> Self {
        let varies = |value: &Value| value.length == Field::VARIABLE;
        let least = |value: &Value| {
            if varies(value) {
                1
            } else {
                value.length.into()
            }
        };
        Self {
            options,
            flows,
            shortest: values.iter().map(least).sum(),
            varies: values.iter().any(varies),
            values: values.into_boxed_slice(),
        }
    }

    /// Whether its records are options, and no flows.
    #[must_use]
    pub fn is_options(&self) -> bool {
        self.options
    }

    /// Octets of the record that `octets` begin with; `None` if they end within it.
    pub(super) fn record_length(&self, octets: &[u8]) -> Option<usize> {
        if !self.varies {
            return (self.shortest <= octets.len()).then_some(self.shortest);
        }
        let mut rest = octets;
        for value in &self.values {
            rest = value.split(rest)?.1;
        }
        Some(octets.len() - rest.len())
    }

    /// Octets of the shortest record.
    pub(super) fn shortest(&self) -> usize {
        self.shortest
    }

    /// The flows that a record is, with the packets and octets that it counts; nothing for options.
    #[must_use]
    pub fn volume(&self, record: &[u8]) -> Volume {
        let mut volume = Volume::default();
        if self.options {
            return volume;
        }
        volume.records = self.flows;
        let mut rest = record;
        for value in &self.values {
            let Some((octets, after)) = value.split(rest) else {
                break; // not a record of this template
            };
            rest = after;
            match value.counts {
                Some(Counted::Octets) => {
                    volume.octets = volume.octets.saturating_add(unsigned(octets));
                }
                Some(Counted::Packets) => {
                    volume.packets = volume.packets.saturating_add(unsigned(octets));
                }
                None => {}
            }
        }
        volume
    }
}

impl Value {
    /// The value that `octets` begin with, and what is behind it.
    fn split(self, octets: &[u8]) -> Option<(&[u8], &[u8])> {
        if self.length != Field::VARIABLE {
            return octets.split_at_checked(self.length.into());
        }
        // RFC 7011 §7: one octet of length, or 255 and two more.
        let (short, rest) = octets.split_first()?;
        if *short <= SHORT {
            return rest.split_at_checked((*short).into());
        }
        let (long, rest) = rest.split_first_chunk()?;
        rest.split_at_checked(u16::from_be_bytes(*long).into())
    }
}

/// A number of reduced size or not (RFC 7011 §6.2); the lowest 64 bits of longer ones.
fn unsigned(octets: &[u8]) -> u64 {
    octets
        .iter()
        .fold(0, |number, octet| number << 8 | u64::from(*octet))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        encode::Stamp,
        ipfix::{
            Encoder,
            element::{ALL_BIFLOWS, Both},
            tests::sample::nth,
        },
        record::{Biflow, Direction, FlowRecord},
    };

    /// What comes off a spool counts as it did when it went in.
    #[test]
    fn a_biflow_is_two_flows_with_what_both_count() {
        let now = Stamp {
            unix_ms: 0,
            boot_unix_ms: 0,
        };
        let half = |i, biflow| FlowRecord { biflow, ..nth(i) };
        let forward = half(0, Biflow::Forward(Direction::Initiator));
        let reverse = half(5, Biflow::Reverse);
        let both = Both::of(&forward, Some(&reverse)).expect("a biflow");
        let mut encoder = Encoder::new(7, 1400).expect("large enough");
        encoder.use_biflows().expect("large enough");
        // Behind the headers of message and set.
        const BODY: usize = 20;
        assert!(encoder.template(&ALL_BIFLOWS[0]));
        let read = TemplateRecord::read(&encoder.message(now)[BODY..], false);
        let template = read.expect("a template").template.expect("no withdrawal");
        encoder.commit();
        encoder.biflow(&both);
        let volume = template.volume(&encoder.message(now)[BODY..]);
        assert_eq!(volume, Volume::of(&[forward, reverse]));
    }
}
