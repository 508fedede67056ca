//! The whole exporter over TCP, with and without a spool.

use std::{
    fs,
    io::Read as _,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    sync::mpsc,
};

use super::*;
use crate::{ipfix::tests::decode::number, ipfix_file::tests::Scratch};

/// A collector that reads all sessions to their ends.
pub(super) struct Collector {
    pub(super) address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Collected>>,
}

impl Collector {
    pub(super) fn listen(address: &str) -> Self {
        let listener = TcpListener::bind(address).expect("binds");
        listener.set_nonblocking(true).expect("a socket");
        let address = listener.local_addr().expect("bound");
        let stop = Arc::<AtomicBool>::default();
        let told = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut sessions = Vec::new();
            while !told.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((stream, _)) => sessions.push(read(stream)),
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
            sessions
        });
        Self {
            address,
            stop,
            thread,
        }
    }

    pub(super) fn sessions(self) -> Vec<Collected> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

/// All messages of a session (RFC 7011 §10.4: one behind the other, each says its length).
fn read(mut stream: TcpStream) -> Collected {
    stream.set_nonblocking(false).expect("a socket");
    let mut collected = Collected::default();
    let mut octets = Vec::new();
    stream.read_to_end(&mut octets).expect("ends in order");
    let mut rest = &octets[..];
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        collected.message(&rest[..length]);
        rest = &rest[length..];
    }
    collected
}

pub(super) fn tcp(address: SocketAddr, spool: Option<PathBuf>) -> Settings {
    let mut settings = settings(&[]);
    settings.collectors = vec![format!("tcp://{address}").parse().expect("a collector")];
    settings.queue = 400;
    settings.spool = spool.map(|directory| SpoolSettings {
        directory,
        octets: MIN_SPOOL,
    });
    settings
}

/// An address at which nobody listens.
pub(super) fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    listener.local_addr().expect("bound")
}

/// Sends `count` records in small steps, as long as there is room for each.
pub(super) fn send_slowly(exporter: &Exporter, count: u32) {
    for part in many(count).chunks(50) {
        let patience = Instant::now() + Duration::from_secs(20);
        while exporter.room() < part.len() {
            assert!(Instant::now() < patience, "no room");
            thread::sleep(Duration::from_millis(5));
        }
        exporter.send(part.to_vec());
    }
}

pub(super) fn gaps_and_flows(sessions: &[Collected]) -> (u64, usize) {
    let gaps = sessions.iter().map(|session| session.gap).sum();
    (gaps, sessions.iter().map(Collected::flows).sum())
}

#[test]
fn a_session_has_every_record_and_ends_in_order() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let collector = Collector::listen(host);
        let exporter = start(&tcp(collector.address, None));
        send_slowly(&exporter, 3000);
        let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
        assert_eq!(report.sent, Volume::of(&many(3000)));
        assert_eq!((report.dropped.len(), report.outages), (0, 0));
        let sessions = collector.sessions();
        assert_eq!(sessions.len(), 1);
        assert_eq!(gaps_and_flows(&sessions), (0, 3000));
        assert_eq!(sessions[0].records.len() as u64, report.encoded);
    }
}

/// A collector is away for longer than the queue lasts: what does not fit waits on disk, and goes
/// first when it is there.
#[test]
fn what_a_collector_misses_is_on_disk_until_it_is_there() {
    let scratch = Scratch::new();
    let address = nobody();
    let exporter = start(&tcp(address, Some(scratch.path().to_owned())));
    send_slowly(&exporter, 3000);
    let report = &exporter.reports()[0];
    assert!(report.spooled.records >= 2600, "{report:?}");
    assert_eq!(report.total(), Volume::of(&many(3000)));
    let collector = Collector::listen(&address.to_string());
    let patience = Instant::now() + Duration::from_secs(20);
    while exporter.reports()[0].sent.records < 2600 {
        assert!(Instant::now() < patience, "{:?}", exporter.reports());
        thread::sleep(Duration::from_millis(10));
    }
    send_slowly(&exporter, 100);
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
    let sessions = collector.sessions();
    assert_eq!(gaps_and_flows(&sessions), (0, 3100));
    assert_eq!(report.sent.records, 3100, "{report:?}");
    assert_eq!((report.spooled.records, report.dropped.len()), (0, 0));
    // Oldest first: those of the spool, then what waited in memory. The number of each of [`many`]
    // is in its packets.
    let records = sessions.iter().flat_map(|session| &session.records);
    let flows = records.filter(|(id, _)| *id < 512);
    let arrived: Vec<_> = flows.map(|(_, fields)| number(fields, 2)).collect();
    let expected = (1..=3000).chain(1..=100);
    let wrong = arrived
        .iter()
        .zip(expected)
        .position(|(one, other)| *one != other);
    let sizes: Vec<_> = sessions.iter().map(Collected::flows).collect();
    assert_eq!(
        wrong.map(|at| &arrived[at - 2..at + 300]),
        None,
        "{sizes:?}"
    );
    assert!(sessions.len() > 1, "one for what is on disk");
}

