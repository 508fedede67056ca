//! Files as people write them, right and wrong.

use std::{
    collections::BTreeSet,
    ffi::OsString,
    fs,
    io::Write as _,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use clap::CommandFactory as _;

use super::{CommandLine, CommandLineError, File, Of, check, command_line, default, show};
use crate::cli::{Cli, Command, pcap_settings, run_settings};

/// A file that goes away with its guard.
struct Written(PathBuf);

impl Written {
    fn new(text: &str) -> Self {
        static FILES: AtomicU32 = AtomicU32::new(0);
        let number = FILES.fetch_add(1, Ordering::Relaxed);
        let name = format!("flowprobe-config-{}-{number}.toml", std::process::id());
        let path = std::env::temp_dir().join(name);
        fs::write(&path, text).expect("a file");
        Self(path)
    }

    fn name(&self) -> &str {
        self.0.to_str().expect("plain")
    }
}

impl Drop for Written {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

/// What these words of a command line ask for.
fn read(given: &[&str]) -> CommandLine {
    match command_line(&words(given)) {
        Ok(read) => read,
        Err(error) => panic!("{given:?}: {error}"),
    }
}

/// A command line that is complete, with these options and this file.
fn asked(of: Of, options: &[&str], file: Option<&str>) -> CommandLine {
    let written = file.map(Written::new);
    let mut given = match of {
        Of::Run => vec!["flowprobe", "run"],
        Of::Pcap => vec!["flowprobe", "pcap", "some.pcap"],
    };
    given.extend(options);
    given.extend(written.iter().flat_map(|file| ["--config", file.name()]));
    let mut read = read(&given);
    match &mut read.cli.command {
        Command::Run(options) => options.file.config = None,
        Command::Pcap(options) => options.file.config = None,
        other => panic!("{other:?}"),
    }
    read
}

/// Its settings, as text that can be compared.
fn settings(asked: CommandLine) -> String {
    match asked.cli.command {
        Command::Run(options) => format!("{:#?}", run_settings(*options).expect("they agree")),
        Command::Pcap(options) => format!("{:#?}", pcap_settings(*options).expect("they agree")),
        other => panic!("{other:?}"),
    }
}

/// What is said of this text, without the name of the file.
fn said(text: &str) -> Vec<String> {
    let written = Written::new(text);
    let lines = match check(&written.0) {
        Ok(idle) => idle.join("\n"),
        Err(error) => error.to_string(),
    };
    let name = format!("{}:", written.name());
    let line = |line: &str| {
        let rest = line.strip_prefix(&name);
        rest.unwrap_or_else(|| panic!("{line}")).to_owned()
    };
    lines.lines().map(line).collect()
}

/// Every option with a value that is not its default: as a key, and as flags.
const EVERY: [(&str, &str, &[&str]); 57] = [
    ("interface", "['a', 'b']", &["-i", "a", "-i", "b"]),
    (
        "collector",
        "['udp://192.0.2.1', 'udp://[::1]:7']",
        &["-c", "udp://192.0.2.1", "-c", "udp://[::1]:7"],
    ),
    (
        "group",
        "[{ mode = 'failover', hold-down = 5, collectors = ['tcp://a', 'udp://b'] }, 'all udp://c udp://d']",
        &[
            "-g",
            "failover hold-down=5 tcp://a udp://b",
            "-g",
            "all udp://c udp://d",
        ],
    ),
    ("format", "'v9'", &["--format", "v9"]),
    ("tls-ca", "'/ca.pem'", &["--tls-ca", "/ca.pem"]),
    ("tls-cert", "'/cert.pem'", &["--tls-cert", "/cert.pem"]),
    ("tls-key", "'/key.pem'", &["--tls-key", "/key.pem"]),
    ("spool", "'/s'", &["--spool", "/s"]),
    ("spool-octets", "2000000", &["--spool-octets", "2000000"]),
    ("rotate-octets", "9", &["--rotate-octets", "9"]),
    ("rotate-interval", "60", &["--rotate-interval", "60"]),
    ("output", "'table'", &["--output", "table"]),
    ("mtu", "0x200", &["--mtu", "512"]),
    ("template-refresh", "0.5", &["--template-refresh", "0.5"]),
    (
        "template-refresh-packets",
        "20",
        &["--template-refresh-packets", "20"],
    ),
    (
        "fields",
        "['ipVersion', 'packetDeltaCount']",
        &["--fields", "ipVersion,packetDeltaCount"],
    ),
    (
        "template",
        "[{ name = 'w', fields = ['ipVersion', 'vlanId'] }, 'n=ipVersion']",
        &[
            "--template",
            "w=ipVersion,vlanId",
            "--template",
            "n=ipVersion",
        ],
    ),
    ("biflow", "true", &["--biflow"]),
    ("export-rate", "1_000", &["--export-rate", "1000"]),
    ("observation-domain", "7", &["--observation-domain", "7"]),
    ("vlan-elements", "'dot1q'", &["--vlan-elements", "dot1q"]),
    (
        "sample",
        "['udp port 53 = 1/1', '1/1000']",
        &["--sample", "udp port 53 = 1/1", "--sample", "1/1000"],
    ),
    ("sample-key", "'12345678'", &["--sample-key", "12345678"]),
    ("shadow", "100", &["--shadow", "100"]),
    ("control", "'/x'", &["--control", "/x"]),
    ("no-control", "true", &["--no-control"]),
    (
        "sampling-profile",
        "'psamp'",
        &["--sampling-profile", "psamp"],
    ),
    ("tunnels", "'inner'", &["--tunnels", "inner"]),
    ("vxlan-port", "[4789, 8472]", &["--vxlan-port", "4789,8472"]),
    ("geneve-port", "8", &["--geneve-port", "8"]),
    ("gtpu-port", "'9'", &["--gtpu-port", "9"]),
    ("idle-timeout", "1.5e1", &["--idle-timeout", "15.0"]),
    ("active-timeout", "7", &["--active-timeout", "7"]),
    ("tcp-linger", "0.25", &["--tcp-linger", "0.25"]),
    ("sweep-interval", "3600", &["--sweep-interval", "3600"]),
    ("max-flows", "1", &["--max-flows", "1"]),
    ("merge", "true", &["--merge"]),
    ("max-overflow-flows", "0", &["--max-overflow-flows", "0"]),
    ("export-queue", "1", &["--export-queue", "1"]),
    ("mode", "'afxdp'", &["--mode", "afxdp"]),
    ("take-packets", "true", &["--take-packets"]),
    ("poll", "'busy'", &["--poll", "busy"]),
    ("ring", "4096", &["--ring", "4096"]),
    ("umem", "8192", &["--umem", "8192"]),
    ("frame-size", "4096", &["--frame-size", "4096"]),
    ("zero-copy", "'never'", &["--zero-copy", "never"]),
    ("hook", "'tc'", &["--hook", "tc"]),
    ("egress", "true", &["--egress"]),
    ("dedup", "true", &["--dedup"]),
    ("xdp-mode", "'generic'", &["--xdp-mode", "generic"]),
    ("promisc", "true", &["--promisc"]),
    ("duration", "2", &["--duration", "2"]),
    ("summary", "'-x y'", &["--summary=-x y"]),
    ("log", "'debug'", &["--log", "debug"]),
    ("object", "'ö.o'", &["--object", "ö.o"]),
    ("collector", "'udp://192.0.2.1'", &["-c", "udp://192.0.2.1"]),
    ("shadow", "'nofn:2/20'", &["--shadow", "nofn:2/20"]),
];

/// The long options of a command, and of it alone.
fn options(of: Of) -> BTreeSet<String> {
    let cli = Cli::command();
    let command = cli.find_subcommand(of.name()).expect("it is there");
    let longs = command.get_arguments().filter_map(clap::Arg::get_long);
    longs
        .filter(|name| *name != "config")
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_option_is_a_key_and_every_key_an_option() {
    let options: BTreeSet<_> = Of::ALL.into_iter().flat_map(options).collect();
    let tested: BTreeSet<_> = EVERY.iter().map(|(key, ..)| (*key).to_owned()).collect();
    assert_eq!(tested, options, "EVERY has a value for each option");
    let default = default();
    let lines = default
        .lines()
        .map(|line| line.strip_prefix("# ").unwrap_or(line));
    let keys = lines
        .filter_map(|line| Some(line.split_once(" = ")?.0))
        .filter(|key| !key.contains(' '));
    let keys: BTreeSet<_> = keys.map(str::to_owned).collect();
    assert_eq!(keys, options, "`config default` has each key");
}

#[test]
fn a_key_means_what_the_flag_means() {
    for of in Of::ALL {
        let known = options(of);
        let required = |key: &str| match of {
            Of::Run if key != "interface" => &["-i", "x"][..],
            _ => &[],
        };
        for (key, value, flags) in EVERY.iter().filter(|(key, ..)| known.contains(*key)) {
            let required = required(key);
            let line = format!("{key} = {value}");
            let of_file = format!("{:?}", asked(of, required, Some(&line)).cli);
            let of_flags = format!("{:?}", asked(of, &[required, flags].concat(), None).cli);
            assert_eq!(of_file, of_flags, "{line}");
            if *key != "interface" && *key != "idle-timeout" {
                let without = format!("{:?}", asked(of, required, None).cli);
                assert_ne!(of_file, without, "{line}");
            }
        }
    }
}

#[test]
fn numbers_are_written_without_quotes() {
    use super::keys::{Keys, Kind};
    for key in Keys::all().0 {
        for (_, option) in &key.options {
            let defaults = option.get_default_values().iter();
            let mut numbers = defaults.filter_map(|value| value.to_str()?.parse::<f64>().ok());
            let is_text = Kind::of(option) == Kind::Text;
            assert!(!is_text || numbers.next().is_none(), "{}", key.name);
        }
    }
}

#[test]
fn each_error_names_its_place() {
    let text = "text in quotes, or a list of it: [\"…\", \"…\"]";
    let list = format!("2:26: collector: this is a whole number: give {text}");
    let table = format!("1:1: interface: this is a table: give {text}");
    let keys = "; `flowprobe config default` shows all";
    for (file, errors) in [
        (
            "samle = '1/2'",
            &["1:1: unknown key \"samle\": did you mean \"sample\"?"][..],
        ),
        (
            "\n\n  idle_timeout = 1",
            &["3:3: unknown key \"idle_timeout\": did you mean \"idle-timeout\"?"],
        ),
        (
            "[interfaces]\na = 1",
            &["1:2: unknown key \"interfaces\": did you mean \"interface\"?"],
        ),
        (
            "config = 'x'",
            &[&format!("1:1: unknown key \"config\"{keys}")],
        ),
        (
            "\"a\\nb\" = 1",
            &[&format!("1:1: unknown key \"a\\nb\"{keys}")],
        ),
        ("mtu = 1400\nmtu = 1400", &["2:1: duplicate key \"mtu\""]),
        (
            "mtu = ",
            &["1:7: string values must be quoted, expected literal string"],
        ),
        (
            "# ü\nlog = 'info' x",
            &["2:14: unexpected key or value, expected newline, `#`"],
        ),
        (
            "idle-timeout = '15'",
            &["1:16: idle-timeout: this is text: give a number of seconds, without quotes"],
        ),
        (
            "idle-timeout = 0",
            &["1:16: idle-timeout: give more than 0 and at most 2592000 seconds (30 days)"],
        ),
        (
            "idle-timeout = nan",
            &["1:16: idle-timeout: give more than 0 and at most 2592000 seconds (30 days)"],
        ),
        (
            "sweep-interval = 3601",
            &[
                "1:18: sweep-interval: give at most 3600 seconds: flows are exported this much too late",
            ],
        ),
        (
            "mtu = 2.5",
            &["1:7: mtu: this is a number with decimals: give a whole number, without quotes"],
        ),
        ("mtu = 255", &["1:7: mtu: 255 is not in 256..=65535"]),
        ("mtu = -1", &["1:7: mtu: -1 is not in 256..=65535"]),
        (
            "max-overflow-flows = 9999999999999999999999",
            &["1:22: max-overflow-flows: number too large to fit in target type"],
        ),
        (
            "promisc = 1",
            &["1:11: promisc: this is a whole number: give true or false"],
        ),
        ("output = 'xml'", &["1:10: output: give one of table, json"]),
        (
            "log = []",
            &["1:7: log: this is a list: give text in quotes"],
        ),
        (
            "log = 1979-05-27",
            &["1:7: log: this is a date: give text in quotes"],
        ),
        ("summary = ''", &["1:11: summary: it is empty"]),
        (
            "vxlan-port = [1, 70000]",
            &["1:14: vxlan-port: give 1 to 4 ports from 1 to 65535, for example 4789,8472"],
        ),
        (
            "vxlan-port = [1, '2']",
            &["1:18: vxlan-port: this is text: give a whole number, without quotes"],
        ),
        ("[[interface]]", &[&table]),
        // The column counts characters.
        (
            "# ü\ncollector = ['tcp://ö/', 5]",
            &[
                "2:14: collector: \"ö/\" is not a host name or address: write HOST, HOST:PORT or [ADDRESS]:PORT",
                &list,
            ],
        ),
        (
            "[[group]]\nmode = 'all'\ncollector = ['udp://a']",
            &["3:1: unknown key \"collector\": did you mean \"collectors\"?"],
        ),
        (
            "[[group]]\nmode = 1\nhold-down = '1'\ncollectors = 'udp://a'",
            &[
                "2:8: group.mode: this is a whole number: give text in quotes",
                "3:13: group.hold-down: this is text: give a number of seconds, without quotes",
            ],
        ),
        (
            "[[group]]\nmode = 'failover'\ncollectors = ['udp://a']",
            &["1:1: group: a group has at least two collectors, and this one has 1"],
        ),
        (
            "group = 5",
            &[
                "1:9: group: this is a whole number: give tables, [[group]] with mode and collectors, or text in quotes",
            ],
        ),
        (
            "[[template]]\nname = 'w'\nfields = [\n 'ipVersion', 'octetDeltaCont']",
            &[
                "3:10: template.fields: template w: \"octetDeltaCont\" is no element of flow records: did you mean octetDeltaCount?",
            ],
        ),
        (
            "[[template]]\nname = 'a=b'\nfields = 'ipVersion,vlanId'",
            &[
                "2:8: template.name: \"a=b\" is no name of a template: 1 to 64 letters, digits, dashes, dots and underscores",
            ],
        ),
        (
            "[[template]]\nnames = 'w'\nfields = [1]",
            &[
                "1:1: template: name is missing",
                "2:1: unknown key \"names\": did you mean \"name\"?",
                "3:11: template.fields: this is a whole number: give text in quotes",
            ],
        ),
        (
            "[[template]]\nname = 'w'\nfields = ['ipVersion']\n[[template]]\nname = 'x'",
            &["4:1: template: fields is missing"],
        ),
        (
            "template = 'ipVersion'",
            &[
                "1:12: template: a template is written NAME=ELEMENT,ELEMENT…, and \"ipVersion\" has no =",
            ],
        ),
        (
            "template = 5",
            &[
                "1:12: template: this is a whole number: give tables, [[template]] with name and fields, or text in quotes",
            ],
        ),
        (
            "collector = ['udp://a', 'udp://b?template=w']\ntemplate = ['w=ipVersion', 'n=vlanId']",
            &[
                "2:28: template: no collector asks for template n: write ?template=n behind a URL, or leave it out",
            ],
        ),
        (
            "format = 'v9'\ncollector = 'tcp://a'",
            &[
                "1:1: format: collector tcp://a: tcp does not carry NetFlow v9: write udp:// or unix://, or format=ipfix",
            ],
        ),
        (
            "sample-key = 'secret'",
            &[
                "1:14: sample-key: a key has at least 8 octets: make one with `openssl rand -hex 16`",
            ],
        ),
        (
            "sample-key = '@/nowhere/k'",
            &[
                "1:14: sample-key: cannot read the key from /nowhere/k: No such file or directory (os error 2)",
            ],
        ),
        (
            "no-control = true\ncontrol = '/x'",
            &["2:1: control and no-control exclude each other: leave out one of them"],
        ),
        (
            "mtu = 1\n\nbla = 1\nlog = 1",
            &[
                "1:7: mtu: 1 is not in 256..=65535",
                &format!("3:1: unknown key \"bla\"{keys}"),
                "4:7: log: this is a whole number: give text in quotes",
            ],
        ),
    ] {
        assert_eq!(said(file), errors, "{file}");
    }
}

#[test]
fn what_does_not_go_together_is_refused_where_it_stands() {
    for (file, place, part) in [
        (
            "log = 'info'\n sample = ['1/2', '1/3']",
            "2:2: sample: ",
            "both without a filter",
        ),
        (
            "sample = 'hash:1/4'",
            "1:1: sample: ",
            "give one with --sample-key",
        ),
        (
            "sample = '1/4'\nshadow = 100",
            "2:1: shadow: ",
            "leave out --sample",
        ),
        (
            "interface = ['a', 'a']",
            "1:1: interface: ",
            "a is given twice",
        ),
        (
            "interface = 'a'\nsample = 'interface b = 1/2'",
            "2:1: sample: ",
            "b is not watched",
        ),
        (
            "sample = 'udp = 1/2'\nobservation-domain = 4294967295",
            "2:1: observation-domain: ",
            "is too large",
        ),
        (
            "[[template]]\nname = 'w'\nfields = ['ipVersion']\n[[template]]\nname = 'w'\nfields = ['vlanId']",
            "4:1: template: ",
            "template w is there twice",
        ),
        (
            "template = ['n=ipVersion', 'w=ipVersion,reverseOctetDeltaCount']",
            "1:28: template: ",
            "template w: only biflows have reverseOctetDeltaCount: give --biflow too",
        ),
        (
            "collector = ['udp://a', 'udp://b?template=wid']\n[[template]]\nname = 'wide'\nfields = ['ipVersion']",
            "1:25: collector: ",
            "udp://b?template=wid: there is no template wid: did you mean wide?",
        ),
        (
            "template = 'w=ipVersion'\n[[group]]\nmode = 'all'\ncollectors = ['udp://a', 'udp://b?template=v']",
            "2:1: group: ",
            "there is no template v: define it",
        ),
        (
            "template = 'w=ipVersion'\nformat = 'v5'\ncollector = 'udp://a?template=w'",
            "2:1: format: ",
            "NetFlow v5 has no templates",
        ),
    ] {
        let said = said(file);
        assert_eq!(said.len(), 1, "{file}: {said:?}");
        assert!(
            said[0].starts_with(place) && said[0].contains(part),
            "{file}: {said:?}"
        );
    }
    for right in [
        "",
        "no-control = false\ncontrol = '/x'",
        "shadow = 9\nsample = '1/1'",
        "sample = 'interface b = 1/2'",
        "collector = 'udp://a?template=w'\ntemplate = 'w=ipVersion'",
        "group = 'all udp://a udp://b?template=w&format=v9'\ntemplate = 'w=ipVersion'",
    ] {
        assert_eq!(said(right), [""; 0], "{right}");
    }
}

#[test]
fn files_that_are_none_say_so() {
    let error = |path: &Path| File::read(path).expect_err("no file").to_string();
    assert_eq!(
        error(Path::new("/nowhere/x.toml")),
        "/nowhere/x.toml: cannot read it: No such file or directory (os error 2)"
    );
    assert_eq!(
        error(Path::new("/dev/zero")),
        "/dev/zero: it is longer than 1048576 octets"
    );
    let written = Written::new("");
    fs::write(&written.0, b"# \xc3\xbc\n# \xff").expect("a file");
    let place = format!("{}:2:3: this is no UTF-8 text", written.name());
    assert_eq!(error(&written.0), place);
}

#[test]
fn flags_win_over_the_file_and_the_file_over_defaults() {
    let file = "interface = ['a', 'b']\nidle-timeout = 3\nmtu = 600\nsample = ['udp = 1/2', '1/9']\nno-control = true";
    let mut read = asked(
        Of::Run,
        &["--mtu", "700", "-i", "c", "--control", "/y"],
        Some(file),
    );
    let Command::Run(options) = &mut read.cli.command else {
        panic!("not run");
    };
    // A list as a whole; and what excludes the flag gives way as well.
    assert_eq!(options.interfaces, ["c"]);
    assert_eq!(options.control.as_deref(), Some(Path::new("/y")));
    assert!(!options.no_control);
    assert_eq!(options.export.mtu, 700);
    assert_eq!(options.timeouts.idle_timeout.as_secs(), 3);
    assert_eq!(options.timeouts.active_timeout.as_secs(), 60);
    let rates: Vec<_> = options.sample.iter().map(ToString::to_string).collect();
    assert_eq!(rates, ["udp = 1/2", "1/9"]);
    // A switch can be turned off.
    let file = "promisc = true\ninterface = 'a'";
    let off = settings(asked(Of::Run, &["--promisc=false"], Some(file)));
    assert_eq!(off, settings(asked(Of::Run, &["-i", "a"], None)));
    assert_ne!(off, settings(asked(Of::Run, &[], Some(file))));
}

#[test]
fn a_flag_that_repeats_the_default_wins_too() {
    let file = "mtu = 700";
    let read = asked(Of::Run, &["--mtu", "1400", "-i", "c"], Some(file));
    assert!(settings(read).contains("mtu: 1400"));
    let read = asked(Of::Run, &["-i", "c"], Some(file));
    assert!(settings(read).contains("mtu: 700"));
}

#[test]
fn what_is_required_may_be_in_the_file_or_not_at_all() {
    let written = Written::new("mtu = 600");
    let missing = command_line(&words(&["run", "run", "--config", written.name()]));
    let error = missing.expect_err("no interface").to_string();
    assert!(error.contains("--interface <NAME>"), "{error}");
    let written = Written::new("interface = 'run'");
    // The program may have the name of the command.
    let read = read(&["run", "run", "--config", written.name()]);
    assert_eq!(read.origin.taken.len(), 1);
}

#[test]
fn a_key_on_a_pipe_is_read_once() {
    let (mut pipe, end) = std::io::pipe()
        .map(|(read, write)| (write, read))
        .expect("a pipe");
    pipe.write_all(b"correct horse").expect("room");
    drop(pipe);
    let key = format!("--sample-key=@/dev/fd/{}", end.as_raw_fd());
    let piped = asked(Of::Run, &["-i", "a", &key], Some("sample = 'hash:1/4'"));
    let Command::Run(options) = piped.cli.command else {
        panic!("not run");
    };
    assert_eq!(options.sample_key, "correct horse".parse().ok());
}

#[test]
fn keys_of_another_command_are_named() {
    let read = asked(
        Of::Pcap,
        &[],
        Some("interface = 'a'\nmtu = 600\nsample = '1/2'"),
    );
    let idle = read.origin.idle().expect("there are some");
    assert!(
        idle.ends_with(": not for this command: interface, sample"),
        "{idle}"
    );
    assert!(settings(read).contains("mtu: 600"));
}

#[test]
fn the_default_file_changes_nothing() {
    let default = default();
    assert_eq!(said(&default), [""; 0]);
    let wide = default.lines().find(|line| line.chars().count() > 80);
    assert_eq!(wide, None);
    for (of, required) in [(Of::Run, &["-i", "x"][..]), (Of::Pcap, &[])] {
        let file = settings(asked(of, required, Some(&default)));
        assert_eq!(file, settings(asked(of, required, None)));
    }
    // It does set something.
    assert!(
        default
            .lines()
            .filter(|line| !line.starts_with('#'))
            .count()
            > 20
    );
}

#[test]
fn what_is_shown_says_where_it_comes_from() {
    let written = Written::new(
        "\nidle-timeout = 3.5\nsample-key = 'correct horse'\nsummary = \"a\\\"\\t\"\nsample = ['flow:1/2']",
    );
    let name = written.name();
    let shown = show(&words(&[
        "-i",
        "eth0",
        "--shadow=5",
        "--sample=1/1",
        "--config",
        name,
    ]));
    let shown = shown.expect("they are right");
    let line = |key: &str| {
        let begin = |line: &&str| {
            line.trim_start_matches("# ")
                .starts_with(&format!("{key} "))
        };
        let line = shown.lines().find(begin).expect(key);
        line.split("  ")
            .map(str::trim)
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
    };
    assert_eq!(line("interface"), ["interface = [\"eth0\"]", "# flag"]);
    assert_eq!(
        line("idle-timeout"),
        ["idle-timeout = 3.5", &format!("# {name}:2")]
    );
    assert_eq!(
        line("sample-key"),
        ["# sample-key is set, and not shown", &format!("# {name}:3")]
    );
    assert_eq!(
        line("summary"),
        ["summary = \"a\\\"\\u0009\"", &format!("# {name}:4")]
    );
    assert_eq!(line("sample"), ["sample = [\"1/1\"]", "# flag"]);
    assert_eq!(line("shadow"), ["shadow = 5", "# flag"]);
    assert_eq!(line("vxlan-port"), ["vxlan-port = 4789", "# default"]);
    assert_eq!(line("output"), ["# output is not set", "# default"]);
    assert!(!shown.contains("correct"));
    // It is a file itself.
    let again = settings(asked(
        Of::Run,
        &["--sample-key=correct horse"],
        Some(&shown),
    ));
    let given = ["-i=eth0", "--shadow=5", "--sample=1/1", "--config", name];
    let mut once = vec!["flowprobe", "run"];
    once.extend(given);
    assert_eq!(again, settings(read(&once)));
}

/// As a file again, a list in quotes.
#[test]
fn templates_are_shown_as_they_are_written() {
    let shown = show(&words(&[
        "pcap",
        "--template=w=ipVersion, vlanId",
        "-c=udp://h?template=w&format=v9",
    ]));
    let shown = shown.expect("they are right");
    let line = "template = [\"w=ipVersion, vlanId\"]";
    assert!(shown.contains(line), "{shown}");
    assert_eq!(said(&shown), [""; 0]);
    let unknown = show(&words(&["pcap", "-c=udp://h?template=w"])).expect_err("unknown");
    assert!(unknown.to_string().contains("no template w"), "{unknown}");
}

/// What is given besides the file is not of a place in it.
#[test]
fn a_template_that_nobody_asks_for_is_named() {
    let idle = |options: &[&str], file| {
        let CommandLine { cli, origin } = asked(Of::Pcap, options, Some(file));
        let Command::Pcap(options) = cli.command else {
            panic!("not pcap");
        };
        let settings = pcap_settings(*options).expect("they agree");
        origin.idle_templates(&settings.export)
    };
    let file = "collector = 'udp://h?template=w'\n[[template]]\nname = 'w'\nfields = ['ipVersion']";
    assert_eq!(idle(&[], file), [""; 0]);
    let said = "no collector asks for template w: write ?template=w behind a URL, or leave it out";
    // The list of the command line replaces that of the file.
    let [in_file] = <[_; 1]>::try_from(idle(&["-c", "udp://h"], file)).expect("one");
    assert!(
        in_file.ends_with(&format!(":2:1: template: {said}")),
        "{in_file}"
    );
    assert_eq!(idle(&["--template=w=ipVersion"], ""), [said]);
}

#[test]
fn a_capture_has_its_own_settings() {
    let shown = show(&words(&["pcap", "--tunnels", "inner"])).expect("they are right");
    assert!(shown.contains("max-flows = 1048576"), "{shown}");
    assert!(!shown.contains("interface"), "{shown}");
    let error = show(&words(&["--sample=1/2", "--sample=1/3"])).expect_err("two rests");
    assert!(matches!(error, CommandLineError::Settings(_)), "{error}");
}
