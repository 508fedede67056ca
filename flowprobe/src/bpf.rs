//! The few bpf() commands that attaching, the grace period and programs for one device need, on the
//! kernel's own structures.
//!
//! Not a loader: objects, maps and all other programs are loaded with aya.

use std::{
    ffi::CStr,
    io, mem,
    os::fd::{AsFd as _, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

// linux/bpf.h: enum bpf_cmd, enum bpf_attach_type, enum bpf_map_type.
const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TEST_RUN: libc::c_long = 10;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_ENABLE_STATS: libc::c_long = 32;
const BPF_LINK_DETACH: libc::c_long = 34;
const BPF_XDP: u32 = 37;
const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;
const BPF_PROG_TYPE_XDP: u32 = 6;
/// In front of all others, where none is named.
const BPF_F_BEFORE: u32 = 1 << 3;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_F_XDP_DEV_BOUND_ONLY: u32 = 1 << 6;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_MAP_TYPE_ARRAY_OF_MAPS: u32 = 12;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;

// linux/bpf.h: struct bpf_prog_info, `name` follows `map_ids`, both are there since 4.15;
// `run_time_ns` and `run_cnt` since 5.1. An older kernel leaves them 0.
const PROGRAM_INFO_LEN: usize = 208;
const PROGRAM_RUN_TIME_OFFSET: usize = 192;
const PROGRAM_RUN_COUNT_OFFSET: usize = 200;
const PROGRAM_JITED_LEN_OFFSET: usize = 16;
const PROGRAM_XLATED_LEN_OFFSET: usize = 20;
const PROGRAM_NAME_OFFSET: usize = 64;

/// Octets of a program's name, with a zero at the end.
const NAME_LEN: usize = 16;

/// The verifier keeps the end of a longer log (6.4), and there it says what was wrong.
const LOG_LEN: usize = 1 << 16;

/// An attribute of bpf(): a prefix of `union bpf_attr`, of integers only and without padding.
/// The kernel takes what is beyond the prefix as zero.
trait Attribute {}

#[repr(C)]
struct MapCreate {
    map_type: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    map_flags: u32,
    inner_map_fd: u32,
}

#[repr(C)]
struct MapUpdate {
    map_fd: u32,
    zero: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    program_type: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; NAME_LEN],
    ifindex: u32,
    expected_attach_type: u32,
}

#[repr(C)]
struct LinkUpdate {
    link_fd: u32,
    program_fd: u32,
}

#[repr(C)]
struct GetById {
    id: u32,
    next_id: u32,
    open_flags: u32,
}

#[repr(C)]
struct GetInfo {
    fd: u32,
    info_len: u32,
    info: u64,
}

#[repr(C)]
struct LinkCreate {
    program_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

#[repr(C)]
struct EnableStats {
    kind: u32,
}

#[repr(C)]
#[derive(Default)]
struct TestRun {
    program_fd: u32,
    result: u32,
    input_len: u32,
    output_len: u32,
    input: u64,
    output: u64,
    repeat: u32,
    duration_ns: u32,
}

impl Attribute for EnableStats {}
impl Attribute for TestRun {}
impl Attribute for MapCreate {}
impl Attribute for MapUpdate {}
impl Attribute for ProgramLoad {}
impl Attribute for GetById {}
impl Attribute for GetInfo {}
impl Attribute for LinkCreate {}
impl Attribute for LinkDetach {}
impl Attribute for LinkUpdate {}

/// Creates a map and lets it go, only to see whether bpf() is there for this process.
pub(crate) fn probe() -> io::Result<()> {
    array().map(drop)
}

/// An array map of one element of 4 octets.
pub(crate) fn array() -> io::Result<OwnedFd> {
    create(BPF_MAP_TYPE_ARRAY, 1, 0)
}

/// A map of sockets of AF_XDP.
pub(crate) fn sockets(slots: u32) -> io::Result<OwnedFd> {
    create(BPF_MAP_TYPE_XSKMAP, slots, 0)
}

/// An array of one map like `inner`.
pub(crate) fn array_of_maps(inner: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    create(BPF_MAP_TYPE_ARRAY_OF_MAPS, 1, number(inner))
}

fn create(map_type: u32, max_entries: u32, inner_map_fd: u32) -> io::Result<OwnedFd> {
    call_for_fd(
        BPF_MAP_CREATE,
        &mut MapCreate {
            map_type,
            key_size: 4,
            value_size: 4,
            max_entries,
            map_flags: 0,
            inner_map_fd,
        },
    )
}

/// Puts `inner` into element 0 of `outer`.
pub(crate) fn set_map(outer: BorrowedFd<'_>, inner: BorrowedFd<'_>) -> io::Result<()> {
    set_element(outer, 0, inner)
}

/// Puts a map or a socket into an element of a map of such.
pub(crate) fn set_element(
    map: BorrowedFd<'_>,
    key: u32,
    element: BorrowedFd<'_>,
) -> io::Result<()> {
    let value = number(element);
    call(
        BPF_MAP_UPDATE_ELEM,
        &mut MapUpdate {
            map_fd: number(map),
            zero: 0,
            key: (&raw const key) as u64,
            value: (&raw const value) as u64,
            flags: 0,
        },
    )
    .map(drop)
}

/// An XDP program with its maps in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinkedProgram<'a> {
    /// Name, of which the kernel gets 15 octets.
    pub(crate) name: &'a str,
    /// Instructions as in memory, 8 octets each.
    pub(crate) instructions: &'a [[u8; 8]],
    /// License.
    pub(crate) license: &'a CStr,
    /// Whether it takes packets of several buffers.
    pub(crate) frags: bool,
    /// The device that it is for, where it is for one alone.
    pub(crate) ifindex: Option<u32>,
}

impl LinkedProgram<'_> {
    fn attribute(&self) -> ProgramLoad {
        let bound = self.ifindex.map_or(0, |_| BPF_F_XDP_DEV_BOUND_ONLY);
        let frags = if self.frags { BPF_F_XDP_HAS_FRAGS } else { 0 };
        let mut attribute = ProgramLoad {
            program_type: BPF_PROG_TYPE_XDP,
            instruction_count: self.instructions.len() as u32,
            instructions: self.instructions.as_ptr() as u64,
            license: self.license.as_ptr() as u64,
            flags: bound | frags,
            ifindex: self.ifindex.unwrap_or(0),
            expected_attach_type: BPF_XDP,
            ..ProgramLoad::default()
        };
        for (to, from) in attribute.name[..NAME_LEN - 1]
            .iter_mut()
            .zip(self.name.bytes())
        {
            *to = from;
        }
        attribute
    }
}

