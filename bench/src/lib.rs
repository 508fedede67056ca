//! What the harness and its BPF programs agree on: the test packet, and how it walks over flows.
#![no_std]

#[cfg(test)]
extern crate std;

/// Most flows: their numbers fill the host part of 10.0.0.0/8.
pub const MAX_FLOWS: u32 = 1 << 24;

/// 10.0.0.0, in host order; the number of the flow is added.
pub const NETWORK: u32 = 10 << 24;

/// 192.0.2.1, in host order, behind the source address.
pub const DESTINATION: u32 = 0xc000_0201;

/// Octets of all test packets.
pub const FRAME_LEN: usize = 128;

/// A test packet: UDP from 10.x.x.x port 4660 to 192.0.2.1 port 53535 (or the same over IPv6), with
/// something around it or not. The checksums are 0: nobody on the way looks at them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Its name on the command line.
    pub name: &'static str,
    /// Its octets.
    pub octets: [u8; FRAME_LEN],
    /// How many of them are sent.
    pub len: usize,
    /// Where the eight octets are that tell the flows apart.
    pub flow_at: usize,
}

const MACS: &[u8] = &[2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1];
const IPV4: &[u8] = &[
    0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 0, 192, 0, 2, 1,
];
const IPV6: &[u8] = &[
    0x60, 0, 0, 0, 0, 30, 17, 64, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x20, 1,
    0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1,
];
const UDP: &[u8] = &[0x12, 0x34, 0xd1, 0x1f, 0, 30, 0, 0];
/// Octets behind the UDP header.
const DATA: usize = 22;

/// Offset of the source address in an IPv4 header.
const V4_FLOW: usize = 12;
/// Offset of the lower half of the source address in an IPv6 header.
const V6_FLOW: usize = 16;

impl Frame {
    const fn new(name: &'static str, around: &[&[u8]], v6: bool) -> Self {
        let mut octets = [0; FRAME_LEN];
        let mut len = append(&mut octets, 0, MACS);
        let mut i = 0;
        while i < around.len() {
            len = append(&mut octets, len, around[i]);
            i += 1;
        }
        let flow_at = len + if v6 { V6_FLOW } else { V4_FLOW };
        len = append(&mut octets, len, if v6 { IPV6 } else { IPV4 });
        len = append(&mut octets, len, UDP) + DATA;
        assert!(len <= FRAME_LEN);
        Self {
            name,
            octets,
            len,
            flow_at,
        }
    }

    /// What is sent.
    #[must_use]
    pub fn sent(&self) -> &[u8] {
        &self.octets[..self.len]
    }
}

const fn append(to: &mut [u8; FRAME_LEN], at: usize, octets: &[u8]) -> usize {
    let mut i = 0;
    while i < octets.len() {
        to[at + i] = octets[i];
        i += 1;
    }
    at + octets.len()
}

/// 64 octets, as most packets are made.
pub const PLAIN: Frame = Frame::new("plain", &[&[0x08, 0]], false);

/// All kinds of test packet.
pub static FRAMES: [Frame; 6] = [
    PLAIN,
    Frame::new("ipv6", &[&[0x86, 0xdd]], true),
    Frame::new("vlan", &[&[0x81, 0, 0, 7, 0x08, 0]], false),
    Frame::new(
        "qinq",
        &[&[0x88, 0xa8, 0, 7, 0x81, 0, 0, 8, 0x08, 0]],
        false,
    ),
    Frame::new(
        "mpls",
        &[&[0x88, 0x47, 0, 0x6, 0x40, 64, 0, 0x6, 0x51, 64]],
        false,
    ),
    Frame::new(
        "vxlan",
        &[
            &[
                0x08, 0, 0x45, 0, 0, 100, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 7, 192, 0, 2, 8,
            ],
            &[0xc0, 0, 0x12, 0xb5, 0, 80, 0, 0, 8, 0, 0, 0, 0, 0, 42, 0],
            MACS,
            &[0x08, 0],
        ],
        false,
    ),
];

/// Which flow the next packet belongs to.
///
/// The walk jumps about the flows as unrelated packets do, and passes through each of them once
/// before it comes back to the first. Its order is one of two: a program is filled in the one and
/// timed in the other. Were it the same, a hash map whose elements lie in the order of insertion
/// would be read from front to back, as no real traffic does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Walk {
    /// Packets so far.
    pub packets: u64,
    /// Flows, a power of two, less one.
    pub mask: u32,
    /// Where the `generate` program sends its packets.
    pub ifindex: u32,
    /// One of [`FIRST_ORDER`], [`LATER_ORDER`].
    pub order: u32,
    /// Half the bits of a flow's number.
    pub half: u32,
    /// See [`Frame::flow_at`].
    pub flow_at: u32,
    /// Zero.
    pub pad: u32,
}

