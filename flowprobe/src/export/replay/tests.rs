//! Collectors that come, go, and forget, get every record once where the transport says what has
//! arrived.

use std::{
    collections::BTreeMap,
    fs, io,
    net::UdpSocket,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::{Duration, Instant},
};

use proptest::prelude::*;

use super::{
    ReplayError, ReplaySettings,
    inspect::inspect,
    replay,
    summary::Outcome,
    target::{Plan, Target},
};
use crate::{
    export::Link,
    ipfix::tests::{decode::Collected, sample::many},
    ipfix_file::tests::{Scratch, session},
    record::{FlowRecord, Volume},
};

/// What a collector with sessions got.
#[derive(Debug, Default)]
struct World {
    sessions: Vec<Heard>,
}

/// Messages of a session.
#[derive(Debug, Default)]
struct Heard {
    acknowledged: Vec<Vec<u8>>,
    /// Behind those.
    sent: Vec<Vec<u8>>,
}

/// A link that breaks after as many messages as `lives` says, with the last `lost` of them not
/// acknowledged.
struct Fragile {
    world: Arc<Mutex<World>>,
    lives: Vec<(usize, usize)>,
    open: bool,
    /// Calls of `flush` since the last message.
    waits: usize,
    reliable: bool,
    /// A session is due to be followed by another after so many messages.
    due_after: usize,
}

impl Link for Fragile {
    fn has_sessions(&self) -> bool {
        true
    }

    fn is_reliable(&self) -> bool {
        self.reliable
    }

