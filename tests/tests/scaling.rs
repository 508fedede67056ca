//! What nfdump, nfacctd and tshark make of sampled counters: scaled by the rate that flowprobe told
//! them, they are what was sent.
//!
//! Each cell of methods and profiles is metered once, and all judges have the same messages.

use std::{
    borrow::Borrow,
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    collector::{Collector, Datagram, Received},
    flow::Counts,
    judges::{
        Judgement, Nfacctd, Nfcapd, Reading, Sum, complaints, find_all, replay, tshark,
        wait_until_read, without_intervals,
    },
    live::{Live, on_one_cpu},
    packets::{Ip, Packet},
    probe::{self, Finished, Probe},
    sender::Sender,
    topology::{Pair, Wire},
};
use serde_json::Value;

type Result<T = ()> = anyhow::Result<T>;
/// What a judge shows, scaled or not.
type Totals = BTreeMap<Sum, Counts>;

const COLLECTOR: u16 = 4739;
const NFCAPD: u16 = 9995;
/// The first nfacctd; each further one has the next port.
const NFACCTD: u16 = 9996;

/// hashDigestOutput.
const DIGEST_OUTPUT: u16 = 333;
/// RFC 7011 §6.1.5.
const FALSE: u64 = 2;

/// Not divisible by 2 or 5: sampling by count meets each flow equally often.
const FLOWS: usize = 999;
/// Packets of each flow.
const EACH: usize = 50;
/// Microseconds between packets, at least, where it matters when they come.
const PAUSE_US: usize = 4;
/// So many packets come in 50 microseconds, the longest time in which all are selected.
const WINDOW: usize = 50 / PAUSE_US + 1;

/// A method, and all that the judges are to know of it.
struct Method {
    rate: &'static str,
    n: u64,
    /// Set identifier of its selector report, and the report as tshark shows it.
    report: (&'static str, &'static [(&'static str, &'static str)]),
    /// samplingAlgorithm and samplerMode.
    mode: &'static str,
    /// What is selected or not as a whole, at most: the packet, its flow, what comes in a window.
    group: fn(usize) -> usize,
    /// Whether as many packets as expected are selected, and of all flows equally many.
    exact: (bool, bool),
}

const METHODS: [Method; 6] = [
    Method {
        rate: "1/10",
        n: 10,
        report: (
            "513",
            &[
                ("selector_algorithm", "1"),
                ("sampling_packet_interval", "1"),
                ("sampling_packet_space", "9"),
            ],
        ),
        mode: "1",
        group: |packet| packet,
        exact: (true, true),
    },
    Method {
        rate: "random:1/10",
        n: 10,
        report: (
            "519",
            &[
                ("selector_algorithm", "4"),
                ("sampling_probability", "0.1"),
                ("selector_name", "random:1/10"),
            ],
        ),
        mode: "2",
        group: |packet| packet,
        exact: (false, false),
    },
    Method {
        rate: "nofn:5/50",
        n: 10,
        report: (
            "524",
            &[
                ("selector_algorithm", "3"),
                ("sampling_size", "5"),
                ("sampling_population", "50"),
                ("selector_name", "nofn:5/50"),
            ],
        ),
        mode: "2",
        group: |packet| packet,
        exact: (true, false),
    },
    Method {
        rate: "time:50/450",
        n: 10,
        report: (
            "525",
            &[
                ("selector_algorithm", "2"),
                ("sampling_time_interval", "50"),
                ("sampling_time_space", "450"),
                ("selector_name", "time:50/450"),
            ],
        ),
        mode: "1",
        group: |packet| packet / WINDOW,
        exact: (false, false),
    },
    Method {
        rate: "hash:1/8",
        n: 8,
        report: (
            "526",
            &[
                ("selector_algorithm", "6"),
                ("hash_ippayload_offset", "0"),
                ("hash_ippayload_size", "24"),
                ("hash_output_range_min", "0"),
                ("hash_output_range_max", "4294967295"),
                ("hash_selected_range_min", "0"),
                ("hash_selected_range_max", "536870911"),
                ("selector_name", "hash:1/8"),
            ],
        ),
        mode: "1",
        group: |packet| packet,
        exact: (false, false),
    },
    Method {
        rate: "flow:1/4",
        n: 4,
        report: (
            "527",
            &[
                ("flow_selector_algorithm", "6"),
                ("hash_output_range_min", "0"),
                ("hash_output_range_max", "4294967295"),
                ("hash_selected_range_min", "0"),
                ("hash_selected_range_max", "1073741823"),
                ("selector_name", "flow:1/4"),
            ],
        ),
        mode: "1",
        group: |packet| packet % FLOWS,
        exact: (false, false),
    },
];

