//! Traffic control by filters of a clsact qdisc, as on kernels before 6.6: counted as by TCX, taken away
//! exactly, and what a killed process has left is taken away by the next.

use std::{process::Command, thread, time::Duration};

use anyhow::{Result, ensure};
use flowprobe_tests::{
    flow::Truth,
    mix::mix,
    netns::Netns,
    packets::{Packet, truth},
    probe::{self, Probe},
    sender::Sender,
    topology::{Pair, Wire},
};

const BOTH_WAYS: [&str; 6] = ["-i", Pair::SENSOR, "--hook", "tc", "--egress", "--clsact"];

/// What `tc` says, in one of its commands about the sensor's interface.
fn tc(namespace: &Netns, command: &str) -> Result<String> {
    let mut run = namespace.command("tc");
    run.args(command.split(' '));
    let output = run.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "tc {command}: {said}");
    Ok(String::from_utf8(output.stdout)?)
}

/// Filters of flowprobe on their ways in and out, and whether there is the qdisc.
fn there(namespace: &Netns) -> Result<(usize, usize, bool)> {
    let filters = |way| -> Result<usize> {
        let shown = tc(namespace, &format!("filter show dev mon0 {way}"))?;
        Ok(shown.matches(" flowprobe/").count())
    };
    let qdiscs = tc(namespace, "qdisc show dev mon0")?;
    Ok((
        filters("ingress")?,
        filters("egress")?,
        qdiscs.contains("clsact"),
    ))
}

const NOTHING: (usize, usize, bool) = (0, 0, false);

/// Somebody else's filter, which takes every packet and asks nobody further.
fn add_foreign(namespace: &Netns, way: &str, priority: u32) -> Result<()> {
    let mut add = namespace.command("tc");
    let place = format!("filter add dev mon0 {way} prio {priority} protocol all bpf da");
    add.args(place.split(' ')).args(["bytecode", "1,6 0 0 0"]);
    run(add)
}

fn run(mut command: Command) -> Result<()> {
    let output = command.output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {said}");
    Ok(())
}

fn frames(packets: &[Packet]) -> Vec<&Vec<u8>> {
    packets.iter().map(|packet| &packet.frame).collect()
}

#[test]
fn every_kind_of_frame_is_counted_both_ways_and_nothing_stays() -> Result<()> {
    let packets = mix();
    let pair = Pair::new(Wire::default())?;
    let coming = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let going = Sender::new(&pair.sensor, Pair::SENSOR)?;
    let probe = Probe::start(&pair.sensor, &BOTH_WAYS)?;
    assert_eq!(there(&pair.sensor)?, (1, 1, true));
    going.send(&frames(&packets))?;
    coming.send(&frames(&packets))?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    assert_eq!(there(&pair.sensor)?, NOTHING);
    truth(&packets, 2).assert_equals(&Truth::of(&finished.flows));
    let ledger = &finished.summary.ledger;
    assert_eq!(ledger.seen_out.packets, packets.len() as u64);
    let interface = &finished.summary.interfaces[0];
    assert_eq!((interface.mode.as_str(), interface.egress), ("tc", true));
    Ok(())
}

/// Filters and a qdisc of other people's are passed on to, and stay.
#[test]
fn what_is_other_peoples_stays_and_has_its_say() -> Result<()> {
    let packets = mix();
    let pair = Pair::new(Wire::default())?;
    tc(&pair.sensor, "qdisc add dev mon0 clsact")?;
    // Where ours wants to be, and behind.
    add_foreign(&pair.sensor, "ingress", 1)?;
    add_foreign(&pair.sensor, "egress", 7)?;
    let before = tc(&pair.sensor, "filter show dev mon0 ingress")?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &BOTH_WAYS)?;
    assert_eq!(there(&pair.sensor)?, (1, 1, true));
    let finished = probe.meter(&sender, &frames(&packets), 2)?;
    finished.assert_exact(&packets, 2);
    assert_eq!(there(&pair.sensor)?, (0, 0, true), "that is not ours");
    assert_eq!(tc(&pair.sensor, "filter show dev mon0 ingress")?, before);
    let egress = tc(&pair.sensor, "filter show dev mon0 egress")?;
    ensure!(egress.contains("pref 7"), "{egress}");
    Ok(())
}

