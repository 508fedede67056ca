//! The search for a displaced flow: arithmetic on control words gives what a plain loop would.

use flowprobe_ebpf::{
    hash::preferred_way,
    table::{Control, Search, State, WAYS, at_distance, distance, search},
};
use proptest::prelude::*;

/// Fingerprints of which some are alike, or alike in the bits of the way.
fn fingerprint() -> impl Strategy<Value = u32> {
    prop_oneof![any::<u32>(), 0..16_u32, Just(0x8000_0000), Just(u32::MAX)]
}

fn control() -> impl Strategy<Value = Control> {
    let state = prop::sample::select(vec![State::Free, State::Live, State::Kernel, State::User]);
    (fingerprint(), state, any::<u32>()).prop_map(|(fingerprint, state, generation)| {
        let generation = u64::from(generation) & ((1 << 30) - 1);
        Control(generation).next_live(fingerprint).with_state(state)
    })
}

fn is_live(control: Control, fingerprint: u32) -> bool {
    control.state() == State::Live && control.fingerprint() == fingerprint
}

#[test]
fn each_way_is_at_one_distance_from_another() {
    for way in 0..WAYS {
        let mut others: Vec<_> = (0..WAYS).map(|d| at_distance(way, d)).collect();
        for (d, other) in others.iter().enumerate() {
            assert_eq!((distance(way, *other), distance(*other, way)), (d, d));
            assert_eq!(at_distance(*other, d), way);
        }
        others.sort_unstable();
        assert!(others.iter().copied().eq(0..WAYS));
        // The nearest is the other half of an aligned pair of cache lines.
        assert_eq!(at_distance(way, 1) / 2, way / 2);
    }
}

proptest! {
    #[test]
    fn the_nearest_live_flow_of_the_fingerprint_is_found(
        controls in prop::array::uniform8(control()),
        fingerprint in fingerprint(),
        reach in 0..WAYS,
    ) {
        let preferred = preferred_way(fingerprint);
        let at = |distance: usize| controls[at_distance(preferred, distance)];
        let nearest = (1..=reach).find(|distance| is_live(at(*distance), fingerprint));
        let found = search(fingerprint, reach, |way| controls[way]);
        prop_assert_eq!(found.distance, nearest.unwrap_or(0));
        if found.distance == 0 {
            let prefers_it = |distance: &usize| {
                at(*distance).state() == State::Live
                    && preferred_way(at(*distance).fingerprint()) == preferred
            };
            prop_assert_eq!(found.reach, (1..=reach).rfind(prefers_it).unwrap_or(0));
        }
    }

    #[test]
    fn ways_out_of_reach_are_not_read(fingerprint in fingerprint(), reach in 0..WAYS) {
        let preferred = preferred_way(fingerprint);
        let nothing = search(fingerprint, reach, |way| {
            assert!((1..=reach).contains(&distance(preferred, way)));
            Control(0)
        });
        prop_assert_eq!(nothing, Search { distance: 0, reach: 0 });
    }
}