/// Flows of both families with packets of seven sizes, in turn; no two packets have the same content.
fn traffic() -> Vec<Packet> {
    let both = [
        Ip::new("10.0.0.1", "10.0.0.2"),
        Ip::new("2001:db8::1", "2001:db8::2"),
    ];
    let packet = |number: usize| {
        let (round, flow) = (number / FLOWS, number % FLOWS);
        let ip = &both[flow % 2];
        let mut packet = ip.udp(1000 + flow as u16, 7, 4 + flow % 7 * 50);
        // Ethernet, IP and UDP headers.
        let payload = if flow % 2 == 0 { 42 } else { 62 };
        packet.frame[payload] = round as u8;
        packet
    };
    (0..FLOWS * EACH).map(packet).collect()
}

/// Sends from one CPU. Where it matters when packets come, they come at uneven distances, however long
/// their reception takes: packets that wait for each other are fewer in the windows of time in which
/// they are metered, since that takes longer.
fn send(pair: &Pair, packets: &[Packet], paced: bool) -> Result {
    let frames: Vec<&[u8]> = packets.iter().map(|packet| &packet.frame[..]).collect();
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let send = || -> Result {
        if !paced {
            return sender.send(&frames);
        }
        let mut random = 1_u64;
        for frame in &frames {
            // Knuth's generator (MMIX); the high bits are good.
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            let pause = PAUSE_US as u64 + (random >> 33) % 12;
            let next = Instant::now() + Duration::from_micros(pause);
            sender.send(&[frame])?;
            while Instant::now() < next {
                std::hint::spin_loop();
            }
        }
        Ok(())
    };
    on_one_cpu(send)
}

/// All together.
fn total(counts: impl IntoIterator<Item: Borrow<Counts>>) -> Counts {
    let mut total = Counts::default();
    counts
        .into_iter()
        .for_each(|count| total.add(*count.borrow()));
    total
}

/// Packets and octets that were sent are what was scaled, but for seven standard deviations of
/// selecting one in n of these groups. Less than once in 10¹¹ runs it is not.
fn assert_within(scaled: Counts, sent: Counts, n: u64, groups: &[Counts]) -> Result {
    let check = |name, scaled: u64, sent: u64, of: fn(&Counts) -> u64| {
        let squares: f64 = groups.iter().map(|group| (of(group) as f64).powi(2)).sum();
        let deviation = ((n - 1) as f64 * squares).sqrt();
        let off = scaled as f64 - sent as f64;
        ensure!(
            off.abs() <= 7.0 * deviation,
            "{scaled} {name} are {off} off {sent}, where {deviation:.0} is one deviation"
        );
        Ok(())
    };
    check("packets", scaled.packets, sent.packets, |c| c.packets)?;
    check("octets", scaled.octets, sent.octets, |c| c.octets)
}

impl Method {
    fn groups(&self, packets: &[Packet]) -> Vec<Counts> {
        let mut groups = BTreeMap::<usize, Counts>::new();
        for (number, packet) in packets.iter().enumerate() {
            let group = groups.entry((self.group)(number)).or_default();
            group.add(Counts {
                packets: 1,
                octets: packet.octets,
            });
        }
        groups.into_values().collect()
    }

    fn assert_scaled(&self, scaled: Counts, packets: &[Packet]) -> Result {
        let groups = self.groups(packets);
        let sent = total(&groups);
        let (packets_exact, octets_exact) = self.exact;
        ensure!(
            !packets_exact || scaled.packets == sent.packets,
            "{scaled:?}, {sent:?}"
        );
        ensure!(
            !octets_exact || scaled.octets == sent.octets,
            "{scaled:?}, {sent:?}"
        );
        assert_within(scaled, sent, self.n, &groups)
    }
}

/// What all judges have of one run.
struct Run {
    finished: Finished,
    received: Received,
    nfdump: Judgement,
    nfacctd: Nfacctd,
    /// One that knows the rate from options alone.
    nfacctd_by_options: Nfacctd,
}

