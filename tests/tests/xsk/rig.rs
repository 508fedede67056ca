//! The program on an interface with a socket for each queue, all in the namespace of the sensor.

use std::{
    collections::BTreeMap,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use flowprobe::{
    attach::{Attached, Interface, XdpMode},
    host,
    load::{
        Kernel, OBJECT, Options,
        handover::{Handover, Pulse, Queues, Share, Skipped},
    },
    sampling::Sampling,
    table::shared::Totals,
    xsk::{Queue, Received, Settings, ZeroCopy},
};
use flowprobe_ebpf::{Tunnels, handover::Note};
use flowprobe_tests::{
    netns::Netns,
    packets::{Ip, Packet},
    sender::Sender,
    sniffer::Sniffer,
    topology::{Pair, Wire},
};

/// Where all packets go that are no marker.
pub(crate) const PORT: u16 = 53;
/// A datagram to this port says that all before it are through.
const MARKER: u16 = 9;

/// How long something may take that does come.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const SMALL: Settings = Settings {
    ring: 1 << 11,
    frames: None,
    frame_size: 2048,
    huge_pages: false,
    zero_copy: ZeroCopy::Auto,
    several_buffers: true,
    busy_poll: false,
};

pub(crate) const TWO_QUEUES: Wire = Wire {
    queues: 2,
    mtu: 1500,
};

/// Tables that nothing is put into, and all CPUs.
pub(crate) const OPTIONS: Options<'static> = Options {
    max_flows: 1,
    partitions: 0,
    ring_parts: 1,
    sampling: Sampling::All,
    classes: &[],
    sample_key: 0,
    shadow: None,
    tunnels: Tunnels::OUTER,
    dedup: None,
};

/// A frame as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) queue: u32,
    pub(crate) octets: Vec<u8>,
    pub(crate) len: u64,
    pub(crate) note: Note,
}

/// Dropped in the order of its fields: the program goes first.
pub(crate) struct Rig {
    pub(crate) attached: Option<Attached>,
    pub(crate) queues: Vec<Queue>,
    pub(crate) pulses: Vec<Pulse>,
    pub(crate) share: Share,
    pub(crate) handover: Handover,
    pub(crate) kernel: Kernel,
    pub(crate) interface: Interface,
    pub(crate) sender: Sender,
    pub(crate) sniffer: Sniffer,
}

/// CPUs of this machine.
pub(crate) fn cpus() -> Result<u32> {
    Ok(u32::try_from(host::check(false)?.possible_cpus.slots())?)
}

