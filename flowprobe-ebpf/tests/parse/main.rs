//! The parser: the corpus, whole and cut; fields over all of their values; random stacks of headers
//! from a builder that shares no code with it; random octets; and another parser's opinion.

mod corpus;
mod fields;
mod oracle;
mod random;
mod seen;
mod stack;
