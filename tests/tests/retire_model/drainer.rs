//! The drainer: `flowprobe/src/table/drain.rs`, access by access.

use crate::{
    explore::{Next, Reached},
    model::{Fields, Part, Protocol, State, Violation},
};

#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Drainer {
    /// Parts read in full.
    pub(crate) read: u8,
    step: Step,
    /// What has been read of the part at hand.
    part: Part,
}

/// The next access.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
enum Step {
    /// Load the head.
    #[default]
    Resting,
    /// Read a word of the next part, of those before `end`.
    Read { end: u8, word: u8 },
    /// Store the tail.
    Give { end: u8 },
}

impl Drainer {
    /// Nothing is half done.
    pub(crate) fn is_resting(&self) -> bool {
        self.step == Step::Resting
    }
}

/// All that the drainer can do next.
pub(crate) fn step(state: &State, next: &mut Next<'_>) {
    let mut after = *state;
    let tail_first = next.protocol == Protocol::TailFirst;
    let label = match state.drainer.step {
        Step::Resting => {
            let end = state.head;
            if end == state.tail {
                return;
            }
            after.drainer.step = if tail_first {
                Step::Give { end }
            } else {
                Step::Read { end, word: 0 }
            };
            "drainer: load the head"
        }
        Step::Read { end, word } => {
            let places = next.scenario.places;
            let place = state.drainer.read % places;
            let writing = state.program.is_writing_part();
            let moved = u8::from(next.protocol == Protocol::HeadFirst);
            if writing && (state.head - moved) % places == place {
                after.violate(Violation::Unsettled);
            }
            let part = state.ring[usize::from(place)];
            after.drainer.part.fields.copy_word(word, &part.fields);
            after.drainer.part.restarted = part.restarted;
            after.drainer.step = if word + 1 < Fields::WORDS {
                let word = word + 1;
                Step::Read { end, word }
            } else {
                take(&mut after, next);
                if after.drainer.read < end {
                    Step::Read { end, word: 0 }
                } else if tail_first {
                    Step::Resting
                } else {
                    Step::Give { end }
                }
            };
            "drainer: read a word of the part"
        }
        Step::Give { end } => {
            after.tail = end;
            after.drainer.step = if tail_first {
                Step::Read { end, word: 0 }
            } else {
                Step::Resting
            };
            "drainer: give the places back"
        }
    };
    next.push(label, after);
}

fn take(state: &mut State, next: &mut Next<'_>) {
    state.drainer.read += 1;
    let Part { fields, restarted } = std::mem::take(&mut state.drainer.part);
    state.check(next.scenario, &fields);
    if restarted {
        next.reach(Reached::RestartExported);
        let kept = state.take_kept(fields.flow);
        state.export(kept);
        state.export(fields.packets);
    } else {
        state.keep(fields.flow, fields.packets);
    }
}
