//! Real captures, beside tshark. Packets and IP octets of each direction of each conversation are
//! equal but for packets that a case below explains, and so are the packets of tshark's own
//! statistics. A difference without a case fails.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::AddAssign,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, ScopedJoinHandle},
};

use anyhow::{Context as _, ensure};
use flowprobe_tests::{
    captures,
    flow::{Counts, Flow},
    judges::dissection::{Direction, Dissected, STATISTICS, dissect},
    offline::pcap,
};

type Result<T = ()> = anyhow::Result<T>;

/// Why a packet that tshark counts for a conversation is not in a flow of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Case {
    /// The IP header is not behind a link layer that flowprobe reads, with up to four VLAN tags,
    /// SNAP, a PPPoE session and up to six MPLS labels: tunnels over Ethernet and the like.
    Carrier,
    /// The frame has fewer octets on the wire than the IP packet says that it has.
    CutOnTheWire,
    /// The IP header length is below 20 octets or above the total length, which includes the
    /// length 0 of packets that the sender's NIC was to segment.
    HeaderLength,
    /// The header above IP is cut off before its ports or flags, on the wire or by the snaplen.
    NoPorts,
    /// A header within the packet of a tunnel. A flow is that of the outer one.
    Inner,
    /// A Routing header leads elsewhere than to the destination address, which a flow has.
    Routed,
    /// tshark gave up within the packet before its own statistic had it: headers above IP that are
    /// malformed, or cut off. It is in a flow all the same.
    Unfinished,
    /// The record that is damaged, of which tshark shows what there is.
    Damaged,
}

/// Octets of what flowprobe reads before the outermost IP header, if there is nothing else.
fn link_len(packet: &Dissected) -> Option<u64> {
    // Wireshark's numbers: Ethernet; raw IP, IPv4, IPv6; NULL and LOOP; SLL; SLL2.
    let (len, names) = match packet.encapsulation? {
        1 => (14, "eth"),
        7 | 129 | 130 => (0, "raw"),
        15 => (4, "null"),
        25 => (16, "sll"),
        210 => (20, "sll"),
        _ => return None,
    };
    let carrier = packet.carrier();
    let tags = carrier.strip_prefix(names).unwrap_or(&carrier);
    let tags = tags.split(':').filter(|name| !name.is_empty());
    let mut octets = len;
    let (mut vlans, mut labels) = (0, 0);
    for name in tags {
        match name {
            "vlan" | "ieee8021ad" => {
                octets += 4;
                vlans += 1;
            }
            "mpls" => {
                octets += 4;
                labels += 1;
            }
            // The PPP protocol is the last of these.
            "llc" | "pppoes" => octets += 8,
            "ethertype" | "ppp" => {}
            _ => return None,
        }
    }
    (vlans <= 4 && labels <= 6).then_some(octets)
}

