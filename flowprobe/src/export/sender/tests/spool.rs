//! Collectors that share a queue with a spool: who gets what, and a disk that is full.

use std::{
    fs::{self, File},
    io::Write as _,
    sync::Mutex,
};

use super::{
    sessions::{Peer, Session, read, session},
    *,
};
use crate::{
    export::{
        members::Members,
        spool::{
            MIN_LIMIT, Spool,
            intake::{Intake, Shared},
        },
    },
    ipfix_file::tests::{Scratch, full_disk::on_small_disk},
    sampling::Sampling,
};

impl Link for Rc<RefCell<Intake>> {
    fn has_sessions(&self) -> bool {
        true
    }

    fn is_spool(&self) -> bool {
        true
    }

    fn open(&mut self, now: Instant) -> io::Result<bool> {
        self.borrow_mut().open(now)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.borrow_mut().send(message)
    }

    fn acknowledged(&mut self) -> u64 {
        self.borrow_mut().acknowledged()
    }

    fn is_due(&mut self, now: Instant) -> bool {
        self.borrow_mut().is_due(now)
    }
}

/// Records that the queue takes.
const QUEUE: usize = 200;

/// Collectors and a spool of one queue.
struct Queue {
    outlet: Arc<Outlet>,
    collectors: Vec<Session>,
    spool: Bench<Rc<RefCell<Intake>>>,
    exported: u64,
}

impl Queue {
    fn new(collectors: usize, directory: &std::path::Path) -> Self {
        let members = Members::new(collectors, true, Duration::from_secs(5));
        let outlet = Arc::new(Outlet::new("group".to_owned(), QUEUE, &[Sampling::All]));
        let spool = Spool::open(directory, MIN_LIMIT).expect("opens");
        let shared = Shared::new(spool, Arc::clone(&members), Arc::clone(&outlet));
        let collector = |number| {
            let mut bench = session();
            bench.outlet = Arc::clone(&outlet);
            bench.seat(members.seat(number));
            let sender = bench.sender.take().expect("it is there");
            bench.sender = Some(sender.spooling(Arc::clone(&shared)));
            bench
        };
        let collectors: Vec<_> = (0..collectors).map(collector).collect();
        let intake = Rc::new(RefCell::new(Intake::new(Arc::clone(&shared))));
        let mut spool = Bench::with(intake, |_| {});
        spool.outlet = Arc::clone(&outlet);
        spool.seat(members.spool_seat());
        // One clock for all.
        for bench in &collectors {
            spool.now = bench.now;
        }
        Self {
            outlet,
            collectors,
            spool,
            exported: 0,
        }
    }

    fn run(&mut self, ms: u64) {
        for _ in 0..ms / 10 {
            self.collectors.iter_mut().for_each(|bench| bench.run(10));
            self.spool.run(10);
            let total = self.outlet.report().total();
            assert_eq!(total.records, self.exported, "{:?}", self.outlet.report());
        }
    }

    fn send(&mut self, records: Vec<FlowRecord>) {
        self.exported += records.len() as u64;
        let now = self.spool.now;
        self.outlet.account().push(&Arc::new(records), now);
    }

    fn peer(&self, number: usize) -> std::cell::RefMut<'_, Peer> {
        self.collectors[number].network.borrow_mut()
    }

    /// The records that each session of a collector brought, by their numbers.
    fn brought(&self, collector: usize) -> Vec<Vec<u64>> {
        let sessions = self.peer(collector).sessions.len();
        let one = |i| {
            let collected = read(&self.collectors[collector], i);
            assert_eq!(collected.gap, 0);
            let flows = collected.records.iter().filter(|(id, _)| *id < 512);
            // Which of [`many`] a record is: the number is in its packets.
            flows.map(|(_, fields)| number(fields, 2)).collect()
        };
        (0..sessions).map(one).collect()
    }

    fn finish(&mut self) -> DestinationReport {
        let by = self.spool.now.at + Duration::from_secs(30);
        for bench in &mut self.collectors {
            bench.finish_by = Some(by);
        }
        self.spool.finish_by = Some(by);
        self.run(40_000);
        assert!(self.collectors.iter().all(|bench| bench.ended) && self.spool.ended);
        self.outlet.report()
    }
}

/// Those of [`many`] from `from` on.
fn some(from: usize, count: usize) -> Vec<FlowRecord> {
    many((from + count) as u32).split_off(from)
}

