//! What the packets really were: flows, prefixes and ports with all their packets.
//!
//! A flow is all packets of one key, over all captures and without timeouts. Flows have dense
//! numbers, which is what samplers count by. Memory: about 200 octets a flow, index included.

use std::{
    collections::HashMap,
    hash::Hash,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use flowprobe_ebpf::{
    Parsed,
    hash::SECRET_WORDS,
    sampling::Sampled,
    wire::{protocol, tcp},
};
use hashbrown::HashTable;

use crate::record::FlowKey;

/// Bits of prefixes that addresses are summed by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixBits {
    /// Of IPv4, at most 32.
    pub v4: u8,
    /// Of IPv6, at most 128.
    pub v6: u8,
}

impl PrefixBits {
    fn of(self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(address) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.v4)).unwrap_or(0);
                Ipv4Addr::from(u32::from(address) & mask).into()
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.v6)).unwrap_or(0);
                Ipv6Addr::from(u128::from(address) & mask).into()
            }
        }
    }
}

/// A flow with all its packets.
#[derive(Debug)]
pub(super) struct Flow {
    key: FlowKey,
    /// A keyed hash of the key.
    pub(super) hash: u64,
    pub(super) packets: u64,
    pub(super) octets: u64,
    /// Σ octets² of its packets.
    squares: f64,
    /// Packets of it with SYN.
    pub(super) syns: u32,
    /// Numbers of the source's and the destination's prefix.
    pub(super) prefixes: [u32; 2],
    /// Numbers of the source and the destination port.
    pub(super) ports: [u32; 2],
}

impl Flow {
    pub(super) fn is_tcp(&self) -> bool {
        self.key.protocol() == protocol::TCP
    }
}

/// The sums that theory needs of a set of packets.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Sums {
    pub(super) packets: f64,
    pub(super) octets: f64,
    /// Σ octets² over packets.
    pub(super) squares: f64,
    /// Σ packets² over flows.
    pub(super) flow_packets_squares: f64,
    /// Σ octets² over flows.
    pub(super) flow_octets_squares: f64,
}

impl Sums {
    fn add(&mut self, flow: &Flow) {
        let (packets, octets) = (flow.packets as f64, flow.octets as f64);
        self.packets += packets;
        self.octets += octets;
        self.squares += flow.squares;
        self.flow_packets_squares += packets * packets;
        self.flow_octets_squares += octets * octets;
    }
}

/// No rank: not among the top.
pub(super) const UNRANKED: u32 = u32::MAX;

/// The largest of a kind, by octets.
#[derive(Debug)]
pub(super) struct Top {
    /// The rank of each number, or [`UNRANKED`].
    pub(super) rank: Vec<u32>,
    /// What the truth is, by rank.
    pub(super) sums: Vec<Sums>,
}

impl Top {
    /// The `most` largest. Equal ones rank by their number.
    fn of(all: &[Sums], most: usize) -> Self {
        let mut order: Vec<u32> = (0..all.len() as u32).collect();
        let octets = |number: u32| all[number as usize].octets;
        order.sort_by(|&a, &b| octets(b).total_cmp(&octets(a)).then(a.cmp(&b)));
        order.truncate(most);
        let mut rank = vec![UNRANKED; all.len()];
        for (place, &number) in order.iter().enumerate() {
            rank[number as usize] = place as u32;
        }
        let sums = order.iter().map(|&number| all[number as usize]).collect();
        Self { rank, sums }
    }
}

/// Flow sizes, in packets, that are told apart: the smallest of each class.
pub(super) const SIZE_CLASSES: [u64; 5] = [1, 2, 10, 100, 1000];

/// The class of a flow of so many packets.
pub(super) fn size_class(packets: u64) -> usize {
    SIZE_CLASSES.partition_point(|&least| least <= packets) - 1
}

/// All flows, counted packet by packet.
#[derive(Debug)]
pub(super) struct Flows {
    secret: [u64; SECRET_WORDS],
    bits: PrefixBits,
    index: HashTable<u32>,
    flows: Vec<Flow>,
    prefixes: HashMap<(usize, IpAddr), u32>,
    ports: HashMap<(usize, u8, u16), u32>,
}

impl Flows {
    pub(super) fn new(secret: [u64; SECRET_WORDS], bits: PrefixBits) -> Self {
        Self {
            secret,
            bits,
            index: HashTable::new(),
            flows: Vec::new(),
            prefixes: HashMap::new(),
            ports: HashMap::new(),
        }
    }

    /// Counts a packet, and gives the number of its flow.
    pub(super) fn count(&mut self, parsed: &Parsed, ifindex: u32) -> u32 {
        let key = FlowKey::of(parsed, ifindex, Sampled::default());
        let hash = key.hash(&self.secret);
        let found = self
            .index
            .find(hash, |&flow| self.flows[flow as usize].key == key);
        let number = match found {
            Some(&number) => number,
            None => self.insert(key, hash),
        };
        let flow = &mut self.flows[number as usize];
        let octets = f64::from(parsed.packet.octets);
        flow.packets += 1;
        flow.octets += u64::from(parsed.packet.octets);
        flow.squares += octets * octets;
        flow.syns += u32::from(is_syn(parsed));
        number
    }

