//! Threads at work, with packets from memory.

use std::{
    collections::VecDeque,
    num::NonZeroU32,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use flowprobe_ebpf::{Tunnels, handover::Note, hash::SECRET_WORDS, sampling::Sampled};

use super::*;
use crate::{
    bypass::source::Losses,
    clock::Clock,
    record::FlowRecord,
    table::{
        LocalTable, Timeouts,
        emit::{Exported, Sink},
        fragments::Fragments,
    },
    xsk::Received,
};

const SECRET: [u64; SECRET_WORDS] = [11; SECRET_WORDS];

/// What a worker reads from.
#[derive(Debug, Default)]
struct Line {
    packets: Mutex<VecDeque<(Vec<u8>, Note)>>,
    beats: AtomicU64,
    panics: AtomicBool,
}

impl Line {
    fn put(&self, packet: (Vec<u8>, Note)) {
        self.packets.lock().expect("a line").push_back(packet);
    }
}

#[derive(Debug)]
struct Memory(Arc<Line>);

impl Source for Memory {
    fn receive(&mut self, most: usize, mut take: impl FnMut(Received<'_>)) -> usize {
        assert!(!self.0.panics.load(Ordering::Relaxed), "as it was told");
        let mut packets = self.0.packets.lock().expect("a line");
        let many = packets.len().min(most);
        for (octets, note) in packets.drain(..many) {
            let len = octets.len() as u64;
            take(Received {
                octets: &octets,
                len,
                note,
            });
        }
        many
    }

    fn wait(&mut self, at_most: Duration) {
        thread::sleep(at_most.min(Duration::from_millis(1)));
    }

    fn losses(&self) -> Losses {
        Losses::default()
    }

    fn beat(&self, now_ns: u64) {
        self.0.beats.store(now_ns, Ordering::Relaxed);
    }

    fn capacity(&self) -> usize {
        1000
    }
}

/// Takes what goes to export.
#[derive(Debug, Default)]
struct Taken {
    records: Mutex<Vec<FlowRecord>>,
    /// Records that had been taken when an epoch was announced.
    changes: Mutex<Vec<(u32, usize)>>,
}

impl Sink for Taken {
    fn take(&self, records: Vec<FlowRecord>) {
        self.records.lock().expect("records").extend(records);
    }

    fn change(&self, _: u8, epoch: u32, _: Sampling) {
        let records = self.records.lock().expect("records").len();
        self.changes.lock().expect("changes").push((epoch, records));
    }
}

/// A program that goes by a new rate at once.
struct Switch(Arc<AtomicU64>);

impl Select for Switch {
    fn change(&mut self, _: u8, epoch: u32, _: Sampling) -> io::Result<Selection> {
        self.0.store(epoch.into(), Ordering::SeqCst);
        Ok(Selection::default())
    }
}

/// All of a crew that a test looks at.
struct Scene {
    crew: Crew<Memory>,
    lines: Vec<Arc<Line>>,
    taken: Arc<Taken>,
    epoch: Arc<AtomicU64>,
}

fn start(of: u32, poll: Poll) -> Scene {
    let timeouts = Timeouts {
        idle: Duration::from_secs(3600),
        active: Duration::from_secs(3600),
        linger: Duration::from_secs(1),
    };
    let lines: Vec<Arc<Line>> = (0..of).map(|_| Arc::default()).collect();
    let taken = Arc::new(Taken::default());
    let rates = Arc::new(Rates::of(Sampling::All));
    let emitter = Emitter::new(
        Arc::new(Clock::default()),
        Arc::new(Exported::default()),
        Arc::clone(&taken) as Arc<dyn Sink>,
        Arc::clone(&rates),
    );
    let recruit = |(n, line): (u32, &Arc<Line>)| {
        let table = LocalTable::new(100_000, timeouts.into(), SECRET);
        let shard = Shard::new(n, of, table);
        Recruit {
            source: Memory(Arc::clone(line)),
            meter: Meter::new(Tunnels::OUTER, Fragments::new(SECRET), 7, shard),
            cpu: None,
        }
    };
    let recruits = (0..).zip(&lines).map(recruit).collect();
    let epoch = Arc::new(AtomicU64::new(0));
    let switch = Switch(Arc::clone(&epoch));
    let crew =
        Crew::start(recruits, desks(lines.len()), poll, &emitter, &rates, switch).expect("a crew");
    Scene {
        crew,
        lines,
        taken,
        epoch,
    }
}

/// A UDP packet of a flow.
fn packet(flow: u16, epoch: u32) -> (Vec<u8>, Note) {
    let mut frame = vec![0; 60];
    frame[12] = 8;
    frame[14] = 0x45;
    frame[17] = 46;
    frame[23] = 17;
    frame[34..36].copy_from_slice(&flow.to_be_bytes());
    let note = Note {
        now_ns: monotonic_ns(),
        sampled: Sampled::new(0, epoch).0,
        tag: 0,
    };
    (frame, note)
}

impl Scene {
    /// Packets of 50 flows, each over all lines.
    fn send(&self, packets: u64) {
        for n in 0..packets {
            let epoch = self.epoch.load(Ordering::SeqCst) as u32;
            let line = &self.lines[(n / 50) as usize % self.lines.len()];
            line.put(packet((n % 50) as u16, epoch));
        }
    }
}

#[test]
fn flows_over_all_queues_are_one_record_each() {
    for (of, poll) in [(1, Poll::Wakeup), (3, Poll::Adaptive), (2, Poll::Busy)] {
        let Scene {
            crew, taken, lines, ..
        } = {
            let scene = start(of, poll);
            scene.send(6000);
            scene
        };
        let remains = crew.stop();
        assert_eq!((remains.broken, remains.held), (None, Volume::default()));
        let counted: u64 = remains
            .counted
            .iter()
            .map(|one| one.received().packets)
            .sum();
        assert_eq!(counted, 6000);
        let records = taken.records.lock().expect("records");
        assert_eq!(records.len(), 50, "{of} queues");
        assert!(records.iter().all(|record| record.packets == 120));
        assert!(
            lines
                .iter()
                .all(|line| line.beats.load(Ordering::Relaxed) > 0)
        );
    }
}

#[tokio::test]
async fn what_was_selected_before_leaves_before_another_rate_is_told() {
    let scene = start(3, Poll::Adaptive);
    let rate = Sampling::Count(NonZeroU32::new(10).expect("not 0"));
    for epoch in 1..=5_u64 {
        scene.send(3000);
        let changed = scene.crew.change(0, rate).await.expect("an answer");
        let changed = changed.expect("changed");
        assert_eq!((u64::from(changed.epoch), changed.flows), (epoch, 50));
    }
    scene.send(3000);
    let remains = scene.crew.stop();
    assert_eq!(remains.broken, None);
    let records = scene.taken.records.lock().expect("records");
    assert_eq!(records.iter().map(|one| one.packets).sum::<u64>(), 6 * 3000);
    let changes = scene.taken.changes.lock().expect("changes");
    for (epoch, before) in changes.iter() {
        assert_eq!(*before, 50 * *epoch as usize);
        let of = |records: &[FlowRecord]| records.iter().map(|one| one.key.sampled().epoch()).max();
        assert_eq!(of(&records[..*before]), Some(epoch - 1));
    }
    assert_eq!(changes.len(), 5);
}

#[tokio::test]
async fn a_worker_that_breaks_off_is_told_and_the_others_flows_leave() {
    let mut scene = start(3, Poll::Adaptive);
    scene.send(3000);
    let left = || {
        scene
            .lines
            .iter()
            .any(|line| !line.packets.lock().expect("a line").is_empty())
    };
    while left() {
        thread::sleep(CHANGE_STEP);
    }
    scene.lines[1].panics.store(true, Ordering::Relaxed);
    assert_eq!(scene.crew.ended().await, WORKER);
    let remains = scene.crew.stop();
    assert_eq!(
        (remains.broken, remains.held),
        (Some(WORKER), Volume::default())
    );
    let records = scene.taken.records.lock().expect("records");
    let packets: u64 = records.iter().map(|one| one.packets).sum();
    assert_eq!(packets, 2000, "those of the worker that broke off are gone");
}
