//! What an interface receives, seen by a packet socket: for what is between two that must not notice.

use std::{
    io, mem,
    os::fd::{AsRawFd as _, OwnedFd},
    ptr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    netns::Netns,
    socket::{packet, set},
};

/// Octets that the socket may hold.
const BUFFER: i32 = 64 << 20;
/// How long something may take that does come.
const PATIENCE: Duration = Duration::from_secs(120);
/// Between two looks at what came.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Octets of an Ethernet header, and of those of IPv4 and UDP as far as they are read here.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const UDP: usize = 8;

/// A UDP datagram over IPv4, from its IP header on.
#[derive(Clone, Debug)]
pub struct Udp(Vec<u8>);

impl Udp {
    /// That of a frame, if it has a whole one.
    fn of(frame: &[u8]) -> Option<Self> {
        const IS_FRAGMENT: u16 = 0x3fff;
        if frame.get(12..ETHERNET)? != [0x08, 0x00] {
            return None;
        }
        let packet = frame.get(ETHERNET..)?;
        let word = |at: usize| Some(u16::from_be_bytes(*packet.get(at..)?.first_chunk()?));
        let (length, fragment) = (usize::from(word(2)?), word(6)? & IS_FRAGMENT);
        let has_options = *packet.first()? != 0x45;
        if has_options || fragment != 0 || *packet.get(9)? != 17 || length < IPV4 + UDP {
            return None;
        }
        Some(Self(packet.get(..length)?.to_vec()))
    }

    fn word(&self, at: usize) -> u16 {
        u16::from_be_bytes([self.0[at], self.0[at + 1]])
    }

    /// Where it goes.
    #[must_use]
    pub fn destination_port(&self) -> u16 {
        self.word(IPV4 + 2)
    }

    /// What it carries.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.0[IPV4 + UDP..]
    }

    /// The field; 0 is for none (RFC 768).
    #[must_use]
    pub fn checksum(&self) -> u16 {
        self.word(IPV4 + 6)
    }

    /// Whether the sum over it and the pseudo header is what it has to be (RFC 768, RFC 1071).
    #[must_use]
    pub fn adds_up(&self) -> bool {
        let mut summed = self.0[12..].to_vec(); // addresses, and all of UDP
        summed.extend([0, 17]);
        summed.extend(((self.0.len() - IPV4) as u16).to_be_bytes());
        if summed.len() % 2 == 1 {
            // The padding belongs to the end of the payload.
            summed.insert(self.0.len() - 12, 0);
        }
        let words = summed
            .chunks(2)
            .map(|two| u32::from(two[0]) << 8 | u32::from(two[1]));
        let mut sum: u32 = words.sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    }
}

/// A packet socket that is read all the time, until its guard goes.
#[derive(Debug)]
pub struct Sniffer {
    came: Arc<Mutex<Vec<Udp>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Sniffer {
    /// Listens at an interface of a namespace.
    ///
    /// # Errors
    /// Without CAP_NET_RAW, or where there is no such interface.
    pub fn start(namespace: &Netns, interface: &str) -> Result<Self> {
        let socket = namespace.run(|| open(interface))?;
        let socket = socket.with_context(|| format!("a packet socket on {interface}"))?;
        let (came, stop) = (Arc::<Mutex<Vec<Udp>>>::default(), Arc::default());
        let of_thread = (Arc::clone(&came), Arc::clone(&stop));
        let thread = thread::spawn(move || listen(&socket, &of_thread.0, &of_thread.1));
        Ok(Self {
            came,
            stop,
            thread: Some(thread),
        })
    }

    /// The datagrams to a port that came so far, in their order.
    #[must_use]
    pub fn datagrams(&self, port: u16) -> Vec<Udp> {
        let came = self.came.lock().unwrap_or_else(PoisonError::into_inner);
        let to_port = came.iter().filter(|udp| udp.destination_port() == port);
        to_port.cloned().collect()
    }

    /// Waits until the datagrams to a port satisfy `enough`.
    ///
    /// # Errors
    /// Where they do not within two minutes.
    pub fn wait_until(&self, what: &str, port: u16, enough: impl Fn(&[Udp]) -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let datagrams = self.datagrams(port);
            if enough(&datagrams) {
                return Ok(());
            }
            let count = datagrams.len();
            ensure!(Instant::now() < deadline, "{what}: {count} datagrams came");
            thread::sleep(LOOK_EVERY);
        }
    }
}

impl Drop for Sniffer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn listen(socket: &OwnedFd, came: &Mutex<Vec<Udp>>, stop: &AtomicBool) {
    let mut buffer = vec![0; 1 << 17];
    while !stop.load(Ordering::Relaxed) {
        // SAFETY: an address of zeroes is a valid one.
        let mut from: libc::sockaddr_ll = unsafe { mem::zeroed() };
        let mut size = size_of_val(&from) as u32;
        // SAFETY: the buffer and the address are alive, and as long as is said.
        let length = unsafe {
            libc::recvfrom(
                socket.as_raw_fd(),
                buffer.as_mut_ptr().cast(),
                buffer.len(),
                0,
                ptr::from_mut(&mut from).cast(),
                &raw mut size,
            )
        };
        // It comes back empty from time to time, see `open`. What is on its way out of lo comes
        // in as well.
        let Some(frame) = usize::try_from(length).ok().map(|length| &buffer[..length]) else {
            continue;
        };
        if from.sll_pkttype != libc::PACKET_OUTGOING
            && let Some(udp) = Udp::of(frame)
        {
            came.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(udp);
        }
    }
}

fn open(interface: &str) -> io::Result<OwnedFd> {
    let patience = libc::timeval {
        tv_sec: 0,
        tv_usec: 20_000,
    };
    let socket = packet(interface, libc::ETH_P_ALL)?;
    set(&socket, libc::SO_RCVTIMEO, &patience)?;
    set(&socket, libc::SO_RCVBUFFORCE, &BUFFER)?;
    Ok(socket)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From 10.0.0.1:1 to 10.0.0.2:2, with the octet 5.
    fn frame(checksum: [u8; 2]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00]);
        frame.extend([0x45, 0, 0, 29, 0, 0, 0x40, 0, 64, 17, 0, 0]);
        frame.extend([10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([0, 1, 0, 2, 0, 9, checksum[0], checksum[1], 5]);
        frame
    }

    #[test]
    fn a_checksum_is_right_or_not() {
        // 0a00 + 0001 + 0a00 + 0002 + 0011 + 0009 (length), 0001 + 0002 + 0009 + 0500, inverted.
        let udp = Udp::of(&frame([0xe6, 0xd6])).expect("a datagram");
        assert_eq!((udp.destination_port(), udp.payload()), (2, &[5][..]));
        assert!(udp.adds_up(), "{udp:?}");
        assert!(!Udp::of(&frame([0xe6, 0xd7])).expect("one").adds_up());
        assert_eq!(Udp::of(&frame([0, 0])).expect("one").checksum(), 0);
    }
}
