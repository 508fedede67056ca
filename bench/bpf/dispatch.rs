//! Writes the next flow into the packet and jumps to the program under test.

use aya_ebpf::{
    bindings::xdp_action,
    btf_maps::ProgramArray,
    helpers::bpf_redirect,
    macros::btf_map,
    programs::{TcContext, XdpContext},
};
use flowprobe_bench::{DESTINATION, FRAME_LEN, NETWORK, Walk};

// One for each kind: a program array takes programs of one kind only.
#[btf_map]
static JUMP_XDP: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static JUMP_XDP_FRAGS: ProgramArray<1> = ProgramArray::new();
#[btf_map]
static JUMP_TC: ProgramArray<1> = ProgramArray::new();

/// Userspace rewinds it. A run is pinned to one CPU, so one counter is enough.
#[unsafe(no_mangle)]
static mut WALK: Walk = Walk {
    packets: 0,
    mask: 0,
    ifindex: 0,
    order: 0,
    half: 0,
    flow_at: 0,
    pad: 0,
};

pub(crate) fn xdp(ctx: &XdpContext) {
    pick_flow(ctx.data(), ctx.data_end());
    // SAFETY: nothing is left to be dropped.
    unsafe { JUMP_XDP.tail_call(ctx, 0) };
}

pub(crate) fn xdp_frags(ctx: &XdpContext) {
    pick_flow(ctx.data(), ctx.data_end());
    // SAFETY: nothing is left to be dropped.
    unsafe { JUMP_XDP_FRAGS.tail_call(ctx, 0) };
}

pub(crate) fn tc(ctx: &TcContext) {
    pick_flow(ctx.data(), ctx.data_end());
    // SAFETY: nothing is left to be dropped.
    unsafe { JUMP_TC.tail_call(ctx, 0) };
}

pub(crate) fn generate(ctx: &XdpContext) -> u32 {
    pick_flow(ctx.data(), ctx.data_end());
    // SAFETY: only this CPU runs the walk; `bpf_redirect` takes any interface number.
    let action = unsafe { bpf_redirect((&raw const WALK.ifindex).read(), 0) };
    u32::try_from(action).unwrap_or(xdp_action::XDP_ABORTED)
}

#[inline(always)]
fn pick_flow(data: usize, end: usize) {
    // SAFETY: only this CPU runs the walk.
    let (flow, at) = unsafe { ((*(&raw mut WALK)).step(), (&raw const WALK.flow_at).read()) };
    let source = data + (at as usize & (FRAME_LEN - 1));
    if source + size_of::<u64>() > end {
        return;
    }
    // Both addresses in one store: a program that loads them as one word would otherwise wait
    // until a store of half of it has left the CPU, which no received packet makes it do.
    let addresses = u64::from(NETWORK | flow) << 32 | u64::from(DESTINATION);
    let source = source as *mut u64;
    // SAFETY: the eight octets were just checked to lie before the end of the packet.
    unsafe { source.write_unaligned(addresses.to_be()) };
}
