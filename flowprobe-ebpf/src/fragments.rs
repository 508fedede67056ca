//! The ports of later fragments: those of the first one.
//!
//! Only the first fragment of a packet has a transport header. What it says is kept for the others
//! in a small table, a run of [`FragmentSet`]s for each CPU: fragments of one packet have no ports
//! that a NIC could spread by, so they arrive on one CPU. An attacker who floods fragments fills
//! only this table. A fragment whose first one is not known, since it came earlier, took another
//! way, or was displaced, belongs to the flow with ports 0 and is counted as an orphan.

use crate::{
    hash::hash_each,
    parse::{AROUND_WORDS, Addresses, Packet, Parsed, network::has_ports},
};

/// First fragments in a set.
pub const FRAGMENT_WAYS: usize = 4;

/// How long later fragments are expected: as long as Linux waits for them (net.ipv4.ipfrag_time).
pub const FRAGMENT_LIFETIME_NS: u64 = 30_000_000_000;

/// Units of the time in [`Entry::seen`], as a shift of nanoseconds.
const SEEN_SHIFT: u32 = 24;
/// Bits of the protocol below it.
const PROTOCOL_BITS: u32 = 8;

/// What is remembered of a first fragment, 16 octets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Entry {
    /// See [`tag`]; 0 is no entry.
    tag: u64,
    /// Its ports, as in [`Packet::ports`].
    ports: u32,
    /// When it was seen, in units of 2²⁴ ns (17 ms), modulo 2²⁴ (78 h); below, its protocol.
    seen: u32,
}

/// A set of entries: one cache line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct FragmentSet {
    entries: [Entry; FRAGMENT_WAYS],
}

const _: () = assert!(size_of::<FragmentSet>() == 64);

/// Whether a packet is a fragment that gives or needs ports. Over IPv4 each fragment says the
/// protocol; over IPv6 what a later one names may be one more extension header.
#[inline(always)]
#[must_use]
pub fn is_followed(parsed: &Parsed) -> bool {
    let Parsed {
        packet, fragment, ..
    } = parsed;
    let v6 = matches!(packet.addresses, Addresses::V6(_));
    fragment.is_fragment() && (v6 || has_ports(packet.protocol))
}

/// Words of what the fragments of a packet share.
const TAG_WORDS: usize = 6 + AROUND_WORDS;

/// The tag of the packet that a fragment belongs to: a keyed hash of what its fragments share. Its
/// low bits choose the set.
#[inline(always)]
#[must_use]
pub fn tag(parsed: &Parsed, ifindex: u32, secret: impl Fn(usize) -> u64) -> u64 {
    let Parsed {
        packet,
        around,
        fragment,
        ..
    } = parsed;
    // RFC 791 §3.2: addresses, protocol and identification. RFC 8200 §4.5: addresses and
    // identification; later fragments do not say which protocol is behind further headers. In
    // another VLAN, label or tunnel the same addresses may be other hosts'.
    let (addresses, protocol) = match packet.addresses {
        Addresses::V4(both) => ([both, 0, 0, 0], packet.protocol),
        Addresses::V6(words) => (words, 0),
    };
    let word = |i: usize| match i {
        0..4 => addresses[i],
        4 => u64::from(fragment.id) << 32 | u64::from(ifindex),
        5 => u64::from(packet.vlan) << 8 | u64::from(protocol),
        _ => around.words()[i - 6],
    };
    hash_each::<TAG_WORDS>(word, secret) | 1 << 63
}

impl FragmentSet {
    /// Remembers a first fragment, in the place of the oldest entry.
    #[inline(always)]
    pub fn insert(&mut self, tag: u64, packet: &Packet, now_ns: u64) {
        let mut place = 0;
        let mut i = 0;
        while i < FRAGMENT_WAYS {
            if self.entries[i].tag == tag {
                place = i;
                break;
            }
            if self.entries[i].seen < self.entries[place & (FRAGMENT_WAYS - 1)].seen {
                place = i;
            }
            i += 1;
        }
        self.entries[place & (FRAGMENT_WAYS - 1)] = Entry {
            tag,
            ports: packet.ports,
            seen: units(now_ns) << PROTOCOL_BITS | u32::from(packet.protocol),
        };
    }

    /// Gives a later fragment the ports and the protocol of the first one; false if that is not
    /// known.
    #[inline(always)]
    pub fn complete(&self, tag: u64, packet: &mut Packet, now_ns: u64) -> bool {
        let mut i = 0;
        while i < FRAGMENT_WAYS {
            let entry = &self.entries[i];
            let then = entry.seen >> PROTOCOL_BITS;
            let age = units(now_ns).wrapping_sub(then) & (u32::MAX >> PROTOCOL_BITS);
            let expected = age <= (FRAGMENT_LIFETIME_NS >> SEEN_SHIFT) as u32;
            if entry.tag == tag && expected {
                packet.ports = entry.ports;
                packet.protocol = entry.seen as u8;
                return true;
            }
            i += 1;
        }
        false
    }
}

#[inline(always)]
fn units(now_ns: u64) -> u32 {
    (now_ns >> SEEN_SHIFT) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNIT: u64 = 1 << SEEN_SHIFT;

    fn first(ports: u32) -> Packet {
        Packet {
            ports,
            protocol: 17,
            ..Packet::EMPTY
        }
    }

    fn ports(set: &FragmentSet, tag: u64, now_ns: u64) -> Option<u32> {
        let mut packet = Packet::EMPTY;
        set.complete(tag, &mut packet, now_ns).then(|| {
            assert_eq!(packet.protocol, 17);
            packet.ports
        })
    }

    #[test]
    fn the_oldest_of_a_set_is_displaced() {
        let mut set = FragmentSet::default();
        for i in 1..=5 {
            set.insert(i, &first(i as u32), i * UNIT);
        }
        assert_eq!(ports(&set, 1, 5 * UNIT), None);
        for i in 2..=5 {
            assert_eq!(ports(&set, i, 5 * UNIT), Some(i as u32));
        }
    }

    #[test]
    fn an_identification_used_again_has_its_new_ports() {
        let mut set = FragmentSet::default();
        set.insert(7, &first(1), 0);
        set.insert(7, &first(2), UNIT);
        assert_eq!(ports(&set, 7, UNIT), Some(2));
        assert_eq!(set.entries.iter().filter(|e| e.tag == 7).count(), 1);
    }

    #[test]
    fn nobody_waits_for_ever() {
        let mut set = FragmentSet::default();
        set.insert(7, &first(1), 0);
        assert_eq!(ports(&set, 7, FRAGMENT_LIFETIME_NS - UNIT), Some(1));
        assert_eq!(ports(&set, 7, FRAGMENT_LIFETIME_NS + UNIT), None);
    }

    #[test]
    fn the_clock_may_wrap() {
        let wrap = UNIT << (32 - PROTOCOL_BITS);
        let mut set = FragmentSet::default();
        set.insert(7, &first(1), wrap - UNIT);
        assert_eq!(ports(&set, 7, wrap + UNIT), Some(1));
    }
}
