//! Opens files and standard input, so that reading them can be broken off.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd as _, AsRawFd as _},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use super::packed::Unpacked;

/// How often a read that waits looks whether it has been broken off, in milliseconds.
const LOOK_MS: i32 = 50;

/// The octets of a file or of standard input, unpacked. Once `stop` is set they end.
pub(super) type Input = Unpacked<Raw>;

/// Whether reading it may wait for somebody. What is unpacked makes others wait anyway.
pub(super) fn may_wait(input: &Input) -> bool {
    input.plain().is_none_or(|raw| raw.waits)
}

/// A file or standard input, as it is.
#[derive(Debug)]
pub(super) struct Raw {
    file: File,
    /// Whether reading may wait for somebody: pipes, sockets, terminals.
    waits: bool,
    stop: Arc<AtomicBool>,
    /// Octets read.
    read: Arc<AtomicU64>,
}

/// Standard input, as an argument.
const STDIN: &str = "-";

/// Whether a file's name stands for standard input.
pub(super) fn is_stdin(path: &Path) -> bool {
    path.as_os_str() == STDIN
}

/// What messages call a file.
pub(super) fn name(path: &Path) -> String {
    match is_stdin(path) {
        true => "standard input".to_owned(),
        false => path.display().to_string(),
    }
}

/// The files that can be read twice, and so be looked at before the first one is metered.
pub(super) fn regular(paths: &[PathBuf]) -> impl Iterator<Item = &PathBuf> {
    let regular = |path: &&PathBuf| !is_stdin(path) && !path.metadata().is_ok_and(|m| special(&m));
    paths.iter().filter(regular)
}

fn special(metadata: &std::fs::Metadata) -> bool {
    !metadata.is_file() && !metadata.is_dir()
}

/// Opens a file or standard input; `read` counts its octets as they are read.
pub(super) fn open(
    path: &Path,
    stop: &Arc<AtomicBool>,
    read: &Arc<AtomicU64>,
) -> io::Result<Input> {
    let file = match is_stdin(path) {
        true => File::from(io::stdin().as_fd().try_clone_to_owned()?),
        false => File::open(path)?,
    };
    let waits = file.metadata().is_ok_and(|metadata| special(&metadata));
    Unpacked::new(Raw {
        file,
        waits,
        stop: Arc::clone(stop),
        read: Arc::clone(read),
    })
}

impl Raw {
    /// Waits until there is something to read, or its end; false if it was broken off.
    fn wait(&self) -> bool {
        let mut poll = libc::pollfd {
            fd: self.file.as_raw_fd(),
            events: libc::POLLIN,
            revents: 0,
        };
        while !self.stop.load(Ordering::Relaxed) {
            // SAFETY: `poll` is one element, and outlives the call.
            if unsafe { libc::poll(&raw mut poll, 1, LOOK_MS) } > 0 {
                return true;
            }
        }
        false
    }
}

impl Read for Raw {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        if self.waits && !self.wait() {
            return Ok(0);
        }
        let read = self.file.read(octets)?;
        self.read.fetch_add(read as u64, Ordering::Relaxed);
        Ok(read)
    }
}
