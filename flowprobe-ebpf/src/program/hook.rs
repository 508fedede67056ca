//! Where the program runs: what a hook tells of a packet, and the entries that there are for it.

use aya_ebpf::bindings::xdp_md;
use flowprobe_ebpf::{Frame, Packet, Parsed, Skip, parse::parse_ethernet};

use super::{
    account::Scratch,
    frame::{self, XdpFrame},
    maps,
    tag::OuterTag,
};

/// A packet at a hook: the context that the kernel passes in.
pub(crate) trait Hook: Copy {
    /// The frame, of which the first buffer is read and the length not asked for.
    type Head: Frame;

    /// Index of the interface.
    fn ifindex(self) -> u32;
    /// The observation point, as keys have it.
    ///
    /// # Safety
    /// `scratch` is the scratch memory of this CPU, and [`Entry::ask`] was called for this packet.
    unsafe fn point(self, scratch: *mut Scratch) -> u32;
    /// Whether the frame begins with an Ethernet header.
    ///
    /// # Safety
    /// As [`Hook::point`].
    unsafe fn is_ethernet(self, scratch: *mut Scratch) -> bool;
    /// The frame. Without scratch memory its [`Frame::forget`] is not to be called.
    fn head(self, scratch: *mut Scratch) -> Self::Head;
}

/// A packet at the XDP hook.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Xdp(pub(crate) *mut xdp_md);

impl Hook for Xdp {
    type Head = XdpFrame<false>;

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the context is the one that the kernel passed in.
        unsafe { (*self.0).ingress_ifindex }
    }

    #[inline(always)]
    unsafe fn point(self, _: *mut Scratch) -> u32 {
        self.ifindex()
    }

    #[inline(always)]
    unsafe fn is_ethernet(self, _: *mut Scratch) -> bool {
        true
    }

    #[inline(always)]
    fn head(self, scratch: *mut Scratch) -> XdpFrame<false> {
        XdpFrame::new(self, scratch)
    }
}

/// A frame that may turn out to be longer than is known of it.
pub(crate) trait Measured: Frame {
    /// Octets on the wire, as far as they had to be known.
    fn octets(&self) -> u64;
}

/// An entry of the program: a hook, and what is known of frames there.
pub(crate) trait Entry {
    /// The hook.
    type Hook: Hook;
    /// A frame.
    type Frame: Measured;
    /// An entry that stands for this one wherever a function of its own does the work, so that
    /// entries have these in common.
    type General: Entry<Hook = Self::Hook>;
    /// Whether frames may be longer than [`Entry::readable`].
    const FRAGS: bool;
    /// Whether packets go out here.
    const OUT: bool;

    /// Octets of a frame that are known without a helper.
    fn readable(ctx: Self::Hook) -> u64;
    /// Octets of a frame on the wire.
    fn octets(ctx: Self::Hook) -> u64;
    /// The frame.
    fn frame(ctx: Self::Hook, scratch: *mut Scratch) -> Self::Frame;

    /// Whether it is a super-frame, which is several packets on the wire.
    #[inline(always)]
    fn is_super(_: Self::Hook) -> bool {
        false
    }

    /// Whether it goes out and was seen when it came in, and is to be counted once.
    #[inline(always)]
    fn was_seen(_: Self::Hook) -> bool {
        false
    }

    /// Makes the headers of any frame readable, as far as that is possible.
    #[inline(always)]
    fn reach_headers(_: Self::Hook) {}

    /// Notes of the super-frame in the scratch memory how many packets it is, and how many octets
    /// these have as frames.
    ///
    /// # Safety
    /// `scratch` is the scratch memory of this CPU. What is parsed there is this frame, if `parsed`.
    #[inline(always)]
    unsafe fn cut(_: Self::Hook, _: *mut Scratch, _: bool) {}

    /// Asks for what is beside the frame, a VLAN tag for one, once a packet.
    ///
    /// # Safety
    /// `scratch` is the scratch memory of this CPU.
    unsafe fn ask(ctx: Self::Hook, scratch: *mut Scratch);

    /// The packet of a plain frame; see [`flowprobe_ebpf::parse::plain`].
    ///
    /// # Safety
    /// `scratch` is the scratch memory of this CPU, and was asked for with this packet.
    unsafe fn plain(ctx: Self::Hook, frame: &Self::Frame, scratch: *mut Scratch) -> Option<Packet>;

    /// The packet of a nearly plain frame; see [`flowprobe_ebpf::parse::near_plain`].
    ///
    /// # Safety
    /// As [`Entry::plain`].
    unsafe fn near_plain(
        ctx: Self::Hook,
        frame: &Self::Frame,
        scratch: *mut Scratch,
    ) -> Option<Packet>;

    /// Parses any frame layer by layer.
    ///
    /// # Safety
    /// As [`Entry::plain`].
    unsafe fn parse(
        ctx: Self::Hook,
        frame: &Self::Frame,
        scratch: *mut Scratch,
        parsed: &mut Parsed,
    ) -> Result<(), Skip>;
}

/// An entry of XDP. `FRAGS` says whether a packet may lie in several buffers, `T` where its
/// outermost VLAN tag may be.
pub(crate) struct AtXdp<const FRAGS: bool, T>(core::marker::PhantomData<T>);

impl<const FRAGS: bool, T: OuterTag> Entry for AtXdp<FRAGS, T> {
    type Hook = Xdp;
    type Frame = XdpFrame<FRAGS>;
    type General = Self;
    const FRAGS: bool = FRAGS;
    const OUT: bool = false;

    #[inline(always)]
    fn readable(ctx: Xdp) -> u64 {
        frame::readable(ctx)
    }

    #[inline(always)]
    fn octets(ctx: Xdp) -> u64 {
        frame::octets::<FRAGS>(ctx)
    }

    #[inline(always)]
    fn frame(ctx: Xdp, scratch: *mut Scratch) -> XdpFrame<FRAGS> {
        XdpFrame::new(ctx, scratch)
    }

    #[inline(always)]
    unsafe fn ask(ctx: Xdp, scratch: *mut Scratch) {
        // SAFETY: the caller's.
        unsafe { T::ask(ctx, scratch) }
    }

    #[inline(always)]
    unsafe fn plain(_: Xdp, frame: &XdpFrame<FRAGS>, scratch: *mut Scratch) -> Option<Packet> {
        // SAFETY: the caller's.
        unsafe { T::plain(frame, scratch) }
    }

    #[inline(always)]
    unsafe fn near_plain(_: Xdp, frame: &XdpFrame<FRAGS>, scratch: *mut Scratch) -> Option<Packet> {
        // SAFETY: the caller's.
        unsafe { T::near_plain(frame, scratch) }
    }

    #[inline(always)]
    unsafe fn parse(
        _: Xdp,
        frame: &XdpFrame<FRAGS>,
        scratch: *mut Scratch,
        parsed: &mut Parsed,
    ) -> Result<(), Skip> {
        // SAFETY: the caller's.
        if let Some(control) = unsafe { T::control(scratch) } {
            parsed.put_outer_tag(control);
        }
        parse_ethernet(frame, &maps::tunnels(), parsed)
    }
}
