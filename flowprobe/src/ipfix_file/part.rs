//! A file that is being written: it grows by whole messages, and gets its name when it is complete.

use std::{
    ffi::CString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::AsRawFd as _,
        unix::{ffi::OsStrExt as _, fs::FileExt as _},
    },
    path::{Path, PathBuf},
};

/// A file that is not complete. Dropped, it stays as it is, to be taken over.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
    /// Octets of whole messages.
    octets: u64,
    messages: u64,
}

impl Part {
    /// Makes a file that is not there yet, and locks it, so that nobody takes it for a left-over.
    ///
    /// # Errors
    /// It is there, or the operating system refuses.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&path)?;
        lock(&file)?;
        Ok(Self::of(file, path, 0, 0))
    }

    pub(super) fn of(file: File, path: PathBuf, octets: u64, messages: u64) -> Self {
        Self {
            file,
            path,
            octets,
            messages,
        }
    }

    /// Asks for room for `octets`, so that a disk that is full is noticed before anything is
    /// written. What is not used is given back.
    ///
    /// # Errors
    /// The disk is full.
    pub fn reserve(&self, octets: u64) -> io::Result<()> {
        let (from, octets) = (self.octets as libc::off_t, octets as libc::off_t);
        // SAFETY: a plain system call on a descriptor that is open.
        let done = unsafe {
            libc::fallocate(
                self.file.as_raw_fd(),
                libc::FALLOC_FL_KEEP_SIZE,
                from,
                octets,
            )
        };
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            _ if done == 0 => Ok(()),
            Some(libc::ENOSPC | libc::EDQUOT) => Err(error),
            // Not every file system can.
            _ => Ok(()),
        }
    }

    /// Appends a message: all of it, or nothing.
    ///
    /// # Errors
    /// It cannot be written. The file has the messages from before.
    pub fn append(&mut self, message: &[u8]) -> io::Result<()> {
        if let Err(error) = self.file.write_all_at(message, self.octets) {
            // Where this fails too, the next message is written over what is there, and at the
            // latest `finish` cuts it off.
            drop(self.file.set_len(self.octets));
            return Err(error);
        }
        self.octets += message.len() as u64;
        self.messages += 1;
        Ok(())
    }

    /// Octets of the messages.
    #[must_use]
    pub fn octets(&self) -> u64 {
        self.octets
    }

    /// Messages.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Brings the file to the disk and gives it its name, the first of `names` that is free;
    /// removes it if there is no message in it, and returns `None` then.
    ///
    /// # Errors
    /// The operating system refuses. The file stays as it is, to be tried again or taken over.
    pub fn finish(
        &mut self,
        mut names: impl Iterator<Item = PathBuf>,
    ) -> io::Result<Option<PathBuf>> {
        if self.messages == 0 {
            fs::remove_file(&self.path)?;
            return Ok(None);
        }
        // Gives back what was reserved, too.
        self.file.set_len(self.octets)?;
        self.file.sync_all()?;
        let name = loop {
            let name = names.next().ok_or(io::ErrorKind::AlreadyExists)?;
            match rename_to_new(&self.path, &name) {
                Ok(()) => break name,
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        };
        sync_directory(&name)?;
        Ok(Some(name))
    }
}

/// Locks a file for this process, or says that another one has it (`WouldBlock`).
pub(super) fn lock(file: &File) -> io::Result<()> {
    match file.try_lock() {
        Ok(()) => Ok(()),
        Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
        // Not every file system can.
        Err(TryLockError::Error(error)) => match error.raw_os_error() {
            Some(libc::EOPNOTSUPP | libc::ENOLCK | libc::ENOSYS) => Ok(()),
            _ => Err(error),
        },
    }
}

/// Brings the names in the directory of `path` to the disk.
pub(crate) fn sync_directory(path: &Path) -> io::Result<()> {
    let directory = match path.parent() {
        Some(directory) if !directory.as_os_str().is_empty() => directory,
        _ => Path::new("."),
    };
    match File::open(directory)?.sync_all() {
        // Not every file system can.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Ok(()),
        synced => synced,
    }
}

/// Renames a file, but never over one that is there.
fn rename_to_new(from: &Path, to: &Path) -> io::Result<()> {
    let c_string = |path: &Path| CString::new(path.as_os_str().as_bytes());
    let (old, new) = (c_string(from)?, c_string(to)?);
    // SAFETY: both paths end in a zero octet and outlive the call.
    let done = unsafe {
        libc::renameat2(
            libc::AT_FDCWD,
            old.as_ptr(),
            libc::AT_FDCWD,
            new.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if done == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // Not every file system can; one that appears in between is written over there.
        Some(libc::EINVAL | libc::ENOSYS) if !to.exists() => fs::rename(from, to),
        Some(libc::EINVAL | libc::ENOSYS) => Err(io::ErrorKind::AlreadyExists.into()),
        _ => Err(error),
    }
}
