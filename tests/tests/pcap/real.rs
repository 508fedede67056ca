//! Captures, beside tshark. Packets and IP octets of each direction of each conversation are equal
//! but for packets that a [`Case`] explains, and so are the packets of tshark's own statistics. A
//! difference without a case fails.

mod expected;

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    capture_file::{Order, Record, pcap as classic},
    captures,
    flow::{Counts, Flow},
    judges::dissection::{Direction, Dissected, STATISTICS, Statistics, dissect},
    mix::{encapsulated, ignored, mix, tunnels},
    offline::{Offline, pcap},
    packets::Ip,
};

use self::expected::{Case, Firsts, Key, judge};
use crate::{Files, Result, START_NS};

/// Counts that may differ, and why they do.
#[derive(Debug, Default)]
struct Compared {
    packets: u64,
    conversations: u64,
    /// Flow records that name a tunnel.
    opened: u64,
    followed: u64,
    orphans: u64,
    explained: BTreeMap<Case, u64>,
    differences: Vec<String>,
}

impl AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.conversations += other.conversations;
        self.opened += other.opened;
        self.followed += other.followed;
        self.orphans += other.orphans;
        for (case, count) in other.explained {
            *self.explained.entry(case).or_insert(0) += count;
        }
        self.differences.extend(other.differences);
    }
}

/// Sums by statistic and direction.
type Sums = BTreeMap<Key, Counts>;

fn add(sums: &mut Sums, statistic: &'static str, direction: Direction, counts: Counts) {
    sums.entry((statistic, direction)).or_default().add(counts);
}

/// What flowprobe exported, in the statistics that it belongs to.
fn exported(flows: &[Flow]) -> Sums {
    let mut sums = Sums::new();
    for flow in flows {
        let key = &flow.key;
        let mut count = |statistic, ports: (u16, u16)| {
            let direction = Direction {
                source: (key.source, ports.0),
                destination: (key.destination, ports.1),
            };
            add(&mut sums, statistic, direction, flow.counts);
        };
        count(if key.source.is_ipv4() { "ip" } else { "ipv6" }, (0, 0));
        let ports = (key.source_port, key.destination_port);
        match key.protocol {
            // Fragments whose first one is not there have no ports, and are in no such statistic.
            _ if ports == (0, 0) => {}
            6 => count("tcp", ports),
            17 => count("udp", ports),
            _ => {}
        }
    }
    sums
}

/// Compares one capture, with tunnels closed and opened; `None` if it cannot be read.
fn compare(capture: &Path) -> Result<Option<[Compared; 2]>> {
    let run = |which| pcap(&[Path::new("--tunnels"), Path::new(which), capture], &[]);
    let runs = [run("outer")?, run("inner")?];
    ensure!(runs.iter().all(|run| run.code <= 2), "{}", runs[1].log);
    ensure!(runs[0].code == runs[1].code, "{}", runs[1].log);
    if runs[0].code == 2 {
        return Ok(None);
    }
    let (mut packets, statistics) = dissect(capture)?;
    packets.retain(|packet| packet.encapsulation.is_some());
    let name = capture.file_name().unwrap_or_default().to_string_lossy();
    let [outer, inner] = [(&runs[0], false), (&runs[1], true)].map(|(run, inner)| {
        let name = format!("{name}, {}", if inner { "inner" } else { "outer" });
        compare_run(&name, run, inner, &packets, &statistics)
    });
    Ok(Some([outer, inner]))
}

