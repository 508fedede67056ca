//! A packet in a buffer, read within the bounds that the verifier checks; and that of XDP.

use core::{arch::asm, cell::Cell, intrinsics::is_val_statically_known};

use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use flowprobe_ebpf::Frame;

use super::{
    account::Scratch,
    hook::{Measured, Xdp},
};

/// The frame of an XDP context; `FRAGS` says whether it may lie in several buffers.
///
/// Only the first buffer is read: headers lie in it. How long a frame of several buffers is, only
/// a helper knows, whose call costs 5 ns, so it is asked when the answer matters.
pub(crate) struct XdpFrame<const FRAGS: bool> {
    ctx: Xdp,
    window: Window,
    /// Octets on the wire as far as they are known.
    octets: Cell<usize>,
    /// Memory of this CPU.
    scratch: *mut Scratch,
}

/// Largest offset that is read. The verifier wants a constant bound on variable offsets, and all
/// headers that the parser walks lie below it.
const MAX_OFFSET: usize = 0x3fff;

/// The same offset, which was found to be at most [`MAX_OFFSET`], with an instruction that says so to
/// the verifier: those before kernel 6.2 forget a bound when its register is reloaded from the
/// stack, and the compiler would drop a mask that changes nothing.
#[inline(always)]
fn bounded(offset: usize) -> usize {
    if is_val_statically_known(offset) {
        return offset;
    }
    let mut offset = offset;
    // SAFETY: an AND of a register.
    unsafe {
        asm!(
            "{offset} &= {mask}",
            offset = inout(reg) offset,
            mask = const MAX_OFFSET,
            options(pure, nomem, nostack)
        );
    }
    offset
}

/// Octets in the first buffer of a frame.
///
/// Read anew: a compiler that sees the length come from `end` derives from the parser's checks of
/// the length that those of `end` are not needed, which the verifier does not.
#[inline(always)]
pub(super) fn readable(ctx: Xdp) -> u64 {
    // SAFETY: the context is the one that the kernel passed in.
    let octets = unsafe {
        (&raw const (*ctx.0).data_end).read_volatile() - (&raw const (*ctx.0).data).read_volatile()
    };
    u64::from(octets)
}

/// Octets of a frame on the wire, in all its buffers.
#[inline(always)]
pub(super) fn octets<const FRAGS: bool>(ctx: Xdp) -> u64 {
    if FRAGS {
        // SAFETY: the context is the one that the kernel passed in.
        unsafe { bpf_xdp_get_buff_len(ctx.0) }
    } else {
        readable(ctx)
    }
}

impl<const FRAGS: bool> XdpFrame<FRAGS> {
    /// The frame of `ctx`.
    #[inline(always)]
    pub(super) fn new(ctx: Xdp, scratch: *mut Scratch) -> Self {
        let readable = readable(ctx) as usize;
        // SAFETY: the context is the one that the kernel passed in.
        let (data, end) = unsafe { ((*ctx.0).data as usize, (*ctx.0).data_end as usize) };
        Self {
            ctx,
            window: Window { data, end },
            octets: Cell::new(readable),
            scratch,
        }
    }
}

impl<const FRAGS: bool> Measured for XdpFrame<FRAGS> {
    #[inline(always)]
    fn octets(&self) -> u64 {
        self.octets.get() as u64
    }
}

/// What can be read of a packet: addresses of its first octet, and of the one behind the last.
pub(super) struct Window {
    pub(super) data: usize,
    pub(super) end: usize,
}

impl Window {
    /// See [`Frame::read`]; `forget` is [`Frame::forget`].
    #[inline(always)]
    pub(super) fn read<const N: usize>(
        &self,
        offset: usize,
        forget: impl Fn(usize) -> usize,
    ) -> Option<[u8; N]> {
        if offset > MAX_OFFSET {
            return None;
        }
        if N == 1 {
            // A single octet is read with the one before it: `start + 1 > end` would become
            // `start >= end`, from which the verifier learns nothing.
            let before = forget(offset.checked_sub(1)?);
            if before > MAX_OFFSET {
                return None;
            }
            let start = self.data + bounded(before);
            if start + 2 > self.end {
                return None;
            }
            // SAFETY: both octets were just checked to lie before the end of the packet.
            let [_, octet] = unsafe { (start as *const [u8; 2]).read_volatile() };
            return Some([octet; N]);
        }
        let start = self.data + bounded(offset);
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start..start + N` was just checked to lie before the end of the packet.
        Some(unsafe { (start as *const [u8; N]).read_unaligned() })
    }
}

/// The same value, of which the verifier forgets through memory what it knows.
#[inline(always)]
pub(super) fn forget(scratch: *mut Scratch, value: usize) -> usize {
    // SAFETY: a word in the scratch memory of this CPU.
    unsafe {
        let word = &raw mut (*scratch).forgotten;
        word.write_volatile(value as u64);
        word.read_volatile() as usize
    }
}

impl<const FRAGS: bool> Frame for XdpFrame<FRAGS> {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.window.read(offset, |value| self.forget(value))
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.octets.set(octets::<FRAGS>(self.ctx) as usize);
        self.octets.get()
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        forget(self.scratch, value)
    }

    #[inline(always)]
    fn reaches(&self, octets: usize) -> bool {
        octets <= self.octets.get() || FRAGS && octets <= self.len()
    }
}