/// IPv6 extension headers.
const EXTENSIONS: [u64; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

/// What flowprobe has to make of a packet whose outermost IP header tshark shows.
fn judge(packet: &Dissected) -> std::result::Result<u64, Case> {
    let at = link_len(packet).ok_or(Case::Carrier)?;
    let field = |name| packet.number_of(name, 0).unwrap_or(0);
    let v4 = packet.network() == Some("ip");
    let (header, octets, protocol) = match v4 {
        true => (field("ip.hdr_len"), field("ip.len"), field("ip.proto")),
        false => (40, 40 + field("ipv6.plen"), field("ipv6.nxt")),
    };
    if header < 20 || octets < header {
        return Err(Case::HeaderLength);
    }
    if packet.len < at + octets {
        return Err(Case::CutOnTheWire);
    }
    let above = (packet.captured.min(at + octets)).saturating_sub(at + header);
    let needs = match protocol {
        6 => 14,
        17 | 33 | 132 | 136 => 4,
        1 | 58 => 2,
        _ if !v4 && EXTENSIONS.contains(&protocol) => 8,
        _ => 0,
    };
    if !packet.is_later_fragment() && above < needs {
        return Err(Case::NoPorts);
    }
    Ok(octets)
}

/// Counts that may differ, and why they do.
#[derive(Debug, Default)]
struct Compared {
    packets: u64,
    conversations: u64,
    explained: BTreeMap<Case, u64>,
    differences: Vec<String>,
}

impl AddAssign for Compared {
    fn add_assign(&mut self, other: Self) {
        self.packets += other.packets;
        self.conversations += other.conversations;
        for (case, count) in other.explained {
            *self.explained.entry(case).or_insert(0) += count;
        }
        self.differences.extend(other.differences);
    }
}

/// Sums by statistic and direction.
type Sums = BTreeMap<(&'static str, Direction), Counts>;

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

/// Compares one capture.
fn compare(capture: &Path) -> Result<Option<Compared>> {
    let flowprobe = pcap(&[capture], &[])?;
    ensure!(flowprobe.code <= 2, "{}", flowprobe.log);
    if flowprobe.code == 2 {
        return Ok(None);
    }
    let ledger = flowprobe.ledger();
    let mut exported = exported(&flowprobe.flows);
    let (mut packets, statistics) = dissect(capture)?;
    packets.retain(|packet| packet.encapsulation.is_some());
    let mut explained: BTreeMap<Case, u64> = BTreeMap::new();
    if flowprobe.code == 1 && packets.len() as u64 == ledger.seen.packets + 1 {
        packets.pop();
        explained.insert(Case::Damaged, 1);
    }
    let name = capture.file_name().unwrap_or_default().to_string_lossy();
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
    let mut beyond: BTreeMap<(&str, Direction), Vec<(Case, u64)>> = BTreeMap::new();
    let mut routed: BTreeMap<(&str, Direction), u64> = BTreeMap::new();
    let mut unfinished: BTreeMap<(&str, Direction), u64> = BTreeMap::new();
    // Later fragments are in the flow of the first one, and in tshark's statistics of IP only.
    let mut firsts = BTreeMap::new();
    let mut followed: BTreeMap<(&str, Direction), u64> = BTreeMap::new();
    for packet in &packets {
        let verdict = judge(packet);
        if let (Ok(octets), Some((datagram, first))) = (verdict, packet.datagram()) {
            if first {
                let mut headers = packet.headers().into_iter();
                let ports = headers
                    .nth(1)
                    .filter(|h| matches!(h.statistic, "tcp" | "udp"));
                firsts.insert(datagram, ports.map(|h| (h.statistic, h.direction)));
            } else if let Some(Some(key)) = firsts.get(&datagram) {
                add(&mut expected, key.0, key.1, Counts { packets: 1, octets });
                *followed.entry(*key).or_insert(0) += 1;
            }
        }
        let mut outer = true;
        let mut networks = 0;
        for header in packet.headers() {
            networks += u32::from(matches!(header.statistic, "ip" | "ipv6"));
            outer &= networks == 1;
            // Headers with ports only count for a flow if they are directly above.
            let key = (header.statistic, header.direction);
            *unfinished.entry(key).or_insert(0) += u64::from(packet.is_unfinished());
            match verdict {
                Ok(octets) if outer => {
                    let counts = Counts { packets: 1, octets };
                    add(&mut expected, header.statistic, header.direction, counts);
                    let ports = matches!(header.statistic, "tcp" | "udp");
                    let leads = packet.final_destination().filter(|_| ports);
                    let mut direction = header.direction;
                    direction.destination.0 = leads.unwrap_or(direction.destination.0);
                    if direction != header.direction {
                        *routed.entry(key).or_insert(0) += 1;
                        let led = beyond.entry((header.statistic, direction)).or_default();
                        led.push((Case::Routed, packet.number));
                    }
                }
                Ok(_) => beyond
                    .entry(key)
                    .or_default()
                    .push((Case::Inner, packet.number)),
                Err(case) => beyond.entry(key).or_default().push((case, packet.number)),
            }
        }
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
        let elsewhere = routed.iter().chain(&followed);
        for ((_, direction), count) in elsewhere.filter(|((name, _), _)| name == statistic) {
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
    Ok(Some(compared))
}

#[test]
fn conversations_are_those_of_tshark() -> Result {
    let captures = captures::all()?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<(Compared, u64, u64)> {
        let (mut sum, mut compared, mut refused) = (Compared::default(), 0, 0);
        while let Some(capture) = captures.get(next.fetch_add(1, Ordering::Relaxed)) {
            match compare(capture).with_context(|| capture.display().to_string())? {
                Some(one) => {
                    compared += 1;
                    sum += one;
                }
                None => refused += 1,
            }
        }
        Ok((sum, compared, refused))
    };
    // tshark takes a third of a second to start.
    let workers = thread::available_parallelism()?.get();
    let results: Vec<_> = thread::scope(|scope| {
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        workers.into_iter().map(ScopedJoinHandle::join).collect()
    });
    let (mut sum, mut compared, mut refused) = (Compared::default(), 0, 0);
    for result in results {
        let (one, some, others) = result.expect("no panic")?;
        sum += one;
        compared += some;
        refused += others;
    }
    println!(
        "{compared} captures, {} packets, {} directions of conversations; {refused} of a kind that \
         is not read",
        sum.packets, sum.conversations
    );
    for (case, count) in &sum.explained {
        println!("{case:?}: {count} frames");
    }
    let count = sum.differences.len();
    sum.differences.truncate(60);
    assert!(
        count == 0,
        "{count} differences:\n{}",
        sum.differences.join("\n")
    );
    Ok(())
}
