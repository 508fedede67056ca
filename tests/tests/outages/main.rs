//! What happens to collectors, to the ways there and to disks, and what becomes of the flows: what
//! does not arrive is counted to the record.

mod disk;
mod network;
mod reset;
mod restart;
mod spool;

use std::collections::BTreeMap;

use flowprobe_tests::{
    collector::Received,
    flow::{Counts, Key},
    packets::{Ip, Packet, truth},
    sender::Sender,
};

type Result<T = ()> = anyhow::Result<T>;

/// Flows in a burst.
const BURST: usize = 200;
/// Flows are exported soon after their last packet.
const SOON: [&str; 4] = ["--idle-timeout", "0.05", "--sweep-interval", "0.02"];
/// Templates and options once, so that a gap is of flow records alone.
const ONCE: [&str; 2] = ["--template-refresh", "86400"];

/// A burst of flows of one packet each, that no other burst has.
fn burst(number: u16) -> Vec<Packet> {
    let ip = Ip::new("192.0.2.1", "198.51.100.2");
    (0..BURST as u16)
        .map(|port| ip.udp(1000 + number, port, 64))
        .collect()
}

fn bursts(count: u16) -> Vec<Packet> {
    (0..count).flat_map(burst).collect()
}

fn send(sender: &Sender, packets: &[Packet]) -> Result {
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    sender.send(&frames)
}

/// What came was sent, record by record.
#[track_caller]
fn assert_right(received: &Received, packets: &[Packet]) {
    let sent = truth(packets, 1);
    for flow in &received.flows {
        assert_eq!(sent.0.get(&flow.key), Some(&flow.counts), "{flow:?}");
    }
}

/// All of it came once, and well-formed.
#[track_caller]
fn assert_once(received: &Received, packets: &[Packet]) {
    received.assert_well_formed();
    assert_eq!(received.missing(), 0);
    truth(packets, 1).assert_equals(&received.truth());
}

/// Counts by flow, of each once.
fn flows_of(received: &Received) -> BTreeMap<Key, Counts> {
    let flows = received.flows.iter();
    flows.map(|flow| (flow.key, flow.counts)).collect()
}
