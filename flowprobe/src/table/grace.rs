//! Waits until no run of the program can still hold a flow that was taken from it.
//!
//! XDP programs run as RCU readers. After one RCU grace period every run that may have matched a
//! flow before it was retired has ended, and its counts are in the slot.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

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

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;

/// The fields of `union bpf_attr` for BPF_MAP_CREATE up to `inner_map_fd`.
#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

/// The fields of `union bpf_attr` for BPF_MAP_UPDATE_ELEM.
#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

fn bpf<T>(command: libc::c_long, attr: &T) -> io::Result<libc::c_long> {
    // SAFETY: `attr` is as long as said, and what it points to outlives the call.
    let rc = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_ref(attr),
            size_of::<T>(),
        )
    };
    if rc < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(rc)
    }
}

impl MapInMap {
    fn new() -> io::Result<Self> {
        let create = |map_type, inner_map_fd| {
            let fd = bpf(
                BPF_MAP_CREATE,
                &MapCreate {
                    map_type,
                    key_size: 4,
                    value_size: 4,
                    max_entries: 1,
                    map_flags: 0,
                    inner_map_fd,
                },
            )?;
            // SAFETY: a descriptor that this process has just been given.
            Ok::<_, io::Error>(unsafe { OwnedFd::from_raw_fd(fd as i32) })
        };
        let inner = create(BPF_MAP_TYPE_ARRAY, 0)?;
        let outer = create(BPF_MAP_TYPE_ARRAY_OF_MAPS, inner.as_raw_fd() as u32)?;
        let map = Self { outer, inner };
        map.update()?;
        Ok(map)
    }

    fn update(&self) -> io::Result<()> {
        let key = 0_u32;
        let value = self.inner.as_raw_fd();
        bpf(
            BPF_MAP_UPDATE_ELEM,
            &MapUpdate {
                map_fd: self.outer.as_raw_fd() as u32,
                pad: 0,
                key: (&raw const key) as u64,
                value: (&raw const value) as u64,
                flags: 0,
            },
        )
        .map(drop)
    }
}
