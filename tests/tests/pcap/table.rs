//! When flows leave: timeouts by the time of the capture, room, and outputs that are slow.

use flowprobe_tests::{
    capture_file::{Order, Record, pcap as classic},
    flow::Flow,
    offline::{Offline, pcap},
    packets::{Ip, Packet, flag, truth},
};

use crate::{Result, SECOND, START_MS, START_NS, assert_flows};

const FIN: u8 = flag::FIN | flag::ACK;

/// Runs packets at (seconds, packet).
fn run(arguments: &[&str], packets: &[(u64, Packet)]) -> Result<Offline> {
    let record =
        |(at, packet): &(u64, Packet)| Record::whole(START_NS + at * SECOND, &packet.frame);
    let records: Vec<_> = packets.iter().map(record).collect();
    let file = classic(Order::Little, true, 1, &records);
    let run = pcap(&[&["-"], arguments].concat(), &file)?;
    let packets: Vec<_> = packets.iter().map(|(_, packet)| packet.clone()).collect();
    assert_flows(&run, &truth(&packets, 1));
    Ok(run)
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
