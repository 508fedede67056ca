//! What the encoders of all formats have in common.

/// Whether a flow record went into the message at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is in.
    In,
    /// There is no more room for it: it goes into the next message.
    Full,
    /// This format has no way to say it, for this reason.
    Never(&'static str),
}

/// A limit that some template or record would not fit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {octets} octets is too small: at least {least} are needed")]
pub struct TooSmall {
    /// The limit asked for.
    pub octets: usize,
    /// What is needed.
    pub least: usize,
}

/// When a message is sent, as headers of messages have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Now, in milliseconds since 1970-01-01 UTC.
    pub unix_ms: u64,
    /// When sysUptime was 0, in the same unit.
    pub boot_unix_ms: u64,
}

impl Stamp {
    /// Seconds since 1970-01-01 UTC, in the 32 bits of all formats.
    #[must_use]
    pub fn unix_s(self) -> u32 {
        (self.unix_ms / 1000) as u32
    }
}

/// How far an encoder has come, to go back there with messages that were not taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// What the header's sequence number of the next message would be.
    pub sequence: u32,
    /// Parts of the oldest record that is not settled which are in messages already, where a
    /// format splits records.
    pub parts: u64,
}
