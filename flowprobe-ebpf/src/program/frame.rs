//! A packet in the driver's buffer, read within the bounds that the verifier checks.

use aya_ebpf::programs::XdpContext;
use flowprobe_ebpf::Frame;

/// The frame of an XDP context.
pub(super) struct XdpFrame {
    data: usize,
    end: usize,
    octets: usize,
}

/// Largest offset that is read. The verifier wants a constant bound on variable offsets, and all
/// headers that the parser walks lie below it.
const MAX_OFFSET: usize = 0x3fff;

impl XdpFrame {
    /// The frame of `ctx`, which has `octets` octets on the wire.
    #[inline(always)]
    pub(super) fn new(ctx: &XdpContext, octets: usize) -> Self {
        Self {
            data: ctx.data(),
            end: ctx.data_end(),
            octets,
        }
    }
}

impl Frame for XdpFrame {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        let start = self.data + offset;
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start..start + N` was just checked to lie before the end of the packet.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.octets
    }
}
