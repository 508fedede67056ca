//! What the templates have to be, field by field.

use super::{super::element, OPTIONS, Template};

/// Number and length of each field.
fn shape(template: &Template) -> Vec<(u16, u16)> {
    let fields = template.fields.iter();
    fields.map(|field| (field.number, field.length)).collect()
}

#[test]
fn flow_templates_are_what_every_collector_takes() {
    // Ports to traffic class, then what is the same in all.
    let rest = [
        (7, 2),
        (11, 2),
        (4, 1),
        (6, 1),
        (5, 1),
        (60, 1),
        (10, 4),
        (14, 4),
        (61, 1),
        (136, 1),
        (152, 8),
        (153, 8),
        (2, 8),
        (1, 8),
        (52, 1),
        (53, 1),
        (197, 1),
    ];
    let last = [(56, 6), (80, 6), (34, 4)];
    let addresses_v4: &[_] = &[(8, 4), (12, 4)];
    let addresses_v6: &[_] = &[(27, 16), (28, 16)];
    let only_v4: &[_] = &[(208, 4), (32, 2), (58, 2)];
    let only_v6: &[_] = &[(64, 4), (31, 4), (139, 2), (58, 2)];
    let wide: &[_] = &[
        (59, 2),
        (243, 2),
        (244, 1),
        (245, 2),
        (246, 1),
        (70, 3),
        (71, 3),
        (72, 3),
        (73, 3),
        (74, 3),
        (75, 3),
    ];
    let tunnel: &[_] = &[(4, 1), (296, 4), (351, 8), (507, 4)];
    let shape_v4 = |before: &[(u16, u16)], wide: &[(u16, u16)]| {
        [before, addresses_v4, &rest, only_v4, wide, &last].concat()
    };
    let shape_v6 = |before: &[(u16, u16)], wide: &[(u16, u16)]| {
        [before, addresses_v6, &rest, only_v6, wide, &last].concat()
    };
    let outer_v4 = [addresses_v4, tunnel].concat();
    let outer_v6 = [addresses_v6, tunnel].concat();
    let expected = [
        (256, 85, shape_v4(&[], &[])),
        (257, 113, shape_v6(&[], &[])),
        (258, 111, shape_v4(&[], wide)),
        (259, 139, shape_v6(&[], wide)),
        (260, 136, shape_v4(&outer_v4, wide)),
        (261, 160, shape_v4(&outer_v6, wide)),
        (262, 164, shape_v6(&outer_v4, wide)),
        (263, 188, shape_v6(&outer_v6, wide)),
    ];
    let are = element::ALL.map(|t| (t.id, t.record_length(), shape(&t)));
    assert_eq!(are, expected);
    assert!(element::ALL.iter().all(|template| template.scopes == 0));
}

#[test]
fn options_templates_have_the_scopes_of_their_rfcs() {
    let shapes: Vec<_> = OPTIONS
        .iter()
        .map(|template| (template.id, template.scopes, shape(template)))
        .collect();
    let expected = [
        (512, 1, vec![(149, 4), (34, 4)]),
        (513, 1, vec![(302, 8), (304, 2), (305, 4), (306, 4)]),
        (514, 1, vec![(149, 4), (34, 4), (35, 1)]),
        (515, 1, vec![(10, 4), (82, 16), (83, 32)]),
        (516, 1, vec![(149, 4), (48, 1), (49, 1), (50, 4)]),
        (517, 1, vec![(301, 8), (149, 4), (302, 8)]),
        (518, 1, vec![(301, 8), (318, 8), (319, 8)]),
        (519, 1, vec![(302, 8), (304, 2), (311, 8), (335, 24)]),
        (520, 2, vec![(149, 4), (143, 4), (40, 8), (41, 8), (42, 8)]),
        (
            521,
            2,
            vec![(149, 4), (143, 4), (164, 8), (165, 8), (323, 8), (323, 8)],
        ),
        (
            522,
            1,
            vec![(144, 4), (166, 8), (167, 8), (168, 8), (323, 8), (323, 8)],
        ),
        (523, 1, vec![(145, 2), (173, 8)]),
        (
            524,
            1,
            vec![(302, 8), (304, 2), (309, 4), (310, 4), (335, 24)],
        ),
        (
            525,
            1,
            vec![(302, 8), (304, 2), (307, 4), (308, 4), (335, 24)],
        ),
        (
            526,
            1,
            vec![
                (302, 8),
                (304, 2),
                (327, 8),
                (328, 8),
                (329, 8),
                (330, 8),
                (331, 8),
                (332, 8),
                (333, 1),
                (335, 24),
            ],
        ),
        (
            527,
            1,
            vec![
                (302, 8),
                (390, 2),
                (329, 8),
                (330, 8),
                (331, 8),
                (332, 8),
                (335, 24),
            ],
        ),
        (528, 1, vec![(149, 4), (300, 112)]),
    ];
    assert_eq!(shapes, expected);
}

#[test]
fn flow_keys_are_the_fields_that_tell_flows_apart() {
    let keys = |template: &Template| -> Vec<u16> {
        let bits = template.flow_keys();
        let fields = template.fields.iter().enumerate();
        let keys = fields.filter(|(i, _)| bits >> i & 1 == 1);
        keys.map(|(_, field)| field.number).collect()
    };
    let v4 = [8, 12, 7, 11, 4, 5, 60, 10, 14, 61, 32, 58];
    let v6 = [27, 28, 7, 11, 4, 5, 60, 10, 14, 61, 139, 58];
    // Tags and labels, but no priorities.
    let wide = [59, 243, 245, 70, 71, 72, 73, 74, 75];
    let tunnel = [4, 296, 351, 507];
    let expected: [Vec<u16>; 8] = [
        v4.to_vec(),
        v6.to_vec(),
        [&v4[..], &wide].concat(),
        [&v6[..], &wide].concat(),
        [&[8, 12], &tunnel[..], &v4, &wide].concat(),
        [&[27, 28], &tunnel[..], &v4, &wide].concat(),
        [&[8, 12], &tunnel[..], &v6, &wide].concat(),
        [&[27, 28], &tunnel[..], &v6, &wide].concat(),
    ];
    assert_eq!(element::ALL.map(|template| keys(&template)), expected);
    // flowKeyIndicator has 64 bits.
    assert!(element::ALL.iter().all(|t| t.fields.len() <= 64));
}

/// Numbers and octets of the records of biflows, as README.md has them.
#[test]
fn templates_of_biflows_are_those_of_their_flows_and_more() {
    let are = element::ALL_BIFLOWS.map(|t| (t.id, t.record_length(), t.fields.len()));
    let expected = [
        (264, 143, 42),
        (265, 175, 44),
        (266, 169, 53),
        (267, 201, 55),
        (268, 193, 58),
        (269, 217, 58),
        (270, 225, 60),
        (271, 249, 60),
    ];
    assert_eq!(are, expected);
    for (biflow, flow) in element::ALL_BIFLOWS.iter().zip(&element::ALL) {
        assert!(biflow.fields.starts_with(flow.fields));
        assert_eq!(biflow.flow_keys(), flow.flow_keys());
    }
}
