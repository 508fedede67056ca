//! A packet in one buffer, read within the bounds that the verifier checks.

use aya_ebpf::programs::XdpContext;
use flowprobe_ebpf::Frame;

/// The frame of an XDP context.
pub(crate) struct XdpFrame {
    data: usize,
    end: usize,
}

/// Largest offset that is read: the verifier wants a constant bound.
const MAX_OFFSET: usize = 0x3fff;

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        Self {
            data: ctx.data(),
            end: ctx.data_end(),
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
        self.end - self.data
    }
}
