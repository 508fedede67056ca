//! A packet in one buffer, read within the bounds that the verifier checks.

use aya_ebpf::programs::XdpContext;
use flowprobe_ebpf::Frame;

/// The frame of an XDP context.
pub(crate) struct XdpFrame {
    data: usize,
    end: usize,
    octets: usize,
}

/// Largest offset that is read: the verifier wants a constant bound.
const MAX_OFFSET: usize = 0x3fff;

impl XdpFrame {
    #[inline(always)]
    pub(crate) fn new(ctx: &XdpContext) -> Self {
        // Read twice: from one value the compiler would take a comparison with the length for
        // one with the end and drop the latter, which is the one that the verifier looks for.
        // SAFETY: the context is the one the kernel passed in.
        let read_end = || unsafe { (&raw const (*ctx.ctx).data_end).read_volatile() } as usize;
        Self {
            data: ctx.data(),
            end: read_end(),
            octets: read_end() - ctx.data(),
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
