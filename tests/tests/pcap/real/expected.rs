//! What flowprobe has to make of a packet, by what tshark shows of it.

use std::collections::BTreeMap;

use flowprobe_tests::judges::dissection::{Datagram, Dissected, Key};

/// Why a packet that tshark counts for a conversation is not in a flow of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Case {
    /// The IP header is behind a layer that flowprobe does not read: one of [`UNREAD`], LLC without
    /// the SNAP header of EtherTypes, or the link layer of another interface of a pcapng file.
    Carrier,
    /// There are more VLAN tags or MPLS labels than are walked.
    TooDeep,
    /// The frame has fewer octets on the wire than the IP packet says that it has.
    CutOnTheWire,
    /// The IP header length is below 20 octets or above the total length, which includes the
    /// length 0 of packets that the sender's NIC was to segment.
    HeaderLength,
    /// The header above IP is cut off before its ports or flags, on the wire or by the snaplen.
    NoPorts,
    /// A header within the packet that is counted: in a tunnel, or in what [`QUOTING`] quotes.
    Inner,
    /// A header around the packet that is counted: that of the tunnel which was opened.
    Around,
    /// A Routing header leads elsewhere than to the destination address, which a flow has.
    Routed,
    /// tshark gave up within the packet before its own statistic had it: headers above IP that are
    /// malformed, or cut off. It is in a flow all the same.
    Unfinished,
    /// The record that is damaged, of which tshark shows what there is.
    Damaged,
    /// None of these: a difference.
    Unknown,
}

/// Layers before IP that flowprobe does not read: MACsec (also where it does not encrypt), service
/// headers, Arista's time stamps.
const UNREAD: [&str; 3] = ["macsec", "nsh", "avsp"];

/// Layers in which tshark finds IP packets and that are no tunnels to flowprobe: PIM (Registers),
/// L2TP, NSH, MPLS over UDP; packets that OpenFlow quotes.
const QUOTING: [&str; 5] = ["pim", "l2tp", "nsh", "mpls", "openflow"];

const MAX_TAGS: u32 = 4;
const MAX_LABELS: u32 = 6;

/// What stands before an IP header.
#[derive(Clone, Copy, Default)]
struct Carrier {
    octets: u64,
    tags: u32,
    labels: u32,
}

impl Carrier {
    /// Adds layers of the link.
    fn with(mut self, packet: &Dissected, layers: &[&str]) -> Result<Self, Case> {
        for layer in layers {
            match *layer {
                "vlan" | "ieee8021ad" => {
                    self.octets += 4;
                    self.tags += 1;
                }
                // One layer is the whole stack.
                "mpls" => {
                    self.labels = packet.count_of("mpls.label") as u32;
                    self.octets += 4 * u64::from(self.labels);
                }
                "llc" if packet.number_of("llc.oui", 0) == Some(0) => self.octets += 8,
                "pppoes" => self.octets += 6,
                "ppp" => self.octets += 2,
                "ethertype" => {}
                layer if layer == "llc" || UNREAD.contains(&layer) => return Err(Case::Carrier),
                _ => return Err(Case::Unknown),
            }
        }
        match self.tags > MAX_TAGS || self.labels > MAX_LABELS {
            true => Err(Case::TooDeep),
            false => Ok(self),
        }
    }

    /// What stands before the outermost IP header.
    fn outermost(packet: &Dissected, carrier: &[String]) -> Result<Self, Case> {
        // Wireshark's numbers: Ethernet; raw IP, IPv4, IPv6; NULL and LOOP; SLL; SLL2; frame relay with
        // NLPID; Cisco HDLC; IP over InfiniBand.
        let (octets, name) = match packet.encapsulation {
            Some(1) => (14, "eth"),
            Some(7 | 129 | 130) => (0, "raw"),
            Some(15) => (4, "null"),
            Some(25) => (16, "sll"),
            Some(210) => (20, "sll"),
            Some(26) => (4, "fr"),
            Some(28) => (4, "chdlc"),
            Some(180) => (44, "ipoib"),
            _ => return Err(Case::Carrier),
        };
        let layers = names(carrier);
        let layers = layers.strip_prefix(&[name]).unwrap_or(&layers);
        let link = Self {
            octets,
            ..Self::default()
        };
        link.with(packet, layers)
    }
}

