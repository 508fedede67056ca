//! What the harness and its BPF programs agree on: the test packet, and how it walks over flows.
#![no_std]

#[cfg(test)]
extern crate std;

/// Most flows: their numbers fill the host part of 10.0.0.0/8.
pub const MAX_FLOWS: u32 = 1 << 24;

/// Offset of the IPv4 source address in [`FRAME`].
pub const SOURCE: usize = 26;

/// 10.0.0.0, in host order; the number of the flow is added.
pub const NETWORK: u32 = 10 << 24;

/// 192.0.2.1, in host order, behind the source address.
pub const DESTINATION: u32 = 0xc000_0201;

/// 64 octets, UDP from 10.x.x.x port 4660 to 192.0.2.1 port 53535. The checksums are 0: nobody
/// on the way looks at them.
pub const FRAME: [u8; 64] = {
    let head = [
        2, 0, 0, 0, 0, 2, 2, 0, 0, 0, 0, 1, 0x08, 0x00, // Ethernet
        0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 0, 192, 0, 2, 1, // IPv4
        0x12, 0x34, 0xd1, 0x1f, 0, 30, 0, 0, // UDP
    ];
    let mut frame = [0; 64];
    let mut i = 0;
    while i < head.len() {
        frame[i] = head[i];
        i += 1;
    }
    frame
};

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

    /// From the first of `flows` flows on, which are a power of two.
    #[must_use]
    pub fn new(flows: u32, order: u32) -> Self {
        Self {
            packets: 0,
            mask: flows - 1,
            ifindex: 0,
            order,
            half: flows.trailing_zeros().div_ceil(2).max(1),
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
        bytes[20..].copy_from_slice(&self.half.to_ne_bytes());
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

    use super::*;

    #[test]
    fn walk_passes_through_each_flow_once() {
        for flows in [1_u32, 2, 4096, 65536] {
            let mut walk = Walk::new(flows, LATER_ORDER);
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
        let mut walk = Walk::new(1 << 16, FIRST_ORDER);
        let flows: Vec<_> = (0..1000).map(|_| i64::from(walk.step())).collect();
        assert!(flows.windows(2).all(|w| (w[1] - w[0]).abs() > 64));
    }

    #[test]
    fn frame_is_a_whole_packet() {
        let packet = flowprobe_ebpf::parse::plain(&FRAME[..]).unwrap();
        assert_eq!(packet.octets as usize, FRAME.len() - 14);
        assert_eq!(packet.protocol, 17);
        let source = FRAME[SOURCE..SOURCE + 4].try_into().unwrap();
        assert_eq!(u32::from_be_bytes(source), NETWORK);
        let destination = FRAME[SOURCE + 4..].first_chunk().copied().unwrap();
        assert_eq!(u32::from_be_bytes(destination), DESTINATION);
    }
}
