//! NetFlow v5: a header and up to 30 records of a fixed form, from Cisco's documentation ("NetFlow
//! Export Datagram Format", tables of the version 5 header and flow record).
//!
//! It has places for the flows of IPv4 alone, and in those for the key without the VLAN, tunnel or
//! labels, the counters, the times, and the TCP flags.
//!
//! | | here |
//! |---|---|
//! | IPv6 | never sent, and counted by that reason; what is inside a tunnel decides |
//! | ICMP | type · 256 + code in the destination port, where collectors look for it |
//! | counters of more than 32 bits | several records, whose sums are exact |
//! | interface with an index above 65535 | 0, as one that is unknown |
//! | way in, way out | the interface on which the flow was seen, the other one 0 |
//! | next hop, autonomous systems, prefix lengths | 0 |
//! | engine | the identifier is the low octet of the observation domain; the type is 0, and another for each other sampling rate |
//! | sampling, one packet in n | mode (1 deterministic, 2 random) and n |
//! | n above 16383 | never sent, and counted by that reason: totals would be wrong |
//! | no sampling | mode 0 and n = 1, which multiplies right in a collector that has no case for 0 |
//!
//! The first two bits of the sampling field are its mode and the other 14 the interval, in Cisco's
//! words; the modes are named in Wireshark (1 "Packet Interval", 2 "Random"). nfdump, nfacctd, tshark
//! and goflow2 take n from the 14 bits whatever the mode. Akvorado takes all 16 bits for n, and so
//! is wrong about every exporter that samples: use IPFIX with it.
//!
//! What collectors make of it, tried with the messages of this encoder:
//!
//! | | nfdump 1.7.1 | nfacctd 1.7.7 | tshark 4.0.17 |
//! |---|---|---|---|
//! | every field | all but a next hop and a way out of 0 | all | all |
//! | times | to the millisecond | to the second, as for every v5 | by uptime |
//! | rate | scales | scales | shown with its mode |
//! | a rate that changes | by engine | from the new header on | shown |
//! | records that are missing | counts it | | |

use std::net::IpAddr;

use super::{
    TIME,
    uptime::{Misfit, Span},
};
use crate::{
    encode::{Fit, Mark, Stamp, TooSmall},
    ipfix::{Template, options::OptionsRecord},
    record::FlowRecord,
    sampling::Sampling,
};

/// Octets of the message header.
pub const HEADER: usize = 24;
/// Octets of a record.
pub const RECORD: usize = 48;
/// Records in a message, at most.
pub const MAX_RECORDS: u16 = 30;
/// Smallest message: one record.
pub const MIN_OCTETS: usize = HEADER + RECORD;

/// Version in the header.
const VERSION: u16 = 5;
/// The largest sampling interval that 14 bits hold.
const MAX_INTERVAL: u32 = (1 << 14) - 1;

/// Builds the messages of one exporter and engine, one at a time.
///
/// As [`crate::ipfix::Encoder`]: records go in until one does not fit, [`Self::message`] is what to
/// send, and then [`Self::commit`] or [`Self::discard`] starts the next message.
#[derive(Debug)]
pub struct Encoder {
    engine_id: u8,
    /// As long as the largest message.
    buffer: Box<[u8]>,
    /// Records in the message.
    count: u16,
    /// Records in all committed messages, modulo 2³².
    sequence: u32,
    /// Parts of the oldest flow that is not in whole, in committed messages.
    committed: u64,
    /// The same with the message at hand.
    progress: u64,
    /// Of all flows in the message.
    interval: u16,
    /// Mode and interval of each engine so far.
    engines: Vec<u16>,
    /// See [`Self::select_by`].
    mode: u8,
    span: Span,
    /// Of the records in the message.
    times: [(u64, u64); MAX_RECORDS as usize],
}

/// Room for a message of at most so many octets.
fn buffer(octets: usize) -> Box<[u8]> {
    let records = ((octets - HEADER) / RECORD).min(MAX_RECORDS.into());
    vec![0; HEADER + records * RECORD].into_boxed_slice()
}

impl Encoder {
    /// An encoder whose messages have at most `max_octets`.
    ///
    /// # Errors
    /// If that is less than [`MIN_OCTETS`].
    pub fn new(observation_domain: u32, max_octets: u16) -> Result<Self, TooSmall> {
        let octets = usize::from(max_octets);
        if octets < MIN_OCTETS {
            return Err(TooSmall {
                octets,
                least: MIN_OCTETS,
            });
        }
        Ok(Self {
            engine_id: observation_domain as u8,
            buffer: buffer(octets),
            count: 0,
            sequence: 0,
            committed: 0,
            progress: 0,
            interval: 0,
            engines: Vec::new(),
            mode: Sampling::All.mode(),
            span: Span::default(),
            times: [(0, 0); MAX_RECORDS as usize],
        })
    }

