//! IPFIX files (RFC 5655) as a collector: each file is a session.
//!
//! A message counts as acknowledged when it is written; it is on the disk when its file is
//! complete. A disk that is full breaks the session: the file is complete with what it has, and
//! the next one is begun when there is room again.

use std::{
    io,
    time::{Instant, SystemTime},
};

use super::Link;
use crate::ipfix_file::{Cut, Pattern, Rotation, Series, SeriesError, TakenOver};

/// Writes files that follow one another.
#[derive(Debug)]
pub(in crate::export) struct Files {
    series: Series,
    /// Whether it was looked for what an earlier process left over.
    took_over: bool,
    /// Messages in the file that is open.
    written: u64,
}

impl Files {
    /// Files called by `pattern`. Nothing is written yet.
    pub(in crate::export) fn new(pattern: Pattern, rotation: Rotation) -> Self {
        Self {
            series: Series::new(pattern, rotation),
            took_over: false,
            written: 0,
        }
    }

    fn complete(&mut self) -> io::Result<()> {
        let messages = std::mem::take(&mut self.written);
        if let Some(file) = self.series.finish().map_err(plain)? {
            tracing::info!(file = %file.display(), messages, "file is complete");
        }
        Ok(())
    }
}

impl Link for Files {
    fn has_sessions(&self) -> bool {
        true
    }

    fn open(&mut self, _now: Instant) -> io::Result<bool> {
        if !self.took_over {
            self.took_over = true;
            match self.series.take_over() {
                Ok(taken) => taken.iter().for_each(say),
                // What cannot be mended is no reason to write nothing.
                Err(error) => tracing::warn!(%error, "a file that was left over stays as it is"),
            }
        }
        self.complete()?;
        self.series.begin(unix_ms()).map_err(plain)?;
        Ok(true)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.series.append(message).map_err(plain)?;
        self.written += 1;
        Ok(())
    }

    fn acknowledged(&mut self) -> u64 {
        self.written
    }

    fn is_due(&mut self, _now: Instant) -> bool {
        self.series.is_due(unix_ms())
    }

    fn close(&mut self, _until: Instant) -> io::Result<()> {
        let messages = self.written;
        self.complete()?;
        // Still what the session had, until the next one is opened.
        self.written = messages;
        Ok(())
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        if let Err(error) = self.complete() {
            tracing::error!(%error, "the last file is not complete");
        }
    }
}

/// Says what became of a left-over.
pub(in crate::export) fn say(taken: &TakenOver) {
    let TakenOver {
        part,
        file,
        messages,
        cut,
    } = taken;
    let part = part.display();
    if let Some(Cut { octets, why }) = cut {
        tracing::warn!("{why}: the last {octets} octets are cut off");
    }
    match file {
        Some(file) => {
            let file = file.display();
            tracing::warn!("{part} was left over: its {messages} messages are in {file} now");
        }
        None => tracing::info!("{part} was left over without a message: it is removed"),
    }
}

/// The error as links have it, of the same kind.
fn plain(wrong: SeriesError) -> io::Error {
    let kind = match &wrong {
        SeriesError::Write { error, .. } => error.kind(),
        SeriesError::Pattern(_) => io::ErrorKind::InvalidInput,
    };
    io::Error::new(kind, wrong)
}

/// Milliseconds since 1970-01-01 UTC.
fn unix_ms() -> u64 {
    let unix = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    unix.as_millis() as u64
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use super::*;
    use crate::{
        ipfix::tests::sample::many,
        ipfix_file::{
            Reader,
            tests::{Scratch, session},
        },
    };

    fn files(scratch: &Scratch, octets: Option<u64>) -> Files {
        let pattern = Pattern::parse(&scratch.path().join("x.ipfix")).expect("a pattern");
        let every = Some(Duration::from_secs(86_400 * 365));
        Files::new(pattern, Rotation { octets, every })
    }

    fn contents(scratch: &Scratch, name: &str) -> Vec<Vec<u8>> {
        let mut reader = Reader::open(&scratch.path().join(name)).expect("there");
        let mut messages = Vec::new();
        while reader.advance().expect("no damage").is_some() {
            messages.push(reader.message().to_vec());
        }
        messages
    }

    #[test]
    fn each_session_is_a_file() {
        let scratch = Scratch::new();
        let mut files = files(&scratch, Some(5000));
        let messages = session(7, &many(40), 1000);
        let now = Instant::now();
        for _ in 0..2 {
            assert!(files.open(now).expect("opens"));
            assert_eq!(files.acknowledged(), 0);
            let mut sent = 0;
            while !files.is_due(now) {
                files.send(&messages[sent]).expect("room");
                sent += 1;
            }
            assert!(sent > 4, "5000 octets");
            files.close(now).expect("closes");
            assert_eq!(files.acknowledged(), sent as u64);
            assert!(!files.is_due(now));
        }
        drop(files);
        assert_eq!(scratch.names(), ["x-1.ipfix", "x.ipfix"]);
        let sent = contents(&scratch, "x.ipfix");
        assert_eq!(sent, messages[..sent.len()]);
        assert_eq!(contents(&scratch, "x-1.ipfix"), sent);
    }

    #[test]
    fn what_an_earlier_process_left_over_is_mended() {
        let scratch = Scratch::new();
        let messages = session(7, &many(40), 1000).concat();
        let part = scratch.path().join("x.ipfix.part");
        fs::write(&part, &messages[..messages.len() - 1]).expect("room");
        let mut files = files(&scratch, None);
        assert!(files.open(Instant::now()).expect("opens"));
        assert_eq!(scratch.names(), ["x-1.ipfix.part", "x.ipfix"]);
        drop(files);
        assert_eq!(scratch.names(), ["x.ipfix"], "nothing was sent");
        assert!(!contents(&scratch, "x.ipfix").is_empty());
    }

    #[test]
    fn a_break_ends_a_file_and_the_next_is_another() {
        let scratch = Scratch::new();
        let mut files = files(&scratch, None);
        let message = &session(7, &many(1), 1000)[0];
        for _ in 0..2 {
            assert!(files.open(Instant::now()).expect("opens"));
            files.send(message).expect("room");
        }
        drop(files);
        assert_eq!(scratch.names(), ["x-1.ipfix", "x.ipfix"]);
    }
}