    fn open(&mut self, _now: Instant) -> io::Result<bool> {
        if !self.open {
            self.open = true;
            return Ok(false);
        }
        self.world
            .lock()
            .expect("lock")
            .sessions
            .push(Default::default());
        Ok(true)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.waits += 1;
        let world = self.world.lock().expect("lock");
        let heard = world.sessions.last().expect("open");
        if self.waits > 2 && !heard.sent.is_empty() {
            self.lives.pop();
            self.open = false;
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok(())
    }

    fn send(&mut self, message: &[u8]) -> io::Result<()> {
        self.waits = 0;
        let mut world = self.world.lock().expect("lock");
        let Heard { acknowledged, sent } = world.sessions.last_mut().expect("open");
        match self.lives.last().copied() {
            Some((messages, _)) if acknowledged.len() + sent.len() >= messages => {
                self.lives.pop();
                self.open = false;
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            Some((messages, lost)) => {
                sent.push(message.to_vec());
                if acknowledged.len() + sent.len() <= messages.saturating_sub(lost) {
                    acknowledged.append(sent);
                }
            }
            None => acknowledged.push(message.to_vec()),
        }
        Ok(())
    }

    fn is_due(&mut self, _now: Instant) -> bool {
        let world = self.world.lock().expect("lock");
        let Heard { acknowledged, sent } = world.sessions.last().expect("open");
        acknowledged.len() + sent.len() >= self.due_after
    }

    fn close(&mut self, _until: Instant) -> io::Result<()> {
        self.open = false;
        Ok(())
    }

    fn acknowledged(&mut self) -> u64 {
        let world = self.world.lock().expect("lock");
        let heard = world.sessions.last().expect("open");
        heard.acknowledged.len() as u64
    }
}

/// Two files, of two domains in one and another in the other, and all their records.
fn files(scratch: &Scratch, records: &[FlowRecord]) -> Vec<std::path::PathBuf> {
    let (one, rest) = records.split_at(records.len() / 3);
    let (two, three) = rest.split_at(rest.len() / 2);
    let first = [session(7, one, 1000), session(8, two, 700)].concat();
    let second = session(7, three, 1400);
    let write = |name: &str, messages: Vec<Vec<u8>>| {
        let path = scratch.path().join(name);
        fs::write(&path, messages.concat()).expect("room");
        path
    };
    vec![write("1.ipfix", first), write("2.ipfix", second)]
}

fn plan(files: &[std::path::PathBuf], max_octets: u16) -> Plan {
    Plan {
        name: "here".to_owned(),
        max_octets,
        template_refresh: Duration::from_secs(60),
        export_rate: 0,
        contents: Arc::new(inspect(files).expect("no damage")),
        stop: Arc::new(AtomicBool::new(false)),
    }
}

fn sent(outcome: &Outcome) -> (&BTreeMap<u32, u64>, Volume, u64) {
    (&outcome.domains, outcome.flows, outcome.not_sent)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn sessions_that_break_lose_and_double_nothing(
        count in 1_u32..200,
        max_octets in 400_u16..3000,
        lives in prop::collection::vec((0_usize..30, 0_usize..30), 0..6),
        due_after in 20_usize..80,
    ) {
        let scratch = Scratch::new();
        let records = many(count);
        let files = files(&scratch, &records);
        let world = Arc::<Mutex<World>>::default();
        let link = Fragile { world: Arc::clone(&world), lives, open: false, waits: 0, reliable: true, due_after };
        let outcome = Target::new(Box::new(link), plan(&files, max_octets)).run();
        let world = world.lock().expect("lock");
        let mut arrived = Vec::new();
        for Heard { acknowledged, sent } in &world.sessions {
            // Strict: templates first, sequence numbers from 0, whatever is known from before.
            let mut session = Collected::default();
            for message in acknowledged {
                prop_assert!(message.len() <= usize::from(max_octets));
                session.message(message);
            }
            arrived.append(&mut session.records.clone());
            for message in sent {
                session.message(message);
            }
            prop_assert_eq!(session.gap, 0);
        }
        let mut expected = Vec::new();
        for path in &files {
            let file = fs::read(path).expect("there");
            let mut session = Collected::default();
            let mut rest = &file[..];
            while !rest.is_empty() {
                let length = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
                session.message(&rest[..length]);
                rest = &rest[length..];
            }
            expected.append(&mut session.records);
        }
        prop_assert!(arrived == expected, "other records");
        let third = u64::from(count / 3);
        let eight = (u64::from(count) - third) / 2;
        let mut domains = BTreeMap::from([(7, u64::from(count) - eight), (8, eight)]);
        domains.retain(|_, records| *records > 0);
        prop_assert_eq!(sent(&outcome), (&domains, Volume::of(&records), 0));
        prop_assert!(outcome.error.is_none());
    }
}

/// A collector over UDP, which says what it got.
fn listen() -> (UdpSocket, String) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let timeout = Some(Duration::from_millis(200));
    socket.set_read_timeout(timeout).expect("a timeout");
    let url = format!("udp://{}", socket.local_addr().expect("bound"));
    (socket, url)
}

fn receive(socket: &UdpSocket) -> (Collected, usize) {
    let mut collected = Collected::default();
    let mut buffer = [0; 1 << 16];
    let mut longest = 0;
    while let Ok(octets) = socket.recv(&mut buffer) {
        longest = longest.max(octets);
        collected.message(&buffer[..octets]);
    }
    (collected, longest)
}

fn settings(files: Vec<std::path::PathBuf>, collectors: &[&str]) -> ReplaySettings {
    let collector = |url: &&str| url.parse().expect("a collector");
    ReplaySettings {
        files,
        collectors: collectors.iter().map(collector).collect(),
        identity: crate::export::Identity::default(),
        mtu: 576,
        template_refresh: Duration::from_secs(60),
        export_rate: 20_000,
        summary: None,
    }
}

fn run(settings: ReplaySettings) -> Result<super::ReplaySummary, ReplayError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(replay(settings))
}

#[test]
fn datagrams_fit_the_mtu_and_hold_every_record() {
    let scratch = Scratch::new();
    let records = many(300);
    let files = files(&scratch, &records);
    let ((one, first), (other, second)) = (listen(), listen());
    run(settings(files, &[&first, &second])).expect("sends all");
    for socket in [one, other] {
        let (collected, longest) = receive(&socket);
        assert!(longest <= 576 - 48, "{longest}");
        assert_eq!((collected.gap, collected.flows()), (0, 300));
        let seven = collected.in_domain(7).len();
        assert_eq!((seven, collected.in_domain(8).len()), (200, 100));
    }
}

