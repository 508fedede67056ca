//! Encoding takes no memory: thousands of records of every kind, in every format, without a single
//! allocation once the first messages are built.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    cell::Cell,
};

use flowprobe::{
    encode::{Fit, Stamp},
    ipfix::{
        self, Fields, Template,
        element::{self, Both},
    },
    netflow::{v5, v9},
    record::{Biflow, Direction, EndReason, FlowKey, FlowRecord},
};
use flowprobe_ebpf::{
    Addresses, Around, KeyV4, KeyV6, Marks, Packet, parse::tunnel::kind, sampling::Sampled,
};

thread_local! {
    /// Calls that took memory, of this thread: others belong to the test harness.
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// The system's allocator, which counts.
struct Counting;

impl Counting {
    fn count() {
        // A thread that ends has no counter any more, and nobody who asks for it.
        let _ = TAKEN.try_with(|taken| taken.set(taken.get() + 1));
    }
}

// SAFETY: each call goes to the system's allocator as it came, which keeps the contract; to count
// allocates nothing, since the counter is initialised in the binary and has no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller keeps to the contract of this same function.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller keeps to the contract of this same function.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, octets: usize) -> *mut u8 {
        Self::count();
        // SAFETY: the caller keeps to the contract of this same function.
        unsafe { System.realloc(memory, layout, octets) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps to the contract of this same function.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Flows in a round.
const RECORDS: u32 = 3000;
/// Octets of the largest message.
const OCTETS: u16 = 1352;
const NOW: Stamp = Stamp {
    unix_ms: 1_700_600_000_789,
    boot_unix_ms: 1_700_500_000_123,
};
/// Both versions of IP, elements that occur twice, and times apart from each other.
const FIELDS: &str = "flowEndMilliseconds,sourceIPv4Address,sourceIPv6Address,protocolIdentifier,\
    layer2SegmentId,dot1qVlanId,octetDeltaCount,flowStartMilliseconds";

fn addresses(v6: bool, number: u32) -> Addresses {
    let [a, b, c, d] = number.to_be_bytes();
    if v6 {
        let network = u64::from_ne_bytes([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0]);
        let host = u64::from_ne_bytes([0, 0, 0, 0, a, b, c, d]);
        Addresses::V6([network, host, network, 1_u64.to_be()])
    } else {
        Addresses::V4(u64::from_ne_bytes([10, b, c, d, 192, 0, 2, 1]))
    }
}

/// What may be around the packets: nothing, a second tag, or a tunnel of either version.
fn around(number: u32) -> Option<Around> {
    let tunnel = |v6| {
        let (outer_version, outer) = match addresses(v6, !number) {
            Addresses::V4(word) => (4, [word, 0, 0, 0]),
            Addresses::V6(words) => (6, words),
        };
        Around {
            tunnel: kind::VXLAN,
            tunnel_id: number & 0xff_ffff,
            outer_version,
            outer_protocol: 17,
            outer,
            ..Around::EMPTY
        }
    };
    match number / 2 % 4 {
        0 => None,
        1 => Some(Around {
            tags: 2,
            inner_vlans: [7, 0, 0],
            ..Around::EMPTY
        }),
        2 => Some(tunnel(false)),
        _ => Some(tunnel(true)),
    }
}

/// The flows by turns, so that each record opens another set than the one before.
fn record(number: u32) -> FlowRecord {
    let packet = Packet {
        ports: u32::from_ne_bytes([4, 0, 0, 53]),
        protocol: 17,
        vlan: 42,
        ..Packet::EMPTY
    };
    let class = Sampled::new(0, 1);
    let key = match addresses(number % 2 == 1, number) {
        Addresses::V4(word) => FlowKey::V4(KeyV4::new(word, &packet, 3, class)),
        Addresses::V6(words) => FlowKey::V6(KeyV6::new(words, &packet, 3, class)),
    };
    let key = around(number).map_or(key, |around| {
        let mut wide = key.widened();
        let version = wide.around().version;
        let words = *Around { version, ..around }.words();
        let first = wide.words.len() - words.len();
        wide.words[first..].copy_from_slice(&words);
        FlowKey::Wide(wide)
    });
    FlowRecord {
        key,
        packets: 10,
        // Now and then more than v5 has bits for, which is several records there.
        octets: if number.is_multiple_of(64) {
            1 << 34
        } else {
            1000
        },
        start_ms: NOW.unix_ms - 5000 - u64::from(number),
        end_ms: NOW.unix_ms - u64::from(number),
        reason: EndReason::IdleTimeout,
        marks: Marks::default(),
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 0, 2],
        sampling_n: 1 + number / 16 % 2,
        biflow: Biflow::None,
        route: None,
    }
}

/// What a format does to records.
trait Encodes {
    fn flow(&mut self, record: &FlowRecord) -> Fit;
    fn message(&mut self) -> usize;
    fn template(&mut self, template: &Template) -> bool;
}

macro_rules! encodes {
    ($($encoder:ty),+) => {$(
        impl Encodes for $encoder {
            fn flow(&mut self, record: &FlowRecord) -> Fit {
                self.flow(record)
            }

            fn message(&mut self) -> usize {
                let octets = self.message(NOW).len();
                self.commit();
                octets
            }

            fn template(&mut self, template: &Template) -> bool {
                self.template(template)
            }
        }
    )+};
}
encodes!(ipfix::Encoder, v9::Encoder, v5::Encoder);

/// Encodes each record as the forward half of a biflow, and as the reverse half too.
struct Biflows(ipfix::Encoder);

impl Encodes for Biflows {
    fn flow(&mut self, record: &FlowRecord) -> Fit {
        self.0.biflow(&Both {
            forward: record,
            reverse: record,
            direction: Direction::Initiator,
        })
    }

    fn message(&mut self) -> usize {
        Encodes::message(&mut self.0)
    }

    fn template(&mut self, template: &Template) -> bool {
        self.0.template(template)
    }
}

/// What came of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Round {
    records: u32,
    never: u32,
    messages: u32,
    octets: usize,
}

