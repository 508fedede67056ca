//! The verifier's figures of each program: printed, and compared with those that are kept in the
//! repository, so that growth is seen.

use std::{collections::BTreeMap, fs, path::PathBuf};

use anyhow::{Context as _, Result};
use flowprobe_tests::verifier::{Figures, Verdict};

use crate::workspace::root;

/// What a figure may grow by before somebody has to say that it is meant, in percent.
const TOLERANCE: u64 = 10;
/// How to say so.
const CURE: &str = "if that is meant, run `cargo xtask vm --all --accept` and commit the file";

/// The file: figures by kernel series, by program.
#[derive(Debug)]
pub(crate) struct Kept {
    series: BTreeMap<String, BTreeMap<String, Figures>>,
}

fn path() -> PathBuf {
    root().join("flowprobe/ebpf/verifier.json")
}

impl Kept {
    pub(crate) fn read() -> Result<Self> {
        let path = path();
        if !path.exists() {
            let series = BTreeMap::new();
            return Ok(Self { series });
        }
        let text = fs::read_to_string(&path)?;
        let series = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
        Ok(Self { series })
    }

    /// Takes what kernels said as what is to be kept. Of two of one series the higher figures count.
    pub(crate) fn accept(&mut self, verdicts: &[Verdict]) -> Result<()> {
        for verdict in verdicts {
            self.series.remove(&series(&verdict.release));
        }
        for verdict in verdicts {
            let kept = self.series.entry(series(&verdict.release)).or_default();
            for (name, figures) in &verdict.programs {
                let before = kept.get(name).copied().unwrap_or(*figures);
                kept.insert(name.clone(), before.or_higher(*figures));
            }
        }
        self.series.retain(|_, programs| !programs.is_empty());
        let text = serde_json::to_string_pretty(&self.series)? + "\n";
        fs::write(path(), text).with_context(|| path().display().to_string())
    }

    /// What has grown, what is new, and what is gone.
    pub(crate) fn complaints(&self, verdict: &Verdict) -> Vec<String> {
        let series = series(&verdict.release);
        let Some(kept) = self.series.get(&series) else {
            eprintln!(
                "Linux {series} is not in {}: its figures are not compared with any",
                path().display()
            );
            return Vec::new();
        };
        let mut complaints = Vec::new();
        for (name, now) in &verdict.programs {
            match kept.get(name) {
                None => complaints.push(format!("Linux {series}: no figures of {name} are kept")),
                Some(before) => {
                    let grown = grown(*before, *now).into_iter();
                    complaints.extend(grown.map(|text| format!("Linux {series}: {name}: {text}")));
                }
            }
        }
        // Where one is refused, those behind it have not been asked for.
        let gone = kept
            .keys()
            .filter(|name| verdict.refused.is_empty() && !verdict.programs.contains_key(*name));
        complaints.extend(gone.map(|name| {
            format!("Linux {series}: figures of {name} are kept, which is no program any more")
        }));
        if let Some(last) = complaints.last_mut() {
            *last = format!("{last}; {CURE}");
        }
        complaints
    }
}

/// Machine code is not compared: it depends on the CPU too.
fn grown(before: Figures, now: Figures) -> Vec<String> {
    let figures = [
        (
            "instructions verified",
            before.instructions,
            now.instructions,
        ),
        ("octets of stack", before.stack, now.stack),
        ("octets of program", before.translated, now.translated),
    ];
    let more = |before: u64, now: u64| now * 100 > before * (100 + TOLERANCE);
    let grown = figures
        .iter()
        .filter(|(_, before, now)| more(*before, *now));
    grown
        .map(|(name, before, now)| format!("{now} {name}, {before} before"))
        .collect()
}

/// `6.12` of `6.12.95+deb12-amd64`.
fn series(release: &str) -> String {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    let major = numbers.next().unwrap_or_default();
    let minor = numbers.next().unwrap_or_default();
    format!("{major}.{minor}")
}

pub(crate) fn print(verdicts: &[Verdict]) {
    println!(
        "\n{:<20} {:<31} {:>8} {:>6} {:>7} {:>7}",
        "kernel", "program", "verified", "frames", "octets", "jited"
    );
    for verdict in verdicts {
        for (name, figures) in &verdict.programs {
            println!(
                "{:<20} {:<31} {:>8} {:>6} {:>7} {:>7}",
                verdict.release,
                name,
                figures.instructions,
                figures.stack,
                figures.translated,
                figures.jited
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use flowprobe_tests::verifier::{Figures, Verdict};

    use super::Kept;

    fn verdict(name: &str, instructions: u64) -> Verdict {
        let figures = Figures {
            instructions,
            stack: 100,
            translated: 1000,
            jited: 1,
        };
        Verdict {
            release: "6.12.95+deb12-amd64".into(),
            programs: [(name.to_owned(), figures)].into(),
            refused: [].into(),
        }
    }

    fn kept(verdict: &Verdict) -> Kept {
        Kept {
            series: [("6.12".to_owned(), verdict.programs.clone())].into(),
        }
    }

    #[test]
    fn growth_of_more_than_a_tenth_is_a_complaint() {
        let kept = kept(&verdict("a", 1000));
        assert_eq!(kept.complaints(&verdict("a", 1100)), [""; 0]);
        let [complaint] = &kept.complaints(&verdict("a", 1101))[..] else {
            panic!("one complaint");
        };
        assert!(complaint.contains("1101 instructions verified, 1000 before"));
        assert!(complaint.contains("--accept"), "the cure");
    }

    #[test]
    fn programs_that_come_and_go_are_complaints() {
        let kept = kept(&verdict("a", 1000));
        assert_eq!(kept.complaints(&verdict("b", 1)).len(), 2);
    }

    #[test]
    fn an_unknown_kernel_is_no_complaint() {
        let kept = kept(&verdict("a", 1000));
        let mut other = verdict("a", 5000);
        other.release = "6.1.0-50-amd64".into();
        assert_eq!(kept.complaints(&other), [""; 0]);
    }
}
