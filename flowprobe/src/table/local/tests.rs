use std::time::Duration;

use flowprobe_ebpf::{Tunnels, parse_at, sampling::Sampled, wire::ethertype};

use super::*;
use crate::table::Timeouts;

const SECOND: u64 = 1_000_000_000;

/// What has left: key, packets, first and last second, reason.
type Left = (u64, u64, u64, u64, EndReason);

#[derive(Default)]
struct Out(Vec<Flow>, Vec<Left>);

impl Leave for Out {
    fn leave(&mut self, flow: &Flow, reason: EndReason) {
        let Counters {
            packets,
            first_ns,
            last_ns,
            ..
        } = flow.counters;
        self.0.push(*flow);
        let (first, last) = (first_ns / SECOND, last_ns / SECOND);
        self.1
            .push((number(&flow.key), packets, first, last, reason));
    }
}

fn table(capacity: u32) -> LocalTable {
    let timeouts = Timeouts {
        idle: Duration::from_secs(15),
        active: Duration::from_secs(60),
        linger: Duration::from_secs(1),
    };
    LocalTable::new(
        capacity,
        timeouts.into(),
        [0x9e37_79b9_7f4a_7c15; SECRET_WORDS],
    )
}

/// A TCP packet of 100 octets whose addresses are the number of its flow.
fn packet(flow: u64, tcp_flags: u8) -> Parsed {
    let mut octets = [0; 100];
    octets[0] = 0x45;
    octets[3] = 100;
    octets[9] = 6;
    octets[12..20].copy_from_slice(&flow.to_be_bytes());
    octets[33] = tcp_flags;
    let mut parsed = Parsed::EMPTY;
    parse_at(
        &octets[..],
        &Tunnels::OUTER,
        ethertype::IPV4,
        0,
        &mut parsed,
    )
    .expect("a packet");
    parsed
}

/// The number of a flow.
fn number(key: &FlowKey) -> u64 {
    let FlowKey::V4(key) = key else {
        panic!("only IPv4 here");
    };
    let addresses = [key.source(), key.destination()];
    u64::from_be_bytes(addresses.concat().try_into().expect("8 octets"))
}

/// Accounts packets of (flow, second, flags), then lets everything go.
fn run(capacity: u32, packets: &[(u64, u64, u8)]) -> Vec<Left> {
    let (mut table, mut out) = (table(capacity), Out::default());
    for &(flow, second, flags) in packets {
        let packet = packet(flow, flags);
        table.account(&packet, 0, Macs::default(), second * SECOND, &mut out);
    }
    table.flush(&mut out);
    assert!(table.is_empty());
    out.1
}

use EndReason::{ActiveTimeout, EndOfFlow, ForcedEnd, IdleTimeout, LackOfResources};

#[test]
fn flows_leave_when_they_are_idle() {
    let packets = [(1, 100, 0), (2, 110, 0), (1, 114, 0), (2, 129, 0)];
    let left = [
        // Due at 125, the packet of 129 begins another flow.
        (2, 1, 110, 110, IdleTimeout),
        (1, 2, 100, 114, IdleTimeout),
        (2, 1, 129, 129, ForcedEnd),
    ];
    assert_eq!(run(9, &packets), left);
}

#[test]
fn a_flow_is_over_at_the_very_moment_when_it_is_due() {
    let second = Duration::from_secs(1);
    for idle in [true, false] {
        let timeouts = Timeouts {
            idle: if idle { second } else { second * 9 },
            active: if idle { second * 9 } else { second },
            linger: second * 9,
        };
        let mut table = LocalTable::new(9, timeouts.into(), [7; SECRET_WORDS]);
        let mut out = Out::default();
        for at_ns in [0, SECOND, SECOND + 1] {
            table.account(&packet(1, 0), 0, Macs::default(), at_ns, &mut out);
        }
        table.flush(&mut out);
        let packets: Vec<_> = out.1.iter().map(|left| left.1).collect();
        assert_eq!(packets, [1, 2], "{:?}", out.1);
        let reason = if idle { IdleTimeout } else { ActiveTimeout };
        assert_eq!(out.1[0].4, reason);
    }
}

