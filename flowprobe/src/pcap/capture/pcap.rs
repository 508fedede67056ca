//! The classic format, <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>.

use std::io::Read;

use pcap_parser::{
    LegacyPcapBlock, nom::IResult, parse_pcap_frame, parse_pcap_frame_be,
    parse_pcap_frame_modified, parse_pcap_header,
};

use super::{Buffer, Captured, Link, LinkType, MAX_PACKET, Problem, error::Damage};

/// Octets of the file's header.
pub(super) const HEADER: usize = 24;
/// Where a record has the octets that were kept.
const CAPTURED: usize = 8;
/// Octets of a record's header.
const RECORD: usize = 16;
/// The same in files of the patched libpcap that some Linux distributions had.
const MODIFIED_RECORD: usize = 24;
/// The bits of the link type that name it. The others tell of a frame check sequence.
const LINK_MASK: u32 = 0xffff;

type Parse = fn(&[u8]) -> IResult<&[u8], LegacyPcapBlock<'_>, pcap_parser::PcapError<&[u8]>>;

/// What the header says of all packets.
#[derive(Debug)]
pub(super) struct Pcap {
    big_endian: bool,
    record: usize,
    /// Nanoseconds of a unit of the time's fraction.
    unit_ns: u64,
    link: Link,
    parse: Parse,
}

impl Pcap {
    /// Reads the header; `None` if it is not one of this format.
    pub(super) fn head<R: Read>(buffer: &mut Buffer<R>) -> Result<Option<Self>, Problem> {
        let Ok((_, header)) = parse_pcap_header(buffer.data()) else {
            let magics = [
                0xa1b2_c3d4_u32,
                0xa1b2_3c4d,
                0xa1b2_cd34,
                0xd4c3_b2a1,
                0x4d3c_b2a1,
            ];
            let cut = magics
                .iter()
                .any(|magic| buffer.data().starts_with(&magic.to_le_bytes()));
            return match cut {
                true => Err(Problem::Truncated {
                    offset: 0,
                    what: "header",
                }),
                false => Ok(None),
            };
        };
        if header.version_major != 2 {
            return Err(Problem::Version(header.version_major));
        }
        let number = LinkType((header.network.0 as u32 & LINK_MASK) as u16);
        let link = Link::of(number).ok_or(Problem::Link(number))?;
        let big_endian = header.is_bigendian();
        buffer.take(HEADER);
        Ok(Some(Self {
            big_endian,
            record: match header.is_modified_format() {
                true => MODIFIED_RECORD,
                false => RECORD,
            },
            unit_ns: match header.is_nanosecond_precision() {
                true => 1,
                false => 1000,
            },
            link,
            parse: match (header.is_modified_format(), big_endian) {
                (true, _) => parse_pcap_frame_modified,
                (false, true) => parse_pcap_frame_be,
                (false, false) => parse_pcap_frame,
            },
        }))
    }

    /// The next packet.
    pub(super) fn next<'a, R: Read>(
        &self,
        buffer: &'a mut Buffer<R>,
        mut waits: impl FnMut(),
    ) -> Result<Option<Captured<'a>>, Problem> {
        let offset = buffer.offset();
        let truncated = Problem::Truncated {
            offset,
            what: "packet",
        };
        if !buffer.fill(self.record, &mut waits)? {
            return match buffer.data().is_empty() {
                true => Ok(None),
                false => Err(truncated),
            };
        }
        let captured = word(buffer.data(), CAPTURED, self.big_endian);
        let damaged = |what| Problem::Damaged { offset, what };
        if captured > MAX_PACKET {
            return Err(damaged(Damage::Packet(captured)));
        }
        let len = self.record + captured as usize;
        if !buffer.fill(len, &mut waits)? {
            return Err(truncated);
        }
        let (_, packet) = (self.parse)(buffer.take(len)).map_err(|_| damaged(Damage::Fields))?;
        let seconds = u64::from(packet.ts_sec) * 1_000_000_000;
        Ok(Some(Captured {
            octets: packet.data,
            wire_len: packet.origlen,
            at_ns: Some(seconds + u64::from(packet.ts_usec) * self.unit_ns),
            link: Ok(self.link),
            ifindex: 0,
        }))
    }
}

/// The 32-bit word at `at`, which must be there.
pub(super) fn word(octets: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = octets[at..].first_chunk().copied().unwrap_or_default();
    match big_endian {
        true => u32::from_be_bytes(word),
        false => u32::from_le_bytes(word),
    }
}
