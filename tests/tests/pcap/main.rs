//! `flowprobe pcap`: captures of every kind that it reads, and what it says of others.

mod formats;
mod real;
mod refused;
mod table;
mod wide;

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
};

use flowprobe_tests::{
    capture_file::{Order, Record, pcap as classic},
    flow::Truth,
    judges::Directory,
    offline::{Offline, pcap},
    packets::{Packet, truth},
};

type Result<T = ()> = anyhow::Result<T>;

/// 2023-11-14 22:13:20 UTC, in nanoseconds since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;
/// The same in milliseconds.
const START_MS: u64 = START_NS / 1_000_000;
const SECOND: u64 = 1_000_000_000;

/// Captures in files, gone with the guard.
struct Files {
    directory: Directory,
    paths: Vec<PathBuf>,
}

impl Files {
    fn new(name: &str, captures: &[&[u8]]) -> Result<Self> {
        static DIRECTORIES: AtomicU32 = AtomicU32::new(0);
        let number = DIRECTORIES.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowprobe-{name}-{}-{number}", std::process::id());
        let directory = Directory::new(&name)?;
        let mut paths = Vec::new();
        for (number, capture) in captures.iter().enumerate() {
            let path = directory.path().join(format!("{number}.cap"));
            fs::write(&path, capture)?;
            paths.push(path);
        }
        Ok(Self { directory, paths })
    }
}

/// It ended in order, and its flows are these.
#[track_caller]
fn assert_flows(run: &Offline, truth: &Truth) {
    assert_eq!(run.code, 0, "{}", run.log);
    let ledger = run.ledger();
    truth.assert_equals(&Truth::of(&run.flows));
    assert_eq!(ledger.accounted.packets, truth.total().packets);
}

/// Meters packets, each at its number of nanoseconds after the start, and compares their flows.
fn meter(packets: &[(u64, Packet)], arguments: &[&str]) -> Result<Offline> {
    let record = |(at, packet): &(u64, Packet)| Record::whole(START_NS + at, &packet.frame);
    let records: Vec<_> = packets.iter().map(record).collect();
    let file = classic(Order::Little, true, 1, &records);
    let run = pcap(&[&["-"], arguments].concat(), &file)?;
    let packets: Vec<_> = packets.iter().map(|(_, packet)| packet.clone()).collect();
    assert_flows(&run, &truth(&packets, 1));
    Ok(run)
}

/// Ethernet header without tags.
const ETHERNET: usize = 14;

/// Those of these packets that this link layer can carry, and their frames in it.
fn carried(packets: Vec<Packet>, link: u32, order: Order) -> Vec<(Packet, Vec<u8>)> {
    let family = |ethertype: u16, six: u32| match ethertype {
        0x0800 => Some(2_u32),
        0x86dd => Some(six),
        _ => None,
    };
    let frame = |packet: &Packet| {
        let ethertype = u16::from_be_bytes([packet.frame[12], packet.frame[13]]);
        let (head, rest) = packet.frame.split_at(ETHERNET);
        let sender = [&head[6..12], &[0, 0]].concat();
        let header = match link {
            1 => return Some(packet.frame.clone()),
            113 => [&[0, 0, 0, 1, 0, 6][..], &sender, &head[12..]].concat(),
            276 => [&head[12..], &[0, 0, 0, 0, 0, 3, 0, 1, 0, 6], &sender].concat(),
            0 => match order {
                Order::Little => family(ethertype, 30)?.to_le_bytes().to_vec(),
                Order::Big => family(ethertype, 24)?.to_be_bytes().to_vec(),
            },
            108 => family(ethertype, 28)?.to_be_bytes().to_vec(),
            9 => {
                let protocol: u16 = match ethertype {
                    0x0800 => 0x0021,
                    0x86dd => 0x0057,
                    0x8847 => 0x0281,
                    _ => return None,
                };
                [&[0xff, 3][..], &protocol.to_be_bytes()].concat()
            }
            104 => [&[0x0f, 0][..], &head[12..]].concat(),
            // The numbers of raw IP name the family too.
            228 if ethertype != 0x0800 => return None,
            229 if ethertype != 0x86dd => return None,
            _ => family(ethertype, 0).map(|_| Vec::new())?,
        };
        Some([&header, rest].concat())
    };
    let framed = |packet: Packet| frame(&packet).map(|frame| (packet, frame));
    packets.into_iter().filter_map(framed).collect()
}
