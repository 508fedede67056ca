//! Where flows go on to, by real routes.

use std::{
    net::{IpAddr, Ipv6Addr},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::{
    collector::Collector,
    ipfix::Record,
    netns::Netns,
    probe::{self, Probe},
    topology::{Pair, Routed, Uplink, Wire},
};

/// Destination, and what the gateway's routes say of a flow there from the client: next hop, way out,
/// prefix lengths of source and destination.
type Expected = (&'static str, IpAddr, u32, [u8; 2]);

/// Routes of the gateway beside those of its interfaces.
fn add_routes(gateway: &Netns) -> Result<()> {
    gateway.ip(&format!(
        "route add 203.0.113.0/25 via {server}\n\
         route add 198.51.100.0/24 nexthop via {server} nexthop via {client}\n\
         route add blackhole 192.0.2.0/24\n\
         route add 100.64.0.0/10 via inet6 {server_v6} dev {wan}\n\
         route add 2001:db8:5::/48 via {server_v6} dev {wan}\n\
         route add 2001:db8:5:5::/64 via fe80::5 dev {wan}",
        server = Routed::SERVER_V4,
        client = Routed::CLIENT_V4,
        server_v6 = Routed::SERVER_V6,
        wan = Routed::WAN,
    ))
}

fn expected(wan: u32) -> Result<Vec<Expected>> {
    let none = IpAddr::from([0, 0, 0, 0]);
    let none_v6 = IpAddr::from(Ipv6Addr::UNSPECIFIED);
    let server = Routed::SERVER_V4.parse()?;
    Ok(vec![
        // On the wire there, through a router, by one of two, nowhere, by a router of the other version.
        (Routed::SERVER_V4, none, wan, [24, 24]),
        ("203.0.113.9", server, wan, [24, 25]),
        ("198.51.100.9", none, 0, [24, 24]),
        ("192.0.2.9", none, 0, [24, 0]),
        ("8.8.8.8", none, 0, [24, 0]),
        ("100.64.0.9", none, wan, [24, 10]),
        // For the gateway itself.
        ("10.10.2.1", none, 0, [24, 32]),
        (Routed::SERVER_V6, none_v6, wan, [64, 64]),
        ("2001:db8:5::9", Routed::SERVER_V6.parse()?, wan, [64, 48]),
        ("2001:db8:5:5::9", "fe80::5".parse()?, wan, [64, 64]),
        ("2001:db8:6::9", none_v6, 0, [64, 0]),
    ])
}

/// Sends one datagram to each of them, and waits until the gateway has them all.
fn send(network: &Routed, to: &[Expected]) -> Result<()> {
    let before = network.gateway.counters(Routed::LAN)?.rx_packets;
    let v4 = network.client.udp("10.10.1.2:1000".parse()?)?;
    let v6 = network.client.udp("[fd00:10:1::2]:1000".parse()?)?;
    for (destination, ..) in to {
        let destination: IpAddr = destination.parse()?;
        let socket = if destination.is_ipv4() { &v4 } else { &v6 };
        // What an earlier one was refused with is told here.
        let sent = socket.send_to(&[0; 72], (destination, 9));
        let _told = sent.or_else(|_| socket.send_to(&[0; 72], (destination, 9)));
    }
    let deadline = Instant::now() + Duration::from_secs(30);
    while network.gateway.counters(Routed::LAN)?.rx_packets < before + to.len() as u64 {
        ensure!(Instant::now() < deadline, "not received");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

fn address(record: &Record, ids: [u16; 2]) -> Option<IpAddr> {
    let octets = ids.iter().find_map(|id| record.get(*id))?;
    match <[u8; 4]>::try_from(octets) {
        Ok(v4) => Some(v4.into()),
        Err(_) => Some(<[u8; 16]>::try_from(octets).ok()?.into()),
    }
}

/// What a record says of its route.
fn route(record: &Record) -> Option<(IpAddr, u32, [u8; 2])> {
    let prefix = |ids: [u16; 2]| ids.iter().find_map(|id| record.number(*id));
    Some((
        address(record, [15, 62])?,
        record.number(14)? as u32,
        [prefix([9, 29])? as u8, prefix([13, 30])? as u8],
    ))
}

#[test]
fn flows_say_what_the_routes_say_of_them() -> Result<()> {
    let network = Routed::new()?;
    add_routes(&network.gateway)?;
    let uplink = Uplink::new(&network.gateway)?;
    let collector = Collector::start(&uplink.collector, "10.20.0.2:4739", true)?;
    let url = collector.url();
    let arguments = ["-i", Routed::LAN, "--next-hop", "-c", &url];
    let probe = Probe::start(&network.gateway, &arguments)?;
    let expected = expected(network.gateway.index(Routed::WAN)?)?;
    send(&network, &expected)?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let count = finished.summary.ledger.exported.records as usize;
    collector.wait_until("all flows", |received| received.flows.len() >= count)?;
    let received = collector.stop();
    received.assert_well_formed();
    for (destination, next_hop, egress, prefixes) in expected {
        let to: IpAddr = destination.parse()?;
        let mut records = received.records.iter().map(|(_, record)| record);
        let record = records.find(|record| address(record, [12, 28]) == Some(to));
        let record = record.with_context(|| format!("no flow to {destination}"))?;
        let told = route(record).with_context(|| format!("{destination}: no route in it"))?;
        assert_eq!(told, (next_hop, egress, prefixes), "{destination}");
    }
    Ok(())
}

/// What goes out has gone where it went; its next hop is known where the route leads there.
#[test]
fn what_goes_out_keeps_its_own_way_out() -> Result<()> {
    let network = Routed::new()?;
    add_routes(&network.gateway)?;
    let uplink = Uplink::new(&network.gateway)?;
    let collector = Collector::start(&uplink.collector, "10.20.0.2:4739", true)?;
    let url = collector.url();
    let wan = network.gateway.index(Routed::WAN)?;
    let arguments = [
        "-i",
        Routed::WAN,
        "--egress",
        "--next-hop",
        "-c",
        &url,
        "--fields",
        "destinationIPv4Address,destinationIPv6Address,ipNextHopIPv4Address,ipNextHopIPv6Address,\
         egressInterface,sourceIPv4PrefixLength,sourceIPv6PrefixLength,\
         destinationIPv4PrefixLength,destinationIPv6PrefixLength",
    ];
    let probe = Probe::start(&network.gateway, &arguments)?;
    let to = expected(wan)?;
    send(&network, &to[..2])?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    collector.wait_until("both", |received| received.records.len() >= 2)?;
    let received = collector.stop();
    for (destination, next_hop, egress, prefixes) in &to[..2] {
        let of = Some(destination.parse()?);
        let mut records = received.records.iter().map(|(_, record)| record);
        let record = records.find(|record| address(record, [12, 28]) == of);
        let told = record.and_then(route);
        assert_eq!(told, Some((*next_hop, *egress, *prefixes)), "{destination}");
    }
    Ok(())
}

#[test]
fn only_who_asks_is_told() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    for (option, why) in [
        ("--fields", "ipVersion,ipNextHopIPv4Address"),
        ("--template", "x=ipVersion,destinationIPv6PrefixLength"),
    ] {
        let arguments = ["run", "-i", Pair::SENSOR, option, why];
        let refused = probe::output(&pair.sensor, &arguments)?;
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(said.contains("--next-hop"), "{said}");
    }
    Ok(())
}
