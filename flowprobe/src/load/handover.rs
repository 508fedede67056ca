//! The programs that hand packets over to userspace by AF_XDP, and what they share with it: which
//! queues have a slot, the sockets in those, and the workers' signs of life.
//!
//! The way of one interface: [`Handover::share`] gives its queues slots, [`Share::give`] puts a
//! socket into each, the worker of each begins with its [`Pulse`], and [`Handover::attach`] puts the
//! program in front of them. In the end the program goes first.

use std::{
    fmt, io,
    ops::Range,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use aya::Ebpf;
use flowprobe_ebpf::handover::{Heartbeat, PORT_PLACES, PORTS, Port, SLOTS, port_place};

use super::{
    LoadError,
    linked::{LinkError, Linked, octets},
    rx_vlan::{RxVlan, RxVlanError},
};
use crate::{
    attach::{
        self, AttachError, Attached, FactsError, Interface, Programs, XdpMode, missed_tags,
        tells_tags,
    },
    bpf::{self, LinkedProgram},
    clock::monotonic_ns,
    table::shared::{Mapped, NamedMap},
    xsk::Queue,
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

/// Why the queues of an interface get no slots.
#[derive(Debug, thiserror::Error)]
pub enum ShareError {
    /// All are taken.
    #[error(
        "{interface} has {queues} queues, for which no slots are left: there are {SLOTS} for all \
         interfaces; `ethtool -L {interface} combined N` lowers the number of queues"
    )]
    NoSlots {
        /// Name.
        interface: String,
        /// Queues.
        queues: u32,
    },
    /// All its places are taken.
    #[error(
        "{interface} has no place in the program's table of interfaces: use fewer interfaces in one \
         process"
    )]
    NoPlace {
        /// Name.
        interface: String,
    },
    /// The map of sockets.
    #[error("cannot give the socket of queue {queue} of {interface} to the program: {source}")]
    Socket {
        /// Name.
        interface: String,
        /// Number.
        queue: u32,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What becomes of a packet that is not handed over: one that sampling skips, or that is in no flow
/// where the program has to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// It is dropped: nobody waits for it, as on a tap.
    Drop,
    /// It goes on to the stack.
    Pass,
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
        let facts = interface.facts()?;
        if tells_tags(&facts, mode) {
            match self.attach_bound(interface) {
                Ok(attached) => return Ok(attached),
                // The interface is taken, or the like: as bad for the ordinary program.
                Err(Unbound::Attach(error)) if !error.generic_may_work() => return Err(error),
                Err(refused) => {
                    tracing::info!(
                        interface = interface.name,
                        "VLAN tags beside packets cannot be read: {refused}"
                    );
                    if let Some(finding) = missed_tags(&facts) {
                        tracing::warn!("{finding}");
                    }
                }
            }
        }
        attach::attach(interface, self.programs(), mode)
    }

    /// With frags, or else without.
    fn attach_bound(&self, interface: &Interface) -> Result<Attached, Unbound> {
        let program = match self.rx_vlan.get() {
            Some(program) => program,
            None => {
                let program = RxVlan::new(&self.linked, RX_VLAN)?;
                self.rx_vlan.get_or_init(|| program)
            }
        };
        let attempt = |frags| {
            let loaded = program.load(interface.index, frags)?;
            Ok(attach::attach_bound(interface, loaded, frags)?)
        };
        attempt(true).or_else(|refused| match refused {
            Unbound::Attach(error) if !error.linear_may_work() => Err(error.into()),
            _ => attempt(false),
        })
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

/// Why an interface gets the ordinary program.
#[derive(Debug, thiserror::Error)]
enum Unbound {
    #[error(transparent)]
    Load(#[from] RxVlanError),
    #[error(transparent)]
    Attach(#[from] AttachError),
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

/// The memory that is shared with the programs.
struct Slots {
    sockets: OwnedFd,
    ports: Mapped<Port>,
    heartbeats: Mapped<Heartbeat>,
    /// Which slots are taken.
    taken: Mutex<Vec<bool>>,
}

impl Slots {
    fn new(
        sockets: OwnedFd,
        ports: NamedMap<'_>,
        heartbeats: NamedMap<'_>,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            sockets,
            ports: Mapped::new(ports, PORTS as usize)?,
            heartbeats: Mapped::new(heartbeats, SLOTS as usize)?,
            taken: Mutex::new(vec![false; SLOTS as usize]),
        })
    }

    /// Takes so many slots in a row.
    fn take(&self, count: u32) -> Option<Range<u32>> {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let first = first_run(&taken, count as usize)?;
        taken[first..first + count as usize].fill(true);
        Some(first as u32..first as u32 + count)
    }

    fn give_back(&self, slots: Range<u32>) {
        let mut taken = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        taken[slots.start as usize..slots.end as usize].fill(false);
    }

    fn ifindex(&self, place: u32) -> &AtomicU32 {
        let port = self.ports.element(place as usize);
        // SAFETY: aligned, and lives as long as the mapping.
        unsafe { AtomicU32::from_ptr(&raw mut (*port).ifindex) }
    }

    fn heartbeat(&self, slot: u32) -> &AtomicU64 {
        let heartbeat = self.heartbeats.element(slot as usize);
        // SAFETY: aligned, and lives as long as the mapping.
        unsafe { AtomicU64::from_ptr(&raw mut (*heartbeat).at_ns) }
    }

    /// Enters a port; says where. `None` if all its places are taken.
    fn enter(&self, port: Port) -> Option<u32> {
        // Two that look at once would take the same place.
        let _alone = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let place = (0..PORT_PLACES)
            .map(|n| port_place(port.ifindex, n))
            .find(|place| self.ifindex(*place).load(Ordering::Relaxed) == 0)?;
        let entry = self.ports.element(place as usize);
        // SAFETY: in bounds; the program looks at it only once it has an index.
        unsafe { entry.write_volatile(Port { ifindex: 0, ..port }) };
        self.ifindex(place).store(port.ifindex, Ordering::Release);
        Some(place)
    }

    fn leave(&self, place: u32) {
        self.ifindex(place).store(0, Ordering::Release);
    }
}

/// Where so many places in a row are free.
fn first_run(taken: &[bool], count: usize) -> Option<usize> {
    let mut free = 0;
    for (i, taken) in taken.iter().enumerate() {
        free = if *taken { 0 } else { free + 1 };
        if free >= count.max(1) {
            return Some(i + 1 - free);
        }
    }
    None
}

/// The slots of the queues of one interface. To be dropped when the program is off the interface.
pub struct Share {
    interface: Interface,
    slots: Arc<Slots>,
    own: Range<u32>,
    place: u32,
}

impl fmt::Debug for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interface, own, .. } = self;
        f.debug_struct("Share")
            .field("interface", interface)
            .field("own", own)
            .finish_non_exhaustive()
    }
}

