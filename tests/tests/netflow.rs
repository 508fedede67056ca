//! nfdump, pmacct and tshark as judges of the encoders of NetFlow v9 and v5.

use std::{
    collections::BTreeMap,
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::ensure;
use flowprobe::{
    encode::{Fit, Stamp},
    ipfix::{
        Fields,
        options::{InterfaceName, MeteringStatistics, OptionsRecord, SamplingRate, Text},
    },
    netflow::{v5, v9},
    record::{Biflow, EndReason, FlowKey, FlowRecord},
};
use flowprobe_ebpf::{KeyV4, KeyV6, Marks, Packet, sampling::Sampled};
use flowprobe_tests::{
    collector::Datagram,
    flow::{Around, Counts, Key},
    judges::{Nfacctd, Nfcapd, Reading, Sum, complaints, find_all, tshark, wait_until_read},
    netns::Netns,
};

type Result = anyhow::Result<()>;

const PORT: u16 = 9995;
const DOMAIN: u32 = 7;
/// One packet in this many.
const N: u32 = 100;
/// 49.7 days in milliseconds, in which sysUptime wraps.
const WRAP: u64 = 1 << 32;

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_millis() as u64
}

fn packet(protocol: u8, [source, destination]: [u16; 2], vlan: u16) -> Packet {
    let [[a, b], [c, d]] = [source, destination].map(u16::to_be_bytes);
    Packet {
        ports: u32::from_ne_bytes([a, b, c, d]),
        protocol,
        traffic_class: 0xb8,
        vlan,
        ..Packet::EMPTY
    }
}

/// Three flows that ended at `end_ms` or shortly before: TCP in a VLAN, UDP over IPv6, ICMP.
fn flows(end_ms: u64) -> [FlowRecord; 3] {
    let class = Sampled::new(0, 1);
    let v4 = |packet: &Packet| {
        let addresses = u64::from_ne_bytes([10, 1, 2, 3, 10, 4, 5, 6]);
        FlowKey::V4(KeyV4::new(addresses, packet, 3, class))
    };
    let v6 = |packet: &Packet| {
        let network = u64::from_ne_bytes([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]);
        let addresses = [network, 1_u64.to_be(), network, 2_u64.to_be()];
        FlowKey::V6(KeyV6::new(addresses, packet, 3, class))
    };
    [
        (1, v4(&packet(6, [50_000, 443], 42))),
        (2, v6(&packet(17, [50_001, 53], 0))),
        (3, v4(&packet(1, [0, 0x0301], 0))),
    ]
    .map(|(number, key)| FlowRecord {
        key,
        packets: 10 + number,
        octets: 1000 + number,
        start_ms: end_ms - number * 1357,
        end_ms: end_ms - (number - 1) * 137,
        reason: EndReason::IdleTimeout,
        marks: Marks {
            tcp_flags: if number == 1 { 0x1b } else { 0 },
            ..Marks::default()
        },
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        sampling_n: N,
        biflow: Biflow::None,
        route: None,
    })
}

/// All that v9 has, the flows in a message of their own.
fn in_v9(flows: &[FlowRecord], now: Stamp) -> Vec<Vec<u8>> {
    with_fields(None, flows, now)
}

/// The same, the flows with these fields only.
fn with_fields(fields: Option<&Fields>, flows: &[FlowRecord], now: Stamp) -> Vec<Vec<u8>> {
    let mut encoder = v9::Encoder::new(DOMAIN, 1400).expect("large enough");
    encoder.use_fields(fields);
    for template in encoder.flow_templates() {
        assert!(encoder.template(&template));
    }
    let mut messages = vec![encoder.message(now).to_vec()];
    encoder.commit();
    assert!(encoder.template(&InterfaceName::TEMPLATE));
    assert!(encoder.template(&SamplingRate::TEMPLATE));
    assert!(encoder.template(&MeteringStatistics::TEMPLATE));
    assert!(encoder.options(&InterfaceName {
        interface: 3,
        name: Text::new("eth0"),
        description: Text::new("uplink"),
    }));
    assert!(encoder.options(&SamplingRate {
        observation_domain: DOMAIN,
        interval: N,
    }));
    assert!(encoder.options(&MeteringStatistics {
        observation_domain: DOMAIN,
        process: 1,
        octets: 2,
        messages: 3,
        flows: 4,
    }));
    messages.push(encoder.message(now).to_vec());
    encoder.commit();
    for flow in flows {
        assert_eq!(encoder.flow(flow), Fit::In);
    }
    messages.push(encoder.message(now).to_vec());
    messages
}

