//! A strict decoder of IPFIX messages (RFC 7011), independent of flowprobe's encoder.
//!
//! What the RFC leaves a collector free to tolerate is an error here.

use std::{collections::HashMap, fmt, sync::Arc};

/// Octets of the message header (RFC 7011 §3.1).
const HEADER: usize = 16;
/// The length that says "variable" (RFC 7011 §3.2).
const VARIABLE: u16 = 0xffff;

/// Where in a message it breaks a rule, and which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// Octet from the start of the message.
    pub offset: usize,
    /// The rule.
    pub rule: String,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "octet {}: {}", self.offset, self.rule)
    }
}

impl std::error::Error for Malformed {}

/// A field specifier (RFC 7011 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Information element.
    pub id: u16,
    /// Private enterprise number, 0 for IANA's.
    pub enterprise: u32,
    /// Octets, or 65535 for variable.
    pub length: u16,
}

/// A template or options template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// Its id, 256 or above.
    pub id: u16,
    /// Scope fields at the start; 0 for a template of data.
    pub scopes: usize,
    /// All fields, scopes first.
    pub fields: Vec<Field>,
}

impl Template {
    /// Octets of the shortest record.
    fn min_len(&self) -> usize {
        let shortest = |field: &Field| match field.length {
            VARIABLE => 1,
            length => usize::from(length),
        };
        self.fields.iter().map(shortest).sum()
    }
}

/// A data record.
#[derive(Clone, PartialEq, Eq)]
pub struct Record {
    /// What its octets mean.
    pub template: Arc<Template>,
    octets: Box<[u8]>,
}

impl Record {
    /// Every field and its octets, in order.
    pub fn fields(&self) -> impl Iterator<Item = (Field, &[u8])> {
        let mut rest = &*self.octets;
        self.template.fields.iter().map(move |field| {
            let (value, after) = split_value(field.length, rest).expect("checked when decoded");
            rest = after;
            (*field, value)
        })
    }

    /// The octets of an element of IANA's, the first one if it is there more than once.
    #[must_use]
    pub fn get(&self, id: u16) -> Option<&[u8]> {
        self.all(id).next()
    }

    /// The octets of an element of IANA's as often as it is there, in order.
    pub fn all(&self, id: u16) -> impl Iterator<Item = &[u8]> {
        self.fields()
            .filter(move |(field, _)| field.enterprise == 0 && field.id == id)
            .map(|(_, value)| value)
    }

    /// An element as an unsigned number, if it is there and has at most eight octets.
    #[must_use]
    pub fn number(&self, id: u16) -> Option<u64> {
        let octets = self.get(id).filter(|octets| octets.len() <= 8)?;
        Some(
            octets
                .iter()
                .fold(0, |sum, octet| sum << 8 | u64::from(*octet)),
        )
    }

    /// Whether it is described by an options template.
    #[must_use]
    pub fn is_options(&self) -> bool {
        self.template.scopes > 0
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.template.id)?;
        let fields = self.fields().map(|(field, value)| (field.id, value));
        f.debug_map().entries(fields).finish()
    }
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Seconds since 1970.
    pub export_time: u32,
    /// Data records sent before it.
    pub sequence: u32,
    /// Observation domain.
    pub domain: u32,
    /// Templates in it, options templates too.
    pub templates: Vec<Arc<Template>>,
    /// Ids of templates that it withdraws (RFC 7011 §8.1); 2 and 3 are all of their kind.
    pub withdrawn: Vec<u16>,
    /// Data records in it, of options too.
    pub records: Vec<Record>,
}

/// Decodes the messages of one transport session, and keeps its templates.
#[derive(Debug, Default)]
pub struct Decoder {
    templates: HashMap<(u32, u16), Arc<Template>>,
    /// Templates can be withdrawn, and are not to be said twice.
    sessions: bool,
}

impl Decoder {
    /// One for TCP or SCTP, where templates are said once, and may be withdrawn (RFC 7011 §8.1).
    /// Any other is for UDP, where both is otherwise (§8.4).
    #[must_use]
    pub fn of_a_session() -> Self {
        Self {
            sessions: true,
            ..Self::default()
        }
    }

    /// Decodes one message.
    ///
    /// # Errors
    /// The first rule that it breaks.
    pub fn decode(&mut self, octets: &[u8]) -> Result<Message, Malformed> {
        let mut reader = Reader { octets, at: 0 };
        let version = reader.u16()?;
        if version != 10 {
            return Err(reader.error(format!("§3.1: version {version}")));
        }
        let length = reader.u16()?;
        if usize::from(length) != octets.len() {
            let rule = format!("§3.1: length {length}, but {} octets", octets.len());
            return Err(reader.error(rule));
        }
        let mut message = Message {
            export_time: reader.u32()?,
            sequence: reader.u32()?,
            domain: reader.u32()?,
            templates: Vec::new(),
            withdrawn: Vec::new(),
            records: Vec::new(),
        };
        debug_assert_eq!(reader.at, HEADER);
        while !reader.is_empty() {
            self.set(&mut reader, &mut message)?;
        }
        Ok(message)
    }

