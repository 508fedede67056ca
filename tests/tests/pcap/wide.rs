//! What stands around an IP packet and within its headers: that captures of it have the same flows
//! as interfaces, and which elements say so.

use flowprobe_tests::{
    capture_file::{ORDERS, Order, PcapNg, Record, pcap as classic},
    mix::{encapsulated, ignored, tunnels},
    offline::{Offline, pcap},
    packets::{Ip, Packet, flag, truth},
};
use serde_json::{Value, json};

use crate::{Result, SECOND, START_NS, assert_flows, carried, meter};

fn v4() -> Ip {
    Ip::new("192.0.2.1", "198.51.100.2")
}

fn v6() -> Ip {
    Ip::new("2001:db8::1", "2001:db8:1::2")
}

fn at_once(packets: Vec<Packet>) -> Vec<(u64, Packet)> {
    packets.into_iter().map(|packet| (0, packet)).collect()
}

/// The record of a packet that is alone, as printed.
fn printed(packet: Packet, arguments: &[&str]) -> Result<Value> {
    let run = meter(&[(0, packet)], arguments)?;
    assert_eq!(run.printed.len(), 1);
    Ok(run.printed[0].clone())
}

/// The record has these elements with these values.
#[track_caller]
fn assert_has(record: &Value, expected: &Value) {
    for (name, value) in expected.as_object().expect("an object") {
        assert_eq!(&record[name], value, "{name} of {record}");
    }
}

/// Meters those of these packets that a link layer can carry, and compares their flows.
fn meter_link(packets: Vec<Packet>, link: u32, order: Order, tunnels: &str) -> Result<Offline> {
    let (packets, frames): (Vec<_>, Vec<_>) = carried(packets, link, order).into_iter().unzip();
    assert!(packets.len() >= 20);
    let records: Vec<_> = frames.iter().map(|f| Record::whole(START_NS, f)).collect();
    let file = classic(order, false, link, &records);
    let run = pcap(&["-", "--tunnels", tunnels], &file)?;
    assert_flows(&run, &truth(&packets, 1));
    Ok(run)
}

#[test]
fn link_layers_with_ethertypes_carry_all_of_it() -> Result {
    let packets = [encapsulated(), tunnels()].concat();
    let opened: Vec<_> = packets.iter().cloned().map(Packet::opened).collect();
    for link in [1, 113, 276] {
        for order in ORDERS {
            for (packets, tunnels) in [(&packets, "outer"), (&opened, "inner")] {
                let run = meter_link(packets.clone(), link, order, tunnels)?;
                assert_eq!(run.ledger().seen.packets, packets.len() as u64);
            }
        }
    }
    Ok(())
}

/// Those without EtherType carry IP, and so tunnels.
#[test]
fn link_layers_without_ethertypes_carry_tunnels() -> Result {
    for link in [0, 12, 14, 101, 108, 228, 229] {
        let opened = tunnels().into_iter().map(Packet::opened).collect();
        let run = meter_link(opened, link, Order::Little, "inner")?;
        let mut flows = run.flows.iter();
        assert!(flows.all(|flow| flow.key.around.tunnel.is_some()));
    }
    Ok(())
}

#[test]
fn what_is_no_ip_is_counted_by_kind() -> Result {
    for (reason, packet) in ignored() {
        let octets = packet.frame.len() as u64;
        let run = meter(&[(0, packet)], &[])?;
        let counted = run.ledger().ignored[reason];
        assert_eq!((counted.packets, counted.octets), (1, octets), "{reason}");
    }
    Ok(())
}

#[test]
fn double_tags() -> Result {
    let packet = v4()
        .tag_of_priority(0x88a8, 200, 5)
        .tag_of_priority(0x8100, 300, 2)
        .udp(1, 53, 20);
    let expected = json!({
        "vlanId": 200, "postVlanId": 300,
        "dot1qVlanId": 200, "dot1qPriority": 5,
        "dot1qCustomerVlanId": 300, "dot1qCustomerPriority": 2,
        "octetDeltaCount": 48,
    });
    assert_has(&printed(packet, &[])?, &expected);
    // Behind one tag or none there is no second one to tell.
    let single = printed(v4().tag(0x8100, 200).udp(1, 53, 20), &[])?;
    assert_has(
        &single,
        &json!({ "vlanId": 200, "dot1qCustomerVlanId": null }),
    );
    Ok(())
}

