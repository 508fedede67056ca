//! Collectors with sessions: a network of the test's own that acknowledges, breaks and comes back.

use super::*;
use crate::{export::members::Members, sampling::Sampling};

/// What stands at the other end.
#[derive(Default)]
pub(super) struct Peer {
    /// Messages of each session.
    pub(super) sessions: Vec<Vec<Vec<u8>>>,
    /// Nobody listens.
    pub(super) closed: bool,
    /// There is a session.
    up: bool,
    /// Steps that setting up a session takes.
    patience: usize,
    steps: usize,
    /// Takes nothing now.
    pub(super) full: bool,
    /// Messages that it takes in the session; all without a limit.
    pub(super) takes: Option<usize>,
    /// Messages that are acknowledged in the session; all without a limit.
    pub(super) acknowledges: Option<u64>,
    /// The session breaks at the next call.
    pub(super) breaks: bool,
    /// The session is due to be renewed.
    due: bool,
    /// How often sessions ended in order.
    ended: usize,
}

impl Link for Rc<RefCell<Peer>> {
    fn has_sessions(&self) -> bool {
        true
    }

    fn open(&mut self, _now: Instant) -> io::Result<bool> {
        let mut peer = self.borrow_mut();
        if peer.up {
            return Ok(true);
        }
        if peer.closed {
            return Err(io::Error::from_raw_os_error(libc::ECONNREFUSED));
        }
        peer.steps += 1;
        if peer.steps <= peer.patience {
            return Ok(false);
        }
        peer.steps = 0;
        peer.breaks = false;
        peer.up = true;
        peer.sessions.push(Vec::new());
        Ok(true)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.flush()?;
        let mut peer = self.borrow_mut();
        if peer.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let takes = peer.takes;
        let session = peer.sessions.last_mut().expect("a session");
        if takes.is_some_and(|takes| session.len() >= takes) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        session.push(message.to_vec());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut peer = self.borrow_mut();
        match peer.breaks {
            true => {
                peer.up = false;
                Err(io::ErrorKind::ConnectionReset.into())
            }
            false => Ok(()),
        }
    }

    fn acknowledged(&mut self) -> u64 {
        let peer = self.borrow();
        let taken = peer.sessions.last().map_or(0, Vec::len) as u64;
        peer.acknowledges.map_or(taken, |limit| limit.min(taken))
    }

    fn is_due(&mut self, _now: Instant) -> bool {
        std::mem::take(&mut self.borrow_mut().due)
    }

    fn close(&mut self, _until: Instant) -> io::Result<()> {
        self.flush()?;
        let mut peer = self.borrow_mut();
        (peer.up, peer.ended) = (false, peer.ended + 1);
        Ok(())
    }

    fn leave(&mut self) {
        self.borrow_mut().up = false;
    }
}

pub(super) type Session = Bench<Rc<RefCell<Peer>>>;

pub(super) fn session() -> Session {
    Bench::with(Rc::default(), |_| {})
}

/// What a collector reads in one session.
pub(super) fn read(bench: &Session, session: usize) -> Collected {
    let mut collected = Collected::default();
    for message in &bench.network.borrow().sessions[session] {
        collected.message(message);
    }
    collected
}

#[test]
fn a_session_begins_with_templates_and_repeats_options_only() {
    let mut bench = session();
    bench.network.borrow_mut().patience = 3;
    bench.send(many(100));
    bench.run(200_000);
    let collected = read(&bench, 0);
    assert_eq!((collected.flows(), collected.gap), (100, 0));
    assert_eq!(collected.of(512).len(), 4, "at 0, 60, 120 and 180 s");
    let templates = |message: &Vec<u8>| {
        let sets = crate::ipfix::tests::sets(message);
        sets.iter().filter(|(id, _)| matches!(id, 2 | 3)).count()
    };
    let network = bench.network.borrow();
    let with_templates: Vec<_> = network.sessions[0]
        .iter()
        .enumerate()
        .filter(|(_, message)| templates(message) > 0)
        .map(|(i, _)| i)
        .collect();
    let first_messages: Vec<_> = (0..with_templates.len()).collect();
    assert_eq!(with_templates, first_messages, "RFC 7011 §8.1: once");
}