    /// Messages have at most `max_octets` from here on. The message at hand has to be empty.
    ///
    /// # Errors
    /// If that is less than [`MIN_OCTETS`]; nothing has changed then.
    pub fn fit(&mut self, max_octets: u16) -> Result<(), TooSmall> {
        let octets = usize::from(max_octets);
        if octets < MIN_OCTETS {
            return Err(TooSmall {
                octets,
                least: MIN_OCTETS,
            });
        }
        debug_assert!(
            self.is_empty(),
            "what is in the message may not fit any more"
        );
        self.buffer = buffer(octets);
        Ok(())
    }

    /// The flows from here on were sampled in this way. How many packets each stands for is in the
    /// flows themselves.
    pub fn select_by(&mut self, sampling: Sampling) {
        self.mode = sampling.mode();
    }

    /// Does nothing: v5 has no templates.
    #[must_use]
    pub fn template(&mut self, _: &Template) -> bool {
        true
    }

    /// Does nothing: v5 has no templates.
    #[must_use]
    pub fn withdraw(&mut self, _: &Template) -> bool {
        true
    }

    /// Does nothing: v5 has no options.
    #[must_use]
    pub fn options<R: OptionsRecord>(&mut self, _: &R) -> bool {
        true
    }

    /// Adds a flow record, in as many parts as its counters need. Where the message is full before
    /// the last of them, the next message has to begin with the others.
    pub fn flow(&mut self, record: &FlowRecord) -> Fit {
        let ends = (record.key.source(), record.key.destination());
        let (IpAddr::V4(source), IpAddr::V4(destination)) = ends else {
            return Fit::Never("ipv6");
        };
        if record.sampling_n > MAX_INTERVAL {
            return Fit::Never("sampling_rate");
        }
        let interval = record.sampling_n as u16;
        let span = match self.span.with(record) {
            Ok(span) => span,
            Err(Misfit::Apart) => return Fit::Full,
            Err(Misfit::Ever) => return Fit::Never(TIME),
        };
        let other_rate = !self.is_empty() && self.interval != interval;
        if other_rate || self.remaining() < RECORD {
            return Fit::Full;
        }
        let parts = Parts::of(record);
        let done = if self.is_empty() { self.committed } else { 0 };
        self.interval = interval;
        self.span = span;
        for part in done..parts.count {
            if self.remaining() < RECORD {
                self.progress = part;
                return Fit::Full;
            }
            let (packets, octets) = parts.part(part);
            let addresses = [source.octets(), destination.octets()];
            self.push(record, addresses, packets, octets);
        }
        self.progress = 0;
        Fit::In
    }

    fn push(&mut self, record: &FlowRecord, addresses: [[u8; 4]; 2], packets: u32, octets: u32) {
        let key = &record.key;
        let start = HEADER + usize::from(self.count) * RECORD;
        let to = &mut self.buffer[start..start + RECORD];
        // What is not written here is 0, and stays so.
        to[..4].copy_from_slice(&addresses[0]);
        to[4..8].copy_from_slice(&addresses[1]);
        let route = record.route.unwrap_or_default();
        let next_hop = match route.next_hop {
            Some(IpAddr::V4(next_hop)) => next_hop.octets(),
            _ => [0; 4],
        };
        to[8..12].copy_from_slice(&next_hop);
        // One of both, since a packet is seen coming in or going out, but for what a route says.
        let interface = |index| u16::try_from(index).unwrap_or(UNKNOWN_INTERFACE);
        to[12..14].copy_from_slice(&interface(key.ingress()).to_be_bytes());
        to[14..16].copy_from_slice(&interface(record.egress()).to_be_bytes());
        to[16..20].copy_from_slice(&packets.to_be_bytes());
        to[20..24].copy_from_slice(&octets.to_be_bytes());
        // 24..32: the times, when those of the header are known.
        to[32..34].copy_from_slice(&key.source_port().to_be_bytes());
        to[34..36].copy_from_slice(&key.destination_port().to_be_bytes());
        to[37] = record.marks.tcp_flags;
        to[38] = key.protocol();
        to[39] = key.traffic_class();
        // 40..44: autonomous systems.
        to[44] = route.source_prefix;
        to[45] = route.destination_prefix;
        let times = (record.start_ms.min(record.end_ms), record.end_ms);
        self.times[usize::from(self.count)] = times;
        self.count += 1;
    }

