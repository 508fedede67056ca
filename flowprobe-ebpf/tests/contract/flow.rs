//! Statistics: what packets add up to does not depend on how they were divided.

use flowprobe_ebpf::{
    Addresses, Counters, KeyV4, KeyV6, Marks, Packet,
    table::{Span, Way, WayV4, WayV6},
};
use proptest::{collection::vec, prelude::*};

fn packets() -> impl Strategy<Value = Vec<(Packet, u64)>> {
    let packet = (1..65_536_u32, any::<(u8, u8)>(), 0..1_000_u64);
    vec(packet, 2..40).prop_map(|packets| {
        let mut now = 0;
        packets
            .into_iter()
            .map(|(octets, (ttl, tcp_flags), later)| {
                now += later << 20; // the unit of a way's last packet
                let packet = Packet {
                    addresses: Addresses::V4(0),
                    ports: 0,
                    protocol: 6,
                    traffic_class: 0,
                    vlan: 0,
                    ttl,
                    tcp_flags,
                    octets,
                    flow_label: 0,
                };
                (packet, now)
            })
            .collect()
    })
}

fn count(packets: &[(Packet, u64)]) -> (Counters, Marks) {
    let counted = count_in::<WayV4>(&KeyV4::default(), packets);
    assert_eq!(counted, count_in::<WayV6>(&KeyV6::default(), packets));
    counted
}

/// Counts into a way in which another flow has been.
fn count_in<W: Way + Default>(key: &W::Key, packets: &[(Packet, u64)]) -> (Counters, Marks) {
    let mut way = W::default();
    let ((first, now), rest) = packets.split_first().expect("at least one");
    way.fill(key, first, 77);
    way.add(first, 78 << 20);
    way.fill(key, first, *now);
    for (packet, now) in rest {
        way.add(packet, *now);
    }
    (way.counters(), way.marks())
}

#[test]
fn the_last_packet_is_never_late_and_at_most_a_unit_early() {
    for first in [0, 1, 12_345_678_901] {
        for after in [
            0,
            1,
            (1 << 20) - 1,
            1 << 20,
            987_654_321,
            30 * 86_400 * 1_000_000_000,
        ] {
            let mut span = Span::new(first);
            span.extend(first + after);
            assert_eq!(span.first_ns(), first);
            let early = first + after - span.last_ns();
            assert!(early < 1 << 20, "{after} after {first}: {early} early");
        }
    }
}

proptest! {
    #[test]
    fn counts_are_sums_and_extremes(packets in packets()) {
        let (counters, marks) = count(&packets);
        let ttls = packets.iter().map(|(packet, _)| packet.ttl);
        let flags = packets.iter().map(|(packet, _)| packet.tcp_flags);
        let octets = packets.iter().map(|(packet, _)| u64::from(packet.octets));
        prop_assert_eq!(counters.packets, packets.len() as u64);
        prop_assert_eq!(counters.octets, octets.sum::<u64>());
        prop_assert_eq!(counters.first_ns, packets[0].1);
        prop_assert_eq!(counters.last_ns, packets[packets.len() - 1].1);
        prop_assert_eq!(Some(marks.min_ttl), ttls.clone().min());
        prop_assert_eq!(Some(marks.max_ttl), ttls.max());
        let flags = flags.fold(0, |all, some| all | some);
        prop_assert_eq!(marks.tcp_flags, flags);
        prop_assert_eq!(marks.ended(), flags & 0x05 != 0);
    }

    #[test]
    fn parts_merge_into_the_whole_in_any_order(packets in packets(), cut in any::<prop::sample::Index>()) {
        let (a, b) = packets.split_at(1 + cut.index(packets.len() - 1));
        for (one, other) in [(a, b), (b, a)] {
            let ((mut counters, mut marks), other) = (count(one), count(other));
            counters.merge(&other.0);
            marks.merge(&other.1);
            prop_assert_eq!((counters, marks), count(&packets));
        }
    }
}
