//! The parser: named cases, random header stacks from a builder that shares no code with it,
//! random octets, and another parser's opinion.

mod named;
mod oracle;
mod random;
mod seen;
mod stack;
