//! Addresses and routes of one interface: RTM_GETADDR and RTM_GETROUTE over a NETLINK_ROUTE socket, of
//! which the kernel lists those of the interface only.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsRawFd as _, OwnedFd},
};

use super::Use;
use crate::attach::netlink::{
    self, ATTRIBUTE, Attribute, HEADER, NetlinkError, attributes, message, u16_at,
};

const ADDRESS: usize = 8; // struct ifaddrmsg
const ROUTE: usize = 12; // struct rtmsg

// linux/rtnetlink.h.
const RTN_UNICAST: u8 = 1;
const RT_TABLE_LOCAL: u8 = 255;
const RT_SCOPE_LINK: u8 = 253;

/// The addresses of an interface, but for those of IPv6 that each has by itself.
pub(super) fn addresses(ifindex: u32) -> Result<Vec<Use>, NetlinkError> {
    // Family, prefix length, flags, scope; then the interface.
    let mut body = vec![0; ADDRESS];
    body[4..].copy_from_slice(&ifindex.to_ne_bytes());
    list(libc::RTM_GETADDR, libc::RTM_NEWADDR, &body, address)
}

/// The routes that lead out of an interface, but for those of its own addresses and those of IPv6
/// that each has by itself.
pub(super) fn routes(ifindex: u32) -> Result<Vec<Use>, NetlinkError> {
    let mut found = Vec::new();
    for family in [libc::AF_INET, libc::AF_INET6] {
        let mut body = vec![0; ROUTE];
        body[0] = family as u8;
        body.extend(((ATTRIBUTE + 4) as u16).to_ne_bytes());
        body.extend(libc::RTA_OIF.to_ne_bytes());
        body.extend(ifindex.to_ne_bytes());
        found.extend(list(libc::RTM_GETROUTE, libc::RTM_NEWROUTE, &body, route)?);
    }
    Ok(found)
}

/// Asks for a list, of whose entries `read` picks those that matter.
fn list(
    question: u16,
    answer: u16,
    body: &[u8],
    read: impl Fn(&[u8]) -> Result<Option<Use>, NetlinkError>,
) -> Result<Vec<Use>, NetlinkError> {
    let socket = strict()?;
    let mut request = vec![0; HEADER];
    request[0..4].copy_from_slice(&((HEADER + body.len()) as u32).to_ne_bytes());
    request[4..6].copy_from_slice(&question.to_ne_bytes());
    let flags = libc::NLM_F_REQUEST | libc::NLM_F_DUMP;
    request[6..8].copy_from_slice(&(flags as u16).to_ne_bytes());
    request.extend(body);
    netlink::send(&socket, &request)?;
    let mut found = Vec::new();
    loop {
        let part = netlink::receive(&socket)?;
        if read_part(&part, answer, &read, &mut found)? {
            return Ok(found);
        }
    }
}

/// Reads a part of a list; says whether it was the last one.
fn read_part(
    part: &[u8],
    answer: u16,
    read: impl Fn(&[u8]) -> Result<Option<Use>, NetlinkError>,
    found: &mut Vec<Use>,
) -> Result<bool, NetlinkError> {
    let mut at = 0;
    while at < part.len() {
        if i32::from(u16_at(part, at + 4)?) == libc::NLMSG_DONE {
            return Ok(true);
        }
        let entry = message(&part[at..], answer)?;
        if entry.len() < HEADER {
            return Err(NetlinkError::Malformed(at));
        }
        found.extend(read(entry)?);
        at += entry.len().next_multiple_of(4);
    }
    Ok(false)
}

/// A socket that lists what is asked for and no more (4.20).
fn strict() -> io::Result<OwnedFd> {
    let socket = netlink::socket(libc::NETLINK_ROUTE, 0)?;
    let on: libc::c_int = 1;
    // SAFETY: the pointer and length are those of `on`.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_NETLINK,
            libc::NETLINK_GET_STRICT_CHK,
            (&raw const on).cast(),
            size_of_val(&on) as libc::socklen_t,
        )
    };
    match result {
        0 => Ok(socket),
        _ => Err(io::Error::last_os_error()),
    }
}

fn address(message: &[u8]) -> Result<Option<Use>, NetlinkError> {
    let octet = |at: usize| message.get(at).copied().ok_or(NetlinkError::Malformed(at));
    let (family, length, scope) = (octet(HEADER)?, octet(HEADER + 1)?, octet(HEADER + 3)?);
    if i32::from(family) == libc::AF_INET6 && scope == RT_SCOPE_LINK {
        return Ok(None);
    }
    let (mut local, mut address) = (None, None);
    for attribute in attributes(message, HEADER + ADDRESS, message.len()) {
        let Attribute { kind, start, end } = attribute?;
        match kind {
            // Where there is a peer, the address is the peer's.
            libc::IFA_LOCAL => local = ip(&message[start..end]),
            libc::IFA_ADDRESS => address = ip(&message[start..end]),
            _ => {}
        }
    }
    Ok(local
        .or(address)
        .map(|address| Use::Address(address, length)))
}

