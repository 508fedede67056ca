//! The sender against a network and a clock of the test's own.

mod biflows;
mod domains;
mod expiry;
mod path;
mod sessions;
mod spool;
mod statistics;

use std::{cell::RefCell, collections::VecDeque, io, rc::Rc};

use super::*;
use crate::{
    export::{
        DestinationReport, Domain, Format, Interfaces, Metering, Selection, Telemetry,
        link::Undelivered,
    },
    ipfix::{
        element,
        tests::{
            decode::{Collected, number},
            sample::many,
        },
    },
    record::{FlowRecord, Volume},
};

/// What stands at the other end.
#[derive(Default)]
struct Network {
    delivered: Vec<Vec<u8>>,
    /// Nobody listens: datagrams come back.
    closed: bool,
    /// The socket's buffer is full.
    full: bool,
    /// There is no route.
    no_route: bool,
    /// Octets of a datagram that come back with an error.
    quoted: usize,
    /// The socket's error queue, and whether `send` reports it.
    errors: VecDeque<Undelivered>,
    pending: bool,
    /// Octets of the longest datagram that the path takes, and that the host knows of it.
    path: Option<u16>,
    known_path: Option<u16>,
}

impl Link for Rc<RefCell<Network>> {
    fn send(&mut self, datagram: &[u8]) -> io::Result<()> {
        let mut network = self.borrow_mut();
        if network.no_route {
            return Err(io::Error::from_raw_os_error(libc::ENETUNREACH));
        }
        if network.full {
            return Err(io::Error::from_raw_os_error(libc::EAGAIN));
        }
        let refused = || io::Error::from_raw_os_error(libc::ECONNREFUSED);
        if std::mem::take(&mut network.pending) {
            return Err(refused());
        }
        let longer = |path: Option<u16>| path.is_some_and(|path| datagram.len() > path.into());
        if longer(network.known_path) {
            return Err(io::Error::from_raw_os_error(libc::EMSGSIZE));
        }
        if longer(network.path) {
            // A router answers the first one only.
            if network.errors.is_empty() {
                let quote = datagram[..network.quoted].to_vec();
                let error = io::Error::from_raw_os_error(libc::EMSGSIZE);
                network.errors.push_back(Undelivered { error, quote });
            }
            return Ok(());
        }
        if network.closed {
            let quote = datagram[..datagram.len().min(network.quoted)].to_vec();
            network.errors.push_back(Undelivered {
                error: refused(),
                quote,
            });
            network.pending = true;
        } else {
            network.delivered.push(datagram.to_vec());
        }
        Ok(())
    }

    fn path_octets(&mut self) -> Option<u16> {
        self.borrow().known_path
    }

    fn undelivered(&mut self) -> Option<Undelivered> {
        let mut network = self.borrow_mut();
        network.pending = false;
        let error = network.errors.front().map(|report| &report.error);
        if error.is_some_and(|error| error.raw_os_error() == Some(libc::EMSGSIZE)) {
            network.known_path = network.path;
        }
        network.errors.pop_front()
    }
}

struct Figures;

impl Telemetry for Figures {
    fn metering(&self, class: usize) -> Metering {
        Metering {
            ignored_packets: 3 + class as u64,
            ignored_octets: 180,
            ignored_span_ms: Some((5, 6)),
        }
    }

    fn selection(&self, class: usize, epoch: u32) -> Option<Selection> {
        Some(Selection {
            observed: 1000 + 100 * class as u64 + u64::from(epoch),
            selected: 10 + u64::from(epoch),
        })
    }
}

fn domain(id: u32, name: &str, sampling: &str) -> Domain {
    Domain {
        id,
        name: name.to_owned(),
        sampling: sampling.parse().expect("a rate"),
    }
}

/// A sender, its network, and the time.
struct Bench<L = Rc<RefCell<Network>>> {
    network: L,
    sender: Option<Sender<L>>,
    outlet: Arc<Outlet>,
    now: Now,
    finish_by: Option<Instant>,
    ended: bool,
    exported: Volume,
}

impl Bench {
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let network = Rc::new(RefCell::new(Network {
            quoted: 64,
            ..Network::default()
        }));
        Self::with(network, change)
    }

    /// What a collector knows that was there all the time that datagrams arrived.
    fn collected(&self) -> Collected {
        let mut collected = Collected::default();
        for message in &self.network.borrow().delivered {
            collected.message(message);
        }
        collected
    }

    fn delivered(&self) -> usize {
        self.network.borrow().delivered.len()
    }
}

