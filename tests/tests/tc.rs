//! Traffic control: the same flows as by XDP, those of interfaces without Ethernet, and what goes out.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd as _,
    sync::mpsc::channel,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::{
    bpf::{attach_egress, load_egress, op, programs_of_tc},
    collector::Collector,
    flow::Truth,
    ipfix::Field,
    live::{Live, pin_to_cpu},
    mix::mix,
    netns::Netns,
    packets::{Ip, Packet, flag, truth},
    probe::{self, Finished, Probe},
    sender::Sender,
    topology::{Pair, Routed, Wire},
};

/// The enterprise of reverse elements (RFC 5103).
const REVERSE: u32 = 29305;

const HOOK: [&str; 4] = ["-i", Pair::SENSOR, "--hook", "tc"];

fn frames(packets: &[Packet]) -> Vec<&Vec<u8>> {
    packets.iter().map(|packet| &packet.frame).collect()
}

/// How many programs are at both hooks.
fn attached(namespace: &Netns, interface: &str) -> Result<(u32, u32)> {
    let index = namespace.index(interface)?;
    let both = namespace.run(|| -> Result<_> {
        Ok((programs_of_tc(index, false)?, programs_of_tc(index, true)?))
    })??;
    Ok(both)
}

/// Frames of all kinds, those with tags among them, which the kernel takes out before this hook.
#[test]
fn every_kind_of_frame_that_comes_in_is_counted_to_the_octet() -> Result<()> {
    let packets = mix();
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &HOOK)?;
    ensure!(
        !pair.sensor.has_xdp(Pair::SENSOR)?,
        "that is not traffic control"
    );
    assert_eq!(attached(&pair.sensor, Pair::SENSOR)?, (1, 0));
    let finished = probe.meter(&sender, &frames(&packets), 3)?;
    finished.assert_exact(&packets, 3);
    let interface = &finished.summary.interfaces[0];
    assert_eq!((interface.mode.as_str(), interface.egress), ("tc", false));
    assert_eq!(finished.summary.ledger.seen_out.packets, 0);
    assert_eq!(attached(&pair.sensor, Pair::SENSOR)?, (0, 0));
    for flow in &finished.flows {
        assert_eq!((flow.direction, flow.interface), (0, interface.ifindex));
        assert_eq!(flow.interface_out, 0);
    }
    Ok(())
}

/// What the sensor itself sends, as frames of all kinds from a packet socket.
#[test]
fn every_kind_of_frame_that_goes_out_is_counted_to_the_octet() -> Result<()> {
    let packets = mix();
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.sensor, Pair::SENSOR)?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR, "--egress"])?;
    assert_eq!(attached(&pair.sensor, Pair::SENSOR)?, (0, 1));
    let finished = probe.meter(&sender, &frames(&packets), 3)?;
    finished.assert_exact(&packets, 3);
    let ledger = &finished.summary.ledger;
    assert_eq!(ledger.seen_out, ledger.seen);
    let interface = &finished.summary.interfaces[0];
    assert_eq!(
        (interface.mode.as_str(), interface.egress),
        ("native", true)
    );
    for flow in &finished.flows {
        assert_eq!((flow.direction, flow.interface), (1, 0));
        assert_eq!(flow.interface_out, interface.ifindex);
    }
    assert_eq!(attached(&pair.sensor, Pair::SENSOR)?, (0, 0));
    Ok(())
}

/// Of a frame of more than a page a packet socket leaves only the Ethernet header where a program
/// can read it at once.
#[test]
fn headers_that_lie_elsewhere_are_read() -> Result<()> {
    let v4 = || Ip::new("192.0.2.1", "198.51.100.2");
    let v6 = || Ip::new("2001:db8::1", "2001:db8:1::2");
    let packets = [
        v4().udp(1000, 2000, 8000),
        v4().tcp(1000, 2000, flag::ACK, 8000),
        v4().tag(0x8100, 5).udp(1000, 2000, 8000),
        v6().extension(60, 8).udp(1000, 2000, 8000),
    ];
    let pair = Pair::new(Wire {
        mtu: 9000,
        ..Wire::default()
    })?;
    let sender = Sender::new(&pair.sensor, Pair::SENSOR)?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR, "--egress"])?;
    let finished = probe.meter(&sender, &frames(&packets), 3)?;
    finished.assert_exact(&packets, 3);
    Ok(())
}

