//! Frames that once broke something, each with what it broke.

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    Vec::new()
}