/// Loads an XDP program. Where the kernel refuses it, that is said with the end of the verifier's
/// log.
pub(crate) fn load_linked(program: &LinkedProgram<'_>) -> Result<OwnedFd, (io::Error, String)> {
    match call_for_fd(BPF_PROG_LOAD, &mut program.attribute()) {
        Ok(fd) => Ok(fd),
        // Once more, now with a log: to write one takes long.
        Err(refused) => match load_with_log(program, LOG_ALL) {
            Ok((fd, _)) => Ok(fd),
            Err((_, log)) => Err((refused, log)),
        },
    }
}

/// Levels of the verifier's log: each instruction, or the figures at the end.
const LOG_ALL: u32 = 1;
pub(crate) const LOG_FIGURES: u32 = 4;

/// Loads an XDP program; returns it with the end of the verifier's log.
pub(crate) fn load_with_log(
    program: &LinkedProgram<'_>,
    level: u32,
) -> Result<(OwnedFd, String), (io::Error, String)> {
    let mut log = vec![0_u8; LOG_LEN];
    let mut attribute = ProgramLoad {
        log_level: level,
        log_size: LOG_LEN as u32,
        log: log.as_mut_ptr() as u64,
        ..program.attribute()
    };
    let loaded = call_for_fd(BPF_PROG_LOAD, &mut attribute);
    let end = log.iter().position(|&c| c == 0).unwrap_or(log.len());
    let log = String::from_utf8_lossy(&log[..end]).into_owned();
    match loaded {
        Ok(fd) => Ok((fd, log)),
        Err(error) => Err((error, log)),
    }
}

/// Links an XDP program to an interface. `flags` is one of `XDP_FLAGS_*_MODE`.
pub(crate) fn link_xdp(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    call_for_fd(
        BPF_LINK_CREATE,
        &mut LinkCreate {
            program_fd: number(program),
            target_ifindex: ifindex,
            attach_type: BPF_XDP,
            flags,
        },
    )
}

/// Links a program of traffic control to an interface, in front of all others there (6.6).
pub(crate) fn link_tcx(program: BorrowedFd<'_>, ifindex: u32, out: bool) -> io::Result<OwnedFd> {
    call_for_fd(
        BPF_LINK_CREATE,
        &mut LinkCreate {
            program_fd: number(program),
            target_ifindex: ifindex,
            attach_type: if out { BPF_TCX_EGRESS } else { BPF_TCX_INGRESS },
            flags: BPF_F_BEFORE,
        },
    )
}

/// Puts another program in the place of the one that the link holds.
pub(crate) fn update_link(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    call(
        BPF_LINK_UPDATE,
        &mut LinkUpdate {
            link_fd: number(link),
            program_fd: number(program),
        },
    )
    .map(drop)
}

/// linux/bpf.h: `r0 = XDP_PASS`, `exit`.
const PASS: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
/// Octets of [`load_pass`]'s program, where the kernel leaves it as it is.
pub(crate) const PASS_LEN: usize = size_of_val(&PASS);

