//! What is wrong with a file, and where.

use std::{fmt, io, ops::Range, path::PathBuf};

use crate::cli::SettingsError;

/// A place in a text, counted from 1, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl Place {
    /// Of this octet.
    pub(super) fn of(text: &str, octet: usize) -> Self {
        let before = &text.as_bytes()[..octet.min(text.len())];
        let begin = before
            .iter()
            .rposition(|c| *c == b'\n')
            .map_or(0, |i| i + 1);
        let line = before.iter().filter(|c| **c == b'\n').count() + 1;
        // Each character has one octet that continues none.
        let first = |c: &&u8| (**c as i8) >= -0x40;
        let column = before[begin..].iter().filter(first).count() + 1;
        Self { line, column }
    }
}

/// All that is wrong with a file; one line for each error.
#[derive(Debug)]
pub struct Errors(pub Vec<Error>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<_> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for Errors {}

/// One thing that is wrong with a file.
#[derive(Debug)]
pub struct Error {
    /// Which file.
    pub file: PathBuf,
    /// Where in it; nowhere if it cannot be read.
    pub place: Option<Place>,
    /// What.
    pub problem: Problem,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(Place { line, column }) = self.place {
            write!(f, "{line}:{column}:")?;
        }
        write!(f, " {}", self.problem)
    }
}

/// What can be wrong.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// No file.
    #[error("cannot read it: {0}")]
    Read(#[from] io::Error),
    /// Not a file that somebody wrote.
    #[error("it is longer than {} octets", super::file::MAX_OCTETS)]
    TooLong,
    /// Octets.
    #[error("this is no UTF-8 text")]
    NotText,
    /// Not TOML.
    #[error("{0}")]
    Toml(String),
    /// No option has this name.
    #[error("unknown key \"{}\"{}", key.escape_debug(), did_you_mean(nearest.as_deref()))]
    Unknown {
        /// The name.
        key: String,
        /// One that it may be meant for.
        nearest: Option<String>,
    },
    /// A value of another type.
    #[error("{key}: this is {found}: give {wanted}")]
    Type {
        /// The key.
        key: String,
        /// What it takes, with an example.
        wanted: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// A table without a key that it needs.
    #[error("{key}: {part} is missing")]
    Missing {
        /// What the table stands for.
        key: String,
        /// The key in it.
        part: &'static str,
    },
    /// A value that the option refuses.
    #[error("{key}: {why}")]
    Value {
        /// The key.
        key: String,
        /// What the option says.
        why: String,
    },
    /// Two keys that exclude each other.
    #[error("{key} and {other} exclude each other: leave out one of them")]
    Together {
        /// The later one.
        key: String,
        /// The earlier one.
        other: String,
    },
    /// Settings that do not go together.
    #[error("{}: {refusal}", refusal.option())]
    Settings {
        /// Which.
        refusal: SettingsError,
    },
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(
        || "; `flowprobe config default` shows all".to_owned(),
        |name| format!(": did you mean \"{name}\"?"),
    )
}

/// Where a value stands, in octets of the text.
pub(super) type Span = Range<usize>;
