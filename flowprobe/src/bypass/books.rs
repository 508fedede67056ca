//! The ledger's numbers of this mode: some are the program's, some the workers'.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use flowprobe_ebpf::{Lost, cpu::Tally};

use super::{Counted, Losses, worker::Desk};
use crate::{
    ledger::Books,
    record::Volume,
    table::{Shared, emit::Exported, shared::Totals},
};

/// Program and workers together.
pub struct Both {
    shared: Arc<Shared>,
    exported: Arc<Exported>,
    desks: Vec<Arc<Desk>>,
    /// Whether nothing is on its way from the program to a worker any more.
    ended: AtomicBool,
}

impl Both {
    /// Of these workers.
    #[must_use]
    pub fn new(shared: Arc<Shared>, exported: Arc<Exported>, desks: Vec<Arc<Desk>>) -> Self {
        Self {
            shared,
            exported,
            desks,
            ended: AtomicBool::new(false),
        }
    }

    /// Nothing comes any more: what was handed over and has not arrived is lost.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

impl Books for Both {
    fn totals(&self) -> Totals {
        // The workers' first: what they have was handed over.
        let counted: Vec<Counted> = self.desks.iter().map(|desk| desk.counted()).collect();
        let ended = self.ended.load(Ordering::Relaxed);
        joined(self.shared.totals(), &counted, ended)
    }

    /// What has been accounted and has not left; it is counted in the end only, since nobody else
    /// walks through a worker's table.
    fn held(&self) -> Volume {
        let mut held = Volume::default();
        let mut accounted = Tally::default();
        for desk in &self.desks {
            let counted = desk.counted();
            held.records += counted.flows as u64;
            accounted.packets += counted.totals.accounted.packets;
            accounted.octets += counted.totals.accounted_ip_octets;
        }
        let (exported, waiting) = (self.exported.volume(), self.exported.waiting());
        held.packets = accounted
            .packets
            .saturating_sub(exported.packets + waiting.packets);
        held.octets = accounted
            .octets
            .saturating_sub(exported.octets + waiting.octets);
        held
    }
}

/// The sum of what the program and all workers have counted. Packets that were handed over and did not
/// arrive are lost for the reasons that the kernel tells; their octets are those of the reason
/// that most of them are lost for, since it does not tell octets. Of those that have no reason it is
/// not known until the end whether they are only on their way.
fn joined(program: Totals, workers: &[Counted], ended: bool) -> Totals {
    let mut totals = program;
    let mut received = Tally::default();
    let mut losses = Losses::default();
    for worker in workers {
        let Totals {
            accounted,
            accounted_ip_octets,
            ignored,
            inserted,
            fragment_orphans,
            ..
        } = worker.totals;
        add(&mut received, worker.received());
        add(&mut totals.accounted, accounted);
        for (sum, tally) in totals.ignored.iter_mut().zip(ignored) {
            add(sum, tally);
        }
        totals.accounted_ip_octets += accounted_ip_octets;
        totals.inserted += inserted;
        totals.fragment_orphans += fragment_orphans;
        losses.rx_ring_full += worker.losses.rx_ring_full;
        losses.fill_ring_empty += worker.losses.fill_ring_empty;
        losses.too_long += worker.losses.too_long;
    }
    let missing = Tally {
        packets: program.handed.packets.saturating_sub(received.packets),
        octets: program.handed.octets.saturating_sub(received.octets),
    };
    let mut left = missing.packets;
    let mut reasons = [
        (Lost::RxRingFull, losses.rx_ring_full),
        (Lost::FillRingEmpty, losses.fill_ring_empty),
        (Lost::TooLong, losses.too_long),
        (Lost::Redirect, if ended { u64::MAX } else { 0 }),
    ]
    .map(|(reason, counted)| {
        let packets = counted.min(left);
        left -= packets;
        (reason, packets)
    });
    let lost = missing.packets - left;
    // While some are on their way, those that are lost have their part of the octets.
    let octets = match missing.packets {
        0 => 0,
        all => (u128::from(missing.octets) * u128::from(lost) / u128::from(all)) as u64,
    };
    reasons.sort_by_key(|(_, packets)| std::cmp::Reverse(*packets));
    for (i, (reason, packets)) in reasons.into_iter().enumerate() {
        let octets = if i == 0 { octets } else { 0 };
        add(&mut totals.lost[reason as usize], Tally { packets, octets });
    }
    totals
}

fn add(sum: &mut Tally, tally: Tally) {
    sum.packets += tally.packets;
    sum.octets += tally.octets;
}

#[cfg(test)]
mod tests {
    use flowprobe_ebpf::Skip;

    use super::*;

    fn tally(packets: u64, octets: u64) -> Tally {
        Tally { packets, octets }
    }

    #[test]
    fn what_was_handed_over_is_received_or_lost_for_a_reason() {
        let mut program = Totals {
            seen: tally(1000, 100_000),
            handed: tally(900, 90_000),
            ..Totals::default()
        };
        program.lost[Lost::WorkerStalled as usize] = tally(100, 10_000);
        let mut worker = Counted::default();
        worker.totals.accounted = tally(300, 30_000);
        worker.totals.ignored[Skip::Arp as usize] = tally(100, 6000);
        worker.losses.rx_ring_full = 20;
        worker.losses.too_long = 50;
        let of = |totals: &Totals, reason: Lost| totals.lost[reason as usize];

        // 100 packets are missing.
        let totals = joined(program, &[worker, worker], true);
        assert_eq!(totals.accounted, tally(600, 60_000));
        assert_eq!(totals.ignored[Skip::Arp as usize], tally(200, 12_000));
        assert_eq!(of(&totals, Lost::WorkerStalled), tally(100, 10_000));
        assert_eq!(of(&totals, Lost::RxRingFull), tally(40, 0));
        assert_eq!(of(&totals, Lost::TooLong), tally(60, 18_000));
        assert_eq!(of(&totals, Lost::Redirect), tally(0, 0));

        worker.losses = Losses::default();
        worker.losses.fill_ring_empty = 5;
        let totals = joined(program, &[worker, worker], true);
        assert_eq!(of(&totals, Lost::FillRingEmpty), tally(10, 0));
        assert_eq!(of(&totals, Lost::Redirect), tally(90, 18_000));
        // The others may only be on their way.
        let totals = joined(program, &[worker, worker], false);
        assert_eq!(of(&totals, Lost::FillRingEmpty), tally(10, 1800));
        assert_eq!(of(&totals, Lost::Redirect), tally(0, 0));
    }
}
