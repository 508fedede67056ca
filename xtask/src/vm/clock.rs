//! What flowprobe makes of a clock that is set back an hour while it runs. The clock of a guest may be
//! set, and nobody else has it.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::{
    collector::{Collector, Received},
    flow::{Flow, Key},
    judges::{Nfcapd, Reading, wait_until_read},
    packets::{Ip, Packet},
    sender::Sender,
    summary::Summary,
};

use super::guest::Guest;
use crate::interrupt;

/// The host's end of the wire, for the collectors, and the guest's.
const HOST: &str = "10.30.0.1";
const GUEST: &str = "10.30.0.2";
const IPFIX: u16 = 4739;
const V9: u16 = 9995;
const V5: u16 = 9996;
/// By how much the clock is set back.
const STEP_MS: u64 = 3_600_000;
/// What lies between is of neither hour.
const HALF_MS: u64 = STEP_MS / 2;
/// Of a flow, in milliseconds of the guest's monotonic clock.
const IDLE: &str = "3";
/// How far the times of a flow may be off what the guest's clocks say before and after its packets:
/// /proc/uptime has hundredths of a second, and a stamp lags by a tick (4 ms).
const LAG_MS: u64 = 30;
/// How much more than [`STEP_MS`] the step may be: it is made in whole seconds, and takes its time.
const SETTING_MS: u64 = 3000;
/// Flows of a burst.
const FLOWS: u16 = 50;
/// What flowprobe has to notice that the clock was set, and to do all else.
const PATIENCE: Duration = Duration::from_secs(120);
const GLANCE: Duration = Duration::from_millis(20);

/// A moment of the guest.
#[derive(Clone, Copy, Debug)]
struct Moment {
    /// Seconds since 1970.
    unix_s: u64,
    /// Since it booted.
    uptime_ms: u64,
}

/// Flows before and after the step, and one that lasts over it. Returns how many there were.
pub(crate) fn set_back(guest: &mut Guest) -> Result<usize> {
    let (wire, interface) = (Guest::WIRE, Guest::INTERFACE);
    guest.network.ip(&format!(
        "address add {HOST}/24 dev {wire}\n\
         link set {wire} arp on"
    ))?;
    guest.run(&format!("ip address add {GUEST}/24 dev {interface}"))?;
    let collector = Collector::start(&guest.network, &format!("{HOST}:{IPFIX}"), true)?;
    let v9 = Nfcapd::start_at(&guest.network, HOST, V9)?;
    let v5 = Nfcapd::start_at(&guest.network, HOST, V5)?;
    let sender = Sender::new(&guest.network, wire)?;
    start(guest)?;

    let before = meter(guest, &sender, &collector, &burst(0))?;
    let step = across(guest, &sender, &collector)?;
    let old = step.unix_s * 1000;
    let mut number = 1;
    // Until flowprobe measures the clock again, a second at most, flows have the old time.
    while !meter(guest, &sender, &collector, &burst(number))?
        .iter()
        .all(|flow| flow.end_ms + HALF_MS < old)
    {
        number += 1;
        ensure!(number < 20, "no flow has the new time");
    }
    ensure!(
        before.iter().all(|flow| flow.start_ms + HALF_MS > old),
        "flows that were before the step are not: {before:?}"
    );

    let summary = stop(guest)?;
    guest.run(&format!("date -s @$(($(date +%s) + {}))", STEP_MS / 1000))?;
    let received = collector.stop();
    for port in [V9, V5] {
        wait_until_read(&guest.network, port)?;
    }
    judge(&summary, &received, old)?;
    for (nfcapd, format) in [(v9, "v9"), (v5, "v5")] {
        same(&received, &nfcapd.stop()?.flows).context(format)?;
    }
    Ok(received.flows.len())
}

/// Flows that no other burst has.
fn burst(number: u16) -> Vec<Packet> {
    let ip = Ip::new("192.0.2.1", "198.51.100.2");
    (0..FLOWS)
        .map(|port| ip.udp(1000 + number, port, 64))
        .collect()
}

fn start(guest: &mut Guest) -> Result<()> {
    guest.run(&format!(
        "flowprobe run -i {} --xdp-mode native --idle-timeout {IDLE} --sweep-interval 0.1 --no-control \
         --summary /tmp/clock-summary -c udp://{HOST}:{IPFIX} -c 'udp://{HOST}:{V9}?format=v9' \
         -c 'udp://{HOST}:{V5}?format=v5' > /tmp/clock-flows 2> /tmp/clock-log & probe=$!",
        Guest::INTERFACE
    ))?;
    guest
        .run(
            "until grep -q metering /tmp/clock-log; do \
             kill -0 $probe || { cat /tmp/clock-log; false; break; }; sleep 0.1; done",
        )
        .context("flowprobe does not start")
        .map(drop)
}

/// Ends as it does anywhere, whatever the clock says.
fn stop(guest: &mut Guest) -> Result<Summary> {
    guest
        .run("kill -INT $probe; wait $probe || { cat /tmp/clock-log; false; }")
        .context("flowprobe")?;
    let summary = guest.read("/tmp/clock-summary")?;
    Ok(serde_json::from_str(&summary)?)
}

fn now(guest: &mut Guest) -> Result<Moment> {
    let said = guest.run("date +%s; cut -d ' ' -f 1 /proc/uptime")?;
    let mut lines = said.lines();
    let mut line = || lines.next().context("no time").map(str::trim);
    let unix_s = line()?.parse()?;
    let uptime: f64 = line()?.parse()?;
    Ok(Moment {
        unix_s,
        uptime_ms: (uptime * 1000.0) as u64,
    })
}