#[test]
fn mpls_labels() -> Result {
    let packet = v6().label(100).label(0xf_ffff).label(3).udp(1, 53, 20);
    // Label, traffic class 5, and bottom of stack; no TTL (RFC 3032 §2.1).
    let entry = |label: u32, bottom: u32| label << 4 | 5 << 1 | bottom;
    let expected = json!({
        "mplsTopLabelStackSection": entry(100, 0),
        "mplsLabelStackSection2": entry(0xf_ffff, 0),
        "mplsLabelStackSection3": entry(3, 1),
        "mplsLabelStackSection4": 0,
        "vlanId": 0, "octetDeltaCount": 68,
    });
    assert_has(&printed(packet, &[])?, &expected);
    Ok(())
}

#[test]
fn pppoe_sessions() -> Result {
    // Session and padding are in no record, so a plain packet has the same one.
    let session = printed(v4().pppoe().udp(1, 53, 2), &[])?;
    assert_eq!(session, printed(v4().udp(1, 53, 2), &[])?);
    assert_has(
        &session,
        &json!({ "octetDeltaCount": 30, "sourceTransportPort": 1 }),
    );
    let labels = printed(v6().tag(0x8100, 7).pppoe().label(9).udp(1, 53, 2), &[])?;
    let expected = json!({ "vlanId": 7, "mplsTopLabelStackSection": 9 << 4 | 5 << 1 | 1 });
    assert_has(&labels, &expected);
    Ok(())
}

#[test]
fn snap() -> Result {
    let framed = printed(v6().snap().tcp(1, 80, flag::SYN, 2), &[])?;
    assert_eq!(framed, printed(v6().tcp(1, 80, flag::SYN, 2), &[])?);
    assert_has(
        &framed,
        &json!({ "octetDeltaCount": 62, "tcpControlBits": 2 }),
    );
    Ok(())
}

/// The registry's figures number bits from the left.
fn bits(numbers: &[u32]) -> u32 {
    numbers.iter().map(|bit| 1 << (31 - bit)).sum()
}

#[test]
fn ipv4_options() -> Result {
    // Router alert (20), record route (7), no operation (1): RA, RR and NOP of IE 208.
    let options = [0x94, 4, 0, 0, 7, 3, 4, 1];
    let record = printed(v4().dont_fragment().options_of(&options).udp(1, 53, 0), &[])?;
    let expected = json!({ "ipv4Options": bits(&[19, 0, 6]), "fragmentFlags": 0x40 });
    assert_has(&record, &expected);
    let plain = printed(v4().udp(1, 53, 0), &[])?;
    assert_has(&plain, &json!({ "ipv4Options": 0, "fragmentFlags": 0 }));
    Ok(())
}

#[test]
fn ipv6_extension_headers() -> Result {
    let ip = v6().extension(0, 1).extension(43, 3).extension(60, 2);
    let record = printed(ip.udp(1, 53, 0), &[])?;
    // HOP, RH and DST of IE 64.
    let expected = json!({
        "ipv6ExtensionHeaders": bits(&[1, 5, 0]),
        "protocolIdentifier": 17, "sourceTransportPort": 1, "octetDeltaCount": 96,
    });
    assert_has(&record, &expected);
    assert_has(
        &printed(v6().udp(1, 53, 0), &[])?,
        &json!({ "ipv6ExtensionHeaders": 0 }),
    );
    Ok(())
}

#[test]
fn tunnels_are_told_by_their_own_elements() -> Result {
    let around = Ip::new("203.0.113.1", "203.0.113.2");
    let inner = v6().udp(1, 53, 2);
    // layer2SegmentId (IE 351) has the kind of overlay in its first octet.
    let cases = [
        (
            around.vxlan(4789, 7, &inner),
            17,
            "layer2SegmentId",
            1_u64 << 56 | 7,
        ),
        (
            around.nvgre(8, 1, &inner),
            47,
            "layer2SegmentId",
            2 << 56 | 8,
        ),
        (around.geneve(9, 2, &inner, true), 17, "layer2SegmentId", 9),
        (around.gre(Some(10), &inner), 47, "greKey", 10),
        (around.gtpu(11, true, &inner), 17, "gtpuTEid", 11),
        (around.ip_in_ip(&inner), 41, "greKey", 0),
    ];
    for (packet, protocol, name, id) in cases {
        let record = printed(packet.clone().opened(), &["--tunnels", "inner"])?;
        let outer = json!({
            "sourceIPv4Address": "203.0.113.1",
            "destinationIPv4Address": "203.0.113.2",
            "protocolIdentifier": protocol,
        });
        assert_has(&record["outer"], &outer);
        let expected = json!({
            "sourceIPv6Address": "2001:db8::1", "protocolIdentifier": 17,
            "sourceTransportPort": 1, "octetDeltaCount": 50, name: id,
        });
        assert_has(&record, &expected);
        let closed = printed(packet, &[])?;
        let expected = json!({ "outer": null, "sourceIPv4Address": "203.0.113.1" });
        assert_has(&closed, &expected);
    }
    Ok(())
}