    fn set(&mut self, reader: &mut Reader<'_>, message: &mut Message) -> Result<(), Malformed> {
        let start = reader.at;
        let (id, length) = (reader.u16()?, usize::from(reader.u16()?));
        if length <= 4 {
            return Err(reader.error(format!("§3.3.1: a set of {length} octets has no record")));
        }
        let end = start + length;
        let octets = reader.octets.get(..end);
        let octets = octets.ok_or_else(|| reader.error("§3.3.2: a set beyond the message"))?;
        let mut set = Reader {
            octets,
            at: reader.at,
        };
        match id {
            2 | 3 => self.templates(&mut set, id == 3, message)?,
            256.. => self.data(&mut set, id, message)?,
            _ => return Err(set.error(format!("§3.3.2: set id {id}"))),
        }
        reader.at = end;
        Ok(())
    }

    fn templates(
        &mut self,
        set: &mut Reader<'_>,
        options: bool,
        message: &mut Message,
    ) -> Result<(), Malformed> {
        while !set.is_empty() {
            if let Some(id) = set.withdrawal() {
                self.withdraw(set, id, options, message)?;
                continue;
            }
            let template = Arc::new(set.template(options)?);
            let known = self.templates.get(&(message.domain, template.id));
            if self.sessions && known.is_some() {
                return Err(set.error(format!("§8.1: template {} again", template.id)));
            }
            // RFC 7011 §8: the same id with other fields, without withdrawal, is an error.
            if known.is_some_and(|known| *known != template) {
                return Err(set.error(format!("§8.1: template {} changed", template.id)));
            }
            let key = (message.domain, template.id);
            self.templates.insert(key, Arc::clone(&template));
            message.templates.push(template);
        }
        Ok(())
    }

    /// A withdrawal, whose four octets are still to be read.
    fn withdraw(
        &mut self,
        set: &mut Reader<'_>,
        id: u16,
        options: bool,
        message: &mut Message,
    ) -> Result<(), Malformed> {
        if !self.sessions {
            return Err(set.error("§8.4: no withdrawal over UDP"));
        }
        let domain = message.domain;
        let is_one = |of: u32, template: &Template| {
            let all = id == if options { 3 } else { 2 };
            of == domain && options == (template.scopes > 0) && (all || template.id == id)
        };
        let known = self.templates.len();
        self.templates
            .retain(|(of, _), template| !is_one(*of, template));
        if self.templates.len() == known {
            return Err(set.error(format!("§8.1: {id} withdrawn, which is not there")));
        }
        set.at += 4;
        message.withdrawn.push(id);
        Ok(())
    }

    fn data(&self, set: &mut Reader<'_>, id: u16, message: &mut Message) -> Result<(), Malformed> {
        let template = self.templates.get(&(message.domain, id));
        let template =
            template.ok_or_else(|| set.error(format!("§8: no template {id} before its data")))?;
        let shortest = template.min_len();
        while set.left() >= shortest {
            let start = set.at;
            for field in &template.fields {
                let rest = &set.octets[set.at..];
                let (_, after) = split_value(field.length, rest)
                    .ok_or_else(|| set.error(format!("§7: element {} beyond the set", field.id)))?;
                set.at = set.octets.len() - after.len();
            }
            message.records.push(Record {
                template: Arc::clone(template),
                octets: set.octets[start..set.at].into(),
            });
        }
        // RFC 7011 §3.3.1: padding is zero and shorter than any record.
        if set.octets[set.at..].iter().any(|octet| *octet != 0) {
            return Err(set.error("§3.3.1: padding that is not zero"));
        }
        Ok(())
    }
}

/// Splits a value off, reading the length of a variable one (RFC 7011 §7).
fn split_value(length: u16, octets: &[u8]) -> Option<(&[u8], &[u8])> {
    if length != VARIABLE {
        return octets.split_at_checked(length.into());
    }
    let (first, rest) = octets.split_first()?;
    if *first < 255 {
        return rest.split_at_checked((*first).into());
    }
    let (long, rest) = rest.split_first_chunk()?;
    rest.split_at_checked(u16::from_be_bytes(*long).into())
}

