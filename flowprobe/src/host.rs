//! What the machine must be able to do, checked before anything is loaded.
//!
//! Each check reads one thing and judges it apart, so that the judgement can be tested with
//! any machine's answer.

use std::{fmt, fs, io, str::FromStr};

use crate::bpf;

/// The first kernel with XDP programs that take packets of several buffers (frags).
pub const KERNEL_FLOOR: KernelVersion = KernelVersion {
    major: 5,
    minor: 18,
};

const POSSIBLE_CPUS: &str = "/sys/devices/system/cpu/possible";
const ONLINE_CPUS: &str = "/sys/devices/system/cpu/online";
const REALTIME: &str = "/sys/kernel/realtime";
const STATUS: &str = "/proc/thread-self/status";

/// What a machine that can run flowprobe is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Kernel.
    pub kernel: KernelVersion,
    /// CPUs that may ever be: what per-CPU memory is sized by.
    pub possible_cpus: CpuList,
    /// CPUs in use now.
    pub online_cpus: CpuList,
}

/// Why a machine cannot run flowprobe.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// Too old.
    #[error("kernel {found} is too old: flowprobe needs {KERNEL_FLOOR} or newer (XDP frags)")]
    KernelTooOld {
        /// What runs.
        found: KernelVersion,
    },
    /// PREEMPT_RT.
    #[error(
        "this kernel is PREEMPT_RT, where XDP programs of one CPU can interrupt each other, so that \
         a CPU's flow table has more than one writer and would count wrong: boot a kernel without it"
    )]
    Realtime,
    /// Capabilities are missing.
    #[error(
        "missing {0}: run with sudo, or once \
         `setcap cap_bpf,cap_net_admin,cap_perfmon,cap_net_raw+ep` on the program's file"
    )]
    Capabilities(Missing),
    /// bpf() is not there.
    #[error("this kernel has no bpf(): it needs CONFIG_BPF_SYSCALL")]
    NoBpf,
    /// bpf() is refused in spite of the capabilities.
    #[error(
        "bpf() is refused in spite of the capabilities: a container's seccomp filter or user \
         namespace, or an LSM, forbids it; run on the host, or with these lifted"
    )]
    BpfRefused,
    /// bpf() fails otherwise.
    #[error("bpf() fails: {0}")]
    BpfFails(io::Error),
    /// The kernel did not say.
    #[error("cannot read {path}: {source}")]
    Read {
        /// File or call.
        path: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The kernel said something unknown.
    #[error("cannot make sense of {path}: {text:?}")]
    Parse {
        /// File or call.
        path: &'static str,
        /// What was there.
        text: String,
    },
}

/// Checks everything. `promisc` says whether packet sockets will be needed.
///
/// # Errors
/// The first thing that is missing.
pub fn check(promisc: bool) -> Result<Host, HostError> {
    let uname = Uname::read()?;
    let kernel = uname.kernel()?;
    if kernel < KERNEL_FLOOR {
        return Err(HostError::KernelTooOld { found: kernel });
    }
    if is_realtime(fs::read_to_string(REALTIME).ok().as_deref(), &uname.version) {
        return Err(HostError::Realtime);
    }
    let capabilities = effective_capabilities(&read(STATUS)?)?;
    if let Some(missing) = missing(capabilities, promisc) {
        return Err(HostError::Capabilities(missing));
    }
    bpf::probe().map_err(bpf_error)?;
    Ok(Host {
        kernel,
        possible_cpus: cpu_list(POSSIBLE_CPUS)?,
        online_cpus: cpu_list(ONLINE_CPUS)?,
    })
}

/// Major and minor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KernelVersion {
    /// 6 of 6.18.
    pub major: u32,
    /// 18 of 6.18.
    pub minor: u32,
}

impl fmt::Display for KernelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A text that is not of the form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not of the form expected")]
pub struct FormError;

impl FromStr for KernelVersion {
    type Err = FormError;

    /// Reads a release as uname gives it: `6.18.44-fc-v669`, `5.18-rc1`.
    fn from_str(release: &str) -> Result<Self, FormError> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit());
        let mut number = || numbers.next()?.parse().ok();
        match (number(), number()) {
            (Some(major), Some(minor)) => Ok(Self { major, minor }),
            _ => Err(FormError),
        }
    }
}

struct Uname {
    release: String,
    version: String,
}

impl Uname {
    fn read() -> Result<Self, HostError> {
        // SAFETY: all of it is arrays of integers, for which zero is a value.
        let mut uts: libc::utsname = unsafe { std::mem::zeroed() };
        // SAFETY: `uts` is the structure that the call fills.
        if unsafe { libc::uname(&raw mut uts) } != 0 {
            let source = io::Error::last_os_error();
            return Err(HostError::Read {
                path: "uname",
                source,
            });
        }
        Ok(Self {
            release: c_text(&uts.release),
            version: c_text(&uts.version),
        })
    }