#[test]
fn a_lasting_flow_is_split_before_the_packet_that_would_be_too_late() {
    let packets: Vec<_> = (0..=12).map(|n| (1, 100 + n * 10, 0)).collect();
    let left = [
        (1, 6, 100, 150, ActiveTimeout),
        (1, 6, 160, 210, ActiveTimeout),
        (1, 1, 220, 220, ForcedEnd),
    ];
    assert_eq!(run(9, &packets), left);
}

#[test]
fn an_ended_flow_waits_for_stragglers_and_not_for_a_new_connection() {
    let packets = [
        (1, 100, tcp::SYN),
        (1, 101, tcp::FIN),
        (1, 101, tcp::ACK),
        (1, 101, tcp::SYN),
        (2, 103, 0),
        (3, 110, tcp::RST),
        (2, 112, 0),
    ];
    let left = [
        (1, 3, 100, 101, EndOfFlow),
        (3, 1, 110, 110, EndOfFlow),
        (1, 1, 101, 101, ForcedEnd),
        (2, 2, 103, 112, ForcedEnd),
    ];
    assert_eq!(run(9, &packets), left);
}

#[test]
fn what_has_ended_says_so_at_the_end_too() {
    let packets = [(1, 100, 0), (2, 100, tcp::FIN)];
    let left = [(1, 1, 100, 100, ForcedEnd), (2, 1, 100, 100, EndOfFlow)];
    assert_eq!(run(9, &packets), left);
}

#[test]
fn a_full_table_lets_the_most_silent_flow_go() {
    let packets = [
        (1, 100, 0),
        (2, 101, tcp::FIN),
        (1, 101, 0),
        (3, 101, 0),
        (4, 101, 0),
    ];
    let left = [
        (2, 1, 101, 101, LackOfResources),
        (1, 2, 100, 101, LackOfResources),
        (3, 1, 101, 101, ForcedEnd),
        (4, 1, 101, 101, ForcedEnd),
    ];
    assert_eq!(run(2, &packets), left);
}

#[test]
fn small_steps_back_only_stretch_the_flow() {
    let packets = [(1, 100, 0), (1, 90, 0), (2, 95, 0), (1, 101, 0)];
    let left = [(1, 3, 90, 101, ForcedEnd), (2, 1, 95, 95, ForcedEnd)];
    assert_eq!(run(9, &packets), left);
}

#[test]
fn steps_back_do_not_make_a_record_span_more_than_the_active_timeout() {
    // The clock stands at 150 all the time.
    let packets = [(9, 150, 0), (1, 90, 0), (1, 149, 0), (1, 150, 0)];
    let left = [
        (1, 2, 90, 149, ActiveTimeout),
        (9, 1, 150, 150, ForcedEnd),
        (1, 1, 150, 150, ForcedEnd),
    ];
    assert_eq!(run(9, &packets), left);
}

#[test]
fn a_great_step_back_is_another_recording() {
    let packets = [(1, 1000, 0), (1, 900, 0), (1, 914, 0), (2, 929, 0)];
    let left = [
        (1, 1, 1000, 1000, ForcedEnd),
        (1, 2, 900, 914, IdleTimeout),
        (2, 1, 929, 929, ForcedEnd),
    ];
    assert_eq!(run(9, &packets), left);
}

#[test]
fn the_largest_stamps_do_no_harm() {
    let (mut table, mut out) = (table(4), Out::default());
    for (flow, at_ns) in [(1, u64::MAX), (2, 0), (1, u64::MAX), (1, u64::MAX - 1)] {
        table.account(&packet(flow, 0), 0, Macs::default(), at_ns, &mut out);
    }
    table.flush(&mut out);
    assert_eq!(out.0.iter().map(|f| f.counters.packets).sum::<u64>(), 4);
}