/// Meters what `traffic` sends, and tells all judges. `number` counts runs of one pair, whose
/// nfacctds are still there.
fn meter(
    pair: &Pair,
    number: u16,
    arguments: &[&str],
    traffic: impl FnOnce() -> Result,
) -> Result<Run> {
    let collector = Collector::start(&pair.sensor, &format!("127.0.0.1:{COLLECTOR}"), true)?;
    let nfcapd = Nfcapd::start(&pair.sensor, NFCAPD)?;
    let ports = [NFACCTD + 2 * number, NFACCTD + 2 * number + 1];
    let nfacctd = Nfacctd::renormalising(&pair.sensor, ports[0])?;
    let nfacctd_by_options = Nfacctd::renormalising(&pair.sensor, ports[1])?;
    let mut all = vec!["-i", Pair::SENSOR, "--export-rate", "20000"];
    let url = |port| format!("udp://127.0.0.1:{port}");
    let urls = [url(COLLECTOR), url(NFCAPD), url(ports[0])];
    urls.iter().for_each(|url| all.extend(["--collector", url]));
    all.extend(arguments);
    let probe = Probe::start(&pair.sensor, &all)?;
    traffic()?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let received = collector.stop();
    received.assert_well_formed();
    assert_eq!(received.missing(), 0);
    replay(
        &pair.sensor,
        &without_intervals(&received.datagrams)?,
        ports[1],
    )?;
    for port in [NFCAPD, ports[0], ports[1]] {
        wait_until_read(&pair.sensor, port)?;
    }
    Ok(Run {
        finished,
        received,
        nfdump: nfcapd.stop()?,
        nfacctd,
        nfacctd_by_options,
    })
}

/// The sums that a judge shows who multiplies each record by what `factor` says of its rate.
fn expected(received: &Received, factor: impl Fn(&Sum, u64) -> u64) -> Totals {
    let mut totals = Totals::new();
    for flow in &received.flows {
        let sum = Sum::of(flow);
        let factor = factor(&sum, flow.sampling.into());
        totals.entry(sum).or_default().add(Counts {
            packets: flow.counts.packets * factor,
            octets: flow.counts.octets * factor,
        });
    }
    totals
}

fn scaled(received: &Received) -> Totals {
    expected(received, |_, n| n)
}

fn of_nfdump(judgement: &Judgement) -> Result<Totals> {
    let mut totals = Totals::new();
    for record in &judgement.flows {
        let Reading {
            key,
            packets,
            octets,
            ..
        } = Reading::from_nfdump(record)?;
        let sum = totals.entry(Sum::of_key(&key)).or_default();
        sum.add(Counts { packets, octets });
    }
    Ok(totals)
}

/// Each flow has the counters expected.
fn assert_same(shown: &Totals, expected: &Totals) -> Result {
    let keys = shown.keys().chain(expected.keys());
    let differing: BTreeSet<_> = keys
        .filter(|key| shown.get(key) != expected.get(key))
        .collect();
    if let Some(key) = differing.first() {
        anyhow::bail!(
            "{} of {} flows differ: {:?} is shown, {:?} expected of {key:?}; in all {:?} and {:?}",
            differing.len(),
            expected.len(),
            shown.get(key),
            expected.get(key),
            total(shown.values()),
            total(expected.values()),
        );
    }
    Ok(())
}

/// The records of the sets with this identifier, in the order of the messages, each with the number
/// of its message.
fn records<'a>(messages: &'a [Value], set: &str) -> Vec<(usize, &'a Value)> {
    let mut records = Vec::new();
    for (number, message) in messages.iter().enumerate() {
        for cflow in find_all(message, "cflow") {
            let sets = cflow.as_object().into_iter().flatten();
            let sets =
                sets.filter(|(_, object)| object.get("cflow.flowset_id") == Some(&set.into()));
            for (_, object) in sets {
                let object = object.as_object().into_iter().flatten();
                let flows = object.filter(|(name, _)| name.starts_with("Flow "));
                records.extend(flows.map(|(_, flow)| (number, flow)));
            }
        }
    }
    records
}

fn field<'a>(record: &'a Value, name: &str) -> Result<&'a str> {
    let value = record.get(format!("cflow.{name}")).and_then(Value::as_str);
    value.with_context(|| format!("no {name} in {record}"))
}

