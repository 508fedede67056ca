//! What will go wrong on an interface, said before attaching: one line each, with the command
//! that mends it.
//!
//! Only what the kernel and the driver report, and what drivers are known to do. Silence does
//! not mean that attaching works: only attaching tells.

use std::fmt;

use super::{LINEAR_MTU, XdpMode, ethtool::Channels, interface::InterfaceFacts};

/// Something the user should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// The interface is down.
    Down,
    /// The NIC takes VLAN tags out before XDP sees the packet.
    RxVlan,
    /// The peer of a veth may hand over VLAN tags beside the packet.
    PeerTags,
    /// The NIC merges TCP segments.
    Lro,
    /// Packets may not fit one buffer, and the driver is not known to take frags.
    Mtu(u32),
    /// The driver needs as many spare queues as are in use.
    Queues {
        /// Channels in use.
        combined: u32,
        /// The most that leave room.
        most: u32,
    },
    /// Attaching interrupts traffic.
    Restart(Restart),
    /// A bridge sees only what is for the host.
    Bridge,
    /// Other members of the bond carry packets too.
    BondMember,
}

/// What a driver does to begin or end XDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// Resets the device; the link may go down for seconds.
    Device,
    /// Stops its queues and sets them up anew; the link stays.
    Queues,
}

/// Drivers that restart something when the first XDP program comes or the last goes, by the name
/// that `ethtool -i` gives: those whose ndo_bpf closes the device or stops its queues. Others may.
const RESTARTS: &[(&str, Restart)] = &[
    ("atlantic", Restart::Device),
    ("bnxt_en", Restart::Queues),
    ("ena", Restart::Queues),
    ("fsl_dpaa2_eth", Restart::Device),
    ("gve", Restart::Queues),
    ("i40e", Restart::Device),
    ("ice", Restart::Queues),
    ("igb", Restart::Device),
    ("igc", Restart::Device),
    ("ixgbe", Restart::Device),
    ("mlx4_en", Restart::Queues),
    ("mlx5_core", Restart::Queues),
    ("mvneta", Restart::Device),
    ("nfp", Restart::Queues),
    ("qede", Restart::Queues),
    ("st_gmac", Restart::Device),
    ("virtio_net", Restart::Queues),
];

/// Drivers that take programs with frags, and since when: veth and mvneta 5.18, bnxt and mlx5
/// 5.19, ice and virtio_net 6.3, i40e 6.4.
const TAKES_FRAGS: &[&str] = &[
    "bnxt_en",
    "i40e",
    "ice",
    "mlx5_core",
    "mvneta",
    "veth",
    "virtio_net",
];

/// Drivers that want a queue of their own for XDP beside each channel, and refuse a program
/// where more than half of the channels are in use.
const WANTS_SPARE_QUEUES: &[&str] = &["ena"];

/// A warning and the interface it is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Name.
    pub interface: String,
    /// What.
    pub warning: Warning,
}

/// Says what is known to go wrong on this interface in this mode.
#[must_use]
pub fn preflight(facts: &InterfaceFacts, mode: XdpMode) -> Vec<Finding> {
    let link = &facts.link;
    let driver = facts.driver.as_deref().unwrap_or_default();
    let native = mode != XdpMode::Generic;
    let mut warnings = Vec::new();

    warnings.extend(down(facts));
    if !tells_tags(facts, mode) {
        warnings.extend(tags_beside(facts));
    }
    if facts.offloads.is_some_and(|offloads| offloads.lro) {
        warnings.push(Warning::Lro);
    }
    if native && link.mtu > LINEAR_MTU && has_hardware_limit(facts) {
        warnings.push(Warning::Mtu(link.mtu));
    }
    if native && WANTS_SPARE_QUEUES.contains(&driver) {
        warnings.extend(facts.channels.and_then(too_many_queues));
    }
    if native && let Some((_, restart)) = RESTARTS.iter().find(|(name, _)| *name == driver) {
        warnings.push(Warning::Restart(*restart));
    }
    warnings.extend(partial(facts));
    about(facts, warnings)
}

/// The same for programs of traffic control, which know tags beside packets, what was merged, and
/// packets of any size.
#[must_use]
pub fn preflight_tc(facts: &InterfaceFacts) -> Vec<Finding> {
    about(facts, down(facts).into_iter().chain(partial(facts)))
}

