//! Messages of other sizes hold the same records in the same order.

use proptest::prelude::*;

use super::{message, session};
use crate::{
    encode::Fit,
    ipfix::{
        message::MIN_OCTETS,
        tests::{decode::Collected, sample::any_record},
    },
    ipfix_file::{Filled, Framer, Reader, Reframe, sum},
    record::{FlowRecord, Volume},
};

/// The messages of a session of at most `octets` that a file is made into.
fn reframed(file: &[u8], octets: u16, withdraws: bool, skip: u64) -> (Vec<Vec<u8>>, Volume, u64) {
    let mut reframe = Reframe::new(Reader::new(file, "x".to_owned())).from(skip);
    let mut framer = Framer::new(octets, withdraws);
    let (mut messages, mut volume) = (Vec::new(), Volume::default());
    loop {
        let filled = reframe.fill(&mut framer).expect("no damage");
        if !framer.is_empty() {
            volume = sum(volume, framer.volume());
            messages.push(framer.message(1_800_000_000).to_vec());
            framer.commit();
        }
        if filled == Filled::End {
            return (messages, volume, reframe.unsendable());
        }
    }
}

fn collect(messages: &[Vec<u8>]) -> Collected {
    let mut collected = Collected::default();
    for message in messages {
        collected.message(message);
    }
    assert_eq!(collected.gap, 0);
    collected
}

/// Two domains whose messages are in turns.
fn two_domains(records: &[FlowRecord], split: usize, octets: u16) -> Vec<Vec<u8>> {
    let (one, other) = records.split_at(split.min(records.len()));
    let mut messages = [session(7, one, octets), session(8, other, octets)];
    for messages in &mut messages {
        messages.reverse();
    }
    let mut turns = Vec::new();
    while messages.iter().any(|messages| !messages.is_empty()) {
        turns.extend(messages.iter_mut().filter_map(Vec::pop));
    }
    turns
}

proptest! {
    #[test]
    fn any_size_holds_the_same_records(
        records in prop::collection::vec(any_record(), 1..80),
        split in 0_usize..80,
        before in MIN_OCTETS as u16..3000,
        after in MIN_OCTETS as u16..,
        withdraws in any::<bool>(),
    ) {
        let messages = two_domains(&records, split, before);
        let (framed, volume, unsendable) = reframed(&messages.concat(), after, withdraws, 0);
        prop_assert_eq!(unsendable, 0);
        let each = records.iter().map(|record| Volume::of(&[*record]));
        prop_assert_eq!(volume, each.fold(Volume::default(), sum));
        for message in &framed {
            prop_assert!(message.len() <= usize::from(after));
        }
        let (was, is) = (collect(&messages), collect(&framed));
        prop_assert_eq!(is.export_time, 1_800_000_000);
        prop_assert_eq!(&was.templates, &is.templates);
        prop_assert_eq!(was.records, is.records);
        prop_assert_eq!(was.domains, is.domains);
    }

    /// A session that breaks off goes on with the record behind the last one that arrived.
    #[test]
    fn goes_on_with_any_record(
        records in prop::collection::vec(any_record(), 1..50),
        skip in 0_usize..50,
    ) {
        let skip = skip.min(records.len());
        let messages = two_domains(&records, 20, 1000);
        let was = collect(&messages);
        let (framed, _, _) = reframed(&messages.concat(), 1000, true, skip as u64);
        let is = collect(&framed);
        prop_assert_eq!(&was.templates, &is.templates);
        prop_assert_eq!(&was.records[skip..], &is.records[..]);
    }

    /// Whatever a file holds, nothing panics, and messages are no longer than they may be.
    #[test]
    fn no_file_is_too_strange(
        octets in prop::collection::vec(any::<u8>(), 0..300),
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
    ) {
        let mut file = two_domains(&[crate::ipfix::tests::sample::nth(1)], 0, 1000).concat();
        for (at, value) in flips {
            *at.get_mut(&mut file) = value;
        }
        file.extend(octets);
        let mut reframe = Reframe::new(Reader::new(&file[..], "x".to_owned()));
        let mut framer = Framer::new(MIN_OCTETS as u16, true);
        while let Ok(Filled::Full) = reframe.fill(&mut framer) {
            prop_assert!(framer.message(0).len() <= MIN_OCTETS);
            framer.commit();
        }
    }
}

