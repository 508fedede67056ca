//! Super-frames: one buffer, several packets on the wire.

use std::num::NonZeroU32;

use flowprobe::{
    attach::Way,
    load::{Class, Options},
    sampling::Sampling,
};
use flowprobe_ebpf::{Lost, Skip, Tunnels, class::Rule};
use flowprobe_tests::packets::{Ip, Packet, flag};

use crate::meter::{Meter, SMALL};

const ETHERNET: u64 = 14;

fn tcp() -> Packet {
    Ip::new("192.0.2.1", "198.51.100.2").tcp(1, 2, flag::ACK, 2500)
}

/// Headers of IP and transport of each kind that is cut, in front of 2,500 octets.
fn kinds() -> Vec<(Packet, u64)> {
    let v4 = || Ip::new("192.0.2.1", "198.51.100.2");
    let v6 = || Ip::new("2001:db8::1", "2001:db8:1::2");
    vec![
        (tcp(), 20 + 20),
        (v4().udp(1, 2, 2500), 20 + 8),
        (v4().options(2).tcp(1, 2, flag::ACK, 2500), 28 + 20),
        (v6().tcp(1, 2, flag::ACK, 2500), 40 + 20),
        (v6().udp(1, 2, 2500), 40 + 8),
        (v4().tag(0x8100, 5).tcp(1, 2, flag::ACK, 2500), 20 + 20),
    ]
}

/// The count is the kernel's, or where a sender has left that out follows from the payload.
#[test]
fn a_super_frame_counts_as_its_packets_with_their_headers() {
    for way in [Way::In, Way::Out] {
        for segments in [3, 0] {
            for (packet, headers) in kinds() {
                let mut meter = Meter::new(&SMALL);
                let ip = packet.octets;
                let link = packet.frame.len() as u64 - ip;
                assert!(meter.run_tc(way, &packet.frame, segments, 1000));
                assert!(meter.run_tc(way, &packet.frame, segments, 1000));
                let totals = meter.totals();
                let records = meter.flush();
                let [record] = records[..] else {
                    panic!("{records:?}");
                };
                let octets = ip + 2 * headers;
                assert_eq!((record.packets, record.octets), (6, 2 * octets));
                assert_eq!(totals.seen.packets, 6);
                assert_eq!(totals.seen.octets, 2 * (octets + 3 * link));
                assert_eq!(totals.accounted, totals.seen);
                assert_eq!(totals.seen_out.packets, if way == Way::Out { 6 } else { 0 });
                meter.assert_balanced();
            }
        }
    }
}

/// The longest headers that TCP can have, and a last segment that is short or whole.
#[test]
fn the_length_of_headers_is_that_in_them() {
    let mut packet = tcp();
    // 60 octets of TCP header: the first 40 of the payload are its options now.
    packet.frame[14 + 20 + 12] = 0xf0;
    for (size, segments) in [(2460, 1), (2459, 2), (820, 3), (819, 4)] {
        let mut meter = Meter::new(&SMALL);
        assert!(meter.run_tc(Way::Out, &packet.frame, 0, size));
        let [record] = meter.flush()[..] else {
            panic!("one record");
        };
        assert_eq!(record.packets, segments, "{size}");
        assert_eq!(record.octets, 2540 + 80 * (segments - 1), "{size}");
    }
}

/// Where there are flows of all kinds, a super-frame is one for a sampler and all of its packets for
/// what is told of that.
#[test]
fn a_super_frame_is_selected_or_skipped_as_a_whole() {
    let rule = Rule {
        protocol: 6 + 1,
        ..Rule::default()
    };
    let half = Sampling::Count(NonZeroU32::MIN.saturating_add(1));
    let by_port = [Class {
        rule,
        sampling: half,
    }];
    let by_interface = [Class {
        rule: Rule {
            ifindex: 1,
            ..Rule::default()
        },
        sampling: half,
    }];
    for (sampling, classes) in [
        (half, &[][..]),
        (Sampling::All, &by_port[..]),
        (Sampling::All, &by_interface[..]),
    ] {
        let mut meter = Meter::new(&Options {
            sampling,
            classes,
            ..SMALL
        });
        for _ in 0..10 {
            assert!(meter.run_tc(Way::Out, &tcp().frame, 3, 1000));
        }
        let totals = meter.totals();
        assert_eq!(totals.seen.packets, 30);
        assert_eq!(totals.unsampled.packets, 15, "{classes:?}");
        let frames = 2540 + 2 * 40 + 3 * ETHERNET;
        assert_eq!(totals.unsampled.octets, 5 * frames);
        let [record] = meter.flush()[..] else {
            panic!("one record");
        };
        assert_eq!((record.packets, record.octets), (15, 5 * (2540 + 80)));
        meter.assert_balanced();
    }
}

/// What is in no flow is as many packets, and in a tunnel that is opened all headers count.
#[test]
fn super_frames_that_are_no_plain_ones() {
    let mut meter = Meter::new(&Options {
        tunnels: Tunnels::INNER,
        ..SMALL
    });
    let mut arp = tcp().frame;
    arp[12..14].copy_from_slice(&[0x08, 0x06]);
    assert!(meter.run_tc(Way::In, &arp, 3, 1000));
    let totals = meter.totals();
    assert_eq!(totals.ignored[Skip::Arp as usize].packets, 3);
    assert_eq!(totals.lost[Lost::RingFull as usize].packets, 0);
    // Outer IP, UDP, VXLAN, Ethernet, inner IP, TCP.
    let inner = tcp();
    let outer = Ip::new("10.0.0.1", "10.0.0.2").udp(40_000, 4789, 8 + inner.frame.len());
    let mut frame = outer.frame;
    frame[42..50].copy_from_slice(&[8, 0, 0, 0, 0, 0, 7, 0]);
    frame[50..].copy_from_slice(&inner.frame);
    assert!(meter.run_tc(Way::In, &frame, 3, 1000));
    let [record] = meter.flush()[..] else {
        panic!("one record");
    };
    assert_eq!(record.key.protocol(), 6);
    assert_eq!((record.packets, record.octets), (3, 2540 + 2 * 40));
    let seen = meter.totals().seen;
    assert_eq!(seen.packets, 6);
    let headers = 14 + 20 + 8 + 8 + 14 + 40;
    assert_eq!(
        seen.octets,
        arp.len() as u64 + frame.len() as u64 + 2 * headers
    );
    meter.assert_balanced();
}
