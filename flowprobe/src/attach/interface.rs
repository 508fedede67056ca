//! An interface: found by name, its facts for the preflight, its counters for the ledger.

use std::{ffi::CStr, fmt, io};

use super::{
    ethtool::{Channels, Ethtool, Offloads},
    netdev,
    netlink::{self, LinkInfo, NetlinkError},
};

/// A name further off than this many edits is not what the user meant.
const NEAR_EDITS: usize = 2;

/// An interface of this network namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name.
    pub name: String,
    /// ifindex.
    pub index: u32,
}

/// Why an interface was not found.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    /// No interface has that name.
    #[error("no interface {name}{}; there are: {}", Nearest(name, there_are), there_are.join(", "))]
    Unknown {
        /// As asked for.
        name: String,
        /// The names there are.
        there_are: Vec<String>,
    },
    /// The kernel did not list its interfaces.
    #[error("cannot list the interfaces: {0}")]
    List(io::Error),
}

/// Why an interface's facts could not be had.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// It has been removed or renamed since it was found.
    #[error("interface {0} has gone away")]
    Gone(String),
    /// The kernel's answer was of no use.
    #[error("{interface}: {source}")]
    Netlink {
        /// Name.
        interface: String,
        /// Why.
        source: NetlinkError,
    },
}

/// What is known of an interface before anything is attached to it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceFacts {
    /// What the kernel says.
    pub link: LinkInfo,
    /// Name of the driver.
    pub driver: Option<String>,
    /// Receive offloads.
    pub offloads: Option<Offloads>,
    /// Channels.
    pub channels: Option<Channels>,
    /// Whether the driver tells a program in native mode the VLAN tag beside a packet.
    pub tells_vlan_tag: bool,
}

/// Counters of what an interface received, and of what it lost before XDP could see it.
///
/// Whether `rx_packets` and `rx_octets` hold what XDP saw, and with or without the Ethernet
/// header and checksum, is each driver's own choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct InterfaceStats {
    /// Packets received.
    pub rx_packets: u64,
    /// Octets received.
    pub rx_octets: u64,
    /// Packets dropped in the driver before XDP, or in the stack after it (such as those of an
    /// unknown protocol): the kernel keeps both in one counter.
    pub rx_dropped: u64,
    /// Packets that the hardware dropped for want of buffers.
    pub rx_missed: u64,
    /// Bad packets.
    pub rx_errors: u64,
    /// Packets that the hardware's queue had no room for.
    pub rx_fifo_errors: u64,
    /// Packets on an inactive member of a bond, which nobody wanted.
    pub rx_nohandler: u64,
}

impl InterfaceStats {
    /// What has come since `earlier`. A counter that went backwards (a driver that was reset)
    /// counts 0.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            rx_packets: self.rx_packets.saturating_sub(earlier.rx_packets),
            rx_octets: self.rx_octets.saturating_sub(earlier.rx_octets),
            rx_dropped: self.rx_dropped.saturating_sub(earlier.rx_dropped),
            rx_missed: self.rx_missed.saturating_sub(earlier.rx_missed),
            rx_errors: self.rx_errors.saturating_sub(earlier.rx_errors),
            rx_fifo_errors: self.rx_fifo_errors.saturating_sub(earlier.rx_fifo_errors),
            rx_nohandler: self.rx_nohandler.saturating_sub(earlier.rx_nohandler),
        }
    }
}

impl Interface {
    /// Finds an interface by name.
    ///
    /// # Errors
    /// See [`LookupError`].
    pub fn find(name: &str) -> Result<Self, LookupError> {
        let all = Self::all().map_err(LookupError::List)?;
        match all.iter().find(|interface| interface.name == name) {
            Some(interface) => Ok(interface.clone()),
            None => Err(LookupError::Unknown {
                name: name.to_owned(),
                there_are: all.into_iter().map(|interface| interface.name).collect(),
            }),
        }
    }

