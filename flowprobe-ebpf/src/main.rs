//! The XDP program: counts every packet into its flow and passes it on untouched.
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

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use program::{InFrame, MayBeBeside, observe};

/// For frames that lie in one buffer.
#[xdp]
#[inline(always)] // a call of its own costs 6 ns a packet
fn flowprobe(ctx: XdpContext) -> u32 {
    observe::<false, InFrame>(&ctx); // a monitor never changes a packet's fate
    xdp_action::XDP_PASS
}

/// For drivers that hand over jumbo frames in several buffers.
#[xdp(frags)]
#[inline(always)]
fn flowprobe_frags(ctx: XdpContext) -> u32 {
    observe::<true, InFrame>(&ctx);
    xdp_action::XDP_PASS
}

/// For devices that take the outermost VLAN tag out of a frame and tell it to those who ask. To be
/// loaded for one device; see [`flowprobe_ebpf::rx_vlan`].
#[xdp]
#[inline(always)]
fn flowprobe_rx_vlan(ctx: XdpContext) -> u32 {
    observe::<false, MayBeBeside>(&ctx);
    xdp_action::XDP_PASS
}

/// The same for jumbo frames in several buffers.
#[xdp(frags)]
#[inline(always)]
fn flowprobe_rx_vlan_frags(ctx: XdpContext) -> u32 {
    observe::<true, MayBeBeside>(&ctx);
    xdp_action::XDP_PASS
}

// The verifier rejects a program in which this loop can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
