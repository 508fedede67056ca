//! rustflow as a judge of all three formats: keys, counters, flags, times and the sampling rate.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use flowprobe_tests::{
    capture_file::{Order, Record as Captured, pcap},
    netns::Netns,
    offline::pcap_in,
    packets::{Ip, Packet, flag},
    probe::Probe,
    sender::Sender,
    topology::{Pair, Wire},
};
use rustflow_core::{
    common::{
        common_flow::CommonFlow,
        convert::{
            ipfix::{IpfixContext, extract_ipfix_sampling_rate},
            netflow_v5::NetFlowV5Context,
            netflow_v9::{NetFlowV9Context, extract_v9_sampling_rate},
        },
        ie_registry::IERegistry,
    },
    ipfix::parser::{IpfixParser, Record as IpfixRecord},
    netflow_v5::parser::NetFlowV5Parser,
    netflow_v9::parser::{NetflowV9Parser, Record as V9Record},
};

type Result<T = ()> = anyhow::Result<T>;

/// 2026-01-01 00:00:00 UTC, and between two packets.
const START_MS: u64 = 1_767_225_600_000;
const STEP_MS: u64 = 7;
/// Octets of an Ethernet header.
const ETHERNET: usize = 14;
const PORT: u16 = 2055;

/// Addresses, ports (type·256 + code of ICMP), protocol.
type Key = (IpAddr, IpAddr, u16, u16, u8);

/// What is known of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    packets: u64,
    octets: u64,
    flags: u16,
    start_ms: u64,
    end_ms: u64,
}

impl Said {
    /// The same with another packet, or another record of the flow.
    fn and(self, other: Self) -> Self {
        Self {
            packets: self.packets + other.packets,
            octets: self.octets + other.octets,
            flags: self.flags | other.flags,
            start_ms: self.start_ms.min(other.start_ms),
            end_ms: self.end_ms.max(other.end_ms),
        }
    }
}

type Flows = BTreeMap<Key, Said>;

fn add(flows: &mut Flows, key: Key, said: Said) {
    let known = flows
        .entry(key)
        .and_modify(|known| *known = known.and(said));
    known.or_insert(said);
}

/// What rustflow makes of messages.
#[derive(Default)]
struct Read {
    flows: Flows,
    /// Each rate that it was told.
    rates: Vec<u32>,
}

impl Read {
    fn flow(&mut self, flow: &CommonFlow) -> Result {
        let ports = match (flow.icmp_type, flow.icmp_code, flow.proto) {
            (Some(kind), Some(code), Some(1 | 58)) => (0, u16::from_be_bytes([kind, code])),
            _ => (flow.src_port.unwrap_or(0), flow.dst_port.unwrap_or(0)),
        };
        let key = (
            flow.src_addr.context("no source")?,
            flow.dst_addr.context("no destination")?,
            ports.0,
            ports.1,
            flow.proto.context("no protocol")?,
        );
        let ms = |ns: Option<i64>| anyhow::Ok(u64::try_from(ns.context("no time")?)? / 1_000_000);
        let said = Said {
            packets: flow.packets,
            octets: flow.bytes,
            flags: flow.tcp_flags.unwrap_or(0),
            start_ms: ms(flow.time_flow_start_ns)?,
            end_ms: ms(flow.time_flow_end_ns)?,
        };
        add(&mut self.flows, key, said);
        Ok(())
    }
}

fn read(format: &str, datagrams: &[Vec<u8>]) -> Result<Read> {
    let hour = Duration::from_secs(3600);
    let registry = IERegistry::new_with_iana_elements;
    let mut ipfix = IpfixParser::new(registry(), hour);
    let mut v9 = NetflowV9Parser::new(registry(), hour);
    let mut read = Read::default();
    for datagram in datagrams {
        let wrong = |error: &dyn std::fmt::Debug| anyhow::anyhow!("{format}: {error:?}");
        let rest = match format {
            "ipfix" => {
                let (rest, message) = ipfix.parse(datagram).map_err(|e| wrong(&e))?;
                for set in &message.sets {
                    for record in &set.records {
                        let context = IpfixContext {
                            header: &message.header,
                            sampler_address: None,
                            sampling_rate: None,
                            system_init_time_ms: None,
                        };
                        match record {
                            IpfixRecord::Data(data) => read.flow(&context.convert(data, set.id))?,
                            IpfixRecord::OptionsData(data) => {
                                read.rates.extend(extract_ipfix_sampling_rate(data));
                            }
                            _ => {}
                        }
                    }
                }
                rest
            }
            "v9" => {
                let (rest, packet) = v9.parse(datagram).map_err(|e| wrong(&e))?;
                for set in &packet.flow_sets {
                    for record in &set.records {
                        let context = NetFlowV9Context {
                            header: &packet.header,
                            sampler_address: None,
                            sampling_rate: None,
                        };
                        match record {
                            V9Record::Data(data) => read.flow(&context.convert(data, set.id))?,
                            V9Record::OptionsData(data) => {
                                read.rates.extend(extract_v9_sampling_rate(data));
                            }
                            _ => {}
                        }
                    }
                }
                rest
            }
            "v5" => {
                let (rest, packet) = NetFlowV5Parser.parse(datagram).map_err(|e| wrong(&e))?;
                read.rates.push(packet.header.sampling_interval.into());
                for record in &packet.flow_records {
                    let context = NetFlowV5Context {
                        header: &packet.header,
                        sampler_address: None,
                    };
                    read.flow(&context.convert(record))?;
                }
                rest
            }
            _ => bail!("no format {format}"),
        };
        ensure!(rest.is_empty(), "{format}: {} octets left", rest.len());
    }
    Ok(read)
}

