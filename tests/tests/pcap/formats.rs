//! What is read: link layers, byte orders, time resolutions, blocks, short packets.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use anyhow::Context as _;
use flowprobe_tests::{
    capture_file::{ORDERS, Order, PcapNg, Record, pcap as classic},
    flow::Truth,
    mix::mix,
    offline::pcap,
    packets::{Ip, Packet, truth},
};

use crate::{ETHERNET, Files, Result, SECOND, START_MS, START_NS, assert_flows, carried};

#[test]
fn every_link_layer_in_both_formats() -> Result {
    for link in [1, 0, 9, 12, 14, 101, 104, 108, 113, 228, 229, 276] {
        for order in ORDERS {
            let carried = carried(mix(), link, order);
            let (packets, frames): (Vec<_>, Vec<_>) = carried.into_iter().unzip();
            let truth = truth(&packets, 1);
            assert!(truth.0.len() > 10);
            let records: Vec<_> = frames.iter().map(|f| Record::whole(START_NS, f)).collect();
            let file = classic(order, false, link, &records);
            assert_flows(&pcap(&["-"], &file)?, &truth);

            let blocks = PcapNg::new(order).interface(link as u16, 0, &[]);
            let blocks = records
                .iter()
                .map(|record| Record {
                    at: record.at / 1000,
                    ..record.clone()
                })
                .fold(blocks, |blocks, record| blocks.enhanced(0, &record));
            let run = pcap(&["-"], blocks.octets())?;
            assert_flows(&run, &truth);
            assert!(run.flows.iter().all(|flow| flow.interface == 1));
            assert!(run.flows.iter().all(|flow| flow.start_ms == START_MS));
        }
    }
    Ok(())
}

/// Two packets of one flow, 1234.567 ms apart.
fn two() -> (Packet, [Record; 2]) {
    let packet = Ip::new("192.0.2.1", "192.0.2.2").udp(1000, 2000, 100);
    let records = [0, 1_234_567_000].map(|ns| Record::whole(START_NS + ns, &packet.frame));
    (packet, records)
}

#[test]
fn times_of_the_classic_format() -> Result {
    let (packet, records) = two();
    for order in ORDERS {
        for nanoseconds in [false, true] {
            let file = classic(order, nanoseconds, 1, &records);
            let run = pcap(&["-"], &file)?;
            assert_flows(&run, &truth(std::slice::from_ref(&packet), 2));
            let flow = run.flows[0];
            assert_eq!((flow.start_ms, flow.end_ms), (START_MS, START_MS + 1234));
            assert_eq!(flow.interface, 0);
        }
    }
    Ok(())
}

#[test]
fn resolutions_and_offsets_of_pcapng() -> Result {
    let (packet, _) = two();
    // if_tsresol, units in a second.
    let resolutions: [(Option<u8>, u64); 6] = [
        (None, 1_000_000),
        (Some(6), 1_000_000),
        (Some(9), 1_000_000_000),
        (Some(3), 1000),
        (Some(0x80 | 20), 1 << 20),
        (Some(0x80), 1),
    ];
    for order in ORDERS {
        for (resolution, per_second) in resolutions {
            for offset in [0_i64, -3600, 86_400] {
                let octets = order.u64(offset as u64);
                let value = [resolution.unwrap_or_default()];
                let mut options: Vec<(u16, &[u8])> = vec![(14, &octets)];
                options.extend(resolution.map(|_| (9, &value[..])));
                let second = START_NS / SECOND;
                let record = |ticks| Record::whole(second * per_second + ticks, &packet.frame);
                let file = PcapNg::new(order)
                    .interface(1, 0, &options)
                    .enhanced(0, &record(0))
                    .obsolete(0, &record(per_second * 3));
                let run = pcap(&["-"], file.octets())?;
                assert_flows(&run, &truth(std::slice::from_ref(&packet), 2));
                let start_ms = START_MS.checked_add_signed(offset * 1000).expect("a time");
                let flow = run.flows[0];
                assert_eq!((flow.start_ms, flow.end_ms), (start_ms, start_ms + 3000));
            }
        }
    }
    Ok(())
}

