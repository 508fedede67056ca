//! The sweeper: `flowprobe/src/table/sweep.rs`, access by access, on one bucket.
//!
//! Whether a flow is due is left open at each look: the model covers every timing. What it keeps
//! of the copy of a live way is the key, which decides what is added up into one record.

use flowprobe_ebpf::table::{Control, State as Holder};

use crate::{
    explore::{Next, Reached},
    model::{Fields, Protocol, Set, State, Violation, WAYS},
};

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Sweeper {
    /// Sweeps begun.
    begun: u8,
    step: Step,
    /// Live ways as they were when looked at: control word, flow.
    live: [Option<(u64, u8)>; WAYS],
    retired: [Option<Retired>; WAYS],
    /// What has been read of the way at hand.
    read: Fields,
}

/// A way that is userspace's until it is given back.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Retired {
    control: u64,
    /// The flow it was taken for, and that flow's part in userspace.
    flow: u8,
    kept: Set,
}

/// The next access.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Step {
    #[default]
    Resting,
    /// `scan`: load the control word.
    Load { way: u8 },
    /// `scan`: copy the key.
    CopyKey { way: u8, control: u64 },
    /// `scan`: decide, and compare and swap if due.
    Decide { way: u8 },
    /// A grace period begins: the runs that are under way are noted.
    Grace,
    /// It ends when none of these runs is under way any more.
    Wait { reader: Option<u8> },
    /// `collect`: read a word of the way.
    Read { way: u8, word: u8 },
    /// `collect`: give the way back.
    Release { way: u8 },
}

impl Sweeper {
    /// Nothing is half done.
    pub(crate) fn is_resting(&self) -> bool {
        self.step == Step::Resting
    }
}

/// All that the sweeper can do next.
pub(crate) fn step(state: &State, next: &mut Next<'_>) {
    let mut after = *state;
    let last = next.scenario.ways as u8 - 1;
    let label = match state.sweeper.step {
        Step::Resting => {
            if state.sweeper.begun == next.scenario.sweeps {
                return;
            }
            after.sweeper.begun += 1;
            after.sweeper.step = Step::Load { way: 0 };
            "sweeper: begins"
        }
        Step::Load { way } => {
            let control = state.control(way);
            after.sweeper.step = if control.state() == Holder::Live {
                let control = control.0;
                Step::CopyKey { way, control }
            } else {
                looked(way, last)
            };
            "sweeper: load a control word"
        }
        Step::CopyKey { way, control } => {
            let flow = state.ways[usize::from(way)].fields.flow;
            after.sweeper.live[usize::from(way)] = Some((control, flow));
            after.sweeper.step = looked(way, last);
            "sweeper: copy the key"
        }
        Step::Decide { way } => {
            if let Some((seen, flow)) = after.sweeper.live[usize::from(way)].take() {
                let mut due = after;
                retire(&mut due, next, way, seen, flow);
                due.sweeper.step = decided(&due, next, way, last);
                next.push("sweeper: due: swap LIVE for USER", due);
            }
            after.sweeper.step = decided(&after, next, way, last);
            "sweeper: not due"
        }
        Step::Grace => {
            let reader = state.program.reader();
            after.sweeper.step = Step::Wait { reader };
            "sweeper: a grace period begins"
        }
        Step::Wait { reader } => {
            if reader.is_some() && reader == state.program.reader() {
                return;
            }
            after.sweeper.step = collect(&after, next, 0);
            "sweeper: the grace period is over"
        }
        Step::Read { way, word } => {
            if state.program.may_write_way(way) {
                after.violate(Violation::Unsettled);
            }
            let fields = state.ways[usize::from(way)].fields;
            after.sweeper.read.copy_word(word, &fields);
            after.sweeper.step = if word + 1 < Fields::WORDS {
                let word = word + 1;
                Step::Read { way, word }
            } else if next.protocol == Protocol::FreeFirst {
                emit(&mut after, next, way);
                collect(&after, next, way + 1)
            } else {
                Step::Release { way }
            };
            "sweeper: read a word of the retired way"
        }
        Step::Release { way } => {
            if let Some(retired) = state.sweeper.retired[usize::from(way)] {
                let free = Control(retired.control).next_free();
                after.ways[usize::from(way)].control = next.protocol.stored(free);
            }
            after.sweeper.step = if next.protocol == Protocol::FreeFirst {
                Step::Read { way, word: 0 }
            } else {
                emit(&mut after, next, way);
                collect(&after, next, way + 1)
            };
            "sweeper: give the way back"
        }
    };
    next.push(label, after);
}

fn looked(way: u8, last: u8) -> Step {
    if way < last {
        Step::Load { way: way + 1 }
    } else {
        Step::Decide { way: 0 }
    }
}

/// Takes a due flow: its part in userspace, and the way if it still is what was looked at.
fn retire(state: &mut State, next: &mut Next<'_>, way: u8, seen: u64, flow: u8) {
    let kept = state.take_kept(flow);
    let control = &mut state.ways[usize::from(way)].control;
    if *control == seen {
        let user = Control(seen).with_state(Holder::User).0;
        *control = user;
        let control = user;
        state.sweeper.retired[usize::from(way)] = Some(Retired {
            control,
            flow,
            kept,
        });
        next.reach(Reached::Retired);
    } else {
        next.reach(Reached::SweeperRefused);
        state.export(kept);
    }
}

fn decided(state: &State, next: &Next<'_>, way: u8, last: u8) -> Step {
    if way < last {
        Step::Decide { way: way + 1 }
    } else if state.sweeper.retired == [None; WAYS] {
        Step::Resting
    } else if next.protocol == Protocol::NoGrace {
        collect(state, next, 0)
    } else {
        Step::Grace
    }
}

/// On to the next retired way.
fn collect(state: &State, next: &Next<'_>, from: u8) -> Step {
    let mut ways = from..WAYS as u8;
    match ways.find(|way| state.sweeper.retired[usize::from(*way)].is_some()) {
        Some(way) if next.protocol == Protocol::FreeFirst => Step::Release { way },
        Some(way) => Step::Read { way, word: 0 },
        None => Step::Resting,
    }
}

/// Adds what was read to what userspace has of the flow, and exports it.
fn emit(state: &mut State, next: &mut Next<'_>, way: u8) {
    let read = std::mem::take(&mut state.sweeper.read);
    let Some(retired) = state.sweeper.retired[usize::from(way)].take() else {
        return;
    };
    state.check(next.scenario, &read);
    if retired.kept != 0 {
        next.reach(Reached::MergedWithKept);
        state.check_flow(next.scenario, retired.flow, read.packets);
    }
    state.export(retired.kept);
    state.export(read.packets);
}
