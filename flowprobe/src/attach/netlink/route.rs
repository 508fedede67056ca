//! The route to an address: RTM_GETROUTE, one question and one answer.
//!
//! The kernel answers these without the lock of its network configuration, so nobody waits here.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::OwnedFd,
};

use super::{
    ATTRIBUTE, Attribute, HEADER, NetlinkError, attributes, message, receive, send, socket, u16_at,
    u32_at,
};

const MESSAGE: usize = 12; // struct rtmsg
// linux/rtnetlink.h: offsets in struct rtmsg.
const DESTINATION_LENGTH: usize = HEADER + 1;
const TYPE: usize = HEADER + 7;
const FLAGS: usize = HEADER + 8;

// linux/rtnetlink.h.
const RTM_F_FIB_MATCH: u32 = 0x2000;
const RTN_UNICAST: u8 = 1;
const RTA_VIA: u16 = 18;

/// The route that the kernel would take to an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// Length of its prefix; that of a local address is 32 or 128.
    pub prefix_length: u8,
    /// ifindex of the way out; 0 where packets stay here, or there are several ways.
    pub egress: u32,
    /// The router, if there is one.
    pub gateway: Option<IpAddr>,
}

/// A socket to ask for routes, in the network namespace that it was opened in.
#[derive(Debug)]
pub struct Routes {
    socket: OwnedFd,
}

impl Routes {
    /// # Errors
    /// No such socket can be had.
    pub fn open() -> io::Result<Self> {
        let socket = socket(libc::NETLINK_ROUTE, 0)?;
        Ok(Self { socket })
    }