    fn kernel(&self) -> Result<KernelVersion, HostError> {
        self.release.parse().map_err(|FormError| HostError::Parse {
            path: "uname",
            text: self.release.clone(),
        })
    }
}

fn c_text(field: &[libc::c_char]) -> String {
    let octets: Vec<u8> = field
        .iter()
        .map(|&c| c as u8)
        .take_while(|&c| c != 0)
        .collect();
    String::from_utf8_lossy(&octets).into_owned()
}

/// Judges /sys/kernel/realtime, which only kernels with PREEMPT_RT have, and uname's version.
fn is_realtime(flag: Option<&str>, version: &str) -> bool {
    flag.is_some_and(|flag| flag.trim() == "1")
        || version.split_whitespace().any(|word| word == "PREEMPT_RT")
}

/// A capability, by its bit in linux/capability.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// Configure interfaces, load XDP programs.
    NetAdmin = 12,
    /// Packet sockets.
    NetRaw = 13,
    /// Everything that CAP_BPF and CAP_PERFMON were split from.
    SysAdmin = 21,
    /// Lets the verifier leave out its masks against Spectre, which cost time in each packet.
    Perfmon = 38,
    /// Load programs, create maps.
    Bpf = 39,
}

impl Capability {
    fn is_in(self, set: u64) -> bool {
        set & (1 << self as u32) != 0
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetRaw => "CAP_NET_RAW",
            Self::SysAdmin => "CAP_SYS_ADMIN",
            Self::Perfmon => "CAP_PERFMON",
            Self::Bpf => "CAP_BPF",
        })
    }
}

/// Missing capabilities, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing(pub Vec<Capability>);

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, capability) in self.0.iter().enumerate() {
            write!(f, "{}{capability}", if i == 0 { "" } else { ", " })?;
        }
        if self.0.contains(&Capability::NetRaw) {
            write!(f, " (CAP_NET_RAW is for --promisc)")?;
        }
        Ok(())
    }
}

/// The effective set of the calling thread, from its status in /proc.
fn effective_capabilities(status: &str) -> Result<u64, HostError> {
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .ok_or_else(|| HostError::Parse {
            path: STATUS,
            text: "CapEff".to_owned(),
        })
}

/// Which needed capabilities are not in `set`. The kernel takes CAP_SYS_ADMIN for CAP_BPF and
/// CAP_PERFMON (linux/capability.h: bpf_capable, perfmon_capable), but not for the others.
fn missing(set: u64, promisc: bool) -> Option<Missing> {
    let admin = Capability::SysAdmin.is_in(set);
    let needed = [
        (Capability::Bpf, !admin),
        (Capability::NetAdmin, true),
        (Capability::Perfmon, !admin),
        (Capability::NetRaw, promisc),
    ];
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|&(capability, needed)| needed && !capability.is_in(set))
        .map(|(capability, _)| capability)
        .collect();
    (!missing.is_empty()).then_some(Missing(missing))
}

fn bpf_error(error: io::Error) -> HostError {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => HostError::NoBpf,
        Some(libc::EPERM | libc::EACCES) => HostError::BpfRefused,
        _ => HostError::BpfFails(error),
    }
}

/// CPU numbers, ascending, as the kernel lists them: `0-3,8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<u32>);

impl CpuList {
    /// The numbers.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.0
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// One more than the highest number: the length of an array indexed by CPU.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.0.last().map_or(0, |&last| last as usize + 1)
    }
}

impl FromStr for CpuList {
    type Err = FormError;

    fn from_str(text: &str) -> Result<Self, FormError> {
        // CONFIG_NR_CPUS goes up to 8192; a range beyond would be a mistake, and memory.
        const MOST: u32 = 1 << 16;
        let mut ids = Vec::new();
        for part in text.trim().split(',') {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let first: u32 = first.parse().map_err(|_| FormError)?;
            let last: u32 = last.parse().map_err(|_| FormError)?;
            let after = ids.last().map_or(0, |&id: &u32| id + 1);
            if first < after || last < first || last >= MOST {
                return Err(FormError);
            }
            ids.extend(first..=last);
        }
        Ok(Self(ids))
    }
}

fn cpu_list(path: &'static str) -> Result<CpuList, HostError> {
    let text = read(path)?;
    text.parse()
        .map_err(|FormError| HostError::Parse { path, text })
}

fn read(path: &'static str) -> Result<String, HostError> {
    fs::read_to_string(path).map_err(|source| HostError::Read { path, source })
}

#[cfg(test)]
mod tests;
