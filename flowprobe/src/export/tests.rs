//! The whole exporter, over loopback.

mod groups;
mod sctp;
mod sessions;
mod templates;

use std::net::{SocketAddr, UdpSocket};

use super::*;
use crate::{
    ipfix::tests::{
        decode::Collected,
        sample::{many, of_class},
    },
    record::Volume,
};

struct Nothing;

impl Telemetry for Nothing {
    fn metering(&self, _class: usize) -> Metering {
        Metering::default()
    }

    fn selection(&self, _class: usize, _epoch: u32) -> Option<Selection> {
        Some(Selection::default())
    }
}

pub(super) fn settings(collectors: &[SocketAddr]) -> Settings {
    Settings {
        collectors: collectors
            .iter()
            .map(|address| format!("udp://{address}").parse().expect("a collector"))
            .collect(),
        groups: Vec::new(),
        identity: Identity::default(),
        spool: None,
        rotation: Rotation::default(),
        mtu: 1400,
        template_refresh: Duration::from_secs(60),
        template_refresh_packets: 0,
        // Slower than any receive buffer fills.
        export_rate: 20_000,
        queue: 1 << 20,
        domains: vec![Domain {
            id: 1,
            name: String::new(),
            sampling: Sampling::All,
        }],
        sampling_profile: crate::sampling::Profile::Default,
        interfaces: Arc::default(),
        content: crate::export::Content::default(),
        output: None,
    }
}

fn start(settings: &Settings) -> Exporter {
    Exporter::start(settings, Arc::new(Nothing)).expect("starts")
}

fn listen(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).expect("binds");
    let patience = Some(Duration::from_secs(20));
    socket.set_read_timeout(patience).expect("a timeout");
    socket
}

/// Receives until `enough`.
fn receive(
    socket: &UdpSocket,
    collected: &mut Collected,
    enough: impl Fn(&Collected) -> bool,
) -> SocketAddr {
    let mut buffer = [0; 65_536];
    loop {
        let (octets, from) = socket.recv_from(&mut buffer).expect("a message in time");
        collected.message(&buffer[..octets]);
        if enough(collected) {
            return from;
        }
    }
}

fn dropped(report: &DestinationReport, reason: &str) -> u64 {
    let found = report.dropped.iter().find(|(name, _)| *name == reason);
    found.map_or(0, |(_, volume)| volume.records)
}

/// The statistics came so often; after the last of them nothing comes.
fn statistics(times: usize) -> impl Fn(&Collected) -> bool {
    move |collected| collected.of(522).len() == times
}

#[test]
fn every_collector_gets_every_record_whatever_the_others_do() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let [one, two] = [listen(host), listen(host)];
        // Bound for its port, then closed: dead.
        let dead = listen(host).local_addr().expect("bound");
        let addresses = [&one, &two].map(|socket| socket.local_addr().expect("bound"));
        let exporter = start(&settings(&[addresses[0], dead, addresses[1]]));
        let readers = [one, two].map(|socket| {
            thread::spawn(move || {
                let mut collected = Collected::default();
                receive(&socket, &mut collected, statistics(2));
                (collected.flows(), collected.gap)
            })
        });
        exporter.send(many(3000));
        let reports = exporter.finish();
        for reader in readers {
            assert_eq!(reader.join().expect("reader"), (3000, 0));
        }
        assert_eq!(reports[0].sent, Volume::of(&many(3000)));
        assert_eq!(reports[2].sent, reports[0].sent);
        assert_eq!(dropped(&reports[1], "refused"), 3000);
        assert_eq!(reports[1].destination, format!("udp://{dead}"));
    }
}