fn names(layers: &[String]) -> Vec<&str> {
    layers.iter().map(String::as_str).collect()
}

/// IPv6 extension headers.
const EXTENSIONS: [u64; 8] = [0, 43, 44, 51, 60, 135, 139, 140];

/// Protocols of which a flow has ports, or type and code.
const WITH_PORTS: [u64; 7] = [1, 6, 17, 33, 58, 132, 136];

/// The packet that is counted for a flow.
#[derive(Clone, Copy)]
pub(crate) struct Counted {
    /// Number of its IP header, the outermost being 0.
    pub(crate) level: usize,
    pub(crate) octets: u64,
}

/// What flowprobe has to make of a packet of which tshark shows an IP header.
pub(crate) fn judge(packet: &Dissected, inner: bool) -> Result<Counted, Case> {
    let levels = packet.levels();
    let outermost = levels.first().ok_or(Case::Unknown)?;
    let carrier = Carrier::outermost(packet, outermost.carrier)?;
    let at = carrier.octets;
    let v4 = outermost.network == "ip";
    let (header, octets, protocol) = header(packet, v4, 0);
    if header < 20 || octets < header {
        return Err(Case::HeaderLength);
    }
    if packet.len < at + octets {
        return Err(Case::CutOnTheWire);
    }
    let above = (packet.captured.min(at + octets)).saturating_sub(at + header);
    let fragment = packet.fragment(0);
    let later = fragment.as_ref().is_some_and(|fragment| fragment.later);
    if !later && above < needs(v4, protocol) {
        return Err(Case::NoPorts);
    }
    let outer = Counted { level: 0, octets };
    match inner && fragment.is_none() && levels.len() > 1 {
        true => Ok(opened(packet, carrier)?.unwrap_or(outer)),
        false => Ok(outer),
    }
}

/// Octets of the header above IP up to its ports and flags, or to its type and code.
fn needs(v4: bool, protocol: u64) -> u64 {
    match protocol {
        6 => 14,
        17 | 33 | 132 | 136 => 4,
        1 | 58 => 2,
        _ if !v4 && EXTENSIONS.contains(&protocol) => 8,
        _ => 0,
    }
}

/// Header length, octets and protocol of the IP header that is number `at` of its family.
fn header(packet: &Dissected, v4: bool, at: usize) -> (u64, u64, u64) {
    let field = |name| packet.number_of(name, at).unwrap_or(0);
    match v4 {
        true => (field("ip.hdr_len"), field("ip.len"), field("ip.proto")),
        false => (40, 40 + field("ipv6.plen"), field("ipv6.nxt")),
    }
}

/// The packet in the tunnel, if that is one which flowprobe opens.
fn opened(packet: &Dissected, carrier: Carrier) -> Result<Option<Counted>, Case> {
    let levels = packet.levels();
    let level = &levels[1];
    let extension = |layer: &&str| layer.starts_with("ipv6.") || *layer == "ah";
    let mut layers = names(level.carrier);
    layers.retain(|layer| !extension(layer));
    if layers.iter().any(|layer| QUOTING.contains(layer)) && !layers.contains(&"eth") {
        return Ok(None);
    }
    let Some(link) = tunnel(packet, &layers)? else {
        return Ok(None);
    };
    let inside = match link {
        [] => Ok(carrier),
        ["eth", link @ ..] => carrier.with(packet, link),
        _ => return Err(Case::Unknown),
    };
    let (_, octets, protocol) = header(packet, level.network == "ip", level.occurrence);
    let udp_headers = layers.iter().filter(|layer| **layer == "udp").count();
    let whole = inside.is_ok() && is_whole(packet, protocol, udp_headers);
    Ok(whole.then_some(Counted { level: 1, octets }))
}

