//! Captures that are compressed with gzip or zstd, told by their first octets and unpacked as they are
//! read.
//!
//! Both formats may be several streams one after the other, as `cat` and parallel tools make them.

#[cfg(test)]
mod tests;
mod zstd;

use std::{
    fmt,
    io::{self, BufReader, Cursor, Read},
};

use flate2::bufread::MultiGzDecoder;

use self::zstd::Zstd;

/// Octets that are read at once of what is compressed.
const CHUNK: usize = 64 * 1024;
/// Octets that tell the format.
const MAGIC: usize = 4;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What was read to tell the format, and then all else.
type Whole<R> = io::Chain<Cursor<Vec<u8>>, R>;

/// What an input holds, unpacked if it was compressed.
pub(super) enum Unpacked<R: Read> {
    /// Neither of the two.
    Plain(Whole<R>),
    /// RFC 1952.
    Gzip(Box<MultiGzDecoder<BufReader<Whole<R>>>>),
    /// RFC 8878.
    Zstd(Box<Zstd<BufReader<Whole<R>>>>),
}

/// A stream that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
#[error("its {format} stream is damaged or cut off: {source}")]
struct Broken {
    format: &'static str,
    source: io::Error,
}

impl<R: Read> Unpacked<R> {
    /// Looks what it is.
    pub(super) fn new(mut input: R) -> io::Result<Self> {
        let mut magic = Vec::with_capacity(MAGIC);
        input.by_ref().take(MAGIC as u64).read_to_end(&mut magic)?;
        let (gzip, zstd) = (magic.starts_with(GZIP), magic.starts_with(ZSTD));
        let whole = Cursor::new(magic).chain(input);
        let chunks = |whole| BufReader::with_capacity(CHUNK, whole);
        Ok(if gzip {
            Self::Gzip(Box::new(MultiGzDecoder::new(chunks(whole))))
        } else if zstd {
            Self::Zstd(Box::new(Zstd::new(chunks(whole))))
        } else {
            Self::Plain(whole)
        })
    }
}

impl<R: Read> Unpacked<R> {
    /// What is read, where it is not unpacked.
    pub(super) fn plain(&self) -> Option<&R> {
        match self {
            Self::Plain(input) => Some(input.get_ref().1),
            Self::Gzip(_) | Self::Zstd(_) => None,
        }
    }
}

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        let (format, read) = match self {
            Self::Plain(input) => return input.read(octets),
            Self::Gzip(input) => ("gzip", input.read(octets)),
            Self::Zstd(input) => ("zstd", input.read(octets)),
        };
        read.map_err(|source| match source.kind() {
            io::ErrorKind::Interrupted => source,
            // What the disk or the pipe said.
            _ if source.raw_os_error().is_some() => source,
            kind => io::Error::new(kind, Broken { format, source }),
        })
    }
}

impl<R: Read> fmt::Debug for Unpacked<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "plain",
            Self::Gzip(_) => "gzip",
            Self::Zstd(_) => "zstd",
        })
    }
}
