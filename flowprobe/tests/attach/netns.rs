//! A network namespace for the calling thread, with a pair of veths.

use std::{
    fs,
    fs::File,
    io,
    os::fd::AsRawFd,
    process::Command,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The calling thread is in a namespace of its own until this is dropped.
pub(crate) struct Netns {
    before: File,
    _alone: MutexGuard<'static, ()>,
}

/// One test at a time in this process: a test that starts `ip` lends its child copies of every
/// descriptor until the child's exec, also those that another test has just closed.
static ALONE: Mutex<()> = Mutex::new(());

impl Netns {
    /// With `v0` and `v1`, up, joined, and silent: without IPv6 nothing is sent by itself.
    pub(crate) fn with_veth(mtu: u32) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = File::open("/proc/thread-self/ns/net").unwrap();
        // SAFETY: no pointers.
        let result = unsafe { libc::unshare(libc::CLONE_NEWNET) };
        assert!(
            result == 0,
            "this test makes a network namespace and needs root: {}",
            io::Error::last_os_error()
        );
        let netns = Self {
            before,
            _alone: alone,
        };
        for scope in ["all", "default"] {
            // Absent where the kernel has no IPv6, which is as good.
            let _absent = fs::write(format!("/proc/sys/net/ipv6/conf/{scope}/disable_ipv6"), "1");
        }
        ip(&format!(
            "link add v0 mtu {mtu} type veth peer name v1 mtu {mtu}"
        ));
        ip("link set lo up");
        ip("link set v0 up");
        ip("link set v1 up");
        netns
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Best effort: a thread that gave up its capabilities stays, and ends with its test.
        // SAFETY: no pointers; the descriptor is open.
        let _refused = unsafe { libc::setns(self.before.as_raw_fd(), libc::CLONE_NEWNET) };
    }
}

/// Runs `ip` in the calling thread's namespace.
pub(crate) fn ip(arguments: &str) -> String {
    let output = Command::new("ip")
        .args(arguments.split_whitespace())
        .output()
        .expect("the tests need `ip` (iproute2)");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// How many hold the interface promiscuous.
pub(crate) fn promiscuity(interface: &str) -> u32 {
    let text = ip(&format!("-d link show dev {interface}"));
    let mut words = text.split_whitespace();
    words.find(|&word| word == "promiscuity").unwrap();
    words.next().unwrap().parse().unwrap()
}
