//! A program of traffic control as a filter of a clsact qdisc, for kernels before 6.6, which have no
//! bpf_link for it.
//!
//! Neither filter nor qdisc go with their process. So each filter says in its name whose it is: the
//! process, when that was started, in which PID namespace, and whether a flowprobe made the qdisc. What is
//! taken away at the end is the filter with our program in it, and the qdisc if one of us made it and no
//! filter is in it. What a process has left that is dead is taken away by the next one on the
//! same interface.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    str::FromStr,
};

use super::{Way, message};
use crate::{
    attach::{
        interface::Interface,
        netlink::{self, NetlinkError},
    },
    bpf,
};

/// Why a filter was not put there.
#[derive(Debug, thiserror::Error)]
pub(super) enum ClsactError {
    /// The kernel said so.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// A qdisc of another kind has the place, and no hook for what goes out.
    #[error("the qdisc there is of kind {0}")]
    Kind(String),
}

impl ClsactError {
    /// Whether it is what the kernel says where there is no qdisc; it says it of much else too.
    fn is_about_no_qdisc(&self) -> bool {
        let Self::Netlink(NetlinkError::Kernel(error)) = self else {
            return false;
        };
        matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT))
    }
}

impl From<io::Error> for ClsactError {
    fn from(error: io::Error) -> Self {
        Self::Netlink(error.into())
    }
}

/// A filter of ours. Dropping it takes it away.
#[derive(Debug)]
pub(super) struct Clsact {
    /// In the network namespace of the interface, wherever the thread is that drops this.
    socket: OwnedFd,
    place: message::Place,
    owner: Owner,
    program: u32,
}

impl Clsact {
    /// Puts a program in front of all filters of the interface, in a clsact qdisc that is made where there
    /// is none.
    pub(super) fn new(
        interface: &Interface,
        program: BorrowedFd<'_>,
        way: Way,
    ) -> Result<Self, ClsactError> {
        let id = bpf::program_id(program)?;
        // Before anything is made that would have to be taken away again.
        let owner = Owner::of_this_process()?;
        let put = || Self::put(interface, (program, id), way, owner);
        // The last filter of another flowprobe may have gone, and the qdisc with it, in between.
        put().or_else(|error| match error.is_about_no_qdisc() {
            true => put(),
            false => Err(error),
        })
    }

    fn put(
        interface: &Interface,
        (program, id): (BorrowedFd<'_>, u32),
        way: Way,
        owner: Owner,
    ) -> Result<Self, ClsactError> {
        let socket = netlink::socket(libc::NETLINK_ROUTE, 0)?;
        // The last flowprobe takes away what the first one has made.
        let had_made = has_made(&socket, interface.index)?;
        remove_left(&socket, interface)?;
        let made = make_qdisc(&socket, interface.index)?;
        if !made && way == Way::Out {
            refuse_other_kind(&socket, interface.index)?;
        }
        let owner = Owner {
            made_qdisc: made || had_made,
            ..owner
        };
        let add = |priority| add(interface.index, way, priority, (program, id), owner);
        let added = add(message::FIRST).or_else(|refused| {
            let place = add(message::ANY).map_err(|_| refused)?;
            tracing::warn!(
                interface = interface.name,
                "a filter of another kind has the first priority: what it or others in front let \
                 pass or drop for good is not counted; see `tc filter show dev {} {}`",
                interface.name,
                match way {
                    Way::In => "ingress",
                    Way::Out => "egress",
                }
            );
            Ok::<_, NetlinkError>(place)
        });
        match added {
            Ok(place) => Ok(Self {
                socket,
                place,
                owner,
                program: id,
            }),
            Err(error) => {
                if made {
                    remove_empty(&socket, interface.index);
                }
                Err(error.into())
            }
        }
    }

    /// Whether somebody has taken it away.
    pub(super) fn has_ended(&self) -> bool {
        !matches!(self.look(), Ok(true))
    }

    /// Whether our program is where it was put.
    fn look(&self) -> Result<bool, NetlinkError> {
        let here = filters(&self.socket, self.place.ifindex, self.place.way)?;
        Ok(here
            .iter()
            .any(|filter| filter.place == self.place && filter.program == self.program))
    }
}

impl Drop for Clsact {
    fn drop(&mut self) {
        // An interface that is gone has taken its filters with it.
        if matches!(self.look(), Ok(true)) {
            remove(&self.socket, &self.place);
            if self.owner.made_qdisc {
                remove_empty(&self.socket, self.place.ifindex);
            }
        }
    }
}

/// Whose a filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owner {
    /// The inode of its PID namespace: in another one the number means nothing.
    namespace: u64,
    process: u32,
    /// Clock ticks after the machine was: numbers of processes are given again.
    started: u64,
    made_qdisc: bool,
}

