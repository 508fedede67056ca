//! A guest under qemu: a network of its own, a console that is kept, and a shell that takes
//! commands one by one.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use flowprobe_tests::{netns::Netns, packets::DESTINATION_MAC, probe::end_with_parent};

use super::kernel;
use crate::interrupt;

/// No command takes so long, nor does booting: the verifier of 6.1 needed 316 s on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(900);
/// How often a guest is booted until one does.
const BOOTS: u32 = 3;
/// How often a wait looks for Ctrl-C.
const GLANCE: Duration = Duration::from_millis(100);
/// Lines of the console, or of what a command printed, that are shown when something fails.
const TAIL: usize = 30;
/// Of the guest, in MiB.
const MEMORY: u32 = 1024;

/// What a guest is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    /// CPU model of qemu.
    pub(crate) model: &'static str,
    /// CPUs, and queues of its interface.
    pub(crate) cpus: usize,
}

/// How the CPUs of a guest run on those of the machine.
#[derive(Clone, Copy, Debug)]
pub(super) enum Threads {
    /// Each on a thread of its own.
    SideBySide,
    /// One after the other, on one thread.
    InTurn,
}

/// Tells qemu what to emulate and what to boot there, but for what is attached. `memory` is in MiB;
/// `words` end the kernel's command line.
pub(super) fn describe(
    qemu: &mut Command,
    Machine { model, cpus }: Machine,
    threads: Threads,
    memory: u32,
    kernel: &kernel::Files,
    initramfs: &Path,
    words: &str,
) {
    let accelerator = match threads {
        Threads::SideBySide => "tcg,thread=multi",
        Threads::InTurn => "tcg,thread=single",
    };
    qemu.args(["-no-user-config", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-accel", accelerator])
        .args(["-cpu", model, "-m", &memory.to_string()])
        .args(["-smp", &cpus.to_string()])
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!("console=ttyS0 panic=-1 oops=panic {words}"));
}

/// A running qemu. Killed on drop.
#[derive(Debug)]
pub(super) struct Qemu {
    child: Child,
    lines: Receiver<String>,
}

/// What has been heard of a guest.
pub(super) enum Heard {
    /// A line of its output.
    Line(String),
    /// Nothing for so long.
    Nothing,
    /// The end of qemu.
    End,
}

impl Qemu {
    /// Starts it. What it has to say itself goes beside the guest's console.
    pub(super) fn start(command: &mut Command, console: &Path) -> Result<Self> {
        command
            .stdout(Stdio::piped())
            .stderr(fs::File::create(console.with_extension("qemu"))?)
            // Ctrl-C on a terminal is for this process, which then ends the guest.
            .process_group(0);
        end_with_parent(command);
        let mut child = command.spawn().context("cannot run qemu-system-x86_64")?;
        let output = child.stdout.take().context("no stdout")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, lines })
    }

    /// Waits for the next line until `deadline`, or for Ctrl-C, which is an error.
    pub(super) fn listen(&self, deadline: Instant) -> Result<Heard> {
        loop {
            interrupt::check()?;
            match self.lines.recv_timeout(GLANCE) {
                Ok(line) => return Ok(Heard::Line(line)),
                Err(RecvTimeoutError::Disconnected) => return Ok(Heard::End),
                Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => (),
                Err(RecvTimeoutError::Timeout) => return Ok(Heard::Nothing),
            }
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A running guest.
#[derive(Debug)]
pub(crate) struct Guest {
    // Ends before its network does.
    qemu: Qemu,
    /// The host's side of its network.
    pub(crate) network: Netns,
    input: ChildStdin,
    commands: u32,
}

impl Guest {
    /// The host's side of the wire.
    pub(crate) const WIRE: &str = "tap0";
    /// The guest's interface.
    pub(crate) const INTERFACE: &str = "eth0";
    /// Frames that the host's side holds for each queue of the guest. What comes while a queue is
    /// full is lost without a word.
    pub(crate) const QUEUE_LENGTH: usize = 4096;

    /// Boots one and waits until it takes commands. Now and then a kernel crashes under emulation as it
    /// patches its own code on one CPU while another runs it (int3), before anything of ours is there:
    /// then it is tried again.
    pub(crate) fn boot(
        machine: Machine,
        kernel: &kernel::Files,
        initramfs: &Path,
        console: &Path,
    ) -> Result<Self> {
        let mut tries = 1;
        loop {
            match Self::boot_once(machine, kernel, initramfs, console) {
                Err(error) if tries < BOOTS => {
                    interrupt::check()?;
                    tries += 1;
                    eprintln!("{error:#}; try {tries} of {BOOTS}");
                }
                result => return result,
            }
        }
    }

    fn boot_once(
        machine: Machine,
        kernel: &kernel::Files,
        initramfs: &Path,
        console: &Path,
    ) -> Result<Self> {
        let network = Netns::new("guest")?;
        let wire = Self::WIRE;
        network.ip(&format!(
            "tuntap add dev {wire} mode tap multi_queue\n\
             link set {wire} txqueuelen {} addrgenmode none multicast off arp off\n\
             link set {wire} up",
            Self::QUEUE_LENGTH
        ))?;
        let Machine { cpus, .. } = machine;
        let mut command = network.command("qemu-system-x86_64");
        let threads = Threads::SideBySide;
        describe(
            &mut command,
            machine,
            threads,
            MEMORY,
            kernel,
            initramfs,
            "",
        );
        command
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-chardev", "stdio,id=commands,signal=off"])
            .args(["-device", "virtio-serial-pci"])
            .args(["-device", "virtserialport,chardev=commands"])
            .arg("-netdev")
            .arg(format!(
                "tap,id=wire,ifname={wire},script=no,downscript=no,queues={cpus}"
            ))
            .arg("-device")
            // A vector for each queue in each direction, one for changes, one for control. The
            // device would drop frames of VLANs that the guest has not asked for.
            .arg(format!(
                "virtio-net-pci,netdev=wire,mac={},mq=on,vectors={},ctrl_vlan=off",
                colons(DESTINATION_MAC),
                2 * cpus + 2
            ))
            .stdin(Stdio::piped());
        let mut qemu = Qemu::start(&mut command, console)?;
        let input = qemu.child.stdin.take().context("no stdin")?;
        let mut guest = Self {
            qemu,
            network,
            input,
            commands: 0,
        };
        guest.run("true").context("the guest does not boot")?;
        Ok(guest)
    }

    /// Runs a command in the guest's shell and returns what it prints, on either stream.
    pub(crate) fn run(&mut self, command: &str) -> Result<String> {
        let (status, text) = self.status(command)?;
        ensure!(
            status == 0,
            "`{command}` in the guest: status {status}\n{}",
            last(&text)
        );
        Ok(text)
    }

    /// The same for a command that may fail: its exit status, and what it prints.
    pub(crate) fn status(&mut self, command: &str) -> Result<(i32, String)> {
        self.commands += 1;
        let mark = format!("-- end of command {}, status ", self.commands);
        // What a command prints need not end with a line.
        writeln!(
            self.input,
            "{{ {command}\n}} </dev/null; printf '\\n%s%s\\n' '{mark}' $?"
        )
        .context("the guest has ended")?;
        let deadline = Instant::now() + PATIENCE;
        let mut text = String::new();
        loop {
            match self.qemu.listen(deadline)? {
                Heard::Line(line) => match line.strip_prefix(&mark) {
                    Some(status) => {
                        return Ok((status.trim().parse()?, text.trim_end().to_owned()));
                    }
                    None => {
                        text.push_str(&line);
                        text.push('\n');
                    }
                },
                Heard::Nothing => bail!(
                    "`{command}` in the guest has not ended in {} s\n{text}",
                    PATIENCE.as_secs()
                ),
                Heard::End => bail!("the guest has ended, in `{command}`\n{text}"),
            }
        }
    }

    /// A file of the guest.
    pub(crate) fn read(&mut self, path: &str) -> Result<String> {
        self.run(&format!("cat {path}"))
    }

    /// The kernel's counter of frames that the guest's interface has received.
    pub(crate) fn received(&mut self) -> Result<u64> {
        let path = format!("/sys/class/net/{}/statistics/rx_packets", Self::INTERFACE);
        Ok(self.read(&path)?.parse()?)
    }
}

/// The last lines of what a guest's kernel and qemu said, where it has been started.
pub(crate) fn tail(console: &Path) -> Option<String> {
    let kernel = fs::read(console).ok()?;
    let qemu = fs::read(console.with_extension("qemu")).unwrap_or_default();
    let [kernel, qemu] = [kernel, qemu].map(|text| String::from_utf8_lossy(&text).into_owned());
    let qemu = qemu
        .lines()
        .filter(|line| !line.contains("TCG doesn't support"));
    let qemu: Vec<&str> = qemu.collect();
    Some(last(&format!("{}\n{kernel}", qemu.join("\n"))))
}

fn last(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(TAIL)..].join("\n")
}

fn colons(address: [u8; 6]) -> String {
    address.map(|octet| format!("{octet:02x}")).join(":")
}
