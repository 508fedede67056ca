//! The ports of later fragments, for inputs that are read in userspace: the program's own sets of
//! first fragments, as many as a CPU has.

use flowprobe_ebpf::{
    Fragment, Parsed,
    fragments::{FragmentSet, is_followed, tag},
    hash::SECRET_WORDS,
};

use crate::load::FRAGMENT_SETS;

/// First fragments of the packets seen last.
#[derive(Debug)]
pub struct Fragments {
    secret: [u64; SECRET_WORDS],
    sets: Vec<FragmentSet>,
}

impl Fragments {
    /// None. `secret` keeps senders from aiming at one set.
    #[must_use]
    pub fn new(secret: [u64; SECRET_WORDS]) -> Self {
        Self {
            secret,
            sets: vec![FragmentSet::default(); FRAGMENT_SETS as usize],
        }
    }

    /// Remembers a first fragment, or gives a later one its ports; false if the first one of that
    /// is not known.
    pub fn follow(&mut self, parsed: &mut Parsed, ifindex: u32, at_ns: u64) -> bool {
        if !is_followed(parsed) {
            return true;
        }
        let tag = tag(parsed, ifindex, |i| self.secret[i]);
        let set = &mut self.sets[tag as usize & (FRAGMENT_SETS as usize - 1)];
        if parsed.fragment.part == Fragment::LATER {
            return set.complete(tag, &mut parsed.packet, at_ns);
        }
        set.insert(tag, &parsed.packet, at_ns);
        true
    }
}
