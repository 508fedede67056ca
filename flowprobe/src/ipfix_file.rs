//! IPFIX files (RFC 5655): a file is a sequence of IPFIX messages, and a transport session of its
//! own. It begins with templates, and its sequence numbers begin with 0.
//!
//! Writing: [`Series`] puts messages into files that follow one another by size and time. Each is
//! called `….part` until it is complete. Reading: [`Reader`] takes the messages out of a file,
//! [`Session`] the templates and records out of messages, and says where a file is damaged.
//! [`Framer`] makes new messages of them, for another session; [`Reframe`] joins the three.
//!
//! Files of other exporters are read too. What the fields of a record mean is nobody's business
//! here, but for the packets and octets that it counts.

mod framer;
mod message;
mod name;
mod part;
mod reader;
mod reframe;
mod series;
mod session;
mod template;
#[cfg(test)]
pub(crate) mod tests;

pub use framer::Framer;
pub(crate) use framer::sum;
pub use message::{Flaw, Header, Located};
pub use name::{Pattern, PatternError};
pub use part::Part;
pub use reader::{ReadError, Reader};
pub use reframe::{Filled, Reframe};
pub use series::{Cut, Mended, Rotation, Series, SeriesError, TakenOver, mend};
pub use session::{Item, Kind, Session};
pub use template::Template;