/// The qdisc that we made stays if somebody has put a filter into it meanwhile.
#[test]
fn a_qdisc_with_other_peoples_filters_is_not_taken_away() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    let probe = Probe::start(&pair.sensor, &BOTH_WAYS)?;
    add_foreign(&pair.sensor, "egress", 7)?;
    probe.stop()?;
    assert_eq!(there(&pair.sensor)?, (0, 0, true));
    let egress = tc(&pair.sensor, "filter show dev mon0 egress")?;
    ensure!(egress.contains("pref 7"), "{egress}");
    Ok(())
}

/// What is not there any more is not taken away again, and nothing else in its place.
#[test]
fn filters_that_somebody_takes_away_are_not_missed() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    let probe = Probe::start(&pair.sensor, &BOTH_WAYS)?;
    tc(&pair.sensor, "qdisc delete dev mon0 clsact")?;
    tc(&pair.sensor, "qdisc add dev mon0 clsact")?;
    // With our priority, and the first handle, as ours had.
    add_foreign(&pair.sensor, "ingress", 1)?;
    let before = tc(&pair.sensor, "filter show dev mon0 ingress")?;
    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    assert_eq!(tc(&pair.sensor, "filter show dev mon0 ingress")?, before);
    Ok(())
}

#[test]
fn what_a_killed_process_has_left_is_taken_away_by_the_next() -> Result<()> {
    let packets = mix();
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let probe = Probe::start(&pair.sensor, &BOTH_WAYS)?;
    // Elsewhere, where it has a summary of its own.
    let there_too = ["--netns", pair.sensor.name()];
    let other = Probe::start(&pair.generator, &[&BOTH_WAYS[..], &there_too].concat())?;
    assert_eq!(there(&pair.sensor)?, (2, 2, true));
    probe.kill()?;
    // The kernel does not do it.
    thread::sleep(Duration::from_millis(200));
    assert_eq!(there(&pair.sensor)?, (2, 2, true));
    let next = Probe::start(&pair.sensor, &BOTH_WAYS)?;
    assert_eq!(there(&pair.sensor)?, (2, 2, true), "of the two that live");
    let other = other.stop()?;
    let finished = next.meter(&sender, &frames(&packets), 1)?;
    finished.assert_exact(&packets, 1);
    ensure!(finished.log.contains("taken away"), "{}", finished.log);
    ensure!(!other.log.contains("taken away"), "{}", other.log);
    assert_eq!(
        there(&pair.sensor)?,
        NOTHING,
        "the last one takes the qdisc, which the first one made"
    );
    Ok(())
}

/// An `ingress` qdisc has the place of the clsact one, and would show what comes in as what goes out.
#[test]
fn an_ingress_qdisc_takes_what_comes_in_and_refuses_what_goes_out() -> Result<()> {
    let packets = mix();
    let pair = Pair::new(Wire::default())?;
    tc(&pair.sensor, "qdisc add dev mon0 ingress")?;
    let before = tc(&pair.sensor, "qdisc show dev mon0")?;
    for arguments in [&BOTH_WAYS[..], &["-i", "mon0", "--egress", "--clsact"]] {
        let refused = probe::output(&pair.sensor, &[&["run"], arguments].concat())?;
        assert_eq!(refused.status.code(), Some(2));
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(said.contains("mon0 has a qdisc of kind ingress"), "{said}");
        let filters = tc(&pair.sensor, "filter show dev mon0 ingress")?;
        ensure!(!filters.contains("flowprobe"), "{filters}");
    }
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let way_in = ["-i", "mon0", "--hook", "tc", "--clsact"];
    let probe = Probe::start(&pair.sensor, &way_in)?;
    let finished = probe.meter(&sender, &frames(&packets), 2)?;
    finished.assert_exact(&packets, 2);
    ensure!(!finished.log.contains("stays"), "{}", finished.log);
    assert_eq!(tc(&pair.sensor, "qdisc show dev mon0")?, before);
    Ok(())
}

#[test]
fn it_is_about_traffic_control() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    let refused = probe::output(&pair.sensor, &["run", "-i", Pair::SENSOR, "--clsact"])?;
    assert_eq!(refused.status.code(), Some(2));
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    ensure!(said.contains("--hook tc or --egress"), "{said}");
    Ok(())
}
