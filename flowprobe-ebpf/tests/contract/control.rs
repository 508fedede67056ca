//! Control words.

use flowprobe_ebpf::table::{Control, State};
use proptest::prelude::*;

const STATES: [State; 4] = [State::Free, State::Live, State::Kernel, State::User];

/// Bits of the generation.
const GENERATION: u64 = (1 << 30) - 1;

#[test]
fn zeroed_memory_is_free() {
    assert_eq!(Control(0).state(), State::Free);
}

#[test]
fn a_generation_wraps_without_touching_its_neighbours() {
    let last = Control(GENERATION);
    assert_eq!(last.next_free(), Control(0));
    let live = last.next_live(0xffff_ffff);
    assert_eq!(live.0, 0xffff_ffff << 32 | 1 << 30);
    assert_eq!(live.with_state(State::User).0, 0xffff_ffff << 32 | 3 << 30);
}

proptest! {
    #[test]
    fn a_state_changes_nothing_else(word in any::<u64>()) {
        for state in STATES {
            let changed = Control(word).with_state(state);
            prop_assert_eq!(changed.state(), state);
            prop_assert_eq!(changed.fingerprint(), Control(word).fingerprint());
            prop_assert_eq!(changed.0 & GENERATION, word & GENERATION);
        }
    }

    #[test]
    fn a_live_word_has_its_tag_and_the_next_generation(word in any::<u64>(), fingerprint in any::<u32>()) {
        let live = Control(word).next_live(fingerprint);
        prop_assert_eq!(live.state(), State::Live);
        prop_assert_eq!(live.fingerprint(), fingerprint);
        prop_assert_eq!(live.tag(), Control::live_tag(fingerprint));
        prop_assert_eq!(live.0 & GENERATION, (word + 1) & GENERATION);
    }

    #[test]
    fn only_a_live_word_of_the_fingerprint_has_its_tag(word in any::<u64>(), fingerprint in any::<u32>()) {
        let word = Control(word);
        let matches = word.state() == State::Live && word.fingerprint() == fingerprint;
        prop_assert_eq!(word.tag() == Control::live_tag(fingerprint), matches);
        for state in STATES {
            let live = word.with_state(state);
            let tag = Control::live_tag(word.fingerprint());
            prop_assert_eq!(live.tag() == tag, state == State::Live);
        }
    }

    #[test]
    fn a_freed_word_is_never_what_it_was(word in any::<u64>()) {
        let free = Control(word).next_free();
        prop_assert_eq!(free.state(), State::Free);
        prop_assert_eq!(free.0, (word + 1) & GENERATION);
        // What a compare-and-swap of the old word would have to find.
        let reused = free.next_live(Control(word).fingerprint());
        prop_assert_ne!(reused, Control(word).with_state(State::Live));
    }
}
