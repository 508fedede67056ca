//! What every input has to tell, as it is committed.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};

use crate::recording::Recording;

/// Writes what `flowprobe pcap` tells instead of comparing with it.
const OVERWRITE: &str = "FLOWPROBE_OVERWRITE";

/// Differences that are shown.
const SHOWN: usize = 20;

/// Compares what an input has told with what is committed. Where they differ, or only a sum is
/// committed, `truth` (by `flowprobe pcap`, now) shows which lines they are.
pub(crate) fn check(recording: &Recording, told: &[String], truth: &[String]) -> Result<()> {
    let path = path(recording.name);
    let kept = |lines: &[String]| match recording.in_full {
        true => lines.join("\n") + "\n",
        false => format!("{} lines, sum {:016x}\n", lines.len(), sum(lines)),
    };
    if env::var_os(OVERWRITE).is_some() {
        fs::write(&path, kept(truth)).with_context(|| path.display().to_string())?;
    }
    let golden = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let committed: Vec<_> = golden.lines().map(str::to_owned).collect();
    let differences = match recording.in_full {
        true => differences(&committed, told),
        false => differences(truth, told),
    };
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(
        kept(told),
        golden,
        "all inputs agree, and not with {}: see {OVERWRITE}",
        path.display()
    );
    Ok(())
}

fn path(name: &str) -> PathBuf {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/one_truth/golden");
    golden.join(name).with_extension("txt")
}

/// Lines that only one of the two has, or more often than the other.
fn differences(expected: &[String], told: &[String]) -> Vec<String> {
    let mut counts = BTreeMap::<&str, i64>::new();
    for line in told {
        *counts.entry(line).or_default() += 1;
    }
    for line in expected {
        *counts.entry(line).or_default() -= 1;
    }
    let differing = counts.into_iter().filter(|(_, count)| *count != 0);
    let told = differing.map(|(line, count)| match count > 0 {
        true => format!("{count} too many: {line}"),
        false => format!("{} missing: {line}", -count),
    });
    told.take(SHOWN).collect()
}

/// FNV-1a of 64 bits.
fn sum(lines: &[String]) -> u64 {
    let octets = lines.iter().flat_map(|line| line.bytes().chain([b'\n']));
    octets.fold(0xcbf2_9ce4_8422_2325, |sum, octet| {
        (sum ^ u64::from(octet)).wrapping_mul(0x0100_0000_01b3)
    })
}
