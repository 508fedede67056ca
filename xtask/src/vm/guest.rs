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

/// No command takes so long on a machine that works, nor does booting.
const PATIENCE: Duration = Duration::from_secs(240);
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

/// Tells qemu what to emulate, but for what is attached and what runs. `memory` is in MiB.
pub(super) fn describe(
    qemu: &mut Command,
    model: &str,
    cpus: usize,
    threads: Threads,
    memory: u32,
) {
    let accelerator = match threads {
        Threads::SideBySide => "tcg,thread=multi",
        Threads::InTurn => "tcg,thread=single",
    };
    qemu.args(["-no-user-config", "-nodefaults", "-no-reboot"])
        .args(["-display", "none", "-accel", accelerator])
        .args(["-cpu", model, "-m", &memory.to_string()])
        .args(["-smp", &cpus.to_string()]);
}

/// A running guest. Killed on drop.
#[derive(Debug)]
pub(crate) struct Guest {
    /// The host's side of its network.
    pub(crate) network: Netns,
    qemu: Child,
    input: ChildStdin,
    lines: Receiver<String>,
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

    /// Boots one and waits until it takes commands.
    pub(crate) fn boot(
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
        let Machine { model, cpus } = machine;
        let mut command = network.command("qemu-system-x86_64");
        describe(&mut command, model, cpus, Threads::SideBySide, MEMORY);
        command
            .arg("-kernel")
            .arg(&kernel.image)
            .arg("-initrd")
            .arg(initramfs)
            .args(["-append", "console=ttyS0 panic=-1 oops=panic"])
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
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(fs::File::create(console.with_extension("qemu"))?)
            // Ctrl-C on a terminal is for this process, which then ends the guest.
            .process_group(0);
        end_with_parent(&mut command);
        let mut qemu = command.spawn().context("cannot run ip netns exec")?;
        let input = qemu.stdin.take().context("no stdin")?;
        let output = qemu.stdout.take().context("no stdout")?;
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut guest = Self {
            network,
            qemu,
            input,
            lines,
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
            interrupt::check()?;
            match self.lines.recv_timeout(GLANCE) {
                Ok(line) => match line.strip_prefix(&mark) {
                    Some(status) => {
                        return Ok((status.trim().parse()?, text.trim_end().to_owned()));
                    }
                    None => {
                        text.push_str(&line);
                        text.push('\n');
                    }
                },
                Err(RecvTimeoutError::Timeout) => ensure!(
                    Instant::now() < deadline,
                    "`{command}` in the guest has not ended in {} s\n{text}",
                    PATIENCE.as_secs()
                ),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the guest has ended, in `{command}`\n{text}")
                }
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

impl Drop for Guest {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
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
