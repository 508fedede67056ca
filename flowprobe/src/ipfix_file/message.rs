//! What can be seen to be wrong with a message without knowing its templates.

use crate::ipfix::message::{HEADER, SET_HEADER};

/// Version of IPFIX in the message header (RFC 7011 §3.1).
const VERSION: u16 = 10;
/// Set of templates (RFC 7011 §3.3.2).
pub(super) const TEMPLATE_SET: u16 = 2;
/// Set of options templates (RFC 7011 §3.3.2).
pub(super) const OPTIONS_TEMPLATE_SET: u16 = 3;
/// Smallest id of a template, and of a set of data (RFC 7011 §3.3.2).
pub(super) const FIRST_TEMPLATE: u16 = 256;

/// A rule that a message breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// A file of nothing.
    #[error("it is empty: not one IPFIX message is in it")]
    Empty,
    /// RFC 7011 §3.1.
    #[error("the version is {0} and not 10: this is no IPFIX message")]
    Version(u16),
    /// RFC 7011 §3.1: it counts the header.
    #[error("a message of {0} octets is shorter than its header")]
    Length(u16),
    /// The end of the file, within a message.
    #[error("cut off: {there} of the {length} octets of a message are there")]
    CutOff {
        /// Octets of it in the file.
        there: usize,
        /// Octets of the message; of its header where not all of that is there.
        length: usize,
    },
    /// Octets behind the last set that are no set header.
    #[error("{0} octets behind the last set are too few for a set")]
    SetHeader(usize),
    /// RFC 7011 §3.3.2.
    #[error("a set of {length} octets, where {left} are left of the message")]
    SetLength {
        /// As it says.
        length: u16,
        /// Octets up to the end of the message.
        left: usize,
    },
    /// RFC 7011 §3.3.2.
    #[error("set id {0} is reserved")]
    SetId(u16),
    /// A template that is longer than its set.
    #[error("a template that is longer than its set")]
    TemplateLength,
    /// RFC 7011 §3.4.1.
    #[error("{0} is no template id: they begin with 256")]
    TemplateId(u16),
    /// RFC 7011 §3.4.2.2.
    #[error("template {id} has {scopes} scopes, but {fields} fields")]
    Scopes {
        /// Template.
        id: u16,
        /// Scope count.
        scopes: u16,
        /// Field count.
        fields: u16,
    },
    /// RFC 7011 §8.2: templates come before their data.
    #[error("data of template {id} of domain {domain}, which was not defined before")]
    UnknownTemplate {
        /// Observation domain.
        domain: u32,
        /// Set id.
        id: u16,
    },
    /// Records without octets cannot be counted.
    #[error("data of template {0}, whose records have no octets")]
    NoOctets(u16),
    /// RFC 7011 §3.3.1: padding is shorter than a record, and zero.
    #[error(
        "{octets} octets at the end of a set of template {id} are neither a record nor padding"
    )]
    Rest {
        /// Template.
        id: u16,
        /// How many.
        octets: usize,
    },
}

/// A flaw, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Located {
    /// Octets from the start of the message.
    pub at: usize,
    /// What is wrong there.
    pub flaw: Flaw,
}

/// What a message header says (RFC 7011 §3.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Octets of the message.
    pub length: u16,
    /// When it was sent, in seconds since 1970-01-01 UTC.
    pub export_time_s: u32,
    /// Data records of the domain before it, modulo 2³².
    pub sequence: u32,
    /// Observation domain.
    pub domain: u32,
}

impl Header {
    /// Reads it.
    ///
    /// # Errors
    /// Of another version, or shorter than a header.
    pub fn parse(octets: &[u8; HEADER]) -> Result<Self, Flaw> {
        let version = u16_at(octets, 0);
        if version != VERSION {
            return Err(Flaw::Version(version));
        }
        let length = u16_at(octets, 2);
        if usize::from(length) < HEADER {
            return Err(Flaw::Length(length));
        }
        Ok(Self {
            length,
            export_time_s: u32_at(octets, 4),
            sequence: u32_at(octets, 8),
            domain: u32_at(octets, 12),
        })
    }
}

/// The set whose header is at `at` of a message: its id, and where it ends.
pub(super) fn set_at(message: &[u8], at: usize) -> Result<(u16, usize), Flaw> {
    let left = message.len() - at;
    if left < SET_HEADER {
        return Err(Flaw::SetHeader(left));
    }
    let (id, length) = (u16_at(message, at), u16_at(message, at + 2));
    if usize::from(length) < SET_HEADER || usize::from(length) > left {
        return Err(Flaw::SetLength { length, left });
    }
    match id {
        TEMPLATE_SET | OPTIONS_TEMPLATE_SET | FIRST_TEMPLATE.. => {}
        _ => return Err(Flaw::SetId(id)),
    }
    Ok((id, at + usize::from(length)))
}

/// Whether the sets of a message fill it.
///
/// # Errors
/// Where they do not.
pub(super) fn check_sets(message: &[u8]) -> Result<(), Located> {
    let mut at = HEADER;
    while at < message.len() {
        at = set_at(message, at).map_err(|flaw| Located { at, flaw })?.1;
    }
    Ok(())
}

/// The number at `at`, which the caller knows to be there.
pub(super) fn u16_at(octets: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([octets[at], octets[at + 1]])
}

fn u32_at(octets: &[u8], at: usize) -> u32 {
    u32::from(u16_at(octets, at)) << 16 | u32::from(u16_at(octets, at + 2))
}
