//! Waits until no run of the program can still hold a flow that was taken from it.
//!
//! XDP programs run as RCU readers. After one RCU grace period every run that may have matched a
//! flow before it was retired has ended, and its counts are in the slot.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
};

use crate::bpf;

/// Something that returns only after an RCU grace period.
pub trait GracePeriod: Send {
    /// Waits.
    ///
    /// # Errors
    /// The kernel refused; nothing may be read then.
    fn wait(&self) -> io::Result<()>;
}

/// The kernel's own ways to wait for a grace period.
#[derive(Debug)]
pub enum Rcu {
    /// `membarrier(MEMBARRIER_CMD_GLOBAL)`, which is `synchronize_rcu()` (8 to 13 ms as a rule).
    Membarrier,
    /// On kernels booted with nohz_full, where membarrier refuses: a map-in-map update through
    /// `bpf()` waits for all running programs before it returns.
    MapInMap(MapInMap),
}

const MEMBARRIER_CMD_QUERY: libc::c_int = 0;
const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;

fn membarrier(command: libc::c_int) -> io::Result<libc::c_long> {
    // SAFETY: a system call without pointers.
    let rc = unsafe { libc::syscall(libc::SYS_membarrier, command, 0, 0) };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

impl Rcu {
    /// Picks what this kernel offers.
    ///
    /// # Errors
    /// It offers neither.
    pub fn new() -> io::Result<Self> {
        match membarrier(MEMBARRIER_CMD_QUERY) {
            Ok(commands) if commands & libc::c_long::from(MEMBARRIER_CMD_GLOBAL) != 0 => {
                Ok(Self::Membarrier)
            }
            _ => MapInMap::new().map(Self::MapInMap),
        }
    }
}

impl GracePeriod for Rcu {
    fn wait(&self) -> io::Result<()> {
        match self {
            Self::Membarrier => membarrier(MEMBARRIER_CMD_GLOBAL).map(drop),
            Self::MapInMap(map) => map.update(),
        }
    }
}

/// An array of maps with one element, whose update waits for a grace period.
#[derive(Debug)]
pub struct MapInMap {
    outer: OwnedFd,
    inner: OwnedFd,
}

impl MapInMap {
    fn new() -> io::Result<Self> {
        let inner = bpf::array()?;
        let outer = bpf::array_of_maps(inner.as_fd())?;
        let map = Self { outer, inner };
        map.update()?;
        Ok(map)
    }

    fn update(&self) -> io::Result<()> {
        bpf::set_map(self.outer.as_fd(), self.inner.as_fd())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_way_of_waiting_works_here() {
        // As root; without, the kernel refuses maps and says so.
        if let Err(error) = bpf::probe() {
            panic!("this test creates BPF maps: run it as root ({error})");
        }
        Rcu::Membarrier.wait().expect("membarrier");
        let map = MapInMap::new().expect("a map of maps");
        Rcu::MapInMap(map).wait().expect("an update");
    }
}
