use std::{collections::BTreeMap, time::Duration};

use flowprobe_ebpf::{Tunnels, parse_at, sampling::Sampled, wire::ethertype};
use proptest::{prelude::*, strategy::ValueTree as _, test_runner::TestRunner};

use super::*;
use crate::{record::FlowKey, table::Timeouts};

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
        // At the end by their slots: this one has that of flow 1.
        (4, 1, 101, 101, ForcedEnd),
        (3, 1, 101, 101, ForcedEnd),
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

#[test]
fn a_full_table_that_empties_and_fills_again_lets_the_most_silent_flow_go() {
    let mut packets: Vec<_> = (1..=3).map(|flow| (flow, 100, 0)).collect();
    // All but the last are idle by then; what was known of their silence is of no use any more.
    packets.extend([
        (4, 101, 0),
        (5, 200, 0),
        (6, 201, 0),
        (7, 202, 0),
        (5, 203, 0),
        (8, 204, 0),
    ]);
    let left = run(3, &packets);
    let displaced = left.iter().filter(|left| left.4 == LackOfResources);
    let displaced: Vec<_> = displaced.map(|left| left.0).collect();
    assert_eq!(displaced, [1, 6]);
}

#[test]
fn flows_that_have_left_do_not_pile_up() {
    let (mut table, mut out) = (table(10), Out::default());
    for flow in 0..100_000 {
        // Each is displaced long before its time comes.
        table.account(&packet(flow, 0), 0, Macs::default(), flow, &mut out);
    }
    let most = 2 * 10 + STALE + 1;
    let silence = table.silence.as_ref().map_or(0, Wheel::len);
    assert!(table.wheel.len() <= most && silence <= most);
    assert_eq!((table.len(), out.1.len()), (10, 99_990));
}

#[test]
fn of_two_that_are_silent_for_as_long_the_one_that_has_ended_leaves() {
    let packets = [
        (1, 100, 0),
        (2, 100, 0),
        (3, 100, 0),
        (2, 100, tcp::FIN),
        (4, 100, 0),
    ];
    let displaced: Vec<_> = run(2, &packets)[..2].iter().map(|left| left.0).collect();
    assert_eq!(displaced, [1, 2]);
}

#[test]
fn of_those_that_came_at_the_same_time_the_first_leaves() {
    let packets: Vec<_> = [1, 2, 3, 4, 5, 1, 2].map(|flow| (flow, 100, 0)).into();
    let displaced: Vec<_> = run(3, &packets)[..4].iter().map(|left| left.0).collect();
    assert_eq!(displaced, [1, 2, 3, 4]);
}

#[test]
fn looks_at_flows_that_have_left_are_not_put_off_to_others() {
    let (mut table, mut out) = (table(10), Out::default());
    for round in 0..1000 {
        // Connections that end and begin anew, all in the same slot.
        for (flags, at_ns) in [(tcp::SYN, 0), (tcp::FIN, SECOND / 4)] {
            let at_ns = round * SECOND / 2 + at_ns;
            table.account(&packet(1, flags), 0, Macs::default(), at_ns, &mut out);
        }
    }
    // Two for each round of the idle timeout.
    assert!(table.wheel.len() <= 64, "{}", table.wheel.len());
}

/// One of three families that has this number.
fn any_packet(flow: u64, tcp_flags: u8) -> Parsed {
    of_any_family(flow, packet(flow, tcp_flags))
}

/// A packet of the flow of this number, as one of the family that the number has.
pub(crate) fn of_any_family(flow: u64, mut parsed: Parsed) -> Parsed {
    match flow % 3 {
        0 => {}
        1 => parsed.packet.addresses = Addresses::V6([flow, 0, 0, 1]),
        _ => {
            parsed.around.tags = 2;
            parsed.around.inner_vlans[0] = flow as u16;
        }
    }
    parsed
}

/// A record, and the clock before the packet at which it left.
type Record = (u64, Flow, EndReason);

/// Records as they leave.
#[derive(Default)]
struct Log {
    now_ns: u64,
    left: Vec<Record>,
}

impl Leave for Log {
    fn leave(&mut self, flow: &Flow, reason: EndReason) {
        self.left.push((self.now_ns, *flow, reason));
    }

    fn at(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
    }
}

/// A plain table that looks at every flow at every packet, and takes them one by one.
struct Model {
    expiry: Expiry,
    capacity: usize,
    /// By number: flow, clock at the first and at the last packet.
    flows: BTreeMap<u64, (Flow, u64, u64)>,
    log: Log,
    now_ns: u64,
}

