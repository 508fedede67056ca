//! Why a run does not start, or breaks off.

use std::{io, path::PathBuf};

use aya::programs::ProgramError;

use super::SummaryError;
use crate::{
    adaptive::runtime::RunTimeError,
    attach::{AttachError, FactsError, LookupError, PromiscError, TcError, bypass::BypassError},
    bypass::CrewError,
    control::ControlError,
    export::ExportError,
    host::HostError,
    load::{
        LoadError,
        handover::{HandoverError, ShareError},
    },
    xsk::OpenError,
};

/// Why metering did not start, or broke off.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The machine.
    #[error(transparent)]
    Host(#[from] HostError),
    /// A name.
    #[error(transparent)]
    Lookup(#[from] LookupError),
    /// The same interface twice would count each packet once, but be refused by the kernel.
    #[error("interface {0} is given twice: name each interface once")]
    Twice(String),
    /// A class of packets of an interface that is not watched.
    #[error("--sample 'interface {0} …': {0} is not watched; watch it with -i {0}")]
    ClassInterface(String),
    /// The classes' domains follow that of the rest.
    #[error("--observation-domain {0} is too large: each --sample with a filter needs another one")]
    Domains(u32),
    /// Sampled beside what is itself sampled.
    #[error(
        "--shadow compares a sample with all packets: leave out --sample, or give --sample 1/1"
    )]
    ShadowOfSample,
    /// The control socket.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The cost of metering.
    #[error(transparent)]
    RunTime(#[from] RunTimeError),
    /// An interface.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The object file.
    #[error("cannot read {path}: {source}")]
    Object {
        /// File.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The program.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A loaded program has no descriptor: cannot happen, but the type says so.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The hook.
    #[error(transparent)]
    Attach(#[from] AttachError),
    /// The hook of traffic control.
    #[error(transparent)]
    Tc(#[from] TcError),
    /// A mode of XDP where there is no XDP.
    #[error("--xdp-mode says how to attach by --hook xdp: leave it out, or --hook tc")]
    ModeOfTc,
    /// Nothing goes out that could be a second time.
    #[error("--dedup is about packets that come in and go out: give --egress too, or leave it out")]
    DedupOfIngress,
    /// An interface whose packets are needed.
    #[error(transparent)]
    Bypass(#[from] BypassError),
    /// The programs that hand packets over.
    #[error(transparent)]
    Handover(#[from] HandoverError),
    /// Places for queues.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// A queue.
    #[error(transparent)]
    Queue(#[from] OpenError),
    /// Threads.
    #[error(transparent)]
    Crew(#[from] CrewError),
    /// What the mode has not.
    #[error("{option} is not for --mode afxdp{why}: leave it out, or use --mode xdp")]
    NotInUserspace {
        /// The option.
        option: &'static str,
        /// Why, if that is not clear.
        why: &'static str,
    },
    /// The reverse.
    #[error("--{0} is for --mode afxdp: give that too, or leave it out")]
    OnlyInUserspace(&'static str),
    /// More than a table can have.
    #[error("--max-flows {0} is too much for the table of a queue: give 16777216 at most")]
    TooManyFlows(u32),
    /// The packet socket.
    #[error(transparent)]
    Promisc(#[from] PromiscError),
    /// The collectors.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// No way to take flows out.
    #[error("this kernel offers no way to wait for running programs: {0}")]
    Grace(io::Error),
    /// The summary.
    #[error(transparent)]
    Summary(#[from] SummaryError),
    /// The operating system refused a thread or a signal handler.
    #[error("cannot start: {0}")]
    Start(io::Error),
    /// A fault in flowprobe: what was counted until then is in the ledger.
    #[error("the {0} broke off; the ledger says what was exported until then")]
    Broken(&'static str),
}

impl RunError {
    /// Whether nothing had been attached yet: bad input, or a machine that cannot do it.
    #[must_use]
    pub fn before_start(&self) -> bool {
        !matches!(
            self,
            Self::Summary(SummaryError::Write { .. }) | Self::Broken(_)
        )
    }
}
