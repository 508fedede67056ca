//! Several tables against one that sees all packets.

use std::{collections::VecDeque, time::Duration};

use flowprobe_ebpf::{
    Counters, Tunnels,
    hash::SECRET_WORDS,
    parse_at,
    sampling::next_random,
    wire::{ethertype, tcp},
};
use proptest::prelude::*;

use super::*;
use crate::table::{Timeouts, local::tests::of_any_family};

const SECOND: u64 = 1_000_000_000;
const SECRET: [u64; SECRET_WORDS] = [0x9e37_79b9_7f4a_7c15; SECRET_WORDS];

fn table(capacity: u32, linger: u64) -> LocalTable {
    let timeouts = Timeouts {
        idle: Duration::from_secs(15),
        active: Duration::from_secs(65),
        linger: Duration::from_secs(linger),
    };
    LocalTable::new(capacity, timeouts.into(), SECRET)
}

/// A TCP packet of a flow with this number, of one of three families.
fn packet(flow: u64, tcp_flags: u8, octets: u8) -> Parsed {
    let mut frame = [0; 256];
    frame[0] = 0x45;
    frame[3] = octets.max(40);
    // What the packets of a flow differ in.
    frame[8] = octets;
    frame[9] = 6;
    frame[12..20].copy_from_slice(&flow.to_be_bytes());
    frame[33] = tcp_flags;
    let mut parsed = Parsed::EMPTY;
    let read = parse_at(&frame[..], &Tunnels::OUTER, ethertype::IPV4, 0, &mut parsed);
    read.expect("a packet");
    of_any_family(flow, parsed)
}

/// The MAC addresses of packets, which tell which one was first.
fn macs(octets: u8) -> Macs {
    Macs::new([octets; 12])
}

/// A packet: flow, flags, octets, stamp, table.
#[derive(Clone, Copy, Debug)]
struct Step {
    flow: u64,
    flags: u8,
    octets: u8,
    at_ns: u64,
    shard: usize,
}

/// What has left, in an order of its own.
type Left = Vec<(Flow, EndReason)>;

fn sorted(mut left: Left) -> Left {
    let order = |(flow, reason): &(Flow, EndReason)| {
        let key = flow.key.hash(&SECRET);
        (
            key,
            flow.counters.first_ns,
            flow.counters.last_ns,
            *reason as u8,
        )
    };
    left.sort_by_key(order);
    left
}

/// One table.
fn reference(steps: &[Step], linger: u64) -> Left {
    #[derive(Default)]
    struct All(Left);
    impl Leave for All {
        fn leave(&mut self, flow: &Flow, reason: EndReason) {
            self.0.push((*flow, reason));
        }
    }
    let (mut table, mut all) = (table(10_000, linger), All::default());
    for step in steps {
        let Step {
            flow,
            flags,
            octets,
            at_ns,
            ..
        } = *step;
        table.account(
            &packet(flow, flags, octets),
            7,
            macs(octets),
            at_ns,
            &mut all,
        );
    }
    table.flush(&mut all);
    sorted(all.0)
}

/// Several tables, what is on its way between them, and since when.
struct Ring {
    shards: Vec<Shard>,
    inboxes: Vec<VecDeque<(u64, Message)>>,
    now_ns: u64,
    random: u64,
    left: Left,
    marks: Vec<(usize, u64)>,
    tours: usize,
}

impl Ring {
    fn new(of: usize, capacity: u32, linger: u64, random: u64) -> Self {
        let shard = |n| Shard::new(n as u32, of as u32, table(capacity, linger));
        Self {
            shards: (0..of).map(shard).collect(),
            inboxes: vec![VecDeque::new(); of],
            now_ns: 0,
            random,
            left: Vec::new(),
            marks: Vec::new(),
            tours: 0,
        }
    }

    fn random(&mut self, below: usize) -> usize {
        (next_random(&mut self.random) >> 33) as usize % below.max(1)
    }

    fn push(&mut self, step: &Step, flow: Sampled) {
        let Step {
            flow: number,
            flags,
            octets,
            at_ns,
            shard,
        } = *step;
        let packet = packet(number, flags, octets);
        self.shards[shard].push(&packet, (7, flow), macs(octets), at_ns);
    }

