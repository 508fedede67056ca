//! What is sent and captured: frames in three volleys.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::{
    captures,
    corpus::corpus,
    mix::{encapsulated, ignored, mix, tunnels},
    packets::{Ip, Packet, flag},
};

/// Between the first and the second volley: no flow is due by then.
pub(crate) const SHORT: Duration = Duration::from_millis(300);
/// Idle timeout and linger.
pub(crate) const TIMEOUT_S: u64 = 4;
/// Between the second and the third volley: every flow has left by then.
pub(crate) const LONG: Duration = Duration::from_secs(2 * TIMEOUT_S);
pub(crate) const VOLLEYS: usize = 3;

/// Frames that travel over the wire as they are: of its MTU of 1500, and not without a whole header.
const FRAMES: std::ops::RangeInclusive<usize> = 14..=1514;
/// Frames that are taken of one real capture.
const MOST: usize = 300;

/// Frames, and how to meter them.
pub(crate) struct Recording {
    pub(crate) name: &'static str,
    pub(crate) options: &'static [&'static str],
    pub(crate) volleys: [Vec<Vec<u8>>; VOLLEYS],
    /// Whether what is told of it is committed line by line, or only its sum.
    pub(crate) in_full: bool,
}

/// Frames of every kind that the tests know, and connections that begin and end.
pub(crate) fn written() -> Recording {
    let packets = [mix(), encapsulated(), tunnels()].concat();
    let others = ignored().into_iter().map(|(_, packet)| packet);
    let packets = packets.into_iter().chain(others).map(|packet| packet.frame);
    let cases = corpus().into_iter().map(|case| case.frame);
    let all: Vec<_> = packets
        .chain(cases)
        .filter(|frame| travels(frame))
        .collect();
    let mix = || mix().into_iter().map(|packet| packet.frame);
    let [first, second, third] = connections().map(|packets| {
        let packets = packets.into_iter();
        packets.map(|packet| packet.frame)
    });
    Recording {
        name: "written",
        options: &["--tunnels", "inner"],
        volleys: [
            all.into_iter().chain(first).collect(),
            mix().chain(second).collect(),
            mix().chain(third).collect(),
        ],
        in_full: true,
    }
}

/// Segments of each volley.
fn connections() -> [Vec<Packet>; VOLLEYS] {
    const FIN: u8 = flag::FIN | flag::ACK;
    let of = |port: u16, flags: u8, ttl: u8| {
        let ip = Ip::new("203.0.113.7", "198.51.100.8").ttl(ttl);
        ip.tcp(port, 443, flags, usize::from(port) % 97)
    };
    [
        vec![
            // It goes on in each volley.
            of(1, flag::SYN, 64),
            of(1, flag::ACK, 60),
            // It ends, and a straggler follows.
            of(2, flag::SYN, 64),
            of(2, FIN, 64),
            // It ends, and the next one of the same ports begins at once, and again.
            of(3, flag::SYN, 64),
            of(3, FIN, 64),
            of(3, flag::SYN, 63),
            of(3, flag::ACK, 63),
            of(3, flag::RST, 63),
            of(3, flag::SYN, 62),
            // It is reset, and the next one comes later.
            of(4, flag::RST, 64),
            // Both at once.
            of(5, flag::SYN | flag::FIN, 64),
            of(5, flag::SYN | flag::FIN, 64),
        ],
        vec![
            of(1, flag::ACK | flag::PSH, 128),
            of(2, flag::ACK, 64),
            of(4, flag::SYN, 64),
            of(6, flag::ACK, 64),
        ],
        vec![
            of(1, flag::ACK, 1),
            of(2, FIN, 64),
            of(3, flag::ACK, 62),
            of(4, flag::ACK, 64),
            of(6, FIN, 64),
            of(6, flag::ACK, 64),
        ],
    ]
}

/// The frames of all captures of Ethernet, a third of each in each volley.
pub(crate) fn real() -> Result<Recording> {
    let mut volleys: [Vec<Vec<u8>>; VOLLEYS] = Default::default();
    for path in captures::all()? {
        // Others have been fetched from elsewhere, and everybody compares with the same.
        if !path.starts_with(captures::directory()) {
            continue;
        }
        let octets = fs::read(&path).with_context(|| path.display().to_string())?;
        let Some(frames) = frames(&octets) else {
            continue;
        };
        let frames: Vec<_> = (frames.into_iter())
            .filter(|frame| travels(frame))
            .take(MOST)
            .collect();
        let third = frames.len().div_ceil(VOLLEYS).max(1);
        for (volley, frames) in volleys.iter_mut().zip(frames.chunks(third)) {
            volley.extend_from_slice(frames);
        }
    }
    let frames: usize = volleys.iter().map(Vec::len).sum();
    ensure!(frames > 1000, "only {frames} frames in the real captures");
    Ok(Recording {
        name: "real",
        options: &[],
        volleys,
        in_full: false,
    })
}

/// Whether every input is handed the frame as it is. Linux drops a frame that ends less than six octets behind
/// the EtherType of a VLAN tag (`skb_vlan_untag` in net/core/skbuff.c wants the tag and the two octets that may be
/// an LLC header), before traffic control sees it.
fn travels(frame: &[u8]) -> bool {
    let tagged = |at: usize| {
        let ethertype = frame.get(at..at + 2);
        matches!(ethertype, Some([0x81, 0x00] | [0x88, 0xa8]))
    };
    FRAMES.contains(&frame.len()) && !(tagged(12) && frame.len() < 20)
}

/// The frames of a classic capture of Ethernet that were kept whole.
fn frames(file: &[u8]) -> Option<Vec<Vec<u8>>> {
    let magic: [u8; 4] = *file.first_chunk()?;
    let big_endian = match magic {
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => true,
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => false,
        _ => return None,
    };
    let word = |octets: &[u8], at: usize| -> Option<u32> {
        let word = *octets.get(at..)?.first_chunk()?;
        Some(match big_endian {
            true => u32::from_be_bytes(word),
            false => u32::from_le_bytes(word),
        })
    };
    const ETHERNET: u32 = 1;
    if word(file, 20)? != ETHERNET {
        return None;
    }
    let mut frames = Vec::new();
    let mut rest = file.get(24..)?;
    while let (Some(kept), Some(len)) = (word(rest, 8), word(rest, 12)) {
        let Some(frame) = rest.get(16..16 + kept as usize) else {
            break;
        };
        if kept == len {
            frames.push(frame.to_vec());
        }
        rest = &rest[16 + kept as usize..];
    }
    Some(frames)
}
