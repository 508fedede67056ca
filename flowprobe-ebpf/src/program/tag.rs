//! Where the outermost VLAN tag of a frame is: in it, or beside it where a device took it out.

use core::{ffi::c_int, mem};

use aya_ebpf::bindings::xdp_md;
use flowprobe_ebpf::{
    Frame, Packet,
    parse::{near_plain, near_plain_untagged, plain},
    rx_vlan,
};

use super::{account::Scratch, hook::Xdp};

/// Where the outermost VLAN tag may be. What is beside the frame is asked for once a packet, and
/// kept in the scratch memory of the CPU: the functions that want it have no stack to spare.
pub(crate) trait OuterTag {
    /// Asks for the tag beside the frame.
    ///
    /// # Safety
    /// `scratch` is the scratch memory of this CPU.
    unsafe fn ask(ctx: Xdp, scratch: *mut Scratch);

    /// The control information of the tag beside the frame; `None` without one.
    ///
    /// # Safety
    /// `scratch` is the scratch memory of this CPU, and was asked for with this packet.
    unsafe fn control(scratch: *mut Scratch) -> Option<u16>;

    /// The packet of a frame that is [`plain`], with the tag beside it.
    ///
    /// # Safety
    /// As [`OuterTag::control`].
    unsafe fn plain<F: Frame>(frame: &F, scratch: *mut Scratch) -> Option<Packet>;

    /// The packet of a frame that is [`near_plain`], with the tag beside it.
    ///
    /// # Safety
    /// As [`OuterTag::control`].
    unsafe fn near_plain<F: Frame>(frame: &F, scratch: *mut Scratch) -> Option<Packet>;
}

/// All tags are in the frame.
pub(crate) enum InFrame {}

impl OuterTag for InFrame {
    #[inline(always)]
    unsafe fn ask(_: Xdp, _: *mut Scratch) {}

    #[inline(always)]
    unsafe fn control(_: *mut Scratch) -> Option<u16> {
        None
    }

    #[inline(always)]
    unsafe fn plain<F: Frame>(frame: &F, _: *mut Scratch) -> Option<Packet> {
        plain(frame)
    }

    #[inline(always)]
    unsafe fn near_plain<F: Frame>(frame: &F, _: *mut Scratch) -> Option<Packet> {
        near_plain(frame)
    }
}

/// The outermost tag may be beside the frame.
pub(crate) enum MayBeBeside {}

/// A tag beside the frame, as the kernel tells it.
#[repr(C)]
pub(crate) struct Beside {
    /// 802.1Q or 802.1ad: no part of a flow, as for tags in the frame.
    protocol_be: u16,
    control: u16,
    /// The control information once more, or [`Beside::NONE`].
    outer: u32,
}

impl Beside {
    /// What no control information is: these have 16 bits.
    const NONE: u32 = u32::MAX;
}

/// As the kernel declares [`rx_vlan::KFUNC`].
type RxVlanTag = unsafe extern "C" fn(*mut xdp_md, *mut u16, *mut u16) -> c_int;

impl OuterTag for MayBeBeside {
    #[inline(always)]
    unsafe fn ask(ctx: Xdp, scratch: *mut Scratch) {
        // SAFETY: the caller's. BPF calls a helper by its number in the place of an address. The
        // loader has put a call of the kernel's function here, which has this signature, or has
        // not loaded it.
        unsafe {
            let beside = &raw mut (*scratch).beside;
            let rx_vlan_tag: RxVlanTag = mem::transmute(rx_vlan::PLACEHOLDER as usize);
            let errno = rx_vlan_tag(
                ctx.0,
                &raw mut (*beside).protocol_be,
                &raw mut (*beside).control,
            );
            // In a place whose address nobody needs, so that none is kept on the stack.
            (*beside).outer = match errno {
                0 => u32::from((*beside).control),
                _ => Beside::NONE,
            };
        }
    }

    #[inline(always)]
    unsafe fn control(scratch: *mut Scratch) -> Option<u16> {
        // SAFETY: the caller's. Volatile, so that nothing of it is kept in the meantime.
        unsafe {
            let outer = (&raw const (*scratch).beside.outer).read_volatile();
            (outer != Beside::NONE).then_some(outer as u16)
        }
    }

    #[inline(always)]
    unsafe fn plain<F: Frame>(frame: &F, scratch: *mut Scratch) -> Option<Packet> {
        let mut packet = plain(frame)?;
        // SAFETY: the caller's.
        if let Some(control) = unsafe { Self::control(scratch) } {
            packet.put_outer_tag(control);
        }
        Some(packet)
    }

    #[inline(always)]
    unsafe fn near_plain<F: Frame>(frame: &F, scratch: *mut Scratch) -> Option<Packet> {
        // SAFETY: the caller's.
        let Some(control) = (unsafe { Self::control(scratch) }) else {
            return near_plain(frame);
        };
        // With the one in the frame these are two, for which there is no place.
        let mut packet = near_plain_untagged(frame)?;
        packet.put_outer_tag(control);
        Some(packet)
    }
}