    /// Moves on what a table has sent.
    fn collect(&mut self, n: usize) {
        let next = (n + 1) % self.shards.len();
        let shard = &mut self.shards[n];
        for message in shard.next.drain(..) {
            self.inboxes[next].push_back((self.now_ns, message));
        }
        for out in shard.out.drain(..) {
            match out {
                Out::Flow(part) => self.left.push((part.flow, part.reason)),
                Out::Mark(id) => self.marks.push((n, id)),
            }
        }
    }

    /// Hands the first `most` messages for a table to it.
    fn deliver(&mut self, n: usize, most: usize) {
        for _ in 0..most {
            let Some((_, message)) = self.inboxes[n].pop_front() else {
                break;
            };
            self.tours += usize::from(matches!(message, Message::Tour(_)));
            self.shards[n].receive(message);
        }
        self.collect(n);
    }

    /// Until nothing is on its way, in any order.
    fn quiesce(&mut self) {
        for n in 0..self.shards.len() {
            self.collect(n);
        }
        while self.inboxes.iter().any(|inbox| !inbox.is_empty()) {
            let n = self.random(self.shards.len());
            let most = self.random(4);
            self.deliver(n, most);
        }
    }

    /// All tables know that it is `now_ns`, one after the other in any order.
    fn advance(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        let mut behind: Vec<usize> = (0..self.shards.len()).collect();
        while !behind.is_empty() {
            let n = behind.swap_remove(self.random(behind.len()));
            self.shards[n].advance(now_ns);
            self.collect(n);
            let (other, most) = (self.random(self.shards.len()), self.random(3));
            self.deliver(other, most);
        }
    }

    /// As metering ends.
    fn finish(mut self) -> (Left, Vec<(usize, u64)>, usize) {
        self.quiesce();
        for n in 0..self.shards.len() {
            self.shards[n].flush();
            self.quiesce();
        }
        for shard in &self.shards {
            assert!(shard.is_settled() && shard.table().is_empty());
        }
        (sorted(self.left), self.marks, self.tours)
    }
}

fn flags() -> impl Strategy<Value = u8> {
    prop_oneof![12 => Just(tcp::ACK), 1 => Just(tcp::FIN | tcp::ACK), 1 => Just(tcp::RST)]
}

/// Packets of few flows, one after the other, anywhere.
fn in_order() -> impl Strategy<Value = Vec<Step>> {
    let ahead = prop_oneof![
        4 => 1..SECOND / 4,
        4 => SECOND / 4..4 * SECOND,
        1 => 4 * SECOND..20 * SECOND,
        // To the nanosecond when something may be due.
        1 => prop_oneof![Just(SECOND), Just(15 * SECOND)],
    ];
    let one = (0..6_u64, flags(), any::<u8>(), ahead, 0..4_usize);
    prop::collection::vec(one, 1..300).prop_map(|all| {
        let mut at_ns = 1000 * SECOND;
        let step = |(flow, flags, octets, ahead, shard): (u64, u8, u8, u64, usize)| {
            at_ns += ahead;
            Step {
                flow,
                flags,
                octets,
                at_ns,
                shard,
            }
        };
        all.into_iter().map(step).collect()
    })
}

/// Packets of few flows in bunches of a second every ten, so that no timeout ends within four
/// seconds of one.
fn in_bunches() -> impl Strategy<Value = Vec<Step>> {
    let one = (
        0..6_u64,
        flags(),
        any::<u8>(),
        0..30_u64,
        0..SECOND,
        0..4_usize,
    );
    prop::collection::vec(one, 1..300).prop_map(|all| {
        let step = |(flow, flags, octets, bunch, within, shard)| Step {
            flow,
            flags,
            octets,
            at_ns: 1000 * SECOND + bunch * 10 * SECOND + within,
            shard,
        };
        let mut steps: Vec<Step> = all.into_iter().map(step).collect();
        steps.sort_by_key(|step| step.at_ns);
        steps.dedup_by_key(|step| step.at_ns);
        steps
    })
}

