//! Attaches the program that asks for VLAN tags beside the packet, where it is of use and can be
//! had; anywhere else it is the ordinary one's turn.

use super::RunError;
use crate::{
    attach::{self, AttachError, Attached, Interface, XdpMode, missed_tags, tells_tags},
    load::{
        Kernel,
        rx_vlan::{RxVlan, RxVlanError},
    },
};

/// Why an interface gets the ordinary program.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error(transparent)]
    Load(#[from] RxVlanError),
    #[error(transparent)]
    Attach(#[from] AttachError),
}

/// Loads the program for one interface after the other.
#[derive(Default)]
pub(super) struct Attacher {
    /// Made ready for the first interface that wants it.
    program: Option<RxVlan>,
}

impl Attacher {
    /// Attaches to an interface on which tags may stand beside packets. `None` where there are
    /// none, or where they cannot be read, which is said then.
    pub(super) fn attach(
        &mut self,
        kernel: &Kernel,
        interface: &Interface,
        mode: XdpMode,
    ) -> Result<Option<Attached>, RunError> {
        let facts = interface.facts()?;
        if !tells_tags(&facts, mode) {
            return Ok(None);
        }
        match self.attempt(kernel, interface) {
            Ok(attached) => Ok(Some(attached)),
            // The interface is taken, or the like: as bad for the ordinary program.
            Err(Refused::Attach(error)) if !error.generic_may_work() => Err(error.into()),
            Err(refused) => {
                tracing::info!(
                    interface = interface.name,
                    "VLAN tags beside packets cannot be read: {refused}"
                );
                if let Some(finding) = missed_tags(&facts) {
                    tracing::warn!("{finding}");
                }
                Ok(None)
            }
        }
    }

    /// With frags, or else without.
    fn attempt(&mut self, kernel: &Kernel, interface: &Interface) -> Result<Attached, Refused> {
        let program = match &mut self.program {
            Some(program) => program,
            none => none.insert(kernel.rx_vlan()?),
        };
        let attempt = |frags| {
            let loaded = program.load(interface.index, frags)?;
            Ok(attach::attach_bound(interface, loaded, frags)?)
        };
        attempt(true).or_else(|refused| match refused {
            Refused::Attach(error) if !error.linear_may_work() => Err(error.into()),
            _ => attempt(false),
        })
    }
}
