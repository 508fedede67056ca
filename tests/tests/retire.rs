//! The retire protocol under the worst conditions: a program that dawdles between finding a flow
//! and counting into it, two CPUs, and a sweeper that takes the flow out again and again.
//!
//! Each flow's own count must be exact. Without the grace period it is not, which the second test
//! shows: so the first one can fail.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use aya::programs::{TestRun, TestRunOptions, Xdp};
use flowprobe::{
    clock::Clock,
    load::{Kernel, Options},
    record::FlowRecord,
    sampling::{Rates, Sampling},
    table::{
        Drainer, Emitter, GracePeriod, Overflow, Sweeper, Timeouts,
        emit::{Exported, Sink},
        grace::Rcu,
    },
};
use flowprobe_ebpf::Tunnels;

/// Packets for each of the two flows.
const PACKETS: u32 = 20_000;
/// Packets of one system call: the program and the sweeper take turns on two CPUs.
const RUN: u32 = 200;

/// No grace period at all.
struct NoGrace;

impl GracePeriod for NoGrace {
    fn wait(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Packets by source address.
#[derive(Default)]
struct Totals(Mutex<HashMap<IpAddr, u64>>);

impl Sink for Totals {
    fn take(&self, records: Vec<FlowRecord>) {
        let mut totals = self.0.lock().unwrap();
        for record in records {
            *totals.entry(record.key.source()).or_default() += record.packets;
        }
    }
}

/// The program that waits between match and update, built by `cargo xtask build-ebpf`.
fn object() -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/ebpf/widen-window.o");
    std::fs::read(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}: build it with `cargo xtask build-ebpf --variant widen-window`",
            path.display()
        )
    })
}

fn pin_to_cpu(cpu: usize) {
    // SAFETY: plain system calls on a zeroed set that outlives them.
    let rc = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    assert_eq!(rc, 0, "no CPU {cpu}: this test needs two");
}

fn udp(source: u8) -> [u8; 64] {
    let mut frame = [0; 64];
    frame[12..14].copy_from_slice(&[0x08, 0x00]);
    frame[14..34].copy_from_slice(&[
        0x45, 0, 0, 50, 0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, source, 192, 0, 2, 1,
    ]);
    frame[34..42].copy_from_slice(&[0x12, 0x34, 0xd1, 0x1f, 0, 30, 0, 0]);
    frame
}

fn send(program: &Xdp, source: u8, cpu: usize) {
    pin_to_cpu(cpu);
    let frame = udp(source);
    for _ in 0..PACKETS / RUN {
        let options = TestRunOptions {
            data_in: Some(&frame),
            repeat: RUN,
            ..TestRunOptions::new()
        };
        program.test_run(options).expect("BPF_PROG_TEST_RUN");
    }
}

/// Meters both flows under constant sweeping; returns packets exported by flow.
fn meter(grace: Box<dyn GracePeriod>) -> HashMap<IpAddr, u64> {
    let options = Options {
        max_flows: 8,
        partitions: 2,
        ring_parts: 1024,
        sampling: Sampling::All,
        classes: &[],
        sample_key: 0,
        shadow: None,
        tunnels: Tunnels::OUTER,
        dedup: None,
    };
    let mut kernel = Kernel::load(&object(), &options).expect("the kernel takes the program");
    let shared = Arc::clone(kernel.shared());
    let overflow = Arc::new(Overflow::new(shared.geometry(), 1024));
    let totals = Arc::new(Totals::default());
    let emitter = Emitter::new(
        Arc::new(Clock::default()),
        Arc::new(Exported::default()),
        Arc::clone(&totals) as Arc<dyn Sink>,
        Arc::new(Rates::of(Sampling::All)),
    );
    let mut drainer = Drainer::new(
        Arc::clone(&shared),
        Arc::clone(&overflow),
        emitter.another(),
    );
    let at_once = Timeouts {
        idle: Duration::ZERO,
        active: Duration::ZERO,
        linger: Duration::ZERO,
    };
    let mut sweeper = Sweeper::new(
        Arc::clone(&shared),
        overflow,
        at_once.into(),
        grace,
        emitter,
    );
    let running = AtomicU32::new(2);
    let program: &Xdp = kernel.program(false).expect("the program");
    let mut sweeps = 0;
    thread::scope(|scope| {
        for cpu in 0..2 {
            let running = &running;
            scope.spawn(move || {
                send(program, cpu as u8 + 1, cpu);
                running.fetch_sub(1, Ordering::Release);
            });
        }
        while running.load(Ordering::Acquire) > 0 {
            sweeper.sweep(0..1).expect("a grace period");
            drainer.drain();
            sweeps += 1;
        }
    });
    Rcu::new()
        .and_then(|rcu| rcu.wait())
        .expect("a grace period");
    while drainer.drain() > 0 {}
    sweeper.flush();
    let seen = shared.totals();
    assert_eq!(seen.seen.packets, u64::from(2 * PACKETS), "packets sent");
    assert!(seen.lost.iter().all(|lost| lost.packets == 0));
    assert!(sweeps > 10, "the sweeper ran {sweeps} times only");
    std::mem::take(&mut totals.0.lock().unwrap())
}

fn both(packets: u64) -> HashMap<IpAddr, u64> {
    [1, 2]
        .map(|host| (IpAddr::from([10, 0, 0, host]), packets))
        .into()
}

#[test]
fn every_flow_is_exact_with_the_grace_period() {
    let rcu = Rcu::new().expect("a way to wait for a grace period");
    assert_eq!(meter(Box::new(rcu)), both(u64::from(PACKETS)));
}

#[test]
fn packets_are_lost_without_the_grace_period() {
    let exported = meter(Box::new(NoGrace));
    assert_ne!(
        exported,
        both(u64::from(PACKETS)),
        "retiring without a grace period lost nothing: the test above proves nothing"
    );
}
