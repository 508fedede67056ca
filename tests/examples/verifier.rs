//! Asks the kernel that runs what its verifier makes of each program in flowprobe's object, or in
//! the one that is named, and prints the answer as JSON.
//!
//! The programs are loaded as flowprobe loads them, with its constants and maps.

use std::{collections::BTreeMap, env, fs, io};

use anyhow::{Context as _, Result, bail, ensure};
use aya::{
    VerifierLogLevel,
    programs::{Program, ProgramError},
};
use flowprobe::{
    load::{Class, Kernel, LoadError, OBJECT, Options, handover::HandoverError},
    sampling::Sampling,
};
use flowprobe_ebpf::{
    Tunnels,
    class::{Rule, side},
};
use flowprobe_tests::verifier::{Figures, Verdict, read_log};

/// What the verifier leaves out or not, by what is appended to the names of the programs: tunnels,
/// classes of packets, sampling beside the metering of everything.
const SETTINGS: [(&str, Tunnels, &[Class], Option<Sampling>); 4] = [
    ("", Tunnels::OUTER, &[], None),
    (" (tunnels inner)", Tunnels::INNER, &[], None),
    (" (classes)", Tunnels::OUTER, &[PORTS], None),
    (" (shadow)", Tunnels::OUTER, &[], Some(Sampling::All)),
];

/// A class that asks for the packet. How many there are does not matter: the verifier does not know
/// what the rules say.
const PORTS: Class = Class {
    rule: Rule {
        ifindex: 0,
        protocol: 17 + 1,
        port_sides: side::SOURCE | side::DESTINATION,
        net_sides: 0,
        first_port: 53,
        last_port: 53,
        version: 0,
        net: [0; 2],
        mask: [0; 2],
    },
    sampling: Sampling::All,
};

/// Lines of the log of a refusal.
const TAIL: usize = 12;

fn main() -> Result<()> {
    let object = match env::args_os().nth(1) {
        Some(path) => fs::read(&path).with_context(|| path.display().to_string())?,
        None => OBJECT.to_vec(),
    };
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let mut verdict = Verdict {
        release: release.trim().to_owned(),
        programs: BTreeMap::new(),
        refused: BTreeMap::new(),
    };
    for (setting, tunnels, class, shadow) in SETTINGS {
        let classes: Vec<Class> = class
            .iter()
            .cycle()
            .take(31 * class.len())
            .copied()
            .collect();
        // Sizes do not change what the verifier does, so the maps are small.
        let options = Options {
            max_flows: 1 << 10,
            partitions: 1,
            ring_parts: 1 << 10,
            sampling: Sampling::All,
            classes: &classes,
            sample_key: 0,
            shadow,
            tunnels,
            dedup: &[],
        };
        // A trace would have to be written again and again until it fits; only a refusal needs one.
        let loaded = Kernel::load_with_log(&object, &options, VerifierLogLevel::STATS);
        let loaded = match loaded {
            Err(LoadError::Program { .. }) => Kernel::load(&object, &options),
            loaded => loaded,
        };
        match loaded {
            Ok(mut kernel) => {
                // Those that ask a device for its VLAN tags can be loaded for a device only, with a
                // call that the loader puts in: the tests on a veth do.
                let programs = kernel.ebpf_mut().programs_mut();
                let own =
                    |name: &str| name.contains("rx_vlan") || name.starts_with("flowprobe_hand");
                for (name, program) in programs.filter(|(name, _)| !own(name)) {
                    let name = format!("{name}{setting}");
                    let figures = ask(program).with_context(|| format!("program {name}"))?;
                    verdict.programs.insert(name, figures);
                }
                for (name, figures) in handing(&kernel)? {
                    verdict.programs.insert(format!("{name}{setting}"), figures);
                }
            }
            Err(LoadError::Program { name, source }) => {
                let log = source.to_string();
                // Kernel 7.3 has a line for each function behind the reason.
                let lines = log.lines().filter(|line| !line.starts_with("subprog "));
                let lines: Vec<&str> = lines.collect();
                let end = lines[lines.len().saturating_sub(TAIL)..].join("\n");
                verdict.refused.insert(format!("{name}{setting}"), end);
            }
            Err(error) => return Err(error.into()),
        }
    }
    println!("{}", serde_json::to_string(&verdict)?);
    Ok(())
}

fn ask(program: &mut Program) -> Result<Figures> {
    if program.fd().is_err() {
        load(program)?;
    }
    let info = program.info()?;
    let log = log_of_success(program)?;
    let (instructions, stack) = read_log(&log).with_context(|| format!("no figures in {log}"))?;
    Ok(Figures {
        instructions,
        stack,
        translated: info.size_translated().context("no translated size")?.into(),
        jited: info.size_jitted().into(),
    })
}

/// Those that hand packets over, which flowprobe loads itself; none in an older object.
fn handing(kernel: &Kernel) -> Result<Vec<(&'static str, Figures)>> {
    let handover = match kernel.handover() {
        Err(HandoverError::Load(LoadError::NoMap(_))) => return Ok(Vec::new()),
        handover => handover?,
    };
    let figures = handover.verified()?.into_iter().map(|verified| {
        let log = &verified.log;
        let (instructions, stack) =
            read_log(log).with_context(|| format!("no figures in {log}"))?;
        let figures = Figures {
            instructions,
            stack,
            translated: verified.translated as u64,
            jited: verified.machine_code as u64,
        };
        Ok((verified.name, figures))
    });
    figures.collect()
}

/// The verifier's log of a program that it takes.
///
/// aya returns the log of a failure only. Without a free descriptor loading fails too, at its last
/// step, when the verifier is done.
fn log_of_success(program: &mut Program) -> Result<String> {
    match program {
        Program::Xdp(program) => program.unload()?,
        Program::SchedClassifier(program) => program.unload()?,
        _ => return Err(ProgramError::UnexpectedProgramType.into()),
    }
    let before = descriptors()?;
    limit_descriptors(libc::rlimit {
        rlim_cur: 0,
        ..before
    })?;
    let refused = load(program);
    limit_descriptors(before)?;
    match refused {
        Err(ProgramError::LoadError {
            io_error,
            verifier_log,
        }) if io_error.raw_os_error() == Some(libc::EMFILE) => Ok(verifier_log.to_string()),
        Err(error) => Err(error.into()),
        Ok(()) => bail!("loaded without a descriptor"),
    }
}

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::Xdp(program) => program.load(),
        Program::SchedClassifier(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

fn descriptors() -> Result<libc::rlimit> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: `limit` is the structure that the call fills.
    let result = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) };
    ensure!(result == 0, "getrlimit: {}", io::Error::last_os_error());
    Ok(limit)
}

fn limit_descriptors(limit: libc::rlimit) -> Result<()> {
    // SAFETY: `limit` is a whole structure, which the call only reads.
    let result = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    ensure!(result == 0, "setrlimit: {}", io::Error::last_os_error());
    Ok(())
}
