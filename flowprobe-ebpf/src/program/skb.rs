//! A packet at the hooks of traffic control: in a socket buffer, coming in or going out.
//!
//! At both, the outermost VLAN tag is beside the frame: where a packet comes in the kernel takes it
//! out, and where one goes out the device or the kernel puts it in later. And at both a buffer may
//! be a super-frame: what GRO has merged, or what the device is to cut into segments.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_skb_pull_data};
use flowprobe_ebpf::{
    Frame, Packet, Parsed, Skip,
    key::EGRESS,
    parse::{near_plain, near_plain_untagged, parse_at, plain},
    wire::{ethernet, protocol, sctp, tcp, udp},
};

use super::{
    account::Scratch,
    frame::{Window, forget},
    hook::{Entry, Hook, Measured},
    maps,
};

/// A packet at a hook of traffic control.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Skb(pub(crate) *mut __sk_buff);

/// An entry of traffic control. `OUT` says whether packets go out, `ETHERNET` whether the interface
/// has frames of Ethernet, and not packets without any link layer.
pub(crate) enum AtTc<const OUT: bool, const ETHERNET: bool> {}

/// Octets that hold all headers of nearly any packet, tunnels included. A driver or a sender may
/// leave less than the headers where the program can read them.
const HEADERS: u32 = 256;

/// Its frame. Only the first buffer is read.
pub(crate) struct SkbFrame {
    window: Window,
    /// Octets of the frame, without the tag beside it.
    octets: usize,
    /// Octets of that tag, which the frame has on the wire.
    tag_len: u32,
    /// Memory of this CPU.
    scratch: *mut Scratch,
}

impl Measured for SkbFrame {
    #[inline(always)]
    fn octets(&self) -> u64 {
        self.octets as u64 + u64::from(self.tag_len)
    }
}

impl Frame for SkbFrame {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.window.read(offset, |value| self.forget(value))
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.octets
    }

    #[inline(always)]
    fn forget(&self, value: usize) -> usize {
        forget(self.scratch, value)
    }
}

impl Hook for Skb {
    type Head = SkbFrame;

    #[inline(always)]
    fn ifindex(self) -> u32 {
        // SAFETY: the context is the one that the kernel passed in.
        unsafe { (*self.0).ifindex }
    }

    #[inline(always)]
    unsafe fn point(self, scratch: *mut Scratch) -> u32 {
        // SAFETY: the caller's.
        unsafe { (*scratch).point }
    }

    #[inline(always)]
    unsafe fn is_ethernet(self, scratch: *mut Scratch) -> bool {
        // SAFETY: the caller's.
        unsafe { (*scratch).link_len != 0 }
    }

    #[inline(always)]
    fn head(self, scratch: *mut Scratch) -> SkbFrame {
        let (data, end, octets) = self.bounds();
        SkbFrame {
            window: Window { data, end },
            octets: octets as usize,
            tag_len: self.tag_len(),
            scratch,
        }
    }
}

impl Skb {
    /// Start and end of what can be read, and the whole length. Read anew, since what pulls data
    /// moves it.
    #[inline(always)]
    fn bounds(self) -> (usize, usize, u32) {
        // SAFETY: the context is the one that the kernel passed in.
        unsafe {
            (
                (&raw const (*self.0).data).read_volatile() as usize,
                (&raw const (*self.0).data_end).read_volatile() as usize,
                (&raw const (*self.0).len).read_volatile(),
            )
        }
    }

    /// The control information of the tag beside the frame.
    #[inline(always)]
    fn control(self) -> Option<u16> {
        // SAFETY: the context is the one that the kernel passed in.
        unsafe { ((*self.0).vlan_present != 0).then_some((*self.0).vlan_tci as u16) }
    }

    /// Octets of that tag.
    #[inline(always)]
    fn tag_len(self) -> u32 {
        // SAFETY: the context is the one that the kernel passed in.
        unsafe { (*self.0).vlan_present * ethernet::TAG_LEN as u32 }
    }

    /// Octets of all headers of the super-frame that was parsed: what each of its packets will have
    /// in front of its payload.
    ///
    /// # Safety
    /// `scratch` is the scratch memory of this CPU, and holds this frame.
    #[inline(always)]
    unsafe fn headers(self, scratch: *mut Scratch) -> u64 {
        // SAFETY: the caller's.
        let parsed = unsafe { &(*scratch).parsed };
        let transport = match parsed.packet.protocol {
            protocol::TCP => {
                let frame = self.head(scratch);
                let at = frame.forget(parsed.place.payload as usize + tcp::DATA_OFFSET);
                let words = frame.read(at).map_or(0, |[octet, _]| octet >> 4);
                u64::from(words) * 4
            }
            protocol::UDP => udp::LEN as u64,
            protocol::SCTP => sctp::COMMON_LEN,
            _ => 0,
        };
        u64::from(parsed.place.payload) + transport
    }
}

