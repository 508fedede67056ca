//! The shared memory, what the checker knows beside it, and what must never happen.

use flowprobe_ebpf::table::Control;

use crate::{drainer::Drainer, program::Program, sweeper::Sweeper};

/// Ways of the bucket, at most.
pub(crate) const WAYS: usize = 2;
/// Places of the ring, at most.
pub(crate) const PLACES: usize = 2;
/// Flows, at most.
pub(crate) const FLOWS: usize = 3;

/// Packets, a bit each: what a counter stands for. A sum can be right by chance, a set cannot.
pub(crate) type Set = u8;

/// One packet of a scenario.
#[derive(Clone, Copy)]
pub(crate) struct Packet {
    pub(crate) flow: u8,
    pub(crate) kind: Kind,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Data,
    Fin,
    Syn,
}

/// What is run.
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) ways: usize,
    pub(crate) places: u8,
    /// How often the sweeper looks at the bucket.
    pub(crate) sweeps: u8,
    /// Whether all flows share one fingerprint, as one pair in 2³² does.
    pub(crate) same_fingerprint: bool,
    pub(crate) packets: &'static [Packet],
}

impl Scenario {
    pub(crate) fn fingerprint(&self, flow: u8) -> u32 {
        if self.same_fingerprint {
            7
        } else {
            7 + u32::from(flow)
        }
    }

    pub(crate) fn all(&self) -> Set {
        ((1_u16 << self.packets.len()) - 1) as Set
    }

    fn of_flow(&self, flow: u8) -> Set {
        self.set(|packet| packet.flow == flow)
    }

    fn set(&self, wanted: impl Fn(&Packet) -> bool) -> Set {
        let numbered = self.packets.iter().enumerate();
        numbered
            .filter(|(_, packet)| wanted(packet))
            .fold(0, |set, (at, _)| set | 1 << at)
    }

    /// Whether `set` has both a FIN and a later SYN of one flow: two connections.
    fn spans_restart(&self, set: Set) -> bool {
        let fins = set & self.set(|packet| packet.kind == Kind::Fin);
        let syns = set & self.set(|packet| packet.kind == Kind::Syn);
        fins != 0 && syns > fins & fins.wrapping_neg()
    }
}

/// The protocol, or the protocol with one rule left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Right,
    /// The sweeper reads at once what it has retired.
    NoGrace,
    /// Control words have state and fingerprint only.
    NoGenerations,
    /// A new flow's control word is published before its fields are stored.
    ControlFirst,
    /// A part is published before it is written.
    HeadFirst,
    /// The drainer gives places back before it reads them.
    TailFirst,
    /// The program writes into the ring without looking whether there is room.
    NoReserve,
    /// The program takes its victim by a plain store instead of a compare-and-swap.
    PlainTake,
    /// The sweeper gives slots back before it reads them.
    FreeFirst,
}

impl Protocol {
    /// The control word as this protocol stores it.
    pub(crate) fn stored(self, control: Control) -> u64 {
        const GENERATION: u64 = (1 << 30) - 1;
        match self {
            Self::NoGenerations => control.0 & !GENERATION,
            _ => control.0,
        }
    }
}

/// What must not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Violation {
    /// Something is read that a running program may still write.
    Unsettled,
    /// Packets and octets of one record do not fit together.
    Torn,
    /// A record has packets of two flows.
    Mixed,
    /// A packet is in two records.
    Twice,
    /// A packet is in no record and not counted as lost.
    Missing,
    /// A place of the ring is written anew before the drainer has read it.
    Overwritten,
    /// A flow is live in two ways of one partition.
    Doubled,
    /// One part has both the FIN of a connection and the SYN of the next.
    Rejoined,
}

impl Violation {
    pub(crate) const ALL: [Self; 8] = [
        Self::Unsettled,
        Self::Torn,
        Self::Mixed,
        Self::Twice,
        Self::Missing,
        Self::Overwritten,
        Self::Doubled,
        Self::Rejoined,
    ];
}

/// The fields of a way or of a part in the ring, a word each.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Fields {
    pub(crate) flow: u8,
    pub(crate) packets: Set,
    pub(crate) octets: Set,
    /// FIN or RST seen.
    pub(crate) ended: bool,
}

impl Fields {
    /// Words of it.
    pub(crate) const WORDS: u8 = 4;

    /// Copies one word: a single access.
    pub(crate) fn copy_word(&mut self, word: u8, from: &Self) {
        match word {
            0 => self.flow = from.flow,
            1 => self.packets = from.packets,
            2 => self.octets = from.octets,
            _ => self.ended = from.ended,
        }
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Way {
    /// A [`Control`], which has no hash of its own.
    pub(crate) control: u64,
    pub(crate) fields: Fields,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Part {
    pub(crate) fields: Fields,
    pub(crate) restarted: bool,
}

/// Everything, at one moment.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct State {
    // Shared memory.
    pub(crate) ways: [Way; WAYS],
    pub(crate) ring: [Part; PLACES],
    pub(crate) head: u8,
    pub(crate) tail: u8,
    // The three that use it.
    pub(crate) program: Program,
    pub(crate) sweeper: Sweeper,
    pub(crate) drainer: Drainer,
    // Userspace's own: flows that live on there, and records that have been exported.
    pub(crate) overflow: [Set; FLOWS],
    pub(crate) exported: Set,
    // The ledger's lost{ring_full}.
    pub(crate) lost: Set,
    /// SYNs that were counted into the old connection because the ring was full, as documented.
    pub(crate) excused: Set,
    /// What has gone wrong so far, a bit for each [`Violation`].
    pub(crate) wrong: u8,
}

impl State {
    pub(crate) fn violate(&mut self, violation: Violation) {
        self.wrong |= 1 << violation as u8;
    }

    pub(crate) fn control(&self, way: u8) -> Control {
        Control(self.ways[usize::from(way)].control)
    }

    /// Checks what was read from a way or a part.
    pub(crate) fn check(&mut self, scenario: &Scenario, fields: &Fields) {
        if fields.packets != fields.octets {
            self.violate(Violation::Torn);
        }
        self.check_flow(scenario, fields.flow, fields.packets);
        if scenario.spans_restart(fields.packets & !self.excused) {
            self.violate(Violation::Rejoined);
        }
    }

    pub(crate) fn check_flow(&mut self, scenario: &Scenario, flow: u8, set: Set) {
        if set & !scenario.of_flow(flow) != 0 {
            self.violate(Violation::Mixed);
        }
    }

    /// Keeps a part in userspace.
    pub(crate) fn keep(&mut self, flow: u8, set: Set) {
        let kept = &mut self.overflow[usize::from(flow)];
        let twice = *kept & set != 0;
        *kept |= set;
        if twice {
            self.violate(Violation::Twice);
        }
    }

    /// Takes what userspace keeps of a flow.
    pub(crate) fn take_kept(&mut self, flow: u8) -> Set {
        std::mem::take(&mut self.overflow[usize::from(flow)])
    }

    /// Exports a record.
    pub(crate) fn export(&mut self, set: Set) {
        if self.exported & set != 0 {
            self.violate(Violation::Twice);
        }
        self.exported |= set;
    }
}