fn in_v5(flows: &[FlowRecord], now: Stamp) -> Vec<Vec<u8>> {
    let mut encoder = v5::Encoder::new(DOMAIN, 1400).expect("large enough");
    let mut messages = Vec::new();
    for flow in flows {
        while encoder.flow(flow) == Fit::Full {
            messages.push(encoder.message(now).to_vec());
            encoder.commit();
        }
    }
    messages.push(encoder.message(now).to_vec());
    messages
}

/// What the judges are to read: all packets that those of the flow stand for.
fn reading(flow: &FlowRecord) -> Reading {
    let key = &flow.key;
    Reading {
        key: Key {
            source: key.source(),
            destination: key.destination(),
            source_port: key.source_port(),
            destination_port: key.destination_port(),
            protocol: key.protocol(),
            traffic_class: key.traffic_class(),
            vlan: key.vlan(),
            around: Around::default(),
        },
        start_ms: flow.start_ms,
        end_ms: flow.end_ms,
        packets: flow.packets * u64::from(flow.sampling_n),
        octets: flow.octets * u64::from(flow.sampling_n),
        tcp_flags: flow.marks.tcp_flags,
        interface: key.ifindex(),
    }
}

/// The flows of IPv4, without their VLAN, which v5 has no place for.
fn readings_of_v5(flows: &[FlowRecord]) -> Vec<Reading> {
    let flows = flows.iter().filter(|flow| flow.key.source().is_ipv4());
    let mut readings: Vec<_> = flows.map(reading).collect();
    for reading in &mut readings {
        reading.key.vlan = 0;
    }
    readings.sort_unstable();
    readings
}

fn send(namespace: &Netns, messages: &[Vec<u8>]) -> Result {
    let socket: UdpSocket = namespace.udp(SocketAddr::from(([127, 0, 0, 1], 0)))?;
    for message in messages {
        socket.send_to(message, ("127.0.0.1", PORT))?;
    }
    wait_until_read(namespace, PORT)
}

/// What nfdump reads, and what it says of exporters and samplers.
fn nfdump(messages: &[Vec<u8>]) -> anyhow::Result<(Vec<Reading>, String)> {
    let namespace = Netns::new("netflow")?;
    let nfcapd = Nfcapd::start(&namespace, PORT)?;
    send(&namespace, messages)?;
    let judged = nfcapd.stop()?;
    let read = judged.flows.iter().map(Reading::from_nfdump);
    let mut read = read.collect::<anyhow::Result<Vec<_>>>()?;
    read.sort_unstable();
    Ok((read, judged.samplers))
}

/// What nfacctd adds up.
fn nfacctd(messages: &[Vec<u8>]) -> anyhow::Result<BTreeMap<Sum, Counts>> {
    let namespace = Netns::new("netflow")?;
    let nfacctd = Nfacctd::renormalising(&namespace, PORT)?;
    // It listens before the plugin that writes is there, and says nothing of that.
    thread::sleep(Duration::from_secs(2));
    send(&namespace, messages)?;
    // A signal while it is at the last record makes it count that one twice, now and then.
    thread::sleep(Duration::from_millis(500));
    nfacctd.stop()
}

fn sums(readings: &[Reading]) -> BTreeMap<Sum, Counts> {
    let mut sums = BTreeMap::<Sum, Counts>::new();
    for reading in readings {
        let counts = Counts {
            packets: reading.packets,
            octets: reading.octets,
        };
        sums.entry(Sum::of_key(&reading.key))
            .or_default()
            .add(counts);
    }
    sums
}