impl<L: Link + Clone> Bench<L> {
    /// With another network.
    fn with(network: L, change: impl FnOnce(&mut Settings)) -> Self {
        Self::of(Format::Ipfix, network, change)
    }

    /// And another format.
    fn of(format: Format, network: L, change: impl FnOnce(&mut Settings)) -> Self {
        let interfaces = Interfaces::default();
        interfaces.put(3, "veth0");
        let mut settings = Settings {
            collectors: Vec::new(),
            groups: Vec::new(),
            identity: crate::export::Identity::default(),
            spool: None,
            rotation: crate::ipfix_file::Rotation::default(),
            mtu: 1400,
            template_refresh: Duration::from_secs(60),
            template_refresh_packets: 0,
            export_rate: 0,
            queue: 1 << 20,
            domains: vec![domain(7, "", "1/100")],
            sampling_profile: crate::sampling::Profile::Default,
            interfaces: Arc::new(interfaces),
            content: crate::export::Content::default(),
            output: None,
        };
        change(&mut settings);
        let rates: Vec<_> = settings.domains.iter().map(|d| d.sampling).collect();
        let outlet = Outlet::new("udp://x:1".to_owned(), settings.queue, &rates);
        let outlet = Arc::new(outlet);
        let octets = settings.mtu - crate::ipfix::message::PACKET_OVERHEAD;
        let now = Now {
            at: Instant::now(),
            unix_ms: 1_700_000_000_000,
            uptime_ms: 1000,
        };
        let encoders = settings.domains.iter().map(|domain| {
            Encoder::new(format, domain.id, octets, &settings.content).expect("large enough")
        });
        let sender = Sender::new(
            network.clone(),
            (encoders.collect(), octets),
            Arc::clone(&outlet),
            Arc::new(Facts::new(&settings, Arc::new(Figures))),
            &settings,
            now,
        );
        Self {
            network,
            sender: Some(sender),
            outlet,
            now,
            finish_by: None,
            ended: false,
            exported: Volume::default(),
        }
    }

    fn send(&mut self, records: Vec<FlowRecord>) {
        self.exported += Volume::of(&records);
        self.outlet.account().push(&Arc::new(records), self.now);
    }

    fn change(&mut self, class: usize, sampling: &str) {
        let sampling = sampling.parse().expect("a rate");
        self.outlet.account().push_change(class, sampling);
    }

    /// Steps for `ms` milliseconds, each at the time that the one before asked for.
    fn run(&mut self, ms: u64) {
        let until = self.now.at + Duration::from_millis(ms);
        for _ in 0..1_000_000 {
            if self.ended {
                return self.wind(until);
            }
            let sender = self.sender.as_mut().expect("it is there");
            let Some(next) = sender.step(self.now, self.finish_by) else {
                self.ended = true;
                return;
            };
            let next = next.max(self.now.at);
            if next > until {
                return self.wind(until);
            }
            self.wind(next);
        }
        panic!("the sender spins");
    }

    fn wind(&mut self, to: Instant) {
        self.now.unix_ms += (to - self.now.at).as_millis() as u64;
        self.now.at = to;
    }

    fn finish(&mut self) -> DestinationReport {
        self.finish_by = Some(self.now.at + Duration::from_secs(30));
        self.run(60_000);
        assert!(self.ended);
        let report = self.outlet.report();
        assert_eq!(report.queued, Volume::default());
        let mut sum = report.sent;
        for (_, volume) in &report.dropped {
            sum += *volume;
        }
        assert_eq!(sum, self.exported, "exported = sent + dropped");
        report
    }

    /// Makes it one of a group, with the outlet that it has now.
    fn seat(&mut self, seat: Seat) {
        let sender = self.sender.take().expect("it is there");
        let mut sender = sender.seated("member".to_owned(), seat);
        sender.wire.outlet = Arc::clone(&self.outlet);
        self.sender = Some(sender);
    }
}

fn dropped(report: &DestinationReport, reason: &str) -> u64 {
    let found = report.dropped.iter().find(|(name, _)| *name == reason);
    found.map_or(0, |(_, volume)| volume.records)
}

