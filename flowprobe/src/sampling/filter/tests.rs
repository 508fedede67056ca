use super::*;

fn filter(text: &str) -> Filter {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// A query of DNS from 192.0.2.1 to 198.51.100.2, received on eth0.
fn query() -> Observed<'static> {
    Observed {
        interface: "eth0",
        protocol: 17,
        source: Ipv4Addr::new(192, 0, 2, 1).into(),
        destination: Ipv4Addr::new(198, 51, 100, 2).into(),
        source_port: 40_000,
        destination_port: 53,
    }
}

#[test]
fn filters_read_back() {
    for (text, plain) in [
        ("udp port 53", "udp port 53"),
        ("port 53 and udp", "udp port 53"),
        ("tcp dst port 80-90", "tcp dst port 80-90"),
        ("port 7-7", "port 7"),
        ("net 10.0.0.0/8", "net 10.0.0.0/8"),
        ("src net 2001:db8::/32", "src net 2001:db8::/32"),
        ("net 0.0.0.0/0", "net 0.0.0.0/0"),
        ("net ::/0", "net ::/0"),
        ("dst host 192.0.2.1", "dst net 192.0.2.1/32"),
        ("host ::1", "net ::1/128"),
        ("proto 47", "gre"),
        ("proto tcp", "tcp"),
        ("proto 200", "proto 200"),
        ("icmpv6", "icmp6"),
        ("iface eth0 esp", "interface eth0 esp"),
        (
            "dst net 10.1.0.0/16 and sctp and src port 0-65535 and interface wan",
            "interface wan sctp src port 0-65535 dst net 10.1.0.0/16",
        ),
    ] {
        assert_eq!(filter(text).to_string(), plain, "{text}");
        assert_eq!(filter(plain), filter(text));
    }
}

#[test]
fn filters_that_are_none_say_which_word_is_wrong() {
    for (text, part) in [
        ("", "the filter is empty"),
        ("and", "\"and\" stands between"),
        ("udp and", "\"and\" stands between"),
        ("udp and and port 53", "\"and\" stands between"),
        ("upd port 53", "\"upd\" is no word"),
        ("not udp", "\"not\" is no word"),
        ("udp port", "\"port\" is not followed by a port"),
        ("src", "\"src\" is not followed by port or net"),
        ("src udp", "\"src\" is not followed by port or net"),
        (
            "udp tcp",
            "\"tcp\" comes after another condition on the protocol",
        ),
        (
            "src port 1 dst port 2",
            "\"port\" comes after another condition",
        ),
        ("net ::/0 net ::/0", "condition on the prefix"),
        ("iface a interface b", "condition on the interface"),
        ("proto 256", "\"256\" is no protocol"),
        ("port 65536", "\"65536\" is no port"),
        ("port 80-", "\"80-\" is no port"),
        ("port 90-80", "80-90"),
        ("icmp port 8", "icmp has no ports"),
        ("proto 200 port 8", "proto 200 has no ports"),
        ("net 10.0.0.0/33", "32 bits are the most"),
        ("net ::/129", "128 bits are the most"),
        ("net 10.0.0/8", "\"10.0.0/8\" is no prefix"),
        ("net 10.0.0.0/x", "\"10.0.0.0/x\" is no prefix"),
        ("net 10.1.2.3/8", "did you mean 10.0.0.0/8?"),
        ("net 2001:db8::1/32", "did you mean 2001:db8::/32?"),
        ("interface averyverylongname", "at most 15 octets"),
    ] {
        let error = text.parse::<Filter>().expect_err(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

#[test]
fn all_conditions_have_to_hold() {
    for text in [
        "udp",
        "port 53",
        "port 40000",
        "dst port 50-53",
        "src port 40000-40001",
        "net 192.0.2.0/24",
        "net 198.51.100.2",
        "dst net 198.51.100.2/31",
        "net 0.0.0.0/0",
        "interface eth0",
        "interface eth0 udp dst port 53 src net 192.0.2.1",
    ] {
        assert!(filter(text).matches(&query()), "{text}");
    }
    for text in [
        "tcp",
        "port 54",
        "src port 53",
        "dst port 54-60",
        "src net 198.51.100.0/24",
        "net 192.0.2.2/31",
        "net ::/0",
        "interface eth1",
        "interface eth0 udp dst port 53 src net 192.0.2.0",
    ] {
        assert!(!filter(text).matches(&query()), "{text}");
    }
}

#[test]
fn a_port_is_only_asked_of_protocols_that_have_ports() {
    // ICMP: the place of the destination port has type and code, here 0 and 53.
    let icmp = Observed {
        protocol: 1,
        ..query()
    };
    assert!(!filter("port 53").matches(&icmp));
    assert!(filter("icmp").matches(&icmp));
}

#[test]
fn a_prefix_of_ipv6_is_compared_bit_by_bit() {
    let packet = Observed {
        source: "2001:db8:8000::1".parse().expect("an address"),
        destination: "fe80::1".parse().expect("an address"),
        ..query()
    };
    assert!(filter("src net 2001:db8:8000::/33").matches(&packet));
    assert!(!filter("src net 2001:db8::/33").matches(&packet));
    assert!(filter("net ::/0").matches(&packet));
    assert!(!filter("net 0.0.0.0/0").matches(&packet));
}

/// The name of a domain is its filter, in 112 octets (template 528).
#[test]
fn the_longest_filter_fits_a_domains_name() {
    let words = "interface 123456789012345 udplite dst port 10000-65535 \
                 src net 2001:1111:2222:3333:4444:5555:6666:7777/128";
    let filter: Filter = words.parse().expect("a filter");
    assert!(filter.to_string().len() <= 112, "{filter}");
}
