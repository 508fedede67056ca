//! The octets of a capture that have been read and not been used yet.

use std::io::{ErrorKind, Read};

use super::Problem;

/// Octets that are read at once.
const CHUNK: usize = 128 * 1024;

#[derive(Debug)]
pub(super) struct Buffer<R> {
    input: R,
    octets: Vec<u8>,
    start: usize,
    end: usize,
    /// Where `start` is in the input.
    offset: u64,
}

impl<R: Read> Buffer<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            octets: vec![0; CHUNK],
            start: 0,
            end: 0,
            offset: 0,
        }
    }

    pub(super) fn input(&self) -> &R {
        &self.input
    }

    /// What has been read.
    #[inline(always)]
    pub(super) fn data(&self) -> &[u8] {
        &self.octets[self.start..self.end]
    }

    /// Where it is in the input.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Reads until there are `len` octets; says whether there are. `waits` is called before each
    /// read.
    #[inline(always)]
    pub(super) fn fill(&mut self, len: usize, waits: impl FnMut()) -> Result<bool, Problem> {
        match self.end - self.start >= len {
            true => Ok(true),
            false => self.read(len, waits),
        }
    }

    #[cold]
    fn read(&mut self, len: usize, mut waits: impl FnMut()) -> Result<bool, Problem> {
        self.octets.copy_within(self.start..self.end, 0);
        self.end -= self.start;
        self.start = 0;
        if self.octets.len() < len {
            self.octets.resize(len.next_multiple_of(CHUNK), 0);
        }
        while self.end < len {
            waits();
            match self.input.read(&mut self.octets[self.end..]) {
                Ok(0) => return Ok(false),
                Ok(read) => self.end += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(source) => {
                    return Err(Problem::Read {
                        offset: self.offset + self.end as u64,
                        source,
                    });
                }
            }
        }
        Ok(true)
    }

    /// The first `len` octets, which must have been read, are used.
    pub(super) fn take(&mut self, len: usize) {
        self.start += len;
        self.offset += len as u64;
    }

    /// The last `len` octets that were used. They are there until more is read.
    pub(super) fn taken(&self, len: usize) -> &[u8] {
        &self.octets[self.start - len..self.start]
    }
}
