//! A frame of every kind that a flow meter has to tell apart.

use crate::packets::{Ip, Packet, flag, not_ip};

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
        // So is the outer VLAN, and no inner one.
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
        // Fragments: the first has ports, the others share one flow without.
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
