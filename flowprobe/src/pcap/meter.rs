//! What becomes of each packet of a capture: parsed, counted, and accounted to its flow.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use flowprobe_ebpf::{Frame as _, Packet, Parsed, Tunnels, cpu::Tally};

use super::{
    Take,
    capture::Captured,
    link::{Link, ethernet_macs},
};
use crate::{
    export::{Metering, Telemetry},
    sampling::Selection,
    table::{Emitter, LocalTable, fragments::Fragments, shared::Totals},
};

/// The ledger's name for packets of link layers that cannot be read.
pub(super) const UNREADABLE_LINK: &str = "unreadable_link";

/// Packets after which the figures for collectors are brought up to date.
const PUBLISH: u64 = 4096;

/// Counts packets and keeps their flows.
pub(super) struct Meter {
    tunnels: Tunnels,
    fragments: Fragments,
    table: LocalTable,
    emitter: Emitter,
    totals: Totals,
    unreadable_link: Tally,
    /// First and last packet that is in no flow, in nanoseconds since 1970-01-01 UTC.
    ignored_span_ns: Option<(u64, u64)>,
    figures: Arc<Figures>,
}

/// What there is to count once all is read.
pub(super) struct Counted {
    pub(super) table: LocalTable,
    pub(super) totals: Totals,
    /// Packets of link layers that cannot be read.
    pub(super) unreadable_link: Tally,
}

/// The figures for collectors, as of the last few thousand packets.
#[derive(Debug, Default)]
pub(super) struct Figures(Mutex<(Metering, Selection)>);

impl Figures {
    fn get(&self) -> MutexGuard<'_, (Metering, Selection)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Figures {
    /// Packets so far.
    pub(super) fn packets(&self) -> u64 {
        self.get().1.observed
    }
}

/// Captures have one class, which never changes its rate.
impl Telemetry for Figures {
    fn metering(&self, _class: usize) -> Metering {
        self.get().0
    }

    fn selection(&self, _class: usize, _epoch: u32) -> Option<Selection> {
        Some(self.get().1)
    }
}

impl Take for Meter {
    #[inline(always)]
    fn take(&mut self, captured: &Captured<'_>) {
        self.meter(captured);
    }

    fn waits(&mut self) {
        self.hand_on();
    }
}

impl Meter {
    pub(super) fn new(
        tunnels: Tunnels,
        fragments: Fragments,
        table: LocalTable,
        emitter: Emitter,
        figures: Arc<Figures>,
    ) -> Self {
        Self {
            tunnels,
            fragments,
            table,
            emitter,
            totals: Totals::default(),
            unreadable_link: Tally::default(),
            ignored_span_ns: None,
            figures,
        }
    }

    /// Meters one packet, with the burst that it is in. One without a time gets that of the latest packet before it.
    #[inline(always)]
    fn meter(&mut self, captured: &Captured<'_>) {
        let octets = captured.len() as u64;
        self.totals.seen.count(octets);
        let at_ns = captured.at_ns.unwrap_or(self.table.latest_ns());
        match captured.link {
            Ok(link) => self.account(captured, link, at_ns),
            Err(_) => self.ignore(at_ns, |meter| meter.unreadable_link.count(octets)),
        }
        if self.totals.seen.packets.is_multiple_of(PUBLISH) {
            self.publish();
        }
    }

    #[inline(always)]
    fn account(&mut self, captured: &Captured<'_>, link: Link, at_ns: u64) {
        // As nearly all are.
        match link.plain(captured, &self.tunnels) {
            Some(packet) => self.account_plain(&packet, captured, at_ns),
            None => self.account_other(captured, link, at_ns),
        }
    }

    /// Accounts what [`Link::plain`] or [`Link::near_plain`] says of a frame.
    #[inline(always)]
    fn account_plain(&mut self, packet: &Packet, captured: &Captured<'_>, at_ns: u64) {
        self.totals.accounted.count(captured.len() as u64);
        self.totals.accounted_ip_octets += u64::from(packet.octets);
        let macs = ethernet_macs(captured);
        let (table, emitter) = (&mut self.table, &mut self.emitter);
        table.push_plain(packet, captured.ifindex, macs, at_ns, emitter);
    }

    /// The same of frames that are not plain, in a function of their own: a value that may come from
    /// either is one in memory, which all packets would have to wait for.
    #[inline(never)]
    fn account_other(&mut self, captured: &Captured<'_>, link: Link, at_ns: u64) {
        match link.near_plain(captured, &self.tunnels) {
            Some(packet) => self.account_plain(&packet, captured, at_ns),
            None => self.account_any(captured, link, at_ns),
        }
    }

    #[inline(never)]
    fn account_any(&mut self, captured: &Captured<'_>, link: Link, at_ns: u64) {
        let octets = captured.len() as u64;
        match link.parse(captured, &self.tunnels) {
            Ok(mut parsed) => {
                self.totals.accounted.count(octets);
                self.totals.accounted_ip_octets += u64::from(parsed.packet.octets);
                self.follow(&mut parsed, captured.ifindex, at_ns);
                let macs = link.macs(captured);
                let (table, emitter) = (&mut self.table, &mut self.emitter);
                table.push(&parsed, captured.ifindex, macs, at_ns, emitter);
            }
            Err(skip) => self.ignore(at_ns, |meter| {
                meter.totals.ignored[skip as usize].count(octets);
            }),
        }
    }

    /// Gives later fragments the ports of the first one.
    fn follow(&mut self, parsed: &mut Parsed, ifindex: u32, at_ns: u64) {
        if !self.fragments.follow(parsed, ifindex, at_ns) {
            self.totals.fragment_orphans += 1;
        }
    }

    #[inline(never)]
    fn ignore(&mut self, at_ns: u64, count: impl FnOnce(&mut Self)) {
        count(self);
        self.table.push_time(at_ns, &mut self.emitter);
        let (first, last) = self.ignored_span_ns.unwrap_or((at_ns, at_ns));
        self.ignored_span_ns = Some((first.min(at_ns), last.max(at_ns)));
    }

    /// Hands on the records so far: the next packet may be long in coming.
    fn hand_on(&mut self) {
        self.table.settle(&mut self.emitter);
        self.emitter.at(self.table.latest_ns());
        self.emitter.flush();
    }

    /// Takes out all flows, since there are no more packets.
    pub(super) fn finish(&mut self) {
        self.table.flush(&mut self.emitter);
        self.emitter.finish();
        self.publish();
    }

    #[cold]
    fn publish(&self) {
        let ignored = self.totals.ignored.iter().chain([&self.unreadable_link]);
        let (mut packets, mut octets) = (0, 0);
        for tally in ignored {
            packets += tally.packets;
            octets += tally.octets;
        }
        const NS_PER_MS: u64 = 1_000_000;
        let selection = Selection {
            observed: self.totals.seen.packets,
            selected: self.totals.seen.packets,
        };
        let metering = Metering {
            ignored_packets: packets,
            ignored_octets: octets,
            ignored_span_ms: self
                .ignored_span_ns
                .map(|(first, last)| (first / NS_PER_MS, last / NS_PER_MS)),
        };
        *self.figures.get() = (metering, selection);
    }

    /// Hands over what was counted. The exporter is not held any more.
    pub(super) fn close(self) -> Counted {
        Counted {
            table: self.table,
            totals: self.totals,
            unreadable_link: self.unreadable_link,
        }
    }
}
