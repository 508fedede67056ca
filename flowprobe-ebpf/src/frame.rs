//! The bounded read that every input offers and the parser is written against.

/// A frame from its first link-layer octet.
///
/// The parser sees packets only through this trait, so that it runs unchanged on whatever can be
/// read: the driver's buffer, or memory of a test.
pub trait Frame {
    /// Copies `N` octets at `offset`, or `None` if any of them is not readable.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Octets of the frame on the wire, without its frame check sequence. This may be more than
    /// can be read (further buffers of a jumbo frame).
    fn len(&self) -> usize;

    /// Whether the frame has at least `octets` octets on the wire. An implementation may answer
    /// without knowing its whole length.
    #[inline(always)]
    fn reaches(&self, octets: usize) -> bool {
        octets <= self.len()
    }

    /// The same value. A program's verifier knows nothing of it any more: what it knew would only
    /// multiply the ways through the parser that it has to follow.
    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        value
    }

    /// Whether the frame has no octets at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Frame for [u8] {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    #[inline(always)]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}
