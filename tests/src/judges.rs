//! Collectors that others wrote, and their reading of what flowprobe exports: nfdump's, tshark's,
//! pmacct's and libfixbuf's.

pub mod dissection;
mod pmacct;
mod reading;
mod replay;

pub use pmacct::{Nfacctd, Sum};
pub use reading::Reading;
pub use replay::{replay, without_intervals};

use std::{
    env, fs,
    io::Write as _,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use crate::{collector::Datagram, netns::Netns, probe::end_with_parent};

/// A directory that goes away with its guard.
#[derive(Debug)]
pub struct Directory(PathBuf);

impl Directory {
    /// Makes one.
    ///
    /// # Errors
    /// Where the file system refuses.
    pub fn new(name: &str) -> Result<Self> {
        let path = env::temp_dir().join(name);
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A running nfcapd.
#[derive(Debug)]
pub struct Nfcapd {
    child: Child,
    directory: Directory,
}

impl Nfcapd {
    /// Starts it at 127.0.0.1 in a namespace, and waits until it listens.
    ///
    /// # Errors
    /// Where it is not installed or does not start.
    pub fn start(namespace: &Netns, port: u16) -> Result<Self> {
        Self::start_at(namespace, "127.0.0.1", port)
    }

    /// The same at another address there.
    ///
    /// # Errors
    /// Where it is not installed or does not start.
    pub fn start_at(namespace: &Netns, address: &str, port: u16) -> Result<Self> {
        let directory = Directory::new(&format!("{}-nfcapd-{port}", namespace.name()))?;
        let mut command = namespace.command("nfcapd");
        command.args(["-p", &port.to_string(), "-b", address, "-t", "3600"]);
        command.args(["-I", "judge", "-B", "67108864", "-w"]);
        command.arg(directory.path());
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        end_with_parent(&mut command);
        let child = command.spawn().context("cannot run ip netns exec")?;
        let nfcapd = Self { child, directory };
        wait_for_port(namespace, port, "nfcapd does not listen (package nfdump)")?;
        Ok(nfcapd)
    }

    /// Ends it in order, so that it writes its file, and reads that with nfdump.
    ///
    /// # Errors
    /// Where nfdump cannot read it.
    pub fn stop(mut self) -> Result<Judgement> {
        let pid = i32::try_from(self.child.id())?;
        // SAFETY: a plain system call; the child is not waited for yet, so the number is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
        self.child.wait()?;
        let flows = nfdump(&["-q", "-R"], self.directory.path(), &["-o", "json"])?;
        // With -q it prints the objects and the commas between them, but no brackets.
        let flows = serde_json::from_str(&format!("[{flows}]")).with_context(|| flows.clone())?;
        let mut samplers = String::new();
        for entry in fs::read_dir(self.directory.path())? {
            let path = entry?.path();
            if path.to_string_lossy().contains("nfcapd.") {
                samplers += &nfdump(&["-E"], &path, &[])?;
            }
        }
        Ok(Judgement { flows, samplers })
    }
}

impl Drop for Nfcapd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until something listens at a UDP port.
fn wait_for_port(namespace: &Netns, port: u16, failure: &str) -> Result<()> {
    // The port in hexadecimal, as /proc/net/udp has it.
    let listening = format!(":{port:04X} ");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let sockets = namespace.run(|| fs::read_to_string("/proc/thread-self/net/udp"))??;
        if sockets.contains(&listening) {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{failure}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Waits until what listens at a UDP port has read all that came.
///
/// # Errors
/// Where it does not within 20 seconds, or nothing listens there.
pub fn wait_until_read(namespace: &Netns, port: u16) -> Result<()> {
    let address = format!(":{port:04X}");
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let sockets = namespace.run(|| fs::read_to_string("/proc/thread-self/net/udp"))??;
        let line = sockets.lines().map(|line| line.split_whitespace());
        // Number, own address, peer, state, queues as `tx:rx`.
        let mut queues = line.filter_map(|mut fields| {
            let own = fields.nth(1)?;
            own.ends_with(&address).then(|| fields.nth(2))?
        });
        let queues = queues.next().context("nothing listens")?;
        if queues.ends_with(":00000000") {
            return Ok(());
        }
        ensure!(
            Instant::now() < deadline,
            "port {port} is not read: {queues}"
        );
        thread::sleep(Duration::from_millis(2));
    }
}

/// What nfdump understood.
#[derive(Debug)]
pub struct Judgement {
    /// One object for each record.
    pub flows: Vec<Value>,
    /// What `nfdump -E` says of exporters and samplers.
    pub samplers: String,
}

fn nfdump(before: &[&str], path: &Path, after: &[&str]) -> Result<String> {
    let output = Command::new("nfdump")
        .env("TZ", "UTC")
        .args(before)
        .arg(path)
        .args(after)
        .output()
        .context("cannot run nfdump (package nfdump)")?;
    ensure!(
        output.status.success(),
        "nfdump: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8(output.stdout)?)
}

/// tshark's dissection of the messages, one object each, as `-T json` prints it.
///
/// # Errors
/// Where tshark is not installed or fails.
pub fn tshark(name: &str, datagrams: &[Datagram], port: u16) -> Result<Vec<Value>> {
    let directory = Directory::new(&format!("{name}-tshark"))?;
    let capture = directory.path().join("messages.pcap");
    fs::write(&capture, pcap(datagrams, port)?)?;
    let output = Command::new("tshark")
        .arg("-r")
        .arg(&capture)
        .args(["-d", &format!("udp.port=={port},cflow"), "-T", "json"])
        .arg("--no-duplicate-keys")
        .env("TZ", "UTC")
        .stderr(Stdio::null())
        .output()
        .context("cannot run tshark (package tshark)")?;
    ensure!(output.status.success(), "tshark: {}", output.status);
    Ok(serde_json::from_slice(&output.stdout)?)
}

/// What libfixbuf's ipfixDump, a strict reader of files, says of the messages: its text, and its
/// complaints.
///
/// # Errors
/// Where it is not installed or fails.
pub fn ipfix_dump(name: &str, datagrams: &[Datagram]) -> Result<(String, String)> {
    let directory = Directory::new(&format!("{name}-ipfixdump"))?;
    let file = directory.path().join("messages.ipfix");
    let octets: Vec<u8> = datagrams.iter().flat_map(|d| d.octets.clone()).collect();
    fs::write(&file, octets)?;
    let mut command = Command::new("ipfixDump");
    let output = command.arg("--in").arg(&file).output();
    let output = output.context("cannot run ipfixDump (package libfixbuf-tools)")?;
    ensure!(output.status.success(), "ipfixDump: {}", output.status);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((text, String::from_utf8_lossy(&output.stderr).into_owned()))
}

/// What tshark's dissectors complain about, in any layer and at any depth.
#[must_use]
pub fn complaints(packets: &[Value]) -> Vec<String> {
    let complaints = |packet| {
        let expert = find_all(packet, "_ws.expert.message");
        let malformed = find_all(packet, "_ws.malformed");
        expert.into_iter().chain(malformed).map(Value::to_string)
    };
    packets.iter().flat_map(complaints).collect()
}

/// Every value under `key` at any depth.
#[must_use]
pub fn find_all<'a>(value: &'a Value, key: &str) -> Vec<&'a Value> {
    let mut found = Vec::new();
    let mut open = vec![value];
    while let Some(value) = open.pop() {
        match value {
            Value::Object(map) => {
                found.extend(map.get(key));
                open.extend(map.values());
            }
            Value::Array(values) => open.extend(values),
            _ => {}
        }
    }
    found
}

/// A capture file of raw IPv4 packets (LINKTYPE_RAW) that carry the messages.
fn pcap(datagrams: &[Datagram], port: u16) -> Result<Vec<u8>> {
    let mut file = Vec::new();
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0xffff, 101] {
        file.write_all(&word.to_le_bytes())?;
    }
    for (number, datagram) in datagrams.iter().enumerate() {
        let SocketAddr::V4(source) = datagram.source else {
            bail!("only IPv4 here");
        };
        let length = datagram.octets.len() + 28;
        let captured = length as u32;
        // One microsecond apart: tshark wants order, and nothing here compares arrival times.
        for word in [1, number as u32, captured, captured] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&[0x45, 0])?;
        file.write_all(&(length as u16).to_be_bytes())?;
        file.write_all(&[0, 0, 0, 0, 64, 17, 0, 0])?;
        file.write_all(&source.ip().octets())?;
        file.write_all(&[127, 0, 0, 1])?;
        file.write_all(&source.port().to_be_bytes())?;
        file.write_all(&port.to_be_bytes())?;
        file.write_all(&((length - 20) as u16).to_be_bytes())?;
        file.write_all(&[0, 0])?;
        file.write_all(&datagram.octets)?;
    }
    Ok(file)
}
