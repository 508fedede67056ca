//! From the clock that packets are stamped with to the time of day.

use std::sync::atomic::{AtomicI64, Ordering};

/// Nanoseconds of CLOCK_MONOTONIC, the clock of `bpf_ktime_get_ns`.
#[must_use]
pub fn monotonic_ns() -> u64 {
    read(libc::CLOCK_MONOTONIC) as u64
}

/// Milliseconds since the machine booted, those that it slept through too.
#[must_use]
pub fn uptime_ms() -> u64 {
    read(libc::CLOCK_BOOTTIME) as u64 / 1_000_000
}

fn read(clock: libc::clockid_t) -> i64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` outlives the call, which cannot fail for these clocks.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec * 1_000_000_000 + time.tv_nsec
}

/// The distance between the two clocks. CLOCK_REALTIME is slewed and set while flows last, so it
/// is measured again and again; both times of a record are converted with the same measurement,
/// so that a flow never ends before it starts.
#[derive(Debug)]
pub struct Clock {
    offset_ns: AtomicI64,
}

impl Default for Clock {
    fn default() -> Self {
        let clock = Self {
            offset_ns: AtomicI64::new(0),
        };
        clock.measure();
        clock
    }
}

impl Clock {
    /// The clock of packets that are stamped with the time of day already.
    #[must_use]
    pub fn time_of_day() -> Self {
        Self {
            offset_ns: AtomicI64::new(0),
        }
    }

    /// Measures the offset. Of several readings the one between the closest pair of monotonic
    /// readings counts: a process may be interrupted between any two.
    pub fn measure(&self) {
        const READINGS: usize = 5;
        let offset = (0..READINGS)
            .map(|_| {
                let before = read(libc::CLOCK_MONOTONIC);
                let real = read(libc::CLOCK_REALTIME);
                let after = read(libc::CLOCK_MONOTONIC);
                (after - before, real - before - (after - before) / 2)
            })
            .min()
            .map_or(0, |(_, offset)| offset);
        self.offset_ns.store(offset, Ordering::Relaxed);
    }

    /// What to add to a monotonic time to get the time of day.
    #[must_use]
    pub fn offset_ns(&self) -> i64 {
        self.offset_ns.load(Ordering::Relaxed)
    }
}

/// Milliseconds since 1970-01-01 UTC of a monotonic time.
#[must_use]
pub fn unix_ms(monotonic_ns: u64, offset_ns: i64) -> u64 {
    monotonic_ns.saturating_add_signed(offset_ns) / 1_000_000
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[test]
    fn agrees_with_the_system_time() {
        let before = SystemTime::now();
        let ours = unix_ms(monotonic_ns(), Clock::default().offset_ns());
        let after = SystemTime::now();
        let ms = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
        assert!(
            (ms(before)..=ms(after) + 1).contains(&(ours + 1)),
            "{ours} not in {}..={}",
            ms(before),
            ms(after)
        );
    }
}
