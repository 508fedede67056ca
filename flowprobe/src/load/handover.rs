//! The programs that hand packets over to userspace by AF_XDP, and what they share with it: which
//! queues have a slot, the sockets in those, and the workers' signs of life.
//!
//! The way of one interface: [`Handover::share`] gives its queues slots, [`Share::give`] puts a
//! socket into each, the worker of each begins with its [`Pulse`], and [`Handover::attach`] puts the
//! program in front of them. In the end the program goes first.

mod slots;

use std::{
    fmt, io,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Arc, OnceLock},
};

use aya::Ebpf;
use flowprobe_ebpf::handover::SLOTS;

use self::slots::Slots;
pub use self::slots::{Pulse, Share, ShareError, Skipped};
use super::{
    LoadError,
    linked::{LinkError, Linked, octets},
    rx_vlan::{self, RxVlan},
};
use crate::{
    attach::{self, AttachError, Attached, FactsError, Interface, Programs, XdpMode},
    bpf::{self, LinkedProgram},
    table::shared::NamedMap,
};

/// The entries without frames of several buffers and with them; and those that ask for the tag beside
/// the frame too.
const PROGRAMS: [&str; 2] = ["flowprobe_hand", "flowprobe_hand_frags"];
const RX_VLAN: [&str; 2] = ["flowprobe_hand_rx_vlan", "flowprobe_hand_rx_vlan_frags"];

/// Why packets cannot be handed over.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The kernel is made without.
    #[error("this kernel has no AF_XDP (CONFIG_XDP_SOCKETS): --mode xdp does without it")]
    NoAfXdp,
    /// The map of sockets.
    #[error("cannot create the map of sockets: {0}")]
    Sockets(io::Error),
    /// The object.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// A map of the object.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The verifier or the kernel's memory limit.
    #[error(
        "the kernel refused the program {name}: {source}; --log debug shows the verifier's log"
    )]
    Refused {
        /// Which one.
        name: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// The programs that hand packets over.
pub struct Handover {
    linked: Linked,
    /// See [`PROGRAMS`].
    programs: [OwnedFd; 2],
    /// Made ready for the first interface that wants it.
    rx_vlan: OnceLock<RxVlan>,
    slots: Arc<Slots>,
}

impl fmt::Debug for Handover {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handover").finish_non_exhaustive()
    }
}

/// What the verifier made of a program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified {
    /// Name.
    pub name: &'static str,
    /// The end of its log, with the figures.
    pub log: String,
    /// Octets of the program as the verifier left it.
    pub translated: usize,
    /// Octets of machine code.
    pub machine_code: usize,
}

impl Handover {
    /// Loads the programs of `object`, with the maps of `ebpf`, which was loaded from it.
    pub(super) fn new(
        object: &[u8],
        ebpf: &Ebpf,
        ports: NamedMap<'_>,
        heartbeats: NamedMap<'_>,
    ) -> Result<Self, HandoverError> {
        let sockets = bpf::sockets(SLOTS).map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => HandoverError::NoAfXdp,
            _ => HandoverError::Sockets(error),
        })?;
        let linked = Linked::new(object, ebpf, Some(sockets.as_fd()))?;
        let programs = [load(&linked, false)?, load(&linked, true)?];
        let slots = Arc::new(Slots::new(sockets, ports, heartbeats)?);
        Ok(Self {
            linked,
            programs,
            rx_vlan: OnceLock::new(),
            slots,
        })
    }

    /// The programs for any interface.
    #[must_use]
    pub fn programs(&self) -> Programs<'_> {
        let [linear, frags] = &self.programs;
        Programs {
            frags: frags.as_fd(),
            linear: Some(linear.as_fd()),
        }
    }

    /// Gives the queues of an interface slots. Those without a socket, and those beyond `queues`,
    /// leave their packets to the stack.
    ///
    /// # Errors
    /// There is no room for as many.
    pub fn share(
        &self,
        interface: &Interface,
        queues: u32,
        skipped: Skipped,
    ) -> Result<Share, ShareError> {
        Share::new(Arc::clone(&self.slots), interface, queues, skipped)
    }

    /// Attaches the program to an interface, and displaces nobody: the one that asks for the VLAN tag
    /// beside a frame, where the driver tells it.
    ///
    /// # Errors
    /// See [`AttachError`]; nothing is attached then.
    pub fn attach(&self, interface: &Interface, mode: XdpMode) -> Result<Attached, AttachError> {
        let bound = rx_vlan::attach(interface, mode, || match self.rx_vlan.get() {
            Some(program) => Ok(program),
            None => {
                let program = RxVlan::new(&self.linked, RX_VLAN)?;
                Ok(self.rx_vlan.get_or_init(|| program))
            }
        })?;
        match bound {
            Some(attached) => Ok(attached),
            None => attach::attach(interface, self.programs(), mode),
        }
    }

    /// What the kernel's verifier makes of the programs for any interface.
    ///
    /// # Errors
    /// The kernel tells nothing.
    pub fn verified(&self) -> Result<Vec<Verified>, HandoverError> {
        [false, true]
            .into_iter()
            .map(|frags| {
                let name = PROGRAMS[usize::from(frags)];
                let refused = |source| HandoverError::Refused { name, source };
                let (program, log) = with_program(&self.linked, frags, |program| {
                    bpf::load_with_log(program, bpf::LOG_FIGURES)
                        .map_err(|(source, _)| refused(source))
                })??;
                Ok(Verified {
                    name,
                    log,
                    translated: bpf::rewritten_len(program.as_fd()).map_err(refused)?,
                    machine_code: bpf::machine_code_len(program.as_fd()).map_err(refused)?,
                })
            })
            .collect()
    }
}

fn with_program<T>(
    linked: &Linked,
    frags: bool,
    load: impl FnOnce(&LinkedProgram<'_>) -> T,
) -> Result<T, LinkError> {
    let name = PROGRAMS[usize::from(frags)];
    let instructions: Vec<[u8; 8]> = linked.program(name)?.iter().map(octets).collect();
    Ok(load(&LinkedProgram {
        name,
        instructions: &instructions,
        license: linked.license(),
        frags,
        ifindex: None,
    }))
}

fn load(linked: &Linked, frags: bool) -> Result<OwnedFd, HandoverError> {
    let loaded = with_program(linked, frags, bpf::load_linked)?;
    loaded.map_err(|(source, log)| {
        let name = PROGRAMS[usize::from(frags)];
        tracing::debug!("the verifier on {name}: {log}");
        HandoverError::Refused { name, source }
    })
}

/// Receive queues of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Queues {
    /// Those that it has now.
    pub now: u32,
    /// As many as it may get while it is watched (`ethtool -L`): each that has a slot can get a
    /// socket then.
    pub most: u32,
}

impl Queues {
    /// Those of an interface.
    ///
    /// # Errors
    /// The interface is gone.
    pub fn of(interface: &Interface) -> Result<Self, FactsError> {
        let facts = interface.facts()?;
        let made = facts.link.rx_queues.unwrap_or(1).max(1);
        let channels = facts.channels.unwrap_or_default();
        // A driver without channels, as of a tap, uses as many as it was made with.
        let now = match channels.rx + channels.combined {
            0 => made,
            used => used,
        };
        Ok(Self {
            now,
            most: now.max(made),
        })
    }
}
