//! Which interfaces this machine needs the packets of: AF_XDP takes them past the stack, so that an
//! address, a bridge or an interface above would get none.
//!
//! A tap has none of these. What IPv6 gives each interface by itself, an address of the link and the
//! routes of that, is not counted.

mod dump;

use std::{fmt, io, net::IpAddr};

use super::{
    interface::{FactsError, Interface},
    netlink::{LinkInfo, NetlinkError},
    overlap,
};

/// Something that needs the packets of an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is a port of a bridge, or a member of a bond or the like: the kind, and the name of that.
    PartOf(String, String),
    /// The default route leads out of it, so that answers come in there.
    DefaultRoute,
    /// An address, and the length of its prefix.
    Address(IpAddr, u8),
    /// Another route leads out of it: its prefix.
    Route(IpAddr, u8),
    /// An interface is made on it, a VLAN for one: its name.
    Below(String),
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PartOf(kind, name) if kind == "bridge" => {
                write!(f, "is a port of the bridge {name}")
            }
            Self::PartOf(kind, name) => write!(f, "is a member of the {kind} {name}"),
            Self::DefaultRoute => f.write_str("carries the default route"),
            Self::Address(address, length) => write!(f, "has the address {address}/{length}"),
            Self::Route(to, length) => write!(f, "carries the route to {to}/{length}"),
            Self::Below(name) => write!(f, "is below the interface {name}"),
        }
    }
}

/// Why the packets of an interface are not taken.
#[derive(Debug, thiserror::Error)]
pub enum BypassError {
    /// They are needed.
    #[error(
        "{interface} {reason}, and AF_XDP would take its packets from this machine's stack: name a \
         tap, or --take-packets if that is meant"
    )]
    Needed {
        /// Name.
        interface: String,
        /// What for; the first thing that was found.
        reason: Use,
    },
    /// The interface went away, or cannot be asked about.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// The other interfaces.
    #[error("cannot list the interfaces: {0}")]
    List(io::Error),
    /// Its addresses and routes.
    #[error("cannot list the addresses and routes of {interface}: {source}")]
    Lists {
        /// Name.
        interface: String,
        /// Why.
        source: NetlinkError,
    },
}

/// Everything that needs the packets of an interface; nothing where it is a tap.
///
/// # Errors
/// The kernel does not tell.
pub fn uses(interface: &Interface) -> Result<Vec<Use>, BypassError> {
    let lists = |source| BypassError::Lists {
        interface: interface.name.clone(),
        source,
    };
    let links = links()?;
    let mut found = of_links(&interface.link()?, &links);
    found.extend(dump::routes(interface.index).map_err(lists)?);
    found.extend(dump::addresses(interface.index).map_err(lists)?);
    found.sort_by_key(weight);
    Ok(found)
}

/// Refuses an interface whose packets this machine needs.
///
/// # Errors
/// What for, or the kernel does not tell.
pub fn refuse(interface: &Interface) -> Result<(), BypassError> {
    match uses(interface)?.into_iter().next() {
        None => Ok(()),
        Some(reason) => Err(BypassError::Needed {
            interface: interface.name.clone(),
            reason,
        }),
    }
}

/// The worst to lose comes first.
fn weight(one: &Use) -> u8 {
    match one {
        Use::PartOf(..) => 0,
        Use::DefaultRoute => 1,
        Use::Address(..) => 2,
        Use::Route(..) => 3,
        Use::Below(_) => 4,
    }
}

/// Every interface of this network namespace; one that goes away meanwhile is none.
fn links() -> Result<Vec<LinkInfo>, BypassError> {
    let interfaces = Interface::all().map_err(BypassError::List)?;
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

/// What interfaces above need.
fn of_links(link: &LinkInfo, links: &[LinkInfo]) -> Vec<Use> {
    let mut found = Vec::new();
    if let Some(master) = link.master {
        let above = links.iter().find(|above| above.index == master);
        let kind = link.master_kind.clone();
        found.push(Use::PartOf(
            kind.unwrap_or_else(|| "interface".to_owned()),
            above.map_or_else(|| master.to_string(), |above| above.name.clone()),
        ));
    }
    let above = links
        .iter()
        .filter(|above| overlap::is_made_on(above, link));
    found.extend(above.map(|above| Use::Below(above.name.clone())));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str) -> LinkInfo {
        LinkInfo {
            index,
            name: name.to_owned(),
            ..LinkInfo::default()
        }
    }

    fn made_on(index: u32, name: &str, kind: &str, lower: u32) -> LinkInfo {
        LinkInfo {
            kind: Some(kind.to_owned()),
            lower: Some(lower),
            ..link(index, name)
        }
    }

    #[test]
    fn what_is_above_needs_the_packets() {
        let bonded = LinkInfo {
            master: Some(9),
            master_kind: Some("bond".to_owned()),
            ..link(2, "eth0")
        };
        let links = [
            bonded.clone(),
            link(9, "bond0"),
            made_on(3, "eth0.5", "vlan", 2),
            // The other end of a veth, and what is on another.
            made_on(4, "veth1", "veth", 2),
            made_on(5, "eth1.5", "vlan", 7),
        ];
        let found = of_links(&bonded, &links);
        let said: Vec<_> = found.iter().map(Use::to_string).collect();
        let expected = [
            "is a member of the bond bond0",
            "is below the interface eth0.5",
        ];
        assert_eq!(said, expected);
        assert_eq!(of_links(&link(7, "eth1"), &links[..4]), []);
    }

    #[test]
    fn a_refusal_is_one_line_that_names_the_way_out() {
        for reason in [
            Use::PartOf("bridge".to_owned(), "br0".to_owned()),
            Use::DefaultRoute,
            Use::Address([10, 0, 0, 1].into(), 24),
            Use::Route([10, 0, 0, 0].into(), 8),
            Use::Below("eth0.5".to_owned()),
        ] {
            let part = format!("eth0 {reason}, ");
            let interface = "eth0".to_owned();
            let line = BypassError::Needed { interface, reason }.to_string();
            assert!(
                line.starts_with(&part) && line.contains("--take-packets"),
                "{line}"
            );
            assert!(!line.contains("  ") && !line.contains('\n'), "{line}");
        }
    }
}
