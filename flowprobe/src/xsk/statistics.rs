//! What the kernel counts of a queue, and what of it becomes of packets that were handed over.

use flowprobe_ebpf::Lost;

/// What the kernel has counted of a queue since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Frames dropped because the receive ring was full.
    pub rx_ring_full: u64,
    /// How often a buffer was wanted and none was there. Where the kernel copies, a frame was dropped
    /// each time; with zero copy the device wanted one in advance.
    pub fill_ring_empty: u64,
    /// Frames dropped for any other reason: longer than a buffer, or than the buffers that were left.
    pub dropped: u64,
    /// Addresses in the fill ring that are none. Never, unless there is a fault here.
    pub invalid: u64,
    zero_copy: bool,
}

/// Why frames that were handed over have not been received, in packets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unaccounted {
    /// [`Lost::RxRingFull`].
    pub rx_ring_full: u64,
    /// [`Lost::FillRingEmpty`].
    pub fill_ring_empty: u64,
    /// [`Lost::TooLong`].
    pub too_long: u64,
    /// [`Lost::Redirect`]: none of the above.
    pub redirect: u64,
}

impl Unaccounted {
    /// Each reason with its packets.
    #[must_use]
    pub fn by_reason(self) -> [(Lost, u64); 4] {
        [
            (Lost::RxRingFull, self.rx_ring_full),
            (Lost::FillRingEmpty, self.fill_ring_empty),
            (Lost::TooLong, self.too_long),
            (Lost::Redirect, self.redirect),
        ]
    }
}

impl Statistics {
    pub(super) fn of(counted: &libc::xdp_statistics, zero_copy: bool) -> Self {
        // net/xdp/xsk.c: where the kernel copies and finds no buffer, both are counted.
        let both = if zero_copy {
            0
        } else {
            counted.rx_fill_ring_empty_descs
        };
        Self {
            rx_ring_full: counted.rx_ring_full,
            fill_ring_empty: counted.rx_fill_ring_empty_descs,
            dropped: counted.rx_dropped.saturating_sub(both),
            invalid: counted.rx_invalid_descs,
            zero_copy,
        }
    }

    /// Why `missing` frames, which were handed over to this queue, have not been received.
    ///
    /// Exact when the program is detached, a grace period has passed and all frames have been
    /// received. The parts add up to `missing` at any time.
    #[must_use]
    pub fn explain(&self, missing: u64) -> Unaccounted {
        let mut left = missing;
        let mut take = |counted: u64| {
            let taken = counted.min(left);
            left -= taken;
            taken
        };
        Unaccounted {
            rx_ring_full: take(self.rx_ring_full),
            // A device that finds none for later takes no packet, so that none was handed over.
            fill_ring_empty: take(if self.zero_copy {
                0
            } else {
                self.fill_ring_empty
            }),
            too_long: take(self.dropped),
            redirect: left,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted() -> libc::xdp_statistics {
        libc::xdp_statistics {
            rx_dropped: 12,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 5,
            rx_fill_ring_empty_descs: 10,
            tx_ring_empty_descs: 0,
        }
    }

    #[test]
    fn each_frame_has_one_reason() {
        let copied = Statistics::of(&counted(), false);
        let all = Unaccounted {
            rx_ring_full: 5,
            fill_ring_empty: 10,
            too_long: 2,
            redirect: 0,
        };
        assert_eq!(copied.explain(17), all);
        assert_eq!(copied.explain(18), Unaccounted { redirect: 1, ..all });
        // While frames are on their way less is missing than was counted.
        for missing in 0..20 {
            let parts = copied.explain(missing).by_reason();
            assert_eq!(parts.iter().map(|(_, n)| n).sum::<u64>(), missing);
        }
    }

    #[test]
    fn with_zero_copy_an_empty_fill_ring_drops_nothing_that_was_handed_over() {
        let statistics = Statistics::of(&counted(), true);
        let all = Unaccounted {
            rx_ring_full: 5,
            too_long: 12,
            ..Unaccounted::default()
        };
        assert_eq!(statistics.explain(17), all);
    }
}