fn number(record: &Value, name: &str) -> Result<u64> {
    field(record, name)?
        .parse()
        .with_context(|| format!("{name} in {record}"))
}

/// Options tell the rate as the profile has it, and nothing else; records come behind them.
fn assert_told(messages: &[Value], method: &Method, profile: &str) -> Result {
    let n = method.n.to_string();
    let (report, selector) = method.report;
    let rate = &[("od_id", "1"), ("sampling_interval", &n)][..];
    let legacy = [rate, &[("sampling_algorithm", method.mode)]].concat();
    let sampler = [
        ("od_id", "1"),
        ("sampler_id", "1"),
        ("sampler_mode", method.mode),
        ("sampler_random_interval", &n),
    ];
    let report = (report, [&[("selector_id", "1")], selector].concat());
    let mut told = match profile {
        "default" => vec![("512", rate.to_vec()), report],
        "psamp" => vec![report],
        "legacy" => vec![("514", legacy)],
        "sampler" => vec![("516", sampler.to_vec())],
        _ => unreachable!(),
    };
    let ids = [
        ("selection_sequence_id", "1"),
        ("od_id", "1"),
        ("selector_id", "1"),
    ];
    told.push(("517", ids.to_vec()));
    for set in [
        "512", "513", "514", "516", "517", "519", "524", "525", "526", "527",
    ] {
        let records = records(messages, set);
        let Some((_, fields)) = told.iter().find(|(id, _)| *id == set) else {
            ensure!(records.is_empty(), "{set} is told: {records:?}");
            continue;
        };
        ensure!(!records.is_empty(), "{set} is not told");
        for (message, record) in records {
            // All come together, in the first message with options.
            ensure!(message == 1, "{set} in message {message}");
            let mut told = record.as_object().context("an object")?.len();
            // tshark 4.0 shows hashDigestOutput as 1 whether the octet says true (1) or false (2).
            told -= usize::from(record.get("cflow.hash_digest_output").is_some());
            ensure!(told == fields.len(), "more or less is told in {record}");
            for (name, value) in fields {
                ensure!(
                    field(record, name)? == *value,
                    "{name} is not {value}: {record}"
                );
            }
        }
    }
    Ok(())
}

/// tshark has no complaint, and its flow records, each multiplied by its own interval, are what was
/// sent; the statistics of the selection have what was sent and what was selected.
fn judge_by_tshark(
    name: &str,
    received: &Received,
    method: &Method,
    profile: &str,
    packets: &[Packet],
) -> Result {
    let datagrams = &received.datagrams;
    let messages = tshark(name, datagrams, COLLECTOR)?;
    ensure!(
        messages.len() == datagrams.len(),
        "{} messages",
        messages.len()
    );
    let complaints = complaints(&messages);
    ensure!(complaints.is_empty(), "{complaints:#?}");
    assert_told(&messages, method, profile)?;
    let digests = received
        .options
        .iter()
        .filter_map(|record| record.number(DIGEST_OUTPUT));
    ensure!(
        digests.into_iter().all(|digest| digest == FALSE),
        "hashDigestOutput is true"
    );
    let mut raw = 0;
    let mut scaled = Counts::default();
    let mut first = usize::MAX;
    for (message, record) in [records(&messages, "256"), records(&messages, "257")].concat() {
        first = first.min(message);
        let n = number(record, "sampling_interval")?;
        ensure!(n == method.n, "a flow record says 1 in {n}: {record}");
        raw += number(record, "packets")?;
        scaled.add(Counts {
            packets: number(record, "packets")? * n,
            octets: number(record, "octets")? * n,
        });
    }
    ensure!(first > 1, "flow records in message {first}");
    method.assert_scaled(scaled, packets)?;
    let statistics = records(&messages, "518");
    let (_, statistics) = statistics.last().context("no statistics")?;
    let observed = number(statistics, "selector_id_total_pkts_observed")?;
    let selected = number(statistics, "selector_id_total_pkts_selected")?;
    ensure!(number(statistics, "selection_sequence_id")? == 1);
    ensure!(
        (observed, selected) == (packets.len() as u64, raw),
        "{selected} of {observed} are told, {raw} of {} were",
        packets.len()
    );
    Ok(())
}

