//! Attaching on real interfaces, each test in a network namespace of its own.
//!
//! Needs root. A test that may not make a namespace fails and says so: it is never skipped.

mod kernel;
mod netns;

use std::{
    env,
    io::{self, BufRead, BufReader, Read},
    os::fd::AsFd,
    process::{Command, Stdio},
    sync::Arc,
};

use flowprobe::{
    attach::{
        AttachError, Attached, Interface, LINEAR_MTU, Link, LookupError, Mode, Programs,
        Promiscuous, XdpMode, attach, interface::FactsError, netlink::XdpPrograms, preflight,
    },
    host::{self, HostError},
};

use kernel::{Kind, load};
use netns::Netns;

/// Names the interface that a test's own second process is to hold.
const HOLD: &str = "FLOWPROBE_TEST_HOLD";

fn find(name: &str) -> Interface {
    Interface::find(name).unwrap()
}

fn attached_to(interface: &Interface) -> XdpPrograms {
    interface.link().unwrap().xdp
}

/// Attaches programs of the two kinds given, as the frags and the linear one.
fn attach_kinds(
    interface: &Interface,
    first: Kind,
    second: Option<Kind>,
    mode: XdpMode,
) -> Result<Attached, AttachError> {
    let first = load(first, "first");
    let second = second.map(|kind| load(kind, "second"));
    let programs = Programs {
        frags: first.as_fd(),
        linear: second.as_ref().map(AsFd::as_fd),
    };
    attach(interface, programs, mode)
}

fn attach_both(interface: &Interface, mode: XdpMode) -> Result<Attached, AttachError> {
    attach_kinds(interface, Kind::Frags, Some(Kind::Linear), mode)
}

/// What is logged while `work` runs.
fn logged<T>(work: impl FnOnce() -> T) -> (T, String) {
    let (mut reader, writer) = io::pipe().unwrap();
    let subscriber = tracing_subscriber::fmt()
        .with_writer(Arc::new(writer))
        .finish();
    // Takes the subscriber with it, and so the writing end.
    let result = tracing::subscriber::with_default(subscriber, work);
    let mut log = String::new();
    reader.read_to_string(&mut log).unwrap();
    (result, log)
}

#[test]
fn native_attaches_to_a_veth_and_detaches_on_drop() {
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    let (attached, log) = logged(|| attach_both(&veth, XdpMode::Auto).unwrap());
    assert_eq!((attached.mode, attached.frags), (Mode::Native, true));
    assert_eq!(log, "");
    let xdp = attached_to(&veth);
    assert!(xdp.native.is_some() && xdp.generic.is_none(), "{xdp:?}");
    drop(attached);
    assert_eq!(attached_to(&veth), XdpPrograms::default());
}

#[test]
fn generic_attaches_where_it_is_asked_for() {
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    let attached = attach_both(&veth, XdpMode::Generic).unwrap();
    assert_eq!((attached.mode, attached.frags), (Mode::Generic, true));
    let xdp = attached_to(&veth);
    assert!(xdp.generic.is_some() && xdp.native.is_none(), "{xdp:?}");
}

#[test]
fn auto_falls_back_to_generic_and_says_what_it_costs() {
    let _netns = Netns::with_veth(1500);
    let lo = find("lo");
    let (attached, log) = logged(|| attach_both(&lo, XdpMode::Auto).unwrap());
    assert_eq!(attached.mode, Mode::Generic);
    assert!(attached_to(&lo).generic.is_some());
    assert!(
        log.contains("WARN") && log.contains("the driver of lo does not take native XDP"),
        "{log}"
    );
    assert!(log.contains("several times the CPU"), "{log}");
}

