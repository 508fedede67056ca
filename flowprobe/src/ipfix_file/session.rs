//! What a reader knows of a session: the templates of each domain, and with them where records
//! begin and end.

use std::{collections::HashMap, ops::Range};

use super::{
    message::{self, Flaw, Located, OPTIONS_TEMPLATE_SET, TEMPLATE_SET},
    template::{Template, TemplateRecord},
};
use crate::{
    ipfix::message::{HEADER, SET_HEADER},
    record::Volume,
};

/// What an item of a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A template or options template.
    Template {
        /// Which of the two.
        options: bool,
    },
    /// The withdrawal of one, or of all of its kind where the id is that of the set (RFC 7011
    /// §8.1).
    Withdrawal {
        /// Of options templates.
        options: bool,
    },
    /// A data record.
    Record(Volume),
}

/// A template, withdrawal or record in a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What it is.
    pub kind: Kind,
    /// Observation domain.
    pub domain: u32,
    /// Id of the template.
    pub id: u16,
    /// Where it is in the message.
    pub at: Range<usize>,
}

/// Takes messages of one session apart, in their order.
#[derive(Debug, Default)]
pub struct Session {
    templates: HashMap<(u32, u16), Template>,
    domain: u32,
    /// Where the next item is.
    at: usize,
    /// Id and end of the set that it is in.
    set: Option<(u16, usize)>,
}

impl Session {
    /// The next items are those of a message of `domain`.
    pub fn begin(&mut self, domain: u32) {
        self.domain = domain;
        self.at = HEADER;
        self.set = None;
    }

    /// The next item of `message`, the one that was begun; `None` at its end.
    ///
    /// # Errors
    /// The message breaks a rule; what comes behind cannot be told.
    pub fn item(&mut self, message: &[u8]) -> Result<Option<Item>, Located> {
        loop {
            let at = self.at;
            let located = |flaw| Located { at, flaw };
            let Some((id, end)) = self.set else {
                if at == message.len() {
                    return Ok(None);
                }
                self.set = Some(message::set_at(message, at).map_err(located)?);
                self.at += SET_HEADER;
                continue;
            };
            let rest = &message[at..end];
            let item = match id {
                TEMPLATE_SET | OPTIONS_TEMPLATE_SET => {
                    self.template(rest, id == OPTIONS_TEMPLATE_SET)
                }
                _ => self.record(rest, id),
            };
            if let Some(item) = item.map_err(located)? {
                self.at = item.at.end;
                return Ok(Some(item));
            }
            self.at = end;
            self.set = None;
        }
    }

    /// The template that `rest` of a set begins with; `None` if that is padding.
    fn template(&mut self, rest: &[u8], options: bool) -> Result<Option<Item>, Flaw> {
        // RFC 7011 §3.3.1. No template begins with 0.
        if is_zero(rest) {
            return Ok(None);
        }
        let TemplateRecord {
            id,
            template,
            length,
        } = TemplateRecord::read(rest, options)?;
        let key = (self.domain, id);
        let kind = match template {
            Some(template) => {
                self.templates.insert(key, template);
                Kind::Template { options }
            }
            None if matches!(id, TEMPLATE_SET | OPTIONS_TEMPLATE_SET) => {
                let domain = self.domain;
                let goes =
                    |of: u32, template: &Template| of == domain && template.is_options() == options;
                self.templates
                    .retain(|(of, _), template| !goes(*of, template));
                Kind::Withdrawal { options }
            }
            None => {
                self.templates.remove(&key);
                Kind::Withdrawal { options }
            }
        };
        Ok(Some(self.here(kind, id, length)))
    }

    /// The record that `rest` of a set begins with; `None` if that is padding.
    fn record(&self, rest: &[u8], id: u16) -> Result<Option<Item>, Flaw> {
        let domain = self.domain;
        let Some(template) = self.templates.get(&(domain, id)) else {
            return Err(Flaw::UnknownTemplate { domain, id });
        };
        if template.shortest() == 0 {
            return Err(Flaw::NoOctets(id));
        }
        if rest.len() < template.shortest() && is_zero(rest) {
            return Ok(None);
        }
        let Some(length) = template.record_length(rest) else {
            let octets = rest.len();
            return Err(Flaw::Rest { id, octets });
        };
        let kind = Kind::Record(template.volume(&rest[..length]));
        Ok(Some(self.here(kind, id, length)))
    }

    fn here(&self, kind: Kind, id: u16, length: usize) -> Item {
        Item {
            kind,
            domain: self.domain,
            id,
            at: self.at..self.at + length,
        }
    }
}

fn is_zero(octets: &[u8]) -> bool {
    octets.iter().all(|octet| *octet == 0)
}