/// What tshark makes of the messages; fails where it complains of anything.
fn dissect(name: &str, messages: &[Vec<u8>]) -> anyhow::Result<Vec<serde_json::Value>> {
    let source = SocketAddr::from(([127, 0, 0, 1], 5000));
    let datagrams = messages.iter().map(|octets| Datagram {
        source,
        octets: octets.clone(),
    });
    let packets = tshark(name, &datagrams.collect::<Vec<_>>(), PORT)?;
    let complaints = complaints(&packets);
    ensure!(complaints.is_empty(), "{complaints:#?}");
    Ok(packets)
}

/// Sent when sysUptime is what it may be: a day; two seconds after a wrap, which all flows began
/// before; or any at all, where the flows are from years ago.
fn moments() -> [(Stamp, u64); 3] {
    let unix_ms = now_ms();
    let booted = |ago_ms| Stamp {
        unix_ms,
        boot_unix_ms: unix_ms - ago_ms,
    };
    let day = 86_400_000;
    [
        (booted(day), unix_ms),
        (booted(WRAP + 2000), unix_ms - 3000),
        (booted(day), unix_ms - 2000 * day),
    ]
}

#[test]
fn nfdump_reads_v9_with_its_times_and_rate() -> Result {
    for (now, end_ms) in moments() {
        let flows = flows(end_ms);
        let (read, said) = nfdump(&in_v9(&flows, now))?;
        let mut expected: Vec<_> = flows.iter().map(reading).collect();
        expected.sort_unstable();
        assert_eq!(read, expected);
        let domain = "version: 9, ID:  7, Sequence failures: 0, packets: 3, flows: 3";
        ensure!(said.contains(domain), "{said}");
        ensure!(
            said.contains("packet interval: 1, packet space: 99"),
            "{said}"
        );
    }
    Ok(())
}

/// What a [`Reading`] has, the times last and first, and nothing else. The type of ICMP is in the
/// port too, where nfdump does not look for it if it has no element of its own.
const CHOSEN: &str = "flowEndMilliseconds,octetDeltaCount,packetDeltaCount,tcpControlBits,\
    icmpTypeCodeIPv4,icmpTypeCodeIPv6,ingressInterface,vlanId,ipClassOfService,protocolIdentifier,destinationTransportPort,\
    sourceTransportPort,destinationIPv6Address,sourceIPv6Address,destinationIPv4Address,\
    sourceIPv4Address,flowStartMilliseconds";

#[test]
fn nfdump_reads_v9_with_fields_that_a_user_chose() -> Result {
    let fields: Fields = CHOSEN.parse()?;
    for (now, end_ms) in moments() {
        let flows = flows(end_ms);
        let (read, _) = nfdump(&with_fields(Some(&fields), &flows, now))?;
        let mut expected: Vec<_> = flows.iter().map(reading).collect();
        expected.sort_unstable();
        assert_eq!(read, expected);
    }
    Ok(())
}

/// And that no others are there.
#[test]
fn tshark_reads_v9_with_fields_that_a_user_chose() -> Result {
    let (now, end_ms) = moments()[0];
    let flows = flows(end_ms);
    let fields: Fields = CHOSEN.parse()?;
    let named = |messages: &[Vec<u8>], name: &str| -> anyhow::Result<Vec<String>> {
        let packets = dissect("chosen", messages)?;
        let found = packets.iter().flat_map(|packet| find_all(packet, name));
        let found = found.filter_map(serde_json::Value::as_str);
        let mut texts: Vec<_> = found.map(str::to_owned).collect();
        texts.sort_unstable();
        Ok(texts)
    };
    let (some, all) = (with_fields(Some(&fields), &flows, now), in_v9(&flows, now));
    assert_eq!(named(&some, "cflow.packets")?, ["11", "12", "13"]);
    assert_eq!(named(&some, "cflow.srcaddr")?, ["10.1.2.3", "10.1.2.3"]);
    for name in ["cflow.timestart", "cflow.timeend"] {
        let times = named(&some, name)?;
        assert_eq!(times.len(), flows.len(), "{name}");
        assert_eq!(times, named(&all, name)?, "{name}");
    }
    assert_eq!(named(&some, "cflow.srcmac")?, [""; 0]);
    assert_eq!(named(&all, "cflow.srcmac")?.len(), flows.len());
    Ok(())
}