    fn insert(&mut self, key: FlowKey, hash: u64) -> u32 {
        let number = self.flows.len() as u32;
        let addresses = [key.source(), key.destination()];
        let ports = match has_ports(key.protocol()) {
            true => [key.source_port(), key.destination_port()],
            false => [0; 2],
        };
        let prefix = |side: usize| (side, self.bits.of(addresses[side]));
        let port = |side: usize| (side, key.protocol(), ports[side]);
        let prefixes = [prefix(0), prefix(1)].map(|prefix| numbered(&mut self.prefixes, prefix));
        let ports = [port(0), port(1)].map(|port| numbered(&mut self.ports, port));
        self.flows.push(Flow {
            key,
            hash,
            packets: 0,
            octets: 0,
            squares: 0.0,
            syns: 0,
            prefixes,
            ports,
        });
        let flows = &self.flows;
        self.index
            .insert_unique(hash, number, |&flow| flows[flow as usize].hash);
        number
    }

    pub(super) fn len(&self) -> usize {
        self.flows.len()
    }

    /// Octets of memory, about.
    pub(super) fn memory(&self) -> usize {
        self.flows.capacity() * size_of::<Flow>()
            + self.index.allocation_size()
            + map_octets(&self.prefixes)
            + map_octets(&self.ports)
    }

    /// Sums up, with the `top` largest of each kind.
    pub(super) fn finish(self, top: usize, ignored: u64) -> Truth {
        let mut total = Sums::default();
        let mut single = vec![Sums::default(); self.flows.len()];
        let mut prefixes = vec![Sums::default(); self.prefixes.len()];
        let mut ports = vec![Sums::default(); self.ports.len()];
        let mut sizes = HashMap::<u64, u64>::new();
        for (flow, single) in self.flows.iter().zip(&mut single) {
            total.add(flow);
            single.add(flow);
            for side in [0, 1] {
                prefixes[flow.prefixes[side] as usize].add(flow);
                ports[flow.ports[side] as usize].add(flow);
            }
            *sizes.entry(flow.packets).or_default() += 1;
        }
        let mut sizes: Vec<_> = sizes.into_iter().collect();
        sizes.sort_unstable();
        Truth {
            packets: self.flows.iter().map(|flow| flow.packets).sum(),
            octets: self.flows.iter().map(|flow| flow.octets).sum(),
            top_flows: Top::of(&single, top),
            top_prefixes: Top::of(&prefixes, top),
            top_ports: Top::of(&ports, top),
            flows: self.flows,
            ignored,
            total,
            sizes,
        }
    }
}

/// Whether a packet begins a flow of TCP.
pub(super) fn is_syn(parsed: &Parsed) -> bool {
    parsed.packet.protocol == protocol::TCP && parsed.packet.tcp_flags & tcp::SYN != 0
}

/// Protocols whose flows are summed by port. ICMP is summed by its protocol alone.
fn has_ports(number: u8) -> bool {
    matches!(
        number,
        protocol::TCP | protocol::UDP | protocol::UDP_LITE | protocol::SCTP | protocol::DCCP
    )
}

/// Octets that a map takes, about: an eighth of its slots stays free, and each has an octet more.
fn map_octets<K, V>(map: &HashMap<K, V>) -> usize {
    map.capacity() * 8 / 7 * (size_of::<(K, V)>() + 1)
}

fn numbered<K: Hash + Eq>(numbers: &mut HashMap<K, u32>, key: K) -> u32 {
    let next = numbers.len() as u32;
    *numbers.entry(key).or_insert(next)
}

/// The truth, summed up.
#[derive(Debug)]
pub(super) struct Truth {
    pub(super) flows: Vec<Flow>,
    pub(super) packets: u64,
    pub(super) octets: u64,
    /// Packets of no flow.
    pub(super) ignored: u64,
    pub(super) total: Sums,
    pub(super) top_flows: Top,
    pub(super) top_prefixes: Top,
    pub(super) top_ports: Top,
    /// Packets of a flow, and how many flows have so many; ascending.
    pub(super) sizes: Vec<(u64, u64)>,
}

impl Truth {
    /// All packets, those of no flow too.
    pub(super) fn frames(&self) -> f64 {
        (self.packets + self.ignored) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_may_have_any_length() {
        let bits = |v4, v6| PrefixBits { v4, v6 };
        let v4: IpAddr = "192.0.2.77".parse().expect("an address");
        let v6: IpAddr = "2001:db8:1:2::3".parse().expect("an address");
        assert_eq!(bits(24, 48).of(v4).to_string(), "192.0.2.0");
        assert_eq!(bits(32, 128).of(v4), v4);
        assert_eq!(bits(0, 0).of(v4).to_string(), "0.0.0.0");
        assert_eq!(bits(24, 48).of(v6).to_string(), "2001:db8:1::");
        assert_eq!(bits(32, 128).of(v6), v6);
        assert_eq!(bits(0, 0).of(v6).to_string(), "::");
    }

    #[test]
    fn sizes_have_classes() {
        let classes = [1, 2, 9, 10, 99, 100, 999, 1000, u64::MAX].map(size_class);
        assert_eq!(classes, [0, 1, 1, 2, 2, 3, 3, 4, 4]);
    }
}
