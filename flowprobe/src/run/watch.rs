//! Puts the programs onto the interfaces, and takes them off.

use std::os::fd::{AsFd as _, OwnedFd};

use super::{InterfaceSummary, RunError, Settings, rx_vlan, summary};
use crate::{
    attach::{
        self, Attached, FactsError, Hook, Interface, InterfaceStats, LinkLayer, LookupError, Mode,
        Programs, Promiscuous, Tc, TcError, Way, XdpMode, netlink::LinkInfo, overlap, preflight,
        preflight_tc,
    },
    load::Kernel,
};

/// What counts the packets that come in.
enum Ingress {
    Xdp(Attached),
    Tc(#[expect(dead_code, reason = "held, so that it stays attached")] Tc),
}

/// An interface that is being watched. Dropping it detaches.
pub(super) struct Watched {
    interface: Interface,
    ingress: Ingress,
    egress: Option<Tc>,
    _promisc: Option<Promiscuous>,
    before: InterfaceStats,
    gone: bool,
}

impl Watched {
    /// Says it once when the interface goes away: then so does the program on it.
    pub(super) fn look(&mut self) {
        if self.gone {
            return;
        }
        if let Err(error @ FactsError::Gone(_)) = self.interface.link() {
            tracing::warn!("{error}: it is not watched any more");
            self.gone = true;
        }
    }