#[test]
fn templates_and_options_come_before_the_first_flow() {
    let mut bench = Bench::new(|_| {});
    bench.send(many(100));
    bench.run(5000);
    let collected = bench.collected();
    let ids: Vec<u16> = collected.records.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids[..4], [512, 513, 517, 515]);
    assert_eq!(ids[4..12], [523; 8]);
    assert_eq!(ids[12..16], [518, 520, 521, 522]);
    for template in &element::ALL {
        let shape = template.fields.iter().map(|f| (f.number, f.length));
        let known = &collected.templates[&(7, template.id)];
        assert_eq!(*known, (0, shape.collect()));
    }
    assert_eq!(collected.flows(), 100);
    assert_eq!(number(collected.of(512)[0], 34), 100);
    assert_eq!(number(collected.of(512)[0], 149), 7);
    assert_eq!(number(collected.of(513)[0], 306), 99);
    assert_eq!(number(collected.of(518)[0], 318), 1000);
    assert_eq!(number(collected.of(518)[0], 319), 10);
    assert_eq!(number(collected.of(521)[0], 164), 3);
    assert_eq!(collected.of(515)[0][1].1, b"veth0\0\0\0\0\0\0\0\0\0\0\0");
    let keys = collected.of(523);
    let keys = keys.iter().map(|r| (number(r, 145), number(r, 173)));
    let expected = element::ALL.iter().map(|t| (t.id.into(), t.flow_keys()));
    assert!(keys.eq(expected));
}

#[test]
fn the_selector_report_follows_its_rate_in_one_message_of_any_size() {
    for mtu in crate::export::MIN_MTU..=1500 {
        for (sampling, report) in [
            ("1/1", 513),
            ("1/100", 513),
            ("random:1/100", 519),
            ("nofn:5/500", 524),
            ("time:100/9900", 525),
        ] {
            let mut bench = Bench::new(|settings| {
                settings.mtu = mtu;
                settings.domains = vec![domain(7, "", sampling)];
            });
            bench.run(10);
            let mut collected = Collected::default();
            for message in &bench.network.borrow().delivered {
                assert!(message.len() + 48 <= usize::from(mtu));
                let before = collected.records.len();
                collected.message(message);
                let ids = collected.records[before..].iter().map(|(id, _)| *id);
                let ids: Vec<u16> = ids.filter(|id| [512, report].contains(id)).collect();
                assert!(ids.is_empty() || ids == [512, report], "{mtu}: {ids:?}");
            }
            let reports = collected.of(report).len();
            assert_eq!((reports, collected.records.len()), (1, 16));
        }
    }
}

#[test]
fn templates_are_repeated_at_the_interval() {
    let mut bench = Bench::new(|settings| settings.template_refresh = Duration::from_secs(10));
    bench.run(95_000);
    assert_eq!(bench.collected().of(512).len(), 10);
    assert_eq!(bench.collected().gap, 0);
}

/// How many messages of flows there are after each announcement.
fn between_templates(delivered: &[Vec<u8>]) -> Vec<usize> {
    let mut counts = Vec::new();
    for message in delivered {
        // Its first set: templates and options templates, options, or flows.
        match u16::from_be_bytes([message[16], message[17]]) {
            2 => counts.push(0),
            256..512 => *counts.last_mut().expect("templates come first") += 1,
            _ => {}
        }
    }
    counts
}

/// RFC 7011 §8.4, RFC 3954 §7: by time, and by the number of packets.
#[test]
fn templates_are_repeated_after_so_many_messages() {
    let mut bench = Bench::new(|settings| settings.template_refresh_packets = 10);
    bench.send(many(2000));
    bench.run(2000);
    let messages = bench.delivered();
    let told = bench.collected().of(512).len();
    // The announcement, ten messages, and so on.
    let announcement = bench.collected().of(520).len();
    assert_eq!(announcement, told);
    let between: Vec<_> = between_templates(&bench.network.borrow().delivered);
    let (last, whole) = between.split_last().expect("messages");
    assert!(whole.len() >= 3 && *last <= 10, "{between:?}");
    assert!(whole.iter().all(|count| *count == 10), "{between:?}");
    assert!(messages > whole.len() * 10);
    bench.run(10_000);
    assert_eq!(bench.collected().of(512).len(), told, "nothing was sent");
}

#[test]
fn a_few_flows_wait_a_second_for_more() {
    let mut bench = Bench::new(|_| {});
    bench.run(10);
    bench.send(many(3));
    bench.run(990);
    assert_eq!(bench.collected().flows(), 0);
    bench.run(20);
    assert_eq!(bench.collected().flows(), 3);
    bench.send(many(100));
    bench.run(1);
    assert!(bench.collected().flows() > 90, "full messages do not wait");
}

#[test]
fn a_small_queue_does_not_fill_while_a_message_waits_for_more() {
    let mut bench = Bench::new(|settings| settings.queue = 12);
    bench.run(10);
    bench.send(many(2));
    bench.run(500);
    assert_eq!(bench.collected().flows(), 0);
    bench.send(many(1));
    bench.run(1);
    assert_eq!(bench.collected().flows(), 3, "a quarter of the queue");
}

