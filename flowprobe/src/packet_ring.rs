//! Packets that an interface receives, from a packet socket whose memory is shared with the kernel
//! (TPACKET_V3, see packet(7) and the kernel's `networking/packet_mmap.rst`).
//!
//! Not what flowprobe meters with: what experiments read, where nothing may be attached, and what AF_XDP
//! is compared with.

use std::{
    ffi::c_int,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use flowprobe_ebpf::wire::ethertype;

/// Octets of a block, which the kernel hands over when it is full, or after [`RETIRE`].
const BLOCK: usize = 1 << 20;
/// Blocks: 64 MiB in all, of 110,000 frames of 512 octets or more shorter ones. When all are full, the
/// kernel drops what comes, and counts it.
const BLOCKS: usize = 64;
/// How long a block with few frames is kept back.
pub const RETIRE: Duration = Duration::from_millis(20);
/// How long to wait for a block before something else is looked at, in milliseconds.
const LOOK_MS: c_int = 20;
/// Only tells the kernel how much a ring holds; a frame takes what it needs.
const FRAME: u32 = 2048;

/// A ring that cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("the kernel refuses {step}: {cause}")]
pub struct OpenError {
    /// What the kernel was asked for.
    pub step: &'static str,
    /// What it said.
    pub cause: io::Error,
}

/// Frames of an interface.
#[derive(Debug)]
pub struct PacketRing {
    socket: OwnedFd,
    ring: Ring,
}

impl PacketRing {
    /// From here on the first `keep_octets` of each frame are kept; also returns the hardware type of the
    /// interface (`ARPHRD_…`).
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or where there is no such interface.
    pub fn open(ifindex: u32, keep_octets: u32) -> Result<(Self, u16), OpenError> {
        let failed = |step| move |cause| OpenError { step, cause };
        // Protocol 0: nothing comes before the socket is bound to its interface.
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let fd = checked(fd).map_err(failed("a packet socket"))?;
        // SAFETY: the descriptor is new and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let version = libc::tpacket_versions::TPACKET_V3 as c_int;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)
            .map_err(failed("version 3 of the ring"))?;
        keep(&socket, keep_octets).map_err(failed("a length to keep"))?;
        // Since Linux 4.20; `frames` looks at the direction too.
        let one: c_int = 1;
        let _ = set(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            &one,
        );
        let ring = Ring::new(&socket).map_err(failed("the ring's memory"))?;
        let hardware = bind(&socket, ifindex).map_err(failed("to be bound to it"))?;
        Ok((Self { socket, ring }, hardware))
    }

    /// The socket.
    #[must_use]
    pub fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    /// Calls `take` for each frame in the blocks that are ready, and gives the blocks back.
    pub fn drain(&mut self, take: impl FnMut(InRing<'_>)) {
        self.ring.drain(take);
    }

    /// Waits for a block, up to 20 ms.
    ///
    /// # Errors
    /// The interface has gone down or away.
    pub fn wait(&self) -> io::Result<()> {
        wait(&self.socket)
    }

    /// From here on the kernel keeps nothing more, so that what is in the ring is all of it, and ready
    /// within [`RETIRE`].
    ///
    /// # Errors
    /// None that could be expected.
    pub fn keep_nothing(&self) -> io::Result<()> {
        keep(&self.socket, 0)
    }

    /// Packets that the kernel has dropped since this was last asked. It counts to 2³² only.
    #[must_use]
    pub fn lost(&self) -> u64 {
        lost(&self.socket)
    }
}

/// A frame in the ring.
#[derive(Clone, Copy, Debug)]
pub struct InRing<'a> {
    /// Its first octets.
    pub octets: &'a [u8],
    /// Octets of all of it.
    pub wire_len: u32,
    /// When it came, in nanoseconds since 1970-01-01 UTC.
    pub at_ns: u64,
    /// EtherType and control information of a tag that is not in `octets`.
    pub tag: Option<[u16; 2]>,
}

/// Memory that the kernel writes frames to, in blocks.
#[derive(Debug)]
struct Ring {
    start: *mut u8,
    /// The block that comes next.
    next: usize,
}

// SAFETY: the mapping belongs to this value alone, and is no thread's in particular.
unsafe impl Send for Ring {}

impl Ring {
    fn new(socket: &OwnedFd) -> io::Result<Self> {
        let wanted = libc::tpacket_req3 {
            tp_block_size: BLOCK as u32,
            tp_block_nr: BLOCKS as u32,
            tp_frame_size: FRAME,
            tp_frame_nr: (BLOCK * BLOCKS) as u32 / FRAME,
            tp_retire_blk_tov: RETIRE.as_millis() as u32,
            tp_sizeof_priv: 0,
            tp_feature_req_word: 0,
        };
        set(socket, libc::SOL_PACKET, libc::PACKET_RX_RING, &wanted)?;
        // SAFETY: a new mapping of the ring that was just made, of its size.
        let start = unsafe {
            libc::mmap(
                ptr::null_mut(),
                BLOCK * BLOCKS,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                socket.as_raw_fd(),
                0,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            start: start.cast(),
            next: 0,
        })
    }

    /// Calls `take` for each frame in the blocks that are ready, and gives the blocks back.
    fn drain(&mut self, mut take: impl FnMut(InRing<'_>)) {
        // One round at most: where packets come faster than they are taken, others have to be
        // looked after in between.
        for _ in 0..BLOCKS {
            // SAFETY: `next` is below BLOCKS, so that the block lies within the mapping.
            let block = unsafe { self.start.add(self.next * BLOCK) };
            let head: *mut libc::tpacket_block_desc = block.cast();
            // SAFETY: blocks are aligned to pages; the status is shared with the kernel, and only
            // ever accessed as an atomic word here.
            let status = unsafe { AtomicU32::from_ptr(&raw mut (*head).hdr.bh1.block_status) };
            if status.load(Ordering::Acquire) & libc::TP_STATUS_USER == 0 {
                return;
            }
            // SAFETY: the kernel leaves a block alone that has TP_STATUS_USER, until it is given
            // back; all of it is initialised memory.
            let octets = unsafe { std::slice::from_raw_parts(block, BLOCK) };
            frames(octets, &mut take);
            status.store(libc::TP_STATUS_KERNEL, Ordering::Release);
            self.next = (self.next + 1) % BLOCKS;
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping of `new`, which nothing refers to any more.
        unsafe { libc::munmap(self.start.cast(), BLOCK * BLOCKS) };
    }
}

/// Walks the frames of a block.
fn frames(block: &[u8], mut take: impl FnMut(InRing<'_>)) {
    let Some(head) = read::<libc::tpacket_block_desc>(block, 0) else {
        return;
    };
    // SAFETY: plain integers, all bits of which are valid.
    let head = unsafe { head.hdr.bh1 };
    let mut at = head.offset_to_first_pkt as usize;
    for _ in 0..head.num_pkts {
        let Some(frame) = read::<libc::tpacket3_hdr>(block, at) else {
            return;
        };
        let address = at + mem::size_of::<libc::tpacket3_hdr>().next_multiple_of(16);
        let from = read::<libc::sockaddr_ll>(block, address);
        let start = at + usize::from(frame.tp_mac);
        let octets = block.get(start..start + frame.tp_snaplen as usize);
        if let (Some(from), Some(octets)) = (from, octets)
            && from.sll_pkttype != libc::PACKET_OUTGOING
        {
            take(InRing {
                octets,
                wire_len: frame.tp_len,
                at_ns: u64::from(frame.tp_sec) * 1_000_000_000 + u64::from(frame.tp_nsec),
                tag: tag(&frame),
            });
        }
        // 0 in the last one.
        at += frame.tp_next_offset as usize;
    }
}

fn tag(frame: &libc::tpacket3_hdr) -> Option<[u16; 2]> {
    if frame.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let kind = match frame.tp_status & libc::TP_STATUS_VLAN_TPID_VALID {
        0 => ethertype::VLAN,
        _ => frame.hv1.tp_vlan_tpid,
    };
    Some([kind, frame.hv1.tp_vlan_tci as u16])
}

/// A structure of plain integers at `at`.
fn read<T: Copy>(octets: &[u8], at: usize) -> Option<T> {
    let octets = octets.get(at..at.checked_add(mem::size_of::<T>())?)?;
    // SAFETY: as many octets as T has; the callers' types are integers, all bits of which are
    // valid, and the read does not ask for alignment.
    Some(unsafe { octets.as_ptr().cast::<T>().read_unaligned() })
}

pub(crate) fn checked(result: c_int) -> io::Result<c_int> {
    match result {
        -1 => Err(io::Error::last_os_error()),
        result => Ok(result),
    }
}

fn set<T>(socket: &OwnedFd, level: c_int, option: c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value outlives the call, and its size is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_ref(value).cast(),
            mem::size_of::<T>() as libc::socklen_t,
        )
    };
    checked(result).map(drop)
}

/// Octets that are kept of each frame; 0 keeps no frame at all.
fn keep(socket: &OwnedFd, octets: u32) -> io::Result<()> {
    let mut program = [libc::sock_filter {
        code: (libc::BPF_RET | libc::BPF_K) as u16,
        jt: 0,
        jf: 0,
        k: octets,
    }];
    let program = libc::sock_fprog {
        len: 1,
        filter: program.as_mut_ptr(),
    };
    set(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

/// Binds to an interface, and gives its hardware type.
fn bind(socket: &OwnedFd, ifindex: u32) -> io::Result<u16> {
    // SAFETY: an address of zeroes is a valid one.
    let mut address: libc::sockaddr_ll = unsafe { mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    address.sll_ifindex = ifindex as c_int;
    let mut len = mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the address outlives the call, and its size is given.
    checked(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), len) })?;
    // SAFETY: as above; the kernel writes at most `len` octets.
    let result =
        unsafe { libc::getsockname(socket.as_raw_fd(), (&raw mut address).cast(), &raw mut len) };
    checked(result)?;
    Ok(address.sll_hatype)
}

/// Waits for a block; an error if the interface has gone down or away.
fn wait(socket: &OwnedFd) -> io::Result<()> {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN | libc::POLLERR,
        revents: 0,
    };
    // SAFETY: `poll` is one element, and outlives the call.
    unsafe { libc::poll(&raw mut poll, 1, LOOK_MS) };
    if poll.revents & libc::POLLERR == 0 {
        return Ok(());
    }
    let mut error: c_int = 0;
    get(socket, libc::SOL_SOCKET, libc::SO_ERROR, &mut error)?;
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

fn get<T>(socket: &OwnedFd, level: c_int, option: c_int, value: &mut T) -> io::Result<()> {
    let mut len = mem::size_of::<T>() as libc::socklen_t;
    // SAFETY: the value outlives the call, and its size is given; callers ask for integers.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            level,
            option,
            ptr::from_mut(value).cast(),
            &raw mut len,
        )
    };
    checked(result).map(drop)
}

/// Packets that the kernel has dropped since this was last asked.
fn lost(socket: &OwnedFd) -> u64 {
    // SAFETY: plain integers.
    let mut counters: libc::tpacket_stats_v3 = unsafe { mem::zeroed() };
    match get(
        socket,
        libc::SOL_PACKET,
        libc::PACKET_STATISTICS,
        &mut counters,
    ) {
        Ok(()) => u64::from(counters.tp_drops),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_block_is_no_frame() {
        frames(&[0; 8], |_| panic!("no frame"));
        let mut block = [0_u8; 256];
        // One frame that claims to be behind the end.
        block[12] = 1;
        block[16..18].copy_from_slice(&250_u16.to_ne_bytes());
        frames(&block, |_| panic!("no frame"));
    }
}
