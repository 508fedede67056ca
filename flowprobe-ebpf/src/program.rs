//! What happens to a packet, in order: sample, parse, account.

mod account;
mod atomic;
mod clock;
mod frame;
mod maps;
mod sample;

use core::sync::atomic::{Ordering, compiler_fence};

use aya_ebpf::{helpers::bpf_get_smp_processor_id, programs::XdpContext};
use flowprobe_ebpf::{Addresses, KeyV4, KeyV6, Lost, Outcome, Packet, Skip, cpu::Cpu, parse_into};

use self::{account::account, frame::XdpFrame};

/// Meters one packet. `FRAGS` says whether it may lie in several buffers.
#[inline(always)]
pub(crate) fn observe<const FRAGS: bool>(ctx: &XdpContext) {
    // SAFETY: a helper without arguments.
    let id = unsafe { bpf_get_smp_processor_id() };
    let Some(cpu) = maps::cpu(id) else {
        let frame = XdpFrame::<FRAGS>::new(ctx);
        frame.measure();
        return stray(frame.octets());
    };
    // SAFETY: `cpu` points to a map element that only this CPU writes, and softirqs do not
    // nest. Userspace writes `ring_tail` and `sampling`, which are read volatile where used.
    unsafe {
        (*cpu).seen.count(frame::readable(ctx));
        let Some(epoch) = sample::select(cpu) else {
            let frame = XdpFrame::<FRAGS>::new(ctx);
            frame.measure();
            see_rest(cpu, &frame);
            return (*cpu).unsampled.count(frame.octets());
        };
        // Helpers before the frame is read: what a register holds does not outlive a call.
        clock::set(cpu);
        let metering = Metering {
            ctx,
            cpu,
            frame: &XdpFrame::<FRAGS>::new(ctx),
            epoch,
        };
        parse_into(metering.frame, &metering);
    }
}

/// Adds to `seen` what a frame has beyond its first buffer, once that is known.
///
/// # Safety
/// `cpu` points to the element of this CPU.
#[inline(always)]
unsafe fn see_rest<const FRAGS: bool>(cpu: *mut Cpu, frame: &XdpFrame<FRAGS>) {
    // SAFETY: the caller's.
    unsafe { (*cpu).seen.octets += frame.octets() - frame.readable() };
}

/// A selected packet that is being parsed.
struct Metering<'a, const FRAGS: bool> {
    ctx: &'a XdpContext,
    cpu: *mut Cpu,
    frame: &'a XdpFrame<'a, FRAGS>,
    epoch: u32,
}

impl<const FRAGS: bool> Outcome for Metering<'_, FRAGS> {
    type Output = ();

    #[inline(always)]
    fn packet(&self, packet: &Packet) {
        self.count::<false>(packet);
    }

    /// Through memory the verifier forgets what it knows of the packet. It follows every way
    /// through the parser, and would check all that comes next once for each of them: a million
    /// instructions, which is as many as it takes.
    #[inline(always)]
    fn uncommon(&self, packet: &Packet) {
        let kept = account::scratch(self.cpu);
        // SAFETY: the scratch memory of this CPU, and what was just written there.
        unsafe {
            kept.write(*packet);
            compiler_fence(Ordering::SeqCst);
            self.count::<true>(&*kept);
        }
    }

    #[inline(always)]
    fn skip(&self, reason: Skip) {
        ignored(self.ctx, reason);
        self.frame.measure();
        // SAFETY: the element of this CPU.
        unsafe {
            let cpu = self.cpu;
            see_rest(cpu, self.frame);
            (*cpu).ignored[reason as usize].count(self.frame.octets());
        }
    }
}

impl<const FRAGS: bool> Metering<'_, FRAGS> {
    /// Counts a packet that belongs to a flow. `KEPT` says that it is in the scratch memory.
    #[inline(always)]
    fn count<const KEPT: bool>(&self, packet: &Packet) {
        // SAFETY: the program's context, and the element of this CPU.
        unsafe {
            let ifindex = (*self.ctx.ctx).ingress_ifindex;
            let octets = self.frame.octets();
            see_rest(self.cpu, self.frame);
            match self.account::<KEPT>(packet, ifindex) {
                Ok(()) => {
                    (*self.cpu).accounted.count(octets);
                    (*self.cpu).accounted_ip_octets += u64::from(packet.octets);
                }
                Err(reason) => (*self.cpu).lost[reason as usize].count(octets),
            }
        }
    }

    #[inline(always)]
    fn account<const KEPT: bool>(&self, packet: &Packet, ifindex: u32) -> Result<(), Lost> {
        // SAFETY: the element of this CPU, whose clock has been set.
        unsafe {
            match packet.addresses {
                Addresses::V4(addresses) => {
                    let key = KeyV4::new(addresses, packet, ifindex, self.epoch);
                    account::<KEPT, _>(self.ctx, self.cpu, maps::bucket_v4, &key, packet)
                }
                Addresses::V6(addresses) => {
                    let key = KeyV6::new(addresses, packet, ifindex, self.epoch);
                    account::<KEPT, _>(self.ctx, self.cpu, maps::bucket_v6, &key, packet)
                }
            }
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
