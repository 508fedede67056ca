//! Options of `flowprobe config`.

use std::{ffi::OsString, path::PathBuf};

use clap::{Args, Subcommand};

/// Options of `flowprobe config`.
#[derive(Debug, Args)]
pub struct Config {
    /// What to do with settings.
    #[command(subcommand)]
    pub command: ConfigCommand,
}

/// What to do with settings.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Say what is wrong with a file, as far as that can be said without attaching
    Check {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Print a file with every key, its default and what it is for
    Default,
    /// Print the settings that these options make, and where each comes from
    ///
    /// Nothing is attached. The key of hashes is not shown.
    Show {
        /// `run` (the default) or `pcap`, and its options, --config among them
        #[arg(
            value_name = "OPTIONS",
            trailing_var_arg = true,
            allow_hyphen_values = true
        )]
        options: Vec<OsString>,
    },
}