#[test]
fn native_does_not_fall_back() {
    let _netns = Netns::with_veth(1500);
    let lo = find("lo");
    match attach_both(&lo, XdpMode::Native) {
        // The MTU of the loopback, 65536, has nothing to do with it.
        Err(AttachError::NoNative { interface, mtu, .. }) => {
            assert_eq!((interface.as_str(), mtu), ("lo", None));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(attached_to(&lo), XdpPrograms::default());
}

#[test]
fn jumbo_frames_need_frags() {
    let _netns = Netns::with_veth(9000);
    let veth = find("v0");
    drop(attach_both(&veth, XdpMode::Native).unwrap());
    let error = attach_kinds(&veth, Kind::Linear, None, XdpMode::Native).unwrap_err();
    assert!(
        matches!(error, AttachError::Mtu { mtu: 9000, .. }),
        "{error:?}"
    );
    assert!(
        error.to_string().contains("`ip link set dev v0 mtu 1500`"),
        "{error}"
    );
    let (attached, log) =
        logged(|| attach_kinds(&veth, Kind::Linear, None, XdpMode::Auto).unwrap());
    assert_eq!(attached.mode, Mode::Generic);
    assert!(log.contains("only from programs with frags"), "{log}");
}

#[test]
fn the_mtu_of_a_veths_peer_counts() {
    let _netns = Netns::with_veth(1500);
    netns::ip("link set v1 mtu 9000");
    let error = attach_kinds(&find("v0"), Kind::Linear, None, XdpMode::Native).unwrap_err();
    assert!(matches!(error, AttachError::PeerMtu { .. }), "{error:?}");
}

/// The limit that the preflight and the messages go by is the kernel's.
#[test]
fn the_linear_mtu_is_the_largest_that_veth_takes_without_frags() {
    let native = |mtu| {
        let _netns = Netns::with_veth(mtu);
        attach_kinds(&find("v0"), Kind::Linear, None, XdpMode::Native)
    };
    assert!(native(LINEAR_MTU).is_ok());
    assert!(matches!(
        native(LINEAR_MTU + 1),
        Err(AttachError::Mtu { .. })
    ));
}

/// No driver here refuses frags; the kernel refuses a program of another type with the same
/// EINVAL as such a driver.
#[test]
fn a_refused_first_program_gives_way_to_the_linear_one() {
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    let (attached, log) = logged(|| {
        attach_kinds(
            &veth,
            Kind::SocketFilter,
            Some(Kind::Linear),
            XdpMode::Native,
        )
        .unwrap()
    });
    assert_eq!((attached.mode, attached.frags), (Mode::Native, false));
    assert_eq!(log, "", "an MTU of 1500 fits");
    drop(attached);
    let error = attach_kinds(&veth, Kind::SocketFilter, None, XdpMode::Native).unwrap_err();
    assert!(matches!(error, AttachError::Kernel { .. }), "{error:?}");
}

fn refuses_and_names(veth: &Interface, foreign_mode: Mode) {
    let before = attached_to(veth);
    for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
        let error = attach_both(veth, mode).unwrap_err();
        let AttachError::Foreign { program, .. } = &error else {
            panic!("{error:?}");
        };
        assert_eq!(program.name.as_deref(), Some("xdp_lb"));
        assert_eq!(program.mode, foreign_mode);
        let text = error.to_string();
        assert!(
            text.contains(&format!("`bpftool prog show id {}`", program.id))
                && text.contains("`ip link show dev v0`"),
            "{text}"
        );
        assert_eq!(
            attached_to(veth),
            before,
            "the foreign program is untouched"
        );
    }
}

#[test]
fn a_foreign_program_is_refused_and_named_and_survives() {
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    let foreign = load(Kind::Frags, "xdp_lb");
    for mode in [Mode::Native, Mode::Generic] {
        let link = Link::new(&veth, foreign.as_fd(), mode).unwrap();
        refuses_and_names(&veth, mode);
        drop(link);
    }
}

/// As `ip link set dev v0 xdp` attaches: without a link that would protect it.
#[test]
fn a_foreign_program_without_a_link_is_refused_too() {
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    let foreign = load(Kind::Frags, "xdp_lb");
    kernel::attach_by_netlink(veth.index, foreign.as_fd());
    refuses_and_names(&veth, Mode::Native);
}

/// Against a program that comes between the look and the attaching.
#[test]
fn the_kernel_itself_refuses_a_second_program() {
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    let foreign = load(Kind::Frags, "xdp_lb");
    let ours = load(Kind::Frags, "ours");
    kernel::attach_by_netlink(veth.index, foreign.as_fd());
    let before = attached_to(&veth);
    for mode in [Mode::Native, Mode::Generic] {
        let error = Link::new(&veth, ours.as_fd(), mode).unwrap_err();
        assert!(matches!(error, AttachError::Foreign { .. }), "{error:?}");
    }
    assert_eq!(attached_to(&veth), before);
}

/// Runs as two processes: the second attaches, says so and waits to be killed.
#[test]
fn nothing_is_left_after_sigkill() {
    if let Some(name) = env::var_os(HOLD) {
        let veth = find(name.to_str().unwrap());
        let _attached = attach_both(&veth, XdpMode::Native).unwrap();
        let _promiscuous = Promiscuous::new(&veth.name, veth.index).unwrap();
        println!("\nholding");
        loop {
            std::thread::park();
        }
    }
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    let mut holder = Command::new(env::current_exe().unwrap())
        .args(["--exact", "nothing_is_left_after_sigkill", "--nocapture"])
        .env(HOLD, "v0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let holding = lines.any(|line| line.unwrap() == "holding");
    let while_held = (attached_to(&veth), netns::promiscuity("v0"));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(holding, "the second process failed");
    assert!(while_held.0.native.is_some());
    assert_eq!(while_held.1, 1);
    assert_eq!(attached_to(&veth), XdpPrograms::default());
    assert_eq!(netns::promiscuity("v0"), 0);
}

#[test]
fn promiscuous_lasts_as_long_as_it_is_held() {
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    assert_eq!(netns::promiscuity("v0"), 0);
    let held = Promiscuous::new(&veth.name, veth.index).unwrap();
    assert_eq!(netns::promiscuity("v0"), 1);
    drop(held);
    assert_eq!(netns::promiscuity("v0"), 0);
}

#[test]
fn a_veth_has_its_facts_and_gives_no_warning() {
    let _netns = Netns::with_veth(1500);
    let facts = find("v0").facts().unwrap();
    assert_eq!(facts.link.name, "v0");
    assert_eq!(facts.link.mtu, 1500);
    assert_eq!(facts.link.kind.as_deref(), Some("veth"));
    assert_eq!(facts.driver.as_deref(), Some("veth"));
    assert!(facts.offloads.unwrap().rx_vlan && !facts.offloads.unwrap().lro);
    assert!(facts.channels.unwrap().max_rx >= 1);
    assert_eq!(preflight(&facts, XdpMode::Auto), []);
    netns::ip("link set v0 down");
    let findings = preflight(&find("v0").facts().unwrap(), XdpMode::Auto);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].to_string().contains("`ip link set dev v0 up`"));
}

