//! One parser, two compilers: what the program puts into the table is what [`parse`] gives here.
//!
//! Only the ordinary entries are run: BPF_PROG_TEST_RUN refuses programs that are bound to a device,
//! as those that ask for VLAN tags are, whatever context comes with the frame (EINVAL, Linux 6.18).

use std::collections::HashMap;

use flowprobe::{
    attach::Way,
    load::Options,
    record::{FlowKey, FlowRecord},
};
use flowprobe_ebpf::{
    Addresses, Around, Fragment, Frame, KeyV4, KeyV6, KeyWide, Marks, Packet, Parsed, Skip,
    Tunnels,
    flow::bits,
    key::EGRESS,
    parse,
    sampling::{Sampled, next_random},
};
use flowprobe_tests::{
    corpus::{Case, corpus},
    packets::{DESTINATION_MAC, Ip, SOURCE_MAC},
};

use crate::meter::{IFINDEX, Meter, SMALL};

/// BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header.
const SHORTEST: usize = 14;

/// Nor one longer than a page with what stands around a frame, if it is to be in one buffer.
const ONE_BUFFER: usize = 3400;

/// Frames longer than this are cut at their beginning and end only: the middle is payload.
const CUT: usize = 200;

/// The ordinary entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Entry {
    /// XDP, for frames in one buffer.
    Linear,
    /// XDP, for frames in several.
    Frags,
    Tc(Way),
}

const ENTRIES: [Entry; 4] = [
    Entry::Linear,
    Entry::Frags,
    Entry::Tc(Way::In),
    Entry::Tc(Way::Out),
];

impl Entry {
    /// The observation point of test runs.
    fn point(self) -> u32 {
        match self {
            Self::Tc(Way::Out) => IFINDEX | EGRESS,
            _ => IFINDEX,
        }
    }
}

/// The program, and what it should do.
struct Twins {
    meter: Meter,
    tunnels: Tunnels,
    /// Ports and protocol of first fragments, where later ones look for them.
    firsts: HashMap<KeyWide, (u32, u8)>,
    /// Frames that traffic control has had.
    on_tc: usize,
}

impl Twins {
    fn new(tunnels: Tunnels) -> Self {
        Self {
            meter: Meter::new(&Options { tunnels, ..SMALL }),
            tunnels,
            firsts: HashMap::new(),
            on_tc: 0,
        }
    }

    /// Asserts that an entry makes of a frame what the parser makes of it.
    #[track_caller]
    fn same_in_both(&mut self, frame: &[u8], name: &str) {
        for entry in ENTRIES {
            if entry == Entry::Frags || frame.len() <= ONE_BUFFER {
                self.same(frame, entry, name);
            }
        }
    }

    #[track_caller]
    fn same(&mut self, frame: &[u8], entry: Entry, name: &str) {
        let mut expected = self.meter.totals();
        match entry {
            Entry::Linear => self.meter.run_many(frame, false, 1),
            Entry::Frags => self.meter.run_many(frame, true, 1),
            Entry::Tc(way) if !self.meter.run_tc(way, frame, 0, 0) => return,
            Entry::Tc(_) => self.on_tc += 1,
        }
        let after = self.meter.totals();
        let octets = frame.len() as u64;
        expected.seen.count(octets);
        if entry == Entry::Tc(Way::Out) {
            expected.seen_out.count(octets);
        }
        match parse(frame, &self.tunnels) {
            Ok(mut parsed) => {
                if !self.follow(&mut parsed, entry.point()) {
                    expected.fragment_orphans += 1;
                }
                expected.accounted.count(octets);
                expected.accounted_ip_octets += u64::from(parsed.packet.octets);
                expected.inserted += 1;
                let records = self.meter.flush();
                let [record] = records[..] else {
                    panic!("{name}: {} records of {frame:02x?}", records.len());
                };
                assert_eq!(
                    record,
                    record_of(frame, &parsed, entry.point(), record),
                    "{name}: {frame:02x?}"
                );
            }
            Err(reason) => expected.ignored[reason as usize].count(octets),
        }
        // Whatever else it has counted would be wrong.
        assert_eq!(
            format!("{after:?}"),
            format!("{expected:?}"),
            "{name}: {frame:02x?}"
        );
    }

    /// Gives a later fragment the ports of its first one; false if those are not known.
    fn follow(&mut self, parsed: &mut Parsed, point: u32) -> bool {
        let Parsed {
            packet,
            around,
            fragment,
            ..
        } = parsed;
        let v4 = matches!(packet.addresses, Addresses::V4(_));
        // What the fragments of a packet share.
        let shared = Packet {
            ports: 0,
            traffic_class: 0,
            protocol: if v4 { packet.protocol } else { 0 },
            ..*packet
        };
        let whole = KeyWide::new(&shared, around, point, Sampled(fragment.id));
        let has_ports = [1, 6, 17, 33, 58, 132, 136].contains(&packet.protocol);
        match fragment.part {
            // Over IPv4 each fragment says the protocol, and who has no ports misses none.
            _ if v4 && !has_ports => true,
            Fragment::FIRST => {
                self.firsts.insert(whole, (packet.ports, packet.protocol));
                true
            }
            Fragment::LATER => {
                let first = self.firsts.get(&whole);
                if let Some(first) = first {
                    (packet.ports, packet.protocol) = *first;
                }
                first.is_some()
            }
            _ => true,
        }
    }
}

