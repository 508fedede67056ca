//! The programs that are measured, and how to tell that one accounted every packet.

use std::{num::NonZeroU32, os::fd::BorrowedFd, path::PathBuf};

use anyhow::Result;
use flowprobe::sampling::Sampling;

use crate::{
    dispatcher::Kind,
    meter::{Counts, Meter},
    object_file::{Edits, Loaded},
};

/// flowprobe's default of `--max-flows`, and the least room that any program gets.
pub(crate) const DEFAULT_MAX_FLOWS: u32 = 65536;

/// Packets of one that sampling selects in `flowprobe_sampled_100`.
const SAMPLED: NonZeroU32 = NonZeroU32::new(100).unwrap();

/// A program to measure.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    /// Its name in the results.
    pub(crate) name: String,
    pub(crate) kind: Kind,
    source: Source,
}

#[derive(Clone, Debug)]
enum Source {
    /// flowprobe.
    Meter {
        object: PathBuf,
        program: &'static str,
        sampling: Sampling,
    },
    /// A baseline with its flows in a hash map.
    Baseline { object: PathBuf, map: &'static str },
    /// Any other object.
    Other {
        object: PathBuf,
        edits: Edits,
        drain: bool,
    },
}

/// A loaded program and what has been sent through it.
pub(crate) struct Running {
    pub(crate) program: Program,
    /// Flows that it has room for; `None` for other objects, which have their own.
    pub(crate) capacity: Option<u32>,
    /// Read the BPF ring buffers.
    drain: bool,
}

pub(crate) enum Program {
    Meter(Meter),
    Baseline(Loaded),
    Other(Loaded),
}

impl Subject {
    /// flowprobe and the baselines, in the order of the report.
    pub(crate) fn all(flowprobe: &PathBuf, bench: &PathBuf, kind: Kind) -> Vec<Self> {
        let meter = |name: &str, sampling| Self {
            name: name.to_owned(),
            kind,
            source: Source::Meter {
                object: flowprobe.clone(),
                program: if kind == Kind::XdpFrags {
                    "flowprobe_frags"
                } else {
                    "flowprobe"
                },
                sampling,
            },
        };
        let baseline = |name: &str, map| Self {
            name: name.to_owned(),
            kind,
            source: Source::Baseline {
                object: bench.clone(),
                map,
            },
        };
        let mut all = vec![
            meter("flowprobe", Sampling::All),
            meter("flowprobe_sampled_100", Sampling::Count(SAMPLED)),
        ];
        if kind == Kind::Xdp {
            all.extend([
                baseline("percpu_hash", "PERCPU_FLOWS"),
                baseline("percpu_hash_same_clock", "CLOCKED_FLOWS"),
                baseline("lru_hash", "LRU_FLOWS"),
            ]);
        }
        all
    }

    /// A program of any other object.
    pub(crate) fn other(
        object: PathBuf,
        program: String,
        kind: Kind,
        edits: Edits,
        drain: bool,
    ) -> Self {
        Self {
            name: program,
            kind,
            source: Source::Other {
                object,
                edits,
                drain,
            },
        }
    }

    /// Loads it afresh, with room for `capacity` flows.
    pub(crate) fn load(&self, capacity: u32) -> Result<Running> {
        Ok(match &self.source {
            Source::Meter {
                object,
                program,
                sampling,
            } => Running {
                program: Program::Meter(Meter::load(
                    object, program, self.kind, capacity, *sampling,
                )?),
                capacity: Some(capacity),
                drain: false,
            },
            Source::Baseline { object, map } => {
                let edits = Edits {
                    entries: [((*map).to_owned(), capacity)].into(),
                    ..Edits::default()
                };
                Running {
                    program: Program::Baseline(Loaded::new(object, &self.name, self.kind, &edits)?),
                    capacity: Some(capacity),
                    drain: false,
                }
            }
            Source::Other {
                object,
                edits,
                drain,
            } => Running {
                program: Program::Other(Loaded::new(object, &self.name, self.kind, edits)?),
                capacity: None,
                drain: *drain,
            },
        })
    }
}

impl Running {
    /// The program, to be called.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.program {
            Program::Meter(meter) => meter.program(),
            Program::Baseline(loaded) | Program::Other(loaded) => loaded.program(),
        }
    }

    /// flowprobe's counters; zeros for other programs.
    pub(crate) fn counts(&self) -> Counts {
        match &self.program {
            Program::Meter(meter) => meter.counts(),
            Program::Baseline(_) | Program::Other(_) => Counts::default(),
        }
    }

    /// Keys in the fullest hash map, where the program has one.
    pub(crate) fn keys(&self) -> Option<usize> {
        match &self.program {
            Program::Meter(_) => None,
            Program::Baseline(loaded) | Program::Other(loaded) => loaded.keys(),
        }
    }

    /// The object whose BPF ring buffers are to be read.
    pub(crate) fn ring_buffers(&self) -> Option<&Loaded> {
        match &self.program {
            Program::Other(loaded) if self.drain => Some(loaded),
            _ => None,
        }
    }

    /// Whether the program accounted all of `sent` packets of `flows` flows since the load, and
    /// if not, what is wrong. Nothing is known of other objects but their keys.
    pub(crate) fn verify(&self, sent: u64, flows: u32) -> Result<(), String> {
        match &self.program {
            Program::Meter(meter) => {
                meter.drain();
                let counts = meter.counts();
                let sum = counts.accounted + counts.unsampled;
                if counts.seen != sent || sum != sent {
                    return Err(format!(
                        "of {sent} packets {} seen, {} accounted, {} unsampled, {} lost, {} ignored",
                        counts.seen,
                        counts.accounted,
                        counts.unsampled,
                        counts.lost,
                        counts.ignored
                    ));
                }
                meter.audit()
            }
            Program::Baseline(loaded) => match loaded.keys() {
                Some(keys) if keys == flows as usize => Ok(()),
                keys => Err(format!("{} keys for {flows} flows", keys.unwrap_or(0))),
            },
            Program::Other(_) => Ok(()),
        }
    }
}
