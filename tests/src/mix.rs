//! A frame of every kind that a flow meter has to tell apart.

use crate::packets::{Ip, Packet, flag, not_ip, raw};

fn v4() -> Ip {
    Ip::new("192.0.2.1", "198.51.100.2")
}

fn v6() -> Ip {
    Ip::new("2001:db8::1", "2001:db8:1::2")
}

/// One of each kind, in the order of this list; no two in the same flow unless said.
#[must_use]
pub fn mix() -> Vec<Packet> {
    vec![
        // TCP: the flags of one flow accumulate.
        v4().tcp(40001, 80, flag::SYN, 0),
        v4().tcp(40001, 80, flag::ACK | flag::PSH, 700),
        v6().tcp(40002, 443, flag::SYN, 0),
        v6().tcp(40002, 443, flag::ACK, 1200),
        v4().udp(5000, 53, 33),
        v6().udp(5001, 53, 34),
        v4().icmp(8, 0, 56),
        v4().icmp(3, 1, 28),
        v6().icmp(128, 0, 56),
        v4().sctp(6000, 36412, 40),
        v6().sctp(6001, 36412, 40),
        v4().other(47, 100), // GRE
        v6().other(103, 90), // PIM
        // The traffic class is part of the key.
        v4().traffic_class(0xb8).udp(5002, 53, 20),
        v6().traffic_class(0xb8).udp(5003, 53, 20),
        // So are the VLANs.
        v4().tag(0x8100, 100).udp(5004, 53, 200),
        v4().tag(0x8100, 101).udp(5004, 53, 201),
        v6().tag(0x8100, 4094).udp(5005, 53, 202),
        v4().tag(0x88a8, 200).tag(0x8100, 300).udp(5006, 53, 203),
        v6().tag(0x88a8, 201).tag(0x8100, 301).udp(5007, 53, 204),
        // Headers of unusual length.
        v4().options(3).tcp(40003, 22, flag::SYN, 5),
        v4().options(10).udp(5008, 53, 6),
        v6().extension(0, 1).udp(5009, 53, 7),
        v6().extension(0, 2)
            .extension(43, 3)
            .extension(60, 1)
            .tcp(40004, 22, flag::SYN, 8),
        // Fragments: the first has ports, those behind it are in its flow.
        v4().fragment(0, true).udp(5010, 53, 1000),
        v4().fragment(126, true).udp(5010, 53, 1000),
        v4().fragment(252, false).udp(5010, 53, 77),
        v6().fragment(0, true).udp(5011, 53, 1000),
        v6().fragment(126, false).udp(5011, 53, 77),
        v6().extension(0, 1)
            .fragment(0, true)
            .tcp(40005, 25, flag::ACK, 64),
        // Padding, to the minimum of Ethernet and far beyond the IP packet.
        v4().udp(5012, 53, 0),
        v4().udp(5013, 53, 1),
        v4().pad_to(600).udp(5014, 53, 9),
        v4().pad_to(300).tcp(40006, 25, flag::ACK, 0),
        v6().pad_to(300).udp(5015, 53, 9),
        v4().tag(0x8100, 7).pad_to(400).udp(5016, 53, 9),
        // As long as the MTU lets it be.
        v4().udp(5017, 53, 1500 - 28),
        v6().udp(5018, 53, 1500 - 48),
        not_ip(0x0806), // ARP
        not_ip(0x88cc), // LLDP
    ]
}

/// Frames with more around the IP packet than one VLAN tag, each in a flow of its own.
#[must_use]
pub fn encapsulated() -> Vec<Packet> {
    let mut packets = vec![
        // 802.1ad outside, 802.1Q inside, and older stacks of more.
        v4().tag_of_priority(0x88a8, 200, 5)
            .tag_of_priority(0x8100, 300, 2)
            .udp(6000, 53, 20),
        v6().tag_of_priority(0x88a8, 201, 7)
            .tag_of_priority(0x8100, 301, 1)
            .tcp(6001, 443, flag::SYN, 21),
        v4().tag(0x9100, 202)
            .tag(0x9100, 302)
            .tag(0x8100, 402)
            .udp(6002, 53, 22),
        v6().tag(0x88a8, 203)
            .tag(0x88a8, 303)
            .tag(0x8100, 403)
            .tag(0x8100, 503)
            .udp(6003, 53, 23),
        v4().snap().udp(6004, 53, 24),
        v6().tag(0x8100, 204).snap().udp(6005, 53, 25),
        v4().pppoe().udp(6006, 53, 26),
        v6().pppoe().tcp(6007, 443, flag::ACK, 27),
        v4().tag(0x88a8, 205)
            .tag(0x8100, 305)
            .pppoe()
            .udp(6008, 53, 28),
        v4().pppoe().label(90).udp(6009, 53, 29),
        v4().tag(0x8100, 206).label(100).udp(6010, 53, 30),
        v4().label(101).icmp(8, 0, 31),
    ];
    for labels in 1..=6 {
        let stack = |ip: Ip| (1..=labels).fold(ip, |ip, i| ip.label(1000 * labels + i));
        packets.push(stack(v4()).udp(6100, 53, 32));
        packets.push(stack(v6()).tcp(6101, 443, flag::ACK, 33));
    }
    packets
}

