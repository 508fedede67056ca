//! IPFIX (RFC 7011) from flow records: information elements, templates, messages.
//!
//! Knows neither sockets nor the kernel's table: [`Encoder`] turns records into messages,
//! whoever sends them commits or discards each one.

pub mod element;
pub mod fields;
pub mod message;
pub mod options;
pub mod template;

#[cfg(test)]
pub(crate) mod tests;

pub use fields::{Fields, FieldsError};
pub use message::Encoder;
pub use template::{Field, Scope, Template};
