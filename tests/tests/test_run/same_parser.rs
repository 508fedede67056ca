//! One parser, two compilers: what the program puts into the table is what [`parse`] gives here.

use flowprobe::record::{FlowKey, FlowRecord};
use flowprobe_ebpf::{
    Addresses, KeyV4, KeyV6, Skip, parse,
    parse::{MAX_EXTENSIONS, MAX_TAGS},
    sampling::next_random,
};
use flowprobe_tests::packets::{DESTINATION_MAC, Ip, Packet, SOURCE_MAC, flag, not_ip};

use crate::meter::{IFINDEX, Meter, SMALL};

/// BPF_PROG_TEST_RUN takes no frame shorter than an Ethernet header.
const SHORTEST: usize = 14;

/// Asserts that both programs make of a frame what the parser makes of it.
#[track_caller]
fn same(meter: &mut Meter, frame: &[u8]) {
    for frags in [false, true] {
        same_in(meter, frame, frags);
    }
}

#[track_caller]
fn same_in(meter: &mut Meter, frame: &[u8], frags: bool) {
    let before = meter.totals();
    meter.run_many(frame, frags, 1);
    let after = meter.totals();
    let records = meter.flush();
    assert_eq!(after.seen.packets, before.seen.packets + 1);
    assert_eq!(after.seen.octets, before.seen.octets + frame.len() as u64);
    let mut ignored = before.ignored;
    match parse(frame) {
        Ok(packet) => {
            let key = match packet.addresses {
                Addresses::V4(a) => FlowKey::V4(KeyV4::new(a, &packet, IFINDEX, 0)),
                Addresses::V6(a) => FlowKey::V6(KeyV6::new(a, &packet, IFINDEX, 0)),
            };
            let [record] = records[..] else {
                panic!("{} records of {frame:02x?}", records.len());
            };
            assert_eq!(record.key, key, "{frame:02x?}");
            let expected = FlowRecord {
                packets: 1,
                octets: packet.octets.into(),
                tcp_flags: packet.tcp_flags,
                min_ttl: packet.ttl,
                max_ttl: packet.ttl,
                flow_label: packet.flow_label,
                destination_mac: frame[..6].try_into().unwrap(),
                source_mac: frame[6..12].try_into().unwrap(),
                ..record
            };
            assert_eq!(record, expected, "{frame:02x?}");
        }
        Err(reason) => {
            assert_eq!(records, [], "{reason:?}: {frame:02x?}");
            ignored[reason as usize].count(frame.len() as u64);
        }
    }
    assert_eq!(after.ignored, ignored, "{frame:02x?}");
    assert_eq!(after.lost, before.lost);
}

