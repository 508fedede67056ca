//! Metering in userspace: packets that AF_XDP takes past the kernel's stack.
//!
//! Each receive queue has a [`worker`], a thread that parses and counts what its [`source`] gives,
//! in a table of its own. A [`shard`] is that table and its place among the others: flows that leave
//! are made whole there. Then one thread makes records of all workers' flows ([`emission`]). A
//! [`crew`] is all of these threads; what they pass on to each other goes through [`mailbox`]es.

pub mod books;
pub mod cpus;
pub mod crew;
#[cfg(debug_assertions)]
mod drill;
pub mod emission;
pub mod mailbox;
pub mod meter;
pub mod shard;
pub mod source;
pub mod worker;

pub use self::{
    crew::{Crew, CrewError},
    meter::Counted,
    source::{Losses, Source},
    worker::Poll,
};
