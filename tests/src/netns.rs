//! Network namespaces that go away with their guard.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write as _},
    net::{SocketAddr, UdpSocket},
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

/// Where `ip netns` keeps them.
const DIRECTORY: &str = "/run/netns";
/// Names are `flowprobe-PID-NUMBER-ROLE`, so that those of dead processes can be told.
const PREFIX: &str = "flowprobe-";

/// A network namespace, removed on drop with all that is in it.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

/// Counters of an interface, as the kernel keeps them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames received and dropped by the interface.
    pub rx_dropped: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Frames that could not be sent.
    pub tx_dropped: u64,
}

/// How long the kernel may take to make a namespace; one that has crashed before never answers.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why this machine makes no network namespaces; `None` if it does.
#[must_use]
pub fn refusal() -> Option<String> {
    let mut unshare = Command::new("unshare");
    unshare.args(["--net", "ip", "link", "set", "lo", "up"]);
    let unshare = unshare.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = match unshare.spawn() {
        Ok(child) => child,
        Err(error) => return Some(format!("unshare: {error}")),
    };
    let deadline = Instant::now() + PATIENCE;
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return None,
            Ok(Some(status)) => {
                let said = child.wait_with_output().map(|output| output.stderr);
                let said = said.unwrap_or_default();
                return Some(format!(
                    "{status}: {}",
                    String::from_utf8_lossy(&said).trim()
                ));
            }
            Ok(None) if Instant::now() < deadline => thread::sleep(Duration::from_millis(10)),
            // It cannot be ended either: it waits within the kernel.
            Ok(None) => return Some("the kernel does not answer; see dmesg".to_owned()),
            Err(error) => return Some(error.to_string()),
        }
    }
}

impl Netns {
    /// Makes one. Nothing in it speaks IPv6 unless told to, so that packet counts are exact.
    ///
    /// # Errors
    /// Without root, or where `ip` fails.
    pub fn new(role: &str) -> Result<Self> {
        static SWEEP: Once = Once::new();
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(remove_leftovers);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{number}-{role}", process::id());
        ip(&format!("netns add {name}")).context("namespaces need root")?;
        let namespace = Self { name };
        for scope in ["all", "default"] {
            namespace.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
        }
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// The name that `ip netns` knows.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs `ip` commands in it, one on each line, without the word `ip`.
    ///
    /// # Errors
    /// Where one fails; the rest is not run.
    pub fn ip(&self, commands: &str) -> Result<()> {
        batch(Command::new("ip").args(["-n", &self.name]), commands)
    }

    /// Sets `/proc/sys/NAME`.
    ///
    /// # Errors
    /// Where the kernel has no such setting.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(name);
        self.run(|| fs::write(&path, value))?
            .with_context(|| path.display().to_string())
    }

    /// A command that will run in it.
    #[must_use]
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        command.arg(program.as_ref());
        command
    }

    /// Runs `work` on a thread in it. Sockets opened there stay in it.
    ///
    /// # Errors
    /// Where the namespace cannot be entered.
    ///
    /// # Panics
    /// Where `work` does.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let path = PathBuf::from(DIRECTORY).join(&self.name);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        thread::scope(|scope| {
            let entered = scope.spawn(|| {
                // SAFETY: a plain system call on an open descriptor; it changes this thread only.
                if unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok(work())
            });
            match entered.join() {
                Ok(result) => result.with_context(|| format!("setns to {}", self.name)),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    /// A UDP socket in it.
    ///
    /// # Errors
    /// Where the address cannot be bound.
    pub fn udp(&self, address: SocketAddr) -> Result<UdpSocket> {
        self.run(|| UdpSocket::bind(address))?
            .with_context(|| format!("binding {address} in {}", self.name))
    }

    /// The index of an interface.
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn index(&self, interface: &str) -> Result<u32> {
        let name = CString::new(interface)?;
        // SAFETY: a NUL-terminated name.
        let index = self.run(|| unsafe { libc::if_nametoindex(name.as_ptr()) })?;
        ensure!(index != 0, "no interface {interface} in {}", self.name);
        Ok(index)
    }

    /// The kernel's counters of an interface.
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn counters(&self, interface: &str) -> Result<Counters> {
        #[derive(Deserialize)]
        struct Link {
            stats64: Stats,
        }
        #[derive(Deserialize)]
        struct Stats {
            rx: Direction,
            tx: Direction,
        }
        #[derive(Deserialize)]
        struct Direction {
            packets: u64,
            dropped: u64,
        }
        let output = Command::new("ip")
            .args([
                "-n", &self.name, "-s", "-j", "link", "show", "dev", interface,
            ])
            .output()?;
        ensure!(output.status.success(), "no interface {interface}");
        let [link]: [Link; 1] = serde_json::from_slice(&output.stdout)?;
        Ok(Counters {
            rx_packets: link.stats64.rx.packets,
            rx_dropped: link.stats64.rx.dropped,
            tx_packets: link.stats64.tx.packets,
            tx_dropped: link.stats64.tx.dropped,
        })
    }

    /// Whether an XDP program is attached to an interface.
    ///
    /// # Errors
    /// Where there is no such interface.
    pub fn has_xdp(&self, interface: &str) -> Result<bool> {
        let output = Command::new("ip")
            .args(["-n", &self.name, "-j", "link", "show", "dev", interface])
            .output()?;
        ensure!(output.status.success(), "no interface {interface}");
        let links: Vec<serde_json::Value> = serde_json::from_slice(&output.stdout)?;
        Ok(links.iter().any(|link| link.get("xdp").is_some()))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = ip(&format!("netns delete {}", self.name)) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs one `ip` command, without the word `ip`.
pub(crate) fn ip(command: &str) -> Result<()> {
    batch(&mut Command::new("ip"), command)
}

fn batch(ip: &mut Command, commands: &str) -> Result<()> {
    let mut child = ip
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run ip (package iproute2)")?;
    let mut input = child.stdin.take().context("no stdin")?;
    input.write_all(commands.as_bytes())?;
    drop(input);
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "ip: {commands}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// Removes the namespaces of processes that were killed before they could.
fn remove_leftovers() {
    let entries = fs::read_dir(DIRECTORY).into_iter().flatten().flatten();
    for name in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            // Another test may be faster.
            let _ = ip(&format!("netns delete {name}"));
        }
    }
}
