//! A flow in userspace, put together from its parts on several CPUs.

use flowprobe_ebpf::{
    Counters, KeyV4, KeyV6, KeyWide, Marks,
    flow::Macs,
    key::Key as _,
    ring::{Part, family},
};

use crate::record::FlowKey;

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

impl Flow {
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

    /// Adds another part. What is the first packet's is that of the earlier one.
    pub fn merge(&mut self, other: &Self) {
        if other.counters.first_ns < self.counters.first_ns {
            self.macs = other.macs;
            self.marks.begin_with(&other.marks);
        }
        self.counters.merge(&other.counters);
        self.marks.merge(&other.marks);
    }
}
