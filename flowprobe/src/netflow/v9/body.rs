//! A message of v9 while it is being built: flowsets (RFC 3954 §5), their lengths and padding.

use super::{HEADER, table};

/// Octets of a flowset header (RFC 3954 §5.2, §5.3, §6.1).
pub(super) const FLOWSET_HEADER: usize = 4;

/// The next multiple of four: where a flowset should begin (RFC 3954 §5.3).
pub(super) const fn aligned(octets: usize) -> usize {
    octets.next_multiple_of(4)
}

/// The flowset that records go into.
#[derive(Clone, Copy, Debug)]
struct Flowset {
    id: u16,
    /// Where its header is.
    start: usize,
    /// Octets of its first record. Those of a data flowset are all alike; templates may differ, but
    /// each is longer than any padding.
    record: usize,
}

/// Flowsets, with room for the message header in front of them.
#[derive(Debug)]
pub(super) struct Body {
    /// As long as the largest message, and what a record in its form of IPFIX is longer.
    pub(super) buffer: Box<[u8]>,
    /// Octets of the largest message.
    limit: usize,
    /// Octets of the message so far, at least [`HEADER`], without padding at its end.
    pub(super) length: usize,
    open: Option<Flowset>,
    /// Records in the message, templates too.
    pub(super) records: u16,
}

impl Body {
    /// An empty one of a message of at most `limit` octets.
    pub(super) fn new(limit: usize) -> Self {
        Self {
            buffer: vec![0; limit + table::SHORTER].into_boxed_slice(),
            limit,
            length: HEADER,
            open: None,
            records: 0,
        }
    }

    /// Octets that are left for records and their flowset headers.
    pub(super) fn remaining(&self) -> usize {
        self.limit - aligned(self.length)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.length == HEADER
    }

    pub(super) fn clear(&mut self) {
        self.length = HEADER;
        self.open = None;
        self.records = 0;
    }

    /// Room for a record of `octets` in the flowset `id`.
    pub(super) fn room(&mut self, id: u16, octets: usize) -> Option<&mut [u8]> {
        let start = self.reserve(id, octets)?;
        Some(&mut self.buffer[start..start + octets])
    }

    /// Where a record of `octets` goes in the flowset `id`, which is opened if another one is
    /// open. Nothing if the message, padding included, would be too long.
    #[inline]
    pub(super) fn reserve(&mut self, id: u16, octets: usize) -> Option<usize> {
        let opens = self.open.is_none_or(|open| open.id != id);
        let start = if opens {
            self.end() + FLOWSET_HEADER
        } else {
            self.length
        };
        if aligned(start + octets) > self.limit {
            return None;
        }
        if opens {
            self.close();
            let header = self.length;
            self.open = Some(Flowset {
                id,
                start: header,
                record: octets,
            });
            self.buffer[header..header + 2].copy_from_slice(&id.to_be_bytes());
        }
        self.length = start + octets;
        self.records += 1;
        Some(start)
    }

    /// Ends the open flowset for good.
    pub(super) fn close(&mut self) {
        self.length = self.finish();
        self.open = None;
    }

    /// Where the open flowset ends with its padding, so that what follows begins at a multiple of
    /// four octets (RFC 3954 §5.3, §6.1). A padding as long as a record would be taken for one
    /// (erratum 2096), and is left out: only flows with next to no fields are so short.
    fn end(&self) -> usize {
        let end = aligned(self.length);
        match self.open {
            Some(flowset) if end - self.length >= flowset.record => self.length,
            _ => end,
        }
    }

    /// Writes padding behind the open flowset, and its length. Returns where it ends then.
    pub(super) fn finish(&mut self) -> usize {
        let end = self.end();
        if let Some(Flowset { start, .. }) = self.open {
            self.buffer[self.length..end].fill(0);
            // RFC 3954 §5.3: the length counts the padding.
            let octets = (end - start) as u16;
            self.buffer[start + 2..start + 4].copy_from_slice(&octets.to_be_bytes());
        }
        end
    }
}
