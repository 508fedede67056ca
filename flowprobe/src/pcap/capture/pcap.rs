//! The classic format, <https://www.ietf.org/archive/id/draft-ietf-opsawg-pcap-05.html>.

use std::io::Read;

use pcap_parser::parse_pcap_header;

use super::{Buffer, Captured, Link, LinkType, MAX_PACKET, Packet, Problem, error::Damage};

/// Octets of the file's header.
pub(super) const HEADER: usize = 24;
/// Where a record has its seconds, their fraction, the octets that were kept, and those on the wire.
const SECONDS: usize = 0;
const FRACTION: usize = 4;
const CAPTURED: usize = 8;
const WIRE_LEN: usize = 12;
/// Octets of a record's header.
const RECORD: usize = 16;
/// The same in files of the patched libpcap that some Linux distributions had.
const MODIFIED_RECORD: usize = 24;
/// The bits of the link type that name it. The others tell of a frame check sequence.
const LINK_MASK: u32 = 0xffff;

/// What the header says of all packets.
#[derive(Debug)]
pub(super) struct Pcap {
    big_endian: bool,
    record: usize,
    /// Nanoseconds of a unit of the time's fraction.
    unit_ns: u64,
    link: Link,
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
        }))
    }

    /// Uses the records that are whole in what was read, up to one that is damaged. Those of
    /// machines of the other byte order are left to [`Pcap::next`].
    #[inline(always)]
    pub(super) fn each<R: Read>(
        &self,
        buffer: &mut Buffer<R>,
        mut give: impl FnMut(&Captured<'_>),
    ) {
        if self.big_endian {
            return;
        }
        let all = buffer.data();
        let mut left = all;
        while left.len() >= self.record {
            let (record, rest) = left.split_at(self.record);
            let word = |at| word(record, at, false);
            let captured = word(CAPTURED);
            if captured > MAX_PACKET || captured as usize > rest.len() {
                break;
            }
            let (octets, rest) = rest.split_at(captured as usize);
            left = rest;
            give(&Captured {
                octets,
                wire_len: word(WIRE_LEN),
                at_ns: Some(self.at_ns(word(SECONDS), word(FRACTION))),
                link: Ok(self.link),
                ifindex: 0,
            });
        }
        let used = all.len() - left.len();
        buffer.take(used);
    }

    #[inline(always)]
    fn at_ns(&self, seconds: u32, fraction: u32) -> u64 {
        u64::from(seconds) * 1_000_000_000 + u64::from(fraction) * self.unit_ns
    }

    /// Uses the next packet's record.
    #[inline]
    pub(super) fn next<R: Read>(
        &self,
        buffer: &mut Buffer<R>,
        mut waits: impl FnMut(),
    ) -> Result<Option<Packet>, Problem> {
        if !buffer.fill(self.record, &mut waits)? {
            return match buffer.data().is_empty() {
                true => Ok(None),
                false => Err(truncated(buffer)),
            };
        }
        let word = |at| word(buffer.data(), at, self.big_endian);
        let captured = word(CAPTURED);
        if captured > MAX_PACKET {
            return Err(Problem::Damaged {
                offset: buffer.offset(),
                what: Damage::Packet(captured),
            });
        }
        let packet = Packet {
            from_end: captured as usize,
            len: captured as usize,
            wire_len: word(WIRE_LEN),
            at_ns: Some(self.at_ns(word(SECONDS), word(FRACTION))),
            link: Ok(self.link),
            ifindex: 0,
        };
        let len = self.record + captured as usize;
        if !buffer.fill(len, &mut waits)? {
            return Err(truncated(buffer));
        }
        buffer.take(len);
        Ok(Some(packet))
    }
}

#[cold]
fn truncated<R: Read>(buffer: &Buffer<R>) -> Problem {
    Problem::Truncated {
        offset: buffer.offset(),
        what: "packet",
    }
}

/// The 32-bit word at `at`, which must be there.
#[inline(always)]
pub(super) fn word(octets: &[u8], at: usize, big_endian: bool) -> u32 {
    let word = octets[at..].first_chunk().copied().unwrap_or_default();
    match big_endian {
        true => u32::from_be_bytes(word),
        false => u32::from_le_bytes(word),
    }
}
