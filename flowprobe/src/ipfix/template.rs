//! Templates and options templates: the shape of data records.

/// The enterprise of elements that are the reverse of IANA's (RFC 5103 §6.1).
pub const REVERSE: u32 = 29305;
/// CERT, whose elements YAF and SiLK know.
pub const CERT: u32 = 6871;

/// One field specifier, with the information element behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name in the registry.
    pub name: &'static str,
    /// Whose registry: a private enterprise number, or 0 for IANA.
    pub enterprise: u32,
    /// Number in the registry, below 32,768.
    pub number: u16,
    /// Encoded octets, never [`Self::VARIABLE`].
    pub length: u16,
    /// Whether it is part of the flow key.
    pub key: bool,
}

impl Field {
    /// The length that announces a field of variable length (RFC 7011 §7).
    pub const VARIABLE: u16 = u16::MAX;

    pub(super) const NONE: Self = Self {
        name: "",
        enterprise: 0,
        number: 0,
        length: 0,
        key: false,
    };

    /// Octets of the field specifier (RFC 7011 §3.2).
    const fn encoded_length(&self) -> usize {
        if self.enterprise == 0 { 4 } else { 8 }
    }
}

/// What options are about in NetFlow v9, which has no elements for it but five numbers (RFC 3954
/// §6.1); these are the two that are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub enum Scope {
    /// The exporter: here the source id of the header, an observation domain.
    System = 1,
    /// An interface, by its index.
    Interface = 2,
}

/// A template, or an options template where some of its fields are scopes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Template {
    /// Identifier, 256 and above; also the set id of its data records.
    pub id: u16,
    /// How many of the fields, from the first, are scopes; 0 for flow records.
    pub scopes: u16,
    /// What the first scope is in NetFlow v9, where these options have a form in that.
    pub v9: Option<Scope>,
    /// Fields in the order of encoding.
    pub fields: &'static [Field],
}

impl Template {
    /// Octets of one data record.
    #[must_use]
    pub const fn record_length(&self) -> usize {
        let mut length = 0;
        let mut i = 0;
        while i < self.fields.len() {
            length += self.fields[i].length as usize;
            i += 1;
        }
        length
    }

    /// Octets of the template record itself (RFC 7011 §3.4.1, §3.4.2.2).
    #[must_use]
    pub const fn encoded_length(&self) -> usize {
        let mut length = if self.scopes == 0 { 4 } else { 6 };
        let mut i = 0;
        while i < self.fields.len() {
            length += self.fields[i].encoded_length();
            i += 1;
        }
        length
    }

    /// Octets of the longer one of both: the template record, and a data record.
    #[must_use]
    pub(super) const fn longest(&self) -> usize {
        let (template, record) = (self.encoded_length(), self.record_length());
        if template > record { template } else { record }
    }

    /// Whether its records are biflows.
    #[must_use]
    pub fn is_biflow(&self) -> bool {
        super::element::BIFLOWS.contains(&self.id)
    }

    /// flowKeyIndicator (IE 173): bit i is set where field i is part of the flow key.
    #[must_use]
    pub fn flow_keys(&self) -> u64 {
        let keys = self.fields.iter().enumerate().filter(|(_, f)| f.key);
        keys.fold(0, |bits, (i, _)| bits | 1 << i)
    }

    /// Writes the template record into `to`, which is [`Self::encoded_length`] octets long.
    pub(super) fn encode(&self, to: &mut [u8]) {
        /// Set where an enterprise number follows (RFC 7011 §3.2).
        const ENTERPRISE: u16 = 0x8000;
        let (header, mut rest) = to.split_at_mut(if self.scopes == 0 { 4 } else { 6 });
        header[..2].copy_from_slice(&self.id.to_be_bytes());
        header[2..4].copy_from_slice(&(self.fields.len() as u16).to_be_bytes());
        if let Some(scopes) = header.get_mut(4..6) {
            scopes.copy_from_slice(&self.scopes.to_be_bytes());
        }
        for field in self.fields {
            let (specifier, after) = rest.split_at_mut(field.encoded_length());
            rest = after;
            let (element, enterprise) = specifier.split_at_mut(4);
            let mut number = field.number;
            if !enterprise.is_empty() {
                number |= ENTERPRISE;
                enterprise.copy_from_slice(&field.enterprise.to_be_bytes());
            }
            element[..2].copy_from_slice(&number.to_be_bytes());
            element[2..].copy_from_slice(&field.length.to_be_bytes());
        }
    }
}
