//! The inputs, and what each tells of a recording.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    thread,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Result, ensure};
use flowprobe_tests::{
    capture_file::{Order, Record, pcap as classic},
    flow::Flow,
    live::on_one_cpu,
    offline::pcap,
    probe::Probe,
    sender::Sender,
    summary::Ledger,
    topology::{Pair, Wire},
};

use crate::recording::{LONG, Recording, SHORT, TIMEOUT_S, VOLLEYS};

/// How far a live stamp may be behind the clock, in milliseconds: a tick, where HZ is 100.
const BEHIND_MS: u64 = 10;
/// A machine that is so slow that flows may be due between the first volleys is waited for so often.
const TRIES: usize = 5;

/// Where frames come in.
pub(crate) enum Input {
    /// A capture, in which they are stamped as they would have been sent.
    Pcap,
    /// A wire.
    Live {
        name: &'static str,
        arguments: &'static [&'static str],
        /// Whether the sensor sends the frames itself.
        goes_out: bool,
    },
}

/// All that there are. Another one is another row.
pub(crate) const INPUTS: [Input; 5] = [
    Input::Pcap,
    Input::Live {
        name: "xdp",
        arguments: &["-i", Pair::SENSOR, "--xdp-mode", "native"],
        goes_out: false,
    },
    Input::Live {
        name: "afxdp",
        arguments: &["-i", Pair::SENSOR, "--mode", "afxdp"],
        goes_out: false,
    },
    Input::Live {
        name: "tc",
        arguments: &["-i", Pair::SENSOR, "--hook", "tc"],
        goes_out: false,
    },
    Input::Live {
        name: "egress",
        arguments: &["-i", Pair::SENSOR, "--egress"],
        goes_out: true,
    },
];

/// First and last millisecond in which a volley was sent.
type Window = (u64, u64);

/// What an input has told.
pub(crate) struct Told {
    flows: Vec<Flow>,
    /// Packets in no flow, by reason.
    ignored: BTreeMap<String, u64>,
    volleys: [Window; VOLLEYS],
}

impl Input {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Pcap => "pcap",
            Self::Live { name, .. } => name,
        }
    }

    pub(crate) fn meter(&self, recording: &Recording) -> Result<Told> {
        let &Self::Live {
            arguments,
            goes_out,
            ..
        } = self
        else {
            return capture(recording);
        };
        for _ in 0..TRIES {
            let told = live(recording, arguments, goes_out)?;
            let [first, second, third] = told.volleys;
            // Half of the timeout is left for the clocks.
            let half_ms = TIMEOUT_S * 500;
            let in_time = second.1 - first.0 < half_ms && third.1 - third.0 < half_ms;
            if in_time {
                return Ok(told);
            }
        }
        anyhow::bail!("{TRIES} times the volleys took longer than half of the timeout")
    }
}

/// The timeouts, for all.
fn timeouts() -> [String; 4] {
    let seconds = TIMEOUT_S.to_string();
    let option = |name: &str| name.to_owned();
    [
        option("--idle-timeout"),
        seconds.clone(),
        option("--tcp-linger"),
        seconds,
    ]
}

fn capture(recording: &Recording) -> Result<Told> {
    /// 2023-11-14 22:13:20 UTC, in milliseconds since 1970.
    const START_MS: u64 = 1_700_000_000_000;
    /// Between two frames.
    const GAP_NS: u64 = 1000;
    let gaps = [Duration::ZERO, SHORT, LONG];
    let mut volleys = [(0, 0); VOLLEYS];
    let mut records = Vec::new();
    let mut at = START_MS * 1_000_000;
    for ((frames, gap), window) in (recording.volleys.iter()).zip(gaps).zip(&mut volleys) {
        at += gap.as_nanos() as u64;
        window.0 = at / 1_000_000;
        for frame in frames {
            records.push(Record::whole(at, frame));
            window.1 = at / 1_000_000;
            at += GAP_NS;
        }
    }
    let file = classic(Order::Little, true, 1, &records);
    let timeouts = timeouts();
    let mut arguments = vec!["-"];
    arguments.extend(timeouts.iter().map(String::as_str));
    arguments.extend(recording.options);
    let run = pcap(&arguments, &file)?;
    ensure!(run.code == 0, "{}", run.log);
    let ledger = run.ledger();
    assert_eq!(ledger.seen.packets, records.len() as u64);
    Ok(Told {
        ignored: ignored(&ledger),
        flows: run.flows,
        volleys,
    })
}