/// Compares what flowprobe made of a capture with what tshark did.
fn compare_run(
    name: &str,
    flowprobe: &Offline,
    inner: bool,
    mut packets: &[Dissected],
    statistics: &Statistics,
) -> Compared {
    let ledger = flowprobe.ledger();
    let mut exported = exported(&flowprobe.flows);
    let mut explained: BTreeMap<Case, u64> = BTreeMap::new();
    if flowprobe.code == 1 && packets.len() as u64 == ledger.seen.packets + 1 {
        packets = &packets[..packets.len() - 1];
        explained.insert(Case::Damaged, 1);
    }
    let mut compared = Compared {
        packets: ledger.seen.packets,
        ..Compared::default()
    };
    let mut differ = |text: String| compared.differences.push(format!("{name}: {text}"));
    if packets.len() as u64 != ledger.seen.packets {
        let seen = ledger.seen.packets;
        differ(format!("{seen} packets, and {} for tshark", packets.len()));
    }
    // What the flows have to be, and what tshark's statistics count beyond.
    let mut expected = Sums::new();
    let mut beyond: BTreeMap<Key, Vec<(Case, u64)>> = BTreeMap::new();
    // What they do not count for the conversation of the flow.
    let mut elsewhere: BTreeMap<Key, u64> = BTreeMap::new();
    let mut unfinished: BTreeMap<Key, u64> = BTreeMap::new();
    let mut firsts = Firsts::default();
    for packet in packets {
        let headers = packet.headers();
        if headers.is_empty() {
            continue;
        }
        let verdict = judge(packet, inner);
        if let Ok(counted) = verdict
            && let Some(key) = firsts.follow(packet, counted)
        {
            let octets = counted.octets;
            add(&mut expected, key.0, key.1, Counts { packets: 1, octets });
            *elsewhere.entry(key).or_insert(0) += 1;
        }
        if let Err(Case::Unknown) = verdict {
            differ(format!("packet {}: {:?}", packet.number, packet.layers));
        }
        for header in headers {
            let key = (header.statistic, header.direction);
            // tshark's statistic of IPv6 has first fragments only.
            let is_later = |level| packet.fragment(level).is_some_and(|part| part.later);
            let uncounted = header.statistic == "ipv6" && is_later(header.level);
            *unfinished.entry(key).or_insert(0) += u64::from(packet.is_unfinished());
            let case = match verdict {
                Ok(counted) if header.level > counted.level => Case::Inner,
                Ok(counted) if header.level < counted.level => Case::Around,
                Ok(counted) => {
                    let octets = counted.octets;
                    add(&mut expected, key.0, key.1, Counts { packets: 1, octets });
                    let ports = matches!(header.statistic, "tcp" | "udp");
                    let leads = packet.final_destination().filter(|_| ports);
                    let mut direction = header.direction;
                    direction.destination.0 = leads.unwrap_or(direction.destination.0);
                    if uncounted {
                        *elsewhere.entry(key).or_insert(0) += 1;
                    }
                    if direction != header.direction {
                        *elsewhere.entry(key).or_insert(0) += 1;
                        let led = beyond.entry((header.statistic, direction)).or_default();
                        led.push((Case::Routed, packet.number));
                    }
                    continue;
                }
                Err(case) => case,
            };
            if uncounted {
                continue;
            }
            beyond.entry(key).or_default().push((case, packet.number));
        }
    }
    if flowprobe.fragment_orphans() != Some(firsts.orphans) {
        let counted = flowprobe.fragment_orphans();
        differ(format!("{counted:?} orphans, {} expected", firsts.orphans));
    }
    for (key, counts) in &expected {
        let flows = exported.remove(key).unwrap_or_default();
        if flows != *counts {
            differ(format!(
                "{key:?}: {flows:?} in flows, {counts:?} in packets"
            ));
        }
    }
    for (key, counts) in exported {
        differ(format!("{key:?}: {counts:?} in flows only"));
    }
    let empty = BTreeMap::new();
    for statistic in &STATISTICS {
        let counted = statistics.get(statistic).unwrap_or(&empty);
        let of_flows = expected.iter().filter(|((name, _), _)| name == statistic);
        let mut of_flows: BTreeMap<Direction, u64> = of_flows
            .map(|((_, direction), counts)| (*direction, counts.packets))
            .collect();
        for ((_, direction), count) in elsewhere.iter().filter(|((name, _), _)| name == statistic) {
            *of_flows.entry(*direction).or_insert(0) -= count;
        }
        of_flows.retain(|_, packets| *packets > 0);
        let directions: BTreeSet<_> = counted.keys().chain(of_flows.keys()).copied().collect();
        for direction in directions {
            let frames = counted.get(&direction).copied().unwrap_or(0);
            let flows = of_flows.get(&direction).copied().unwrap_or(0);
            let key = (*statistic, direction);
            let more = beyond.get(&key).map(Vec::as_slice).unwrap_or_default();
            for (case, _) in more {
                *explained.entry(*case).or_insert(0) += 1;
            }
            let missing = (flows + more.len() as u64).checked_sub(frames);
            let may_miss = unfinished.get(&key).copied().unwrap_or(0);
            match missing {
                Some(0) => {}
                Some(missing) if missing <= may_miss => {
                    *explained.entry(Case::Unfinished).or_insert(0) += missing;
                }
                _ => differ(format!(
                    "conv,{statistic} {direction:?}: {frames} frames; {flows} in flows, and \
                     {more:?}"
                )),
            }
        }
    }
    compared.conversations = expected.len() as u64;
    compared.explained = explained;
    let flows = flowprobe.flows.iter();
    let opened = flows.filter(|flow| flow.key.around.tunnel.is_some());
    compared.opened = opened.count() as u64;
    compared.followed = firsts.followed;
    compared.orphans = firsts.orphans;
    compared
}