fn route(message: &[u8]) -> Result<Option<Use>, NetlinkError> {
    let octet = |at: usize| message.get(at).copied().ok_or(NetlinkError::Malformed(at));
    let (length, table, kind) = (octet(HEADER + 1)?, octet(HEADER + 4)?, octet(HEADER + 7)?);
    if kind != RTN_UNICAST || table == RT_TABLE_LOCAL {
        return Ok(None);
    }
    let mut to = None;
    for attribute in attributes(message, HEADER + ROUTE, message.len()) {
        let Attribute { kind, start, end } = attribute?;
        if kind == libc::RTA_DST {
            to = ip(&message[start..end]);
        }
    }
    Ok(match to {
        Some(IpAddr::V6(to)) if to.is_unicast_link_local() || to.is_multicast() => None,
        Some(to) if length > 0 => Some(Use::Route(to, length)),
        _ => Some(Use::DefaultRoute),
    })
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(octets) = <[u8; 4]>::try_from(octets) {
        return Some(octets.into());
    }
    <[u8; 16]>::try_from(octets).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: u16, body: &[u8], list: &[(u16, &[u8])]) -> Vec<u8> {
        let mut entry = vec![0; HEADER];
        entry.extend(body);
        for (kind, value) in list {
            entry.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
            entry.extend(kind.to_ne_bytes());
            entry.extend(*value);
        }
        let length = entry.len() as u32;
        entry[0..4].copy_from_slice(&length.to_ne_bytes());
        entry[4..6].copy_from_slice(&kind.to_ne_bytes());
        entry
    }

    const INET: u8 = libc::AF_INET as u8;
    const INET6: u8 = libc::AF_INET6 as u8;

    fn done() -> Vec<u8> {
        entry(libc::NLMSG_DONE as u16, &[0; 4], &[])
    }

    fn all_routes(part: &[u8]) -> Result<(Vec<Use>, bool), NetlinkError> {
        let mut found = Vec::new();
        let last = read_part(part, libc::RTM_NEWROUTE, route, &mut found)?;
        Ok((found, last))
    }

    /// Family, length, source length, service; table, protocol, scope, type; flags.
    fn body(family: u8, length: u8, table: u8, kind: u8) -> [u8; ROUTE] {
        [family, length, 0, 0, table, 3, 0, kind, 0, 0, 0, 0]
    }

    #[test]
    fn routes_that_are_not_the_interfaces_own_count() {
        let route = |family, length, table, kind, to: &[u8]| {
            let list: &[_] = &[(libc::RTA_DST, to)];
            let body = body(family, length, table, kind);
            entry(libc::RTM_NEWROUTE, &body, list)
        };
        let link_local = [0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut multicast = [0; 16];
        multicast[0] = 0xff;
        let part = [
            route(INET, 8, 254, 1, &[10, 0, 0, 0]),
            entry(libc::RTM_NEWROUTE, &body(INET, 0, 254, 1), &[]),
            // Local and broadcast, what IPv6 makes by itself, a blackhole.
            route(INET, 32, 255, 2, &[10, 0, 0, 1]),
            route(INET, 32, 255, 3, &[10, 255, 255, 255]),
            route(INET6, 64, 254, 1, &link_local),
            route(INET6, 8, 255, 1, &multicast),
            route(INET6, 8, 254, 1, &multicast),
            route(INET, 8, 254, 6, &[11, 0, 0, 0]),
        ]
        .concat();
        let expected = [Use::Route([10, 0, 0, 0].into(), 8), Use::DefaultRoute];
        assert_eq!(all_routes(&part).unwrap(), (expected.to_vec(), false));
        let (found, last) = all_routes(&[part, done()].concat()).unwrap();
        assert_eq!((found.len(), last), (2, true));
    }

    #[test]
    fn an_address_is_the_interfaces_own_and_not_its_peers() {
        let mut found = Vec::new();
        let body = [INET, 31, 0, 0, 7, 0, 0, 0];
        let of_link = [INET6, 64, 0, RT_SCOPE_LINK, 7, 0, 0, 0];
        let part = [
            entry(
                libc::RTM_NEWADDR,
                &body,
                &[
                    (libc::IFA_ADDRESS, &[10, 0, 0, 2][..]),
                    (libc::IFA_LOCAL, &[10, 0, 0, 1]),
                ],
            ),
            entry(
                libc::RTM_NEWADDR,
                &of_link,
                &[(libc::IFA_ADDRESS, &[0xfe; 16])],
            ),
            done(),
        ]
        .concat();
        assert!(read_part(&part, libc::RTM_NEWADDR, address, &mut found).unwrap());
        assert_eq!(found, [Use::Address([10, 0, 0, 1].into(), 31)]);
    }

    #[test]
    fn a_list_that_makes_no_sense_is_an_error() {
        let whole = entry(
            libc::RTM_NEWROUTE,
            &body(INET, 8, 254, 1),
            &[(libc::RTA_DST, &[10, 0, 0, 0])],
        );
        for length in 1..whole.len() {
            assert!(all_routes(&whole[..length]).is_err(), "{length}");
        }
        // A message of no length would be read for ever.
        assert!(all_routes(&[0; 32]).is_err());
        let mut empty = entry(libc::RTM_NEWROUTE, &[], &[]);
        empty[0] = 0;
        assert!(all_routes(&empty).is_err());
        assert_eq!(all_routes(&[]).unwrap(), (Vec::new(), false));
    }
}
