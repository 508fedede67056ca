//! Every record that was appended arrives once and in order, or is counted as dropped; whatever
//! breaks in between.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use proptest::prelude::*;

use super::{MIN_LIMIT, Settled, Spool, SpoolError};
use crate::{
    ipfix::tests::{
        decode::{Collected, number},
        sample::many,
    },
    ipfix_file::tests::{Scratch, full_disk::on_small_disk, session},
    record::Volume,
};

/// Octets of messages to the collector.
const MESSAGE: u16 = 1352;

/// Which of [`many`] the records are that a session brought: the numbers are in their packets.
fn numbers(messages: &[Vec<u8>]) -> Vec<u64> {
    let mut session = Collected::default();
    for message in messages {
        session.message(message);
    }
    assert_eq!(session.gap, 0);
    let packets = session.records.iter().map(|(_, fields)| number(fields, 2));
    packets.collect()
}

/// A session that takes up to `most` messages, of which all but `lost` arrive: those.
fn drain(spool: &mut Spool, most: usize, lost: usize) -> (Vec<Vec<u8>>, Settled) {
    spool.begin(MESSAGE);
    let mut taken = Vec::new();
    let mut data_records = 0;
    while taken.len() < most
        && let Some(message) = spool.message(1_800_000_000).expect("reads")
    {
        assert!(message.len() <= usize::from(MESSAGE));
        taken.push(message.to_vec());
        data_records += u64::from(spool.data_records());
        spool.taken();
    }
    assert_eq!(data_records, numbers(&taken).len() as u64);
    taken.truncate(taken.len().saturating_sub(lost));
    let settled = spool.acknowledged(taken.len() as u64).expect("writes");
    spool.end();
    (taken, settled)
}

/// The rest of it.
fn drain_all(spool: &mut Spool) -> (Vec<u64>, Settled) {
    let (messages, settled) = drain(spool, usize::MAX, 0);
    assert!(spool.is_empty(), "{spool:?}");
    (numbers(&messages), settled)
}

#[derive(Clone, Debug)]
enum Step {
    /// So many messages are appended.
    Append(usize),
    /// The process ends in the middle of a message, of which so many octets are written.
    Crash(usize),
    /// A session of so many messages, of which the last ones do not arrive.
    Session(usize, usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0_usize..60).prop_map(Step::Append),
        (0_usize..200).prop_map(Step::Crash),
        (0_usize..60, 0_usize..10).prop_map(|(most, lost)| Step::Session(most, lost)),
    ]
}

