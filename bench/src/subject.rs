//! The programs that are measured, and how to tell that one accounted every packet.

use std::{
    num::NonZeroU32,
    os::fd::BorrowedFd,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Result;
use flowprobe::sampling::Sampling;
use flowprobe_bench::{Frame, PLAIN};
use flowprobe_ebpf::Tunnels;

use crate::{
    dispatcher::Kind,
    meter::Meter,
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
        object: Arc<[u8]>,
        sampling: Sampling,
        tunnels: Tunnels,
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

/// A loaded program.
pub(crate) struct Running {
    program: Program,
    /// Read the BPF ring buffers.
    drain: bool,
}

enum Program {
    Meter(Meter),
    /// With the room that it has for flows.
    Baseline(Loaded, u32),
    Other(Loaded),
}

impl Subject {
    /// flowprobe and the baselines, in the order of the report. The baselines take plain packets.
    pub(crate) fn all(flowprobe: &Arc<[u8]>, bench: &Path, kind: Kind, frame: &Frame) -> Vec<Self> {
        let meter = |name: &str, sampling| Self {
            name: name.to_owned(),
            kind,
            source: Source::Meter {
                object: Arc::clone(flowprobe),
                sampling,
                tunnels: if frame.name == "vxlan" {
                    Tunnels::INNER
                } else {
                    Tunnels::OUTER
                },
            },
        };
        let baseline = |name: &str, map| Self {
            name: name.to_owned(),
            kind,
            source: Source::Baseline {
                object: bench.to_owned(),
                map,
            },
        };
        let mut all = vec![
            meter("flowprobe", Sampling::All),
            meter("flowprobe_sampled_100", Sampling::Count(SAMPLED)),
        ];
        if kind == Kind::Xdp && *frame == PLAIN {
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
        let (program, drain) = match &self.source {
            Source::Meter {
                object,
                sampling,
                tunnels,
            } => {
                let meter = Meter::load(object, self.kind, capacity, *sampling, *tunnels)?;
                (Program::Meter(meter), false)
            }
            Source::Baseline { object, map } => {
                let edits = Edits {
                    entries: [((*map).to_owned(), capacity)].into(),
                    ..Edits::default()
                };
                let loaded = Loaded::new(object, &self.name, self.kind, &edits)?;
                (Program::Baseline(loaded, capacity), false)
            }
            Source::Other {
                object,
                edits,
                drain,
            } => {
                let loaded = Loaded::new(object, &self.name, self.kind, edits)?;
                (Program::Other(loaded), *drain)
            }
        };
        Ok(Running { program, drain })
    }
}

impl Running {
    /// The program, to be called.
    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        match &self.program {
            Program::Meter(meter) => meter.program(),
            Program::Baseline(loaded, _) | Program::Other(loaded) => loaded.program(),
        }
    }

    /// flowprobe's own, if it is that.
    pub(crate) fn meter(&self) -> Option<&Meter> {
        match &self.program {
            Program::Meter(meter) => Some(meter),
            _ => None,
        }
    }

    /// Parts that went to flowprobe's rings since the load; 0 for other programs.
    pub(crate) fn evicted(&self) -> u64 {
        self.meter().map_or(0, |meter| meter.counts().evicted)
    }

    /// Flows that it has room for; nothing is known of other objects.
    pub(crate) fn max_flows(&self) -> Option<u32> {
        match &self.program {
            Program::Meter(meter) => Some(meter.max_flows()),
            Program::Baseline(_, capacity) => Some(*capacity),
            Program::Other(_) => None,
        }
    }

    /// The object whose BPF ring buffers are to be read.
    pub(crate) fn ring_buffers(&self) -> Option<&Loaded> {
        match &self.program {
            Program::Other(loaded) if self.drain => Some(loaded),
            _ => None,
        }
    }

    /// Checks that the program accounted all of `sent` packets of `flows` flows since the load.
    /// Of other objects only the keys are known.
    pub(crate) fn verify(&self, sent: u64, flows: u32) -> Verdict {
        let (keys, fault) = match &self.program {
            Program::Meter(meter) => (None, meter.verify(sent).err()),
            Program::Baseline(loaded, _) => {
                let keys = loaded.keys();
                let all = keys == Some(flows as usize);
                let fault = || format!("{} keys for {flows} flows", keys.unwrap_or(0));
                (keys, (!all).then(fault))
            }
            Program::Other(loaded) => (loaded.keys(), None),
        };
        Verdict { keys, fault }
    }
}

/// What a program has to show after its runs.
pub(crate) struct Verdict {
    /// Keys in its fullest hash map, where it has one.
    pub(crate) keys: Option<usize>,
    /// Why its times do not count.
    pub(crate) fault: Option<String>,
}
