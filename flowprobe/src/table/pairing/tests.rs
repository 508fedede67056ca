use std::{net::Ipv4Addr, time::Duration};

use flowprobe_ebpf::{
    Around,
    flow::bits,
    parse::tunnel::kind,
    wire::{protocol, tcp},
};
use proptest::prelude::*;

use super::*;
use crate::{
    ipfix::tests::sample::{key, nth, of_class, tunnel, wrapped},
    record::FlowKey,
};

const SECOND: u64 = 1_000_000_000;
const MS: u64 = 1_000_000;
const CLIENT: u8 = 1;
const SERVER: u8 = 200;

fn timeouts() -> Timeouts {
    Timeouts {
        idle: Duration::from_secs(15),
        active: Duration::from_secs(60),
        linger: Duration::from_secs(1),
    }
}

fn pairing(capacity: usize) -> Pairing {
    Pairing::new(Patience::exact(&timeouts()), capacity)
}

fn address(host: u8) -> [u8; 16] {
    let mut octets = [0; 16];
    octets[..4].copy_from_slice(&Ipv4Addr::new(10, 0, 0, host).octets());
    octets
}

/// A flow of one packet from one host's port to another's.
fn flow(protocol: u8, from: (u8, u16), to: (u8, u16), first_ns: u64) -> Stamped {
    let hosts = [address(from.0), address(to.0)];
    Stamped {
        record: FlowRecord {
            key: key(false, hosts, protocol, [from.1, to.1], 0, 0, 1),
            packets: 1,
            ..nth(0)
        },
        first_ns,
    }
}

fn udp(from: (u8, u16), to: (u8, u16), first_ns: u64) -> Stamped {
    flow(protocol::UDP, from, to, first_ns)
}

fn connection(from: (u8, u16), to: (u8, u16), flags: u8, first_ns: u64) -> Stamped {
    let mut stamped = flow(protocol::TCP, from, to, first_ns);
    let packet = flowprobe_ebpf::Packet {
        tcp_flags: flags,
        ..flowprobe_ebpf::Packet::EMPTY
    };
    stamped.record.marks = flowprobe_ebpf::Marks::first(&packet);
    stamped
}

/// What goes on when these leave the table at this time.
fn pass(pairing: &mut Pairing, records: &[Stamped], now_ns: u64) -> Vec<FlowRecord> {
    let mut to = Vec::new();
    pairing.pass(records.iter().copied(), now_ns, &mut to);
    to
}

fn sources(records: &[FlowRecord]) -> Vec<(u16, Biflow)> {
    let source = |record: &FlowRecord| (record.key.source_port(), record.biflow);
    records.iter().map(source).collect()
}

#[test]
fn the_source_is_who_sent_syn_and_else_who_was_first() {
    use Direction::{Arbitrary, Initiator};
    let client = (CLIENT, 40_000);
    let server = (SERVER, 443);
    let there = |flags, ns| connection(client, server, flags, ns);
    let back = |flags, ns| connection(server, client, flags, ns);
    let both = tcp::SYN | tcp::ACK;
    for (case, [a, b], expected) in [
        (
            "SYN",
            [there(tcp::SYN, 5 * MS), back(both, 9 * MS)],
            Initiator,
        ),
        (
            "SYN, stamped later",
            [there(tcp::SYN, 9 * MS), back(both, 5 * MS)],
            Initiator,
        ),
        (
            "SYN alone",
            [there(tcp::SYN, 9 * MS), back(tcp::ACK, 5 * MS)],
            Initiator,
        ),
        (
            "answer alone",
            [there(tcp::ACK, 9 * MS), back(both, 5 * MS)],
            Initiator,
        ),
        (
            "in the middle",
            [there(tcp::ACK, 5 * MS), back(tcp::ACK, 9 * MS)],
            Arbitrary,
        ),
        (
            "both open",
            [there(tcp::SYN, 5 * MS), back(tcp::SYN, 9 * MS)],
            Arbitrary,
        ),
        (
            "UDP",
            [udp(client, server, 5), udp(server, client, 6)],
            Initiator,
        ),
        (
            "UDP at once",
            [udp(client, server, 5), udp(server, client, 5)],
            Arbitrary,
        ),
    ] {
        for order in [[a, b], [b, a]] {
            let on = pass(&mut pairing(10), &order, SECOND);
            let expected = [(40_000, Biflow::Forward(expected)), (443, Biflow::Reverse)];
            assert_eq!(sources(&on), expected, "{case}");
        }
    }
}

