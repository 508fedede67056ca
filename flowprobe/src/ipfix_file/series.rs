//! Files that follow one another by size and time.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use super::{
    name::{PART, Pattern, PatternError},
    part::{self, Part},
    reader::{ReadError, Reader},
};

/// A file is begun only where there is room for this: templates and options with some records,
/// so that a full disk does not leave a file of templates for each try.
const ROOM: u64 = 1 << 18;
/// Files of one name: enough for a millisecond, and to end some day where all are taken.
const NAMES: u32 = 1_000_000;

/// When a file is followed by the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// Once it has so many octets; it may have a message more.
    pub octets: Option<u64>,
    /// At each multiple of this since 1970-01-01 UTC, as nfcapd does it: with 300 seconds, at
    /// 08:00, 08:05 and so on.
    pub every: Option<Duration>,
}

/// What is wrong with files to be written.
#[derive(Debug, thiserror::Error)]
pub enum SeriesError {
    /// Their name.
    #[error(transparent)]
    Pattern(#[from] PatternError),
    /// The operating system refuses.
    #[error("{path}: {error}")]
    Write {
        /// File or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// A left-over of a process that did not end in order, made whole.
#[derive(Debug)]
pub struct TakenOver {
    /// What it was called.
    pub part: PathBuf,
    /// What it is called now; `None` if there was no whole message, and it is removed.
    pub file: Option<PathBuf>,
    /// Messages that are in it.
    pub messages: u64,
    /// What was cut off.
    pub cut: Option<Cut>,
}

/// The end of a file that was no whole message.
#[derive(Debug)]
pub struct Cut {
    /// How long it was.
    pub octets: u64,
    /// What is wrong with it.
    pub why: ReadError,
}

/// A left-over that has whole messages only.
#[derive(Debug)]
pub struct Mended {
    /// It, and locked.
    pub part: Part,
    /// What was cut off.
    pub cut: Option<Cut>,
}

/// A sequence of files, of which one at a time is open.
#[derive(Debug)]
pub struct Series {
    pattern: Pattern,
    rotation: Rotation,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    part: Part,
    begun_ms: u64,
    /// When the next one is due.
    until_ms: Option<u64>,
}

impl Series {
    /// Files called by `pattern`. Nothing is written yet.
    #[must_use]
    pub fn new(pattern: Pattern, rotation: Rotation) -> Self {
        Self {
            pattern,
            rotation,
            open: None,
        }
    }

    /// Makes files whole that processes left over which did not end in order.
    ///
    /// # Errors
    /// The directory cannot be read, or such a file not be mended.
    pub fn take_over(&self) -> Result<Vec<TakenOver>, SeriesError> {
        let directory = self.pattern.directory();
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| SeriesError::Write { path, error }
        };
        let mut taken = Vec::new();
        for entry in fs::read_dir(directory).map_err(at(directory))? {
            let path = entry.map_err(at(directory))?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            let Some(name) = name.and_then(|name| name.strip_suffix(PART)) else {
                continue;
            };
            if self.pattern.fits(name)
                && let Some(mended) = take_over(&path, name).map_err(at(&path))?
            {
                taken.push(mended);
            }
        }
        taken.sort_by(|one, other| one.part.cmp(&other.part));
        Ok(taken)
    }

    /// Begins a file; `unix_ms` is the time, in milliseconds since 1970-01-01 UTC. One that is
    /// open is complete with that.
    ///
    /// # Errors
    /// The operating system refuses, or the disk is full.
    pub fn begin(&mut self, unix_ms: u64) -> Result<(), SeriesError> {
        self.finish()?;
        for number in 0..NAMES {
            let path = self.pattern.path(unix_ms, number);
            let part = part_of(&path);
            let at = |error| SeriesError::Write {
                path: part.clone(),
                error,
            };
            if path.try_exists().map_err(at)? {
                continue;
            }
            let mut part = match Part::create(part.clone()) {
                Ok(part) => part,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
                Err(error) => return Err(at(error)),
            };
            if let Err(error) = part.reserve(ROOM) {
                let path = part.path().to_owned();
                drop(part.finish(std::iter::empty())); // removes it
                return Err(SeriesError::Write { path, error });
            }
            self.open = Some(Open {
                part,
                begun_ms: unix_ms,
                until_ms: self.rotation.every.map(|every| {
                    let every = (every.as_millis() as u64).max(1);
                    (unix_ms / every + 1) * every
                }),
            });
            return Ok(());
        }
        Err(SeriesError::Write {
            path: self.pattern.path(unix_ms, 0),
            error: io::ErrorKind::AlreadyExists.into(),
        })
    }

    /// Appends a message to the file that is open: all of it, or nothing.
    ///
    /// # Errors
    /// It cannot be written. What was written before stays.
    pub fn append(&mut self, message: &[u8]) -> Result<(), SeriesError> {
        let Some(open) = &mut self.open else {
            return Err(SeriesError::Write {
                path: self.pattern.directory().to_owned(),
                error: io::ErrorKind::NotConnected.into(),
            });
        };
        let appended = open.part.append(message);
        appended.map_err(|error| SeriesError::Write {
            path: open.part.path().to_owned(),
            error,
        })
    }

    /// Whether it is time for the next file.
    #[must_use]
    pub fn is_due(&self, unix_ms: u64) -> bool {
        self.open.as_ref().is_some_and(|open| {
            let full = self.rotation.octets;
            let full = full.is_some_and(|octets| open.part.octets() >= octets);
            // A clock that was set back must not make a file of hours.
            let over = open.until_ms;
            full || over.is_some_and(|until| unix_ms >= until || unix_ms < open.begun_ms)
        })
    }

    /// Completes the file that is open, and returns what it is called; `None` if there was none,
    /// or no message in it.
    ///
    /// # Errors
    /// The operating system refuses; the file is left over, to be taken over.
    pub fn finish(&mut self) -> Result<Option<PathBuf>, SeriesError> {
        let Some(mut open) = self.open.take() else {
            return Ok(None);
        };
        let path = open.part.path().to_owned();
        let names = (0..NAMES).map(|number| self.pattern.path(open.begun_ms, number));
        let named = path.with_extension(""); // without .part
        let names = std::iter::once(named).chain(names);
        open.part
            .finish(names)
            .map_err(|error| SeriesError::Write { path, error })
    }
}

fn part_of(path: &Path) -> PathBuf {
    let mut part = path.as_os_str().to_owned();
    part.push(PART);
    part.into()
}

/// Makes a left-over whole and names it; `None` if a process is still writing it.
fn take_over(path: &Path, name: &str) -> io::Result<Option<TakenOver>> {
    let Some(Mended { mut part, cut }) = mend(path)? else {
        return Ok(None);
    };
    let messages = part.messages();
    let (stem, extension) = match name.rfind('.') {
        Some(dot) if dot > 0 => name.split_at(dot),
        _ => (name, ""),
    };
    let numbered =
        (1..NAMES).map(|number| path.with_file_name(format!("{stem}-{number}{extension}")));
    let names = std::iter::once(path.with_file_name(name)).chain(numbered);
    Ok(Some(TakenOver {
        part: path.to_owned(),
        file: part.finish(names)?,
        messages,
        cut,
    }))
}

/// Cuts a file that was being written back to its last whole message; `None` if a process is still
/// writing it.
///
/// # Errors
/// The operating system refuses.
pub fn mend(path: &Path) -> io::Result<Option<Mended>> {
    let file = OpenOptions::new().read(true).write(true).open(path)?;
    match part::lock(&file) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
        locked => locked?,
    }
    let mut reader = Reader::new(File::open(path)?, path.display().to_string());
    let (mut octets, mut messages) = (0, 0);
    let wrong = loop {
        match reader.advance() {
            Ok(Some(header)) => {
                octets += u64::from(header.length);
                messages += 1;
            }
            Ok(None) => break None,
            Err(ReadError::Read { error, .. }) => return Err(error),
            Err(damaged) => break Some(damaged),
        }
    };
    let there = file.metadata()?.len();
    file.set_len(octets)?;
    let cut = wrong.map(|why| Cut {
        octets: there - octets,
        why,
    });
    Ok(Some(Mended {
        part: Part::of(file, path.to_owned(), octets, messages),
        // An empty file was made and not written to.
        cut: cut.filter(|cut| cut.octets > 0),
    }))
}