/// Options for all of them, unless they are for some.
pub(crate) fn for_all_cpus(options: Options<'_>) -> Result<Options<'_>> {
    Ok(match options.partitions {
        0 => Options {
            partitions: cpus()?,
            ..options
        },
        _ => options,
    })
}

impl Rig {
    /// Everything in place, with the workers alive. To be called in the sensor's namespace.
    pub(crate) fn new(
        pair: &Pair,
        options: Options<'_>,
        skipped: Skipped,
        settings: &Settings,
    ) -> Result<Self> {
        Self::with_mode(pair, options, skipped, settings, XdpMode::Native)
    }

    pub(crate) fn with_mode(
        pair: &Pair,
        options: Options<'_>,
        skipped: Skipped,
        settings: &Settings,
        mode: XdpMode,
    ) -> Result<Self> {
        let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
        let sniffer = Sniffer::start(&pair.sensor, Pair::SENSOR)?;
        let interface = Interface::find(Pair::SENSOR)?;
        let kernel = Kernel::load(OBJECT, &for_all_cpus(options)?)?;
        let handover = kernel.handover()?;
        let queues = Queues::of(&interface)?;
        let share = handover.share(&interface, queues.most, skipped)?;
        let mut rig = Self {
            attached: None,
            queues: Vec::new(),
            pulses: (0..share.queues())
                .map(|queue| share.pulse(queue))
                .collect(),
            share,
            handover,
            kernel,
            interface,
            sender,
            sniffer,
        };
        for _ in 0..queues.now {
            rig.open(settings)?;
        }
        rig.beat();
        rig.attached = Some(rig.handover.attach(&rig.interface, mode)?);
        Ok(rig)
    }

    /// Opens the next queue.
    pub(crate) fn open(&mut self, settings: &Settings) -> Result<()> {
        let number = self.queues.len() as u32;
        let queue = Queue::open(&self.interface, number, settings)?;
        self.share.give(number, &queue)?;
        self.queues.push(queue);
        Ok(())
    }

    /// All workers are alive, and will be for as long as the test takes on the slowest machine.
    fn beat(&self) {
        for pulse in &self.pulses {
            pulse.beat_at(u64::MAX);
        }
    }

    pub(crate) fn totals(&self) -> Totals {
        self.kernel.shared().totals()
    }

    /// Sends, and returns when the program has seen it all.
    pub(crate) fn send(&self, packets: &[Packet]) -> Result<()> {
        let frames: Vec<&Vec<u8>> = packets.iter().map(|packet| &packet.frame).collect();
        self.send_frames(&frames)
    }

    pub(crate) fn send_frames<F: AsRef<[u8]>>(&self, frames: &[F]) -> Result<()> {
        let before = self.totals().seen.packets;
        self.sender.send(frames)?;
        let deadline = Instant::now() + PATIENCE;
        while self.totals().seen.packets < before + frames.len() as u64 {
            ensure!(
                Instant::now() < deadline,
                "{} of {} seen",
                self.totals().seen.packets - before,
                frames.len()
            );
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Takes `count` frames, and finds that there are no more.
    pub(crate) fn receive(&mut self, count: usize) -> Result<Vec<Arrived>> {
        let mut arrived = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while arrived.len() < count {
            ensure!(
                Instant::now() < deadline,
                "{} of {count} frames",
                arrived.len()
            );
            arrived.extend(self.drain());
            self.queues[0].wait(Duration::from_millis(1))?;
        }
        arrived.extend(self.drain());
        assert_eq!(arrived.len(), count);
        Ok(arrived)
    }

    /// What is there now.
    pub(crate) fn drain(&mut self) -> Vec<Arrived> {
        let mut arrived = Vec::new();
        for (queue, socket) in (0..).zip(&mut self.queues) {
            let mut take = |frame: Received<'_>| {
                arrived.push(Arrived {
                    queue,
                    octets: frame.octets.to_vec(),
                    len: frame.len,
                    note: frame.note,
                });
            };
            // Bursts of an odd size, so that they end anywhere in a ring.
            while socket.receive(61, &mut take) > 0 {}
        }
        arrived
    }

    /// Takes the program off, and returns how many datagrams have come to the stack before.
    pub(crate) fn at_stack(&mut self) -> Result<usize> {
        self.attached = None;
        let marker = udp(1, 20, MARKER);
        self.sender.send(&[&marker.frame])?;
        self.sniffer
            .wait_until("the marker", MARKER, |seen| !seen.is_empty())?;
        Ok(self.sniffer.datagrams(PORT).len())
    }
}

/// A datagram of flow `number`.
fn udp(number: u16, payload: usize, port: u16) -> Packet {
    Ip::new("192.0.2.1", "198.51.100.2").udp(1000 + number, port, payload)
}

/// Datagrams of as many flows, of different lengths.
pub(crate) fn datagrams(count: usize) -> Vec<Packet> {
    (0..count)
        .map(|i| udp((i % 5000) as u16, 20 + i % 900, PORT))
        .collect()
}

pub(crate) fn octets(packets: &[Packet]) -> u64 {
    packets.iter().map(|packet| packet.frame.len() as u64).sum()
}

/// How often each frame is there.
pub(crate) fn counted<'a>(
    frames: impl Iterator<Item = &'a Vec<u8>>,
) -> BTreeMap<&'a Vec<u8>, usize> {
    let mut counted = BTreeMap::new();
    for frame in frames {
        *counted.entry(frame).or_default() += 1;
    }
    counted
}

/// Does the work in the namespace of the sensor.
pub(crate) fn at_sensor<T: Send>(
    sensor: &Netns,
    work: impl FnOnce() -> Result<T> + Send,
) -> Result<T> {
    sensor.run(work)?
}
