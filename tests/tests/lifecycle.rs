//! Attaching, detaching, dying, and refusing to start.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::ensure;
use flowprobe_tests::{
    bpf::{attach_xdp, load_xdp, op},
    flow::Truth,
    live::Live,
    netns::Netns,
    packets::Ip,
    probe::{self, Probe},
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

#[test]
fn attaching_and_detaching_under_load_counts_what_the_hook_saw() -> Result {
    let pair = Pair::new(Wire {
        queues: 2,
        mtu: 1500,
    })?;
    // Frames must flow without flowprobe too.
    let gro = ["-K", Pair::SENSOR, "gro", "on"];
    ensure!(pair.sensor.command("ethtool").args(gro).status()?.success());
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    let generators = [0, 4096].map(|first| {
        let interface = Pair::GENERATOR;
        Live::new(&pair.generator, interface, packet.clone(), first, 4096)
    });
    let generators: Vec<Live> = generators.into_iter().collect::<anyhow::Result<_>>()?;
    let stop = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let (stop, namespace) = (&stop, &pair.generator);
        for (cpu, live) in generators.iter().enumerate() {
            scope.spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    live.send(namespace, cpu, 1 << 17).expect("live frames");
                }
            });
        }
        let round = |_| {
            let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
            thread::sleep(Duration::from_millis(500));
            probe.stop()
        };
        let rounds: anyhow::Result<Vec<_>> = (0..3).map(round).collect();
        stop.store(true, Ordering::Relaxed);
        rounds
    })?;
    let mut seen = 0;
    for finished in rounds {
        let ledger = &finished.summary.ledger;
        let errors = ledger.errors();
        assert!(errors.is_empty(), "{errors:?}\n{ledger:#?}");
        finished.summary.assert_nothing_lost();
        assert!(ledger.seen.packets > 0, "no load");
        assert_eq!(
            Truth::of(&finished.flows).total().packets,
            ledger.seen.packets
        );
        assert_eq!(ledger.exported.packets, ledger.seen.packets);
        seen += ledger.seen.packets;
    }
    let received = pair.sensor.counters(Pair::SENSOR)?.rx_packets;
    assert!(
        seen < received,
        "{seen} seen of {received}: there was no load around"
    );
    ensure!(!pair.sensor.has_xdp(Pair::SENSOR)?, "still attached");
    Ok(())
}

#[test]
fn nothing_is_left_attached_after_kill_9() -> Result {
    let pair = Pair::new(Wire::default())?;
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
    ensure!(pair.sensor.has_xdp(Pair::SENSOR)?, "never attached");
    probe.kill()?;
    until("detached", || Ok(!pair.sensor.has_xdp(Pair::SENSOR)?))?;
    // And nothing keeps the next one from starting.
    let probe = Probe::start(&pair.sensor, &["-i", Pair::SENSOR])?;
    probe.stop()?;
    Ok(())
}

#[test]
fn a_foreign_xdp_program_is_not_displaced() -> Result {
    let pair = Pair::new(Wire::default())?;
    // r0 = XDP_PASS; exit
    let foreign = load_xdp("foreign", &[op(0xb7, 0, 0, 0, 2), op(0x95, 0, 0, 0, 0)])?;
    let index = pair.sensor.index(Pair::SENSOR)?;
    let link = pair.sensor.run(|| attach_xdp(&foreign, index))??;
    let refused = refuse(&pair.sensor, &["run", "-i", Pair::SENSOR])?;
    assert!(
        refused.contains("foreign"),
        "it does not say which one: {refused}"
    );
    ensure!(
        pair.sensor.has_xdp(Pair::SENSOR)?,
        "the foreign one is gone"
    );
    drop(link);
    Ok(())
}

/// Runs flowprobe and returns the one line with which it refuses to start.
fn refuse(namespace: &Netns, arguments: &[&str]) -> anyhow::Result<String> {
    one_line(&probe::output(namespace, arguments)?, arguments)
}

