//! Hints: arithmetic on words gives what a loop over the ways would.

use flowprobe_ebpf::{
    hash::preferred_way,
    table::{Aside, Asides, WAYS},
};
use proptest::prelude::*;

/// Hints of which some are alike, alike in the bits of the way, or 0.
fn hints() -> impl Strategy<Value = [u32; WAYS]> {
    let hint = prop_oneof![
        any::<u32>(),
        0..16_u32,
        Just(0x8000_0000),
        Just(0xffff_ffff)
    ];
    prop::array::uniform8(hint)
}

fn asides(hints: [u32; WAYS]) -> Asides {
    Asides(hints.map(|hint| Aside {
        hint,
        ..Aside::default()
    }))
}

proptest! {
    #[test]
    fn a_flow_that_was_set_is_found_in_its_way(hints in hints(), way in 0..WAYS, fingerprint in any::<u32>()) {
        for fingerprint in [fingerprint, hints[way], hints[(way + 3) % WAYS]] {
            if fingerprint == 0 {
                continue; // that of hints which were never set
            }
            let mut hints = asides(hints);
            hints.set(way, fingerprint);
            prop_assert_eq!(hints.find(fingerprint), Some(way));
            let equal = hints.0.iter().filter(|aside| aside.hint == fingerprint).count();
            prop_assert_eq!(equal, 1);
        }
    }

    #[test]
    fn setting_one_flow_leaves_the_others(before in hints(), way in 0..WAYS, fingerprint in any::<u32>()) {
        let mut hints = asides(before);
        hints.set(way, fingerprint);
        for other in (0..WAYS).filter(|other| *other != way && before[*other] != fingerprint) {
            prop_assert_eq!(hints.0[other].hint, before[other]);
        }
    }

    #[test]
    fn what_is_nowhere_is_not_found(hints in hints(), fingerprint in any::<u32>()) {
        prop_assume!(!hints.contains(&fingerprint));
        prop_assert_eq!(asides(hints).find(fingerprint), None);
    }

    #[test]
    fn displaced_flows_are_those_elsewhere_that_prefer_the_way(hints in hints(), way in 0..WAYS) {
        let others = (0..WAYS).filter(|other| *other != way);
        let displaced = others.filter(|other| preferred_way(hints[*other]) == way).count();
        prop_assert_eq!(asides(hints).displaced_from(way) as usize, displaced);
    }
}
