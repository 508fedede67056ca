//! One XDP program on one interface, held by a bpf_link.
//!
//! A bpf_link is the only way to attach that is exact about ownership: the kernel refuses it
//! where a program is attached already, and detaches when the last descriptor closes, kill -9
//! included. This is why aya's `Xdp::attach` is not used: where the kernel answers EINVAL it
//! falls back to netlink without a word, and a program attached so replaces whatever was there
//! and stays when its process is gone.

use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::{
    LINEAR_MTU,
    interface::{FactsError, Interface, InterfaceFacts},
    netlink::XdpPrograms,
};
use crate::{
    bpf,
    table::grace::{GracePeriod as _, Rcu},
};

// linux/if_link.h.
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// In the driver, before the packet is an skb.
    Native,
    /// In the stack, on the skb.
    Generic,
    /// On the NIC itself. Only other people's programs are there.
    Offloaded,
}

impl Mode {
    fn flags(self) -> u32 {
        match self {
            Self::Generic => XDP_FLAGS_SKB_MODE,
            Self::Native | Self::Offloaded => XDP_FLAGS_DRV_MODE,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Offloaded => "offloaded",
        })
    }
}

/// Somebody else's XDP program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignProgram {
    /// Program id.
    pub id: u32,
    /// Name; none where CAP_SYS_ADMIN is missing to ask for it.
    pub name: Option<String>,
    /// Mode.
    pub mode: Mode,
}

impl fmt::Display for ForeignProgram {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { id, name, mode } = self;
        match name.as_deref() {
            None => write!(f, "XDP program {id} ({mode})"),
            Some("") => write!(f, "unnamed XDP program {id} ({mode})"),
            Some(name) => write!(f, "XDP program {name:?} (id {id}, {mode})"),
        }
    }
}

/// Why a program was not attached.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The interface is taken.
    #[error(
        "{interface} runs {program} already and flowprobe displaces nobody: --hook tc works beside it; \
         see `bpftool prog show id {}` and `ip link show dev {interface}`", program.id
    )]
    Foreign {
        /// Name.
        interface: String,
        /// Whose.
        program: ForeignProgram,
    },
    /// The bond or the like above it is taken, or another claim came between.
    #[error(
        "{interface} is claimed by another XDP user, itself or through the bond it belongs to: \
         see `ip link show`"
    )]
    Busy {
        /// Name.
        interface: String,
    },
    /// The driver has no native XDP, or not with its present settings.
    #[error(
        "the driver of {interface}{} does not take native XDP{}; --xdp-mode generic works without it",
        Parens(driver.as_deref()), AtMtu(*mtu)
    )]
    NoNative {
        /// Name.
        interface: String,
        /// Driver, where it says so.
        driver: Option<String>,
        /// The MTU, where it may be the reason.
        mtu: Option<u32>,
    },
    /// The MTU is beyond what the driver takes.
    #[error(
        "{interface} has an MTU of {mtu}, which its driver takes only from programs with frags, if \
         at all: `ip link set dev {interface} mtu 1500`, or --xdp-mode generic"
    )]
    Mtu {
        /// Name.
        interface: String,
        /// Its MTU.
        mtu: u32,
    },
    /// The MTU of a veth's peer is beyond what the driver takes.
    #[error(
        "the veth peer of {interface} has an MTU that needs a program with frags: set it to \
         {LINEAR_MTU} or less there, or use --xdp-mode generic"
    )]
    PeerMtu {
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
    #[error("attaching to {interface} in {mode} mode failed: {source}")]
    Kernel {
        /// Name.
        interface: String,
        /// Mode tried.
        mode: Mode,
        /// What the kernel said.
        source: io::Error,
    },
}

/// ` (name)` where there is a name.
struct Parens<'a>(Option<&'a str>);

impl fmt::Display for Parens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(name) => write!(f, " ({name})"),
            None => Ok(()),
        }
    }
}

/// ` at its MTU of n` where that may be the reason.
struct AtMtu(Option<u32>);

impl fmt::Display for AtMtu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(mtu) => write!(f, ", or not at its MTU of {mtu}"),
            None => Ok(()),
        }
    }
}

impl AttachError {
    /// Whether the refusal is about native XDP, so that the stack's may do.
    #[must_use]
    pub fn generic_may_work(&self) -> bool {
        match self {
            Self::NoNative { .. }
            | Self::Mtu { .. }
            | Self::PeerMtu { .. }
            | Self::Kernel { .. } => true,
            Self::Foreign { .. } | Self::Busy { .. } | Self::Denied { .. } | Self::Facts(_) => {
                false
            }
        }
    }

    /// Whether the refusal may be about frags. Drivers answer such a program with EOPNOTSUPP or
    /// EINVAL, as they answer much else.
    #[must_use]
    pub fn linear_may_work(&self) -> bool {
        match self {
            Self::NoNative { .. } => true,
            Self::Kernel { source, .. } => source.raw_os_error() == Some(libc::EINVAL),
            _ => false,
        }
    }
}

/// A program attached by a bpf_link. Dropping it detaches.
#[derive(Debug)]
pub struct Link {
    fd: OwnedFd,
    mode: Mode,
}

impl Drop for Link {
    fn drop(&mut self) {
        if self.mode == Mode::Native {
            // The program is taken off all the same.
            if let Err(error) = self.step_aside() {
                tracing::debug!("no other program takes the place of the one that goes: {error}");
            }
        }
        // Closing would do, but not at once where another thread is between fork and exec: its
        // child has a copy of the descriptor. What fails here is done by the close that follows.
        let _closes_anyway = bpf::detach(self.fd.as_fd());
    }
}