/// Who scales in a profile. tshark is asked for each record's interval, which they all have; with it
/// nfacctd always scales.
struct Profile {
    name: &'static str,
    /// nfdump 1.7.1, which knows options alone.
    nfdump: bool,
    /// nfacctd where flow records have no interval.
    by_options: fn(&Method) -> bool,
}

impl Profile {
    /// All methods, before all judges.
    fn judge(&self) -> Result {
        let pair = Pair::new(Wire::default())?;
        let packets = traffic();
        let (pair, packets) = (&pair, &packets[..]);
        let faults = thread::scope(|scope| -> Result<Vec<String>> {
            let mut judging = Vec::new();
            for (at, method) in METHODS.iter().enumerate() {
                let run = self.meter(pair, at, method, packets)?;
                judging.push(scope.spawn(move || self.faults(at, method, run, packets)));
            }
            let faults = judging.into_iter().map(thread::ScopedJoinHandle::join);
            Ok(faults
                .flat_map(|faults| faults.expect("no panic"))
                .collect())
        })?;
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(())
    }

    fn meter(&self, pair: &Pair, at: usize, method: &Method, packets: &[Packet]) -> Result<Run> {
        let mut options = vec!["--sample", method.rate, "--sampling-profile", self.name];
        if method.rate.starts_with("hash") || method.rate.starts_with("flow") {
            options.extend(["--sample-key", "0123456789abcdef"]);
        }
        let paced = method.rate.starts_with("time");
        let run = meter(pair, at as u16, &options, || send(pair, packets, paced))?;
        let seen = run.finished.summary.ledger.seen.packets;
        assert_eq!(seen, packets.len() as u64);
        Ok(run)
    }

    /// What each judge has against a run.
    fn faults(&self, at: usize, method: &Method, run: Run, packets: &[Packet]) -> Vec<String> {
        let (received, nfdump) = (&run.received, &run.nfdump);
        let shown = |totals: &Totals, scales: bool| {
            if scales {
                method.assert_scaled(total(totals.values()), packets)?;
            }
            let factor = |n| if scales { n } else { 1 };
            assert_same(totals, &expected(received, |_, n| factor(n)))
        };
        let name = format!("scaling-{}-{at}", self.name);
        let by_tshark = judge_by_tshark(&name, received, method, self.name, packets);
        let by_nfdump = of_nfdump(nfdump).and_then(|totals| shown(&totals, self.nfdump));
        let learnt = format!("packet interval: 1, packet space: {}", method.n - 1);
        let learnt = nfdump.samplers.contains(&learnt) == self.nfdump;
        let samplers = learnt.then_some(()).context(nfdump.samplers.clone());
        let (by_nfacctd, by_options) = stop(run.nfacctd, run.nfacctd_by_options);
        let by_nfacctd = by_nfacctd.and_then(|totals| shown(&totals, true));
        let by_options = by_options.and_then(|totals| shown(&totals, (self.by_options)(method)));
        [
            ("tshark", by_tshark),
            ("nfdump", by_nfdump),
            ("nfdump -E", samplers),
            ("nfacctd", by_nfacctd),
            ("nfacctd by options", by_options),
        ]
        .into_iter()
        .filter_map(|(judge, verdict)| {
            let error = verdict.err()?;
            Some(format!(
                "{judge}, {}, {}: {error:#}",
                self.name, method.rate
            ))
        })
        .collect()
    }
}

/// Ends both, at once: each takes two seconds for it.
fn stop(nfacctd: Nfacctd, by_options: Nfacctd) -> (Result<Totals>, Result<Totals>) {
    thread::scope(|scope| {
        let nfacctd = scope.spawn(|| nfacctd.stop());
        let by_options = by_options.stop();
        (nfacctd.join().expect("no panic"), by_options)
    })
}

/// All judges read samplingInterval alone.
#[test]
fn all_judges_scale_the_default_profile() -> Result {
    Profile {
        name: "default",
        nfdump: true,
        by_options: |_| true,
    }
    .judge()
}

/// nfdump 1.7.1 reads no selector report, and nfacctd 1.7.7 that of sampling by count.
#[test]
fn nfacctd_scales_the_psamp_profile_and_nfdump_does_not() -> Result {
    Profile {
        name: "psamp",
        nfdump: false,
        by_options: |method| method.report.0 == "513",
    }
    .judge()
}

