//! What tshark sees in a capture: each packet's headers from the outermost to the innermost, and
//! its own statistics of conversations.

mod statistics;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};

use self::statistics::statistics;
pub use self::statistics::{Key, Statistics};

/// One direction of a conversation: addresses, and the ports where the statistic has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Direction {
    /// From.
    pub source: (IpAddr, u16),
    /// To.
    pub destination: (IpAddr, u16),
}

/// The statistics of conversations.
pub const STATISTICS: [&str; 4] = ["ip", "ipv6", "tcp", "udp"];

/// A packet as tshark dissects it. All lists are from the outermost header to the innermost.
#[derive(Clone, Debug, Default)]
pub struct Dissected {
    /// Number in the capture, from 1.
    pub number: u64,
    /// Octets on the wire.
    pub len: u64,
    /// Octets in the capture.
    pub captured: u64,
    /// Wireshark's number of the link layer; none for pcapng blocks that hold no packet and that it
    /// shows as one.
    pub encapsulation: Option<u32>,
    /// Names of all layers.
    pub layers: Vec<String>,
    /// Every field that was asked for.
    fields: BTreeMap<&'static str, Vec<String>>,
}

/// The frame's own fields.
const FRAME: &[&str] = &[
    "frame.number",
    "frame.len",
    "frame.cap_len",
    "frame.encap_type",
    "frame.protocols",
];

/// What is asked for beside them.
const FIELDS: &[&str] = &[
    "frame.time_epoch",
    "frame.interface_id",
    "vlan.id",
    "ieee8021ad.id",
    "mpls.label",
    "llc.oui",
    "gre.flags_and_version",
    "gre.proto",
    "gre.key",
    "vxlan.flags",
    "vxlan.vni",
    "geneve.vni",
    "gtp.teid",
    "ip.bogus_ip_length",
    "ip.bogus_header_length",
    "ipv6.plen_exceeds_framing",
    "ip.src",
    "ip.dst",
    "ip.hdr_len",
    "ip.len",
    "ip.proto",
    "ip.frag_offset",
    "ipv6.src",
    "ipv6.dst",
    "ipv6.plen",
    "ipv6.nxt",
    "ip.id",
    "ip.flags.mf",
    "ipv6.fraghdr.ident",
    "ipv6.fraghdr.more",
    "ipv6.fraghdr.offset",
    "ipv6.fraghdr.nxt",
    "tcp.srcport",
    "tcp.dstport",
    "udp.srcport",
    "udp.dstport",
    "tcp.hdr_len",
    "tcp.flags",
    "icmp.code",
    "icmpv6.code",
    "_ws.malformed",
    "_ws.short",
    "_ws.unreassembled",
    "ipv6.routing.src.addr",
    "ipv6.routing.rpl.full_address",
    "ipv6.routing.mipv6.home_address",
    "ipv6.routing.srh.addr",
];

/// A header of one of the two families, or one with ports, within the header before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which statistic counts it.
    pub statistic: &'static str,
    /// Number of the IP header that it is or that it is in, from 0.
    pub level: usize,
    /// The direction that it counts for.
    pub direction: Direction,
}

/// An IP header.
#[derive(Clone, Copy, Debug)]
pub struct Level<'a> {
    /// `ip` or `ipv6`.
    pub network: &'a str,
    /// How many of the same family are before it: the occurrence of fields that each has.
    pub occurrence: usize,
    /// Layers between the IP header before it, or the start of the frame, and this one.
    pub carrier: &'a [String],
    /// Layers between it and the next IP header.
    pub payload: &'a [String],
}

/// What the fragments of a packet share.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datagram {
    id: u64,
    /// Protocol, for IPv4.
    protocol: u64,
    /// Addresses, and those of the tunnels around.
    directions: Vec<Direction>,
    /// Interface, VLANs, labels, tunnels.
    around: Vec<String>,
}

/// Part of a fragmented packet.
#[derive(Clone, Debug)]
pub struct Fragment {
    /// Of which packet.
    pub datagram: Datagram,
    /// Whether not the first one: it has no ports.
    pub later: bool,
}

/// Fields that tell apart what may have the same addresses.
const AROUND: [&str; 8] = [
    "frame.interface_id",
    "vlan.id",
    "ieee8021ad.id",
    "mpls.label",
    "gre.key",
    "vxlan.vni",
    "geneve.vni",
    "gtp.teid",
];

