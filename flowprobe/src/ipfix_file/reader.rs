//! The messages of a file, one after the other.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    path::Path,
};

use super::message::{self, Flaw, Header, Located};
use crate::ipfix::message::HEADER;

/// Octets that are read at once.
const CHUNK: usize = 1 << 18;

/// Why a file is not read on.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refuses.
    #[error("{file}: {error}")]
    Read {
        /// File.
        file: String,
        /// Why.
        error: io::Error,
    },
    /// It is no IPFIX file, or damaged.
    #[error("{file}: at octet {offset}: {flaw}")]
    Damaged {
        /// File.
        file: String,
        /// Where, from the start of the file.
        offset: u64,
        /// What is wrong there.
        flaw: Flaw,
    },
}

/// Reads the messages of a file. Nothing is skipped: after an error there is no going on.
#[derive(Debug)]
pub struct Reader<R> {
    input: BufReader<R>,
    name: String,
    /// Where the next message begins.
    offset: u64,
    /// The message read last.
    message: Vec<u8>,
}

impl Reader<File> {
    /// Opens a file.
    ///
    /// # Errors
    /// Where the operating system refuses.
    pub fn open(path: &Path) -> Result<Self, ReadError> {
        let name = path.display().to_string();
        match File::open(path) {
            Ok(file) => Ok(Self::new(file, name)),
            Err(error) => Err(ReadError::Read { file: name, error }),
        }
    }
}

impl<R: Read> Reader<R> {
    /// Reads `input`, which errors call `name`.
    pub fn new(input: R, name: String) -> Self {
        Self {
            input: BufReader::with_capacity(CHUNK, input),
            name,
            offset: 0,
            message: Vec::new(),
        }
    }

    /// Reads the next message, which [`Self::message`] has then; `None` at the end.
    ///
    /// # Errors
    /// The file cannot be read, is cut off, or what comes is no message.
    pub fn advance(&mut self) -> Result<Option<Header>, ReadError> {
        self.offset += self.message.len() as u64;
        self.message.clear();
        match self.read_to(HEADER)? {
            0 if self.offset == 0 => return Err(self.damaged(0, Flaw::Empty)),
            0 => return Ok(None),
            there if there < HEADER => {
                let length = HEADER;
                return Err(self.damaged(there, Flaw::CutOff { there, length }));
            }
            _ => {}
        }
        let octets = self.message.first_chunk();
        let octets = octets.expect("as many octets as a header has");
        let header = Header::parse(octets).map_err(|flaw| self.damaged(0, flaw))?;
        let length = usize::from(header.length);
        let there = self.read_to(length)?;
        if there < length {
            return Err(self.damaged(there, Flaw::CutOff { there, length }));
        }
        let sets = message::check_sets(&self.message);
        sets.map_err(|located| self.error(located))?;
        Ok(Some(header))
    }

    /// The message that was read last.
    #[must_use]
    pub fn message(&self) -> &[u8] {
        &self.message
    }

    /// Where the message that was read last begins.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// What is wrong with the message that was read last.
    #[must_use]
    pub fn error(&self, located: Located) -> ReadError {
        self.damaged(located.at, located.flaw)
    }

    fn damaged(&self, at: usize, flaw: Flaw) -> ReadError {
        ReadError::Damaged {
            file: self.name.clone(),
            offset: self.offset + at as u64,
            flaw,
        }
    }

    /// Reads on until the message has `octets`, or all that there are; returns how many it has.
    fn read_to(&mut self, octets: usize) -> Result<usize, ReadError> {
        let missing = octets - self.message.len();
        let mut input = (&mut self.input).take(missing as u64);
        match input.read_to_end(&mut self.message) {
            Ok(_) => Ok(self.message.len()),
            Err(error) => Err(ReadError::Read {
                file: self.name.clone(),
                error,
            }),
        }
    }
}
