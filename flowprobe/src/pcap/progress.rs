//! How far reading is: one line of a terminal, drawn anew each second.
//!
//! It shares standard error with the log: whatever is logged goes through [`stderr`], which wipes the
//! line away first.

use std::{
    fs,
    io::{self, IsTerminal as _, Write},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Instant,
};

/// Whether the line is on the terminal.
static SHOWN: AtomicBool = AtomicBool::new(false);

/// To the start of the line, and away with all that is there (ECMA-48).
const WIPE: &[u8] = b"\r\x1b[K";

/// Characters of the bar.
const BAR: u64 = 24;

/// Standard error, for the log.
#[must_use]
pub fn stderr() -> impl Write {
    Shared(io::stderr())
}

struct Shared(io::Stderr);

impl Write for Shared {
    fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
        wipe();
        self.0.write(octets)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Takes the line away. That it cannot be written to is no reason to stop metering.
fn wipe() {
    if SHOWN.swap(false, Ordering::Relaxed) {
        drop(io::stderr().write_all(WIPE));
    }
}

/// What there is to read, how much of it has been, and how fast.
pub(super) struct Progress {
    /// Octets of all files; none where one is no file.
    total: Option<u64>,
    read: Arc<AtomicU64>,
    /// When the line was drawn last, and how many packets there were.
    before: Option<(Instant, u64)>,
    start: Instant,
}

/// What the line says.
#[derive(Clone, Copy, Debug)]
struct State {
    total: Option<u64>,
    read: u64,
    packets: u64,
    /// Packets each second.
    rate: f64,
    seconds: f64,
}

impl Progress {
    /// Of these files, of which `read` octets have been read. None unless standard error is a
    /// terminal that nothing else is printed on.
    pub(super) fn new(files: &[PathBuf], read: &Arc<AtomicU64>, prints: bool) -> Option<Self> {
        let alone = !(prints && io::stdout().is_terminal());
        (alone && io::stderr().is_terminal()).then(|| Self {
            total: files.iter().map(octets).sum(),
            read: Arc::clone(read),
            before: None,
            start: Instant::now(),
        })
    }

    /// Draws the line, from the second time on.
    pub(super) fn show(&mut self, packets: u64) {
        let now = Instant::now();
        if let Some((then, before)) = self.before {
            let seconds = now.duration_since(then).as_secs_f64();
            let state = State {
                total: self.total,
                read: self.read.load(Ordering::Relaxed),
                packets,
                rate: packets.saturating_sub(before) as f64 / seconds.max(1e-3),
                seconds: now.duration_since(self.start).as_secs_f64(),
            };
            let line = [WIPE, state.line().as_bytes()].concat();
            SHOWN.store(true, Ordering::Relaxed);
            drop(io::stderr().write_all(&line));
        }
        self.before = Some((now, packets));
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        wipe();
    }
}

/// Octets of a regular file.
fn octets(path: &PathBuf) -> Option<u64> {
    let metadata = fs::metadata(path).ok()?;
    metadata.is_file().then_some(metadata.len())
}

impl State {
    /// At most 79 columns.
    fn line(&self) -> String {
        let packets = format!(
            "{} packets, {}/s",
            short(self.packets as f64),
            short(self.rate)
        );
        let Some(total) = self.total.filter(|&total| total > 0) else {
            return packets;
        };
        let read = self.read.min(total);
        let full = (u128::from(read) * u128::from(BAR) / u128::from(total)) as usize;
        let percent = u128::from(read) * 100 / u128::from(total);
        let bar = "#".repeat(full) + &".".repeat(BAR as usize - full);
        let left = match read {
            0 => String::new(),
            _ => left(self.seconds * (total - read) as f64 / read as f64),
        };
        format!("[{bar}] {percent:3} %, {packets}{left}")
    }
}

/// A number with at most three digits before its unit.
fn short(number: f64) -> String {
    let units = [
        (1e18, "E"),
        (1e15, "P"),
        (1e12, "T"),
        (1e9, "G"),
        (1e6, "M"),
        (1e3, "k"),
    ];
    match units.iter().find(|(unit, _)| number >= *unit) {
        Some((unit, name)) => format!("{:.1} {name}", number / unit),
        None => format!("{number:.0}"),
    }
}

fn left(seconds: f64) -> String {
    match seconds.min(1e9) as u64 {
        seconds @ 0..100 => format!(", {seconds} s left"),
        seconds @ 100..6000 => format!(", {} min left", seconds / 60),
        seconds => format!(", {} h left", (seconds / 3600).min(9999)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(total: Option<u64>, read: u64, packets: u64, rate: f64) -> String {
        let state = State {
            total,
            read,
            packets,
            rate,
            seconds: 30.0,
        };
        state.line()
    }

    #[test]
    fn the_line_says_how_far_and_how_fast() {
        assert_eq!(
            line(Some(4000), 1000, 1_234_567, 20_300_000.0),
            "[######..................]  25 %, 1.2 M packets, 20.3 M/s, 90 s left"
        );
        assert_eq!(line(None, 1000, 999, 12.4), "999 packets, 12/s");
        assert_eq!(line(Some(0), 0, 0, 0.0), "0 packets, 0/s");
    }

    #[test]
    fn nothing_makes_it_wider_than_a_terminal() {
        let numbers = [0, 1, 999_949, 999_950_000, u64::MAX / 2, u64::MAX];
        for total in numbers {
            for read in numbers {
                for packets in numbers {
                    let line = line(Some(total), read, packets, packets as f64 * 1e3);
                    assert!(line.len() < 80, "{line}");
                }
            }
        }
    }
}
