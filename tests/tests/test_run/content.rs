//! Selection by a hash of packets' content and by one of flows' keys, beside a second computation of
//! both that shares no code with the program.

use std::num::NonZeroU32;

use flowprobe::{load::Options, sampling::Sampling};
use flowprobe_tests::packets::{Ip, Packet};

use crate::meter::{Meter, SMALL};

const KEY: u32 = 0x5eed_cafe;

fn meter(sampling: Sampling, sample_key: u32) -> Meter {
    Meter::new(&Options {
        max_flows: 1 << 12,
        sampling,
        sample_key,
        ..SMALL
    })
}

fn one_in(n: u32) -> NonZeroU32 {
    NonZeroU32::new(n).expect("at least 1")
}

/// Jenkins' hash of 1996, octet by octet: `mix` three words, of 12 octets each round; the last round
/// has what is left, and the length in the lowest octet of the third word.
fn bob(octets: &[u8], initialiser: u32) -> u32 {
    fn mix([mut a, mut b, mut c]: [u32; 3]) -> [u32; 3] {
        for [first, second, third] in [[13, 8, 13], [12, 16, 5], [3, 10, 15]] {
            a = a.wrapping_sub(b.wrapping_add(c)) ^ (c >> first);
            b = b.wrapping_sub(c.wrapping_add(a)) ^ (a << second);
            c = c.wrapping_sub(a.wrapping_add(b)) ^ (b >> third);
        }
        [a, b, c]
    }
    fn add(state: &mut [u32; 3], position: usize, octet: u8) {
        let value = u32::from(octet) << (8 * (position % 4));
        state[position / 4] = state[position / 4].wrapping_add(value);
    }
    let mut state = [0x9e37_79b9, 0x9e37_79b9, initialiser];
    let (rounds, rest) = octets.as_chunks::<12>();
    for round in rounds {
        for (position, octet) in round.iter().enumerate() {
            add(&mut state, position, *octet);
        }
        state = mix(state);
    }
    state[2] = state[2].wrapping_add(octets.len() as u32);
    for (position, octet) in rest.iter().enumerate() {
        add(
            &mut state,
            if position < 8 { position } else { position + 1 },
            *octet,
        );
    }
    mix(state)[2]
}

#[test]
fn the_second_computation_takes_any_length() {
    // Each octet and the length matter.
    let octets: Vec<u8> = (1..=40).collect();
    let mut seen = std::collections::HashSet::new();
    for len in 0..=40 {
        assert!(seen.insert(bob(&octets[..len], KEY)));
        for i in 0..len {
            let mut other = octets[..len].to_vec();
            other[i] ^= 0x10;
            assert!(seen.insert(bob(&other, KEY)), "{len} {i}");
        }
    }
}

/// What of an IPv4 or IPv6 packet at `ip` is hashed, with its payload at `payload`.
fn content(frame: &[u8], ip: usize, payload: usize, protocol: u8) -> Vec<u8> {
    let (mut octets, end) = if frame[ip] >> 4 == 4 {
        let addresses = &frame[ip + 12..ip + 20];
        let id = &frame[ip + 4..ip + 6];
        let end = ip + usize::from(u16::from_be_bytes([frame[ip + 2], frame[ip + 3]]));
        ([addresses, id, &[protocol, 0]].concat(), end)
    } else {
        let addresses = &frame[ip + 8..ip + 40];
        let end = ip + 40 + usize::from(u16::from_be_bytes([frame[ip + 4], frame[ip + 5]]));
        ([addresses, &[protocol, 0, 0, 0]].concat(), end)
    };
    let mut carried = frame[payload..end][..(end - payload).min(24)].to_vec();
    carried.resize(24, 0);
    match protocol {
        6 => carried[16..18].fill(0),
        17 | 136 => carried[6..8].fill(0),
        1 | 58 => carried[2..4].fill(0),
        _ => {}
    }
    octets.extend(carried);
    octets
}

fn is_in_range(hash: u32, n: u32) -> bool {
    u64::from(hash) < (1 << 32) / u64::from(n)
}

