//! Time stamps of captures, in nanoseconds since 1970-01-01 UTC.

const NANOSECONDS: u128 = 1_000_000_000;

/// What one unit of a time stamp is, and where it counts from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Units {
    /// `if_tsresol` of pcapng: 10⁻ⁿ seconds, or 2⁻ⁿ with the highest bit set.
    pub(super) resolution: u8,
    /// `if_tsoffset`: seconds to add.
    pub(super) offset_s: i64,
}

impl Units {
    /// The time of `ticks` units. What lies before 1970 is 1970, what lies after 2554, which 64
    /// bits of nanoseconds end with, is that year.
    #[inline]
    pub(super) fn ns(self, ticks: u64) -> u64 {
        // Nearly all count in micro- or nanoseconds: without a division.
        match (self.resolution, self.offset_s) {
            (6, 0) => ticks.saturating_mul(1000),
            (9, 0) => ticks,
            _ => self.any_ns(ticks),
        }
    }

    fn any_ns(self, ticks: u64) -> u64 {
        let exponent = u32::from(self.resolution & 0x7f);
        let units = u128::from(ticks) * NANOSECONDS;
        let ns = match self.resolution & 0x80 {
            // Units that are so small do not add up to a nanosecond.
            0 => 10_u128.checked_pow(exponent).map_or(0, |each| units / each),
            _ => units >> exponent,
        };
        let offset = i128::from(self.offset_s) * NANOSECONDS as i128;
        let ns = i128::try_from(ns).unwrap_or(i128::MAX);
        let ns = ns.saturating_add(offset).max(0);
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ns(resolution: u8, offset_s: i64, ticks: u64) -> u64 {
        let units = Units {
            resolution,
            offset_s,
        };
        units.ns(ticks)
    }

    #[test]
    fn units_are_powers_of_ten_or_two() {
        assert_eq!(ns(6, 0, 1_234_567), 1_234_567_000);
        assert_eq!(ns(9, 0, 1_234_567), 1_234_567);
        assert_eq!(ns(0, 0, 7), 7_000_000_000);
        assert_eq!(ns(12, 0, 1_234_567), 1_234);
        assert_eq!(ns(0x80, 0, 7), 7_000_000_000);
        assert_eq!(ns(0x81, 0, 7), 3_500_000_000);
        assert_eq!(ns(0x80 | 32, 0, 5 << 31), 2_500_000_000);
    }

    #[test]
    fn offsets_are_seconds_of_either_sign() {
        assert_eq!(ns(6, 10, 5_000_000), 15_000_000_000);
        assert_eq!(ns(6, -3, 5_000_000), 2_000_000_000);
        assert_eq!(ns(6, -9, 5_000_000), 0);
    }

    #[test]
    fn the_usual_units_are_no_exception() {
        for resolution in [6, 9] {
            for ticks in [
                0,
                1,
                999,
                1_700_000_000_123_456,
                u64::MAX / 1000 + 1,
                u64::MAX,
            ] {
                let units = Units {
                    resolution,
                    offset_s: 0,
                };
                assert_eq!(units.ns(ticks), units.any_ns(ticks));
            }
        }
    }

    #[test]
    fn nothing_overflows() {
        for resolution in 0..=u8::MAX {
            for offset_s in [i64::MIN, 0, i64::MAX] {
                ns(resolution, offset_s, u64::MAX);
            }
        }
        assert_eq!(ns(0, 0, u64::MAX), u64::MAX);
        assert_eq!(ns(0x7f, 0, u64::MAX), 0);
        assert_eq!(ns(6, i64::MAX, 0), u64::MAX);
    }
}
