//! The fixtures themselves: a test that trusts a wrong count proves nothing.

use flowprobe_tests::{
    live::{Live, send_from_all},
    packets::{Ip, MIN_FRAME},
    sender::Sender,
    topology::{Pair, Wire},
};

type Result = anyhow::Result<()>;

#[test]
fn nothing_moves_on_a_silent_wire_but_what_is_sent() -> Result {
    let pair = Pair::new(Wire::default())?;
    let sender = Sender::new(&pair.generator, Pair::GENERATOR)?;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(1, 2, 100);
    sender.send(&vec![&packet.frame; 10_000])?;
    let sent = pair.generator.counters(Pair::GENERATOR)?;
    let received = pair.sensor.counters(Pair::SENSOR)?;
    assert_eq!(sent.tx_packets, 10_000);
    assert_eq!(sent.rx_packets, 0);
    assert_eq!(received.rx_packets, 10_000);
    Ok(())
}

#[test]
fn live_frames_arrive_on_both_queues() -> Result {
    let pair = Pair::new(Wire {
        queues: 2,
        ..Wire::default()
    })?;
    pair.sensor
        .command("ethtool")
        .args(["-K", Pair::SENSOR, "gro", "on"])
        .status()?;
    let packet = Ip::new("10.0.0.1", "10.0.0.2").udp(0, 0, 18);
    assert_eq!(packet.frame.len(), MIN_FRAME);
    let generators = [0, 1024].map(|first| {
        Live::new(
            &pair.generator,
            Pair::GENERATOR,
            packet.clone(),
            first,
            1024,
        )
    });
    let generators: Vec<Live> = generators.into_iter().collect::<anyhow::Result<_>>()?;
    send_from_all(&pair.generator, &generators, 1 << 20)?;
    let received = pair.sensor.counters(Pair::SENSOR)?;
    assert_eq!(received.rx_packets, 2 << 20);
    Ok(())
}
