//! Puts the kernel half into the kernel: sizes its maps, sets its constants, seeds its samplers,
//! and maps the memory it shares.

pub mod rx_vlan;

use std::{io, os::fd::AsFd, sync::Arc};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::Map,
    programs::{ProgramError, Xdp},
};
use flowprobe_ebpf::{
    hash::SECRET_WORDS,
    macs::MAC_PAIRS,
    parse::{Tunnels, tunnel::PORTS},
    sampling::{METHOD_COUNT, METHOD_RANDOM, METHOD_TIME, geometric_gap, next_random},
};

use self::rx_vlan::{RxVlan, RxVlanError};
use crate::{
    sampling::Sampling,
    table::{
        Geometry, Shared,
        shared::{NamedMap, NamedMaps},
    },
};

/// The object built from `flowprobe-ebpf` by `cargo xtask build-ebpf`.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!("../ebpf/flowprobe.bpf.o");

/// Parts in the ring of each CPU: 12 MiB, or 16 ms of a flood of 4 million new flows a second.
pub const RING_PARTS: u32 = 1 << 16;

/// Sets of first fragments for each CPU: 256 KiB, which remember 16,384 fragmented packets.
pub const FRAGMENT_SETS: u32 = 1 << 12;

/// Largest `--max-flows`: a table of 2²⁶ IPv6 flows has 9 GiB for each CPU.
pub const MAX_FLOWS: u32 = 1 << 26;

/// What can be chosen about the kernel half.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Flows in each table (IPv4, IPv6) of each CPU; rounded up to a power of two. The table of
    /// wide keys has a quarter of them.
    pub max_flows: u32,
    /// CPUs that get a partition; the others' packets are counted as lost.
    pub partitions: u32,
    /// Parts in each ring, a power of two.
    pub ring_parts: u32,
    /// Which packets to meter.
    pub sampling: Sampling,
    /// Which tunnels to open.
    pub tunnels: Tunnels,
}