#[test]
fn stamps_of_one_tick_tell_no_order() {
    let live = Patience::live(&timeouts(), Duration::from_secs(1));
    let order = |apart| {
        let late = udp((CLIENT, 40_000), (SERVER, 53), SECOND + apart);
        let early = udp((SERVER, 53), (CLIENT, 40_000), SECOND);
        sources(&pass(&mut Pairing::new(live, 10), &[late, early], SECOND))[0]
    };
    assert_eq!(
        order(9 * MS),
        (40_000, Biflow::Forward(Direction::Arbitrary))
    );
    assert_eq!(order(11 * MS), (53, Biflow::Forward(Direction::Initiator)));
}

#[test]
fn questions_of_icmp_have_answers_and_errors_have_none() {
    let icmp = |from, to, kind: u16| flow(protocol::ICMP, (from, 0), (to, kind << 8), 5);
    let mut pairing = pairing(10);
    let on = pass(
        &mut pairing,
        &[icmp(SERVER, CLIENT, 0), icmp(CLIENT, SERVER, 8)],
        6,
    );
    let kinds: Vec<_> = on
        .iter()
        .map(|record| record.key.destination_port() >> 8)
        .collect();
    assert_eq!(kinds, [8, 0]);
    assert_eq!(on[0].biflow, Biflow::Forward(Direction::Initiator));
    // Unreachable, both ways: each goes on at once, and by itself. So does what goes to a group.
    let group = key(
        false,
        [address(1), [239; 16]],
        protocol::UDP,
        [1, 2],
        0,
        0,
        1,
    );
    let mut group = Stamped {
        record: nth(0),
        first_ns: 5,
    }
    .with_key(group);
    group.record.packets = 1;
    let alone = [icmp(SERVER, CLIENT, 3), icmp(CLIENT, SERVER, 3), group];
    let on = pass(&mut pairing, &alone, 6);
    assert_eq!(on, alone.map(|stamped| stamped.record));
    assert_eq!(pairing.volume(), Volume::default());
    // Two questions are no conversation.
    let on = pass(
        &mut pairing,
        &[icmp(CLIENT, SERVER, 8), icmp(SERVER, CLIENT, 8)],
        6,
    );
    assert_eq!((on.len(), pairing.volume().records), (0, 2));
}

impl Stamped {
    fn with_key(mut self, key: FlowKey) -> Self {
        self.record.key = key;
        self
    }
}

#[test]
fn what_is_around_the_packets_has_to_agree_where_it_can() {
    let there = udp((CLIENT, 40_000), (SERVER, 443), 5);
    let back = udp((SERVER, 443), (CLIENT, 40_000), 6);
    let on_interface = |stamped: Stamped, vlan, ifindex, class| {
        let [from, to] = [
            stamped.record.key.source(),
            stamped.record.key.destination(),
        ];
        let octets = |address: std::net::IpAddr| match address {
            std::net::IpAddr::V4(address) => {
                let mut octets = [0; 16];
                octets[..4].copy_from_slice(&address.octets());
                octets
            }
            std::net::IpAddr::V6(address) => address.octets(),
        };
        let ports = [
            stamped.record.key.source_port(),
            stamped.record.key.destination_port(),
        ];
        let both = [octets(from), octets(to)];
        stamped.with_key(key(false, both, protocol::UDP, ports, class, vlan, ifindex))
    };
    let outside = [[7; 16], [9; 16]];
    let vxlan = |stamped: Stamped, id, both| {
        let around = tunnel(kind::VXLAN, id, protocol::UDP, false, both);
        stamped.with_key(wrapped(&stamped.record.key, &around))
    };
    let gtp = |stamped: Stamped, id, both| {
        let around = tunnel(kind::GTPU, id, protocol::UDP, true, both);
        stamped.with_key(wrapped(&stamped.record.key, &around))
    };
    let labelled = |stamped: Stamped, label| {
        let around = Around {
            labels: 1,
            label_stack: [label, 0, 0, 0, 0, 0],
            ..Around::EMPTY
        };
        stamped.with_key(wrapped(&stamped.record.key, &around))
    };
    let exchanged = [outside[1], outside[0]];
    let sampled = |mut stamped: Stamped| {
        stamped.record = of_class(3, vec![stamped.record])[0];
        stamped
    };
    for (case, a, b, pairs) in [
        (
            "traffic class",
            on_interface(there, 0, 1, 0x10),
            on_interface(back, 0, 1, 0),
            true,
        ),
        (
            "two interfaces",
            on_interface(there, 5, 1, 0),
            on_interface(back, 6, 2, 0),
            true,
        ),
        (
            "two VLANs",
            on_interface(there, 5, 1, 0),
            on_interface(back, 6, 1, 0),
            false,
        ),
        (
            "one VLAN",
            on_interface(there, 5, 1, 0),
            on_interface(back, 5, 1, 0),
            true,
        ),
        (
            "tunnel",
            vxlan(there, 9, outside),
            vxlan(back, 9, exchanged),
            true,
        ),
        (
            "two networks",
            vxlan(there, 9, outside),
            vxlan(back, 8, exchanged),
            false,
        ),
        (
            "same way",
            vxlan(there, 9, outside),
            vxlan(back, 9, outside),
            false,
        ),
        ("in and out", vxlan(there, 9, outside), back, false),
        (
            "tunnel ends of GTP-U",
            gtp(there, 9, outside),
            gtp(back, 8, exchanged),
            true,
        ),
        ("labels", labelled(there, 7), labelled(back, 8), true),
        ("labels one way", labelled(there, 7), back, true),
        ("two classes", sampled(there), back, false),
        (
            "another port",
            there,
            udp((SERVER, 444), (CLIENT, 40_000), 6),
            false,
        ),
        ("the same way twice", there, there, false),
    ] {
        let mut pairing = pairing(10);
        let on = pass(&mut pairing, &[a, b], 6);
        assert_eq!(on.len(), if pairs { 2 } else { 0 }, "{case}");
        assert_eq!(
            pairing.volume().records,
            if pairs { 0 } else { 2 },
            "{case}"
        );
    }
}

