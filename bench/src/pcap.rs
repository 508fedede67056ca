//! `pcap`: `flowprobe pcap` beside softflowd and nfpcapd, and others on request, on the same captures.
//!
//! Two captures are written, of as many packets of as many flows: in random order, as traffic of many
//! hosts is, and in strides, which caches foresee. All meter them on one CPU, out of the page cache,
//! with the same timeouts, and give their records away: flowprobe as an IPFIX file, nfpcapd as its own
//! kind of file, softflowd as NetFlow over loopback, where nobody reads them. They take turns, so that
//! ratios hold on a machine that others use too. `cpu` is the time of all threads.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    mem::MaybeUninit,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use crate::timing;

/// Measure `flowprobe pcap` beside other programs.
#[derive(clap::Args)]
pub(crate) struct PcapArgs {
    /// Packets of each capture
    #[arg(long, value_name = "N", default_value_t = 5_000_000)]
    packets: u32,
    /// Flows that they are of
    #[arg(long, value_name = "N", default_value_t = 200_000,
          value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    flows: u32,
    /// Seconds from the first packet to the last
    #[arg(long, value_name = "N", default_value_t = 60)]
    seconds: u32,
    /// Rounds; the least and the median are told
    #[arg(long, value_name = "N", default_value_t = 3)]
    rounds: usize,
    /// CPU to run on
    #[arg(long, value_name = "N", default_value_t = 0)]
    cpu: usize,
    /// Directory for captures and records, removed at the end
    #[arg(long, value_name = "DIR", default_value = "target/bench-pcap")]
    directory: PathBuf,
    /// Another program to compare with, which has to end with 0; {file} is the capture, {records} a
    /// directory, {port} where datagrams may go on loopback
    #[arg(long, value_name = "NAME=COMMAND", value_parser = peer)]
    peer: Vec<(String, Vec<String>)>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// A name and the words of a command.
fn peer(text: &str) -> Result<(String, Vec<String>), String> {
    let (name, command) = text.split_once('=').ok_or("NAME=COMMAND is expected")?;
    let words: Vec<_> = command.split_whitespace().map(str::to_owned).collect();
    match words.is_empty() {
        true => Err("there is no command behind the =".to_owned()),
        false => Ok((name.to_owned(), words)),
    }
}

/// Idle and active timeout of all, in seconds.
const IDLE: u32 = 15;
const ACTIVE: u32 = 60;

/// Octets of each frame: Ethernet, IPv4, UDP.
const FRAME: usize = 64;

/// Removes the directory.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

pub(crate) fn run(args: &PcapArgs) -> Result<()> {
    ensure!(args.rounds > 0 && args.packets > 0, "nothing to measure");
    timing::settle(args.cpu, 0)?;
    let directory = Directory(args.directory.clone());
    fs::create_dir_all(&directory.0).with_context(|| directory.0.display().to_string())?;
    // Datagrams to it are accepted, and dropped once its buffer is full.
    let sink = UdpSocket::bind("127.0.0.1:0").context("no socket")?;
    let port = sink.local_addr()?.port();
    let mut report = serde_json::Map::new();
    for order in ["random", "strided"] {
        let capture = directory.0.join(format!("{order}.pcap"));
        write_capture(&capture, args, order == "random")?;
        let programs = programs(&capture, &directory.0, args, port)?;
        let mut results: Vec<_> = (programs.into_iter())
            .map(|(name, command)| (name, command, Vec::new()))
            .collect();
        for _ in 0..args.rounds {
            for (name, arguments, times) in &mut results {
                let records = directory.0.join("records");
                drop(fs::remove_dir_all(&records));
                fs::create_dir_all(&records)?;
                let time = time(arguments).with_context(|| name.clone())?;
                times.extend(time);
            }
        }
        let results = results.into_iter();
        let results = results.map(|(name, _, times)| (name, summary(args.packets, times)));
        let results: Vec<_> = results.collect();
        if !args.json {
            print(order, &results);
        }
        report.insert(order.to_owned(), results.into_iter().collect());
    }
    if args.json {
        let report = json!({ "packets": args.packets, "flows": args.flows, "orders": report });
        println!("{}", serde_json::to_string_pretty(&report)?);
    }
    Ok(())
}

fn write_capture(path: &Path, args: &PcapArgs, random: bool) -> Result<()> {
    const NANOSECONDS: u32 = 0xa1b2_3c4d;
    const START_S: u64 = 1_700_000_000;
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&NANOSECONDS.to_le_bytes())?;
    file.write_all(&[2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 1, 0, 0, 0])?;
    // Marsaglia's xorshift64.
    let mut state = 1_u64;
    for packet in 0..args.packets {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let flow = match random {
            true => (((state >> 32) * u64::from(args.flows)) >> 32) as u32,
            false => packet % args.flows,
        };
        let at_ns =
            u64::from(packet) * u64::from(args.seconds) * 1_000_000_000 / u64::from(args.packets);
        let seconds = (START_S + at_ns / 1_000_000_000) as u32;
        for word in [
            seconds,
            (at_ns % 1_000_000_000) as u32,
            FRAME as u32,
            FRAME as u32,
        ] {
            file.write_all(&word.to_le_bytes())?;
        }
        file.write_all(&frame(flow))?;
    }
    file.flush()?;
    Ok(())
}