impl Dissected {
    /// The value of a field in the header number `occurrence` that has it.
    #[must_use]
    pub fn number_of(&self, field: &str, occurrence: usize) -> Option<u64> {
        let text = self.fields.get(field)?.get(occurrence)?;
        match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => text.parse().ok(),
        }
    }

    /// How often a field is there.
    #[must_use]
    pub fn count_of(&self, field: &str) -> usize {
        self.fields.get(field).map_or(0, Vec::len)
    }

    fn address_of(&self, field: &str, occurrence: usize) -> Option<IpAddr> {
        self.fields.get(field)?.get(occurrence)?.parse().ok()
    }

    /// Its IP headers, from the outermost to the innermost, but for quoted ones.
    #[must_use]
    pub fn levels(&self) -> Vec<Level<'_>> {
        let layers = self.unquoted();
        let is_network = |layer: &String| matches!(layer.as_str(), "ip" | "ipv6");
        let starts: Vec<_> = (0..layers.len())
            .filter(|at| is_network(&layers[*at]))
            .collect();
        let mut levels = Vec::new();
        let mut carrier = 0;
        for (number, &start) in starts.iter().enumerate() {
            let end = starts.get(number + 1).copied().unwrap_or(layers.len());
            let same = |at: &&usize| layers[**at] == layers[start];
            levels.push(Level {
                network: &layers[start],
                occurrence: starts[..number].iter().filter(same).count(),
                carrier: &layers[carrier..start],
                payload: &layers[start + 1..end],
            });
            carrier = start + 1;
        }
        levels
    }

    /// Which fragment the packet of this IP header is, if it is one.
    #[must_use]
    pub fn fragment(&self, level: usize) -> Option<Fragment> {
        let levels = self.levels();
        let Level {
            network,
            occurrence,
            payload,
            ..
        } = *levels.get(level)?;
        if network == "ip" {
            let names = ["ip.id", "ip.frag_offset", "ip.flags.mf"];
            let protocol = self.number_of("ip.proto", occurrence)?;
            return self.fragment_of(names, occurrence, level, protocol);
        }
        let has_header = |payload: &[String]| payload.iter().any(|layer| layer == "ipv6.fraghdr");
        let before = levels[..level].iter().filter(|l| has_header(l.payload));
        let names = [
            "ipv6.fraghdr.ident",
            "ipv6.fraghdr.offset",
            "ipv6.fraghdr.more",
        ];
        has_header(payload)
            .then(|| self.fragment_of(names, before.count(), level, 0))
            .flatten()
    }

    fn fragment_of(
        &self,
        [id, offset, more]: [&str; 3],
        at: usize,
        level: usize,
        protocol: u64,
    ) -> Option<Fragment> {
        let text = |name: &str| self.fields.get(name)?.get(at).map(String::as_str);
        let later = self.number_of(offset, at)? != 0;
        let more = matches!(text(more), Some("1" | "True"));
        let around = AROUND.iter().filter_map(|name| self.fields.get(name));
        let networks = self.headers().into_iter();
        let networks = networks.filter(|header| matches!(header.statistic, "ip" | "ipv6"));
        let datagram = Datagram {
            id: self.number_of(id, at)?,
            protocol,
            directions: networks
                .take(level + 1)
                .map(|header| header.direction)
                .collect(),
            around: around.flatten().cloned().collect(),
        };
        (later || more).then_some(Fragment { datagram, later })
    }

    /// When it was captured, in nanoseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn at_ns(&self) -> Option<u64> {
        let (seconds, fraction) = self
            .fields
            .get("frame.time_epoch")?
            .first()?
            .split_once('.')?;
        let seconds: u64 = seconds.parse().ok()?;
        let ns: u64 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
        Some(seconds * 1_000_000_000 + ns)
    }

    /// Whether any of these fields, which stand for what tshark finds wrong, is there.
    #[must_use]
    pub fn has_any(&self, fields: &[&str]) -> bool {
        fields.iter().any(|field| self.fields.contains_key(field))
    }

    /// The layers before the first one that quotes another packet, which no statistic counts: an
    /// error, or a sample.
    fn unquoted(&self) -> &[String] {
        let quotes = |layer: &String| matches!(layer.as_str(), "icmp" | "icmpv6" | "sflow");
        let end = self.layers.iter().position(quotes);
        &self.layers[..end.unwrap_or(self.layers.len())]
    }

    /// Whether tshark gave up within the packet, so that its statistics may not count all headers.
    #[must_use]
    pub fn is_unfinished(&self) -> bool {
        let signs = ["_ws.malformed", "_ws.short", "_ws.unreassembled"];
        let least_tcp = 20;
        self.has_any(&signs)
            || self
                .number_of("tcp.hdr_len", 0)
                .is_some_and(|len| len < least_tcp)
    }

    /// Where a Routing header leads in the end, which the statistics of TCP and UDP take for the
    /// destination.
    #[must_use]
    pub fn final_destination(&self) -> Option<IpAddr> {
        let last = |field: &str| {
            let count = self.fields.get(field)?.len();
            self.address_of(field, count - 1)
        };
        last("ipv6.routing.src.addr")
            .or_else(|| last("ipv6.routing.rpl.full_address"))
            .or_else(|| last("ipv6.routing.mipv6.home_address"))
            // RFC 8754 §2: from the last segment to the first.
            .or_else(|| self.address_of("ipv6.routing.srh.addr", 0))
    }

    /// Every IP, TCP and UDP header in it, but for quoted ones.
    #[must_use]
    pub fn headers(&self) -> Vec<Header> {
        let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
        let mut addresses = None;
        let mut headers = Vec::new();
        let mut level = 0;
        for layer in self.unquoted() {
            let occurrence = seen.entry(layer).or_insert(0);
            let at = *occurrence;
            *occurrence += 1;
            let Some(statistic) = STATISTICS.into_iter().find(|name| name == layer) else {
                continue;
            };
            if matches!(statistic, "ip" | "ipv6") {
                let source = self.address_of(&format!("{statistic}.src"), at);
                let destination = self.address_of(&format!("{statistic}.dst"), at);
                addresses = source.zip(destination);
                level += 1;
            }
            let port = |which: &str| match statistic {
                "tcp" | "udp" => self.number_of(&format!("{statistic}.{which}port"), at),
                _ => Some(0),
            };
            if let Some((source, destination)) = addresses
                && let Some((from, to)) = port("src").zip(port("dst"))
            {
                headers.push(Header {
                    statistic,
                    level: level - 1,
                    direction: Direction {
                        source: (source, from as u16),
                        destination: (destination, to as u16),
                    },
                });
            }
        }
        headers
    }
}

