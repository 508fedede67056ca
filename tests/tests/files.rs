//! IPFIX files, and what is made of them: read by libfixbuf, python-ipfix and nfdump.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use flowprobe_tests::{
    capture_file::{Order, Record as Captured, pcap},
    collector::{Collector, Received},
    flow::{Flow, Truth},
    ipfix::{Decoder, Record},
    judges::{Directory, Nfcapd, Reading, ipfix_dump, wait_until_read},
    mix::mix,
    netns::Netns,
    offline::pcap_in,
    packets::truth,
    probe::{binary, end_with_parent, output},
};

/// 2023-11-14 22:13:20 UTC, in nanoseconds since 1970.
const START_NS: u64 = 1_700_000_000_000_000_000;
const SCTP: u8 = 132;

/// The mix, in many turns.
fn capture() -> Vec<u8> {
    let packets = mix();
    let records: Vec<_> = (0..40)
        .flat_map(|turn| packets.iter().map(move |packet| (turn, packet)))
        // A minute and more apart, so that each turn is a flow of its own.
        .map(|(turn, packet)| Captured::whole(START_NS + turn * 100_000_000_000, &packet.frame))
        .collect();
    pcap(Order::Little, true, 1, &records)
}

/// What flowprobe exports of the mix, and a file that holds the messages as they came.
fn exported(namespace: &Netns, directory: &Path) -> Result<(Received, PathBuf)> {
    let collector = Collector::start(namespace, "127.0.0.1:4739", true)?;
    let run = pcap_in(
        namespace,
        &["-", "--collector", &collector.url()],
        &capture(),
    )?;
    assert_eq!(run.code, 0, "{}", run.log);
    let received = collector.stop();
    received.assert_well_formed();
    truth(&mix(), 40).assert_equals(&received.truth());
    let octets: Vec<u8> = received
        .datagrams
        .iter()
        .flat_map(|d| d.octets.clone())
        .collect();
    let file = directory.join("raw.ipfix");
    fs::write(&file, octets)?;
    Ok((received, file))
}

fn replay(namespace: &Netns, files: &[&Path], options: &[&str]) -> Result<Output> {
    let files = files.iter().map(|path| path.to_str().context("UTF-8"));
    let files = files.collect::<Result<Vec<_>>>()?;
    output(namespace, &[&["replay"], &files[..], options].concat())
}

#[track_caller]
fn assert_success(output: &Output) {
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
}

/// The data records of a file by the tests' own decoder, and how many messages there are.
fn decoded(file: &[u8]) -> Result<(Vec<(u32, Record)>, usize)> {
    let mut decoder = Decoder::default();
    let (mut records, mut messages) = (Vec::new(), 0);
    let mut rest = file;
    while let Some(header) = rest.first_chunk::<4>() {
        let length = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let message = decoder.decode(&rest[..length])?;
        assert_eq!(
            message.sequence as usize,
            records.len(),
            "one domain, from 0"
        );
        records.extend(
            message
                .records
                .into_iter()
                .map(|record| (message.domain, record)),
        );
        messages += 1;
        rest = &rest[length..];
    }
    Ok((records, messages))
}

/// Sets of data in a file.
fn data_sets(file: &[u8]) -> usize {
    let number = |at: usize| usize::from(u16::from_be_bytes([file[at], file[at + 1]]));
    let (mut at, mut sets) = (0, 0);
    while at < file.len() {
        let end = at + number(at + 2);
        at += 16;
        while at < end {
            sets += usize::from(number(at) >= 256);
            at += number(at + 2);
        }
    }
    sets
}

#[test]
fn libfixbuf_and_python_read_every_record() -> Result<()> {
    let namespace = Netns::new("files")?;
    let directory = Directory::new(namespace.name())?;
    let (received, raw) = exported(&namespace, directory.path())?;
    let target = directory.path().join("made-%Y.ipfix");
    let url = format!("file://{}", target.display());
    assert_success(&replay(&namespace, &[&raw], &["--collector", &url])?);
    let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap_or_default();
    let made: Vec<_> = fs::read_dir(directory.path())?
        .map(|entry| entry.map(name))
        .collect::<Result<_, _>>()?;
    let made = made.iter().find(|name| name.starts_with("made-2"));
    let made = directory.path().join(made.context("no file")?);
    let octets = fs::read(&made)?;
    let (records, messages) = decoded(&octets)?;
    assert!(records == received.records, "other records");
    assert!(messages < received.messages as usize, "messages are longer");

    let whole = flowprobe_tests::collector::Datagram {
        octets,
        source: received.datagrams[0].source,
    };
    let (text, complaints) = ipfix_dump(namespace.name(), &[whole])?;
    assert_eq!(complaints, "");
    let count = records.len();
    let stats = format!("*** File Stats: {messages} Messages, {count} Data Records, ");
    assert!(text.contains(&stats), "not {stats}: {text}");

    let mut python = Command::new("ipfixstat");
    let python = python.arg("--file").arg(&made).output();
    let python = python.context("cannot run ipfixstat (package python3-ipfix)")?;
    assert_success(&python);
    let text = String::from_utf8(python.stdout)?;
    let sets = data_sets(&fs::read(&made)?);
    let stats = format!(", {sets} decodable sets, 0 replacements, 0 missing sets total");
    assert!(text.contains(&stats), "not {stats}: {text}");
    Ok(())
}

