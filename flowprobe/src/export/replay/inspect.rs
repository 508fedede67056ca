//! What is in the files, found out before anything is sent.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use crate::{
    ipfix_file::{Kind, ReadError, Reader, Session, sum},
    record::Volume,
};

/// What is in the files.
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// In their order.
    pub(super) files: Vec<PathBuf>,
    pub(super) messages: u64,
    /// Data records of each domain.
    pub(super) domains: BTreeMap<u32, u64>,
    pub(super) flows: Volume,
}

impl Contents {
    pub(super) fn data_records(&self) -> u64 {
        self.domains.values().sum()
    }
}

/// Reads all files to their end.
pub(super) fn inspect(files: &[PathBuf]) -> Result<Contents, ReadError> {
    let mut contents = Contents {
        files: files.to_vec(),
        ..Contents::default()
    };
    for path in files {
        add(path, &mut contents)?;
    }
    Ok(contents)
}

fn add(path: &Path, contents: &mut Contents) -> Result<(), ReadError> {
    let mut reader = Reader::open(path)?;
    let mut session = Session::default();
    while let Some(header) = reader.advance()? {
        contents.messages += 1;
        let data_records = contents.domains.entry(header.domain).or_default();
        session.begin(header.domain);
        loop {
            let item = session.item(reader.message());
            let Some(item) = item.map_err(|located| reader.error(located))? else {
                break;
            };
            if let Kind::Record(flow) = item.kind {
                *data_records += 1;
                contents.flows = sum(contents.flows, flow);
            }
        }
    }
    Ok(())
}