/// Where the tables' clocks go together, and what is on its way arrives before the next packet.
fn together(of: usize, steps: &[Step], random: u64) -> (Left, usize) {
    let mut ring = Ring::new(of, 10_000, 1, random);
    for step in steps {
        ring.advance(step.at_ns);
        ring.quiesce();
        let step = Step {
            shard: step.shard % of,
            ..*step
        };
        ring.push(&step, Sampled::default());
    }
    let (left, _, tours) = ring.finish();
    (left, tours)
}

/// Workers may be behind by so much.
const BEHIND: u64 = SECOND;
/// And messages may take so long.
const ON_ITS_WAY: u64 = SECOND / 5;

/// Where every worker goes on as it likes, within these bounds.
fn apart(of: usize, steps: &[Step], random: u64) -> Left {
    let mut ring = Ring::new(of, 10_000, 4, random);
    let mut queues = vec![VecDeque::new(); of];
    let mut steps = steps.iter().peekable();
    while steps.peek().is_some() || queues.iter().any(|queue| !queue.is_empty()) {
        ring.now_ns += ring.random(SECOND as usize / 8) as u64;
        if let (Some(step), true) = (steps.peek(), queues.iter().all(VecDeque::is_empty)) {
            // Nothing comes for a while.
            let until = step.at_ns - ring.random(SECOND as usize) as u64;
            if until > ring.now_ns {
                ring.advance(until);
                ring.quiesce();
            }
        }
        let now_ns = ring.now_ns;
        while let Some(step) = steps.next_if(|step| step.at_ns <= now_ns) {
            queues[step.shard % of].push_back(Step {
                shard: step.shard % of,
                ..*step
            });
        }
        for (n, queue) in queues.iter_mut().enumerate() {
            let some = ring.random(8);
            let mut taken = 0;
            while let Some(step) = queue.front()
                && (taken < some || step.at_ns + BEHIND < now_ns)
            {
                ring.push(step, Sampled::default());
                queue.pop_front();
                taken += 1;
            }
            ring.shards[n].settle();
            if ring.random(3) == 0 || queue.is_empty() {
                let next = queue.front().map_or(now_ns, |step: &Step| step.at_ns);
                ring.shards[n].advance(next);
            }
            ring.collect(n);
        }
        // Those that have been under way for long, and some others.
        loop {
            let n = ring.random(of);
            let most = ring.random(3);
            ring.deliver(n, most);
            let oldest = |inbox: &VecDeque<(u64, Message)>| inbox.front().map(|first| first.0);
            let late = |sent: u64| sent + ON_ITS_WAY < now_ns;
            if !ring.inboxes.iter().filter_map(oldest).any(late) {
                break;
            }
        }
    }
    ring.finish().0
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn several_tables_are_one(
        of in 1..5_usize,
        steps in in_order(),
        random in any::<u64>(),
    ) {
        prop_assert_eq!(together(of, &steps, random).0, reference(&steps, 1));
    }

    #[test]
    fn workers_that_do_not_wait_for_each_other_make_the_same_records(
        of in 1..5_usize,
        steps in in_bunches(),
        random in any::<u64>(),
    ) {
        prop_assert_eq!(apart(of, &steps, random), reference(&steps, 4));
    }

    /// Full tables, late stamps, rates that change, marks: nothing gets lost, nothing counts twice.
    #[test]
    fn every_packet_leaves_once(
        of in 1..5_usize,
        steps in in_order(),
        late in prop::collection::vec(0..100 * SECOND, 8),
        (capacity, change) in (1..12_u32, 1..100_usize),
        random in any::<u64>(),
    ) {
        let mut ring = Ring::new(of, capacity, 1, random);
        let (mut epoch, mut before) = (0, 0);
        for (i, step) in steps.iter().enumerate() {
            let step = Step {
                shard: step.shard % of,
                at_ns: step.at_ns - late[i % late.len()],
                flags: step.flags | if step.octets < 9 { tcp::SYN } else { 0 },
                ..*step
            };
            ring.push(&step, Sampled::new(0, epoch));
            let n = ring.random(of);
            match ring.random(4) {
                0 => ring.shards[n].advance(step.at_ns),
                1 => ring.shards[n].settle(),
                _ => {}
            }
            let most = ring.random(4);
            ring.deliver(n, most);
            if i % change == change - 1 {
                epoch += 1;
                for n in 0..of {
                    ring.shards[n].settle();
                    ring.shards[n].let_go_all(|key| key.sampled().epoch() != epoch);
                    ring.collect(n);
                }
                ring.inboxes[0].push_back((0, Shard::mark(u64::from(epoch), of as u32)));
            }
            let ended = ring.marks.iter().filter(|(_, id)| *id == u64::from(epoch)).count();
            if ended == of && before != epoch {
                before = epoch;
                // All of the epochs before have left by now.
                let is_old = |(flow, _): &&(Flow, EndReason)| flow.key.sampled().epoch() < epoch;
                let old: u64 = ring.left.iter().filter(is_old).map(|left| left.0.counters.packets).sum();
                prop_assert_eq!(old as usize, (i + 1) / change * change);
            }
        }
        let (left, marks, _) = ring.finish();
        let packets: u64 = left.iter().map(|(flow, _)| flow.counters.packets).sum();
        let octets: u64 = left.iter().map(|(flow, _)| flow.counters.octets).sum();
        let sent: u64 = steps.iter().map(|step| u64::from(step.octets.max(40))).sum();
        prop_assert_eq!((packets, octets), (steps.len() as u64, sent));
        prop_assert_eq!(marks.len(), epoch as usize * of);
    }
}

