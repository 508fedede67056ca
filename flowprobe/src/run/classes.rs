//! The classes of packets of a run: what the user asked for, as kernel half and exporter know it.

use std::net::IpAddr;

use flowprobe_ebpf::class::{Rule, side};

use super::RunError;
use crate::{
    adaptive::Budget,
    attach::{Interface, Pattern},
    export::Domain,
    load,
    sampling::{Filter, Rate, Rated, Sampling, Side},
    table::Shared,
};

/// The classes of a run; class 0 is the rest.
#[derive(Clone, Debug)]
pub(super) struct Classes {
    specs: Vec<Rated>,
}

impl Classes {
    pub(super) fn new(specs: Vec<Rated>) -> Self {
        Self { specs }
    }

    /// How each class is sampled at first.
    pub(super) fn samplings(&self) -> Vec<Sampling> {
        let first = |spec: &Rated| match spec.rate {
            Rate::Fixed(sampling) => sampling,
            Rate::Auto(_) => Sampling::All,
        };
        self.specs.iter().map(first).collect()
    }

    /// What the rest may cost, where its rate is chosen by that.
    pub(super) fn budget(&self) -> Option<Budget> {
        match self.specs.first()?.rate {
            Rate::Auto(budget) => Some(budget),
            Rate::Fixed(_) => None,
        }
    }

    /// What each class is called; the rest has no name.
    pub(super) fn name(&self, class: usize) -> String {
        let filter = self.specs.get(class).and_then(|spec| spec.filter.as_ref());
        filter.map(Filter::to_string).unwrap_or_default()
    }

    /// The class with this filter, or the rest.
    pub(super) fn find(&self, filter: Option<&Filter>) -> Option<usize> {
        self.specs
            .iter()
            .position(|spec| spec.filter.as_ref() == filter)
    }

    /// The observation domains: that of the rest is `first`, those of the others follow.
    pub(super) fn domains(&self, first: u32) -> Result<Vec<Domain>, RunError> {
        let samplings = self.samplings().into_iter().enumerate();
        samplings
            .map(|(class, sampling)| {
                Ok(Domain {
                    id: first
                        .checked_add(class as u32)
                        .ok_or(RunError::Domains(first))?,
                    name: self.name(class),
                    sampling,
                })
            })
            .collect()
    }

    /// The interface has a name, so that packets on it may be of a class.
    pub(super) fn name_interface(&self, shared: &Shared, interface: &Interface) {
        for class in self.of_interface(&interface.name) {
            shared.set_interface(class, interface.index);
        }
    }

    /// The interface has the name no more; another one may have it already.
    pub(super) fn forget_interface(&self, shared: &Shared, interface: &Interface) {
        for class in self.of_interface(&interface.name) {
            shared.replace_interface(class, interface.index, NOWHERE);
        }
    }

    /// The classes of packets on an interface.
    fn of_interface(&self, name: &str) -> impl Iterator<Item = u8> {
        let is_of = move |spec: &Rated| {
            let filter = spec.filter.as_ref();
            filter.is_some_and(|filter| filter.interface.as_deref() == Some(name))
        };
        let specs = self.specs.iter().enumerate();
        specs.filter_map(move |(class, spec)| is_of(spec).then_some(class as u8))
    }

    /// The classes that have a filter, for the kernel half; an interface that one of them names may
    /// come later, if it is wanted.
    pub(super) fn with_filters(
        &self,
        wanted: &[Pattern],
        interfaces: &[Interface],
    ) -> Result<Vec<load::Class>, RunError> {
        let samplings = self.samplings();
        let with_filters = self.specs.iter().zip(samplings);
        with_filters
            .filter_map(|(spec, sampling)| Some((spec.filter.as_ref()?, sampling)))
            .map(|(filter, sampling)| {
                let rule = rule(filter, wanted, interfaces)?;
                Ok(load::Class { rule, sampling })
            })
            .collect()
    }
}

/// An index that no interface has: the kernel counts up from 1.
const NOWHERE: u32 = i32::MAX as u32;

/// A filter as the kernel half has it.
fn rule(filter: &Filter, wanted: &[Pattern], there: &[Interface]) -> Result<Rule, RunError> {
    let mut rule = Rule::default();
    if let Some(name) = &filter.interface {
        if !wanted.iter().any(|pattern| pattern.matches(name)) {
            return Err(RunError::ClassInterface(name.clone()));
        }
        let interface = there.iter().find(|interface| interface.name == *name);
        rule.ifindex = interface.map_or(NOWHERE, |interface| interface.index);
    }
    if let Some(protocol) = filter.protocol {
        rule.protocol = u16::from(protocol) + 1;
    }
    if let Some(port) = filter.port {
        rule.port_sides = sides(port.side);
        rule.first_port = port.first;
        rule.last_port = port.last;
    }
    if let Some(net) = filter.net {
        rule.net_sides = sides(net.side);
        match net.address {
            IpAddr::V4(address) => {
                let mask = u32::MAX
                    .checked_shl(32 - u32::from(net.length))
                    .unwrap_or(0);
                let word = |octets| [u32::from_le_bytes(octets).into(), 0];
                rule.version = 4;
                rule.net = word(address.octets());
                rule.mask = word(mask.to_be_bytes());
            }
            IpAddr::V6(address) => {
                let mask = u128::MAX
                    .checked_shl(128 - u32::from(net.length))
                    .unwrap_or(0);
                rule.version = 6;
                rule.net = words(address.octets());
                rule.mask = words(mask.to_be_bytes());
            }
        }
    }
    Ok(rule)
}