/// Both are away: the queue goes to disk. The second comes back and gets that first, and then what
/// waits; the first one takes over after the hold-down.
#[test]
fn a_group_that_fails_over_has_one_spool_for_whose_turn_it_is() {
    let scratch = Scratch::new();
    let mut queue = Queue::new(2, scratch.path());
    queue.run(100);
    queue.send(some(0, 50));
    queue.run(2000);
    for number in 0..2 {
        let mut peer = queue.peer(number);
        (peer.breaks, peer.closed) = (true, true);
    }
    queue.run(100);
    for part in 0..10 {
        queue.send(some(50 + 60 * part, 60));
        queue.run(1000);
    }
    let report = queue.outlet.report();
    assert_eq!((report.sent.records, report.dropped.len()), (50, 0));
    assert!(report.spooled.records >= 400, "{report:?}");
    queue.peer(1).closed = false;
    queue.run(3000);
    let brought = queue.brought(1);
    let report = queue.outlet.report();
    assert_eq!((report.sent.records, report.spooled.records), (650, 0));
    let flows: Vec<_> = brought.concat();
    assert_eq!(flows, (51..=650).collect::<Vec<_>>(), "oldest first");
    queue.peer(0).closed = false;
    queue.run(8000);
    queue.send(some(650, 20));
    queue.run(2000);
    assert_eq!(queue.brought(1).concat().len(), 600);
    assert_eq!(queue.brought(0).concat().len(), 50 + 20);
    let report = queue.finish();
    assert_eq!((report.sent.records, report.dropped.len()), (670, 0));
    assert_eq!(scratch.names(), ["lock", "sent"]);
}

/// While one is sent what is on disk, the preferred one is back for long enough: it goes on with the
/// rest, and nothing comes twice.
#[test]
fn the_preferred_one_goes_on_with_what_is_on_disk() {
    let scratch = Scratch::new();
    let mut queue = Queue::new(2, scratch.path());
    for number in 0..2 {
        queue.peer(number).closed = true;
    }
    for part in 0..20 {
        queue.send(some(60 * part, 60));
        queue.run(1000);
    }
    assert!(queue.outlet.report().spooled.records >= 1000);
    // It takes a message a second.
    queue.peer(1).takes = Some(0);
    queue.peer(1).closed = false;
    for second in 0..12 {
        queue.run(1000);
        queue.peer(1).takes = Some(second + 1);
        if second == 2 {
            queue.peer(0).closed = false;
        }
    }
    queue.peer(1).takes = None;
    queue.run(3000);
    let [one, two] = [0, 1].map(|number| queue.brought(number).concat());
    assert!(!two.is_empty() && two.len() < 1000, "{}", two.len());
    assert_eq!([two, one].concat(), (1..=1200).collect::<Vec<_>>());
    let report = queue.outlet.report();
    assert_eq!((report.sent.records, report.spooled.records), (1200, 0));
}

/// At the end one is sent what is on disk, and goes away: the other one is still there for the rest.
#[test]
fn one_that_stands_by_stays_until_nothing_is_on_disk() {
    let scratch = Scratch::new();
    let mut queue = Queue::new(2, scratch.path());
    for number in 0..2 {
        queue.peer(number).closed = true;
    }
    for part in 0..10 {
        queue.send(some(110 * part, 110));
        queue.run(1000);
    }
    assert_eq!(queue.finish().spooled.records, 1100);
    drop(queue);
    let mut queue = Queue::new(2, scratch.path());
    queue.peer(0).takes = Some(0);
    queue.run(3000);
    let by = queue.spool.now.at + Duration::from_secs(60);
    for bench in &mut queue.collectors {
        bench.finish_by = Some(by);
    }
    queue.spool.finish_by = Some(by);
    queue.run(3000);
    {
        let mut peer = queue.peer(0);
        (peer.breaks, peer.closed) = (true, true);
    }
    let report = queue.finish();
    assert_eq!(queue.brought(1).concat(), (1..=1100).collect::<Vec<_>>());
    assert_eq!(report.recovered.records, 1100);
}

/// One that reads more slowly than flows come: what the queue has no room for is on disk meanwhile, and
/// all of it arrives in its order.
#[test]
fn a_collector_that_does_not_keep_up_loses_nothing() {
    let scratch = Scratch::new();
    let mut queue = Queue::new(1, scratch.path());
    let step = |queue: &mut Queue| {
        {
            let mut peer = queue.peer(0);
            let taken = peer.sessions.last().map_or(0, Vec::len);
            peer.takes = Some(taken + 1);
        }
        queue.run(100);
    };
    let mut most = 0;
    for part in 0..60 {
        queue.send(some(40 * part, 40));
        step(&mut queue);
        most = most.max(queue.outlet.report().spooled.records);
    }
    assert!(most > QUEUE as u64, "{most}");
    for _ in 0..400 {
        step(&mut queue);
    }
    let report = queue.outlet.report();
    assert_eq!((report.sent.records, report.dropped.len()), (2400, 0));
    assert_eq!((report.spooled.records, report.outages), (0, 0));
    assert_eq!(queue.brought(0).concat(), (1..=2400).collect::<Vec<_>>());
    // It keeps up again: nothing goes to disk.
    queue.peer(0).takes = None;
    queue.send(some(2400, 40));
    queue.run(2000);
    assert_eq!(queue.outlet.report().sent.records, 2440);
}

