//! A program at a hook of traffic control, held by a bpf_link (TCX, since 6.6), or before that as a filter
//! of a [`clsact`] qdisc.
//!
//! As with XDP, the link says whose the program is and goes with its last descriptor. Other than XDP,
//! the hook takes many programs. Ours is put in front of those that are there: what one of them drops
//! or redirects is counted, and ours leaves each verdict to them.

mod clsact;
mod message;

use std::{
    fmt, io,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    str::FromStr,
};

use self::clsact::{Clsact, ClsactError};
use super::{
    interface::{FactsError, Interface},
    netlink::NetlinkError,
};
use crate::bpf;

// linux/if_arp.h.
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_PPP: u16 = 512;
const ARPHRD_RAWIP: u16 = 519;
const ARPHRD_TUNNEL: u16 = 768;
const ARPHRD_TUNNEL6: u16 = 769;
const ARPHRD_LOOPBACK: u16 = 772;
const ARPHRD_NONE: u16 = 0xfffe;

/// Where packets are counted as they come in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Hook {
    /// Before anything else.
    #[default]
    Xdp,
    /// In traffic control, when the packet is a socket buffer.
    Tc,
}

/// A hook that there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the hook is one of xdp, tc")]
pub struct UnknownHook;

impl FromStr for Hook {
    type Err = UnknownHook;

    fn from_str(text: &str) -> Result<Self, UnknownHook> {
        match text {
            "xdp" => Ok(Self::Xdp),
            "tc" => Ok(Self::Tc),
            _ => Err(UnknownHook),
        }
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Xdp => "xdp",
            Self::Tc => "tc",
        })
    }
}

/// Which packets of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Those that come in.
    In,
    /// Those that go out.
    Out,
}

/// What the packets of an interface begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkLayer {
    /// A header of Ethernet.
    Ethernet,
    /// IP at once.
    None,
}

impl LinkLayer {
    /// That of interfaces of this hardware type (ARPHRD_*), where it is one of these.
    ///
    /// Left out are tunnels whose driver leaves the packet around it in front (GRE, SIT).
    #[must_use]
    pub fn of(hardware: u16) -> Option<Self> {
        match hardware {
            ARPHRD_ETHER | ARPHRD_LOOPBACK => Some(Self::Ethernet),
            ARPHRD_NONE | ARPHRD_PPP | ARPHRD_RAWIP | ARPHRD_TUNNEL | ARPHRD_TUNNEL6 => {
                Some(Self::None)
            }
            _ => None,
        }
    }
}

/// Why a program of traffic control was not attached.
#[derive(Debug, thiserror::Error)]
pub enum TcError {
    /// No frames that the program knows how to read.
    #[error(
        "{interface} has frames of a kind that is not known (ARPHRD {hardware}): meter the \
         interface below or above it (`ip -d link show dev {interface}`)"
    )]
    LinkLayer {
        /// Name.
        interface: String,
        /// ARPHRD_*.
        hardware: u16,
    },
    /// Not Ethernet.
    #[error(
        "{interface} has no Ethernet frames, and XDP is for those: --hook tc meters its packets"
    )]
    NotForXdp {
        /// Name.
        interface: String,
    },
    /// The kernel is too old for TCX, or made without, and has no qdisc for it either.
    #[error(
        "{interface} takes no clsact qdisc, which --hook tc and --egress attach by where a kernel has no TCX \
         (6.6): {source}; does it have CONFIG_NET_SCH_INGRESS and CONFIG_NET_CLS_BPF?"
    )]
    NoClsact {
        /// Name.
        interface: String,
        /// What the kernel said.
        source: NetlinkError,
    },
    /// A qdisc of another kind has the place of the clsact one.
    #[error(
        "{interface} has a qdisc of kind {kind}, which has the place of a clsact one and no hook for what goes out: \
         leave out --egress, or take it away with `tc qdisc delete dev {interface} {kind}` if nobody needs it"
    )]
    OtherQdisc {
        /// Name.
        interface: String,
        /// Its kind: `ingress`.
        kind: String,
    },
    /// All places are taken.
    #[error(
        "{interface} has as many programs of traffic control as the kernel takes: see \
         `bpftool net show dev {interface}`"
    )]
    Full {
        /// Name.
        interface: String,
    },
    /// Not allowed.
    #[error(
        "the kernel forbids attaching to {interface}: CAP_BPF and CAP_NET_ADMIN are needed in the \
         network namespace's owner; run with sudo"
    )]
    Denied {
        /// Name.
        interface: String,
    },
    /// The interface went away.
    #[error(transparent)]
    Facts(#[from] FactsError),
    /// Anything else.
    #[error("attaching to {interface} in traffic control failed: {source}")]
    Kernel {
        /// Name.
        interface: String,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A program of traffic control on an interface. Dropping it detaches.
#[derive(Debug)]
pub struct Tc {
    held: Held,
}

/// What keeps the program there.
#[derive(Debug)]
enum Held {
    Link(Link),
    Filter(Clsact),
}

#[derive(Debug)]
struct Link(OwnedFd);

impl Drop for Link {
    fn drop(&mut self) {
        // As for XDP: a child between fork and exec may have a copy of the descriptor.
        let _closes_anyway = bpf::detach(self.0.as_fd());
    }
}

impl Tc {
    /// Whether the kernel has taken it off, as it does where the interface goes away.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        match &self.held {
            Held::Link(link) => bpf::has_ended(link.0.as_fd()),
            Held::Filter(filter) => filter.has_ended(),
        }
    }

    /// Whether it is a filter, as on kernels without links for it.
    #[must_use]
    pub fn is_filter(&self) -> bool {
        matches!(self.held, Held::Filter(_))
    }

    /// Attaches in front of all others; with `clsact` as a filter in any case.
    ///
    /// # Errors
    /// See [`TcError`]; nothing is attached then.
    pub fn new(
        interface: &Interface,
        program: BorrowedFd<'_>,
        way: Way,
        clsact: bool,
    ) -> Result<Self, TcError> {
        if !clsact {
            match bpf::link_tcx(program, interface.index, way == Way::Out) {
                Ok(link) => {
                    let held = Held::Link(Link(link));
                    return Ok(Self { held });
                }
                // An attach type that the kernel does not know, or has no code for.
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(explain(interface, error)),
            }
        }
        match Clsact::new(interface, program, way) {
            Ok(filter) => Ok(Self {
                held: Held::Filter(filter),
            }),
            Err(ClsactError::Netlink(NetlinkError::Kernel(error))) if !is_about_clsact(&error) => {
                Err(explain(interface, error))
            }
            Err(ClsactError::Kind(kind)) => Err(TcError::OtherQdisc {
                interface: interface.name.clone(),
                kind,
            }),
            Err(ClsactError::Netlink(source)) => Err(TcError::NoClsact {
                interface: interface.name.clone(),
                source,
            }),
        }
    }
}

