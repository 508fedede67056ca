//! What the tests ask of the kernel by themselves, so that the code under test is not its own judge.

use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
};

const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;

/// A kind of program.
#[derive(Clone, Copy)]
pub(crate) enum Kind {
    /// XDP with frags.
    Frags,
    /// XDP without.
    Linear,
    /// Not XDP.
    SocketFilter,
}

/// linux/bpf.h: the beginning of union bpf_attr for BPF_PROG_LOAD.
#[repr(C)]
#[derive(Default)]
struct ProgramLoad {
    kind: u32,
    instruction_count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
}

/// Loads a program that returns 2: XDP_PASS.
pub(crate) fn load(kind: Kind, name: &str) -> OwnedFd {
    // linux/bpf.h: struct bpf_insn { code, dst:4 src:4, off, imm }: r0 = 2; exit.
    let instructions: [[u8; 8]; 2] = [[0xb7, 0, 0, 0, 2, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
    let (kind, flags) = match kind {
        Kind::Frags => (BPF_PROG_TYPE_XDP, BPF_F_XDP_HAS_FRAGS),
        Kind::Linear => (BPF_PROG_TYPE_XDP, 0),
        Kind::SocketFilter => (BPF_PROG_TYPE_SOCKET_FILTER, 0),
    };
    let mut attribute = ProgramLoad {
        kind,
        flags,
        instruction_count: 2,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
        ..ProgramLoad::default()
    };
    attribute.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: `attribute` has the size given, and what it points to lives until the end.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            std::ptr::from_ref(&attribute),
            mem::size_of_val(&attribute),
        )
    };
    assert!(
        fd >= 0,
        "cannot load a program (needs root): {}",
        io::Error::last_os_error()
    );
    // SAFETY: the descriptor is new and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn socket(domain: i32, protocol: i32) -> OwnedFd {
    // SAFETY: no pointers.
    let fd = unsafe { libc::socket(domain, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    assert!(fd >= 0, "{}", io::Error::last_os_error());
    // SAFETY: the descriptor is new and nothing else owns it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Attaches in native mode with RTM_SETLINK, as programs do that hold no link.
pub(crate) fn attach_by_netlink(ifindex: u32, program: BorrowedFd<'_>) {
    const IFLA_XDP_FD: u16 = 1;
    const IFLA_XDP_FLAGS: u16 = 3;
    const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
    let halves = |low: u16, high: u16| {
        let ([a, b], [c, d]) = (low.to_ne_bytes(), high.to_ne_bytes());
        u32::from_ne_bytes([a, b, c, d])
    };
    let nested = libc::IFLA_XDP | libc::NLA_F_NESTED as u16;
    let flags = (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let message: [u32; 13] = [
        52,
        halves(libc::RTM_SETLINK, flags),
        0,
        0,
        // struct ifinfomsg.
        0,
        ifindex,
        0,
        0,
        halves(20, nested),
        halves(8, IFLA_XDP_FD),
        program.as_raw_fd().cast_unsigned(),
        halves(8, IFLA_XDP_FLAGS),
        XDP_FLAGS_DRV_MODE,
    ];
    let socket = socket(libc::AF_NETLINK, libc::NETLINK_ROUTE);
    let mut answer = [0_u32; 1024];
    // SAFETY: the pointers and lengths are those of `message` and `answer`.
    let length = unsafe {
        libc::send(socket.as_raw_fd(), message.as_ptr().cast(), 52, 0);
        libc::recv(socket.as_raw_fd(), answer.as_mut_ptr().cast(), 4096, 0)
    };
    // struct nlmsgerr after the header: 0 is an acknowledgement.
    assert!(length >= 20, "{length}");
    assert_eq!(answer[4].cast_signed(), 0, "the kernel refused");
}

/// Sends the same frame some times.
pub(crate) fn send_frames(ifindex: u32, frame: &[u8], count: usize) {
    let socket = socket(libc::AF_PACKET, 0);
    // SAFETY: all of it is integers, for which zero is a value.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = ifindex.cast_signed();
    for _ in 0..count {
        // SAFETY: the pointers and lengths are those of `frame` and `address`.
        let sent = unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&address).cast(),
                mem::size_of_val(&address) as libc::socklen_t,
            )
        };
        assert_eq!(sent, frame.len() as isize);
    }
}

/// Gives up every other capability, in the calling thread only.
pub(crate) fn keep_capabilities(set: u64) {
    // linux/capability.h: version 3 takes two of (effective, permitted, inheritable).
    const VERSION_3: u32 = 0x2008_0522;
    let header: [u32; 2] = [VERSION_3, 0];
    let (low, high) = (set as u32, (set >> 32) as u32);
    let sets: [u32; 6] = [low, low, 0, high, high, 0];
    // SAFETY: both arrays are the structures of version 3.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}