/// One that is there and reads nothing does not keep the flows from others, or from the disk.
#[test]
fn a_collector_that_reads_nothing_is_left() {
    for others in [0, 1] {
        let scratch = Scratch::new();
        let mut queue = Queue::new(1 + others, scratch.path());
        queue.run(100);
        {
            let mut peer = queue.peer(0);
            let taken = peer.sessions[0].len();
            (peer.takes, peer.acknowledges) = (Some(taken + 2), Some(taken as u64));
        }
        for part in 0..3 {
            queue.send(some(55 * part, 55));
            queue.run(1000);
        }
        assert_eq!(queue.outlet.report().sent.records, 0);
        queue.run(9000);
        for part in 3..30 {
            queue.send(some(55 * part, 55));
            queue.run(1000);
        }
        let report = queue.outlet.report();
        assert_eq!(report.dropped, [], "{report:?}");
        if others == 0 {
            assert!(report.spooled.records > 1200, "{report:?}");
            assert_eq!(report.outages, 1);
            let mut peer = queue.peer(0);
            (peer.takes, peer.acknowledges) = (None, None);
        }
        queue.run(60_000);
        let report = queue.outlet.report();
        assert_eq!((report.sent.records, report.spooled.records), (1650, 0));
        let mut flows = match others {
            // The two messages that it had read and nobody knew of come twice.
            0 => queue.brought(0)[1..].concat(),
            _ => queue.brought(1).concat(),
        };
        // What it had waits again while the spool is at work.
        flows.sort_unstable();
        assert!(flows.into_iter().eq(1..=1650), "each once");
    }
}

/// Nobody comes back: at the end all of it is on disk, in files that are complete.
#[test]
fn at_the_end_what_waits_is_on_disk_in_whole_files() {
    let scratch = Scratch::new();
    let mut queue = Queue::new(2, scratch.path());
    for number in 0..2 {
        queue.peer(number).closed = true;
    }
    queue.send(some(0, 70));
    queue.run(1000);
    let report = queue.finish();
    assert_eq!((report.spooled.records, report.dropped.len()), (70, 0));
    drop(queue);
    assert_eq!(scratch.names(), ["0000000001.ipfix", "lock", "sent"]);
}

/// A collector that has everything leaves nothing behind for the spool to write at the end.
#[test]
fn without_an_outage_there_is_no_file() {
    let scratch = Scratch::new();
    let mut queue = Queue::new(1, scratch.path());
    queue.send(some(0, 70));
    let report = queue.finish();
    assert_eq!(report.sent.records, 70);
    drop(queue);
    assert_eq!(scratch.names(), ["lock", "sent"]);
}

/// What was logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(text)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn lines_with(&self, text: &str) -> Vec<String> {
        let log = self.0.lock().expect("no panic");
        let log = String::from_utf8_lossy(&log);
        let lines = log.lines().filter(|line| line.contains(text));
        lines.map(str::to_owned).collect()
    }
}

/// A disk is full under a spool: said once, flows wait and are counted, and go to disk again once
/// there is room.
#[test]
fn a_full_disk_is_said_once_and_so_is_that_it_takes_flows_again() {
    on_small_disk(1 << 20, |directory| {
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone());
        tracing::subscriber::with_default(subscriber.finish(), || {
            let mut queue = Queue::new(1, &directory.join("spool"));
            queue.peer(0).closed = true;
            let ballast = directory.join("ballast");
            let mut file = File::create(&ballast).expect("room");
            while file.write_all(&[0; 4096]).is_ok() {}
            queue.run(1000);
            queue.send(some(0, 150));
            queue.run(20_000);
            queue.send(some(150, 150));
            queue.run(20_000);
            let said = log.lines_with("No space left on device");
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].contains("flows cannot go to disk"), "{said:?}");
            assert!(said[0].contains("spool=\"member\""), "{said:?}");
            assert_eq!(log.lines_with("again"), [""; 0]);
            let report = queue.outlet.report();
            assert_eq!(dropped(&report, "queue_full"), 300 - QUEUE as u64);
            assert_eq!((report.spooled.records, report.queued.records), (0, 200));
            let names = fs::read_dir(directory.join("spool")).expect("there");
            assert_eq!(names.count(), 2, "no file of templates alone");
            fs::remove_file(&ballast).expect("there");
            drop(file);
            queue.run(20_000);
            let report = queue.outlet.report();
            assert!(report.spooled.records > QUEUE as u64 / 2, "{report:?}");
            queue.send(some(300, 150));
            queue.run(20_000);
            let said = log.lines_with("again");
            assert_eq!(said.len(), 1, "{said:?}");
            assert!(said[0].contains("flows go to disk again"), "{said:?}");
            queue.peer(0).closed = false;
            let report = queue.finish();
            assert_eq!(report.sent.records, 450 - 100, "{report:?}");
        });
    });
}
