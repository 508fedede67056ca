//! Keys, made from packets and read back.

use flowprobe_ebpf::{
    Addresses, Around, KeyV4, KeyV6, KeyWide, Packet,
    key::{EGRESS, Key, MAX_WORDS},
    parse::AROUND_WORDS,
    sampling::Sampled,
};
use proptest::prelude::*;

/// What makes a packet's key, but for the addresses.
#[derive(Clone, Copy, Debug)]
struct Rest {
    ports: (u16, u16),
    protocol: u8,
    traffic_class: u8,
    vlan: u16,
    /// And the direction, as a bit.
    ifindex: u32,
    sampled: Sampled,
}

fn rest() -> impl Strategy<Value = Rest> {
    let ports = any::<(u16, u16)>();
    let octets = any::<(u8, u8)>();
    (ports, octets, 0..4096_u16, any::<(u32, u32)>()).prop_map(
        |(ports, (protocol, traffic_class), vlan, (ifindex, sampled))| Rest {
            ports,
            protocol,
            traffic_class,
            vlan,
            ifindex,
            sampled: Sampled(sampled),
        },
    )
}

/// A packet with everything beside the key set, so that it would show in one.
fn packet(addresses: Addresses, rest: &Rest) -> Packet {
    let [a, b] = rest.ports.0.to_be_bytes();
    let [c, d] = rest.ports.1.to_be_bytes();
    Packet {
        addresses,
        ports: u32::from_ne_bytes([a, b, c, d]),
        protocol: rest.protocol,
        traffic_class: rest.traffic_class,
        vlan: rest.vlan,
        ttl: 0xff,
        tcp_flags: 0xff,
        octets: 0xffff_ffff,
        flow_label: 0xf_ffff,
        options: 0xffff_ffff,
        fragment_flags: 0xff,
        priorities: 0xff,
        more: 0xffff_ffff,
    }
}

fn key_v4(addresses: [u8; 8], rest: &Rest) -> KeyV4 {
    let word = u64::from_ne_bytes(addresses);
    let packet = packet(Addresses::V4(word), rest);
    KeyV4::new(word, &packet, rest.ifindex, rest.sampled)
}

fn key_v6(addresses: [u8; 32], rest: &Rest) -> KeyV6 {
    let (words, _) = addresses.as_chunks::<8>();
    let words = core::array::from_fn(|i| u64::from_ne_bytes(words[i]));
    let packet = packet(Addresses::V6(words), rest);
    KeyV6::new(words, &packet, rest.ifindex, rest.sampled)
}

macro_rules! assert_reads_back {
    ($key:expr, $addresses:expr, $rest:expr) => {{
        let (key, addresses, rest) = ($key, $addresses, $rest);
        let (source, destination) = addresses.split_at(addresses.len() / 2);
        prop_assert_eq!(&key.source()[..], source);
        prop_assert_eq!(&key.destination()[..], destination);
        prop_assert_eq!(key.source_port(), rest.ports.0);
        prop_assert_eq!(key.destination_port(), rest.ports.1);
        prop_assert_eq!(key.protocol(), rest.protocol);
        prop_assert_eq!(key.traffic_class(), rest.traffic_class);
        prop_assert_eq!(key.vlan(), rest.vlan);
        prop_assert_eq!(key.ifindex(), rest.ifindex & !EGRESS);
        prop_assert_eq!(key.sampled(), rest.sampled);
    }};
}

