//! `flowprobe experiment` as a user runs it: what it writes, and what it says of bad input.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Output, Stdio},
};

use flowprobe_tests::{
    capture_file::{Order, Record, pcap as classic},
    judges::Directory,
    netns::Netns,
    packets::{Ip, not_ip},
    probe::{self, binary, end_with_parent},
    sender::Sender,
    topology::{Pair, Wire},
};

type Result<T = ()> = anyhow::Result<T>;

/// 2023-11-14 22:13:20 UTC, in nanoseconds since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;

/// A capture of twenty flows with 2,000 packets, in a directory of its own.
fn capture(name: &str) -> Result<(Directory, String)> {
    let directory = Directory::new(&format!("flowprobe-{name}-{}", std::process::id()))?;
    let record = |i: u64| {
        let packet = Ip::new("192.0.2.1", "198.51.100.1").udp(
            1000 + (i % 20) as u16,
            53,
            50 + (i * 7 % 900) as usize,
        );
        Record::whole(START_NS + i * 1_000_000, &packet.frame)
    };
    let records: Vec<_> = (0..2000).map(record).collect();
    let path = directory.path().join("day.pcap");
    fs::write(&path, classic(Order::Little, true, 1, &records))?;
    let path = path.display().to_string();
    Ok((directory, path))
}

fn experiment(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary()?);
    Ok(command.arg("experiment").args(arguments).output()?)
}

#[test]
fn bad_input_is_refused_in_one_line_and_nothing_is_printed() -> Result {
    let (directory, capture) = capture("experiment-refused")?;
    let file = directory.path().join("file");
    fs::write(&file, "")?;
    let below_file = file.join("out").display().to_string();
    let cases: [(&[&str], &str); 14] = [
        (&["--rates", "0"], "a rate of 0 would select nothing"),
        (&["--rates", "1/0"], "a rate of 0 would select nothing"),
        (&["--rates", "5/3"], "write 3/5"),
        (&["--rates", "ten"], "a rate is a number"),
        (&["--rates", ""], "a rate is a number"),
        (&["--rates", "10,,100"], "a rate is a number"),
        (&["--methods", "cuont"], "did you mean count?"),
        (&["--methods", ""], "--methods"),
        (&["--runs", "0"], "--runs"),
        (&["--within", "0"], "percent above 0"),
        (&["--within", "nan"], "percent above 0"),
        (&["--error", "all"], "packets, octets, top"),
        (&["--top", "0"], "--top"),
        (&["--out", &below_file], "cannot write to the directory"),
    ];
    for (arguments, said) in cases {
        let all = [&["--pcap", &capture], arguments].concat();
        let output = experiment(&all)?;
        let log = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {log}");
        assert!(log.contains(said), "{arguments:?}: {log}");
        assert_eq!(log.lines().count(), 1, "{log}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
    }
    for (arguments, said) in [
        (&["--pcap", "/nonexistent"][..], "cannot open it"),
        (&[], "see `flowprobe experiment --help`"),
        (&["-i", "nosuch0"], "no interface nosuch0"),
        (&["-i", "lo", "--pcap", "x"], "cannot be used with"),
    ] {
        let output = experiment(arguments)?;
        assert_eq!(output.status.code(), Some(2));
        assert!(String::from_utf8(output.stderr)?.contains(said));
    }
    Ok(())
}

#[test]
fn a_seed_repeats_every_file() -> Result {
    let (directory, capture) = capture("experiment-repeats")?;
    let files = |out: &str, seed: &str| -> Result<Vec<(String, Vec<u8>)>> {
        let out = directory.path().join(out);
        let path = out.display().to_string();
        let output = experiment(&[
            "--pcap", &capture, "--seed", seed, "--runs", "5", "--rates", "2,20", "--out", &path,
        ])?;
        assert!(output.status.success());
        let printed = String::from_utf8(output.stdout)?;
        assert!(printed.starts_with("The highest n that keeps the error of"));
        assert!(printed.lines().all(|line| line.chars().count() <= 80));
        let mut files = vec![("stdout".to_owned(), printed.into_bytes())];
        for entry in fs::read_dir(out)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            files.push((name, fs::read(entry.path())?));
        }
        files.sort();
        Ok(files)
    };
    let first = files("one", "7")?;
    assert!(first == files("two", "7")?, "the same seed, other octets");
    assert!(
        first != files("three", "8")?,
        "another seed, the same octets"
    );
    let names: Vec<_> = first.iter().map(|(name, _)| name.as_str()).collect();
    for name in [
        "index.html",
        "results.json",
        "results.csv",
        "cost.csv",
        "runs.csv",
        "plot-top.svg",
    ] {
        assert!(names.contains(&name), "{name} is not in {names:?}");
    }
    let json = &first
        .iter()
        .find(|(name, _)| name == "results.json")
        .expect("there")
        .1;
    let json: serde_json::Value = serde_json::from_slice(json)?;
    assert_eq!(json["truth"]["packets"], 2000);
    assert_eq!(json["truth"]["flows"], 20);
    assert_eq!(json["results"].as_array().map(Vec::len), Some(6));
    Ok(())
}