fn key_of(packet: &Packet, around: &Around, point: u32) -> FlowKey {
    match packet.addresses {
        _ if around.is_wide() => {
            FlowKey::Wide(KeyWide::new(packet, around, point, Sampled::default()))
        }
        Addresses::V4(addresses) => {
            FlowKey::V4(KeyV4::new(addresses, packet, point, Sampled::default()))
        }
        Addresses::V6(addresses) => {
            FlowKey::V6(KeyV6::new(addresses, packet, point, Sampled::default()))
        }
    }
}

/// The record of a packet that is alone in its flow, but for what no frame says.
fn record_of(frame: &[u8], parsed: &Parsed, point: u32, record: FlowRecord) -> FlowRecord {
    let Parsed { packet, around, .. } = parsed;
    let mut marks = Marks::first(packet);
    if packet.options != 0 {
        marks.bits |= bits::OPTIONS;
    }
    FlowRecord {
        key: key_of(packet, around, point),
        packets: 1,
        octets: packet.octets.into(),
        marks,
        destination_mac: frame.read(0).unwrap(),
        source_mac: frame.read(6).unwrap(),
        ..record
    }
}

/// Cases that are long enough to be run.
fn runnable() -> Vec<Case> {
    let mut corpus = corpus();
    corpus.retain(|case| case.frame.len() >= SHORTEST);
    corpus
}

#[test]
fn every_case_of_the_corpus() {
    for tunnels in [Tunnels::OUTER, Tunnels::INNER] {
        let mut twins = Twins::new(tunnels);
        for case in runnable() {
            twins.same_in_both(&case.frame, &case.name);
        }
        let most = 2 * runnable().len() * 9 / 10;
        assert!(twins.on_tc >= most, "{} of {most}", twins.on_tc);
        // Each reason has been counted, by the program.
        let ignored = twins.meter.totals().ignored;
        for reason in Skip::ALL {
            if *reason == Skip::SeenComingIn {
                continue; // the parser knows nothing of it
            }
            let packets = ignored[*reason as usize].packets;
            assert_ne!(packets, 0, "{}", reason.label());
        }
        twins.meter.assert_balanced();
    }
}

#[test]
fn every_case_of_the_corpus_cut_anywhere() {
    for tunnels in [Tunnels::OUTER, Tunnels::INNER] {
        let mut twins = Twins::new(tunnels);
        for case in runnable() {
            let len = case.frame.len();
            let cuts = (SHORTEST..len).filter(|cut| *cut < CUT || *cut + 10 > len);
            for cut in cuts {
                let name = format!("{} cut to {cut}", case.name);
                twins.same_in_both(&case.frame[..cut], &name);
            }
        }
        assert_eq!(twins.meter.flush(), [], "a flow of a frame that is in none");
        twins.meter.assert_balanced();
    }
}

/// Frames with a few octets changed, most of them in the headers.
#[test]
fn damaged_frames() {
    let mut corpus = runnable();
    corpus.retain(|case| case.frame.len() <= ONE_BUFFER);
    let mut state = 7;
    let mut random = |below: usize| (next_random(&mut state) % below as u64) as usize;
    for tunnels in [Tunnels::OUTER, Tunnels::INNER] {
        let mut twins = Twins::new(tunnels);
        for n in 0..15_000 {
            let case = &corpus[random(corpus.len())];
            let mut frame = case.frame.clone();
            for _ in 0..=random(3) {
                let at = 12 + random(frame.len().min(140) - 12);
                frame[at] = match random(3) {
                    0 => frame[at] ^ 1 << random(8),
                    1 => 0,
                    _ => random(256) as u8,
                };
            }
            twins.same(&frame, ENTRIES[n % ENTRIES.len()], &case.name);
        }
        twins.meter.assert_balanced();
    }
}

/// Only the program for frames of several buffers takes jumbo frames: they count in full.
#[test]
fn jumbo_frames() {
    let mut twins = Twins::new(Tunnels::OUTER);
    for ip in [
        Ip::new("10.1.2.3", "192.0.2.9").tag(0x8100, 5),
        Ip::new("2001:db8::1", "2001:db8::2").extension(60, 8),
    ] {
        let packet = ip.udp(1, 2, 8900);
        assert_eq!(packet.frame[..12], [DESTINATION_MAC, SOURCE_MAC].concat());
        twins.same(&packet.frame, Entry::Frags, "jumbo");
        twins.same(&packet.frame[..5000], Entry::Frags, "jumbo, cut");
    }
    assert_eq!(twins.meter.totals().accounted.packets, 2);
    twins.meter.assert_balanced();
}
