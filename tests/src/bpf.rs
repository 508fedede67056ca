//! The few commands of bpf(2) that the generator needs, without a loader.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
};

use anyhow::{Context as _, Result, bail};

// Commands, types and flags of include/uapi/linux/bpf.h.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_ENABLE_STATS: libc::c_long = 32;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SCHED_CLS: u32 = 3;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_TEST_XDP_LIVE_FRAMES: u32 = 1 << 1;

/// One instruction: operation, registers (source << 4 | destination), offset, immediate.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Instruction {
    operation: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// Shorthand of an instruction.
#[must_use]
pub fn op(operation: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        operation,
        registers: source << 4 | destination,
        offset,
        immediate,
    }
}

/// The attributes of a command, as long as the longest one used here, the rest zero.
#[repr(C, align(8))]
struct Attributes([u8; 128]);

impl Attributes {
    fn new() -> Self {
        Self([0; 128])
    }

    fn u32(self, at: usize, value: u32) -> Self {
        self.octets(at, &value.to_ne_bytes())
    }

    fn pointer<T>(self, at: usize, value: *const T) -> Self {
        self.octets(at, &(value as u64).to_ne_bytes())
    }

    fn octets(mut self, at: usize, value: &[u8]) -> Self {
        self.0[at..at + value.len()].copy_from_slice(value);
        self
    }

    /// Runs the command.
    ///
    /// # Safety
    /// Every pointer among the attributes is valid for what the command does with it.
    unsafe fn call(&self, command: libc::c_long) -> io::Result<i32> {
        // SAFETY: the attributes are as long as said; their pointers are the caller's promise.
        let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const self.0, 128) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(result as i32)
    }
}

/// An array map of one element of `octets` octets, zeroed.
///
/// # Errors
/// Without CAP_BPF.
pub fn one_value(octets: u32) -> Result<OwnedFd> {
    let attributes = Attributes::new()
        .u32(0, BPF_MAP_TYPE_ARRAY)
        .u32(4, 4)
        .u32(8, octets)
        .u32(12, 1);
    // SAFETY: no pointers.
    let fd = unsafe { attributes.call(BPF_MAP_CREATE) }.context("creating a map")?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Loads an XDP program under a name of at most 15 octets.
///
/// # Errors
/// The verifier's complaint.
pub fn load_xdp(name: &str, program: &[Instruction]) -> Result<OwnedFd> {
    load(BPF_PROG_TYPE_XDP, BPF_XDP, name, program)
}

/// Loads a program that sees frames as they leave an interface (TCX), under a name of at most 15
/// octets.
///
/// # Errors
/// The verifier's complaint.
pub fn load_egress(name: &str, program: &[Instruction]) -> Result<OwnedFd> {
    load(BPF_PROG_TYPE_SCHED_CLS, BPF_TCX_EGRESS, name, program)
}

fn load(kind: u32, attach: u32, name: &str, program: &[Instruction]) -> Result<OwnedFd> {
    let license = CString::new("GPL")?;
    let mut log = vec![0u8; 1 << 16];
    let attributes = Attributes::new()
        .u32(0, kind)
        .u32(4, program.len() as u32)
        .pointer(8, program.as_ptr())
        .pointer(16, license.as_ptr())
        .u32(24, 1) // log level
        .u32(28, log.len() as u32)
        .pointer(32, log.as_mut_ptr())
        .octets(48, &name.as_bytes()[..name.len().min(15)])
        .u32(68, attach);
    // SAFETY: program, license and log are alive and as long as said.
    match unsafe { attributes.call(BPF_PROG_LOAD) } {
        // SAFETY: a new descriptor that nobody else owns.
        Ok(fd) => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
        Err(error) => {
            let end = log.iter().position(|octet| *octet == 0).unwrap_or(0);
            bail!("{error}: {}", String::from_utf8_lossy(&log[..end]));
        }
    }
}

/// Attaches an XDP program to an interface of this thread's namespace, for as long as the link
/// lives.
///
/// # Errors
/// Where there is one already.
pub fn attach_xdp(program: &OwnedFd, interface: u32) -> Result<OwnedFd> {
    attach(BPF_XDP, program, interface).context("attaching an XDP program")
}

/// The same with a program that sees frames as they leave.
///
/// # Errors
/// Where the kernel has no TCX (6.6 is the first).
pub fn attach_egress(program: &OwnedFd, interface: u32) -> Result<OwnedFd> {
    attach(BPF_TCX_EGRESS, program, interface).context("attaching a TCX program")
}

fn attach(kind: u32, program: &OwnedFd, interface: u32) -> io::Result<OwnedFd> {
    let attributes = Attributes::new()
        .u32(0, program.as_raw_fd() as u32)
        .u32(4, interface)
        .u32(8, kind);
    // SAFETY: no pointers.
    let fd = unsafe { attributes.call(BPF_LINK_CREATE) }?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// How many programs of traffic control are on an interface of this thread's namespace (TCX), for
/// what comes in or what goes out.
///
/// # Errors
/// Where the kernel has no TCX (6.6 is the first).
pub fn programs_of_tc(interface: u32, out: bool) -> Result<u32> {
    let kind = if out { BPF_TCX_EGRESS } else { BPF_TCX_INGRESS };
    let mut attributes = Attributes::new().u32(0, interface).u32(4, kind);
    let at = &raw mut attributes.0;
    // SAFETY: the attributes are as long as said, without pointers; the kernel writes into them.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, at, 128) };
    if result < 0 {
        let error = io::Error::last_os_error();
        // Nothing was ever attached.
        if error.raw_os_error() == Some(libc::ENOENT) {
            return Ok(0);
        }
        return Err(error).context("BPF_PROG_QUERY");
    }
    let mut count = [0; 4];
    count.copy_from_slice(&attributes.0[24..28]);
    Ok(u32::from_ne_bytes(count))
}

/// Whether the kernel has a program of this id.
#[must_use]
pub fn program_exists(id: u32) -> bool {
    // SAFETY: no pointers.
    match unsafe { Attributes::new().u32(0, id).call(BPF_PROG_GET_FD_BY_ID) } {
        Ok(fd) => {
            // SAFETY: a new descriptor that nobody else owns.
            drop(unsafe { OwnedFd::from_raw_fd(fd) });
            true
        }
        Err(_) => false,
    }
}

/// Makes the kernel count the runs of programs and their time, for as long as the descriptor
/// lives.
///
/// # Errors
/// Without CAP_SYS_ADMIN.
pub fn enable_stats() -> Result<OwnedFd> {
    // SAFETY: no pointers; zero is BPF_STATS_RUN_TIME.
    let fd = unsafe { Attributes::new().call(BPF_ENABLE_STATS) }.context("BPF_ENABLE_STATS")?;
    // SAFETY: a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Runs an XDP program on `repeat` frames that are real ones: what it redirects is sent.
///
/// # Errors
/// Where the kernel cannot (5.18 is the first that can).
pub fn send_live(program: &OwnedFd, frame: &[u8], repeat: u32, batch: u32) -> Result<()> {
    let attributes = Attributes::new()
        .u32(0, program.as_raw_fd() as u32)
        .u32(8, frame.len() as u32)
        .pointer(16, frame.as_ptr())
        .u32(32, repeat)
        .u32(64, BPF_F_TEST_XDP_LIVE_FRAMES)
        .u32(72, batch);
    // SAFETY: the frame is alive and as long as said.
    unsafe { attributes.call(BPF_PROG_TEST_RUN) }
        .map(drop)
        .context("BPF_PROG_TEST_RUN with live frames")
}
