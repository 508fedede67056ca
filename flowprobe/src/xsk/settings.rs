//! What can be chosen about a queue.

use std::{fmt, str::FromStr};

/// Whether the device is to write into the buffers itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroCopy {
    /// Where the driver has it.
    #[default]
    Auto,
    /// Or not at all.
    Always,
    /// No: the kernel copies.
    Never,
}

/// A word for none of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("zero copy is one of auto, always, never")]
pub struct UnknownZeroCopy;

impl FromStr for ZeroCopy {
    type Err = UnknownZeroCopy;

    fn from_str(text: &str) -> Result<Self, UnknownZeroCopy> {
        match text {
            "auto" => Ok(Self::Auto),
            "always" => Ok(Self::Always),
            "never" => Ok(Self::Never),
            _ => Err(UnknownZeroCopy),
        }
    }
}

impl fmt::Display for ZeroCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        })
    }
}

/// What can be chosen about a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Frames that may wait to be looked at, a power of two. 16,384 are 4 ms of 4 million packets a
    /// second; with 4,096, up to 0.8 % of such a flood were lost.
    pub ring: u32,
    /// Buffers, where they are to be another number than `ring`.
    pub frames: Option<u32>,
    /// Octets of a buffer: 2,048 or 4,096, of which 256 are kept free before a frame.
    pub frame_size: u32,
    /// Whether to take huge pages where some have been set apart.
    pub huge_pages: bool,
    /// Whether the device is to write into the buffers itself.
    pub zero_copy: ZeroCopy,
    /// Whether the queue is polled, and does not interrupt while it is.
    pub busy_poll: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ring: 1 << 14,
            frames: None,
            frame_size: 2048,
            huge_pages: true,
            zero_copy: ZeroCopy::Auto,
            busy_poll: false,
        }
    }
}

/// Settings that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// The kernel's rings are powers of two.
    #[error("a receive ring of {0} frames: it has to be a power of two, as 16384")]
    Ring(u32),
    /// The kernel's buffers are half a page, or one.
    #[error("buffers of {0} octets: they have 2048 or 4096")]
    FrameSize(u32),
    /// None at all.
    #[error("there have to be buffers, one for each frame that may wait")]
    NoFrames,
}

impl Settings {
    /// Buffers.
    #[must_use]
    pub fn frames(&self) -> u32 {
        self.frames.unwrap_or(self.ring)
    }

    /// Octets of all buffers of a queue.
    #[must_use]
    pub fn umem_octets(&self) -> u64 {
        u64::from(self.frames()) * u64::from(self.frame_size)
    }

    /// Whether all that can be.
    ///
    /// # Errors
    /// Which setting is wrong, and what it may be.
    pub fn check(&self) -> Result<(), SettingsError> {
        if !self.ring.is_power_of_two() {
            return Err(SettingsError::Ring(self.ring));
        }
        if !matches!(self.frame_size, 2048 | 4096) {
            return Err(SettingsError::FrameSize(self.frame_size));
        }
        // The fill ring has the next power of two.
        if self.frames() == 0 || self.frames() > 1 << 31 {
            return Err(SettingsError::NoFrames);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_that_the_kernel_takes() {
        let settings = Settings::default();
        assert_eq!(settings.check(), Ok(()));
        assert_eq!(settings.umem_octets(), 32 << 20);
        let with = |ring, frames, frame_size| {
            Settings {
                ring,
                frames,
                frame_size,
                ..settings
            }
            .check()
        };
        assert_eq!(with(1, Some(3), 4096), Ok(()));
        assert_eq!(with(0, None, 2048), Err(SettingsError::Ring(0)));
        assert_eq!(with(48, None, 2048), Err(SettingsError::Ring(48)));
        assert_eq!(with(64, None, 3000), Err(SettingsError::FrameSize(3000)));
        assert_eq!(with(64, Some(0), 2048), Err(SettingsError::NoFrames));
    }

    #[test]
    fn zero_copy_is_said_as_it_is_read() {
        for choice in [ZeroCopy::Auto, ZeroCopy::Always, ZeroCopy::Never] {
            assert_eq!(choice.to_string().parse(), Ok(choice));
        }
        assert_eq!("yes".parse::<ZeroCopy>(), Err(UnknownZeroCopy));
    }
}
