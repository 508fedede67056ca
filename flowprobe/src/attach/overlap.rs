//! Interfaces that are made of others: where packets would be counted twice, and on which of them a
//! packet is known to have been seen.

use std::{collections::BTreeSet, fmt};

use super::netlink::LinkInfo;

/// Kinds of interfaces whose packets come in on the one below them first.
const ON_TOP: &[&str] = &["ipvlan", "macsec", "macvlan", "vlan"];

/// Two interfaces that are watched, and that the same packets pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Twice {
    /// One is made of the other, and perhaps more.
    On {
        /// Name of the upper one.
        upper: String,
        /// Name of the lower one.
        lower: String,
    },
    /// They are the two ends of a veth, and what goes out is counted too.
    Ends(String, String),
}

impl fmt::Display for Twice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::On { upper, lower } => write!(
                f,
                "what passes {lower} passes {upper} above it too, and is counted on both: watch \
                 one of them"
            ),
            Self::Ends(a, b) => write!(
                f,
                "what goes out of {a} comes in on its peer {b}, and is counted on both: watch one \
                 of them"
            ),
        }
    }
}

/// Whether the packets of `upper` come in on `lower` first.
fn is_on(upper: &LinkInfo, lower: &LinkInfo) -> bool {
    lower.master == Some(upper.index) || is_made_on(upper, lower)
}

/// The same, without those that have `lower` as their port or member.
pub(super) fn is_made_on(upper: &LinkInfo, lower: &LinkInfo) -> bool {
    let made_on = upper.lower == Some(lower.index) && !upper.lower_is_elsewhere;
    let kind = upper.kind.as_deref().unwrap_or_default();
    made_on && ON_TOP.contains(&kind)
}

/// Pairs of watched interfaces that the same packets pass; `egress` says whether what goes out is
/// counted.
#[must_use]
pub fn counted_twice(links: &[LinkInfo], watched: &[u32], egress: bool) -> Vec<Twice> {
    let watched = || links.iter().filter(|link| watched.contains(&link.index));
    let mut found = Vec::new();
    for a in watched() {
        for b in watched() {
            let names = (a.name.clone(), b.name.clone());
            if is_above(links, a, b) {
                let (upper, lower) = names;
                found.push(Twice::On { upper, lower });
            } else if egress && a.index < b.index && are_ends(a, b) {
                found.push(Twice::Ends(names.0, names.1));
            }
        }
    }
    found
}

/// Whether the packets of `upper` come in on `lower` first, perhaps with others between.
fn is_above(links: &[LinkInfo], upper: &LinkInfo, lower: &LinkInfo) -> bool {
    let mut below = BTreeSet::from([upper.index]);
    // Each round goes down by one; there are no more of them than interfaces.
    for _ in links {
        let more = links.iter().filter(|link| {
            let is_upper = |other: &&LinkInfo| below.contains(&other.index);
            links
                .iter()
                .filter(is_upper)
                .any(|other| is_on(other, link))
        });
        let more: Vec<u32> = more.map(|link| link.index).collect();
        let before = below.len();
        below.extend(more);
        if below.len() == before {
            break;
        }
    }
    upper.index != lower.index && below.contains(&lower.index)
}

fn are_ends(a: &LinkInfo, b: &LinkInfo) -> bool {
    let is_veth = |link: &LinkInfo| link.kind.as_deref() == Some("veth");
    is_veth(a)
        && is_veth(b)
        && !a.lower_is_elsewhere
        && (a.lower, b.lower) == (Some(b.index), Some(a.index))
}

/// The interfaces whose packets have been seen, if those of `watched` are: these, what is on top of
/// one, and bonds and bridges of which each member is seen. While a packet is forwarded the kernel
/// remembers the uppermost one only.
#[must_use]
pub fn seen_coming_in(links: &[LinkInfo], watched: &[u32]) -> Vec<u32> {
    let mut seen: BTreeSet<u32> = watched.iter().copied().collect();
    // Each round goes up by one.
    for _ in links {
        let before = seen.len();
        for upper in links {
            let lowers = || links.iter().filter(|lower| is_on(upper, lower));
            if lowers().next().is_some() && lowers().all(|lower| seen.contains(&lower.index)) {
                seen.insert(upper.index);
            }
        }
        if seen.len() == before {
            break;
        }
    }
    seen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, kind: &str, lower: Option<u32>, master: Option<u32>) -> LinkInfo {
        LinkInfo {
            index,
            name: format!("i{index}"),
            kind: Some(kind.to_owned()),
            lower,
            master,
            ..LinkInfo::default()
        }
    }

    /// Two NICs in a bond (3), a VLAN on that (4); another NIC (5); a veth with both ends (6, 7), one
    /// whose other end has the index of a NIC in another namespace (8); a bridge (9) of NIC 5 and 6.
    fn machine() -> Vec<LinkInfo> {
        let mut links = vec![
            link(1, "", None, Some(3)),
            link(2, "", None, Some(3)),
            link(3, "bond", None, None),
            link(4, "vlan", Some(3), None),
            link(5, "", None, Some(9)),
            link(6, "veth", Some(7), Some(9)),
            link(7, "veth", Some(6), None),
            link(8, "veth", Some(5), None),
            link(9, "bridge", None, None),
        ];
        links[7].lower_is_elsewhere = true;
        links
    }

    #[test]
    fn an_upper_interface_is_seen_if_all_below_it_are() {
        let seen = |watched: &[u32]| seen_coming_in(&machine(), watched);
        assert_eq!(seen(&[1]), [1], "the other member brings packets too");
        assert_eq!(seen(&[1, 2]), [1, 2, 3, 4]);
        assert_eq!(seen(&[3]), [3, 4]);
        assert_eq!(seen(&[4]), [4]);
        assert_eq!(seen(&[5, 6]), [5, 6, 9]);
        assert_eq!(seen(&[7, 8]), [7, 8], "a veth is not on top of its peer");
    }

    #[test]
    fn pairs_that_see_the_same_packets_are_named() {
        let twice = |watched: &[u32], egress| counted_twice(&machine(), watched, egress);
        let on = |upper, lower| Twice::On {
            upper: format!("i{upper}"),
            lower: format!("i{lower}"),
        };
        assert_eq!(twice(&[1, 2, 5, 6, 8], true), []);
        assert_eq!(twice(&[1, 3], false), [on(3, 1)]);
        assert_eq!(twice(&[1, 4], false), [on(4, 1)], "through the bond");
        assert_eq!(twice(&[3, 4], true), [on(4, 3)]);
        assert_eq!(twice(&[6, 9], false), [on(9, 6)]);
        let ends = Twice::Ends("i6".to_owned(), "i7".to_owned());
        assert_eq!(twice(&[7, 6], true), [ends]);
        assert_eq!(twice(&[6, 7], false), [], "what goes out is not counted");
        assert_eq!(twice(&[5, 8], true), [], "the peer is elsewhere");
        for twice in twice(&[3, 4, 6, 7], true) {
            let line = twice.to_string();
            assert!(line.contains("watch one") && !line.contains("  "), "{line}");
        }
    }
}
