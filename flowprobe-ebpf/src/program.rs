//! What happens to a packet, in order: sample, parse, account.

mod account;
mod atomic;
mod clock;
mod frame;
mod maps;
mod sample;

use aya_ebpf::{helpers::bpf_get_smp_processor_id, programs::XdpContext};
use flowprobe_ebpf::{Addresses, KeyV4, KeyV6, Lost, Packet, Skip, parse};

use self::{account::Partition, frame::XdpFrame};

/// Meters one packet of `octets` octets on the wire.
#[inline(always)]
pub(crate) fn observe(ctx: &XdpContext, octets: usize) {
    // SAFETY: a helper without arguments.
    let id = unsafe { bpf_get_smp_processor_id() };
    let Some(cpu) = maps::cpu(id) else {
        return stray(octets as u64);
    };
    // SAFETY: `cpu` points to a map element that only this CPU writes, and softirqs do not
    // nest. Userspace writes `ring_tail` and `sampling`, which are read volatile where used.
    unsafe {
        (*cpu).seen.count(octets as u64);
        let Some(epoch) = sample::select(cpu) else {
            return (*cpu).unsampled.count(octets as u64);
        };
        let frame = XdpFrame::new(ctx, octets);
        match parse(&frame) {
            Ok(packet) => {
                let partition = Partition { id, cpu };
                let ifindex = (*ctx.ctx).ingress_ifindex;
                match account(&partition, &frame, &packet, ifindex, epoch) {
                    Ok(()) => {
                        (*cpu).accounted.count(octets as u64);
                        (*cpu).accounted_ip_octets += u64::from(packet.octets);
                    }
                    Err(reason) => (*cpu).lost[reason as usize].count(octets as u64),
                }
            }
            Err(reason) => {
                ignored(ctx, reason);
                (*cpu).ignored[reason as usize].count(octets as u64);
            }
        }
    }
}

#[inline(always)]
fn account(
    partition: &Partition,
    frame: &XdpFrame,
    packet: &Packet,
    ifindex: u32,
    epoch: u32,
) -> Result<(), Lost> {
    match packet.addresses {
        Addresses::V4(addresses) => {
            let key = KeyV4::new(addresses, packet, ifindex, epoch);
            partition.account(maps::bucket_v4, &key, packet, frame)
        }
        Addresses::V6(addresses) => {
            let key = KeyV6::new(addresses, packet, ifindex, epoch);
            partition.account(maps::bucket_v6, &key, packet, frame)
        }
    }
}

/// Counts a packet on a CPU that has no partition: not even its own counters, so atomically.
#[inline(never)]
fn stray(octets: u64) {
    let Some(stray) = maps::stray() else { return };
    // SAFETY: points to a map element, which is added to with atomic instructions only.
    unsafe {
        atomic::add(&raw mut (*stray).seen.packets, 1);
        atomic::add(&raw mut (*stray).seen.octets, octets);
    }
}

/// Says why a packet is in no flow, in debug builds of the program only.
#[cfg(feature = "log")]
fn ignored(ctx: &XdpContext, reason: Skip) {
    aya_log_ebpf::debug!(ctx, "ignored: {}", reason.label());
}

#[cfg(not(feature = "log"))]
#[inline(always)]
fn ignored(_: &XdpContext, _: Skip) {}