/// What comes in in softirq and what a process sends, on one CPU and so in one partition, and on
/// two: nothing is lost between them.
#[test]
fn both_ways_at_once_are_counted_exactly() -> Result<()> {
    const SENT: u64 = 100_000;
    for cpu in [0, 1] {
        let pair = endpoints()?;
        let packet = Ip::new("10.7.0.1", "10.7.0.2").udp(0, 0, 18);
        let live = Live::new(&pair.generator, Pair::GENERATOR, packet, 0, 16)?;
        let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR, "--egress"])?;
        thread::scope(|scope| -> Result<()> {
            let coming = scope.spawn(|| live.send(&pair.generator, 0, 1 << 19));
            pair.sensor.run(|| -> Result<()> {
                pin_to_cpu(cpu)?;
                let socket = UdpSocket::bind("10.9.0.1:1000")?;
                for _ in 0..SENT {
                    // A port that nobody listens on is told of by the other end.
                    let _told = socket.send_to(&[0; 18], "10.9.0.2:9");
                }
                Ok(())
            })??;
            coming.join().expect("no panic")
        })?;
        let finished = probe.stop()?;
        finished.summary.assert_balanced();
        finished.summary.assert_nothing_lost();
        let ledger = &finished.summary.ledger;
        // What the other end had no room for went out too.
        let counters = pair.sensor.counters(Pair::SENSOR)?;
        let out = counters.tx_packets + counters.tx_dropped;
        assert_eq!(ledger.seen_out.packets, out, "CPU {cpu}");
        let flows = Truth::of(&finished.flows).total();
        assert_eq!(flows.packets, ledger.seen.packets, "CPU {cpu}");
        let own = finished.flows.iter().filter(|flow| flow.direction == 1);
        let own = own.filter(|flow| flow.key.destination_port == 9);
        let sent: u64 = own.map(|flow| flow.counts.packets).sum();
        ensure!(sent > SENT / 2 && sent <= SENT, "{sent} of {SENT} left");
        ensure!(
            ledger.seen.packets > out + SENT,
            "nothing came in meanwhile"
        );
    }
    Ok(())
}

