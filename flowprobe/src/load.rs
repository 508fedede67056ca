//! Puts the kernel half into the kernel: sizes its maps, sets its constants, seeds its samplers,
//! and maps the memory it shares.

pub mod handover;
pub mod linked;
pub mod rx_vlan;

use std::{
    io,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
};

use aya::{
    Ebpf, EbpfLoader, VerifierLogLevel,
    maps::{Array, Map, MapError},
    programs::{Program, ProgramError, SchedClassifier, Xdp},
};
use flowprobe_ebpf::{
    class::Rule,
    hash::SECRET_WORDS,
    macs::MAC_PAIRS,
    parse::{Tunnels, tunnel::PORTS},
    sampling::SHADOW_CLASS,
};

use self::{
    handover::{Handover, HandoverError},
    linked::Linked,
    rx_vlan::{RxVlan, RxVlanError},
};
use crate::{
    attach::{LinkLayer, Way},
    sampling::Sampling,
    table::{
        Geometry, Shared,
        shared::{self, NamedMap, NamedMaps},
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

/// A class of packets with a sampling rate of its own.
#[derive(Clone, Copy, Debug)]
pub struct Class {
    /// What its packets have in common.
    pub rule: Rule,
    /// Which of them to meter.
    pub sampling: Sampling,
}

/// What can be chosen about the kernel half.
#[derive(Clone, Copy, Debug)]
pub struct Options<'a> {
    /// Flows in each table (IPv4, IPv6) of each CPU; rounded up to a power of two. The table of
    /// wide keys has a quarter of them.
    pub max_flows: u32,
    /// CPUs that get a partition; the others' packets are counted as lost.
    pub partitions: u32,
    /// Parts in each ring, a power of two.
    pub ring_parts: u32,
    /// Which packets to meter, of those that are of none of `classes`.
    pub sampling: Sampling,
    /// Classes 1, 2, …: a packet is of the first whose rule it meets. At most 31.
    pub classes: &'a [Class],
    /// Initialiser of the hashes that select packets and flows.
    pub sample_key: u32,
    /// What to sample beside the metering of everything.
    pub shadow: Option<Sampling>,
    /// Which tunnels to open.
    pub tunnels: Tunnels,
    /// Of a packet that comes in and goes out, count what comes in only: the indices of interfaces
    /// on which that is seen. Nothing of it where this is empty.
    pub dedup: &'a [u32],
}

impl Options<'_> {
    /// Samplings of all classes, in their order.
    fn samplings(&self) -> impl Iterator<Item = Sampling> {
        let others = self.classes.iter().map(|class| class.sampling);
        std::iter::once(self.sampling).chain(others)
    }

    /// Whether a packet has to be parsed before a sampler can be asked about it.
    #[must_use]
    pub fn parse_first(&self) -> bool {
        self.samplings().any(Sampling::asks_for_packet)
            || self
                .classes
                .iter()
                .any(|class| class.rule.asks_for_packet())
    }
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
    Maps(MapError),
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
    phase_ns: u64,
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
    pub fn load(object: &[u8], options: &Options<'_>) -> Result<Self, LoadError> {
        Self::load_with_log(object, options, VerifierLogLevel::default())
    }

    /// The same, where it is chosen how much the verifier logs.
    ///
    /// # Errors
    /// What the kernel refused, and what to do.
    pub fn load_with_log(
        object: &[u8],
        options: &Options<'_>,
        log: VerifierLogLevel,
    ) -> Result<Self, LoadError> {
        let mut geometry = Geometry::new(options.max_flows, options.partitions, options.ring_parts);
        let cpus = geometry.partitions;
        if options.shadow.is_some() {
            geometry = geometry.with_shadow();
        }
        let parse_first = options.parse_first();
        let many_classes = parse_first || !options.classes.is_empty();
        let classes = match many_classes {
            true => 1 + options.classes.len() as u32,
            false => 0,
        };
        let shadow = if geometry.shadow { cpus } else { 0 };
        let [phase] = random_words::<1>().map_err(LoadError::Random)?;
        let phase_ns = phase % MAX_PHASE_NS;
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
        let samplers = shared::samplers(geometry.partitions, many_classes) as u32;
        let mut ebpf = EbpfLoader::new()
            .verifier_log_level(log)
            .override_global("BUCKET_MASK", &(geometry.buckets - 1), true)
            .override_global("RING_MASK", &(geometry.ring_parts - 1), true)
            .override_global("STORES_IN_ORDER", &u32::from(STORES_IN_ORDER), true)
            .override_global("TICK_NS", &tick_ns(), true)
            .override_global("PHASE_NS", &phase_ns, true)
            .override_global("SEVERAL_SAMPLERS", &(classes | shadow), true)
            .override_global("CLASSES", &classes, true)
            .override_global("PARSE_FIRST", &u32::from(parse_first), true)
            .override_global("SAMPLE_KEY", &options.sample_key, true)
            .override_global("SHADOW", &shadow, true)
            .override_global("HASH_SECRET", &secret, true)
            .override_global("WIDE_SHIFT", &geometry.wide_shift(), true)
            .override_global("FRAGMENT_MASK", &(FRAGMENT_SETS - 1), true)
            .override_global("DEDUP", &u32::from(!options.dedup.is_empty()), true)
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
            .map_max_entries("SAMPLERS", samplers)
            .map_max_entries("WATCHED", indices(options.dedup))
            .load(object)
            .map_err(|error| match error {
                aya::EbpfError::MapError(error) => LoadError::Maps(error),
                error => LoadError::Object(error),
            })?;
        say_watched(&mut ebpf, options.dedup)?;
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
            samplers: map_fd(&ebpf, "SAMPLERS")?,
            rules: map_fd(&ebpf, "RULES")?,
        };
        let shared = Shared::new(geometry, secret, many_classes, &maps)?;
        let kernel = Self {
            phase_ns,
            ebpf,
            object: object.to_vec(),
            shared: Arc::new(shared),
        };
        kernel.seed(options).map_err(LoadError::Random)?;
        Ok(kernel)
    }

    /// The memory shared with the program.
    #[must_use]
    pub fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// What time-based sampling adds to CLOCK_MONOTONIC: its random phase.
    #[must_use]
    pub fn phase_ns(&self) -> u64 {
        self.phase_ns
    }

    /// The loaded program, for drivers with or without frames of several buffers.
    ///
    /// # Errors
    /// The object is not ours.
    pub fn program(&mut self, frags: bool) -> Result<&mut Xdp, LoadError> {
        program(&mut self.ebpf, if frags { PROGRAM_FRAGS } else { PROGRAM })
    }

    /// The program of traffic control for packets of this way and link layer, loaded when it is asked
    /// for first. It shares all maps with the others.
    ///
    /// # Errors
    /// The object is not ours, or the kernel refused the program.
    pub fn tc(&mut self, way: Way, layer: LinkLayer) -> Result<&mut SchedClassifier, LoadError> {
        let name = match (way, layer) {
            (Way::In, LinkLayer::Ethernet) => "flowprobe_tc",
            (Way::In, LinkLayer::None) => "flowprobe_tc_ip",
            (Way::Out, LinkLayer::Ethernet) => "flowprobe_out",
            (Way::Out, LinkLayer::None) => "flowprobe_out_ip",
        };
        let program = self.ebpf.program_mut(name);
        let refused = |source| LoadError::Program { name, source };
        let program: &mut SchedClassifier = program
            .ok_or(LoadError::NoProgram(name))?
            .try_into()
            .map_err(refused)?;
        if program.fd().is_err() {
            program.load().map_err(refused)?;
        }
        Ok(program)
    }

    /// The programs of traffic control that have been asked for.
    pub(crate) fn loaded_tc(&self) -> impl Iterator<Item = io::Result<OwnedFd>> {
        let programs = self.ebpf.programs().map(|(_, program)| program);
        programs.filter_map(|program| match program {
            Program::SchedClassifier(program) => {
                let fd = program.fd().ok()?;
                Some(fd.as_fd().try_clone_to_owned())
            }
            _ => None,
        })
    }

    /// The program that asks for the VLAN tags beside the frame, to be loaded for one interface
    /// after the other. It shares all maps with the ordinary one.
    ///
    /// # Errors
    /// The kernel has no such tags to tell, or the object no such program.
    pub fn rx_vlan(&self) -> Result<RxVlan, RxVlanError> {
        let linked = Linked::new(&self.object, &self.ebpf, None)?;
        RxVlan::new(&linked, rx_vlan::METERING)
    }

    /// The programs that hand packets over to userspace, with what they share with it. They share all
    /// maps with the ordinary ones, of which they use no table.
    ///
    /// # Errors
    /// The kernel has no AF_XDP, or refused a program.
    pub fn handover(&self) -> Result<Handover, HandoverError> {
        let ports = map_fd(&self.ebpf, "PORTS")?;
        let heartbeats = map_fd(&self.ebpf, "HEARTBEATS")?;
        Handover::new(&self.object, &self.ebpf, ports, heartbeats)
    }

    /// The object, for aya-log.
    pub fn ebpf_mut(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// Tells every CPU its partition, and how to sample.
    fn seed(&self, options: &Options<'_>) -> io::Result<()> {
        let shared = &self.shared;
        for (i, class) in options.classes.iter().enumerate() {
            shared.set_rule(i as u8 + 1, &class.rule);
        }
        let geometry = shared.geometry();
        for partition in 0..geometry.partitions {
            shared.seed(partition);
            let seed = |class, sampling| {
                let [random] = random_words::<1>()?;
                shared.seed_sampler(partition, class, sampling, random);
                io::Result::Ok(())
            };
            match options.shadow {
                Some(sampling) if partition >= geometry.cpus() => seed(SHADOW_CLASS, sampling)?,
                _ => {
                    for (class, sampling) in options.samplings().enumerate() {
                        seed(class as u8, sampling)?;
                    }
                }
            }
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

/// Elements of the map of interfaces: 8 octets for each index up to the last one, which the kernel
/// counts up from 1.
fn indices(interfaces: &[u32]) -> u32 {
    interfaces.iter().max().map_or(1, |last| last + 1)
}

fn say_watched(ebpf: &mut Ebpf, interfaces: &[u32]) -> Result<(), LoadError> {
    if interfaces.is_empty() {
        return Ok(());
    }
    let map = ebpf.map_mut("WATCHED").ok_or(LoadError::NoMap("WATCHED"))?;
    let mut watched: Array<_, u32> = map.try_into().map_err(LoadError::Maps)?;
    for interface in interfaces {
        watched.set(*interface, 1, 0).map_err(LoadError::Maps)?;
    }
    Ok(())
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