    /// Every interface of this network namespace.
    ///
    /// # Errors
    /// The kernel's own.
    pub fn all() -> io::Result<Vec<Self>> {
        // SAFETY: no arguments; the result is owned here until freed below.
        let list = unsafe { libc::if_nameindex() };
        if list.is_null() {
            return Err(io::Error::last_os_error());
        }
        let mut found = Vec::new();
        let mut at = list;
        // SAFETY: the array ends with an entry whose index is 0 and whose name is null, and `at`
        // does not go past it; each name before it is a C string that lives until the list is freed.
        unsafe {
            while (*at).if_index != 0 && !(*at).if_name.is_null() {
                found.push(Self {
                    name: CStr::from_ptr((*at).if_name).to_string_lossy().into_owned(),
                    index: (*at).if_index,
                });
                at = at.add(1);
            }
            libc::if_freenameindex(list);
        }
        Ok(found)
    }

    /// What the kernel and the driver say of it now.
    ///
    /// # Errors
    /// The interface is gone, or the kernel's answer of no use. A driver that does not answer
    /// is no error.
    pub fn facts(&self) -> Result<InterfaceFacts, FactsError> {
        let link = self.link()?;
        let ethtool = Ethtool::open(&self.name).ok();
        let ethtool = ethtool.as_ref();
        Ok(InterfaceFacts {
            link,
            driver: ethtool.and_then(Ethtool::driver),
            offloads: ethtool.and_then(Ethtool::offloads),
            channels: ethtool.and_then(Ethtool::channels),
            // A kernel before 6.3 has nobody who could be asked, and tells no tags.
            tells_vlan_tag: netdev::tells_vlan_tag(self.index).unwrap_or(false),
        })
    }

    /// Its counters now.
    ///
    /// # Errors
    /// As [`Interface::facts`].
    pub fn statistics(&self) -> Result<InterfaceStats, FactsError> {
        Ok(self.link()?.stats)
    }

    /// What the kernel says of it now.
    ///
    /// # Errors
    /// As [`Interface::facts`].
    pub fn link(&self) -> Result<LinkInfo, FactsError> {
        netlink::link(self.index).map_err(|source| match source {
            NetlinkError::Kernel(error) if error.raw_os_error() == Some(libc::ENODEV) => {
                FactsError::Gone(self.name.clone())
            }
            source => FactsError::Netlink {
                interface: self.name.clone(),
                source,
            },
        })
    }
}

/// Prints the name that was probably meant, if one is near.
struct Nearest<'a>(&'a str, &'a [String]);

impl fmt::Display for Nearest<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(asked, names) = self;
        let near = names
            .iter()
            .map(|name| (edits(asked, name), name))
            .filter(|(edits, name)| *edits <= NEAR_EDITS && *edits < name.len())
            .min();
        match near {
            Some((_, name)) => write!(f, " (did you mean {name}?)"),
            None => Ok(()),
        }
    }
}

/// Letters to insert, delete, replace or swap to make `a` into `b` (optimal string alignment).
fn edits(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(name: &str, there_are: &[&str]) -> String {
        LookupError::Unknown {
            name: name.to_owned(),
            there_are: there_are.iter().map(|&name| name.to_owned()).collect(),
        }
        .to_string()
    }

    #[test]
    fn a_near_name_is_suggested() {
        assert_eq!(
            unknown("eht0", &["lo", "eth0", "eth10"]),
            "no interface eht0 (did you mean eth0?); there are: lo, eth0, eth10"
        );
    }

    #[test]
    fn a_far_name_is_not() {
        assert_eq!(
            unknown("wlan0", &["lo", "eth0"]),
            "no interface wlan0; there are: lo, eth0"
        );
        // Two edits make any two-letter name into any other.
        assert_eq!(unknown("ab", &["lo"]), "no interface ab; there are: lo");
    }

    #[test]
    fn edits_are_counted() {
        assert_eq!(edits("eth0", "eth0"), 0);
        assert_eq!(edits("eht0", "eth0"), 1);
        assert_eq!(edits("", "eth0"), 4);
        assert_eq!(edits("enp1s0", "enp2s0f0"), 3);
    }

    #[test]
    fn a_counter_that_went_backwards_counts_nothing() {
        let earlier = InterfaceStats {
            rx_packets: 10,
            rx_octets: 1000,
            ..InterfaceStats::default()
        };
        let later = InterfaceStats {
            rx_packets: 12,
            rx_octets: 60,
            rx_missed: 3,
            ..InterfaceStats::default()
        };
        let expected = InterfaceStats {
            rx_packets: 2,
            rx_missed: 3,
            ..InterfaceStats::default()
        };
        assert_eq!(later.since(&earlier), expected);
    }
}
