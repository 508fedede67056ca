//! What is not read, and what is said of it: bad input before anything is metered, and damage
//! after it.

use flowprobe_tests::{
    capture_file::{Order, PcapNg, Record, pcap as classic},
    flow::Truth,
    offline::pcap,
    packets::{Ip, Packet, truth},
};

use crate::{Files, Result, START_NS};

fn packet() -> Packet {
    Ip::new("192.0.2.1", "192.0.2.2").udp(1000, 2000, 100)
}

fn record() -> Record {
    Record::whole(START_NS / 1000, &packet().frame)
}

/// A capture of three packets in the classic format.
fn three() -> Vec<u8> {
    let record = Record::whole(START_NS, &packet().frame);
    classic(
        Order::Little,
        false,
        1,
        &[record.clone(), record.clone(), record],
    )
}

#[test]
fn bad_input_is_refused_in_one_line() -> Result {
    let good = three();
    let usb = classic(Order::Big, false, 249, &[record()]);
    let mut old = good.clone();
    old[4] = 1;
    let files: [&[u8]; 7] = [
        &good,
        b"",
        b"\xfd7zXZ\0",
        b"text, no capture",
        &usb,
        &old,
        &good[..20],
    ];
    let files = Files::new("refused", &files)?;
    let path = |number: usize| files.paths[number].to_str().expect("plain");
    let directory = files.directory.path().to_str().expect("plain");
    let cases: [(&[&str], &str); 13] = [
        (
            &["/nonexistent"],
            "/nonexistent: cannot open it: No such file",
        ),
        (&[path(1)], "it is empty"),
        (&[path(2)], "xzcat FILE | flowprobe pcap -"),
        (
            &[path(3)],
            "neither pcap nor pcapng: it begins with [74, 65, 78, 74]",
        ),
        (&[path(4)], "link type 249 (USBPCAP) cannot be read"),
        (&[path(5)], "format version 1 is not known"),
        (&[path(6)], "it ends within the header at octet 0"),
        (&[directory], "Is a directory"),
        // Nothing of the first file is metered if the second is none.
        (&[path(0), path(3)], "neither pcap nor pcapng"),
        (&["-", "-"], "standard input is given twice"),
        (&[], "see `flowprobe pcap --help`"),
        (&[path(0), "--max-flows", "0"], "--max-flows"),
        (&[path(0), "--collector", "quic://x"], "--collector"),
    ];
    for (arguments, said) in cases {
        let run = pcap(arguments, b"")?;
        assert_eq!(run.code, 2, "{arguments:?}: {}", run.log);
        assert!(run.log.contains(said), "{arguments:?}: {}", run.log);
        assert_eq!(run.log.lines().count(), 1, "{}", run.log);
        assert!(run.flows.is_empty());
    }
    Ok(())
}

/// Meters a damaged capture and then a good one: what can be read of both is exported.
#[track_caller]
fn damaged(capture: &[u8], before: u64, said: &str) {
    let files = Files::new("damaged", &[capture, &three()]).expect("files");
    let run = pcap(&files.paths, &[]).expect("flowprobe");
    assert_eq!(run.code, 1, "{}", run.log);
    let expected = format!("{}: {said}", files.paths[0].display());
    assert!(run.log.contains(&expected), "{expected}\n{}", run.log);
    assert!(
        run.log
            .contains("1 of 2 captures could not be read to the end")
    );
    assert_eq!(run.ledger().seen.packets, before + 3);
    truth(&[packet()], before + 3).assert_equals(&Truth::of(&run.flows));
}

#[test]
fn the_classic_format_is_read_as_far_as_it_goes() {
    let whole = three();
    let record = (whole.len() - 24) / 3;
    let second = 24 + record;
    let third = second + record;
    let cut = |len: usize, packets, at: usize| {
        let said = format!("it ends within the packet at octet {at}: it was cut off");
        damaged(&whole[..len], packets, &said);
    };
    cut(whole.len() - 1, 2, third);
    cut(third + 3, 2, third);
    cut(second + 16, 1, second);
    let mut huge = whole.clone();
    huge[second + 10] = 5;
    let claimed = 5 * 65_536 + packet().frame.len();
    damaged(
        &huge,
        1,
        &format!("it is damaged at octet {second}: a packet of {claimed} octets, more than 262144"),
    );
}

#[test]
fn blocks_are_read_as_far_as_they_go() {
    for order in [Order::Little, Order::Big] {
        let start = PcapNg::new(order)
            .interface(1, 0, &[])
            .enhanced(0, &record());
        let at = start.octets().len();
        let next = start.clone().enhanced(0, &record());
        let said = |what: &str| format!("it is damaged at octet {at}: {what}");

        let cut = &next.octets()[..next.octets().len() - 1];
        let ends = format!("it ends within the block at octet {at}: it was cut off");
        damaged(cut, 1, &ends);

        let unknown = start.clone().enhanced(3, &record());
        let described = said("a packet of interface 3, where only 1 are described");
        damaged(unknown.octets(), 1, &described);

        let mut tail = next.octets().to_vec();
        let len = tail.len();
        tail[len - 4..].copy_from_slice(&[9; 4]);
        let size = (len - at) as u32;
        damaged(
            &tail,
            1,
            &said(&format!(
                "a block of {size} octets that says 151587081 at its end"
            )),
        );

        let mut short = next.octets().to_vec();
        short[at + 4..at + 8].copy_from_slice(&[0; 4]);
        damaged(&short, 1, &said("a block of 0 octets, not 12 to 16777216"));

        let mut claims = next.octets().to_vec();
        claims[at + 20..at + 24].copy_from_slice(&[0, 0, 1, 0]);
        damaged(&claims, 1, &said("a block whose fields do not fit into it"));

        let mut section = start.clone().section(order).octets().to_vec();
        section[at + 8] = 0;
        damaged(&section, 1, &said("a section without byte order"));
        let mut section = start.clone().section(order).octets().to_vec();
        section[at + 12..at + 16].copy_from_slice(&[7; 4]);
        damaged(
            &section,
            1,
            &said("a section of version 1799.1799, not 1.0 or 1.2"),
        );
    }
}