#[test]
fn sections_of_both_orders_and_interfaces_of_their_own() -> Result {
    let (packet, _) = two();
    let record = |at_ms: u64| Record::whole((START_MS + at_ms) * 1000, &packet.frame);
    let raw = Record::whole((START_MS + 5) * 1000, &packet.frame[ETHERNET..]);
    let file = PcapNg::new(Order::Little)
        .interface(1, 0, &[])
        .interface(101, 0, &[(2, b"tun0")])
        .enhanced(1, &raw)
        .enhanced(0, &record(1))
        // Blocks that say nothing of packets, and some that nobody knows.
        .block(4, &[0; 8])
        .block(0x0bad_0000, &[1; 4])
        .section(Order::Big)
        .interface(1, 0, &[])
        .enhanced(0, &record(9))
        .obsolete(0, &record(10));
    let run = pcap(&["-"], file.octets())?;
    assert_flows(&run, &truth(std::slice::from_ref(&packet), 4));
    let mut flows: Vec<_> = run
        .flows
        .iter()
        .map(|f| (f.interface, f.counts.packets))
        .collect();
    flows.sort_unstable();
    assert_eq!(flows, [(1, 3), (2, 1)]);
    Ok(())
}

#[test]
fn packets_without_a_time_have_that_of_the_one_before() -> Result {
    let (packet, _) = two();
    let at = Record::whole(START_NS / 1000, &packet.frame);
    let simple = Record::whole(0, &packet.frame);
    let file = PcapNg::new(Order::Big)
        .interface(1, 0, &[])
        .enhanced(0, &at)
        .simple(&simple);
    let run = pcap(&["-"], file.octets())?;
    assert_flows(&run, &truth(std::slice::from_ref(&packet), 2));
    assert_eq!(
        (run.flows[0].start_ms, run.flows[0].end_ms),
        (START_MS, START_MS)
    );
    assert!(run.log.contains("1 packets have no time"), "{}", run.log);

    // The snaplen of the interface says what is padding.
    let cut = Record::cut(0, &packet.frame, 37);
    let file = PcapNg::new(Order::Big).interface(1, 37, &[]).simple(&cut);
    let run = pcap(&["-"], file.octets())?;
    assert_eq!(run.ledger().ignored["truncated_transport"].packets, 1);
    Ok(())
}

#[test]
fn short_packets_count_as_they_were_on_the_wire() -> Result {
    let packets = [
        Ip::new("192.0.2.1", "192.0.2.2").udp(1000, 2000, 1400),
        Ip::new("2001:db8::1", "2001:db8::2").tcp(1000, 2000, 0x12, 1300),
    ];
    let record = |packet: &Packet, snaplen| Record::cut(START_NS, &packet.frame, snaplen);
    let records = [record(&packets[0], 38), record(&packets[1], 68)];
    let run = pcap(&["-"], &classic(Order::Little, false, 1, &records))?;
    assert_flows(&run, &truth(&packets, 1));
    let octets: usize = packets.iter().map(|packet| packet.frame.len()).sum();
    assert_eq!(run.ledger().seen.octets, octets as u64);

    // An octet less, and ports or flags are missing.
    let records = [record(&packets[0], 37), record(&packets[1], 67)];
    let run = pcap(&["-"], &classic(Order::Little, false, 1, &records))?;
    let ledger = run.ledger();
    assert_eq!(ledger.ignored["truncated_transport"].packets, 2);
    assert_eq!((run.code, run.flows.len()), (0, 0));
    Ok(())
}