/// Leaves the beginning of a message in the file that is being written.
fn crash(directory: &Path, octets: usize) {
    for entry in fs::read_dir(directory).expect("there") {
        let path = entry.expect("an entry").path();
        if path
            .extension()
            .is_some_and(|extension| extension == "part")
        {
            let message = &session(7, &many(5), 1000)[0];
            let file = OpenOptions::new().append(true).open(path);
            file.and_then(|mut file| file.write_all(&message[..octets]))
                .expect("room");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn nothing_is_lost_or_doubled_whatever_breaks(steps in prop::collection::vec(step(), 1..20)) {
        let scratch = Scratch::new();
        let open = || Spool::open(scratch.path(), 8 << 20).expect("opens");
        let messages = session(7, &many(4000), 900);
        let mut spool = open();
        // A process says its templates before anything else.
        let mut next = messages.iter();
        let mut said = Vec::new();
        let (mut appended, mut arrived) = (Vec::new(), Vec::new());
        let mut fresh = false;
        for step in steps {
            match step {
                Step::Append(count) => {
                    for message in next.by_ref().take(count) {
                        if fresh {
                            let templates = &session(7, &[], 60_000)[0];
                            said.push(templates.clone());
                            spool.append(templates).expect("room");
                            fresh = false;
                        }
                        appended.push(message.clone());
                        let dropped = spool.append(message).expect("room");
                        prop_assert_eq!(dropped, Volume::default());
                    }
                }
                Step::Crash(octets) => {
                    let waiting = spool.waiting();
                    drop(spool);
                    crash(scratch.path(), octets);
                    spool = open();
                    prop_assert_eq!(spool.waiting(), waiting);
                    fresh = true;
                }
                Step::Session(most, lost) => {
                    let waiting = spool.waiting();
                    let (messages, settled) = drain(&mut spool, most, lost);
                    prop_assert_eq!(settled.dropped, Volume::default());
                    prop_assert_eq!(settled.sent.records as usize, numbers(&messages).len());
                    let mut left = spool.waiting();
                    left += settled.sent;
                    prop_assert_eq!(left, waiting);
                    arrived.extend(numbers(&messages));
                }
            }
        }
        let (rest, settled) = drain_all(&mut spool);
        prop_assert_eq!(settled.sent.records as usize, rest.len());
        prop_assert_eq!(spool.waiting(), Volume::default());
        arrived.extend(rest);
        prop_assert_eq!(numbers(&appended), arrived);
        drop(spool);
        prop_assert_eq!(scratch.names(), ["lock", "sent"]);
    }
}

/// A spool at its limit has the newest flows, and the others are counted.
#[test]
fn the_oldest_files_make_room() {
    let scratch = Scratch::new();
    let mut spool = Spool::open(scratch.path(), MIN_LIMIT).expect("opens");
    let records = many(20_000);
    let mut dropped = Volume::default();
    for message in session(7, &records, 1352) {
        dropped += spool.append(&message).expect("room");
        assert!(spool.octets() <= MIN_LIMIT);
    }
    let names = scratch.names();
    let there = names.iter().map(|name| {
        let path = scratch.path().join(name);
        fs::metadata(path).expect("there").len()
    });
    assert!(there.sum::<u64>() <= MIN_LIMIT + 42, "as it is counted");
    let lost = dropped.records as usize;
    assert_eq!(dropped, Volume::of(&records[..lost]));
    assert_eq!(spool.waiting(), Volume::of(&records[lost..]));
    assert!(lost > 5000 && lost < 15_000, "{lost}");
    let (arrived, settled) = drain_all(&mut spool);
    assert_eq!(arrived, (lost as u64 + 1..=20_000).collect::<Vec<_>>());
    assert_eq!(settled.sent, Volume::of(&records[lost..]));
}

/// What is being sent does not make room, and what is appended meanwhile comes behind it.
#[test]
fn what_is_being_sent_stays() {
    let scratch = Scratch::new();
    let mut spool = Spool::open(scratch.path(), MIN_LIMIT).expect("opens");
    let messages = session(7, &many(20_000), 1352);
    let (first, rest) = messages.split_at(500);
    for message in first {
        assert_eq!(spool.append(message).expect("room"), Volume::default());
    }
    spool.begin(MESSAGE);
    let mut taken = Vec::new();
    for _ in 0..60 {
        let message = spool.message(0).expect("reads").expect("a message");
        taken.push(message.to_vec());
        spool.taken();
    }
    let mut dropped = Volume::default();
    for message in rest {
        dropped += spool.append(message).expect("room");
    }
    assert!(dropped.records > 0);
    while let Some(message) = spool.message(0).expect("reads") {
        taken.push(message.to_vec());
        spool.taken();
    }
    let settled = spool.acknowledged(taken.len() as u64).expect("writes");
    let arrived = numbers(&taken);
    assert_eq!(settled.sent.records as usize, arrived.len());
    assert_eq!(arrived.len() as u64 + dropped.records, 20_000);
    assert!(arrived.is_sorted_by(|one, next| one < next));
    let before = numbers(&taken[..60]).len();
    assert!(arrived[..before].iter().copied().eq(1..=before as u64));
    assert_eq!(arrived.last(), Some(&20_000));
    assert!(spool.is_empty());
}

#[test]
fn a_spool_is_of_one_process() {
    let scratch = Scratch::new();
    let directory = scratch.path().join("spool");
    let spool = Spool::open(&directory, MIN_LIMIT).expect("is made");
    let error = Spool::open(&directory, MIN_LIMIT).expect_err("is locked");
    assert!(matches!(error, SpoolError::Taken(_)), "{error}");
    drop(spool);
    Spool::open(&directory, MIN_LIMIT).expect("is free");
    let error = Spool::open(&directory, MIN_LIMIT - 1).expect_err("too small");
    assert!(error.to_string().contains("1048575"), "{error}");
    let error = Spool::open(&scratch.path().join("no/where"), MIN_LIMIT);
    let error = error.expect_err("no parent").to_string();
    assert!(
        error.ends_with("No such file or directory (os error 2)"),
        "{error}"
    );
}

/// Each file is a file of its own, with its templates.
#[test]
fn any_file_can_be_replayed() {
    let scratch = Scratch::new();
    let mut spool = Spool::open(scratch.path(), MIN_LIMIT).expect("opens");
    for message in session(7, &many(3000), 1352) {
        spool.append(&message).expect("room");
    }
    let mut records = 0;
    let names = scratch.names();
    let files = names.iter().filter(|name| name.contains(".ipfix"));
    for name in files.clone() {
        let file = fs::read(scratch.path().join(name)).expect("there");
        let mut messages = Vec::new();
        let mut rest = &file[..];
        while !rest.is_empty() {
            let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
            messages.push(rest[..length].to_vec());
            rest = &rest[length..];
        }
        records += numbers(&messages).len();
    }
    assert!(files.count() > 3);
    assert_eq!(records, 3000);
}

#[test]
fn what_is_behind_damage_counts_as_dropped() {
    let scratch = Scratch::new();
    let mut spool = Spool::open(scratch.path(), MIN_LIMIT).expect("opens");
    let records = many(2000);
    for message in session(7, &records, 1352) {
        spool.append(&message).expect("room");
    }
    let first = scratch.path().join("0000000001.ipfix");
    let mut file = fs::read(&first).expect("there");
    let middle = file.len() / 2;
    file[middle..].fill(0xff);
    fs::write(&first, file).expect("room");
    let (messages, settled) = drain(&mut spool, usize::MAX, 0);
    assert!(spool.is_empty());
    let mut both = settled.sent;
    both += settled.dropped;
    assert_eq!(both, Volume::of(&records));
    let arrived = numbers(&messages);
    assert_eq!(arrived.len() as u64, settled.sent.records);
    assert!(settled.dropped.records > 100 && settled.sent.records > 1000);
}

#[test]
fn a_full_disk_is_an_error_and_what_was_appended_stays() {
    on_small_disk(600_000, |directory| {
        let path = directory.join("spool");
        let mut spool = Spool::open(&path, 16 << 20).expect("opens");
        let messages = session(7, &many(20_000), 1352);
        let mut next = messages.iter();
        let mut kept = Vec::new();
        let refused = loop {
            let message = next.next().expect("more than fits");
            match spool.append(message) {
                Ok(dropped) => assert_eq!(dropped, Volume::default()),
                Err(error) => break (message, error),
            }
            kept.push(message.clone());
        };
        let error = refused.1.to_string();
        assert!(
            error.ends_with("No space left on device (os error 28)"),
            "{error}"
        );
        for _ in 0..3 {
            spool.append(refused.0).expect_err("still full");
        }
        let (arrived, _) = drain_all(&mut spool);
        assert_eq!(arrived, numbers(&kept));
        // There is room again.
        let behind: Vec<_> = next.take(20).collect();
        for message in &behind {
            spool.append(message).expect("room");
        }
        let (messages, _) = drain(&mut spool, usize::MAX, 0);
        let first = arrived.last().expect("some") + numbers(&[messages[0].clone()]).len() as u64;
        assert!(numbers(&messages)[0] > first - 20 && numbers(&messages).len() > 100);
    });
}
