//! Settings in a file, as a user of the command meets them.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use flowprobe_tests::{
    capture_file::{Order, Record, pcap},
    ipfix::Decoder,
    judges::Directory,
    packets::Ip,
    probe::binary,
};

type Result = anyhow::Result<()>;

/// A directory with a capture of two packets, two seconds apart.
struct Place(Directory);

impl Place {
    fn new(name: &str) -> anyhow::Result<Self> {
        let name = format!("flowprobe-config-{name}-{}", std::process::id());
        let place = Self(Directory::new(&name)?);
        let frame = Ip::new("192.0.2.1", "192.0.2.2").udp(1000, 2000, 100).frame;
        let records =
            [0, 2].map(|s| Record::whole(1_700_000_000_000_000_000 + s * 1_000_000_000, &frame));
        fs::write(
            place.path("two.pcap"),
            pcap(Order::Little, true, 1, &records),
        )?;
        Ok(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// Runs flowprobe there.
    fn flowprobe(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(binary()?);
        Ok(command
            .args(arguments)
            .current_dir(self.0.path())
            .output()?)
    }
}

fn lines(octets: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(octets);
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_file_is_as_good_as_flags() -> Result {
    let place = Place::new("flags")?;
    // Two flows where a second of silence ends one, else one.
    fs::write(
        place.path("a.toml"),
        "idle-timeout = 1\noutput = \"json\"\nlog = \"error\"\nsummary = \"end.json\"\n",
    )?;
    let flows = |arguments: &[&str]| -> anyhow::Result<usize> {
        let output = place.flowprobe(arguments)?;
        assert!(output.status.success(), "{output:?}");
        Ok(lines(&output.stdout).len())
    };
    assert_eq!(flows(&["pcap", "two.pcap"])?, 1);
    assert!(!place.path("end.json").exists());
    assert_eq!(flows(&["pcap", "two.pcap", "--config", "a.toml"])?, 2);
    assert!(place.path("end.json").exists());
    assert_eq!(
        flows(&["pcap", "--idle-timeout=15", "--config=a.toml", "two.pcap"])?,
        1
    );
    Ok(())
}

#[test]
fn what_is_wrong_in_a_file_ends_with_2() -> Result {
    let place = Place::new("wrong")?;
    fs::write(
        place.path("bad.toml"),
        "log = \"info\"\nsamle = \"1/2\"\nmtu = \"9\"\n",
    )?;
    fs::write(
        place.path("two.toml"),
        "interface = \"lo\"\nsample = [\"1/2\", \"1/3\"]\n",
    )?;
    let bad = [
        "bad.toml:2:1: unknown key \"samle\": did you mean \"sample\"?",
        "bad.toml:3:7: mtu: this is text: give a whole number, without quotes",
    ];
    let two = [
        "two.toml:2:1: sample: --sample 1/2 and --sample 1/3 are both without a filter: one rate \
         is for all packets that no filter matches",
    ];
    let none = ["none.toml: cannot read it: No such file or directory (os error 2)"];
    for (arguments, said) in [
        (&["config", "check", "bad.toml"][..], &bad[..]),
        (&["pcap", "two.pcap", "--config", "bad.toml"], &bad),
        (&["run", "--config", "bad.toml"], &bad),
        (&["config", "show", "--config", "bad.toml"], &bad),
        (&["config", "check", "two.toml"], &two),
        (&["config", "show", "--config", "two.toml"], &two),
        (&["run", "--log", "error", "--config", "two.toml"], &two),
        (&["run", "--config", "none.toml"], &none),
    ] {
        let output = place.flowprobe(arguments)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {output:?}");
        assert_eq!(lines(&output.stderr), said, "{arguments:?}");
        assert!(output.stdout.is_empty(), "{arguments:?}: {output:?}");
    }
    // A file that is right leaves out nothing that is required.
    fs::write(place.path("good.toml"), "mtu = 1400\n")?;
    let output = place.flowprobe(&["run", "--config", "good.toml"])?;
    assert_eq!(output.status.code(), Some(2));
    let said = "flowprobe: the following required arguments were not provided: --interface <NAME|PATTERN>; \
                see `flowprobe run --help`";
    assert_eq!(lines(&output.stderr), [said]);
    Ok(())
}

#[test]
fn the_default_file_is_right_and_changes_nothing() -> Result {
    let place = Place::new("default")?;
    let file = place.flowprobe(&["config", "default"])?;
    fs::write(place.path("all.toml"), &file.stdout)?;
    let output = place.flowprobe(&["config", "check", "all.toml"])?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lines(&output.stdout), ["all.toml is right"]);
    // Shown settings are the same, but for where they come from.
    let shown = |arguments: &[&str]| -> anyhow::Result<Vec<String>> {
        let output = place.flowprobe(&[&["config", "show"], arguments].concat())?;
        assert!(output.status.success(), "{output:?}");
        let value = |line: String| line.split("  ").next().unwrap_or_default().to_owned();
        Ok(lines(&output.stdout).into_iter().map(value).collect())
    };
    let with = shown(&["--config", "all.toml"])?;
    assert_eq!(with, shown(&[])?);
    assert!(
        with.iter().any(|line| line == "idle-timeout = 15"),
        "{with:?}"
    );
    Ok(())
}

/// Two collectors of one run: one with the fields of a table, one with those of `fields`.
#[test]
fn a_collector_has_the_template_that_it_asks_for() -> Result {
    let place = Place::new("template")?;
    let directory = place.path("").display().to_string();
    fs::write(
        place.path("two.toml"),
        format!(
            "collector = [\n  \"file://{directory}narrow.ipfix?template=narrow\",\n  \
             \"file://{directory}other.ipfix\",\n]\n\
             fields = [\"octetDeltaCount\", \"ipVersion\"]\n\n\
             [[template]]\nname = \"narrow\"\n\
             fields = [\"packetDeltaCount\", \"sourceIPv4Address\", \"sourceIPv6Address\"]\n"
        ),
    )?;
    let output = place.flowprobe(&["pcap", "two.pcap", "--config", "two.toml"])?;
    assert!(output.status.success(), "{output:?}");
    for (name, expected) in [
        (
            "narrow.ipfix",
            &[(2, &[0, 0, 0, 0, 0, 0, 0, 2][..]), (8, &[192, 0, 2, 1])],
        ),
        ("other.ipfix", &[(1, &[0, 0, 0, 0, 0, 0, 1, 0]), (60, &[4])]),
    ] {
        let file = fs::read(place.path(name))?;
        let (mut decoder, mut flows, mut rest) = (Decoder::of_a_session(), Vec::new(), &file[..]);
        while let Some([_, _, high, low]) = rest.first_chunk() {
            let (message, after) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
            let records = decoder.decode(message)?.records;
            flows.extend(records.into_iter().filter(|record| !record.is_options()));
            rest = after;
        }
        assert_eq!(flows.len(), 1, "{name}");
        let fields = flows[0].fields().map(|(field, octets)| (field.id, octets));
        assert_eq!(fields.collect::<Vec<_>>(), expected, "{name}");
    }
    Ok(())
}

#[test]
fn a_template_that_no_collector_asks_for_is_no_error_and_is_said() -> Result {
    let place = Place::new("unused")?;
    fs::write(
        place.path("idle.toml"),
        "output = \"json\"\n\n[[template]]\nname = \"narrow\"\nfields = [\"ipVersion\"]\n",
    )?;
    let said = "idle.toml:3:1: template: no collector asks for template narrow: write \
                ?template=narrow behind a URL, or leave it out";
    let output = place.flowprobe(&["config", "check", "idle.toml"])?;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(lines(&output.stdout), ["idle.toml is right"]);
    assert_eq!(lines(&output.stderr), [said]);
    let output = place.flowprobe(&["pcap", "--config", "idle.toml", "two.pcap"])?;
    assert!(output.status.success(), "{output:?}");
    let warned = |line: &String| line.contains("WARN") && line.ends_with(said);
    assert!(lines(&output.stderr).iter().any(warned), "{output:?}");
    Ok(())
}

#[test]
fn keys_of_run_are_named_where_captures_are_metered() -> Result {
    let place = Place::new("idle")?;
    fs::write(
        place.path("run.toml"),
        "interface = \"eth0\"\nsample = \"1/100\"\n",
    )?;
    let output = place.flowprobe(&["pcap", "--config", "run.toml", "two.pcap"])?;
    assert!(output.status.success(), "{output:?}");
    let said = "run.toml: not for this command: interface, sample";
    let named = |line: &String| line.contains("WARN") && line.contains(said);
    assert!(lines(&output.stderr).iter().any(named), "{output:?}");
    assert_eq!(lines(&output.stdout).len(), 1);
    Ok(())
}