const PORT: [u8; 8] = [1, 0, 0, 1, 0, 7, 0, 2];
const PORTS: [u8; 12] = [1, 0, 0, 2, 0, 7, 0, 2, 0, 11, 0, 2];

/// RFC 7011 §8.1: withdrawals and new meanings of an id, where the transport allows them.
#[test]
fn templates_are_withdrawn_in_sessions_and_not_over_udp() {
    let file = [
        message(1, 0, &[(2, &PORT), (256, &[0, 1])]),
        message(1, 1, &[(2, &PORT), (256, &[0, 2])]), // said again
        message(1, 2, &[(2, &PORTS), (256, &[0, 3, 0, 4])]), // another meaning
        message(1, 3, &[(2, &[1, 0, 0, 0])]),
        message(1, 3, &[(2, &[1, 9, 0, 0])]), // never defined
    ]
    .concat();
    let expected = |withdraws: bool| {
        let withdrawal: &[_] = &[(2, &[1, 0, 0, 0][..])];
        let none: &[_] = &[];
        let between = if withdraws { withdrawal } else { none };
        let sets = [
            &[(2, &PORT[..]), (256, &[0, 1, 0, 2])],
            between,
            &[(2, &PORTS[..]), (256, &[0, 3, 0, 4])],
            between,
        ];
        message(1, 0, &sets.concat())
    };
    for withdraws in [true, false] {
        let (mut messages, _, _) = reframed(&file, 1000, withdraws, 0);
        assert_eq!(messages.len(), 1);
        messages[0][4..8].fill(0); // export time
        assert_eq!(messages[0], expected(withdraws), "{withdraws}");
    }
}

/// Records that fit into no message are counted, and the others are sent.
#[test]
fn what_is_too_large_is_counted() {
    let template = [1, 0, 0, 1, 0, 82, 0xff, 0xff];
    let large: &[u8] = &[&[200][..], &[b'x'; 200]].concat();
    let small = [1, b'y'];
    let fields = 60_u16;
    let mut wide = vec![1, 1];
    wide.extend(fields.to_be_bytes());
    for _ in 0..fields {
        wide.extend([0, 7, 0, 2]);
    }
    let data = vec![0; usize::from(fields) * 2];
    let records = [&small[..], large, &small].concat();
    let file = message(
        1,
        0,
        &[
            (2, &template),
            (256, &records),
            (2, &wide),
            (257, &data),
            (256, &small),
        ],
    );
    let (messages, volume, unsendable) = reframed(&file, 200, true, 0);
    assert_eq!((volume.records, unsendable), (3, 2));
    assert!(messages.iter().all(|message| message.len() <= 200));
}

#[test]
fn a_new_session_hears_all_templates_again() {
    let file = [
        message(1, 0, &[(2, &PORT), (256, &[0, 1])]),
        message(2, 0, &[(2, &PORTS), (256, &[0, 3, 0, 4])]),
    ]
    .concat();
    let mut reframe = Reframe::new(Reader::new(&file[..], "x".to_owned()));
    let mut framer = Framer::new(1000, true);
    assert_eq!(reframe.fill(&mut framer).expect("no damage"), Filled::Full);
    framer.commit();
    assert_eq!(reframe.fill(&mut framer).expect("no damage"), Filled::End);
    framer.commit();
    framer.restart();
    let mut again = Vec::new();
    loop {
        let fit = framer.announce();
        again.push(framer.message(0).to_vec());
        framer.commit();
        if fit != Fit::Full {
            break;
        }
    }
    assert_eq!(
        again,
        [message(1, 0, &[(2, &PORT)]), message(2, 0, &[(2, &PORTS)])]
    );
}
