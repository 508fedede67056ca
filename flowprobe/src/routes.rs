//! Where flows go on to: next hop, way out, and the prefixes of both ends, as the kernel's routes have
//! them when a flow is exported.

use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    sync::{Mutex, PoisonError},
};

use crate::{
    attach::netlink::{self, NetlinkError},
    record::{FlowKey, Route},
};

/// Addresses whose routes are remembered, some 5 MiB; when there are more, all are forgotten.
const REMEMBERED: usize = 1 << 16;
/// How long: a route that has changed is told as it was for at most this time.
const FRESH_NS: u64 = 5_000_000_000;
/// Questions in a second, at most. One takes some microseconds, so this is a tenth of a CPU; flows
/// whose addresses nobody has asked about by then have no route.
const QUESTIONS: u32 = 20_000;
const SECOND_NS: u64 = 1_000_000_000;

/// Answers where flows go on to.
#[derive(Debug)]
pub struct Routes<A = netlink::route::Routes> {
    inner: Mutex<Inner<A>>,
}

/// Knows the route to an address.
pub trait Asked {
    /// The route to an address; none where there is none.
    ///
    /// # Errors
    /// Nobody answers.
    fn route_to(&mut self, address: IpAddr) -> Result<Option<netlink::route::Route>, NetlinkError>;
}

impl Asked for netlink::route::Routes {
    fn route_to(&mut self, address: IpAddr) -> Result<Option<netlink::route::Route>, NetlinkError> {
        self.to(address)
    }
}

#[derive(Debug)]
struct Inner<A> {
    asked: A,
    known: HashMap<IpAddr, Known>,
    /// Since when questions are counted, and how many there were.
    second: (u64, u32),
    /// Whether it has been said that questions go unanswered.
    failed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    route: Option<netlink::route::Route>,
    at_ns: u64,
}

impl Routes {
    /// Asks in the network namespace that the calling thread is in.
    ///
    /// # Errors
    /// No socket for it can be had.
    pub fn open() -> io::Result<Self> {
        Ok(Self::asking(netlink::route::Routes::open()?))
    }
}

impl<A: Asked> Routes<A> {
    fn asking(asked: A) -> Self {
        let inner = Inner {
            asked,
            known: HashMap::new(),
            second: (0, 0),
            failed: false,
        };
        Self {
            inner: Mutex::new(inner),
        }
    }

    /// Where a flow goes on to, at `now_ns` on the monotonic clock.
    pub fn of(&self, key: &FlowKey, now_ns: u64) -> Route {
        let own = key.egress();
        if key.around().is_some_and(|around| around.tunnel != 0) {
            // Its packets go by the addresses around it.
            return Route {
                egress: own,
                ..Route::default()
            };
        }
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let source = inner.route(key.source(), now_ns).unwrap_or_default();
        let destination = inner.route(key.destination(), now_ns).unwrap_or_default();
        drop(inner);
        // What was seen going out goes where it went, and not where a route says now.
        let same = own == 0 || own == destination.egress;
        Route {
            next_hop: destination.gateway.filter(|_| same),
            egress: if own == 0 { destination.egress } else { own },
            source_prefix: source.prefix_length,
            destination_prefix: destination.prefix_length,
        }
    }
}

impl<A: Asked> Inner<A> {
    fn route(&mut self, address: IpAddr, now_ns: u64) -> Option<netlink::route::Route> {
        if let Some(known) = self.known.get(&address)
            && now_ns < known.at_ns + FRESH_NS
        {
            return known.route;
        }
        if now_ns >= self.second.0 + SECOND_NS {
            self.second = (now_ns, 0);
        }
        if self.second.1 >= QUESTIONS {
            return None;
        }
        self.second.1 += 1;
        let route = match self.asked.route_to(address) {
            Ok(route) => {
                self.failed = false;
                route
            }
            Err(error) => {
                if !self.failed {
                    tracing::warn!("--next-hop: the kernel does not tell its routes: {error}");
                }
                self.failed = true;
                return None;
            }
        };
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let at_ns = now_ns;
        self.known.insert(address, Known { route, at_ns });
        route
    }
}

#[cfg(test)]
mod tests {
    use flowprobe_ebpf::{KeyV4, Packet, sampling::Sampled};

    use super::*;

    /// Every address has a /24 through 10.0.0.1 and the interface 7; counts questions.
    #[derive(Default)]
    struct Kernel {
        questions: usize,
        is_silent: bool,
    }

    impl Asked for Kernel {
        fn route_to(&mut self, _: IpAddr) -> Result<Option<netlink::route::Route>, NetlinkError> {
            self.questions += 1;
            match self.is_silent {
                true => Err(NetlinkError::Malformed(0)),
                false => Ok(Some(netlink::route::Route {
                    prefix_length: 24,
                    egress: 7,
                    gateway: Some([10, 0, 0, 1].into()),
                })),
            }
        }
    }

    fn key(source: u32, destination: u32) -> FlowKey {
        let both = [source, destination].map(u32::to_be_bytes).concat();
        let addresses = u64::from_ne_bytes(both.try_into().expect("8 octets"));
        let packet = Packet::EMPTY;
        FlowKey::V4(KeyV4::new(addresses, &packet, 3, Sampled::default()))
    }

    fn questions(routes: &Routes<Kernel>) -> usize {
        routes.inner.lock().expect("no panic").asked.questions
    }

    #[test]
    fn an_address_is_asked_about_once_in_a_while() {
        let routes = Routes::asking(Kernel::default());
        let expected = Route {
            next_hop: Some([10, 0, 0, 1].into()),
            egress: 7,
            source_prefix: 24,
            destination_prefix: 24,
        };
        for (now, asked) in [(1, 2), (2, 2), (FRESH_NS, 2), (FRESH_NS + 1, 4)] {
            assert_eq!(routes.of(&key(1, 2), now), expected);
            assert_eq!(questions(&routes), asked, "{now}");
        }
        routes.of(&key(2, 3), FRESH_NS + 1);
        assert_eq!(questions(&routes), 5, "one of the two is known");
    }

    #[test]
    fn a_flood_of_addresses_is_asked_about_in_part_and_takes_no_more_memory() {
        let routes = Routes::asking(Kernel::default());
        let flood = |first: u32, now: u64| {
            for i in 0..QUESTIONS {
                routes.of(&key(first + 2 * i, first + 2 * i + 1), now);
            }
        };
        for second in 0..8 {
            flood(second << 20, u64::from(second) * SECOND_NS);
            let asked = (second as usize + 1) * QUESTIONS as usize;
            assert_eq!(questions(&routes), asked);
            let known = routes.inner.lock().expect("no panic").known.len();
            assert!(known <= REMEMBERED, "{known}");
        }
        assert_eq!(routes.of(&key(9 << 20, 9), 7 * SECOND_NS), Route::default());
    }

    #[test]
    fn where_nobody_answers_nothing_is_known_and_it_is_asked_again() {
        let routes = Routes::asking(Kernel {
            is_silent: true,
            ..Kernel::default()
        });
        for asked in [2, 4] {
            assert_eq!(routes.of(&key(1, 2), 1), Route::default());
            assert_eq!(questions(&routes), asked);
        }
    }
}
