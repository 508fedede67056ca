//! What userspace relies on: control words, keys, the hash, the arithmetic of sampling.
//!
//! Statistics are drawn from fixed seeds, so that a test that passes goes on passing.

mod control;
mod flow;
mod hash;
mod key;
mod logarithm;
mod search;

use flowprobe_ebpf::sampling::next_random;

/// Random words from a fixed seed.
fn random(seed: u64) -> impl FnMut() -> u64 {
    let mut state = seed;
    move || next_random(&mut state)
}
