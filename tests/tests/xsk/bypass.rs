//! Interfaces that this machine needs the packets of.

use anyhow::Result;
use flowprobe::attach::{Interface, bypass};
use flowprobe_tests::{
    netns::Netns,
    topology::{Pair, Wire},
};

/// What is said of the interface, after `commands` of `ip`; none where it is a tap.
fn refusal(namespace: &Netns, commands: &str) -> Result<Option<String>> {
    namespace.ip(commands)?;
    namespace.run(|| {
        let interface = Interface::find(Pair::SENSOR)?;
        let uses = bypass::uses(&interface)?;
        let refused = bypass::refuse(&interface)
            .err()
            .map(|error| error.to_string());
        assert_eq!(uses.is_empty(), refused.is_none(), "{uses:?}");
        Ok(refused)
    })?
}

#[test]
fn an_interface_that_this_machine_needs_is_refused() -> Result<()> {
    let pair = Pair::new(Wire::default())?;
    let sensor = &pair.sensor;
    // Others are its own business.
    sensor.ip("link add other type veth peer name other1\n\
         address add 10.9.0.1/24 dev other\n\
         link set other1 up\n\
         link set other up\n\
         route add default via 10.9.0.2\n\
         route add 10.8.0.0/16 via 10.9.0.2")?;
    assert_eq!(refusal(sensor, "link show")?, None);
    // What IPv6 does by itself.
    sensor.sysctl(&format!("net/ipv6/conf/{}/disable_ipv6", Pair::SENSOR), "0")?;
    let link_local = format!("address add fe80::5/64 dev {} nodad", Pair::SENSOR);
    assert_eq!(refusal(sensor, &link_local)?, None);
    // Each is there alone.
    for (add, remove, said) in [
        (
            "address add 10.1.0.1/24 dev mon0",
            "address del 10.1.0.1/24 dev mon0",
            "mon0 has the address 10.1.0.1/24, ",
        ),
        (
            "address add 2001:db8::1/64 dev mon0 nodad",
            "address del 2001:db8::1/64 dev mon0",
            "mon0 has the address 2001:db8::1/64, ",
        ),
        (
            "route add 10.2.0.0/16 dev mon0",
            "route del 10.2.0.0/16 dev mon0",
            "mon0 carries the route to 10.2.0.0/16, ",
        ),
        (
            "route add 2001:db8:5::/48 dev mon0",
            "route del 2001:db8:5::/48 dev mon0",
            "mon0 carries the route to 2001:db8:5::/48, ",
        ),
        (
            // One of two ways, in a table of its own.
            "route add 10.3.0.0/16 table 77 nexthop dev mon0 nexthop via 10.9.0.2",
            "route del 10.3.0.0/16 table 77",
            "mon0 carries the route to 10.3.0.0/16, ",
        ),
        (
            "route add default dev mon0 metric 5",
            "route del default dev mon0 metric 5",
            "mon0 carries the default route, ",
        ),
        (
            "route add ::/0 dev mon0",
            "route del ::/0 dev mon0",
            "mon0 carries the default route, ",
        ),
        (
            "link add br0 type bridge\nlink set mon0 master br0",
            "link set mon0 nomaster\nlink del br0",
            "mon0 is a port of the bridge br0, ",
        ),
        (
            "link add link mon0 name above0 type macvlan",
            "link del above0",
            "mon0 is below the interface above0, ",
        ),
    ] {
        let line = refusal(sensor, add)?.unwrap_or_default();
        assert!(line.starts_with(said), "{line:?} after {add}");
        assert_eq!(refusal(sensor, remove)?, None, "after {remove}");
    }
    // An address and a route: what is worst comes first.
    let all = "address add 10.1.0.1/24 dev mon0\nroute add default dev mon0 metric 5";
    let line = refusal(sensor, all)?.unwrap_or_default();
    assert!(line.contains("the default route"), "{line}");
    Ok(())
}
