//! Frames that nobody thought of, and what must hold of each.
//!
//! An input is a frame. The parser reads no MAC address, so the first two octets say how much of
//! the frame was captured, and the third how much of it came over the wire.
#![no_main]

use flowprobe_ebpf::{
    Frame, Parsed, Skip, Tunnels,
    parse::{MAX_LABELS, MAX_TAGS, parse_ethernet},
};
use libfuzzer_sys::fuzz_target;

/// A frame of which only the first octets were captured.
struct Captured<'a> {
    octets: &'a [u8],
    len: usize,
}

impl Frame for Captured<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.octets.read(offset)
    }

    fn len(&self) -> usize {
        self.len
    }
}

/// All that the parser says of a frame, after it has agreed with itself.
fn parse<F: Frame + ?Sized>(frame: &F, tunnels: &Tunnels) -> Result<Parsed, Skip> {
    let result = flowprobe_ebpf::parse(frame, tunnels);
    let mut parsed = Parsed::EMPTY;
    let by_layers = parse_ethernet(frame, tunnels, &mut parsed).map(|()| parsed);
    assert_eq!(result, by_layers, "the short way and the long one differ");
    if let Ok(parsed) = &result {
        possible(frame, tunnels, parsed);
    }
    result
}

fn is_tunnel(result: &Result<Parsed, Skip>) -> bool {
    result.is_ok_and(|parsed| parsed.around.tunnel != 0)
}

/// What holds of every packet that was found.
fn possible<F: Frame + ?Sized>(frame: &F, tunnels: &Tunnels, parsed: &Parsed) {
    let Parsed { packet, around, .. } = parsed;
    let link = 14 + 4 * usize::from(around.tags + around.labels);
    assert!(packet.octets >= 20);
    assert!(packet.octets as usize + link <= frame.len());
    assert!(packet.vlan < 4096 && around.inner_vlans.iter().all(|id| *id < 4096));
    assert!(usize::from(around.tags) <= MAX_TAGS && usize::from(around.labels) <= MAX_LABELS);
    assert!(around.tags != 0 || packet.vlan == 0 && packet.priorities == 0);
    assert!(packet.priorities & 0x88 == 0 && packet.fragment_flags & !0x60 == 0);
    assert!(packet.flow_label < 1 << 20);
    assert!(packet.protocol == 6 || packet.tcp_flags == 0);
    assert!(parsed.fragment.part < 2 || packet.ports == 0);
    assert!(around.tunnel <= 6 && (around.tunnel == 0 || tunnels.inner));
    assert_eq!(around.tunnel == 0, around.outer_version == 0);
    assert!(around.version == 4 || around.version == 6);
    assert!(around.tunnel != 0 || around.outer == [0; 4] && around.tunnel_id == 0);
    let (tags, labels) = (usize::from(around.tags), usize::from(around.labels));
    assert!(
        around
            .inner_vlans
            .iter()
            .skip(tags.saturating_sub(1))
            .all(|id| *id == 0)
    );
    assert!(
        around
            .label_stack
            .iter()
            .skip(labels)
            .all(|label| *label == 0)
    );
}

/// Whether the reason is that something ends too early.
fn is_truncated(reason: Skip) -> bool {
    matches!(
        reason,
        Skip::TruncatedLink | Skip::TruncatedNetwork | Skip::TruncatedTransport
    )
}

fuzz_target!(|frame: &[u8]| {
    let [a, b, c, ..] = *frame else {
        assert_eq!(parse(frame, &Tunnels::OUTER), Err(Skip::TruncatedLink));
        return;
    };
    let results = [Tunnels::OUTER, Tunnels::INNER].map(|tunnels| parse(frame, &tunnels));
    let [outer, inner] = results;
    // To look into tunnels changes nothing where there are none, and never whether there is a flow.
    if !is_tunnel(&inner) {
        assert_eq!(inner, outer);
    }
    assert_eq!(inner.is_ok(), outer.is_ok());

    // What comes behind a packet is no part of it.
    let mut padded = frame.to_vec();
    padded.extend([c; 40]);
    for (tunnels, result) in [Tunnels::OUTER, Tunnels::INNER].iter().zip(results) {
        if !result.is_err_and(is_truncated) {
            assert_eq!(parse(&padded[..], tunnels), result, "padding was read");
        }
    }

    // Cut on the way, a frame is what it was, or too short.
    let cut = usize::from(c) % frame.len();
    for (tunnels, whole) in [Tunnels::OUTER, Tunnels::INNER].iter().zip(results) {
        let result = parse(&frame[..cut], tunnels);
        assert!(
            result.is_err_and(is_truncated) || result == whole,
            "{result:?}"
        );
    }

    // Captured in part, it is what it was, too short, or a tunnel that stays closed.
    let captured = Captured {
        octets: &frame[..usize::from(u16::from_be_bytes([a, b])) % frame.len()],
        len: frame.len(),
    };
    for (tunnels, whole) in [Tunnels::OUTER, Tunnels::INNER].iter().zip(results) {
        let result = parse(&captured, tunnels);
        let closed = tunnels.inner && result == outer;
        assert!(
            result.is_err_and(is_truncated) || result == whole || closed,
            "{result:?}"
        );
    }
});
