//! Attaches the program that asks for VLAN tags beside the packet to one interface after the other.

use crate::{
    attach::{AttachError, Attached, Interface, XdpMode},
    load::{
        Kernel,
        rx_vlan::{self, RxVlan},
    },
};

/// Loads the program for one interface after the other.
#[derive(Default)]
pub(super) struct Attacher {
    /// Made ready for the first interface that wants it.
    program: Option<RxVlan>,
}

impl Attacher {
    /// See [`rx_vlan::attach`].
    pub(super) fn attach(
        &mut self,
        kernel: &Kernel,
        interface: &Interface,
        mode: XdpMode,
    ) -> Result<Option<Attached>, AttachError> {
        rx_vlan::attach(interface, mode, || match &mut self.program {
            Some(program) => Ok(program),
            none => Ok(none.insert(kernel.rx_vlan()?)),
        })
    }
}
