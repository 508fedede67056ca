//! What is handed over, and what is said of it.

use std::{collections::BTreeMap, fs, num::NonZeroU32, sync::Arc, thread};

use anyhow::{Result, ensure};
use flowprobe::{
    attach::XdpMode,
    clock::monotonic_ns,
    load::{Class, Options, handover::Skipped},
    sampling::Sampling,
    xsk::{Pages, Queue, Settings},
};
use flowprobe_ebpf::{
    Lost, Skip,
    class::{Rule, side},
    cpu::Tally,
    sampling::Sampled,
};
use flowprobe_tests::{
    bpf::{attach_egress, load_egress, op},
    live::{Live, on_one_cpu, pin_to_cpu, send_from_all},
    packets::{Ip, not_ip},
    topology::{Pair, Wire},
};

use crate::rig::{
    OPTIONS, PORT, Rig, SMALL, TWO_QUEUES, at_sensor, counted, cpus, datagrams, octets,
};

fn two_queues() -> Result<Pair> {
    Pair::new(TWO_QUEUES)
}

fn one_in(n: u32) -> Sampling {
    Sampling::Count(NonZeroU32::new(n).expect("not 0"))
}

#[test]
fn every_frame_arrives_in_a_queue_with_its_note() -> Result<()> {
    for mode in [XdpMode::Native, XdpMode::Generic] {
        let pair = two_queues()?;
        at_sensor(&pair.sensor, || {
            let mut rig = Rig::with_mode(&pair, OPTIONS, Skipped::Drop, &SMALL, mode)?;
            let mut packets = datagrams(1500);
            packets.push(not_ip(0x0806));
            let before_ns = monotonic_ns();
            rig.send(&packets)?;
            let arrived = rig.receive(packets.len())?;
            let after_ns = monotonic_ns();
            let sent = packets.iter().map(|packet| &packet.frame);
            let frames = arrived.iter().map(|frame| &frame.octets);
            assert_eq!(counted(frames), counted(sent));
            for frame in &arrived {
                assert_eq!(frame.len, frame.octets.len() as u64);
                assert_eq!((frame.note.sampled, frame.note.tag), (0, 0));
                // The clock is at most a tick old.
                let note_ns = frame.note.now_ns;
                assert!((before_ns - 10_000_000..=after_ns).contains(&note_ns));
            }
            // Flows are spread over the queues, and each stays in one.
            let mut queues = BTreeMap::new();
            for frame in &arrived {
                let flow = &frame.octets[14 + 20..][..2];
                assert_eq!(queues.entry(flow).or_insert(frame.queue), &frame.queue);
            }
            assert!(queues.values().any(|queue| *queue == 0));
            // A veth does not tell the stack from which queue a packet came.
            let both = mode == XdpMode::Native;
            assert_eq!(queues.values().any(|queue| *queue == 1), both);
            let all = Tally {
                packets: packets.len() as u64,
                octets: octets(&packets),
            };
            let totals = rig.totals();
            assert_eq!((totals.seen, totals.handed), (all, all));
            let received = rig.queues.iter().fold(Tally::default(), |mut sum, queue| {
                sum.count_all(queue.received().packets, queue.received().octets);
                sum
            });
            assert_eq!(received, all);
            assert_eq!(rig.at_stack()?, 0);
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn buffers_come_back_for_many_times_as_many_frames() -> Result<()> {
    let pair = two_queues()?;
    at_sensor(&pair.sensor, || {
        let small = Settings { ring: 64, ..SMALL };
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &small)?;
        // At most what one queue can hold at a time.
        for round in datagrams(64 * 40).chunks(64) {
            rig.send(round)?;
            let arrived = rig.receive(round.len())?;
            let sent = round.iter().map(|packet| &packet.frame);
            assert_eq!(counted(arrived.iter().map(|f| &f.octets)), counted(sent));
        }
        assert_eq!(rig.totals().handed.packets, 64 * 40);
        Ok(())
    })
}

/// Of 2 MiB, that a machine has only if some were set apart.
fn free_huge_pages() -> u64 {
    let path = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
    let free = fs::read_to_string(path).unwrap_or_default();
    free.trim().parse().unwrap_or(0)
}

#[test]
fn a_queue_that_is_polled_gives_the_same_frames() -> Result<()> {
    let pair = two_queues()?;
    at_sensor(&pair.sensor, || {
        let polled = Settings {
            busy_poll: true,
            frame_size: 4096,
            huge_pages: true,
            ..SMALL
        };
        let huge = free_huge_pages() >= 2 * (polled.umem_octets() >> 21);
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &polled)?;
        let pages = if huge { Pages::Huge } else { Pages::Ordinary };
        assert!(rig.queues.iter().all(|queue| queue.pages() == pages));
        let packets = datagrams(1000);
        rig.send(&packets)?;
        let arrived = rig.receive(packets.len())?;
        let sent = packets.iter().map(|packet| &packet.frame);
        assert_eq!(counted(arrived.iter().map(|f| &f.octets)), counted(sent));
        Ok(())
    })
}

#[test]
fn what_sampling_skips_is_dropped_on_a_tap_and_left_to_the_stack_elsewhere() -> Result<()> {
    for skipped in [Skipped::Drop, Skipped::Pass] {
        let pair = two_queues()?;
        at_sensor(&pair.sensor, || {
            let options = Options {
                sampling: one_in(10),
                ..OPTIONS
            };
            let mut rig = Rig::new(&pair, options, skipped, &SMALL)?;
            let packets = datagrams(2000);
            rig.send(&packets)?;
            let totals = rig.totals();
            let selected = totals.handed.packets;
            // Each CPU begins at a phase of its own.
            let cpus = u64::from(cpus()?);
            assert!((200 - cpus..=200 + cpus).contains(&selected), "{selected}");
            let arrived = rig.receive(selected as usize)?;
            let octets_of = |frames: u64| frames + totals.unsampled.octets;
            let handed: u64 = arrived.iter().map(|frame| frame.len).sum();
            assert_eq!(handed, totals.handed.octets);
            assert_eq!(octets_of(handed), octets(&packets));
            assert_eq!(totals.unsampled.packets, 2000 - selected);
            let expected = match skipped {
                Skipped::Drop => 0,
                Skipped::Pass => 2000 - selected,
            };
            assert_eq!(rig.at_stack()? as u64, expected);
            Ok(())
        })?;
    }
    Ok(())
}

/// A class that asks for the packet makes the program parse.
#[test]
fn a_frame_says_its_class_where_the_program_has_to_parse() -> Result<()> {
    let rule = Rule {
        port_sides: side::DESTINATION,
        first_port: PORT,
        last_port: PORT,
        ..Rule::default()
    };
    let classes = [Class {
        rule,
        sampling: Sampling::All,
    }];
    let pair = two_queues()?;
    at_sensor(&pair.sensor, || {
        let options = Options {
            sampling: one_in(1_000_000_000),
            classes: &classes,
            ..OPTIONS
        };
        let mut rig = Rig::new(&pair, options, Skipped::Drop, &SMALL)?;
        let wanted = datagrams(300);
        rig.send(&wanted)?;
        let ip = Ip::new("192.0.2.1", "198.51.100.2");
        let others: Vec<_> = (0..50).map(|i| ip.udp(i, 54, 30)).collect();
        rig.send(&others)?;
        rig.send(&[not_ip(0x0806), not_ip(0x0806)])?;
        let totals = rig.totals();
        assert_eq!(totals.ignored[Skip::Arp as usize].packets, 2);
        let others = 350 - totals.handed.packets;
        assert_eq!(totals.unsampled.packets, others);
        ensure!(
            others >= 48,
            "{others} skipped: at most one on each CPU is not"
        );
        let arrived = rig.receive(totals.handed.packets as usize)?;
        let of_class = |class| {
            let sampled = Sampled::new(class, 0).0;
            arrived
                .iter()
                .filter(move |frame| frame.note.sampled == sampled)
        };
        let sent = wanted.iter().map(|packet| &packet.frame);
        assert_eq!(counted(of_class(1).map(|f| &f.octets)), counted(sent));
        assert_eq!(of_class(0).count() as u64, 50 - others);
        assert_eq!(rig.at_stack()?, 0);
        Ok(())
    })
}

/// Later fragments have no ports: the program remembers those of the first one.
#[test]
fn all_fragments_of_a_flow_are_selected_or_none() -> Result<()> {
    const FLOWS: u16 = 200;
    let pair = two_queues()?;
    at_sensor(&pair.sensor, || {
        let options = Options {
            sampling: Sampling::Flow(NonZeroU32::new(2).expect("not 0")),
            ..OPTIONS
        };
        let mut rig = Rig::new(&pair, options, Skipped::Drop, &SMALL)?;
        let mut packets = Vec::new();
        for flow in 0..FLOWS {
            let ip = Ip::new("192.0.2.1", "198.51.100.2").identification(flow);
            packets.push(ip.clone().fragment(0, true).udp(1000 + flow, PORT, 64));
            packets.push(ip.fragment(9, false).udp(1000 + flow, PORT, 64));
        }
        // The program remembers ports on each CPU.
        on_one_cpu(|| rig.send(&packets))?;
        let totals = rig.totals();
        let selected = totals.handed.packets;
        assert_eq!(selected + totals.unsampled.packets, 2 * u64::from(FLOWS));
        assert!(selected > 0 && totals.unsampled.packets > 0);
        let mut flows = BTreeMap::new();
        for frame in rig.receive(selected as usize)? {
            let identification = [frame.octets[14 + 4], frame.octets[14 + 5]];
            *flows.entry(identification).or_insert(0) += 1;
        }
        assert!(flows.values().all(|fragments| *fragments == 2), "{flows:?}");
        Ok(())
    })
}

#[test]
fn a_tag_beside_the_frame_is_in_the_note() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    let on = ["-K", Pair::GENERATOR, "txvlan", "on"];
    ensure!(
        pair.generator
            .command("ethtool")
            .args(on)
            .status()?
            .success()
    );
    // Takes off the outermost tag, and the kernel puts the second one beside the frame.
    let pop = [
        op(0x85, 0, 0, 0, 19), // r0 = bpf_skb_vlan_pop(r1)
        op(0xb7, 0, 0, 0, 0),  // r0 = TC_ACT_OK
        op(0x95, 0, 0, 0, 0),  // exit
    ];
    let program = load_egress("tag_beside", &pop)?;
    let index = pair.generator.index(Pair::GENERATOR)?;
    let _popped = pair.generator.run(|| attach_egress(&program, index))??;
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        let attached = rig.attached.as_ref().expect("attached");
        assert!(attached.vlan_metadata);
        let ip = Ip::new("192.0.2.1", "198.51.100.2");
        let untagged = ip.udp(1, PORT, 30);
        let tagged = ip.tag(0x8100, 1).tag_of_priority(0x8100, 77, 5);
        let tagged = tagged.udp(1, PORT, 30);
        rig.send(&[untagged.clone(), tagged])?;
        let arrived = rig.receive(2)?;
        for frame in &arrived {
            assert_eq!(frame.octets, untagged.frame);
        }
        assert_eq!(arrived[0].note.control(), None);
        assert_eq!(arrived[1].note.control(), Some(5 << 13 | 77));
        Ok(())
    })
}

