//! Names of files that follow one another.

use std::path::{Path, PathBuf};

/// What is appended to the name of a file that is not complete.
pub(super) const PART: &str = ".part";

/// The name of files in a directory, where only that is given.
const DEFAULT: &str = "flowprobe-%Y%m%dT%H%M%S.%fZ.ipfix";

/// How files are called: a path whose last part may have fields of the time at which a file is
/// begun, in UTC, as strftime(3) and `tcpdump -w` have them: `%Y`, `%m`, `%d`, `%H`, `%M`, `%S`;
/// also `%s` for seconds since 1970, `%f` for three digits of milliseconds, and `%%`.
///
/// A file that is there is never written over: `flows.ipfix` becomes `flows-1.ipfix`. A directory
/// alone stands for files like `flowprobe-20261127T081500.123Z.ipfix` in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    directory: PathBuf,
    pieces: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Field(Field),
    /// `-1` and up, where the name is taken; else nothing.
    Number,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Year,
    Month,
    Day,
    Hour,
    Minute,
    Second,
    Milliseconds,
    UnixSeconds,
}

/// Why files cannot be called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Nothing behind the last slash, and no such directory.
    #[error("no directory {0} is there: make it first")]
    NoDirectory(PathBuf),
    /// No field, or none that is known.
    #[error("%{0} is no field of a file name: there are %Y %m %d %H %M %S %f %s and %%")]
    Field(String),
    /// A directory for each time.
    #[error("only the name of a file may have fields of the time, not its directory {0}")]
    DirectoryField(PathBuf),
    /// A path that is no text.
    #[error("the name of a file must be UTF-8")]
    Encoding,
    /// A name that stands for files which are not complete.
    #[error("the name of a file must not end in {PART}, which stands for one not complete")]
    Part,
}

impl Pattern {
    /// Reads a pattern, or the directory that stands for one.
    ///
    /// # Errors
    /// The directory is not there, or a field is unknown.
    pub fn parse(path: &Path) -> Result<Self, PatternError> {
        let text = path.to_str().ok_or(PatternError::Encoding)?;
        let (directory, name) = match (path.parent(), path.file_name()) {
            _ if text.ends_with('/') || path.is_dir() => (path, DEFAULT),
            (Some(directory), Some(name)) => {
                (directory, name.to_str().ok_or(PatternError::Encoding)?)
            }
            _ => (path, DEFAULT),
        };
        let directory = match directory {
            none if none.as_os_str().is_empty() => Path::new("."),
            some => some,
        };
        if directory.to_string_lossy().contains('%') && !directory.is_dir() {
            return Err(PatternError::DirectoryField(directory.to_owned()));
        }
        if !directory.is_dir() {
            return Err(PatternError::NoDirectory(directory.to_owned()));
        }
        if name.ends_with(PART) {
            return Err(PatternError::Part);
        }
        Ok(Self {
            directory: directory.to_owned(),
            pieces: pieces(name)?,
        })
    }

    /// Where the files are.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The path of a file begun at `unix_ms`, milliseconds since 1970-01-01 UTC; `number` tells
    /// apart those that would have the same, from 0.
    #[must_use]
    pub fn path(&self, unix_ms: u64, number: u32) -> PathBuf {
        let mut name = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Field(field) => name.push_str(&field.of(unix_ms)),
                Piece::Number if number == 0 => {}
                Piece::Number => name.push_str(&format!("-{number}")),
            }
        }
        self.directory.join(name)
    }

    /// Whether a file of this pattern may be called so.
    #[must_use]
    pub fn fits(&self, name: &str) -> bool {
        let mut rest = name;
        for piece in &self.pieces {
            let after = match piece {
                Piece::Text(text) => rest.strip_prefix(text.as_str()),
                Piece::Field(field) => field.skip(rest),
                Piece::Number => match rest.strip_prefix('-') {
                    Some(number) => Some(number.trim_start_matches(|c: char| c.is_ascii_digit())),
                    None => Some(rest),
                },
            };
            match after {
                Some(after) => rest = after,
                None => return false,
            }
        }
        rest.is_empty()
    }
}

