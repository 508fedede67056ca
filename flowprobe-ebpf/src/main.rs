//! The programs: each counts every packet into its flow and passes it on untouched. One for XDP, and
//! one for traffic control, with an entry for each kind of frame.
//!
//! Built for BPF by `cargo xtask build-ebpf`. The code is in `program/`, the parser and all
//! layouts are the library's.
#![no_std]
#![no_main]
// `core` for BPF has atomic types without compare-and-swap; the intrinsics do have it.
#![feature(core_intrinsics)]
// A mask that the compiler must not drop; see `program::frame`.
#![feature(asm_experimental_arch)]
#![expect(internal_features, reason = "see core_intrinsics above")]

#[cfg(not(target_arch = "bpf"))]
compile_error!("flowprobe-bpf is a BPF program: build it with `cargo xtask build-ebpf`");

mod program;

use aya_ebpf::{
    bindings::xdp_action,
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};
use program::{AtTc, AtXdp, InFrame, MayBeBeside, Skb, Xdp, hand_over, observe};

/// For frames that lie in one buffer.
#[xdp]
#[inline(always)] // a call of its own costs 6 ns a packet
fn flowprobe(ctx: XdpContext) -> u32 {
    observe::<AtXdp<false, InFrame>>(Xdp(ctx.ctx)); // a monitor never changes a packet's fate
    xdp_action::XDP_PASS
}

/// For drivers that hand over jumbo frames in several buffers.
#[xdp(frags)]
#[inline(always)]
fn flowprobe_frags(ctx: XdpContext) -> u32 {
    observe::<AtXdp<true, InFrame>>(Xdp(ctx.ctx));
    xdp_action::XDP_PASS
}

/// For devices that take the outermost VLAN tag out of a frame and tell it to those who ask. To be
/// loaded for one device; see [`flowprobe_ebpf::rx_vlan`].
#[xdp]
#[inline(always)]
fn flowprobe_rx_vlan(ctx: XdpContext) -> u32 {
    observe::<AtXdp<false, MayBeBeside>>(Xdp(ctx.ctx));
    xdp_action::XDP_PASS
}

/// The same for jumbo frames in several buffers.
#[xdp(frags)]
#[inline(always)]
fn flowprobe_rx_vlan_frags(ctx: XdpContext) -> u32 {
    observe::<AtXdp<true, MayBeBeside>>(Xdp(ctx.ctx));
    xdp_action::XDP_PASS
}

/// For frames that are handed over to userspace, in the four ways of above. aya does not load these:
/// see `flowprobe::load::handover`.
#[xdp]
#[inline(always)]
fn flowprobe_hand(ctx: XdpContext) -> u32 {
    hand_over::<AtXdp<false, InFrame>>(Xdp(ctx.ctx))
}

/// In several buffers.
#[xdp(frags)]
#[inline(always)]
fn flowprobe_hand_frags(ctx: XdpContext) -> u32 {
    hand_over::<AtXdp<true, InFrame>>(Xdp(ctx.ctx))
}

/// With a tag beside the frame.
#[xdp]
#[inline(always)]
fn flowprobe_hand_rx_vlan(ctx: XdpContext) -> u32 {
    hand_over::<AtXdp<false, MayBeBeside>>(Xdp(ctx.ctx))
}

/// Both.
#[xdp(frags)]
#[inline(always)]
fn flowprobe_hand_rx_vlan_frags(ctx: XdpContext) -> u32 {
    hand_over::<AtXdp<true, MayBeBeside>>(Xdp(ctx.ctx))
}

/// linux/pkt_cls.h: TC_ACT_UNSPEC, which is TCX_NEXT too. Whoever comes next decides.
const NEXT: i32 = -1;

/// For packets that come in, on interfaces with Ethernet frames.
#[classifier]
#[inline(always)]
fn flowprobe_tc(ctx: TcContext) -> i32 {
    observe::<AtTc<false, true>>(Skb(ctx.skb.skb));
    NEXT
}

/// For packets that come in, on interfaces without a link layer.
#[classifier]
#[inline(always)]
fn flowprobe_tc_ip(ctx: TcContext) -> i32 {
    observe::<AtTc<false, false>>(Skb(ctx.skb.skb));
    NEXT
}

/// For packets that go out, on interfaces with Ethernet frames.
#[classifier]
#[inline(always)]
fn flowprobe_out(ctx: TcContext) -> i32 {
    observe::<AtTc<true, true>>(Skb(ctx.skb.skb));
    NEXT
}

/// For packets that go out, on interfaces without a link layer.
#[classifier]
#[inline(always)]
fn flowprobe_out_ip(ctx: TcContext) -> i32 {
    observe::<AtTc<true, false>>(Skb(ctx.skb.skb));
    NEXT
}

// The verifier rejects a program in which this loop can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
