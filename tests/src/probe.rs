//! flowprobe as a child process.

use std::{
    env,
    io::{BufRead as _, BufReader},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError, channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    flow::{Flow, Truth},
    netns::Netns,
    packets::{Packet, truth},
    sender::Sender,
    summary::Summary,
};

/// How long flowprobe may take to load, attach and say so, or to sweep and leave.
const PATIENCE: Duration = Duration::from_secs(120);

/// What flowprobe logs once it is attached everywhere.
const READY: &str = "metering";

/// A running `flowprobe run`. Killed on drop.
#[derive(Debug)]
pub struct Probe {
    child: Child,
    /// Lines of its log, as they come.
    log: Receiver<String>,
    seen_log: Vec<String>,
    flows: Option<JoinHandle<Result<Vec<Flow>>>>,
    summary: PathBuf,
}

/// What is left of a flowprobe that has ended by itself or by a signal.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// What it printed, if there was no collector.
    pub flows: Vec<Flow>,
    /// The file of `--summary`.
    pub summary: Summary,
    /// What it logged.
    pub log: String,
}

impl Finished {
    /// Every octet of these packets was seen as often as `times` says, and their flows are all that
    /// was exported, with exact counts.
    #[track_caller]
    pub fn assert_exact(&self, packets: &[Packet], times: usize) {
        let octets: usize = packets.iter().map(|packet| packet.frame.len()).sum();
        let ledger = &self.summary.ledger;
        assert_eq!(ledger.seen.octets, (octets * times) as u64);
        assert_eq!(ledger.held.records, 0);
        truth(packets, times as u64).assert_equals(&Truth::of(&self.flows));
    }
}

/// The binary beside the test, or the example of cargo, that runs.
///
/// # Errors
/// Where it is not built.
pub fn binary() -> Result<PathBuf> {
    let me = env::current_exe()?;
    let beside = me.ancestors().skip(1).map(|place| place.join("flowprobe"));
    beside.take(3).find(|file| file.is_file()).with_context(|| {
        format!(
            "no flowprobe near {}: run `cargo build -p flowprobe` (`cargo xtask test` does)",
            me.display()
        )
    })
}

/// A command that runs flowprobe in a namespace.
///
/// # Errors
/// Where it is not built.
pub fn command(namespace: &Netns) -> Result<Command> {
    Ok(namespace.command(binary()?))
}

impl Probe {
    /// Starts `flowprobe run` with a summary, and waits until it meters.
    ///
    /// # Errors
    /// What flowprobe logged, where it ends instead.
    pub fn start(namespace: &Netns, arguments: &[&str]) -> Result<Self> {
        Self::start_binary(&binary()?, namespace, arguments)
    }

    /// The same with another binary.
    ///
    /// # Errors
    /// What flowprobe logged, where it ends instead.
    pub fn start_binary(binary: &Path, namespace: &Netns, arguments: &[&str]) -> Result<Self> {
        let summary = env::temp_dir().join(format!("{}-summary.json", namespace.name()));
        let mut command = namespace.command(binary);
        command.args(["run", "--summary"]);
        command.arg(&summary).args(arguments);
        if !arguments.contains(&"--control") {
            // The usual place has room for one.
            command.arg("--no-control");
        }
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        // Ctrl-C on a terminal is for the parent, which then stops its children in order.
        command.process_group(0);
        end_with_parent(&mut command);
        let mut child = command.spawn().context("cannot run ip netns exec")?;
        let stdout = child.stdout.take().context("no stdout")?;
        let stderr = child.stderr.take().context("no stderr")?;
        // Parsed as they come: a million flows as text would be half a gigabyte.
        let flows = thread::spawn(move || {
            let lines = BufReader::new(stdout).lines();
            lines.map(|line| Flow::from_json(&line?)).collect()
        });
        let (sender, log) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut probe = Self {
            child,
            log,
            seen_log: Vec::new(),
            flows: Some(flows),
            summary,
        };
        probe.wait_for_log(READY)?;
        Ok(probe)
    }

    /// The process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How often its program ran and how long that took in all, in nanoseconds, while the
    /// kernel counted (see [`crate::bpf::enable_stats`]).
    ///
    /// # Errors
    /// Where it is gone, or has no program.
    pub fn cost(&self) -> Result<(u64, u64)> {
        let number = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        let descriptors = format!("/proc/{}/fdinfo", self.child.id());
        let mut most = None;
        for entry in std::fs::read_dir(descriptors)? {
            // Descriptors come and go while this looks.
            let text = std::fs::read_to_string(entry?.path()).unwrap_or_default();
            if let Some(runs) = number(&text, "run_cnt:")
                && let Some(time) = number(&text, "run_time_ns:")
            {
                most = most.max(Some((runs, time)));
            }
        }
        most.context("flowprobe has no program")
    }

