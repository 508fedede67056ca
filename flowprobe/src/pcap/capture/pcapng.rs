//! The block format, <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcapng-03.html>.

use std::io::Read;

use pcap_parser::{Block, InterfaceDescriptionBlock, OptionCode, parse_block_be, parse_block_le};

use super::{
    Buffer, Captured, Link, LinkType, MAX_PACKET, Packet, Problem, error::Damage, pcap::word,
};
use crate::pcap::time::Units;

/// Longest block, as in libpcap (INITIAL_MAX_BLOCKSIZE).
pub const MAX_BLOCK: u32 = 16 * 1024 * 1024;

/// The type of a Section Header Block, the same in both byte orders.
pub(super) const SECTION: u32 = 0x0a0d_0d0a;
/// The types of other blocks that are read.
const INTERFACE: u32 = 1;
const OBSOLETE_PACKET: u32 = 2;
const SIMPLE_PACKET: u32 = 3;
const ENHANCED_PACKET: u32 = 6;

/// Octets of type and length, and of the byte-order magic that a section has then.
const START: usize = 12;
/// Where a block has its length, and a section its byte order and version.
const LENGTH: usize = 4;
/// Octets of the length at a block's end.
const LENGTH_LEN: usize = 4;
const BYTE_ORDER: usize = 8;
const VERSION: usize = 12;
/// Octets of the smallest block.
const MIN_BLOCK: u32 = 12;
/// Octets of the smallest section header.
const MIN_SECTION: u32 = 28;
const BYTE_ORDER_MAGIC: u32 = 0x1a2b_3c4d;

/// What the blocks so far say of those to come.
#[derive(Debug, Default)]
pub(super) struct PcapNg {
    big_endian: bool,
    /// Of this section.
    interfaces: Vec<Interface>,
}

#[derive(Clone, Copy, Debug)]
struct Interface {
    link: Result<Link, LinkType>,
    units: Units,
    /// Octets that are kept of a packet; 0 is all.
    snaplen: u32,
}

/// A packet of one of the three blocks that have one.
struct Fields {
    interface: u32,
    ticks: Option<u64>,
    captured: u32,
    wire_len: u32,
    /// Where its octets begin in the block.
    start: usize,
}

impl PcapNg {
    /// Uses the blocks up to the next packet's.
    pub(super) fn next<R: Read>(
        &mut self,
        buffer: &mut Buffer<R>,
        mut waits: impl FnMut(),
    ) -> Result<Option<Packet>, Problem> {
        loop {
            let offset = buffer.offset();
            let Some((kind, len)) = self.start(buffer, &mut waits)? else {
                return Ok(None);
            };
            buffer.take(len);
            let block = buffer.taken(len);
            let damaged = |what| Problem::Damaged { offset, what };
            if matches!(kind, OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET) {
                return self.packet(kind, block).map(Some).map_err(damaged);
            }
            self.note(kind, block).map_err(damaged)?;
        }
    }

