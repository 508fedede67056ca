//! Statistics: what packets add up to does not depend on how they were divided.

use flowprobe_ebpf::{
    Addresses, Counters, KeyV4, KeyV6, KeyWide, Marks, Packet,
    flow::bits,
    macs::MAC_PAIRS,
    table::{Asides, Span, Way, WayV4, WayV6, WayWide},
};
use proptest::{collection::vec, prelude::*};

fn packets() -> impl Strategy<Value = Vec<(Packet, u64)>> {
    let octets = any::<(u8, u8, u8)>();
    // Most packets have no options.
    let options = prop_oneof![2 => Just(0), 1 => any::<u32>()];
    let label = 0..1_u32 << 20;
    let packet = (1..65_536_u32, octets, options, label, 0..4_u8, 0..1_000_u64);
    vec(packet, 2..40).prop_map(|packets| {
        let mut now = 0;
        packets
            .into_iter()
            .map(
                |(octets, (ttl, tcp_flags, priorities), options, flow_label, fragment, later)| {
                    now += later << 20; // the unit of a way's last packet
                    let packet = Packet {
                        addresses: Addresses::V4(0),
                        ports: 0,
                        octets,
                        flow_label,
                        options,
                        vlan: 0,
                        protocol: 6,
                        traffic_class: 0,
                        ttl,
                        tcp_flags,
                        fragment_flags: fragment << 5,
                        priorities: priorities & 0x77,
                        // Some are super-frames.
                        more: (octets % 64).saturating_sub(32),
                    };
                    (packet, now)
                },
            )
            .collect()
    })
}

/// Counts into each kind of way; what a kind has no room for is not compared.
fn count(packets: &[(Packet, u64)]) -> (Counters, Marks) {
    let (counters, marks) = count_in::<WayWide>(&KeyWide::default(), packets);
    let v6 = Marks {
        inner_priority: 0,
        ..marks
    };
    assert_eq!(
        count_in::<WayV6>(&KeyV6::default(), packets),
        (counters, v6)
    );
    let v4 = Marks {
        flow_label: 0,
        ..v6
    };
    assert_eq!(
        count_in::<WayV4>(&KeyV4::default(), packets),
        (counters, v4)
    );
    // And without a way.
    let ((first, now), rest) = packets.split_first().expect("at least one");
    let (mut alone, mut plain) = (Counters::first(first, *now), Marks::first(first));
    for (packet, now) in rest {
        alone.add(packet, *now);
        plain.add(packet);
    }
    // Only a way notes that there are options aside.
    plain.bits |= marks.bits & bits::OPTIONS;
    assert_eq!((alone, plain), (counters, marks));
    (counters, marks)
}

/// Counts into a way in which another flow has been, which others prefer.
fn count_in<W: Way + Default + Copy>(key: &W::Key, packets: &[(Packet, u64)]) -> (Counters, Marks) {
    const WAY: usize = 5;
    const REACH: usize = 6;
    let (mut way, mut asides) = (W::default(), Asides::default());
    let ((first, now), rest) = packets.split_first().expect("at least one");
    let former = Packet {
        options: u32::MAX,
        tcp_flags: 0xff,
        fragment_flags: 0x60,
        priorities: 0x77,
        flow_label: 0xf_ffff,
        ..*first
    };
    way.set_reach(REACH);
    way.fill(key, &former, 9, 77);
    asides.note_options(WAY, &mut way, &former);
    way.add(&former, 78 << 20);
    way.fill(key, first, MAC_PAIRS.into(), *now);
    asides.note_options(WAY, &mut way, first);
    for (packet, now) in rest {
        way.add(packet, *now);
        asides.note_options(WAY, &mut way, packet);
    }
    assert_eq!(way.mac_number(), MAC_PAIRS, "counting leaves it alone");
    assert_eq!(way.reach(), REACH, "what belongs to the way stays");
    way.set_reach(1);
    assert_eq!((way.reach(), way.mac_number()), (1, MAC_PAIRS));
    (way.counters(), asides.marks(WAY, &way))
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
        let more: u64 = packets.iter().map(|(packet, _)| u64::from(packet.more)).sum();
        prop_assert_eq!(counters.packets, packets.len() as u64 + more);
        prop_assert_eq!(counters.octets, octets.sum::<u64>());
        prop_assert_eq!(counters.first_ns, packets[0].1);
        prop_assert_eq!(counters.last_ns, packets[packets.len() - 1].1);
        prop_assert_eq!(Some(marks.min_ttl), ttls.clone().min());
        prop_assert_eq!(Some(marks.max_ttl), ttls.max());
        let flags = flags.fold(0, |all, some| all | some);
        prop_assert_eq!(marks.tcp_flags, flags);
        prop_assert_eq!(marks.ended(), flags & 0x05 != 0);
        let all = |of: fn(&Packet) -> u32| packets.iter().fold(0, |all, (packet, _)| all | of(packet));
        prop_assert_eq!(marks.options, all(|packet| packet.options));
        let fragments = all(|packet| packet.fragment_flags.into());
        prop_assert_eq!(u32::from(marks.bits & bits::FRAGMENT_FLAGS), fragments);
        // What is the first packet's.
        let (first, _) = &packets[0];
        prop_assert_eq!(marks.flow_label, first.flow_label);
        prop_assert_eq!(marks.began_with_syn(), first.tcp_flags & 0x02 != 0);
        prop_assert_eq!(marks.bits & bits::PRIORITY, first.priorities & 7);
        prop_assert_eq!(marks.inner_priority, first.priorities >> 4);
    }

    #[test]
    fn parts_merge_into_the_whole_in_any_order(packets in packets(), cut in any::<prop::sample::Index>()) {
        let (a, b) = packets.split_at(1 + cut.index(packets.len() - 1));
        for (one, other) in [(a, b), (b, a)] {
            let ((mut counters, mut marks), other) = (count(one), count(other));
            let began_later = other.0.first_ns < counters.first_ns;
            counters.merge(&other.0);
            marks.merge(&other.1);
            let (whole, all) = count(&packets);
            prop_assert_eq!(counters, whole);
            // Parts that begin at one time have no order.
            if a[0].1 == b[0].1 {
                continue;
            }
            if began_later {
                marks.begin_with(&other.1);
            }
            marks.bits |= all.bits & bits::OPTIONS;
            prop_assert_eq!(marks, all);
        }
    }
}
