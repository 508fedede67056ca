//! The parser.
mod corpus;
mod seen;