/// Conversations of IPv4, and of IPv6 where the format has it.
fn packets(v6: bool) -> Vec<Packet> {
    let mut packets = Vec::new();
    for host in 1..=20 {
        let mut ips = vec![Ip::new(&format!("192.0.2.{host}"), "198.51.100.2")];
        if v6 {
            ips.push(Ip::new(&format!("2001:db8::{host}"), "2001:db8:1::2"));
        }
        for ip in ips {
            for port in 1000..1010 {
                packets.extend([ip.udp(port, 53, 64), ip.udp(port, 53, 128)]);
                packets.push(ip.tcp(port, 443, flag::SYN, 0));
                packets.push(ip.tcp(port, 443, flag::ACK, 1000));
            }
        }
    }
    packets
}

/// What they are, one each [`STEP_MS`].
fn expected(packets: &[Packet]) -> Flows {
    let mut flows = Flows::new();
    for (i, packet) in (0..).zip(packets) {
        let key = packet.key.expect("an IP packet");
        let at_ms = START_MS + i * STEP_MS;
        let flags = match key.protocol {
            6 => packet.frame[ETHERNET + flags_at(packet)].into(),
            _ => 0,
        };
        let said = Said {
            packets: 1,
            octets: packet.octets,
            flags,
            start_ms: at_ms,
            end_ms: at_ms,
        };
        let ports = (key.source_port, key.destination_port);
        let key = (key.source, key.destination, ports.0, ports.1, key.protocol);
        add(&mut flows, key, said);
    }
    flows
}

/// Where TCP's flags are in an IP packet.
fn flags_at(packet: &Packet) -> usize {
    let header = match packet.frame[ETHERNET] >> 4 {
        4 => 20,
        _ => 40,
    };
    header + 13
}

/// A socket with room for all that is sent before it is read.
fn collector(namespace: &Netns) -> Result<UdpSocket> {
    let socket = namespace.udp(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)))?;
    socket.set_read_timeout(Some(Duration::from_millis(200)))?;
    Ok(socket)
}

fn datagrams(socket: &UdpSocket) -> Vec<Vec<u8>> {
    let mut datagram = [0; 65536];
    let mut all = Vec::new();
    while let Ok(octets) = socket.recv(&mut datagram) {
        all.push(datagram[..octets].to_vec());
    }
    all
}

#[test]
fn rustflow_reads_keys_counters_and_times_of_each_format() -> Result {
    let namespace = Netns::new("rustflow")?;
    for format in ["ipfix", "v9", "v5"] {
        let socket = collector(&namespace)?;
        let packets = packets(format != "v5");
        let at = |i: u64| (START_MS + i * STEP_MS) * 1_000_000;
        let records = (0..).zip(&packets);
        let records: Vec<_> = records
            .map(|(i, packet)| Captured::whole(at(i), &packet.frame))
            .collect();
        let capture = pcap(Order::Little, false, 1, &records);
        let url = format!("udp://127.0.0.1:{PORT}");
        let run = pcap_in(&namespace, &["-", "-c", &url, "--format", format], &capture)?;
        assert_eq!(run.code, 0, "{}", run.log);
        let read = read(format, &datagrams(&socket))?;
        let expected = expected(&packets);
        assert_eq!(read.flows.len(), expected.len(), "{format}");
        for (key, said) in &expected {
            assert_eq!(read.flows.get(key), Some(said), "{format} {key:?}");
        }
    }
    Ok(())
}

#[test]
fn rustflow_reads_the_sampling_rate_of_each_format() -> Result {
    let frames: Vec<Vec<u8>> = packets(false)
        .into_iter()
        .map(|packet| packet.frame)
        .collect();
    for format in ["ipfix", "v9", "v5"] {
        let pair = Pair::new(Wire::default())?;
        let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
        let socket = collector(&pair.sensor)?;
        let url = format!("udp://127.0.0.1:{PORT}?format={format}");
        let arguments = ["-i", Pair::SENSOR, "-c", &url, "--sample", "1/10"];
        let probe = Probe::start(&pair.sensor, &arguments)?;
        sender.send(&frames)?;
        let finished = probe.stop()?;
        finished.summary.assert_balanced();
        let read = read(format, &datagrams(&socket))?;
        let taken: u64 = read.flows.values().map(|said| said.packets).sum();
        assert_eq!(taken, finished.summary.ledger.accounted.packets, "{format}");
        ensure!(!read.rates.is_empty(), "{format}: no rate");
        // The header of v5 has the mode in its two upper bits.
        let rates: Vec<u32> = read.rates.iter().map(|rate| rate & 0x3fff).collect();
        assert!(rates.iter().all(|rate| *rate == 10), "{format}: {rates:?}");
    }
    Ok(())
}
