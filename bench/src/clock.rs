//! `flowprobe-bench clock`: how old the cached time is that packets are stamped with.

use std::{
    ffi::CString,
    fs, io,
    os::fd::AsRawFd as _,
    path::PathBuf,
    process::Command,
    ptr, thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use flowprobe::sampling::Sampling;
use flowprobe_bench::{FIRST_ORDER, PLAIN};
use flowprobe_ebpf::Tunnels;
use serde_json::json;

use crate::{
    dispatcher::{Dispatcher, Generator, Kind},
    meter::Meter,
    subject::DEFAULT_MAX_FLOWS,
};

/// How far the time that flowprobe stamps packets with lags behind ktime
///
/// The program caches the time for at most one tick of the kernel (4 ms at HZ=250) and 64 packets.
/// A build of it that compares the two at each packet runs under BPF_PROG_TEST_RUN, and on a veth
/// in a network namespace of its own with real packets at several rates.
#[derive(Args)]
pub(crate) struct ClockArgs {
    /// flowprobe's BPF object, built with the feature `check-clock`
    #[arg(long, value_name = "FILE", default_value = "target/ebpf/check-clock.o")]
    flowprobe_object: PathBuf,
    /// The BPF object of the benchmark
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/bpf/bpfel-unknown-none/bpf/flowprobe-bench-bpf"
    )]
    bench_object: PathBuf,
    /// Seconds for each rate
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Packets a second on the veth, up to some 10,000; 0 is as many as it takes
    #[arg(long, value_delimiter = ',', default_value = "100,1000,10000,0")]
    rates: Vec<u32>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Flows that the packets belong to.
const FLOWS: u32 = 64;
/// Packets in one call at most, to look at the time now and then.
const CHUNK: u32 = 1 << 16;

/// What came of one rate.
struct Lag {
    /// How the packets came.
    traffic: String,
    packets: u64,
    mean_ns: f64,
    max_ns: u64,
}

/// Measures and prints.
pub(crate) fn run(args: &ClockArgs) -> Result<()> {
    let object = fs::read(&args.flowprobe_object)
        .with_context(|| args.flowprobe_object.display().to_string())?;
    let mut lags = vec![test_run(args, &object)?];
    for &rate in &args.rates {
        // The namespace, and all in it, goes when the thread ends.
        let live = thread::scope(|scope| {
            let live = scope.spawn(|| live(args, &object, rate)).join();
            live.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        lags.push(live?);
    }
    ensure!(
        lags.iter().any(|lag| lag.max_ns > 0),
        "{} measures no clock: build it with the feature `check-clock`",
        args.flowprobe_object.display()
    );
    if args.json {
        let lags = lags.iter().map(|lag| {
            json!({
                "traffic": lag.traffic, "packets": lag.packets,
                "mean_ns": lag.mean_ns.round(), "max_ns": lag.max_ns,
            })
        });
        println!("{:#}", json!({ "clock_lag": lags.collect::<Vec<_>>() }));
        return Ok(());
    }
    println!(
        "{:<24} {:>12} {:>12} {:>12}",
        "lag of the clock", "packets", "mean µs", "max µs"
    );
    for lag in &lags {
        println!(
            "{:<24} {:>12} {:>12.1} {:>12.1}",
            lag.traffic,
            lag.packets,
            lag.mean_ns / 1e3,
            lag.max_ns as f64 / 1e3
        );
    }
    Ok(())
}

/// flowprobe as it is by default.
fn meter(object: &[u8]) -> Result<Meter> {
    Meter::load(
        object,
        Kind::Xdp,
        DEFAULT_MAX_FLOWS,
        Sampling::All,
        Tunnels::OUTER,
    )
}

/// Packets one after another, without a driver.
fn test_run(args: &ClockArgs, object: &[u8]) -> Result<Lag> {
    let meter = meter(object)?;
    let dispatcher = Dispatcher::load(&args.bench_object, Kind::Xdp, PLAIN)?;
    let end = Instant::now() + Duration::from_secs(args.seconds);
    while Instant::now() < end {
        dispatcher.run(Some(meter.program()), FLOWS, FIRST_ORDER, CHUNK)?;
    }
    Ok(lag(&meter, "test run".to_owned()))
}

/// Real packets through a veth, `rate` a second.
fn live(args: &ClockArgs, object: &[u8], rate: u32) -> Result<Lag> {
    // SAFETY: a system call without pointers, for this thread only.
    let rc = unsafe { libc::unshare(libc::CLONE_NEWNET) };
    ensure!(
        rc == 0,
        "no network namespace: {}",
        io::Error::last_os_error()
    );
    ip(&["link", "add", "out", "type", "veth", "peer", "name", "in"])?;
    let meter = meter(object)?;
    attach(&meter, ifindex("in")?)?;
    for name in ["out", "in"] {
        ip(&["link", "set", name, "up"])?;
    }

    let generator = Generator::load(&args.bench_object, ifindex("out")?, FLOWS)?;
    let start = Instant::now();
    let length = Duration::from_secs(args.seconds);
    if rate == 0 {
        while start.elapsed() < length {
            generator.send(CHUNK)?;
        }
    } else {
        // One in each call: a call with more waits for a grace period of RCU.
        let pause = Duration::from_secs(1) / rate;
        let mut due = start;
        while start.elapsed() < length {
            generator.send(1)?;
            due += pause;
            thread::sleep(due.saturating_duration_since(Instant::now()));
        }
    }
    let traffic = if rate == 0 {
        "veth, flood".to_owned()
    } else {
        format!("veth, {rate}/s")
    };
    Ok(lag(&meter, traffic))
}

/// What the program measured since the load.
fn lag(meter: &Meter, traffic: String) -> Lag {
    let shared = meter.shared();
    let cpus = (0..shared.geometry().partitions).map(|id| shared.cpu(id));
    let (mut sum_ns, mut max_ns) = (0, 0);
    for cpu in cpus {
        sum_ns += cpu.clock_error_sum_ns;
        max_ns = max_ns.max(cpu.clock_error_max_ns);
    }
    let packets = meter.counts().accounted;
    Lag {
        traffic,
        packets,
        mean_ns: sum_ns as f64 / packets.max(1) as f64,
        max_ns,
    }
}

fn ifindex(name: &str) -> Result<u32> {
    let name = CString::new(name)?;
    // SAFETY: a string with its end.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    ensure!(index != 0, "no interface {name:?}");
    Ok(index)
}

fn attach(meter: &Meter, ifindex: u32) -> Result<()> {
    // SAFETY: no options.
    let rc = unsafe {
        libbpf_sys::bpf_xdp_attach(
            ifindex.cast_signed(),
            meter.program().as_raw_fd(),
            libbpf_sys::XDP_FLAGS_DRV_MODE,
            ptr::null(),
        )
    };
    ensure!(
        rc == 0,
        "cannot attach: {}",
        io::Error::from_raw_os_error(-rc)
    );
    Ok(())
}

fn ip(args: &[&str]) -> Result<()> {
    let status = Command::new("ip")
        .args(args)
        .status()
        .context("cannot run ip")?;
    ensure!(status.success(), "ip {}: {status}", args.join(" "));
    Ok(())
}
