//! Names, types, lengths and units of the elements, compared with two copies of IANA's registry.

use netflow_parser::variable_versions::ipfix::lookup::IPFixField;

use super::{super::Field, every_template};

/// The registry itself, without its descriptions.
const REGISTRY: &str = include_str!("registry.csv");

/// Elements that neither copy has, with what the registry says of them today.
const NEWER: [(u16, &str, Type); 1] = [
    (507, "gtpuTEid", Type::Unsigned(4)), // of 2022
];

/// Elements that the registry calls deprecated, and that collectors read all the same: the rate of
/// sampling in the profiles default, legacy and sampler.
const DEPRECATED: [u16; 5] = [34, 35, 48, 49, 50];

/// Elements that are written shorter than their type (RFC 7011 §6.2).
const REDUCED: [u16; 1] = [
    6, // tcpControlBits: nfacctd 1.7.7 reads two octets as 0
];

/// What is counted or measured in each element, as the code that fills it has it.
const UNITS: [(&str, &[u16]); 8] = [
    ("bits", &[9, 13, 29, 30]),
    ("octets", &[1, 40, 165, 168]),
    ("packets", &[2, 34, 164, 167, 305, 306, 309, 310, 318, 319]),
    ("flows", &[42, 166]),
    ("messages", &[41]),
    ("hops", &[52, 53]),
    ("milliseconds", &[152, 153, 323]),
    ("microseconds", &[307, 308]),
];

/// An abstract data type (RFC 7012 §3.1), as far as it says how many octets there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    /// An integer of so many octets, or of fewer.
    Unsigned(u16),
    /// A float of 8 octets, or of 4.
    Float64,
    /// So many octets, never fewer.
    Exactly(u16),
    /// Octets or text of any length.
    Any,
}

impl Type {
    fn named(name: &str) -> Self {
        match name {
            "unsigned8" => Self::Unsigned(1),
            "unsigned16" => Self::Unsigned(2),
            "unsigned32" => Self::Unsigned(4),
            "unsigned64" => Self::Unsigned(8),
            "float64" => Self::Float64,
            // RFC 7011 §6.1.5: one octet, 1 for true and 2 for false.
            "boolean" => Self::Exactly(1),
            "ipv4Address" | "dateTimeSeconds" => Self::Exactly(4),
            "macAddress" => Self::Exactly(6),
            "dateTimeMilliseconds" => Self::Exactly(8),
            "ipv6Address" => Self::Exactly(16),
            "octetArray" | "string" => Self::Any,
            other => panic!("no field is a {other}"),
        }
    }

    /// Whether a field may have this length (RFC 7011 §6.1, §6.2).
    fn takes(self, length: u16) -> bool {
        match self {
            Self::Unsigned(most) => (1..=most).contains(&length),
            Self::Float64 => length == 4 || length == 8,
            Self::Exactly(octets) => length == octets,
            Self::Any => length > 0,
        }
    }

    fn is_reduced(self, length: u16) -> bool {
        match self {
            Self::Unsigned(most) => length < most,
            Self::Float64 => length < 8,
            Self::Exactly(_) | Self::Any => false,
        }
    }
}

/// A row of the registry.
struct Element<'a> {
    name: &'a str,
    kind: Type,
    deprecated: bool,
    unit: &'a str,
}

fn element(number: u16) -> Element<'static> {
    let newer = NEWER.iter().find(|(newer, ..)| *newer == number);
    let row = REGISTRY
        .lines()
        .skip(2) // source and header
        .map(|line| line.split(',').collect::<Vec<_>>())
        .find(|row| row[0].parse() == Ok(number));
    match (row.as_deref(), newer) {
        (Some([_, name, kind, _, status, unit]), None) => Element {
            name,
            kind: Type::named(kind),
            deprecated: *status != "current",
            unit,
        },
        (None, Some((_, name, kind))) => Element {
            name,
            kind: *kind,
            deprecated: false,
            unit: "",
        },
        (row, _) => panic!("element {number}: {row:?}"),
    }
}

