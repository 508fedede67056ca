//! Metering in userspace: packets that AF_XDP takes past the kernel's stack.
//!
//! Each receive queue has a worker, which parses and counts what a [`source`] gives it and has a
//! table of its own. A [`shard`] is that table and its place among the others: flows that leave are
//! made whole there. All workers' flows go to one thread that makes records of them.

pub mod shard;