/// A frame of each kind.
fn corpus() -> Vec<Packet> {
    let v4 = Ip::new("10.1.2.3", "192.0.2.9").ttl(61).traffic_class(0xb8);
    let v6 = Ip::new("2001:db8::1", "2001:db8::2").ttl(59);
    let v6 = v6.traffic_class(0x2e);
    let mut corpus = vec![not_ip(0x0806), not_ip(0x9100), not_ip(0)];
    for ip in [v4.clone(), v6.clone()] {
        let tagged = ip.clone().tag(0x8100, 100);
        let twice = ip.clone().tag(0x88a8, 7).tag(0x8100, 4095);
        let mut thrice = ip.clone();
        for vlan in 0..=MAX_TAGS {
            thrice = thrice.tag(0x8100, vlan as u16 + 1);
        }
        for ip in [ip.clone(), tagged, twice, thrice, ip.clone().pad_to(200)] {
            corpus.extend([
                ip.udp(4660, 53535, 1),
                ip.tcp(443, 50000, flag::SYN | flag::ACK, 40),
                ip.tcp(443, 50000, 0xff, 0),
                ip.icmp(3, 13, 28),
                ip.sctp(2905, 38412, 20),
                ip.other(47, 30),
                ip.other(33, 12),
                ip.other(136, 8),
                ip.other(59, 0),
            ]);
        }
        for (offset, more) in [(0, true), (1, true), (185, false), (8191, false)] {
            corpus.push(ip.clone().fragment(offset, more).tcp(1, 2, 0x10, 64));
        }
    }
    for words in 1..=10 {
        corpus.push(v4.clone().options(words).tcp(5, 6, 0x11, 3));
    }
    for number in [0, 43, 60, 135, 139, 140] {
        corpus.push(v6.clone().extension(number, 1).udp(1, 2, 3));
        corpus.push(
            v6.clone()
                .extension(number, 3)
                .fragment(0, true)
                .udp(1, 2, 3),
        );
    }
    // AH counts in units of four octets, so the ports are found four octets early: in both.
    corpus.push(v6.clone().extension(51, 2).udp(1, 2, 30));
    for headers in [MAX_EXTENSIONS - 1, MAX_EXTENSIONS, MAX_EXTENSIONS + 1] {
        let chain = (0..headers).fold(v6.clone(), |ip, _| ip.extension(60, 1));
        corpus.push(chain.tcp(7, 8, 0x02, 0));
    }
    corpus
}

#[test]
fn every_kind_of_frame() {
    let mut meter = Meter::new(&SMALL);
    let corpus = corpus();
    for packet in &corpus {
        same(&mut meter, &packet.frame);
    }
    // The corpus has frames of every fate that needs no damage.
    let ignored = meter.totals().ignored;
    for reason in [Skip::NotIp, Skip::TooManyTags, Skip::TooManyExtensions] {
        assert_ne!(ignored[reason as usize].packets, 0, "{reason:?}");
    }
    meter.assert_balanced();
}

#[test]
fn every_frame_cut_anywhere() {
    let mut meter = Meter::new(&SMALL);
    for packet in corpus().iter().step_by(3) {
        for len in SHORTEST..packet.frame.len().min(120) {
            same_in(&mut meter, &packet.frame[..len], len % 2 == 0);
        }
    }
    meter.assert_balanced();
}

/// Frames with a few octets changed, most of them in the headers.
#[test]
fn damaged_frames() {
    let mut meter = Meter::new(&SMALL);
    let corpus = corpus();
    let mut state = 7;
    let mut random = |below: usize| (next_random(&mut state) % below as u64) as usize;
    for n in 0..20_000 {
        let mut frame = corpus[random(corpus.len())].frame.clone();
        for _ in 0..=random(3) {
            let at = 12 + random(frame.len().min(80) - 12);
            frame[at] = match random(3) {
                0 => frame[at] ^ 1 << random(8),
                1 => 0,
                _ => random(256) as u8,
            };
        }
        same_in(&mut meter, &frame, n % 2 == 0);
    }
    let ignored = meter.totals().ignored;
    for reason in Skip::ALL {
        // Cut before the tags end only, see the test above.
        if *reason != Skip::TruncatedLink {
            assert_ne!(ignored[*reason as usize].packets, 0, "{reason:?}");
        }
    }
    meter.assert_balanced();
}

/// Only the program for frames of several buffers takes jumbo frames: they count in full.
#[test]
fn jumbo_frames() {
    let mut meter = Meter::new(&SMALL);
    for ip in [
        Ip::new("10.1.2.3", "192.0.2.9").tag(0x8100, 5),
        Ip::new("2001:db8::1", "2001:db8::2").extension(60, 8),
    ] {
        let packet = ip.udp(1, 2, 8900);
        assert_eq!(packet.frame[..12], [DESTINATION_MAC, SOURCE_MAC].concat());
        same_in(&mut meter, &packet.frame, true);
        same_in(&mut meter, &packet.frame[..5000], true);
    }
    assert_eq!(meter.totals().accounted.packets, 2);
    meter.assert_balanced();
}