    /// Waits until a line of the log contains `text`.
    ///
    /// # Errors
    /// Where flowprobe ends or says nothing for long.
    pub fn wait_for_log(&mut self, text: &str) -> Result<()> {
        loop {
            match self.log.recv_timeout(PATIENCE) {
                Ok(line) => {
                    let found = line.contains(text);
                    self.seen_log.push(line);
                    if found {
                        return Ok(());
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!(
                        "flowprobe never logged {text:?}:\n{}",
                        self.seen_log.join("\n")
                    )
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("flowprobe ended, {status}:\n{}", self.seen_log.join("\n"))
                }
            }
        }
    }

    /// Whether it has logged `text` by now, in a line that nobody has waited for yet.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn has_logged(&mut self, text: &str) -> Result<bool> {
        loop {
            match self.log.try_recv() {
                Ok(line) => {
                    let found = line.contains(text);
                    self.seen_log.push(line);
                    if found {
                        return Ok(true);
                    }
                }
                Err(TryRecvError::Empty) => return Ok(false),
                Err(TryRecvError::Disconnected) => {
                    let status = self.child.wait()?;
                    bail!("flowprobe ended, {status}:\n{}", self.seen_log.join("\n"))
                }
            }
        }
    }

    /// Stops it as Ctrl-C does, and reads what it left.
    ///
    /// # Errors
    /// Where it does not exit with 0, or its output does not parse.
    pub fn stop(self) -> Result<Finished> {
        self.signal(libc::SIGINT)?;
        self.wait()
    }

    /// Sends frames in order to what it meters, as often as `times` says, and stops it: the ledger
    /// balances, each frame was seen, and none lost.
    ///
    /// # Errors
    /// As [`Sender::send`] and [`Probe::stop`].
    pub fn meter<F: AsRef<[u8]>>(
        self,
        sender: &Sender,
        frames: &[F],
        times: usize,
    ) -> Result<Finished> {
        for _ in 0..times {
            sender.send(frames)?;
        }
        let finished = self.stop()?;
        let summary = &finished.summary;
        summary.assert_balanced();
        summary.assert_nothing_lost();
        assert_eq!(summary.ledger.seen.packets, (frames.len() * times) as u64);
        Ok(finished)
    }

    /// Waits until it ends by itself, and reads what it left.
    ///
    /// # Errors
    /// Where it does not exit with 0, or its output does not parse.
    pub fn wait(mut self) -> Result<Finished> {
        let flows = self.flows.take().context("waited for twice")?;
        let flows = flows.join().expect("no panic")?;
        let status = self.child.wait()?;
        self.seen_log.extend(self.log.iter());
        let log = self.seen_log.join("\n");
        ensure!(status.success(), "flowprobe: {status}\n{log}");
        let summary = std::fs::read(&self.summary)
            .with_context(|| format!("no summary {}\n{log}", self.summary.display()))?;
        let summary = serde_json::from_slice(&summary).with_context(|| {
            let text = String::from_utf8_lossy(&summary).into_owned();
            format!("the summary is not as documented: {text}")
        })?;
        Ok(Finished {
            status,
            flows,
            summary,
            log,
        })
    }

    /// Kills it with a signal that it cannot catch, and waits until it is gone.
    ///
    /// # Errors
    /// Where it is gone already.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn signal(&self, signal: i32) -> Result<()> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: a plain system call; the child is not waited for yet, so the number is its own.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "flowprobe is gone");
        Ok(())
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.summary);
    }
}

/// Runs flowprobe with arguments that it has to refuse, or that make it end by itself.
///
/// # Errors
/// Where it cannot be run.
pub fn output(namespace: &Netns, arguments: &[&str]) -> Result<Output> {
    let mut command = command(namespace)?;
    end_with_parent(&mut command);
    Ok(command.args(arguments).stdin(Stdio::null()).output()?)
}

/// A child that outlives a killed test would keep its namespace.
pub fn end_with_parent(command: &mut Command) {
    let set = || {
        // SAFETY: a plain system call, safe between fork and exec.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
        Ok(())
    };
    // SAFETY: `set` allocates nothing and takes no lock.
    unsafe { command.pre_exec(set) };
}
