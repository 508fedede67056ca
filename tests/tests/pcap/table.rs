//! When flows leave: timeouts by the time of the capture, room, signals; and where they go.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    os::fd::FromRawFd as _,
    process::{Child, ChildStdin, Command, Stdio},
    ptr,
};

use anyhow::Context as _;
use flowprobe_tests::{
    capture_file::{Order, Record, pcap as classic},
    collector::Collector,
    flow::Flow,
    mix::mix,
    netns::Netns,
    offline::{Offline, pcap_in},
    packets::{Ip, Packet, flag, truth},
    probe::binary,
};

use crate::{Result, SECOND, START_MS, START_NS, meter};

const FIN: u8 = flag::FIN | flag::ACK;

/// Runs packets at (seconds, packet).
fn run(arguments: &[&str], packets: &[(u64, Packet)]) -> Result<Offline> {
    let in_seconds = packets.iter();
    let packets: Vec<_> = in_seconds
        .map(|(at, packet)| (at * SECOND, packet.clone()))
        .collect();
    meter(&packets, arguments)
}

/// Source port, packets, seconds from start to first and last packet, reason.
fn shown(flows: &[Flow]) -> Vec<(u16, u64, u64, u64, u8)> {
    let mut shown: Vec<_> = flows
        .iter()
        .map(|flow| {
            let seconds = |ms| (ms - START_MS) / 1000;
            let (first, last) = (seconds(flow.start_ms), seconds(flow.end_ms));
            let port = flow.key.source_port;
            (port, flow.counts.packets, first, last, flow.reason)
        })
        .collect();
    shown.sort_unstable();
    shown
}

fn ip() -> Ip {
    Ip::new("192.0.2.1", "192.0.2.2")
}

#[test]
fn timeouts_are_in_the_time_of_the_capture() -> Result {
    let udp = |port| ip().udp(port, 53, 10);
    let tcp = |flags| ip().tcp(3, 80, flags, 10);
    let mut packets: Vec<_> = (0..=12).map(|n| (n * 10, udp(1))).collect();
    packets.extend([0, 14, 29].map(|at| (at, udp(2))));
    let segments = [
        (0, flag::SYN),
        (1, FIN),
        (1, flag::ACK),
        // The same ports again, at once, and again after the linger.
        (1, flag::SYN),
        (2, FIN),
        (4, flag::ACK),
    ];
    packets.extend(segments.map(|(at, flags)| (at, tcp(flags))));
    packets.sort_by_key(|(at, _)| *at);
    let expected = [
        (1, 1, 120, 120, 4),
        (1, 6, 0, 50, 2),
        (1, 6, 60, 110, 2),
        (2, 1, 29, 29, 1),
        (2, 2, 0, 14, 1),
        (3, 1, 4, 4, 1),
        (3, 2, 1, 2, 3),
        (3, 3, 0, 1, 3),
    ];
    assert_eq!(shown(&run(&[], &packets)?.flows), expected);

    // Longer ones keep all of it together, but for the connections.
    let long = ["--idle-timeout", "300", "--active-timeout", "300"];
    let expected = [(1, 13, 0, 120, 4), (2, 3, 0, 29, 4)];
    assert_eq!(shown(&run(&long, &packets)?.flows)[..2], expected);
    Ok(())
}

#[test]
fn time_that_steps_back_loses_nothing() -> Result {
    let udp = |at| (at, ip().udp(1, 53, 10));
    let run = run(
        &[],
        &[udp(1000), udp(995), udp(1001), udp(10), udp(20), udp(990)],
    )?;
    let expected = [(1, 1, 990, 990, 4), (1, 2, 10, 20, 1), (1, 3, 995, 1001, 4)];
    assert_eq!(shown(&run.flows), expected);
    assert!(run.log.contains("time stepped back 1 times"), "{}", run.log);
    Ok(())
}

#[test]
fn a_full_table_exports_early_and_counts_all() -> Result {
    let packets: Vec<_> = (0..3000_u64)
        .map(|n| (n / 1000, ip().udp(1 + (n % 1000) as u16, 53, 10)))
        .collect();
    let run = run(&["--max-flows", "10"], &packets)?;
    assert_eq!(run.flows.len(), 3000);
    let displaced = run.flows.iter().filter(|flow| flow.reason == 5).count();
    assert_eq!(displaced, 2990);
    assert!(run.log.contains("2990 flows left early"), "{}", run.log);
    Ok(())
}

#[test]
fn flows_go_to_a_collector_as_those_of_run_do() -> Result {
    let namespace = Netns::new("collector")?;
    let collector = Collector::start(&namespace, "127.0.0.1:4739", true)?;
    let packets = mix();
    let frames = packets.iter().map(|packet| &packet.frame);
    let records: Vec<_> = frames.map(|frame| Record::whole(START_NS, frame)).collect();
    let file = classic(Order::Little, true, 1, &records);
    let url = collector.url();
    let run = pcap_in(&namespace, &["-", "--collector", &url], &file)?;
    assert_eq!(run.code, 0, "{}", run.log);
    assert!(
        run.flows.is_empty(),
        "printed although there is a collector"
    );
    let ledger = run.ledger();
    let received = collector.stop();
    received.assert_well_formed();
    assert_eq!(received.missing(), 0);
    truth(&packets, 1).assert_equals(&received.truth());
    let flows = &received.flows;
    assert_eq!(ledger.collectors[0].sent.records, flows.len() as u64);
    assert!(flows.iter().all(|flow| flow.start_ms == START_MS));
    Ok(())
}

