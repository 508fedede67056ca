//! A strict decoder of NetFlow v9, written from RFC 3954 and not from the encoder: it learns
//! templates from the wire only, and panics at whatever the RFC does not allow.

use std::collections::HashMap;

use super::super::Clock;

/// Fields of a record: type and octets.
pub(super) type Fields = Vec<(u16, Vec<u8>)>;

/// Type and length of each field: of the scopes, and of the others.
pub(super) type Shape = [Vec<(u16, u16)>; 2];

/// A record of a data flowset.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) template: u16,
    /// None in flow records.
    pub(super) scopes: Fields,
    pub(super) fields: Fields,
    /// The times in the header of its message.
    pub(super) clock: Clock,
}

/// What a collector knows after the messages it was given.
#[derive(Default)]
pub(super) struct Collected {
    pub(super) templates: HashMap<u16, Shape>,
    pub(super) records: Vec<Record>,
    /// Messages that the sequence numbers say are missing.
    pub(super) gap: u32,
    pub(super) source_id: u32,
    next: Option<u32>,
    /// Records of the message at hand, templates too.
    seen: u16,
}

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

/// §5.3, §6.1: fewer octets than reach the next multiple of four, all zero.
fn padding(octets: &[u8]) {
    assert!(octets.len() < 4, "{} octets of padding", octets.len());
    assert!(octets.iter().all(|octet| *octet == 0), "padding is zero");
}

impl Collected {
    /// Takes in one message.
    pub(super) fn message(&mut self, message: &[u8]) {
        let mut rest = message;
        assert_eq!(take_u16(&mut rest), 9, "version");
        let count = take_u16(&mut rest);
        let uptime_ms = take_u32(&mut rest);
        let unix_s = take_u32(&mut rest);
        let clock = Clock { unix_s, uptime_ms };
        let sequence = take_u32(&mut rest);
        self.source_id = take_u32(&mut rest);
        let expected = self.next.unwrap_or(0);
        self.gap += sequence.wrapping_sub(expected);
        self.next = Some(sequence.wrapping_add(1));
        self.seen = 0;
        assert!(!rest.is_empty(), "a message without flowsets");
        while !rest.is_empty() {
            let id = take_u16(&mut rest);
            let length = usize::from(take_u16(&mut rest));
            assert!(length > 4, "a flowset without records");
            let (flowset, after) = rest.split_at(length - 4);
            rest = after;
            let aligned = (message.len() - rest.len()).is_multiple_of(4);
            let short = self.record_length(id) < 4;
            assert!(aligned || short, "what follows is not aligned");
            match id {
                0 => self.templates(flowset),
                1 => self.options_template(flowset),
                256.. => self.data(id, flowset, clock),
                _ => panic!("flowset id {id}"),
            }
        }
        assert_eq!(self.seen, count, "count");
    }

    /// Records of a template.
    pub(super) fn of(&self, template: u16) -> Vec<&Record> {
        let records = self.records.iter();
        records
            .filter(|record| record.template == template)
            .collect()
    }

    /// Octets of a data record; where padding may be as long, nothing is padded.
    fn record_length(&self, template: u16) -> usize {
        let Some([scopes, fields]) = self.templates.get(&template) else {
            return usize::MAX;
        };
        let lengths = scopes.iter().chain(fields).map(|(_, length)| length);
        lengths.map(|length| usize::from(*length)).sum()
    }

    fn learn(&mut self, id: u16, shape: Shape) {
        assert!(id >= 256, "template id {id}");
        self.seen += 1;
        let known = self.templates.get(&id);
        assert!(known.is_none_or(|known| *known == shape), "{id} changed");
        self.templates.insert(id, shape);
    }

    fn templates(&mut self, mut flowset: &[u8]) {
        while flowset.len() >= 4 {
            let id = take_u16(&mut flowset);
            let count = take_u16(&mut flowset);
            let fields = fields(&mut flowset, count);
            self.learn(id, [Vec::new(), fields]);
        }
        padding(flowset);
    }

    /// The only one of its flowset: nfacctd reads no other.
    fn options_template(&mut self, mut flowset: &[u8]) {
        let id = take_u16(&mut flowset);
        let scopes = take_u16(&mut flowset);
        let options = take_u16(&mut flowset);
        assert!(scopes > 0 && options > 0);
        let whole = scopes.is_multiple_of(4) && options.is_multiple_of(4);
        assert!(whole, "a field takes four octets");
        let scopes = fields(&mut flowset, scopes / 4);
        let options = fields(&mut flowset, options / 4);
        assert!(scopes.iter().all(|(scope, _)| (1..=5).contains(scope)));
        self.learn(id, [scopes, options]);
        padding(flowset);
    }

    fn data(&mut self, template: u16, mut flowset: &[u8], clock: Clock) {
        let count = flowset.len() / self.record_length(template);
        let [scopes, fields] = &self
            .templates
            .get(&template)
            .expect("template before its data");
        let mut values = |shape: &[(u16, u16)]| -> Fields {
            let values = shape.iter().map(|(number, length)| {
                let (value, after) = flowset.split_at(usize::from(*length));
                flowset = after;
                (*number, value.to_vec())
            });
            values.collect()
        };
        for _ in 0..count {
            self.records.push(Record {
                template,
                scopes: values(scopes),
                fields: values(fields),
                clock,
            });
            self.seen += 1;
        }
        padding(flowset);
    }
}

fn fields(octets: &mut &[u8], count: u16) -> Vec<(u16, u16)> {
    (0..count)
        .map(|_| (take_u16(octets), take_u16(octets)))
        .collect()
}