#[test]
fn nfdump_reads_v5_with_its_times_and_rate() -> Result {
    for (now, end_ms) in moments() {
        let flows = flows(end_ms);
        let (read, said) = nfdump(&in_v5(&flows, now))?;
        assert_eq!(read, readings_of_v5(&flows));
        ensure!(
            said.contains("algorithm: 1, packet interval: 1, packet space: 99"),
            "{said}"
        );
    }
    Ok(())
}

/// It keeps the rate that an engine's first message had: so each rate has an engine.
#[test]
fn nfdump_reads_the_rates_of_v5_as_they_change() -> Result {
    let (now, end_ms) = moments()[0];
    let changing: Vec<_> = [1, 10, 1000, 10]
        .into_iter()
        .flat_map(|sampling_n| flows(end_ms).map(|flow| FlowRecord { sampling_n, ..flow }))
        .collect();
    let (read, _) = nfdump(&in_v5(&changing, now))?;
    assert_eq!(read, readings_of_v5(&changing));
    assert_eq!(nfacctd(&in_v5(&changing, now))?, sums(&read));
    Ok(())
}

/// 7 TB in 5 billion packets, in as many records as that takes.
#[test]
fn a_flow_larger_than_the_counters_of_v5_adds_up() -> Result {
    let (now, end_ms) = moments()[0];
    let [flow, ..] = flows(end_ms);
    let large = FlowRecord {
        packets: 5_000_000_000,
        octets: 7_000_000_000_000,
        sampling_n: 1,
        ..flow
    };
    let messages = in_v5(&[large], now);
    let (read, said) = nfdump(&messages)?;
    assert_eq!(sums(&read), sums(&readings_of_v5(&[large])));
    ensure!(
        said.contains("Sequence failures: 0, packets: 59, flows: 1630"),
        "{said}"
    );
    assert_eq!(nfacctd(&messages)?, sums(&read));
    Ok(())
}

#[test]
fn nfacctd_scales_v9_and_v5() -> Result {
    let (now, end_ms) = moments()[0];
    let flows = flows(end_ms);
    let expected: Vec<_> = flows.iter().map(reading).collect();
    assert_eq!(nfacctd(&in_v9(&flows, now))?, sums(&expected));
    let expected = readings_of_v5(&flows);
    assert_eq!(nfacctd(&in_v5(&flows, now))?, sums(&expected));
    Ok(())
}

#[test]
fn tshark_has_no_complaint() -> Result {
    let (now, end_ms) = moments()[0];
    let flows = flows(end_ms);
    let packets = dissect("v9", &in_v9(&flows, now))?;
    let texts = |name: &str| -> Vec<&str> {
        let found = packets.iter().flat_map(|packet| find_all(packet, name));
        found.filter_map(serde_json::Value::as_str).collect()
    };
    for (name, values) in [
        ("cflow.if_name", &["eth0"][..]),
        ("cflow.if_descr", &["uplink"]),
        ("cflow.packets", &["11", "12", "13"]),
        ("cflow.srcaddr", &["10.1.2.3", "10.1.2.3"]),
        ("cflow.sampling_interval", &["100"; 4]),
    ] {
        let mut read = texts(name);
        read.sort_unstable();
        assert_eq!(read, values, "{name}");
    }
    dissect("v5", &in_v5(&flows, now))?;
    // It would complain: a message is missing.
    let mut lacking = in_v9(&flows, now);
    lacking.remove(1);
    ensure!(dissect("lacking", &lacking).is_err(), "it sees no gap");
    Ok(())
}
