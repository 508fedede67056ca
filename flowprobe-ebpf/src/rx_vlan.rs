//! VLAN tags beside the frame: what a device took out of it, and tells a program that asks.
//!
//! The kernel answers through a function of its own (a kfunc), which has no fixed number. The
//! program calls [`PLACEHOLDER`] where it means that function, and the loader makes a call of the
//! kernel's function of it. A program that has such a call is loaded for one device.

/// Number of the helper that stands for [`KFUNC`]. No kernel has a helper of this number, so that
/// a program in which it was left is refused.
pub const PLACEHOLDER: u32 = 0x7fff_0001;

/// The kernel's function, since 6.8:
/// `int bpf_xdp_metadata_rx_vlan_tag(const struct xdp_md *ctx, __be16 *vlan_proto, u16 *vlan_tci)`
///
/// It returns 0 and fills in both, or a negative errno where there is no tag, or none is told.
pub const KFUNC: &str = "bpf_xdp_metadata_rx_vlan_tag";
