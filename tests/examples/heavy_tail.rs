//! Writes a capture for `flowprobe experiment`, the same one for everybody: flows with heavy-tailed
//! sizes, a few large prefixes and ports, TCP with SYN and UDP, over a minute.
//!
//! cargo run -p flowprobe-tests --example heavy_tail -- target/heavy_tail.pcap [FLOWS]

use std::{env, fs, net::Ipv4Addr};

use anyhow::Context as _;
use flowprobe_tests::{
    capture_file::{Order, Record, pcap},
    packets::Ip,
};

/// 2023-11-14 22:13:20 UTC, in nanoseconds since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;
const LENGTH_NS: f64 = 60e9;
const FLOWS: u32 = 10_000;
/// Longest flow, in packets.
const LONGEST: f64 = 10_000.0;
/// Of the Pareto distribution of sizes: below 2, so that the variance has no limit but `LONGEST`.
const SHAPE: f64 = 1.1;

/// Numbers that are the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    /// Above 0 and at most 1.
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ word >> 31) >> 11) as f64 / (1_u64 << 53) as f64 + f64::EPSILON
    }

    /// Below `below`, the smaller the likelier.
    fn skewed(&mut self, below: u32) -> u32 {
        ((f64::from(below).powf(self.next()) - 1.0) as u32).min(below - 1)
    }
}

fn main() -> anyhow::Result<()> {
    let mut arguments = env::args().skip(1);
    let path = arguments.next().context("name the file to write")?;
    let flows = match arguments.next() {
        Some(flows) => flows.parse().context("flows are a number")?,
        None => FLOWS,
    };
    let mut random = Random(42);
    let mut records = Vec::new();
    for flow in 0..flows {
        let packets = random.next().powf(-1.0 / SHAPE).min(LONGEST) as u32;
        let client = Ipv4Addr::from(0x0a00_0000 | random.skewed(256) << 8 | (flow % 254 + 1));
        let server = Ipv4Addr::from(0xc633_0000 | random.skewed(200) << 8 | 1);
        let ip = Ip::between(client.into(), server.into());
        let port = 1024 + (flow % 60_000) as u16;
        let service = [443, 80, 53, 22, 123, 8080, 993, 5060][random.skewed(8) as usize];
        let is_tcp = service != 53 && service != 123;
        let (start, length) = (random.next(), random.next());
        for number in 0..packets {
            // As senders do, so that no two packets of a flow are equal.
            let ip = ip.clone().identification(number as u16);
            // Full packets, small ones, and some between.
            let payload = match random.next() {
                part if part < 0.45 => 1440,
                part if part < 0.8 => 20,
                part => (part * 1000.0) as usize,
            };
            let packet = match (is_tcp, number) {
                (true, 0) => ip.tcp(port, service, 0x02, 0),
                (true, _) => ip.tcp(port, service, 0x10, payload),
                (false, _) => ip.udp(port, service, payload),
            };
            let part = match number {
                0 => 0.0,
                _ => random.next() * length * (1.0 - start),
            };
            let at = START_NS + ((start + part) * LENGTH_NS) as u64;
            records.push(Record::cut(at, &packet.frame, 96));
        }
    }
    records.sort_by_key(|record| record.at);
    fs::write(&path, pcap(Order::Little, true, 1, &records)).context(path)?;
    Ok(())
}
