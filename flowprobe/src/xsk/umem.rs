//! The memory that packets are put into: buffers of one size, each behind the other.

use std::{fs, io, sync::Arc};

use flowprobe_ebpf::handover::{NOTE_LEN, Note};

use super::{OpenError, Pages, Settings, memory::Memory};

/// The buffers of one queue.
#[derive(Debug)]
pub(super) struct Umem {
    memory: Arc<Memory>,
    pages: Pages,
    frames: u32,
    frame_size: u32,
}

impl Umem {
    /// Maps the memory. Nothing is in it yet, and only the kernel's registration takes its pages.
    pub(super) fn new(settings: &Settings) -> Result<Self, OpenError> {
        let octets = settings.umem_octets();
        let too_large = |source| OpenError::Memory { octets, source };
        let len =
            usize::try_from(octets).map_err(|_| too_large(io::ErrorKind::OutOfMemory.into()))?;
        let huge = settings.huge_pages.then(|| Memory::huge(len));
        let (memory, pages) = match huge {
            Some(Ok(memory)) => (memory, Pages::Huge),
            _ => {
                refuse_more_than_there_is(octets)?;
                (Memory::ordinary(len).map_err(too_large)?, Pages::Ordinary)
            }
        };
        Ok(Self {
            memory: Arc::new(memory),
            pages,
            frames: settings.frames(),
            frame_size: settings.frame_size,
        })
    }

    pub(super) fn pages(&self) -> Pages {
        self.pages
    }

    pub(super) fn frame_size(&self) -> u32 {
        self.frame_size
    }

    /// Octets that the buffers have, which may be less than the memory.
    pub(super) fn octets(&self) -> u64 {
        u64::from(self.frames) * u64::from(self.frame_size)
    }

    /// The address of the memory in this process.
    pub(super) fn address(&self) -> u64 {
        self.memory.values::<u8>(0, 0).as_ptr() as u64
    }

    /// Addresses of all buffers, as rings have them.
    pub(super) fn addresses(&self) -> impl Iterator<Item = u64> {
        let size = u64::from(self.frame_size);
        (0..u64::from(self.frames)).map(move |frame| frame * size)
    }

    /// The buffer that an address lies in.
    pub(super) fn buffer(&self, address: u64) -> u64 {
        address & !u64::from(self.frame_size - 1)
    }

    /// What lies at an address: the first buffer of a frame, and the note before it. `None` where
    /// the kernel names a place outside of a buffer.
    ///
    /// # Safety
    /// The kernel has given the buffer away, and does not get it back while this is looked at.
    pub(super) unsafe fn frame(&self, address: u64, len: u32) -> Option<(Note, &[u8])> {
        let buffer = self.buffer(address);
        let note = address.checked_sub(NOTE_LEN as u64)?;
        let end = address.checked_add(u64::from(len))?;
        if note < buffer || end > self.octets() || end - buffer > u64::from(self.frame_size) {
            return None;
        }
        let first = self.memory.values::<u8>(address as usize, len as usize);
        // SAFETY: within the buffer, as was just checked, and by the caller ours alone. Any bits are a
        // note.
        unsafe {
            let note = first.sub(NOTE_LEN).cast::<Note>().read_unaligned();
            let octets = std::slice::from_raw_parts(first.as_ptr(), len as usize);
            Some((note, octets))
        }
    }

    /// Fetches what of a frame will be read first: the note, and the headers.
    #[inline(always)]
    pub(super) fn fetch(&self, address: u64) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let start = self.memory.values::<i8>(0, 0).as_ptr();
            let frame = start.wrapping_add(address as usize);
            for line in [frame.wrapping_sub(NOTE_LEN), frame] {
                // SAFETY: a hint, which reads nothing that the program could see, and faults
                // nowhere.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
            }
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = address;
    }
}

/// The kernel takes all of the memory at once when it is registered, and would end processes to
/// have it.
fn refuse_more_than_there_is(octets: u64) -> Result<(), OpenError> {
    let Some(available) = fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|meminfo| available(&meminfo))
    else {
        return Ok(());
    };
    // An eighth is left to all others.
    if octets > available - available / 8 {
        return Err(OpenError::TooLarge { octets, available });
    }
    Ok(())
}

/// Octets that the kernel could give away, by its own estimate.
fn available(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1 << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read() {
        let meminfo = "MemTotal:  100 kB\nMemFree:   1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(available(meminfo), Some(2 << 20));
        assert_eq!(available("MemTotal: 1 kB\n"), None);
    }

    #[test]
    fn more_than_there_is_is_refused_before_it_is_taken() {
        let settings = Settings {
            ring: 1 << 31,
            frame_size: 4096,
            huge_pages: false,
            ..Settings::default()
        };
        let refused = Umem::new(&settings).unwrap_err();
        assert!(matches!(refused, OpenError::TooLarge { .. }), "{refused}");
    }

    #[test]
    fn frames_lie_within_their_buffers() {
        let settings = Settings {
            ring: 4,
            ..Settings::default()
        };
        let umem = Umem::new(&settings).unwrap();
        assert_eq!(umem.addresses().collect::<Vec<_>>(), [0, 2048, 4096, 6144]);
        assert_eq!(umem.buffer(4096 + 256), 4096);
        // SAFETY: no kernel knows of this memory.
        let within = |address, len| unsafe { umem.frame(address, len) }.is_some();
        assert!(within(256, 1792) && within(6144 + 16, 2032) && within(2048 + 16, 0));
        // Beyond its buffer, without room for a note, beyond the memory.
        for (address, len) in [
            (256, 1793),
            (2048 + 15, 10),
            (15, 1),
            (8192 + 256, 1),
            (u64::MAX, 1),
            (u64::MAX - 2000, 2000),
        ] {
            assert!(!within(address, len), "{address} {len}");
        }
    }

    #[test]
    fn the_note_is_what_stands_before_the_frame() {
        let settings = Settings {
            ring: 2,
            ..Settings::default()
        };
        let umem = Umem::new(&settings).unwrap();
        let note = Note {
            now_ns: 1,
            sampled: 2,
            tag: Note::tag_of(Some(3)),
        };
        let place = umem.memory.values::<Note>(2048 + 256 - NOTE_LEN, 1);
        // SAFETY: within the memory, and nobody else knows of it.
        let (read, octets) = unsafe {
            place.write(note);
            place.add(1).cast::<u8>().write(0xab);
            umem.frame(2048 + 256, 60).unwrap()
        };
        assert_eq!((read, octets.len(), octets[0]), (note, 60, 0xab));
        assert_eq!((read.control(), Note::default().control()), (Some(3), None));
    }
}
