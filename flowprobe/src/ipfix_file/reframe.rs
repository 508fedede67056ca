//! From the messages of a file to those of another session.

use std::{fs::File, io::Read, path::Path};

use super::{
    framer::Framer,
    reader::{ReadError, Reader},
    session::{Item, Kind, Session},
};
use crate::encode::Fit;

/// How far [`Reframe::fill`] has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Filled {
    /// The message has to go.
    Full,
    /// The file is at its end; the message at hand may have room for more.
    End,
}

/// Reads a file into the messages of a [`Framer`].
#[derive(Debug)]
pub struct Reframe<R> {
    reader: Reader<R>,
    session: Session,
    /// What the last message had no room for.
    pending: Option<Item>,
    begun: bool,
    /// Data records that are passed over, being sent already.
    skip: u64,
    data_records: u64,
    unsendable: u64,
}

impl Reframe<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        Ok(Self::new(Reader::open(path)?))
    }
}

impl<R: Read> Reframe<R> {
    /// From the start of what `reader` reads.
    pub fn new(reader: Reader<R>) -> Self {
        Self {
            reader,
            session: Session::default(),
            pending: None,
            begun: false,
            skip: 0,
            data_records: 0,
            unsendable: 0,
        }
    }

    /// Passes over the first `data_records`, but not over templates.
    #[must_use]
    pub fn from(mut self, data_records: u64) -> Self {
        self.skip = data_records;
        self
    }

    /// Data records of the file so far, passed over or not.
    #[must_use]
    pub fn data_records(&self) -> u64 {
        self.data_records
    }

    /// Those among them that no message had room for, but for those passed over.
    #[must_use]
    pub fn unsendable(&self) -> u64 {
        self.unsendable
    }

    /// Adds what comes next in the file to the message at hand, until that is full.
    ///
    /// # Errors
    /// The file is damaged or cannot be read. What was added before that is whole.
    pub fn fill(&mut self, framer: &mut Framer) -> Result<Filled, ReadError> {
        loop {
            let Some(item) = self.next()? else {
                return Ok(Filled::End);
            };
            let is_record = matches!(item.kind, Kind::Record(_));
            let fit = if is_record && self.data_records < self.skip {
                Fit::In
            } else {
                framer.add(&item, &self.reader.message()[item.at.clone()])
            };
            if fit == Fit::Full {
                self.pending = Some(item);
                return Ok(Filled::Full);
            }
            self.data_records += u64::from(is_record);
            self.unsendable += u64::from(is_record && fit != Fit::In);
        }
    }

    fn next(&mut self) -> Result<Option<Item>, ReadError> {
        if let Some(item) = self.pending.take() {
            return Ok(Some(item));
        }
        loop {
            if self.begun {
                let item = self.session.item(self.reader.message());
                let item = item.map_err(|located| self.reader.error(located))?;
                if item.is_some() {
                    return Ok(item);
                }
            }
            let Some(header) = self.reader.advance()? else {
                self.begun = false;
                return Ok(None);
            };
            self.session.begin(header.domain);
            self.begun = true;
        }
    }
}
