//! What can be wrong with a capture.

use std::io;

use super::{LinkType, MAX_BLOCK, MAX_PACKET};

/// What is wrong with which capture.
#[derive(Debug, thiserror::Error)]
#[error("{name}: {problem}")]
pub struct CaptureError {
    /// The file.
    pub name: String,
    /// What is wrong.
    pub problem: Problem,
}

/// What is wrong with a capture. Offsets are octets from its start, and those of the record or
/// block at hand.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No such file, or no permission.
    #[error("cannot open it: {0}")]
    Open(io::Error),
    /// No octet.
    #[error("it is empty, not even the header of a capture is there")]
    Empty,
    /// Packed.
    #[error("it is compressed: run `{0} FILE | flowprobe pcap -`")]
    Compressed(&'static str),
    /// Something else.
    #[error("it is neither pcap nor pcapng: it begins with {0:02x?}")]
    NoCapture(Vec<u8>),
    /// A format of another time.
    #[error("format version {0} is not known: it is damaged, or needs another tool")]
    Version(u16),
    /// None that carries IP in a way that is known.
    #[error("link type {0} cannot be read: README.md names those that can")]
    Link(LinkType),
    /// The input failed, or cannot be unpacked.
    #[error("cannot read on at octet {offset}: {source}")]
    Read {
        /// Where.
        offset: u64,
        /// Why.
        source: io::Error,
    },
    /// The end is missing.
    #[error("it ends within the {what} at octet {offset}: it was cut off")]
    Truncated {
        /// Where.
        offset: u64,
        /// Header, packet or block.
        what: &'static str,
    },
    /// Damaged.
    #[error("it is damaged at octet {offset}: {what}")]
    Damaged {
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: Damage,
    },
}

/// What is wrong with a record or block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// Above [`MAX_PACKET`].
    #[error("a packet of {0} octets, more than {MAX_PACKET}")]
    Packet(u32),
    /// Below the smallest block or above [`MAX_BLOCK`].
    #[error("a block of {0} octets, not 12 to {MAX_BLOCK}")]
    Block(u32),
    /// Both copies of the length differ.
    #[error("a block of {0} octets that says {1} at its end")]
    Ends(u32, u32),
    /// Neither byte order.
    #[error("a section without byte order")]
    ByteOrder,
    /// A version of pcapng that does not exist.
    #[error("a section of version {0}.{1}, not 1.0 or 1.2")]
    Section(u16, u16),
    /// Fields that do not fit the block.
    #[error("a block whose fields do not fit into it")]
    Fields,
    /// No description.
    #[error("a packet of interface {0}, where only {1} are described")]
    Interface(u32, usize),
}
