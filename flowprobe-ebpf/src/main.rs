//! The XDP program: counts every packet into its flow and passes it on untouched.
//!
//! Built for BPF by `cargo xtask build-ebpf`. The code is in `program/`, the parser and all
//! layouts are the library's.
#![no_std]
#![no_main]
// `core` for BPF has atomic types without compare-and-swap; the intrinsics do have it.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "see core_intrinsics above")]

#[cfg(not(target_arch = "bpf"))]
compile_error!("flowprobe-bpf is a BPF program: build it with `cargo xtask build-ebpf`");

mod program;

use aya_ebpf::{bindings::xdp_action, macros::xdp, programs::XdpContext};
use program::observe;

/// For frames that lie in one buffer.
#[xdp]
#[inline(always)] // a call of its own costs 6 ns a packet
fn flowprobe(ctx: XdpContext) -> u32 {
    observe::<false>(&ctx); // a monitor never changes a packet's fate
    xdp_action::XDP_PASS
}

/// For drivers that hand over jumbo frames in several buffers.
#[xdp(frags)]
#[inline(always)]
fn flowprobe_frags(ctx: XdpContext) -> u32 {
    observe::<true>(&ctx);
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
