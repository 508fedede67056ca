//! `fuzz`: the parser on frames that nobody thought of (`tests/fuzz/parse.rs`).
//!
//! It begins with the corpus of the tests, and goes on from what former runs have found. All of
//! that is in `target/fuzz`; nothing is written into the source tree.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use flowprobe_tests::corpus::corpus;

use crate::workspace::{self, cargo};

/// Longer frames have nothing but more payload.
const MAX_OCTETS: usize = 1024;

/// As long as continuous integration looks.
const DEFAULT_SECONDS: u32 = 60;

#[derive(clap::Args)]
pub(crate) struct Args {
    /// How long to look, building not included
    #[arg(long, value_name = "SECONDS", default_value_t = DEFAULT_SECONDS)]
    seconds: u32,
}

impl Default for Args {
    fn default() -> Self {
        Self {
            seconds: DEFAULT_SECONDS,
        }
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let directory = workspace::target().join("fuzz");
    let (seeds, corpus) = (directory.join("seeds"), directory.join("corpus"));
    let crashes = directory.join("crashes");
    write_seeds(&seeds).with_context(|| format!("cannot write {}", seeds.display()))?;
    for directory in [&corpus, &crashes] {
        fs::create_dir_all(directory)
            .with_context(|| format!("cannot create {}", directory.display()))?;
    }
    let mut fuzz = cargo();
    // Sanitizers need a nightly compiler, and look for what safe code does not do.
    fuzz.args(["fuzz", "run", "--fuzz-dir", "tests", "--sanitizer", "none"])
        .args(["--features", "fuzz", "--target-dir"])
        .arg(&directory)
        .arg("parse")
        .args([&corpus, &seeds])
        .arg("--")
        .arg(format!("-max_total_time={}", args.seconds))
        .arg(format!("-max_len={MAX_OCTETS}"))
        .arg(format!("-artifact_prefix={}/", crashes.display()))
        .args(["-verbosity=0", "-print_final_stats=1"]);
    let result = workspace::run(&mut fuzz).with_context(|| {
        format!(
            "the parser broke a rule; add the frame in {} to tests/src/corpus/regression.rs",
            crashes.display()
        )
    });
    // cargo-fuzz makes these whatever it is told; they are empty, and stay where they are not.
    let made = workspace::root().join("tests/artifacts");
    let _ = fs::remove_dir(made.join("parse")).and_then(|()| fs::remove_dir(made));
    result
}

fn write_seeds(directory: &Path) -> Result<()> {
    fs::create_dir_all(directory)?;
    let cases = corpus().into_iter();
    for case in cases.filter(|case| case.frame.len() <= MAX_OCTETS) {
        fs::write(directory.join(&case.name), &case.frame)?;
    }
    Ok(())
}
