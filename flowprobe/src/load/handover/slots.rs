//! Slots: the memory that is shared with the programs, and the queues that have a part of it.

use std::{
    fmt, io,
    ops::Range,
    os::fd::{AsFd as _, OwnedFd},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use flowprobe_ebpf::handover::{Heartbeat, PORT_PLACES, PORTS, Port, SLOTS, port_place};

use crate::{
    attach::Interface,
    bpf,
    clock::monotonic_ns,
    load::LoadError,
    table::shared::{Mapped, NamedMap},
    xsk::Queue,
};

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

/// The memory that is shared with the programs.
pub(super) struct Slots {
    sockets: OwnedFd,
    ports: Mapped<Port>,
    heartbeats: Mapped<Heartbeat>,
    /// Which slots are taken.
    taken: Mutex<Vec<bool>>,
}

impl Slots {
    pub(super) fn new(
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
    pub(super) fn new(
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