    /// The route to an address; none where there is none.
    ///
    /// # Errors
    /// The socket failed, or the answer makes no sense.
    pub fn to(&mut self, address: IpAddr) -> Result<Option<Route>, NetlinkError> {
        send(&self.socket, &request(address))?;
        match parse(&receive(&self.socket)?) {
            Ok(route) => Ok(Some(route)),
            // What the kernel says of addresses that it has no route to, or one that refuses.
            Err(NetlinkError::Kernel(error)) if is_no_route(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

fn is_no_route(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ENETUNREACH
                | libc::EHOSTUNREACH
                | libc::EACCES
                | libc::EINVAL
                | libc::ENETDOWN
                | libc::EAGAIN
        )
    )
}

fn request(address: IpAddr) -> Vec<u8> {
    let (family, octets) = match address {
        IpAddr::V4(address) => (libc::AF_INET, address.octets().to_vec()),
        IpAddr::V6(address) => (libc::AF_INET6, address.octets().to_vec()),
    };
    let mut request = vec![0; HEADER + MESSAGE];
    request[4..6].copy_from_slice(&libc::RTM_GETROUTE.to_ne_bytes());
    request[6..8].copy_from_slice(&(libc::NLM_F_REQUEST as u16).to_ne_bytes());
    request[HEADER] = family as u8;
    request[DESTINATION_LENGTH] = 8 * octets.len() as u8;
    request[FLAGS..FLAGS + 4].copy_from_slice(&RTM_F_FIB_MATCH.to_ne_bytes());
    request.extend(((ATTRIBUTE + octets.len()) as u16).to_ne_bytes());
    request.extend(libc::RTA_DST.to_ne_bytes());
    request.extend(octets);
    let length = request.len() as u32;
    request[0..4].copy_from_slice(&length.to_ne_bytes());
    request
}

/// Reads an answer to RTM_GETROUTE.
///
/// # Errors
/// The kernel's own error, or the octet from which the message makes no sense.
fn parse(reply: &[u8]) -> Result<Route, NetlinkError> {
    let message = message(reply, libc::RTM_NEWROUTE)?;
    let octet = |at: usize| message.get(at).ok_or(NetlinkError::Malformed(at));
    let mut route = Route {
        prefix_length: *octet(DESTINATION_LENGTH)?,
        ..Route::default()
    };
    if *octet(TYPE)? != RTN_UNICAST {
        return Ok(route);
    }
    for attribute in attributes(message, HEADER + MESSAGE, message.len()) {
        let Attribute { kind, start, end } = attribute?;
        match kind {
            libc::RTA_OIF => route.egress = u32_at(&message[..end], start)?,
            libc::RTA_GATEWAY => route.gateway = address(&message[start..end]),
            // A router of the other version: its family in front.
            RTA_VIA => {
                u16_at(&message[..end], start)?;
                route.gateway = address(&message[start + 2..end]);
            }
            // Which of them a flow takes only the kernel knows.
            libc::RTA_MULTIPATH => (route.egress, route.gateway) = (0, None),
            _ => {}
        }
    }
    Ok(route)
}

fn address(octets: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(octets) {
        return Some(Ipv4Addr::from(v4).into());
    }
    let v6 = <[u8; 16]>::try_from(octets).ok()?;
    Some(Ipv6Addr::from(v6).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(kind: u8, length: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut message = vec![0; HEADER + MESSAGE];
        message[4..6].copy_from_slice(&libc::RTM_NEWROUTE.to_ne_bytes());
        message[DESTINATION_LENGTH] = length;
        message[TYPE] = kind;
        for (kind, value) in attributes {
            message.extend(((ATTRIBUTE + value.len()) as u16).to_ne_bytes());
            message.extend(kind.to_ne_bytes());
            message.extend(*value);
            message.resize(message.len().next_multiple_of(4), 0);
        }
        let octets = message.len() as u32;
        message[..4].copy_from_slice(&octets.to_ne_bytes());
        message
    }

    const OIF: (u16, &[u8]) = (libc::RTA_OIF, &7_u32.to_ne_bytes());

    #[test]
    fn a_router_is_read_of_either_version() {
        let v4 = IpAddr::from([10, 0, 0, 1]);
        let v6: IpAddr = "fe80::1".parse().expect("an address");
        let IpAddr::V6(octets) = v6 else {
            unreachable!()
        };
        let octets = octets.octets();
        let via = [&(libc::AF_INET6 as u16).to_ne_bytes()[..], &octets].concat();
        for (attribute, gateway) in [
            ((libc::RTA_GATEWAY, &[10, 0, 0, 1][..]), v4),
            ((libc::RTA_GATEWAY, &octets), v6),
            ((RTA_VIA, &via), v6),
        ] {
            let route = parse(&answer(RTN_UNICAST, 24, &[OIF, attribute])).expect("a route");
            assert_eq!((route.prefix_length, route.egress), (24, 7));
            assert_eq!(route.gateway, Some(gateway));
        }
    }

    #[test]
    fn of_what_stays_here_or_has_several_ways_only_the_prefix_is_known() {
        // RTN_LOCAL; a route with several ways has them in an attribute.
        let local = parse(&answer(2, 32, &[OIF])).expect("a route");
        let several = answer(RTN_UNICAST, 8, &[OIF, (libc::RTA_MULTIPATH, &[0; 16])]);
        let several = parse(&several).expect("a route");
        for (route, prefix_length) in [(local, 32), (several, 8)] {
            let expected = Route {
                prefix_length,
                ..Route::default()
            };
            assert_eq!(route, expected);
        }
    }

    #[test]
    fn an_answer_cut_anywhere_is_malformed() {
        let whole = answer(RTN_UNICAST, 24, &[OIF, (RTA_VIA, &[2, 0, 10, 0, 0, 1])]);
        for length in 0..whole.len() {
            let cut = parse(&whole[..length]);
            assert!(matches!(cut, Err(NetlinkError::Malformed(_))), "{length}");
        }
        let short = answer(RTN_UNICAST, 24, &[(RTA_VIA, &[2])]);
        assert!(matches!(parse(&short), Err(NetlinkError::Malformed(_))));
    }
}