    /// Uses the blocks with a time that are whole in what was read, up to any other.
    #[inline(always)]
    pub(super) fn each<R: Read>(
        &self,
        buffer: &mut Buffer<R>,
        mut give: impl FnMut(&Captured<'_>),
    ) {
        let all = buffer.data();
        let mut left = all;
        while left.len() >= START {
            let len = word(left, LENGTH, self.big_endian);
            let usual = word(left, 0, self.big_endian) == ENHANCED_PACKET
                && (MIN_BLOCK..=MAX_BLOCK).contains(&len)
                && len as usize <= left.len();
            if !usual {
                break;
            }
            let (block, rest) = left.split_at(len as usize);
            if word(block, block.len() - LENGTH_LEN, self.big_endian) != len {
                break;
            }
            let Ok(packet) = self.packet(ENHANCED_PACKET, block) else {
                break;
            };
            left = rest;
            give(&Captured {
                octets: &block[block.len() - packet.from_end..][..packet.len],
                wire_len: packet.wire_len,
                at_ns: packet.at_ns,
                link: packet.link,
                ifindex: packet.ifindex,
            });
        }
        let used = all.len() - left.len();
        buffer.take(used);
    }

    /// Reads all of the next block; returns its type and length, or `None` at the end.
    fn start<R: Read>(
        &mut self,
        buffer: &mut Buffer<R>,
        mut waits: impl FnMut(),
    ) -> Result<Option<(u32, usize)>, Problem> {
        let offset = buffer.offset();
        let truncated = Problem::Truncated {
            offset,
            what: "block",
        };
        let damaged = |what| Problem::Damaged { offset, what };
        if !buffer.fill(START, &mut waits)? {
            return match buffer.data().is_empty() {
                true => Ok(None),
                false => Err(truncated),
            };
        }
        let kind = word(buffer.data(), 0, self.big_endian);
        if kind == SECTION {
            // Each section has a byte order of its own, and this tells it.
            let order = [false, true].into_iter().find(|&big_endian| {
                word(buffer.data(), BYTE_ORDER, big_endian) == BYTE_ORDER_MAGIC
            });
            self.big_endian = order.ok_or(damaged(Damage::ByteOrder))?;
        }
        let len = word(buffer.data(), LENGTH, self.big_endian);
        let least = if kind == SECTION {
            MIN_SECTION
        } else {
            MIN_BLOCK
        };
        if !(least..=MAX_BLOCK).contains(&len) {
            return Err(damaged(Damage::Block(len)));
        }
        let octets = len as usize;
        if !buffer.fill(octets, &mut waits)? {
            return Err(truncated);
        }
        let again = word(buffer.data(), octets - 4, self.big_endian);
        if again != len {
            return Err(damaged(Damage::Ends(len, again)));
        }
        Ok(Some((kind, octets)))
    }

    /// Remembers what a block without a packet says.
    fn note(&mut self, kind: u32, block: &[u8]) -> Result<(), Damage> {
        match kind {
            SECTION => {
                let version = word(block, VERSION, self.big_endian);
                // Two numbers of 16 bits, in the order of the section.
                let [major, minor] = match self.big_endian {
                    true => [version >> 16, version],
                    false => [version, version >> 16],
                }
                .map(|number| number as u16);
                // 1.2 is what some writers said of 1.0.
                if major != 1 || !matches!(minor, 0 | 2) {
                    return Err(Damage::Section(major, minor));
                }
                self.interfaces.clear();
            }
            INTERFACE => {
                let Block::InterfaceDescription(description) = self.decode(block)? else {
                    return Err(Damage::Fields);
                };
                let interface = self.interface(&description);
                self.interfaces.push(interface);
            }
            // Names, statistics, secrets, comments.
            _ => {}
        }
        Ok(())
    }

    fn interface(&self, description: &InterfaceDescriptionBlock<'_>) -> Interface {
        let number = LinkType(description.linktype.0 as u16);
        // pcap-parser 0.17 reads the offset as little-endian in any section, and no powers of 2.
        let offset = description
            .options
            .iter()
            .find(|option| option.code == OptionCode::IfTsoffset);
        let offset = offset.and_then(|option| option.value.first_chunk().copied());
        let offset_s = match (offset, self.big_endian) {
            (None, _) => 0,
            (Some(octets), true) => i64::from_be_bytes(octets),
            (Some(octets), false) => i64::from_le_bytes(octets),
        };
        Interface {
            link: Link::of(number).ok_or(number),
            units: Units {
                resolution: description.if_tsresol,
                offset_s,
            },
            snaplen: description.snaplen,
        }
    }

    #[inline]
    fn packet(&self, kind: u32, block: &[u8]) -> Result<Packet, Damage> {
        let fields = match kind {
            SIMPLE_PACKET => self.simple(block),
            _ => self.stamped(kind, block),
        };
        let fields = fields.ok_or(Damage::Fields)?;
        let interface = self.interfaces.get(fields.interface as usize);
        let interface =
            interface.ok_or(Damage::Interface(fields.interface, self.interfaces.len()))?;
        if fields.captured > MAX_PACKET {
            return Err(Damage::Packet(fields.captured));
        }
        let len = fields.captured as usize;
        // Padding and options may follow, and the length does.
        if fields.start + len > block.len() - LENGTH_LEN {
            return Err(Damage::Fields);
        }
        Ok(Packet {
            from_end: block.len() - fields.start,
            len,
            wire_len: fields.wire_len,
            at_ns: fields.ticks.map(|ticks| interface.units.ns(ticks)),
            link: interface.link,
            ifindex: fields.interface + 1,
        })
    }

    /// An Enhanced Packet Block: interface (4 octets), time (8), captured (4), length (4); or a
    /// Packet Block, which the drafts call obsolete: interface (2), drops (2), then the same.
    fn stamped(&self, kind: u32, block: &[u8]) -> Option<Fields> {
        const START: usize = 28;
        block.get(..START + LENGTH_LEN)?;
        let word = |at| word(block, at, self.big_endian);
        let interface = match (kind, self.big_endian) {
            (OBSOLETE_PACKET, true) => word(8) >> 16,
            (OBSOLETE_PACKET, false) => word(8) & 0xffff,
            _ => word(8),
        };
        Some(Fields {
            interface,
            ticks: Some(u64::from(word(12)) << 32 | u64::from(word(16))),
            captured: word(20),
            wire_len: word(24),
            start: START,
        })
    }

    /// A Simple Packet Block: length (4 octets).
    fn simple(&self, block: &[u8]) -> Option<Fields> {
        const START: usize = 12;
        block.get(..START + LENGTH_LEN)?;
        let wire_len = word(block, 8, self.big_endian);
        Some(Fields {
            interface: 0,
            ticks: None,
            captured: wire_len.min(self.snaplen_of_the_first()),
            wire_len,
            start: START,
        })
    }

    /// What a Simple Packet Block does not say: it is of the first interface, whose snaplen tells
    /// what is padding.
    fn snaplen_of_the_first(&self) -> u32 {
        match self.interfaces.first() {
            Some(interface) if interface.snaplen != 0 => interface.snaplen,
            _ => u32::MAX,
        }
    }

    fn decode<'a>(&self, block: &'a [u8]) -> Result<Block<'a>, Damage> {
        let decoded = match self.big_endian {
            true => parse_block_be(block),
            false => parse_block_le(block),
        };
        decoded.map(|(_, block)| block).map_err(|_| Damage::Fields)
    }
}