#[test]
fn a_damaged_capture_is_told_and_the_rest_compared() -> Result {
    let (directory, capture) = capture("experiment-damaged")?;
    let mut octets = fs::read(&capture)?;
    octets.truncate(octets.len() - 10);
    let cut = directory.path().join("cut.pcap");
    fs::write(&cut, octets)?;
    let output = experiment(&["--pcap", &cut.display().to_string()])?;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8(output.stdout)?.contains("1999 packets of 20 flows"));
    assert!(String::from_utf8(output.stderr)?.contains("could not be read to the end"));
    Ok(())
}

/// Reads lines of the log until one has `text`.
fn wait_for_log(child: &mut Child, text: &str) -> Result {
    let log = child.stderr.take().expect("piped");
    let mut log = BufReader::new(log);
    let mut line = String::new();
    while !line.contains(text) {
        line.clear();
        anyhow::ensure!(log.read_line(&mut line)? > 0, "never logged {text}");
    }
    child.stderr = Some(log.into_inner());
    Ok(())
}

fn interrupt(child: &Child) -> Result {
    // SAFETY: a plain system call; the child is not waited for yet, so the number is its own.
    let result = unsafe { libc::kill(i32::try_from(child.id())?, libc::SIGINT) };
    anyhow::ensure!(result == 0, "it is gone");
    Ok(())
}

fn in_namespace(namespace: &Netns, arguments: &[&str]) -> Result<Child> {
    let mut command = probe::command(namespace)?;
    command.arg("experiment").args(arguments);
    command.stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    end_with_parent(&mut command);
    Ok(command.spawn()?)
}

/// All packets that an interface receives, and no other, are the truth: with the tags that the
/// kernel takes out, and without what the interface sends.
#[test]
fn an_interface_gives_the_packets_that_were_sent() -> Result {
    const ROUNDS: usize = 500;
    let pair = Pair::new(Wire::default())?;
    let directory = Directory::new(&format!("flowprobe-experiment-live-{}", std::process::id()))?;
    let path = directory.path().display().to_string();
    let ip = || Ip::new("192.0.2.1", "198.51.100.1");
    let packets = [
        ip().udp(1000, 53, 10),
        ip().udp(1001, 53, 1400),
        // The same but for the tag: flows of their own.
        ip().tag(0x8100, 5).udp(1000, 53, 10),
        ip().tag(0x8100, 6).udp(1000, 53, 10),
        ip().tag(0x88a8, 7).tag(0x8100, 6).udp(1000, 53, 10),
        Ip::new("2001:db8::1", "2001:db8::2").tcp(1000, 443, 2, 0),
        not_ip(0x88cc),
    ];
    let frames = packets.each_ref().map(|packet| &packet.frame);
    let mut child = in_namespace(
        &pair.sensor,
        &[
            "-i",
            Pair::SENSOR,
            "--methods",
            "count",
            "--rates",
            "1,10",
            "--runs",
            "2",
            "--out",
            &path,
        ],
    )?;
    wait_for_log(&mut child, "reading the packets of mon0")?;
    let (to, back) = (
        Sender::new(&pair.generator, Pair::GENERATOR)?,
        Sender::new(&pair.sensor, Pair::SENSOR)?,
    );
    for _ in 0..ROUNDS {
        to.send(&frames)?;
        back.send(&frames[..1])?;
    }
    interrupt(&child)?;
    let output = child.wait_with_output()?;
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let json = fs::read(directory.path().join("results.json"))?;
    let json: serde_json::Value = serde_json::from_slice(&json)?;
    let number = |path: &str| json.pointer(path).and_then(serde_json::Value::as_u64);
    let rounds = ROUNDS as u64;
    assert_eq!(number("/truth/packets"), Some(6 * rounds));
    assert_eq!(number("/truth/ignored_packets"), Some(rounds));
    assert_eq!(number("/truth/flows"), Some(6));
    // IP octets: four short ones over UDP, a long one, TCP over IPv6.
    assert_eq!(number("/truth/octets"), Some((4 * 38 + 1428 + 60) * rounds));
    assert_eq!(number("/live/lost_packets"), Some(0));
    assert_eq!(number("/live/merged_packets"), Some(0));
    assert_eq!(json["cut_short"], false);
    Ok(())
}

