//! What a collector with sessions has missed, on disk: written while it is away and its queue is
//! full, and sent before anything newer once it is back.
//!
//! A spool is a directory of IPFIX files (RFC 5655), called by number, of which the last one may
//! be a `.part`. Each is whole in itself, so that any of them can be replayed. What a crash leaves
//! is found again: messages are written one by one, and `sent` says how much of the oldest file
//! has arrived. A spool belongs to one process at a time.
//!
//! It is sent in a session of its own, from the oldest record on, in messages made anew: sequence
//! numbers and templates of what an earlier process wrote would not go with those of this one. When
//! it is empty, that session ends, and the next one has new flows.
//!
//! The limit counts octets of files. A message that would exceed it makes the oldest file go, but
//! none that is being sent; its flows are counted. After a power failure the last file may be
//! missing, since a file is brought to the disk when it is complete.

mod drain;
mod error;
pub(super) mod intake;
mod segment;
#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fs::{self, DirBuilder, File, OpenOptions},
    io, mem,
    os::unix::fs::{DirBuilderExt as _, FileExt as _},
    path::{Path, PathBuf},
};

pub use self::error::SpoolError;
use self::{
    drain::Drain,
    error::at,
    segment::{Segment, Tail, find, path_of},
};
use super::link::file::say;
use crate::{
    encode::Fit,
    ipfix_file::{Framer, Header, Session, sum},
    record::Volume,
};

/// Smallest limit: files of [`SMALLEST_FILE`], so that a few of them are there.
pub(super) const MIN_LIMIT: u64 = 1 << 20;
/// Files that a spool at its limit has; as much of it is lost at a time.
const FILES: u64 = 16;
/// Octets of a file at least.
const SMALLEST_FILE: u64 = MIN_LIMIT / FILES;
/// Octets of a file at most: what has arrived is removed file by file.
const LARGEST_FILE: u64 = 64 << 20;
/// Room for the templates of a file: those of one domain have 2,500 octets.
const TEMPLATES: u64 = 4096;
/// Largest message in a file.
const MESSAGE_OCTETS: u16 = u16::MAX;

/// How much of the spool has arrived.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Position {
    /// Number of a file; those below have arrived.
    number: u64,
    /// Data records of it.
    data_records: u64,
}

/// What became of flows in the spool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub(super) struct Settled {
    /// They have arrived.
    pub(super) sent: Volume,
    /// They could not be read or sent: their file is damaged, or a record is longer than a message.
    pub(super) dropped: Volume,
}

/// The spool of a collector.
#[derive(Debug)]
pub(super) struct Spool {
    directory: PathBuf,
    /// Locked as long as it is open.
    _lock: File,
    /// Where the settled position is kept.
    sent: File,
    limit_octets: u64,
    /// Complete files, oldest first.
    segments: VecDeque<Segment>,
    /// The file that is being written.
    tail: Option<Tail>,
    next_number: u64,
    /// The templates of all that was ever appended.
    session: Session,
    framer: Framer,
    settled: Position,
    /// Dropped, and not told yet.
    dropped: Volume,
    /// Said once that this cannot be kept.
    complained: bool,
    drain: Option<Drain>,
}

