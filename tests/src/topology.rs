//! The two networks of the tests: a wire with a sensor at its end, and a gateway between two
//! hosts.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::netns::Netns;

/// A generator and a sensor, joined by a wire on which nothing moves by itself.
#[derive(Debug)]
pub struct Pair {
    /// Where frames are sent from.
    pub generator: Netns,
    /// Where flowprobe runs.
    pub sensor: Netns,
}

/// How the wire of a [`Pair`] is.
#[derive(Clone, Copy, Debug)]
pub struct Wire {
    /// Queues of either end.
    pub queues: u32,
    /// MTU of either end.
    pub mtu: u32,
}

impl Default for Wire {
    fn default() -> Self {
        Self {
            queues: 1,
            mtu: 1500,
        }
    }
}

impl Pair {
    /// The generator's interface.
    pub const GENERATOR: &str = "gen0";
    /// The sensor's interface.
    pub const SENSOR: &str = "mon0";

    /// Makes both ends.
    ///
    /// # Errors
    /// Without root, `ip` or `ethtool`.
    pub fn new(wire: Wire) -> Result<Self> {
        let pair = Self::without_wire()?;
        pair.wire(Self::GENERATOR, Self::SENSOR, wire)?;
        Ok(pair)
    }

    /// Makes both, with no wire between them.
    ///
    /// # Errors
    /// Without root or `ip`.
    pub fn without_wire() -> Result<Self> {
        Ok(Self {
            generator: Netns::new("generator")?,
            sensor: Netns::new("sensor")?,
        })
    }

    /// Adds a wire, between interfaces of these names.
    ///
    /// # Errors
    /// Without root, `ip` or `ethtool`.
    pub fn wire(&self, generator: &str, sensor: &str, wire: Wire) -> Result<()> {
        let Wire { queues, mtu } = wire;
        self.generator.ip(&format!(
            "link add {generator} mtu {mtu} numtxqueues {queues} numrxqueues {queues} type veth \
             peer name {sensor} mtu {mtu} numtxqueues {queues} numrxqueues {queues} netns {}",
            self.sensor.name()
        ))?;
        silence(&self.generator, generator)?;
        silence(&self.sensor, sensor)
    }
}

/// A collector on a host of its own, with a wire to the sensor that can fail.
#[derive(Debug)]
pub struct Uplink {
    /// Where the collector runs.
    pub collector: Netns,
}

impl Uplink {
    /// The sensor's interface.
    pub const SENSOR: &str = "up0";
    /// The collector's interface.
    pub const COLLECTOR: &str = "col0";
    /// The collector's address.
    pub const ADDRESS: &str = "10.20.0.2";
    /// The network of both, and the sensor's way to it.
    pub const ROUTE: &str = "10.20.0.0/24 dev up0 src 10.20.0.1";

    /// Makes the host, and a wire to a sensor. Neighbours are asked for, as they are anywhere.
    ///
    /// # Errors
    /// Without root or `ip`.
    pub fn new(sensor: &Netns) -> Result<Self> {
        let collector = Netns::new("collector")?;
        sensor.ip(&format!(
            "link add {} type veth peer name {} netns {}\n\
             address add 10.20.0.1/24 dev {0}\n\
             link set {0} up",
            Self::SENSOR,
            Self::COLLECTOR,
            collector.name()
        ))?;
        collector.ip(&format!(
            "address add {}/24 dev {}\n\
             link set {1} up",
            Self::ADDRESS,
            Self::COLLECTOR
        ))?;
        Ok(Self { collector })
    }
}

/// Client, gateway and server, joined by two wires; the gateway routes IPv4 and IPv6.
#[derive(Debug)]
pub struct Routed {
    /// [`Routed::CLIENT_V4`], [`Routed::CLIENT_V6`].
    pub client: Netns,
    /// Routes; where flowprobe runs.
    pub gateway: Netns,
    /// [`Routed::SERVER_V4`], [`Routed::SERVER_V6`].
    pub server: Netns,
}

impl Routed {
    /// The gateway's interface to the client.
    pub const LAN: &str = "lan0";
    /// The gateway's interface to the server.
    pub const WAN: &str = "wan0";
    /// The client's IPv4 address.
    pub const CLIENT_V4: &str = "10.10.1.2";
    /// The server's IPv4 address.
    pub const SERVER_V4: &str = "10.10.2.2";
    /// The client's IPv6 address.
    pub const CLIENT_V6: &str = "fd00:10:1::2";
    /// The server's IPv6 address.
    pub const SERVER_V6: &str = "fd00:10:2::2";

    /// Makes all three. Neighbours are entered by hand, so that no ARP and no neighbour
    /// discovery is among the packets.
    ///
    /// # Errors
    /// Without root, `ip` or `ethtool`.
    pub fn new() -> Result<Self> {
        let routed = Self {
            client: Netns::new("client")?,
            gateway: Netns::new("gateway")?,
            server: Netns::new("server")?,
        };
        let hosts = [
            (
                &routed.client,
                Self::LAN,
                1,
                Self::CLIENT_V4,
                Self::CLIENT_V6,
            ),
            (
                &routed.server,
                Self::WAN,
                2,
                Self::SERVER_V4,
                Self::SERVER_V6,
            ),
        ];
        for (host, port, net, v4, v6) in hosts {
            host.ip(&format!(
                "link add eth0 address 02:00:00:00:0{net}:02 type veth \
                 peer name {port} address 02:00:00:00:0{net}:01 netns {}",
                routed.gateway.name()
            ))?;
            silence(host, "eth0")?;
            silence(&routed.gateway, port)?;
            for (namespace, interface) in [(host, "eth0"), (&routed.gateway, port)] {
                let name = format!("net/ipv6/conf/{interface}/disable_ipv6");
                namespace.sysctl(&name, "0")?;
            }
            host.ip(&format!(
                "address add {v4}/24 dev eth0\n\
                 address add {v6}/64 dev eth0 nodad\n\
                 neighbour add 10.10.{net}.1 lladdr 02:00:00:00:0{net}:01 dev eth0\n\
                 neighbour add fd00:10:{net}::1 lladdr 02:00:00:00:0{net}:01 dev eth0\n\
                 route add default via 10.10.{net}.1\n\
                 route add ::/0 via fd00:10:{net}::1 dev eth0"
            ))?;
            routed.gateway.ip(&format!(
                "address add 10.10.{net}.1/24 dev {port}\n\
                 address add fd00:10:{net}::1/64 dev {port} nodad\n\
                 neighbour add {v4} lladdr 02:00:00:00:0{net}:02 dev {port}\n\
                 neighbour add {v6} lladdr 02:00:00:00:0{net}:02 dev {port}"
            ))?;
        }
        routed.gateway.sysctl("net/ipv4/ip_forward", "1")?;
        routed.gateway.sysctl("net/ipv6/conf/all/forwarding", "1")?;
        Ok(routed)
    }
}

/// Takes an interface up with nothing that sends by itself, and nothing that merges or splits
/// frames between the sender and the counter.
///
/// # Errors
/// Without root, `ip` or `ethtool`.
pub fn silence(namespace: &Netns, interface: &str) -> Result<()> {
    namespace.ip(&format!(
        "link set {interface} addrgenmode none multicast off arp off\n\
         link set {interface} up"
    ))?;
    let status = namespace
        .command("ethtool")
        .args(["-K", interface])
        .args("tso off gso off gro off tx off rxvlan off txvlan off".split(' '))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .context("cannot run ethtool")?;
    ensure!(status.success(), "ethtool -K {interface}: {status}");
    Ok(())
}
