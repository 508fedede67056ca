//! Every kind of damage is found, and where it is said to be.

use super::message;
use crate::{
    ipfix_file::{Flaw, Framer, Item, Kind, ReadError, Reader, Reframe, Session},
    record::Volume,
};

/// Template 256 of domain 7: sourceTransportPort, an enterprise's string, packetDeltaCount in two
/// octets, octetDeltaCount in four.
const TEMPLATE: [u8; 24] = [
    1, 0, 0, 4, // id, fields
    0, 7, 0, 2, // sourceTransportPort
    0x80, 5, 0xff, 0xff, 0, 0, 0x72, 0x79, // of variable length
    0, 2, 0, 2, // packetDeltaCount
    0, 1, 0, 4, // octetDeltaCount
];
/// Options template 257: exportingProcessId as scope, and a number.
const OPTIONS: [u8; 14] = [1, 1, 0, 2, 0, 1, 0, 144, 0, 4, 0, 41, 0, 8];

fn record(text: &[u8]) -> Vec<u8> {
    let mut record = vec![0x12, 0x34];
    match u8::try_from(text.len()) {
        Ok(length @ ..=254) => record.push(length),
        _ => {
            record.push(255);
            record.extend((text.len() as u16).to_be_bytes());
        }
    }
    record.extend(text);
    record.extend([0, 3, 0, 0, 1, 0]);
    record
}

/// Reads all of a file, and returns the kinds of its items.
fn kinds(file: &[u8]) -> Result<Vec<Kind>, ReadError> {
    let mut reader = Reader::new(file, "x".to_owned());
    let mut session = Session::default();
    let mut kinds = Vec::new();
    while let Some(header) = reader.advance()? {
        session.begin(header.domain);
        loop {
            match session.item(reader.message()) {
                Ok(Some(Item { kind, .. })) => kinds.push(kind),
                Ok(None) => break,
                Err(located) => return Err(reader.error(located)),
            }
        }
    }
    Ok(kinds)
}

/// Offset and flaw of what is wrong with a file.
fn flaw(file: &[u8]) -> (u64, Flaw) {
    match kinds(file) {
        Err(ReadError::Damaged { offset, flaw, .. }) => (offset, flaw),
        other => panic!("{other:?} is not damage"),
    }
}

#[test]
fn what_others_write_is_read() {
    let long = vec![b'x'; 300];
    let records = [record(b"ab"), record(&long), record(b"")].concat();
    let padded = [&records[..], &[0; 3]].concat();
    let mut options = vec![0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 5];
    options.extend([0; 4]); // padding
    let file = [
        message(
            7,
            0,
            &[(2, &TEMPLATE), (3, &[&OPTIONS[..], &[0, 0]].concat())],
        ),
        message(7, 0, &[(256, &padded), (257, &options)]),
        message(7, 4, &[(2, &[1, 0, 0, 0]), (3, &[0, 3, 0, 0])]),
    ]
    .concat();
    let flow = Kind::Record(Volume {
        records: 1,
        packets: 3,
        octets: 256,
    });
    assert_eq!(
        kinds(&file).expect("no damage"),
        [
            Kind::Template { options: false },
            Kind::Template { options: true },
            flow,
            flow,
            flow,
            Kind::Record(Volume::default()),
            Kind::Withdrawal { options: false },
            Kind::Withdrawal { options: true },
        ]
    );
}

