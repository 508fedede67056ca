//! Reads captures: from a file's octets to packets with their length, time and link layer.
//!
//! Packets' records and blocks are read here, so that a damaged file is told by name and place; what
//! is in headers and descriptions is decoded by `pcap-parser`. Memory is that of the largest block, so
//! that captures may be endless streams.

mod buffer;
mod error;
mod pcap;
mod pcapng;
#[cfg(test)]
mod tests;

use std::io::Read;

use flowprobe_ebpf::Frame;

use self::{buffer::Buffer, pcap::Pcap, pcapng::PcapNg};
pub use self::{
    error::{CaptureError, Problem},
    pcapng::MAX_BLOCK,
};
use super::link::{Link, LinkType};

/// Longest packet, as in libpcap (MAXIMUM_SNAPLEN): a record that claims more is damaged.
pub const MAX_PACKET: u32 = 262_144;

/// A packet as it was captured: all of its length, and as many octets as were kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Captured<'a> {
    /// From the first link-layer octet on.
    pub octets: &'a [u8],
    /// Octets on the wire.
    pub wire_len: u32,
    /// Nanoseconds since 1970-01-01 UTC; none in a Simple Packet Block.
    pub at_ns: Option<u64>,
    /// Link layer; its number, if it cannot be read.
    pub link: Result<Link, LinkType>,
    /// What the flow key has as interface: that of pcapng plus 1, 0 for pcap, which has none.
    pub ifindex: u32,
}

impl Frame for Captured<'_> {
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.octets.read(offset)
    }

    /// A few writers say less than they kept.
    fn len(&self) -> usize {
        self.octets.len().max(self.wire_len as usize)
    }
}

/// What is known of a packet whose record or block was used last.
#[derive(Clone, Copy, Debug)]
struct Packet {
    /// Octets from its first one to the end of what was used.
    from_end: usize,
    /// Octets that were kept.
    len: usize,
    wire_len: u32,
    at_ns: Option<u64>,
    link: Result<Link, LinkType>,
    ifindex: u32,
}

/// A capture that is read from `R`.
#[derive(Debug)]
pub struct Capture<R> {
    name: String,
    buffer: Buffer<R>,
    format: Format,
    /// The packet that was found last.
    packet: Option<Packet>,
}

#[derive(Debug)]
enum Format {
    Pcap(Pcap),
    PcapNg(PcapNg),
}

/// Formats that captures are compressed in and that are not unpacked here, by their first octets, and
/// what unpacks them.
const COMPRESSED: &[(&[u8], &str)] = &[
    (b"\xfd7zXZ", "xzcat"),
    (b"BZh", "bzcat"),
    (b"\x04\x22\x4d\x18", "lz4cat"),
];

impl<R: Read> Capture<R> {
    /// Reads the head of a capture; `name` is what messages call it.
    ///
    /// # Errors
    /// See [`CaptureError`]: it cannot be read, or is no capture of packets that can be.
    pub fn open(name: &str, input: R) -> Result<Self, CaptureError> {
        let mut buffer = Buffer::new(input);
        let format = head(&mut buffer).map_err(|problem| CaptureError {
            name: name.to_owned(),
            problem,
        })?;
        Ok(Self {
            name: name.to_owned(),
            buffer,
            format,
            packet: None,
        })
    }

    /// What messages call it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `pcap` or `pcapng`.
    #[must_use]
    pub fn format(&self) -> &'static str {
        match self.format {
            Format::Pcap(_) => "pcap",
            Format::PcapNg(_) => "pcapng",
        }
    }

    /// The next packet, or `None` at the end. `waits` is called before each read of the input,
    /// which may wait.
    ///
    /// # Errors
    /// See [`CaptureError`]. Nothing more can be read then.
    #[inline]
    pub fn next(&mut self, waits: impl FnMut()) -> Result<Option<Captured<'_>>, CaptureError> {
        let packet = match &mut self.format {
            Format::Pcap(pcap) => pcap.next(&mut self.buffer, waits),
            Format::PcapNg(pcapng) => pcapng.next(&mut self.buffer, waits),
        };
        match packet {
            Ok(packet) => self.packet = packet,
            Err(problem) => return Err(self.fail(problem)),
        }
        Ok(self.current())
    }

    /// Gives the packets that are in what was read already, whole, right and in the usual form, up to
    /// the first one for which [`Capture::next`] is needed.
    #[inline(always)]
    pub(super) fn each(&mut self, give: impl FnMut(&Captured<'_>)) {
        match &self.format {
            Format::Pcap(pcap) => pcap.each(&mut self.buffer, give),
            Format::PcapNg(pcapng) => pcapng.each(&mut self.buffer, give),
        }
    }

    /// What is read.
    pub(super) fn input(&self) -> &R {
        self.buffer.input()
    }

    /// The packet that [`Capture::next`] gave last.
    #[inline]
    #[must_use]
    pub fn current(&self) -> Option<Captured<'_>> {
        let packet = self.packet?;
        Some(Captured {
            octets: &self.buffer.taken(packet.from_end)[..packet.len],
            wire_len: packet.wire_len,
            at_ns: packet.at_ns,
            link: packet.link,
            ifindex: packet.ifindex,
        })
    }

    #[cold]
    fn fail(&mut self, problem: Problem) -> CaptureError {
        self.packet = None;
        CaptureError {
            name: self.name.clone(),
            problem,
        }
    }
}

/// Tells the format.
fn head<R: Read>(buffer: &mut Buffer<R>) -> Result<Format, Problem> {
    buffer.fill(pcap::HEADER, || ())?;
    let start = buffer.data();
    if start.is_empty() {
        return Err(Problem::Empty);
    }
    if let Some((_, tool)) = COMPRESSED
        .iter()
        .find(|(magic, _)| start.starts_with(magic))
    {
        return Err(Problem::Compressed(tool));
    }
    if let Some(pcap) = Pcap::head(buffer)? {
        return Ok(Format::Pcap(pcap));
    }
    if start_is_pcapng(buffer.data()) {
        return Ok(Format::PcapNg(PcapNg::default()));
    }
    Err(Problem::NoCapture(
        buffer.data().iter().take(4).copied().collect(),
    ))
}

fn start_is_pcapng(start: &[u8]) -> bool {
    start.starts_with(&pcapng::SECTION.to_le_bytes())
}