/// nfdump 1.7.1 does not read samplingInterval with samplingAlgorithm.
#[test]
fn nfacctd_scales_the_legacy_profile_and_nfdump_does_not() -> Result {
    Profile {
        name: "legacy",
        nfdump: false,
        by_options: |_| true,
    }
    .judge()
}

/// nfdump 1.7.1 does not read samplerId with samplerMode and samplerRandomInterval.
#[test]
fn nfacctd_scales_the_sampler_profile_and_nfdump_does_not() -> Result {
    Profile {
        name: "sampler",
        nfdump: false,
        by_options: |_| true,
    }
    .judge()
}

/// All of DNS, every tenth of the rest: each domain is scaled by its own rate, from one exporter, by
/// all judges.
#[test]
fn all_judges_scale_each_class_by_its_own_rate() -> Result {
    const ROUNDS: usize = 20_000;
    let pair = Pair::new(Wire::default())?;
    let both = [
        Ip::new("10.0.0.1", "10.0.0.2"),
        Ip::new("2001:db8::1", "2001:db8::2"),
    ];
    let round: Vec<Packet> = (0..16)
        .map(|flow| both[flow % 2].udp(1000 + flow as u16, [53, 80, 53, 443][flow / 2 % 4], 50))
        .collect();
    let packets: Vec<Packet> = round.iter().cycle().take(ROUNDS).cloned().collect();
    let sample = ["udp port 53 = 1/1", "udp port 443 = random:1/4", "1/10"];
    let options: Vec<&str> = sample
        .iter()
        .flat_map(|class| ["--sample", class])
        .collect();
    let run = meter(&pair, 0, &options, || send(&pair, &packets, false))?;
    let received = &run.received;
    assert_eq!(received.domains.len(), sample.len());
    let all = scaled(received);
    let (nfacctd, by_options) = stop(run.nfacctd, run.nfacctd_by_options);
    let judged = [
        ("nfdump", of_nfdump(&run.nfdump)?),
        ("nfacctd", nfacctd?),
        ("nfacctd by options", by_options?),
    ];
    for (judge, totals) in &judged {
        assert_same(totals, &all).context(*judge)?;
        for (port, n) in [(53, 1), (443, 4), (80, 10)] {
            let of_class = totals
                .iter()
                .filter(|(sum, _)| sum.destination_port == port);
            let of_class = total(of_class.map(|(_, counts)| counts));
            let sent = packets
                .iter()
                .filter(|packet| packet.key.is_some_and(|key| key.destination_port == port));
            let sent: Vec<Counts> = sent
                .map(|packet| Counts {
                    packets: 1,
                    octets: packet.octets,
                })
                .collect();
            let verdict = assert_within(of_class, total(&sent), n, &sent);
            verdict.with_context(|| format!("{judge}, port {port}"))?;
            // The whole class came, and by count each tenth of it.
            ensure!(
                n == 4 || of_class.packets == sent.len() as u64,
                "{judge}, port {port}"
            );
        }
    }
    // nfdump shows one exporter for each domain, and what it learnt of it.
    for n in [1, 4, 10] {
        let learnt = format!("packet interval: 1, packet space: {}", n - 1);
        let samplers = &run.nfdump.samplers;
        ensure!(samplers.contains(&learnt), "{samplers}");
    }
    Ok(())
}