impl Spool {
    /// Opens a spool, and makes it where it is not there. What an earlier process left in it is
    /// taken over; see [`Self::waiting`].
    ///
    /// # Errors
    /// Another process has it, the limit is too small, or the operating system refuses.
    pub(super) fn open(directory: &Path, limit_octets: u64) -> Result<Self, SpoolError> {
        if limit_octets < MIN_LIMIT {
            return Err(SpoolError::Limit(limit_octets));
        }
        make(directory).map_err(at(directory))?;
        let file = |name: &str| {
            let path = directory.join(name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false);
            options.open(&path).map_err(at(&path))
        };
        let lock = file("lock")?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                return Err(SpoolError::Taken(directory.to_owned()));
            }
            Err(fs::TryLockError::Error(error)) => return Err(at(directory)(error)),
        }
        let sent = file("sent")?;
        let settled = read_position(&sent);
        let (mut segments, taken) = find(directory, settled)?;
        taken.iter().for_each(say);
        // Removing them was not finished, or all of one has arrived.
        while let Some(first) = segments.front()
            && first.is_done(settled)
        {
            remove(directory, first.number)?;
            segments.pop_front();
        }
        // So that it has its place on the disk, should that be full later.
        write_position(&sent, settled).map_err(at(&directory.join("sent")))?;
        let last = segments.back().map_or(0, |last| last.number);
        Ok(Self {
            directory: directory.to_owned(),
            _lock: lock,
            sent,
            limit_octets,
            segments,
            tail: None,
            next_number: last.max(settled.number) + 1,
            session: Session::default(),
            framer: Framer::new(MESSAGE_OCTETS, true),
            settled,
            dropped: Volume::default(),
            complained: false,
            drain: None,
        })
    }

    /// Opens the spool of this name in a directory of spools, and makes that too.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub(super) fn open_in(
        directory: &Path,
        name: &str,
        limit_octets: u64,
    ) -> Result<Self, SpoolError> {
        make(directory).map_err(at(directory))?;
        Self::open(&directory.join(name), limit_octets)
    }

    /// Where it is.
    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// Flows that wait, those of earlier processes too.
    pub(super) fn waiting(&self) -> Volume {
        let tail = self.tail.iter().map(|tail| tail.flows);
        let segments = self.segments.iter().map(|segment| segment.flows);
        segments.chain(tail).fold(Volume::default(), sum)
    }

    /// Octets of its files.
    pub(super) fn octets(&self) -> u64 {
        let tail = self.tail.iter().map(|tail| tail.part.octets());
        let segments = self.segments.iter().map(|segment| segment.octets);
        segments.chain(tail).sum()
    }

    /// Whether nothing is in it.
    pub(super) fn is_empty(&self) -> bool {
        self.segments.is_empty() && self.tail.is_none()
    }

    /// Whether the next message begins a file. Templates are said again there by the spool;
    /// options records should be said again by who appends, lest they go with an older file.
    pub(super) fn begins_file(&self) -> bool {
        let ends = |tail: &Tail| tail.broken || tail.part.octets() >= self.file_octets();
        self.tail.as_ref().is_none_or(ends)
    }

    /// Appends a message, all of it or nothing. Templates come before their data, but only once
    /// since the spool was opened. Returns what was dropped to make room.
    ///
    /// # Errors
    /// The operating system refuses, for example since the disk is full.
    pub(super) fn append(&mut self, message: &[u8]) -> Result<Volume, SpoolError> {
        if self.begins_file() {
            self.complete()?;
        }
        let header = message.first_chunk().ok_or(SpoolError::NoMessage)?;
        let header = Header::parse(header).map_err(|_| SpoolError::NoMessage)?;
        // As much as the message, and sets and a header more where it is made anew.
        let octets = 2 * message.len() as u64;
        self.make_room(octets)?;
        let appended = self.begin_file(header.export_time_s, octets + TEMPLATES);
        let appended = appended.and_then(|()| self.frame(header, message));
        if let (Err(_), Some(tail)) = (&appended, &mut self.tail) {
            // What the file has got of templates is not known any more: the next one says all.
            tail.broken = true;
        }
        appended.map(|()| self.take_dropped())
    }

    /// What was dropped to make room for a message that could not be appended then.
    pub(super) fn take_dropped(&mut self) -> Volume {
        mem::take(&mut self.dropped)
    }

    fn file_octets(&self) -> u64 {
        (self.limit_octets / FILES).clamp(SMALLEST_FILE, LARGEST_FILE)
    }

    /// Drops the oldest files, until there is room for `octets`.
    fn make_room(&mut self, octets: u64) -> Result<(), SpoolError> {
        while self.octets() + octets > self.limit_octets {
            let sending = self.drain.as_ref().map_or(0, Drain::last_number);
            let oldest = self
                .segments
                .iter()
                .position(|segment| segment.number > sending);
            match oldest.and_then(|oldest| self.segments.remove(oldest)) {
                Some(segment) => {
                    self.dropped = sum(self.dropped, segment.flows);
                    remove(&self.directory, segment.number)?;
                }
                None if self.tail.is_some() => self.complete()?,
                None => break, // all of it is being sent
            }
        }
        Ok(())
    }

    /// Completes the file that is being written.
    fn complete(&mut self) -> Result<(), SpoolError> {
        if let Some(tail) = &mut self.tail {
            self.segments.extend(tail.complete(&self.directory)?);
            self.tail = None;
        }
        Ok(())
    }

    /// Begins a file with all templates, if none is begun, where there is room for `octets`.
    fn begin_file(&mut self, export_time_s: u32, octets: u64) -> Result<(), SpoolError> {
        if self.tail.is_some() {
            return Ok(());
        }
        let tail = Tail::begin(&self.directory, self.next_number, octets)?;
        self.next_number += 1;
        self.tail = Some(tail);
        self.framer.restart();
        loop {
            let fit = self.framer.announce();
            self.write(export_time_s)?;
            if fit != Fit::Full {
                return Ok(());
            }
        }
    }

    /// Makes the message anew, with the sequence numbers of the file.
    fn frame(&mut self, header: Header, message: &[u8]) -> Result<(), SpoolError> {
        self.session.begin(header.domain);
        while let Some(item) = self
            .session
            .item(message)
            .map_err(|_| SpoolError::NoMessage)?
        {
            let octets = &message[item.at.clone()];
            if self.framer.add(&item, octets) == Fit::Full {
                self.write(header.export_time_s)?;
                // An empty message has room for what another one had.
                let _ = self.framer.add(&item, octets);
            }
        }
        self.write(header.export_time_s)
    }

    /// Writes the message at hand, if there is anything in it.
    fn write(&mut self, export_time_s: u32) -> Result<(), SpoolError> {
        let (Some(tail), false) = (&mut self.tail, self.framer.is_empty()) else {
            return Ok(());
        };
        let flows = self.framer.volume();
        let data_records = self.framer.data_records();
        let path = tail.part.path().to_owned();
        let appended = tail.part.append(self.framer.message(export_time_s));
        appended.map_err(at(&path))?;
        tail.flows = sum(tail.flows, flows);
        tail.data_records += u64::from(data_records);
        self.framer.commit();
        Ok(())
    }

    fn settle(&mut self, to: Position) {
        if to <= self.settled {
            return;
        }
        self.settled = to;
        if let Err(error) = write_position(&self.sent, to)
            && !self.complained
        {
            self.complained = true;
            let path = self.directory.join("sent");
            let path = path.display();
            tracing::warn!("{path}: {error}: after a restart flows may be sent twice");
        }
    }
}

fn make(directory: &Path) -> io::Result<()> {
    // Who may see traffic is for the user to say.
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && directory.is_dir() => Ok(()),
        made => made,
    }
}

/// The position as it was written last; the start if there is none.
fn read_position(sent: &File) -> Position {
    let mut text = [0; 42];
    let read = sent.read_exact_at(&mut text, 0);
    let text = read.ok().and_then(|()| std::str::from_utf8(&text).ok());
    let mut numbers = text.unwrap_or_default().split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next()) {
        (Some(Ok(number)), Some(Ok(data_records))) => Position {
            number,
            data_records,
        },
        _ => Position::default(),
    }
}

fn write_position(sent: &File, position: Position) -> io::Result<()> {
    let Position {
        number,
        data_records,
    } = position;
    // Of one length, so that nothing of an older one is left behind it.
    sent.write_all_at(format!("{number:020} {data_records:020}\n").as_bytes(), 0)
}

fn remove(directory: &Path, number: u64) -> Result<(), SpoolError> {
    let path = path_of(directory, number);
    fs::remove_file(&path).map_err(at(&path))
}