/// What the names of our filters begin with.
const NAME: &str = "flowprobe";

impl std::fmt::Display for Owner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            namespace,
            process,
            started,
            made_qdisc,
        } = self;
        let qdisc = if *made_qdisc { "qdisc" } else { "filter" };
        write!(f, "{NAME}/{namespace}/{process}/{started}/{qdisc}")
    }
}

/// Not the name of a filter of ours.
struct Foreign;

impl FromStr for Owner {
    type Err = Foreign;

    fn from_str(text: &str) -> Result<Self, Foreign> {
        let parts: Vec<_> = text.split('/').collect();
        let [NAME, namespace, process, started, qdisc] = parts[..] else {
            return Err(Foreign);
        };
        Ok(Self {
            namespace: namespace.parse().map_err(|_| Foreign)?,
            process: process.parse().map_err(|_| Foreign)?,
            started: started.parse().map_err(|_| Foreign)?,
            made_qdisc: match qdisc {
                "qdisc" => true,
                "filter" => false,
                _ => return Err(Foreign),
            },
        })
    }
}

impl Owner {
    fn of_this_process() -> io::Result<Self> {
        let process = std::process::id();
        Ok(Self {
            namespace: pid_namespace()?,
            process,
            started: started(process)?,
            made_qdisc: false,
        })
    }

    /// Whether the process is known to be no more.
    fn is_dead(&self) -> bool {
        let is_here = pid_namespace().is_ok_and(|here| here == self.namespace);
        is_here
            && match started(self.process) {
                Ok(started) => started != self.started,
                Err(error) => error.kind() == io::ErrorKind::NotFound && !is_there(self.process),
            }
    }
}

/// Whether there is a process of this number, of whomever: /proc may hide those of others (hidepid).
fn is_there(process: u32) -> bool {
    let Ok(process) = i32::try_from(process) else {
        return false;
    };
    // SAFETY: no pointers; signal 0 is not sent, but looked up alone.
    let result = unsafe { libc::kill(process, 0) };
    result == 0 || io::Error::last_os_error().raw_os_error() != Some(libc::ESRCH)
}

fn pid_namespace() -> io::Result<u64> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata("/proc/self/ns/pid")?.ino())
}

/// When a process was started: the 22nd field of its `stat`, of which the second is a name in
/// parentheses, with anything in it.
fn started(process: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))?;
    let behind = stat.rsplit_once(')').map_or("", |(_, behind)| behind);
    let field = behind.split_whitespace().nth(19);
    let number = field.and_then(|field| field.parse().ok());
    number.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
}