/// Nobody comes before the end: the next run sends it.
#[test]
fn what_is_on_disk_at_the_end_is_sent_by_the_next_run() {
    let scratch = Scratch::new();
    let address = nobody();
    let settings = tcp(address, Some(scratch.path().to_owned()));
    let exporter = start(&settings);
    send_slowly(&exporter, 1000);
    let begun = Instant::now();
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(report.spooled, Volume::of(&many(1000)), "{report:?}");
    assert_eq!(report.dropped, []);
    // As each file before the last one.
    let directory = scratch
        .path()
        .join(format!("tcp-127.0.0.1-{}", address.port()));
    let names = fs::read_dir(directory).expect("the spool");
    let names = names.map(|entry| entry.expect("an entry").path());
    let kinds = names.filter_map(|path| path.extension().map(ToOwned::to_owned));
    let kinds: Vec<_> = kinds.collect();
    assert!(
        !kinds.is_empty() && kinds.iter().all(|kind| kind == "ipfix"),
        "{kinds:?}"
    );
    let collector = Collector::listen(&address.to_string());
    let exporter = start(&settings);
    send_slowly(&exporter, 10);
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
    assert_eq!(gaps_and_flows(&collector.sessions()), (0, 1010));
    assert_eq!(report.recovered, Volume::of(&many(1000)));
    assert_eq!((report.sent.records, report.spooled.records), (10, 0));
}

/// The spool is full: the oldest flows are dropped, and counted.
#[test]
fn a_full_spool_drops_the_oldest_and_counts_them() {
    let scratch = Scratch::new();
    let mut settings = tcp(nobody(), Some(scratch.path().to_owned()));
    settings.queue = 4000;
    let exporter = start(&settings);
    // 85 octets each: more than the limit of 1 MiB.
    for _ in 0..8 {
        send_slowly(&exporter, 2500);
    }
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
    assert_eq!(report.total().records, 20_000, "{report:?}");
    let lost = dropped(&report, "spool_full");
    assert!(lost > 5000 && lost < 12_000, "{lost}");
    assert_eq!(report.spooled.records, 20_000 - lost);
    assert_eq!(report.dropped.len(), 1);
}

/// Another process has the spool: said at the start.
#[test]
fn a_spool_is_one_runs_own() {
    let scratch = Scratch::new();
    let settings = tcp(nobody(), Some(scratch.path().to_owned()));
    let first = start(&settings);
    let second = Exporter::start(&settings, Arc::new(Nothing));
    let error = second.expect_err("taken").to_string();
    assert!(error.contains("another flowprobe has it"), "{error}");
    drop(first.finish());
}

/// The connection is reset while messages are on the way: what was not acknowledged comes again.
#[test]
fn a_reset_in_mid_session_loses_nothing() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("bound");
    let exporter = start(&tcp(address, None));
    let (told, ended) = mpsc::channel();
    let collector = thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a session");
        let mut first = [0; 2000];
        stream.read_exact(&mut first).expect("octets");
        told.send(()).expect("somebody listens");
        thread::sleep(Duration::from_millis(300));
        // Closed with octets unread: the kernel sends RST.
        drop(stream);
        let (stream, _) = listener.accept().expect("another session");
        read(stream)
    });
    send_slowly(&exporter, 300);
    ended.recv().expect("octets came");
    thread::sleep(Duration::from_millis(700));
    send_slowly(&exporter, 300);
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
    let second = collector.join().expect("no panic");
    assert_eq!(report.sent.records, 600, "{report:?}");
    assert_eq!(report.outages, 1);
    // What the first session had acknowledged was in its socket, and is not sent twice.
    assert_eq!(second.gap, 0);
    assert!(second.flows() >= 300 && second.flows() <= 600);
}
