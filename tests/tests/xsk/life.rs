//! Workers that hang, and those that are gone: the stack gets the packets.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::Result;
use flowprobe::load::handover::{Pulse, Skipped};
use flowprobe_ebpf::{Lost, handover::STALLED_NS};
use flowprobe_tests::topology::{Pair, Wire};

use crate::rig::{OPTIONS, Rig, SMALL, TWO_QUEUES, at_sensor, datagrams, octets};

fn stalled(rig: &Rig) -> (u64, u64) {
    let lost = rig.totals().lost[Lost::WorkerStalled as usize];
    (lost.packets, lost.octets)
}

#[test]
fn packets_pass_when_the_heart_stops_and_not_when_it_beats_again() -> Result<()> {
    let pair = Pair::new(TWO_QUEUES)?;
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        let packets = datagrams(200);
        rig.send(&packets)?;
        rig.receive(200)?;
        assert_eq!(stalled(&rig), (0, 0));
        // For the last time. The program's clock may be a tick late.
        for pulse in &rig.pulses {
            pulse.beat();
        }
        thread::sleep(Duration::from_nanos(STALLED_NS) + Duration::from_millis(20));
        rig.send(&packets)?;
        assert_eq!(stalled(&rig), (200, octets(&packets)));
        assert!(rig.drain().is_empty());
        beating(&rig, || rig.send(&packets))?;
        rig.receive(200)?;
        let totals = rig.totals();
        assert_eq!(totals.handed.packets, 400);
        assert_eq!(stalled(&rig).0 + totals.handed.packets, totals.seen.packets);
        assert_eq!(rig.at_stack()?, 200);
        Ok(())
    })
}

/// Does the work while the hearts beat as those of workers do.
fn beating<T>(rig: &Rig, work: impl FnOnce() -> T) -> T {
    let done = AtomicBool::new(false);
    let pulses = &rig.pulses;
    let beat = || pulses.iter().for_each(Pulse::beat);
    beat();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                beat();
                thread::sleep(Duration::from_millis(10));
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}

#[test]
fn a_worker_that_says_so_gets_no_more() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        rig.pulses[0].stop();
        rig.send(&datagrams(50))?;
        assert_eq!(stalled(&rig).0, 50);
        assert_eq!(rig.at_stack()?, 50);
        Ok(())
    })
}

#[test]
fn a_queue_without_a_socket_leaves_its_packets_to_the_stack() -> Result<()> {
    let pair = Pair::new(TWO_QUEUES)?;
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        let packets = datagrams(400);
        // Its worker has ended, and the heart of another has been left beating.
        rig.queues.pop();
        rig.send(&packets)?;
        let totals = rig.totals();
        let (lost, _) = stalled(&rig);
        assert!(
            lost > 0 && totals.handed.packets > 0,
            "both queues have packets"
        );
        assert_eq!(lost + totals.handed.packets, 400);
        rig.receive(totals.handed.packets as usize)?;
        assert_eq!(rig.at_stack()? as u64, lost);
        Ok(())
    })
}

#[test]
fn a_queue_that_is_not_shared_leaves_its_packets_to_the_stack() -> Result<()> {
    let pair = Pair::new(TWO_QUEUES)?;
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        // From two queues to one, as where a device gets more of them while it is watched.
        let interface = rig.interface.clone();
        let fewer = rig.handover.share(&interface, 1, Skipped::Drop)?;
        let before = std::mem::replace(&mut rig.share, fewer);
        drop(before);
        rig.share.give(0, &rig.queues[0])?;
        let pulse = rig.share.pulse(0);
        pulse.beat_at(u64::MAX);
        rig.send(&datagrams(400))?;
        let (lost, _) = stalled(&rig);
        assert!(lost > 0 && lost < 400, "{lost}");
        assert_eq!(rig.totals().handed.packets, 400 - lost);
        assert_eq!(rig.at_stack()? as u64, lost);
        Ok(())
    })
}
