//! Millions of frames a second: a program that numbers each frame and redirects it into a veth,
//! run with BPF_F_TEST_XDP_LIVE_FRAMES.
//!
//! A veth takes such frames only while its peer has an XDP program or GRO, and puts them into
//! the peer's queue of the CPU that sends. What it cannot take is lost without a word, so the
//! receiver's own counter is the truth: see [`Live::send`].

use std::{
    io,
    os::fd::{AsRawFd as _, OwnedFd},
    thread,
};

use anyhow::{Result, ensure};

use crate::{
    bpf::{Instruction, load_xdp, one_value, op, send_live},
    flow::{Key, Truth},
    netns::Netns,
    packets::Packet,
};

/// Frames of one system call. Each call costs about 15 ms apart from them.
const CALL: u64 = 1 << 18;
/// Frames that the program redirects before the peer's queue (256 frames long) is served.
const BATCH: u32 = 32;

/// Frames of many flows, told apart by a number in the UDP ports.
#[derive(Debug)]
pub struct Live {
    program: OwnedFd,
    packet: Packet,
    first_flow: u32,
    flows: u32,
}

impl Live {
    /// Prepares to send from `interface`: UDP over IPv4 or IPv6, `packet` with the number
    /// `first_flow + i` for each i below `flows`, in turn.
    ///
    /// # Errors
    /// Without CAP_BPF or CAP_NET_ADMIN, or where there is no such interface.
    ///
    /// # Panics
    /// Where `flows` is no power of two, or `packet` no IP packet without tags and options.
    pub fn new(
        namespace: &Netns,
        interface: &str,
        packet: Packet,
        first_flow: u32,
        flows: u32,
    ) -> Result<Self> {
        assert!(flows.is_power_of_two(), "{flows} flows: not a power of two");
        let key = packet.key.expect("an IP packet");
        let ports = if key.source.is_ipv4() {
            14 + 20
        } else {
            14 + 40
        };
        let index = namespace.index(interface)?;
        let number = one_value(8)?;
        let program = numbering(number.as_raw_fd(), ports, first_flow, flows - 1, index);
        Ok(Self {
            program: load_xdp("generator", &program)?,
            packet,
            first_flow,
            flows,
        })
    }

    /// Sends `packets` frames from `cpu`, a multiple of the number of flows, so that each flow
    /// gets as many. Call it on a thread of its own, for it stays on that CPU.
    ///
    /// # Errors
    /// Where the CPU is not there, or the kernel does not know live frames.
    ///
    /// # Panics
    /// Where `packets` is no multiple.
    pub fn send(&self, namespace: &Netns, cpu: usize, packets: u64) -> Result<()> {
        assert_eq!(
            packets % u64::from(self.flows),
            0,
            "a multiple of the flows"
        );
        let send = || {
            pin_to_cpu(cpu)?;
            self.send_here(packets)
        };
        namespace.run(send)?
    }

    /// Sends the next `packets` frames from the thread that calls, which is in the generator's
    /// namespace and stays on its CPU.
    ///
    /// # Errors
    /// Where the kernel does not know live frames.
    pub fn send_here(&self, packets: u64) -> Result<()> {
        let mut left = packets;
        while left > 0 {
            let now = left.min(CALL);
            send_live(&self.program, &self.packet.frame, now as u32, BATCH)?;
            left -= now;
        }
        Ok(())
    }

    /// What `packets` frames are.
    #[must_use]
    pub fn truth(&self, packets: u64) -> Truth {
        let each = packets / u64::from(self.flows);
        let mut truth = Truth::default();
        for number in self.first_flow..self.first_flow + self.flows {
            truth.add(self.key(number), each, each * self.packet.octets);
        }
        truth
    }

    /// The flow of a number.
    fn key(&self, number: u32) -> Key {
        Key {
            source_port: (number >> 16) as u16,
            destination_port: number as u16,
            ..self.packet.key.expect("checked when built")
        }
    }
}

/// Sends from several CPUs at once: the n-th of `generators` from CPU n.
///
/// # Errors
/// The first one of a generator.
///
/// # Panics
/// Where a generator does.
pub fn send_from_all(namespace: &Netns, generators: &[Live], packets: u64) -> Result<()> {
    thread::scope(|scope| {
        let threads: Vec<_> = generators
            .iter()
            .enumerate()
            .map(|(cpu, live)| scope.spawn(move || live.send(namespace, cpu, packets)))
            .collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no panic"))
    })
}

/// Stays on one CPU with this thread.
///
/// # Errors
/// Where there is no such CPU.
pub fn pin_to_cpu(cpu: usize) -> Result<()> {
    // SAFETY: plain system calls on a zeroed set that outlives them.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    ensure!(result == 0, "no CPU {cpu}: {}", io::Error::last_os_error());
    Ok(())
}

/// Does the work on CPU 0 and on no other, in a thread of its own, so that nothing else stays there:
/// samplers are each CPU's own, and only what one of them sees is selected to the packet.
///
/// # Errors
/// Those of the work.
///
/// # Panics
/// If the work does.
pub fn on_one_cpu<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin_to_cpu(0)?;
            work()
        });
        thread.join().expect("no panic")
    })
}

/// `number = first + (counter++ & mask)`; store it, in network order, where the ports are;
/// redirect to `index`.
fn numbering(counter: i32, ports: i32, first: u32, mask: u32, index: u32) -> Vec<Instruction> {
    const DROP: i16 = 17;
    vec![
        op(0x61, 2, 1, 0, 0),            //  0: r2 = ctx->data
        op(0x61, 3, 1, 4, 0),            //  1: r3 = ctx->data_end
        op(0xbf, 4, 2, 0, 0),            //  2: r4 = r2
        op(0x07, 4, 0, 0, ports + 4),    //  3: r4 += end of the ports
        op(0x2d, 4, 3, DROP - 5, 0),     //  4: if r4 > r3 goto 17
        op(0x18, 5, 2, 0, counter),      //  5: r5 = address of the map's value …
        op(0x00, 0, 0, 0, 0),            //  6: … at offset 0
        op(0x79, 0, 5, 0, 0),            //  7: r0 = *r5
        op(0xbf, 1, 0, 0, 0),            //  8: r1 = r0
        op(0x07, 1, 0, 0, 1),            //  9: r1 += 1
        op(0x7b, 5, 1, 0, 0),            // 10: *r5 = r1
        op(0x57, 0, 0, 0, mask as i32),  // 11: r0 &= mask
        op(0x07, 0, 0, 0, first as i32), // 12: r0 += first
        op(0xdc, 0, 0, 0, 32),           // 13: r0 = network order of 32 bits
        op(0x63, 2, 0, ports as i16, 0), // 14: *(r2 + ports) = r0
        op(0xb4, 1, 0, 0, index as i32), // 15: w1 = index
        op(0x05, 0, 0, 2, 0),            // 16: goto 19
        op(0xb7, 0, 0, 0, 1),            // 17: r0 = XDP_DROP
        op(0x95, 0, 0, 0, 0),            // 18: exit
        op(0xb7, 2, 0, 0, 0),            // 19: r2 = no flags
        op(0x85, 0, 0, 0, 23),           // 20: r0 = bpf_redirect(r1, r2)
        op(0x95, 0, 0, 0, 0),            // 21: exit
    ]
}