#[test]
fn parts_of_a_conversation_have_one_source() {
    let mut pairing = pairing(10);
    let (client, server) = ((CLIENT, 40_000), (SERVER, 443));
    let ongoing = |mut stamped: Stamped| {
        stamped.record.reason = EndReason::ActiveTimeout;
        stamped
    };
    let opened = connection(client, server, tcp::SYN, 5);
    let answered = connection(server, client, tcp::SYN | tcp::ACK, 6);
    pass(
        &mut pairing,
        &[ongoing(opened), ongoing(answered)],
        60 * SECOND,
    );
    // In the next part the server sends first, and nobody SYN.
    let part = [
        connection(server, client, tcp::ACK, 61 * SECOND),
        connection(client, server, tcp::ACK, 62 * SECOND),
    ];
    let on = pass(&mut pairing, &part.map(ongoing), 121 * SECOND);
    assert_eq!(
        sources(&on)[0],
        (40_000, Biflow::Forward(Direction::Initiator))
    );
    // Long after, nobody remembers.
    let on = pass(&mut pairing, &part, 1000 * SECOND);
    assert_eq!(
        sources(&on)[0],
        (443, Biflow::Forward(Direction::Arbitrary))
    );
    assert!(pairing.begun.sources.is_empty() && pairing.begun.order.is_empty());
}

#[test]
fn what_has_no_answer_goes_on_alone_in_its_turn() {
    let mut pairing = pairing(3);
    let ask = |port| udp((CLIENT, port), (SERVER, 53), 5);
    assert_eq!(pass(&mut pairing, &[ask(1), ask(2)], 0), []);
    assert_eq!(pass(&mut pairing, &[ask(3)], 15 * SECOND), []);
    assert_eq!(pairing.volume().records, 3);
    // No room for another one: the oldest goes.
    assert_eq!(
        sources(&pass(&mut pairing, &[ask(4)], 15 * SECOND)),
        [(1, Biflow::None)]
    );
    // After an idle timeout and the linger.
    assert_eq!(pass(&mut pairing, &[], 16 * SECOND - 1), []);
    assert_eq!(
        sources(&pass(&mut pairing, &[], 16 * SECOND)),
        [(2, Biflow::None)]
    );
    let mut rest = Vec::new();
    pairing.release(|record| record.key.source_port() == 4, &mut rest);
    assert_eq!(sources(&rest), [(4, Biflow::None)]);
    pairing.release(|_| true, &mut rest);
    assert_eq!(sources(&rest), [(4, Biflow::None), (3, Biflow::None)]);
    assert_eq!(pairing.volume(), Volume::default());
    assert!(pairing.places.is_empty());
}

