//! The XDP program on one CPU: `flowprobe-ebpf/src/program/account.rs`, access by access.
//!
//! Words that only the program ever writes are read here without a step of their own: such a
//! read gives the same at any moment of the run.

use flowprobe_ebpf::table::{Control, State as Holder};

use crate::{
    explore::{Next, Reached},
    model::{Fields, Kind, Part, Protocol, Set, State, Violation},
};

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Program {
    /// Packets begun.
    pub(crate) begun: u8,
    step: Step,
}

/// The next access.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Step {
    /// Between packets: no RCU reader.
    #[default]
    Outside,
    /// `find`: load a control word. Turn 0 is the preferred way's, then all have theirs.
    Match { turn: u8 },
    /// `find`: load the key.
    Compare { turn: u8, way: u8 },
    /// Count into a way that was found.
    Count { way: u8, word: u8 },
    /// `free`: load a control word, from the preferred way on.
    FindFree { turn: u8 },
    /// `reserve`: load the ring's tail. For a restart of the flow in this way, or for an insert.
    Reserve { restart: Option<u8> },
    /// `victim`: any way at all.
    Choose,
    /// `take`: load the control word.
    Examine { way: u8, restart: bool },
    /// `take`: compare and swap.
    Swap { way: u8, seen: u64, restart: bool },
    /// Store a word of the part in the ring: from a taken way, or the packet itself.
    Write { from: Option<Taken>, word: u8 },
    /// Publish the ring's head.
    Head { from: Option<Taken> },
    /// `store`: store a word of the way.
    Store { way: u8, before: u64, word: u8 },
    /// `store`: publish the control word.
    Publish { way: u8, before: u64 },
}

/// A way that the program has taken from userspace's reach.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Taken {
    way: u8,
    control: u64,
    restart: bool,
}

impl Program {
    /// The run that an RCU grace period has to wait for.
    pub(crate) fn reader(&self) -> Option<u8> {
        (self.step != Step::Outside).then_some(self.begun)
    }

    pub(crate) fn is_done(&self, packets: usize) -> bool {
        self.step == Step::Outside && usize::from(self.begun) == packets
    }

    /// Whether this run may still write the fields of `way`, which userspace reads.
    pub(crate) fn may_write_way(&self, of: u8) -> bool {
        match self.step {
            Step::Compare { way, .. }
            | Step::Count { way, .. }
            | Step::Reserve { restart: Some(way) }
            | Step::Store { way, .. } => way == of,
            _ => false,
        }
    }

    /// Whether this run is writing the ring's next part.
    pub(crate) fn is_writing_part(&self) -> bool {
        matches!(self.step, Step::Write { .. })
    }
}

/// What the packet at hand makes of an empty way or part.
fn arrival(state: &State, next: &Next<'_>) -> Fields {
    let packet = next.scenario.packets[usize::from(state.program.begun) - 1];
    let set: Set = 1 << (state.program.begun - 1);
    Fields {
        flow: packet.flow,
        packets: set,
        octets: set,
        ended: packet.kind == Kind::Fin,
    }
}

/// All that the program can do next.
pub(crate) fn step(state: &State, next: &mut Next<'_>) {
    if state.program.step == Step::Outside {
        if usize::from(state.program.begun) < next.scenario.packets.len() {
            let mut after = *state;
            after.program.begun += 1;
            after.program.step = Step::Match { turn: 0 };
            next.push("program: a packet arrives", after);
        }
        return;
    }
    if state.program.step == Step::Choose {
        for way in 0..next.scenario.ways as u8 {
            let mut after = *state;
            let restart = false;
            after.program.step = Step::Examine { way, restart };
            next.push("program: choose a victim", after);
        }
        return;
    }
    let mut after = *state;
    let label = advance(&mut after, next);
    next.push(label, after);
}

