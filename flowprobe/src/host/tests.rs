use super::*;

#[test]
fn releases_parse() {
    let version = |release: &str| {
        release
            .parse()
            .map(|KernelVersion { major, minor }| (major, minor))
    };
    assert_eq!(version("6.18.44-fc-v669"), Ok((6, 18)));
    assert_eq!(version("5.18-rc1"), Ok((5, 18)));
    assert_eq!(version("6.1.0-28-amd64"), Ok((6, 1)));
    assert_eq!(version("linux"), Err(FormError));
    assert_eq!(version("6"), Err(FormError));
    assert_eq!(version(""), Err(FormError));
}

#[test]
fn the_floor_is_compared_by_number() {
    let old: KernelVersion = "5.9.1".parse().unwrap();
    assert!(old < KERNEL_FLOOR);
    assert!("5.18.0".parse::<KernelVersion>().unwrap() >= KERNEL_FLOOR);
    assert!("6.1".parse::<KernelVersion>().unwrap() >= KERNEL_FLOOR);
    assert_eq!(
        HostError::KernelTooOld { found: old }.to_string(),
        "kernel 5.9 is too old: flowprobe needs 5.18 or newer (XDP frags)"
    );
}

#[test]
fn realtime_kernels_are_known_by_either_sign() {
    let dynamic = "#1 SMP PREEMPT_DYNAMIC @0";
    assert!(!is_realtime(None, dynamic));
    assert!(!is_realtime(Some("0\n"), dynamic));
    assert!(is_realtime(Some("1\n"), dynamic));
    assert!(is_realtime(
        None,
        "#1 SMP PREEMPT_RT Debian 6.1.119-1 (2024-11-22)"
    ));
}

#[test]
fn the_effective_set_is_read_and_no_other() {
    let status = "Name:\tx\nCapPrm:\t000001ffffffffff\nCapEff:\t000000c000003000\nCapBnd:\t0\n";
    assert_eq!(effective_capabilities(status).unwrap(), 0xc0_0000_3000);
    assert!(effective_capabilities("Name:\tx\n").is_err());
    assert!(effective_capabilities("CapEff:\tzz\n").is_err());
}

fn set(capabilities: &[Capability]) -> u64 {
    capabilities.iter().fold(0, |set, &c| set | 1 << c as u32)
}

#[test]
fn exactly_the_missing_capabilities_are_named() {
    use Capability::{Bpf, NetAdmin, NetRaw, Perfmon, SysAdmin};
    let of = |have: &[Capability], promisc| missing(set(have), promisc).map(|missing| missing.0);
    assert_eq!(of(&[Bpf, NetAdmin, Perfmon], false), None);
    assert_eq!(of(&[Bpf, NetAdmin, Perfmon], true), Some(vec![NetRaw]));
    assert_eq!(of(&[Bpf, Perfmon], false), Some(vec![NetAdmin]));
    assert_eq!(of(&[SysAdmin, NetAdmin], false), None);
    assert_eq!(of(&[SysAdmin], false), Some(vec![NetAdmin]));
    assert_eq!(of(&[], true), Some(vec![Bpf, NetAdmin, Perfmon, NetRaw]));
    let message = HostError::Capabilities(missing(set(&[NetAdmin]), true).unwrap()).to_string();
    assert!(
        message.starts_with(
            "missing CAP_BPF, CAP_PERFMON, CAP_NET_RAW (CAP_NET_RAW is for --promisc): run with sudo"
        ),
        "{message}"
    );
}

/// As /proc/self/status has it on a machine where root lacks only CAP_SYS_RESOURCE (24).
#[test]
fn the_bits_are_the_kernels() {
    assert_eq!(missing(0x1ff_feff_ffff, true), None);
    assert_eq!(set(&[Capability::Bpf]), 0x80_0000_0000);
    assert_eq!(set(&[Capability::NetAdmin]), 0x1000);
}

#[test]
fn bpf_errors_are_told_apart() {
    let of = |errno| bpf_error(io::Error::from_raw_os_error(errno));
    assert!(matches!(of(libc::ENOSYS), HostError::NoBpf));
    assert!(matches!(of(libc::EPERM), HostError::BpfRefused));
    assert!(matches!(of(libc::ENOMEM), HostError::BpfFails(_)));
}

#[test]
fn cpu_lists_parse() {
    let ids = |text: &str| text.parse::<CpuList>().map(|list| list.0);
    assert_eq!(ids("0\n"), Ok(vec![0]));
    assert_eq!(ids("0-3,8,10-11\n"), Ok(vec![0, 1, 2, 3, 8, 10, 11]));
    for bad in ["", "a", "3-1", "0-", "1,0", "0-4294967295", "0,,1"] {
        assert_eq!(ids(bad), Err(FormError), "{bad:?}");
    }
}

#[test]
fn an_array_by_cpu_counts_the_gaps() {
    let list: CpuList = "0,3".parse().unwrap();
    assert_eq!((list.count(), list.slots()), (2, 4));
}