/// All that was not acknowledged comes again in the next session, and nothing else.
#[test]
fn what_was_not_acknowledged_comes_again() {
    let mut bench = session();
    bench.run(10);
    let announced = bench.network.borrow().sessions[0].len() as u64;
    bench.network.borrow_mut().acknowledges = Some(announced + 2);
    bench.send(many(100));
    bench.run(2000);
    let first = read(&bench, 0);
    assert_eq!(first.flows(), 100);
    let report = bench.outlet.report();
    let arrived = report.sent.records;
    assert!(arrived > 0 && arrived < 100, "{arrived}");
    assert_eq!(report.queued.records, 100 - arrived);
    {
        let mut network = bench.network.borrow_mut();
        network.breaks = true;
        network.closed = true;
    }
    bench.run(5000);
    bench.send(many(10));
    bench.network.borrow_mut().closed = false;
    bench.network.borrow_mut().acknowledges = None;
    let report = bench.finish();
    assert_eq!(report.outages, 1);
    assert_eq!((report.sent.records, report.dropped.len()), (110, 0));
    let second = read(&bench, 1);
    // RFC 7011 §3.1: numbers begin again in each session, and `Collected` wants them gapless.
    assert_eq!(second.gap, 0);
    assert_eq!(second.flows() as u64, 100 - arrived + 10);
    assert_eq!(bench.network.borrow().ended, 1);
}

#[test]
fn a_slow_reader_loses_nothing_and_is_waited_for() {
    let mut bench = session();
    bench.run(10);
    bench.network.borrow_mut().full = true;
    bench.send(many(100));
    bench.run(5000);
    assert_eq!(bench.outlet.report().queued.records, 100);
    bench.network.borrow_mut().full = false;
    let report = bench.finish();
    assert_eq!((report.sent.records, report.outages), (100, 0));
    assert_eq!(read(&bench, 0).gap, 0);
}

#[test]
fn a_session_that_is_due_is_followed_by_another_without_an_outage() {
    let mut bench = session();
    bench.send(many(50));
    bench.run(2000);
    bench.network.borrow_mut().due = true;
    bench.send(many(50));
    let report = bench.finish();
    assert_eq!((report.sent.records, report.outages), (100, 0));
    assert_eq!(bench.network.borrow().ended, 2);
    for session in 0..2 {
        let collected = read(&bench, session);
        assert_eq!((collected.flows(), collected.gap), (50, 0));
        assert!(!collected.of(512).is_empty());
    }
}

/// The rate changes while records of the old one are not acknowledged: they may have to come again,
/// and then under their own rate.
#[test]
fn a_change_of_rate_waits_for_what_is_on_its_way() {
    let mut bench = session();
    bench.run(10);
    let announced = bench.network.borrow().sessions[0].len() as u64;
    bench.network.borrow_mut().acknowledges = Some(announced);
    bench.send(many(20));
    bench.change(0, "1/7");
    bench.send(many(20));
    bench.run(3000);
    assert_eq!(read(&bench, 0).flows(), 20);
    bench.network.borrow_mut().breaks = true;
    bench.run(100);
    bench.network.borrow_mut().acknowledges = None;
    let report = bench.finish();
    assert_eq!(report.sent.records, 40);
    let second = read(&bench, 1);
    let of = |id| second.records.iter().filter(move |(of, _)| *of == id);
    let rates: Vec<_> = of(512).map(|(_, rate)| number(rate, 34)).collect();
    assert_eq!(rates, [100, 7]);
    let order: Vec<_> = second.records.iter().map(|(id, _)| *id).collect();
    let at = |id: u16, skip: usize| {
        let places = order.iter().enumerate().filter(|(_, of)| **of == id);
        places.map(|(i, _)| i).nth(skip).expect("it is there")
    };
    let flows = |from: usize, to: usize| {
        let ids = &order[from..to];
        ids.iter().filter(|id| matches!(id, 256 | 257)).count()
    };
    assert_eq!(flows(at(512, 0), at(512, 1)), 20);
    assert_eq!(flows(at(512, 1), order.len()), 20);
}

