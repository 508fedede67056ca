//! `flowprobe experiment` as a user runs it: what it writes, and what it says of bad input.

use std::{
    fs,
    process::{Command, Output},
};

use flowprobe_tests::{
    capture_file::{Order, Record, pcap as classic},
    judges::Directory,
    packets::Ip,
    probe::binary,
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