fn add_all(sums: &mut [Compared; 2], others: [Compared; 2]) {
    for (sum, other) in sums.iter_mut().zip(others) {
        *sum += other;
    }
}

/// The sums over all captures, with tunnels closed and opened.
fn compare_all() -> Result<[Compared; 2]> {
    let captures = captures::all()?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<([Compared; 2], u64, u64)> {
        let (mut sums, mut compared, mut refused) = (<[Compared; 2]>::default(), 0, 0);
        while let Some(capture) = captures.get(next.fetch_add(1, Ordering::Relaxed)) {
            match compare(capture).with_context(|| capture.display().to_string())? {
                Some(one) => {
                    compared += 1;
                    add_all(&mut sums, one);
                }
                None => refused += 1,
            }
        }
        Ok((sums, compared, refused))
    };
    // tshark takes a third of a second to start.
    let workers = thread::available_parallelism()?.get();
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(ScopedJoinHandle::join).collect()
    });
    let (mut sums, mut compared, mut refused) = (<[Compared; 2]>::default(), 0, 0);
    for result in results {
        let (one, some, others) = result.expect("no panic")?;
        add_all(&mut sums, one);
        compared += some;
        refused += others;
    }
    println!("{compared} captures; {refused} of a kind that is not read");
    Ok(sums)
}

/// Says what was compared, and fails where there is a difference.
#[track_caller]
fn assert_equal(tunnels: &str, sum: &Compared) {
    println!(
        "tunnels {tunnels}: {} packets, {} directions of conversations, {} flow records out of tunnels; {} later \
         fragments with ports, {} orphans",
        sum.packets, sum.conversations, sum.opened, sum.followed, sum.orphans
    );
    for (case, count) in &sum.explained {
        println!("{case:?}: {count} frames");
    }
    let differences = &sum.differences;
    let shown = &differences[..differences.len().min(60)];
    assert!(
        differences.is_empty(),
        "{} differences:\n{}",
        differences.len(),
        shown.join("\n")
    );
}

#[test]
fn conversations_are_those_of_tshark() -> Result {
    let [outer, inner] = compare_all()?;
    assert_equal("closed", &outer);
    assert_equal("opened", &inner);
    assert_eq!(outer.opened, 0);
    assert!(inner.opened > 0, "no capture with a tunnel");
    assert!(outer.followed > 0, "no capture with fragments");
    Ok(())
}

/// Fragments in order, the last one first, several packets at once, and without their first one.
fn fragments() -> Vec<Vec<u8>> {
    let ends = [("192.0.2.7", "192.0.2.8"), ("2001:db8::7", "2001:db8::8")];
    let mut frames = Vec::new();
    for (source, destination) in ends {
        for (number, order) in [[0, 1, 2], [2, 0, 1], [2, 1, 0]].iter().enumerate() {
            let part = |offset, more, tag| {
                let ip = Ip::new(source, destination).identification(number as u16);
                let ip = if tag { ip.tag(0x8100, 9) } else { ip };
                let port = 8000 + number as u16 + if tag { 10 } else { 0 };
                ip.fragment(offset, more).udp(port, 54, 792).frame
            };
            for at in order {
                // The same identification in a VLAN is that of another packet.
                for tag in [false, true] {
                    frames.push(part(at * 100, *at < 2, tag));
                }
            }
        }
    }
    frames
}

/// What few captures have: every kind of encapsulation, tunnel and fragment.
#[test]
fn written_packets_are_what_tshark_takes_them_for() -> Result {
    let (_, ignored): (Vec<_>, Vec<_>) = ignored().into_iter().unzip();
    let packets = [mix(), encapsulated(), tunnels(), ignored].concat();
    let frames = packets.into_iter().map(|packet| packet.frame);
    let frames: Vec<_> = frames.chain(fragments()).collect();
    let records: Vec<_> = frames.iter().map(|f| Record::whole(START_NS, f)).collect();
    let capture = classic(Order::Little, true, 1, &records);
    let files = Files::new("written", &[&capture])?;
    let [outer, inner] = compare(&files.paths[0])?.context("refused")?;
    for (which, compared, opened, tunnel) in [
        ("closed", outer, 0, Case::Inner),
        ("opened", inner, tunnels().len(), Case::Around),
    ] {
        assert_equal(which, &compared);
        assert_eq!(compared.opened, opened as u64);
        assert_eq!(compared.orphans, 2 * 2 * (1 + 2));
        let cases: BTreeSet<_> = compared.explained.into_keys().collect();
        assert_eq!(cases, BTreeSet::from([Case::TooDeep, tunnel]));
    }
    Ok(())
}