/// RFC 7011 §8.1: the report of a method that is over is withdrawn.
#[test]
fn a_template_that_is_not_used_any_more_is_withdrawn() {
    let mut bench = session();
    bench.run(10);
    let before = bench.network.borrow().sessions[0].len();
    bench.change(0, "random:1/9");
    bench.run(10);
    let network = bench.network.borrow();
    let sets: Vec<_> = network.sessions[0][before..]
        .iter()
        .flat_map(|message| crate::ipfix::tests::sets(message))
        .collect();
    assert!(
        sets.contains(&(3, &[2, 1, 0, 0][..])),
        "513 with no fields: {sets:?}"
    );
    let known: Vec<_> = sets.iter().map(|(id, _)| *id).collect();
    assert_eq!(known, [518, 3, 3, 512, 519, 517]);
}

#[test]
fn nobody_there_at_the_end_is_not_waited_for() {
    let mut bench = session();
    bench.network.borrow_mut().closed = true;
    bench.send(many(100));
    bench.run(1500);
    let from = bench.now.at;
    let report = bench.finish();
    let waited = bench.now.at - from;
    assert!(waited > Duration::from_secs(3) && waited < Duration::from_secs(6));
    assert_eq!(dropped(&report, "refused"), 100);
    assert_eq!(report.outages, 1);
}

/// The first of two goes away and comes back: the flows go on to the second and return after the
/// hold-down, and what the first had not acknowledged is not lost.
#[test]
fn another_collector_takes_over_and_gives_back() {
    let members = Members::new(2, false, Duration::from_secs(5));
    let outlet = Arc::new(Outlet::new("group".to_owned(), 1 << 20, &[Sampling::All]));
    let mut both = [0, 1].map(|i| {
        let mut bench = session();
        bench.outlet = Arc::clone(&outlet);
        bench.seat(members.seat(i));
        bench
    });
    let run = |both: &mut [Session; 2], ms: u64| {
        for _ in 0..ms / 10 {
            both.iter_mut().for_each(|bench| bench.run(10));
        }
    };
    let flows = |both: &[Session; 2]| {
        let all = |bench: &Session| {
            let sessions = bench.network.borrow().sessions.len();
            (0..sessions)
                .map(|session| read(bench, session).flows())
                .sum::<usize>()
        };
        [all(&both[0]), all(&both[1])]
    };
    let send = |records| outlet.account().push(&Arc::new(records), Now::read());
    run(&mut both, 100);
    send(many(30));
    run(&mut both, 2000);
    assert_eq!(flows(&both), [30, 0]);
    let arrived = both[0].network.borrow().sessions[0].len() as u64;
    both[0].network.borrow_mut().acknowledges = Some(arrived);
    send(many(20));
    run(&mut both, 2000);
    {
        let mut network = both[0].network.borrow_mut();
        network.breaks = true;
        network.closed = true;
    }
    run(&mut both, 3000);
    assert_eq!(flows(&both), [50, 20], "what it had not acknowledged");
    send(many(10));
    run(&mut both, 2000);
    assert_eq!(flows(&both), [50, 30]);
    both[0].network.borrow_mut().closed = false;
    both[0].network.borrow_mut().acknowledges = None;
    run(&mut both, 3000);
    send(many(5));
    run(&mut both, 1500);
    assert_eq!(flows(&both), [50, 35], "not steady yet");
    run(&mut both, 5000);
    send(many(7));
    run(&mut both, 2000);
    assert_eq!(flows(&both), [57, 35]);
    let report = outlet.report();
    assert_eq!((report.sent.records, report.queued.records), (72, 0));
    for bench in &both {
        let sessions = bench.network.borrow().sessions.len();
        assert!((0..sessions).all(|session| read(bench, session).gap == 0));
    }
    let by = both[0].now.at + Duration::from_secs(30);
    both.iter_mut().for_each(|bench| bench.finish_by = Some(by));
    run(&mut both, 1000);
    assert!(both.iter().all(|bench| bench.ended));
}

/// Somebody listens there who wants nothing: it is asked once a second, not all the time.
#[test]
fn a_session_that_always_breaks_is_tried_once_a_second() {
    let mut bench = session();
    bench.send(many(10));
    for _ in 0..500 {
        bench.network.borrow_mut().breaks = true;
        bench.run(10);
    }
    let tries = bench.network.borrow().sessions.len();
    assert!((4..=7).contains(&tries), "{tries} in 5 s");
    let report = bench.finish();
    assert_eq!(report.sent.records, 10);
}
