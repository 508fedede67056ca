//! What the kernel's verifier says of each program of an object: the answer of
//! `examples/verifier.rs`, which runs wherever a kernel is to be asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One program on one kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Figures {
    /// Instructions that the verifier went through, on all paths; its limit is a million.
    pub instructions: u64,
    /// Octets of stack, the frames of all its functions added up; the limit is 512 for each chain
    /// of calls.
    pub stack: u64,
    /// Octets of the program as the verifier left it.
    pub translated: u64,
    /// Octets of machine code.
    pub jited: u64,
}

impl Figures {
    /// The higher one of each.
    #[must_use]
    pub fn or_higher(self, other: Self) -> Self {
        Self {
            instructions: self.instructions.max(other.instructions),
            stack: self.stack.max(other.stack),
            translated: self.translated.max(other.translated),
            jited: self.jited.max(other.jited),
        }
    }
}

/// All programs on one kernel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub struct Verdict {
    /// The kernel's release, as uname gives it.
    pub release: String,
    /// By name of the program, with the options that change it.
    pub programs: BTreeMap<String, Figures>,
    /// The end of the verifier's log, by options with which it refused.
    pub refused: BTreeMap<String, String>,
}

/// Reads instructions and stack from the end of a verifier's log:
///
/// ```text
/// stack depth 368+8
/// processed 17817 insns (limit 1000000) max_states_per_insn 4 …
/// ```
///
/// or, as kernel 7.3 says it:
///
/// ```text
/// stack depth max 384
/// subprog 0 (flowprobe) main insns_self 38141 insns_total 45304 stack 368
/// subprog 1 (stray) static insns_self 12 insns_total 12 stack 8
/// processed 45304 insns (limit 1000000) max_states_per_insn 10 …
/// ```
///
/// Returns nothing where a line is missing.
#[must_use]
pub fn read_log(log: &str) -> Option<(u64, u64)> {
    let (_, end) = log.rsplit_once("stack depth ")?;
    let mut lines = end.lines();
    let depth = lines.next()?;
    let mut frames: Vec<&str> = depth.split('+').collect();
    if depth.starts_with("max ") {
        let functions = lines.clone().filter(|line| line.starts_with("subprog "));
        frames = functions
            .filter_map(|line| line.split(' ').next_back())
            .collect();
    }
    if frames.is_empty() {
        return None;
    }
    let frames: Result<Vec<u64>, _> = frames.into_iter().map(str::parse).collect();
    let processed = lines.find_map(|line| line.strip_prefix("processed "))?;
    let instructions = processed.split(' ').next()?.parse().ok()?;
    Some((instructions, frames.ok()?.iter().sum()))
}

#[cfg(test)]
mod tests {
    use super::read_log;

    #[test]
    fn the_last_lines_count() {
        let log = "stack depth 1\n0: (b7) r0 = 2\nverification time 9 usec\nstack depth 368+8+0\n\
                   processed 17817 insns (limit 1000000) max_states_per_insn 4\n";
        assert_eq!(read_log(log), Some((17817, 376)));
        assert_eq!(read_log("0: (b7) r0 = 2\nprocessed 3 insns (limit"), None);
        assert_eq!(read_log("stack depth 8\n"), None);
    }

    #[test]
    fn newer_kernels_name_the_functions() {
        let log = "stack depth max 384\n\
                   subprog 0 (flowprobe) main insns_self 38141 insns_total 45304 stack 368\n\
                   subprog 1 (stray) static insns_self 12 insns_total 12 stack 8\n\
                   processed 45304 insns (limit 1000000) max_states_per_insn 10\n";
        assert_eq!(read_log(log), Some((45304, 376)));
    }
}
