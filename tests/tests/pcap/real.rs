//! Captures, beside tshark. Packets and IP octets of each direction of each conversation are equal
//! but for packets that a [`Case`] explains, and so are the packets of tshark's own statistics. A
//! difference without a case fails.

mod conversations;
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
    judges::dissection::{Direction, Dissected, Key, Statistics, dissect},
    mix::{encapsulated, ignored, mix, tunnels},
    offline::{Offline, pcap},
    packets::Ip,
};

use self::{
    conversations::{Conversations, Expected},
    expected::Case,
};
use crate::{Files, Result, START_NS};

/// Counts that may differ, and why they do.
#[derive(Debug, Default)]
struct Compared {
    captures: u64,
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
        self.captures += other.captures;
        self.packets += other.packets;
        self.conversations += other.conversations;
        self.opened += other.opened;
        self.followed += other.followed;
        self.orphans += other.orphans;
        for (case, count) in other.explained {
            self.explain(case, count);
        }
        self.differences.extend(other.differences);
    }
}

impl Compared {
    fn explain(&mut self, case: Case, count: u64) {
        *self.explained.entry(case).or_insert(0) += count;
    }

    fn differ(&mut self, difference: String) {
        self.differences.push(difference);
    }

    fn compare_flows(&mut self, expected: &Conversations, flows: &[Flow]) {
        let exported = exported(flows);
        let directions = &expected.directions;
        let keys: BTreeSet<_> = directions.keys().chain(exported.keys()).collect();
        for key in keys {
            let flows = exported.get(key).copied().unwrap_or_default();
            let packets = directions.get(key).map(|expected| expected.flows);
            let packets = packets.unwrap_or_default();
            self.conversations += u64::from(packets.packets > 0);
            if flows != packets {
                self.differ(format!(
                    "{key:?}: {flows:?} in flows, {packets:?} in packets"
                ));
            }
        }
    }

    fn compare_statistics(&mut self, expected: &Conversations, statistics: &Statistics) {
        let directions = &expected.directions;
        let keys: BTreeSet<_> = directions.keys().chain(statistics.keys()).collect();
        let nothing = Expected::default();
        for key in keys {
            let expected = directions.get(key).unwrap_or(&nothing);
            let frames = statistics.get(key).copied().unwrap_or(0);
            for (case, _) in &expected.beyond {
                self.explain(*case, 1);
            }
            match expected.missed(frames) {
                Some(0) => {}
                Some(missed) => self.explain(Case::Unfinished, missed),
                None => self.differ(format!("conv {key:?}: {frames} frames, not {expected:?}")),
            }
        }
    }
}

/// What flowprobe exported, in the statistics that it belongs to.
fn exported(flows: &[Flow]) -> BTreeMap<Key, Counts> {
    let mut sums = BTreeMap::<Key, Counts>::new();
    for flow in flows {
        let key = &flow.key;
        let mut count = |statistic, ports: (u16, u16)| {
            let direction = Direction {
                source: (key.source, ports.0),
                destination: (key.destination, ports.1),
            };
            let sum = sums.entry((statistic, direction)).or_default();
            sum.add(flow.counts);
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
    let compare = |run, inner| {
        let mut compared = compare_run(run, inner, &packets, &statistics);
        for difference in &mut compared.differences {
            *difference = format!("{name}, inner {inner}: {difference}");
        }
        compared
    };
    Ok(Some([compare(&runs[0], false), compare(&runs[1], true)]))
}

/// Compares what flowprobe made of a capture with what tshark did.
fn compare_run(
    run: &Offline,
    inner: bool,
    packets: &[Dissected],
    statistics: &Statistics,
) -> Compared {
    let seen = run.ledger().seen.packets;
    let mut compared = Compared {
        captures: 1,
        packets: seen,
        ..Compared::default()
    };
    let packets = match packets {
        [whole @ .., _] if run.code == 1 && whole.len() as u64 == seen => {
            compared.explain(Case::Damaged, 1);
            whole
        }
        all => all,
    };
    if packets.len() as u64 != seen {
        compared.differ(format!("{seen} packets, and {} for tshark", packets.len()));
    }
    let expected = Conversations::of(packets, inner);
    compared.compare_flows(&expected, &run.flows);
    compared.compare_statistics(&expected, statistics);
    compared.differences.extend(expected.unknown);

    let flows = run.flows.iter();
    let opened = flows.filter(|flow| flow.key.around.tunnel.is_some());
    compared.opened = opened.count() as u64;
    compared.followed = expected.firsts.followed;
    compared.orphans = expected.firsts.orphans;
    if run.fragment_orphans() != Some(compared.orphans) {
        let counted = run.fragment_orphans();
        compared.differ(format!("{counted:?} orphans, not {}", compared.orphans));
    }
    compared
}

/// The sums over all captures, with tunnels closed and opened.
fn compare_all() -> Result<[Compared; 2]> {
    let captures = captures::all()?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<[Compared; 2]>> {
        let mut compared = Vec::new();
        while let Some(capture) = captures.get(next.fetch_add(1, Ordering::Relaxed)) {
            let one = compare(capture).with_context(|| capture.display().to_string())?;
            compared.extend(one);
        }
        Ok(compared)
    };
    // tshark takes a third of a second to start.
    let workers = thread::available_parallelism()?.get();
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(ScopedJoinHandle::join).collect()
    });
    let mut sums = <[Compared; 2]>::default();
    for result in results {
        for compared in result.expect("no panic")? {
            for (sum, one) in sums.iter_mut().zip(compared) {
                *sum += one;
            }
        }
    }
    let refused = captures.len() as u64 - sums[0].captures;
    println!("{refused} captures of a kind that is not read");
    Ok(sums)
}

/// Says what was compared, and fails where there is a difference.
#[track_caller]
fn assert_equal(tunnels: &str, sum: &Compared) {
    println!(
        "tunnels {tunnels}: {} captures, {} packets, {} directions of conversations, {} flow \
         records out of tunnels; {} later fragments with ports, {} orphans",
        sum.captures, sum.packets, sum.conversations, sum.opened, sum.followed, sum.orphans
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