#[test]
fn one_level_is_opened() -> Result {
    let hosts = v4().udp(1, 53, 2);
    let middle = Ip::new("2001:db8:a::1", "2001:db8:a::2").vxlan(4789, 1, &hosts);
    let outer = Ip::new("203.0.113.1", "203.0.113.2")
        .gre(None, &middle)
        .opened();
    let record = printed(outer, &["--tunnels", "inner"])?;
    let expected =
        json!({ "sourceIPv6Address": "2001:db8:a::1", "destinationTransportPort": 4789 });
    assert_has(&record, &expected);
    Ok(())
}

#[test]
fn tunnels_are_known_by_the_ports_that_are_given() -> Result {
    let around = Ip::new("203.0.113.1", "203.0.113.2");
    let [standard, other] = [4789, 8472].map(|port| around.vxlan(port, 7, &v4().udp(1, 53, 2)));
    let inner = ["--tunnels", "inner"];
    let packets = vec![standard.clone().opened(), other.clone()];
    meter(&at_once(packets), &inner)?;
    let packets = vec![standard, other.opened()];
    meter(
        &at_once(packets),
        &[&inner[..], &["--vxlan-port", "8472"]].concat(),
    )?;
    Ok(())
}

/// First and last fragment of a packet.
fn halves(ip: &Ip, port: u16) -> [Packet; 2] {
    let part = |offset, more| ip.clone().fragment(offset, more).udp(port, 53, 792);
    [part(0, true), part(100, false)]
}

#[test]
fn fragments_are_in_the_flow_of_the_first_one() -> Result {
    for ip in [
        v4(),
        v6(),
        v4().tag(0x88a8, 5).tag(0x8100, 6),
        v6().label(9),
    ] {
        let [first, last] = halves(&ip, 1000);
        let run = meter(&[(0, first.clone()), (SECOND, last)], &[])?;
        assert_eq!((run.flows.len(), run.fragment_orphans()), (1, Some(0)));
        assert_eq!(run.printed[0]["fragmentFlags"], 0x20);

        let [_, orphan] = halves(&ip.clone().orphan(), 1000);
        let run = meter(&[(0, orphan), (SECOND, first)], &[])?;
        assert_eq!((run.flows.len(), run.fragment_orphans()), (2, Some(1)));
    }
    Ok(())
}

#[test]
fn fragments_are_expected_for_half_a_minute_of_the_capture() -> Result {
    for (seconds, known) in [(29, true), (31, false)] {
        let [first, last] = halves(&v4(), 1000);
        let [_, orphan] = halves(&v4().orphan(), 1000);
        let later = if known { last } else { orphan };
        let run = meter(&[(0, first), (seconds * SECOND, later)], &[])?;
        assert_eq!(run.fragment_orphans(), Some(u64::from(!known)));
    }
    Ok(())
}

#[test]
fn fragments_of_another_interface_are_those_of_another_packet() -> Result {
    let [first, last] = halves(&v6(), 1000);
    let [_, orphan] = halves(&v6().orphan(), 1000);
    let record = |packet: &Packet| Record::whole(START_NS / 1000, &packet.frame);
    for (interface, later) in [(0, last), (1, orphan)] {
        let file = PcapNg::new(Order::Big)
            .interface(1, 0, &[])
            .interface(1, 0, &[])
            .enhanced(0, &record(&first))
            .enhanced(interface, &record(&later));
        let run = pcap(&["-"], file.octets())?;
        assert_flows(&run, &truth(&[first.clone(), later], 1));
        assert_eq!(run.fragment_orphans(), Some(interface.into()));
    }
    Ok(())
}
