//! The network namespace whose interfaces are watched, where it is not the process's own.
//!
//! Sockets, links and programs for one device belong to the namespace that their maker is in, and stay
//! there. So one thread goes there for a moment, and everything else, collectors above all, stays where
//! flowprobe was started.

use std::{
    fmt,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
    str::FromStr,
};

/// Where `ip netns` keeps them.
const DIRECTORY: &str = "/run/netns";

/// A network namespace, as the user says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsName {
    /// One of `ip netns`.
    Named(String),
    /// That of a process.
    Process(u32),
    /// A file.
    At(PathBuf),
}

impl FromStr for NetnsName {
    type Err = NetnsError;

    fn from_str(text: &str) -> Result<Self, NetnsError> {
        match text.parse() {
            Ok(process) => Ok(Self::Process(process)),
            Err(_) if text.contains('/') => Ok(Self::At(text.into())),
            Err(_) if matches!(text, "" | "." | "..") => Err(NetnsError::NoName),
            Err(_) => Ok(Self::Named(text.to_owned())),
        }
    }
}

impl fmt::Display for NetnsName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Process(process) => write!(f, "{process}"),
            Self::At(path) => write!(f, "{}", path.display()),
        }
    }
}

impl NetnsName {
    fn path(&self) -> PathBuf {
        match self {
            Self::Named(name) => Path::new(DIRECTORY).join(name),
            Self::Process(process) => format!("/proc/{process}/ns/net").into(),
            Self::At(path) => path.clone(),
        }
    }
}

/// Why interfaces of a network namespace cannot be watched.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// Nothing that could be one.
    #[error("give a name of `ip netns`, the number of a process in it, or a path")]
    NoName,
    /// None of that name.
    #[error(
        "no network namespace {name} ({path}: {source}): `ip netns list` shows those with names"
    )]
    Absent {
        /// As asked for.
        name: NetnsName,
        /// Where it would be.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Another kind of file.
    #[error(
        "{0} is no network namespace: give a name of `ip netns`, a process, or a path such as /proc/PID/ns/net"
    )]
    NotOne(NetnsName),
    /// Not allowed.
    #[error("--netns needs CAP_SYS_ADMIN: run with sudo, or add cap_sys_admin+ep with setcap")]
    Denied,
    /// Anything else.
    #[error("cannot enter the network namespace {name}: {source}")]
    Enter {
        /// Which.
        name: NetnsName,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A network namespace to work in. It is there as long as this is.
#[derive(Debug)]
pub struct Netns {
    name: NetnsName,
    there: File,
    here: File,
}

impl Netns {
    /// Finds one, and tries to enter it.
    ///
    /// # Errors
    /// See [`NetnsError`].
    pub fn open(name: &NetnsName) -> Result<Self, NetnsError> {
        let path = name.path();
        let there = File::open(&path).map_err(|source| match source.kind() {
            io::ErrorKind::PermissionDenied => NetnsError::Denied,
            _ => NetnsError::Absent {
                name: name.clone(),
                path,
                source,
            },
        })?;
        let here = File::open("/proc/thread-self/ns/net").map_err(|source| NetnsError::Enter {
            name: name.clone(),
            source,
        })?;
        let netns = Self {
            name: name.clone(),
            there,
            here,
        };
        netns.within(|| ())?;
        Ok(netns)
    }

    /// Does something with the calling thread in the namespace; no other thread is moved. Threads that
    /// it starts there stay there.
    ///
    /// # Errors
    /// It cannot be entered, or not be left.
    pub fn within<T>(&self, work: impl FnOnce() -> T) -> Result<T, NetnsError> {
        let failed = |source: io::Error| match source.raw_os_error() {
            Some(libc::EINVAL) => NetnsError::NotOne(self.name.clone()),
            Some(libc::EPERM) => NetnsError::Denied,
            _ => NetnsError::Enter {
                name: self.name.clone(),
                source,
            },
        };
        enter(self.there.as_fd()).map_err(failed)?;
        let back = Back(self.here.as_fd());
        let done = work();
        back.go().map_err(failed)?;
        Ok(done)
    }
}

/// Brings the thread back, after a panic too.
struct Back<'a>(BorrowedFd<'a>);

impl Back<'_> {
    fn go(self) -> io::Result<()> {
        let gone = enter(self.0);
        std::mem::forget(self);
        gone
    }
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        let _the_panic_goes_on = enter(self.0);
    }
}

fn enter(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: no pointers; an open descriptor. It moves this thread only.
    match unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_processes_and_paths_are_told_apart() {
        for (text, path) in [
            ("blue", "/run/netns/blue"),
            ("cni-1", "/run/netns/cni-1"),
            ("17", "/proc/17/ns/net"),
            ("/var/run/netns/17", "/var/run/netns/17"),
            ("./x", "./x"),
        ] {
            let name: NetnsName = text.parse().expect(text);
            assert_eq!(name.path(), Path::new(path));
            assert_eq!(name.to_string(), text);
        }
        for bad in ["", ".", ".."] {
            assert!(bad.parse::<NetnsName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_there_or_is_something_else_is_refused() {
        let refused = |text: &str| {
            let name = text.parse().expect(text);
            Netns::open(&name).expect_err(text).to_string()
        };
        let absent = refused("flowprobe-has-no-such");
        assert!(absent.contains("`ip netns list`"), "{absent}");
        let other = refused("/proc/self/ns/../status");
        // Without privileges that is said first.
        let said = other.contains("is no network namespace") || other.contains("CAP_SYS_ADMIN");
        assert!(said, "{other}");
    }
}
