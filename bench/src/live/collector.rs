//! A collector of NetFlow v5 that adds up what the records say, and nothing else.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use flowprobe_tests::{netns::Netns, socket::set};

/// Room for a million flows while the reader does not get the CPU.
const BUFFER: libc::c_int = 256 << 20;
/// Nothing for so long is the end.
const QUIET: Duration = Duration::from_millis(700);

/// Octets of NetFlow v5: the header, a record, and where the packets are in a record.
const HEADER: usize = 24;
const RECORD: usize = 48;
const PACKETS_AT: usize = 16;

/// Reads on a thread of its own.
pub(super) struct Collector {
    port: u16,
    ending: Arc<AtomicBool>,
    packets: Arc<AtomicU64>,
    thread: JoinHandle<Result<(u64, u64)>>,
}

impl Collector {
    /// Listens at 127.0.0.1 in a namespace.
    pub(super) fn start(namespace: &Netns) -> Result<Self> {
        let socket = namespace.udp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        set(&socket, libc::SO_RCVBUFFORCE, &BUFFER).context("SO_RCVBUFFORCE")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let port = socket.local_addr()?.port();
        let ending = Arc::new(AtomicBool::new(false));
        let packets = Arc::new(AtomicU64::new(0));
        let (told, sum) = (Arc::clone(&ending), Arc::clone(&packets));
        let thread = thread::spawn(move || read(&socket, &told, &sum));
        Ok(Self {
            port,
            ending,
            packets,
            thread,
        })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// Packets of all records so far.
    pub(super) fn packets(&self) -> u64 {
        self.packets.load(Ordering::Relaxed)
    }

    /// Reads what is still there; returns packets and records.
    pub(super) fn stop(self) -> Result<(u64, u64)> {
        self.ending.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

fn read(socket: &UdpSocket, ending: &AtomicBool, told: &AtomicU64) -> Result<(u64, u64)> {
    let (mut packets, mut records) = (0, 0);
    let mut datagram = [0; 65536];
    let mut last = Instant::now();
    loop {
        match socket.recv(&mut datagram) {
            Ok(octets) => {
                let sum = sum(&datagram[..octets]).context("no NetFlow v5")?;
                packets += sum.0;
                told.store(packets, Ordering::Relaxed);
                records += sum.1;
                last = Instant::now();
            }
            Err(_) if ending.load(Ordering::Relaxed) && last.elapsed() > QUIET => {
                return Ok((packets, records));
            }
            Err(_) => {}
        }
    }
}

/// Packets and records of a message; none if it is no such message.
fn sum(message: &[u8]) -> Option<(u64, u64)> {
    if message.get(..2)? != [0, 5] {
        return None;
    }
    let records = message.get(HEADER..)?.chunks_exact(RECORD);
    let count = u16::from_be_bytes([message[2], message[3]]);
    if records.len() != usize::from(count) {
        return None;
    }
    let of = |record: &[u8]| record[PACKETS_AT..].first_chunk().copied();
    let packets = records.filter_map(of).map(u32::from_be_bytes);
    Some((packets.map(u64::from).sum(), count.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_all_records_are_added() {
        let mut message = vec![0; HEADER + 2 * RECORD];
        message[..4].copy_from_slice(&[0, 5, 0, 2]);
        message[HEADER + PACKETS_AT + 3] = 7;
        message[HEADER + RECORD + PACKETS_AT + 2] = 1;
        assert_eq!(sum(&message), Some((263, 2)));
        message[3] = 1;
        assert_eq!(sum(&message), None);
        assert_eq!(sum(&[0, 9]), None);
    }
}