/// Connections of the same ports that nobody answers, one after the other.
#[test]
fn few_of_one_conversation_wait() {
    let mut pairing = pairing(1000);
    let ask = |octets| {
        let mut stamped = udp((CLIENT, 1), (SERVER, 53), 5);
        stamped.record.octets = octets;
        stamped
    };
    let asked: Vec<_> = (0..20).map(ask).collect();
    let on = pass(&mut pairing, &asked, 0);
    let octets: Vec<_> = on.iter().map(|record| record.octets).collect();
    assert_eq!(octets, (0..12).collect::<Vec<_>>());
    assert_eq!(pairing.volume().records, OF_ONE as u64);
}

/// One waits, and many that come after it find their other halves.
#[test]
fn places_that_were_left_are_given_back() {
    let mut pairing = pairing(10);
    assert_eq!(
        pass(&mut pairing, &[udp((CLIENT, 1), (SERVER, 53), 5)], 0),
        []
    );
    for port in 2..60_000 {
        let there = udp((CLIENT, port), (SERVER, 53), 5);
        let back = udp((SERVER, 53), (CLIENT, port), 6);
        assert_eq!(pass(&mut pairing, &[there, back], 0).len(), 2);
    }
    assert!(
        pairing.waiting.len() <= LEFT + 4,
        "{}",
        pairing.waiting.len()
    );
    let back = udp((SERVER, 53), (CLIENT, 1), 6);
    assert_eq!(pass(&mut pairing, &[back], 0).len(), 2);
}

#[test]
fn who_sends_to_itself_has_no_answer() {
    let one = udp((CLIENT, 123), (CLIENT, 123), 5);
    assert_eq!(pass(&mut pairing(10), &[one, one], 0), [one.record; 2]);
    let [there, back] = [(1, 2), (2, 1)].map(|(a, b)| udp((CLIENT, a), (CLIENT, b), 5));
    let on = pass(&mut pairing(10), &[there, back], 0);
    assert_eq!(
        on.iter()
            .filter(|record| record.biflow != Biflow::None)
            .count(),
        2
    );
}

proptest! {
    /// Whatever comes in goes out once, and halves stand together.
    #[test]
    fn nothing_is_lost_and_nothing_twice(
        steps in prop::collection::vec((0..3u8, 0..3u16, 0..3u8, 0..3u16, any::<bool>()), 0..200),
        capacity in 1..20usize,
    ) {
        let mut pairing = pairing(capacity);
        let (mut went_in, mut out) = (Vec::new(), Vec::new());
        for (i, (from, port, to, other, step)) in steps.into_iter().enumerate() {
            let mut stamped = udp((from, port), (to, other), i as u64);
            stamped.record.octets = i as u64;
            went_in.push(stamped.record.octets);
            let now_ns = i as u64 * if step { SECOND } else { SECOND / 4 };
            out.extend(pass(&mut pairing, &[stamped], now_ns));
            prop_assert_eq!(pairing.volume().records as usize + out.len(), went_in.len());
            prop_assert!(pairing.volume().records as usize <= capacity);
        }
        pairing.release(|_| true, &mut out);
        for (i, record) in out.iter().enumerate() {
            let next = out.get(i + 1);
            let before = i.checked_sub(1).map(|i| &out[i]);
            match record.biflow {
                Biflow::None => {}
                Biflow::Forward(_) => {
                    prop_assert!(record.forward_of(next).is_some());
                    let key = &next.expect("the other half").key;
                    prop_assert!(is_counterpart(&record.key, key));
                }
                Biflow::Reverse => {
                    let first = before.expect("the other half");
                    prop_assert!(first.forward_of(Some(record)).is_some());
                }
            }
        }
        let mut came_out: Vec<_> = out.iter().map(|record| record.octets).collect();
        came_out.sort_unstable();
        prop_assert_eq!(came_out, went_in);
    }
}

#[test]
fn first_packets_tell_syn_from_its_answer() {
    let began = |flags| connection((CLIENT, 1), (SERVER, 2), flags, 0).record.marks;
    assert_eq!(began(tcp::SYN).bits & bits::FIRST, bits::BEGAN_WITH_SYN);
    let answer = began(tcp::SYN | tcp::ACK);
    assert!(answer.began_with_syn() && answer.began_with_ack());
}
