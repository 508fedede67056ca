//! What became of the interfaces that were watched.

use super::super::InterfaceSummary;

/// Interfaces that the summary names. Where containers come and go there may be any number in a
/// year, at some 150 octets each: of more than these, the oldest are counted and not named.
const NAMED: usize = 4096;

/// Interfaces that were watched.
#[derive(Debug, Default)]
pub(in super::super) struct Past {
    pub(in super::super) interfaces: Vec<InterfaceSummary>,
    /// Those that are not named any more.
    pub(in super::super) unnamed: u64,
}

impl Past {
    /// One more is not watched any more.
    pub(super) fn put(&mut self, interface: InterfaceSummary) {
        if self.interfaces.len() >= NAMED {
            // Half of them at once: each move costs as much as what stays.
            self.interfaces.drain(..NAMED / 2);
            self.unnamed += NAMED as u64 / 2;
        }
        self.interfaces.push(interface);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::InterfaceStats;

    #[test]
    fn the_latest_are_named_and_all_are_counted() {
        let mut past = Past::default();
        for ifindex in 1..=10_000 {
            past.put(InterfaceSummary {
                name: format!("veth{ifindex}"),
                ifindex,
                mode: "native".to_owned(),
                egress: false,
                frags: true,
                vlan_metadata: false,
                gone: true,
                counters: InterfaceStats::default(),
            });
        }
        assert!(past.interfaces.len() <= NAMED && past.interfaces.len() >= NAMED / 2);
        assert_eq!(past.interfaces.len() as u64 + past.unnamed, 10_000);
        assert_eq!(
            past.interfaces.last().map(|last| last.ifindex),
            Some(10_000)
        );
    }
}
