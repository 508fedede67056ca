//! On which CPU a worker runs: that of its queue's interrupt, where the packets are in the cache,
//! or else each on one of its own.

use std::{fs, io, path::Path};

use crate::host::CpuList;

/// CPUs that this process may run on.
///
/// # Errors
/// The kernel does not say.
pub fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: a set of zeros is an empty one, and outlives the call.
    let (result, set) = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        let result = libc::sched_getaffinity(0, size_of_val(&set), &raw mut set);
        (result, set)
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: each number is below the size of the set.
    let has = |cpu: &usize| unsafe { libc::CPU_ISSET(*cpu, &set) };
    Ok((0..libc::CPU_SETSIZE as usize).filter(has).collect())
}

/// Keeps this thread on a CPU.
///
/// # Errors
/// There is no such CPU, or it is not for this process.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= libc::CPU_SETSIZE as usize {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: a set of zeros is an empty one, the number is below its size, and it outlives the call.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &raw const set)
    };
    match result {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A CPU for each of these queues (interface and number) out of those `allowed`.
#[must_use]
pub fn of_queues(queues: &[(String, u32)], allowed: &[usize]) -> Vec<Option<usize>> {
    let interrupts = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let mut next = allowed.iter().copied().cycle();
    let own = queues.iter().map(|(interface, queue)| {
        let cpu = of_interrupt(&interrupts, interface, *queue)?;
        allowed.contains(&cpu).then_some(cpu)
    });
    own.map(|cpu| cpu.or_else(|| next.next())).collect()
}

fn of_interrupt(interrupts: &str, interface: &str, queue: u32) -> Option<usize> {
    // Of virtio, interrupts have the name of the device.
    let device = fs::read_link(Path::new("/sys/class/net").join(interface).join("device")).ok();
    let device = device.as_deref().and_then(Path::file_name);
    let device = device.and_then(|name| name.to_str());
    let names: Vec<&str> = [Some(interface), device].into_iter().flatten().collect();
    let number = interrupt(interrupts, &names, queue)?;
    let list = fs::read_to_string(format!("/proc/irq/{number}/effective_affinity_list")).ok()?;
    let list: CpuList = list.trim().parse().ok()?;
    list.ids().first().map(|cpu| *cpu as usize)
}

/// The number of the interrupt of a receive queue, by what drivers call it: `eth0-TxRx-3`,
/// `eth0-rx-3`, `i40e-eth0-TxRx-3`, `virtio2-input.3`.
fn interrupt(interrupts: &str, names: &[&str], queue: u32) -> Option<u32> {
    interrupts.lines().find_map(|line| {
        let (number, rest) = line.split_once(':')?;
        let number = number.trim().parse().ok()?;
        let action = rest.split_whitespace().last()?;
        let words: Vec<&str> = action.split(['-', '.', '@', ':']).collect();
        let kind = action.to_ascii_lowercase();
        let receives = kind.contains("rx") || kind.contains("input");
        let is_of = words.iter().any(|word| names.contains(word));
        let is_queue = words.last()?.parse() == Ok(queue);
        (receives && is_of && is_queue).then_some(number)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interrupts_of_queues_are_known_by_their_names() {
        let text = "\
            CPU0       CPU1\n\
   1:          9          0   IO-APIC   1-edge      i8042\n\
  24:          0          0   PCI-MSI 1-edge      virtio2-input.0\n\
  25:          0          0   PCI-MSI 2-edge      virtio2-output.0\n\
  26:          0          0   PCI-MSI 3-edge      virtio2-input.1\n\
  30:          5          0   PCI-MSI 4-edge      eth1-TxRx-0\n\
  31:          5          0   PCI-MSI 5-edge      eth1-TxRx-10\n\
  32:          5          0   PCI-MSI 6-edge      i40e-eth2-TxRx-1\n\
  33:          5          0   PCI-MSI 7-edge      eth3-tx-0\n\
 NMI:          0          0   Non-maskable interrupts\n";
        assert_eq!(interrupt(text, &["eth0", "virtio2"], 1), Some(26));
        assert_eq!(interrupt(text, &["eth1"], 0), Some(30));
        assert_eq!(interrupt(text, &["eth1"], 1), None);
        assert_eq!(interrupt(text, &["eth2"], 1), Some(32));
        assert_eq!(interrupt(text, &["eth3"], 0), None);
        assert_eq!(interrupt(text, &["eth"], 0), None);
    }

    #[test]
    fn queues_without_an_interrupt_share_the_cpus() {
        let queues: Vec<_> = (0..5).map(|n| ("none".to_owned(), n)).collect();
        let cpus = of_queues(&queues, &[3, 5]);
        assert_eq!(cpus, [3, 5, 3, 5, 3].map(Some));
        assert_eq!(of_queues(&queues[..1], &[]), [None]);
    }

    #[test]
    fn a_thread_stays_where_it_is_put() -> io::Result<()> {
        let cpu = *allowed()?.last().expect("a CPU");
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                pin(cpu)?;
                allowed()
            });
            assert_eq!(there.join().expect("no panic")?, [cpu]);
            io::Result::Ok(())
        })?;
        assert!(pin(100_000).is_err());
        Ok(())
    }
}
