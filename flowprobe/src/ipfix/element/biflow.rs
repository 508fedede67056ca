//! Biflows (RFC 5103): what the source sent, the reverse elements of what came back, and who began.

use std::ops::RangeInclusive;

use super::{
    FlowElements,
    value::{Show as _, Value, append_name},
    wide::as_wide,
};
use crate::{
    ipfix::template::{CERT, Field, Template},
    record::{Direction, FlowKey, FlowRecord},
};

/// Numbers of the templates of biflows.
pub(in crate::ipfix) const BIFLOWS: RangeInclusive<u16> = 264..=271;

/// How much higher the number of a biflow's template is than that of its flows.
pub(super) const BIFLOW: u16 = 8;

/// What a biflow has once, at its end: who began, and how long the first answer took.
pub(super) const OF_BOTH: [Field; 2] = [
    Field {
        name: "biflowDirection",
        enterprise: 0,
        number: 239,
        length: <u8 as Value>::LENGTH,
        key: false,
    },
    // Also from the two flowStartMilliseconds; YAF and SiLK look here.
    Field {
        name: "reverseFlowDeltaMilliseconds",
        enterprise: CERT,
        number: 21,
        length: <u32 as Value>::LENGTH,
        key: false,
    },
];

/// A biflow: what its source sent, what came back, and who is known to have begun.
#[derive(Clone, Copy, Debug)]
pub struct Both<'a> {
    /// From the source.
    pub forward: &'a FlowRecord,
    /// To the source.
    pub reverse: &'a FlowRecord,
    /// Whether the source is known to have begun.
    pub direction: Direction,
}

impl<'a> Both<'a> {
    /// The biflow of two records, if that is what they are.
    #[inline]
    #[must_use]
    pub fn of(forward: &'a FlowRecord, next: Option<&'a FlowRecord>) -> Option<Self> {
        let direction = forward.forward_of(next)?;
        Some(Self {
            forward,
            reverse: next?,
            direction,
        })
    }

    /// The first answer, in milliseconds after the first packet.
    fn delta_ms(&self) -> u32 {
        let delta = self.reverse.start_ms.saturating_sub(self.forward.start_ms);
        delta.try_into().unwrap_or(u32::MAX)
    }

    /// Encodes it; `keys` are the views of both keys, `room` gives the octets for a record of a
    /// template.
    fn encode<'b, V: FlowElements>(
        &self,
        keys: [&V; 2],
        room: impl FnOnce(&Template) -> Option<&'b mut [u8]>,
    ) -> bool {
        let Some(to) = room(&V::BIFLOW) else {
            return false;
        };
        let (there, back) = to.split_at_mut(V::TEMPLATE.record_length());
        keys[0].encode(self.forward, there);
        let rest = keys[1].encode_reverse(self.reverse, back);
        let (direction, delta) = rest.split_at_mut(<u8 as Value>::LENGTH.into());
        (self.direction as u8).put(direction);
        self.delta_ms().put(delta);
        true
    }

    /// Appends what it has more than the flow from its source, as JSON.
    pub(super) fn show(&self, to: &mut Vec<u8>) {
        match (&self.forward.key, &self.reverse.key) {
            (FlowKey::V4(_), FlowKey::V4(back)) => self.show_with(back, to),
            (FlowKey::V6(_), FlowKey::V6(back)) => self.show_with(back, to),
            (there, back) => {
                let [there, back] = [there, back].map(FlowKey::widened);
                as_wide!(&there, |wide| self.show_with(&wide.likewise(&back), to));
            }
        }
    }

    fn show_with<V: FlowElements>(&self, key: &V, to: &mut Vec<u8>) {
        key.show_reverse(self.reverse, to);
        for (field, value) in OF_BOTH.iter().zip([self.direction as u32, self.delta_ms()]) {
            append_name(field.name, to);
            value.show(to);
        }
    }
}

/// Encodes a biflow, as [`encode`] does a flow. The keys of its halves are of one kind but for what
/// is around them: that is told of both where one has it.
pub(in crate::ipfix) fn encode_both<'a>(
    both: &Both<'_>,
    dot1q: bool,
    room: impl FnOnce(&Template) -> Option<&'a mut [u8]>,
) -> bool {
    let keys = [&both.forward.key, &both.reverse.key];
    let tagged = dot1q && keys.iter().any(|key| key.vlan() != 0);
    match keys {
        [FlowKey::V4(there), FlowKey::V4(back)] if !tagged => both.encode([there, back], room),
        [FlowKey::V6(there), FlowKey::V6(back)] if !tagged => both.encode([there, back], room),
        _ => {
            let [there, back] = keys.map(FlowKey::widened);
            as_wide!(&there, |wide| both
                .encode([&wide, &wide.likewise(&back)], room))
        }
    }
}
