//! `packet-ring`: the baseline of AF_XDP, a packet socket's ring that is read into flowprobe's table.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use flowprobe::{
    attach::interface::Interface,
    packet_ring::{InRing, PacketRing, RETIRE},
    record::EndReason,
    table::{Flow, LocalTable, Timeouts, local::Leave},
};
use flowprobe_ebpf::{Tunnels, flow::Macs, hash::SECRET_WORDS, parse};

/// Meters an interface with a packet socket until SIGINT, and says what it has counted.
#[derive(Args)]
pub(crate) struct RingArgs {
    /// Its name
    #[arg(long)]
    interface: String,
    /// Flows in the table
    #[arg(long)]
    max_flows: u32,
}

/// As much as most headers need.
const KEPT: u32 = 128;

/// Set by a signal.
static STOP: AtomicBool = AtomicBool::new(false);

extern "C" fn stop(_: libc::c_int) {
    STOP.store(true, Ordering::Relaxed);
}

/// What has left the table.
#[derive(Default)]
struct Left {
    packets: u64,
    records: u64,
}

impl Leave for Left {
    fn leave(&mut self, flow: &Flow, _: EndReason) {
        self.packets += flow.counters.packets;
        self.records += 1;
    }
}

pub(crate) fn run(args: &RingArgs) -> Result<()> {
    let handler = stop as extern "C" fn(libc::c_int);
    // SAFETY: the handler stores to an atomic, and nothing else.
    let old = unsafe { libc::signal(libc::SIGINT, handler as libc::sighandler_t) };
    ensure!(old != libc::SIG_ERR, "SIGINT");
    let interface = Interface::find(&args.interface)?;
    let (mut ring, _) = PacketRing::open(interface.index, KEPT)?;
    let timeouts = Timeouts {
        idle: Duration::from_secs(super::subject::IDLE.into()),
        active: Duration::from_secs(super::subject::ACTIVE.into()),
        linger: Duration::from_secs(1),
    };
    let secret: [u64; SECRET_WORDS] = std::array::from_fn(|i| (i as u64 + 1) << 40 | 0x9e37_79b9);
    let mut table = LocalTable::new(args.max_flows, timeouts.into(), secret);
    let mut left = Left::default();
    let mut end = None;
    loop {
        ring.wait()?;
        ring.drain(|frame: InRing<'_>| {
            if let Ok(parsed) = parse(frame.octets, &Tunnels::OUTER) {
                table.push(
                    &parsed,
                    interface.index,
                    Macs::default(),
                    frame.at_ns,
                    &mut left,
                );
            }
        });
        table.settle(&mut left);
        match end {
            None if STOP.load(Ordering::Relaxed) => {
                ring.keep_nothing()?;
                end = Some(Instant::now() + 4 * RETIRE);
            }
            Some(end) if Instant::now() > end => break,
            _ => {}
        }
    }
    table.flush(&mut left);
    println!("{} {}", left.packets, left.records);
    Ok(())
}
