//! A collector that resets a TCP connection while it reads a message.

use std::{thread, time::Duration};

use flowprobe_tests::{
    collector::Received,
    packets::truth,
    probe::Probe,
    sender::Sender,
    stream::{End, Session, TcpCollector, split},
    topology::{Pair, Wire},
};

use crate::{BURST, Result, SOON, assert_right, burst, bursts, flows_of, send};

/// The message is not lost, and not half there: it is whole in the next session. What the collector had
/// read of whole messages, but its kernel not acknowledged yet, may come again.
#[test]
fn a_reset_in_mid_message_costs_no_record() -> Result {
    /// As good as all, but with a receive buffer that is shorter than a message.
    const MUCH: usize = 1 << 30;
    const BURSTS: u16 = 5;
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let collector = TcpCollector::reading(&pair.sensor, "127.0.0.1:4739", MUCH)?;
    let url = collector.url();
    let to = ["-i", Pair::SENSOR, "-c", &url];
    let probe = Probe::start(&pair.sensor, &[&to[..], &SOON].concat())?;
    send(&sender, &burst(0))?;
    collector.wait_for_flows(BURST)?;

    // Within the next message, which is longer than this and what the kernel holds.
    let limit = collector.octets() + 100;
    collector.read_up_to(limit);
    for number in 1..BURSTS {
        send(&sender, &burst(number))?;
    }
    let began = |sessions: &[Session]| sessions[0].octets.len() == limit;
    collector.wait_until("the beginning of a message", began)?;
    // Until the kernel is full too, so that nothing comes between its last look and the reset.
    thread::sleep(Duration::from_millis(500));
    collector.cut();
    collector.read_up_to(usize::MAX);
    let packets = bursts(BURSTS);
    collector.wait_until("all flows", |sessions| {
        flows_of(&Received::of_sessions(sessions)).len() == packets.len()
    })?;

    let finished = probe.stop()?;
    finished.summary.assert_balanced();
    finished.summary.assert_nothing_lost();
    let report = &finished.summary.ledger.collectors[0];
    assert_eq!(report.sent, finished.summary.ledger.exported, "{report:?}");
    assert_eq!(report.outages, 1, "{}", finished.log);
    let sessions = collector.stop();
    let ends: Vec<End> = sessions.iter().map(|session| session.end).collect();
    assert_eq!(ends, [End::Cut, End::InOrder]);
    let broken_off = split(&sessions[0].octets).1.len();
    assert!(broken_off > 0, "the cut was between two messages");
    let [first, second] = [&sessions[..1], &sessions[1..]].map(Received::of_sessions);
    for received in [&first, &second] {
        received.assert_well_formed();
        assert_eq!(received.missing(), 0);
        assert_right(received, &packets);
    }
    assert_eq!(second.cut_octets, 0);
    let all = Received::of_sessions(&sessions);
    assert_eq!(flows_of(&all), truth(&packets, 1).0);
    assert!(
        all.twice() <= first.flows.len() - BURST,
        "{} twice",
        all.twice()
    );
    Ok(())
}