/// Tunnels of each kind and version, each in a flow of its own whether it is opened or not.
#[must_use]
pub fn tunnels() -> Vec<Packet> {
    let around_v4 = || Ip::new("203.0.113.1", "203.0.113.2");
    let around_v6 = || Ip::new("2001:db8:ff::1", "2001:db8:ff::2");
    let mut packets = Vec::new();
    for (i, around) in [around_v4(), around_v6()].iter().enumerate() {
        for (j, inner) in [v4(), v6()].iter().enumerate() {
            let port = |n: usize| (7000 + 100 * n + 10 * i + j) as u16;
            // The flows outside differ too, by traffic class.
            let around = |n: u8| around.clone().traffic_class(n * 16 + (4 * i + j) as u8);
            let id = (1000 + 10 * i + j) as u32;
            let tagged = inner.clone().tag(0x8100, 77).udp(port(1), 53, 41);
            packets.extend([
                around(0).vxlan(4789, id, &inner.udp(port(0), 53, 40)),
                around(1).vxlan(4789, id, &tagged),
                around(2).geneve(id, 0, &inner.udp(port(2), 53, 42), true),
                around(3).geneve(id, 3, &inner.tcp(port(3), 443, flag::SYN, 43), false),
                around(4).gre(None, &inner.udp(port(4), 53, 44)),
                around(5).gre(Some(id), &inner.udp(port(5), 53, 45)),
                around(6).nvgre(id, 9, &inner.udp(port(6), 53, 46)),
                around(7).ip_in_ip(&inner.tcp(port(7), 443, flag::ACK, 47)),
                around(8).gtpu(id, false, &inner.udp(port(8), 53, 48)),
                around(9).gtpu(id, true, &inner.icmp(8, 0, 49)),
            ]);
        }
    }
    // Labels and tags outside of the tunnel, and tags inside.
    let inner = v4().tag(0x8100, 78).udp(7900, 53, 50);
    packets.push(
        around_v4()
            .tag(0x8100, 79)
            .label(500)
            .vxlan(4789, 5, &inner),
    );
    packets
}

/// What is no IP, with the reason that counts it.
#[must_use]
pub fn ignored() -> Vec<(&'static str, Packet)> {
    // LLC of spanning tree (IEEE 802.1D §7.12.3); SNAP of another organisation, as CDP has it.
    let stp = [0, 38, 0x42, 0x42, 3, 0, 0, 0, 0];
    let cdp = [0, 46, 0xaa, 0xaa, 3, 0, 0, 0x0c, 0x20, 0];
    // A PPPoE session's keep-alive (LCP echo), and a pseudowire with its control word.
    let lcp = [0x88, 0x64, 0x11, 0, 0, 1, 0, 10, 0xc0, 0x21, 9, 1, 0, 8];
    let pseudowire = [0x88, 0x47, 0, 0x06, 0x41, 0xff, 0, 0, 0, 0, 2, 0];
    let seven = (0..7).fold(v4(), |ip, i| ip.label(16 + i)).udp(1, 2, 3);
    let five = (0..5)
        .fold(v4(), |ip, i| ip.tag(0x8100, 16 + i))
        .udp(1, 2, 3);
    let no_flow = |packet: Packet| raw(&packet.frame[12..]);
    vec![
        ("arp", not_ip(0x0806)),
        ("lldp", not_ip(0x88cc)),
        ("slow_protocol", not_ip(0x8809)),
        ("eapol", not_ip(0x888e)),
        ("macsec", not_ip(0x88e5)),
        ("ptp", not_ip(0x88f7)),
        ("cfm", not_ip(0x8902)),
        ("other_ethertype", not_ip(0x88b5)),
        ("llc", raw(&stp)),
        ("llc", raw(&cdp)),
        ("ppp_control", not_ip(0x8863)),
        ("ppp_control", raw(&lcp)),
        ("mpls_payload", raw(&pseudowire)),
        ("too_many_labels", no_flow(seven)),
        ("too_many_tags", no_flow(five)),
    ]
}
