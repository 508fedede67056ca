//! The retire protocol, checked exhaustively: every order in which a program run, the sweeper
//! and the drainer can touch the memory they share, one access at a time.
//!
//! One bucket, one ring, one CPU that receives a few packets: the rules are per partition, and
//! partitions share nothing. Control words are the product's own. An RCU grace period ends when
//! every program run that was under way at its begin is over. Instead of counters there are
//! sets of packets, so that each packet is found in exactly one record, or counted as lost.
//!
//! Each rule of the protocol is also left out once, and the explorer must then find what goes
//! wrong: it can fail.
//!
//! Not modelled: weak memory. Every access takes effect at once and in program order; the ordered
//! stores of the program and acquire and release in userspace have to provide what of that the
//! protocol needs. Neither are several CPUs (userspace's own part of a flow stands for the parts
//! of others), a grace period that the kernel refuses, nor a takeover.

mod drainer;
mod explore;
mod model;
mod program;
mod sweeper;

use std::collections::BTreeSet;

use explore::{Findings, Reached, explore};
use model::{
    Kind::{Data, Fin, Syn},
    Packet, Protocol, Scenario, Violation,
};

const fn packet(flow: u8, kind: model::Kind) -> Packet {
    Packet { flow, kind }
}

const A: Packet = packet(0, Data);
const B: Packet = packet(1, Data);
const C: Packet = packet(2, Data);
const A_FIN: Packet = packet(0, Fin);
const A_SYN: Packet = packet(0, Syn);

const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "one flow, one way: hit, retire, insert anew",
        ways: 1,
        places: 2,
        sweeps: 3,
        same_fingerprint: false,
        packets: &[A, A, A, A],
    },
    Scenario {
        name: "two flows, one way: evictions",
        ways: 1,
        places: 2,
        sweeps: 2,
        same_fingerprint: false,
        packets: &[A, B, A, B],
    },
    Scenario {
        name: "two flows of one fingerprint, one way",
        ways: 1,
        places: 2,
        sweeps: 2,
        same_fingerprint: true,
        packets: &[A, B, A, B],
    },
    Scenario {
        name: "a ring of one place",
        ways: 1,
        places: 1,
        sweeps: 1,
        same_fingerprint: false,
        packets: &[A, B, A, B],
    },
    Scenario {
        name: "three flows, two ways",
        ways: 2,
        places: 2,
        sweeps: 1,
        same_fingerprint: false,
        packets: &[A, B, C, A],
    },
    Scenario {
        name: "one flow, two ways: inserted again beside its retired way",
        ways: 2,
        places: 1,
        sweeps: 2,
        same_fingerprint: false,
        packets: &[A, A, B],
    },
    Scenario {
        name: "SYN after FIN",
        ways: 1,
        places: 1,
        sweeps: 2,
        same_fingerprint: false,
        packets: &[A_FIN, A_SYN, A_FIN, A_SYN],
    },
    Scenario {
        name: "SYN after FIN, two ways, another flow",
        ways: 2,
        places: 1,
        sweeps: 1,
        same_fingerprint: false,
        packets: &[B, A_FIN, A_SYN, B],
    },
];

/// Larger ones, for the protocol as it is: one that goes wrong has far more states.
const LARGE: &[Scenario] = &[
    Scenario {
        name: "two flows, one way, five packets, three sweeps",
        ways: 1,
        places: 2,
        sweeps: 3,
        same_fingerprint: false,
        packets: &[A, A, B, A, B],
    },
    Scenario {
        name: "three flows, two ways, two sweeps",
        ways: 2,
        places: 1,
        sweeps: 2,
        same_fingerprint: true,
        packets: &[A, B, C, A],
    },
    Scenario {
        name: "SYN after FIN again and again, and another flow",
        ways: 1,
        places: 2,
        sweeps: 2,
        same_fingerprint: false,
        packets: &[A_FIN, A_SYN, A_FIN, A_SYN, B],
    },
];

fn explored(scenario: &Scenario, protocol: Protocol, until: &[Violation]) -> Findings {
    let findings = explore(scenario, protocol, until);
    println!(
        "{protocol:?}: {}: {} states, {} endings",
        scenario.name, findings.states, findings.endings,
    );
    findings
}

/// Asserts that the explorer finds these violations, and shows the shortest way to each. Returns
/// the scenario in which it found them.
fn assert_wrong(protocol: Protocol, expected: &[Violation]) -> &'static Scenario {
    for scenario in SCENARIOS {
        let findings = explored(scenario, protocol, expected);
        let traces: Vec<_> = expected
            .iter()
            .filter_map(|violation| Some((violation, findings.violations.get(violation)?)))
            .collect();
        if traces.len() == expected.len() {
            for (violation, trace) in traces {
                println!("{violation:?}:\n  {}", trace.join("\n  "));
            }
            return scenario;
        }
    }
    panic!("{protocol:?}: no scenario shows {expected:?}");
}

#[test]
fn no_interleaving_of_the_protocol_is_wrong() {
    let mut reached = BTreeSet::new();
    let mut states = 0;
    for scenario in SCENARIOS.iter().chain(LARGE) {
        let findings = explored(scenario, Protocol::Right, &[]);
        if let Some((violation, trace)) = findings.violations.first_key_value() {
            let name = scenario.name;
            panic!("{name}: {violation:?}:\n  {}", trace.join("\n  "));
        }
        assert!(findings.endings > 0, "{}: never ends", scenario.name);
        reached.extend(findings.reached);
        states += findings.states;
    }
    assert_eq!(reached, BTreeSet::from(Reached::ALL), "paths explored");
    println!("{states} states in all");
}

#[test]
fn without_the_grace_period_packets_go_missing() {
    assert_wrong(
        Protocol::NoGrace,
        &[Violation::Unsettled, Violation::Missing],
    );
}

#[test]
fn a_slot_freed_before_it_is_read_goes_wrong() {
    assert_wrong(
        Protocol::FreeFirst,
        &[Violation::Unsettled, Violation::Missing],
    );
}

#[test]
fn a_control_word_before_its_fields_mixes_flows() {
    assert_wrong(Protocol::ControlFirst, &[Violation::Mixed]);
}

#[test]
fn a_head_before_its_part_gives_parts_that_were_never_written() {
    assert_wrong(
        Protocol::HeadFirst,
        &[Violation::Unsettled, Violation::Missing],
    );
}

#[test]
fn a_place_given_back_before_it_is_read_is_overwritten() {
    assert_wrong(
        Protocol::TailFirst,
        &[Violation::Overwritten, Violation::Missing],
    );
}

#[test]
fn a_place_that_was_not_reserved_is_overwritten() {
    assert_wrong(
        Protocol::NoReserve,
        &[Violation::Overwritten, Violation::Missing],
    );
}

#[test]
fn a_victim_taken_without_comparing_is_counted_twice() {
    assert_wrong(Protocol::PlainTake, &[Violation::Twice]);
}

/// The sweeper looks at a way that changes hands, and changes back before it is retired: the
/// compare-and-swap then takes it for what was looked at. Even the fingerprint, which is in the
/// control word too, does not help: load A's control word, copy the key of B that has replaced A,
/// retire A that has come back, and add B's part in userspace to it.
#[test]
fn without_generations_a_way_that_comes_back_mixes_flows() {
    let scenario = assert_wrong(Protocol::NoGenerations, &[Violation::Mixed]);
    assert!(!scenario.same_fingerprint);
}
