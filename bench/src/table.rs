//! `table`: what a packet costs in the flow table of captures, alone and in bursts, and in a hash map.
//!
//! Packets are those of random flows, made as they go. All ways are measured in turns, in one run and
//! with the same packets, so that their ratios hold on a machine that others use too. Times are those of
//! this thread's CPU.
//!
//! The map is hashbrown's, with the hash that it comes with, keys and statistics of the same octets, and
//! nothing else: no flow of it is ever due. It has no way to fetch ahead; in bursts, a look-up by tag alone
//! finds what is most likely needed.

use std::{hash::BuildHasher as _, time::Duration};

use anyhow::{Result, ensure};
use flowprobe::{
    record::EndReason,
    table::{
        Flow, LocalTable, Timeouts,
        local::{BURST, Leave},
    },
};
use flowprobe_ebpf::{
    Addresses, Counters, KeyV4, Marks, Packet, flow::Macs, hash::SECRET_WORDS, key::Key as _,
    sampling::Sampled, wire::protocol,
};
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::timing::thread_cpu_ns;

/// Measure a packet in the table of captures.
#[derive(clap::Args)]
pub(crate) struct TableArgs {
    /// Flows in the table
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1 << 16, 1 << 20, 1 << 22])]
    flows: Vec<u32>,
    /// Rounds of each; the least and the median are told
    #[arg(long, value_name = "N", default_value_t = 9)]
    rounds: usize,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Packets of a round.
const PACKETS: u64 = 4_000_000;
/// Nanoseconds between two packets: the flows go on for longer than all rounds.
const GAP_NS: u64 = 1;

/// Nobody: no flow leaves while it is measured.
#[derive(Default)]
struct Left(u64);

impl Leave for Left {
    fn leave(&mut self, _: &Flow, _: EndReason) {
        self.0 += 1;
    }
}

/// Packets of random flows.
struct Traffic {
    flows: u32,
    at_ns: u64,
    /// Marsaglia's xorshift64.
    state: u64,
}

impl Traffic {
    fn new(flows: u32) -> Self {
        Self {
            flows,
            at_ns: 0,
            state: 1,
        }
    }

    /// A packet of a flow, and its stamp.
    #[inline(always)]
    fn packet(&mut self, flow: u32) -> (Packet, u64) {
        self.at_ns += GAP_NS;
        let packet = Packet {
            addresses: Addresses::V4(spread(flow.into())),
            octets: 100,
            protocol: protocol::UDP,
            ttl: 64,
            ..Packet::EMPTY
        };
        (packet, self.at_ns)
    }

    #[inline(always)]
    fn next(&mut self) -> (Packet, u64) {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let flow = (((self.state >> 32) * u64::from(self.flows)) >> 32) as u32;
        self.packet(flow)
    }
}

/// Somewhere to account packets.
trait Subject {
    /// All flows, once.
    fn fill(&mut self, traffic: &mut Traffic);
    /// So many packets of `traffic`.
    fn account(&mut self, traffic: &mut Traffic, packets: u64);
}

/// The table, of which so many packets wait at most.
struct Table {
    table: LocalTable,
    burst: usize,
    left: Left,
}

impl Table {
    fn new(flows: u32, burst: usize) -> Self {
        let timeouts = Timeouts {
            idle: Duration::from_secs(3600),
            active: Duration::from_secs(3600),
            linger: Duration::from_secs(1),
        };
        let secret = std::array::from_fn::<u64, SECRET_WORDS, _>(|i| spread(i as u64 + 1));
        Self {
            table: LocalTable::new(flows, timeouts.into(), secret),
            burst,
            left: Left::default(),
        }
    }
}

impl Subject for Table {
    fn fill(&mut self, traffic: &mut Traffic) {
        for flow in 0..traffic.flows {
            let (packet, at_ns) = traffic.packet(flow);
            let (macs, left) = (Macs::default(), &mut self.left);
            self.table.push_plain(&packet, 0, macs, at_ns, left);
        }
        self.table.settle(&mut self.left);
    }

    fn account(&mut self, traffic: &mut Traffic, packets: u64) {
        for _ in 0..packets {
            let (packet, at_ns) = traffic.next();
            let (macs, left) = (Macs::default(), &mut self.left);
            self.table.push_plain(&packet, 0, macs, at_ns, left);
            if self.burst == 1 {
                self.table.settle(&mut self.left);
            }
        }
        self.table.settle(&mut self.left);
    }
}

/// hashbrown's table.
struct Map {
    table: HashTable<Kept>,
    hasher: DefaultHashBuilder,
    burst: usize,
}

/// What is kept of a flow there.
struct Kept {
    key: KeyV4,
    counters: Counters,
    marks: Marks,
}

impl Map {
    fn new(flows: u32, burst: usize) -> Self {
        Self {
            table: HashTable::with_capacity(flows as usize),
            hasher: DefaultHashBuilder::default(),
            burst,
        }
    }