fn sides(side: Side) -> u8 {
    match side {
        Side::Either => side::SOURCE | side::DESTINATION,
        Side::Source => side::SOURCE,
        Side::Destination => side::DESTINATION,
    }
}

/// An IPv6 address as words of memory.
fn words(octets: [u8; 16]) -> [u64; 2] {
    let (words, _) = octets.as_chunks::<8>();
    [words[0], words[1]].map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use flowprobe_ebpf::{Addresses, Packet, Tunnels, parse};
    use proptest::prelude::*;

    use super::*;
    use crate::sampling::{NetMatch, Observed, PortMatch};

    const ETH: &str = "eth0";
    const INDEX: u32 = 7;

    fn interfaces() -> Vec<Interface> {
        vec![Interface {
            name: ETH.to_owned(),
            index: INDEX,
        }]
    }

    fn wanted() -> Vec<Pattern> {
        vec!["eth[0-1]".parse().expect("a pattern")]
    }

    fn side() -> impl Strategy<Value = Side> {
        prop_oneof![
            Just(Side::Either),
            Just(Side::Source),
            Just(Side::Destination)
        ]
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        // Few bits differ, so that prefixes match now and then.
        prop_oneof![
            any::<u8>().prop_map(|low| IpAddr::from([10, 0, low & 3, low])),
            any::<u8>().prop_map(|low| {
                Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(low) << 60).into()
            }),
        ]
    }

    prop_compose! {
        fn net()(side in side(), address in address(), length in 0..=128_u8) -> NetMatch {
            let (address, length): (IpAddr, _) = match address {
                IpAddr::V4(v4) => {
                    let length = length.min(32);
                    let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                    (IpAddr::from((u32::from(v4) & mask).to_be_bytes()), length)
                }
                IpAddr::V6(v6) => {
                    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                    (Ipv6Addr::from(u128::from(v6) & mask).into(), length)
                }
            };
            NetMatch { side, address, length }
        }
    }

    prop_compose! {
        fn filter()(
            interface in proptest::option::of(Just(ETH.to_owned())),
            protocol in proptest::option::of(prop_oneof![Just(6_u8), Just(17), Just(1), any::<u8>()]),
            port in proptest::option::of((side(), 0..6_u16, 0..6_u16)),
            net in proptest::option::of(net()),
        ) -> Filter {
            let port = port.map(|(side, a, b)| PortMatch { side, first: a.min(b), last: a.max(b) });
            Filter { interface, protocol, port, net }
        }
    }

    proptest! {
        /// The rule of the kernel half says of every packet what the filter says of it.
        #[test]
        fn a_rule_is_its_filter(
            filter in filter(),
            (source, destination) in (address(), address()),
            ports in (0..6_u16, 0..6_u16),
            protocol in prop_oneof![Just(6_u8), Just(17), Just(1), any::<u8>()],
            here in any::<bool>(),
        ) {
            let addresses = match (source, destination) {
                (IpAddr::V4(source), IpAddr::V4(destination)) => {
                    let both = [source.octets(), destination.octets()].concat();
                    Addresses::V4(u64::from_ne_bytes(both.try_into().expect("8 octets")))
                }
                (IpAddr::V6(source), IpAddr::V6(destination)) => {
                    let ([a, b], [c, d]) = (words(source.octets()), words(destination.octets()));
                    Addresses::V6([a, b, c, d])
                }
                _ => return Ok(()),
            };
            let [a, b] = ports.0.to_be_bytes();
            let [c, d] = ports.1.to_be_bytes();
            let packet = Packet {
                addresses,
                ports: u32::from_ne_bytes([a, b, c, d]),
                protocol,
                ..Packet::EMPTY
            };
            let rule = rule(&filter, &wanted(), &interfaces()).expect("eth0 is watched");
            let observed = Observed {
                interface: if here { ETH } else { "eth1" },
                protocol,
                source,
                destination,
                source_port: ports.0,
                destination_port: ports.1,
            };
            let ifindex = if here { INDEX } else { INDEX + 1 };
            prop_assert_eq!(rule.is_of(ifindex, &packet), filter.matches(&observed));
        }
    }

    /// Of a parsed frame, so that the test above and the parser agree on what a port is.
    #[test]
    fn a_frame_is_of_its_class() {
        let mut frame = vec![0; 12];
        frame.extend([
            8, 0, 0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2, 0, 53, 4, 0,
            0, 8, 0, 0,
        ]);
        let parsed = parse(&frame[..], &Tunnels::OUTER).expect("a packet");
        let is_of = |text: &str| {
            let filter = text.parse().expect(text);
            rule(&filter, &wanted(), &interfaces())
                .expect(text)
                .is_of(INDEX, &parsed.packet)
        };
        assert!(is_of("udp src port 53 and net 10.0.0.0/30 interface eth0"));
        assert!(!is_of("udp dst port 53"));
    }

    #[test]
    fn a_filter_for_what_is_not_watched_is_refused() {
        let filter = "interface eth9".parse().expect("a filter");
        let error = rule(&filter, &wanted(), &interfaces()).expect_err("not watched");
        assert!(error.to_string().contains("-i eth9"), "{error}");
    }

    #[test]
    fn a_filter_for_what_may_come_is_of_no_packet_yet() {
        let filter = "interface eth1".parse().expect("a filter");
        let rule = rule(&filter, &wanted(), &interfaces()).expect("it is wanted");
        for ifindex in [0, 1, INDEX, INDEX + 1] {
            assert!(!rule.is_of_interface(ifindex), "{ifindex}");
        }
    }
}