fn about(facts: &InterfaceFacts, warnings: impl IntoIterator<Item = Warning>) -> Vec<Finding> {
    warnings
        .into_iter()
        .map(|warning| Finding {
            interface: facts.link.name.clone(),
            warning,
        })
        .collect()
}

fn down(facts: &InterfaceFacts) -> Option<Warning> {
    (facts.link.flags & libc::IFF_UP as u32 == 0).then_some(Warning::Down)
}

/// Where an interface is not all that its packets pass.
fn partial(facts: &InterfaceFacts) -> Vec<Warning> {
    let link = &facts.link;
    let bridge = link.kind.as_deref() == Some("bridge");
    let member = link.master_kind.as_deref() == Some("bond");
    let bridge = bridge.then_some(Warning::Bridge);
    bridge
        .into_iter()
        .chain(member.then_some(Warning::BondMember))
        .collect()
}

/// Whether VLAN tags may stand beside the packets of this interface and a program that asks for
/// them, which must be loaded for it alone, would be told. With the offload off on a NIC all tags
/// are in the packet, and the question would cost time for nothing.
#[must_use]
pub fn tells_tags(facts: &InterfaceFacts, mode: XdpMode) -> bool {
    mode != XdpMode::Generic && facts.tells_vlan_tag && tags_beside(facts).is_some()
}

/// What to say where the program that asks for VLAN tags was refused after all.
#[must_use]
pub fn missed_tags(facts: &InterfaceFacts) -> Option<Finding> {
    tags_beside(facts).map(|warning| Finding {
        interface: facts.link.name.clone(),
        warning,
    })
}

/// The warning of VLAN tags that stand beside the packet, if some may.
///
/// A veth takes no tag out of a packet, but its peer may hand one over beside it, whatever rxvlan
/// says here. On most veths there is no tag to miss, so that it is mentioned only where it need not
/// be missed.
fn tags_beside(facts: &InterfaceFacts) -> Option<Warning> {
    if facts.driver.as_deref() == Some("veth") {
        return facts.tells_vlan_tag.then_some(Warning::PeerTags);
    }
    let offload = facts.offloads.is_some_and(|offloads| offloads.rx_vlan);
    offload.then_some(Warning::RxVlan)
}

/// Whether the MTU can matter: a kind of interface without native XDP runs the program on skbs
/// of any size, and so does a driver that takes frags.
fn has_hardware_limit(facts: &InterfaceFacts) -> bool {
    let driver = facts.driver.as_deref().unwrap_or_default();
    let loopback = facts.link.flags & libc::IFF_LOOPBACK as u32 != 0;
    facts.link.kind.is_none() && !loopback && !TAKES_FRAGS.contains(&driver)
}