#[test]
fn a_frame_longer_than_a_buffer_comes_in_several() -> Result<()> {
    let pair = Pair::new(Wire {
        queues: 2,
        mtu: 9000,
    })?;
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        assert!(rig.queues.iter().all(Queue::takes_several_buffers));
        let ip = Ip::new("192.0.2.1", "198.51.100.2");
        let payloads = [20, 1700, 1800, 4000, 8900, 30];
        for round in 0..100 {
            let packets: Vec<_> = payloads
                .iter()
                .map(|payload| ip.udp(1000 + round, PORT, *payload))
                .collect();
            rig.send(&packets)?;
            let arrived = rig.receive(packets.len())?;
            for (frame, packet) in arrived.iter().zip(&packets) {
                assert_eq!(frame.len, packet.frame.len() as u64);
                let first = frame.octets.len();
                // 256 octets of a buffer are before the frame.
                assert!(first == packet.frame.len().min(2048 - 256), "{first}");
                assert_eq!(frame.octets, packet.frame[..first]);
            }
        }
        let totals = rig.totals();
        assert_eq!(totals.handed, totals.seen);
        assert_eq!(totals.lost, [Tally::default(); Lost::COUNT]);
        Ok(())
    })
}

/// As on every kernel before 6.6.
#[test]
fn a_frame_longer_than_a_buffer_is_counted_where_it_cannot_come() -> Result<()> {
    let pair = Pair::new(Wire {
        mtu: 9000,
        ..Wire::default()
    })?;
    at_sensor(&pair.sensor, || {
        let single = Settings {
            several_buffers: false,
            ..SMALL
        };
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &single)?;
        assert!(!rig.queues[0].takes_several_buffers());
        let ip = Ip::new("192.0.2.1", "198.51.100.2");
        // The longest that fits is 2,048 octets less 256, headers included.
        let fits = 2048 - 256 - 14 - 20 - 8;
        let packets = [20, fits, fits + 1, 8000].map(|payload| ip.udp(1, PORT, payload));
        rig.send(&packets)?;
        assert_eq!(rig.totals().handed.packets, 4);
        let arrived = rig.receive(2)?;
        let sent = packets[..2].iter().map(|packet| &packet.frame);
        assert!(arrived.iter().map(|frame| &frame.octets).eq(sent));
        let why = rig.queues[0].statistics()?.explain(2);
        assert_eq!((why.too_long, why.redirect), (2, 0));
        Ok(())
    })
}

