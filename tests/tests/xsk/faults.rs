//! What keeps a queue from being opened, and what ends one.

use std::{
    io,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use flowprobe::{
    attach::{Interface, XdpMode},
    load::{
        Kernel, OBJECT,
        handover::{ShareError, Skipped},
    },
    xsk::{OpenError, Queue, Settings, ZeroCopy},
};
use flowprobe_ebpf::{
    Lost,
    handover::{PORT_PLACES, PORTS, SLOTS},
};
use flowprobe_tests::{
    netns::Netns,
    topology::{Pair, Wire},
};

use crate::rig::{OPTIONS, Rig, SMALL, TWO_QUEUES, at_sensor, datagrams, for_all_cpus};

#[test]
fn a_queue_that_is_taken_is_refused_and_one_that_was_closed_is_not() -> Result<()> {
    let pair = Pair::new(TWO_QUEUES)?;
    at_sensor(&pair.sensor, || {
        let interface = Interface::find(Pair::SENSOR)?;
        let first = Queue::open(&interface, 1, &SMALL)?;
        assert!(!first.is_zero_copy(), "a veth has none");
        let refused = Queue::open(&interface, 1, &SMALL).unwrap_err();
        assert!(
            matches!(refused, OpenError::Busy { queue: 1, .. }),
            "{refused}"
        );
        let line = refused.to_string();
        assert!(
            line.contains("another AF_XDP user has queue 1 of mon0"),
            "{line}"
        );
        // The other queue is another's business.
        let second = Queue::open(&interface, 0, &SMALL)?;
        drop(first);
        // The kernel lets go of it a little later. Memory that was left behind would add up.
        for _ in 0..20 {
            drop(Queue::open(&interface, 1, &SMALL)?);
        }
        drop(second);
        Ok(())
    })
}

#[test]
fn what_cannot_be_is_refused_in_a_line() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    at_sensor(&pair.sensor, || {
        let interface = Interface::find(Pair::SENSOR)?;
        let gone = Interface {
            name: "gone0".to_owned(),
            index: 4_000_000,
        };
        let open = |interface: &Interface, queue, settings: Settings| {
            Queue::open(interface, queue, &settings).unwrap_err()
        };
        let odd = Settings { ring: 100, ..SMALL };
        let always = Settings {
            zero_copy: ZeroCopy::Always,
            ..SMALL
        };
        let too_large = Settings {
            ring: 1 << 30,
            ..SMALL
        };
        let refused = [
            (open(&interface, 7, SMALL), "mon0 has no queue 7"),
            (open(&gone, 0, SMALL), "interface gone0 has gone away"),
            (open(&interface, 0, odd), "a power of two"),
            (
                open(&interface, 0, always),
                "the driver of mon0 has no zero copy",
            ),
            (open(&interface, 0, too_large), "choose a smaller ring"),
        ];
        for (error, part) in refused {
            let line = error.to_string();
            assert!(line.contains(part), "{line}");
            assert!(!line.contains('\n'), "{line}");
        }
        Ok(())
    })
}

/// Without CAP_IPC_LOCK the limit of locked memory counts.
#[test]
fn memory_that_may_not_be_locked_is_refused_in_a_line() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    at_sensor(&pair.sensor, || {
        let interface = Interface::find(Pair::SENSOR)?;
        let limit = libc::rlimit {
            rlim_cur: 1 << 20,
            rlim_max: 1 << 20,
        };
        // SAFETY: `limit` is a whole structure, which the call only reads.
        let result = unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const limit) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
        give_up_ipc_lock().context("capset")?;
        let refused = Queue::open(&interface, 0, &SMALL).unwrap_err();
        assert!(matches!(refused, OpenError::Locked { .. }), "{refused}");
        assert!(refused.to_string().contains("ulimit -l"), "{refused}");
        // As many as may be.
        let small = Settings { ring: 128, ..SMALL };
        Queue::open(&interface, 0, &small)?;
        Ok(())
    })
}

/// Of this thread.
fn give_up_ipc_lock() -> io::Result<()> {
    const VERSION_3: u32 = 0x2008_0522; // linux/capability.h
    const CAP_IPC_LOCK: u32 = 14;
    // Version, and this thread.
    let mut header = [VERSION_3, 0];
    // Effective, permitted, inheritable of the capabilities below 32; then of those above.
    let mut sets = [0_u32; 6];
    // SAFETY: both are as long as the kernel has them in this version.
    unsafe {
        if libc::syscall(libc::SYS_capget, header.as_mut_ptr(), sets.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        sets[0] &= !(1 << CAP_IPC_LOCK);
        if libc::syscall(libc::SYS_capset, header.as_mut_ptr(), sets.as_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[test]
fn a_queue_whose_interface_goes_away_says_so() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        rig.send(&datagrams(10))?;
        rig.receive(10)?;
        rig.queues[0].check()?;
        pair.sensor.ip(&format!("link del {}", Pair::SENSOR))?;
        let error = rig.queues[0].wait(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENETDOWN));
        assert!(rig.drain().is_empty());
        Ok(())
    })
}

