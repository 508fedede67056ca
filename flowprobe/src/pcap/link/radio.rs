//! IEEE 802.11, and what receivers put in front of it.
//!
//! Read are data frames that are whole and in the clear. What is encrypted, aggregated, or a
//! fragment of a frame is `other_ethertype`, and so is management.

use flowprobe_ebpf::{Frame, Skip};

use super::header::{LLC, octets};

/// Subtypes of data (IEEE 802.11 §9.2.4.1.3), as bits.
const QOS: u8 = 0x80;
const NO_DATA: u8 = 0x40;
/// The second octet of frame control.
const BOTH_DS: u8 = 0x03;
const MORE_FRAGMENTS: u8 = 0x04;
const PROTECTED: u8 = 0x40;
const HT_CONTROL: u8 = 0x80;

/// The LLC in a data frame.
pub(super) fn frame<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<(u16, usize), Skip> {
    const HEADER: usize = 24;
    const SEQUENCE: usize = 22;
    const ADDRESS: usize = 6;
    const QOS_LEN: usize = 2;
    const HT_LEN: usize = 4;
    let [control, flags] = octets(frame, at)?;
    // Version 0, type data.
    let is_data = control & 0x0f == 0x08 && control & NO_DATA == 0;
    if !is_data || flags & (PROTECTED | MORE_FRAGMENTS) != 0 {
        return Err(Skip::OtherEthertype);
    }
    let [fragment] = octets(frame, at + SEQUENCE)?;
    if fragment & 0x0f != 0 {
        return Err(Skip::OtherEthertype);
    }
    let mut end = at + HEADER;
    if flags & BOTH_DS == BOTH_DS {
        end += ADDRESS;
    }
    if control & QOS != 0 {
        let [qos] = octets(frame, end)?;
        // Several packets in one frame.
        if qos & 0x80 != 0 {
            return Err(Skip::OtherEthertype);
        }
        end += QOS_LEN;
        if flags & HT_CONTROL != 0 {
            end += HT_LEN;
        }
    }
    Ok((LLC, end))
}

/// Where the frame begins behind a radiotap header, which says its length little-endian.
pub(super) fn radiotap<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<usize, Skip> {
    Ok(at + usize::from(u16::from_le_bytes(octets(frame, at + 2)?)))
}

/// Where the frame begins behind a Prism header, or one of AVS, which says its length.
pub(super) fn prism<F: Frame + ?Sized>(frame: &F, at: usize) -> Result<usize, Skip> {
    const PRISM_LEN: usize = 144;
    const AVS: u32 = 0x8021_1000;
    let magic = u32::from_be_bytes(octets(frame, at)?);
    if magic & 0xffff_f000 != AVS {
        return Ok(at + PRISM_LEN);
    }
    let len = u32::from_be_bytes(octets(frame, at + 4)?);
    // Longer than any frame: not to be added to an offset.
    let len = u16::try_from(len).map_err(|_| Skip::TruncatedLink)?;
    Ok(at + usize::from(len))
}