/// Over TCP, where messages have no bounds but what they say of themselves.
#[test]
fn python_collects_what_is_replayed_over_tcp() -> Result<()> {
    let namespace = Netns::new("tcp")?;
    let directory = Directory::new(namespace.name())?;
    let (received, raw) = exported(&namespace, directory.path())?;
    let mut python = namespace.command("ipfix2csv");
    python.args(["--collect", "tcp", "--bind", "127.0.0.1", "--port", "4739"]);
    python.args(["packetDeltaCount", "octetDeltaCount"]);
    python.stdout(Stdio::piped()).stderr(Stdio::null());
    end_with_parent(&mut python);
    let mut python = python
        .spawn()
        .context("cannot run ipfix2csv (package python3-ipfix)")?;
    // It may not listen yet: that is waited for.
    assert_success(&replay(
        &namespace,
        &[&raw],
        &["-c", "tcp://127.0.0.1:4739"],
    )?);
    let lines = BufReader::new(python.stdout.take().context("no pipe")?).lines();
    let mut counts = Vec::new();
    for line in lines.skip(1).take(received.flows.len()) {
        let line = line?.replace('"', "");
        let (packets, octets) = line.split_once(',').context(line.clone())?;
        counts.push((packets.parse::<u64>()?, octets.parse::<u64>()?));
    }
    python.kill()?;
    python.wait()?;
    let flows = received.flows.iter().map(|flow| flow.counts);
    let mut expected: Vec<_> = flows
        .map(|counts| (counts.packets, counts.octets))
        .collect();
    counts.sort_unstable();
    expected.sort_unstable();
    assert_eq!(counts, expected);
    Ok(())
}

/// What goes to a file is what goes over UDP.
#[test]
fn captures_are_metered_into_files() -> Result<()> {
    let namespace = Netns::new("pcap")?;
    let directory = Directory::new(namespace.name())?;
    let (received, _) = exported(&namespace, directory.path())?;
    let url = format!("file://{}/flows.ipfix", directory.path().display());
    let run = pcap_in(&namespace, &["-", "--collector", &url], &capture())?;
    assert_eq!(run.code, 0, "{}", run.log);
    assert_eq!(
        run.ledger().collectors[0].sent.records,
        received.flows.len() as u64
    );
    let (records, _) = decoded(&fs::read(directory.path().join("flows.ipfix"))?)?;
    let flows = records.iter().filter(|(_, record)| !record.is_options());
    let flows: Vec<_> = flows
        .map(|(_, record)| Flow::from_ipfix(record))
        .collect::<Result<_>>()?;
    truth(&mix(), 40).assert_equals(&Truth::of(&flows));
    Ok(())
}

/// A path that takes less than `--mtu`.
#[test]
fn what_is_replayed_fits_the_path() -> Result<()> {
    let namespace = Netns::new("narrow")?;
    let directory = Directory::new(namespace.name())?;
    let (received, raw) = exported(&namespace, directory.path())?;
    namespace.ip("link set lo mtu 600")?;
    let collector = Collector::start(&namespace, "127.0.0.1:4739", true)?;
    let url = collector.url();
    assert_success(&replay(&namespace, &[&raw], &["--collector", &url])?);
    let replayed = collector.stop();
    replayed.assert_well_formed();
    assert_eq!(replayed.missing(), 0);
    assert!(replayed.records == received.records, "other records");
    let longest = replayed.datagrams.iter().map(|d| d.octets.len()).max();
    assert!(
        longest.is_some_and(|octets| octets <= 600 - 28),
        "{longest:?}"
    );
    Ok(())
}

