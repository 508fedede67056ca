//! The exporters that are compared, and how each is told to do the same.

use std::{
    env, fs,
    io::Read as _,
    os::fd::OwnedFd,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowprobe_tests::{
    bpf::{attach_xdp, load_xdp, op},
    judges::Directory,
    netns::Netns,
    probe::{Probe, end_with_parent},
    topology::Pair,
};

use super::cost::Cost;

/// Idle and active timeout of all, in seconds: no flow is over before the end, and not all of these
/// send what they have when they are told to stop.
pub(super) const IDLE: u32 = 5;
pub(super) const ACTIVE: u32 = 120;
/// Capture buffer of those that have one.
const BUFFER_MIB: u32 = 256;

/// Most flows that anybody has room for: flowprobe takes four gigabytes for them on two CPUs.
const MOST_ROOM: u32 = 1 << 22;

/// flowprobe past the kernel's stack.
const AFXDP: [&str; 2] = ["--mode", "afxdp"];

/// One that is compared.
pub(super) struct Subject {
    pub(super) name: &'static str,
    kind: Kind,
    /// It tells what it has counted.
    pub(super) counts: bool,
    /// Its program can be asked what it takes.
    pub(super) has_program: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Nobody,
    /// A program of XDP that drops all.
    Drop,
    /// See [`super::ring`].
    Ring,
    Flowprobe(&'static [&'static str]),
    Softflowd,
    Fprobe,
    Pmacctd,
    Nfpcapd,
}

impl Subject {
    fn of(name: &'static str, kind: Kind) -> Self {
        Self {
            name,
            kind,
            counts: !matches!(kind, Kind::Nobody | Kind::Drop),
            has_program: matches!(kind, Kind::Flowprobe(_)),
        }
    }

    /// Exporters, in the order in which they take turns.
    pub(super) fn exporters() -> Vec<Self> {
        vec![
            Self::of("nobody", Kind::Nobody),
            Self::of("flowprobe", Kind::Flowprobe(&[])),
            Self::of("with AF_XDP", Kind::Flowprobe(&AFXDP)),
            Self::of("softflowd", Kind::Softflowd),
            Self::of("fprobe", Kind::Fprobe),
            Self::of("pmacctd", Kind::Pmacctd),
            Self::of("nfpcapd", Kind::Nfpcapd),
        ]
    }

    /// Ways to get at packets.
    pub(super) fn ways() -> Vec<Self> {
        vec![
            Self::of("XDP_DROP", Kind::Drop),
            Self::of("packet ring", Kind::Ring),
            Self::of("xdp", Kind::Flowprobe(&[])),
            Self::of("afxdp", Kind::Flowprobe(&AFXDP)),
        ]
    }

    /// Whether it can be run here.
    pub(super) fn is_installed(&self) -> bool {
        let program = match self.kind {
            Kind::Nobody | Kind::Drop | Kind::Ring | Kind::Flowprobe(_) => return true,
            _ => self.name,
        };
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .chain(["/usr/sbin".into()])
            .any(|place| place.join(program).is_file())
    }

    /// Starts it on the sensor's interface, exporting to `port`.
    pub(super) fn start(&self, sensor: &Netns, port: u16, flows: u32) -> Result<Option<Running>> {
        let directory = Directory::new(&format!("{}-{}", sensor.name(), self.name))?;
        let room = (2 * flows).clamp(1 << 16, MOST_ROOM);
        let process = match self.kind {
            Kind::Nobody => return Ok(None),
            Kind::Drop => {
                let all = [op(0xb7, 0, 0, 0, 1), op(0x95, 0, 0, 0, 0)];
                let program = load_xdp("drop", &all)?;
                let index = sensor.index(Pair::SENSOR)?;
                let link = sensor.run(|| attach_xdp(&program, index))??;
                Process::Program(link)
            }
            Kind::Ring => {
                let mut command = sensor.command(env::current_exe()?);
                command.args(["packet-ring", "--interface", Pair::SENSOR, "--max-flows"]);
                command.arg((2 * flows).to_string()).stdout(Stdio::piped());
                Process::Other(start(command)?)
            }
            Kind::Flowprobe(more) => Process::Flowprobe(flowprobe(sensor, port, room, more)?),
            _ => {
                let line = self.command(&directory, port, room)?;
                let mut words = line.split(' ');
                let mut command = sensor.command(words.next().context("a command")?);
                command.args(words).stdout(Stdio::null());
                Process::Other(start(command)?)
            }
        };
        Ok(Some(Running {
            kind: self.kind,
            process,
            directory,
        }))
    }