#[test]
fn an_interface_is_read_for_as_long_as_was_asked() -> Result {
    let pair = Pair::new(Wire::default())?;
    let mut child = in_namespace(&pair.sensor, &["-i", Pair::SENSOR, "--duration", "1.5"])?;
    wait_for_log(&mut child, "reading the packets of mon0")?;
    let packet = Ip::new("192.0.2.1", "198.51.100.1").udp(1000, 53, 10);
    Sender::new(&pair.generator, Pair::GENERATOR)?.send(&[packet.frame])?;
    let output = child.wait_with_output()?;
    assert!(output.status.success());
    assert!(String::from_utf8(output.stdout)?.contains("\n1 packets of 1 flows"));
    // Without CAP_NET_RAW.
    let mut refused = Command::new("setpriv");
    refused.args(["--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]);
    let refused = refused
        .arg(binary()?)
        .args(["experiment", "-i", "lo"])
        .output()?;
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8(refused.stderr)?.contains("needs CAP_NET_RAW"));
    Ok(())
}

/// A capture that never ends: what came before the signal is compared, and that is said.
#[test]
fn a_signal_ends_captures_with_a_report() -> Result {
    let (directory, capture) = capture("experiment-signal")?;
    let out = directory.path().join("out");
    let mut command = Command::new(binary()?);
    command
        .args(["experiment", "--pcap", "-", "--runs", "3", "--out"])
        .arg(&out);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    end_with_parent(&mut command);
    let mut child = command.spawn()?;
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&fs::read(capture)?)?;
    stdin.flush()?;
    wait_for_log(&mut child, "metering standard input")?;
    // All of it is in the pipe's buffer or read: 2,000 packets are more than one read.
    std::thread::sleep(std::time::Duration::from_millis(500));
    interrupt(&child)?;
    let output = child.wait_with_output()?;
    drop(stdin);
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let printed = String::from_utf8(output.stdout)?;
    assert!(printed.contains("A signal cut it short"), "{printed}");
    let json: serde_json::Value = serde_json::from_slice(&fs::read(out.join("results.json"))?)?;
    assert_eq!(json["cut_short"], true);
    assert_eq!(json["truth"]["packets"], 2000);
    Ok(())
}

/// What fails leaves the report of another time as it is, and nothing else.
#[test]
fn a_failure_leaves_no_part_of_a_report() -> Result {
    let (directory, _) = capture("experiment-failure")?;
    let empty = directory.path().join("empty.pcap");
    fs::write(&empty, classic(Order::Little, true, 1, &[]))?;
    let out = directory.path().join("out");
    fs::create_dir(&out)?;
    fs::write(out.join("results.json"), "old")?;
    let arguments = [&empty, &out].map(|path| path.display().to_string());
    let output = experiment(&["--pcap", &arguments[0], "--out", &arguments[1]])?;
    assert_eq!(output.status.code(), Some(1));
    let left: Vec<_> = fs::read_dir(&out)?.collect::<std::io::Result<_>>()?;
    assert_eq!(left.len(), 1);
    assert_eq!(fs::read_to_string(out.join("results.json"))?, "old");
    Ok(())
}