fn live(recording: &Recording, arguments: &[&str], goes_out: bool) -> Result<Told> {
    let pair = Pair::new(Wire::default())?;
    let sender = match goes_out {
        true => Sender::new(&pair.sensor, Pair::SENSOR)?,
        false => Sender::new(&pair.generator, Pair::GENERATOR)?,
    };
    let timeouts = timeouts();
    let mut arguments = arguments.to_vec();
    arguments.extend(timeouts.iter().map(String::as_str));
    arguments.extend(recording.options);
    let probe = Probe::start(&pair.sensor, &arguments)?;
    // As a NIC does with the packets of a flow: that a connection follows another of the same ports is
    // seen on the CPU that had the first one.
    let volleys = on_one_cpu(|| {
        let gaps = [Duration::ZERO, SHORT, LONG];
        let mut volleys = [(0, 0); VOLLEYS];
        for ((frames, gap), window) in (recording.volleys.iter()).zip(gaps).zip(&mut volleys) {
            thread::sleep(gap);
            window.0 = now_ms();
            sender.send(frames)?;
            window.1 = now_ms();
        }
        Ok(volleys)
    })?;
    let finished = probe.stop()?;
    let summary = &finished.summary;
    summary.assert_balanced();
    summary.assert_nothing_lost();
    let sent: usize = recording.volleys.iter().map(Vec::len).sum();
    assert_eq!(summary.ledger.seen.packets, sent as u64, "the wire itself");
    Ok(Told {
        ignored: ignored(&summary.ledger),
        flows: finished.flows,
        volleys,
    })
}

/// Packets in no flow, by reason.
fn ignored(ledger: &Ledger) -> BTreeMap<String, u64> {
    let ignored = ledger.ignored.iter();
    let some = ignored.filter(|(_, tally)| tally.packets > 0);
    some.map(|(why, tally)| (why.clone(), tally.packets))
        .collect()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.expect("after 1970").as_millis() as u64
}

impl Told {
    /// All of it, sorted: the same for every input.
    pub(crate) fn lines(&self) -> Vec<String> {
        let flows = self.flows.iter().map(|flow| self.line(flow));
        let ignored = self.ignored.iter();
        let ignored = ignored.map(|(why, packets)| format!("ignored {why}: {packets}"));
        let mut lines: Vec<_> = flows.chain(ignored).collect();
        lines.sort_unstable();
        lines
    }

    /// The volley in which a packet was seen at this time.
    fn volley(&self, at_ms: u64) -> usize {
        let mut volleys = self.volleys.iter();
        let within = |window: &Window| (window.0 - BEHIND_MS..=window.1).contains(&at_ms);
        volleys
            .position(within)
            .unwrap_or_else(|| panic!("{at_ms} ms is in none of the volleys {:?}", self.volleys))
    }

    fn line(&self, flow: &Flow) -> String {
        let key = &flow.key;
        let mut line = format!(
            "{} {} > {} {} proto {} tos {}",
            key.source,
            key.source_port,
            key.destination,
            key.destination_port,
            key.protocol,
            key.traffic_class,
        );
        if key.vlan != 0 {
            let _ = write!(line, " vlan {}", key.vlan);
        }
        if key.around != Default::default() {
            let _ = write!(line, " {:?}", key.around);
        }
        let _ = write!(
            line,
            ": {} packets {} octets, flags {} ttl {}-{} fragments {} options {} priorities {:?}, \
             reason {}, volleys {}-{}",
            flow.counts.packets,
            flow.counts.octets,
            flow.tcp_flags,
            flow.min_ttl,
            flow.max_ttl,
            flow.fragment_flags,
            flow.options,
            flow.priorities,
            flow.reason,
            self.volley(flow.start_ms),
            self.volley(flow.end_ms),
        );
        line
    }
}