#[test]
fn damage_is_found_where_it_is() {
    let first = message(7, 0, &[(2, &TEMPLATE)]);
    let at = first.len() as u64;
    let after = |second: &[u8]| flaw(&[&first[..], second].concat());
    assert_eq!(flaw(&[]), (0, Flaw::Empty));
    assert_eq!(
        after(&[0, 10, 0]),
        (
            at + 3,
            Flaw::CutOff {
                there: 3,
                length: 16
            }
        )
    );
    let whole = message(7, 0, &[(256, &record(b"ab"))]);
    let length = whole.len();
    assert_eq!(
        after(&whole[..length - 1]),
        (
            at + length as u64 - 1,
            Flaw::CutOff {
                there: length - 1,
                length
            }
        )
    );
    let broken = |octet: usize, value: u8| {
        let mut second = whole.clone();
        second[octet] = value;
        after(&second)
    };
    assert_eq!(broken(1, 9), (at, Flaw::Version(9)));
    assert_eq!(broken(3, 15), (at, Flaw::Length(15)));
    assert_eq!(broken(3, 18).1, Flaw::SetHeader(2));
    assert_eq!(broken(16, 0), (at + 16, Flaw::SetId(0)));
    let left = length - 16;
    assert_eq!(
        broken(19, 3),
        (at + 16, Flaw::SetLength { length: 3, left })
    );
    assert_eq!(
        broken(19, 200),
        (at + 16, Flaw::SetLength { length: 200, left })
    );
    assert_eq!(
        broken(17, 9),
        (at + 20, Flaw::UnknownTemplate { domain: 7, id: 265 })
    );
    assert_eq!(
        broken(15, 8),
        (at + 20, Flaw::UnknownTemplate { domain: 8, id: 256 })
    );
    // The string is said to be longer than the set.
    let octets = length - 20;
    assert_eq!(broken(22, 9), (at + 20, Flaw::Rest { id: 256, octets }));
    let rest = [&record(b"")[..], &[0, 0, 1]].concat();
    let padding = after(&message(7, 0, &[(256, &rest)]));
    assert_eq!(padding, (at + 29, Flaw::Rest { id: 256, octets: 3 }));
}

#[test]
fn broken_templates_are_found() {
    let set = |id: u16, octets: &[u8]| flaw(&message(7, 0, &[(id, octets)])).1;
    assert_eq!(set(2, &TEMPLATE[..22]), Flaw::TemplateLength);
    assert_eq!(set(2, &TEMPLATE[..14]), Flaw::TemplateLength);
    assert_eq!(set(2, &[1, 0]), Flaw::TemplateLength);
    assert_eq!(set(2, &[0, 255, 0, 1, 0, 7, 0, 2]), Flaw::TemplateId(255));
    assert_eq!(set(2, &[0, 3, 0, 0]), Flaw::TemplateId(3), "of options");
    assert_eq!(
        set(3, &[1, 0, 0, 1, 0, 2, 0, 7, 0, 2]),
        Flaw::Scopes {
            id: 256,
            scopes: 2,
            fields: 1
        }
    );
    let nothing = message(7, 0, &[(2, &[1, 0, 0, 1, 0, 7, 0, 0]), (256, &[1])]);
    assert_eq!(flaw(&nothing).1, Flaw::NoOctets(256));
}

/// python-ipfix 0.9.7 leaves sets without records, which libfixbuf 2.4.1 takes for one.
#[test]
fn a_set_without_records_has_none() {
    let sets: [(u16, &[u8]); 4] = [(2, &TEMPLATE), (256, &[]), (256, &record(b"x")), (2, &[])];
    let kinds = kinds(&message(7, 0, &sets)).expect("no damage");
    assert_eq!(kinds.len(), 2, "{kinds:?}");
}

/// A template is valid until it is withdrawn, and in its domain.
#[test]
fn withdrawn_templates_are_unknown() {
    let unknown = |domain, id| Flaw::UnknownTemplate { domain, id };
    for (set, withdrawal, id) in [
        (2, [1, 0, 0, 0], 256),
        (2, [0, 2, 0, 0], 256),
        (3, [0, 3, 0, 0], 257),
    ] {
        let file = message(
            7,
            0,
            &[
                (2, &TEMPLATE),
                (3, &OPTIONS),
                (set, &withdrawal),
                (id, &[0; 12]),
            ],
        );
        assert_eq!(flaw(&file).1, unknown(7, id), "{withdrawal:?}");
    }
    let other = message(
        7,
        0,
        &[(2, &TEMPLATE), (3, &[0, 3, 0, 0]), (256, &record(b""))],
    );
    assert_eq!(kinds(&other).expect("no damage").len(), 3);
}

/// What comes before the damage is not lost.
#[test]
fn what_is_before_the_damage_is_framed() {
    let records = [record(b"a"), record(b"b")].concat();
    let file = [
        message(7, 0, &[(2, &TEMPLATE), (256, &records)]),
        message(7, 2, &[(256, &record(b"c")), (300, &[1])]),
    ]
    .concat();
    let mut reframe = Reframe::new(Reader::new(&file[..], "x".to_owned()));
    let mut framer = Framer::new(1000, true);
    let error = reframe.fill(&mut framer).expect_err("damaged");
    assert!(error.to_string().starts_with("x: at octet "), "{error}");
    assert_eq!(framer.data_records(), 3);
    assert_eq!(framer.volume().packets, 9);
}
