//! What a process and its children take of CPUs.

use std::{fs, io, mem::MaybeUninit};

use anyhow::{Result, ensure};

/// CPU time in seconds.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cost {
    /// In userspace.
    pub(super) user_s: f64,
    /// In the kernel.
    pub(super) system_s: f64,
}

impl Cost {
    /// What came after `before`.
    pub(super) fn since(self, before: Self) -> Self {
        Self {
            user_s: (self.user_s - before.user_s).max(0.0),
            system_s: (self.system_s - before.system_s).max(0.0),
        }
    }

    /// Of a process and all that came of it, as long as they live, to a tick.
    pub(super) fn of_tree(pid: u32) -> Result<Self> {
        let mut all = Vec::new();
        for entry in fs::read_dir("/proc")? {
            let name = entry?.file_name();
            let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            // Processes come and go while this looks.
            let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else {
                continue;
            };
            if let Some(process) = Process::read(pid, &stat) {
                all.push(process);
            }
        }
        let mut family = vec![pid];
        let mut sum = Self::default();
        while let Some(pid) = family.pop() {
            family.extend(
                all.iter()
                    .filter(|one| one.parent == pid)
                    .map(|one| one.pid),
            );
            for process in all.iter().filter(|one| one.pid == pid) {
                sum.user_s += process.user_ticks as f64 / ticks_a_second();
                sum.system_s += process.system_ticks as f64 / ticks_a_second();
            }
        }
        Ok(sum)
    }

    /// Of all children of this process that have ended and were waited for, and of theirs.
    pub(super) fn of_ended() -> Result<Self> {
        let mut usage = MaybeUninit::<libc::rusage>::zeroed();
        // SAFETY: the structure outlives the call.
        let rc = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
        ensure!(rc == 0, "getrusage: {}", io::Error::last_os_error());
        // SAFETY: filled in, and valid when zeroed.
        let usage = unsafe { usage.assume_init() };
        let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
        Ok(Self {
            user_s: seconds(usage.ru_utime),
            system_s: seconds(usage.ru_stime),
        })
    }
}

struct Process {
    pid: u32,
    parent: u32,
    user_ticks: u64,
    system_ticks: u64,
}

impl Process {
    /// From a line of proc(5)'s `stat`: the name, which may have blanks, is in parentheses.
    fn read(pid: u32, stat: &str) -> Option<Self> {
        let mut fields = stat.get(stat.rfind(')')? + 2..)?.split(' ');
        let parent = fields.nth(1)?.parse().ok()?;
        let user_ticks = fields.nth(9)?.parse().ok()?;
        let system_ticks = fields.next()?.parse().ok()?;
        Some(Self {
            pid,
            parent,
            user_ticks,
            system_ticks,
        })
    }
}

fn ticks_a_second() -> f64 {
    // SAFETY: no pointers.
    unsafe { libc::sysconf(libc::_SC_CLK_TCK) as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat_is_read_behind_the_name() {
        let stat = "7 (a) b (c) S 3 7 7 0 -1 4194560 1 2 3 4 250 50 0 0 20 0 1 0 9 8 7";
        let process = Process::read(7, stat).expect("fields");
        assert_eq!((process.parent, process.user_ticks), (3, 250));
        assert_eq!(process.system_ticks, 50);
    }
}