/// Adds the filter, and says where it is then.
fn add(
    ifindex: u32,
    way: Way,
    priority: u16,
    (program, id): (BorrowedFd<'_>, u32),
    owner: Owner,
) -> Result<message::Place, NetlinkError> {
    let name = owner.to_string();
    let request = message::add_filter(ifindex, way, priority, program.as_raw_fd(), &name);
    // Sockets of its own: after an answer that cannot be read others may wait behind it.
    let answers = netlink::converse(&netlink::socket(libc::NETLINK_ROUTE, 0)?, &request);
    let echo = answers.as_ref().ok().and_then(|answers| {
        let mut filters = answers.iter().filter_map(|answer| message::filter(answer));
        filters.next()
    });
    if let Some(added) = echo {
        return Ok(added.place);
    }
    // It may be there all the same.
    let socket = netlink::socket(libc::NETLINK_ROUTE, 0)?;
    let there = filters(&socket, ifindex, way)?;
    let added = there
        .into_iter()
        .find(|filter| filter.program == id && filter.name == name);
    match (added, answers) {
        (Some(added), _) => Ok(added.place),
        (None, Err(error)) => Err(error),
        (None, Ok(_)) => Err(NetlinkError::Malformed(0)),
    }
}

/// Makes the qdisc; says whether there was none before.
fn make_qdisc(socket: &OwnedFd, ifindex: u32) -> Result<bool, NetlinkError> {
    match netlink::converse(socket, &message::add_qdisc(ifindex)) {
        Ok(_) => Ok(true),
        Err(NetlinkError::Kernel(error)) if error.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(error) => Err(error),
    }
}

/// An `ingress` qdisc has the same place and handle, and takes a filter for packets that go out as one
/// for those that come in: they would be counted the wrong way.
fn refuse_other_kind(socket: &OwnedFd, ifindex: u32) -> Result<(), ClsactError> {
    let answers = netlink::converse(socket, &message::get_qdisc(ifindex))?;
    let mut kinds = answers
        .iter()
        .filter_map(|answer| message::qdisc_kind(answer));
    let kind = kinds.next().ok_or(NetlinkError::Malformed(0))?;
    match kind.as_str() {
        "clsact" => Ok(()),
        _ => Err(ClsactError::Kind(kind)),
    }
}

/// Whether the qdisc was made for another filter of flowprobe, for the other way or of another process.
fn has_made(socket: &OwnedFd, ifindex: u32) -> Result<bool, NetlinkError> {
    let owned = owned(socket, ifindex)?;
    Ok(owned.iter().any(|(_, owner)| owner.made_qdisc))
}

/// The filters of flowprobe on an interface, and whose they are.
fn owned(socket: &OwnedFd, ifindex: u32) -> Result<Vec<(message::Place, Owner)>, NetlinkError> {
    let mut all = filters(socket, ifindex, Way::In)?;
    all.extend(filters(socket, ifindex, Way::Out)?);
    let owned = |filter: message::Filter| {
        let owner = filter.name.parse().ok()?;
        Some((filter.place, owner))
    };
    Ok(all.into_iter().filter_map(owned).collect())
}

/// Takes away what a dead process has left.
fn remove_left(socket: &OwnedFd, interface: &Interface) -> Result<(), NetlinkError> {
    for (place, owner) in owned(socket, interface.index)? {
        if owner.is_dead() {
            tracing::warn!(
                interface = interface.name,
                "a flowprobe that was killed (process {}) had left its filter of traffic control: \
                 taken away",
                owner.process
            );
            remove(socket, &place);
            if owner.made_qdisc {
                remove_empty(socket, interface.index);
            }
        }
    }
    Ok(())
}

fn remove(socket: &OwnedFd, place: &message::Place) {
    let removed = netlink::converse(socket, &message::remove_filter(place));
    if let Err(error) = removed {
        // An ingress qdisc shows its filters for both ways.
        let has_gone = matches!(&error, NetlinkError::Kernel(error)
            if error.raw_os_error() == Some(libc::ENOENT));
        if has_gone {
            return;
        }
        tracing::warn!(
            "the filter of traffic control stays: {error}; `tc filter show` names it {NAME}/…"
        );
    }
}

/// Takes the qdisc away if no filter is in it.
fn remove_empty(socket: &OwnedFd, ifindex: u32) {
    let is_empty = |way| filters(socket, ifindex, way).is_ok_and(|filters| filters.is_empty());
    if is_empty(Way::In) && is_empty(Way::Out) {
        let removed = netlink::converse(socket, &message::remove_qdisc(ifindex));
        if let Err(error) = removed {
            tracing::warn!("the clsact qdisc stays: {error}");
        }
    }
}

/// All filters at a hook, other people's too, and their priorities, which are told as filters with the
/// handle 0; none where there is no qdisc.
fn filters(socket: &OwnedFd, ifindex: u32, way: Way) -> Result<Vec<message::Filter>, NetlinkError> {
    match netlink::converse(socket, &message::list_filters(ifindex, way)) {
        Ok(answers) => Ok(answers
            .iter()
            .filter_map(|answer| message::filter(answer))
            .collect()),
        Err(NetlinkError::Kernel(error))
            if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_says_whose_it_is() {
        for made_qdisc in [false, true] {
            let owner = Owner {
                namespace: 4_026_531_836,
                process: 12,
                started: 345,
                made_qdisc,
            };
            assert_eq!(owner.to_string().parse().ok(), Some(owner));
        }
        for foreign in [
            "",
            "flowprobe",
            "flowprobe/1/2/3",
            "flowprobe/1/2/3/x",
            "flowprobe/a/2/3/qdisc",
            "other/1/2/3/qdisc",
        ] {
            assert!(foreign.parse::<Owner>().is_err(), "{foreign}");
        }
    }

    #[test]
    fn only_a_process_that_is_known_to_be_dead_is() {
        let me = Owner::of_this_process().expect("/proc");
        assert!(!me.is_dead());
        let before = Owner {
            started: me.started - 1,
            ..me
        };
        assert!(before.is_dead());
        // The largest number of a process is 2²².
        let gone = Owner {
            process: 1 << 23,
            ..me
        };
        assert!(gone.is_dead() && !is_there(gone.process));
        // Ours, and one of another user's where the tests are not root's.
        assert!(is_there(me.process) && is_there(1));
        let elsewhere = Owner {
            namespace: me.namespace + 1,
            ..gone
        };
        assert!(!elsewhere.is_dead(), "nobody can tell from here");
    }
}