/// Whether the kernel has no such qdisc or filter.
fn is_about_clsact(error: &io::Error) -> bool {
    let errno = error.raw_os_error();
    !matches!(errno, Some(libc::EPERM | libc::EACCES | libc::ENODEV))
}

fn explain(interface: &Interface, source: io::Error) -> TcError {
    let interface = interface.name.clone();
    match source.raw_os_error() {
        // kernel/bpf/mprog.c: BPF_MPROG_MAX.
        Some(libc::ERANGE) => TcError::Full { interface },
        Some(libc::EPERM | libc::EACCES) => TcError::Denied { interface },
        Some(libc::ENODEV) => TcError::Facts(FactsError::Gone(interface)),
        _ => TcError::Kernel { interface, source },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_packets_begin_with_is_known_or_refused() {
        // linux/if_arp.h: Ethernet, loopback; tun and WireGuard, PPP.
        for (hardware, layer) in [
            (1, Some(LinkLayer::Ethernet)),
            (772, Some(LinkLayer::Ethernet)),
            (0xfffe, Some(LinkLayer::None)),
            (512, Some(LinkLayer::None)),
            // InfiniBand, GRE, SIT, monitor mode.
            (32, None),
            (778, None),
            (776, None),
            (803, None),
        ] {
            assert_eq!(LinkLayer::of(hardware), layer, "{hardware}");
        }
    }

    #[test]
    fn refusals_say_what_to_do() {
        let interface = Interface {
            name: "wg0".to_owned(),
            index: 3,
        };
        let said = |errno| explain(&interface, io::Error::from_raw_os_error(errno)).to_string();
        let none = TcError::NoClsact {
            interface: "wg0".to_owned(),
            source: io::Error::from_raw_os_error(libc::ENOENT).into(),
        };
        assert!(none.to_string().contains("CONFIG_NET_SCH_INGRESS"));
        let other = TcError::OtherQdisc {
            interface: "wg0".to_owned(),
            kind: "ingress".to_owned(),
        };
        let command = "`tc qdisc delete dev wg0 ingress`";
        assert!(other.to_string().contains(command));
        assert!(said(libc::ERANGE).contains("`bpftool net show dev wg0`"));
        assert!(said(libc::EPERM).contains("run with sudo"));
        assert!(said(libc::ENODEV).contains("wg0 has gone away"));
        for errno in [libc::EINVAL, libc::ERANGE, libc::EPERM, libc::EIO] {
            let line = said(errno);
            assert!(!line.contains("  ") && !line.contains('\n'), "{line}");
        }
    }
}
