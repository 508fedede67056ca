//! Packets of an interface, from a packet socket whose memory is shared with the kernel
//! (TPACKET_V3, see packet(7) and the kernel's `networking/packet_mmap.rst`).
//!
//! Only what the interface receives is read, as XDP sees it. The first octets of each frame are
//! enough, with its true length. What the kernel had no room for is counted: a truth with such a
//! loss is none, and the report says so.

use std::{
    ffi::c_int,
    io, mem,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
    time::{Duration, Instant},
};

use flowprobe_ebpf::wire::{ethernet, ethertype};
use serde::Serialize;

use crate::{
    attach::interface::{Interface, LookupError},
    pcap::{Take, capture::Captured, link::Link},
};

/// Octets of a block, which the kernel hands over when it is full, or after [`RETIRE_MS`].
const BLOCK: usize = 1 << 20;
/// Blocks: 64 MiB in all, of 110,000 frames of [`SNAPLEN`] octets or more shorter ones. When all
/// are full, the kernel drops what comes, and counts it.
const BLOCKS: usize = 64;
/// How long a block with few frames is kept back, in milliseconds.
const RETIRE_MS: u32 = 20;
/// How long to wait for a block before looking at the time and at `stop`, in milliseconds.
const LOOK_MS: c_int = 20;
/// Octets that are kept of a frame: all tags, labels and tunnel headers that are parsed, the
/// longest IPv4 headers twice and what is hashed take 340; the rest is for IPv6 extension headers.
const SNAPLEN: u32 = 512;
/// Only tells the kernel how much a ring holds; a frame takes what it needs.
const FRAME: u32 = 2048;
/// A tag is put back behind both MAC addresses.
const TAG: usize = 4;

const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
/// No header at all: tun, raw IP, GRE and others without addresses of their own.
const WITHOUT_HEADER: [u16; 6] = [512, 519, 768, 769, 776, 0xfffe];

/// Why an interface is not read, or not to the end.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// There is none of that name.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// CAP_NET_RAW is missing.
    #[error(
        "reading the packets of {0} needs CAP_NET_RAW: run with sudo, or add cap_net_raw+ep with \
         setcap"
    )]
    Denied(String),
    /// Neither Ethernet nor IP.
    #[error(
        "{interface} is of hardware type {hardware}, which cannot be read: name an Ethernet or IP interface"
    )]
    Hardware {
        /// Name.
        interface: String,
        /// ARPHRD number.
        hardware: u16,
    },
    /// The kernel refused a step.
    #[error("cannot read the packets of {interface}: {step}: {cause}")]
    Kernel {
        /// Name.
        interface: String,
        /// What was asked of the kernel.
        step: &'static str,
        /// What it said.
        cause: io::Error,
    },
}

/// What there is to say of an interface that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LiveOf {
    /// Its name.
    pub interface: String,
    /// Frames that the kernel had no room for: they are missing in the truth.
    pub lost_packets: u64,
    /// Frames longer than the interface's MTU: several that the kernel or the card had merged
    /// (GRO, LRO) before they could be counted.
    pub merged_packets: u64,
    /// Why it ended early, if the interface did.
    pub error: Option<String>,
}

/// An interface that is being read.
#[derive(Debug)]
pub(super) struct Live {
    interface: Interface,
    socket: OwnedFd,
    ring: Ring,
    link: Link,
    /// Longest frame that can come from the wire at once.
    longest: u32,
    duration: Option<Duration>,
}

impl Live {
    /// Opens the socket; from here on packets are kept.
    pub(super) fn open(name: &str, duration: Option<Duration>) -> Result<Self, LiveError> {
        let interface = Interface::find(name)?;
        let failed = |step| {
            move |cause: io::Error| match cause.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => LiveError::Denied(name.to_owned()),
                _ => LiveError::Kernel {
                    interface: name.to_owned(),
                    step,
                    cause,
                },
            }
        };
        // Protocol 0: nothing comes before the socket is bound to its interface.
        // SAFETY: no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let fd = checked(fd).map_err(failed("a packet socket"))?;
        // SAFETY: the descriptor is new and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let version = libc::tpacket_versions::TPACKET_V3 as c_int;
        set(&socket, libc::SOL_PACKET, libc::PACKET_VERSION, &version)
            .map_err(failed("version 3 of the ring"))?;
        keep(&socket, SNAPLEN).map_err(failed("a length to keep"))?;
        // Since Linux 4.20; `take` looks at the direction too.
        let one: c_int = 1;
        let _ = set(
            &socket,
            libc::SOL_PACKET,
            libc::PACKET_IGNORE_OUTGOING,
            &one,
        );
        let ring = Ring::new(&socket).map_err(failed("the ring's memory"))?;
        let hardware = bind(&socket, interface.index).map_err(failed("to be bound to it"))?;
        let link = match hardware {
            ARPHRD_ETHER | ARPHRD_LOOPBACK => Link::Ethernet,
            other if WITHOUT_HEADER.contains(&other) => Link::Raw,
            hardware => {
                return Err(LiveError::Hardware {
                    interface: name.to_owned(),
                    hardware,
                });
            }
        };
        let mtu = mtu(&socket, name).unwrap_or(u32::MAX);
        Ok(Self {
            interface,
            socket,
            ring,
            link,
            // With Ethernet's header and four tags.
            longest: mtu.saturating_add(14 + 4 * TAG as u32),
            duration,
        })
    }

    /// Reads until the time is over or `stop` is set, and all that came until then.
    pub(super) fn read(mut self, to: &mut impl Take, stop: &AtomicBool) -> LiveOf {
        let mut told = LiveOf {
            interface: self.interface.name.clone(),
            ..LiveOf::default()
        };
        tracing::info!("reading the packets of {}", told.interface);
        let start = Instant::now();
        let over = |now: Instant| self.duration.is_some_and(|all| now - start >= all);
        let mut counted = start;
        while !stop.load(Ordering::Relaxed) && !over(Instant::now()) {
            if let Err(error) = wait(&self.socket) {
                tracing::error!("{}: {error}", told.interface);
                told.error = Some(error.to_string());
                break;
            }
            drain(
                &mut self.ring,
                self.link,
                &self.interface,
                self.longest,
                to,
                &mut told,
            );
            // The counters have 32 bits, and are cleared when they are read.
            if counted.elapsed() >= Duration::from_secs(1) {
                told.lost_packets += lost(&self.socket);
                counted = Instant::now();
            }
        }
        // From here on the kernel keeps nothing more, so that what is in the ring is all of it.
        let _ = keep(&self.socket, 0);
        let end = Instant::now();
        while end.elapsed() < Duration::from_millis(4 * u64::from(RETIRE_MS)) {
            let _ = wait(&self.socket);
            drain(
                &mut self.ring,
                self.link,
                &self.interface,
                self.longest,
                to,
                &mut told,
            );
        }
        told.lost_packets += lost(&self.socket);
        told.warn();
        told
    }
}