#[test]
fn each_frame_that_found_no_place_is_counted() -> Result<()> {
    // Too few buffers, and then more of them than the ring has places.
    for (frames, full) in [(32, false), (256, true)] {
        let pair = Pair::new(Wire::default())?;
        at_sensor(&pair.sensor, || {
            let small = Settings {
                ring: 64,
                frames: Some(frames),
                ..SMALL
            };
            let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &small)?;
            let packets = datagrams(1000);
            rig.send(&packets)?;
            let handed = rig.totals().handed;
            assert_eq!(handed.packets, 1000);
            let kept = frames.min(64) as usize;
            let arrived = rig.receive(kept)?;
            // Those that came first.
            let sent = packets[..kept].iter().map(|packet| &packet.frame);
            assert!(arrived.iter().map(|frame| &frame.octets).eq(sent));
            let missing = handed.packets - rig.queues[0].received().packets;
            let why = rig.queues[0].statistics()?.explain(missing);
            let lost = (1000 - kept) as u64;
            assert_eq!(missing, lost);
            let expected = if full { (lost, 0) } else { (0, lost) };
            assert_eq!((why.rx_ring_full, why.fill_ring_empty), expected);
            assert_eq!((why.too_long, why.redirect), (0, 0));
            Ok(())
        })?;
    }
    Ok(())
}

