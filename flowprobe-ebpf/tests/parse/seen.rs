//! What a test compares: what the parser says, in the plain values of the corpus.

use std::net::IpAddr;

use flowprobe_ebpf::{
    Addresses, Fragment, Frame, KeyV4, KeyV6, KeyWide, Marks, Parsed, Skip, Tunnels,
    flow::bits,
    parse::{self, parse_ethernet, tunnel::kind},
    sampling::Sampled,
};
use flowprobe_tests::corpus::{Part, Seen, Tunnel};

/// A frame of which only the first octets can be read.
pub(crate) struct Captured<'a> {
    pub(crate) octets: &'a [u8],
    /// Octets on the wire.
    pub(crate) len: usize,
}

impl Frame for Captured<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.octets.read(offset)
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// Parses `frame`, and reads what is in it out of the key and the marks that are made of it.
pub(crate) fn look<F: Frame + ?Sized>(frame: &F, tunnels: &Tunnels) -> Result<Seen, &'static str> {
    let parsed = parse::parse(frame, tunnels);
    let mut by_layers = Parsed::EMPTY;
    let general = parse_ethernet(frame, tunnels, &mut by_layers);
    assert_eq!(
        parsed,
        general.map(|()| by_layers),
        "both ways through the parser"
    );
    let parsed = parsed.map_err(Skip::label)?;
    Ok(seen(&parsed))
}

/// The same for a frame whose outermost VLAN tag, if it has one, stands beside it.
pub(crate) fn look_beside<F: Frame + ?Sized>(
    frame: &F,
    control: Option<u16>,
    tunnels: &Tunnels,
) -> Result<Seen, &'static str> {
    let mut parsed = Parsed::EMPTY;
    if let Some(control) = control {
        parsed.put_outer_tag(control);
    }
    parse_ethernet(frame, tunnels, &mut parsed).map_err(Skip::label)?;
    Ok(seen(&parsed))
}

fn seen(parsed: &Parsed) -> Seen {
    let Parsed {
        packet,
        around,
        fragment,
        place,
    } = parsed;
    // The packet ends where its own length says, and its payload begins before that.
    assert!(place.header < place.payload && place.payload <= place.header + packet.octets);
    // Every key has the words of the wide one, if it begins with them.
    let wide = KeyWide::new(packet, around, 0, Sampled::default());
    let (source, destination, words): (IpAddr, IpAddr, _) = match packet.addresses {
        Addresses::V4(addresses) => {
            let key = KeyV4::new(addresses, packet, 0, Sampled::default());
            assert_eq!(wide.v4(), Some([key.source(), key.destination()]));
            assert_eq!(wide.v6(), None);
            let [_, transport, place] = key.words;
            (
                key.source().into(),
                key.destination().into(),
                [transport, place],
            )
        }
        Addresses::V6(addresses) => {
            let key = KeyV6::new(addresses, packet, 0, Sampled::default());
            assert_eq!(wide.v6(), Some([key.source(), key.destination()]));
            assert_eq!(wide.v4(), None);
            let [.., transport, place] = key.words;
            (
                key.source().into(),
                key.destination().into(),
                [transport, place],
            )
        }
    };
    assert_eq!(wide.words[4..6], words);
    let around = wide.around();
    let marks = Marks::first(packet);
    let syn = packet.tcp_flags & 0x02 != 0;
    assert_eq!(marks.began_with_syn(), syn);
    assert_eq!((marks.min_ttl, marks.max_ttl), (packet.ttl, packet.ttl));
    let (tags, labels) = (usize::from(around.tags), usize::from(around.labels));
    assert_eq!(
        around.is_wide(),
        tags > 1 || labels > 0 || around.tunnel != 0
    );
    let vlans = [wide.vlan()].into_iter().chain(around.inner_vlans);
    Seen {
        source,
        destination,
        ports: (wide.source_port(), wide.destination_port()),
        protocol: wide.protocol(),
        traffic_class: wide.traffic_class(),
        ttl: marks.min_ttl,
        tcp_flags: marks.tcp_flags,
        octets: packet.octets,
        flow_label: marks.flow_label,
        options: marks.options,
        fragment_flags: marks.bits & bits::FRAGMENT_FLAGS,
        part: match fragment.part {
            Fragment::FIRST => Part::First(fragment.id),
            Fragment::LATER => Part::Later(fragment.id),
            _ => Part::Whole,
        },
        vlans: vlans.take(tags).collect(),
        priorities: (marks.bits & bits::PRIORITY, marks.inner_priority),
        labels: around.label_stack[..labels]
            .iter()
            .enumerate()
            .map(|(i, entry)| {
                // A tunnel may have a stack outside and one inside.
                let is_bottom = i + 1 == labels;
                let may_be_bottom = is_bottom || around.tunnel != 0;
                assert!(!is_bottom || entry & 1 == 1, "the bottom of the stack");
                assert!(may_be_bottom || entry & 1 == 0, "a bottom in the stack");
                (entry >> 4, (entry >> 1) as u8 & 7)
            })
            .collect(),
        tunnel: tunnel(&around),
    }
}

fn tunnel(around: &parse::Around) -> Option<Tunnel> {
    let kind = match around.tunnel {
        0 => return None,
        kind::IP => "ip",
        kind::GRE => "gre",
        kind::NVGRE => "nvgre",
        kind::VXLAN => "vxlan",
        kind::GENEVE => "geneve",
        kind::GTPU => "gtpu",
        other => panic!("a tunnel of kind {other}"),
    };
    let octets = around.outer.map(u64::to_ne_bytes).concat();
    let (source, destination): (IpAddr, IpAddr) = if around.outer_version == 4 {
        assert_eq!(octets[8..], [0; 24]);
        let address = |at: usize| <[u8; 4]>::try_from(&octets[at..at + 4]).unwrap();
        (address(0).into(), address(4).into())
    } else {
        let address = |at: usize| <[u8; 16]>::try_from(&octets[at..at + 16]).unwrap();
        (address(0).into(), address(16).into())
    };
    Some(Tunnel {
        kind,
        id: around.tunnel_id,
        source,
        destination,
        protocol: around.outer_protocol,
    })
}
