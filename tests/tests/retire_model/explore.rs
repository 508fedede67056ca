//! Every interleaving, breadth first: each state once, and the shortest way to each violation.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use flowprobe_ebpf::table::State as Holder;

use crate::{
    drainer,
    model::{Protocol, Scenario, Set, State, Violation},
    program, sweeper,
};

/// What an exploration has to come across, or it shows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reached {
    Retired,
    SweeperRefused,
    MergedWithKept,
    Evicted,
    Single,
    ProgramRefused,
    RingFull,
    Restarted,
    RestartExported,
    RestartRefused,
    RestartWithoutRoom,
}

impl Reached {
    pub(crate) const ALL: [Self; 11] = [
        Self::Retired,
        Self::SweeperRefused,
        Self::MergedWithKept,
        Self::Evicted,
        Self::Single,
        Self::ProgramRefused,
        Self::RingFull,
        Self::Restarted,
        Self::RestartExported,
        Self::RestartRefused,
        Self::RestartWithoutRoom,
    ];
}

/// The states that follow one.
pub(crate) struct Next<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) protocol: Protocol,
    reached: BTreeSet<Reached>,
    states: Vec<(&'static str, State)>,
}

impl Next<'_> {
    pub(crate) fn push(&mut self, label: &'static str, state: State) {
        self.states.push((label, state));
    }

    pub(crate) fn reach(&mut self, reached: Reached) {
        self.reached.insert(reached);
    }
}

/// What an exploration found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// States explored, with all that follows them.
    pub(crate) states: usize,
    /// Endings among them: all packets done, nothing half done.
    pub(crate) endings: usize,
    pub(crate) reached: BTreeSet<Reached>,
    /// The shortest way to each violation.
    pub(crate) violations: BTreeMap<Violation, Vec<&'static str>>,
}

/// A state that was reached, and how.
struct Visit {
    state: State,
    parent: usize,
    label: &'static str,
}

/// Explores everything that can happen, or until all violations of `until` have been found.
pub(crate) fn explore(scenario: &Scenario, protocol: Protocol, until: &[Violation]) -> Findings {
    let mut next = Next {
        scenario,
        protocol,
        reached: BTreeSet::new(),
        states: Vec::new(),
    };
    let mut findings = Findings::default();
    let mut seen = HashSet::from([State::default()]);
    let mut visits = vec![Visit {
        state: State::default(),
        parent: 0,
        label: "start",
    }];
    let mut at = 0;
    while at < visits.len() {
        let state = visits[at].state;
        let mut wrong = state.wrong;
        if is_ending(&state, scenario) {
            findings.endings += 1;
            wrong |= end(state, scenario).wrong;
        }
        for violation in Violation::ALL {
            if wrong & 1 << violation as u8 != 0 {
                let found = findings.violations.entry(violation);
                found.or_insert_with(|| trace(&visits, at));
            }
        }
        let found = |violation| findings.violations.contains_key(violation);
        if !until.is_empty() && until.iter().all(found) {
            break;
        }
        program::step(&state, &mut next);
        sweeper::step(&state, &mut next);
        drainer::step(&state, &mut next);
        for (label, state) in next.states.drain(..) {
            if seen.insert(state) {
                visits.push(Visit {
                    state,
                    parent: at,
                    label,
                });
            }
        }
        at += 1;
    }
    findings.states = at;
    findings.reached = next.reached;
    findings
}

fn trace(visits: &[Visit], mut at: usize) -> Vec<&'static str> {
    let mut labels = Vec::new();
    while at != 0 {
        labels.push(visits[at].label);
        at = visits[at].parent;
    }
    labels.reverse();
    labels
}

fn is_ending(state: &State, scenario: &Scenario) -> bool {
    state.program.is_done(scenario.packets.len())
        && state.sweeper.is_resting()
        && state.drainer.is_resting()
}

/// Shutdown from here: the rings are drained, the table is flushed, and all must be there.
fn end(mut state: State, scenario: &Scenario) -> State {
    for position in state.drainer.read..state.head {
        let part = state.ring[usize::from(position % scenario.places)].fields;
        state.check(scenario, &part);
        state.export(part.packets);
    }
    for way in 0..scenario.ways as u8 {
        if state.control(way).state() != Holder::Free {
            let fields = state.ways[usize::from(way)].fields;
            state.check(scenario, &fields);
            state.export(fields.packets);
        }
    }
    for kept in state.overflow {
        state.export(kept);
    }
    let accounted: Set = state.exported;
    if accounted & state.lost != 0 {
        state.violate(Violation::Twice);
    }
    if accounted | state.lost != scenario.all() {
        state.violate(Violation::Missing);
    }
    state
}