#[test]
fn templates_are_said_again_over_udp() {
    let scratch = Scratch::new();
    let files = files(&scratch, &many(300));
    let (socket, url) = listen();
    let mut settings = settings(files, &[&url]);
    settings.template_refresh = Duration::from_nanos(1); // after each message
    run(settings).expect("sends all");
    let mut buffer = [0; 1 << 16];
    let (mut data, mut templates) = (0, 0);
    while let Ok(octets) = socket.recv(&mut buffer) {
        match u16::from_be_bytes([buffer[16], buffer[17]]) {
            2 | 3 => templates += 1,
            _ => data += 1,
        }
        assert!(octets <= 576 - 48);
    }
    assert!(data > 20 && templates >= 2 * data, "{templates} and {data}");
}

/// RFC 7011 §8.4, of DTLS as of UDP.
#[test]
fn templates_are_said_again_in_sessions_that_may_lose_messages() {
    let scratch = Scratch::new();
    let files = files(&scratch, &many(300));
    let count = |reliable| {
        let world = Arc::<Mutex<World>>::default();
        let link = Fragile {
            world: Arc::clone(&world),
            lives: Vec::new(),
            open: false,
            waits: 0,
            reliable,
            due_after: usize::MAX,
        };
        let mut plan = plan(&files, 1000);
        plan.template_refresh = Duration::from_nanos(1);
        Target::new(Box::new(link), plan).run();
        let world = world.lock().expect("lock");
        let of_templates = |message: &&Vec<u8>| message[16..18] == [0, 2];
        let messages = world.sessions[0].acknowledged.iter();
        messages.filter(of_templates).count()
    };
    let (once, again) = (count(true), count(false));
    assert!(once < 10 && again > 20, "{once} and {again}");
}

#[test]
fn nothing_of_bad_input_is_sent() {
    let scratch = Scratch::new();
    let mut files = files(&scratch, &many(30));
    let damaged = scratch.path().join("damaged.ipfix");
    let good = fs::read(&files[0]).expect("there");
    fs::write(&damaged, &good[..good.len() - 1]).expect("room");
    files.push(damaged);
    let (socket, url) = listen();
    let error = run(settings(files, &[&url])).expect_err("damaged");
    assert!(error.before_start());
    let expected = format!("damaged.ipfix: at octet {}: cut off: ", good.len() - 1);
    assert!(error.to_string().contains(&expected), "{error}");
    assert!(!error.to_string().contains('\n'));
    assert_eq!(receive(&socket).0.records.len(), 0);
}

/// Records stay as they are: what asks for another form is refused.
#[test]
fn a_collector_cannot_have_other_fields() {
    let scratch = Scratch::new();
    let files = files(&scratch, &many(30));
    let (socket, url) = listen();
    for (parameter, message) in [
        (
            "format=v9",
            "files are sent as they are, which is IPFIX: leave out the format",
        ),
        (
            "template=narrow",
            "files are sent as they are, with the fields of their own templates: leave out the \
             template",
        ),
    ] {
        let url = format!("{url}?{parameter}");
        let error = run(settings(files.clone(), &[&url])).expect_err("refused");
        assert!(error.before_start());
        assert_eq!(error.to_string(), format!("collector {url}: {message}"));
    }
    assert_eq!(receive(&socket).0.records.len(), 0);
}

/// Nobody listens: the datagrams that were sent count as undelivered, the rest as not sent.
#[test]
fn a_signal_ends_it_and_what_is_missing_is_said() {
    let scratch = Scratch::new();
    let files = files(&scratch, &many(300));
    let (socket, url) = listen();
    drop(socket);
    let settings = settings(Vec::new(), &[&url]);
    let (link, octets) = super::link(&settings.collectors[0], &settings).expect("a socket");
    let plan = plan(&files, octets);
    let stop = Arc::clone(&plan.stop);
    let target = Target::new(link, plan);
    let thread = std::thread::spawn(move || target.run());
    std::thread::sleep(Duration::from_millis(300));
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let outcome = thread.join().expect("ends");
    // The first datagram has templates only.
    assert_eq!(outcome.undelivered + outcome.not_sent, 300, "{outcome:?}");
    assert_eq!(outcome.error.as_deref(), Some("stopped by a signal"));
}
