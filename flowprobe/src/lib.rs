//! flowprobe as a library: the stages between the kernel's flow table and the collectors.
//!
//! In the order of the data path: [`attach`] and [`load`] put the program into the kernel and
//! onto the interfaces, [`table`] takes flows out of the memory shared with it, [`record`] is
//! what a finished flow looks like, [`export`] sends it on, encoded by [`ipfix`] or
//! [`netflow`], or printed.
//! [`run`] joins the stages, with [`bypass`] where packets are metered in userspace, and [`pcap`]
//! does for captures; [`ledger`] says what became of every
//! packet. [`experiment`] compares what sampling would make of captures with the truth.

pub mod adaptive;
pub mod attach;
mod bpf;
pub mod bypass;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod encode;
pub mod experiment;
pub mod export;
pub mod host;
pub mod ipfix;
pub mod ipfix_file;
pub mod ledger;
pub mod load;
mod nearest;
pub mod netflow;
pub mod pcap;
pub mod record;
pub mod run;
pub mod sampling;
pub mod shadow;
pub mod table;
pub mod telemetry;
pub mod xsk;
