//! After a crash at any octet a file holds exactly the whole messages that were written.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
    time::Duration,
};

use proptest::prelude::*;

use super::{Scratch, session};
use crate::{
    ipfix::tests::sample::many,
    ipfix_file::{Pattern, Reader, Rotation, Series, TakenOver},
};

/// 2026-11-27 08:15:00.123 UTC.
const THEN: u64 = 1_795_767_300_123;

fn series(path: &Path, rotation: Rotation) -> Series {
    Series::new(Pattern::parse(path).expect("a pattern"), rotation)
}

fn messages(path: &Path) -> Vec<Vec<u8>> {
    let mut reader = Reader::open(path).expect("there");
    let mut messages = Vec::new();
    while reader.advance().expect("no damage").is_some() {
        messages.push(reader.message().to_vec());
    }
    messages
}

/// What a crash leaves: the series is dropped without its end.
fn crash(directory: &Path, written: &[Vec<u8>]) -> std::path::PathBuf {
    let mut series = series(directory, Rotation::default());
    series.begin(THEN).expect("begins");
    for message in written {
        series.append(message).expect("room");
    }
    let entries = fs::read_dir(directory).expect("a directory");
    let mut paths = entries.map(|entry| entry.expect("an entry").path());
    paths.next().expect("a file")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn whole_messages_survive_a_crash_at_any_octet(
        records in 0_u32..200,
        octets in 300_u16..3000,
        cut in any::<prop::sample::Index>(),
        garbage in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let scratch = Scratch::new();
        let written = session(7, &many(records), octets);
        let part = crash(scratch.path(), &written);
        let all = written.concat();
        let there = cut.index(all.len() + 1);
        let file = OpenOptions::new().append(true).open(&part).expect("there");
        file.set_len(there as u64).expect("shrinks");
        let mut expected = Vec::new();
        let mut end = 0;
        for message in &written {
            end += message.len();
            if end <= there {
                expected.push(message.clone());
            }
        }
        if expected.concat().len() == there {
            // What comes is no message: its version is not 10.
            (&file).write_all(&[&[0xff][..], &garbage].concat()).expect("grows");
        }
        let taken = series(scratch.path(), Rotation::default()).take_over().expect("mends");
        let [TakenOver { file, messages: count, .. }] = taken.as_slice() else {
            panic!("one file, not {taken:?}");
        };
        prop_assert_eq!(*count, expected.len() as u64);
        match file {
            Some(file) => prop_assert_eq!(messages(file), expected),
            None => prop_assert!(expected.is_empty()),
        }
        prop_assert!(!part.exists());
    }
}

#[test]
fn what_is_cut_off_is_said() {
    let scratch = Scratch::new();
    let written = session(7, &many(10), 1000);
    let part = crash(scratch.path(), &written);
    let length = written.concat().len() as u64;
    let file = OpenOptions::new().write(true).open(&part).expect("there");
    file.set_len(length - 5).expect("shrinks");
    let taken = series(scratch.path(), Rotation::default())
        .take_over()
        .expect("mends");
    let cut = taken[0].cut.as_ref().expect("cut");
    let last = written.last().expect("messages").len();
    assert_eq!(cut.octets, last as u64 - 5);
    let expected = format!("at octet {}: cut off: {}", length - 5, last - 5);
    assert!(cut.why.to_string().contains(&expected), "{}", cut.why);
}

#[test]
fn files_of_others_and_those_being_written_are_left_alone() {
    let scratch = Scratch::new();
    let mut writer = series(scratch.path(), Rotation::default());
    writer.begin(THEN).expect("begins");
    writer.append(&session(7, &[], 1000)[0]).expect("room");
    fs::write(scratch.path().join("other.part"), "text").expect("room");
    let before = scratch.names();
    let taken = series(scratch.path(), Rotation::default())
        .take_over()
        .expect("reads");
    assert!(taken.is_empty(), "{taken:?}");
    assert_eq!(scratch.names(), before);
}

#[test]
fn files_follow_one_another_by_size() {
    let scratch = Scratch::new();
    let rotation = Rotation {
        octets: Some(2000),
        every: None,
    };
    let mut series = series(&scratch.path().join("x-%S.ipfix"), rotation);
    let message = &session(7, &many(8), 1000)[1];
    let each = 2000_usize.div_ceil(message.len());
    for number in 0..3 * each {
        if number == 0 || series.is_due(THEN) {
            series.begin(THEN).expect("begins");
        }
        series.append(message).expect("room");
    }
    assert_eq!(
        scratch.names(),
        ["x-00-1.ipfix", "x-00-2.ipfix.part", "x-00.ipfix"]
    );
    let last = series.finish().expect("ends").expect("messages");
    assert_eq!(last, scratch.path().join("x-00-2.ipfix"));
    for name in scratch.names() {
        assert_eq!(messages(&scratch.path().join(name)).len(), each);
    }
}

#[test]
fn files_follow_one_another_by_time() {
    let scratch = Scratch::new();
    let rotation = Rotation {
        octets: None,
        every: Some(Duration::from_secs(300)),
    };
    let mut series = series(scratch.path(), rotation);
    series.begin(THEN).expect("begins");
    assert!(!series.is_due(THEN) && !series.is_due(THEN + 299_876));
    assert!(series.is_due(THEN + 299_877), "08:20:00.000");
    assert!(series.is_due(THEN - 1), "the clock was set back");
    series.append(&session(7, &[], 1000)[0]).expect("room");
    series.begin(THEN + 299_877).expect("begins");
    assert!(!series.is_due(THEN + 299_877));
    series.finish().expect("ends");
    let name = "flowprobe-20261127T081500.123Z.ipfix";
    assert_eq!(scratch.names(), [name], "a file of nothing is removed");
}

#[test]
fn no_file_is_written_over() {
    let scratch = Scratch::new();
    let path = scratch.path().join("x.ipfix");
    fs::write(&path, "mine").expect("room");
    let mut series = series(&path, Rotation::default());
    series.begin(THEN).expect("begins");
    series.append(&session(7, &[], 1000)[0]).expect("room");
    // Somebody takes the name meanwhile.
    fs::write(scratch.path().join("x-1.ipfix"), "mine too").expect("room");
    let file = series.finish().expect("ends").expect("messages");
    assert_eq!(file, scratch.path().join("x-2.ipfix"));
    assert_eq!(fs::read(&path).expect("there"), b"mine");
    assert_eq!(
        fs::read(scratch.path().join("x-1.ipfix")).expect("there"),
        b"mine too"
    );
}
