//! What becomes of each packet that was handed over: parsed, counted, and accounted to its flow.

use flowprobe_ebpf::{
    Frame, Parsed, Skip, Tunnels, cpu::Tally, parse::parse_ethernet, sampling::Sampled,
};

use super::{Losses, shard::Shard};
use crate::{
    pcap::link::Link,
    table::{fragments::Fragments, shared::Totals},
    xsk::Received,
};

/// The first buffer of a frame, for the parser.
struct Beginning<'a> {
    octets: &'a [u8],
    len: usize,
}

impl Frame for Beginning<'_> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.octets.read(offset)
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.len
    }
}

/// What a worker has counted.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counted {
    /// Its packets.
    pub totals: Totals,
    /// What did not arrive.
    pub losses: Losses,
    /// Flows in its table.
    pub flows: usize,
    /// The most that there ever were.
    pub peak: usize,
    /// Octets that those took.
    pub peak_octets: usize,
    /// Flows that left since the table was full.
    pub displaced: u64,
}

/// Parses and counts packets.
#[derive(Debug)]
pub struct Meter {
    tunnels: Tunnels,
    fragments: Fragments,
    ifindex: u32,
    /// Where their flows are.
    pub shard: Shard,
    totals: Totals,
}

impl Meter {
    /// Of packets that came in on `ifindex`.
    #[must_use]
    pub fn new(tunnels: Tunnels, fragments: Fragments, ifindex: u32, shard: Shard) -> Self {
        Self {
            tunnels,
            fragments,
            ifindex,
            shard,
            totals: Totals::default(),
        }
    }

    /// Meters one packet, with the burst that it is in.
    #[inline]
    pub fn take(&mut self, received: &Received<'_>) {
        let Received { octets, len, note } = *received;
        let frame = Beginning {
            octets,
            len: len as usize,
        };
        let at = (self.ifindex, Sampled(note.sampled));
        // As nearly all are.
        if note.control().is_none()
            && let Some(packet) = Link::Ethernet.plain(&frame, &self.tunnels)
        {
            self.account(len, packet.octets);
            let macs = Link::Ethernet.macs(&frame);
            return self.shard.push_plain(&packet, at, macs, note.now_ns);
        }
        match self.parse(&frame, note.control()) {
            Ok(mut parsed) => {
                self.account(len, parsed.packet.octets);
                if !self
                    .fragments
                    .follow(&mut parsed, self.ifindex, note.now_ns)
                {
                    self.totals.fragment_orphans += 1;
                }
                let macs = Link::Ethernet.macs(&frame);
                self.shard.push(&parsed, at, macs, note.now_ns);
            }
            Err(skip) => {
                self.totals.ignored[skip as usize].count(len);
                self.shard.push_time(note.now_ns);
            }
        }
    }

    fn parse(&self, frame: &Beginning<'_>, tag: Option<u16>) -> Result<Parsed, Skip> {
        let Some(control) = tag else {
            return Link::Ethernet.parse(frame, &self.tunnels);
        };
        let mut parsed = Parsed::EMPTY;
        parsed.put_outer_tag(control);
        parse_ethernet(frame, &self.tunnels, &mut parsed)?;
        Ok(parsed)
    }

    #[inline(always)]
    fn account(&mut self, octets: u64, ip_octets: u32) {
        self.totals.accounted.count(octets);
        self.totals.accounted_ip_octets += u64::from(ip_octets);
    }

    /// What has been counted.
    #[must_use]
    pub fn counted(&self, losses: Losses) -> Counted {
        let table = self.shard.table();
        Counted {
            totals: Totals {
                inserted: table.inserted(),
                ..self.totals
            },
            losses,
            flows: table.len(),
            peak: table.peak(),
            peak_octets: table.peak_octets(),
            displaced: table.displaced(),
        }
    }
}

impl Counted {
    /// Packets that arrived.
    #[must_use]
    pub fn received(&self) -> Tally {
        let mut sum = self.totals.accounted;
        for tally in &self.totals.ignored {
            sum.packets += tally.packets;
            sum.octets += tally.octets;
        }
        sum
    }
}