impl Model {
    fn account(&mut self, flow: u64, parsed: &Parsed, at_ns: u64) {
        self.log.at(self.now_ns);
        if at_ns + MAX_STEP_BACK_NS < self.now_ns {
            self.flush();
            self.now_ns = 0;
        }
        let packet = &parsed.packet;
        self.now_ns = self.now_ns.max(at_ns);
        let (now_ns, expiry, log) = (self.now_ns, self.expiry, &mut self.log);
        self.flows.retain(|_, (flow, since_ns, touched_ns)| {
            let times = Counters {
                first_ns: *since_ns,
                last_ns: *touched_ns,
                ..flow.counters
            };
            let due = expiry.due(&times, &flow.marks, now_ns);
            if let Some(due) = due {
                log.leave(flow, due.reason);
            }
            due.is_none()
        });
        if let Some((kept, _, touched_ns)) = self.flows.get_mut(&flow) {
            let ended = kept.marks.ended();
            let Counters {
                first_ns, last_ns, ..
            } = kept.counters;
            let long = expiry.is_active_for(last_ns.max(at_ns) - first_ns.min(at_ns));
            let restarts = packet.tcp_flags & tcp::SYN != 0 && ended;
            if !restarts && !long {
                kept.add(packet, at_ns);
                *touched_ns = now_ns;
                return;
            }
            let reason = if ended { EndOfFlow } else { ActiveTimeout };
            log.leave(kept, reason);
            self.flows.remove(&flow);
        }
        if self.flows.len() == self.capacity {
            let silent = self
                .flows
                .iter()
                .min_by_key(|(_, (_, _, touched_ns))| touched_ns);
            let number = *silent.expect("a flow").0;
            let (gone, ..) = self.flows.remove(&number).expect("a flow");
            log.leave(&gone, LackOfResources);
        }
        let key = FlowKey::of(parsed, 0, Sampled::default());
        let first = Flow::first(key, packet, Macs::default(), at_ns);
        self.flows.insert(flow, (first, now_ns, now_ns));
    }

    fn flush(&mut self) {
        for (flow, ..) in std::mem::take(&mut self.flows).values() {
            self.log.leave(flow, last_reason(&flow.marks));
        }
    }
}

/// A packet: flow, flags, how far the clock goes on before it, how late it is stamped.
type Step = (u64, u8, u64, u64);

fn step(flows: u64, late_ns: u64) -> impl Strategy<Value = Step> {
    let flags = prop_oneof![
        20 => Just(tcp::ACK),
        2 => Just(tcp::SYN),
        1 => Just(tcp::FIN),
    ];
    let ahead = prop_oneof![
        8 => 1..SECOND / 4,
        4 => 1..1000_u64,
        1 => 1..20 * SECOND,
    ];
    (0..flows, flags, ahead, 0..=late_ns)
}

/// Both tables, after the same packets; `bursts` says how many wait before they are accounted.
fn compare(
    capacity: u32,
    steps: &[Step],
    bursts: &[usize],
) -> Result<Vec<EndReason>, TestCaseError> {
    let (mut table, mut log) = (table(capacity), Log::default());
    let mut model = Model {
        expiry: table.expiry,
        capacity: capacity as usize,
        flows: BTreeMap::new(),
        log: Log::default(),
        now_ns: 0,
    };
    let mut bursts = bursts.iter().cycle();
    let (mut clock_ns, mut left) = (1000 * SECOND, 0);
    for &(flow, flags, ahead_ns, late_ns) in steps {
        clock_ns += ahead_ns;
        let at_ns = clock_ns - late_ns;
        let packet = any_packet(flow, flags);
        model.account(flow, &packet, at_ns);
        table.push(&packet, 0, Macs::default(), at_ns, &mut log);
        prop_assert_eq!(table.latest_ns(), model.now_ns);
        if left == 0 {
            table.settle(&mut log);
            prop_assert_eq!(table.len(), model.flows.len());
            prop_assert_eq!(table.held().records, model.flows.len() as u64);
            left = *bursts.next().expect("one");
        } else {
            left -= 1;
        }
    }
    table.flush(&mut log);
    model.log.at(log.now_ns);
    model.flush();
    let order = |(now_ns, flow, reason): &Record| {
        let ends = (flow.key.source(), flow.key.destination());
        (*now_ns, flow.counters.first_ns, ends, *reason as u8)
    };
    let mut expected = model.log.left;
    expected.sort_by_key(order);
    log.left.sort_by_key(order);
    prop_assert_eq!(&log.left, &expected);
    prop_assert!(table.is_empty() && table.held().records == 0);
    Ok(expected.iter().map(|record| record.2).collect())
}

fn bursts() -> impl Strategy<Value = Vec<usize>> {
    prop::collection::vec(0..2 * BURST, 1..8)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn bursts_leave_as_single_packets_do_from_a_table_that_is_searched_through(
        steps in prop::collection::vec(step(40, SECOND), 1..1000),
        bursts in bursts(),
    ) {
        compare(1000, &steps, &bursts)?;
    }

    #[test]
    fn stamps_that_step_back_leave_as_single_packets_do(
        steps in prop::collection::vec(step(9, 70 * SECOND), 1..300),
        bursts in bursts(),
    ) {
        compare(1000, &steps, &bursts)?;
    }

    // Without late stamps no two flows are silent for as long.
    #[test]
    fn a_full_table_lets_go_what_one_that_is_searched_through_does(
        steps in prop::collection::vec(step(60, 0), 1..1000),
        bursts in bursts(),
        capacity in 1..40_u32,
    ) {
        compare(capacity, &steps, &bursts)?;
    }
}

#[test]
fn what_random_traffic_is_compared_by_has_every_reason() {
    let mut runner = TestRunner::deterministic();
    let mut reasons = Vec::new();
    for (flows, capacity) in [(9, 1000), (30, 20)] {
        let steps = prop::collection::vec(step(flows, 0), 2000);
        let steps = steps.new_tree(&mut runner).expect("steps").current();
        reasons.extend(compare(capacity, &steps, &[BURST]).expect("the same records"));
    }
    for reason in [
        IdleTimeout,
        ActiveTimeout,
        EndOfFlow,
        LackOfResources,
        ForcedEnd,
    ] {
        let count = reasons.iter().filter(|other| **other == reason).count();
        assert!(count > 3, "{reason:?}: {count}");
    }
}