/// Frames of one packet each, with where their IP header and its payload are, and the protocol.
fn frames() -> Vec<(Packet, usize, usize, u8)> {
    let mut frames = Vec::new();
    for i in 0..400_u16 {
        let v4 = Ip::new("10.0.0.1", "10.0.0.2").identification(i * 7);
        let v6 = Ip::new("2001:db8::1", "2001:db8::2");
        let size = usize::from(i % 40);
        frames.push((v4.udp(i, 53, size), 14, 34, 17));
        frames.push((v4.tcp(443, i, 0x10, size), 14, 34, 6));
        frames.push((v4.icmp(8, 0, usize::from(i)), 14, 34, 1));
        frames.push((v4.clone().options(2).udp(5, i, size), 14, 42, 17));
        frames.push((v4.other(47, size), 14, 34, 47));
        frames.push((v4.clone().tag(0x8100, 7).udp(i, 54, size), 18, 38, 17));
        frames.push((v6.udp(i, 53, size), 14, 54, 17));
        frames.push((v6.clone().extension(60, 1).tcp(i, 9, 2, size), 14, 62, 6));
        frames.push((v6.icmp(128, 0, usize::from(i)), 14, 54, 58));
    }
    frames
}

/// Which of `frames` the program meters.
fn metered(meter: &mut Meter, frames: &[&[u8]]) -> Vec<bool> {
    let mut before = meter.totals().accounted.packets;
    let selected = frames.iter().map(|frame| {
        meter.run(frame);
        let after = meter.totals().accounted.packets;
        let selected = after > before;
        before = after;
        selected
    });
    selected.collect()
}

#[test]
fn packets_are_selected_by_their_content() {
    let frames = frames();
    let octets: Vec<&[u8]> = frames
        .iter()
        .map(|(packet, ..)| &packet.frame[..])
        .collect();
    for n in [2, 7, 100] {
        let mut meter = meter(Sampling::Hash(one_in(n)), KEY);
        let selected = metered(&mut meter, &octets);
        for ((packet, ip, payload, protocol), selected) in frames.iter().zip(&selected) {
            let hash = bob(&content(&packet.frame, *ip, *payload, *protocol), KEY);
            assert_eq!(*selected, is_in_range(hash, n), "{:02x?}", packet.frame);
        }
        let count = selected.iter().filter(|selected| **selected).count();
        let expected = frames.len() as f64 / f64::from(n);
        // The packets are always the same ones.
        assert!(
            (count as f64 - expected).abs() < 5.0 * expected.sqrt(),
            "{count} of 1/{n}"
        );
        let selection = meter.shared().selection(0, 0);
        assert_eq!(
            (selection.observed, selection.selected),
            (frames.len() as u64, count as u64)
        );
        meter.assert_balanced();
        assert!(meter.flush().iter().all(|record| record.sampling_n == n));
    }
}

/// What hops change, and what cards fill in late, changes nothing; another key selects others.
#[test]
fn another_sensor_selects_the_same_packets() {
    let frames = frames();
    let here: Vec<&[u8]> = frames
        .iter()
        .map(|(packet, ..)| &packet.frame[..])
        .collect();
    let there: Vec<Vec<u8>> = frames
        .iter()
        .map(|(packet, ip, payload, protocol)| {
            let mut frame = packet.frame.clone();
            let ip = *ip;
            if frame[ip] >> 4 == 4 {
                frame[ip + 1] ^= 0xff; // type of service
                frame[ip + 8] -= 1; // TTL
                frame[ip + 10] ^= 0x33; // checksum
            } else {
                frame[ip + 1] ^= 0xff; // traffic class and flow label
                frame[ip + 2] ^= 0xff;
                frame[ip + 7] -= 1; // hop limit
            }
            match protocol {
                6 => frame[payload + 16] ^= 0x11,
                17 => frame[payload + 6] ^= 0x11,
                1 | 58 => frame[payload + 2] ^= 0x11,
                _ => {}
            }
            frame[0] ^= 4; // MAC address
            frame.extend([0xee; 9]); // padding
            // One tag more.
            [&frame[..12], &[0x81, 0, 0x20, 9], &frame[12..]].concat()
        })
        .collect();
    let there: Vec<&[u8]> = there.iter().map(|frame| &frame[..]).collect();
    let hash = Sampling::Hash(one_in(5));
    let selected = metered(&mut meter(hash, KEY), &here);
    assert_eq!(metered(&mut meter(hash, KEY), &there), selected);
    let others = metered(&mut meter(hash, KEY + 1), &here);
    let both = selected
        .iter()
        .zip(&others)
        .filter(|(a, b)| **a && **b)
        .count();
    let expected = frames.len() as f64 / 25.0;
    assert!(
        (both as f64 - expected).abs() < 6.0 * expected.sqrt(),
        "{both}"
    );
}