/// Others at the hook are left alone, and what they say is done; also after kill -9.
#[test]
fn nothing_is_displaced_or_left_behind() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    // r0 = TCX_DROP; exit
    let foreign = load_egress("foreign", &[op(0xb7, 0, 0, 0, 2), op(0x95, 0, 0, 0, 0)])?;
    let index = pair.sensor.index(Pair::SENSOR)?;
    let link = pair.sensor.run(|| attach_egress(&foreign, index))??;
    let arguments = ["-i", Pair::SENSOR, "--hook", "tc", "--egress"];
    let probe = Probe::start(&pair.sensor, &arguments)?;
    assert_eq!(attached(&pair.sensor, Pair::SENSOR)?, (1, 2));
    pair.sensor.ip(&format!(
        "address add 10.9.0.1/24 dev {mon}\n\
         neighbour add 10.9.0.2 lladdr 02:00:00:00:00:02 dev {mon}",
        mon = Pair::SENSOR
    ))?;
    let before = pair.generator.counters(Pair::GENERATOR)?.rx_packets;
    let socket = pair.sensor.udp("10.9.0.1:1000".parse()?)?;
    socket.send_to(&[0; 20], "10.9.0.2:2000")?;
    let finished = probe.stop()?;
    assert_eq!(finished.summary.ledger.seen_out.packets, 1);
    let after = pair.generator.counters(Pair::GENERATOR)?.rx_packets;
    assert_eq!(before, after, "the other one's verdict");
    assert_eq!(attached(&pair.sensor, Pair::SENSOR)?, (0, 1));

    let probe = Probe::start(&pair.sensor, &arguments)?;
    assert_eq!(attached(&pair.sensor, Pair::SENSOR)?, (1, 2));
    probe.kill()?;
    for _ in 0..100 {
        if attached(&pair.sensor, Pair::SENSOR)? == (0, 1) {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(attached(&pair.sensor, Pair::SENSOR)?, (0, 1));
    drop(link);
    Ok(())
}

/// An interface of packets without link layer.
struct Tun(File);

impl Tun {
    const NAME: &str = "tun0";

    /// Makes it in the namespace, with the address 198.51.100.1/24.
    fn new(namespace: &Netns) -> Result<Self> {
        let tun = namespace.run(Self::open)?.context("/dev/net/tun")?;
        namespace.ip("link set tun0 addrgenmode none\n\
             address add 198.51.100.1/24 dev tun0\n\
             link set tun0 up")?;
        Ok(tun)
    }

    fn open() -> io::Result<Self> {
        // linux/if_tun.h.
        const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open("/dev/net/tun")?;
        // struct ifreq: the name, then the flags.
        let mut request = [0_u8; 40];
        request[..Self::NAME.len()].copy_from_slice(Self::NAME.as_bytes());
        let flags = (libc::IFF_TUN | libc::IFF_NO_PI) as u16;
        request[16..18].copy_from_slice(&flags.to_ne_bytes());
        // SAFETY: the request is as long as struct ifreq, and outlives the call.
        match unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) } {
            0 => Ok(Self(file)),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// Packets come in, each without its Ethernet header.
    fn send(&mut self, packets: &[Packet]) -> Result<()> {
        for packet in packets {
            self.0.write_all(&packet.frame[14..])?;
        }
        Ok(())
    }
}

/// Packets of a tun interface begin with IP: each counts, in both directions.
#[test]
fn an_interface_without_ethernet_is_metered() -> Result<()> {
    let host = Netns::new("host")?;
    let mut tun = Tun::new(&host)?;
    let v4 = || Ip::new("198.51.100.9", "203.0.113.1");
    let v6 = || Ip::new("2001:db8::1", "2001:db8:1::2");
    let packets = [
        v4().udp(1000, 2000, 20),
        v4().tcp(1000, 2000, flag::SYN, 0),
        v4().options(2).tcp(1001, 2000, flag::ACK, 300),
        v4().icmp(13, 0, 40),
        v6().udp(1000, 2000, 20),
        v6().extension(60, 8).tcp(1000, 2000, flag::ACK, 7),
    ];
    let refused = probe::output(&host, &["run", "-i", Tun::NAME])?;
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.contains("--hook tc"), "no cure in {said}");

    let probe = Probe::start(&host, &["-i", Tun::NAME, "--hook", "tc", "--egress"])?;
    tun.send(&packets)?;
    let socket = host.udp("198.51.100.1:777".parse()?)?;
    socket.send_to(&[0; 100], "198.51.100.7:888")?;
    let finished = probe.stop()?;
    let ledger = &finished.summary.ledger;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    assert_eq!((ledger.seen_out.packets, ledger.seen_out.octets), (1, 128));
    let octets: usize = packets.iter().map(|packet| packet.frame.len() - 14).sum();
    assert_eq!(ledger.seen.octets - 128, octets as u64);
    let (out, r#in): (Vec<_>, Vec<_>) =
        (finished.flows.iter().cloned()).partition(|flow| flow.direction == 1);
    truth(&packets, 1).assert_equals(&Truth::of(&r#in));
    let [out] = &out[..] else {
        panic!("one flow goes out: {out:?}");
    };
    assert_eq!(out.key.source, Ipv4Addr::new(198, 51, 100, 1));
    assert_eq!((out.counts.packets, out.counts.octets), (1, 128));
    let index = host.index(Tun::NAME)?;
    assert_eq!((out.interface, out.interface_out), (0, index));
    Ok(())
}

/// Client and server at the ends of a wire, where the client's kernel makes super-frames and cuts
/// them itself behind the hook, so that the server's counters know what is on the wire.
fn endpoints() -> Result<Pair> {
    let pair = Pair::new(Wire::default())?;
    for (host, interface, own, other) in [
        (&pair.sensor, Pair::SENSOR, 1, 2),
        (&pair.generator, Pair::GENERATOR, 2, 1),
    ] {
        host.ip(&format!(
            "link set {interface} address 02:00:00:00:00:0{own}\n\
             address add 10.9.0.{own}/24 dev {interface}\n\
             neighbour add 10.9.0.{other} lladdr 02:00:00:00:00:0{other} dev {interface}"
        ))?;
    }
    let offloads = "tx on sg on tso off gso on gro off";
    let status = pair
        .sensor
        .command("ethtool")
        .args(["-K", Pair::SENSOR])
        .args(offloads.split(' '))
        .status()?;
    ensure!(status.success(), "ethtool: {status}");
    Ok(pair)
}

/// The client sends so many octets by TCP, and gets a few back.
fn talk(pair: &Pair, octets: usize) -> Result<()> {
    let (ready, is_ready) = channel();
    thread::scope(|scope| {
        let server = scope.spawn(move || {
            pair.generator.run(|| -> Result<()> {
                let listener = TcpListener::bind("10.9.0.2:80")?;
                ready.send(())?;
                let (mut stream, _) = listener.accept()?;
                let mut request = Vec::new();
                stream.read_to_end(&mut request)?;
                ensure!(request.len() == octets);
                stream.write_all(b"thanks")?;
                Ok(())
            })?
        });
        is_ready.recv()?;
        pair.sensor.run(|| -> Result<()> {
            let mut stream = TcpStream::connect("10.9.0.2:80")?;
            stream.write_all(&vec![b'x'; octets])?;
            stream.shutdown(Shutdown::Write)?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer)?;
            ensure!(answer == b"thanks");
            Ok(())
        })??;
        server.join().expect("no panic")
    })
}

/// Octets of frames that an interface received, as its own counter has them.
fn received(namespace: &Netns, interface: &str) -> Result<(u64, u64)> {
    let file = |name: &str| -> Result<u64> {
        let path = format!("/sys/class/net/{interface}/statistics/{name}");
        let output = namespace.command("cat").arg(path).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().parse()?)
    };
    Ok((file("rx_packets")?, file("rx_bytes")?))
}

/// Segments that go out as super-frames are counted as the packets that arrive.
#[test]
fn super_frames_are_counted_as_they_are_on_the_wire() -> Result<()> {
    let pair = endpoints()?;
    for options in [&[][..], &["--sample", "tcp port 80 = 1/1"][..]] {
        let before = received(&pair.generator, Pair::GENERATOR)?;
        let arguments = [&["-i", Pair::SENSOR, "--egress"], options].concat();
        let probe = Probe::start(&pair.sensor, &arguments)?;
        talk(&pair, 5_000_000)?;
        let finished = probe.stop()?;
        let after = received(&pair.generator, Pair::GENERATOR)?;
        finished.summary.assert_balanced();
        finished.summary.assert_nothing_lost();
        let out = &finished.summary.ledger.seen_out;
        assert_eq!(
            (out.packets, out.octets),
            (after.0 - before.0, after.1 - before.1),
            "{options:?}"
        );
        let flow = finished.flows.iter().find(|flow| flow.direction == 1);
        let flow = flow.context("what the client sent")?;
        assert_eq!(flow.key.destination_port, 80);
        assert_eq!(flow.counts.packets, out.packets);
        assert_eq!(flow.counts.octets, out.octets - 14 * out.packets);
        let back = finished.flows.iter().find(|flow| flow.direction == 0);
        assert_eq!(back.context("what came back")?.key.source_port, 80);
        assert_eq!(finished.flows.len(), 2);
    }
    Ok(())
}

/// An endpoint sees both ways of its conversations on its one interface.
#[test]
fn an_endpoint_has_whole_conversations() -> Result<()> {
    let pair = endpoints()?;
    let collector = Collector::start(&pair.sensor, "127.0.0.1:4739", true)?;
    let url = collector.url();
    let interface = ["-i", Pair::SENSOR, "--egress"];
    let arguments = [&interface[..], &["--biflow", "--collector", &url]].concat();
    let probe = Probe::start(&pair.sensor, &arguments)?;
    talk(&pair, 50_000)?;
    let summary = probe.stop()?.summary;
    summary.assert_balanced();
    let received = collector.stop();
    received.assert_well_formed();
    let records = received.records.iter().map(|(_, record)| record);
    let flows: Vec<_> = records.filter(|record| !record.is_options()).collect();
    let [record] = flows[..] else {
        panic!("one conversation: {flows:?}");
    };
    let value = |enterprise, id| {
        let wanted = |(field, _): &(Field, &[u8])| (field.enterprise, field.id) == (enterprise, id);
        let (_, octets) = record.fields().find(wanted)?;
        let number = octets
            .iter()
            .fold(0, |sum, octet| sum << 8 | u32::from(*octet));
        Some(number)
    };
    let index = pair.sensor.index(Pair::SENSOR)?;
    let both = |id| (value(0, id), value(REVERSE, id));
    assert_eq!(value(0, 11), Some(80), "the client began it");
    assert_eq!(both(61), (Some(1), Some(0)), "flowDirection");
    assert_eq!(both(10), (Some(0), Some(index)), "ingressInterface");
    assert_eq!(both(14), (Some(index), Some(0)), "egressInterface");
    Ok(())
}

/// A gateway that is watched on both sides, in both directions.
fn forward(options: &[&str]) -> Result<Finished> {
    let network = Routed::new()?;
    let probe = Probe::start(
        &network.gateway,
        &[&["-i", Routed::LAN, "-i", Routed::WAN, "--egress"], options].concat(),
    )?;
    let server = network.server.udp("10.10.2.2:53".parse()?)?;
    server.set_read_timeout(Some(Duration::from_secs(20)))?;
    network.client.run(|| -> Result<()> {
        let client = UdpSocket::bind("10.10.1.2:1000")?;
        for _ in 0..5 {
            client.send_to(&[0; 72], "10.10.2.2:53")?;
        }
        Ok(())
    })??;
    for _ in 0..5 {
        server.recv(&mut [0; 100])?;
    }
    // What the gateway sends itself comes in nowhere.
    let own = network.gateway.udp("10.10.2.1:1000".parse()?)?;
    own.send_to(&[0; 72], "10.10.2.2:54")?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    Ok(finished)
}

/// Flows by direction, with their packets, of those to this port.
fn ways(finished: &Finished, port: u16) -> Vec<(u8, u64)> {
    let flows = finished.flows.iter();
    let flows = flows.filter(|flow| flow.key.destination_port == port);
    let mut ways: Vec<_> = flows
        .map(|flow| (flow.direction, flow.counts.packets))
        .collect();
    ways.sort_unstable();
    ways
}

#[test]
fn what_is_forwarded_is_counted_once_for_each_interface_or_once() -> Result<()> {
    let finished = forward(&[])?;
    assert_eq!(ways(&finished, 53), [(0, 5), (1, 5)]);
    assert_eq!(ways(&finished, 54), [(1, 1)]);
    assert_eq!(finished.summary.ledger.ignored["seen_coming_in"].packets, 0);

    let finished = forward(&["--dedup"])?;
    assert_eq!(ways(&finished, 53), [(0, 5)]);
    assert_eq!(ways(&finished, 54), [(1, 1)], "nobody saw it come in");
    let again = finished.summary.ledger.ignored["seen_coming_in"];
    assert_eq!((again.packets, again.octets), (5, 5 * (14 + 28 + 72)));
    Ok(())
}

#[test]
fn options_that_do_not_go_together_are_refused() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    for (options, why) in [
        (&["--dedup"][..], "--egress"),
        (&["--hook", "tc", "--xdp-mode", "native"], "--xdp-mode"),
        (&["--hook", "tcx"], "xdp, tc"),
    ] {
        let arguments = [&["run", "-i", Pair::SENSOR], options].concat();
        let refused = probe::output(&pair.sensor, &arguments)?;
        assert_eq!(refused.status.code(), Some(2), "{options:?}");
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(said.contains(why), "{options:?}: {said}");
    }
    Ok(())
}