#[test]
fn an_interface_that_is_taken_down_and_up_goes_on() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        for _ in 0..3 {
            rig.send(&datagrams(100))?;
            rig.receive(100)?;
            rig.queues[0].check()?;
            pair.sensor.ip(&format!(
                "link set {0} down\n\
                 link set {0} up",
                Pair::SENSOR
            ))?;
            wait_for_carrier(&pair.generator, Pair::GENERATOR)?;
        }
        assert_eq!(rig.totals().handed.packets, 300);
        Ok(())
    })
}

/// The other end drops what it is to send until the kernel has told it, some time later, that there
/// is somebody again.
fn wait_for_carrier(namespace: &Netns, interface: &str) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let show = ["-n", namespace.name(), "link", "show", "dev", interface];
        let shown = Command::new("ip").args(show).output()?;
        if String::from_utf8_lossy(&shown.stdout).contains("state UP") {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{interface} is not up again");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A queue with a socket cannot be taken away, and one that comes leaves its packets to the stack
/// until it has one.
#[test]
fn queues_that_come_while_it_runs_get_sockets() -> Result<()> {
    let pair = Pair::new(Wire {
        queues: 4,
        ..Wire::default()
    })?;
    let set = |namespace: &Netns, interface, what, count: u32| -> Result<bool> {
        let mut ethtool = namespace.command("ethtool");
        ethtool.args(["-L", interface, what, &count.to_string()]);
        Ok(ethtool.output()?.status.success())
    };
    assert!(set(&pair.generator, Pair::GENERATOR, "tx", 2)?);
    assert!(set(&pair.sensor, Pair::SENSOR, "rx", 2)?);
    at_sensor(&pair.sensor, || {
        let mut rig = Rig::new(&pair, OPTIONS, Skipped::Drop, &SMALL)?;
        assert_eq!((rig.queues.len(), rig.share.queues()), (2, 4));
        let packets = datagrams(500);
        rig.send(&packets)?;
        rig.receive(500)?;
        assert!(
            !set(&pair.sensor, Pair::SENSOR, "rx", 1)?,
            "queue 1 has a socket"
        );
        assert!(set(&pair.sensor, Pair::SENSOR, "rx", 4)?);
        assert!(set(&pair.generator, Pair::GENERATOR, "tx", 4)?);
        // On a veth queues that come have no program (Linux 6.18) until one is attached anew.
        rig.attached = None;
        rig.attached = Some(rig.handover.attach(&rig.interface, XdpMode::Native)?);
        rig.send(&packets)?;
        let totals = rig.totals();
        let passed = totals.lost[Lost::WorkerStalled as usize].packets;
        assert!(passed > 0, "no packets in queues 2 and 3");
        assert_eq!(totals.handed.packets + passed, 1000);
        rig.receive(totals.handed.packets as usize - 500)?;
        rig.open(&SMALL)?;
        rig.open(&SMALL)?;
        rig.send(&packets)?;
        rig.receive(500)?;
        assert_eq!(rig.at_stack()? as u64, passed);
        Ok(())
    })
}

#[test]
fn slots_and_places_run_out_and_come_back() -> Result<()> {
    let kernel = Kernel::load(OBJECT, &for_all_cpus(OPTIONS)?)?;
    let handover = kernel.handover()?;
    let interface = |index| Interface {
        name: format!("eth{index}"),
        index,
    };
    let share = |index, queues| handover.share(&interface(index), queues, Skipped::Drop);
    let most = share(1, SLOTS - 1)?;
    let none = share(2, 2).unwrap_err();
    assert!(matches!(none, ShareError::NoSlots { .. }), "{none}");
    let last = share(2, 1)?;
    drop(most);
    drop(share(3, SLOTS - 1)?);
    drop(last);
    // Interfaces that would all be at the same place.
    let mut same: Vec<_> = (0..PORT_PLACES)
        .map(|n| share(5 + n * PORTS, 1))
        .collect::<Result<_, _>>()?;
    let none = share(5 + PORT_PLACES * PORTS, 1).unwrap_err();
    assert!(matches!(none, ShareError::NoPlace { .. }), "{none}");
    same.remove(3);
    share(5 + PORT_PLACES * PORTS, 1)?;
    Ok(())
}