fn pieces(name: &str) -> Result<Vec<Piece>, PatternError> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = name.chars();
    while let Some(c) = rest.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let field = match rest.next() {
            Some('%') => {
                text.push('%');
                continue;
            }
            Some('Y') => Field::Year,
            Some('m') => Field::Month,
            Some('d') => Field::Day,
            Some('H') => Field::Hour,
            Some('M') => Field::Minute,
            Some('S') => Field::Second,
            Some('f') => Field::Milliseconds,
            Some('s') => Field::UnixSeconds,
            other => return Err(PatternError::Field(other.into_iter().collect())),
        };
        if !text.is_empty() {
            pieces.push(Piece::Text(std::mem::take(&mut text)));
        }
        pieces.push(Piece::Field(field));
    }
    // The number is before the extension, so that programs still know what the file is.
    match text.rfind('.') {
        Some(dot) if dot > 0 || !pieces.is_empty() => {
            let extension = text.split_off(dot);
            pieces.push(Piece::Text(text));
            pieces.push(Piece::Number);
            pieces.push(Piece::Text(extension));
        }
        _ => {
            pieces.push(Piece::Text(text));
            pieces.push(Piece::Number);
        }
    }
    Ok(pieces)
}

impl Field {
    fn of(self, unix_ms: u64) -> String {
        let seconds = unix_ms / 1000;
        let (year, month, day) = date(seconds / 86_400);
        match self {
            Self::Year => format!("{year:04}"),
            Self::Month => format!("{month:02}"),
            Self::Day => format!("{day:02}"),
            Self::Hour => format!("{:02}", seconds / 3600 % 24),
            Self::Minute => format!("{:02}", seconds / 60 % 60),
            Self::Second => format!("{:02}", seconds % 60),
            Self::Milliseconds => format!("{:03}", unix_ms % 1000),
            Self::UnixSeconds => seconds.to_string(),
        }
    }

    /// What is behind such a field.
    fn skip(self, text: &str) -> Option<&str> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let wanted = match self {
            Self::Year => 4,
            Self::Milliseconds => 3,
            Self::UnixSeconds => digits.max(1),
            _ => 2,
        };
        (digits >= wanted).then(|| &text[wanted..])
    }
}

/// Year, month and day of the Gregorian calendar, of a number of days since 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    // Years are counted from March, so that the leap day is the last one, in eras of 400 years
    // from 0000-03-01, 719,468 days before 1970.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // Five months from March on have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = 400 * era + year + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-27 08:15:00.123 UTC.
    const THEN: u64 = 1_795_767_300_123;

    fn names(pattern: &str) -> [String; 2] {
        let pattern = Pattern::parse(Path::new(pattern)).expect(pattern);
        [0, 2].map(|number| {
            let path = pattern.path(THEN, number);
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            assert!(pattern.fits(&name), "{name}");
            name
        })
    }

    #[test]
    fn names_have_the_time_and_a_number_where_they_are_taken() {
        assert_eq!(
            names("/"),
            [
                "flowprobe-20261127T081500.123Z.ipfix",
                "flowprobe-20261127T081500.123Z-2.ipfix"
            ]
        );
        assert_eq!(names("/x.ipfix"), ["x.ipfix", "x-2.ipfix"]);
        assert_eq!(names("/x"), ["x", "x-2"]);
        assert_eq!(names("/.x"), [".x", ".x-2"]);
        assert_eq!(names("/100%%.%s"), ["100%.1795767300", "100%.1795767300-2"]);
        assert_eq!(names("%H.ipfix"), ["08.ipfix", "08-2.ipfix"]);
    }

    #[test]
    fn days_of_the_calendar() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_784, (2026, 11, 27)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
        let mut last = date(0);
        for days in 1..100_000 {
            let next = date(days);
            assert!(last < next && (1..=31).contains(&next.2));
            last = next;
        }
    }

    #[test]
    fn other_names_do_not_fit() {
        let pattern = Pattern::parse(Path::new("/a-%Y.ipfix")).unwrap();
        for name in ["a-2026.ipfix", "a-2026-7.ipfix"] {
            assert!(pattern.fits(name), "{name}");
        }
        for name in [
            "a-202.ipfix",
            "a-2026.ipfix.part",
            "b-2026.ipfix",
            "a-20267.ipfix",
        ] {
            assert!(!pattern.fits(name), "{name}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let error = |text: &str| Pattern::parse(Path::new(text)).expect_err(text);
        assert_eq!(error("/x%q"), PatternError::Field("q".to_owned()));
        assert_eq!(error("/x%"), PatternError::Field(String::new()));
        assert_eq!(error("/x.part"), PatternError::Part);
        assert_eq!(error("/%Y/x"), PatternError::DirectoryField("/%Y".into()));
        assert_eq!(
            error("/nowhere/x"),
            PatternError::NoDirectory("/nowhere".into())
        );
    }
}