    /// Octets that are left for records.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.buffer.len() - self.length()
    }

    fn length(&self) -> usize {
        HEADER + usize::from(self.count) * RECORD
    }

    /// Whether nothing has been added since the last message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// How far it has come: the sequence number of the next message is the number of records in
    /// all messages committed.
    #[must_use]
    pub fn mark(&self) -> Mark {
        Mark {
            sequence: self.sequence,
            parts: self.committed,
        }
    }

    /// Goes to where it was, or would have been. The message at hand is gone.
    pub fn go_to(&mut self, mark: Mark) {
        self.sequence = mark.sequence;
        self.committed = mark.parts;
        self.discard();
    }

    /// Records in the message at hand, by which [`Self::commit`] will advance the sequence number.
    #[must_use]
    pub fn units(&self) -> u32 {
        self.count.into()
    }

    /// The message as it goes out now.
    ///
    /// Records may still be added to it afterwards.
    pub fn message(&mut self, now: Stamp) -> &[u8] {
        let length = self.length();
        let times = self.span.header(now);
        let sampling = self.sampling();
        let engine_type = self.engine_type(sampling);
        let records = self.buffer[HEADER..].chunks_exact_mut(RECORD);
        for (to, (start_ms, end_ms)) in records.zip(&self.times[..usize::from(self.count)]) {
            to[24..28].copy_from_slice(&times.uptime_at(*start_ms).to_be_bytes());
            to[28..32].copy_from_slice(&times.uptime_at(*end_ms).to_be_bytes());
        }
        let header = &mut self.buffer[..HEADER];
        header.fill(0);
        header[..2].copy_from_slice(&VERSION.to_be_bytes());
        header[2..4].copy_from_slice(&self.count.to_be_bytes());
        header[4..8].copy_from_slice(&times.uptime_ms.to_be_bytes());
        header[8..12].copy_from_slice(&times.unix_s().to_be_bytes());
        // 12..16: nanoseconds, of which a whole second has none.
        header[16..20].copy_from_slice(&self.sequence.to_be_bytes());
        header[20] = engine_type;
        header[21] = self.engine_id;
        header[22..].copy_from_slice(&sampling.to_be_bytes());
        &self.buffer[..length]
    }

    /// The sampling of the message: mode in two bits, and one packet in how many.
    fn sampling(&self) -> u16 {
        if self.interval <= 1 {
            // Not sampled, so in no mode.
            return 1;
        }
        u16::from(self.mode) << 14 | self.interval
    }

    /// The type of engine: 0 where the sampling never changes, and then one for each that there was.
    ///
    /// nfdump reads the rate of an engine from its first message, and never again: were all rates
    /// of one engine, it would multiply all flows by the first. To have an old rate again is its
    /// old engine. The sequence number counts the records of all engines, so that nfdump counts one
    /// false gap then. Rates after the 255th share the last engine.
    fn engine_type(&mut self, sampling: u16) -> u8 {
        let known = self.engines.iter().position(|known| *known == sampling);
        let engine = known.unwrap_or_else(|| {
            let next = self.engines.len();
            if next < usize::from(u8::MAX) {
                self.engines.push(sampling);
            }
            next
        });
        engine as u8
    }

    /// The message is sent, or lost for good: its records have their numbers, so that a collector
    /// that does not get them sees the gap.
    pub fn commit(&mut self) {
        self.sequence = self.sequence.wrapping_add(self.units());
        self.committed = self.progress;
        self.discard();
    }

    /// The message was never sent: its records will be encoded again.
    pub fn discard(&mut self) {
        self.count = 0;
        self.progress = self.committed;
        self.span = Span::default();
    }
}

/// An interface whose index has more than 16 bits.
const UNKNOWN_INTERFACE: u16 = 0;

/// A flow in records whose counters have 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Parts {
    packets: u64,
    octets: u64,
    /// How many, at least 1.
    count: u64,
}

impl Parts {
    fn of(record: &FlowRecord) -> Self {
        const MOST: u64 = u32::MAX as u64;
        let most = record.packets.max(record.octets);
        Self {
            packets: record.packets,
            octets: record.octets,
            count: most.div_ceil(MOST).max(1),
        }
    }

    /// Packets and octets of a part. All parts add up to the flow, and none differs from another
    /// by more than one, so that none is without packets as long as there are enough.
    fn part(self, part: u64) -> (u32, u32) {
        let share = |of: u64| {
            let until = |part: u64| u128::from(of) * u128::from(part) / u128::from(self.count);
            (until(part + 1) - until(part)) as u32
        };
        (share(self.packets), share(self.octets))
    }
}