/// Loads an XDP program that passes every packet on and looks at none.
pub(crate) fn load_pass(frags: bool) -> io::Result<OwnedFd> {
    call_for_fd(
        BPF_PROG_LOAD,
        &mut ProgramLoad {
            program_type: BPF_PROG_TYPE_XDP,
            instruction_count: PASS.len() as u32,
            instructions: PASS.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
            flags: if frags { BPF_F_XDP_HAS_FRAGS } else { 0 },
            name: *b"flowprobe_pass\0\0",
            expected_attach_type: BPF_XDP,
            ..ProgramLoad::default()
        },
    )
}

/// Takes the program off the interface, whoever else holds the link.
pub(crate) fn detach(link: BorrowedFd<'_>) -> io::Result<()> {
    call(
        BPF_LINK_DETACH,
        &mut LinkDetach {
            link_fd: number(link),
        },
    )
    .map(drop)
}

/// The name of a loaded program, which the kernel cuts to 15 octets.
///
/// Only CAP_SYS_ADMIN may open programs by id: expect EPERM without it.
pub(crate) fn program_name(id: u32) -> io::Result<String> {
    let program = call_for_fd(
        BPF_PROG_GET_FD_BY_ID,
        &mut GetById {
            id,
            next_id: 0,
            open_flags: 0,
        },
    )?;
    let octets = program_info(program.as_fd())?;
    let name = &octets[PROGRAM_NAME_OFFSET..][..NAME_LEN];
    let end = name.iter().position(|&c| c == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).into_owned())
}

/// Octets of a loaded program's instructions, as the verifier has rewritten them.
pub(crate) fn rewritten_len(program: BorrowedFd<'_>) -> io::Result<usize> {
    length_at(program, PROGRAM_XLATED_LEN_OFFSET)
}

/// Octets of its machine code.
pub(crate) fn machine_code_len(program: BorrowedFd<'_>) -> io::Result<usize> {
    length_at(program, PROGRAM_JITED_LEN_OFFSET)
}

fn length_at(program: BorrowedFd<'_>, at: usize) -> io::Result<usize> {
    let octets = program_info(program)?;
    let mut length = [0; 4];
    length.copy_from_slice(&octets[at..][..4]);
    Ok(u32::from_ne_bytes(length) as usize)
}

/// Run time of a program, on all CPUs, as far as it was counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RunTime {
    /// Nanoseconds.
    pub(crate) ns: u64,
    /// Runs.
    pub(crate) runs: u64,
}

/// The kernel counts the run time of all programs while this is open (5.8).
pub(crate) fn enable_run_time() -> io::Result<OwnedFd> {
    const BPF_STATS_RUN_TIME: u32 = 0;
    call_for_fd(
        BPF_ENABLE_STATS,
        &mut EnableStats {
            kind: BPF_STATS_RUN_TIME,
        },
    )
}

/// What was counted of a program's run time since it was loaded.
pub(crate) fn run_time(program: BorrowedFd<'_>) -> io::Result<RunTime> {
    let octets = program_info(program)?;
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&octets[at..][..8]);
        u64::from_ne_bytes(word)
    };
    Ok(RunTime {
        ns: word(PROGRAM_RUN_TIME_OFFSET),
        runs: word(PROGRAM_RUN_COUNT_OFFSET),
    })
}

/// Runs a program so many times on an empty frame, attached or not.
pub(crate) fn test_run(program: BorrowedFd<'_>, repeat: u32) -> io::Result<()> {
    let frame = [0_u8; 64];
    call(
        BPF_PROG_TEST_RUN,
        &mut TestRun {
            program_fd: number(program),
            input_len: frame.len() as u32,
            input: frame.as_ptr() as u64,
            repeat,
            ..TestRun::default()
        },
    )
    .map(drop)
}

fn program_info(program: BorrowedFd<'_>) -> io::Result<Vec<u8>> {
    // Aligned as the structure that the kernel writes.
    let mut info = [0_u64; PROGRAM_INFO_LEN / 8];
    call(
        BPF_OBJ_GET_INFO_BY_FD,
        &mut GetInfo {
            fd: number(program),
            info_len: PROGRAM_INFO_LEN as u32,
            info: info.as_mut_ptr() as u64,
        },
    )?;
    Ok(info.iter().flat_map(|word| word.to_ne_bytes()).collect())
}

fn number(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd().cast_unsigned()
}

fn call<A: Attribute>(command: libc::c_long, attribute: &mut A) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads and writes at most the size given, which is that of `attribute`;
    // where it holds an address, that is of a live array as long as it says beside, of a live word,
    // or of a C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attribute),
            mem::size_of::<A>(),
        )
    };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

fn call_for_fd<A: Attribute>(command: libc::c_long, attribute: &mut A) -> io::Result<OwnedFd> {
    let fd = call(command, attribute)?;
    // SAFETY: these commands return a new descriptor (close-on-exec) that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}