#[test]
fn several_files_are_one_run() -> Result {
    let (packet, records) = two();
    let later = records.clone().map(|record| Record {
        at: record.at + 3 * SECOND,
        ..record
    });
    let first = classic(Order::Little, false, 1, &records);
    let second = classic(Order::Big, true, 1, &later);
    let files = Files::new("several", &[&first, &second])?;
    let run = pcap(&files.paths, &[])?;
    assert_flows(&run, &truth(std::slice::from_ref(&packet), 4));
    assert_eq!(run.flows.len(), 1);
    assert_eq!(run.flows[0].end_ms - run.flows[0].start_ms, 4234);

    let mixed = [files.paths[0].as_os_str(), "-".as_ref()];
    let run = pcap(&mixed, &second)?;
    assert_flows(&run, &truth(std::slice::from_ref(&packet), 4));
    Ok(())
}

#[test]
fn interfaces_that_cannot_be_read_do_not_keep_others_from_it() -> Result {
    let (packet, records) = two();
    let record = Record {
        at: records[0].at / 1000,
        ..records[0].clone()
    };
    let radio = Record::whole(record.at, &[0; 50]);
    let file = PcapNg::new(Order::Little)
        .interface(249, 0, &[])
        .interface(1, 0, &[])
        .enhanced(0, &radio)
        .enhanced(1, &record);
    let run = pcap(&["-"], file.octets())?;
    assert_flows(&run, &truth(std::slice::from_ref(&packet), 1));
    assert_eq!(run.ledger().ignored["unreadable_link"].octets, 50);
    let said = "interface 0 has link type 249 (USBPCAP)";
    assert!(run.log.contains(said), "{}", run.log);

    // With no other, nothing was metered, and that is no success.
    let file = PcapNg::new(Order::Little)
        .interface(249, 0, &[])
        .enhanced(0, &radio);
    let run = pcap(&["-"], file.octets())?;
    assert_eq!((run.code, run.flows.len()), (1, 0), "{}", run.log);
    assert_eq!(run.ledger().seen.packets, 1);
    Ok(())
}

#[test]
fn a_capture_without_packets_is_no_error() -> Result {
    let empty = Truth::default();
    assert_flows(&pcap(&["-"], &classic(Order::Big, false, 1, &[]))?, &empty);
    assert_flows(&pcap(&["-"], PcapNg::new(Order::Big).octets())?, &empty);
    Ok(())
}

/// What a tool makes of octets.
fn packed(tool: &str, arguments: &[&str], octets: &[u8]) -> Result<Vec<u8>> {
    let mut command = Command::new(tool);
    let command = command.args(arguments).stdin(Stdio::piped());
    let child = command.stdout(Stdio::piped()).spawn();
    let mut child = child.with_context(|| format!("{tool}: run `cargo xtask setup`"))?;
    // Less than a pipe holds comes out before all is in.
    child.stdin.take().context("no stdin")?.write_all(octets)?;
    let output = child.wait_with_output()?;
    anyhow::ensure!(output.status.success(), "{tool}: {}", output.status);
    Ok(output.stdout)
}

#[test]
fn compressed_captures_are_unpacked() -> Result {
    let packets = mix();
    let frames = packets.iter().map(|packet| &packet.frame);
    let records: Vec<_> = frames.map(|frame| Record::whole(START_NS, frame)).collect();
    let capture = classic(Order::Little, true, 1, &records);
    let gzip = packed("gzip", &["-c"], &capture)?;
    let zstd = packed("zstd", &["-c", "-q"], &capture)?;
    for packed in [&gzip, &zstd] {
        assert_flows(&pcap(&["-"], packed)?, &truth(&packets, 1));
    }
    let files = Files::new("packed", &[&gzip, &zstd, &capture])?;
    assert_flows(&pcap(&files.paths, &[])?, &truth(&packets, 3));

    // Damage within is told by what is damaged, and where in what it unpacks to. A block of zstd
    // is of up to 128 KiB, and more than one of them is read at once.
    let many: Vec<_> = records.iter().cycle().take(20_000).cloned().collect();
    let many = classic(Order::Little, true, 1, &many);
    let cut = |packed: Vec<u8>| packed[..packed.len() - 9].to_vec();
    let gzip = cut(packed("gzip", &["-c"], &many)?);
    let zstd = cut(packed("zstd", &["-c", "-q"], &many)?);
    for (name, packed) in [("gzip", gzip), ("zstd", zstd)] {
        let files = Files::new("packed-cut", &[&packed, &capture])?;
        let run = pcap(&files.paths, &[])?;
        assert_eq!(run.code, 1, "{}", run.log);
        let said = format!("its {name} stream is damaged or cut off");
        assert!(run.log.contains(&said), "{}", run.log);
        assert!(run.ledger().seen.packets > 5000);
    }
    Ok(())
}