/// Sends frames, and waits until the guest has received them.
fn deliver(guest: &mut Guest, sender: &Sender, packets: &[Packet]) -> Result<()> {
    let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
    let wanted = guest.received()? + frames.len() as u64;
    sender.send(&frames)?;
    let deadline = Instant::now() + PATIENCE;
    while guest.received()? < wanted {
        interrupt::check()?;
        ensure!(Instant::now() < deadline, "the guest does not receive");
        thread::sleep(GLANCE);
    }
    Ok(())
}

/// Waits for the flows of packets, which end by their timeout.
fn arrived(collector: &Collector, packets: &[Packet]) -> Result<Vec<Flow>> {
    let keys: Vec<Key> = packets.iter().filter_map(|packet| packet.key).collect();
    let of = |received: &Received| -> Vec<Flow> {
        let flows = received.flows.iter();
        flows
            .filter(|flow| keys.contains(&flow.key))
            .cloned()
            .collect()
    };
    collector.wait_until("flows end", |received| of(received).len() >= keys.len())?;
    Ok(of(&collector.received()))
}

/// Packets, and their flows, whose times are what the guest's clock was meanwhile, or what it would have
/// been had it not been set.
fn meter(
    guest: &mut Guest,
    sender: &Sender,
    collector: &Collector,
    packets: &[Packet],
) -> Result<Vec<Flow>> {
    let from = now(guest)?;
    deliver(guest, sender, packets)?;
    let to = now(guest)?;
    let flows = arrived(collector, packets)?;
    let within = |at: u64| {
        let (from, to) = (from.unix_s * 1000 - LAG_MS, (to.unix_s + 1) * 1000);
        let unset = from + STEP_MS..=to + STEP_MS + SETTING_MS;
        (from..=to).contains(&at) || unset.contains(&at)
    };
    for flow in &flows {
        ensure!(
            flow.start_ms <= flow.end_ms && within(flow.start_ms) && within(flow.end_ms),
            "{flow:?} is not between {from:?} and {to:?}"
        );
    }
    Ok(flows)
}

/// A flow of two packets, and the step between them. Returns the moment before it.
fn across(guest: &mut Guest, sender: &Sender, collector: &Collector) -> Result<Moment> {
    let ip = Ip::new("192.0.2.9", "198.51.100.2");
    let packet = [ip.udp(9, 9, 64)];
    let first = now(guest)?;
    deliver(guest, sender, &packet)?;
    let between = now(guest)?;
    guest.run(&format!("date -s @$(($(date +%s) - {}))", STEP_MS / 1000))?;
    let set = now(guest)?;
    ensure!(
        set.unix_s * 1000 + HALF_MS < between.unix_s * 1000,
        "the clock was not set: {between:?}, {set:?}"
    );
    deliver(guest, sender, &packet)?;
    let last = now(guest)?;
    let [flow] = &arrived(collector, &packet)?[..] else {
        anyhow::bail!("not one flow lasts over the step");
    };
    ensure!(flow.counts.packets == 2, "not all of it: {flow:?}");
    ensure!(
        flow.start_ms <= flow.end_ms,
        "it ends before it starts: {flow:?}"
    );
    let lasted = flow.end_ms - flow.start_ms;
    let least = (set.uptime_ms - between.uptime_ms).saturating_sub(LAG_MS);
    let most = last.uptime_ms - first.uptime_ms + LAG_MS;
    ensure!(
        (least..=most).contains(&lasted),
        "it lasted {lasted} ms and not {least} to {most}: {flow:?}"
    );
    Ok(between)
}

/// The ledger, the sequence, and when messages say that they were sent.
fn judge(summary: &Summary, received: &Received, old_ms: u64) -> Result<()> {
    let errors = summary.ledger.errors();
    ensure!(errors.is_empty(), "{}", errors.join("\n"));
    for report in &summary.ledger.collectors {
        ensure!(report.sent == summary.ledger.exported, "{report:?}");
    }
    ensure!(
        received.errors.is_empty() && received.missing() == 0,
        "{:?}",
        received.errors
    );
    let is_new = |octets: &[u8]| {
        let time = octets.get(4..8).and_then(|time| time.first_chunk());
        time.map(|time| u64::from(u32::from_be_bytes(*time)) * 1000 + HALF_MS < old_ms)
    };
    let times = received.datagrams.iter().map(|one| is_new(&one.octets));
    let times: Vec<bool> = times.collect::<Option<_>>().context("a cut message")?;
    ensure!(
        times.first() == Some(&false) && times.last() == Some(&true) && times.is_sorted(),
        "the time of sending is not that of the clock: {times:?}"
    );
    Ok(())
}

/// nfcapd, which works out times from those of the header and the uptime, reads the same flows.
fn same(received: &Received, read: &[serde_json::Value]) -> Result<()> {
    let brief = |reading: Reading| {
        let Reading {
            start_ms, end_ms, ..
        } = reading;
        (
            reading.key,
            (start_ms, end_ms, reading.packets, reading.octets),
        )
    };
    let expected = received.flows.iter().map(|flow| brief(Reading::from(flow)));
    let expected: BTreeMap<_, _> = expected.collect();
    let read = read
        .iter()
        .map(|flow| Ok(brief(Reading::from_nfdump(flow)?)));
    let read: BTreeMap<_, _> = read.collect::<Result<_>>()?;
    for (key, wanted) in &expected {
        ensure!(
            read.get(key) == Some(wanted),
            "{key:?} is {:?} and not {wanted:?}",
            read.get(key)
        );
    }
    ensure!(read.len() == expected.len(), "{} flows", read.len());
    Ok(())
}