fn advance(state: &mut State, next: &mut Next<'_>) -> &'static str {
    let arrival = arrival(state, next);
    let kind = next.scenario.packets[usize::from(state.program.begun) - 1].kind;
    let fingerprint = next.scenario.fingerprint(arrival.flow);
    let ways = next.scenario.ways as u8;
    // By the hash: spread the flows over the ways.
    let preferred = arrival.flow % ways;
    let (then, label) = match state.program.step {
        Step::Outside | Step::Choose => unreachable!("handled by the caller"),
        Step::Match { turn } => {
            let way = if turn == 0 { preferred } else { turn - 1 };
            let found = state.control(way).tag() == Control::live_tag(fingerprint);
            let then = if found {
                Step::Compare { turn, way }
            } else {
                next_turn(turn, ways)
            };
            (then, "program: load a control word to match")
        }
        Step::Compare { turn, way } => {
            let fields = &state.ways[usize::from(way)].fields;
            let then = if fields.flow != arrival.flow {
                next_turn(turn, ways)
            } else if kind == Kind::Syn && fields.ended {
                Step::Reserve { restart: Some(way) }
            } else {
                Step::Count { way, word: 1 }
            };
            (then, "program: compare the key")
        }
        Step::Count { way, word } => {
            let fields = &mut state.ways[usize::from(way)].fields;
            match word {
                1 => fields.packets |= arrival.packets,
                2 => fields.octets |= arrival.octets,
                _ => fields.ended |= arrival.ended,
            }
            let then = if word + 1 < Fields::WORDS {
                let word = word + 1;
                Step::Count { way, word }
            } else {
                Step::Outside
            };
            (then, "program: count into the flow")
        }
        Step::FindFree { turn } => {
            let way = (preferred + turn) % ways;
            let control = state.control(way);
            let then = if control.state() == Holder::Free {
                store(next.protocol, way, control.0)
            } else if turn + 1 < ways {
                Step::FindFree { turn: turn + 1 }
            } else {
                Step::Reserve { restart: None }
            };
            (then, "program: load a control word to insert")
        }
        Step::Reserve { restart } => (reserve(state, next, restart), "program: load the tail"),
        Step::Examine { way, restart } => {
            let seen = state.control(way);
            let then = if seen.state() == Holder::Live {
                let seen = seen.0;
                Step::Swap { way, seen, restart }
            } else {
                refused(next, restart)
            };
            (then, "program: load the victim's control word")
        }
        Step::Swap { way, seen, restart } => {
            let control = &mut state.ways[usize::from(way)].control;
            let then = if *control == seen || next.protocol == Protocol::PlainTake {
                *control = Control(seen).with_state(Holder::Kernel).0;
                let control = *control;
                next.reach(if restart {
                    Reached::Restarted
                } else {
                    Reached::Evicted
                });
                write(
                    next.protocol,
                    Some(Taken {
                        way,
                        control,
                        restart,
                    }),
                )
            } else {
                next.reach(Reached::ProgramRefused);
                refused(next, restart)
            };
            (then, "program: swap LIVE for KERNEL")
        }
        Step::Write { from, word } => {
            // Behind the head, which the variant has moved already.
            let moved = u8::from(next.protocol == Protocol::HeadFirst);
            let position = state.head - moved;
            if position.saturating_sub(state.drainer.read) >= next.scenario.places {
                state.violate(Violation::Overwritten);
            }
            let place = usize::from(position % next.scenario.places);
            let fields = from.map_or(arrival, |taken| state.ways[usize::from(taken.way)].fields);
            let Part {
                fields: to,
                restarted,
            } = &mut state.ring[place];
            to.copy_word(word, &fields);
            *restarted = from.is_some_and(|taken| taken.restart);
            let then = if word + 1 < Fields::WORDS {
                let word = word + 1;
                Step::Write { from, word }
            } else if moved == 0 {
                Step::Head { from }
            } else {
                moved_out(next.protocol, from)
            };
            (then, "program: write a word of the part")
        }
        Step::Head { from } => {
            state.head += 1;
            let then = if next.protocol == Protocol::HeadFirst {
                Step::Write { from, word: 0 }
            } else {
                moved_out(next.protocol, from)
            };
            (then, "program: publish the head")
        }
        Step::Store { way, before, word } => {
            let fields = &mut state.ways[usize::from(way)].fields;
            fields.copy_word(word, &arrival);
            let then = if word + 1 < Fields::WORDS {
                let word = word + 1;
                Step::Store { way, before, word }
            } else if next.protocol == Protocol::ControlFirst {
                Step::Outside
            } else {
                Step::Publish { way, before }
            };
            (then, "program: store a word of the new flow")
        }
        Step::Publish { way, before } => {
            let live = Control(before).next_live(fingerprint);
            state.ways[usize::from(way)].control = next.protocol.stored(live);
            doubled(state, next);
            let then = if next.protocol == Protocol::ControlFirst {
                let word = 0;
                Step::Store { way, before, word }
            } else {
                Step::Outside
            };
            (then, "program: publish the new flow")
        }
    };
    state.program.step = then;
    label
}

fn next_turn(turn: u8, ways: u8) -> Step {
    if turn < ways {
        Step::Match { turn: turn + 1 }
    } else {
        Step::FindFree { turn: 0 }
    }
}

fn reserve(state: &mut State, next: &mut Next<'_>, restart: Option<u8>) -> Step {
    let full = state.head - state.tail >= next.scenario.places;
    let packet: Set = 1 << (state.program.begun - 1);
    match restart {
        _ if !full || next.protocol == Protocol::NoReserve => match restart {
            Some(way) => Step::Examine { way, restart: true },
            None => Step::Choose,
        },
        Some(way) => {
            next.reach(Reached::RestartWithoutRoom);
            state.excused |= packet;
            Step::Count { way, word: 1 }
        }
        None => {
            next.reach(Reached::RingFull);
            state.lost |= packet;
            Step::Outside
        }
    }
}

/// The way is userspace's: `restart` inserts elsewhere, `insert` sends the packet by itself.
fn refused(next: &mut Next<'_>, restart: bool) -> Step {
    if restart {
        next.reach(Reached::RestartRefused);
        Step::FindFree { turn: 0 }
    } else {
        next.reach(Reached::Single);
        write(next.protocol, None)
    }
}

fn write(protocol: Protocol, from: Option<Taken>) -> Step {
    if protocol == Protocol::HeadFirst {
        Step::Head { from }
    } else {
        Step::Write { from, word: 0 }
    }
}

/// The part is in the ring: its way, if it had one, is the new flow's.
fn moved_out(protocol: Protocol, from: Option<Taken>) -> Step {
    from.map_or(Step::Outside, |taken| {
        store(protocol, taken.way, taken.control)
    })
}

fn store(protocol: Protocol, way: u8, before: u64) -> Step {
    if protocol == Protocol::ControlFirst {
        Step::Publish { way, before }
    } else {
        let word = 0;
        Step::Store { way, before, word }
    }
}

/// A packet must find its flow in one place only.
fn doubled(state: &mut State, next: &Next<'_>) {
    let live = |way: u8| state.control(way).state() == Holder::Live;
    let flow = |way: u8| state.ways[usize::from(way)].fields.flow;
    if next.scenario.ways == 2 && live(0) && live(1) && flow(0) == flow(1) {
        state.violate(Violation::Doubled);
    }
}
