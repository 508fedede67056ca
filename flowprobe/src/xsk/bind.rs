//! Binds a socket to a queue: by zero copy where the driver has it, by copies elsewhere.
//!
//! The kernel falls back by itself where it is not told which. But it does so, too, where a driver has
//! zero copy without frames in several buffers, and those are asked for: then, where all frames fit one
//! buffer, zero copy is worth more. So each is asked for by name.

use std::{
    io, thread,
    time::{Duration, Instant},
};

use super::{Settings, ZeroCopy, socket::Socket};
use crate::attach::Interface;

/// The kernel takes a socket off its queue some time after it was closed.
const BUSY_FOR: Duration = Duration::from_secs(1);
/// How often it is asked meanwhile.
const BUSY_STEP: Duration = Duration::from_millis(10);

/// Octets of a buffer that the kernel keeps free before a frame (XDP_PACKET_HEADROOM).
const HEADROOM: u32 = 256;
/// Octets of a frame beyond the MTU: an Ethernet header and two VLAN tags.
const LINK_LEN: u32 = 14 + 2 * 4;

/// Binds; says whether frames may lie in several buffers.
pub(super) fn bind(
    socket: &Socket,
    interface: &Interface,
    queue: u32,
    settings: &Settings,
) -> io::Result<bool> {
    // An interface that is gone is found out by binding.
    let mtu = interface.link().map_or(0, |link| link.mtu);
    let fits = mtu.saturating_add(LINK_LEN) <= settings.frame_size - HEADROOM;
    let mut refused = io::ErrorKind::Unsupported.into();
    for flags in attempts(settings, fits) {
        match bind_to(socket, interface, queue, flags) {
            Ok(()) => return Ok(flags & libc::XDP_USE_SG != 0),
            // Taken, gone, or not allowed: as much so in another way.
            Err(error) if is_final(&error) => return Err(error),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

fn is_final(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EBUSY | libc::ENODEV | libc::ENXIO | libc::EPERM | libc::EACCES)
    )
}

/// Ways to bind, the best first. Frames in several buffers are not known before 6.6 (EINVAL), and not
/// by every driver that has zero copy.
fn attempts(settings: &Settings, fits: bool) -> Vec<u16> {
    const COPY: u16 = libc::XDP_COPY;
    const ZERO: u16 = libc::XDP_ZEROCOPY;
    const SEVERAL: u16 = libc::XDP_USE_SG;
    let all = match settings.zero_copy {
        ZeroCopy::Auto if fits => vec![ZERO | SEVERAL, ZERO, COPY | SEVERAL, COPY],
        ZeroCopy::Auto => vec![ZERO | SEVERAL, COPY | SEVERAL, COPY],
        ZeroCopy::Always => vec![ZERO | SEVERAL, ZERO],
        ZeroCopy::Never => vec![COPY | SEVERAL, COPY],
    };
    all.into_iter()
        .filter(|flags| settings.several_buffers || flags & SEVERAL == 0)
        .collect()
}

/// In one way. A queue that is taken is asked for again for a while.
fn bind_to(socket: &Socket, interface: &Interface, queue: u32, flags: u16) -> io::Result<()> {
    let until = Instant::now() + BUSY_FOR;
    loop {
        match socket.bind(interface.index, queue, flags | libc::XDP_USE_NEED_WAKEUP) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) && Instant::now() < until => {
                thread::sleep(BUSY_STEP);
            }
            result => return result,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_copy_is_tried_before_copies_and_by_itself_where_frames_fit() {
        const SG: u16 = libc::XDP_USE_SG;
        let ways = |zero_copy, several_buffers, fits| {
            let settings = Settings {
                zero_copy,
                several_buffers,
                ..Settings::default()
            };
            let ways = attempts(&settings, fits);
            let names = ways.iter().map(|flags| match flags & !SG {
                libc::XDP_ZEROCOPY => ("zero", flags & SG != 0),
                libc::XDP_COPY => ("copy", flags & SG != 0),
                other => panic!("{other}"),
            });
            names.collect::<Vec<_>>()
        };
        let (zero, copy) = (("zero", false), ("copy", false));
        let (zeros, copies) = (("zero", true), ("copy", true));
        let auto = ZeroCopy::Auto;
        assert_eq!(ways(auto, true, true), [zeros, zero, copies, copy]);
        // Rather copied than cut off.
        assert_eq!(ways(auto, true, false), [zeros, copies, copy]);
        assert_eq!(ways(auto, false, true), [zero, copy]);
        assert_eq!(ways(ZeroCopy::Always, true, false), [zeros, zero]);
        assert_eq!(ways(ZeroCopy::Never, true, true), [copies, copy]);
    }
}