struct Reader<'a> {
    octets: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn left(&self) -> usize {
        self.octets.len() - self.at
    }

    fn is_empty(&self) -> bool {
        self.left() == 0
    }

    fn error(&self, rule: impl Into<String>) -> Malformed {
        Malformed {
            offset: self.at,
            rule: rule.into(),
        }
    }

    /// The id of a template withdrawal, if one is next: its field count is 0 (RFC 7011 §8.1).
    fn withdrawal(&self) -> Option<u16> {
        let [a, b, 0, 0] = *self.octets[self.at..].first_chunk()? else {
            return None;
        };
        Some(u16::from_be_bytes([a, b]))
    }

    fn u16(&mut self) -> Result<u16, Malformed> {
        self.chunk().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        self.chunk().map(u32::from_be_bytes)
    }

    fn chunk<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let chunk = self.octets[self.at..].first_chunk();
        let chunk = *chunk.ok_or_else(|| self.error("cut off"))?;
        self.at += N;
        Ok(chunk)
    }

    /// A template record (RFC 7011 §3.4.1) or options template record (§3.4.2).
    fn template(&mut self, options: bool) -> Result<Template, Malformed> {
        let (id, count) = (self.u16()?, self.u16()?);
        if id < 256 {
            return Err(self.error(format!("§3.4.1: template id {id}")));
        }
        let scopes = if options { self.u16()? } else { 0 };
        if options && (scopes == 0 || scopes > count) {
            return Err(self.error(format!("§3.4.2.2: {scopes} scopes of {count} fields")));
        }
        let mut fields = Vec::with_capacity(count.into());
        for _ in 0..count {
            let (id, length) = (self.u16()?, self.u16()?);
            let enterprise = if id & 0x8000 == 0 { 0 } else { self.u32()? };
            let field = Field {
                id: id & 0x7fff,
                enterprise,
                length,
            };
            let most = longest(field);
            if length == 0 || length > most && (length != VARIABLE || most != u16::MAX) {
                let rule = format!("§6.2: element {} of {length} octets", field.id);
                return Err(self.error(rule));
            }
            fields.push(field);
        }
        Ok(Template {
            id,
            scopes: scopes.into(),
            fields,
        })
    }
}

/// Octets that the type of an element has (RFC 7012 §3.1), 65535 where it is text or unknown.
fn longest(field: Field) -> u16 {
    if field.enterprise != 0 {
        return u16::MAX;
    }
    match field.id {
        4
        | 5
        | 9
        | 13
        | 29
        | 30
        | 35
        | 52
        | 53
        | 60
        | 61
        | 136
        | 176..=179
        | 192
        | 197
        | 244
        | 246
        | 333 => 1,
        6 | 7 | 11 | 32 | 58 | 59 | 139 | 145 | 243 | 245 | 304 | 390 => 2,
        // Octets, but the registry says how many.
        70..=79 => 3,
        8
        | 10
        | 12
        | 14
        | 31
        | 34
        | 50
        | 64
        | 141
        | 143
        | 144
        | 149
        | 208
        | 296
        | 305..=310
        | 507 => 4,
        56 | 57 | 80 | 81 => 6,
        1
        | 2
        | 40..=42
        | 85
        | 86
        | 152
        | 153
        | 164..=168
        | 173
        | 301
        | 302
        | 311
        | 318
        | 319
        | 322..=325
        | 327..=332
        | 351 => 8,
        27 | 28 => 16,
        _ => u16::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A template of sourceTransportPort, and one record with padding behind it.
    const MESSAGE: [u8; 35] = [
        0, 10, 0, 35, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 9, // header
        0, 2, 0, 12, 1, 0, 0, 1, 0, 7, 0, 2, // template 256
        1, 0, 0, 7, 0x12, 0x34, 0, // data
    ];

    #[test]
    fn a_record_is_read_by_its_template() {
        let message = Decoder::default().decode(&MESSAGE).unwrap();
        assert_eq!(message.domain, 9);
        assert_eq!(message.records.len(), 1);
        assert_eq!(message.records[0].number(7), Some(0x1234));
    }

    /// Templates, withdrawals and what follows, in one session.
    #[test]
    fn sessions_have_rules_of_their_own() {
        let again = |set: &[u8]| {
            let mut decoder = Decoder::of_a_session();
            decoder.decode(&MESSAGE).unwrap();
            let length = 16 + set.len() as u8;
            let header = [0, 10, 0, length, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 9];
            let decoded = decoder.decode(&[&header, set].concat());
            (decoded, decoder.templates.len())
        };
        let (decoded, known) = again(&[0, 2, 0, 8, 1, 0, 0, 0]);
        assert_eq!((decoded.unwrap().withdrawn, known), (vec![0x100], 0));
        let (decoded, known) = again(&[0, 2, 0, 8, 0, 2, 0, 0]);
        assert_eq!((decoded.unwrap().withdrawn, known), (vec![2], 0));
        for (set, rule) in [
            (&MESSAGE[16..28], "§8.1: template 256 again"),
            (&[0, 2, 0, 8, 1, 1, 0, 0], "257 withdrawn, which is not"),
            (&[0, 3, 0, 8, 1, 0, 0, 0], "256 withdrawn, which is not"),
        ] {
            let error = again(set).0.unwrap_err();
            assert!(error.rule.contains(rule), "{error}");
        }
    }

    #[test]
    fn each_broken_rule_is_found() {
        let broken = |at: usize, value: u8| {
            let mut octets = MESSAGE;
            octets[at] = value;
            Decoder::default().decode(&octets).unwrap_err().rule
        };
        assert!(broken(1, 9).contains("version"));
        assert!(broken(3, 34).contains("length"));
        assert!(broken(17, 4).contains("set id"));
        assert!(broken(20, 0).contains("template id"));
        assert!(broken(23, 0).contains("withdrawal"));
        assert!(broken(27, 3).contains("§6.2"));
        assert!(broken(29, 1).contains("no template"));
        assert!(broken(31, 8).contains("beyond"));
        assert!(broken(34, 1).contains("padding"));
    }
}