    #[inline(always)]
    fn look_up(&self, packet: &Packet) -> (KeyV4, u64) {
        let key = match packet.addresses {
            Addresses::V4(addresses) => KeyV4::new(addresses, packet, 0, Sampled::default()),
            Addresses::V6(_) => KeyV4::default(),
        };
        (key, self.hasher.hash_one(key))
    }

    /// Fetches the flow that a hash most likely has, by its tag: as near as one comes to it.
    #[inline(always)]
    fn fetch(&self, hash: u64) {
        self.table.find(hash, |kept| {
            #[cfg(target_arch = "x86_64")]
            {
                use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
                let at = std::ptr::from_ref(kept).cast::<i8>();
                // SAFETY: a hint, which faults nowhere.
                unsafe {
                    _mm_prefetch::<_MM_HINT_T0>(at);
                    _mm_prefetch::<_MM_HINT_T0>(at.wrapping_add(size_of::<Kept>() - 1));
                }
            }
            #[cfg(not(target_arch = "x86_64"))]
            std::hint::black_box(kept);
            true
        });
    }

    #[inline(always)]
    fn add(&mut self, (key, hash): (KeyV4, u64), packet: &Packet, at_ns: u64) {
        match self.table.find_mut(hash, |kept| kept.key.same(&key)) {
            Some(kept) => {
                kept.counters.add(packet, at_ns);
                kept.marks.add(packet);
            }
            None => self.insert((key, hash), packet, at_ns),
        }
    }

    #[cold]
    fn insert(&mut self, (key, hash): (KeyV4, u64), packet: &Packet, at_ns: u64) {
        let kept = Kept {
            key,
            counters: Counters::first(packet, at_ns),
            marks: Marks::first(packet),
        };
        let hasher = |kept: &Kept| self.hasher.hash_one(kept.key);
        self.table.insert_unique(hash, kept, hasher);
    }
}

impl Subject for Map {
    fn fill(&mut self, traffic: &mut Traffic) {
        for flow in 0..traffic.flows {
            let (packet, at_ns) = traffic.packet(flow);
            self.add(self.look_up(&packet), &packet, at_ns);
        }
    }

    fn account(&mut self, traffic: &mut Traffic, packets: u64) {
        if self.burst == 1 {
            for _ in 0..packets {
                let (packet, at_ns) = traffic.next();
                self.add(self.look_up(&packet), &packet, at_ns);
            }
            return;
        }
        let mut waiting = [((KeyV4::default(), 0), Packet::EMPTY, 0); BURST];
        for _ in 0..packets / BURST as u64 {
            for (found, packet, at_ns) in &mut waiting {
                (*packet, *at_ns) = traffic.next();
                *found = self.look_up(packet);
            }
            for ((_, hash), ..) in &waiting {
                self.fetch(*hash);
            }
            for (found, packet, at_ns) in &waiting {
                self.add(*found, packet, *at_ns);
            }
        }
    }
}

/// Nanoseconds of a packet in a round.
fn round(subject: &mut dyn Subject, traffic: &mut Traffic) -> Result<f64> {
    let start_ns = thread_cpu_ns()?;
    subject.account(traffic, PACKETS);
    Ok((thread_cpu_ns()? - start_ns) as f64 / PACKETS as f64)
}

/// Different numbers for different ones, all over the 64 bits.
fn spread(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(crate) fn run(args: &TableArgs) -> Result<()> {
    ensure!(args.rounds > 0, "--rounds 0 measures nothing");
    let mut rows = Vec::new();
    for &flows in &args.flows {
        let mut tables = [1, BURST].map(|burst| Table::new(flows, burst));
        let mut maps = [1, BURST].map(|burst| Map::new(flows, burst));
        let [alone, bursts] = &mut tables;
        let [map_alone, map_bursts] = &mut maps;
        let subjects: [(&str, &mut dyn Subject); 4] = [
            ("burst_1", alone),
            ("burst_64", bursts),
            ("hashbrown_1", map_alone),
            ("hashbrown_64", map_bursts),
        ];
        let mut subjects = subjects.map(|(name, subject)| {
            let mut traffic = Traffic::new(flows);
            subject.fill(&mut traffic);
            (name, subject, traffic, Vec::new())
        });
        for _ in 0..args.rounds {
            for (_, subject, traffic, rounds) in &mut subjects {
                rounds.push(round(*subject, traffic)?);
            }
        }
        let mut row = serde_json::json!({ "flows": flows });
        for (name, .., mut rounds) in subjects {
            rounds.sort_unstable_by(f64::total_cmp);
            let (least, median) = (rounds[0], rounds[rounds.len() / 2]);
            row[name] = serde_json::json!({ "min_ns": least, "median_ns": median });
            if !args.json {
                println!(
                    "{flows:>8} flows, {name:>12}: {least:6.1} ns a packet (median {median:.1})"
                );
            }
        }
        for Table { table, left, .. } in &tables {
            ensure!(left.0 == 0, "{} flows left meanwhile", left.0);
            let octets = table.peak_octets() as f64 / f64::from(flows.max(1));
            row["octets_a_flow"] = octets.into();
        }
        rows.push(row);
    }
    if args.json {
        println!("{}", serde_json::to_string_pretty(&rows)?);
    }
    Ok(())
}