/// A plain table that looks at every flow at every packet.
struct Model {
    expiry: Expiry,
    flows: Vec<(u64, Flow, u64, u64)>,
    now_ns: u64,
    left: Vec<(u64, Flow, EndReason)>,
}

impl Model {
    fn account(&mut self, flow: u64, parsed: &Parsed, at_ns: u64) {
        let packet = &parsed.packet;
        self.now_ns = self.now_ns.max(at_ns);
        let (now_ns, expiry) = (self.now_ns, self.expiry);
        let left = &mut self.left;
        self.flows.retain(|(id, flow, since_ns, touched_ns)| {
            let times = Counters {
                first_ns: *since_ns,
                last_ns: *touched_ns,
                ..flow.counters
            };
            let due = expiry.due(&times, &flow.marks, now_ns);
            left.extend(due.map(|due| (*id, *flow, due.reason)));
            due.is_none()
        });
        if let Some(at) = self.flows.iter().position(|(id, ..)| *id == flow) {
            let (_, kept, _, touched_ns) = &mut self.flows[at];
            let ended = kept.marks.ended();
            let Counters {
                first_ns, last_ns, ..
            } = kept.counters;
            let long = last_ns.max(at_ns) - first_ns.min(at_ns) >= 60 * SECOND;
            let restarts = packet.tcp_flags & tcp::SYN != 0 && ended;
            if !restarts && !long {
                kept.add(packet, at_ns);
                *touched_ns = now_ns;
                return;
            }
            let (id, kept, ..) = self.flows.remove(at);
            let reason = if ended { EndOfFlow } else { ActiveTimeout };
            self.left.push((id, kept, reason));
        }
        let key = FlowKey::of(parsed, 0, Sampled::default());
        let first = Flow::first(key, packet, Macs::default(), at_ns);
        self.flows.push((flow, first, now_ns, now_ns));
    }
}

#[test]
fn random_traffic_leaves_as_from_a_table_that_is_searched_through() {
    let (mut table, mut out) = (table(1000), Out::default());
    let mut model = Model {
        expiry: table.expiry,
        flows: Vec::new(),
        now_ns: 0,
        left: Vec::new(),
    };
    // Steele and Vigna's splitmix64.
    let mut state = 7_u64;
    let mut random = |n: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    };
    let mut clock_ns = 1000 * SECOND;
    for _ in 0..100_000 {
        clock_ns += random(1 << 28);
        if random(2000) == 0 {
            clock_ns += 20 * SECOND;
        }
        // The lower the flow, the rarer.
        let width = 1 + random(40);
        let flow = random(width);
        let flags = match random(30) {
            0 => tcp::FIN,
            1 => tcp::SYN,
            _ => tcp::ACK,
        };
        let packet = packet(flow, flags);
        let at_ns = clock_ns - random(SECOND);
        model.account(flow, &packet, at_ns);
        table.account(&packet, 0, Macs::default(), at_ns, &mut out);
    }
    let mut expected: Vec<_> = model.left.iter().map(|(_, f, r)| (*f, *r)).collect();
    let mut left: Vec<_> = out
        .0
        .iter()
        .copied()
        .zip(out.1.iter().map(|l| l.4))
        .collect();
    let order =
        |(flow, reason): &(Flow, EndReason)| (flow.counters.first_ns, number(&flow.key), *reason);
    expected.sort_by_key(order);
    left.sort_by_key(order);
    let differing = left.iter().zip(&expected).find(|(a, b)| a != b);
    assert_eq!((left.len(), differing), (expected.len(), None));
    for reason in [IdleTimeout, ActiveTimeout, EndOfFlow] {
        assert!(left.iter().filter(|(_, why)| *why == reason).count() > 100);
    }
    assert_eq!(table.len(), model.flows.len());
    assert_eq!(table.held().records, model.flows.len() as u64);
}
