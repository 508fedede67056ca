//! When a flow ends, and why.

use std::{thread, time::Duration};

use flowprobe_tests::{
    collector::{Collector, Received},
    flow::{Flow, Truth},
    netns::Netns,
    packets::{Ip, flag, truth},
    probe::Probe,
    sender::Sender,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

const NEVER: &str = "86400";

fn ip() -> Ip {
    Ip::new("192.0.2.1", "198.51.100.2")
}

/// A wire, and flowprobe on it with timeouts that only `options` shorten.
struct Setting {
    pair: Pair,
    sender: Sender,
    collector: Collector,
    probe: Probe,
}

impl Setting {
    fn new(options: &[(&str, &str)]) -> anyhow::Result<Self> {
        let pair = Pair::new(Wire::default())?;
        let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
        let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", false)?;
        let probe = start(&pair.sensor, &collector, options)?;
        Ok(Self {
            pair,
            sender,
            collector,
            probe,
        })
    }

    fn stop(self) -> anyhow::Result<Vec<Flow>> {
        let finished = self.probe.stop()?;
        finished.summary.assert_balanced();
        finished.summary.assert_nothing_lost();
        let received = self.collector.stop();
        received.assert_well_formed();
        for reason in 1..=5 {
            let count = received
                .flows
                .iter()
                .filter(|flow| flow.reason == reason)
                .count();
            let said = finished.summary.end_reasons.get(&reason.to_string());
            assert_eq!(said.copied().unwrap_or(0), count as u64, "reason {reason}");
        }
        drop(self.pair);
        Ok(received.flows)
    }
}

fn start(sensor: &Netns, collector: &Collector, options: &[(&str, &str)]) -> anyhow::Result<Probe> {
    let url = collector.url();
    let mut arguments = vec!["-i", Pair::SENSOR, "--collector", &url];
    for name in ["--idle-timeout", "--active-timeout", "--tcp-linger"] {
        let value = options.iter().find(|(option, _)| *option == name);
        arguments.extend([name, value.map_or(NEVER, |(_, value)| value)]);
    }
    arguments.extend(["--sweep-interval", "0.02"]);
    Probe::start(sensor, &arguments)
}

fn at_least(count: usize, reason: u8) -> impl Fn(&Received) -> bool {
    move |received| {
        let flows = received.flows.iter();
        flows.filter(|flow| flow.reason == reason).count() >= count
    }
}

#[test]
fn a_flow_without_packets_is_idle() -> Result {
    let setting = Setting::new(&[("--idle-timeout", "0.2")])?;
    let packets = [ip().udp(1, 2, 100), ip().tcp(3, 4, flag::SYN, 0)];
    for packet in &packets {
        setting.sender.send(&[&packet.frame; 3])?;
    }
    setting.collector.wait_until("idle flows", at_least(2, 1))?;
    let flows = setting.stop()?;
    assert!(flows.iter().all(|flow| flow.reason == 1), "{flows:?}");
    truth(&packets, 3).assert_equals(&Truth::of(&flows));
    Ok(())
}

#[test]
fn a_flow_that_never_ends_is_reported_at_each_interval() -> Result {
    let setting = Setting::new(&[("--active-timeout", "0.3")])?;
    let packet = ip().udp(1, 2, 100);
    let mut sent = 0;
    while !at_least(4, 2)(&setting.collector.received()) {
        setting.sender.send(&[&packet.frame])?;
        sent += 1;
        thread::sleep(Duration::from_millis(2));
        assert!(sent < 60_000, "two minutes, and not four reports");
    }
    setting.sender.send(&[&packet.frame])?;
    sent += 1;
    let flows = setting.stop()?;
    truth(&[packet], sent).assert_equals(&Truth::of(&flows));
    for pair in flows.windows(2) {
        assert!(
            pair[0].end_ms <= pair[1].start_ms,
            "reports overlap: {pair:?}"
        );
    }
    let (last, reports) = flows.split_last().expect("flows");
    assert!(reports.iter().all(|flow| flow.reason == 2), "{flows:?}");
    // On a slow machine it is due once more before the end comes.
    assert!(matches!(last.reason, 2 | 4), "{last:?}");
    Ok(())
}

#[test]
fn fin_and_rst_end_a_flow() -> Result {
    let setting = Setting::new(&[("--tcp-linger", "0.1")])?;
    let ends = [
        (1, flag::FIN | flag::ACK),
        (2, flag::RST),
        (3, flag::RST | flag::ACK),
    ];
    let mut packets = Vec::new();
    for (port, end) in ends {
        packets.push(ip().tcp(port, 80, flag::SYN, 0));
        packets.push(ip().tcp(port, 80, flag::ACK, 100));
        packets.push(ip().tcp(port, 80, end, 0));
    }
    // This one goes on.
    packets.push(ip().tcp(4, 80, flag::SYN, 0));
    let frames: Vec<_> = packets.iter().map(|packet| &packet.frame).collect();
    setting.sender.send(&frames)?;
    setting
        .collector
        .wait_until("ended flows", at_least(3, 3))?;
    let flows = setting.stop()?;
    truth(&packets, 1).assert_equals(&Truth::of(&flows));
    for flow in &flows {
        let port = flow.key.source_port;
        let end = ends.iter().find(|(ended, _)| *ended == port);
        let expected = end.map_or((4, flag::SYN), |(_, end)| (3, flag::SYN | flag::ACK | end));
        assert_eq!((flow.reason, flow.tcp_flags), expected, "{flow:?}");
    }
    Ok(())
}

#[test]
fn a_straggler_within_the_linger_belongs_to_the_ended_flow() -> Result {
    let setting = Setting::new(&[])?;
    let packets = [
        ip().tcp(1, 80, flag::SYN, 0),
        ip().tcp(1, 80, flag::FIN | flag::ACK, 0),
        ip().tcp(1, 80, flag::ACK, 0),
    ];
    let frames: Vec<_> = packets.iter().map(|packet| &packet.frame).collect();
    setting.sender.send(&frames)?;
    let flows = setting.stop()?;
    assert_eq!(flows.len(), 1, "{flows:?}");
    assert_eq!(flows[0].counts.packets, 3);
    Ok(())
}

#[test]
fn a_syn_after_the_end_starts_a_new_flow() -> Result {
    for end in [flag::FIN | flag::ACK, flag::RST] {
        let setting = Setting::new(&[])?;
        let packets = [
            ip().tcp(1, 80, flag::SYN, 0),
            ip().tcp(1, 80, end, 0),
            ip().tcp(1, 80, flag::SYN, 0),
            ip().tcp(1, 80, flag::PSH, 50),
        ];
        let frames: Vec<_> = packets.iter().map(|packet| &packet.frame).collect();
        setting.sender.send(&frames)?;
        let mut flows = setting.stop()?;
        flows.sort_by_key(|flow| flow.reason);
        truth(&packets, 1).assert_equals(&Truth::of(&flows));
        let shape = |flow: &Flow| (flow.reason, flow.tcp_flags, flow.counts.packets);
        let shapes: Vec<_> = flows.iter().map(shape).collect();
        let expected = [(3, flag::SYN | end, 2), (4, flag::SYN | flag::PSH, 2)];
        assert_eq!(shapes, expected);
    }
    Ok(())
}

#[test]
fn shutdown_ends_what_goes_on() -> Result {
    let setting = Setting::new(&[])?;
    let packets = [ip().udp(1, 2, 100), ip().icmp(8, 0, 56)];
    for packet in &packets {
        setting.sender.send(&[&packet.frame])?;
    }
    let flows = setting.stop()?;
    assert_eq!(flows.len(), 2);
    assert!(flows.iter().all(|flow| flow.reason == 4), "{flows:?}");
    Ok(())
}
