//! Takes flows out of the memory that the program counts in.
//!
//! [`shared`] is that memory; [`sweep`] finds flows that are due and retires them; [`drain`]
//! empties the rings into [`overflow`], where flows live on that the kernel's table had no room
//! for; [`expiry`] says when a flow is due; [`grace`] waits until no program run can hold a
//! flow any more. The protocol is in ARCHITECTURE.md.
//!
//! [`local`] is another table, for inputs that are read in userspace: it has one owner, and so
//! needs none of this but [`expiry`] and [`emit`]; [`fragments`] are the program's, for it.
//! [`pairing`] makes biflows of what leaves either.

pub mod drain;
pub mod emit;
pub mod expiry;
pub mod flow;
pub mod fragments;
pub mod grace;
pub mod held;
pub mod local;
pub mod overflow;
pub mod pairing;
pub mod shared;
pub mod sweep;

pub use drain::Drainer;
pub use emit::Emitter;
pub use expiry::Timeouts;
pub use flow::Flow;
pub use grace::GracePeriod;
pub use local::LocalTable;
pub use overflow::Overflow;
pub use pairing::{Pairing, Patience};
pub use shared::{Geometry, Shared};
pub use sweep::{ChangeError, ChangeRequest, Changed, Sweeper};
