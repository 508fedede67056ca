//! What happens in a guest: flowprobe meters frames whose truth is known, while CPUs come and go,
//! and every flow is compared.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::{
    flow::{Flow, Truth},
    mix::mix,
    packets::{Ip, Packet, truth},
    sender::Sender,
    summary::{Summary, Tally},
    verifier::Verdict,
};

use super::guest::Guest;
use crate::interrupt;

/// Flows beside those of the mix, so that each queue has many.
const FLOWS: u16 = 2000;
/// How often all frames are sent in each phase.
const ROUNDS: u64 = 10;
/// How often a CPU leaves and comes back while frames arrive.
const LEAVES: usize = 9;
/// What a CPU that leaves or comes back may take.
const PATIENCE: Duration = Duration::from_secs(120);
/// Of a look at the guest's counter.
const GLANCE: Duration = Duration::from_millis(20);

/// CPUs with fewer than this do not leave.
const CPUS_FOR_HOTPLUG: usize = 4;

/// What a trial has shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// Packets sent, received, and found in flows or in the ledger.
    pub(crate) packets: u64,
    /// Flows compared.
    pub(crate) flows: usize,
    /// Queues of the interface.
    pub(crate) queues: usize,
    /// Whether the program that takes frames of several buffers was attached.
    pub(crate) frags: bool,
    /// How often a CPU has left and come back under traffic.
    pub(crate) leaves: usize,
    /// Packets of each CPU while all took part.
    pub(crate) by_cpu: Vec<u64>,
}

/// Asks the guest's verifier.
pub(crate) fn ask_verifier(guest: &mut Guest, object: Option<&str>) -> Result<Verdict> {
    let command = ["verifier"]
        .into_iter()
        .chain(object)
        .collect::<Vec<_>>()
        .join(" ");
    let answer = guest.run(&command).context("the verifier")?;
    serde_json::from_str(&answer).with_context(|| format!("the verifier: {answer}"))
}

/// A kernel that is too old is refused in one line that says so.
pub(crate) fn refuse(guest: &mut Guest) -> Result<String> {
    let (status, said) = guest.status(&format!("flowprobe run -i {}", Guest::INTERFACE))?;
    ensure!(
        status != 0 && said.lines().count() == 1 && said.contains("too old"),
        "one line that says what is too old, and not (status {status}):\n{said}"
    );
    Ok(said)
}

/// Runs the tests of what the kernel of a machine that builds often lacks. Returns what they say in
/// the end.
pub(crate) fn test_sctp(guest: &mut Guest) -> Result<String> {
    // As long as those of a real network: messages of SCTP are in fragments.
    guest.run("ip link set lo up mtu 1500")?;
    let said = guest.run("tests sctp --nocapture")?;
    let result = said.lines().find(|line| line.starts_with("test result: "));
    let result = result.with_context(|| format!("tests without a result:\n{said}"))?;
    ensure!(
        !said.contains("skipped") && !result.contains(" 0 passed"),
        "the tests of SCTP do not run:\n{said}"
    );
    Ok(result.to_owned())
}

/// Meters with all CPUs of the guest, and compares.
pub(crate) fn meter(guest: &mut Guest, cpus: usize, object: Option<&str>) -> Result<Shown> {
    let interface = Guest::INTERFACE;
    guest.run(&format!("ip link set {interface} up"))?;
    let queues = guest.run(&format!("ls -d /sys/class/net/{interface}/queues/rx-*"))?;
    let queues = queues.lines().count();
    ensure!(queues == cpus, "{queues} queues for {cpus} CPUs");

    let hotplug = cpus >= CPUS_FOR_HOTPLUG;
    let last = cpus - 1;
    if hotplug {
        // The table has to have room for a CPU that comes later.
        guest.run(&format!("echo 0 > {}", online(last)))?;
    }
    start(guest, "--xdp-mode native", object)?;
    let mut traffic = Traffic::new(guest)?;
    traffic.rounds(guest, ROUNDS)?;
    let leaves = if hotplug {
        leave_and_come_back(guest, &mut traffic, cpus)?
    } else {
        0
    };
    let before = processed(guest)?;
    traffic.rounds(guest, ROUNDS)?;
    let after = processed(guest)?;
    let by_cpu: Vec<u64> = (0..cpus)
        .map(|cpu| after.get(&cpu).unwrap_or(&0) - before.get(&cpu).unwrap_or(&0))
        .collect();

    let (summary, flows) = stop(guest)?;
    traffic.compare(guest, "native", &summary, &flows)?;
    ensure!(
        by_cpu.iter().all(|packets| *packets > 0),
        "not every CPU had packets: {by_cpu:?}"
    );
    Ok(Shown {
        packets: traffic.sent(),
        flows: traffic.truth().0.len(),
        queues,
        frags: summary.interfaces[0].frags,
        leaves,
        by_cpu,
    })
}