impl Share {
    fn new(
        slots: Arc<Slots>,
        interface: &Interface,
        queues: u32,
        skipped: Skipped,
    ) -> Result<Self, ShareError> {
        let name = || interface.name.clone();
        let own = slots.take(queues).ok_or_else(|| ShareError::NoSlots {
            interface: name(),
            queues,
        })?;
        for slot in own.clone() {
            slots.heartbeat(slot).store(0, Ordering::Relaxed);
        }
        let place = slots.enter(Port {
            ifindex: interface.index,
            first_slot: own.start,
            queues,
            drop_skipped: u32::from(skipped == Skipped::Drop),
        });
        match place {
            Some(place) => Ok(Self {
                interface: interface.clone(),
                slots,
                own,
                place,
            }),
            None => {
                slots.give_back(own);
                Err(ShareError::NoPlace { interface: name() })
            }
        }
    }

    /// How many queues have a slot.
    #[must_use]
    pub fn queues(&self) -> u32 {
        self.own.len() as u32
    }

    /// Puts the socket of a queue into its slot. The kernel takes it out when the socket is closed.
    ///
    /// # Errors
    /// The kernel's own.
    ///
    /// # Panics
    /// The queue has no slot.
    pub fn give(&self, queue: u32, socket: &Queue) -> Result<(), ShareError> {
        bpf::set_element(self.slots.sockets.as_fd(), self.slot(queue), socket.as_fd()).map_err(
            |source| ShareError::Socket {
                interface: self.interface.name.clone(),
                queue,
                source,
            },
        )
    }

    /// How the worker of a queue shows that it is alive.
    ///
    /// # Panics
    /// The queue has no slot.
    #[must_use]
    pub fn pulse(&self, queue: u32) -> Pulse {
        Pulse {
            slots: Arc::clone(&self.slots),
            slot: self.slot(queue),
        }
    }

    fn slot(&self, queue: u32) -> u32 {
        assert!(queue < self.queues(), "queue {queue} of {}", self.queues());
        self.own.start + queue
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.slots.leave(self.place);
        self.slots.give_back(self.own.clone());
    }
}

/// The sign of life of one worker. Without one for half a second, packets of its queue go to the
/// stack; see [`flowprobe_ebpf::handover::STALLED_NS`].
pub struct Pulse {
    slots: Arc<Slots>,
    slot: u32,
}

impl fmt::Debug for Pulse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pulse({})", self.slot)
    }
}

impl Pulse {
    /// Gives a sign of life. To be called before the program is attached, and each 100 ms at least.
    pub fn beat(&self) {
        self.beat_at(monotonic_ns());
    }

    /// The same, for who has just read the clock: nanoseconds of CLOCK_MONOTONIC.
    pub fn beat_at(&self, now_ns: u64) {
        self.slots
            .heartbeat(self.slot)
            .store(now_ns, Ordering::Relaxed);
    }

    /// Gives no more: from now on packets go to the stack.
    pub fn stop(&self) {
        self.beat_at(0);
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_in_a_row_are_found() {
        let taken = [true, false, true, false, false, false, true];
        assert_eq!(first_run(&taken, 1), Some(1));
        assert_eq!(first_run(&taken, 2), Some(3));
        assert_eq!(first_run(&taken, 3), Some(3));
        assert_eq!(first_run(&taken, 4), None);
        assert_eq!(first_run(&[false; 4], 4), Some(0));
        assert_eq!(first_run(&[], 1), None);
    }

    #[test]
    fn refusals_say_what_to_do() {
        let interface = "eth0".to_owned();
        let error = ShareError::NoSlots {
            interface,
            queues: 2000,
        };
        let line = error.to_string();
        assert!(
            line.contains("ethtool -L eth0") && line.contains("1024"),
            "{line}"
        );
        assert!(!line.contains("  "), "{line}");
    }
}