/// Fields of IANA's elements.
fn every_field() -> impl Iterator<Item = &'static Field> {
    let fields = every_template().flat_map(|template| template.fields);
    fields.filter(|field| field.enterprise == 0)
}

/// Numbers of the fields that are so, each once.
fn numbers(of: impl Fn(&Field, &Element<'_>) -> bool) -> Vec<u16> {
    let fields = every_field().filter(|field| of(field, &element(field.number)));
    let mut numbers: Vec<_> = fields.map(|field| field.number).collect();
    numbers.sort_unstable();
    numbers.dedup();
    numbers
}

#[test]
fn names_are_those_of_the_registry() {
    for Field { name, number, .. } in every_field() {
        assert_eq!(*name, element(*number).name, "element {number}");
    }
}

/// Another project's copy of the registry, which was made without this one.
#[test]
fn another_copy_has_the_same_names() {
    for Field { name, number, .. } in every_field() {
        let theirs = match IPFixField::new(*number, None) {
            IPFixField::IANA(field) => format!("{field:?}"),
            other => panic!("{number} is {other:?}"),
        };
        if NEWER.iter().any(|(newer, ..)| newer == number) {
            assert_eq!(theirs, format!("Unknown({number})"), "it is there now");
            continue;
        }
        assert_eq!(
            theirs.to_lowercase(),
            name.to_lowercase(),
            "element {number}"
        );
    }
}

#[test]
fn lengths_are_those_of_the_types() {
    for Field {
        name,
        number,
        length,
        ..
    } in every_field()
    {
        let kind = element(*number).kind;
        assert!(
            kind.takes(*length),
            "{name} is {kind:?}, not of {length} octets"
        );
    }
    let reduced = numbers(|field, element| element.kind.is_reduced(field.length));
    assert_eq!(reduced, REDUCED);
    // RFC 7012 §3.1, and the registry's description: a label stack entry without its TTL.
    let labels = numbers(|field, element| {
        element.name.starts_with("mpls") && element.kind == Type::Any && field.length == 3
    });
    assert_eq!(labels, [70, 71, 72, 73, 74, 75]);
}

#[test]
fn units_are_those_of_the_registry() {
    let ours = |number: u16| {
        let of_it = UNITS.iter().find(|(_, all)| all.contains(&number));
        of_it.map_or("", |(unit, _)| unit)
    };
    for Field { name, number, .. } in every_field() {
        let unit = element(*number).unit;
        assert_eq!(ours(*number), unit, "{name}");
    }
}

#[test]
fn what_is_deprecated_is_so_with_reason() {
    assert_eq!(numbers(|_, element| element.deprecated), DEPRECATED);
}

/// RFC 5103 §6.1: the reverse of an element has its number, type and name, the enterprise 29305, and
/// is not one of those that say nothing of a direction.
#[test]
fn reverse_elements_are_those_of_the_registry_in_reverse() {
    let fields = every_template().flat_map(|template| template.fields);
    let reverse: Vec<_> = fields.filter(|field| field.enterprise != 0).collect();
    assert!(!reverse.is_empty());
    for field in reverse {
        if field.enterprise == 6871 {
            // cert_ipfix.xml of libfixbuf: unsigned32.
            let of_cert = ("reverseFlowDeltaMilliseconds", 21, 4);
            assert_eq!((field.name, field.number, field.length), of_cert);
            continue;
        }
        assert_eq!(field.enterprise, 29305, "{}", field.name);
        let forward = element(field.number);
        let name = field.name.strip_prefix("reverse").expect("it says so");
        let (first, rest) = name.split_at(1);
        assert_eq!(format!("{}{rest}", first.to_lowercase()), forward.name);
        assert!(forward.kind.takes(field.length), "{name}");
        assert!(
            !field.key,
            "{name}: the key is that of the flow from the source"
        );
        // What a direction has in the other's place, or both together. An observation point is not
        // among it: both ways of an endpoint pass one interface, in and out.
        let directed = [4, 7, 8, 11, 12, 27, 28, 60, 239];
        assert!(!directed.contains(&field.number), "{name}");
    }
}