/// What stands behind the header of the tunnel that these layers are, if flowprobe opens it.
fn tunnel<'a>(packet: &Dissected, layers: &'a [&'a str]) -> Result<Option<&'a [&'a str]>, Case> {
    let field = |name| packet.number_of(name, 0).unwrap_or(0);
    let port = field("udp.dstport");
    let (opened, link) = match layers {
        [] => (true, layers),
        // RFC 2784 §2.2, §2.3: neither a routing field nor another version.
        ["gre", link @ ..] => (field("gre.flags_and_version") & 0x4007 == 0, link),
        // RFC 7348 §5: the flag of a valid identifier.
        ["udp", "vxlan", link @ ..] => (port == 4789 && field("vxlan.flags") & 0x0800 != 0, link),
        ["udp", "geneve", link @ ..] => (port == 6081, link),
        ["udp", "gtp", link @ ..] => (port == 2152, link),
        // Ethernet in OpenFlow, and directly in IP (RFC 8986 §10.1).
        ["tcp", "openflow", ..] | ["eth", ..] => (false, layers),
        _ => return Err(Case::Unknown),
    };
    Ok(opened.then_some(link))
}

/// Whether the packet in a tunnel fits into it and has its ports, or type and code, or is a later
/// fragment; there are so many UDP headers around it.
fn is_whole(packet: &Dissected, protocol: u64, udp_headers: usize) -> bool {
    // tshark tells where a packet does not fit into the one around it.
    let wrong = [
        "ip.bogus_ip_length",
        "ip.bogus_header_length",
        "ipv6.plen_exceeds_framing",
    ];
    let has = |name, at| packet.number_of(name, at).is_some();
    let ports = match protocol {
        6 => has("tcp.flags", 0),
        17 => has("udp.dstport", udp_headers),
        1 => has("icmp.code", 0),
        58 => has("icmpv6.code", 0),
        _ => true,
    };
    let later = || packet.fragment(1).is_some_and(|fragment| fragment.later);
    !packet.has_any(&wrong) && (ports || later())
}

/// How long flowprobe waits for later fragments.
const LIFETIME_NS: u64 = 30_000_000_000;

/// First fragments, in the order of arrival.
#[derive(Default)]
pub(crate) struct Firsts {
    /// When each came, and what it is counted for beside IP.
    known: BTreeMap<Datagram, (u64, Option<Key>)>,
    now_ns: u64,
    /// Later ones whose first one has not come, or long ago.
    pub(crate) orphans: u64,
    /// Later ones whose first one is known.
    pub(crate) followed: u64,
}

impl Firsts {
    /// Remembers a first fragment. Of a later one, returns what the first one is counted for.
    pub(crate) fn follow(&mut self, packet: &Dissected, counted: Counted) -> Option<Key> {
        self.now_ns = packet.at_ns().unwrap_or(self.now_ns);
        let fragment = packet.fragment(counted.level)?;
        let level = packet.levels()[counted.level];
        let v4 = level.network == "ip";
        let (_, _, protocol) = header(packet, v4, level.occurrence);
        if v4 && !WITH_PORTS.contains(&protocol) {
            return None;
        }
        if !fragment.later {
            let headers = packet.headers();
            let mut ports = headers
                .iter()
                .filter(|h| h.level == counted.level && matches!(h.statistic, "tcp" | "udp"));
            let key = ports.next().map(|h| (h.statistic, h.direction));
            self.known.insert(fragment.datagram, (self.now_ns, key));
            return None;
        }
        match self.known.get(&fragment.datagram) {
            Some((then, key)) if (*then..=then + LIFETIME_NS).contains(&self.now_ns) => {
                self.followed += 1;
                *key
            }
            _ => {
                self.orphans += 1;
                None
            }
        }
    }
}