#[test]
fn pacing_bounds_what_a_collector_gets_in_a_second() {
    let mut bench = Bench::new(|settings| settings.export_rate = 1000);
    bench.send(many(10_000));
    bench.run(2000);
    let flows = bench.collected().flows();
    assert!((1980..=2020).contains(&flows), "{flows}");
    bench.run(9000);
    assert_eq!(bench.collected().flows(), 10_000);
}

#[test]
fn the_last_statistics_follow_the_last_flow() {
    let mut bench = Bench::new(|_| {});
    bench.send(many(100));
    let report = bench.finish();
    let collected = bench.collected();
    let ids: Vec<u16> = collected.records.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids[ids.len() - 4..], [518, 520, 521, 522]);
    let statistics = collected.of(520)[1];
    // RFC 5102: without the message that carries the numbers.
    assert_eq!(number(statistics, 42), 100);
    assert_eq!(number(statistics, 41), report.messages - 1);
    let network = bench.network.borrow();
    let last = network.delivered.last().expect("messages").len() as u64;
    assert_eq!(number(statistics, 40), report.wire_octets - last);
    assert_eq!(report.sent, bench.exported);
    assert_eq!(report.encoded, collected.records.len() as u64);
}

/// The collector dies between two messages and comes back: the messages that were refused count
/// as dropped, flows wait meanwhile, and templates come again before them.
#[test]
fn an_outage_loses_only_what_was_refused() {
    for quoted in [64, 0] {
        let mut bench = Bench::new(|_| {});
        bench.network.borrow_mut().quoted = quoted;
        bench.send(many(100));
        bench.run(1500);
        bench.network.borrow_mut().closed = true;
        bench.send(many(200));
        bench.run(10_000);
        let report = bench.outlet.report();
        assert_eq!(report.outages, 1);
        let refused = dropped(&report, "refused");
        assert!(refused > 0 && refused < 20, "one message, not {refused}");
        assert_eq!(report.queued.records, 200 - refused);

        bench.network.borrow_mut().closed = false;
        let before = bench.delivered();
        bench.run(5000);
        let mut restarted = Collected::default();
        for message in &bench.network.borrow().delivered[before..] {
            restarted.message(message); // knows the template of each record
        }
        assert_eq!(restarted.flows() as u64, 200 - refused);

        let report = bench.finish();
        assert_eq!(dropped(&report, "refused"), refused);
        let collected = bench.collected();
        assert_eq!(collected.gap, refused);
        assert_eq!(
            collected.records.len() as u64 + collected.gap,
            report.encoded
        );
        assert_eq!(collected.flows() as u64, report.sent.records);
    }
}

#[test]
fn errors_that_come_late_name_their_message() {
    let mut bench = Bench::new(|_| {});
    bench.run(10);
    bench.send(many(1000));
    bench.run(1500);
    let third = bench.network.borrow_mut().delivered.remove(2);
    let mut lost = Collected::default();
    for message in &bench.network.borrow().delivered[..2] {
        lost.message(message);
    }
    let before = lost.flows();
    lost.message(&third);
    let lost = (lost.flows() - before) as u64;
    assert!(lost > 0);
    bench.network.borrow_mut().errors.push_back(Undelivered {
        error: io::Error::from_raw_os_error(libc::EHOSTUNREACH),
        quote: third[..28].to_vec(),
    });
    let report = bench.finish();
    assert_eq!(dropped(&report, "unreachable"), lost);
    assert_eq!(bench.collected().gap, lost);
}

#[test]
fn no_route_is_retried_and_loses_nothing() {
    let mut bench = Bench::new(|_| {});
    bench.network.borrow_mut().no_route = true;
    bench.send(many(100));
    bench.run(10_000);
    assert_eq!((bench.delivered(), bench.outlet.report().outages), (0, 1));
    bench.network.borrow_mut().no_route = false;
    bench.run(5000);
    let report = bench.finish();
    assert_eq!(report.sent.records, 100);
    assert_eq!(bench.collected().gap, 0);
}

#[test]
fn a_full_socket_is_retried_then_dropped_and_the_gap_shows() {
    let mut bench = Bench::new(|_| {});
    bench.run(10);
    bench.network.borrow_mut().full = true;
    bench.send(many(100));
    bench.run(900);
    assert_eq!(bench.outlet.report().dropped, []);
    bench.run(1500);
    let lost = dropped(&bench.outlet.report(), "socket_full");
    assert!(lost > 0 && lost < 100, "{lost}");
    bench.network.borrow_mut().full = false;
    let report = bench.finish();
    assert_eq!(dropped(&report, "socket_full"), lost);
    assert_eq!(bench.collected().gap, lost);
    assert_eq!(bench.collected().flows() as u64, 100 - lost);
}

