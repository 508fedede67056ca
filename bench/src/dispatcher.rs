//! Sends test packets through a program: `BPF_PROG_TEST_RUN` of a dispatcher that picks the
//! packet's flow and tail-calls the program. Nothing is attached to an interface.

use std::{
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::Path,
};

use anyhow::{Context as _, Result, ensure};
use clap::ValueEnum;
use flowprobe_bench::{FIRST_ORDER, Frame, MAX_FLOWS, PLAIN, Walk};
use libbpf_rs::{Map, MapCore as _, MapFlags, Object, ObjectBuilder, ProgramInput, ProgramMut};
use libbpf_sys::BPF_F_TEST_XDP_LIVE_FRAMES;

use crate::timing::thread_cpu_ns;

/// Kinds of program. One is never tail-called from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// XDP
    Xdp,
    /// XDP for frames in several buffers
    XdpFrags,
    /// TC classifier
    Tc,
}

impl Kind {
    /// How the names in the object end.
    fn suffix(self) -> &'static str {
        match self {
            Self::Xdp => "xdp",
            Self::XdpFrags => "xdp_frags",
            Self::Tc => "tc",
        }
    }
}

/// Packets between two looks at the clock: 2 ms or so. The shorter, the likelier that one of the
/// rounds has this slice undisturbed; the longer, the less the call itself counts, which takes some
/// microseconds.
pub(crate) const SLICE: u32 = 1 << 16;

/// The loaded dispatcher of one kind, with the empty program behind it.
pub(crate) struct Dispatcher {
    object: Object,
    kind: Kind,
    frame: Frame,
}

impl Dispatcher {
    /// Loads it from the benchmark's object; it sends packets of this kind.
    pub(crate) fn load(path: &Path, kind: Kind, frame: Frame) -> Result<Self> {
        let object = load(path, &[&dispatch(kind), &empty(kind)])?;
        Ok(Self {
            object,
            kind,
            frame,
        })
    }

    /// Sends `packets` packets through `target`, the first one in flow 0; `None` is the empty
    /// program. Returns nanoseconds per packet, dispatcher included, of each slice of
    /// [`SLICE`] packets.
    pub(crate) fn run(
        &self,
        target: Option<BorrowedFd<'_>>,
        flows: u32,
        order: u32,
        packets: u32,
    ) -> Result<Vec<f64>> {
        ensure!(
            flows.is_power_of_two() && flows <= MAX_FLOWS,
            "{flows} flows: not a power of two up to {MAX_FLOWS}"
        );
        self.aim(target)?;
        set_walk(&self.object, Walk::new(flows, order, &self.frame))?;

        let dispatcher = program(&self.object, &dispatch(self.kind))?;
        let mut slices = Vec::new();
        let mut left = packets;
        while left != 0 {
            let repeat = left.min(SLICE);
            let input = ProgramInput {
                data_in: Some(self.frame.sent()),
                repeat,
                ..ProgramInput::default()
            };
            let start = thread_cpu_ns()?;
            dispatcher.test_run(input).context("test run")?;
            let spent = thread_cpu_ns()? - start;
            slices.push(spent as f64 / f64::from(repeat));
            left -= repeat;
        }
        Ok(slices)
    }

    fn aim(&self, target: Option<BorrowedFd<'_>>) -> Result<()> {
        let fd = match target {
            Some(target) => target.as_raw_fd(),
            None => program(&self.object, &empty(self.kind))?
                .as_fd()
                .as_raw_fd(),
        };
        let jump = format!("JUMP_{}", self.kind.suffix().to_uppercase());
        map(&self.object, &jump)?
            .update(&0_u32.to_ne_bytes(), &fd.to_ne_bytes(), MapFlags::ANY)
            .context("the dispatcher cannot call this program: is --type right (xdp, xdp-frags)?")
    }
}

/// Sends the test packets as real ones out of an interface, with XDP live frames. At the other
/// end there has to be a native XDP program.
pub(crate) struct Generator {
    object: Object,
}

impl Generator {
    /// Loads it from the benchmark's object; it sends from the interface number `ifindex` of the
    /// calling thread's network namespace.
    pub(crate) fn load(path: &Path, ifindex: u32, flows: u32) -> Result<Self> {
        let object = load(path, &[GENERATE])?;
        let walk = Walk {
            ifindex,
            ..Walk::new(flows, FIRST_ORDER, &PLAIN)
        };
        set_walk(&object, walk)?;
        Ok(Self { object })
    }

    /// Sends the next packets.
    pub(crate) fn send(&self, packets: u32) -> Result<()> {
        let input = ProgramInput {
            data_in: Some(PLAIN.sent()),
            repeat: packets,
            flags: BPF_F_TEST_XDP_LIVE_FRAMES,
            ..ProgramInput::default()
        };
        program(&self.object, GENERATE)?
            .test_run(input)
            .context("live frames")?;
        Ok(())
    }
}

const GENERATE: &str = "generate";

fn dispatch(kind: Kind) -> String {
    format!("dispatch_{}", kind.suffix())
}

fn empty(kind: Kind) -> String {
    format!("empty_{}", kind.suffix())
}

/// Loads programs of the benchmark's own object.
fn load(path: &Path, programs: &[&str]) -> Result<Object> {
    let mut open = ObjectBuilder::default()
        .open_file(path)
        .with_context(|| format!("{}: build it with `cargo xtask bench`", path.display()))?;
    for mut program in open.progs_mut() {
        let wanted = programs.iter().any(|&name| program.name() == name);
        program.set_autoload(wanted);
    }
    open.load().context("the kernel refused the dispatcher")
}

fn set_walk(object: &Object, walk: Walk) -> Result<()> {
    map(object, ".bss")?
        .update(&0_u32.to_ne_bytes(), &walk.to_bytes(), MapFlags::ANY)
        .context("cannot set the walk")
}

fn program<'a>(object: &'a Object, name: &str) -> Result<ProgramMut<'a>> {
    let mut programs = object.progs_mut();
    let found = programs.find(|program| program.name() == name);
    found.with_context(|| format!("no program `{name}` in the benchmark's object"))
}

fn map<'a>(object: &'a Object, name: &str) -> Result<Map<'a>> {
    // libbpf puts the object's name before `.bss`.
    let mut maps = object.maps();
    let found = maps.find(|map| map.name().to_string_lossy().ends_with(name));
    found.with_context(|| format!("no map `{name}` in the benchmark's object"))
}