proptest! {
    #[test]
    fn v4_reads_back(addresses in any::<[u8; 8]>(), rest in rest()) {
        let key = key_v4(addresses, &rest);
        assert_reads_back!(key, addresses, rest);
        let mut place = [7; MAX_WORDS];
        key.write(&mut place);
        prop_assert_eq!(&place[3..], &[7; MAX_WORDS - 3]);
        prop_assert_eq!(KeyV4::read(&place), key);
        let wide = key.widened();
        let octets = key.source().iter().chain(&key.destination()).copied().collect::<Vec<_>>();
        prop_assert_eq!(wide.v4().map(|both| both.concat()), Some(octets));
        prop_assert_eq!(wide.around(), Around { version: 4, ..Around::EMPTY });
        prop_assert_eq!((wide.vlan(), wide.sampled()), (key.vlan(), key.sampled()));
    }

    #[test]
    fn v6_reads_back(addresses in any::<[u8; 32]>(), rest in rest()) {
        let key = key_v6(addresses, &rest);
        assert_reads_back!(key, addresses, rest);
        let mut place = [7; MAX_WORDS];
        key.write(&mut place);
        prop_assert_eq!(&place[6..], &[7; AROUND_WORDS]);
        prop_assert_eq!(KeyV6::read(&place), key);
        let wide = key.widened();
        prop_assert_eq!(wide.v6(), Some([key.source(), key.destination()]));
        prop_assert_eq!(wide.around(), Around { version: 6, ..Around::EMPTY });
        prop_assert_eq!((wide.vlan(), wide.sampled()), (key.vlan(), key.sampled()));
    }

    #[test]
    fn wide_reads_back(
        addresses in any::<[u8; 32]>(),
        v6 in any::<bool>(),
        rest in rest(),
        around in any::<[u64; AROUND_WORDS]>(),
    ) {
        let around = Around {
            version: if v6 { 6 } else { 4 },
            ..Around::from_words(around)
        };
        let (words, _) = addresses.as_chunks::<8>();
        let words: [u64; 4] = core::array::from_fn(|i| u64::from_ne_bytes(words[i]));
        let packet = packet(
            if v6 { Addresses::V6(words) } else { Addresses::V4(words[0]) },
            &rest,
        );
        let key = KeyWide::new(&packet, &around, rest.ifindex, rest.sampled);
        prop_assert_eq!(key.around(), around);
        let (source, destination) = addresses.split_at(16);
        let as_v6 = [source, destination].map(|address| address.try_into().unwrap());
        let as_v4 = [&source[..4], &source[4..8]].map(|address| address.try_into().unwrap());
        prop_assert_eq!(key.v6(), v6.then_some(as_v6));
        prop_assert_eq!(key.v4(), (!v6).then_some(as_v4));
        prop_assert_eq!(key.source_port(), rest.ports.0);
        prop_assert_eq!(key.destination_port(), rest.ports.1);
        prop_assert_eq!(key.protocol(), rest.protocol);
        prop_assert_eq!(key.traffic_class(), rest.traffic_class);
        prop_assert_eq!(key.vlan(), rest.vlan);
        prop_assert_eq!(key.ifindex(), rest.ifindex & !EGRESS);
        prop_assert_eq!(key.sampled(), rest.sampled);
        let mut place = [7; MAX_WORDS];
        key.write(&mut place);
        prop_assert_eq!(KeyWide::read(&place), key);
        // It becomes the same key wherever another has been.
        let mut again = KeyWide { words: [u64::MAX; MAX_WORDS] };
        again.set(&packet, &around, rest.ifindex, rest.sampled);
        prop_assert_eq!(again, key);
    }

    #[test]
    fn wide_keys_differ_in_every_bit(words in any::<[u64; MAX_WORDS]>(), bit in 0..64 * MAX_WORDS) {
        let key = KeyWide { words };
        let mut other = key;
        other.words[bit / 64] ^= 1 << (bit % 64);
        prop_assert!(key.same(&key));
        prop_assert!(!key.same(&other));
    }

    #[test]
    fn v4_keys_differ_in_every_bit(addresses in any::<[u8; 8]>(), rest in rest(), bit in 0..192_usize) {
        let key = key_v4(addresses, &rest);
        let mut other = key;
        other.words[bit / 64] ^= 1 << (bit % 64);
        prop_assert!(key.same(&key));
        prop_assert!(!key.same(&other));
    }

    #[test]
    fn v6_keys_differ_in_every_bit(addresses in any::<[u8; 32]>(), rest in rest(), bit in 0..384_usize) {
        let key = key_v6(addresses, &rest);
        let mut other = key;
        other.words[bit / 64] ^= 1 << (bit % 64);
        prop_assert!(key.same(&key));
        prop_assert!(!key.same(&other));
    }
}
