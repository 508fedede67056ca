//! Frames that once broke something, each with what it broke.

use super::{Case, Seen, seen, v4_seen};
use crate::headers::{protocol::ESP, v4};

pub(super) fn cases() -> Vec<Case> {
    vec![options_captured_in_part()]
}

/// Found by the fuzzer: of a header that was captured in part, the options before the cut were
/// reported as all there are, since behind it nothing was to be read.
fn options_captured_in_part() -> Case {
    let mut ip = v4(ESP);
    ip.options = vec![1, 1, 1, 1, 0x94, 4, 0, 0];
    seen(
        "v4_options_captured_in_part",
        ip.frame(&[0x77; 12]),
        Seen {
            ports: (0, 0),
            protocol: ESP,
            octets: 40,
            // No operation and router alert.
            options: 1 << 25 | 1 << 12,
            ..v4_seen()
        },
    )
}
