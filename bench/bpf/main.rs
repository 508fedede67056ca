//! The BPF half of the benchmark: dispatchers, empty programs, and baselines in the usual design.
//!
//! Built for BPF by `cargo xtask bench`, and never committed: only measurements need it.
#![no_std]
#![no_main]
// `core` for BPF has no atomic addition but the intrinsic.
#![feature(core_intrinsics)]
#![expect(internal_features, reason = "see core_intrinsics above")]

#[cfg(not(target_arch = "bpf"))]
compile_error!("flowprobe-bench-bpf is a BPF program: `cargo xtask bench` builds it");

mod baseline;
mod clock;
mod dispatch;
mod frame;

use aya_ebpf::{
    bindings::{TC_ACT_OK, xdp_action},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

#[xdp]
fn dispatch_xdp(ctx: XdpContext) -> u32 {
    dispatch::xdp(&ctx);
    xdp_action::XDP_PASS
}

#[xdp(frags)]
fn dispatch_xdp_frags(ctx: XdpContext) -> u32 {
    dispatch::xdp_frags(&ctx);
    xdp_action::XDP_PASS
}

#[classifier]
fn dispatch_tc(ctx: TcContext) -> i32 {
    dispatch::tc(&ctx);
    TC_ACT_OK as i32
}

#[xdp]
fn empty_xdp(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[xdp(frags)]
fn empty_xdp_frags(_: XdpContext) -> u32 {
    xdp_action::XDP_PASS
}

#[classifier]
fn empty_tc(_: TcContext) -> i32 {
    TC_ACT_OK as i32
}

#[xdp]
fn percpu_hash(ctx: XdpContext) -> u32 {
    baseline::percpu_hash(&ctx);
    xdp_action::XDP_PASS
}

#[xdp]
fn percpu_hash_same_clock(ctx: XdpContext) -> u32 {
    baseline::percpu_hash_same_clock(&ctx);
    xdp_action::XDP_PASS
}

#[xdp]
fn lru_hash(ctx: XdpContext) -> u32 {
    baseline::lru_hash(&ctx);
    xdp_action::XDP_PASS
}

/// Sends the next packet of the walk out of an interface, under BPF_F_TEST_XDP_LIVE_FRAMES.
#[xdp]
fn generate(ctx: XdpContext) -> u32 {
    dispatch::generate(&ctx)
}

// The verifier rejects a program in which this loop can be reached.
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