    /// The command of another exporter.
    fn command(&self, directory: &Directory, port: u16, room: u32) -> Result<String> {
        let interface = Pair::SENSOR;
        Ok(match self.kind {
            Kind::Softflowd => format!(
                "softflowd -d -i {interface} -n 127.0.0.1:{port} -v 5 -m {room} -p none -c none \
                 -B {} -t udp={IDLE} -t general={IDLE} -t maxlife={ACTIVE} -t expint=1",
                BUFFER_MIB << 20
            ),
            // It stays in the foreground where it logs to standard output only.
            Kind::Fprobe => format!(
                "fprobe -l 2 -i {interface} -f ip -s 1 -d {IDLE} -e {ACTIVE} -B {} -q {room} -b {room} \
                 -p 127.0.0.1:{port}",
                BUFFER_MIB << 10
            ),
            Kind::Pmacctd => {
                let path = directory.path().join("pmacctd.conf");
                let buffer = BUFFER_MIB << 20;
                fs::write(
                    &path,
                    format!(
                        "daemonize: false\npcap_interface: {interface}\npmacctd_pipe_size: {buffer}\n\
                         plugins: nfprobe\naggregate: src_host, dst_host, src_port, dst_port, proto, tos\n\
                         plugin_pipe_size: {buffer}\nplugin_buffer_size: 102400\n\
                         nfprobe_receiver: 127.0.0.1:{port}\nnfprobe_version: 5\n\
                         nfprobe_maxflows: {room}\n\
                         nfprobe_timeouts: udp={IDLE}:general={IDLE}:maxlife={ACTIVE}:expint=1\n"
                    ),
                )?;
                format!("pmacctd -f {}", path.display())
            }
            Kind::Nfpcapd => format!(
                "nfpcapd -i {interface} -w {} -B {room} -b {BUFFER_MIB} -s 128 -e {ACTIVE},{IDLE} -t 3600",
                directory.path().display()
            ),
            _ => unreachable!("it has no command of its own"),
        })
    }
}

fn flowprobe(sensor: &Netns, port: u16, room: u32, more: &[&str]) -> Result<Probe> {
    let binary = env::current_exe()?.with_file_name("flowprobe");
    let collector = format!("udp://127.0.0.1:{port}?format=v5");
    let (room, idle, active) = (room.to_string(), IDLE.to_string(), ACTIVE.to_string());
    let arguments = [
        "--interface",
        Pair::SENSOR,
        "--collector",
        &collector,
        "--max-flows",
        &room,
        "--export-queue",
        &room,
        "--idle-timeout",
        &idle,
        "--active-timeout",
        &active,
    ];
    Probe::start_binary(&binary, sensor, &[&arguments[..], more].concat())
}

fn start(mut command: Command) -> Result<Child> {
    command.stdin(Stdio::null()).stderr(Stdio::null());
    end_with_parent(&mut command);
    let mut child = command.spawn()?;
    // None of them says when it is ready.
    thread::sleep(Duration::from_millis(1500));
    if let Some(status) = child.try_wait()? {
        anyhow::bail!("it ended at once: {status}");
    }
    Ok(child)
}

enum Process {
    /// Attached for as long as this lives.
    Program(OwnedFd),
    Flowprobe(Probe),
    Other(Child),
}

/// One that meters.
pub(super) struct Running {
    kind: Kind,
    process: Process,
    directory: Directory,
}

impl Running {
    fn pid(&self) -> Option<u32> {
        match &self.process {
            Process::Program(_) => None,
            Process::Flowprobe(probe) => Some(probe.pid()),
            Process::Other(child) => Some(child.id()),
        }
    }

    /// What it has taken so far.
    pub(super) fn cost(&self) -> Result<Cost> {
        self.pid().map_or(Ok(Cost::default()), Cost::of_tree)
    }

    /// Runs of its program, and the seconds that they took.
    pub(super) fn program(&self) -> Result<Option<(u64, f64)>> {
        Ok(match &self.process {
            Process::Flowprobe(probe) => {
                let (runs, ns) = probe.cost()?;
                Some((runs, ns as f64 / 1e9))
            }
            _ => None,
        })
    }

    /// Ends it as Ctrl-C does. Returns what it took in all and, if it has sent nothing, the packets and
    /// records that it has written.
    pub(super) fn stop(self) -> Result<(Cost, Option<(u64, u64)>)> {
        let before = Cost::of_ended()?;
        let last = self.cost()?;
        let mut said = String::new();
        match self.process {
            Process::Program(link) => drop(link),
            Process::Flowprobe(probe) => {
                let finished = probe.stop()?;
                finished.summary.assert_balanced();
            }
            Process::Other(mut child) => {
                let pid = i32::try_from(child.id())?;
                // SAFETY: a plain system call; the child is not waited for yet, so the number is its own.
                let rc = unsafe { libc::kill(pid, libc::SIGINT) };
                ensure!(rc == 0, "it is gone");
                if let Some(mut output) = child.stdout.take() {
                    output.read_to_string(&mut said)?;
                }
                child.wait()?;
            }
        }
        let ended = Cost::of_ended()?.since(before);
        // One that does not wait for its children has theirs in the last look only.
        let cost = Cost {
            user_s: ended.user_s.max(last.user_s),
            system_s: ended.system_s.max(last.system_s),
        };
        let own = match self.kind {
            Kind::Nfpcapd => Some(written(&self.directory)?),
            Kind::Ring => {
                let numbers = said.trim().split_once(' ');
                let (packets, records) = numbers.with_context(|| format!("not two: {said}"))?;
                Some((packets.parse()?, records.parse()?))
            }
            Kind::Drop => Some((0, 0)),
            _ => None,
        };
        Ok((cost, own))
    }
}

/// What nfdump finds in the files of a directory: packets and records.
fn written(directory: &Directory) -> Result<(u64, u64)> {
    let path: PathBuf = directory.path().to_owned();
    let mut command = Command::new("nfdump");
    command
        .arg("-R")
        .arg(path)
        .args(["-N", "-n", "1", "-s", "proto"]);
    let output = command.output().context("nfdump")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let summary = text
        .lines()
        .find(|line| line.starts_with("Summary:"))
        .with_context(|| format!("nfdump: no summary: {text}"))?;
    let number = |name: &str| {
        let (_, rest) = summary.split_once(name)?;
        rest.split(',').next()?.trim().parse::<u64>().ok()
    };
    let numbers = number("total packets:").zip(number("total flows:"));
    numbers.with_context(|| format!("nfdump: {summary}"))
}