/// Meters by traffic control what comes in, and compares. Returns how many packets that were, and whether
/// a clsact qdisc was made for it; then flowprobe is killed, and what it leaves is gone after the next run.
pub(crate) fn meter_tc(guest: &mut Guest, object: Option<&str>) -> Result<(u64, bool)> {
    let by_filter = |guest: &mut Guest| -> Result<bool> {
        let (status, _) = guest.status("grep -q clsact /tmp/log")?;
        Ok(status == 0)
    };
    start(guest, "--hook tc --egress", object)?;
    let clsact = by_filter(guest)?;
    guest.run("kill -9 $probe; wait $probe; true")?;
    start(guest, "--hook tc --egress", object)?;
    let (status, _) = guest.status("grep -q 'taken away' /tmp/log")?;
    ensure!(
        (status == 0) == clsact,
        "what a killed process leaves is found where the kernel does not take it away, and only there"
    );
    let mut traffic = Traffic::new(guest)?;
    traffic.rounds(guest, ROUNDS)?;
    let (summary, flows) = stop(guest)?;
    traffic.compare(guest, "tc", &summary, &flows)?;
    Ok((traffic.sent(), clsact))
}

fn online(cpu: usize) -> String {
    format!("/sys/devices/system/cpu/cpu{cpu}/online")
}

/// Starts flowprobe and waits until it meters.
fn start(guest: &mut Guest, options: &str, object: Option<&str>) -> Result<()> {
    let object = object.map_or_else(String::new, |path| format!("--object {path}"));
    guest.run(&format!(
        "flowprobe run -i {} {options} --output json --summary /tmp/summary {object} \
         > /tmp/flows 2> /tmp/log & probe=$!",
        Guest::INTERFACE
    ))?;
    guest
        .run(
            "until grep -q metering /tmp/log; do \
             kill -0 $probe || { cat /tmp/log; false; break; }; sleep 0.1; done",
        )
        .context("flowprobe does not start")
        .map(drop)
}

/// Stops it as Ctrl-C does, and reads what it left.
fn stop(guest: &mut Guest) -> Result<(Summary, Vec<Flow>)> {
    guest
        .run("kill -INT $probe; wait $probe || { cat /tmp/log; false; }")
        .context("flowprobe")?;
    let summary = guest.read("/tmp/summary")?;
    let summary = serde_json::from_str(&summary)
        .with_context(|| format!("the summary is not as documented: {summary}"))?;
    let flows = guest.read("/tmp/flows")?;
    let flows: Result<Vec<Flow>> = flows.lines().map(Flow::from_json).collect();
    Ok((summary, flows?))
}

/// Takes CPUs away and gives them back, one after the other, while frames arrive.
fn leave_and_come_back(guest: &mut Guest, traffic: &mut Traffic, cpus: usize) -> Result<usize> {
    let last = cpus - 1;
    let others = [last, last / 2, 1].map(|cpu| cpu.to_string()).join(" ");
    guest.run(&format!(
        "( echo 1 > {last}\n\
         while [ ! -e /tmp/enough ]; do for cpu in {others}; do\n\
         echo 0 > {any} && sleep 0.1 && echo 1 > {any} && sleep 0.1 && echo $cpu >> /tmp/left\n\
         done; done ) > /tmp/hotplug 2>&1 & hotplug=$!; touch /tmp/left",
        last = online(last),
        any = "/sys/devices/system/cpu/cpu$cpu/online",
    ))?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        traffic.rounds(guest, 1)?;
        let left = guest.read("/tmp/left")?.lines().count();
        if left >= LEAVES {
            break;
        }
        ensure!(
            Instant::now() < deadline,
            "only {left} of {LEAVES} times has a CPU left and come back: {}",
            guest.read("/tmp/hotplug")?
        );
    }
    guest.run("touch /tmp/enough; wait $hotplug")?;
    let errors = guest.read("/tmp/hotplug")?;
    ensure!(errors.is_empty(), "taking CPUs away: {errors}");
    Ok(guest.read("/tmp/left")?.lines().count())
}

