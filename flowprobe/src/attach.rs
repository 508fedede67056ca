//! Puts the program onto interfaces, and says first what will go wrong there.
//!
//! The way of one interface: [`Interface::find`] by name, [`Interface::facts`] and [`preflight`]
//! for the warnings, [`attach`] for XDP or [`Tc`] for traffic control, [`Promiscuous`] for taps. What these return holds
//! kernel objects: dropping it, or the death of the process, undoes it. Loading the program is
//! not done here.

pub mod bypass;
pub mod ethtool;
pub mod interface;
pub mod link;
pub mod netdev;
pub mod netlink;
pub mod overlap;
pub mod preflight;
pub mod promisc;
pub mod tc;

use std::{
    fmt,
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    str::FromStr,
};

pub use self::{
    bypass::BypassError,
    interface::{FactsError, Interface, InterfaceFacts, InterfaceStats, LookupError},
    link::{AttachError, Link, Mode, refuse_foreign},
    preflight::{Finding, Warning, missed_tags, preflight, preflight_tc, tells_tags},
    promisc::{PromiscError, Promiscuous},
    tc::{Hook, LinkLayer, Tc, TcError, Way},
};

/// The largest MTU whose packets fit one page, for a program without frags: 4096 octets less
/// headroom (256), `struct skb_shared_info` (320) and the Ethernet header (14).
pub const LINEAR_MTU: u32 = 4096 - 256 - 320 - 14;

/// Where the user wants the program.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver, or else in the stack.
    #[default]
    Auto,
    /// In the driver.
    Native,
    /// In the stack.
    Generic,
}

/// The program, loaded in the two ways that drivers take.
#[derive(Clone, Copy, Debug)]
pub struct Programs<'a> {
    /// With BPF_F_XDP_HAS_FRAGS: takes packets of several buffers.
    pub frags: BorrowedFd<'a>,
    /// Without, for drivers that refuse the first.
    pub linear: Option<BorrowedFd<'a>>,
}

/// A program on an interface; dropping it detaches.
#[derive(Debug)]
pub struct Attached {
    /// Where.
    pub interface: Interface,
    /// Mode that the kernel took.
    pub mode: Mode,
    /// Whether packets of several buffers reach the program.
    pub frags: bool,
    /// Whether the program is one that asks the device for the VLAN tag beside a packet.
    pub vlan_metadata: bool,
    _link: Link,
    /// A program of this interface alone. Kept so that its run time can be read where that of the
    /// others can: `/proc/PID/fdinfo`.
    program: Option<OwnedFd>,
}

impl Attached {
    /// The program, where it is one of this interface alone.
    #[must_use]
    pub fn program(&self) -> Option<BorrowedFd<'_>> {
        self.program.as_ref().map(|program| program.as_fd())
    }
}

/// Attaches the program to one interface, and displaces nobody.
///
/// Falls back to generic only in [`XdpMode::Auto`], and with a warning that says what it costs.
///
/// # Errors
/// See [`AttachError`]; nothing is attached then.
pub fn attach(
    interface: &Interface,
    programs: Programs<'_>,
    mode: XdpMode,
) -> Result<Attached, AttachError> {
    refuse_foreign(interface)?;
    match mode {
        XdpMode::Generic => attach_generic(interface, programs),
        XdpMode::Native => attach_native(interface, programs),
        XdpMode::Auto => attach_native(interface, programs).or_else(|error| {
            if !error.generic_may_work() {
                return Err(error);
            }
            tracing::warn!(
                interface = interface.name,
                "{error}; using generic XDP: every packet is an skb before it is counted \
                 (allocated, and copied where it is not linear or lacks headroom), which costs \
                 several times the CPU; what GRO merged counts as one packet"
            );
            attach_generic(interface, programs)
        }),
    }
}

fn attach_native(interface: &Interface, programs: Programs<'_>) -> Result<Attached, AttachError> {
    let refused = match Link::new(interface, programs.frags, Mode::Native) {
        Ok(link) => return Ok(attached(interface, Mode::Native, true, link)),
        Err(error) => error,
    };
    let Some(linear) = programs.linear.filter(|_| refused.linear_may_work()) else {
        return Err(refused);
    };
    let link = Link::new(interface, linear, Mode::Native)?;
    warn_of_mtu(interface)?;
    Ok(attached(interface, Mode::Native, false, link))
}

fn warn_of_mtu(interface: &Interface) -> Result<(), AttachError> {
    let mtu = interface.link()?.mtu;
    if mtu > LINEAR_MTU {
        tracing::warn!(
            interface = interface.name,
            mtu,
            "the driver takes no XDP program with frags, and packets of this MTU do not fit one \
             buffer: those beyond about {LINEAR_MTU} octets may not reach the program; \
             `ip link set dev {} mtu 1500` avoids that",
            interface.name
        );
    }
    Ok(())
}

/// Attaches a program that was loaded for this interface alone, which native mode only takes.
/// `frags` says how it was loaded.
///
/// # Errors
/// See [`AttachError`]; nothing is attached then.
pub fn attach_bound(
    interface: &Interface,
    program: OwnedFd,
    frags: bool,
) -> Result<Attached, AttachError> {
    refuse_foreign(interface)?;
    let link = Link::new(interface, program.as_fd(), Mode::Native)?;
    if !frags {
        warn_of_mtu(interface)?;
    }
    Ok(Attached {
        vlan_metadata: true,
        program: Some(program),
        ..attached(interface, Mode::Native, frags, link)
    })
}

/// Before 6.9 the kernel makes every packet linear for a generic program, with or without frags,
/// and drops it where memory for that is short. From 6.9 on, a program with frags is given copies
/// in single pages instead, which are easier to come by; so that one is always the better.
fn attach_generic(interface: &Interface, programs: Programs<'_>) -> Result<Attached, AttachError> {
    let link = Link::new(interface, programs.frags, Mode::Generic)?;
    Ok(attached(interface, Mode::Generic, true, link))
}

fn attached(interface: &Interface, mode: Mode, frags: bool, link: Link) -> Attached {
    Attached {
        interface: interface.clone(),
        mode,
        frags,
        vlan_metadata: false,
        _link: link,
        program: None,
    }
}

/// A mode of XDP that there is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the XDP mode is one of auto, native, generic")]
pub struct UnknownMode;

impl FromStr for XdpMode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "auto" => Ok(Self::Auto),
            "native" => Ok(Self::Native),
            "generic" => Ok(Self::Generic),
            _ => Err(UnknownMode),
        }
    }
}

impl fmt::Display for XdpMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
        })
    }
}
