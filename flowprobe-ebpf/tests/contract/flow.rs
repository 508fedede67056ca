//! Statistics: what packets add up to does not depend on how they were divided.

use flowprobe_ebpf::{Addresses, Counters, Marks, Packet};
use proptest::{collection::vec, prelude::*};

fn packets() -> impl Strategy<Value = Vec<(Packet, u64)>> {
    let packet = (1..65_536_u32, any::<(u8, u8)>(), 0..1_000_u64);
    vec(packet, 2..40).prop_map(|packets| {
        let mut now = 0;
        packets
            .into_iter()
            .map(|(octets, (ttl, tcp_flags), later)| {
                now += later;
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
    let ((first, now), rest) = packets.split_first().expect("at least one");
    let (mut counters, mut marks) = (Counters::first(first, *now), Marks::first(first));
    for (packet, now) in rest {
        counters.add(packet, *now);
        marks.add(packet);
    }
    (counters, marks)
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