/// The collector is closed and opened again on the same port: what it received before and after
/// and the gap it sees are what was encoded, and sent is what it received.
#[test]
fn a_collector_that_comes_back_sees_the_gap() {
    for host in ["127.0.0.1:0", "[::1]:0"] {
        let socket = listen(host);
        let address = socket.local_addr().expect("bound");
        let exporter = start(&settings(&[address]));
        let mut collected = Collected::default();
        exporter.send(many(1000));
        let port = receive(&socket, &mut collected, |c| c.flows() == 1000);
        drop(socket);
        exporter.send(many(500));
        let patience = Instant::now() + Duration::from_secs(20);
        while exporter.reports()[0].outages == 0 {
            assert!(Instant::now() < patience, "the refusal was not noticed");
            thread::sleep(Duration::from_millis(10));
        }
        exporter.send(many(500));
        let socket = listen(&address.to_string());
        let reader = thread::spawn(move || {
            // At start, after the outage, at the end.
            let port = receive(&socket, &mut collected, statistics(3));
            (collected, port)
        });
        let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
        let (collected, port_again) = reader.join().expect("reader");
        assert_eq!(port, port_again, "templates and flows come from one port");
        assert_eq!(
            collected.records.len() as u64 + collected.gap,
            report.encoded
        );
        assert_eq!(collected.flows() as u64, report.sent.records);
        assert_eq!(report.sent.records + dropped(&report, "refused"), 2000);
        assert_eq!(collected.gap, dropped(&report, "refused"));
        assert!(collected.gap > 0);
    }
}

#[test]
fn settings_that_make_no_sense_are_refused() {
    let address = SocketAddr::from(([127, 0, 0, 1], 4739));
    let error = |change: fn(&mut Settings)| {
        let mut settings = settings(&[address]);
        change(&mut settings);
        let started = Exporter::start(&settings, Arc::new(Nothing));
        started.expect_err("refused").to_string()
    };
    assert!(error(|s| s.mtu = MIN_MTU - 1).contains(&format!("at least {MIN_MTU}")));
    assert!(error(|s| s.queue = 0).contains("--export-queue"));
    assert!(error(|s| s.template_refresh = Duration::ZERO).contains("--template-refresh"));
    assert!(error(|s| s.domains.clear()).contains("no observation domain"));
    assert!(error(|s| s.domains.push(s.domains[0].clone())).contains("domain 1 "));
    assert!(error(|s| s.collectors.clear()).contains("nowhere"));
    let unresolved = error(|s| {
        let name = "udp://no-such-host.invalid:4739";
        s.collectors = vec![name.parse().expect("a collector")];
    });
    assert!(unresolved.contains("no-such-host.invalid:4739"));
    let unknown = error(|s| {
        s.collectors = vec!["udp://127.0.0.1?template=w".parse().expect("a collector")];
    });
    assert!(unknown.contains("there is no template w"), "{unknown}");
}

/// Records in any order reach the domains of their classes, and a change keeps its place among
/// what is sent.
#[test]
fn classes_go_to_their_domains_and_changes_stay_in_order() {
    let socket = listen("127.0.0.1:0");
    let mut settings = settings(&[socket.local_addr().expect("bound")]);
    settings.domains.push(Domain {
        id: 2,
        name: "icmp".to_owned(),
        sampling: Sampling::All,
    });
    let exporter = start(&settings);
    let mixed = || -> Vec<_> {
        let pairs = many(100).into_iter().zip(of_class(1, many(100)));
        pairs.flat_map(|(one, other)| [one, other]).collect()
    };
    exporter.send(mixed());
    exporter.change(1, "1/9".parse().expect("a rate"));
    exporter.send(mixed());
    exporter.change(5, Sampling::All);
    exporter.send(of_class(5, many(7)));
    let reader = thread::spawn(move || {
        let mut collected = Collected::default();
        let done = |c: &Collected| {
            let last = |domain| c.in_domain(domain).last().map(|(id, _)| *id);
            c.flows() == 400 && last(1) == Some(522) && last(2) == Some(521)
        };
        receive(&socket, &mut collected, done);
        collected
    });
    let [report] = <[_; 1]>::try_from(exporter.finish()).expect("one collector");
    let collected = reader.join().expect("reader");
    assert_eq!(dropped(&report, "unknown_class"), 7);
    assert_eq!((collected.gap, report.sent.records), (0, 400));
    let flows = |domain| {
        let mut flows = vec![0];
        for (id, _) in collected.in_domain(domain) {
            match id {
                512 => flows.push(0),
                256..=263 => *flows.last_mut().expect("one") += 1,
                _ => {}
            }
        }
        flows
    };
    assert_eq!((flows(1), flows(2)), (vec![0, 200], vec![0, 100, 100]));
}
