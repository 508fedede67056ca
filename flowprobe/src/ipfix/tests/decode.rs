//! A strict IPFIX decoder, written from RFC 7011 and not from the encoder: it learns templates
//! from the wire only, and panics at whatever the RFC does not allow.

use std::collections::HashMap;

/// Elements of a data record: number and octets.
pub(crate) type Fields = Vec<(u16, Vec<u8>)>;

/// Marks an element of an enterprise: here the reverse of IANA's (RFC 5103), as on the wire.
pub(crate) const ENTERPRISE: u16 = 0x8000;
/// Marks, with that, an element of CERT.
pub(crate) const CERT: u16 = 0x4000;

/// Scope count of a template, and number and length of each field.
pub(crate) type Shape = (u16, Vec<(u16, u16)>);

/// What a collector knows after the messages it was given.
#[derive(Default)]
pub(crate) struct Collected {
    /// By domain and number: a template is valid in its domain (RFC 7011 §3.4.1).
    pub(crate) templates: HashMap<(u32, u16), Shape>,
    /// Template id and fields of each data record, in the order of arrival.
    pub(crate) records: Vec<(u16, Fields)>,
    /// Observation domain of each of them.
    pub(crate) domains: Vec<u32>,
    /// Data Records that the sequence numbers say are missing.
    pub(crate) gap: u64,
    /// Export time of the last message.
    pub(crate) export_time: u32,
    /// The sequence number that each domain goes on with (RFC 7011 §3.1).
    next: HashMap<u32, u32>,
}

/// Takes `N` octets off the front.
fn take<const N: usize>(octets: &mut &[u8]) -> [u8; N] {
    let (head, rest) = octets.split_first_chunk().expect("message ends too early");
    *octets = rest;
    *head
}

fn take_u16(octets: &mut &[u8]) -> u16 {
    u16::from_be_bytes(take(octets))
}

fn take_u32(octets: &mut &[u8]) -> u32 {
    u32::from_be_bytes(take(octets))
}

impl Collected {
    /// Takes in one message.
    pub(crate) fn message(&mut self, message: &[u8]) {
        let mut rest = message;
        assert_eq!(take_u16(&mut rest), 10, "version");
        assert_eq!(usize::from(take_u16(&mut rest)), message.len(), "length");
        self.export_time = take_u32(&mut rest);
        let sequence = take_u32(&mut rest);
        let domain = take_u32(&mut rest);
        let next = self.next.entry(domain).or_default();
        let gap = sequence.wrapping_sub(*next);
        assert!(gap < 1 << 31, "sequence went back");
        self.gap += u64::from(gap);
        let before = self.records.len();
        assert!(!rest.is_empty(), "a message without sets");
        while !rest.is_empty() {
            let id = take_u16(&mut rest);
            let length = usize::from(take_u16(&mut rest));
            assert!(length > 4, "a set without records");
            let (set, after) = rest.split_at(length - 4);
            rest = after;
            match id {
                2 => self.templates(domain, set, false),
                3 => self.templates(domain, set, true),
                256.. => self.data(domain, id, set),
                _ => panic!("set id {id}"),
            }
        }
        let records = self.records.len() - before;
        let next = sequence.wrapping_add(records as u32);
        self.next.insert(domain, next);
        self.domains.resize(self.records.len(), domain);
    }

    /// Data records of template `id`.
    pub(crate) fn of(&self, id: u16) -> Vec<&Fields> {
        let records = self.records.iter().filter(|(of, _)| *of == id);
        records.map(|(_, fields)| fields).collect()
    }

    /// Template id and fields of each data record of a domain, in the order of arrival.
    pub(crate) fn in_domain(&self, domain: u32) -> Vec<&(u16, Fields)> {
        let records = self.records.iter().zip(&self.domains);
        let records = records.filter(|(_, of)| **of == domain);
        records.map(|(record, _)| record).collect()
    }

    /// Flow records of every template.
    pub(crate) fn flows(&self) -> usize {
        (256..=263).map(|id| self.of(id).len()).sum()
    }

    fn templates(&mut self, domain: u32, mut set: &[u8], options: bool) {
        while !set.is_empty() {
            let id = take_u16(&mut set);
            assert!(id >= 256, "template id {id}");
            let count = take_u16(&mut set);
            let scopes = if options { take_u16(&mut set) } else { 0 };
            assert!(count > 0 && scopes <= count && options == (scopes > 0));
            let field = |_| {
                let (number, length) = (take_u16(&mut set), take_u16(&mut set));
                if number & ENTERPRISE == 0 {
                    return (number, length);
                }
                match take_u32(&mut set) {
                    29305 => (number, length),
                    6871 => (number | CERT, length),
                    enterprise => panic!("element of enterprise {enterprise}"),
                }
            };
            let fields: Vec<_> = (0..count).map(field).collect();
            let known = self
                .templates
                .insert((domain, id), (scopes, fields.clone()));
            let same = known.is_none_or(|known| known == (scopes, fields));
            assert!(same, "template {id} changed its meaning");
        }
    }

    fn data(&mut self, domain: u32, id: u16, mut set: &[u8]) {
        let (_, template) = self
            .templates
            .get(&(domain, id))
            .expect("template before its data");
        while !set.is_empty() {
            let mut fields = Fields::new();
            for (number, length) in template {
                let (value, after) = set.split_at(usize::from(*length));
                fields.push((*number, value.to_vec()));
                set = after;
            }
            self.records.push((id, fields));
        }
    }
}

/// The value of an element as a number.
pub(crate) fn number(fields: &Fields, element: u16) -> u64 {
    let (_, octets) = fields
        .iter()
        .find(|(number, _)| *number == element)
        .expect("element in the record");
    octets
        .iter()
        .fold(0, |sum, octet| sum << 8 | u64::from(*octet))
}
