//! A flow in userspace, put together from its parts on several CPUs.

use flowprobe_ebpf::{
    Addresses, Counters, KeyV4, KeyV6, KeyWide, Marks, Packet, Parsed,
    flow::Macs,
    key::Key as _,
    ring::{Part, family},
    sampling::Sampled,
};

use crate::record::FlowKey;

/// How far the clocks of two CPUs may be apart: a tick of the kernel, which has 100 in a second at
/// least.
pub(super) const TICK_NS: u64 = 10_000_000;

/// A flow, or the part of one that a single CPU counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Key.
    pub key: FlowKey,
    /// Counts and times.
    pub counters: Counters,
    /// Flags, TTLs, label, options.
    pub marks: Marks,
    /// MAC addresses.
    pub macs: Macs,
}

impl FlowKey {
    /// The key of a frame that came in on `ifindex`.
    #[must_use]
    pub fn of(parsed: &Parsed, ifindex: u32, sampled: Sampled) -> Self {
        let Parsed { packet, around, .. } = parsed;
        if around.is_wide() {
            return Self::Wide(KeyWide::new(packet, around, ifindex, sampled));
        }
        match packet.addresses {
            Addresses::V4(addresses) => Self::V4(KeyV4::new(addresses, packet, ifindex, sampled)),
            Addresses::V6(addresses) => Self::V6(KeyV6::new(addresses, packet, ifindex, sampled)),
        }
    }
}

impl Flow {
    /// The flow whose first packet is `packet`, stamped `at_ns`.
    #[must_use]
    pub fn first(key: FlowKey, packet: &Packet, macs: Macs, at_ns: u64) -> Self {
        Self {
            key,
            counters: Counters::first(packet, at_ns),
            marks: Marks::first(packet),
            macs,
        }
    }

    /// Adds one packet, whose stamp may be earlier than those before it.
    pub fn add(&mut self, packet: &Packet, at_ns: u64) {
        let Counters {
            first_ns, last_ns, ..
        } = self.counters;
        self.counters.add(packet, at_ns.max(last_ns));
        self.counters.first_ns = at_ns.min(first_ns);
        self.marks.add(packet);
    }

    /// The flow in a part from a ring; `None` if its family is unknown.
    #[must_use]
    pub fn from_part(part: &Part) -> Option<Self> {
        let key = match part.family {
            family::V4 => FlowKey::V4(KeyV4::read(&part.key)),
            family::V6 => FlowKey::V6(KeyV6::read(&part.key)),
            family::WIDE => FlowKey::Wide(KeyWide::read(&part.key)),
            _ => return None,
        };
        Some(Self {
            key,
            counters: part.counters,
            marks: part.marks,
            macs: part.macs,
        })
    }

    /// Adds another part. What is the first packet's is that of the earlier one; of two that began
    /// within a tick of each other, as the CPUs' clocks go, the one that began with SYN.
    pub fn merge(&mut self, other: &Self) {
        let (mine, others) = (self.counters.first_ns, other.counters.first_ns);
        let opened = [self.marks, other.marks].map(|marks| marks.began_with_syn());
        let is_earlier = match opened {
            [mine_opened, others_opened]
                if mine_opened != others_opened && mine.abs_diff(others) <= TICK_NS =>
            {
                others_opened
            }
            _ => others < mine,
        };
        if is_earlier {
            self.macs = other.macs;
            self.marks.begin_with(&other.marks);
        }
        self.counters.merge(&other.counters);
        self.marks.merge(&other.marks);
    }
}