#[test]
fn nfdump_reads_what_is_replayed_as_it_was() -> Result<()> {
    let namespace = Netns::new("replay")?;
    let directory = Directory::new(namespace.name())?;
    let (received, raw) = exported(&namespace, directory.path())?;
    let nfcapd = Nfcapd::start(&namespace, 9995)?;
    let collector = Collector::start(&namespace, "127.0.0.1:4739", true)?;
    let url = collector.url();
    let both = ["--collector", "udp://127.0.0.1:9995", "--collector", &url];
    assert_success(&replay(
        &namespace,
        &[&raw],
        &[&both[..], &["--mtu", "576"]].concat(),
    )?);
    wait_until_read(&namespace, 9995)?;
    let replayed = collector.stop();
    replayed.assert_well_formed();
    assert_eq!(replayed.missing(), 0);
    assert!(replayed.records == received.records, "other records");
    let longest = replayed.datagrams.iter().map(|d| d.octets.len()).max();
    assert!(
        longest.is_some_and(|octets| octets <= 576 - 48),
        "{longest:?}"
    );

    let read = nfcapd.stop()?.flows;
    let read = read.iter().map(Reading::from_nfdump);
    let mut read = read.collect::<Result<Vec<_>>>()?;
    let mut expected: Vec<_> = received.flows.iter().map(Reading::from).collect();
    for reading in &mut expected {
        // See `nfdump_reads_every_flow_as_it_was`.
        if reading.key.protocol == SCTP {
            reading.key.destination_port = 0;
        }
    }
    read.sort_unstable();
    expected.sort_unstable();
    assert!(read == expected, "{read:#?}\nis not\n{expected:#?}");
    Ok(())
}

/// What a killed process leaves is whole, and the next one says what it has made of it.
#[test]
fn a_killed_process_leaves_whole_messages() -> Result<()> {
    let namespace = Netns::new("killed")?;
    let directory = Directory::new(namespace.name())?;
    let (received, raw) = exported(&namespace, directory.path())?;
    let out = directory.path().join("out");
    fs::create_dir(&out)?;
    let url = format!("file://{}/", out.display());
    let part = || {
        let entries = fs::read_dir(&out).ok()?;
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.find(|path| path.extension().is_some_and(|end| end == "part"))
    };
    // One message has all of it, and so the file is named before it can be killed: many files.
    let mut command = namespace.command(binary()?);
    command.arg("replay").args(vec![&raw; 400]);
    command.args(["--collector", &url, "--export-rate", "20000"]);
    end_with_parent(&mut command);
    let mut child = command.stderr(Stdio::null()).spawn()?;
    let deadline = Instant::now() + Duration::from_secs(20);
    while part().is_none_or(|part| fs::metadata(part).is_ok_and(|data| data.len() < 300_000)) {
        assert!(Instant::now() < deadline, "nothing is written");
        thread::sleep(Duration::from_millis(5));
    }
    child.kill()?;
    child.wait()?;
    let part = part().context("it was named")?;
    let killed = fs::read(&part)?;
    let next = replay(&namespace, &[&raw], &["--collector", &url])?;
    assert_success(&next);
    let log = String::from_utf8(next.stderr)?;
    assert!(log.contains(" was left over: its "), "{log}");
    let mended = fs::read(part.with_extension(""))?;
    assert!(killed.starts_with(&mended) && mended.len() > 200_000);
    let (records, _) = decoded(&mended)?;
    for turn in records.chunks(received.records.len()) {
        assert!(turn == &received.records[..turn.len()], "other records");
    }
    assert_eq!(
        fs::read_dir(&out)?.count(),
        2,
        "and the one of the second process"
    );
    Ok(())
}

/// Exit code 2, and one line that says what is wrong and where.
#[test]
fn bad_input_is_refused_in_one_line() -> Result<()> {
    let namespace = Netns::new("refused")?;
    let directory = Directory::new(namespace.name())?;
    let (_, raw) = exported(&namespace, directory.path())?;
    let whole = fs::read(&raw)?;
    let cut = directory.path().join("cut.ipfix");
    fs::write(&cut, &whole[..whole.len() - 7])?;
    let text = directory.path().join("text");
    fs::write(&text, "Lorem ipsum dolor sit amet")?;
    let nowhere = directory.path().join("nowhere");
    let collector = Collector::start(&namespace, "127.0.0.1:4739", true)?;
    let end = format!("at octet {}: cut off: ", whole.len() - 7);
    for (path, expected) in [
        (&cut, end.as_str()),
        (&text, "text: at octet 0: the version is 19567 and not 10"),
        (
            &nowhere,
            "nowhere: No such file or directory (os error 2)\n",
        ),
    ] {
        let run = replay(
            &namespace,
            &[&raw, path],
            &["--collector", &collector.url()],
        )?;
        let log = String::from_utf8(run.stderr)?;
        assert_eq!(run.status.code(), Some(2), "{log}");
        assert!(log.contains(expected), "{log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    assert_eq!(collector.stop().messages, 0, "nothing is sent");
    Ok(())
}