#[test]
fn a_collector_that_never_was_there_does_not_hold_up_the_end() {
    let mut bench = Bench::new(|_| {});
    bench.network.borrow_mut().closed = true;
    bench.run(1000);
    bench.send(many(100));
    let from = bench.now.at;
    let report = bench.finish();
    assert!(bench.now.at - from < Duration::from_secs(3));
    assert_eq!(dropped(&report, "refused"), 100);
}

#[test]
fn what_is_queued_at_the_deadline_is_dropped() {
    let mut bench = Bench::new(|settings| settings.export_rate = 10);
    bench.send(many(1000));
    let report = bench.finish();
    assert_eq!(report.sent.records + dropped(&report, "shutdown"), 1000);
    assert!(
        (290..=330).contains(&report.sent.records),
        "{:?}",
        report.sent
    );
}

/// RFC 7011 §3.1: the export time is when the message leaves.
#[test]
fn export_time_is_the_time_of_sending() {
    let mut bench = Bench::new(|_| {});
    bench.run(100_000);
    bench.send(many(100));
    bench.run(1);
    assert_eq!(bench.collected().export_time, 1_700_000_100);
}

/// Each profile tells the rate in its own elements, and in none of another's.
#[test]
fn profiles_tell_the_rate_in_elements_of_their_own() {
    use crate::sampling::Profile;
    for (profile, sampling, id, expected) in [
        (
            Profile::Psamp,
            "1/100",
            513,
            &[(304, 1), (305, 1), (306, 99)][..],
        ),
        (
            Profile::Psamp,
            "nofn:5/500",
            524,
            &[(304, 3), (309, 5), (310, 500)],
        ),
        (
            Profile::Psamp,
            "time:100/9900",
            525,
            &[(304, 2), (307, 100), (308, 9900)],
        ),
        (Profile::Legacy, "1/100", 514, &[(34, 100), (35, 1)]),
        (Profile::Legacy, "random:1/100", 514, &[(34, 100), (35, 2)]),
        (Profile::Legacy, "nofn:5/500", 514, &[(34, 100), (35, 2)]),
        (Profile::Sampler, "1/1", 516, &[(48, 1), (49, 1), (50, 1)]),
        (
            Profile::Sampler,
            "time:100/9900",
            516,
            &[(48, 1), (49, 1), (50, 100)],
        ),
    ] {
        let mut bench = Bench::new(|settings| {
            settings.domains = vec![domain(7, "", sampling)];
            settings.sampling_profile = profile;
        });
        bench.run(10);
        let mut collected = Collected::default();
        for message in &bench.network.borrow().delivered {
            collected.message(message);
        }
        let told = collected.of(id)[0];
        for (element, value) in expected {
            assert_eq!(number(told, *element), *value, "{profile:?} {sampling}");
        }
        let others = [512, 513, 514, 516, 519, 524, 525];
        let others = others.iter().filter(|other| **other != id);
        assert!(
            others
                .map(|id| collected.of(*id).len())
                .all(|told| told == 0)
        );
    }
}

/// NetFlow v5 has no template to ask with: one message of flows at a time is at stake.
#[test]
fn a_format_without_templates_asks_with_one_message() {
    let network = Rc::new(RefCell::new(Network {
        quoted: 64,
        closed: true,
        ..Network::default()
    }));
    let mut bench = Bench::of(Format::V5, network, |_| {});
    let flows = many(1000);
    let v6 = flows.iter().filter(|flow| flow.key.source().is_ipv6());
    let v6 = v6.count() as u64;
    bench.send(flows);
    bench.run(5500);
    bench.network.borrow_mut().closed = false;
    let report = bench.finish();
    // 28 records of 48 octets, less those that v5 cannot say; an answer each second.
    let refused = dropped(&report, "refused");
    assert!(refused > 0 && refused <= 28 * 7, "{refused}");
    assert_eq!(dropped(&report, "ipv6"), v6);
    let delivered = bench.network.borrow();
    let records = delivered.delivered.iter().map(|message| message[3]);
    let records: u64 = records.map(u64::from).sum();
    assert_eq!(report.sent.records, records);
    assert_eq!(records, 1000 - v6 - refused);
}
