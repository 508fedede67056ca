//! One interface: puts the programs onto it, and takes them off.

use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use super::{
    super::{InterfaceSummary, RunError, rx_vlan, summary},
    How,
};
use crate::{
    attach::{
        self, Attached, Finding, Hook, Interface, InterfaceStats, LinkLayer, Mode, Programs,
        Promiscuous, Tc, TcError, Way, XdpMode, preflight, preflight_tc,
    },
    load::Kernel,
};

/// What counts the packets that come in.
enum Ingress {
    Xdp(Attached),
    Tc(Tc),
}

/// Why an interface is watched no more.
#[derive(Clone, Copy, Debug)]
pub(super) enum End {
    /// It is there, and can be asked for its counters.
    There,
    /// It is gone. These are its last counters, where the kernel has told them.
    Gone(Option<InterfaceStats>),
}

/// An interface that is being watched. Dropping it detaches.
pub(super) struct Watched {
    interface: Interface,
    ingress: Ingress,
    egress: Option<Tc>,
    _promisc: Option<Promiscuous>,
    before: InterfaceStats,
}

impl Watched {
    pub(super) fn interface(&self) -> &Interface {
        &self.interface
    }

    pub(super) fn name(&self) -> &str {
        &self.interface.name
    }

    pub(super) fn index(&self) -> u32 {
        self.interface.index
    }

    pub(super) fn rename(&mut self, name: &str) {
        name.clone_into(&mut self.interface.name);
    }

    /// Whether the kernel has taken the program off, as it does where the interface goes away.
    pub(super) fn has_ended(&self) -> bool {
        match &self.ingress {
            Ingress::Xdp(attached) => attached.has_ended(),
            Ingress::Tc(tc) => tc.has_ended(),
        }
    }

    /// The program that is of this interface alone.
    pub(super) fn program(&self) -> Option<BorrowedFd<'_>> {
        match &self.ingress {
            Ingress::Xdp(attached) => attached.program(),
            Ingress::Tc(_) => None,
        }
    }

    /// Attaches, or not at all.
    pub(super) fn attach(
        interface: &Interface,
        how: How,
        kernel: &mut Kernel,
        rx_vlan: &mut rx_vlan::Attacher,
    ) -> Result<Self, RunError> {
        let tc = TrafficControl::load(kernel, interface, how)?;
        let before = interface.statistics()?;
        // First what the interface itself does not notice: where it fails, nothing has changed and
        // nobody is told of a change, upon which all would be tried again.
        let egress = tc
            .egress
            .map(|program| Tc::new(interface, program.as_fd(), Way::Out, how.clsact))
            .transpose()?;
        let ingress = match tc.ingress {
            Some(program) => Ingress::Tc(Tc::new(interface, program.as_fd(), Way::In, how.clsact)?),
            None => Ingress::Xdp(attach_xdp(interface, how.xdp_mode, kernel, rx_vlan)?),
        };
        let promisc = how
            .promisc
            .then(|| Promiscuous::new(&interface.name, interface.index))
            .transpose()?;
        say_attached(interface, &ingress, egress.as_ref(), how.xdp_mode);
        Ok(Self {
            interface: interface.clone(),
            ingress,
            egress,
            _promisc: promisc,
            before,
        })
    }

    /// Detaches; returns what the interface received meanwhile.
    pub(super) fn detach(self, end: End) -> InterfaceSummary {
        let Self {
            interface,
            ingress,
            before,
            ..
        } = &self;
        let after = match end {
            End::There => interface.statistics().unwrap_or_else(|error| {
                tracing::warn!("{error}: its counters are missing from the summary");
                *before
            }),
            End::Gone(Some(last)) => last,
            End::Gone(None) => {
                tracing::warn!(
                    "what {} received until it went away is not known: its counters are missing from \
                     the summary",
                    interface.name
                );
                *before
            }
        };
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
            gone: matches!(end, End::Gone(_)),
            counters: after.since(before),
        }
    }
}

/// Refuses an interface that cannot be watched so, and warns of what will go wrong on others.
pub(in super::super) fn examine(interface: &Interface, how: How) -> Result<(), RunError> {
    for finding in findings(interface, how)? {
        tracing::warn!("{finding}");
    }
    Ok(())
}

/// The same, with the warnings for the caller to give.
pub(super) fn findings(interface: &Interface, how: How) -> Result<Vec<Finding>, RunError> {
    let facts = interface.facts()?;
    let layer = link_layer(interface, facts.link.hardware)?;
    Ok(match how.hook {
        Hook::Xdp => {
            if layer != LinkLayer::Ethernet {
                let interface = interface.name.clone();
                return Err(TcError::NotForXdp { interface }.into());
            }
            attach::refuse_foreign(interface)?;
            preflight(&facts, how.xdp_mode)
        }
        Hook::Tc => preflight_tc(&facts),
    })
}

fn link_layer(interface: &Interface, hardware: u16) -> Result<LinkLayer, TcError> {
    LinkLayer::of(hardware).ok_or_else(|| TcError::LinkLayer {
        interface: interface.name.clone(),
        hardware,
    })
}

fn attach_xdp(
    interface: &Interface,
    mode: XdpMode,
    kernel: &mut Kernel,
    rx_vlan: &mut rx_vlan::Attacher,
) -> Result<Attached, RunError> {
    if let Some(attached) = rx_vlan.attach(kernel, interface, mode)? {
        return Ok(attached);
    }
    let frags = kernel.program(true)?.fd()?.as_fd().try_clone_to_owned();
    let frags = frags.map_err(RunError::Start)?;
    let linear = kernel.program(false)?.fd()?.as_fd().try_clone_to_owned();
    let linear = linear.map_err(RunError::Start)?;
    let programs = Programs {
        frags: frags.as_fd(),
        linear: Some(linear.as_fd()),
    };
    Ok(attach::attach(interface, programs, mode)?)
}

/// The programs of traffic control that an interface gets.
struct TrafficControl {
    ingress: Option<OwnedFd>,
    egress: Option<OwnedFd>,
}

impl TrafficControl {
    fn load(kernel: &mut Kernel, interface: &Interface, how: How) -> Result<Self, RunError> {
        let layer = link_layer(interface, interface.link()?.hardware)?;
        let mut load = |way, wanted: bool| -> Result<Option<OwnedFd>, RunError> {
            if !wanted {
                return Ok(None);
            }
            let program = kernel.tc(way, layer)?.fd()?.as_fd().try_clone_to_owned();
            Ok(Some(program.map_err(RunError::Start)?))
        };
        Ok(Self {
            ingress: load(Way::In, how.hook == Hook::Tc)?,
            egress: load(Way::Out, how.egress)?,
        })
    }
}

fn say_attached(interface: &Interface, ingress: &Ingress, egress: Option<&Tc>, asked: XdpMode) {
    let name = &interface.name;
    let by = |tc: &Tc| if tc.is_filter() { " (clsact)" } else { "" };
    let both = egress.map_or_else(String::new, |egress| {
        format!(", and to what goes out{}", by(egress))
    });
    match ingress {
        Ingress::Tc(tc) => tracing::info!(interface = name, "attached, tc{}{both}", by(tc)),
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