/// All records into messages.
fn encode<E: Encodes>(encoder: &mut E, records: &[FlowRecord]) -> Round {
    let mut round = Round::default();
    let send = |encoder: &mut E, round: &mut Round| {
        round.octets += encoder.message();
        round.messages += 1;
    };
    for record in records {
        loop {
            match encoder.flow(record) {
                Fit::In => round.records += 1,
                Fit::Never(_) => round.never += 1,
                Fit::Full => {
                    send(encoder, &mut round);
                    continue;
                }
            }
            break;
        }
    }
    send(encoder, &mut round);
    round
}

/// Encodes all records twice: the first time memory may be taken.
#[track_caller]
fn assert_takes_nothing<E: Encodes>(name: &str, mut encoder: E, never: u32) {
    for template in &element::ALL {
        if !encoder.template(template) {
            encoder.message();
            assert!(encoder.template(template));
        }
    }
    encoder.message();
    let records: Vec<_> = (0..RECORDS).map(record).collect();
    let first = encode(&mut encoder, &records);
    let before = TAKEN.get();
    let second = encode(&mut encoder, &records);
    assert_eq!(TAKEN.get() - before, 0, "{name}: allocations in {second:?}");
    assert_eq!(first, second, "{name}");
    assert_eq!(
        (first.records, first.never),
        (RECORDS - never, never),
        "{name}"
    );
    assert!(first.messages > 50, "{name}: {first:?}");
}

fn ipfix(fields: Option<Fields>, dot1q: bool) -> ipfix::Encoder {
    let mut encoder = ipfix::Encoder::new(7, OCTETS).expect("large enough");
    encoder.use_fields(fields);
    encoder.use_dot1q(dot1q);
    encoder
}

fn v9(fields: Option<&Fields>, dot1q: bool) -> v9::Encoder {
    let mut encoder = v9::Encoder::new(7, OCTETS).expect("large enough");
    encoder.use_fields(fields);
    encoder.use_dot1q(dot1q);
    encoder
}

#[test]
fn the_counter_counts() {
    let before = TAKEN.get();
    let memory = std::hint::black_box(vec![0_u8; 100]);
    assert_eq!(TAKEN.get() - before, 1, "{}", memory.len());
}

#[test]
fn no_record_takes_memory() {
    let fields: Fields = FIELDS.parse().expect("fields");
    let of_biflows = format!("{FIELDS},reverseOctetDeltaCount,reversePacketDeltaCount");
    let of_biflows: Fields = of_biflows.parse().expect("fields");
    for dot1q in [false, true] {
        assert_takes_nothing("IPFIX", ipfix(None, dot1q), 0);
        assert_takes_nothing("IPFIX with fields", ipfix(Some(fields.clone()), dot1q), 0);
        for fields in [None, Some(of_biflows.clone())] {
            let mut encoder = ipfix(fields, dot1q);
            encoder.use_biflows().expect("large enough");
            assert_takes_nothing("biflows", Biflows(encoder), 0);
        }
        assert_takes_nothing("v9", v9(None, dot1q), 0);
        assert_takes_nothing("v9 with fields", v9(Some(&fields), dot1q), 0);
    }
    let v5 = v5::Encoder::new(7, OCTETS).expect("large enough");
    // It has no flows of IPv6, every second one.
    assert_takes_nothing("v5", v5, RECORDS / 2);
}
