//! Fixtures of the end-to-end tests: networks, traffic whose truth is known, flowprobe as a
//! process, and collectors that judge what it exports.
//!
//! Nothing here uses flowprobe's own code: a decoder or a parser shared with the product would
//! agree with it where it is wrong. Traffic stays in network namespaces made here.

pub mod bpf;
pub mod capture_file;
pub mod captures;
pub mod collector;
pub mod corpus;
pub mod flow;
pub mod headers;
pub mod ipfix;
pub mod judges;
pub mod live;
pub mod mix;
pub mod netns;
pub mod offline;
pub mod packets;
pub mod probe;
pub mod secure;
pub mod sender;
pub mod sniffer;
pub mod socket;
pub mod stream;
pub mod summary;
pub mod topology;
pub mod verifier;
