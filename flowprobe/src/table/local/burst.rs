//! Packets that wait until there are enough of them to be accounted at once.

use flowprobe_ebpf::{KeyV4, KeyV6, KeyWide, Packet, flow::Macs, wire::tcp};

/// Packets of a burst: as many look-ups as overlap. More would not fit into the first-level cache
/// together with what they look up.
pub const BURST: usize = 64;

/// A packet that waits: what one that belongs to a known flow adds to it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(64))]
pub(super) struct Waiting {
    pub(super) hash: u64,
    pub(super) at_ns: u64,
    /// What is OR-ed to [`packed`] marks: those of the packet, without its TTL.
    pub(super) marks: u64,
    /// Its key, if it is one of IPv4.
    pub(super) v4: KeyV4,
    pub(super) octets: u32,
    /// The slot that it most likely belongs to.
    pub(super) guess: u32,
    pub(super) key: Place,
    /// Its TTL, as smallest and as largest.
    pub(super) ttls: u16,
    /// Those of its VLAN tags, which only the first packet of a flow adds.
    priorities: u8,
}

const _: () = assert!(size_of::<Waiting>() == 64);

/// No slot: there are never so many.
pub(super) const NO_GUESS: u32 = u32::MAX;

/// Where the key of a waiting packet is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place {
    V4,
    /// In [`Burst::v6`].
    V6(u8),
    /// In [`Burst::wide`].
    Wide(u8),
    /// There is no packet, only its time.
    None,
}

const _: () = assert!(BURST <= u8::MAX as usize);

/// What only the first packet of a flow adds.
#[derive(Clone, Copy, Debug)]
struct First {
    macs: Macs,
    flow_label: u32,
}

/// A packet, taken out of a burst.
pub(super) struct Taken {
    pub(super) hash: u64,
    pub(super) at_ns: u64,
    pub(super) guess: u32,
    pub(super) macs: Macs,
    /// Without what is in its key.
    pub(super) packet: Packet,
}

/// Marks in one word: TCP flags, bits, smallest and largest TTL, options.
pub(super) mod packed {
    /// Bits of each, as shifts.
    pub(in super::super) const BITS: u32 = 8;
    pub(in super::super) const MIN_TTL: u32 = 16;
    pub(in super::super) const MAX_TTL: u32 = 24;
    pub(in super::super) const OPTIONS: u32 = 32;
}

impl Waiting {
    const NOTHING: Self = Self {
        hash: 0,
        at_ns: 0,
        marks: 0,
        v4: KeyV4 { words: [0; 3] },
        octets: 0,
        guess: NO_GUESS,
        key: Place::None,
        ttls: 0,
        priorities: 0,
    };

    /// Whether it may end a flow or begin another one, by its TCP flags.
    #[inline(always)]
    pub(super) fn is_a_turn(&self) -> bool {
        const TURNS: u8 = tcp::SYN | tcp::FIN | tcp::RST;
        self.marks as u8 & TURNS != 0
    }
}

#[derive(Debug)]
pub(super) struct Burst {
    len: usize,
    waiting: [Waiting; BURST],
    first: [First; BURST],
    v6: Vec<KeyV6>,
    wide: Vec<KeyWide>,
}

impl Default for Burst {
    fn default() -> Self {
        let first = First {
            macs: Macs::default(),
            flow_label: 0,
        };
        Self {
            len: 0,
            waiting: [Waiting::NOTHING; BURST],
            first: [first; BURST],
            v6: Vec::with_capacity(BURST),
            wide: Vec::new(),
        }
    }
}

impl Burst {
    /// Packets that wait.
    #[inline(always)]
    pub(super) fn len(&self) -> usize {
        self.len.min(BURST)
    }

    /// The place of a key of IPv6.
    #[inline(always)]
    pub(super) fn keep_v6(&mut self, key: KeyV6) -> Place {
        let place = Place::V6(self.v6.len() as u8);
        self.v6.push(key);
        place
    }

    /// The place of a wide key.
    pub(super) fn keep_wide(&mut self, key: KeyWide) -> Place {
        let place = Place::Wide(self.wide.len() as u8);
        self.wide.push(key);
        place
    }

    /// Puts in a packet. There must be room: whoever fills it up empties it.
    #[inline(always)]
    pub(super) fn push(
        &mut self,
        (key, v4, hash): (Place, KeyV4, u64),
        packet: &Packet,
        macs: Macs,
        at_ns: u64,
    ) {
        let at = self.len % BURST;
        let marks = u64::from(packet.tcp_flags)
            | u64::from(packet.fragment_flags) << packed::BITS
            | u64::from(packet.options) << packed::OPTIONS;
        let waiting = &mut self.waiting[at];
        waiting.hash = hash;
        waiting.at_ns = at_ns;
        waiting.marks = marks;
        waiting.v4 = v4;
        waiting.octets = packet.octets;
        waiting.key = key;
        waiting.ttls = u16::from(packet.ttl) * 0x0101;
        waiting.priorities = packet.priorities;
        self.first[at] = First {
            macs,
            flow_label: packet.flow_label,
        };
        self.len = at + 1;
    }

    /// Those that wait.
    #[inline(always)]
    pub(super) fn waiting_mut(&mut self) -> &mut [Waiting] {
        let len = self.len();
        &mut self.waiting[..len]
    }

    #[inline(always)]
    pub(super) fn waiting(&self, at: usize) -> &Waiting {
        &self.waiting[at % BURST]
    }

    #[inline(always)]
    pub(super) fn v6(&self, at: u8) -> &KeyV6 {
        &self.v6[usize::from(at)]
    }

    #[inline(always)]
    pub(super) fn wide(&self, at: u8) -> &KeyWide {
        &self.wide[usize::from(at)]
    }

    /// One of them, with all that is known of it.
    pub(super) fn take(&self, at: usize) -> Taken {
        let (waiting, first) = (&self.waiting[at % BURST], &self.first[at % BURST]);
        Taken {
            hash: waiting.hash,
            at_ns: waiting.at_ns,
            guess: waiting.guess,
            macs: first.macs,
            packet: Packet {
                octets: waiting.octets,
                flow_label: first.flow_label,
                options: (waiting.marks >> packed::OPTIONS) as u32,
                ttl: waiting.ttls as u8,
                tcp_flags: waiting.marks as u8,
                fragment_flags: (waiting.marks >> packed::BITS) as u8,
                priorities: waiting.priorities,
                ..Packet::EMPTY
            },
        }
    }

    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.v6.clear();
        self.wide.clear();
    }
}
