//! Frames of every kind that a parser has to tell apart, by name, each with what is in it or why
//! it belongs to no flow.
//!
//! Expectations are plain values, written down by hand: nothing here computes them.

mod ipv4;
mod ipv6;
mod link;
mod regression;
mod transport;
mod tunnel;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::headers::{protocol, udp};

/// A frame by name.
#[derive(Clone, Debug)]
pub struct Case {
    /// What is special about it.
    pub name: String,
    /// Octets from the destination address on.
    pub frame: Vec<u8>,
    /// What is in it, or the name of the counter of the reason why it belongs to no flow.
    pub outer: Result<Seen, &'static str>,
    /// The same where tunnels are opened, at the ports that IANA has assigned.
    pub inner: Result<Seen, &'static str>,
}

/// A packet that belongs to a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// Ports; for ICMP 0 and type·256 + code.
    pub ports: (u16, u16),
    /// IP protocol, the last next header of IPv6.
    pub protocol: u8,
    /// Type of service or traffic class.
    pub traffic_class: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// TCP control bits.
    pub tcp_flags: u8,
    /// Octets of the IP packet.
    pub octets: u32,
    /// Flow label of IPv6.
    pub flow_label: u32,
    /// ipv4Options (IE 208) or ipv6ExtensionHeaders (IE 64).
    pub options: u32,
    /// Don't Fragment (0x40) and More Fragments (0x20).
    pub fragment_flags: u8,
    /// Which part of a fragmented packet it is.
    pub part: Part,
    /// VLAN identifiers, outermost first.
    pub vlans: Vec<u16>,
    /// Priorities of the outermost tag and of the next.
    pub priorities: (u8, u8),
    /// MPLS labels and traffic classes, top first.
    pub labels: Vec<(u32, u8)>,
    /// The tunnel that it came out of.
    pub tunnel: Option<Tunnel>,
}

/// A part of a fragmented packet, with the identification that its parts share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Not fragmented.
    Whole,
    /// The one with the ports.
    First(u32),
    /// Another.
    Later(u32),
}

/// What is around a packet that came out of a tunnel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// `ip`, `gre`, `nvgre`, `vxlan`, `geneve`, `gtpu`.
    pub kind: &'static str,
    /// VNI, VSID, key or TEID.
    pub id: u32,
    /// Source address outside.
    pub source: IpAddr,
    /// Destination address outside.
    pub destination: IpAddr,
    /// Protocol outside.
    pub protocol: u8,
}

/// The corpus.
///
/// # Panics
/// Where two cases have one name.
#[must_use]
pub fn corpus() -> Vec<Case> {
    let cases = [
        link::cases(),
        ipv4::cases(),
        ipv6::cases(),
        transport::cases(),
        tunnel::cases(),
        regression::cases(),
    ]
    .concat();
    for (i, case) in cases.iter().enumerate() {
        let same = cases[..i].iter().find(|other| other.name == case.name);
        assert!(same.is_none(), "two cases are named {}", case.name);
    }
    cases
}

impl Case {
    /// What tunnels hold, where they are opened.
    fn inside(mut self, seen: Seen) -> Self {
        self.inner = Ok(seen);
        self
    }
}

fn seen(name: impl Into<String>, frame: Vec<u8>, seen: Seen) -> Case {
    Case {
        name: name.into(),
        frame,
        outer: Ok(seen.clone()),
        inner: Ok(seen),
    }
}

fn skipped(name: impl Into<String>, frame: Vec<u8>, reason: &'static str) -> Case {
    Case {
        name: name.into(),
        frame,
        outer: Err(reason),
        inner: Err(reason),
    }
}

/// Twelve octets, those of most cases.
fn datagram() -> Vec<u8> {
    udp(4660, 53535, &[0x77; 4])
}

/// What most cases of IPv4 have in them: 20 octets of header, 12 of UDP.
fn v4_seen() -> Seen {
    Seen {
        source: Ipv4Addr::new(10, 1, 2, 3).into(),
        destination: Ipv4Addr::new(192, 0, 2, 9).into(),
        ports: (4660, 53535),
        protocol: protocol::UDP,
        traffic_class: 0xb8,
        ttl: 61,
        tcp_flags: 0,
        octets: 32,
        flow_label: 0,
        options: 0,
        fragment_flags: 0x40,
        part: Part::Whole,
        vlans: Vec::new(),
        priorities: (0, 0),
        labels: Vec::new(),
        tunnel: None,
    }
}

/// What most cases of IPv6 have in them: 40 octets of header, 12 of UDP.
fn v6_seen() -> Seen {
    Seen {
        source: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into(),
        destination: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 2).into(),
        traffic_class: 0x2e,
        ttl: 59,
        octets: 52,
        flow_label: 0xa_bcde,
        fragment_flags: 0,
        ..v4_seen()
    }
}