/// A UDP datagram of a flow.
fn frame(flow: u32) -> [u8; FRAME] {
    let mut frame = [0; FRAME];
    frame[..12].copy_from_slice(&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
    frame[12..24].copy_from_slice(&[8, 0, 0x45, 0, 0, 50, 0, 0, 0, 0, 64, 17]);
    frame[26..30].copy_from_slice(&(0x0a00_0000 | flow).to_be_bytes());
    frame[30..34].copy_from_slice(&[192, 0, 2, 1]);
    frame[34..42].copy_from_slice(&[(flow >> 8) as u8 | 4, flow as u8, 0, 53, 0, 30, 0, 0]);
    frame
}

/// A program's name and its command.
type Program = (String, Vec<OsString>);

fn programs(capture: &Path, directory: &Path, args: &PcapArgs, port: u16) -> Result<Vec<Program>> {
    let flowprobe = std::env::current_exe()?.with_file_name("flowprobe");
    let records = fs::canonicalize(directory)?.join("records");
    let to = format!("file://{}", records.display());
    // Room for all, or they spend their time with making it.
    let room = (2 * args.flows).to_string();
    let own = [flowprobe.into_os_string()]
        .into_iter()
        .chain(["pcap", "--collector", &to, "--max-flows", &room].map(OsString::from));
    let [idle, active] = [IDLE, ACTIVE].map(|seconds| seconds.to_string());
    let own = own.chain(["--idle-timeout", &idle, "--active-timeout", &active].map(OsString::from));
    let softflowd = format!(
        "softflowd -d -a -p none -c none -m {room} -n 127.0.0.1:{port} -t udp={IDLE} \
         -t general={IDLE} -t maxlife={ACTIVE} -t expint=1 -r"
    );
    let nfpcapd = format!(
        "nfpcapd -B {room} -e {ACTIVE},{IDLE} -w {} -r",
        records.display()
    );
    let with = |program: Vec<OsString>| [program, vec![capture.into()]].concat();
    let words = |line: String| line.split(' ').map(OsString::from).collect();
    let mut programs = vec![
        ("flowprobe".to_owned(), with(own.collect())),
        ("softflowd".to_owned(), with(words(softflowd))),
        ("nfpcapd".to_owned(), with(words(nfpcapd))),
    ];
    for (name, words) in &args.peer {
        let fill = |word: &String| {
            let word = word.replace("{file}", &capture.display().to_string());
            let word = word.replace("{records}", &records.display().to_string());
            OsString::from(word.replace("{port}", &port.to_string()))
        };
        programs.push((name.clone(), words.iter().map(fill).collect()));
    }
    Ok(programs)
}

/// Wall clock and CPU, in seconds.
type Times = (f64, f64);

/// Runs a command to its end; none where there is no such program.
fn time(arguments: &[OsString]) -> Result<Option<Times>> {
    let (name, rest) = arguments.split_first().context("no command")?;
    let mut command = Command::new(name);
    command
        .args(rest)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let before = children_s()?;
    let start = Instant::now();
    let status = match command.status() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        status => status?,
    };
    let wall = start.elapsed().as_secs_f64();
    ensure!(status.success(), "{status}");
    Ok(Some((wall, children_s()? - before)))
}

/// CPU time of all children that have ended.
fn children_s() -> Result<f64> {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the structure outlives the call.
    let rc = unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr()) };
    ensure!(rc == 0, "getrusage: {}", io::Error::last_os_error());
    // SAFETY: filled in, and valid when zeroed.
    let usage = unsafe { usage.assume_init() };
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    Ok(seconds(usage.ru_utime) + seconds(usage.ru_stime))
}

fn summary(packets: u32, mut times: Vec<Times>) -> Value {
    times.sort_unstable_by(|a, b| a.1.total_cmp(&b.1));
    let Some(&(_, least)) = times.first() else {
        return Value::Null;
    };
    let median = times[times.len() / 2].1;
    let wall = times.iter().map(|time| time.0).fold(f64::MAX, f64::min);
    json!({
        "wall_s": wall,
        "cpu_s": least,
        "cpu_s_median": median,
        "mpps_of_cpu": f64::from(packets) / least / 1e6,
    })
}

fn print(order: &str, results: &[(String, Value)]) {
    for (name, summary) in results {
        match summary["cpu_s"].as_f64() {
            None => println!("{order:>8} {name:>10}: not installed"),
            Some(cpu) => println!(
                "{order:>8} {name:>10}: {cpu:6.3} s of CPU (median {:.3}, wall {:.3}), {:6.2} M \
                 packets/s",
                summary["cpu_s_median"].as_f64().unwrap_or_default(),
                summary["wall_s"].as_f64().unwrap_or_default(),
                summary["mpps_of_cpu"].as_f64().unwrap_or_default(),
            ),
        }
    }
}
