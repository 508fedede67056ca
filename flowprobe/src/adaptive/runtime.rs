//! What our programs cost: the run time that the kernel counts, in short windows.
//!
//! To count it costs more than a program of ours takes, so it is on for a window only, as long as a
//! descriptor is open (`BPF_ENABLE_STATS`, since 5.8). The cost of a run is taken from there; how many
//! runs there are, the program's own counters say all the time. What the measurement itself takes is
//! measured with a program that does nothing, and deducted.

use std::{
    io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    time::Duration,
};

use crate::bpf::{self, RunTime};

/// How long run time is counted in each second: long enough for 50 runs at 1,000 packets a second,
/// short enough that what it costs, some 30 ns a packet, is below 2 ns a packet on average.
pub const WINDOW: Duration = Duration::from_millis(50);

/// Runs of the program that does nothing, to measure what measuring takes.
const TRIAL_RUNS: u32 = 100_000;

/// The cost cannot be measured.
#[derive(Debug, thiserror::Error)]
pub enum RunTimeError {
    /// No statistics.
    #[error(
        "the kernel does not count the run time of programs: {0}; run as root or with \
         CAP_SYS_ADMIN, or choose a budget of auto:packets= or auto:flows="
    )]
    Refused(io::Error),
    /// No figures of a program.
    #[error("the kernel does not tell the run time of a program: {0}")]
    Unreadable(io::Error),
    /// No trial.
    #[error("the cost of counting run time cannot be measured: {0}")]
    Trial(io::Error),
}

/// What runs took within a window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cost {
    /// Runs.
    pub runs: u64,
    /// Nanoseconds of all of them, without those of the measurement.
    pub ns: u64,
}

impl Cost {
    fn between(before: RunTime, after: RunTime, overhead_ns: f64) -> Self {
        let runs = after.runs.saturating_sub(before.runs);
        let ns = after.ns.saturating_sub(before.ns);
        Self {
            runs,
            ns: ns.saturating_sub((runs as f64 * overhead_ns).round() as u64),
        }
    }

    /// Nanoseconds of a run; nothing where there was none.
    #[must_use]
    pub fn ns_a_run(self) -> Option<f64> {
        (self.runs > 0).then(|| self.ns as f64 / self.runs as f64)
    }

    /// CPU seconds in a second, summed over all CPUs, at so many packets a second. No runs in a
    /// window are no cost.
    #[must_use]
    pub fn a_second(self, packets_a_second: f64) -> f64 {
        self.ns_a_run().unwrap_or(0.0) * packets_a_second / 1e9
    }
}

/// Measures in windows.
#[derive(Debug)]
pub struct Window {
    overhead_ns: f64,
}

/// A window that is open. Dropping it switches the statistics off.
#[derive(Debug)]
pub struct Open {
    _statistics: OwnedFd,
    before: RunTime,
    overhead_ns: f64,
}

impl Window {
    /// Finds out what the measurement itself takes.
    ///
    /// # Errors
    /// The kernel or missing privileges.
    pub fn new() -> Result<Self, RunTimeError> {
        let program = bpf::load_pass(false).map_err(RunTimeError::Trial)?;
        let open = Self { overhead_ns: 0.0 }.open(&[program.as_fd()])?;
        bpf::test_run(program.as_fd(), TRIAL_RUNS).map_err(RunTimeError::Trial)?;
        let cost = open.close(&[program.as_fd()])?;
        Ok(Self {
            overhead_ns: cost.ns_a_run().unwrap_or(0.0),
        })
    }

    /// Nanoseconds that a run seems to take where the program does nothing.
    #[must_use]
    pub fn overhead_ns(&self) -> f64 {
        self.overhead_ns
    }

    /// Switches the statistics on. Close it after [`WINDOW`], with the same programs.
    ///
    /// # Errors
    /// The kernel or missing privileges.
    pub fn open(&self, programs: &[BorrowedFd<'_>]) -> Result<Open, RunTimeError> {
        let statistics = bpf::enable_run_time().map_err(RunTimeError::Refused)?;
        Ok(Open {
            _statistics: statistics,
            before: sum(programs)?,
            overhead_ns: self.overhead_ns,
        })
    }
}

impl Open {
    /// Switches the statistics off, and returns what all runs since took together.
    ///
    /// # Errors
    /// A program that cannot be asked.
    pub fn close(self, programs: &[BorrowedFd<'_>]) -> Result<Cost, RunTimeError> {
        let after = sum(programs)?;
        Ok(Cost::between(self.before, after, self.overhead_ns))
    }
}

fn sum(programs: &[BorrowedFd<'_>]) -> Result<RunTime, RunTimeError> {
    let mut all = RunTime::default();
    for program in programs {
        let one = bpf::run_time(*program).map_err(RunTimeError::Unreadable)?;
        all.ns += one.ns;
        all.runs += one.runs;
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_measuring_takes_is_deducted() {
        let before = RunTime { ns: 1000, runs: 10 };
        let after = RunTime { ns: 6000, runs: 60 };
        let cost = Cost::between(before, after, 30.0);
        assert_eq!(cost, Cost { runs: 50, ns: 3500 });
        assert_eq!(cost.ns_a_run(), Some(70.0));
        assert_eq!(cost.a_second(1e6), 0.07);
        assert_eq!(Cost::between(before, after, 300.0).ns, 0);
        assert_eq!(Cost::default().a_second(1e6), 0.0);
    }

    /// As root only: loads a program that passes packets on, and attaches it nowhere.
    #[test]
    fn runs_count_while_a_window_is_open_and_only_then() {
        let window = match Window::new() {
            Ok(window) => window,
            Err(error) => {
                eprintln!("not tested here: {error}");
                return;
            }
        };
        assert!(window.overhead_ns() > 0.0 && window.overhead_ns() < 10_000.0);
        let program = bpf::load_pass(false).expect("a program");
        let programs = [program.as_fd()];
        let open = window.open(&programs).expect("a window");
        bpf::test_run(program.as_fd(), 1000).expect("a run");
        assert_eq!(open.close(&programs).expect("figures").runs, 1000);
    }
}