/// flowprobe that reads a pipe.
fn piped() -> Result<Child> {
    let mut command = Command::new(binary()?);
    let command = command.args(["pcap", "-"]).stdin(Stdio::piped());
    Ok(command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

/// Gives it two packets, at the second of which the flow of the first is over, and holds the pipe.
fn hold_open(child: &mut Child) -> Result<ChildStdin> {
    let record = |port, at| Record::whole(START_NS + at, &ip().udp(port, 53, 10).frame);
    let records = [record(1, 0), record(2, 100 * SECOND)];
    let mut stdin = child.stdin.take().context("no stdin")?;
    stdin.write_all(&classic(Order::Little, true, 1, &records))?;
    Ok(stdin)
}

#[test]
fn a_signal_ends_a_pipe_that_stays_open() -> Result {
    let mut child = piped()?;
    let stdin = hold_open(&mut child)?;
    // The first flow is out before the second is over, since the next packet may be long in coming.
    let mut stdout = BufReader::new(child.stdout.take().context("no stdout")?);
    let mut line = String::new();
    stdout.read_line(&mut line)?;
    let first = Flow::from_json(&line)?;
    // SAFETY: a plain system call; the child is not waited for yet, so the number is its own.
    unsafe { libc::kill(i32::try_from(child.id())?, libc::SIGINT) };
    let mut rest = String::new();
    stdout.read_to_string(&mut rest)?;
    let second = Flow::from_json(rest.trim())?;
    let output = child.wait_with_output()?;
    drop(stdin);
    let log = String::from_utf8(output.stderr)?;
    assert!(output.status.success(), "{log}");
    assert!(log.contains("balanced: yes"), "{log}");
    let shown = [first, second].map(|flow| (flow.key.source_port, flow.reason));
    assert_eq!(shown, [(1, 1), (2, 4)]);
    Ok(())
}

#[test]
fn reading_waits_for_a_slow_output() -> Result {
    // More than the queue holds, and printing is slower than metering.
    const FLOWS: u32 = 100_000;
    let packet = |n: u32| {
        let [a, b] = ((n >> 16) as u16).to_be_bytes();
        let source = format!("10.0.{a}.{b}");
        (0, Ip::new(&source, "192.0.2.2").udp(n as u16, 53, 10))
    };
    let packets: Vec<_> = (0..FLOWS).map(packet).collect();
    assert_eq!(run(&[], &packets)?.flows.len(), FLOWS as usize);
    Ok(())
}

#[test]
fn a_closed_output_ends_a_pipe_that_stays_open() -> Result {
    let mut child = piped()?;
    drop(child.stdout.take());
    let stdin = hold_open(&mut child)?;
    // Nothing but the closed output ends it.
    let output = child.wait_with_output()?;
    drop(stdin);
    let log = String::from_utf8(output.stderr)?;
    assert!(output.status.success(), "{log}");
    assert!(log.contains("standard output is closed"), "{log}");
    assert!(log.contains("balanced: yes"), "{log}");
    Ok(())
}

/// Both ends of a terminal of 80 columns.
fn terminal() -> Result<(File, File)> {
    let (mut master, mut slave) = (0, 0);
    // SAFETY: both numbers outlive the call, and there is neither name, settings nor size.
    let rc = unsafe {
        libc::openpty(
            &raw mut master,
            &raw mut slave,
            ptr::null_mut(),
            ptr::null(),
            ptr::null(),
        )
    };
    anyhow::ensure!(rc == 0, "no terminal: {}", io::Error::last_os_error());
    // SAFETY: both were opened just now, and are nobody else's.
    Ok(unsafe { (File::from_raw_fd(master), File::from_raw_fd(slave)) })
}

#[test]
fn a_terminal_shows_how_far_it_is_until_the_end() -> Result {
    let (mut master, slave) = terminal()?;
    let mut child = {
        // Gone with the block, and its end of the terminal with it.
        let mut command = Command::new(binary()?);
        let command = command.args(["pcap", "-"]).stdin(Stdio::piped());
        command.stdout(Stdio::null()).stderr(slave).spawn()?
    };
    let stdin = hold_open(&mut child)?;
    // It is drawn anew as long as nothing else is said: this ends only because of that.
    let mut log = Vec::new();
    let mut octets = [0; 1024];
    let wipe = b"\r\x1b[K";
    let drawn = |log: &[u8]| log.windows(wipe.len()).filter(|seen| seen == wipe).count();
    while drawn(&log) < 2 {
        let read = master.read(&mut octets)?;
        log.extend_from_slice(&octets[..read]);
    }
    drop(stdin);
    // The other end is closed with the process, and reading fails then.
    while let Ok(read @ 1..) = master.read(&mut octets) {
        log.extend_from_slice(&octets[..read]);
    }
    assert!(child.wait()?.success());
    let log = String::from_utf8(log)?;
    assert!(log.contains("packets, 0/s"), "{log:?}");
    // What was on the line is gone before the ledger begins.
    let (_, end) = log.rsplit_once("\r\x1b[K").context("no line")?;
    assert!(
        !end.contains("/s") && end.contains("balanced: yes"),
        "{log:?}"
    );
    Ok(())
}
