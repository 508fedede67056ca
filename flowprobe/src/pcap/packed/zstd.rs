//! Frames of zstd (RFC 8878), one after the other.

use std::io::{self, BufRead, Read};

use ruzstd::decoding::{
    BlockDecodingStrategy, FrameDecoder,
    errors::{FrameDecoderError, ReadFrameHeaderError},
};

/// A frame of nothing: one empty block, the last one. ruzstd 0.8 refuses windows above 100 MiB in
/// every frame but a decoder's first, and a damaged one may ask for 3.75 TiB.
const EMPTY: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];

pub(in super::super) struct Zstd<R> {
    input: R,
    decoder: FrameDecoder,
    /// Between two frames, or before the first.
    between: bool,
}

impl<R: BufRead> Zstd<R> {
    pub(super) fn new(input: R) -> Self {
        let mut decoder = FrameDecoder::new();
        let mut empty = &EMPTY[..];
        let begun = decoder.init(&mut empty);
        debug_assert!(begun.is_ok(), "a frame of nothing");
        Self {
            input,
            decoder,
            between: true,
        }
    }

    /// Begins the next frame; false if there is none.
    fn begin(&mut self) -> io::Result<bool> {
        while !self.input.fill_buf()?.is_empty() {
            match self.decoder.reset(&mut self.input) {
                Ok(()) => {
                    self.between = false;
                    return Ok(true);
                }
                // Of no packets: what parallel tools note for themselves.
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = self.input.by_ref().take(length.into());
                    if io::copy(&mut skipped, &mut io::sink())? < length.into() {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }

    /// Whether what a frame has unpacked is what its checksum was made of.
    fn check(&self) -> io::Result<()> {
        let said = self.decoder.get_checksum_from_data();
        if said.is_none() || said == self.decoder.get_calculated_checksum() {
            return Ok(());
        }
        let differs = "the checksum differs";
        Err(io::Error::new(io::ErrorKind::InvalidData, differs))
    }
}

impl<R: BufRead> Read for Zstd<R> {
    fn read(&mut self, octets: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.between && !self.begin()? {
                return Ok(0);
            }
            while self.decoder.can_collect() == 0 && !self.decoder.is_finished() {
                let blocks = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.decoder.decode_blocks(&mut self.input, blocks);
                decoded.map_err(io::Error::other)?;
            }
            let read = self.decoder.read(octets)?;
            if read > 0 || octets.is_empty() {
                return Ok(read);
            }
            self.check()?;
            self.between = true;
        }
    }
}
