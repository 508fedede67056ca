//! The corpus: each frame is what it is said to be, and stays that or is known to be truncated,
//! wherever it is cut.

use std::collections::BTreeSet;

use flowprobe_ebpf::{Skip, Tunnels};
use flowprobe_tests::corpus::{Case, Seen, corpus};

use crate::seen::{Captured, look};

/// Frames longer than this are cut at their beginning and end only: the middle is payload.
const CUT: usize = 400;

/// Differences that are shown.
const SHOWN: usize = 30;

fn is_truncation(reason: &str) -> bool {
    reason.starts_with("truncated_")
}

/// What is expected of a case, with tunnels closed and open.
fn ways(case: &Case) -> [(Tunnels, &Result<Seen, &'static str>); 2] {
    [(Tunnels::OUTER, &case.outer), (Tunnels::INNER, &case.inner)]
}

/// Every length below that of the frame.
fn lengths(case: &Case) -> impl Iterator<Item = usize> {
    let len = case.frame.len();
    (0..len).filter(move |cut| *cut < CUT || *cut + 20 > len)
}

/// Runs `check` on every case, and fails with all those that differ.
fn all(check: impl Fn(&Case) -> Vec<String>) {
    let wrong: Vec<String> = corpus().iter().flat_map(check).collect();
    let some = &wrong[..wrong.len().min(SHOWN)];
    assert!(
        wrong.is_empty(),
        "{} differ:\n{}",
        wrong.len(),
        some.join("\n")
    );
}

#[test]
fn every_case_is_seen_as_it_is() {
    all(|case| {
        let wrong = ways(case).into_iter().filter_map(|(tunnels, expected)| {
            let seen = look(&case.frame[..], &tunnels);
            (seen != *expected).then(|| {
                let inner = tunnels.inner;
                format!("{} (inner {inner}):\n  {seen:?}\n  {expected:?}", case.name)
            })
        });
        wrong.collect()
    });
}

#[test]
fn there_are_cases_enough_and_every_reason_has_one() {
    let corpus = corpus();
    assert!(corpus.len() >= 150, "{} cases", corpus.len());
    let reasons: BTreeSet<&str> = corpus
        .iter()
        .filter_map(|case| case.outer.as_ref().err().copied())
        .collect();
    // The parser knows nothing of where else a packet was seen.
    let reasons_of_parser = Skip::ALL
        .iter()
        .filter(|reason| **reason != Skip::SeenComingIn);
    let labels: BTreeSet<&str> = reasons_of_parser.map(|reason| reason.label()).collect();
    assert_eq!(reasons, labels);
    // And every kind of tunnel is opened in some case.
    let tunnels: BTreeSet<&str> = corpus
        .iter()
        .filter_map(|case| Some(case.inner.as_ref().ok()?.tunnel.as_ref()?.kind))
        .collect();
    let kinds = ["ip", "gre", "nvgre", "vxlan", "geneve", "gtpu"];
    assert_eq!(tunnels, BTreeSet::from(kinds));
}

/// Cut on the wire, a frame has lost its padding, or it is counted as truncated.
#[test]
fn every_frame_cut_anywhere() {
    all(|case| {
        let mut wrong = Vec::new();
        for (tunnels, expected) in ways(case) {
            for len in lengths(case) {
                let seen = look(&case.frame[..len], &tunnels);
                let right = match &seen {
                    Ok(packet) if is_merged(case) => packet.octets as usize + 14 == len,
                    Ok(packet) => seen == *expected && packet.octets as usize + 14 <= len,
                    Err(reason) => is_truncation(reason) || seen == *expected || is_merged(case),
                };
                if !right {
                    wrong.push(format!("{} cut to {len}: {seen:?}", case.name));
                }
            }
        }
        wrong
    });
}

/// Whether its length field says 0 because it is longer than that can say: it has the octets that
/// are there, and cut to what the field could say, it is a bad one.
fn is_merged(case: &Case) -> bool {
    case.frame.len() > 14 + 65535
}

/// Captured in part, a frame is what it was, or counted as truncated, or its tunnel stays closed.
#[test]
fn every_frame_captured_in_part() {
    all(|case| {
        let mut wrong = Vec::new();
        for (tunnels, expected) in ways(case) {
            for captured in lengths(case) {
                let frame = Captured {
                    octets: &case.frame[..captured],
                    len: case.frame.len(),
                };
                let seen = look(&frame, &tunnels);
                let right = seen == *expected
                    || seen.as_ref().is_err_and(|reason| is_truncation(reason))
                    || tunnels.inner && seen == case.outer;
                if !right {
                    wrong.push(format!("{} captured to {captured}: {seen:?}", case.name));
                }
            }
        }
        wrong
    });
}

/// What stands behind a packet is no part of it.
#[test]
fn every_frame_padded() {
    all(|case| {
        let mut wrong = Vec::new();
        for (tunnels, expected) in ways(case) {
            // A frame that is too short becomes another by what is put behind it.
            if expected.as_ref().is_err_and(|reason| is_truncation(reason)) || is_merged(case) {
                continue;
            }
            for octet in [0, 0x45, 0x60, 0xff] {
                let padded = [&case.frame[..], &[octet; 50]].concat();
                let seen = look(&padded[..], &tunnels);
                if seen != *expected {
                    wrong.push(format!("{} before {octet:#x}: {seen:?}", case.name));
                }
            }
        }
        wrong
    });
}
