//! Where the packets of a worker come from.

use std::time::Duration;

use crate::{
    load::handover::Pulse,
    xsk::{Queue, Received},
};

/// Packets that were handed over and did not arrive, by the reasons that the kernel tells.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses {
    /// [`flowprobe_ebpf::Lost::RxRingFull`].
    pub rx_ring_full: u64,
    /// [`flowprobe_ebpf::Lost::FillRingEmpty`].
    pub fill_ring_empty: u64,
    /// [`flowprobe_ebpf::Lost::TooLong`].
    pub too_long: u64,
}

/// Gives packets in bursts.
pub trait Source: Send + 'static {
    /// Calls `take` with packets that have come, `most` at most; says how many.
    fn receive(&mut self, most: usize, take: impl FnMut(Received<'_>)) -> usize;

    /// Sleeps until there are packets, `at_most` so long.
    fn wait(&mut self, at_most: Duration);

    /// What was lost on the way so far.
    fn losses(&self) -> Losses;

    /// Whoever reads it is alive, at `now_ns` of CLOCK_MONOTONIC.
    fn beat(&self, now_ns: u64);

    /// How many packets can wait in it.
    fn capacity(&self) -> usize;
}

/// A socket of AF_XDP whose program looks at a pulse.
#[derive(Debug)]
pub struct Tapped {
    queue: Queue,
    pulse: Pulse,
    capacity: usize,
    gone: bool,
}

impl Tapped {
    /// The socket of a queue, in which `capacity` packets can wait, and its pulse.
    #[must_use]
    pub fn new(queue: Queue, pulse: Pulse, capacity: usize) -> Self {
        Self {
            queue,
            pulse,
            capacity,
            gone: false,
        }
    }
}

impl Source for Tapped {
    fn receive(&mut self, most: usize, take: impl FnMut(Received<'_>)) -> usize {
        self.queue.receive(most, take)
    }

    fn wait(&mut self, at_most: Duration) {
        if self.gone {
            // A socket that is over would answer at once, for ever.
            return std::thread::sleep(at_most);
        }
        if let Err(error) = self.queue.wait(at_most)
            && error.kind() != std::io::ErrorKind::Interrupted
        {
            tracing::debug!("a queue cannot be waited for any more: {error}");
            self.gone = true;
        }
    }

    fn losses(&self) -> Losses {
        // It does not fail on a socket of AF_XDP; if it did, what is lost would have no reason.
        let Ok(counted) = self.queue.statistics() else {
            return Losses::default();
        };
        let counted = counted.explain(u64::MAX);
        Losses {
            rx_ring_full: counted.rx_ring_full,
            fill_ring_empty: counted.fill_ring_empty,
            too_long: counted.too_long,
        }
    }

    fn beat(&self, now_ns: u64) {
        self.pulse.beat_at(now_ns);
    }

    fn capacity(&self) -> usize {
        self.capacity
    }
}