#[test]
fn what_is_compared_is_spread_over_tables_and_leaves_for_every_reason() {
    use proptest::{strategy::ValueTree as _, test_runner::TestRunner};
    let mut runner = TestRunner::deterministic();
    let mut reasons = Vec::new();
    let mut toured = 0;
    for _ in 0..20 {
        let steps = in_order().new_tree(&mut runner).expect("steps").current();
        let (left, tours) = together(4, &steps, 1);
        toured += tours;
        reasons.extend(left.iter().map(|left| left.1));
        let steps = in_bunches().new_tree(&mut runner).expect("steps").current();
        reasons.extend(apart(4, &steps, 1).iter().map(|left| left.1));
    }
    assert!(toured > 100, "{toured}");
    for reason in [
        EndReason::IdleTimeout,
        EndReason::ActiveTimeout,
        EndReason::EndOfFlow,
        EndReason::ForcedEnd,
    ] {
        let count = reasons.iter().filter(|other| **other == reason).count();
        assert!(count > 3, "{reason:?}: {count}");
    }
}

/// Two tables have a flow that has been displaced from a third.
#[test]
fn a_flow_that_is_displaced_lives_on_where_it_is_known() {
    let mut ring = Ring::new(2, 1, 1, 5);
    let step = |flow, shard, second| Step {
        flow,
        flags: tcp::ACK,
        octets: 100,
        at_ns: second * SECOND,
        shard,
    };
    for step in [step(0, 0, 100), step(0, 1, 101), step(3, 0, 102)] {
        ring.push(&step, Sampled::default());
        ring.shards[step.shard].settle();
        ring.quiesce();
    }
    assert!(ring.left.is_empty(), "{:?}", ring.left);
    ring.advance(116 * SECOND);
    ring.quiesce();
    let [(flow, reason)] = ring.left[..] else {
        panic!("{:?}", ring.left)
    };
    assert_eq!((flow.counters.packets, reason), (2, EndReason::IdleTimeout));
}

/// A table takes over a flow whose last packet is later than its own clock.
#[test]
fn stamps_of_a_worker_that_is_behind_do_not_turn_a_flow_back() {
    let mut ring = Ring::new(2, 1, 1, 5);
    let step = |flow, shard, tenths| Step {
        flow,
        flags: tcp::ACK,
        octets: 100,
        at_ns: tenths * SECOND / 10,
        shard,
    };
    for step in [
        step(0, 1, 1010),
        step(0, 0, 1020),
        // There is no more room for the flow in the first table.
        step(3, 0, 1021),
        step(0, 1, 1015),
    ] {
        ring.push(&step, Sampled::default());
        ring.shards[step.shard].settle();
        ring.quiesce();
    }
    let (left, ..) = ring.finish();
    let flow = left.iter().find(|left| left.0.counters.packets == 3);
    let Counters {
        first_ns, last_ns, ..
    } = flow.expect("all of it").0.counters;
    assert_eq!((first_ns, last_ns), (101 * SECOND, 102 * SECOND));
}