/// Two taps that saw each way of one conversation, and a third file of an hour later.
#[test]
fn files_are_merged_by_time() -> Result {
    let ways = [
        Ip::new("192.0.2.1", "192.0.2.2").udp(1000, 2000, 100),
        Ip::new("192.0.2.2", "192.0.2.1").udp(2000, 1000, 100),
    ];
    let record = |packet: &Packet, second: u64| {
        Record::whole(START_NS + second * crate::SECOND, &packet.frame)
    };
    let tap = |packet: &Packet, seconds: &[u64]| {
        let records: Vec<_> = seconds.iter().map(|at| record(packet, *at)).collect();
        classic(Order::Little, true, 1, &records)
    };
    // One flow of each that goes on for longer than both timeouts and one read after the other.
    let seconds: Vec<u64> = (0..30).map(|n| n * 10).collect();
    let files = [
        tap(&ways[0], &[3600]),
        tap(&ways[0], &seconds),
        tap(&ways[1], &seconds),
        // The order within a file stays.
        tap(&ways[1], &[7205, 7200, 7206]),
    ];
    let files: Vec<_> = files.iter().map(Vec::as_slice).collect();
    let files = Files::new("merge", &files)?;
    let paths = files.paths.iter().map(|path| path.to_str().expect("plain"));
    let arguments: Vec<_> = paths.chain(["--merge"]).collect();
    let run = pcap(&arguments, b"")?;
    let all = [vec![ways[0].clone(); 31], vec![ways[1].clone(); 33]].concat();
    assert_flows(&run, &truth(&all, 1));
    // Time never stepped back, and so flows left only when they were due.
    assert!(!run.log.contains("time stepped back"), "{}", run.log);
    let shown = |port: u16| {
        let flows = run.flows.iter().filter(|flow| flow.key.source_port == port);
        let mut flows: Vec<_> = flows
            .map(|flow| (flow.start_ms - START_MS, flow.counts.packets, flow.reason))
            .collect();
        flows.sort_unstable();
        flows
    };
    let active = |n: u64| (n * 60_000, 6, 2);
    let lasting: Vec<_> = (0..5).map(active).collect();
    assert_eq!(shown(1000), [&lasting[..], &[(3_600_000, 1, 1)]].concat());
    assert_eq!(shown(2000), [&lasting[..], &[(7_200_000, 3, 4)]].concat());

    // One after the other it does step back.
    let run = pcap(&arguments[..4], b"")?;
    assert!(run.log.contains("time stepped back"), "{}", run.log);
    Ok(())
}

#[test]
fn what_is_damaged_does_not_keep_others_from_being_merged() -> Result {
    let (packet, records) = two();
    let whole = classic(Order::Little, true, 1, &records);
    let files = Files::new("merge-damaged", &[&whole[..whole.len() - 1], &whole])?;
    let run = pcap(&[&files.paths[..], &["--merge".into()]].concat(), &[])?;
    assert_eq!(run.code, 1, "{}", run.log);
    assert!(
        run.log.contains("0.cap: it ends within the packet"),
        "{}",
        run.log
    );
    truth(&[packet], 3).assert_equals(&Truth::of(&run.flows));
    Ok(())
}