    /// Detaches; returns what the interface received meanwhile.
    pub(super) fn detach(self) -> InterfaceSummary {
        let Self {
            interface,
            ingress,
            before,
            ..
        } = &self;
        let after = interface.statistics().unwrap_or_else(|error| {
            tracing::warn!("{error}: its counters are missing from the summary");
            *before
        });
        let (mode, frags, vlan_metadata) = match ingress {
            Ingress::Xdp(attached) => (
                attached.mode.to_string(),
                attached.frags,
                attached.vlan_metadata,
            ),
            Ingress::Tc(_) => (Hook::Tc.to_string(), true, false),
        };
        InterfaceSummary {
            name: interface.name.clone(),
            ifindex: interface.index,
            mode,
            egress: self.egress.is_some(),
            frags,
            vlan_metadata,
            counters: after.since(before),
        }
    }
}

/// All programs that may run: their cost is that of metering.
pub(super) fn programs(kernel: &mut Kernel, watched: &[Watched]) -> Result<Vec<OwnedFd>, RunError> {
    let mut programs = Vec::new();
    for frags in [true, false] {
        let program = kernel.program(frags)?.fd()?.as_fd().try_clone_to_owned();
        programs.push(program.map_err(RunError::Start)?);
    }
    for one in watched {
        if let Ingress::Xdp(attached) = &one.ingress
            && let Some(program) = attached.program()
        {
            programs.push(program.try_clone_to_owned().map_err(RunError::Start)?);
        }
    }
    for program in kernel.loaded_tc() {
        programs.push(program.map_err(RunError::Start)?);
    }
    Ok(programs)
}

/// Refuses interfaces that cannot be watched so, and warns of what will go wrong on others.
pub(super) fn look(interfaces: &[Interface], settings: &Settings) -> Result<(), RunError> {
    for interface in interfaces {
        let facts = interface.facts()?;
        let layer = link_layer(interface, facts.link.hardware)?;
        let findings = match settings.hook {
            Hook::Xdp => {
                if layer != LinkLayer::Ethernet {
                    let interface = interface.name.clone();
                    return Err(TcError::NotForXdp { interface }.into());
                }
                attach::refuse_foreign(interface)?;
                preflight(&facts, settings.xdp_mode)
            }
            Hook::Tc => preflight_tc(&facts),
        };
        for finding in findings {
            tracing::warn!("{finding}");
        }
    }
    let indices: Vec<u32> = interfaces.iter().map(|one| one.index).collect();
    for twice in overlap::counted_twice(&all_links()?, &indices, settings.egress) {
        tracing::warn!("{twice}");
    }
    Ok(())
}

/// Every interface of this network namespace; one that goes away meanwhile is none.
fn all_links() -> Result<Vec<LinkInfo>, RunError> {
    let interfaces = Interface::all().map_err(LookupError::List)?;
    let mut links = Vec::new();
    for interface in interfaces {
        match interface.link() {
            Ok(link) => links.push(link),
            Err(FactsError::Gone(_)) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(links)
}

/// The interfaces whose packets have been seen when they came in, where those are not to be counted
/// again.
pub(super) fn seen_coming_in(
    interfaces: &[Interface],
    settings: &Settings,
) -> Result<Vec<u32>, RunError> {
    if !settings.dedup {
        return Ok(Vec::new());
    }
    let indices: Vec<u32> = interfaces.iter().map(|one| one.index).collect();
    Ok(overlap::seen_coming_in(&all_links()?, &indices))
}

fn link_layer(interface: &Interface, hardware: u16) -> Result<LinkLayer, TcError> {
    LinkLayer::of(hardware).ok_or_else(|| TcError::LinkLayer {
        interface: interface.name.clone(),
        hardware,
    })
}

/// Attaches to every interface, or to none.
pub(super) fn watch(
    kernel: &mut Kernel,
    interfaces: &[Interface],
    settings: &Settings,
) -> Result<Vec<Watched>, RunError> {
    let frags = kernel.program(true)?.fd()?.as_fd().try_clone_to_owned();
    let frags = frags.map_err(RunError::Start)?;
    let linear = kernel.program(false)?.fd()?.as_fd().try_clone_to_owned();
    let linear = linear.map_err(RunError::Start)?;
    let programs = Programs {
        frags: frags.as_fd(),
        linear: Some(linear.as_fd()),
    };
    let traffic_control = interfaces
        .iter()
        .map(|interface| TrafficControl::load(kernel, interface, settings))
        .collect::<Result<Vec<_>, _>>()?;
    let mut rx_vlan = rx_vlan::Attacher::new(kernel);
    interfaces
        .iter()
        .zip(traffic_control)
        .map(|(interface, programs_of_tc)| {
            let promisc = settings
                .promisc
                .then(|| Promiscuous::new(&interface.name, interface.index))
                .transpose()?;
            let before = interface.statistics()?;
            let ingress = match programs_of_tc.ingress {
                Some(program) => Ingress::Tc(Tc::new(interface, program.as_fd(), Way::In)?),
                None => match rx_vlan.attach(interface, settings.xdp_mode)? {
                    Some(attached) => Ingress::Xdp(attached),
                    None => Ingress::Xdp(attach::attach(interface, programs, settings.xdp_mode)?),
                },
            };
            let egress = programs_of_tc
                .egress
                .map(|program| Tc::new(interface, program.as_fd(), Way::Out))
                .transpose()?;
            say_attached(interface, &ingress, egress.is_some(), settings.xdp_mode);
            Ok(Watched {
                interface: interface.clone(),
                ingress,
                egress,
                _promisc: promisc,
                before,
                gone: false,
            })
        })
        .collect()
}

/// The programs of traffic control that an interface gets.
struct TrafficControl {
    ingress: Option<OwnedFd>,
    egress: Option<OwnedFd>,
}

impl TrafficControl {
    fn load(
        kernel: &mut Kernel,
        interface: &Interface,
        settings: &Settings,
    ) -> Result<Self, RunError> {
        let layer = link_layer(interface, interface.link()?.hardware)?;
        let mut load = |way, wanted: bool| -> Result<Option<OwnedFd>, RunError> {
            if !wanted {
                return Ok(None);
            }
            let program = kernel.tc(way, layer)?.fd()?.as_fd().try_clone_to_owned();
            Ok(Some(program.map_err(RunError::Start)?))
        };
        Ok(Self {
            ingress: load(Way::In, settings.hook == Hook::Tc)?,
            egress: load(Way::Out, settings.egress)?,
        })
    }
}

fn say_attached(interface: &Interface, ingress: &Ingress, egress: bool, asked: XdpMode) {
    let name = &interface.name;
    let both = if egress { ", and to what goes out" } else { "" };
    match ingress {
        Ingress::Tc(_) => tracing::info!(interface = name, "attached, tc{both}"),
        Ingress::Xdp(attached) => {
            if asked == XdpMode::Generic && attached.mode == Mode::Generic {
                tracing::warn!(
                    interface = name,
                    "generic XDP: what GRO merged counts as one packet"
                );
            }
            tracing::info!(
                interface = name,
                "attached, {}{}{}{both}",
                attached.mode,
                if attached.frags { ", frags" } else { "" },
                summary::tags_from(attached.vlan_metadata),
            );
        }
    }
}
