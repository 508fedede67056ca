//! What the standards oblige an exporter to, of the binary and on the wire. `docs/conformance.md`
//! has the whole list; what is proved elsewhere is not here again.

mod document;
mod files;
mod live;
mod message;
mod options;
mod sampling;
mod sessions;
mod templates;

use std::collections::BTreeMap;

use anyhow::ensure;
use flowprobe_tests::{
    capture_file::{Order, Record as Captured, pcap as classic},
    collector::{Collector, Received},
    flow::{Flow, Truth},
    ipfix::{Decoder, Message, Record},
    mix::mix,
    netns::Netns,
    offline::{Offline, pcap_in},
    packets::{Ip, Packet, truth},
    stream::{End, Session, TcpCollector},
};

type Result<T = ()> = anyhow::Result<T>;

/// 2023-11-14 22:13:20 UTC, in nanoseconds since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;
const SECOND: u64 = 1_000_000_000;
const ADDRESS: &str = "127.0.0.1:4739";

/// What a collector got of one run.
struct Export {
    transport: &'static str,
    messages: Vec<Message>,
    octets: Vec<Vec<u8>>,
    run: Offline,
}

impl Export {
    fn records(&self) -> impl Iterator<Item = &Record> {
        self.messages.iter().flat_map(|message| &message.records)
    }

    fn flows(&self) -> Result<Vec<Flow>> {
        flows(&self.messages)
    }
}

/// The flow records of messages.
fn flows(messages: &[Message]) -> Result<Vec<Flow>> {
    let records = messages.iter().flat_map(|message| &message.records);
    let flows = records.filter(|record| !record.is_options());
    flows.map(Flow::from_ipfix).collect()
}

/// The mix, and flows enough for many messages, all at once.
fn many() -> Vec<(u64, Packet)> {
    let flows = (1..=600).map(|port| Ip::new("10.0.0.1", "10.0.0.2").udp(port, 53, 40));
    mix().into_iter().chain(flows).map(|p| (0, p)).collect()
}

/// A capture of packets, each at its number of nanoseconds after the start.
fn capture(packets: &[(u64, Packet)]) -> Vec<u8> {
    let record = |(at, packet): &(u64, Packet)| Captured::whole(START_NS + at, &packet.frame);
    classic(
        Order::Little,
        true,
        1,
        &packets.iter().map(record).collect::<Vec<_>>(),
    )
}

fn meter(
    namespace: &Netns,
    url: &str,
    packets: &[(u64, Packet)],
    options: &[&str],
) -> Result<Offline> {
    let arguments = [&["-", "--collector", url], options].concat();
    let run = pcap_in(namespace, &arguments, &capture(packets))?;
    assert_eq!(run.code, 0, "{}", run.log);
    let _balanced = run.ledger();
    Ok(run)
}

/// The messages of one session, read strictly.
fn decoded(octets: &[Vec<u8>]) -> Result<Vec<Message>> {
    let mut decoder = Decoder::default();
    let messages = octets.iter().map(|message| Ok(decoder.decode(message)?));
    messages.collect()
}

fn over_udp(packets: &[(u64, Packet)], options: &[&str]) -> Result<Export> {
    let namespace = Netns::new("udp")?;
    let collector = Collector::start(&namespace, ADDRESS, true)?;
    let run = meter(&namespace, &collector.url(), packets, options)?;
    let octets = datagrams(&collector.stop());
    Ok(Export {
        transport: "udp",
        messages: decoded(&octets)?,
        octets,
        run,
    })
}

fn over_tcp(packets: &[(u64, Packet)], options: &[&str]) -> Result<Export> {
    let namespace = Netns::new("tcp")?;
    let collector = TcpCollector::start(&namespace, ADDRESS)?;
    let run = meter(&namespace, &collector.url(), packets, options)?;
    let mut sessions = collector.stop();
    assert_eq!(sessions.len(), 1);
    let session = sessions.remove(0);
    assert_eq!(session.end, End::InOrder);
    Ok(Export {
        transport: "tcp",
        messages: well_formed(&session)?,
        octets: session.parts().into_iter().map(<[u8]>::to_vec).collect(),
        run,
    })
}

/// The same over UDP and over TCP.
fn over_each(packets: &[(u64, Packet)], options: &[&str]) -> Result<[Export; 2]> {
    let exports = [over_udp(packets, options)?, over_tcp(packets, options)?];
    let packets: Vec<_> = packets.iter().map(|(_, packet)| packet.clone()).collect();
    for export in &exports {
        truth(&packets, 1).assert_equals(&Truth::of(&export.flows()?));
    }
    Ok(exports)
}

/// Payloads in the order in which they came.
#[track_caller]
fn datagrams(received: &Received) -> Vec<Vec<u8>> {
    received.assert_well_formed();
    let datagrams = received.datagrams.iter();
    datagrams.map(|datagram| datagram.octets.clone()).collect()
}

/// The messages of a session: there are some, and all are well-formed.
fn well_formed(session: &Session) -> Result<Vec<Message>> {
    let messages = session.messages()?;
    ensure!(!messages.is_empty(), "no message came");
    Ok(messages)
}

/// RFC 7011 §3.1: in each domain a message has the number of data records sent before it in this
/// session, from 0. Returns how many came in each domain.
#[track_caller]
fn assert_sequences(messages: &[Message]) -> BTreeMap<u32, u32> {
    let mut sent = BTreeMap::new();
    for message in messages {
        let before: &mut u32 = sent.entry(message.domain).or_default();
        assert_eq!(message.sequence, *before, "domain {}", message.domain);
        *before += message.records.len() as u32;
    }
    sent
}

/// An element that has to be there.
#[track_caller]
fn number(record: &Record, element: u16) -> u64 {
    let number = record.number(element);
    number.unwrap_or_else(|| panic!("no element {element} in {record:?}"))
}