/// They stay with the stack, where the CPU does not even know to whom they go.
#[test]
fn packets_of_a_cpu_without_a_partition_are_left_to_the_stack() -> Result<()> {
    ensure!(cpus()? > 1, "needs two CPUs");
    let pair = two_queues()?;
    at_sensor(&pair.sensor, || {
        let options = Options {
            partitions: 1,
            ..OPTIONS
        };
        let mut rig = Rig::new(&pair, options, Skipped::Drop, &SMALL)?;
        let packets = datagrams(300);
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                pin_to_cpu(1)?;
                rig.send(&packets)
            });
            sending.join().expect("no panic")
        })?;
        let totals = rig.totals();
        let lost = totals.lost[Lost::NoPartition as usize];
        assert!(lost.packets > 0);
        let all = lost.packets + totals.handed.packets;
        assert_eq!((totals.seen.packets, all), (300, 300));
        assert_eq!(lost.octets + totals.handed.octets, octets(&packets));
        assert_eq!(rig.at_stack()? as u64, lost.packets);
        Ok(())
    })
}

/// More than the reader takes, which begins late, from as many CPUs as there are queues.
#[test]
fn a_flood_is_counted_to_the_packet() -> Result<()> {
    const FRAMES: u64 = 1 << 19;
    /// By then both queues have more than they hold, or one has far more.
    const FULL: u64 = 1 << 14;
    let pair = two_queues()?;
    at_sensor(&pair.sensor, || {
        let small = Settings {
            ring: 1 << 10,
            ..SMALL
        };
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &small)?;
        let packet = Ip::new("192.0.2.1", "198.51.100.2").udp(1, 2, 20);
        let frame_octets = packet.frame.len() as u64;
        let live = |first| Live::new(&pair.generator, Pair::GENERATOR, packet.clone(), first, 64);
        let generators = [live(0)?, live(64)?];
        let mut received = vec![Tally::default(); rig.queues.len()];
        let mut flows = [0_u64; 128];
        let shared = Arc::clone(rig.kernel.shared());
        thread::scope(|scope| {
            let sending = scope.spawn(|| send_from_all(&pair.generator, &generators, FRAMES));
            while shared.totals().seen.packets < FULL && !sending.is_finished() {
                thread::yield_now();
            }
            loop {
                // Looked at before the last frames are.
                let done = sending.is_finished();
                for (queue, sum) in rig.queues.iter_mut().zip(&mut received) {
                    queue.receive(64, |frame| {
                        sum.count(frame.len);
                        flows[usize::from(frame.octets[14 + 20 + 3])] += 1;
                    });
                }
                if done {
                    return sending.join().expect("no panic");
                }
            }
        })?;
        rig.attached = None;
        for (queue, sum) in rig.queues.iter_mut().zip(&mut received) {
            while queue.receive(64, |frame| sum.count(frame.len)) > 0 {}
            assert_eq!(queue.received(), *sum);
        }
        let totals = rig.totals();
        let received: u64 = received.iter().map(|sum| sum.packets).sum();
        assert_eq!(totals.handed, totals.seen);
        assert_eq!(totals.handed.octets, totals.handed.packets * frame_octets);
        ensure!(
            received < totals.handed.packets,
            "nothing was lost: no flood"
        );
        assert!(flows.iter().all(|packets| *packets > 0));
        // The counters are each queue's own, and what was handed over is not.
        let mut unexplained = totals.handed.packets - received;
        for queue in &rig.queues {
            let why = queue.statistics()?.explain(u64::MAX);
            assert_eq!(why.too_long, 0);
            unexplained -= why.rx_ring_full + why.fill_ring_empty;
        }
        assert_eq!(unexplained, 0);
        Ok(())
    })
}
