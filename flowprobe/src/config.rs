//! The file of `--config`: what stands in it becomes options, of which those on the command line
//! win.
//!
//! There is no second definition of an option. [`keys`] takes the names, types and help of keys
//! from the command line's, [`file`](mod@file) reads TOML and judges each value by the option's own
//! parser, [`merge`] puts what is left in front of the options that were given, and clap reads all
//! of it at once. So defaults, limits and messages cannot differ between flag and key. A value that
//! does not read well in one line (a group, a template) may be a table, of which the same text is made.

mod check;
mod error;
mod file;
mod keys;
mod merge;
mod print;
#[cfg(test)]
mod tests;

pub use self::{
    check::check,
    error::{Error, Errors, Place, Problem},
    file::{File, Item, Setting},
    keys::Of,
    merge::{CommandLine, CommandLineError, Origin, command_line},
    print::{default, show},
};