fn one_line(output: &std::process::Output, arguments: &[&str]) -> anyhow::Result<String> {
    let text = String::from_utf8(output.stderr.clone())?;
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).collect();
    let code = output.status.code();
    ensure!(code == Some(2), "{arguments:?}: exit code {code:?}: {text}");
    ensure!(lines.len() == 1, "{arguments:?}: not one line: {text}");
    ensure!(output.stdout.is_empty(), "{arguments:?}: prints something");
    Ok(text)
}

#[test]
fn bad_input_is_refused_in_one_line() -> Result {
    let pair = Pair::new(Wire::default())?;
    // Arguments, and what the line has to name.
    let cases: &[(&[&str], &str)] = &[
        (&["-i", "nowhere0"], "nowhere0"),
        (&["-i", Pair::SENSOR, "-i", "nowhere0"], "nowhere0"),
        (&["-i", Pair::SENSOR, "--sample", "1/0"], "1/0"),
        (&["-i", Pair::SENSOR, "--sample", "random:1/0"], "1/0"),
        (&["-i", Pair::SENSOR, "--sample", "nofn:6/5"], "at most N"),
        (&["-i", Pair::SENSOR, "--sample", "time:0/5"], "time:0/5"),
        (&["-i", Pair::SENSOR, "--sample", "2/3"], "1/N"),
        (&["-i", Pair::SENSOR, "--sample", "often"], "1/N"),
        (&["-i", Pair::SENSOR, "--idle-timeout", "0"], "idle-timeout"),
        (
            &["-i", Pair::SENSOR, "--active-timeout", "0"],
            "active-timeout",
        ),
        (
            &["-i", Pair::SENSOR, "--sweep-interval", "0"],
            "sweep-interval",
        ),
        (
            &["-i", Pair::SENSOR, "--idle-timeout", "soon"],
            "idle-timeout",
        ),
        (
            &["-i", Pair::SENSOR, "--collector", "udp://10.0.0.999:1"],
            "10.0.0.999",
        ),
        (
            &["-i", Pair::SENSOR, "--collector", "carrier-pigeon://x"],
            "carrier-pigeon",
        ),
        (
            &["-i", Pair::SENSOR, "--collector", "udp://127.0.0.1:99999"],
            "99999",
        ),
        (&["-i", Pair::SENSOR, "--max-flows", "0"], "max-flows"),
        (&["-i", Pair::SENSOR, "--mtu", "20"], "mtu"),
        (
            &["-i", Pair::SENSOR, "--object", "/nonexistent"],
            "/nonexistent",
        ),
        (&["-i", Pair::SENSOR, "--xdp-mode", "magic"], "magic"),
        (&[], "--interface"),
    ];
    let mut failures = Vec::new();
    for (arguments, names) in cases {
        match refuse(&pair.sensor, &[&["run"], *arguments].concat()) {
            Ok(line) if line.contains(names) => {}
            Ok(line) => failures.push(format!("{arguments:?}: does not name {names}: {line}")),
            Err(error) => failures.push(error.to_string()),
        }
        if pair.sensor.has_xdp(Pair::SENSOR)? {
            failures.push(format!("{arguments:?}: attached"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    Ok(())
}

#[test]
fn a_missing_privilege_is_named() -> Result {
    let pair = Pair::new(Wire::default())?;
    let arguments = ["run", "-i", Pair::SENSOR];
    let output = pair
        .sensor
        .command("setpriv")
        .args(["--bounding-set", "-all", "--inh-caps", "-all"])
        .arg(probe::binary()?)
        .args(arguments)
        .output()?;
    let line = one_line(&output, &arguments)?;
    assert!(line.contains("CAP_"), "{line}");
    Ok(())
}

fn until(what: &str, done: impl Fn() -> anyhow::Result<bool>) -> Result {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !done()? {
        ensure!(Instant::now() < deadline, "not {what} after 30 seconds");
        thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}