/// Where routers write the next hop of a list into the destination, that is in no hash.
#[test]
fn a_destination_that_changes_on_the_way_is_left_out() {
    let mut meter = meter(Sampling::Hash(one_in(2)), KEY);
    let mut selected = 0;
    for port in 0..200 {
        let to = |last: u8| {
            let v6 = Ip::new("2001:db8::1", &format!("2001:db8::{last}")).extension(43, 1);
            let v4 = Ip::new("10.0.0.1", &format!("10.0.0.{last}"));
            let v4 = v4.options_of(&[131, 7, 4, 10, 0, 0, 9, 0]);
            [v6.udp(port, 7, 9).frame, v4.udp(port, 7, 9).frame]
        };
        let frames = [to(2), to(3)].concat();
        let frames: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
        let metered = metered(&mut meter, &frames);
        assert_eq!(metered[..2], metered[2..], "port {port}");
        selected += metered.iter().filter(|one| **one).count();
    }
    assert!((300..500).contains(&selected), "{selected} of 800");
}

/// A conversation is selected as a whole, both ways, whatever its packets carry.
#[test]
fn flows_are_selected_whole() {
    const FLOWS: u16 = 600;
    const N: u32 = 4;
    let mut meter = meter(Sampling::Flow(one_in(N)), KEY);
    let mut selected_flows = 0;
    let mut turned = 0;
    for flow in 0..FLOWS {
        let (there, back) = if flow % 2 == 0 {
            let (a, b) = ("10.0.0.1", "10.0.0.2");
            (Ip::new(a, b), Ip::new(b, a))
        } else {
            let (a, b) = ("2001:db8::1", "2001:db8:7::2");
            (Ip::new(a, b), Ip::new(b, a))
        };
        let packets = [
            there.tcp(flow, 443, 2, 0),
            back.tcp(443, flow, 0x12, 0),
            there
                .clone()
                .ttl(9)
                .identification(5)
                .tcp(flow, 443, 0x10, 100),
            there.clone().traffic_class(8).tcp(flow, 443, 0x10, 9),
            back.clone().tag(0x8100, 6).tcp(443, flow, 0x11, 1),
        ];
        let frames: Vec<&[u8]> = packets.iter().map(|packet| &packet.frame[..]).collect();
        let selected = metered(&mut meter, &frames);
        assert!(
            selected.iter().all(|one| *one == selected[0]),
            "{selected:?}"
        );
        selected_flows += u32::from(selected[0]);
        // The same, the lesser end first.
        let hash = |a: &[u8], b: &[u8], ports: [u16; 2]| {
            let [p, q] = ports.map(u16::to_be_bytes);
            let tail = [6, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            bob(&[a, b, &p[..], &q[..], &tail[..]].concat(), KEY)
        };
        let frame = &packets[0].frame;
        let (a, b) = if flow % 2 == 0 {
            (&frame[26..30], &frame[30..34])
        } else {
            (&frame[22..38], &frame[38..54])
        };
        let either = [hash(a, b, [flow, 443]), hash(b, a, [443, flow])];
        let expected = either.map(|hash| is_in_range(hash, N));
        if expected[0] == expected[1] {
            assert_eq!(selected[0], expected[0]);
        } else {
            turned += 1;
        }
    }
    assert!(turned > 100, "{turned}: both orders have to be told apart");
    let expected = f64::from(FLOWS) / f64::from(N);
    let off = (f64::from(selected_flows) - expected) / (expected * 0.75).sqrt();
    assert!(off.abs() < 5.0, "{selected_flows}: {off}");
    let records = meter.flush();
    // Nothing of a flow is missing: three packets one way, two the other.
    let packets: u64 = records.iter().map(|record| record.packets).sum();
    assert_eq!(packets, u64::from(selected_flows) * 5);
    assert!(records.iter().all(|record| record.sampling_n == N));
    meter.assert_balanced();
}
