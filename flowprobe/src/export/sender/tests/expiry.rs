//! A way that gives up what comes too late.

use super::*;
use crate::ipfix::tests::sets;

/// What stands at the other end.
#[derive(Default)]
struct Peer {
    /// Messages of each session, and whether each may be given up.
    sessions: Vec<Vec<(Vec<u8>, bool)>>,
    /// Messages that are acknowledged in the session; all without a limit.
    acknowledges: Option<u64>,
    /// Messages of the session that are given up.
    gives_up: Vec<u64>,
    /// The session breaks at the next call.
    breaks: bool,
}

impl Peer {
    fn take(&mut self, message: &[u8], has_flows: bool) {
        let session = self.sessions.last_mut().expect("a session");
        session.push((message.to_vec(), has_flows));
    }

    /// What the collector reads of a session: all but what is given up.
    fn collected(&self, session: usize, gives_up: &[u64]) -> Collected {
        let mut collected = Collected::default();
        for (number, (message, _)) in (0..).zip(&self.sessions[session]) {
            if !gives_up.contains(&number) {
                collected.message(message);
            }
        }
        collected
    }
}

impl Link for Rc<RefCell<Peer>> {
    fn has_sessions(&self) -> bool {
        true
    }

    fn open(&mut self, _now: Instant) -> io::Result<bool> {
        let mut peer = self.borrow_mut();
        peer.breaks = false;
        peer.gives_up.clear();
        peer.sessions.push(Vec::new());
        Ok(true)
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.borrow_mut().take(message, false);
        Ok(())
    }

    fn send_flows(&mut self, messages: &mut dyn Iterator<Item = &[u8]>) -> (usize, io::Result<()>) {
        let mut taken = 0;
        for message in messages {
            self.borrow_mut().take(message, true);
            taken += 1;
        }
        (taken, Ok(()))
    }

    fn flush(&mut self) -> io::Result<()> {
        match self.borrow().breaks {
            true => Err(io::ErrorKind::ConnectionReset.into()),
            false => Ok(()),
        }
    }

    fn acknowledged(&mut self) -> u64 {
        let peer = self.borrow();
        let taken = peer.sessions.last().map_or(0, Vec::len) as u64;
        peer.acknowledges.map_or(taken, |limit| limit.min(taken))
    }

    fn gave_up(&mut self, message: u64) -> bool {
        self.borrow().gives_up.contains(&message)
    }
}

/// RFC 7011 §8.3, §10.2.6: what tells how to read flows is in no message that may be given up.
#[test]
fn only_messages_of_flows_alone_may_be_given_up() {
    let mut bench = Bench::with(Rc::<RefCell<Peer>>::default(), |_| {});
    for _ in 0..3 {
        bench.send(many(100));
        bench.run(70_000);
    }
    bench.change(0, "1/7");
    bench.send(many(100));
    bench.finish();
    let peer = bench.network.borrow();
    let mut kinds = [0; 2];
    for (message, may_be_given_up) in &peer.sessions[0] {
        let flows = |(id, _): &(u16, _)| (256..=263).contains(id);
        assert_eq!(sets(message).iter().all(flows), *may_be_given_up);
        assert_eq!(sets(message).iter().any(flows), *may_be_given_up);
        kinds[usize::from(*may_be_given_up)] += 1;
    }
    assert!(kinds[0] > 5 && kinds[1] > 5, "{kinds:?}");
}

#[test]
fn what_is_given_up_is_dropped_and_is_the_gap() {
    let mut bench = Bench::with(Rc::<RefCell<Peer>>::default(), |_| {});
    bench.run(10);
    let first = bench.network.borrow().sessions[0].len() as u64;
    let gives_up = vec![first + 1, first + 3, first + 4];
    bench.network.borrow_mut().gives_up = gives_up.clone();
    bench.send(many(200));
    let report = bench.finish();
    let collected = bench.network.borrow().collected(0, &gives_up);
    let expired = dropped(&report, "expired");
    assert!(expired > 0);
    assert_eq!(collected.gap, expired);
    assert_eq!(collected.flows() as u64, report.sent.records);
    assert_eq!(report.sent.records + expired, 200);
    // The last statistics tell of them: sent flows (42), and those not sent (166).
    let number_of = |template, element| {
        let records = collected.of(template);
        number(records.last().expect("one"), element)
    };
    assert_eq!(number_of(520, 42), report.sent.records);
    assert_eq!(number_of(522, 166), expired);
}

/// The session breaks: what was given up in it does not come again.
#[test]
fn what_was_given_up_does_not_come_in_the_next_session() {
    let mut bench = Bench::with(Rc::<RefCell<Peer>>::default(), |_| {});
    bench.run(10);
    let first = bench.network.borrow().sessions[0].len() as u64;
    let gives_up = vec![first, first + 2];
    {
        let mut peer = bench.network.borrow_mut();
        peer.gives_up = gives_up.clone();
        peer.acknowledges = Some(first + 1);
    }
    bench.send(many(100));
    bench.run(2000);
    let in_front = dropped(&bench.outlet.report(), "expired");
    assert!(in_front > 0, "the first is acknowledged and given up");
    bench.network.borrow_mut().breaks = true;
    bench.run(5000);
    bench.network.borrow_mut().acknowledges = None;
    let report = bench.finish();
    let expired = dropped(&report, "expired");
    let peer = bench.network.borrow();
    assert_eq!(peer.collected(0, &gives_up).gap, expired);
    assert!(expired > in_front);
    let again = peer.collected(1, &[]);
    assert_eq!((again.gap, again.flows() as u64), (0, 100 - expired));
    assert_eq!(report.sent.records, 100 - expired);
}
