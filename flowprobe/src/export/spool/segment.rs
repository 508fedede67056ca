//! The files of a spool.

use std::{
    collections::VecDeque,
    fs, iter,
    path::{Path, PathBuf},
};

use super::{Position, SpoolError, error::at};
use crate::{
    ipfix_file::{Kind, Mended, Part, ReadError, Reader, Session, TakenOver, mend, sum},
    record::Volume,
};

/// A file that is complete.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) number: u64,
    pub(super) octets: u64,
    /// Data records in it, arrived or not.
    pub(super) data_records: u64,
    /// Flows in it that have not arrived.
    pub(super) flows: Volume,
}

impl Segment {
    /// Whether all of it is dealt with.
    pub(super) fn is_done(&self, settled: Position) -> bool {
        let end = Position {
            number: self.number,
            data_records: self.data_records,
        };
        end <= settled
    }
}

/// The file that is being written.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) number: u64,
    pub(super) part: Part,
    /// Something could not be written: it is to be completed as it is.
    pub(super) broken: bool,
    pub(super) data_records: u64,
    pub(super) flows: Volume,
}

impl Tail {
    /// Begins a file where there is room for `octets`; else a disk that is full would have a file
    /// with nothing but templates for each try.
    pub(super) fn begin(directory: &Path, number: u64, octets: u64) -> Result<Self, SpoolError> {
        let path = directory.join(format!("{number:010}.ipfix.part"));
        let part = Part::create(path.clone()).map_err(at(&path))?;
        if let Err(error) = part.reserve(octets) {
            fs::remove_file(&path).map_err(at(&path))?;
            return Err(at(&path)(error));
        }
        Ok(Self {
            number,
            part,
            broken: false,
            data_records: 0,
            flows: Volume::default(),
        })
    }

    /// Completes it; `None` if nothing is in it.
    pub(super) fn complete(&mut self, directory: &Path) -> Result<Option<Segment>, SpoolError> {
        let octets = self.part.octets();
        let path = path_of(directory, self.number);
        let finished = self.part.finish(iter::once(path.clone()));
        let named = finished.map_err(at(&path))?;
        Ok(named.map(|_| Segment {
            number: self.number,
            octets,
            data_records: self.data_records,
            flows: self.flows,
        }))
    }
}

/// What the file with this number is called.
pub(super) fn path_of(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("{number:010}.ipfix"))
}

/// The files in `directory` in their order, and what was mended of them.
pub(super) fn find(
    directory: &Path,
    settled: Position,
) -> Result<(VecDeque<Segment>, Vec<TakenOver>), SpoolError> {
    let mut numbers = Vec::new();
    let mut taken = Vec::new();
    for entry in fs::read_dir(directory).map_err(at(directory))? {
        let path = entry.map_err(at(directory))?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.unwrap_or_default();
        let number = |suffix| name.strip_suffix(suffix).and_then(|n: &str| n.parse().ok());
        if let Some(number) = number(".ipfix.part") {
            let mended = take_over(directory, &path, number)?;
            numbers.extend(mended.file.is_some().then_some(number));
            taken.push(mended);
        } else {
            numbers.extend(number(".ipfix"));
        }
    }
    numbers.sort_unstable();
    let segment = |number| count(directory, number, settled);
    let segments = numbers.into_iter().map(segment);
    Ok((segments.collect::<Result<_, _>>()?, taken))
}

fn take_over(directory: &Path, part: &Path, number: u64) -> Result<TakenOver, SpoolError> {
    let mended = mend(part).map_err(at(part))?;
    let Some(Mended {
        part: mut whole,
        cut,
    }) = mended
    else {
        return Err(SpoolError::Taken(directory.to_owned()));
    };
    let messages = whole.messages();
    let file = whole.finish(iter::once(path_of(directory, number)));
    Ok(TakenOver {
        part: part.to_owned(),
        file: file.map_err(at(part))?,
        messages,
        cut,
    })
}

/// Counts what is in a file and has not arrived. One that is damaged counts up to there.
fn count(directory: &Path, number: u64, settled: Position) -> Result<Segment, SpoolError> {
    let path = path_of(directory, number);
    let mut segment = Segment {
        number,
        octets: fs::metadata(&path).map_err(at(&path))?.len(),
        data_records: 0,
        flows: Volume::default(),
    };
    match read(&path, &mut segment, settled) {
        Err(ReadError::Damaged { .. }) | Ok(()) => Ok(segment), // it is said when it is sent
        Err(error) => Err(error.into()),
    }
}

fn read(path: &Path, segment: &mut Segment, settled: Position) -> Result<(), ReadError> {
    let mut reader = Reader::open(path)?;
    let mut session = Session::default();
    while let Some(header) = reader.advance()? {
        session.begin(header.domain);
        loop {
            let item = session.item(reader.message());
            let Some(item) = item.map_err(|located| reader.error(located))? else {
                break;
            };
            if let Kind::Record(flow) = item.kind {
                segment.data_records += 1;
                if !segment.is_done(settled) {
                    segment.flows = sum(segment.flows, flow);
                }
            }
        }
    }
    Ok(())
}
