//! Files written, damaged, read, and made into other messages.

pub(crate) mod full_disk;
mod reading;
mod reframing;
mod writing;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{
    encode::{Fit, Stamp},
    ipfix::{Encoder, element},
    record::FlowRecord,
};

/// When messages are sent.
const NOW: Stamp = Stamp {
    unix_ms: 1_700_000_000_000,
    boot_unix_ms: 0,
};

/// A directory that goes away with its guard.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("flowprobe-files-{}-{number}", process::id()));
        fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Names of what is in it, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("a directory");
        let name = |entry: fs::DirEntry| entry.file_name().into_string().expect("UTF-8");
        let mut names: Vec<_> = entries
            .map(|entry| name(entry.expect("an entry")))
            .collect();
        names.sort();
        names
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A session of a domain: templates, then `records` in messages of at most `octets`.
pub(crate) fn session(domain: u32, records: &[FlowRecord], octets: u16) -> Vec<Vec<u8>> {
    let mut encoder = Encoder::new(domain, octets).expect("large enough");
    let mut messages = Vec::new();
    let mut flush = |encoder: &mut Encoder| {
        messages.push(encoder.message(NOW).to_vec());
        encoder.commit();
    };
    for template in &element::ALL {
        if !encoder.template(template) {
            flush(&mut encoder);
            assert!(encoder.template(template), "an empty message has room");
        }
    }
    for record in records {
        if encoder.flow(record) != Fit::In {
            flush(&mut encoder);
            assert_eq!(encoder.flow(record), Fit::In, "an empty message has room");
        }
    }
    flush(&mut encoder);
    messages
}

/// A message of `domain` with these sets, each an id and its octets.
pub(crate) fn message(domain: u32, sequence: u32, sets: &[(u16, &[u8])]) -> Vec<u8> {
    let mut message = vec![0; 16];
    for (id, octets) in sets {
        message.extend(id.to_be_bytes());
        message.extend((octets.len() as u16 + 4).to_be_bytes());
        message.extend(*octets);
    }
    let length = message.len() as u16;
    message[..2].copy_from_slice(&10_u16.to_be_bytes());
    message[2..4].copy_from_slice(&length.to_be_bytes());
    message[8..12].copy_from_slice(&sequence.to_be_bytes());
    message[12..16].copy_from_slice(&domain.to_be_bytes());
    message
}