/// Every packet of a capture, and what `tshark -z conv,…` counts.
///
/// # Errors
/// Where tshark is not installed or fails, or prints what cannot be read.
pub fn dissect(capture: &Path) -> Result<(Vec<Dissected>, Statistics)> {
    let mut command = Command::new("tshark");
    command.arg("-r").arg(capture).arg("-n");
    // Nothing that puts several packets together, or that presumes what a header does not say.
    let off = ["ip.defragment", "ipv6.defragment", "ip.tso_support"];
    for preference in off {
        command.args(["-o", &format!("{preference}:FALSE")]);
    }
    command.args(["-T", "fields", "-E", "occurrence=a", "-E", "separator=/t"]);
    for field in FRAME.iter().chain(FIELDS) {
        command.args(["-e", field]);
    }
    for statistic in STATISTICS {
        command.args(["-z", &format!("conv,{statistic}")]);
    }
    let output = command
        .stderr(Stdio::null())
        .output()
        .context("cannot run tshark (package tshark)")?;
    // It ends with 2 where the capture is cut off, after all that there is.
    ensure!(
        output.status.code().is_some_and(|code| code <= 2),
        "tshark: {}",
        output.status
    );
    let text = String::from_utf8_lossy(&output.stdout);
    let packets = text.lines().take_while(|line| !line.starts_with(RULE));
    let packets: Result<Vec<_>> = packets.map(dissected).collect();
    Ok((packets?, statistics(&text)?))
}

/// What separates packets and statistics.
const RULE: &str = "=====";

fn dissected(line: &str) -> Result<Dissected> {
    let mut columns = line.split('\t');
    let mut number = || -> Result<u64> {
        let column = columns.next().context("a column is missing")?;
        column.parse().with_context(|| line.to_owned())
    };
    let (packet, len, captured) = (number()?, number()?, number()?);
    let encapsulation = columns.next().context("no link layer")?;
    let layers = columns.next().context("no layers")?;
    let values = |column: &str| column.split(',').map(str::to_owned).collect();
    let fields = FIELDS.iter().copied().zip(columns);
    Ok(Dissected {
        number: packet,
        len,
        captured,
        encapsulation: encapsulation.parse().ok(),
        layers: layers.split(':').map(str::to_owned).collect(),
        fields: fields
            .filter(|(_, column)| !column.is_empty())
            .map(|(field, column)| (field, values(column)))
            .collect(),
    })
}