impl Link {
    /// Attaches; the kernel refuses where a program is attached already.
    ///
    /// # Errors
    /// See [`AttachError`].
    pub fn new(
        interface: &Interface,
        program: BorrowedFd<'_>,
        mode: Mode,
    ) -> Result<Self, AttachError> {
        match bpf::link_xdp(program, interface.index, mode.flags()) {
            Ok(fd) => Ok(Self { fd, mode }),
            Err(error) => Err(explain(interface, mode, error)),
        }
    }

    /// Whether the kernel has taken it off, as it does where the interface goes away.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        bpf::has_ended(self.fd.as_fd())
    }

    /// Puts a program in our place that looks at nothing, and waits until no run of ours is left.
    ///
    /// While a program is taken off, a veth with GRO (Linux 6.18, 7.3) goes on with the packets at
    /// hand but no longer knows its device: a program that asks for the interface, as ours does,
    /// would then crash the kernel.
    fn step_aside(&self) -> io::Result<()> {
        let pass = |frags| bpf::update_link(self.fd.as_fd(), bpf::load_pass(frags)?.as_fd());
        pass(true).or_else(|_| pass(false))?;
        Rcu::new()?.wait()
    }
}

/// Refuses an interface that has an XDP program in any mode.
///
/// For the message and for other modes than ours; against a race in the same mode the kernel's
/// own check in BPF_LINK_CREATE stands.
///
/// # Errors
/// [`AttachError::Foreign`], which names the program; or the interface cannot be asked.
pub fn refuse_foreign(interface: &Interface) -> Result<(), AttachError> {
    match foreign(interface.link()?.xdp) {
        None => Ok(()),
        Some(program) => Err(AttachError::Foreign {
            interface: interface.name.clone(),
            program,
        }),
    }
}

fn foreign(programs: XdpPrograms) -> Option<ForeignProgram> {
    let XdpPrograms {
        native,
        generic,
        offloaded,
    } = programs;
    let (id, mode) = native
        .map(|id| (id, Mode::Native))
        .or(generic.map(|id| (id, Mode::Generic)))
        .or(offloaded.map(|id| (id, Mode::Offloaded)))?;
    Some(ForeignProgram {
        id,
        name: bpf::program_name(id).ok(),
        mode,
    })
}

/// Turns the kernel's errno into what it means. Through bpf() it gives no text to go with it.
fn explain(interface: &Interface, mode: Mode, source: io::Error) -> AttachError {
    let name = interface.name.clone();
    match source.raw_os_error() {
        Some(libc::EBUSY | libc::EEXIST) => match refuse_foreign(interface) {
            Err(foreign) => foreign,
            // dev_xdp_attach (net/core/dev.c): EEXIST where an upper device has a program.
            Ok(()) => AttachError::Busy { interface: name },
        },
        Some(libc::EPERM | libc::EACCES) => AttachError::Denied { interface: name },
        Some(libc::ENODEV) => AttachError::Facts(FactsError::Gone(name)),
        Some(errno) if mode == Mode::Native => match interface.facts() {
            Ok(facts) => explain_native(facts, errno, source),
            Err(gone) => gone.into(),
        },
        _ => AttachError::Kernel {
            interface: name,
            mode,
            source,
        },
    }
}

/// A large MTU is refused with ERANGE by veth, with EINVAL by ixgbe, ena and virtio_net, and by
/// bnxt and ice with the EOPNOTSUPP that stands for no native XDP at all. A veth looks at the MTU
/// of its peer.
fn explain_native(facts: InterfaceFacts, errno: i32, source: io::Error) -> AttachError {
    let mtu = facts.link.mtu;
    let large = mtu > LINEAR_MTU && facts.link.flags & libc::IFF_LOOPBACK as u32 == 0;
    let interface = facts.link.name;
    match errno {
        libc::EINVAL | libc::ERANGE if large => AttachError::Mtu { interface, mtu },
        libc::ERANGE => AttachError::PeerMtu { interface },
        libc::EOPNOTSUPP => AttachError::NoNative {
            interface,
            driver: facts.driver,
            mtu: large.then_some(mtu),
        },
        _ => AttachError::Kernel {
            interface,
            mode: Mode::Native,
            source,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mode_of_a_foreign_program_is_seen() {
        // Program 0 does not exist, so that there is no name to be had.
        let seen = |native, generic, offloaded| {
            foreign(XdpPrograms {
                native,
                generic,
                offloaded,
            })
            .map(|program| program.mode)
        };
        assert_eq!(seen(None, None, None), None);
        assert_eq!(seen(Some(0), None, None), Some(Mode::Native));
        assert_eq!(seen(None, Some(0), None), Some(Mode::Generic));
        assert_eq!(seen(None, None, Some(0)), Some(Mode::Offloaded));
    }

    #[test]
    fn a_foreign_program_is_named_as_far_as_known() {
        let with = |name: Option<&str>| {
            ForeignProgram {
                id: 7,
                name: name.map(str::to_owned),
                mode: Mode::Native,
            }
            .to_string()
        };
        assert_eq!(
            with(Some("xdp_lb")),
            "XDP program \"xdp_lb\" (id 7, native)"
        );
        assert_eq!(with(Some("")), "unnamed XDP program 7 (native)");
        assert_eq!(with(None), "XDP program 7 (native)");
    }
}