/// The kernel half could not be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// More than a map can have elements.
    #[error(
        "{max_flows} flows on each of {partitions} possible CPUs are more than a BPF map can hold: \
         choose a smaller --max-flows"
    )]
    TooLarge {
        /// Flows in a table of a partition.
        max_flows: u32,
        /// CPUs.
        partitions: u32,
    },
    /// The kernel refused a map.
    #[error("cannot create the maps: {0}; try a smaller --max-flows")]
    Maps(aya::maps::MapError),
    /// Not an object, or none of ours.
    #[error("cannot load the BPF object: {0}; was it built by `cargo xtask build-ebpf`?")]
    Object(aya::EbpfError),
    /// The verifier or the kernel's memory limit.
    #[error("the kernel refused the program {name}: {source}")]
    Program {
        /// Which one.
        name: &'static str,
        /// The kernel's answer, with the verifier's log.
        source: ProgramError,
    },
    /// The object lacks a program.
    #[error("the BPF object has no program {0}; was it built by `cargo xtask build-ebpf`?")]
    NoProgram(&'static str),
    /// The object lacks a map.
    #[error("the BPF object has no map {0}; was it built by `cargo xtask build-ebpf`?")]
    NoMap(&'static str),
    /// The map's memory cannot be mapped.
    #[error("cannot map {octets} octets of {name}: {source}; try a smaller --max-flows")]
    Memory {
        /// Which one.
        name: &'static str,
        /// How much.
        octets: usize,
        /// Why.
        source: io::Error,
    },
    /// No random numbers for the secret of the hash.
    #[error("getrandom: {0}")]
    Random(io::Error),
}

/// The loaded kernel half. Dropping it unloads the programs, once nothing is attached.
pub struct Kernel {
    ebpf: Ebpf,
    object: Vec<u8>,
    shared: Arc<Shared>,
}

/// Whether this machine makes stores visible in program order (total store order).
const STORES_IN_ORDER: bool = cfg!(any(target_arch = "x86_64", target_arch = "s390x"));

/// The two entries of the program, by whether they take frames of several buffers.
const PROGRAM: &str = "flowprobe";
const PROGRAM_FRAGS: &str = "flowprobe_frags";

impl Kernel {
    /// Loads `object` with maps of the size that `options` ask for.
    ///
    /// # Errors
    /// What the kernel refused, and what to do.
    pub fn load(object: &[u8], options: &Options) -> Result<Self, LoadError> {
        Self::load_with_log(object, options, VerifierLogLevel::default())
    }

    /// The same, where it is chosen how much the verifier logs.
    ///
    /// # Errors
    /// What the kernel refused, and what to do.
    pub fn load_with_log(
        object: &[u8],
        options: &Options,
        log: VerifierLogLevel,
    ) -> Result<Self, LoadError> {
        let geometry = Geometry::new(options.max_flows, options.partitions, options.ring_parts);
        let secret = random_words::<SECRET_WORDS>().map_err(LoadError::Random)?;
        let elements = |each: u32| geometry.partitions.checked_mul(each);
        let (Some(buckets), Some(parts), Some(fragments), Some(macs)) = (
            elements(geometry.buckets),
            elements(geometry.ring_parts),
            elements(FRAGMENT_SETS),
            elements(MAC_PAIRS),
        ) else {
            return Err(LoadError::TooLarge {
                max_flows: geometry.max_flows(),
                partitions: geometry.partitions,
            });
        };
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(log)
            .override_global("BUCKET_MASK", &(geometry.buckets - 1), true)
            .override_global("RING_MASK", &(geometry.ring_parts - 1), true)
            .override_global("STORES_IN_ORDER", &u32::from(STORES_IN_ORDER), true)
            .override_global("TICK_NS", &tick_ns(), true)
            .override_global("HASH_SECRET", &secret, true)
            .override_global("WIDE_SHIFT", &geometry.wide_shift(), true)
            .override_global("FRAGMENT_MASK", &(FRAGMENT_SETS - 1), true)
            .override_global("TUNNELS_INNER", &u32::from(options.tunnels.inner), true)
            .override_global("VXLAN_PORTS", &packed(options.tunnels.vxlan), true)
            .override_global("GENEVE_PORTS", &packed(options.tunnels.geneve), true)
            .override_global("GTPU_PORTS", &packed(options.tunnels.gtpu), true)
            .map_max_entries("FLOWS_V4", buckets)
            .map_max_entries("ASIDES_V4", buckets)
            .map_max_entries("FLOWS_V6", buckets)
            .map_max_entries("ASIDES_V6", buckets)
            .map_max_entries("FLOWS_WIDE", buckets >> geometry.wide_shift())
            .map_max_entries("ASIDES_WIDE", buckets >> geometry.wide_shift())
            .map_max_entries("FRAGMENTS", fragments)
            .map_max_entries("MACS", macs)
            .map_max_entries("CPUS", geometry.partitions)
            .map_max_entries("RINGS", parts)
            .load(object)
            .map_err(|error| match error {
                aya::EbpfError::MapError(error) => LoadError::Maps(error),
                error => LoadError::Object(error),
            })?;
        for name in [PROGRAM, PROGRAM_FRAGS] {
            let program = program(&mut ebpf, name)?;
            program
                .load()
                .map_err(|source| LoadError::Program { name, source })?;
        }
        let maps = NamedMaps {
            v4: [map_fd(&ebpf, "FLOWS_V4")?, map_fd(&ebpf, "ASIDES_V4")?],
            v6: [map_fd(&ebpf, "FLOWS_V6")?, map_fd(&ebpf, "ASIDES_V6")?],
            wide: [map_fd(&ebpf, "FLOWS_WIDE")?, map_fd(&ebpf, "ASIDES_WIDE")?],
            macs: map_fd(&ebpf, "MACS")?,
            cpus: map_fd(&ebpf, "CPUS")?,
            stray: map_fd(&ebpf, "STRAY")?,
            rings: map_fd(&ebpf, "RINGS")?,
        };
        let shared = Shared::new(geometry, secret, &maps)?;
        let kernel = Self {
            ebpf,
            object: object.to_vec(),
            shared: Arc::new(shared),
        };
        kernel.seed(options.sampling).map_err(LoadError::Random)?;
        Ok(kernel)
    }

    /// The memory shared with the program.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// The loaded program, for drivers with or without frames of several buffers.
    ///
    /// # Errors
    /// The object is not ours.
    pub fn program(&mut self, frags: bool) -> Result<&mut Xdp, LoadError> {
        program(&mut self.ebpf, if frags { PROGRAM_FRAGS } else { PROGRAM })
    }

    /// The program that asks for the VLAN tags beside the frame, to be loaded for one interface
    /// after the other. It shares all maps with the ordinary one.
    ///
    /// # Errors
    /// The kernel has no such tags to tell, or the object no such program.
    pub fn rx_vlan(&self) -> Result<RxVlan, RxVlanError> {
        RxVlan::new(&self.object, &self.ebpf)
    }

    /// The object, for aya-log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Tells every CPU how to sample, from a random phase of its own.
    fn seed(&self, sampling: Sampling) -> io::Result<()> {
        let (word, parameter) = (sampling.word(0), sampling.parameter());
        // All CPUs select at the same time.
        let [phase_ns] = random_words::<1>()?;
        for cpu in 0..self.shared.geometry().partitions {
            let [mut state] = random_words::<1>()?;
            let skip = match word.method() {
                METHOD_COUNT => (next_random(&mut state) % u64::from(word.n())) as u32,
                METHOD_RANDOM => geometric_gap(next_random(&mut state), parameter),
                _ => 0,
            };
            if word.method() == METHOD_TIME {
                state = phase_ns % MAX_PHASE_NS;
            }
            self.shared.seed(cpu, word, parameter, state, skip);
        }
        Ok(())
    }
}

/// Above the longest period, and so small that no time of a running machine overflows with it.
const MAX_PHASE_NS: u64 = 1 << 53;

/// How long a tick of this kernel is: the resolution of its coarse clocks. 0 if it does not say.
fn tick_ns() -> u32 {
    let mut resolution = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure outlives the call.
    let rc = unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) };
    match (rc, resolution.tv_sec) {
        (0, 0) => u32::try_from(resolution.tv_nsec).unwrap_or(0),
        _ => 0,
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, LoadError> {
    ebpf.program_mut(name)
        .ok_or(LoadError::NoProgram(name))?
        .try_into()
        .map_err(|source| LoadError::Program { name, source })
}

fn map_fd<'a>(ebpf: &'a Ebpf, name: &'static str) -> Result<NamedMap<'a>, LoadError> {
    match ebpf.map(name) {
        Some(Map::Array(map)) => Ok((name, map.fd().as_fd())),
        _ => Err(LoadError::NoMap(name)),
    }
}

/// Ports in one word, as the program has them.
fn packed([a, b, c, d]: [u16; PORTS]) -> u64 {
    u64::from(a) | u64::from(b) << 16 | u64::from(c) << 32 | u64::from(d) << 48
}

/// Words from the kernel's random number generator.
pub(crate) fn random_words<const N: usize>() -> io::Result<[u64; N]> {
    let mut words = [0_u64; N];
    let octets = size_of_val(&words);
    // SAFETY: the buffer is as long as said.
    let got = unsafe { libc::getrandom(words.as_mut_ptr().cast(), octets, 0) };
    if usize::try_from(got) == Ok(octets) {
        Ok(words)
    } else {
        Err(io::Error::last_os_error())
    }
}
