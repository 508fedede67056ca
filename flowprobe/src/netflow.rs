//! NetFlow v9 (RFC 3954) and v5 from flow records, for collectors that do not read IPFIX.
//!
//! As [`crate::ipfix`], it knows neither sockets nor the kernel's table. Neither format tells as
//! much as IPFIX: [`v9`] and [`v5`] say what is left out, and which collectors read the rest.

mod uptime;
pub mod v5;
pub mod v9;

#[cfg(test)]
mod tests;

/// A limit that some template or record would not fit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message of {octets} octets is too small: at least {least} are needed")]
pub struct TooSmall {
    /// The limit asked for.
    pub octets: usize,
    /// What is needed.
    pub least: usize,
}

/// Why a flow whose times 32 bits of milliseconds cannot tell is never sent.
const TIME: &str = "time";
