//! flowprobe as a library: the stages between the kernel's flow table and the collectors.
//!
//! The stages of the data path, in order: [`load`] puts the program into the kernel and onto
//! the interfaces, [`table`] takes flows out of the memory shared with it, [`record`] is what
//! a finished flow looks like, [`export`] sends it on, encoded by [`ipfix`] or printed.

pub mod export;
pub mod ipfix;
pub mod record;
pub mod sampling;
