//! Packets of an interface, from a packet socket whose memory is shared with the kernel.
//!
//! Only what the interface receives is read, as XDP sees it. The first octets of each frame are
//! enough, with its true length. What the kernel had no room for is counted: a truth with such a
//! loss is none, and the report says so.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use flowprobe_ebpf::wire::ethernet;
use serde::Serialize;

use crate::{
    attach::interface::{Interface, LookupError},
    packet_ring::{OpenError, PacketRing, RETIRE, checked},
    pcap::{Take, capture::Captured, link::Link},
};

/// Octets that are kept of a frame: all tags, labels and tunnel headers that are parsed, the
/// longest IPv4 headers twice and what is hashed take 340; the rest is for IPv6 extension headers.
const SNAPLEN: u32 = 512;
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
    ring: PacketRing,
    link: Link,
    /// Longest frame that can come from the wire at once.
    longest: u32,
    duration: Option<Duration>,
}

impl Live {
    /// Opens the socket; from here on packets are kept.
    pub(super) fn open(name: &str, duration: Option<Duration>) -> Result<Self, LiveError> {
        let interface = Interface::find(name)?;
        let failed = |OpenError { step, cause }| match cause.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => LiveError::Denied(name.to_owned()),
            _ => LiveError::Kernel {
                interface: name.to_owned(),
                step,
                cause,
            },
        };
        let (ring, hardware) = PacketRing::open(interface.index, SNAPLEN).map_err(failed)?;
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
        let mtu = mtu(ring.socket(), name).unwrap_or(u32::MAX);
        Ok(Self {
            interface,
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
            if let Err(error) = self.ring.wait() {
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
                told.lost_packets += self.ring.lost();
                counted = Instant::now();
            }
        }
        // From here on the kernel keeps nothing more, so that what is in the ring is all of it.
        let _ = self.ring.keep_nothing();
        let end = Instant::now();
        while end.elapsed() < 4 * RETIRE {
            let _ = self.ring.wait();
            drain(
                &mut self.ring,
                self.link,
                &self.interface,
                self.longest,
                to,
                &mut told,
            );
        }
        told.lost_packets += self.ring.lost();
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
    ring: &mut PacketRing,
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
}
