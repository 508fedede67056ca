//! NetFlow v9 (RFC 3954) and v5 from flow records, for collectors that do not read IPFIX.
//!
//! As [`crate::ipfix`], it knows neither sockets nor the kernel's table. Neither format tells as
//! much as IPFIX: [`v9`] and [`v5`] say what is left out, and which collectors read the rest.

mod uptime;
pub mod v5;
pub mod v9;

#[cfg(test)]
mod tests;

/// Why a flow whose times 32 bits of milliseconds cannot tell is never sent.
const TIME: &str = "time";
