//! Where the outermost VLAN tag of a frame is: in it, or beside it where a device took it out.

use core::{ffi::c_int, mem};

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use flowprobe_ebpf::{Packet, rx_vlan};

/// The outermost VLAN tag, as far as it does not stand in the frame. Of no size where it cannot
/// stand elsewhere, so that programs for such frames know nothing of it.
pub(crate) trait OuterTag: Copy {
    /// Asks for the packet's.
    fn ask(ctx: &XdpContext) -> Self;

    /// Its control information; `None` without such a tag.
    fn control(self) -> Option<u16>;

    /// The packet of a frame without tags, with this one.
    fn onto(self, packet: Packet) -> Packet;
}

/// All tags are in the frame.
#[derive(Clone, Copy)]
pub(crate) struct InFrame;

impl OuterTag for InFrame {
    #[inline(always)]
    fn ask(_: &XdpContext) -> Self {
        Self
    }

    #[inline(always)]
    fn control(self) -> Option<u16> {
        None
    }

    #[inline(always)]
    fn onto(self, packet: Packet) -> Packet {
        packet
    }
}

/// The outermost tag may be beside the frame: its control information, or [`MayBeBeside::NONE`].
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct MayBeBeside(u32);

impl MayBeBeside {
    /// What no control information is: these have 16 bits.
    const NONE: u32 = u32::MAX;
}

/// As the kernel declares [`rx_vlan::KFUNC`].
type RxVlanTag = unsafe extern "C" fn(*mut xdp_md, *mut u16, *mut u16) -> c_int;

impl OuterTag for MayBeBeside {
    #[inline(always)]
    fn ask(ctx: &XdpContext) -> Self {
        let (mut protocol_be, mut control) = (0, 0);
        // SAFETY: BPF calls a helper by its number in the place of an address. The loader has put
        // a call of the kernel's function here, which has this signature, or has not loaded it.
        let told = unsafe {
            let rx_vlan_tag: RxVlanTag = mem::transmute(rx_vlan::PLACEHOLDER as usize);
            rx_vlan_tag(ctx.ctx, &raw mut protocol_be, &raw mut control)
        };
        // 802.1Q or 802.1ad: no part of a flow, as for tags in the frame.
        let _ = protocol_be;
        Self(if told == 0 {
            u32::from(control)
        } else {
            Self::NONE
        })
    }

    #[inline(always)]
    fn control(self) -> Option<u16> {
        (self.0 != Self::NONE).then_some(self.0 as u16)
    }

    #[inline(always)]
    fn onto(self, mut packet: Packet) -> Packet {
        if let Some(control) = self.control() {
            packet.put_outer_tag(control);
        }
        packet
    }
}
