use std::io::Write as _;

use flate2::{Compression, write::GzEncoder};
use ruzstd::encoding::{CompressionLevel, compress_to_vec};

use super::*;

fn gzip(octets: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(octets).expect("in memory");
    encoder.finish().expect("in memory")
}

fn zstd(octets: &[u8]) -> Vec<u8> {
    compress_to_vec(octets, CompressionLevel::Fastest)
}

/// Reads a few octets at once.
struct Slow<'a>(&'a [u8]);

impl Read for Slow<'_> {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        let few = octets.len().min(3);
        self.0.read(&mut octets[..few])
    }
}

fn unpacked(input: &[u8]) -> io::Result<Vec<u8>> {
    let mut octets = Vec::new();
    Unpacked::new(Slow(input))?.read_to_end(&mut octets)?;
    Ok(octets)
}

fn text() -> Vec<u8> {
    (0..100_000_u32)
        .flat_map(|n| (n / 7).to_le_bytes())
        .collect()
}

#[test]
fn streams_are_unpacked_and_all_else_is_left() {
    let text = text();
    for pack in [gzip, zstd] {
        assert_eq!(unpacked(&pack(&text)).expect("unpacked"), text);
        let twice = [pack(&text[..1000]), pack(b""), pack(&text[1000..])].concat();
        assert_eq!(unpacked(&twice).expect("unpacked"), text);
    }
    for plain in [&text[..], b"", b"\x1f", b"abcdefg"] {
        assert_eq!(unpacked(plain).expect("as it is"), plain);
    }
}

#[test]
fn frames_to_be_skipped_are() {
    let note = [
        &0x184d_2a50_u32.to_le_bytes()[..],
        &5_u32.to_le_bytes(),
        b"notes",
    ]
    .concat();
    let whole = [zstd(b"one "), note.clone(), zstd(b"two")].concat();
    assert_eq!(unpacked(&whole).expect("unpacked"), b"one two");
    let cut = [zstd(b"one "), note[..10].to_vec()].concat();
    assert!(unpacked(&cut).is_err());
}

#[test]
fn damage_and_ends_that_are_missing_are_told() {
    let text = text();
    for (pack, name) in [(gzip as fn(&[u8]) -> Vec<u8>, "gzip"), (zstd, "zstd")] {
        let whole = pack(&text);
        for len in [whole.len() - 1, whole.len() / 2, 20] {
            let error = unpacked(&whole[..len]).expect_err("cut off").to_string();
            let said = format!("its {name} stream is damaged or cut off: ");
            assert!(error.starts_with(&said), "{error}");
        }
        let mut flipped = whole.clone();
        let last = flipped.len() - 1;
        flipped[last] ^= 1;
        assert!(
            unpacked(&flipped).is_err(),
            "{name}: a checksum that differs"
        );
    }
}

#[test]
fn no_window_is_larger_than_sensible() {
    // Frames of nothing, with windows of 1 KiB and 512 MiB.
    let frame = |window| [0x28, 0xb5, 0x2f, 0xfd, 0, window, 1, 0, 0];
    assert_eq!(unpacked(&frame(0)).expect("unpacked"), b"");
    let error = unpacked(&frame(0x98)).expect_err("too large").to_string();
    assert!(error.contains("indow"), "{error}");
}
