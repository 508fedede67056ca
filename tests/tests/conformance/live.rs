//! `flowprobe run` on a wire, with a collector of UDP and one of TCP.

use std::{
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use flowprobe_tests::{
    collector::Collector,
    ipfix::Message,
    packets::Packet,
    probe::{self, Probe},
    sender::Sender,
    stream::{Session, TcpCollector},
    summary::Summary,
    topology::{Pair, Wire},
};

use crate::{ADDRESS, Result, datagrams, decoded, well_formed};

/// Flows end soon.
pub(crate) const SOON: [&str; 4] = ["--idle-timeout", "0.05", "--sweep-interval", "0.02"];

/// How to start.
#[derive(Clone, Copy, Default)]
pub(crate) struct Options<'a> {
    /// Options of flowprobe.
    pub(crate) probe: &'a [&'a str],
    /// Whether it has a control socket.
    pub(crate) control: bool,
}

/// A running flowprobe and who listens to it.
pub(crate) struct Live {
    pair: Pair,
    sender: Sender,
    udp: Collector,
    tcp: TcpCollector,
    probe: Probe,
}

/// What came, and what flowprobe says of it.
pub(crate) struct Came {
    pub(crate) datagrams: Vec<Vec<u8>>,
    pub(crate) sessions: Vec<Session>,
    pub(crate) summary: Summary,
}

impl Live {
    pub(crate) fn start(options: Options<'_>) -> Result<Self> {
        let pair = Pair::new(Wire::default())?;
        let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
        let udp = Collector::start(&pair.sensor, ADDRESS, true)?;
        let tcp = TcpCollector::start(&pair.sensor, ADDRESS)?;
        let (to_udp, to_tcp) = (udp.url(), tcp.url());
        let socket = socket(&pair).display().to_string();
        let mut arguments = vec!["-i", Pair::SENSOR];
        arguments.extend(["--collector", &to_udp, "--collector", &to_tcp]);
        arguments.extend(SOON);
        arguments.extend(options.probe);
        if options.control {
            arguments.extend(["--control", &socket]);
        }
        let probe = Probe::start(&pair.sensor, &arguments)?;
        Ok(Self {
            pair,
            sender,
            udp,
            tcp,
            probe,
        })
    }

    pub(crate) fn send(&self, packets: &[Packet]) -> Result {
        let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
        self.sender.send(&frames)
    }

    /// Runs `flowprobe ctl`.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> Result {
        let socket = socket(&self.pair).display().to_string();
        let arguments = [&["ctl", "--control", &socket], arguments].concat();
        let output = probe::output(&self.pair.sensor, &arguments)?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{error}");
        Ok(())
    }

    /// Waits until what came over UDP, and in the last session over TCP, is enough.
    pub(crate) fn wait_until(&self, enough: impl Fn(&[Message], &[Message]) -> bool) -> Result {
        let deadline = Instant::now() + Duration::from_secs(60);
        loop {
            let udp: Vec<_> = {
                let received = self.udp.received();
                let datagrams = received.datagrams.iter();
                datagrams.map(|datagram| datagram.octets.clone()).collect()
            };
            let udp = decoded(&udp)?;
            let done = {
                let sessions = self.tcp.sessions();
                let tcp = sessions.last().map(Session::messages).transpose()?;
                enough(&udp, &tcp.unwrap_or_default())
            };
            if done {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "not within a minute");
            thread::sleep(Duration::from_millis(20));
        }
    }

    pub(crate) fn stop(self) -> Result<Came> {
        let finished = self.probe.stop()?;
        finished.summary.assert_balanced();
        finished.summary.assert_nothing_lost();
        let sessions = self.tcp.stop();
        for session in &sessions {
            well_formed(session)?;
        }
        Ok(Came {
            datagrams: datagrams(&self.udp.stop()),
            sessions,
            summary: finished.summary,
        })
    }
}

impl Came {
    /// Messages over UDP.
    pub(crate) fn udp(&self) -> Result<Vec<Message>> {
        decoded(&self.datagrams)
    }

    /// Messages of the only session over TCP.
    pub(crate) fn tcp(&self) -> Vec<Message> {
        assert_eq!(self.sessions.len(), 1);
        self.sessions[0].messages().expect("it was well-formed")
    }
}

fn socket(pair: &Pair) -> PathBuf {
    std::env::temp_dir().join(format!("{}-control", pair.sensor.name()))
}
