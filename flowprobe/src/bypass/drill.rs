//! Faults on purpose, for tests, in builds with debug assertions alone: what becomes of packets when a
//! worker hangs or breaks off.

use std::{
    env,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

/// `panic` or `hang`: what the first worker does that has taken a packet.
const VARIABLE: &str = "FLOWPROBE_DRILL";
/// How long it hangs. Longer than its sign of life counts for.
const HANG: Duration = Duration::from_secs(3);

/// Does once what is asked.
pub(super) fn begin() {
    static BEGUN: AtomicBool = AtomicBool::new(false);
    if BEGUN.swap(true, Ordering::Relaxed) {
        return;
    }
    match env::var(VARIABLE).as_deref() {
        Ok("panic") => panic!("{VARIABLE} asks for it"),
        Ok("hang") => thread::sleep(HANG),
        _ => {}
    }
}
