//! Empties the rings. It never waits for a grace period: a full ring loses packets.

use std::sync::Arc;

use flowprobe_ebpf::ring::{Part, cause};

use crate::{
    clock::monotonic_ns,
    record::EndReason,
    table::{Emitter, Flow, Overflow, Shared},
};

/// Moves parts of flows from the rings to the overflow table.
pub struct Drainer {
    shared: Arc<Shared>,
    overflow: Arc<Overflow>,
    emitter: Emitter,
}

/// Parts read from one ring before its places are given back and the next ring has its turn.
const TURN: u64 = 1024;
/// Turns of each ring in one call: 65,536 parts, as many as a ring of [`crate::load::RING_PARTS`]
/// holds. The caller sleeps between calls, so that a single turn each would limit a ring to two
/// million parts a second.
const TURNS: usize = 64;

impl Drainer {
    /// A drainer of all rings.
    #[must_use]
    pub fn new(shared: Arc<Shared>, overflow: Arc<Overflow>, emitter: Emitter) -> Self {
        Self {
            shared,
            overflow,
            emitter,
        }
    }

    /// Reads what the rings hold, at most once around each; returns how many parts that was.
    pub fn drain(&mut self) -> u64 {
        let mut read = 0;
        for _ in 0..TURNS {
            let turn = self.turn();
            read += turn;
            if turn == 0 {
                break;
            }
        }
        read
    }

    /// Gives each ring one turn; returns how many parts were read.
    fn turn(&mut self) -> u64 {
        let mut read = 0;
        for cpu in 0..self.shared.geometry().partitions {
            let tail = self.shared.ring_tail(cpu);
            let end = self.shared.ring_head(cpu).min(tail + TURN);
            if end != tail {
                self.emitter.at(monotonic_ns());
            }
            for position in tail..end {
                let part = self.shared.ring_part(cpu, position);
                self.take(&part);
            }
            if end != tail {
                // Whoever waits for the ring to be read waits for its records.
                self.emitter.flush();
                self.shared.set_ring_tail(cpu, end);
            }
            read += end - tail;
        }
        read
    }

    fn take(&mut self, part: &Part) {
        let Some(flow) = Flow::from_part(part) else {
            // The program writes 4 or 6; anything else means memory was overwritten.
            tracing::error!(
                family = part.family,
                "a ring holds no flow: packets are lost"
            );
            return;
        };
        let hash = flow.key.hash(self.shared.secret());
        let mut shard = self.overflow.shard_of(hash);
        if part.cause == cause::RESTARTED {
            let mut whole = flow;
            if let Some(kept) = shard.take(hash, &flow.key) {
                whole.merge(&kept);
            }
            drop(shard);
            self.emitter.emit(&whole, EndReason::EndOfFlow);
        } else if shard.merge(hash, &flow).is_err() {
            drop(shard);
            self.emitter.emit(&flow, EndReason::LackOfResources);
        }
    }
}