fn too_many_queues(channels: Channels) -> Option<Warning> {
    let Channels {
        max_combined,
        combined,
        ..
    } = channels;
    let most = max_combined / 2;
    (combined > most && most > 0).then_some(Warning::Queues { combined, most })
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = &self.interface;
        match self.warning {
            Warning::Down => write!(
                f,
                "{name} is down and no packet will come: `ip link set dev {name} up`"
            ),
            Warning::RxVlan => write!(
                f,
                "{name} takes VLAN tags out of packets before XDP sees them, so that flows of all \
                 VLANs look untagged: `ethtool -K {name} rxvlan off`"
            ),
            Warning::PeerTags => write!(
                f,
                "VLAN tags that the peer of {name} hands over beside packets are missed here, so \
                 that flows of all such VLANs look untagged: native mode instead of generic, or \
                 `ethtool -K PEER txvlan off` at the peer"
            ),
            Warning::Lro => write!(
                f,
                "{name} has LRO on, which merges packets before XDP counts them, or makes the \
                 driver refuse XDP: `ethtool -K {name} lro off`"
            ),
            Warning::Mtu(mtu) => write!(
                f,
                "{name} has an MTU of {mtu}, whose packets do not fit one buffer, and its driver \
                 is not known to give XDP several: if native mode is refused, \
                 `ip link set dev {name} mtu 1500`"
            ),
            Warning::Queues { combined, most } => write!(
                f,
                "{name} uses {combined} channels, and its driver takes native XDP only with {most} \
                 or fewer: `ethtool -L {name} combined {most}`"
            ),
            Warning::Restart(Restart::Device) => write!(
                f,
                "the driver of {name} resets the device to attach and to detach: traffic pauses, \
                 and the link may go down for seconds; --xdp-mode generic avoids that"
            ),
            Warning::Restart(Restart::Queues) => write!(
                f,
                "the driver of {name} stops its queues to attach and to detach: traffic pauses \
                 for a moment; --xdp-mode generic avoids that"
            ),
            Warning::Bridge => write!(
                f,
                "{name} is a bridge, on which only what is for this host is seen: give the \
                 bridge's ports with -i (`bridge link show`)"
            ),
            Warning::BondMember => write!(
                f,
                "{name} is one member of a bond, and the others carry packets too: give every \
                 member with -i, or the bond (`ip link show type bond_slave`)"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::{ethtool::Offloads, netlink::LinkInfo};

    fn nic(driver: &str) -> InterfaceFacts {
        InterfaceFacts {
            link: LinkInfo {
                name: "eth0".to_owned(),
                mtu: 1500,
                flags: libc::IFF_UP as u32,
                ..LinkInfo::default()
            },
            driver: Some(driver.to_owned()),
            ..InterfaceFacts::default()
        }
    }

    fn warnings(facts: &InterfaceFacts, mode: XdpMode) -> Vec<Warning> {
        preflight(facts, mode)
            .into_iter()
            .map(|finding| finding.warning)
            .collect()
    }

    #[test]
    fn a_plain_interface_gives_no_warning() {
        assert_eq!(warnings(&nic("unheard_of"), XdpMode::Auto), []);
    }

    #[test]
    fn traffic_control_is_warned_of_less() {
        let mut facts = nic("ixgbe");
        facts.link.mtu = 9000;
        facts.link.flags = 0;
        facts.link.master_kind = Some("bond".to_owned());
        facts.offloads = Some(Offloads {
            lro: true,
            rx_vlan: true,
        });
        let findings = preflight_tc(&facts);
        let warnings: Vec<_> = findings.into_iter().map(|found| found.warning).collect();
        assert_eq!(warnings, [Warning::Down, Warning::BondMember]);
    }

    #[test]
    fn a_veth_gives_no_warning_whatever_it_offers() {
        let mut facts = nic("veth");
        facts.link.kind = Some("veth".to_owned());
        facts.link.mtu = 9000;
        facts.offloads = Some(Offloads {
            lro: false,
            rx_vlan: true,
        });
        assert_eq!(warnings(&facts, XdpMode::Auto), []);
    }

    #[test]
    fn tags_are_asked_for_where_they_are_told_and_missed_without() {
        let mut facts = nic("ice");
        let mut with = |rx_vlan, told, mode| {
            facts.offloads = Some(Offloads {
                lro: false,
                rx_vlan,
            });
            facts.tells_vlan_tag = told;
            (
                tells_tags(&facts, mode),
                warnings(&facts, mode).contains(&Warning::RxVlan),
            )
        };
        for mode in [XdpMode::Auto, XdpMode::Native] {
            assert_eq!(with(true, true, mode), (true, false));
            // An older kernel, or another driver.
            assert_eq!(with(true, false, mode), (false, true));
            assert_eq!(with(false, true, mode), (false, false));
        }
        assert_eq!(with(true, true, XdpMode::Generic), (false, true));
        assert_eq!(with(false, true, XdpMode::Generic), (false, false));
        facts.offloads = None;
        assert!(!tells_tags(&facts, XdpMode::Auto), "nobody knows of tags");
        facts.offloads = Some(Offloads {
            lro: false,
            rx_vlan: true,
        });
        let missed = missed_tags(&facts).unwrap();
        assert_eq!(missed.warning, Warning::RxVlan);
        assert_eq!(missed.interface, "eth0");
    }

    #[test]
    fn a_veth_is_asked_for_tags_whatever_rxvlan_says() {
        for rx_vlan in [false, true] {
            let mut facts = nic("veth");
            facts.offloads = Some(Offloads {
                lro: false,
                rx_vlan,
            });
            facts.tells_vlan_tag = true;
            assert!(tells_tags(&facts, XdpMode::Auto));
            assert_eq!(warnings(&facts, XdpMode::Auto), []);
            assert!(!tells_tags(&facts, XdpMode::Generic));
            assert_eq!(warnings(&facts, XdpMode::Generic), [Warning::PeerTags]);
            let line = missed_tags(&facts).unwrap().to_string();
            assert!(line.contains("`ethtool -K PEER txvlan off`") && !line.contains("  "));
            // A kernel before 6.8: nothing can be done here.
            facts.tells_vlan_tag = false;
            assert!(!tells_tags(&facts, XdpMode::Auto));
            assert_eq!(warnings(&facts, XdpMode::Generic), []);
            assert_eq!(missed_tags(&facts), None);
        }
    }

    #[test]
    fn offloads_are_warned_of_in_each_mode_with_the_command() {
        let mut facts = nic("unheard_of");
        facts.offloads = Some(Offloads {
            lro: true,
            rx_vlan: true,
        });
        for mode in [XdpMode::Auto, XdpMode::Native, XdpMode::Generic] {
            assert_eq!(warnings(&facts, mode), [Warning::RxVlan, Warning::Lro]);
        }
        let lines: Vec<_> = preflight(&facts, XdpMode::Auto)
            .iter()
            .map(ToString::to_string)
            .collect();
        assert!(lines[0].ends_with("`ethtool -K eth0 rxvlan off`"));
        assert!(lines[1].ends_with("`ethtool -K eth0 lro off`"));
        assert!(
            lines
                .iter()
                .all(|line| !line.contains('\n') && !line.contains("  "))
        );
    }

    #[test]
    fn a_large_mtu_is_warned_of_where_the_driver_may_not_take_it() {
        let mut facts = nic("igb");
        facts.link.mtu = LINEAR_MTU;
        assert!(!warnings(&facts, XdpMode::Native).contains(&Warning::Mtu(LINEAR_MTU)));
        facts.link.mtu = 9000;
        assert!(warnings(&facts, XdpMode::Native).contains(&Warning::Mtu(9000)));
        assert_eq!(warnings(&facts, XdpMode::Generic), []);
        facts.driver = Some("mlx5_core".to_owned());
        assert!(!warnings(&facts, XdpMode::Native).contains(&Warning::Mtu(9000)));
    }

    #[test]
    fn the_loopback_has_no_mtu_to_warn_of() {
        let mut facts = nic("");
        facts.link.mtu = 65536;
        facts.link.flags |= libc::IFF_LOOPBACK as u32;
        assert_eq!(warnings(&facts, XdpMode::Auto), []);
    }

    #[test]
    fn restarts_are_warned_of_in_native_mode_only() {
        let facts = nic("ixgbe");
        assert_eq!(
            warnings(&facts, XdpMode::Auto),
            [Warning::Restart(Restart::Device)]
        );
        assert_eq!(warnings(&facts, XdpMode::Generic), []);
    }

    #[test]
    fn spare_queues_are_wanted_by_those_that_want_them() {
        let mut facts = nic("ena");
        let mut with = |combined| {
            facts.channels = Some(Channels {
                max_combined: 8,
                combined,
                ..Channels::default()
            });
            warnings(&facts, XdpMode::Auto)
        };
        let restart = Warning::Restart(Restart::Queues);
        assert_eq!(with(4), std::slice::from_ref(&restart));
        let queues = Warning::Queues {
            combined: 5,
            most: 4,
        };
        assert_eq!(with(5), [queues, restart]);
    }

    #[test]
    fn an_interface_that_is_down_says_so() {
        let mut facts = nic("unheard_of");
        facts.link.flags = 0;
        assert_eq!(warnings(&facts, XdpMode::Auto), [Warning::Down]);
    }

    #[test]
    fn bridges_and_bond_members_say_what_is_not_seen() {
        let mut facts = nic("bridge");
        facts.link.kind = Some("bridge".to_owned());
        assert_eq!(warnings(&facts, XdpMode::Auto), [Warning::Bridge]);
        let mut facts = nic("unheard_of");
        facts.link.master_kind = Some("bond".to_owned());
        assert_eq!(warnings(&facts, XdpMode::Auto), [Warning::BondMember]);
    }
}
