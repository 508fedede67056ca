//! The CPU that a measurement runs on, and its time.

use std::{io, mem::MaybeUninit};

use anyhow::{Context as _, Result, ensure};

/// Pins the calling thread to `cpu` and sets its nice value. Below 0 other jobs on that CPU wait.
///
/// # Errors
/// There is no such CPU, or the process may not be that impolite.
pub(crate) fn settle(cpu: usize, nice: i32) -> Result<()> {
    // SAFETY: a set of CPUs is valid when zeroed.
    let mut set = unsafe { MaybeUninit::<libc::cpu_set_t>::zeroed().assume_init() };
    ensure!(cpu < 8 * size_of_val(&set), "no CPU {cpu}");
    // SAFETY: `cpu` is within the set.
    unsafe { libc::CPU_SET(cpu, &mut set) };
    // SAFETY: the set outlives the call; 0 is this thread.
    let rc = unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
    ensure!(rc == 0, "no CPU {cpu}: {}", io::Error::last_os_error());
    // SAFETY: no pointers; 0 is this thread, on Linux.
    let rc = unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, nice) };
    ensure!(rc == 0, "nice {nice}: {}", io::Error::last_os_error());
    Ok(())
}

/// Nanoseconds that the calling thread has spent on a CPU.
///
/// Not the wall clock: a test run also waits for grace periods of RCU, and is preempted.
///
/// # Errors
/// The kernel has no such clock.
pub(crate) fn thread_cpu_ns() -> Result<u64> {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call.
    let rc = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    ensure!(rc == 0, "thread clock: {}", io::Error::last_os_error());
    let seconds = u64::try_from(time.tv_sec).context("thread clock below 0")?;
    let nanoseconds = u64::try_from(time.tv_nsec).context("thread clock below 0")?;
    Ok(seconds * 1_000_000_000 + nanoseconds)
}