impl<const OUT: bool, const ETHERNET: bool> Entry for AtTc<OUT, ETHERNET> {
    type Hook = Skb;
    type Frame = SkbFrame;
    type General = AtTc<false, true>;
    const FRAGS: bool = false;
    const OUT: bool = OUT;

    #[inline(always)]
    fn readable(ctx: Skb) -> u64 {
        Self::octets(ctx)
    }

    #[inline(always)]
    fn octets(ctx: Skb) -> u64 {
        u64::from(ctx.bounds().2) + u64::from(ctx.tag_len())
    }

    #[inline(always)]
    fn frame(ctx: Skb, scratch: *mut Scratch) -> SkbFrame {
        ctx.head(scratch)
    }

    #[inline(always)]
    fn is_super(ctx: Skb) -> bool {
        // SAFETY: the context is the one that the kernel passed in.
        unsafe { (*ctx.0).gso_size != 0 }
    }

    #[inline(always)]
    fn was_seen(ctx: Skb) -> bool {
        // The interface on which a packet came in stays with it while it is forwarded; one that was
        // made here, or is a tunnel's, has none.
        // SAFETY: the context is the one that the kernel passed in.
        OUT && maps::dedup() != 0 && maps::is_watched(unsafe { (*ctx.0).ingress_ifindex })
    }

    #[inline(always)]
    fn reach_headers(ctx: Skb) {
        let (data, end, octets) = ctx.bounds();
        let wanted = octets.min(HEADERS);
        if data + (wanted as usize) > end {
            // SAFETY: the context is the one that the kernel passed in, and nothing that was read
            // of the frame is used behind this. Where memory is short, the frame stays as it is.
            unsafe { bpf_skb_pull_data(ctx.0, wanted) };
        }
    }

    #[inline(always)]
    unsafe fn cut(ctx: Skb, scratch: *mut Scratch, parsed: bool) {
        // SAFETY: the caller's, and the context is the one that the kernel passed in.
        unsafe {
            let (octets, size) = (u64::from(ctx.bounds().2), u64::from((*ctx.0).gso_size));
            let mut segments = u64::from((*ctx.0).gso_segs);
            let mut headers = 0;
            if parsed {
                headers = ctx.headers(scratch);
                // Senders of whole frames (a virtual machine, a packet socket) leave the count to
                // the kernel, which makes it when it cuts them.
                if segments == 0 && size != 0 {
                    segments = octets.saturating_sub(headers).div_ceil(size);
                }
            }
            let more = segments.saturating_sub(1);
            (*scratch).parsed.packet.more = more as u32;
            (*scratch).octets = octets + more * headers + (1 + more) * u64::from(ctx.tag_len());
            let before_ip = u64::from((*scratch).parsed.place.header);
            (*scratch).repeated = more * headers.saturating_sub(before_ip);
        }
    }

    #[inline(always)]
    unsafe fn ask(ctx: Skb, scratch: *mut Scratch) {
        // SAFETY: the caller's.
        unsafe {
            (*scratch).point = ctx.ifindex() | if OUT { EGRESS } else { 0 };
            (*scratch).link_len = if ETHERNET { ethernet::LEN as u32 } else { 0 };
        }
    }

    #[inline(always)]
    unsafe fn plain(ctx: Skb, frame: &SkbFrame, _: *mut Scratch) -> Option<Packet> {
        if !ETHERNET {
            return None;
        }
        let mut packet = plain(frame)?;
        if let Some(control) = ctx.control() {
            packet.put_outer_tag(control);
        }
        Some(packet)
    }

    #[inline(always)]
    unsafe fn near_plain(ctx: Skb, frame: &SkbFrame, scratch: *mut Scratch) -> Option<Packet> {
        // SAFETY: the caller's.
        if !unsafe { ctx.is_ethernet(scratch) } {
            return None;
        }
        let Some(control) = ctx.control() else {
            return near_plain(frame);
        };
        // With the one in the frame these are two, for which there is no place.
        let mut packet = near_plain_untagged(frame)?;
        packet.put_outer_tag(control);
        Some(packet)
    }

    #[inline(always)]
    unsafe fn parse(
        ctx: Skb,
        frame: &SkbFrame,
        scratch: *mut Scratch,
        parsed: &mut Parsed,
    ) -> Result<(), Skip> {
        // SAFETY: the caller's, and the context is the one that the kernel passed in.
        let (link_len, protocol_be) = unsafe { ((*scratch).link_len, (*ctx.0).protocol as u16) };
        let ethertype = if link_len != 0 {
            if let Some(control) = ctx.control() {
                parsed.put_outer_tag(control);
            }
            let ethertype = frame.read(ethernet::TYPE).ok_or(Skip::TruncatedLink)?;
            u16::from_be_bytes(ethertype)
        } else {
            u16::from_be(protocol_be)
        };
        let at = frame.forget(link_len as usize);
        parse_at(frame, &maps::tunnels(), ethertype, at, parsed)
    }
}