/// Packets that each CPU has handed to the stack, by the kernel's own count.
fn processed(guest: &mut Guest) -> Result<BTreeMap<usize, u64>> {
    // net/core/net-procfs.c: softnet_seq_show.
    const PROCESSED: usize = 0;
    const CPU: usize = 12;
    let text = guest.read("/proc/net/softnet_stat")?;
    let row = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let number = |at: usize| u64::from_str_radix(words.get(at)?, 16).ok();
        Some((number(CPU)? as usize, number(PROCESSED)?))
    };
    let rows: Option<BTreeMap<usize, u64>> = text.lines().map(row).collect();
    rows.with_context(|| format!("softnet_stat: {text}"))
}

/// Frames of every kind, and what has been sent of them.
struct Traffic {
    sender: Sender,
    packets: Vec<Packet>,
    rounds: u64,
    /// What the guest had received before.
    before: u64,
}

impl Traffic {
    fn new(guest: &mut Guest) -> Result<Self> {
        let mut packets = mix();
        // Their flow depends on whether the first fragment was on the same CPU, and that changes
        // when CPUs leave.
        packets.retain(|packet| !packet.later_fragment);
        packets.extend((0..FLOWS).map(|number| {
            let ip = if number.is_multiple_of(3) {
                Ip::new(&format!("2001:db8::{number:x}"), "2001:db8:1::1")
            } else {
                Ip::new(
                    &format!("10.1.{}.{}", number / 256, number % 256),
                    "192.0.2.1",
                )
            };
            ip.udp(1024 + number, 443, usize::from(number * 7 % 1400))
        }));
        Ok(Self {
            sender: Sender::new(&guest.network, Guest::WIRE)?,
            packets,
            rounds: 0,
            before: guest.received()?,
        })
    }

    fn sent(&self) -> u64 {
        self.rounds * self.packets.len() as u64
    }

    fn truth(&self) -> Truth {
        truth(&self.packets, self.rounds)
    }

    /// Sends all frames so many times; the guest has received each round before the next begins,
    /// so that no queue on the way can run over.
    fn rounds(&mut self, guest: &mut Guest, rounds: u64) -> Result<()> {
        let frames: Vec<&Vec<u8>> = self.packets.iter().map(|packet| &packet.frame).collect();
        ensure!(
            frames.len() <= Guest::QUEUE_LENGTH,
            "more than a queue holds"
        );
        for _ in 0..rounds {
            interrupt::check()?;
            self.sender.send(&frames)?;
            self.rounds += 1;
            let sent = self.rounds * frames.len() as u64;
            let deadline = Instant::now() + PATIENCE;
            loop {
                let received = guest.received()? - self.before;
                if received >= sent {
                    break;
                }
                ensure!(
                    Instant::now() < deadline,
                    "the guest has received {received} frames of {sent}: {:?}",
                    guest.network.counters(Guest::WIRE)?
                );
                thread::sleep(GLANCE);
            }
        }
        Ok(())
    }

    /// Everything that was sent is in the ledger, and in its flow, to the octet.
    fn compare(
        &self,
        guest: &mut Guest,
        mode: &str,
        summary: &Summary,
        flows: &[Flow],
    ) -> Result<()> {
        let errors = summary.ledger.errors();
        ensure!(errors.is_empty(), "{}\n{summary:#?}", errors.join("\n"));
        let [port] = &summary.interfaces[..] else {
            anyhow::bail!("one interface: {summary:#?}");
        };
        ensure!(port.mode == mode, "attached {}", port.mode);
        let octets: usize = self.packets.iter().map(|packet| packet.frame.len()).sum();
        let all = Tally {
            packets: self.sent(),
            octets: octets as u64 * self.rounds,
        };
        let seen = summary.ledger.seen;
        let received = guest.received()? - self.before;
        let wire = guest.network.counters(Guest::WIRE)?;
        ensure!(
            seen == all && received == all.packets && port.rx_packets == all.packets,
            "sent {all:?}, received {received}, {} while attached, seen {seen:?}; the wire: {wire:?}",
            port.rx_packets
        );
        let lost = &summary.ledger.lost;
        ensure!(
            lost.values().all(|lost| lost.packets == 0),
            "lost: {lost:?}"
        );
        match self.truth().differences(&Truth::of(flows)) {
            Some(differences) => anyhow::bail!("{differences}"),
            None => Ok(()),
        }
    }
}