/// The order in which flows begin: Knuth's multiplier, 2³² over the golden ratio.
pub const FIRST_ORDER: u32 = 2_654_435_761;
/// The order in which known flows are timed.
pub const LATER_ORDER: u32 = 0x85eb_ca6b;

impl Walk {
    /// The number of the next packet's flow.
    #[inline(always)]
    pub fn step(&mut self) -> u32 {
        // Products with an odd number, and shifted sums, are permutations modulo a power of two.
        let mut flow = (self.packets as u32).wrapping_mul(self.order) & self.mask;
        flow ^= flow >> self.half;
        self.packets += 1;
        flow.wrapping_mul(self.order) & self.mask
    }

    /// From the first of `flows` flows on, which are a power of two, in packets of this kind.
    #[must_use]
    pub fn new(flows: u32, order: u32, frame: &Frame) -> Self {
        Self {
            packets: 0,
            mask: flows - 1,
            ifindex: 0,
            order,
            half: flows.trailing_zeros().div_ceil(2).max(1),
            flow_at: frame.flow_at as u32,
            pad: 0,
        }
    }

    /// The memory of the variable in the BPF object.
    #[must_use]
    pub fn to_bytes(self) -> [u8; size_of::<Self>()] {
        let mut bytes = [0; size_of::<Self>()];
        bytes[..8].copy_from_slice(&self.packets.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.mask.to_ne_bytes());
        bytes[12..16].copy_from_slice(&self.ifindex.to_ne_bytes());
        bytes[16..20].copy_from_slice(&self.order.to_ne_bytes());
        bytes[20..24].copy_from_slice(&self.half.to_ne_bytes());
        bytes[24..28].copy_from_slice(&self.flow_at.to_ne_bytes());
        bytes
    }
}

/// Value of the same-clock baseline's clock, one for each CPU.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(64))]
pub struct Clock {
    /// The tick at which `now_ns` was read.
    pub jiffies: u64,
    /// Nanoseconds of CLOCK_MONOTONIC.
    pub now_ns: u64,
    /// Packets until the clock is read again within the tick.
    pub left: u64,
    /// Zero; fills the cache line.
    pub pad: [u64; 5],
}

#[cfg(test)]
mod tests {
    use std::{vec, vec::Vec};

    use flowprobe_ebpf::Tunnels;

    use super::*;

    #[test]
    fn walk_passes_through_each_flow_once() {
        for flows in [1_u32, 2, 4096, 65536] {
            let mut walk = Walk::new(flows, LATER_ORDER, &PLAIN);
            for _ in 0..3 {
                let mut seen = vec![0_u8; flows as usize];
                for _ in 0..flows {
                    seen[walk.step() as usize] += 1;
                }
                assert!(seen.iter().all(|&n| n == 1), "{flows} flows");
            }
        }
    }

    #[test]
    fn walk_does_not_go_along_the_flows() {
        let mut walk = Walk::new(1 << 16, FIRST_ORDER, &PLAIN);
        let flows: Vec<_> = (0..1000).map(|_| i64::from(walk.step())).collect();
        assert!(flows.windows(2).all(|w| (w[1] - w[0]).abs() > 64));
    }

    #[test]
    fn frames_are_whole_packets() {
        assert_eq!(PLAIN.len, 64);
        for frame in &FRAMES {
            let parsed = flowprobe_ebpf::parse(frame.sent(), &Tunnels::INNER).unwrap();
            let packet = parsed.packet;
            let v6 = frame.name == "ipv6";
            assert_eq!(packet.octets, if v6 { 70 } else { 50 }, "{}", frame.name);
            assert_eq!(packet.protocol, 17);
            assert_eq!(
                parsed.around.is_wide(),
                matches!(frame.name, "qinq" | "mpls" | "vxlan")
            );
            let flow = frame.octets[frame.flow_at..]
                .first_chunk()
                .copied()
                .unwrap();
            let flow = u64::from_be_bytes(flow);
            let expected = u64::from(NETWORK) << 32 | u64::from(DESTINATION);
            assert_eq!(flow, if v6 { 0 } else { expected });
        }
    }
}