#[test]
fn counters_count_what_came() {
    let _netns = Netns::with_veth(1500);
    let (v0, v1) = (find("v0"), find("v1"));
    let before = v0.statistics().unwrap();
    kernel::send_frames(v1.index, &[0xff; 100], 7);
    let came = v0.statistics().unwrap().since(&before);
    assert_eq!((came.rx_packets, came.rx_octets), (7, 700));
    // The stack drops what has no protocol, after XDP.
    assert_eq!((came.rx_dropped, came.rx_missed, came.rx_errors), (7, 0, 0));
}

#[test]
fn an_unknown_interface_is_answered_with_those_there_are() {
    let _netns = Netns::with_veth(1500);
    let error = Interface::find("vo").unwrap_err();
    assert!(matches!(error, LookupError::Unknown { .. }));
    let text = error.to_string();
    assert!(
        text.starts_with("no interface vo (did you mean") && text.contains("there are: lo, "),
        "{text}"
    );
}

#[test]
fn an_interface_that_went_away_is_said_to_be_gone() {
    let _netns = Netns::with_veth(1500);
    let veth = find("v0");
    netns::ip("link del v0");
    let error = attach_both(&veth, XdpMode::Auto).unwrap_err();
    assert!(
        matches!(&error, AttachError::Facts(FactsError::Gone(name)) if name == "v0"),
        "{error:?}"
    );
}

#[test]
fn root_on_this_machine_passes_every_check() {
    let host = host::check(true).unwrap();
    assert!(host.online_cpus.count() <= host.possible_cpus.count());
    assert!(host.possible_cpus.slots() >= 1);
}

#[test]
fn the_capabilities_asked_for_suffice() {
    let _netns = Netns::with_veth(1500);
    // CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF.
    kernel::keep_capabilities(1 << 12 | 1 << 13 | 1 << 38 | 1 << 39);
    host::check(true).unwrap();
    let veth = find("v0");
    let attached = attach_both(&veth, XdpMode::Auto).unwrap();
    assert_eq!(attached.mode, Mode::Native);
    Promiscuous::new("v0", veth.index).unwrap();
    // The name of a program is CAP_SYS_ADMIN's to know.
    match attach_both(&veth, XdpMode::Auto) {
        Err(AttachError::Foreign { program, .. }) => assert_eq!(program.name, None),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_missing_capability_is_named() {
    kernel::keep_capabilities(1 << 12 | 1 << 38);
    match host::check(false) {
        Err(HostError::Capabilities(missing)) => assert_eq!(missing.to_string(), "CAP_BPF"),
        other => panic!("{other:?}"),
    }
    let error = Promiscuous::new("lo", 1).unwrap_err();
    assert!(error.to_string().contains("CAP_NET_RAW"), "{error}");
}