/// Records of the old rate come before options with the new one, whatever collectors keep.
#[test]
fn all_judges_follow_a_rate_that_changes() -> Result {
    const CALL: u64 = 1 << 17;
    let pair = Pair::new(Wire::default())?;
    let socket = std::env::temp_dir().join(format!("{}-control", pair.sensor.name()));
    let socket = socket.display().to_string();
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    let octets = packet.octets;
    let live = Live::new(&pair.generator, Pair::GENERATOR, packet, 0, 64)?;
    let options = [
        "--sample",
        "random:1/100",
        "--control",
        &socket,
        // Records are on their way all the time.
        "--active-timeout",
        "0.3",
        "--sweep-interval",
        "0.1",
    ];
    let change = |rate: &str| -> Result {
        thread::sleep(Duration::from_millis(400));
        let output = probe::output(&pair.sensor, &["ctl", "--control", &socket, "sample", rate])?;
        ensure!(output.status.success(), "{output:?}");
        Ok(())
    };
    let (changed, mut sent) = (AtomicBool::new(false), 0);
    let run = meter(&pair, 0, &options, || {
        thread::scope(|scope| {
            let sending = scope.spawn(|| -> Result<u64> {
                let mut sent = 0;
                loop {
                    // Once more when the last rate is there.
                    let last = changed.load(Ordering::Relaxed);
                    live.send(&pair.generator, 0, CALL)?;
                    sent += CALL;
                    if last {
                        return Ok(sent);
                    }
                }
            });
            let all = ["random:1/20", "1/1"]
                .iter()
                .try_for_each(|rate| change(rate));
            changed.store(true, Ordering::Relaxed);
            sent = sending.join().expect("no panic")?;
            all
        })
    })?;
    let received = &run.received;
    assert_eq!(run.finished.summary.ledger.seen.packets, sent);
    // What each rate selected: the variance of n times that is n (n - 1) times it.
    let mut selected = BTreeMap::<u64, u64>::new();
    for flow in &received.flows {
        *selected.entry(flow.sampling.into()).or_default() += flow.counts.packets;
    }
    assert_eq!(selected.keys().copied().collect::<Vec<_>>(), [1, 20, 100]);
    let variance: u64 = selected
        .iter()
        .map(|(n, packets)| n * (n - 1) * packets)
        .sum();
    let all = scaled(received);
    let (nfacctd, by_options) = stop(run.nfacctd, run.nfacctd_by_options);
    let judged = [
        ("nfdump", of_nfdump(&run.nfdump)?),
        ("nfacctd", nfacctd?),
        ("nfacctd by options", by_options?),
    ];
    for (judge, totals) in &judged {
        assert_same(totals, &all).context(*judge)?;
        let Counts {
            packets,
            octets: shown,
        } = total(totals.values());
        let off = packets as f64 - sent as f64;
        let deviation = (variance as f64).sqrt();
        ensure!(
            off.abs() <= 7.0 * deviation,
            "{judge}: {packets} of {sent}: {deviation}"
        );
        assert_eq!(shown, packets * octets, "{judge}");
    }
    judge_changes_by_tshark(&received.datagrams, &selected)
}

/// tshark has no complaint, each flow record has the interval of the options before it, and the last
/// statistics of each selection sequence have what its rate selected.
fn judge_changes_by_tshark(datagrams: &[Datagram], selected: &BTreeMap<u64, u64>) -> Result {
    let messages = tshark("scaling-changes", datagrams, COLLECTOR)?;
    let complaints = complaints(&messages);
    ensure!(complaints.is_empty(), "{complaints:#?}");
    let options = records(&messages, "512");
    let mut by_rate = BTreeMap::<u64, u64>::new();
    for (message, record) in records(&messages, "256") {
        let n = number(record, "sampling_interval")?;
        *by_rate.entry(n).or_default() += number(record, "packets")?;
        let told = options.iter().rfind(|(told, _)| *told <= message);
        let (_, told) = told.context("no options before a flow record")?;
        ensure!(
            number(told, "sampling_interval")? == n,
            "1 in {n} after {told}"
        );
    }
    ensure!(by_rate == *selected, "{by_rate:?}, {selected:?}");
    let mut statistics = BTreeMap::new();
    for (_, record) in records(&messages, "518") {
        let observed = number(record, "selector_id_total_pkts_observed")?;
        let selected = number(record, "selector_id_total_pkts_selected")?;
        statistics.insert(
            number(record, "selection_sequence_id")?,
            (observed, selected),
        );
    }
    let told: Vec<u64> = statistics.values().map(|(_, selected)| *selected).collect();
    // The rates fall: 1 in 100, 1 in 20, all.
    let expected: Vec<u64> = selected.values().rev().copied().collect();
    ensure!(
        told == expected,
        "{statistics:?} are told, {expected:?} selected"
    );
    for ((observed, selected), n) in statistics.values().zip([100, 20, 1]) {
        let expected = *observed as f64 / f64::from(n);
        let deviation = (expected * (1.0 - 1.0 / f64::from(n))).sqrt();
        let off = *selected as f64 - expected;
        ensure!(
            off.abs() <= 7.0 * deviation,
            "{selected} of {observed} at 1/{n}"
        );
    }
    Ok(())
}