impl LiveOf {
    fn warn(&self) {
        let name = &self.interface;
        if self.lost_packets > 0 {
            tracing::warn!(
                "{name}: the kernel had no room for {} packets, so that the truth lacks them: give \
                 fewer --runs, --rates or --methods",
                self.lost_packets
            );
        }
        if self.merged_packets > 0 {
            tracing::warn!(
                "{name}: {} frames are longer than the MTU, several merged into one: turn that off \
                 with ethtool -K {name} gro off lro off",
                self.merged_packets
            );
        }
    }
}

/// Hands over every frame of all blocks that the kernel has given up.
fn drain(
    ring: &mut Ring,
    link: Link,
    interface: &Interface,
    longest: u32,
    to: &mut impl Take,
    told: &mut LiveOf,
) {
    ring.drain(|frame| {
        let mut tagged = [0; SNAPLEN as usize + TAG];
        let (octets, tag) = match frame.tag {
            Some(tag) if link == Link::Ethernet => match put_back(frame.octets, tag, &mut tagged) {
                Some(octets) => (octets, TAG as u32),
                None => (frame.octets, 0),
            },
            _ => (frame.octets, 0),
        };
        told.merged_packets += u64::from(frame.wire_len > longest);
        to.take(&Captured {
            octets,
            wire_len: frame.wire_len + tag,
            at_ns: Some(frame.at_ns),
            link: Ok(link),
            ifindex: interface.index,
        });
    });
}

/// Puts the tag that the kernel took out where it was.
fn put_back<'a>(
    octets: &[u8],
    [kind, control]: [u16; 2],
    to: &'a mut [u8; SNAPLEN as usize + TAG],
) -> Option<&'a [u8]> {
    let (addresses, rest) = octets.split_at_checked(ethernet::TYPE)?;
    let all = octets.len() + TAG;
    let to = to.get_mut(..all)?;
    to[..ethernet::TYPE].copy_from_slice(addresses);
    to[ethernet::TYPE..][..2].copy_from_slice(&kind.to_be_bytes());
    to[ethernet::TYPE + 2..][..2].copy_from_slice(&control.to_be_bytes());
    to[ethernet::TYPE + TAG..].copy_from_slice(rest);
    Some(to)
}

/// A frame in the ring.
struct InRing<'a> {
    octets: &'a [u8],
    wire_len: u32,
    at_ns: u64,
    /// EtherType and control information of a tag that is not in `octets`.
    tag: Option<[u16; 2]>,
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
            tp_retire_blk_tov: RETIRE_MS,
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

fn checked(result: c_int) -> io::Result<c_int> {
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

fn mtu(socket: &OwnedFd, name: &str) -> Option<u32> {
    // SAFETY: a request of zeroes is a valid one.
    let mut request: libc::ifreq = unsafe { mem::zeroed() };
    // The last octet stays 0.
    for (to, from) in request.ifr_name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(name.bytes())
    {
        *to = from as libc::c_char;
    }
    // SAFETY: the request outlives the call.
    let result =
        unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU as _, &raw mut request) };
    checked(result).ok()?;
    // SAFETY: SIOCGIFMTU has filled in this field.
    u32::try_from(unsafe { request.ifr_ifru.ifru_mtu }).ok()
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
    fn a_tag_is_put_back_behind_the_addresses() {
        let frame: Vec<u8> = (0..60).collect();
        let mut to = [0; SNAPLEN as usize + TAG];
        let tagged = put_back(&frame, [0x88a8, 0x2005], &mut to).expect("room");
        assert_eq!(tagged[..12], frame[..12]);
        assert_eq!(tagged[12..16], [0x88, 0xa8, 0x20, 0x05]);
        assert_eq!(tagged[16..], frame[12..]);
        assert!(put_back(&frame[..11], [0x8100, 5], &mut to).is_none());
        let longest = [7; SNAPLEN as usize];
        assert_eq!(
            put_back(&longest, [0x8100, 5], &mut to).map(<[u8]>::len),
            Some(516)
        );
    }

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
