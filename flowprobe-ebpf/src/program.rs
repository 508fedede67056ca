//! What happens to a packet, in order: sample, parse, account.

mod account;
mod atomic;
mod clock;
mod frame;
mod maps;
mod sample;

use aya_ebpf::{helpers::bpf_get_smp_processor_id, programs::XdpContext};
use flowprobe_ebpf::{Addresses, KeyV4, KeyV6, Lost, Outcome, Packet, Skip, cpu::Cpu, parse_into};

use self::{account::Partition, frame::XdpFrame};

/// Meters one packet. `FRAGS` says whether it may lie in several buffers.
#[inline(always)]
pub(crate) fn observe<const FRAGS: bool>(ctx: &XdpContext) {
    let frame = XdpFrame::<FRAGS>::new(ctx);
    // SAFETY: a helper without arguments.
    let id = unsafe { bpf_get_smp_processor_id() };
    let Some(cpu) = maps::cpu(id) else {
        frame.measure();
        return stray(frame.octets());
    };
    // SAFETY: `cpu` points to a map element that only this CPU writes, and softirqs do not
    // nest. Userspace writes `ring_tail` and `sampling`, which are read volatile where used.
    unsafe {
        (*cpu).seen.count(frame.readable());
        let Some(epoch) = sample::select(cpu) else {
            frame.measure();
            see_rest(cpu, &frame);
            return (*cpu).unsampled.count(frame.octets());
        };
        let metering = Metering {
            ctx,
            partition: Partition { id, cpu },
            frame: &frame,
            epoch,
        };
        parse_into(&frame, &metering);
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
    partition: Partition,
    frame: &'a XdpFrame<'a, FRAGS>,
    epoch: u32,
}

impl<const FRAGS: bool> Outcome for Metering<'_, FRAGS> {
    type Output = ();

    #[inline(always)]
    fn packet(&self, packet: &Packet) {
        // SAFETY: the program's context, and the element of this CPU.
        unsafe {
            let ifindex = (*self.ctx.ctx).ingress_ifindex;
            let cpu = self.partition.cpu;
            let octets = self.frame.octets();
            see_rest(cpu, self.frame);
            match self.account(packet, ifindex) {
                Ok(()) => {
                    (*cpu).accounted.count(octets);
                    (*cpu).accounted_ip_octets += u64::from(packet.octets);
                }
                Err(reason) => (*cpu).lost[reason as usize].count(octets),
            }
        }
    }

    /// Through memory the verifier forgets what it knows of the packet. It follows every way
    /// through the parser, and would check all that comes next once for each of them: a million
    /// instructions, which is as many as it takes.
    #[inline(always)]
    fn uncommon(&self, packet: &Packet) {
        const { assert!(size_of::<Packet>() <= 64 && align_of::<Packet>() <= 8) };
        // SAFETY: the scratch of this CPU is large enough and aligned, and holds what was just
        // written.
        let packet = unsafe {
            let scratch = (&raw mut (*self.partition.cpu).scratch).cast::<Packet>();
            scratch.write_volatile(*packet);
            scratch.read_volatile()
        };
        self.packet(&packet);
    }

    #[inline(always)]
    fn skip(&self, reason: Skip) {
        ignored(self.ctx, reason);
        self.frame.measure();
        // SAFETY: the element of this CPU.
        unsafe {
            let cpu = self.partition.cpu;
            see_rest(cpu, self.frame);
            (*cpu).ignored[reason as usize].count(self.frame.octets());
        }
    }
}

impl<const FRAGS: bool> Metering<'_, FRAGS> {
    #[inline(always)]
    fn account(&self, packet: &Packet, ifindex: u32) -> Result<(), Lost> {
        match packet.addresses {
            Addresses::V4(addresses) => {
                let key = KeyV4::new(addresses, packet, ifindex, self.epoch);
                self.partition
                    .account(maps::bucket_v4, &key, packet, self.frame)
            }
            Addresses::V6(addresses) => {
                let key = KeyV6::new(addresses, packet, ifindex, self.epoch);
                self.partition
                    .account(maps::bucket_v6, &key, packet, self.frame)
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
